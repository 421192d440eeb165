# SPDX-License-Identifier: Apache-2.0
"""Unreadable examples: the run stops, or the next readable one stands in, always the same one."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from absl import logging as absl_logging

from dpt_jax.data.pipeline import evaluation_examples, train_stream
from dpt_jax.data.quarantine import Readable, read_list, readable
from dpt_jax.data.sources import DatasetError
from dpt_jax.data.transforms import Crop, Flip
from dpt_jax.training.log import QuarantineLog

STEPS = (Crop(8, 9), Flip(0.5))


class Pictures:
    """Random pictures; `bad` ones cannot be read, and those of `instead` look like another."""

    classes = ()
    palette = np.zeros((0, 3), np.uint8)

    def __init__(self, length=9, bad=(), instead=None, error=DatasetError):
        self.length, self.bad, self.instead, self.error = length, bad, instead or {}, error
        self.asked = []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.asked.append(index)
        if index in self.bad:
            raise self.error(f"damaged: {self.name(index)}")
        rng = np.random.default_rng(self.instead.get(index, index))
        image, label = rng.integers(0, 256, (12, 16, 3)), rng.integers(0, 9, (12, 16))
        return {"image": image.astype(np.uint8), "label": label.astype(np.uint8)}

    def name(self, index):
        return f"some folder/{index}.png"


def stand_ins(length, bad):
    """What is read for every index, by walking on."""
    found = {}
    for index in range(length):
        found[index] = index
        while found[index] in bad:
            found[index] = (found[index] + 1) % length
    return found


def batches(source, count=6, **changes):
    options = {"target": "label", "seed": 3, "start_step": 0, "batch_size": 4, "threads": 0}
    with train_stream(source, STEPS, **(options | changes)) as stream:
        return list(itertools.islice(stream, count))


CASES = {
    "one": (set(), {4}),
    "in a row, over the end": (set(), {7, 8, 0}),
    "listed": ({2, 3, 8}, set()),
    "listed and met": ({2, 5}, {3, 6}),
    "all but one": ({0, 2, 4}, {1, 3, 5, 6, 7}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_next_readable_example_stands_in(case):
    excluded, bad = CASES[case]
    want = stand_ins(9, excluded | bad)
    source = Pictures(bad=bad)
    examples = Readable(source, excluded=excluded, limit=8)
    for index in range(9):
        used, example = examples.read(index)
        assert used == want[index]
        np.testing.assert_array_equal(example["image"], Pictures()[used]["image"])
        between = [(index + i) % 9 for i in range((used - index) % 9)]
        assert examples.skipped(index, used) == [i for i in between if i in bad]
    assert not excluded & set(source.asked)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("threads", [0, 3])
def test_only_the_stand_ins_change_in_a_stream(case, threads):
    excluded, bad = CASES[case]
    want = stand_ins(9, excluded | bad)
    found = batches(Readable(Pictures(bad=bad), excluded=excluded, limit=8), threads=threads)
    # The oracle reads all examples, some of which look like others.
    for ours, theirs in zip(found, batches(Pictures(instead=want)), strict=True):
        np.testing.assert_array_equal(ours["drawn"], theirs["index"])
        assert ours["index"].tolist() == [want[i] for i in theirs["index"].tolist()]
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        np.testing.assert_array_equal(ours["label"], theirs["label"])


def test_a_restart_and_other_processes_see_the_same_stand_ins():
    examples = Readable(Pictures(bad={1, 5}), excluded={2}, limit=8)
    whole = batches(examples)
    for key in ("image", "label", "index", "drawn"):
        np.testing.assert_array_equal(
            np.stack([b[key] for b in whole[2:]]),
            np.stack([b[key] for b in batches(examples, 4, start_step=2)]),
        )
        parts = [batches(examples, process_index=p, process_count=4) for p in range(4)]
        np.testing.assert_array_equal(
            np.stack([b[key] for b in whole]),
            np.stack([np.concatenate([b[key] for b in s]) for s in zip(*parts, strict=True)]),
        )


@pytest.mark.parametrize("threads", [0, 2])
def test_strict_is_the_error_of_the_example(threads):
    with pytest.raises(DatasetError) as error:
        batches(Readable(Pictures(bad={4}), excluded={2}), threads=threads)
    assert str(error.value) == "damaged: some folder/4.png"


def test_too_many_in_a_row_are_listed():
    examples = Readable(Pictures(bad={3, 4, 5, 7}), excluded={6}, limit=3)
    assert examples.read(4)[0] == 8
    with pytest.raises(
        DatasetError, match=r"4 examples in a row, more than .*max_quarantined=3"
    ) as e:
        examples.read(3)
    assert str(e.value).count("damaged: some folder/") == 4
    with pytest.raises(DatasetError, match="9 examples in a row, all there are"):
        Readable(Pictures(bad=set(range(9))), limit=9).read(5)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_bug_is_no_bad_example(threads):
    with pytest.raises(TypeError, match="damaged"):
        batches(Readable(Pictures(bad={4}, error=TypeError), limit=8), threads=threads)
    with pytest.raises(DatasetError, match="Pictures has no 'depth'"):
        batches(Readable(Pictures(), limit=8), threads=threads, target="depth")


def test_evaluation_reads_every_example_or_stops():
    with pytest.raises(DatasetError, match=r"folder/4\.png"):
        list(evaluation_examples(Pictures(bad={4}), target="label"))


def settings(**changes):
    return {"on_error": "strict", "max_quarantined": 5, "quarantine": None} | changes


def test_the_config_says_what_happens(tmp_path):
    path = tmp_path / "bad.txt"
    path.write_text("some folder/3.png\n\nsome folder/0.png\r\n")
    examples = readable(settings(quarantine=str(path)), Pictures())
    assert examples.excluded == {0, 3} and examples.limit == 0
    examples = readable(settings(on_error="quarantine"), Pictures())
    assert examples.excluded == frozenset() and examples.limit == 5
    with pytest.raises(DatasetError, match=r"config\.data\.on_error 'skip' .*strict, quarantine"):
        readable(settings(on_error="skip"), Pictures())
    with pytest.raises(DatasetError, match=r"config\.data\.max_quarantined=-1"):
        readable(settings(max_quarantined=-1), Pictures())


def test_a_list_must_fit_the_data(tmp_path):
    path = tmp_path / "bad.txt"
    with pytest.raises(DatasetError, match=r"--config\.data\.quarantine not found: .*bad\.txt"):
        read_list(path, Pictures())
    path.write_text("some folder/3.png\nsome folder/44.png\n")
    with pytest.raises(DatasetError, match=r"no example 'some folder/44.png' \(1 of 2 .*/4.png'\?"):
        read_list(path, Pictures())
    path.write_text("".join(f"some folder/{i}.png\n" for i in range(9)))
    with pytest.raises(DatasetError, match="lists all 9 training examples"):
        read_list(path, Pictures())
    path.write_text("")
    assert read_list(path, Pictures()) == frozenset()


def test_a_name_of_several_examples_excludes_them_all(tmp_path):
    (tmp_path / "bad.txt").write_text("twin\n")
    source = Pictures()
    source.name = lambda index: "twin" if index in (2, 6) else str(index)
    assert read_list(tmp_path / "bad.txt", source) == {2, 6}


def batch(*pairs):
    drawn, used = np.array(pairs, np.int32).T
    return {"drawn": drawn, "index": used}


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(absl_logging, "warning", lambda text, *values: found.append(text % values))
    return SimpleNamespace(found=found)


def test_what_was_skipped_is_named_once(tmp_path, warnings):
    examples = Readable(Pictures(bad={3, 4, 6}), excluded={5}, limit=3)
    log = QuarantineLog(tmp_path, 0, examples)
    log.add(1, batch((0, 0), (5, 7)))  # 5 is listed, 6 is not
    assert log.count == 1 and len(warnings.found) == 1
    log.add(2, batch((6, 7), (8, 8)))
    assert log.count == 1 and len(warnings.found) == 1
    log.add(3, batch((3, 7), (4, 7)))
    assert log.count == 3 and len(warnings.found) == 3
    assert (tmp_path / "quarantine.jsonl").read_text().splitlines() == [
        f'{{"name": "some folder/{i}.png", "error": "damaged: some folder/{i}.png", "step": {s}}}'
        for i, s in ((6, 1), (3, 3), (4, 3))
    ]
    assert warnings.found[0].startswith("step 1 goes without some folder/6.png: damaged")


def test_the_budget_outlives_a_restart(tmp_path, warnings):
    source = Pictures(bad={1, 3, 6})
    log = QuarantineLog(tmp_path, 0, Readable(source, limit=2))
    log.add(1, batch((1, 2)))
    log.add(4, batch((3, 4)))
    with pytest.raises(DatasetError, match=r"3 different .*max_quarantined=2;") as error:
        log.add(5, batch((0, 0), (6, 7)))
    assert all(f"\n  some folder/{i}.png" in str(error.value) for i in (1, 3, 6))
    # From a checkpoint of step 4; step 5 comes again.
    log = QuarantineLog(tmp_path, 4, Readable(source, limit=2))
    assert log.count == 2
    log.add(5, batch((1, 2), (3, 4)))
    with pytest.raises(DatasetError, match="3 different"):
        log.add(6, batch((6, 7)))
    # Listed meanwhile, or no longer of interest: what is known already stops nobody.
    log = QuarantineLog(tmp_path, 6, Readable(source, excluded={1, 3}, limit=1))
    assert log.count == 1
    QuarantineLog(tmp_path, 6, Readable(source, limit=1)).add(7, batch((0, 0), (3, 4)))


def test_a_file_that_has_come_back_is_said_to_have(tmp_path, warnings):
    log = QuarantineLog(tmp_path, 0, Readable(Pictures(), limit=2))
    log.add(1, batch((1, 2)))
    assert "could be read when it was tried again" in warnings.found[0]
