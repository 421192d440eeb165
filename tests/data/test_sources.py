# SPDX-License-Identifier: Apache-2.0
"""Decoding files, and the one door to all sources."""

import io
import struct
import zlib

import numpy as np
import pytest
from ml_collections import config_flags  # noqa: F401  (configs are read as train.py reads them)
from PIL import Image

from configs import common
from dpt_jax.data.sources import DatasetError, Rooms, build_source, decode
from dpt_jax.data.sources.files import Encoded, FileSource, Meaning
from dpt_jax.data.sources.files import decode as decode_example

SIZE = (6, 9)


def encoded(array, kind="png", **options):
    stored = io.BytesIO()
    Image.fromarray(array).save(stored, kind, **options)
    return stored.getvalue()


def rgb(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


@pytest.mark.parametrize("cut", [300, 2, 1])
def test_truncated_jpegs_are_refused(cut):
    whole = encoded(rgb(size=(64, 64)), "jpeg")
    with pytest.raises(DatasetError, match=r"x\.jpg"):
        decode.rgb(whole[:-cut], "x.jpg")


def test_jpegs_decode_as_pillow_decodes_them():
    picture = np.kron(rgb(size=(8, 12)), np.ones((5, 5, 1), np.uint8))
    for array in (picture, picture[..., 0]):
        data = encoded(array, "jpeg", quality=80)
        want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode.rgb(data, "x.jpg"), want)


def test_images_of_other_modes_become_rgb():
    grey = rgb()[..., 0]
    np.testing.assert_array_equal(decode.rgb(encoded(grey), "x"), np.stack([grey] * 3, -1))
    alpha = np.concatenate([rgb(), grey[..., None]], -1)
    np.testing.assert_array_equal(decode.rgb(encoded(alpha), "x"), rgb())


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_images_are_not_turned(kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    turned, plain = encoded(rgb(), kind, exif=exif), encoded(rgb(), kind)
    np.testing.assert_array_equal(decode.rgb(turned, "x"), decode.rgb(plain, "x"))


@pytest.mark.parametrize("tag, said", [(6, True), (3, False), (None, False)])
def test_disagreeing_sizes_are_put_down_to_exif(tag, said):
    exif = Image.Exif()
    if tag is not None:
        exif[0x0112] = tag
    picture, where = encoded(rgb(), "jpeg", exif=exif), {"image": "a.jpg", "label": "a.png"}
    mask = encoded(np.zeros(SIZE[::-1], np.uint8))
    with pytest.raises(DatasetError, match=r"a\.jpg is 6 x 9, a\.png is 9 x 6") as error:
        decode_example(Encoded("a", picture, mask, where=where), Meaning("toy", class_of={0: 0}))
    assert ("EXIF" in str(error.value)) == said


def test_palette_images_give_their_indices():
    ids = np.arange(54, dtype=np.uint8).reshape(SIZE)
    image = Image.fromarray(ids).convert("L")
    image.putpalette(rgb(size=(16, 16)).tobytes())
    assert image.mode == "P"
    stored = io.BytesIO()
    image.save(stored, "png")
    np.testing.assert_array_equal(decode.ids(stored.getvalue(), "p.png"), ids)


def test_label_maps_of_four_bits_are_refused_or_read_right():
    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 4, 1, 4, 0, 0, 0, 0)  # 4 x 1 pixels of 4 grey bits
    pixels = zlib.compress(b"\x00\x01\x23")
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    try:
        got = decode.ids(b"\x89PNG\r\n\x1a\n" + parts, "four.png")
    except DatasetError as error:
        assert "four.png" in str(error)
    else:
        np.testing.assert_array_equal(got, [[0, 1, 2, 3]])


@pytest.mark.parametrize("scale", [0.001, 1 / 256, 2.0])
def test_depth_is_stored_times_scale(scale):
    stored = np.array([[0, 1, 256], [1000, 40000, 65535]], np.uint16)
    array = io.BytesIO()
    np.save(array, stored)
    for data in (encoded(stored), array.getvalue()):
        got = decode.depth(data, "d", scale)
        assert got.dtype == np.float32 and got[0, 0] == 0
        np.testing.assert_allclose(got, stored.astype(float) * scale, rtol=1e-6)


def npy(array):
    stored = io.BytesIO()
    np.save(stored, array)
    return stored.getvalue()


WRONG_DEPTH = {
    "8-bit": (encoded(np.ones(SIZE, np.uint8)), "mode L"),
    "rgb": (encoded(rgb()), "mode RGB"),
    "truncated": (encoded(np.ones(SIZE, np.uint16))[:-30], "unreadable"),
    "empty": (b"", "0 bytes"),
    "volume": (npy(np.ones((2, 3, 1), np.float32)), r"\(2, 3, 1\)"),
    "text": (npy(np.array([["a"]])), "U1"),
    "objects": (npy(np.array([["a"]], object)), "unreadable"),
    "negative": (npy(np.array([[1, -1]], np.float32)), "negative"),
    "nan": (npy(np.array([[1, np.nan]], np.float32)), "not a number"),
    "infinite": (npy(np.array([[1, np.inf]], np.float16)), "infinite"),
    "truncated-npy": (npy(np.ones(SIZE))[:-5], "unreadable"),
}


@pytest.mark.parametrize(("data", "message"), WRONG_DEPTH.values(), ids=WRONG_DEPTH)
def test_a_wrong_depth_map_is_named(data, message):
    with pytest.raises(DatasetError, match=message) as error:
        decode.depth(data, "d/7", 1.0)
    assert "d/7" in str(error.value)


def test_build_source(tmp_path):
    config = common.default().data.to_dict() | {"root": str(tmp_path)}
    config["rooms"] = {"size": [16, 20], "train_length": 5, "validation_length": 3, "seed": 1}
    rooms = build_source(config | {"source": "rooms"}, "validation")
    assert isinstance(rooms, Rooms) and len(rooms) == 3 and rooms[0]["depth"].shape == (16, 20)
    assert len(build_source(config | {"source": "rooms"}, "train")) == 5
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encoded(rgb()))
    (tmp_path / "masks" / "a.png").write_bytes(encoded(np.zeros(SIZE, np.uint8)))
    text = '{"classes": ["x"], "validation": {"same_as_train": true}}'
    (tmp_path / "dataset.json").write_text(text)
    found = build_source(config | {"source": "folder"}, "train")
    assert isinstance(found, FileSource) and found.name(0) == "images/a.png"
    with pytest.raises(DatasetError, match=r"'coco'.*ade20k"):
        build_source(config | {"source": "coco"}, "train")
    with pytest.raises(DatasetError, match="'test'"):
        build_source(config | {"source": "folder"}, "test")
    unread = config | {"source": "folder", "lists": {"train": "list.txt", "validation": None}}
    with pytest.raises(DatasetError, match=r"folder does not read --config\.data\.lists\.train"):
        build_source(unread, "train")
