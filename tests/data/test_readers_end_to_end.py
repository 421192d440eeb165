# SPDX-License-Identifier: Apache-2.0
"""Rooms written in each data set's layout and read by its reader are the rooms again."""

import numpy as np
import pytest

from configs import common
from dpt_jax.data.sources import build_source
from dpt_jax.data.sources.rooms import CLASSES
from dpt_jax.data.sources.rooms_layouts import LAYOUTS, write_layout
from dpt_jax.data.sources.rooms_layouts.drawing import Drawing

SPLITS = ("train", "validation")

# The reader's name of each of the rooms' classes; None is ignored.
SAME = dict(zip(CLASSES, CLASSES, strict=True))
NAMES = {
    "ade20k": SAME | {"window": "windowpane", "picture": "painting", "column": None},
    "pascal_context": SAME
    | {"picture": "sign", "rug": "cloth", "lamp": "light", "ball": None, "column": "building",
       "plant": "pottedplant"},
    "cityscapes": {
        "wall": "wall", "floor": "road", "ceiling": "sky", "picture": "traffic sign",
        "rug": "sidewalk", "bed": "car", "cabinet": "fence", "lamp": "pole", "ball": "person",
        "plant": "vegetation", "door": None, "window": None, "table": None, "column": None,
    },
    "folder_masks": SAME,
}  # fmt: skip
COUNTS = {"ade20k": 150, "pascal_context": 59, "cityscapes": 19, "folder_masks": 14}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes each layout once, when it is first asked for."""
    roots = {}

    def root(layout):
        if layout == "nyuv2_mat":
            pytest.importorskip("h5py")
        if layout not in roots:
            folder = tmp_path_factory.mktemp("layouts") / layout
            roots[layout] = write_layout(layout, folder, train=2, validation=3)
        return roots[layout]

    return root


def drawn(layout, split):
    return list(Drawing(split, 2 if split == "train" else 3, LAYOUTS[layout].sizes, seed=0))


def opened(layout, root, split, **options):
    config = common.default()
    config.data.source = layout.split("_")[0] if layout.startswith("folder") else layout
    config.data.root = str(root)
    with config.data.unlocked():
        config.data.update(options)
    return build_source(config.data, split)


def check_image(image, expected, *, lossless):
    assert image.dtype == np.uint8 and image.shape == expected.shape
    error = np.abs(image.astype(int) - expected)
    if lossless:
        assert error.max() == 0
    else:
        assert error.mean() < 2.5 and error.max() < 40


def check_depth(depth, expected, unit, holes):
    """Depth is the room's to within a unit where it was measured, and else 0."""
    assert depth.dtype == np.float32 and depth.shape == expected.shape
    measured = depth > 0
    low, high = holes
    assert low < np.mean(~measured) < high and depth.min() == 0
    assert np.abs(depth - expected)[measured].max() < unit + 1e-5


@pytest.mark.parametrize("layout", NAMES)
@pytest.mark.parametrize("split", SPLITS)
def test_labels(layout, split, written):
    source, rooms = opened(layout, written(layout), split), drawn(layout, split)
    assert len(source) == len(rooms)
    assert len(source.classes) == COUNTS[layout] == len(set(source.classes))
    assert source.palette.shape == (COUNTS[layout], 3) and source.palette.dtype == np.uint8
    names = NAMES[layout]
    ids = [255 if names[c] is None else source.classes.index(names[c]) for c in CLASSES]
    if layout == "cityscapes":  # Sorted by city, and the rooms took turns.
        rooms = rooms[0::2] + rooms[1::2]
    for k, room in enumerate(rooms):
        example = source[k]
        assert example.keys() == {"image", "label"} and example["label"].dtype == np.uint8
        expected = np.array(ids, np.uint8)[room.label]
        if layout == "folder_masks":
            expected[[0, -1]] = expected[:, [0, -1]] = 255
        np.testing.assert_array_equal(example["label"], expected)
        check_image(example["image"], room.image, lossless=layout == "cityscapes")


def test_pascal_context_with_background(written):
    for split in SPLITS:
        source = opened(
            "pascal_context", written("pascal_context"), split, pascal_context={"background": True}
        )
        assert len(source.classes) == 60 and source.classes[0] == "background"
        names = NAMES["pascal_context"] | {"ball": "background"}
        ids = np.array([source.classes.index(names[c]) for c in CLASSES], np.uint8)
        for k, room in enumerate(drawn("pascal_context", split)):
            np.testing.assert_array_equal(source[k]["label"], ids[room.label])


