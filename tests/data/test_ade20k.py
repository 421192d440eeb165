# SPDX-License-Identifier: Apache-2.0
"""ADE20K's folder: what is right is read right, what is wrong is named."""

import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.sources.ade20k import PALETTE, ade20k
from dpt_jax.data.sources.base import DatasetError

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "ade20k_sample"
SIZE = (6, 9)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def rgb(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def ade(root, split="training", short="train", count=3):
    """A data set in ADE20K's layout; images are PNG, so that pixels can be compared."""
    images, annotations = (root / kind / split for kind in ("images", "annotations"))
    for i in range(1, count + 1):
        stored = np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE) + np.uint8(i)
        stored[0, :3] = 0, 1, 150
        save(images / f"ADE_{short}_{i:08d}.png", rgb(i))
        save(annotations / f"ADE_{short}_{i:08d}.png", stored)
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    lines += [f"{i}\t0.1\t9\t9\t1\tthing {i}, synonym" for i in range(1, 151)]
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("nested", [False, True])
def test_it_is_read(tmp_path, nested):
    ade(tmp_path / "ADEChallengeData2016" if nested else tmp_path)
    source = ade20k(root=str(tmp_path), split="train")
    assert len(source) == 3
    for i in range(3):
        example = source[i]
        assert set(example) == {"image", "label"}
        assert example["image"].dtype == example["label"].dtype == np.uint8
        np.testing.assert_array_equal(example["image"], rgb(i + 1))
        want = np.arange(54).reshape(SIZE) + i + 1 - 1
        want[0, :3] = 255, 0, 149
        np.testing.assert_array_equal(example["label"], want)
        assert source.name(i) == f"training/ADE_train_{i + 1:08d}.png"
    assert len(source.classes) == 150
    assert source.classes[0] == "thing 1" and source.classes[149] == "thing 150"
    assert source.palette.shape == (150, 3) and source.palette.dtype == np.uint8
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[2]["label"], source[2]["label"])


def test_the_palette_is_that_of_the_benchmark():
    digest = "ce475c9151035eff51f4cf27fd7d906959b1480f6d15b9423ae2417c1b23a0ed"
    assert hashlib.sha256(PALETTE.tobytes()).hexdigest() == digest
    assert PALETTE[0].tolist() == [120, 120, 120] and PALETTE[-1].tolist() == [92, 0, 255]


def test_splits_are_told_apart(tmp_path):
    ade(tmp_path)
    ade(tmp_path, "validation", "val", count=2)
    assert len(ade20k(root=str(tmp_path), split="train")) == 3
    source = ade20k(root=str(tmp_path), split="validation")
    assert len(source) == 2 and source.name(1) == "validation/ADE_val_00000002.png"


def rename(path, to):
    path.rename(path.with_name(to))


def remove_all(folder):
    for path in folder.iterdir():
        path.unlink()


FIRST = "ADE_train_00000001.png"
BROKEN = {
    "no-images": (lambda r: rename(r / "images", "pictures"), "images/training"),
    "no-split": (lambda r: rename(r / "images" / "training", "x"), "images/training"),
    "no-annotations": (lambda r: rename(r / "annotations", "x"), "annotations/training"),
    "empty-split": (lambda r: remove_all(r / "images" / "training"), "images/training"),
    "image-without-label": (
        lambda r: (r / "annotations" / "training" / FIRST).unlink(),
        f"annotations/training, the first is {{root}}/images/training/{FIRST}",
    ),
    "label-without-image": (
        lambda r: (r / "images" / "training" / FIRST).unlink(),
        f"images/training, the first is {{root}}/annotations/training/{FIRST}",
    ),
    "two-of-one-stem": (
        lambda r: save((r / "images" / "training" / FIRST).with_suffix(".jpg"), rgb()),
        f"{FIRST} and {{root}}/images/training/ADE_train_00000001.jpg differ only in their suffix",
    ),
    "no-names": (lambda r: (r / "objectInfo150.txt").unlink(), "objectInfo150.txt"),
    "149-names": (
        lambda r: (r / "objectInfo150.txt").write_text("Idx\tName\n" + "1\tx\n" * 149),
        "objectInfo150.txt names 149",
    ),
}


