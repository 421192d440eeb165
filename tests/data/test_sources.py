# SPDX-License-Identifier: Apache-2.0
"""Reading data sets from disk: what is right is read right, what is wrong is named."""

import functools
import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.sources import ADE20K, RGBD, DatasetError, Rooms, build_source
from dpt_jax.data.sources.ade20k import PALETTE
from dpt_jax.data.sources.base import read_depth16, read_ids, read_rgb

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
SIZE = (6, 9)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def rgb(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


# --- ADE20K


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
def test_ade20k_is_read(tmp_path, nested):
    ade(tmp_path / "ADEChallengeData2016" if nested else tmp_path)
    source = ADE20K(root=str(tmp_path), split="train")
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


def test_the_palette_is_that_of_the_benchmark():
    digest = "ce475c9151035eff51f4cf27fd7d906959b1480f6d15b9423ae2417c1b23a0ed"
    assert hashlib.sha256(PALETTE.tobytes()).hexdigest() == digest
    assert PALETTE[0].tolist() == [120, 120, 120] and PALETTE[-1].tolist() == [92, 0, 255]


def test_splits_are_told_apart(tmp_path):
    ade(tmp_path)
    ade(tmp_path, "validation", "val", count=2)
    assert len(ADE20K(root=str(tmp_path), split="train")) == 3
    source = ADE20K(root=str(tmp_path), split="validation")
    assert len(source) == 2 and source.name(1) == "validation/ADE_val_00000002.png"


def rename(path, to):
    path.rename(path.with_name(to))


def remove_all(folder):
    for path in folder.iterdir():
        path.unlink()


FIRST = "ADE_train_00000001.png"
BROKEN_ADE = {
    "no-images": (lambda r: rename(r / "images", "pictures"), "images/training"),
    "no-split": (lambda r: rename(r / "images" / "training", "x"), "images/training"),
    "no-annotations": (lambda r: rename(r / "annotations", "x"), "annotations/training"),
    "empty-split": (lambda r: remove_all(r / "images" / "training"), "images/training"),
    "image-without-label": (
        lambda r: (r / "annotations" / "training" / FIRST).unlink(),
        FIRST,
    ),
    "no-names": (lambda r: (r / "objectInfo150.txt").unlink(), "objectInfo150.txt"),
    "149-names": (
        lambda r: (r / "objectInfo150.txt").write_text("Idx\tName\n" + "1\tx\n" * 149),
        "objectInfo150.txt names 149",
    ),
}


@pytest.mark.parametrize(("breaks", "message"), BROKEN_ADE.values(), ids=BROKEN_ADE)
def test_a_wrong_ade20k_is_refused_at_once(tmp_path, breaks, message):
    breaks(ade(tmp_path))
    with pytest.raises(DatasetError, match=re.escape(message)):
        ADE20K(root=str(tmp_path), split="train")


def test_ade20k_without_a_folder_or_with_an_unknown_split(tmp_path):
    for root in (None, ""):
        with pytest.raises(DatasetError, match=r"config\.data\.root"):
            ADE20K(root=root, split="train")
    with pytest.raises(DatasetError, match="nowhere"):
        ADE20K(root=str(tmp_path / "nowhere"), split="train")
    with pytest.raises(DatasetError, match="'test'"):
        ADE20K(root=str(ade(tmp_path)), split="test")


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def label(array, **options):
    return lambda root: save(root / "annotations" / "training" / FIRST, array, **options)


IMAGE, ANNOTATION = f"images/training/{FIRST}", f"annotations/training/{FIRST}"
BROKEN_ON_ACCESS = {
    "label-151": (label(np.full(SIZE, 151, np.uint8)), f"{ANNOTATION} holds label 151"),
    "label-255": (label(np.full(SIZE, 255, np.uint8)), f"{ANNOTATION} holds label 255"),
    "rgb-label": (label(rgb()), ANNOTATION),
    "16-bit-label": (label(np.ones(SIZE, np.uint16)), ANNOTATION),
    "1-bit-label": (label(np.ones(SIZE, bool)), ANNOTATION),
    "sizes": (label(np.ones((6, 8), np.uint8)), ANNOTATION),
    "transposed": (label(np.ones(SIZE[::-1], np.uint8)), ANNOTATION),
    "truncated-label": (lambda r: cut(r / ANNOTATION), ANNOTATION),
    "truncated-image": (lambda r: cut(r / IMAGE), IMAGE),
    "empty-label": (lambda r: (r / ANNOTATION).write_bytes(b""), ANNOTATION),
    "empty-image": (lambda r: (r / IMAGE).write_bytes(b""), IMAGE),
    "text": (lambda r: (r / IMAGE).write_text("<html>404</html>"), IMAGE),
    "gone": (lambda r: (r / IMAGE).unlink(), IMAGE),
}


@pytest.mark.parametrize(("breaks", "message"), BROKEN_ON_ACCESS.values(), ids=BROKEN_ON_ACCESS)
def test_a_wrong_file_of_ade20k_is_named(tmp_path, breaks, message):
    source = ADE20K(root=str(ade(tmp_path)), split="train")
    breaks(tmp_path)
    with pytest.raises(DatasetError, match=re.escape(message)):
        source[0]
    assert source[1]["label"].shape == SIZE


def test_truncated_jpegs_are_refused(tmp_path):
    path = tmp_path / "x.jpg"
    save(path, rgb(size=(64, 64)))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DatasetError, match=re.escape(str(path))):
        read_rgb(path)


