# SPDX-License-Identifier: Apache-2.0
"""The only place that resizes tensors: PyTorch's interpolation, exactly.

Every resize of a DPT names its kernel, because the kernels are different functions: a decoder that
upsamples with `jax.image.resize` instead of `align_corners=True` is 25 % off. Here are

* `bilinear(..., align_corners=True)`: fusion and head upsampling
(`torch.nn.functional.interpolate`);
* `bilinear(..., align_corners=False)`: position embeddings of ViT-DPT, logits to label size;
* `bicubic(...)`: a = -0.75, no antialiasing (`align_corners=False`): DINOv2 position embeddings;
  with `scale` as the original DINOv2 resizes them, with `antialias` those of models with registers;
* `interpolate(...)`: any of them, and bilinear with `antialias`: TIPSv2 position embeddings.

A one-dimensional resize is a sparse matrix with at most four entries per row. It is applied as a
few gathers along the axis, and so is its transpose in the backward pass: no scatter-add, which is
slow on every backend, and no dense matrix, whose cost grows with the square of the size.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Kernel = Literal["bilinear", "bicubic"]


def resize_matrix(
    in_size: int,
    out_size: int,
    *,
    kernel: Kernel = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """The matrix of a one-dimensional resize as PyTorch does it.

    Args:
        in_size: number of input samples, at least 1.
        out_size: number of output samples, at least 1.
        kernel: "bilinear", or "bicubic" with a = -0.75 (PyTorch's and OpenCV's constant; with
            antialiasing -0.5, PyTorch's and Pillow's).
        align_corners: whether the first and last samples of input and output coincide, as opposed
            to their outer borders. Only with "bilinear".
        antialias: widen the kernel by the factor of a reduction; borders are cut off and the rest
            renormalised. Without it borders are replicated and a reduction skips samples.
        scale: output samples per input sample where that is not `out_size / in_size`: what
            `interpolate(scale_factor=...)` computes with.

    Returns:
        float64 array of shape (out_size, in_size); every row sums to 1.
    """
    if in_size < 1 or out_size < 1:
        raise ValueError(f"resize needs sizes of at least 1, got {in_size} -> {out_size}")
    target = np.arange(out_size, dtype=np.float64)
    step = in_size / out_size if scale is None else 1 / scale
    if antialias and not align_corners:
        return _antialiased_matrix(in_size, (target + 0.5) * step, max(step, 1.0), kernel)
    if align_corners:
        position = target * ((in_size - 1) / (out_size - 1) if out_size > 1 else 0.0)
    else:
        position = (target + 0.5) * step - 0.5
    if kernel == "bilinear":
        position = np.clip(position, 0, in_size - 1)
        base = np.minimum(np.floor(position), max(in_size - 2, 0))
        t = position - base
        taps, weights = (0, 1), (1 - t, t)
    elif kernel == "bicubic" and not align_corners:
        base = np.floor(position)
        t = position - base
        taps = (-1, 0, 1, 2)
        weights = tuple(_cubic(np.abs(t - tap)) for tap in taps)
    else:
        raise ValueError(f"no kernel {kernel!r} with align_corners={align_corners}")
    matrix = np.zeros((out_size, in_size))
    for tap, weight in zip(taps, weights, strict=True):
        column = np.clip(base + tap, 0, in_size - 1).astype(int)
        np.add.at(matrix, (np.arange(out_size), column), weight)
    return matrix


def _antialiased_matrix(
    in_size: int, center: np.ndarray, width: float, kernel: Kernel
) -> np.ndarray:
    distance = np.abs(np.arange(in_size) + 0.5 - center[:, None]) / width
    weights = _cubic(distance, a=-0.5) if kernel == "bicubic" else np.maximum(1 - distance, 0)
    # PyTorch rounds the ends of the kernel to whole samples: the ones beyond do not count.
    support = (2 if kernel == "bicubic" else 1) * width
    first, last = np.floor(center - support + 0.5), np.floor(center + support + 0.5)
    sample = np.arange(in_size)
    weights *= (sample >= first[:, None]) & (sample < last[:, None])
    return weights / weights.sum(1, keepdims=True)


def _cubic(x: np.ndarray, a: float = -0.75) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@functools.cache
def _gathers(matrix_key: tuple, transpose: bool) -> tuple[np.ndarray, np.ndarray]:
    """Columns and weights (each taps x rows) of the non-zero entries of a resize matrix's rows."""
    in_size, out_size, kernel, align_corners, antialias, scale = matrix_key
    matrix = resize_matrix(
        in_size,
        out_size,
        kernel=kernel,
        align_corners=align_corners,
        antialias=antialias,
        scale=scale,
    )
    if transpose:
        matrix = matrix.T
    taps = max(int((matrix != 0).sum(1).max()), 1)
    columns = np.argsort(matrix == 0, axis=1, kind="stable")[:, :taps]
    weights = np.take_along_axis(matrix, columns, axis=1)
    return columns.T, weights.T.astype(np.float32)


