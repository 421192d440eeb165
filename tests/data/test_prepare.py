# SPDX-License-Identifier: Apache-2.0
"""Prepared copies: the same bytes, names and order as the files, whatever happens on the way."""

import errno
import fcntl
import hashlib
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dpt_jax.data.prepare import prepare
from dpt_jax.data.sources import DatasetError
from dpt_jax.data.sources.files import FileSource, Meaning
from dpt_jax.data.sources.prepared import PreparedSource, is_prepared, verify
from tests.data.small_sets import MEANINGS, assert_same, jpeg, png, sources, write_files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def labels(tmp_path):
    """Sources of the splits; files in `tmp_path / "data"`."""
    return sources(write_files(tmp_path / "data", "labels"), "labels")


@pytest.fixture
def copy(labels, tmp_path):
    return prepare("labels", labels, tmp_path / "copy", examples_per_part=3, progress=False)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", MEANINGS)
def test_a_copy_holds_the_bytes_names_and_order_of_the_files(kind, tmp_path):
    written = write_files(tmp_path / "data", kind)
    splits = sources(written, kind)
    out = tmp_path / "new" / "out"
    assert prepare(kind, splits, out, examples_per_part=3, progress=False) == out
    assert not (tmp_path / "new" / "out.incomplete").exists()
    assert is_prepared(out) and verify(out) == []
    for split, examples in written.items():
        prepared = PreparedSource(out, split)
        assert_same(prepared, splits[split])
        for i, paths in enumerate(examples):
            for field, path in paths.items():
                assert getattr(prepared.encoded(i), field) == path.read_bytes()


@pytest.mark.parametrize("per_part", [1, 3, 7, None])
def test_parts_become_numbered_shards(per_part, labels, tmp_path):
    out = prepare("labels", labels, tmp_path / "out", examples_per_part=per_part)
    lengths = tfds.builder_from_directory(out).info.splits["train"].shard_lengths
    assert lengths == {1: [1] * 7, 3: [3, 3, 1], 7: [7], None: [7]}[per_part]
    shards = sorted(path.name for path in out.glob("dpt_data-train*"))
    of = f"-of-{len(lengths):05d}"
    assert shards == [f"dpt_data-train.array_record-{i:05d}{of}" for i in range(len(lengths))]


def test_checksums_are_those_of_sha256sum(copy):
    rows = [line.split("  ") for line in (copy / "checksums.sha256").read_text().splitlines()]
    files = contents(copy)
    del files["checksums.sha256"]
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert {name: digest for digest, name in rows} == expected


def test_verify_names_what_is_missing_or_changed(copy):
    assert verify(copy) == []
    (copy / "features.json").unlink()
    shard = copy / "dpt_data-train.array_record-00001-of-00003"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    changed, missing = verify(copy)
    assert "train.array_record-00001-of-00003 is damaged" in changed
    assert "features.json is missing" in missing
    (copy / "checksums.sha256").write_text("")
    assert "is empty" in verify(copy)[0]
    (copy / "checksums.sha256").unlink()
    assert "cannot be read" in verify(copy)[0]


KILLED = """
import os, pickle, signal, sys
from dpt_jax.data.prepare import prepare

class Killed:
    def __init__(self, source):
        self._source, self.meaning, self.name = source, source.meaning, source.name
        self._last = 0
    def __len__(self):
        return len(self._source)
    def encoded(self, index):
        self._last += index == 6
        if self._last == 2:  # the first time, the data is only being looked at
            os.kill(os.getpid(), signal.SIGKILL)
        return self._source.encoded(index)

with open(sys.argv[1], "rb") as file:
    splits = pickle.load(file)
splits["train"] = Killed(splits["train"])
prepare("labels", splits, sys.argv[2], examples_per_part=3)
"""


class Watched:
    """A source that notes which examples are read."""

    def __init__(self, source):
        self._source, self.meaning, self.name = source, source.meaning, source.name
        self.read = []

    def __len__(self):
        return len(self._source)

    def encoded(self, index):
        self.read.append(index)
        return self._source.encoded(index)


