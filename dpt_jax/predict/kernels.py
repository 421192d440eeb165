# SPDX-License-Identifier: Apache-2.0
"""Resizing images for a network and maps from it, with the kernels that checkpoints were made with.

The names say whose function it is, because "bicubic" alone is four different ones: Pillow's has
a = -0.5, widens when it shrinks (antialiasing) and rounds to 8 bits twice; OpenCV's and PyTorch's
have a = -0.75 and never widen; PyTorch's with `antialias=True` is Pillow's again, in float. On an
image that shrinks to half they are dozens of levels apart.
"""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image

PILLOW = {
    "pillow_nearest": Image.Resampling.NEAREST,
    "pillow_lanczos": Image.Resampling.LANCZOS,
    "pillow_bilinear": Image.Resampling.BILINEAR,
    "pillow_bicubic": Image.Resampling.BICUBIC,
    "pillow_box": Image.Resampling.BOX,
    "pillow_hamming": Image.Resampling.HAMMING,
}
IMAGE_KERNELS = (
    *PILLOW,
    "opencv_cubic",
    "opencv_area",
    "torch_bilinear_antialias",
    "torch_bicubic_antialias",
    "torch_bilinear_align_corners",
)
MAP_KERNELS = ("torch_bilinear", "torch_bilinear_align_corners", "torch_bicubic")

# Scores in one strip of `argmax_of_map`, at most: 64 MiB of float32.
_STRIP_VALUES = 16 * 2**20


class Window(NamedTuple):
    """Where, along one axis, the wanted samples lie in what a map covers; all in wanted samples.

    Attributes:
        offset: where the first wanted sample begins.
        extent: how many the whole map covers.
    """

    offset: float
    extent: float


class _Taps(NamedTuple):
    """A one-dimensional resize: output i is the sum over t of weights[i, t] * x[columns[i, t]]."""

    columns: np.ndarray
    weights: np.ndarray