def _apply(x: Array, axis: int, matrix_key: tuple, transpose: bool) -> Array:
    columns, weights = _gathers(matrix_key, transpose)
    shape = [1] * x.ndim
    shape[axis] = columns.shape[1]
    total = None
    for column, weight in zip(columns, weights, strict=True):
        term = jnp.take(x, column, axis=axis) * weight.reshape(shape).astype(x.dtype)
        total = term if total is None else total + term
    assert total is not None
    return total


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _resize_axis(x: Array, axis: int, matrix_key: tuple) -> Array:
    return _apply(x, axis, matrix_key, transpose=False)


def _resize_axis_forward(x: Array, axis: int, matrix_key: tuple) -> tuple[Array, None]:
    return _resize_axis(x, axis, matrix_key), None


def _resize_axis_backward(axis: int, matrix_key: tuple, _: None, grad: Array) -> tuple[Array]:
    return (_apply(grad, axis, matrix_key, transpose=True),)


_resize_axis.defvjp(_resize_axis_forward, _resize_axis_backward)


def interpolate(
    x: Float[Array, "b h w c"],
    size: tuple[int, int],
    kernel: Kernel,
    *,
    align_corners: bool = False,
    antialias: bool = False,
    scale: tuple[float, float] | None = None,
) -> Float[Array, "b new_h new_w c"]:
    """`torch.nn.functional.interpolate` with mode `kernel` to `size` (h, w).

    Args:
        x: what is resized.
        size: of the result.
        kernel: torch's `mode`.
        align_corners: as torch's.
        antialias: as torch's.
        scale: (vertical, horizontal) of torch's `scale_factor`, of which `size` is the rounded
            result; None computes with `size` itself.
    """
    for axis, out_size, factor in zip((1, 2), size, scale or (None, None), strict=True):
        if x.shape[axis] != out_size or factor is not None:
            key = (x.shape[axis], out_size, kernel, align_corners, antialias, factor)
            x = _resize_axis(x, axis, key)
    return x


def bilinear(
    x: Float[Array, "b h w c"], size: tuple[int, int], *, align_corners: bool
) -> Float[Array, "b new_h new_w c"]:
    """`torch.nn.functional.interpolate(mode="bilinear", antialias=False)` to `size` (h, w)."""
    return interpolate(x, size, "bilinear", align_corners=align_corners)


def bicubic(
    x: Float[Array, "b h w c"],
    size: tuple[int, int],
    *,
    antialias: bool = False,
    scale: tuple[float, float] | None = None,
) -> Float[Array, "b new_h new_w c"]:
    """`interpolate` with the kernel "bicubic"."""
    return interpolate(x, size, "bicubic", antialias=antialias, scale=scale)


def upsample_x2(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """The decoder's step: twice the size, bilinear with `align_corners=True`."""
    return bilinear(x, (2 * x.shape[1], 2 * x.shape[2]), align_corners=True)
