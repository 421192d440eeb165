# SPDX-License-Identifier: Apache-2.0
"""Streams of batches; the only file that imports grain.

The training stream is a pure function of (seed, step): example n of the run, its augmentations
included, depends on nothing but the seed and n. Restarting at a step is a slice, and 1, 2 or n
processes see the same global batches. Hence the order below, which matters: shuffle, repeat and the
random map come before the slice of a process, and the batch before the iterator.
"""

import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from dpt_jax.data import transforms
from dpt_jax.data.quarantine import Readable
from dpt_jax.data.sources.base import DatasetError, Example, Source

Batch = dict[str, np.ndarray]


class _LoadAndAugment(grain.transforms.RandomMap):
    def __init__(self, source: Readable, steps: Sequence[transforms.Transform], target: str):
        self._source, self._steps, self._target = source, steps, target

    def random_map(self, element: int, rng: np.random.Generator) -> Example:
        index, example = self._source.read(element)
        if self._target not in example:
            raise _no_target(self._source.source, self._target)
        example = {"image": example["image"], self._target: example[self._target]}
        for step in self._steps:
            example = step(example, rng)
        return example | {"index": np.int32(index), "drawn": np.int32(element)}


class TrainStream(Iterator[Batch]):
    """Endless batches, made ahead by threads or processes, which `close` ends.

    A context manager that closes itself. Nothing is made before the first `next`.
    """

    def __init__(self, batches: grain.DatasetIterator[Batch], in_shared_memory: bool):
        self._batches: grain.DatasetIterator[Batch] | None = batches
        self._in_shared_memory = in_shared_memory

    def __next__(self) -> Batch:
        if self._batches is None:
            raise ValueError("the stream is closed")
        if not self._in_shared_memory:
            return next(self._batches)
        # Grain frees a block of shared memory when its array dies. One that outlives the program's
        # last line, by a reference in a traceback, say, is freed too late and with noise.
        try:
            return {key: np.array(value) for key, value in next(self._batches).items()}
        except DatasetError as error:
            raise error.with_traceback(None) from None  # which says nothing, and holds a batch
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            raise

    def close(self) -> None:
        """Ends the threads or processes; worker processes first finish the batch at hand."""
        batches, self._batches = self._batches, None
        if batches is not None:
            batches.close()
            if self._in_shared_memory:
                del batches
                gc.collect()  # errors that nobody asked for hold their frames, which hold batches

    def __enter__(self) -> "TrainStream":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def train_stream(
    source: Source,
    steps: Sequence[transforms.Transform],
    *,
    target: str,
    seed: int,
    start_step: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    workers: int = 0,
    prefetch: int | None = None,
) -> TrainStream:
    """Endless batches of one process, from `start_step` on.

    Threads are the first choice: decoding releases the interpreter's lock. Worker processes pay
    where augmentation in Python does not; they import this package, want a main module with `if
    __name__ == "__main__"`, hand over batches in shared memory (/dev/shm), and must be closed.

    Args:
        source: the examples; reshuffled for every pass. A `Readable` is followed in what it makes
            of unreadable examples; of any other source the first one raises.
        steps: augmentations, which must lead to one common size.
        target: "label" or "depth".
        seed: of the order and of every augmentation.
        start_step: index of the first batch.
        batch_size: of the global batch; a multiple of `process_count`.
        process_index: which of the processes this is.
        process_count: among how many the batch is split.
        threads: that decode and augment, a batch each, if there are no workers; 0 does it all
            within `next`.
        workers: processes that decode and augment, a batch each; 0 for none.
        prefetch: how many batches at most are ready or being made, in all; None for 2 per thread,
            or 4 per worker, which is the least.

    Returns:
        A stream of `image` uint8 (b, h, w, 3), `label` uint8 or `depth` float32 (b, h, w), `index`
        int32 (b,) of each example in the source, and `drawn` int32 (b,), the index that the
        shuffled order has there, which differs where another example stands in; b = batch_size /
        process_count.

    Raises:
        ValueError: numbers that do not fit together, by their keys in the config.
        DatasetError: when it is read; see `source`.
    """
    if batch_size % process_count:
        raise ValueError(
            f"config.train.batch_size {batch_size} is not a multiple of {process_count} processes"
        )
    _allow_flags()
    source = source if isinstance(source, Readable) else Readable(source)
    examples = (
        grain.MapDataset.range(len(source))
        .seed(seed)
        .shuffle()
        .repeat(None)
        .random_map(_LoadAndAugment(source, steps, target))
    )
    first = start_step * batch_size + process_index
    batches = examples[first::process_count].batch(
        batch_size // process_count, drop_remainder=True, batch_fn=_stack
    )
    reading, working = read_ahead(threads, workers, prefetch)
    stream = batches.to_iter_dataset(reading).mp_prefetch(working, worker_init_fn=_begin_worker)
    return TrainStream(iter(stream), in_shared_memory=workers > 0)


