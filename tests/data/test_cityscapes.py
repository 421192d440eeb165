# SPDX-License-Identifier: Apache-2.0
"""Cityscapes' files, written by hand in its layout; ids by the benchmark's own table."""

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.sources.cityscapes import cityscapes

SIZE = (8, 16)
# trainId of the ids 0..33, in the order of labels.py of cityscapesScripts.
TRAIN_IDS = [255] * 7 + [0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, *range(6, 16)]
TRAIN_IDS += [255, 255, 16, 17, 18]


def scene(i, city="aachen"):
    return f"{city}/{city}_{i:06d}_000019"


def rgb(seed):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def ids(seed):
    stored = np.random.default_rng(seed).integers(0, 34, SIZE, np.uint8)
    stored.flat[:34] = range(34)
    return stored


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def layout(root, split, scenes):
    for i, name in enumerate(scenes):
        write(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png", rgb(i))
        write(root / f"gtFine/{split}/{name}_gtFine_labelIds.png", ids(i))
        # What else the archive has, and cityscapesScripts adds.
        write(root / f"gtFine/{split}/{name}_gtFine_color.png", rgb(i))
        write(root / f"gtFine/{split}/{name}_gtFine_instanceIds.png", ids(i).astype(np.uint16))
        write(root / f"gtFine/{split}/{name}_gtFine_labelTrainIds.png", ids(i) // 2)
        (root / f"gtFine/{split}/{name}_gtFine_polygons.json").write_text("{}")
    return root


def read(root, split="train"):
    return cityscapes(root=str(root), split=split)


def refused(root, *words, split="train"):
    with pytest.raises(DatasetError) as error:
        read(root, split)
    for word in words:
        assert word in str(error.value), error.value


def test_examples_of_all_cities_with_the_scored_ids(tmp_path):
    scenes = [scene(4), scene(11), scene(2, "zurich")]
    layout(tmp_path, "train", scenes)
    layout(tmp_path, "val", [scene(0, "lindau")])
    layout(tmp_path, "test", [scene(0, "berlin")])
    (tmp_path / "leftImg8bit/train/readme.txt").write_text("no city")
    source = read(tmp_path)
    assert len(source) == 3 and len(read(tmp_path, "validation")) == 1
    for i, name in enumerate(scenes):
        example = source[i]
        assert set(example) == {"image", "label"} and source.name(i) == (
            f"train/{name}_leftImg8bit.png"
        )
        np.testing.assert_array_equal(example["image"], rgb(i))
        want = [[TRAIN_IDS[stored] for stored in row] for row in ids(i)]
        np.testing.assert_array_equal(example["label"], np.array(want, np.uint8))


def test_the_nineteen_classes_and_their_colours(tmp_path):
    source = read(layout(tmp_path, "train", [scene(1)]))
    names = """road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
    terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle"""
    assert list(source.classes) == " ".join(names.split()).split(", ")
    # The palette of mmsegmentation and TensorFlow's DeepLab, as one number per colour.
    colors = """804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c
    ff0000 00008e 000046 003c64 005064 0000e6 770b20"""
    assert [bytes(color).hex() for color in source.palette] == colors.split()


@pytest.mark.parametrize("value", [34, 255])
def test_ids_above_33_are_refused(tmp_path, value):
    layout(tmp_path, "train", [scene(1)])
    stored = ids(0)
    stored[-1, -1] = value
    write(tmp_path / f"gtFine/train/{scene(1)}_gtFine_labelIds.png", stored)
    with pytest.raises(DatasetError, match=rf"\[{value}\].*0\.\.33"):
        read(tmp_path)[0]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"--config\.data\.root"):
        cityscapes(root=None, split="train")
    refused(tmp_path / "nowhere", "nowhere", "gtFine_trainvaltest.zip")
    refused(tmp_path, "leftImg8bit", "leftImg8bit_trainvaltest.zip")
    refused(tmp_path, "'test'", "validation", split="test")
    (tmp_path / "leftImg8bit/train").mkdir(parents=True)
    refused(tmp_path, "gtFine/train is not a directory")
    (tmp_path / "gtFine/train").mkdir(parents=True)
    refused(tmp_path, "empty")


def test_images_and_annotations_come_in_pairs(tmp_path):
    layout(tmp_path, "train", [scene(1), scene(2), scene(3, "ulm")])
    label = tmp_path / f"gtFine/train/{scene(3, 'ulm')}_gtFine_labelIds.png"
    content = label.read_bytes()
    label.unlink()
    refused(tmp_path, "1 of 3 images have no annotation", "ulm_000003", "labelTrainIds are not")
    label.write_bytes(content)
    (tmp_path / f"leftImg8bit/train/{scene(1)}_leftImg8bit.png").unlink()
    refused(tmp_path, "1 of 3 annotations have no image", "aachen_000001")
