# SPDX-License-Identifier: Apache-2.0
"""Resizing against numbers made by hand, its dense matrix and, where there is one, torch."""

import importlib.util

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from dpt_jax.models import resize

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is the reference"
)
KERNELS = [("bilinear", False), ("bilinear", True), ("bicubic", False)]


def run(x, size, kernel, align_corners):
    if kernel == "bicubic":
        return resize.bicubic(x, size)
    return resize.bilinear(x, size, align_corners=align_corners)


def line(values, size, kernel="bilinear", align_corners=False):
    """Resizes a vector, laid along the rows and then along the columns of an image."""
    x = jnp.asarray(values, jnp.float32)
    tall = run(x[None, :, None, None], (size, 1), kernel, align_corners)[0, :, 0, 0]
    wide = run(x[None, None, :, None], (1, size), kernel, align_corners)[0, 0, :, 0]
    np.testing.assert_array_equal(tall, wide)
    return np.asarray(tall)


def size_pairs(seed: int, count: int = 12):
    """Sizes in and out: chance ones, both up and down, and every corner with a one in it."""
    rng = np.random.default_rng(seed)
    corners = [((1, 1), (1, 1)), ((1, 5), (4, 1)), ((6, 1), (1, 3)), ((1, 1), (7, 2))]
    chance = [
        (tuple(rng.integers(1, 33, 2).tolist()), tuple(rng.integers(1, 33, 2).tolist()))
        for _ in range(count)
    ]
    return corners + chance


@needs_torch
@pytest.mark.parametrize(("kernel", "align_corners"), KERNELS)
@pytest.mark.parametrize(("source", "target"), size_pairs(5))
def test_values_are_those_of_torch(kernel, align_corners, source, target):
    import torch

    rng = np.random.default_rng([*source, *target])
    x = rng.standard_normal((2, *source, 3)).astype(np.float32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(),
        size=target,
        mode=kernel,
        align_corners=align_corners,
    ).permute(0, 2, 3, 1)
    got = run(jnp.asarray(x), target, kernel, align_corners)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-5)


@needs_torch
@pytest.mark.parametrize(("kernel", "align_corners"), KERNELS)
@pytest.mark.parametrize(("source", "target"), [((5, 7), (11, 3)), ((1, 6), (4, 12))])
def test_gradients_are_those_of_torch(kernel, align_corners, source, target):
    import torch

    rng = np.random.default_rng(8)
    x = rng.standard_normal((1, *source, 2)).astype(np.float32)
    direction = rng.standard_normal((1, *target, 2)).astype(np.float32)
    leaf = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    out = torch.nn.functional.interpolate(
        leaf, size=target, mode=kernel, align_corners=align_corners
    )
    (out * torch.from_numpy(direction.transpose(0, 3, 1, 2).copy())).sum().backward()
    got = jax.grad(lambda y: jnp.sum(run(y, target, kernel, align_corners) * direction))(x)
    np.testing.assert_allclose(got, leaf.grad.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-5)


@needs_torch
def test_upsample_x2_is_torch_with_aligned_corners():
    import torch

    x = np.random.default_rng(2).standard_normal((2, 5, 8, 3)).astype(np.float32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=True
    )
    got = resize.upsample_x2(jnp.asarray(x))
    np.testing.assert_allclose(got, want.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "align_corners", "want"),
    [
        # Corners aligned: the ends stay, the rest is evenly spaced between them.
        ([0, 3], True, [0, 1, 2, 3]),
        ([0, 4, 0], True, [0, 2, 4, 2, 0]),
        ([5], True, [5, 5, 5]),
        ([1, 2, 9], True, [1, 9]),
        ([7, 2, 9], True, [7]),
        # Borders aligned: x2 mixes 3:1, the ends are replicated.
        ([0, 4], False, [0, 1, 3, 4]),
        ([0, 8, 0], False, [0, 2, 6, 6, 2, 0]),
        ([5], False, [5, 5, 5]),
        # Downwards without antialiasing: neighbours of the centre only.
        ([0, 2, 4, 100], False, [1, 52]),
        ([9, 1, 9, 9, 2, 9], False, [1, 2]),
        ([7, 2, 9], False, [2]),
    ],
)
def test_bilinear_by_hand(values, align_corners, want):
    got = line(values, len(want), align_corners=align_corners)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_bicubic_by_hand():
    # At a distance of 1/2 the kernel with a = -3/4 weighs -3/32, 19/32, 19/32, -3/32.
    np.testing.assert_allclose(line([0, 0, 32, 0], 2, "bicubic"), [-3, 19], atol=1e-5)
    # x2: output 2 lies at 3/4, output 3 at 5/4; an impulse gives the kernel at 1/4, 3/4, 5/4, 7/4.
    kernel = np.array([225, 67, -27, -9]) / 256
    assert kernel.sum() == 1
    got = line([0, 0, 256, 0, 0, 0], 12, "bicubic")
    np.testing.assert_allclose(got[1:9], [-9, -27, 67, 225, 225, 67, -27, -9], atol=1e-4)


