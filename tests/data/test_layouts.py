# SPDX-License-Identifier: Apache-2.0
"""The files that `write_layout` writes, read with PIL, h5py and plain Python alone."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.sources.rooms import CLASSES, PALETTE, Rooms
from dpt_jax.data.sources.rooms_layouts import LAYOUTS, write_layout
from dpt_jax.data.sources.rooms_layouts.drawing import Drawing

SAMPLE = Path(__file__).parents[3] / "shared/data/ade20k_sample/ADEChallengeData2016"

# What the rooms' classes are called elsewhere, and those lists of names, written down by hand.
ADE20K = dict(zip(CLASSES, CLASSES, strict=True)) | {
    "window": "windowpane", "picture": "painting", "column": None,
}  # fmt: skip
PASCAL_CONTEXT = dict(zip(CLASSES, CLASSES, strict=True)) | {
    "picture": "sign", "rug": "cloth", "lamp": "light", "ball": "background", "column": "building",
    "plant": "pottedplant",
}  # fmt: skip
PASCAL_CONTEXT_NAMES = """background aeroplane bag bed bedclothes bench bicycle bird boat book
    bottle building bus cabinet car cat ceiling chair cloth computer cow cup curtain dog door fence
    floor flower food grass ground horse keyboard light motorbike mountain mouse person plate
    platform pottedplant road rock sheep shelves sidewalk sign sky snow sofa table track train tree
    truck tvmonitor wall water window wood""".split()
CITYSCAPES = {
    "wall": "wall", "floor": "road", "ceiling": "sky", "door": "static", "window": "ego-vehicle",
    "picture": "traffic-sign", "rug": "sidewalk", "bed": "car", "table": "guard-rail",
    "cabinet": "fence", "lamp": "pole", "ball": "person", "column": "polegroup",
    "plant": "vegetation",
}  # fmt: skip
CITYSCAPES_NAMES = """unlabeled ego-vehicle rectification-border out-of-roi static dynamic ground
    road sidewalk parking rail-track building wall fence guard-rail bridge tunnel pole polegroup
    traffic-light traffic-sign vegetation terrain sky person rider car truck bus caravan trailer
    train motorcycle bicycle""".split()


def drawn(layout, split, *, length=2):
    return list(Drawing(split, length, LAYOUTS[layout].sizes, seed=0))


def opened(path, mode):
    with Image.open(path) as image:
        assert image.mode == mode, path
        assert image.format == {".jpg": "JPEG", ".png": "PNG"}[path.suffix]
        if path.suffix == ".jpg":
            assert {(h, v) for _, h, v, *_ in image.layer} == {(1, 1)}, "colours are subsampled"
        return np.asarray(image)


def check_jpeg(path, expected):
    error = np.abs(opened(path, "RGB").astype(int) - expected)
    assert error.mean() < 2.5 and error.max() < 40


def check_ids(path, room, ids):
    """The label map holds `ids[name]` where the room has the class `name`."""
    stored = opened(path, "L")
    for number, name in enumerate(CLASSES):
        assert np.all(stored[room.label == number] == ids[name]), name


def files(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes each layout once, when it is first asked for."""
    roots = {}

    def root(layout):
        if layout not in roots:
            folder = tmp_path_factory.mktemp("layouts") / layout
            roots[layout] = write_layout(layout, folder, train=2, validation=2)
        return roots[layout]

    return root


def test_rooms_are_drawn_small_and_enlarged():
    sizes = ((30, 40), (375, 500))
    small, large = Drawing("validation", 2, sizes, seed=3)
    expected = Rooms(split="validation", size=(30, 40), length=1, seed=3)[0]
    coarse = Rooms(split="validation", size=(188, 250), length=2, seed=3)[1]
    for key in ("image", "depth", "label"):
        np.testing.assert_array_equal(getattr(small, key), expected[key])
        repeated = coarse[key].repeat(2, axis=0).repeat(2, axis=1)[:375, :500]
        np.testing.assert_array_equal(getattr(large, key), repeated)