def test_a_killed_preparation_goes_on_where_it_was(labels, copy, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "splits").write_bytes(pickle.dumps(labels))
    command = [sys.executable, "-c", KILLED, tmp_path / "splits", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    kept = sorted(path.name for path in (tmp_path / "out.incomplete/copy").iterdir())
    assert kept == [f"dpt_data-train.array_record-{i:05d}-of-00003" for i in (0, 1)]

    watched = {split: Watched(source) for split, source in labels.items()}
    prepare("labels", watched, out, examples_per_part=3, progress=False)
    sizes, kinds, first_of_kept, copied = range(7), [0], [0, 3], [6]
    assert sorted(watched["train"].read) == sorted([*sizes, *kinds, *first_of_kept, *copied])
    assert verify(out) == []
    assert contents(out).keys() == contents(copy).keys()
    for split, source in labels.items():
        assert_same(PreparedSource(out, split), source)


@pytest.mark.parametrize(
    ("module", "function", "steps"),
    [(os, "replace", 11), (os, "rename", 5), (Path, "write_text", 8)],
    ids=["replace", "rename", "write_text"],
)
def test_an_interruption_at_any_step_is_mended(
    module, function, steps, labels, copy, tmp_path, monkeypatch
):
    original = getattr(module, function)
    for step in range(steps):
        out, left = tmp_path / f"out{step}", [step]

        def interrupted(*args, left=left, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(module, function, interrupted)
            prepare("labels", labels, out, examples_per_part=3, progress=False)
        assert not out.exists()
        prepare("labels", labels, out, examples_per_part=3, progress=False)
        assert contents(out) == contents(copy)


@pytest.fixture
def begun(labels, tmp_path):
    """The folder that would have been made but for an image that was broken, and now is not."""
    broken = tmp_path / "data/image/train ü\n6.x"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-40])
    with pytest.raises(DatasetError, match=r"data/image/train ü\n6\.x"):
        prepare("labels", labels, tmp_path / "out", examples_per_part=3, progress=False)
    broken.write_bytes(whole)
    return tmp_path / "out"


def test_once_a_broken_file_is_mended_it_goes_on(begun, labels, copy):
    assert len(list(begun.with_name("out.incomplete").glob("copy/*"))) == 2
    prepare("labels", labels, begun, examples_per_part=3, progress=False)
    assert contents(begun) == contents(copy)


def test_other_data_does_not_go_on_in_the_unfinished_copy(begun, labels, tmp_path):
    files = labels["train"]._samples

    def refused(what, samples=files, name="labels", meaning=MEANINGS["labels"], step=3, **more):
        train = FileSource(meaning, samples, "")
        with pytest.raises(
            DatasetError, match=rf"changed since \({what}\): delete .*out\.incomplete"
        ):
            prepare(name, labels | {"train": train} | more, begun, examples_per_part=step)

    refused("train: names", [files[0]._replace(name="other"), *files[1:]])
    refused("train: number of examples", files[:6])
    refused("train: names", files[::-1])
    refused("train: meaning", meaning=Meaning("x", class_of={0: 0, 1: 1, 2: 2}))
    refused("train: examples per part", step=2)
    refused("source", name="other")
    refused("test: number of examples", test=labels["train"])
    moved = files[2]._replace(name=files[3].name)
    refused(f"train: contents of {files[3].name}", [*files[:3], moved, *files[4:]])


def test_a_finished_part_that_was_damaged_is_prepared_again(begun, labels, copy):
    first, second = sorted(begun.with_name("out.incomplete").glob("copy/*"))
    data = bytearray(first.read_bytes())
    data[-1] ^= 255
    first.write_bytes(data)
    second.unlink()
    prepare("labels", labels, begun, examples_per_part=3, progress=False)
    assert contents(begun) == contents(copy)


def test_examples_are_decoded_before_they_are_copied_unless_unchecked(labels, tmp_path):
    wrong = tmp_path / "data/label/train ü\n3.x"
    wrong.write_bytes(png(np.full((9, 12), 77, np.uint8)))
    with pytest.raises(DatasetError, match=r"train ü\n3\.x.*\[77\]"):
        prepare("labels", labels, tmp_path / "out", progress=False)
    prepare("labels", labels, tmp_path / "out", check=False, progress=False)
    prepared = PreparedSource(tmp_path / "out", "train")
    assert prepared.encoded(3).label == wrong.read_bytes()
    with pytest.raises(DatasetError, match=r"label of image/train ü\n3\.x.*record 3.*\[77\]"):
        prepared[3]