def test_upsample_x2_of_one_pixel_repeats_it():
    x = jnp.arange(3.0).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(resize.upsample_x2(x), jnp.broadcast_to(x, (1, 2, 2, 3)))


def test_the_first_size_is_the_height():
    x = jnp.zeros((2, 3, 5, 4))
    assert resize.bilinear(x, (7, 2), align_corners=True).shape == (2, 7, 2, 4)
    assert resize.bicubic(x, (7, 2)).shape == (2, 7, 2, 4)
    assert resize.upsample_x2(x).shape == (2, 6, 10, 4)


@pytest.mark.parametrize(("kernel", "align_corners"), KERNELS)
@pytest.mark.parametrize(("small", "large"), [(1, 1), (1, 9), (2, 5), (7, 13), (24, 37), (4, 64)])
def test_rows_sum_to_one(kernel, align_corners, small, large):
    for sizes in ((small, large), (large, small), (large, large)):
        matrix = resize.resize_matrix(*sizes, kernel=kernel, align_corners=align_corners)
        assert matrix.shape == sizes[::-1]
        assert matrix.dtype == np.float64
        assert (matrix >= 0).all() or kernel == "bicubic"
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=0, atol=1e-12)
        assert (matrix != 0).sum(1).max() <= (4 if kernel == "bicubic" else 2)
        if sizes[1] == 1 and align_corners:
            continue  # the first sample, whatever the others are
        # Mirrored images give mirrored results.
        np.testing.assert_allclose(matrix, matrix[::-1, ::-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kernel", "align_corners"), KERNELS)
def test_the_same_size_is_the_identity(kernel, align_corners):
    for n in (1, 2, 9):
        np.testing.assert_array_equal(
            resize.resize_matrix(n, n, kernel=kernel, align_corners=align_corners), np.eye(n)
        )
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    np.testing.assert_array_equal(run(x, (5, 6), kernel, align_corners), x)


@pytest.mark.parametrize(("kernel", "align_corners"), KERNELS)
@pytest.mark.parametrize(("source", "target"), size_pairs(6, 4))
def test_values_and_gradient_are_those_of_the_dense_matrix(kernel, align_corners, source, target):
    rows, columns = (
        resize.resize_matrix(a, b, kernel=kernel, align_corners=align_corners)
        for a, b in zip(source, target, strict=True)
    )
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, *source, 3))
    direction = rng.standard_normal((2, *target, 3))
    got, pull = jax.vjp(
        lambda y: run(y, target, kernel, align_corners), jnp.asarray(x, jnp.float32)
    )
    want = np.einsum("Hh,Ww,bhwc->bHWc", rows, columns, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    (gradient,) = pull(jnp.asarray(direction, jnp.float32))
    want = np.einsum("Hh,Ww,bHWc->bhwc", rows, columns, direction)
    np.testing.assert_allclose(gradient, want, rtol=0, atol=2e-6 * max(1, np.abs(want).max()))


@pytest.mark.parametrize(("kernel", "align_corners"), KERNELS)
def test_reverse_mode_passes_the_numerical_check(kernel, align_corners):
    x = jax.random.normal(jax.random.key(1), (1, 4, 3, 2))
    jax.test_util.check_grads(
        lambda y: jnp.sin(run(y, (7, 5), kernel, align_corners)), (x,), order=1, modes=["rev"]
    )


@pytest.mark.parametrize(("kernel", "align_corners"), KERNELS)
def test_jit_and_vmap_change_nothing(kernel, align_corners):
    def resized(y):
        return run(y, (9, 4), kernel, align_corners)

    def gradient(y):
        return jax.grad(lambda z: jnp.sum(resized(z) ** 2))(y)

    x = jax.random.normal(jax.random.key(2), (3, 2, 5, 6, 2))
    for function in (resized, gradient):
        one_by_one = jnp.stack([function(y) for y in x])
        np.testing.assert_allclose(jax.vmap(function)(x), one_by_one, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(jax.jit(function)(x[0]), one_by_one[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(jax.jit(jax.vmap(function))(x), one_by_one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kernel", "align_corners"), KERNELS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_type_is_kept_by_values_and_gradients(kernel, align_corners, dtype):
    x = jax.random.normal(jax.random.key(3), (1, 6, 5, 2))
    exact = run(x, (11, 3), kernel, align_corners)
    got, pull = jax.vjp(lambda y: run(y, (11, 3), kernel, align_corners), x.astype(dtype))
    assert got.dtype == dtype
    assert pull(got)[0].dtype == dtype
    np.testing.assert_allclose(got.astype(jnp.float32), exact, atol=0.05 if dtype != x.dtype else 0)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (-1, 2)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match=f"{sizes[0]} -> {sizes[1]}"):
        resize.resize_matrix(*sizes)


@pytest.mark.parametrize(("kernel", "align_corners"), [("bicubic", True), ("nearest", False)])
def test_kernels_that_do_not_exist_are_refused(kernel, align_corners):
    with pytest.raises(ValueError, match=kernel):
        resize.resize_matrix(3, 4, kernel=kernel, align_corners=align_corners)