# --- Files


def test_images_of_other_modes_become_rgb(tmp_path):
    grey = rgb()[..., 0]
    save(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), np.stack([grey] * 3, -1))
    alpha = np.concatenate([rgb(), grey[..., None]], -1)
    save(tmp_path / "alpha.png", alpha)
    np.testing.assert_array_equal(read_rgb(tmp_path / "alpha.png"), rgb())
    # EXIF orientation 6 would turn the picture.
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "turned.png", rgb(), exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "turned.png"), rgb())


def test_palette_images_give_their_indices(tmp_path):
    ids = np.arange(54, dtype=np.uint8).reshape(SIZE)
    image = Image.fromarray(ids).convert("L")
    image.putpalette(rgb(size=(16, 16)).tobytes())
    assert image.mode == "P"
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "p.png"), ids)


def test_label_maps_of_four_bits_are_refused_or_read_right(tmp_path):
    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 4, 1, 4, 0, 0, 0, 0)  # 4 x 1 pixels of 4 grey bits
    pixels = zlib.compress(b"\x00\x01\x23")
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path = tmp_path / "four.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    try:
        got = read_ids(path)
    except DatasetError as error:
        assert "four.png" in str(error)
    else:
        np.testing.assert_array_equal(got, [[0, 1, 2, 3]])


def test_depth_is_stored_times_scale(tmp_path):
    stored = np.array([[0, 1, 256], [1000, 40000, 65535]], np.uint16)
    save(tmp_path / "d.png", stored)
    for scale in (0.001, 1 / 256, 2.0):
        got = read_depth16(tmp_path / "d.png", scale)
        assert got.dtype == np.float32 and got[0, 0] == 0
        np.testing.assert_allclose(got, stored.astype(float) * scale, rtol=1e-6)


# --- RGB-D


def values(i):
    stored = np.arange(54, dtype=np.uint16).reshape(SIZE) * 1000 + np.uint16(i)
    stored[0, 0] = 0
    return stored


MANIFEST = {
    "depth_unit": "metre",
    "depth_scale": 0.001,
    "splits": {
        "train": {"pairs": [["rgb/0.png", "depth/0.png"], ["rgb/1.png", "depth/1.png"]]},
        "validation": {"root": "val/sub", "list": "lists/val.txt"},
    },
}


def rgbd(root, manifest=None):
    for i in range(2):
        for folder in (root, root / "val" / "sub"):
            save(folder / "rgb" / f"{i}.png", rgb(i))
            save(folder / "depth" / f"{i}.png", values(i))
    (root / "lists").mkdir()
    # BTS's lists: a leading slash at times, the focal length, blank lines.
    (root / "lists" / "val.txt").write_text(
        "/rgb/1.png /depth/1.png 518.8\n\nrgb/0.png depth/0.png 518.8\n"
    )
    (root / "manifest.json").write_text(json.dumps(manifest or MANIFEST))
    return root


@pytest.mark.parametrize(
    ("unit", "scale", "metres"),
    [
        ("metre", 0.001, 0.001),
        ("metre", 1 / 256, 1 / 256),
        ("centimetre", 1, 0.01),
        ("centimetre", 0.5, 0.005),
        ("millimetre", 1, 0.001),
    ],
)
def test_rgbd_is_read_in_metres(tmp_path, unit, scale, metres):
    rgbd(tmp_path, MANIFEST | {"depth_unit": unit, "depth_scale": scale})
    source = RGBD(root=str(tmp_path), manifest=None, split="train")
    assert len(source) == 2 and source.classes == () and len(source.palette) == 0
    for i in range(2):
        example = source[i]
        assert set(example) == {"image", "depth"}
        assert example["depth"].dtype == np.float32 and example["depth"][0, 0] == 0
        np.testing.assert_array_equal(example["image"], rgb(i))
        np.testing.assert_allclose(example["depth"], values(i) * metres, rtol=1e-6)
        assert source.name(i) == f"rgb/{i}.png"


