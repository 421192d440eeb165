# SPDX-License-Identifier: Apache-2.0
"""Kernels of augmentations against OpenCV and Pillow, and without OpenCV."""

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data import kernels
from dpt_jax.data.kernels import Window

SIZES = np.random.default_rng(7).integers(1, 60, (60, 4)).tolist()
SIZES += [[1, 1, 1, 1], [1, 9, 5, 1], [9, 1, 1, 30], [2, 2, 33, 47], [50, 70, 3, 4]]


@pytest.fixture(params=["opencv", "numpy"])
def backend(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(kernels, "cv2", None)
    elif kernels.cv2 is None:
        pytest.skip("OpenCV is not installed")
    return request.param


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(h, w, seed=0):
    return rng(seed).integers(0, 256, (h, w, 3)).astype(np.uint8)


def windows(rows, columns, seed):
    """All of it, and some part."""
    generator = rng(seed)
    top, left = generator.integers(rows), generator.integers(columns)
    bottom = generator.integers(top + 1, rows + 1)
    right = generator.integers(left + 1, columns + 1)
    return [None, Window(int(top), int(bottom), int(left), int(right))]


def cut(values, window):
    return values if window is None else values[window.slices]


def test_opencv_linear_is_the_exact_one_of_opencv(backend):
    cv2 = pytest.importorskip("cv2")
    for seed, (h, w, rows, columns) in enumerate(SIZES):
        image = noise(h, w, seed)
        want = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR_EXACT)
        for window in windows(rows, columns, seed):
            got = kernels.resize_image(image, (rows, columns), "opencv_linear", window)
            np.testing.assert_array_equal(got, cut(want, window), err_msg=f"{image.shape} {window}")
            assert got.dtype == np.uint8


def test_a_small_window_of_a_large_picture_is_the_same(backend):
    cv2 = pytest.importorskip("cv2")
    image, window = noise(512, 683), Window(711, 843, 50, 300)
    want = cv2.resize(image, (1366, 1024), interpolation=cv2.INTER_LINEAR_EXACT)
    got = kernels.resize_image(image, (1024, 1366), "opencv_linear", window)
    np.testing.assert_array_equal(got, want[window.slices])


def test_opencv_linear_is_within_a_level_of_the_one_that_mmseg_calls():
    cv2 = pytest.importorskip("cv2")
    image = noise(64, 90)
    for size in ((41, 50), (100, 171)):
        want = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        got = kernels.resize_image(image, size, "opencv_linear")
        assert np.abs(got.astype(int) - want).max() <= 1


def test_opencv_cubic_is_that_of_opencv_in_float():
    cv2 = pytest.importorskip("cv2")
    for seed, (h, w, rows, columns) in enumerate(SIZES):
        image = noise(h, w, seed)
        pixels = image.astype(np.float32)
        want = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_CUBIC)
        for window in windows(rows, columns, seed):
            got = kernels.resize_image(image, (rows, columns), "opencv_cubic", window)
            assert np.abs(got - np.clip(cut(want, window), 0, 255)).max() < 0.501
            assert got.dtype == np.uint8


def test_opencv_cubic_is_within_a_level_of_that_of_bytes():
    cv2 = pytest.importorskip("cv2")
    for seed, (h, w, rows, columns) in enumerate(SIZES):
        image = noise(h, w, seed)
        want = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_CUBIC)
        got = kernels.resize_image(image, (rows, columns), "opencv_cubic")
        assert np.abs(got.astype(int) - want).max() <= 1


def test_pillow_bilinear_windows_are_cut_out_of_its_full_resize():
    for seed, (h, w, rows, columns) in enumerate(SIZES):
        image = noise(h, w, seed)
        want = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
        for window in windows(rows, columns, seed):
            got = kernels.resize_image(image, (rows, columns), "pillow_bilinear", window)
            error = np.abs(got.astype(int) - cut(want, window))
            assert error.max() <= (window is not None), f"{image.shape} {window}"
            assert error.mean() < 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_nearest_is_that_of_opencv_and_of_pillow(dtype):
    cv2 = pytest.importorskip("cv2")
    for seed, (h, w, rows, columns) in enumerate(SIZES):
        values = rng(seed).permutation(h * w).reshape(h, w).astype(dtype)
        wants = {
            "opencv_cubic": cv2.resize(values, (columns, rows), interpolation=cv2.INTER_NEAREST),
            "pillow_bilinear": np.asarray(Image.fromarray(values).resize((columns, rows), 0)),
        }
        for kernel, want in wants.items():
            for window in windows(rows, columns, seed):
                got = kernels.resize_nearest(values, (rows, columns), kernel, window)
                np.testing.assert_array_equal(got, cut(want, window))
                assert got.dtype == dtype


