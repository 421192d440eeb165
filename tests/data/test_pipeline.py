# SPDX-License-Identifier: Apache-2.0
"""Streams: a pure function of (seed, step), however many processes and threads there are."""

import itertools
import threading
import time

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.pipeline import evaluation_examples, train_stream
from dpt_jax.data.sources import DatasetError
from dpt_jax.data.transforms import Crop, Flip, PhotoMetricDistortion, resize_image

STEPS = (Crop(8, 9), Flip(0.5), PhotoMetricDistortion())


class Memory:
    """Random pictures of one size; example `broken` cannot be read."""

    classes = ()
    palette = np.zeros((0, 3), np.uint8)

    def __init__(self, length=7, size=(12, 16), targets=("label", "depth"), broken=None):
        self.length, self.size, self.targets, self.broken = length, size, targets, broken

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == self.broken:
            raise DatasetError(f"unreadable image file {self.name(index)}")
        rng = np.random.default_rng(int(index))
        h, w = self.size if isinstance(self.size, tuple) else self.size[index]
        example = {
            "image": rng.integers(0, 256, (h, w, 3)).astype(np.uint8),
            "label": rng.integers(0, 9, (h, w)).astype(np.uint8),
            "depth": rng.uniform(1, 9, (h, w)).astype(np.float32),
        }
        return {k: v for k, v in example.items() if k in ("image", *self.targets)}

    def name(self, index):
        return f"folder/{index}.png"


def batches(count, source=None, steps=STEPS, **changes):
    options = {"target": "label", "seed": 3, "start_step": 0, "batch_size": 4} | changes
    with train_stream(source or Memory(), steps, **options) as stream:
        return list(itertools.islice(stream, count))


def same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    return True


def indices(found):
    return np.concatenate([batch["index"] for batch in found]).tolist()


@pytest.mark.parametrize("target", ["label", "depth"])
def test_batches_hold_what_is_promised(target):
    for batch in batches(2, target=target):
        assert set(batch) == {"image", target, "index", "drawn"}
        assert batch["image"].shape == (4, 8, 9, 3) and batch["image"].dtype == np.uint8
        assert batch[target].shape == (4, 8, 9)
        assert batch[target].dtype == {"label": np.uint8, "depth": np.float32}[target]
        assert batch["index"].shape == (4,) and batch["index"].dtype == np.int32
        assert batch["drawn"].dtype == np.int32
        np.testing.assert_array_equal(batch["drawn"], batch["index"])


def test_examples_are_those_of_the_source():
    source = Memory()
    for batch in batches(4, source, steps=()):
        for i, index in enumerate(batch["index"]):
            np.testing.assert_array_equal(batch["image"][i], source[index]["image"])
            np.testing.assert_array_equal(batch["label"][i], source[index]["label"])