def test_rgbd_lists_and_roots(tmp_path):
    rgbd(tmp_path / "data")
    other = tmp_path / "else.json"
    other.write_text(json.dumps(MANIFEST))
    for arguments in (
        {"root": str(tmp_path / "data"), "manifest": None},
        {"root": str(tmp_path / "data"), "manifest": str(other)},
        {"root": None, "manifest": str(tmp_path / "data" / "manifest.json")},
    ):
        source = RGBD(**arguments, split="validation")
        assert [source.name(i) for i in range(2)] == ["val/sub/rgb/1.png", "val/sub/rgb/0.png"]
        np.testing.assert_array_equal(source[0]["image"], rgb(1))


def without(key):
    return {k: v for k, v in MANIFEST.items() if k != key}


def training(**split):
    return MANIFEST | {"splits": {"train": split}}


def one_pair(*row):
    return training(pairs=[list(row)])


MANIFEST_FILE = "manifest.json"
WRONG_MANIFESTS = {
    "not-json": ("{'depth_unit': 1", MANIFEST_FILE),
    "empty": ("", MANIFEST_FILE),
    "not-an-object": ([1, 2], f"{MANIFEST_FILE} must hold a JSON object"),
    "no-unit": (without("depth_unit"), "'depth_unit'"),
    "no-scale": (without("depth_scale"), "'depth_scale'"),
    "no-splits": (without("splits"), "'splits'"),
    "unknown-key": (MANIFEST | {"depth_units": 1}, "'depth_units'; did you mean 'depth_unit'"),
    "unknown-origin": (MANIFEST | {"orign": "x"}, "'orign'; did you mean 'origin'"),
    "unit-inch": (MANIFEST | {"depth_unit": "inch"}, "depth_unit 'inch'"),
    "unit-none": (MANIFEST | {"depth_unit": None}, "depth_unit None"),
    **{
        f"scale-{scale!r}": (MANIFEST | {"depth_scale": scale}, "depth_scale")
        for scale in (0, -0.001, True, False, "0.001", None, [0.001], float("nan"), float("inf"))
    },
    "splits-is-a-list": (MANIFEST | {"splits": ["train"]}, "splits"),
    "no-such-split": (MANIFEST | {"splits": {"valid": {}}}, "'train'"),
    "split-is-a-list": (MANIFEST | {"splits": {"train": []}}, "'train'"),
    "pairs-and-list": (training(pairs=[["a", "b"]], list="lists/val.txt"), "'pairs' or 'list'"),
    "neither": (training(root="val"), "'pairs' or 'list'"),
    "empty-pairs": (training(pairs=[]), "'train' is empty"),
    "three-paths": (one_pair("rgb/0.png", "depth/0.png", "x"), "entry 1"),
    "one-path": (one_pair("rgb/0.png"), "entry 1"),
    "numbers": (one_pair(1, 2), "entry 1"),
    "no-depth": (one_pair("rgb/0.png", "None"), "rgb/0.png"),
    "up": (one_pair("../rgb/0.png", "depth/0.png"), "../rgb/0.png"),
    "up-inside": (one_pair("rgb/0.png", "x/../../0.png"), "x/../../0.png"),
    "up-root": (training(root="../x", pairs=[["a", "b"]]), "../x"),
    "up-list": (training(list="../list.txt"), "../list.txt"),
    "missing-list": (training(list="lists/train.txt"), "lists/train.txt"),
    "missing-image": (one_pair("rgb/7.png", "depth/0.png"), "rgb/7.png"),
    "missing-depth": (one_pair("rgb/0.png", "depth/7.png"), "depth/7.png"),
}
# What the docstring calls "a wrong key", too, but for a type that the reader does not expect.
WRONG_TYPES = {
    "unit-is-a-list": (MANIFEST | {"depth_unit": ["metre"]}, "depth_unit"),
    "list-is-a-number": (training(list=3), "list"),
    "root-is-a-number": (training(root=3, pairs=[["rgb/0.png", "depth/0.png"]]), "root"),
    "root-is-null": (training(root=None, pairs=[["rgb/0.png", "depth/0.png"]]), "root"),
    "pairs-is-null": (training(pairs=None), "pairs"),
    "pairs-is-a-number": (training(pairs=3), "pairs"),
    "unknown-key-of-a-split": (
        training(rooot="val/sub", pairs=[["rgb/0.png", "depth/0.png"]]),
        "rooot",
    ),
}


def check_refused(tmp_path, content, message):
    rgbd(tmp_path)
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DatasetError, match=re.escape(message)):
        RGBD(root=str(tmp_path), manifest=None, split="train")


@pytest.mark.parametrize(("content", "message"), WRONG_MANIFESTS.values(), ids=WRONG_MANIFESTS)
def test_a_wrong_manifest_is_refused(tmp_path, content, message):
    check_refused(tmp_path, content, message)


