# SPDX-License-Identifier: Apache-2.0
"""NYUv2 in BTS's layout, written by hand."""

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import config_flags  # noqa: F401  (configs are read as train.py reads them)
from PIL import Image

from configs import nyuv2 as config_file
from dpt_jax.data.sources import build_source
from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.sources.kitti import kitti
from dpt_jax.data.sources.nyuv2 import nyuv2

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "nyuv2_sample"
TRAIN, TEST = "nyudepthv2_train_files_with_gt.txt", "nyudepthv2_test_files_with_gt.txt"
SIZE = (6, 9)


def millimetres(i):
    stored = np.arange(54, dtype=np.uint16).reshape(SIZE) * 190 + np.uint16(i)
    stored[0, 0] = 0
    return stored


def pair(folder, i):
    """An image of one grey, which a JPEG keeps, and its depth."""
    folder.mkdir(parents=True, exist_ok=True)
    grey = np.full((*SIZE, 3), 10 * i, np.uint8)
    Image.fromarray(grey).save(folder / f"rgb_{i:05d}.jpg", quality=95)
    Image.fromarray(millimetres(i)).save(folder / f"sync_depth_{i:05d}.png")


@pytest.fixture
def root(tmp_path):
    """Training images 1, 2, 3, of which the list selects 3 and 1; test images 4 and 5."""
    for i in (1, 2, 3):
        pair(tmp_path / "sync" / "attic_0001a", i)
    for i in (4, 5):
        pair(tmp_path / "official_splits" / "test" / "attic", i)
    row = "{0}/attic_0001a/rgb_{1:05d}.jpg {0}/attic_0001a/sync_depth_{1:05d}.png 518.8579\n"
    (tmp_path / TRAIN).write_text(row.format("", 3) + "\n" + row.format("", 1))
    row = "attic/rgb_{0:05d}.jpg attic/sync_depth_{0:05d}.png 518.8579\n"
    (tmp_path / TEST).write_text(row.format(4) + row.format(5))
    return tmp_path


def check(source, numbers, stem):
    assert len(source) == len(numbers)
    for index, i in enumerate(numbers):
        example = source[index]
        assert example.keys() == {"image", "depth"}
        assert source.name(index) == f"{stem}/rgb_{i:05d}.jpg"
        assert example["image"].dtype == np.uint8 and example["image"].shape == (*SIZE, 3)
        assert (example["image"] == 10 * i).all()
        assert example["depth"].dtype == np.float32
        np.testing.assert_allclose(example["depth"], millimetres(i) / 1000, rtol=1e-6)


def test_both_splits(root):
    train = nyuv2(root=str(root), split="train")
    check(train, [3, 1], "sync/attic_0001a")
    check(nyuv2(root=str(root), split="validation"), [4, 5], "official_splits/test/attic")
    check(pickle.loads(pickle.dumps(train)), [3, 1], "sync/attic_0001a")
    assert train.classes == () and train.palette.shape == (0, 3)
    assert train.encoded(0).image == (root / "sync/attic_0001a/rgb_00003.jpg").read_bytes()


def test_a_list_given_by_flag_replaces_that_of_the_data(root, tmp_path_factory, monkeypatch):
    here = tmp_path_factory.mktemp("here")
    other = "attic_0001a/rgb_00002.jpg attic_0001a/sync_depth_00002.png\n"
    (here / "mine.txt").write_text(other)
    source = nyuv2(root=str(root), split="train", list_file=str(here / "mine.txt"))
    check(source, [2], "sync/attic_0001a")
    monkeypatch.chdir(here)  # a path from here, then from root
    check(nyuv2(root=str(root), split="train", list_file="mine.txt"), [2], "sync/attic_0001a")
    # The list says which folder: here the test images are learnt by heart.
    check(
        nyuv2(root=str(root), split="train", list_file=TEST), [4, 5], "official_splits/test/attic"
    )
    with pytest.raises(DatasetError, match=r"config\.data\.lists\.train=nothing\.txt"):
        nyuv2(root=str(root), split="train", list_file="nothing.txt")