def resize_image(levels: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
    """Resizes an image as Pillow, OpenCV or PyTorch does.

    Args:
        levels: `h w c`, uint8 or float32, both in 0..255.
        size: (height, width) of the result.
        kernel: one of `IMAGE_KERNELS`.
            `pillow_*`: `PIL.Image.resize`, which works on uint8: float levels are rounded first.
            `opencv_cubic`, `opencv_area`: `cv2.resize` of a float image; `opencv_cubic` may leave
            the range 0..255.
            `torch_*_antialias`: `torch.nn.functional.interpolate(antialias=True)`, which is
            torchvision's resize; in PyTorch's 16-bit integers where `levels` are uint8.
            `torch_bilinear_align_corners`: `interpolate(align_corners=True)` of a float image.

    Returns:
        `size[0] size[1] c`: uint8 from `pillow_*`, and from `torch_*_antialias` on uint8; else
        float32.
    """
    if kernel in PILLOW:
        return _pillow(levels, size, PILLOW[kernel])
    height, width = levels.shape[:2]
    antialias = kernel.endswith("_antialias")
    if antialias:
        taps = functools.partial(_antialias_taps, bicubic="bicubic" in kernel)
    elif kernel == "opencv_area":
        # OpenCV averages only where neither side grows, and interpolates both sides otherwise.
        taps = _area_taps if size[0] <= height and size[1] <= width else _grown_area_taps
    else:
        taps = functools.partial(_taps, kernel=kernel)
    rows, columns = taps(height, size[0]), taps(width, size[1])
    if antialias and levels.dtype == np.uint8:
        return _apply_integers(_apply_integers(levels, 1, columns), 0, rows)
    return _apply(_apply(levels, 0, rows), 1, columns)


def resize_map(
    x: np.ndarray,
    size: tuple[int, int],
    kernel: str,
    windows: tuple[Window, Window] | None = None,
) -> np.ndarray:
    """Resizes a network's output as `torch.nn.functional.interpolate` without antialiasing.

    Args:
        x: `h' w' ...`.
        size: (height, width) of the result.
        kernel: one of `MAP_KERNELS`; `torch_bicubic` has a = -0.75 and may overshoot.
        windows: the part of the map that is wanted, per axis; by default all of it.

    Returns:
        float32 `size[0] size[1] ...`.

    PyTorch and OpenCV hold coordinates in float32, this function in float64: on noise of 0..1 the
    results differ by about 1e-7 times the map's side.
    """
    rows, columns = _map_taps(x.shape, size, kernel, windows)
    return _apply(_apply(np.asarray(x, np.float32), 0, rows), 1, columns)


def argmax_of_map(
    x: np.ndarray, size: tuple[int, int], windows: tuple[Window, Window] | None = None
) -> np.ndarray:
    """`resize_map(x, size, "torch_bilinear", windows).argmax(-1)`, with little memory.

    Where the four neighbours of a sample agree on the largest, it is theirs: only the samples on
    the borders between classes are computed, in strips.

    Args:
        x: `h' w' k` with k of at most 256.
        size: (height, width) of the result.
        windows: see `resize_map`.

    Returns:
        uint8 `size[0] size[1]`; the lowest index where several are largest.
    """
    rows, columns = _map_taps(x.shape, size, "torch_bilinear", windows)
    x = np.asarray(x, np.float32)
    largest = x.argmax(-1).astype(np.uint8)
    corners = [(i, j) for i in (0, 1) for j in (0, 1)]
    result = np.empty(size, np.uint8)
    step = max(1, _STRIP_VALUES // (size[1] * x.shape[2]))
    for top in range(0, size[0], step):
        strip = slice(top, top + step)
        near = [largest[rows.columns[strip, i]][:, columns.columns[:, j]] for i, j in corners]
        result[strip] = near[0]
        r, c = np.nonzero((near[0] != near[1]) | (near[0] != near[2]) | (near[0] != near[3]))
        r += top
        scores = np.zeros((len(r), x.shape[2]), np.float32)
        for i, j in corners:
            weights = (rows.weights[r, i] * columns.weights[c, j]).astype(np.float32)
            scores += weights[:, None] * x[rows.columns[r, i], columns.columns[c, j]]
        result[r, c] = scores.argmax(-1)
    return result


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pillow's NEAREST on integer ids `h w`: no id that was not there before; the dtype is kept."""
    image = Image.fromarray(labels if labels.dtype == np.uint8 else labels.astype(np.int32))
    resized = image.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(resized).astype(labels.dtype)


def _pillow(levels: np.ndarray, size: tuple[int, int], code: Image.Resampling) -> np.ndarray:
    if levels.dtype != np.uint8:
        levels = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(levels).resize((size[1], size[0]), code))


def _map_taps(
    shape: tuple[int, ...],
    size: tuple[int, int],
    kernel: str,
    windows: tuple[Window, Window] | None,
) -> list[_Taps]:
    windows = windows or (Window(0, size[0]), Window(0, size[1]))
    return [_taps(shape[axis], size[axis], kernel, windows[axis]) for axis in (0, 1)]


def _taps(in_size: int, out_size: int, kernel: str, window: Window | None = None) -> _Taps:
    """Interpolation between 2 (bilinear) or 4 (bicubic) neighbours, borders replicated."""
    offset, extent = window or Window(0, out_size)
    target = np.arange(out_size) + offset
    if kernel.endswith("_align_corners"):
        position = target * ((in_size - 1) / (extent - 1) if extent > 1 else 0.0)
    else:
        position = (target + 0.5) * (in_size / extent) - 0.5
    base = np.floor(position)
    if "bilinear" in kernel:
        neighbours, weight = np.array([0, 1]), _triangle
    else:
        neighbours, weight = np.array([-1, 0, 1, 2]), lambda x: _cubic(x, -0.75)
    weights = weight(np.abs((position - base)[:, None] - neighbours))
    columns = np.clip(base[:, None] + neighbours, 0, in_size - 1).astype(np.intp)
    return _Taps(columns, weights)


def _antialias_taps(in_size: int, out_size: int, *, bicubic: bool) -> _Taps:
    """Pillow's and PyTorch's antialiasing: a kernel as wide as the pixels it must gather."""
    scale = in_size / out_size
    widening = max(scale, 1.0)
    support = (2 if bicubic else 1) * widening
    centre = scale * (np.arange(out_size) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(int), 0)
    last = np.minimum((centre + support + 0.5).astype(int), in_size)
    columns = first[:, None] + np.arange((last - first).max())
    distance = np.abs(columns - centre[:, None] + 0.5) / widening
    weights = _cubic(distance, -0.5) if bicubic else _triangle(distance)
    weights = np.where(columns < last[:, None], weights, 0.0)
    columns = np.minimum(columns, in_size - 1)
    return _Taps(columns, weights / weights.sum(1, keepdims=True))


def _area_taps(in_size: int, out_size: int) -> _Taps:
    """The mean over the interval that an output sample covers."""
    edges = np.arange(out_size + 1) * (in_size / out_size)
    first = np.floor(edges[:-1]).astype(int)
    columns = first[:, None] + np.arange(int(np.ceil(in_size / out_size)) + 1)
    begin = np.maximum(columns, edges[:-1, None])
    weights = np.maximum(np.minimum(columns + 1, edges[1:, None]) - begin, 0.0)
    columns = np.minimum(columns, in_size - 1)
    return _Taps(columns, weights / weights.sum(1, keepdims=True))


def _grown_area_taps(in_size: int, out_size: int) -> _Taps:
    """OpenCV's area interpolation where a side grows: constant, with ramps across pixel borders."""
    target = np.arange(out_size)
    base = np.floor(target * (in_size / out_size)).astype(int)
    t = np.maximum((target + 1) - (base + 1) * (out_size / in_size), 0.0)
    columns = np.minimum(np.stack([base, base + 1], axis=1), in_size - 1)
    return _Taps(columns, np.stack([1 - t, t], axis=1))


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - x, 0.0)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _apply(x: np.ndarray, axis: int, taps: _Taps) -> np.ndarray:
    """The resize of `x`, uint8 or float32, along one axis: float32."""
    shape = [1] * x.ndim
    shape[axis] = -1
    total = None
    weights = taps.weights.astype(np.float32)
    for column, weight in zip(taps.columns.T, weights.T, strict=True):
        term = np.take(x, column, axis) * weight.reshape(shape)
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None
    return total


def _apply_integers(x: np.ndarray, axis: int, taps: _Taps) -> np.ndarray:
    """The resize of uint8 `x` along one axis with PyTorch's 16-bit weights, rounded to uint8.

    PyTorch gives the weights as many binary digits as the largest leaves room for in an int16.
    """
    digits = 0
    while digits < 22 and int(0.5 + taps.weights.max() * 2 ** (digits + 1)) < 2**15:
        digits += 1
    weights = np.trunc(taps.weights * 2**digits + np.copysign(0.5, taps.weights)).astype(np.int32)
    shape = [1] * x.ndim
    shape[axis] = -1
    total = np.array(2 ** (digits - 1), np.int32)
    for column, weight in zip(taps.columns.T, weights.T, strict=True):
        total = total + np.take(x, column, axis) * weight.reshape(shape)
    return np.clip(total >> digits, 0, 255).astype(np.uint8)