@pytest.mark.parametrize(("content", "message"), WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_a_value_of_a_wrong_type_is_refused(tmp_path, content, message):
    check_refused(tmp_path, content, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists/val.txt"),
        ("\n \n", "lists/val.txt"),
        ("rgb/0.png depth/0.png\nrgb/1.png\n", "lists/val.txt, entry 2"),
        ("rgb/0.png None 721.5\n", "lists/val.txt, entry 1 (rgb/0.png)"),
        ("rgb/0.png ../../depth/0.png\n", "../../depth/0.png"),
        ("rgb/0.png depth/9.png\n", "depth/9.png"),
        pytest.param(b"\xff\xfe\x00r\n", "lists/val.txt", id="not-utf-8"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, text, message):
    rgbd(tmp_path)
    (tmp_path / "lists" / "val.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError, match=re.escape(message)):
        RGBD(root=str(tmp_path), manifest=None, split="validation")


def test_missing_folders_and_manifests(tmp_path):
    with pytest.raises(DatasetError, match="manifest"):
        RGBD(root=None, manifest=None, split="train")
    with pytest.raises(DatasetError, match=r"nowhere.manifest\.json"):
        RGBD(root=str(tmp_path / "nowhere"), manifest=None, split="train")
    with pytest.raises(DatasetError, match=r"nothing\.json"):
        RGBD(root=str(tmp_path), manifest=str(tmp_path / "nothing.json"), split="train")
    rgbd(tmp_path, MANIFEST | {"origin": "get it at the corner"})
    manifest = str(tmp_path / "manifest.json")
    with pytest.raises(DatasetError, match=r"nowhere.*get it at the corner"):
        RGBD(root=str(tmp_path / "nowhere"), manifest=manifest, split="train")


RGBD_ON_ACCESS = {
    "8-bit": (lambda p: save(p, np.ones(SIZE, np.uint8)), "depth/0.png has mode L"),
    "rgb": (lambda p: save(p, rgb()), "depth/0.png has mode RGB"),
    "sizes": (lambda p: save(p, np.ones((6, 8), np.uint16)), "depth/0.png"),
    "truncated": (cut, "depth/0.png"),
    "empty": (lambda p: p.write_bytes(b""), "depth/0.png"),
    "gone": (lambda p: p.unlink(), "depth/0.png"),
}


@pytest.mark.parametrize(("breaks", "message"), RGBD_ON_ACCESS.values(), ids=RGBD_ON_ACCESS)
def test_a_wrong_depth_map_is_named(tmp_path, breaks, message):
    source = RGBD(root=str(rgbd(tmp_path)), manifest=None, split="train")
    breaks(tmp_path / "depth" / "0.png")
    with pytest.raises(DatasetError, match=re.escape(message)):
        source[0]


# --- The door, and real data


def test_build_source(tmp_path):
    config = {
        "root": str(tmp_path),
        "manifest": None,
        "rooms": {"size": [16, 20], "train_length": 5, "validation_length": 3, "seed": 1},
    }
    rooms = build_source(config | {"source": "rooms"}, "validation")
    assert isinstance(rooms, Rooms) and len(rooms) == 3 and rooms[0]["depth"].shape == (16, 20)
    assert len(build_source(config | {"source": "rooms"}, "train")) == 5
    rgbd(tmp_path)
    assert isinstance(build_source(config | {"source": "rgbd"}, "train"), RGBD)
    ade(tmp_path)
    assert isinstance(build_source(config | {"source": "ade20k"}, "train"), ADE20K)
    with pytest.raises(DatasetError, match=r"'coco'.*ade20k"):
        build_source(config | {"source": "coco"}, "train")


@functools.cache
def sample(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not next to this repository")
    return SHARED / name


def test_the_ade20k_sample_is_read():
    root = sample("ade20k_sample")
    for split in ("train", "validation"):
        source = ADE20K(root=str(root), split=split)
        assert len(source) == 3 and source.classes[:2] == ("wall", "building")
        assert source.classes[149] == "flag"
        seen = set()
        for i in range(3):
            example = source[i]
            assert example["image"].shape == (*example["label"].shape, 3)
            assert min(example["label"].shape) >= 100
            seen |= set(np.unique(example["label"]).tolist())
        assert len(seen - {255}) == 15 and max(seen - {255}) < 150


def test_the_nyuv2_sample_is_read_in_metres():
    manifest = REPOSITORY / "configs" / "manifests" / "nyuv2_sample.json"
    source = RGBD(root=str(sample("nyuv2_sample")), manifest=str(manifest), split="validation")
    assert len(source) == 3
    for i in range(3):
        example = source[i]
        assert example["image"].shape == (480, 640, 3) and example["depth"].shape == (480, 640)
        measured = example["depth"][example["depth"] > 0]
        assert measured.size > 0.3 * 480 * 640
        assert 0.3 < measured.min() and measured.max() <= 10.5 and 1 < np.median(measured) < 6