def test_nearest_of_long_rows_where_additions_miss_whole_numbers():
    cv2 = pytest.importorskip("cv2")
    for n_in, n_out in rng(1).integers(100, 1500, (300, 2)).tolist():
        row = np.arange(n_in, dtype=np.float32)[None]
        got = kernels.resize_nearest(row, (1, n_out), "pillow_bilinear")
        np.testing.assert_array_equal(got, np.asarray(Image.fromarray(row).resize((n_out, 1), 0)))
        got = kernels.resize_nearest(row, (1, n_out), "opencv_linear")
        want = cv2.resize(row, (n_out, 1), interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(got, want)


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match=r"'cubic'.*opencv_cubic"):
        kernels.resize_image(noise(2, 2), (3, 3), "cubic")


def bilinear(image, degrees):
    """Rotation pixel by pixel, positions in 1/32; what lies outside is black."""
    h, w = image.shape[:2]
    turn = np.exp(1j * np.radians(degrees))
    result = np.zeros((h, w, 3))
    for row, column in np.ndindex(h, w):
        z = ((column - (w - 1) / 2) + 1j * (row - (h - 1) / 2)) * turn
        x, y = (np.round(32 * v) / 32 for v in (z.real + (w - 1) / 2, z.imag + (h - 1) / 2))
        for i in (int(np.floor(y)), int(np.floor(y)) + 1):
            for j in (int(np.floor(x)), int(np.floor(x)) + 1):
                if 0 <= i < h and 0 <= j < w:
                    result[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * image[i, j]
    return result


@pytest.mark.parametrize("degrees", [0, 2.37, -2.5, 33, -90, 170])
def test_rotation(backend, degrees):
    image = noise(14, 23)
    got = kernels.rotate_image(image, degrees)
    # A position may round to either of two neighbouring 32ths.
    assert np.abs(got - bilinear(image, degrees)).max() <= 255 / 32 + 0.5
    assert np.abs(got - bilinear(image, degrees)).mean() < 0.6
    if degrees == 0:
        np.testing.assert_array_equal(got, image)


def test_rotation_is_the_same_without_opencv_and_close_to_that_of_pillow(monkeypatch):
    y, x = np.mgrid[:61, :90]
    smooth = np.stack([2 * y, 2 * x, 128 + 50 * np.sin(x / 6 + y / 9)], -1).astype(np.uint8)
    for image in (smooth, noise(5, 1), noise(1, 6), noise(33, 40)):
        for degrees in (-2.5, 1.37, 45, 179):
            with_opencv = kernels.rotate_image(image, degrees)
            with monkeypatch.context() as patch:
                patch.setattr(kernels, "cv2", None)
                np.testing.assert_array_equal(kernels.rotate_image(image, degrees), with_opencv)
    turned = Image.fromarray(smooth).rotate(2.2, Image.Resampling.BILINEAR)
    error = np.abs(kernels.rotate_image(smooth, 2.2).astype(int) - np.asarray(turned))
    assert error[4:-4, 4:-4].max() <= 2


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(5, 7), (4, 6, 3), (3, 1), (1, 1, 3)])
def test_mirror(backend, dtype, shape):
    values = rng().integers(0, 99, (2 * shape[0], *shape[1:])).astype(dtype)[::2]
    np.testing.assert_array_equal(kernels.mirror(values), values[:, ::-1])


def test_lookup_and_counts(backend):
    image = noise(20, 31)[3:, 4:]
    table = rng(1).integers(0, 256, (256, 3)).astype(np.uint8)
    want = np.stack([table[:, c][image[..., c]] for c in range(3)], -1)
    np.testing.assert_array_equal(kernels.lookup(image, table), want)
    single = np.ascontiguousarray(table[:, 1])
    np.testing.assert_array_equal(kernels.lookup(image, single), single[image])
    label = image[..., 0]
    np.testing.assert_array_equal(
        kernels.class_counts(label), np.bincount(label.ravel(), None, 256)
    )


def every(first, step):
    """All bytes in two channels against every `step`-th in the other."""
    levels = np.arange(256)
    planes = [np.stack(np.broadcast_arrays(a, levels[:, None], levels), -1) for a in first[::step]]
    return np.concatenate(planes).astype(np.uint8)


def test_hsv_without_opencv_is_that_of_opencv(monkeypatch):
    """In OpenCV 5 on x86; elsewhere the last line of `hsv_to_rgb` may round otherwise."""
    cv2 = pytest.importorskip("cv2", minversion="5.0")
    monkeypatch.setattr(kernels, "cv2", None)
    image = every(np.arange(256), 15)
    np.testing.assert_array_equal(kernels.rgb_to_hsv(image), cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    for width in (256, 77, 5):
        image = np.ascontiguousarray(every(np.arange(180), 9)[:, :width])
        want = cv2.cvtColor(image, cv2.COLOR_HSV2RGB)
        np.testing.assert_array_equal(kernels.hsv_to_rgb(image), want)


def test_hsv_is_a_hexcone(backend):
    colours = np.uint8([[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]])
    want = [[0, 255, 255], [30, 255, 255], [60, 255, 255], [120, 255, 255], [0, 0, 90]]
    assert kernels.rgb_to_hsv(colours[None])[0].tolist() == want
    np.testing.assert_array_equal(kernels.hsv_to_rgb(np.uint8([want]))[0], colours)