def _allow_flags() -> None:
    """Grain reads a flag of its own, which absl refuses where nobody has parsed any."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def read_ahead(
    threads: int, workers: int, prefetch: int | None
) -> tuple[grain.ReadOptions, grain.MultiprocessingOptions]:
    """Grain's options, under which no more than `prefetch` batches exist that nobody asked for.

    Raises:
        ValueError: see `train_stream`, which calls this.
    """
    for key, value in (("threads", threads), ("workers", workers), ("prefetch", prefetch)):
        if value is not None and value < 0:
            raise ValueError(f"config.data.{key}={value} must be at least 0")
    if not workers:
        ahead = 2 * threads if prefetch is None else prefetch
        threads = min(threads, ahead)
        return grain.ReadOptions(threads, ahead), grain.MultiprocessingOptions(0)
    # Per worker: a batch in its hands and a queue full of them, and the same on this side.
    ahead = 4 * workers if prefetch is None else prefetch
    queue = (ahead // workers - 2) // 2
    if queue < 1:
        raise ValueError(
            f"config.data.prefetch={ahead} must be at least 4 for each worker, {4 * workers} for "
            f"config.data.workers={workers}"
        )
    return grain.ReadOptions(0, 0), grain.MultiprocessingOptions(workers, queue)


def _begin_worker(index: int, count: int) -> None:
    """What a worker process does first: it makes sure to end when, and only when, its parent does.

    SIGTERM and SIGINT often go to a whole group of processes. The parent decides what they mean,
    such as a checkpoint, and needs its batches until then.
    """
    del index, count
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _stack(examples: Sequence[Example]) -> Batch:
    shapes = {example["image"].shape for example in examples}
    if len(shapes) > 1:
        raise DatasetError(
            f"images of one batch have different sizes {sorted(shapes)}; set "
            "--config.data.augment.crop"
        )
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def evaluation_examples(
    source: Source,
    *,
    target: str,
    limit: int | None = None,
    size: int | None = None,
    keep_aspect_ratio: bool = True,
    multiple_of: int = 32,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[Example]:
    """Every example once, in order, with the image at the network's size and the target at its own.

    Args:
        source: the examples.
        target: "label" or "depth".
        limit: only so many first examples.
        size: network size in pixels (see `transforms.model_input_size`); None only makes
            their sides multiples.
        keep_aspect_ratio: of the image when it is resized.
        multiple_of: of which both sides are made a multiple when it is resized.
        process_index: which of the processes this is.
        process_count: among how many the examples are dealt out.
        threads: that decode ahead.

    Yields:
        `image` uint8 (h, w, 3) as the network sees it, `source_image` uint8 and the target at their
        own size (h', w'), `index` int, `name` str.
    """
    _allow_flags()

    def load(index: int) -> Example:
        example = source[index]
        if target not in example:
            raise _no_target(source, target)
        image = example["image"]
        h, w = image.shape[:2]
        if size:
            new_size = transforms.model_input_size(
                h, w, size=size, keep_aspect_ratio=keep_aspect_ratio, multiple_of=multiple_of
            )
        else:
            # Rows and columns beyond the last patch would be lost and the rest stretched.
            new_size = transforms.nearest_multiple(h, w, multiple_of)
        shown = transforms.resize_image(image, new_size)
        return {
            "image": shown,
            "source_image": image,
            target: example[target],
            "index": int(index),
            "name": source.name(index),
        }

    count = len(source) if limit is None else min(limit, len(source))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 1) * 2)
    dataset: Any = grain.MapDataset.range(count).map(load)
    return iter(dataset[process_index::process_count].to_iter_dataset(options))


def _no_target(source: Source, target: str) -> DatasetError:
    return DatasetError(
        f"{type(source).__name__} has no {target!r}; choose the task that fits it "
        "(--config.model.head.type=depth or segmentation) or another --config.data.source"
    )
