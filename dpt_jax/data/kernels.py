# SPDX-License-Identifier: Apache-2.0
"""What augmentations do to pixels: resizing a window, mirroring, lookup tables, HSV.

The names of kernels say whose arithmetic it is, because "bilinear" alone is several functions:
Pillow's widens when it shrinks (antialiasing), OpenCV's never does. A resize may be asked for a
window of its result only, and then computes little more than that; the window holds the same bytes
as a full resize (Pillow's: up to one level, because Pillow rounds between rows and columns, and
which of them come first depends on sizes).

OpenCV, where installed (the extra `fast`), makes most of this faster and no byte different; only
HSV to RGB may be a level off where OpenCV is not version 5 on x86.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

try:
    import cv2  # pyright: ignore[reportMissingImports]
except ImportError:
    cv2: Any = None
else:
    # Examples are augmented in parallel; threads of its own would only compete with them.
    cv2.setNumThreads(1)

KERNELS = ("pillow_bilinear", "opencv_linear", "opencv_cubic")

# OpenCV resizes whole images only, about six times as fast per pixel as NumPy does windows.
_WHOLE_PER_WINDOW = 6


class Window(NamedTuple):
    """Rows top:bottom and columns left:right of an image, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """What cuts the window out of an array `h w ...`."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def resize_image(
    image: np.ndarray, size: tuple[int, int], kernel: str, window: Window | None = None
) -> np.ndarray:
    """Resizes an image and returns a window of the result.

    Args:
        image: uint8 `h w 3`.
        size: rows and columns of the whole result.
        kernel: `pillow_bilinear`: `PIL.Image.BILINEAR`. `opencv_linear`: `cv2.INTER_LINEAR_EXACT`,
            which is within a level of `INTER_LINEAR` and, unlike it, the same on every machine.
            `opencv_cubic`: `cv2.INTER_CUBIC` (a = -0.75, never antialiased) in float32, rounded
            once and clipped; OpenCV's own for bytes is within a level of it and differs between
            machines.
        window: of the result; None is all of it.

    Returns:
        uint8, of the window's size.
    """
    rows, columns = size
    window = window or Window(0, rows, 0, columns)
    if kernel == "pillow_bilinear":
        return _pillow_bilinear(image, size, window)
    if kernel == "opencv_cubic":
        return _opencv_cubic(image, size, window)
    if kernel != "opencv_linear":
        raise ValueError(f"kernel {kernel!r} is not one of {', '.join(KERNELS)}")
    height, width = window.bottom - window.top, window.right - window.left
    if cv2 is None or rows * columns > _WHOLE_PER_WINDOW * height * width:
        return _opencv_linear(image, size, window)
    whole = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR_EXACT)
    return whole[window.slices]


def resize_nearest(
    values: np.ndarray, size: tuple[int, int], kernel: str, window: Window | None = None
) -> np.ndarray:
    """Picks the nearest values, for labels and depth.

    Args:
        values: `h w`, of any type.
        size: rows and columns of the whole result.
        kernel: that of the image; Pillow's nearest takes the source pixel that holds the centre of
            the new one, OpenCV's `INTER_NEAREST` the one that holds its upper left corner.
        window: of the result; None is all of it.

    Returns:
        Values of the input, of the window's size.
    """
    window = window or Window(0, size[0], 0, size[1])
    nearest = _pillow_nearest if kernel.startswith("pillow") else _opencv_nearest
    rows = nearest(values.shape[0], size[0])[window.top : window.bottom]
    columns = nearest(values.shape[1], size[1])[window.left : window.right]
    return values.take(rows, axis=0).take(columns, axis=1)


def rotate_image(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates uint8 `h w 3` counterclockwise about its centre; what comes in is black.

    Bilinear between source positions rounded to 1/32 pixel: the arithmetic of OpenCV 4's
    `warpAffine`, in which OpenCV 5 computes the same only through `remap`. Pillow's `rotate` does
    not round positions, and takes four times as long.
    """
    h, w = image.shape[:2]
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    # Of the centres of new pixels, from the middle of the image, in 1/1024 pixel.
    x, y = np.arange(w) - (w - 1) / 2, np.arange(h)[:, None] - (h - 1) / 2
    columns = _fixed(cosine * x) + _fixed(-sine * y + (w - 1) / 2)
    rows = _fixed(sine * x) + _fixed(cosine * y + (h - 1) / 2)
    for place in (rows, columns):
        place += 16
        place >>= 5
    if cv2 is not None:
        whole = np.empty((h, w, 2), np.int16)
        whole[..., 0], whole[..., 1] = columns >> 5, rows >> 5
        rest = ((rows & 31) * 32 + (columns & 31)).astype(np.uint16)
        return cv2.remap(image, whole, rest, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    # Two black rows and columns all round: whatever lies further out may be anywhere in them.
    padded = np.zeros((h + 4, w + 4, 3), np.uint8)
    padded[2:-2, 2:-2] = image
    below, left = rows & 31, columns & 31
    first = (np.clip(rows >> 5, -2, h) + 2) * (w + 4) + np.clip(columns >> 5, -2, w) + 2
    flat = padded.reshape(-1, 3)
    total = np.full((h, w, 3), 512, np.int32)
    for step, weight in (
        (0, (32 - below) * (32 - left)),
        (1, (32 - below) * left),
        (w + 4, below * (32 - left)),
        (w + 5, below * left),
    ):
        total += flat.take(first + step, axis=0) * weight[..., None]
    return (total >> 10).astype(np.uint8)


def _fixed(place: np.ndarray) -> np.ndarray:
    return np.rint(place * 1024).astype(np.int32)


def mirror(values: np.ndarray) -> np.ndarray:
    """`h w` or `h w c` with left and right exchanged, as a new array."""
    if cv2 is not None:
        return cv2.flip(values, 1)
    mirrored = np.empty_like(values)
    if values.ndim == 2:
        mirrored[...] = values[:, ::-1]
    else:
        for channel in range(values.shape[2]):  # NumPy copies single values faster than triples
            mirrored[..., channel] = values[:, ::-1, channel]
    return mirrored


def lookup(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`table[level]` for each byte of `h w 3`; a table of 256 or, per channel, of 256 x 3 bytes."""
    if cv2 is not None:
        return cv2.LUT(image, table if table.ndim == 1 else table[None])
    if table.ndim == 1:
        return table.take(image)
    found = np.empty_like(image)
    for channel in range(image.shape[2]):
        found[..., channel] = table[:, channel].take(image[..., channel])
    return found


def class_counts(label: np.ndarray) -> np.ndarray:
    """How many of the bytes of `h w` are 0, 1, ... 255."""
    return np.array(Image.fromarray(label).histogram())


def rgb_to_hsv(image: np.ndarray) -> np.ndarray:
    """OpenCV's `COLOR_RGB2HSV` of bytes `h w 3`: hue 0..179 (two degrees each), S and V 0..255."""
    if cv2 is not None:
        return cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    red, green, blue = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    r, g, b, c = (channel.astype(np.int16) for channel in (red, green, blue, chroma))
    sextants = np.where(value == red, g - b, np.where(value == green, b - r + 2 * c, r - g + 4 * c))
    hue = (sextants * _PER_CHROMA.take(chroma) + 2048) >> 12
    hue += 180 * (hue < 0)
    saturation = (chroma * _PER_VALUE.take(value) + 2048) >> 12
    return np.stack([hue.astype(np.uint8), saturation.astype(np.uint8), value], axis=-1)


# OpenCV divides by multiplying with these, in fixed point of 12 bits.
_PER_VALUE = np.rint((255 << 12) / np.maximum(np.arange(256), 1)).astype(np.int32)
_PER_CHROMA = np.rint((180 << 12) / (6 * np.maximum(np.arange(256), 1))).astype(np.int32)


def hsv_to_rgb(image: np.ndarray) -> np.ndarray:
    """OpenCV's `COLOR_HSV2RGB` of bytes `h w 3`, hue 0..179."""
    if cv2 is not None:
        return cv2.cvtColor(image, cv2.COLOR_HSV2RGB)
    pair = image[..., 0] * np.uint16(256) + image[..., 1]
    value = image[..., 2, None] * np.float32(1 / 255)
    levels = _shares_of_value().take(pair, axis=0)
    levels *= value
    levels *= np.float32(255)
    # OpenCV 5 on x86 cuts off fractions in blocks of 32 columns and rounds in what is left of them.
    blocks = image.shape[1] // 32 * 32
    levels[:, blocks:] = np.rint(levels[:, blocks:])
    return levels.astype(np.uint8)


@functools.cache
def _shares_of_value() -> np.ndarray:
    """What red, green and blue are of the value: float32 (256 * hue + saturation, 3)."""
    hue = np.arange(256, dtype=np.float32)[:, None] * np.float32(6 / 180)
    saturation = np.arange(256, dtype=np.float32) * np.float32(1 / 255)
    sector = np.floor(hue)
    rest = hue - sector
    # One rounding for 1 - s * x, as by a fused multiply-add; float64 holds the product exactly.
    wide = saturation.astype(np.float64)
    full = np.ones((256, 256), np.float32)
    low = np.broadcast_to(1 - saturation, full.shape)
    falling = (1 - wide * rest).astype(np.float32)
    rising = (1 - wide * (1 - rest)).astype(np.float32)
    sectors = (
        (full, falling, low, low, rising, full),
        (rising, full, full, falling, low, low),
        (low, low, rising, full, full, falling),
    )
    which = np.broadcast_to(sector.astype(np.intp) % 6, full.shape)
    shares = [np.choose(which, options) for options in sectors]
    return np.stack(shares, axis=-1).reshape(-1, 3)


def _pillow_bilinear(image: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    high, wide = image.shape[0] / size[0], image.shape[1] / size[1]
    # Pillow takes pixels beyond the box into account, and divides box by window to find the scale.
    box = (
        window.left * wide,
        window.top * high,
        min(window.right * wide, image.shape[1]),
        min(window.bottom * high, image.shape[0]),
    )
    shape = (window.right - window.left, window.bottom - window.top)
    resized = Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def _opencv_linear(image: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    """In fixed point: 8 bits per weight and axis, nothing rounded before the end."""
    rows = _linear_taps(image.shape[0], size[0], window.top, window.bottom)
    columns = _linear_taps(image.shape[1], size[1], window.left, window.right)
    levels = _separable(image, rows, columns, np.uint16, np.uint32)
    levels += 1 << 15
    levels >>= 16
    return levels.astype(np.uint8).reshape(len(levels), -1, image.shape[2])


def _opencv_cubic(image: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    rows = _cubic_taps(image.shape[0], size[0], window.top, window.bottom)
    columns = _cubic_taps(image.shape[1], size[1], window.left, window.right)
    levels = _separable(image, rows, columns, np.float32, np.float32)
    np.clip(np.rint(levels, out=levels), 0, 255, out=levels)
    return levels.astype(np.uint8).reshape(len(levels), -1, image.shape[2])


class _Taps(NamedTuple):
    """Output i of a resize along one axis is the sum over t of weights[t, i] * x[sources[t, i]]."""

    sources: np.ndarray
    weights: np.ndarray


def _separable(
    image: np.ndarray, rows: _Taps, columns: _Taps, row_type: Any, column_type: Any
) -> np.ndarray:
    """Resizes rows, then columns, whose channels stay side by side: `h w*c` of `column_type`."""
    channels = image.shape[2]
    first = columns.sources.min()
    flat = image[:, first : columns.sources.max() + 1].reshape(len(image), -1)
    across: Any = 0
    for source, weight in zip(rows.sources, rows.weights.astype(row_type), strict=True):
        across += flat.take(source, axis=0) * weight[:, None]
    # NumPy gathers single values faster than triples.
    sources = (columns.sources - first)[..., None] * channels + np.arange(channels)
    weights = columns.weights.astype(column_type).repeat(channels, axis=1)
    both: Any = 0
    for source, weight in zip(sources.reshape(len(sources), -1), weights, strict=True):
        both += across.take(source, axis=1) * weight
    return both


def _places(n_in: int, n_out: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Source pixels below the centres of outputs first:last, and how far beyond them those are."""
    place = (np.arange(first, last) + 0.5) * (n_in / n_out) - 0.5
    below = np.floor(place)
    return below.astype(np.intp), place - below


def _linear_taps(n_in: int, n_out: int, first: int, last: int) -> _Taps:
    below, beyond = _places(n_in, n_out, first, last)
    weights = np.rint(beyond * 256)
    sources = np.clip(below + np.arange(2)[:, None], 0, n_in - 1)
    return _Taps(sources, np.stack([256 - weights, weights]))


def _cubic_taps(n_in: int, n_out: int, first: int, last: int) -> _Taps:
    a = -0.75
    below, beyond = _places(n_in, n_out, first, last)
    near = np.stack([beyond, 1 - beyond])
    far = near + 1
    near = ((a + 2) * near - (a + 3)) * near**2 + 1
    far = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    sources = np.clip(below + np.arange(-1, 3)[:, None], 0, n_in - 1)
    return _Taps(sources, np.stack([far[0], near[0], near[1], far[1]]))


def _pillow_nearest(n_in: int, n_out: int) -> np.ndarray:
    # Pillow adds up the step, and where that misses a whole number by a hair, so must this.
    steps = np.full(n_out, n_in / n_out)
    steps[0] /= 2
    return np.minimum(np.add.accumulate(steps).astype(np.intp), n_in - 1)


def _opencv_nearest(n_in: int, n_out: int) -> np.ndarray:
    return np.minimum((np.arange(n_out) * (1 / (n_out / n_in))).astype(np.intp), n_in - 1)