def test_ade20k(written):
    root = written("ade20k") / "ADEChallengeData2016"
    stems = {f"{k}/ADE_{s}_0000000{n}" for k, s in (("training", "train"), ("validation", "val"))
             for n in (1, 2)}  # fmt: skip
    assert files(root) == {
        *(f"images/{stem}.jpg" for stem in stems),
        *(f"annotations/{stem}.png" for stem in stems),
        "objectInfo150.txt",
        "sceneCategories.txt",
    }
    rows = [line.split("\t") for line in (root / "objectInfo150.txt").read_text().splitlines()]
    assert rows[0] == ["Idx", "Ratio", "Train", "Val", "Name"]
    assert [row[0] for row in rows[1:]] == [str(k) for k in range(1, 151)]
    idx = {row[4].split(",")[0].strip(): int(row[0]) for row in rows[1:]} | {None: 0}
    seen = {}
    for folder, split in (("training", "train"), ("validation", "validation")):
        for number, room in enumerate(drawn("ade20k", split), start=1):
            stem = f"{folder}/ADE_{split[:3] if split != 'train' else 'train'}_{number:08d}"
            check_jpeg(root / f"images/{stem}.jpg", room.image)
            ids = {name: idx[ADE20K[name]] for name in CLASSES}
            check_ids(root / f"annotations/{stem}.png", room, ids)
            for k in np.unique(room.label):
                name = ADE20K[CLASSES[k]]
                seen[name, folder] = seen.get((name, folder), 0) + 1
    for row in rows[1:]:
        name = row[4].split(",")[0].strip()
        assert (int(row[2]), int(row[3])) == (
            seen.get((name, "training"), 0),
            seen.get((name, "validation"), 0),
        )
    scenes = [line.split() for line in (root / "sceneCategories.txt").read_text().splitlines()]
    assert {stem for stem, _ in scenes} == {stem.split("/")[1] for stem in stems}


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"needs {SAMPLE}")
def test_ade20k_names_are_the_original_ones(written):
    ours, original = (
        [line.split("\t") for line in (root / "objectInfo150.txt").read_text().splitlines()]
        for root in (written("ade20k") / "ADEChallengeData2016", SAMPLE)
    )
    assert ours[0] == original[0] and len(ours) == len(original)
    for row, expected in zip(ours[1:], original[1:], strict=True):
        assert int(row[0]) == int(expected[0])
        assert row[4].split(",")[0].strip() == expected[4].split(",")[0].strip()
        if row[4].split(",")[0].strip() in ADE20K.values():
            assert row[4] == expected[4], "synonyms and blanks of the rooms' classes"


def check_holes(stored, depth, unit):
    """uint16 depth: the room's, rounded down, or 0 in patches and beyond ten metres."""
    assert stored.dtype == np.uint16 and np.all(stored[depth >= 10] == 0)
    hole = stored == 0
    assert 0.005 < hole[depth < 10].mean() < 0.2
    difference = depth[~hole] - stored[~hole] * unit
    assert difference.min() > -1e-5 and difference.max() < unit + 1e-5


def test_nyuv2(written):
    root = written("nyuv2")
    train = (root / "nyudepthv2_train_files_with_gt.txt").read_text().split("\n")
    test = (root / "nyudepthv2_test_files_with_gt.txt").read_text().split("\n")
    assert train.pop() == test.pop() == ""
    assert train[0] == "/bedroom_0001/rgb_00000.jpg /bedroom_0001/sync_depth_00000.png 518.8579"
    assert test[1] == "living_room/rgb_00001.jpg living_room/sync_depth_00001.png 518.8579"
    assert len(train) == len(test) == 2 and len(files(root)) == 2 + 8
    for folder, lines, split in (("sync", train, "train"),
                                 ("official_splits/test", test, "validation")):  # fmt: skip
        for line, room in zip(lines, drawn("nyuv2", split), strict=True):
            rgb, depth = (root / folder / part.lstrip("/") for part in line.split()[:2])
            assert room.image.shape == (480, 640, 3)
            check_holes(opened(depth, "I;16"), room.depth, 1e-3)
            if split == "validation":
                frame = np.ones((480, 640), bool)
                frame[7:474, 7:632] = False
                room.image[frame] = 0
                # Black up to the ringing of JPEG blocks that hold some of the picture.
                assert opened(rgb, "RGB")[480 - 5 :].max() < 16
            check_jpeg(rgb, room.image)