def test_what_exists_is_not_overwritten(copy, labels, tmp_path):
    with pytest.raises(DatasetError, match="copy exists"):
        prepare("labels", labels, copy)
    (tmp_path / "mine.incomplete").mkdir()
    (tmp_path / "mine.incomplete" / "thesis.tex").write_text("x")
    with pytest.raises(DatasetError, match=r"mine\.incomplete was not begun by"):
        prepare("labels", labels, tmp_path / "mine")


def test_two_processes_do_not_prepare_one_folder_at_once(labels, copy, tmp_path):
    class Met(Watched):
        def encoded(self, index):
            if self.read.count(4) == 1 and index == 4:  # the data is only looked at before
                with pytest.raises(DatasetError, match=r"another process is preparing .*out\.inc"):
                    prepare("labels", labels, tmp_path / "out", examples_per_part=3)
            return super().encoded(index)

    met = labels | {"train": Met(labels["train"])}
    prepare("labels", met, tmp_path / "out", examples_per_part=3, progress=False)
    assert met["train"].read.count(4) == 2 and contents(tmp_path / "out") == contents(copy)


def test_what_another_process_has_finished_meanwhile_is_not_prepared_again(labels, tmp_path):
    class Late(Watched):
        def encoded(self, index):
            if not self.read:  # while the data is being looked at
                self.read.append(index)
                prepare("labels", labels, tmp_path / "out", progress=False)
            return super().encoded(index)

    with pytest.raises(DatasetError, match=r"out exists"):
        prepare("labels", labels | {"train": Late(labels["train"])}, tmp_path / "out")


def test_a_disk_without_locks_is_used_with_a_warning(labels, tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with caplog.at_level("WARNING"):
        prepare("labels", labels, tmp_path / "out", progress=False)
    assert "not locked ([Errno 38] Function not implemented)" in caplog.text


def test_a_disk_that_is_too_small_is_refused_before(labels, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(DatasetError, match=r"GB are needed in .*out\.incomplete, 0\.0 GB are free"):
        prepare("labels", labels, tmp_path / "out")


def test_a_disk_that_fills_up_leaves_the_finished_parts(labels, tmp_path):
    out = tmp_path / "out"
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    (tmp_path / "data/image/train ü\n6.x").write_bytes(jpeg(noise))
    (tmp_path / "data/label/train ü\n6.x").write_bytes(png(np.zeros((500, 500), np.uint8)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
    try:
        with pytest.raises(DatasetError, match=r"00002-of-00003 could not be written .*too large"):
            prepare("labels", labels, out, examples_per_part=3, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(list((tmp_path / "out.incomplete/copy").iterdir())) == 2
    prepare("labels", labels, out, examples_per_part=3, progress=False)
    assert_same(PreparedSource(out, "train"), labels["train"])


def test_a_folder_that_cannot_be_made_is_named(labels, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"could not be written .*file/out\.incomplete"):
        prepare("labels", labels, tmp_path / "file/out")


def test_all_examples_must_have_the_same_targets(labels, tmp_path):
    files = [*labels["train"]._samples]
    files[3] = files[3]._replace(label=None)
    mixed = {"train": FileSource(MEANINGS["labels"], files, "")}
    with pytest.raises(DatasetError, match=r"ü\n3\.x has .*intrinsics, but the first .* label;"):
        prepare("labels", mixed, tmp_path / "out", progress=False)


def test_a_part_that_does_not_fit_in_memory_is_refused(labels, tmp_path, monkeypatch):
    monkeypatch.setattr("dpt_jax.data.prepare._MAX_PART_BYTES", 1 << 20)
    image = jpeg(np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8))
    for i in (3, 4, 5):
        (tmp_path / f"data/image/train ü\n{i}.x").write_bytes(image)
    with pytest.raises(DatasetError, match=r"more than 1 MiB.*smaller examples_per_part"):
        prepare("labels", labels, tmp_path / "out", check=False, progress=False)


def test_no_part_stays_in_memory(labels, tmp_path):
    source = labels["train"]
    first = source.encoded(0)

    class Same(Watched):
        def encoded(self, index):
            return first._replace(name=source.name(index))

    count = sys.getrefcount(first.image)
    prepare("labels", {"train": Same(source)}, tmp_path / "out", examples_per_part=3)
    assert sys.getrefcount(first.image) <= count + 1  # the last record may wait for the collector


def test_progress_goes_to_stderr_in_plain_lines(labels, tmp_path, capfd):
    prepare("labels", labels, tmp_path / "out", examples_per_part=3)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"prepared {n} of 9 examples" for n in (3, 6, 7, 9)]
