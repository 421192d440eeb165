# SPDX-License-Identifier: Apache-2.0
"""Files that must be refused one by one: of a data set of three examples, one has such a file."""

import io
import struct
import sys
import zlib

import numpy as np
from etils import epath
from PIL import Image

from dpt_jax.data.sources.files import FileSource, Meaning, Sample

H, W = 24, 32
BAD = 1
"""Index of the example with the bad file."""
NAMES = ("a", "b", "c")
FILES = {"image": "image/{}.jpg", "label": "label/{}.png", "depth": "depth/{}.png"}
MEANING = Meaning(
    "small",
    classes=("wall", "floor", "lamp"),
    palette=((9, 0, 0), (0, 9, 0), (0, 0, 9)),
    class_of={0: 255, 1: 0, 2: 1, 3: 2},
    metres_per_unit=0.001,
)


def save(array, kind="PNG", **options):
    """The bytes of an image file."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def colors(seed=0, size=(H, W)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def ids(size=(H, W)):
    return (np.arange(size[0] * size[1]).reshape(size) % 4).astype(np.uint8)


def millimetres(size=(H, W)):
    return (np.arange(size[0] * size[1]).reshape(size) * 9).astype(np.uint16)


def chunk(kind, data):
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(width, height, bits, color, rows):
    """A PNG of any depth; `color` 0 is grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def noisy_png(bits, color):
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    row = np.random.default_rng(0).bytes((W * bits * samples + 7) // 8)
    return png(W, H, bits, color, (b"\x00" + row) * H)


def black_png(side):
    """A small file of many black pixels."""
    return png(side, side, 8, 0, bytes((side + 1) * side))


def flipped(data, place):
    """`data` with other bits in one byte."""
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


def jpeg_of_size(width, height):
    """A JPEG whose header claims another size."""
    data = JPEG
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


class Exits:
    """Unpickling one ends the process."""

    def __reduce__(self):
        return sys.exit, ("a pickle was executed",)


def with_value(value, dtype=np.float32):
    array = np.ones((H, W), dtype)
    array[3, 5] = value
    return npy(array)


JPEG = save(colors(), "JPEG")
PROGRESSIVE = save(colors(), "JPEG", progressive=True)
COLOR_PNG, LABEL, DEPTH = save(colors()), save(ids()), save(millimetres())
DATA = LABEL.index(b"IDAT") + 4
FLOATS = npy(np.ones((H, W), np.float32))
SCAN = JPEG.index(b"\xff\xda") + 40
HTML = b"<!DOCTYPE html>\n<html><title>404 Not Found</title></html>\n"
OBJECTS = np.array([[Exits()] * W] * H, object)
GONE = None


def _array(shape, dtype):
    return npy(np.zeros(shape, dtype))


# What is tried, the file it is put in, its bytes, and words of the message beside the file's name.
CASES = [
    ("jpeg-cut-in-header", "image/b.jpg", JPEG[:200], "unreadable"),
    ("jpeg-cut-at-first-scan", "image/b.jpg", JPEG[:SCAN], "truncated"),
    ("jpeg-cut-in-the-middle", "image/b.jpg", JPEG[: len(JPEG) // 2], "truncated"),
    ("jpeg-cut-at-three-quarters", "image/b.jpg", JPEG[: len(JPEG) * 3 // 4], "truncated"),
    ("jpeg-cut-by-two-bytes", "image/b.jpg", JPEG[:-2], "truncated"),
    ("jpeg-progressive-cut", "image/b.jpg", PROGRESSIVE[: len(PROGRESSIVE) // 2], "truncated"),
    ("jpeg-ends-in-zeros", "image/b.jpg", JPEG[:SCAN] + bytes(3000), "truncated"),
    ("jpeg-of-three-bytes", "image/b.jpg", JPEG[:3], "header is damaged"),
    ("jpeg-claims-20000x20000", "image/b.jpg", jpeg_of_size(20000, 20000), "400000000 pixels"),
    ("image-empty", "image/b.jpg", b"", "0 bytes"),
    ("image-of-zeros", "image/b.jpg", bytes(5000), r"not one of JPEG, PNG.*\\x00"),
    ("image-is-text", "image/b.jpg", b"see the other folder\n", "not one of.*see the other"),
    ("image-is-html", "image/b.jpg", HTML, "not one of JPEG, PNG.*<!DOCTYPE html>"),
    ("image-is-gif", "image/b.png", save(ids(), "GIF"), "not one of JPEG, PNG.*GIF8"),
    ("image-is-tiff", "image/b.png", save(colors(), "TIFF"), "not one of JPEG, PNG"),
    ("image-is-npy", "image/b.png", npy(colors()), "not one of JPEG, PNG.*NUMPY"),
    ("image-grey-16-bit", "image/b.png", DEPTH, "16 bits.*8 bits.*depth"),
    ("image-rgb-16-bit", "image/b.png", noisy_png(16, 2), "16 bits.*8 bits"),
    ("image-rgba-16-bit", "image/b.png", noisy_png(16, 6), "16 bits.*8 bits"),
    ("image-grey-alpha-16-bit", "image/b.png", noisy_png(16, 4), "16 bits.*8 bits"),
    ("image-png-cut", "image/b.png", COLOR_PNG[: len(COLOR_PNG) // 2], "unreadable"),
    ("image-png-without-end", "image/b.png", COLOR_PNG[:-12], "unreadable"),
    ("image-png-flipped-byte", "image/b.png", flipped(COLOR_PNG, 900), "unreadable.*checksum"),
    ("image-png-claims-20000x20000", "image/b.png", png(20000, 20000, 8, 0, b""), "400000000"),
    ("image-gone", "image/b.jpg", GONE, "not found"),
    ("label-above-the-classes", "label/b.png", save(ids() + 1), r"values \[4\].*0\.\.3"),
    ("label-254", "label/b.png", save(ids() * 0 + 254), r"values \[254\].*0\.\.3"),
    ("label-255", "label/b.png", save(ids() * 0 + 255), r"values \[255\].*0\.\.3"),
    ("label-rgb", "label/b.png", COLOR_PNG, "mode RGB.*8-bit single-channel"),
    ("label-rgba", "label/b.png", noisy_png(8, 6), "mode RGBA.*8-bit single-channel"),
    ("label-grey-alpha", "label/b.png", noisy_png(8, 4), "mode LA.*8-bit single-channel"),
    ("label-1-bit", "label/b.png", noisy_png(1, 0), "1 bits.*8-bit single-channel"),
    ("label-2-bit", "label/b.png", noisy_png(2, 0), "2 bits.*8-bit single-channel"),
    ("label-4-bit", "label/b.png", noisy_png(4, 0), "4 bits.*8-bit single-channel"),
    ("label-16-bit", "label/b.png", DEPTH, "16 bits.*8-bit single-channel"),
    ("label-jpeg", "label/b.jpg", save(ids(), "JPEG"), "JPEG.*must be PNG"),
    ("label-jpeg-rgb", "label/b.jpg", JPEG, "mode RGB.*PNG"),
    ("label-gif", "label/b.png", save(ids(), "GIF"), "not one of PNG"),
    ("label-npy", "label/b.npy", npy(ids()), "not one of PNG"),
    ("label-empty", "label/b.png", b"", "0 bytes"),
    ("label-cut", "label/b.png", LABEL[:-40], "unreadable"),
    ("label-cut-in-header", "label/b.png", LABEL[:20], "unreadable.*truncated"),
    ("label-bad-header-crc", "label/b.png", flipped(LABEL, 30), "header is damaged"),
    ("label-bad-data-crc", "label/b.png", flipped(LABEL, len(LABEL) - 14), "checksum"),
    ("label-flipped-byte", "label/b.png", flipped(LABEL, DATA + 9), "unreadable.*checksum"),
    ("label-other-size", "label/b.png", save(ids((H, W + 1))), "sizes.*24 x 32.*24 x 33"),
    ("label-transposed", "label/b.png", save(ids((W, H))), "sizes.*24 x 32.*32 x 24"),
    ("label-81-million-pixels", "label/b.png", lambda: black_png(9000), "sizes.*9000 x 9000"),
    ("label-90-million-pixels", "label/b.png", png(10000, 9000, 8, 0, b""), "10000 x 9000.*limit"),
    ("depth-8-bit", "depth/b.png", save(ids()), "mode L, 8 bits.*16-bit"),
    ("depth-1-bit", "depth/b.png", noisy_png(1, 0), "1 bits.*16-bit"),
    ("depth-palette", "depth/b.png", save(Image.fromarray(ids()).convert("P")), "mode P.*16-bit"),
    ("depth-rgb", "depth/b.png", COLOR_PNG, "mode RGB.*16-bit"),
    ("depth-rgb-16-bit", "depth/b.png", noisy_png(16, 2), "mode RGB.*single-channel"),
    ("depth-jpeg", "depth/b.jpg", save(ids(), "JPEG"), "mode L.*16-bit"),
    ("depth-empty", "depth/b.png", b"", "0 bytes"),
    ("depth-cut", "depth/b.png", DEPTH[:-60], "unreadable"),
    ("depth-flipped-byte", "depth/b.png", flipped(DEPTH, len(DEPTH) // 2), "unreadable.*checksum"),
    ("depth-other-size", "depth/b.png", save(millimetres((H // 2, W))), "sizes.*12 x 32"),
    ("depth-is-csv", "depth/b.png", b"1.0,2.0\n1.5,2.5\n", "not one of PNG.*1.0,2.0"),
    ("npy-nan", "depth/b.npy", with_value(np.nan), "not a number.*holes must be 0"),
    ("npy-infinite", "depth/b.npy", with_value(np.inf), "infinite.*holes must be 0"),
    ("npy-minus-infinite", "depth/b.npy", with_value(-np.inf), "infinite"),
    ("npy-beyond-float32", "depth/b.npy", with_value(1e300, np.float64), "infinite"),
    ("npy-negative", "depth/b.npy", with_value(-0.5), r"negative depth \(-0.5\)"),
    ("npy-negative-integer", "depth/b.npy", with_value(-1, np.int16), r"negative depth \(-1\)"),
    ("npy-one-dimension", "depth/b.npy", _array(H * W, "<f4"), r"\(768,\).*\(height, width\)"),
    ("npy-three-dimensions", "depth/b.npy", _array((H, W, 1), "<f4"), r"\(24, 32, 1\)"),
    ("npy-transposed", "depth/b.npy", _array((W, H), "<f4"), "sizes.*24 x 32.*32 x 24"),
    ("npy-other-size", "depth/b.npy", _array((H, 0), "<f4"), "sizes.*24 x 0"),
    ("npy-objects", "depth/b.npy", npy(OBJECTS), "unreadable.*allow_pickle"),
    ("npy-strings", "depth/b.npy", _array((H, W), "<U3"), "type <U3.*numbers"),
    ("npy-bool", "depth/b.npy", _array((H, W), bool), "type bool.*numbers"),
    ("npy-complex", "depth/b.npy", _array((H, W), complex), "type complex128.*numbers"),
    ("npy-record", "depth/b.npy", _array((H, W), [("z", "<f4")]), "type.*numbers"),
    ("npy-8-bit", "depth/b.npy", _array((H, W), np.uint8), "type uint8.*16 bits"),
    ("npy-cut-in-header", "depth/b.npy", FLOATS[:30], "unreadable"),
    ("npy-cut-in-data", "depth/b.npy", FLOATS[:-50], "unreadable"),
    ("npy-without-data", "depth/b.npy", FLOATS[:128], "unreadable"),
    ("npz-named-npy", "depth/b.npy", b"PK\x03\x04" + bytes(200), "not one of PNG.*PK"),
]
IDS = [case[0] for case in CASES]


def samples(root, file, content):
    """Three samples with an image, a label map and depth; `file` of the second holds `content`."""
    kind = file.split("/")[0]
    whole = {"image": JPEG, "label": LABEL, "depth": DEPTH}
    made = []
    for index, name in enumerate(NAMES):
        paths = {key: root / pattern.format(name) for key, pattern in FILES.items()}
        data = dict(whole)
        if index == BAD:
            paths[kind] = root / file
            data[kind] = content() if callable(content) else content or b""
        for key, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[key])
        made.append(Sample(name, **{key: epath.Path(path) for key, path in paths.items()}))
    return made


def data_set(root, file, content):
    """A source of them; `content` None deletes the file after the source is opened."""
    source = FileSource(MEANING, samples(root, file, content), "Draw it again.")
    if content is GONE:
        (root / file).unlink()
    return source


def every_data_set(root):
    """One source of the three samples of every case; every second of three is bad."""
    together = []
    for name, file, content, _ in CASES:
        together += [
            sample._replace(name=f"{name}/{sample.name}")
            for sample in samples(root / name, file, content)
        ]
    source = FileSource(MEANING, together, "Draw them again.")
    for name, file, content, _ in CASES:
        if content is GONE:
            (root / name / file).unlink()
    return source