@pytest.mark.parametrize("read", [nyuv2, kitti])
def test_a_list_that_is_here_and_in_the_root_is_refused(root, tmp_path_factory, monkeypatch, read):
    here = tmp_path_factory.mktemp("here")
    shutil.copy(root / TRAIN, here / TRAIN)
    monkeypatch.chdir(here)
    with pytest.raises(DatasetError, match=r"lists\.train=") as error:
        read(root=str(root), split="train", list_file=TRAIN)
    assert str(here / TRAIN) in str(error.value) and str(root / TRAIN) in str(error.value)
    monkeypatch.chdir(root)  # both are one file
    assert len(nyuv2(root=str(root), split="train", list_file=TRAIN)) == 2


def test_the_test_list_is_made_from_a_whole_folder(tmp_path):
    names = []
    for i in range(654):
        folder = tmp_path / f"official_splits/test/scene_{i % 3}"
        if i < 3:
            folder.mkdir(parents=True)
        (folder / f"rgb_{i:05d}.jpg").touch()
        (folder / f"sync_depth_{i:05d}.png").touch()
        names.append(f"official_splits/test/{folder.name}/rgb_{i:05d}.jpg")
    (tmp_path / "official_splits" / "test" / "README").touch()
    source = nyuv2(root=str(tmp_path), split="validation")
    assert [source.name(k) for k in range(len(source))] == sorted(names)
    (folder / f"sync_depth_{i:05d}.png").unlink()
    with pytest.raises(DatasetError, match=rf"1 of 1308 .*sync_depth_{i:05d}\.png"):
        nyuv2(root=str(tmp_path), split="validation")
    (folder / f"rgb_{i:05d}.jpg").unlink()
    with pytest.raises(DatasetError, match=r"653 images.*654.*lists\.validation=FILE"):
        nyuv2(root=str(tmp_path), split="validation")


def write(name, text):
    return lambda root: (root / name).write_text(text)


WRONG = {
    "no-train-list": (lambda r: (r / TRAIN).unlink(), "train", f"{TRAIN}.*24,231.*ZoeDepth"),
    "empty-list": (write(TRAIN, "\n"), "train", f"{TRAIN}.*is empty"),
    "one-column": (write(TRAIN, "a b\nc\n"), "train", f"{TRAIN}, line 2: expected 2 columns"),
    "out-of-root": (write(TRAIN, "../a b 1\n"), "train", "'../a' leads out"),
    "other-folder": (write(TRAIN, "a.jpg b.png 1\n"), "train", f"a.jpg, the first.*{TRAIN}"),
    "no-test-list": (lambda r: (r / TEST).unlink(), "validation", "holds 2 images"),
    "no-sync": (lambda r: shutil.rmtree(r / "sync"), "train", "neither in .*sync nor in"),
    "no-test": (
        lambda r: ((r / TEST).unlink(), shutil.rmtree(r / "official_splits")),
        "validation",
        f"{TEST}.*nor is there a folder .*official_splits/test",
    ),
    "no-depth": (
        lambda r: (r / "sync/attic_0001a/sync_depth_00001.png").unlink(),
        "train",
        "1 of 4 files do not exist.*sync_depth_00001.png",
    ),
    "unknown-split": (lambda r: None, "test", "'test'"),
}


@pytest.mark.parametrize(("breaks", "split", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(root, breaks, split, message):
    breaks(root)
    with pytest.raises(DatasetError, match=message):
        nyuv2(root=str(root), split=split)


def test_a_folder_is_needed(tmp_path):
    with pytest.raises(DatasetError, match=r"config\.data\.root=DIR"):
        nyuv2(root=None, split="train")
    with pytest.raises(DatasetError, match=re.escape(str(tmp_path / "nyu"))):
        nyuv2(root=str(tmp_path / "nyu"), split="train")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_sample_is_read_by_the_recipe_that_overfits_it(split):
    if not SAMPLE.is_dir():
        pytest.skip("nyuv2_sample is not next to this repository")
    config = config_file.get_config("overfit").data
    config.root = str(SAMPLE)
    source = build_source(config, split)
    assert [source.name(i)[-9:] for i in range(len(source))] == [
        "00000.jpg",
        "00050.jpg",
        "00100.jpg",
    ]
    for i in range(3):
        example = source[i]
        assert example["image"].shape == (480, 640, 3) and example["depth"].shape == (480, 640)
        path = SAMPLE / source.name(i).replace("rgb_", "sync_depth_").replace(".jpg", ".png")
        want = np.asarray(Image.open(path)) / 1000
        np.testing.assert_allclose(example["depth"], want, rtol=1e-6)
        measured = want[want > 0]
        assert 0.3 < measured.min() and measured.max() <= 10.5 and 1 < np.median(measured) < 6