def test_nyuv2_mat(written):
    h5py = pytest.importorskip("h5py")
    from scipy.io import loadmat

    root = written("nyuv2_mat")
    assert files(root) == {"nyu_depth_v2_labeled.mat", "splits.mat"}
    splits = {key: value for key, value in loadmat(root / "splits.mat").items() if key[0] != "_"}
    assert {k: (v.dtype.name, v.shape) for k, v in splits.items()} == {
        "trainNdxs": ("uint16", (2, 1)),
        "testNdxs": ("uint16", (2, 1)),
    }
    order = np.concatenate([splits["trainNdxs"], splits["testNdxs"]]).ravel().tolist()
    assert sorted(order) == [1, 2, 3, 4] and sorted(order) != order
    path = root / "nyu_depth_v2_labeled.mat"
    assert path.read_bytes()[:19] == b"MATLAB 7.3 MAT-file"
    with pytest.raises(NotImplementedError):  # SciPy takes it for MATLAB 7.3 and declines.
        loadmat(path)
    with h5py.File(path) as file:
        assert {k: (v.dtype.name, v.shape) for k, v in file.items()} == {
            "images": ("uint8", (4, 3, 640, 480)),
            "depths": ("float32", (4, 640, 480)),
            "rawDepths": ("float32", (4, 640, 480)),
            "labels": ("uint16", (4, 640, 480)),
        }
        rooms = drawn("nyuv2_mat", "train") + drawn("nyuv2_mat", "validation")
        for one_based, room in zip(order, rooms, strict=True):
            image, depth, raw, label = (
                file[key][one_based - 1] for key in ("images", "depths", "rawDepths", "labels")
            )
            room.image[:7] = room.image[474:] = room.image[:, :7] = room.image[:, 632:] = 255
            np.testing.assert_array_equal(image.transpose(2, 1, 0), room.image)
            np.testing.assert_array_equal(depth.T, room.depth)
            np.testing.assert_array_equal(label.T, room.label + 1)
            measured = raw.T > 0
            np.testing.assert_array_equal(raw.T[measured], room.depth[measured])
            assert np.array_equal(measured & (room.depth < 10), measured)
            assert 0.005 < np.mean(~measured[room.depth < 10]) < 0.2


