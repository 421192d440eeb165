# SPDX-License-Identifier: Apache-2.0
"""Every kind of picture comes out as upright RGB, or as one clear error."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dpt_jax.predict.images import read_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
DEEP = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4)


def png16(array):
    """A PNG of 16 bits per channel, which Pillow cannot write for colour."""
    height, width, channels = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def test_a_file_a_pillow_image_and_an_array_are_the_same(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    with Image.open(path) as opened:
        for image in (path, str(path), opened, RGB):
            read = read_image(image)
            assert read.dtype == np.uint8 and read.flags.c_contiguous
            np.testing.assert_array_equal(read, RGB)


def test_what_was_read_can_be_changed_without_changing_the_source():
    for source in (RGB.copy(), Image.fromarray(RGB)):
        read_image(source)[:] = 0
        np.testing.assert_array_equal(np.asarray(source), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = RGB
    stored = {  # how a camera stores it that writes this orientation
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), upright)


def test_grey_and_one_bit():
    grey = RGB[..., 0]
    for image in (grey, grey[..., None], Image.fromarray(grey)):
        np.testing.assert_array_equal(read_image(image), np.stack([grey] * 3, -1))
    bits = read_image(Image.fromarray(grey > 100))
    np.testing.assert_array_equal(bits[..., 1], np.where(grey > 100, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "RGBX", "LA", "PA"])
def test_alpha_is_dropped(mode):
    alpha = Image.fromarray(np.full((6, 8), 128, np.uint8))
    image = Image.fromarray(RGB)
    if mode == "RGBA":
        image.putalpha(alpha)
        np.testing.assert_array_equal(read_image(image), RGB)
        np.testing.assert_array_equal(read_image(np.asarray(image)), RGB)
    elif mode == "LA":
        grey = image.convert("L")
        both = grey.copy()
        both.putalpha(alpha)
        np.testing.assert_array_equal(read_image(both), read_image(grey))
    else:
        image = Image.new(mode, (8, 6))
        assert read_image(image).shape == (6, 8, 3)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))])
def test_palettes(tmp_path, transparency):
    image = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    path = tmp_path / "a.png"
    image.save(path, **({} if transparency is None else {"transparency": transparency}))
    np.testing.assert_array_equal(read_image(path), expected)


def test_cmyk_and_others_are_converted(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((8, 8, 3), (200, 30, 60), np.uint8)).convert("CMYK").save(path)
    np.testing.assert_allclose(read_image(path)[4, 4], (200, 30, 60), atol=6)
    blue = Image.new("YCbCr", (2, 2), (29, 255, 107))
    np.testing.assert_allclose(read_image(blue)[0, 0], (0, 0, 255), atol=2)


def test_grey_of_16_bits_keeps_them(tmp_path):
    expected = np.stack([DEEP / 65535] * 3, -1)
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.tif", "d.pgm")]
    Image.fromarray(DEEP).save(paths[0])
    paths[1].write_bytes(png16(DEEP[..., None]))
    Image.fromarray(DEEP).save(paths[2])
    paths[3].write_bytes(b"P5 4 3 65535\n" + DEEP.astype(">u2").tobytes())
    for image in (*paths, DEEP, DEEP[..., None], DEEP.astype(">u2")):
        read = read_image(image)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, expected, atol=1e-7)
    # The trap: Pillow's own conversion cuts off at 255.
    with Image.open(paths[0]) as image:
        assert np.asarray(image.convert("RGB"))[0, 1, 0] == 255


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colour_of_16_bits_is_scaled_not_cut(tmp_path, channels):
    path = tmp_path / "a.png"
    path.write_bytes(png16(np.stack([DEEP] * channels, -1)))
    read = read_image(path)
    assert read.dtype == np.uint8
    np.testing.assert_allclose(read[..., 0], DEEP / 257, atol=1)
    assert read.min() == 0 and read.max() == 255


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_and_images(dtype):
    floats = np.random.default_rng(1).random((3, 4, 3)).astype(dtype)
    read = read_image(floats)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, floats.astype(np.float32))
    image = Image.fromarray(floats[..., 0].astype(np.float32))
    assert image.mode == "F"
    np.testing.assert_array_equal(read_image(image)[..., 2], floats[..., 0].astype(np.float32))


def test_rounding_beyond_the_range_is_cut():
    read = read_image(np.array([[-1e-6, 1 + 1e-6]]))
    assert read.min() == 0 and read.max() == 1


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 3), color) for color in ("red", "lime", "blue")]
    for name in ("a.gif", "a.png", "a.webp"):
        path = tmp_path / name
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        with Image.open(path) as image:
            assert image.n_frames == 3
        assert read_image(path)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB / 1.0, r"0\.\.1, got .*divide by the value of white"),
        (RGB.astype(np.float32) / 127 - 1, r"0\.\.1, got -1"),
        (np.array([[0.5, 1.01]]), r"0\.\.1, got 0\.5\.\.1\.01"),
        (np.full((2, 2, 3), np.nan), r"0\.\.1, got nan"),
        (RGB.astype(np.int64), "expected uint8, uint16 or floats of 0..1, got int64"),
        (RGB > 3, "got bool"),
        (RGB.transpose(2, 0, 1), r"channels last, got \(3, 6, 8\)"),
        (RGB[None], r"got \(1, 6, 8, 3\)"),
        (RGB[..., :2], r"got \(6, 8, 2\)"),
        (RGB[0, 0], r"got \(3,\)"),
        (RGB[:0], r"empty, \(0, 8, 3\)"),
        (Image.new("RGB", (0, 5)), "empty, 5 x 0"),
        (Image.new("I", (2, 2)), "32-bit integers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_and_images_that_are_refused(image, message):
    with pytest.raises(ValueError, match=f"image: .*{message}"):
        read_image(image)


@pytest.mark.parametrize("image", [None, 3, [1, 2], b"bytes"])
def test_other_types_are_refused(image):
    with pytest.raises(TypeError, match="expected a path, a PIL image or an array"):
        read_image(image)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png: no such image"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match=f"{tmp_path.name}: cannot be read"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("this is no image")
    with pytest.raises(ValueError, match=r"text\.png: not an image"):
        read_image(tmp_path / "text.png")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ValueError, match=r"empty\.jpg: not an image"):
        read_image(tmp_path / "empty.jpg")
    Image.fromarray(RGB).save(tmp_path / "a.eps")
    with pytest.raises(ValueError, match=r"a\.eps: EPS is a program"):
        read_image(tmp_path / "a.eps")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.tif", "a.webp", "a.bmp"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated_files_are_refused(tmp_path, name, share):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / name
    Image.fromarray(noise).save(path)
    read_image(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"{name}: (damaged|not an image|cannot be read)"):
        read_image(path)


def bomb(width, height):
    """The beginning of a PNG: its header, and pixels of which nothing follows."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + bytes(4) + b"IDAT" + bytes(4)


def test_huge_images_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(60_000, 60_000))
    with pytest.raises(ValueError, match=r"bomb\.png: .*3600000000 pixels.*MAX_IMAGE_PIXELS"):
        read_image(path)
    path.write_bytes(bomb(9_000, 9_000))
    with pytest.raises(ValueError, match=r"bomb\.png: 9000 x 9000 is 81,000,000 pixels, more than"):
        read_image(path, max_pixels=80_999_999)
    with pytest.raises(ValueError, match=r"bomb\.png: damaged"):
        read_image(path, max_pixels=81_000_000)
    with pytest.raises(ValueError, match="image: 6 x 8 is 48 pixels, more than the limit of 47"):
        read_image(Image.fromarray(RGB), max_pixels=47)