@pytest.mark.parametrize(("breaks", "message"), BROKEN.values(), ids=BROKEN)
def test_a_wrong_folder_is_refused_at_once(tmp_path, breaks, message):
    breaks(ade(tmp_path))
    with pytest.raises(DatasetError, match=re.escape(message.format(root=tmp_path))):
        ade20k(root=str(tmp_path), split="train")


def test_no_folder_and_unknown_splits(tmp_path):
    for root in (None, ""):
        with pytest.raises(DatasetError, match=r"config\.data\.root"):
            ade20k(root=root, split="train")
    with pytest.raises(DatasetError, match="nowhere"):
        ade20k(root=str(tmp_path / "nowhere"), split="train")
    with pytest.raises(DatasetError, match="'test'"):
        ade20k(root=str(ade(tmp_path)), split="test")


@pytest.mark.parametrize("version", ["", "scene_parse150", "scene_parse150/1.0.0"])
def test_the_instance_labels_of_tfds_are_refused(tmp_path, version):
    (tmp_path / "scene_parse150" / "1.0.0").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"instance labels of\s+100 things"):
        ade20k(root=str(tmp_path / version), split="train")


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def label(array, **options):
    return lambda root: save(root / "annotations" / "training" / FIRST, array, **options)


IMAGE, ANNOTATION = f"images/training/{FIRST}", f"annotations/training/{FIRST}"
BROKEN_ON_ACCESS = {
    "label-151": (
        label(np.full(SIZE, 151, np.uint8)),
        f"{ANNOTATION} holds the label values [151]",
    ),
    "label-255": (
        label(np.full(SIZE, 255, np.uint8)),
        f"{ANNOTATION} holds the label values [255]",
    ),
    "rgb-label": (label(rgb()), ANNOTATION),
    "16-bit-label": (label(np.ones(SIZE, np.uint16)), ANNOTATION),
    "1-bit-label": (label(np.ones(SIZE, bool)), ANNOTATION),
    "sizes": (label(np.ones((6, 8), np.uint8)), f"{ANNOTATION} is 6 x 8"),
    "transposed": (label(np.ones(SIZE[::-1], np.uint8)), f"{ANNOTATION} is 9 x 6"),
    "truncated-label": (lambda r: cut(r / ANNOTATION), ANNOTATION),
    "truncated-image": (lambda r: cut(r / IMAGE), IMAGE),
    "empty-label": (lambda r: (r / ANNOTATION).write_bytes(b""), ANNOTATION),
    "empty-image": (lambda r: (r / IMAGE).write_bytes(b""), IMAGE),
    "text": (lambda r: (r / IMAGE).write_text("<html>404</html>"), IMAGE),
    "gone": (lambda r: (r / IMAGE).unlink(), IMAGE),
}


@pytest.mark.parametrize(("breaks", "message"), BROKEN_ON_ACCESS.values(), ids=BROKEN_ON_ACCESS)
def test_a_wrong_file_is_named(tmp_path, breaks, message):
    source = ade20k(root=str(ade(tmp_path)), split="train")
    breaks(tmp_path)
    with pytest.raises(DatasetError, match=re.escape(message)):
        source[0]
    assert source[1]["label"].shape == SIZE


def test_the_sample_is_read():
    if not SAMPLE.is_dir():
        pytest.skip("ade20k_sample is not next to this repository")
    for split in ("train", "validation"):
        source = ade20k(root=str(SAMPLE), split=split)
        assert len(source) == 3 and source.classes[:2] == ("wall", "building")
        assert source.classes[149] == "flag"
        seen = set()
        for i in range(3):
            example = source[i]
            assert example["image"].shape == (*example["label"].shape, 3)
            assert min(example["label"].shape) >= 100
            seen |= set(np.unique(example["label"]).tolist())
        assert len(seen - {255}) == 15 and max(seen - {255}) < 150