@pytest.mark.parametrize(
    "layout, names",
    [
        ("ade20k", ["training/ADE_train_00000001.jpg", "validation/ADE_val_00000001.jpg"]),
        ("nyuv2", [
            "sync/bedroom_0001/rgb_00000.jpg", "official_splits/test/bedroom/rgb_00000.jpg",
        ]),
        ("nyuv2_mat", ["00002", "00000"]),
        ("kitti", [
            "2011_09_26/2011_09_26_drive_0005_sync/image_02/data/0000000005.png",
            "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000005.png",
        ]),
        ("pascal_context", ["JPEGImages/2008_000001.jpg", "JPEGImages/2008_000003.jpg"]),
        ("cityscapes", [
            "train/aachen/aachen_000000_000019_leftImg8bit.png",
            "val/frankfurt/frankfurt_000000_000019_leftImg8bit.png",
        ]),
        ("folder_masks", ["images/room_00001.jpg", "images/room_00003.jpg"]),
    ],
)  # fmt: skip
def test_names(layout, names, written):
    assert [opened(layout, written(layout), split).name(0) for split in SPLITS] == names


@pytest.mark.parametrize("split", SPLITS)
def test_nyuv2(split, written):
    source, rooms = opened("nyuv2", written("nyuv2"), split), drawn("nyuv2", split)
    assert len(source) == len(rooms) and source.classes == ()
    for k, room in enumerate(rooms):
        example = source[k]
        assert example.keys() == {"image", "depth"}
        check_depth(example["depth"], room.depth, 1e-3, (0.005, 0.5))
        assert np.all(example["depth"] <= room.depth + 1e-5), "rounded down"
        if split == "validation":
            room.image[:7] = room.image[474:] = room.image[:, :7] = room.image[:, 632:] = 0
        check_image(example["image"], room.image, lossless=False)


@pytest.mark.parametrize("depth", ["raw", "filled"])
@pytest.mark.parametrize("split", SPLITS)
def test_nyuv2_mat(split, depth, written):
    root = written("nyuv2_mat")
    source = opened("nyuv2_mat", root, split, nyuv2_mat={"depth": depth})
    rooms = drawn("nyuv2_mat", split)
    assert len(source) == len(rooms)
    for k, room in enumerate(rooms):
        example = source[k]
        room.image[:7] = room.image[474:] = room.image[:, :7] = room.image[:, 632:] = 255
        check_image(example["image"], room.image, lossless=True)
        if depth == "filled":
            np.testing.assert_array_equal(example["depth"], room.depth)
        else:
            check_depth(example["depth"], room.depth, 0, (0.005, 0.5))


@pytest.mark.parametrize("split", SPLITS)
def test_kitti(split, written):
    source, rooms = opened("kitti", written("kitti"), split), drawn("kitti", split)
    assert len(source) == len(rooms), "the line without ground truth is left out"
    cameras = {375: (721.5377, 609.5593, 172.854), 370: (707.0912, 601.8873, 183.1104)}
    for k, room in enumerate(rooms):
        example = source[k]
        height, width = room.depth.shape
        top, left = height - 352, (width - 1216) // 2
        window = slice(top, None), slice(left, left + 1216)
        check_image(example["image"], room.image[window], lossless=True)
        check_depth(example["depth"], room.depth[window], 0.5 / 256, (0.7, 0.9))
        focal, x, y = cameras[height]
        expected = [[focal, 0, x - left], [0, focal, y - top], [0, 0, 1]]
        np.testing.assert_allclose(example["intrinsics"], expected, rtol=1e-6)


def test_folder_depth(written):
    root = written("folder_depth")
    rooms = drawn("folder_depth", "train") + drawn("folder_depth", "validation")
    names = []
    for split in SPLITS:
        source = opened("folder_depth", root, split)
        assert len(source) == (2 if split == "train" else 3)
        for k in range(len(source)):
            names.append(source.name(k))
            number = int(source.name(k).removesuffix(".jpg")[-5:])
            room, example = rooms[number - 1], source[k]
            assert example.keys() == {"image", "depth"}
            check_depth(example["depth"], room.depth, 1e-3, (0.005, 0.5))
            check_image(example["image"], room.image, lossless=False)
    assert len(names) == len(set(names)) == len(rooms)


@pytest.mark.parametrize(
    "layout, inner",
    [
        ("ade20k", "ADEChallengeData2016"),
        ("pascal_context", "VOCdevkit"),
        ("pascal_context", "VOCdevkit/VOC2010"),
    ],
)
def test_the_root_may_be_the_inner_folder(layout, inner, written):
    outer = opened(layout, written(layout), "train")
    assert opened(layout, written(layout) / inner, "train").name(1) == outer.name(1)
