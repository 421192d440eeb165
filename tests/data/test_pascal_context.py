# SPDX-License-Identifier: Apache-2.0
"""Pascal Context's files, written by hand as mmsegmentation's converter leaves them."""

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.sources.pascal_context import CLASSES, pascal_context

SIZE = (9, 14)
NAMES = ("2008_000002", "2010_000190")
# The authors' 59_labels.txt: the same classes, the 20 of VOC first.
LABELS_59 = """aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike
    person pottedplant sheep sofa train tvmonitor bag bed bench book building cabinet ceiling cloth
    computer cup door fence floor flower food grass ground keyboard light mountain mouse curtain
    platform sign plate road rock shelves sidewalk sky snow bedclothes track tree truck wall water
    window wood""".split()


def rgb(seed):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def ids(seed):
    stored = np.random.default_rng(seed).integers(0, 60, SIZE, np.uint8)
    stored.flat[:60] = range(60)
    return stored


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def layout(voc, names=NAMES, list_name="train"):
    for i, name in enumerate(names):
        write(voc / f"JPEGImages/{name}.jpg", rgb(i), quality=95)
        write(voc / f"SegmentationClassContext/{name}.png", ids(i))
    lists = voc / "ImageSets/SegmentationContext"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{list_name}.txt").write_text("".join(f"{name}\n" for name in names))
    return voc


def read(root, split="train", background=False):
    return pascal_context(root=str(root), split=split, background=background)


def refused(root, *words, split="train"):
    with pytest.raises(DatasetError) as error:
        read(root, split)
    for word in words:
        assert word in str(error.value), error.value


@pytest.mark.parametrize("background", [False, True])
def test_examples_with_59_and_60_classes(tmp_path, background):
    source = read(layout(tmp_path), background=background)
    assert len(source) == 2 and source.meaning.dataset == f"pascal_context background={background}"
    for i, name in enumerate(NAMES):
        assert source.name(i) == f"JPEGImages/{name}.jpg"
        example = source[i]
        assert set(example) == {"image", "label"} and example["label"].dtype == np.uint8
        with Image.open(tmp_path / f"JPEGImages/{name}.jpg") as image:
            np.testing.assert_array_equal(example["image"], np.asarray(image))
        want = ids(i).astype(int) - (not background)
        np.testing.assert_array_equal(example["label"], np.where(want < 0, 255, want))
    assert len(source.classes) == len(source.palette) == 59 + background
    assert source.classes[-1] == "wood"
    assert "59_labels.txt" in source.meaning.note


def test_classes_are_all_sixty_in_the_converter_s_order():
    # The converter ranks the ids of the 459 classes, which are numbered by the alphabet.
    assert list(CLASSES) == ["background", *sorted(LABELS_59)] and len(CLASSES) == 60


def test_colours_are_those_of_pascal_voc(tmp_path):
    palette = read(layout(tmp_path), background=True).palette
    voc = """000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000
    400080 c00080 408080 c08080 004000 804000 00c000 80c000 004080"""
    assert [bytes(color).hex() for color in palette[:21]] == voc.split()
    for value, color in enumerate(palette):  # VOCcode/VOClabelcolormap.m, bit by bit
        want = [0, 0, 0]
        for bit in range(8):
            want[bit % 3] += (value >> bit & 1) * 2 ** (7 - bit // 3)
        assert color.tolist() == want
    np.testing.assert_array_equal(read(tmp_path).palette, palette[1:])
    assert len(np.unique(palette, axis=0)) == 60


@pytest.mark.parametrize("inner", [".", "VOC2010", "VOCdevkit/VOC2010"])
def test_the_root_is_voc2010_or_above_it(tmp_path, inner):
    layout(tmp_path / inner, NAMES)
    layout(tmp_path / inner, NAMES[:1], "val")
    assert len(read(tmp_path)) == 2
    assert len(read(tmp_path, "validation")) == 1
    assert read(tmp_path).name(0) == "JPEGImages/2008_000002.jpg"


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("value", [60, 255])
def test_values_above_59_are_refused(tmp_path, background, value):
    stored = ids(0)
    stored[-1, -1] = value
    write(layout(tmp_path) / f"SegmentationClassContext/{NAMES[0]}.png", stored)
    with pytest.raises(DatasetError, match=rf"\[{value}\].*0\.\.59"):
        read(tmp_path, background=background)[0]


def test_the_459_ids_before_conversion_are_refused(tmp_path):
    stored = ids(0).astype(np.uint16) * 7
    write(layout(tmp_path) / f"SegmentationClassContext/{NAMES[0]}.png", stored)
    with pytest.raises(DatasetError, match="8-bit"):
        read(tmp_path)[0]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"--config\.data\.root"):
        pascal_context(root=None, split="train", background=False)
    refused(tmp_path / "nowhere", "nowhere", "VOCtrainval_03-May-2010.tar")
    refused(tmp_path, "'test'", "validation", split="test")
    # VOC2010 as downloaded, not converted.
    (tmp_path / "VOCdevkit/VOC2010/ImageSets/Segmentation").mkdir(parents=True)
    words = "SegmentationContext/train.txt", "trainval_merged.json", "pascal_context.py"
    refused(tmp_path, *words)
    layout(tmp_path / "VOCdevkit/VOC2010")
    refused(tmp_path, "SegmentationContext/val.txt", split="validation")
    label = tmp_path / f"VOCdevkit/VOC2010/SegmentationClassContext/{NAMES[1]}.png"
    label.unlink()
    refused(tmp_path, "1 of 4 files", str(label))
    lists = tmp_path / "VOCdevkit/VOC2010/ImageSets/SegmentationContext"
    (lists / "train.txt").write_text("\n")
    refused(tmp_path, "train.txt", "empty")
    (lists / "train.txt").write_text("../2008_000002\n")
    refused(tmp_path, "'..'")