@pytest.mark.parametrize("start", [1, 3, 8])
def test_restarting_at_a_step_continues_bit_for_bit(start):
    assert same(batches(12)[start:], batches(12 - start, start_step=start))


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_threads_do_not_matter(threads):
    assert same(batches(6), batches(6, threads=threads))


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_global_batch(processes, start):
    whole = batches(5, start_step=start)
    parts = [
        batches(5, start_step=start, process_index=p, process_count=processes)
        for p in range(processes)
    ]
    assert all(len(part[0]["index"]) == 4 // processes for part in parts)
    joined = [
        {
            # Example i of the global batch belongs to process i modulo their number.
            key: np.stack([s[key] for s in step], axis=1).reshape(whole[0][key].shape)
            for key in step[0]
        }
        for step in zip(*parts, strict=True)
    ]
    assert same(whole, joined)


def test_every_epoch_visits_every_example_once_in_an_order_of_its_own():
    order = indices(batches(7 * 3, batch_size=3))  # 9 epochs of 7 examples
    epochs = [tuple(order[7 * e : 7 * e + 7]) for e in range(9)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 6
    for p in range(3):
        part = indices(batches(21, batch_size=3, process_index=p, process_count=3))
        assert part == order[p::3]


def test_every_pass_is_augmented_anew():
    pictures = {}
    for batch in batches(14, steps=(Crop(8, 9),)):
        for index, image in zip(batch["index"], batch["image"], strict=True):
            pictures.setdefault(int(index), set()).add(image.tobytes())
    assert all(len(found) > 3 for found in pictures.values())


def test_examples_of_one_batch_are_augmented_differently():
    class Same(Memory):
        def __getitem__(self, index):
            return super().__getitem__(0)

    found = {image.tobytes() for batch in batches(3, Same()) for image in batch["image"]}
    assert len(found) > 9


def test_another_seed_is_another_order_and_other_augmentations():
    one, two = batches(5), batches(5, seed=4)
    assert indices(one) != indices(two)
    single = Memory(length=1)
    images = [batches(2, single, seed=seed)[0]["image"] for seed in (3, 4)]
    assert not np.array_equal(*images)
    assert same(batches(5, seed=4), two)


def test_a_batch_may_be_larger_than_the_source():
    order = indices(batches(3, Memory(length=2), batch_size=5))
    assert [sorted(order[i : i + 2]) for i in range(0, 14, 2)] == [[0, 1]] * 7


@pytest.mark.parametrize("threads", [0, 2])
def test_different_sizes_need_a_crop(threads):
    source = Memory(length=2, size=[(10, 12), (12, 10)])
    with pytest.raises(DatasetError, match=r"\(10, 12, 3\), \(12, 10, 3\).*config\.data.*crop"):
        batches(1, source, steps=(), threads=threads)
    assert batches(1, source, steps=(Crop(8, 8),), threads=threads)[0]["image"].shape[1:3] == (8, 8)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_target_that_the_source_lacks_is_named(threads):
    source = Memory(targets=("depth",))
    with pytest.raises(DatasetError, match="Memory has no 'label'"):
        batches(1, source, threads=threads)
    with pytest.raises(DatasetError, match="Memory has no 'label'"):
        list(evaluation_examples(source, target="label", threads=threads))


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_an_unreadable_file_arrives_as_what_it_is(threads):
    source = Memory(broken=5)
    with pytest.raises(DatasetError, match=r"folder/5\.png"):
        batches(3, source, threads=threads)
    with pytest.raises(DatasetError, match=r"folder/5\.png"):
        list(evaluation_examples(source, target="depth", threads=threads))


def test_the_batch_must_divide_among_processes():
    with pytest.raises(ValueError, match=r"batch_size 4 .*3 processes"):
        batches(1, process_count=3)


class Counted(Memory):
    """Remembers what was read."""

    def __init__(self):
        super().__init__(length=500)  # grain is slow to shuffle fewer
        self.asked = []

    def __getitem__(self, index):
        self.asked.append(index)
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("threads", "prefetch", "ahead"), [(1, 3, 3), (2, 5, 5), (3, 1, 1), (2, None, 4), (2, 0, 0)]
)
def test_no_more_is_read_ahead_than_allowed(threads, prefetch, ahead):
    source = Counted()
    with train_stream(
        source, (), target="label", seed=3, start_step=0, batch_size=4,
        threads=threads, prefetch=prefetch,
    ) as stream:  # fmt: skip
        for taken in range(1, 31):
            next(stream)
            assert len(source.asked) <= 4 * (taken + ahead)
        deadline = time.monotonic() + 10
        while len(source.asked) < 4 * (30 + ahead) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(source.asked) == 4 * (30 + ahead)


def test_a_closed_stream_has_ended_its_threads():
    def ours():
        return [t for t in threading.enumerate() if "grain" in t.name and t not in before]

    before = threading.enumerate()
    with train_stream(
        Memory(), STEPS, target="label", seed=3, start_step=0, batch_size=4
    ) as stream:
        next(stream)
        assert ours()
    for thread in ours():
        thread.join(10)
    assert not ours()
    stream.close()
    with pytest.raises(ValueError, match="the stream is closed"):
        next(stream)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": -1}, r"config\.data\.threads=-1"),
        ({"workers": -2}, r"config\.data\.workers=-2"),
        ({"prefetch": -1}, r"config\.data\.prefetch=-1"),
        ({"workers": 3, "prefetch": 11}, r"prefetch=11 .* 4 for each worker, 12 .*workers=3"),
    ],
)
def test_numbers_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        batches(1, **options)


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_evaluation_visits_every_example_once_in_order(threads):
    source = Memory(size=[(12, 16), (9, 7), (5, 30), (12, 16), (1, 1), (8, 8), (9, 7)])
    stream = evaluation_examples(source, target="depth", multiple_of=1, threads=threads)
    found = list(stream)
    assert [e["index"] for e in found] == list(range(7))
    for i, example in enumerate(found):
        assert set(example) == {"image", "source_image", "depth", "index", "name"}
        assert example["name"] == f"folder/{i}.png"
        for key in ("image", "source_image"):
            np.testing.assert_array_equal(example[key], source[i]["image"])
        np.testing.assert_array_equal(example["depth"], source[i]["depth"])


@pytest.mark.parametrize("limit", [None, 0, 1, 5, 7, 99])
@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_evaluation_is_dealt_out_without_loss(processes, limit):
    parts = [
        [
            e["index"]
            for e in evaluation_examples(
                Memory(),
                target="label",
                limit=limit,
                process_index=p,
                process_count=processes,
                threads=0,
            )
        ]
        for p in range(processes)
    ]
    want = range(7 if limit is None else min(limit, 7))
    assert sorted(itertools.chain(*parts)) == list(want)
    assert all(part == sorted(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("keep", "multiple_of", "want"),
    # 12 x 16: the smaller change is that of the width, x 1.5, which makes 18 x 24.
    [(True, 2, (18, 24)), (True, 8, (16, 24)), (False, 8, (24, 24)), (True, 5, (20, 25))],
)
def test_evaluation_resizes_the_image_only(keep, multiple_of, want):
    source = Memory(length=1)
    (example,) = evaluation_examples(
        source, target="label", size=24, keep_aspect_ratio=keep, multiple_of=multiple_of, threads=0
    )
    original = source[0]
    assert example["image"].shape == (*want, 3)
    np.testing.assert_array_equal(example["image"], resize_image(original["image"], want))
    np.testing.assert_array_equal(example["source_image"], original["image"])
    np.testing.assert_array_equal(example["label"], original["label"])


def test_the_network_sees_whole_multiples_and_the_target_stays_as_it_is():
    source = Memory(length=3, size=[(64, 96), (70, 90), (9, 7)])
    found = list(evaluation_examples(source, target="depth"))
    assert [e["image"].shape[:2] for e in found] == [(64, 96), (64, 96), (32, 32)]
    np.testing.assert_array_equal(found[0]["image"], source[0]["image"])
    expected = Image.fromarray(source[1]["image"]).resize((96, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found[1]["image"], np.asarray(expected))
    for i, example in enumerate(found):
        np.testing.assert_array_equal(example["source_image"], source[i]["image"])
        np.testing.assert_array_equal(example["depth"], source[i]["depth"])
