# SPDX-License-Identifier: Apache-2.0
"""Streams of batches; the only file that imports grain.

The training stream is a pure function of (seed, step): example n of the run, its augmentations
included, depends on nothing but the seed and n. Restarting at a step is a slice, and 1, 2 or n
processes see the same global batches. Hence the order below, which matters: shuffle, repeat and the
random map come before the slice of a process, and the batch before the iterator.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from dpt_jax.data import transforms
from dpt_jax.data.sources.base import DatasetError, Example, Source

Batch = dict[str, np.ndarray]


class _LoadAndAugment(grain.transforms.RandomMap):
    def __init__(self, source: Source, steps: Sequence[transforms.Transform], target: str):
        self._source, self._steps, self._target = source, steps, target

    def random_map(self, element: int, rng: np.random.Generator) -> Example:
        example = self._source[element]
        if self._target not in example:
            raise _no_target(self._source, self._target)
        example = {"image": example["image"], self._target: example[self._target]}
        for step in self._steps:
            example = step(example, rng)
        return example | {"index": np.int32(element)}


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
) -> Iterator[Batch]:
    """Endless batches of one process, from `start_step` on.

    Args:
        source: the examples; reshuffled for every pass.
        steps: augmentations, which must lead to one common size.
        target: "label" or "depth".
        seed: of the order and of every augmentation.
        start_step: index of the first batch.
        batch_size: of the global batch; a multiple of `process_count`.
        process_index: which of the processes this is.
        process_count: among how many the batch is split.
        threads: that decode and augment ahead.

    Yields:
        `image` uint8 (b, h, w, 3), `label` uint8 or `depth` float32 (b, h, w), and `index` int32
        (b,) of each example in the source; b = batch_size / process_count.
    """
    if batch_size % process_count:
        raise ValueError(
            f"config.train.batch_size {batch_size} is not a multiple of {process_count} processes"
        )
    if not flags.FLAGS.is_parsed():  # grain reads a flag of its own; nobody parses in tests
        flags.FLAGS.mark_as_parsed()
    examples = (
        grain.MapDataset.range(len(source))
        .seed(seed)
        .shuffle()
        .repeat(None)
        .random_map(_LoadAndAugment(source, steps, target))
    )
    first = start_step * batch_size + process_index
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 1) * 2)
    return iter(
        examples[first::process_count]
        .batch(batch_size // process_count, drop_remainder=True, batch_fn=_stack)
        .to_iter_dataset(options)
    )


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
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

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