def test_kitti(written):
    root = written("kitti")
    train = (root / "kitti_eigen_train_files_with_gt.txt").read_text().splitlines()
    test = (root / "kitti_eigen_test_files_with_gt.txt").read_text().splitlines()
    assert train[0] == (
        "2011_09_26/2011_09_26_drive_0005_sync/image_02/data/0000000005.png "
        "2011_09_26_drive_0005_sync/proj_depth/groundtruth/image_02/0000000005.png 721.5377"
    )
    bare = [line for line in test if line.split()[1] == "None"]
    assert len(train) == 2 and len(test) == 3 and len(bare) == 1
    assert (root / "raw" / bare[0].split()[0]).is_file()
    test.remove(bare[0])
    levels, shapes = [], set()
    for lines, split in ((train, "train"), (test, "validation")):
        for line, room in zip(lines, drawn("kitti", split), strict=True):
            image, depth, focal = line.split()
            np.testing.assert_array_equal(opened(root / "raw" / image, "RGB"), room.image)
            (path,) = (root / "data_depth_annotated").glob(f"*/{depth}")
            levels.append((split, path.relative_to(root).parts[1]))
            stored = opened(path, "I;16")
            valid = stored > 0
            assert 0.75 < np.mean(~valid) < 0.85 and not valid[: len(valid) // 4].any()
            np.testing.assert_allclose(stored[valid] / 256, room.depth[valid], atol=0.5 / 256)
            lines_of_date = (root / "raw" / image[:10] / "calib_cam_to_cam.txt").read_text()
            calibration = dict(text.split(": ") for text in lines_of_date.splitlines())
            assert calibration["P_rect_02"].count(" ") == 11
            projection = np.array(calibration["P_rect_02"].split(), float).reshape(3, 4)
            assert projection[0, 0] == projection[1, 1] == float(focal)
            width, height = np.array(calibration["S_rect_02"].split(), float).astype(int)
            assert (height, width) == stored.shape
            assert abs(projection[0, 2] - width / 2) < 20 and abs(projection[1, 2] - 180) < 10
            shapes.add(stored.shape)
    assert len(set(levels)) == 4, "ground truth of both lists lies under train/ and under val/"
    assert shapes == {(375, 1242), (370, 1226)}


def test_pascal_context(written):
    root = written("pascal_context") / "VOCdevkit/VOC2010"
    folder = root / "ImageSets/SegmentationContext"
    lists = [(folder / f"{name}.txt").read_text() for name in ("train", "val")]
    assert lists == ["2008_000001\n2008_000002\n", "2008_000003\n2008_000004\n"]
    stems = "".join(lists).split()
    pictures = {path.stem for path in (root / "JPEGImages").iterdir()}
    assert pictures > set(stems), "JPEGImages holds pictures that are in no list"
    assert len(PASCAL_CONTEXT_NAMES) == 60
    ids = {name: PASCAL_CONTEXT_NAMES.index(PASCAL_CONTEXT[name]) for name in CLASSES}
    rooms = drawn("pascal_context", "train") + drawn("pascal_context", "validation")
    for stem, room in zip(stems, rooms, strict=True):
        check_jpeg(root / f"JPEGImages/{stem}.jpg", room.image)
        check_ids(root / f"SegmentationClassContext/{stem}.png", room, ids)


def test_cityscapes(written):
    root = written("cityscapes")
    assert len(CITYSCAPES_NAMES) == 34
    ids = {name: CITYSCAPES_NAMES.index(CITYSCAPES[name]) for name in CLASSES}
    folders = {"train": ["aachen", "bochum"], "val": ["frankfurt", "munster"]}
    for folder, split in (("train", "train"), ("val", "validation")):
        for city, room in zip(folders[folder], drawn("cityscapes", split), strict=True):
            frame = f"{folder}/{city}/{city}_000000_000019"
            image = opened(root / f"leftImg8bit/{frame}_leftImg8bit.png", "RGB")
            np.testing.assert_array_equal(image, room.image)
            truth = root / f"gtFine/{frame}_gtFine"
            check_ids(Path(f"{truth}_labelIds.png"), room, ids)
            instances = opened(Path(f"{truth}_instanceIds.png"), "I;16")
            labels = opened(Path(f"{truth}_labelIds.png"), "L")
            things = labels >= CITYSCAPES_NAMES.index("person")
            np.testing.assert_array_equal(instances[~things], labels[~things])
            np.testing.assert_array_equal(instances[things] // 1000, labels[things])
            color = opened(Path(f"{truth}_color.png"), "RGBA")
            np.testing.assert_array_equal(color[..., :3], PALETTE[room.label])
    assert len(files(root)) == 4 * 4


def test_folder_depth(written):
    root = written("folder_depth")
    assert json.loads((root / "dataset.json").read_text()) == {
        "depth_unit": "millimetre",
        "depth_scale": 1.0,
        "manifest": "pairs.csv",
    }
    rooms = drawn("folder_depth", "train") + drawn("folder_depth", "validation")
    for number, room in enumerate(rooms, start=1):
        check_jpeg(root / f"images/room_{number:05d}.jpg", room.image)
        check_holes(opened(root / f"depth/room_{number:05d}.png", "I;16"), room.depth, 1e-3)
    assert (root / "pairs.csv").read_text().split() == [
        "image,depth,split",
        "images/room_00001.jpg,depth/room_00001.png,train",
        "images/room_00002.jpg,depth/room_00002.png,train",
        "images/room_00003.jpg,depth/room_00003.png,validation",
        "images/room_00004.jpg,depth/room_00004.png,validation",
    ]
    assert len(files(root)) == 10


def test_folder_masks(written):
    root = written("folder_masks")
    assert json.loads((root / "dataset.json").read_text()) == {
        "classes": list(CLASSES),
        "ignore": [255],
        "validation": {"list": "validation.txt"},
    }
    assert (root / "validation.txt").read_text() == "room_00003\nroom_00004\n"
    rooms = drawn("folder_masks", "train") + drawn("folder_masks", "validation")
    for number, room in enumerate(rooms, start=1):
        check_jpeg(root / f"images/room_{number:05d}.jpg", room.image)
        mask = opened(root / f"masks/room_{number:05d}.png", "L")
        np.testing.assert_array_equal(mask[1:-1, 1:-1], room.label[1:-1, 1:-1])
        inside = np.pad(np.ones((478, 638), bool), 1)
        assert np.all(mask[~inside] == 255)
    assert len(files(root)) == 10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_a_function_of_the_arguments(layout, tmp_path):
    if layout == "nyuv2_mat":
        pytest.importorskip("h5py")
    size = (24, 32) if LAYOUTS[layout].resizable else None

    def contents(name, seed):
        root = tmp_path / name
        write_layout(layout, root, train=1, validation=1, size=size, seed=seed)
        return {name: (root / name).read_bytes() for name in files(root)}

    first = contents("first", 5)
    assert first == contents("again", 5)
    if size:
        other = contents("other", 6)
        assert other.keys() == first.keys() and other != first
    for path in (tmp_path / "first").rglob("*.png"):
        with Image.open(path) as image:
            assert size is None or image.size == (32, 24)


def test_a_folder_in_use_and_bad_numbers_are_refused(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(DatasetError, match="is not empty"):
        write_layout("ade20k", tmp_path, train=1, validation=1)
    with pytest.raises(DatasetError, match="is a file"):
        write_layout("ade20k", tmp_path / "kept.txt", train=1, validation=1)
    new = tmp_path / "new"
    for name, arguments, message in (
        ("ade20K", {}, r"no layout 'ade20K'; did you mean 'ade20k'\? There are ade20k, nyuv2, "),
        ("ade20k", {"train": 0}, "at least one example in each split, not train=0"),
        ("ade20k", {"validation": 0}, "at least one example in each split"),
        ("ade20k", {"seed": -1}, "a seed of 0 or more, not -1"),
        ("ade20k", {"size": (15, 64)}, "at least 16 x 16 pixels, not 15 x 64"),
        ("kitti", {"size": (352, 1216)}, "kitti are 375 x 1242 and 370 x 1226"),
        ("nyuv2", {"size": (24, 32)}, "nyuv2 are 480 x 640"),
    ):
        with pytest.raises(DatasetError, match=message):
            write_layout(name, new, **{"train": 1, "validation": 1, **arguments})
    assert files(tmp_path) == {"kept.txt"} and not new.exists()


def test_the_mat_file_asks_for_its_package(tmp_path, monkeypatch):
    def without_h5py(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(DatasetError, match="pip install h5py"):
        write_layout("nyuv2_mat", tmp_path / "new", train=1, validation=1)
    assert not (tmp_path / "new").exists()
