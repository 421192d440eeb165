# SPDX-License-Identifier: Apache-2.0
"""Kernels against those whose names they carry."""

import numpy as np
import pytest
from PIL import Image

from dpt_jax.predict import kernels
from dpt_jax.predict.kernels import Window

# (height, width) -> (height, width): down, up, one of each, one side kept, tiny, uneven, whole.
SIZES = [
    ((37, 53), (20, 30)),
    ((37, 53), (64, 100)),
    ((37, 53), (20, 100)),
    ((37, 53), (37, 30)),
    ((4, 2), (5, 9)),
    ((2, 3), (40, 40)),
    ((150, 90), (17, 19)),
    ((64, 48), (32, 16)),
    ((21, 30), (21, 30)),
]


def noise(size, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)


def interpolate(x, size, **options):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    y = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None]
    y = torch.nn.functional.interpolate(y, size, **options)
    return y[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", kernels.PILLOW)
@pytest.mark.parametrize(("source", "size"), SIZES[:3])
def test_pillow_kernels_are_pillows(source, size, name):
    image = noise(source)
    code = Image.Resampling[name.removeprefix("pillow_").upper()]
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], code))
    np.testing.assert_array_equal(kernels.resize_image(image, size, name), expected)
    floats = image + np.float32(0.4)
    np.testing.assert_array_equal(kernels.resize_image(floats, size, name), expected)


def test_pillow_kernels_clip_float_levels():
    levels = np.array([[[-3.0, 254.6, 300.0]]], np.float32)
    assert kernels.resize_image(levels, (1, 1), "pillow_bicubic").tolist() == [[[0, 255, 255]]]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("source", "size"), SIZES)
def test_antialiasing_is_torchs_to_the_last_level(source, size, mode):
    image = noise(source)
    ours = kernels.resize_image(image, size, f"torch_{mode}_antialias")
    theirs = interpolate(image, size, mode=mode, antialias=True)
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("source", "size"), [*SIZES, ((1, 1), (5, 9)), ((7, 5), (1, 1))])
def test_antialiasing_of_floats_is_torchs(source, size, mode):
    image = noise(source).astype(np.float64)
    ours = kernels.resize_image(image.astype(np.float32), size, f"torch_{mode}_antialias")
    theirs = interpolate(image / 255, size, mode=mode, antialias=True)
    np.testing.assert_allclose(ours / 255, theirs, atol=1e-6)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 60), (120, 130)])
def test_antialiasing_is_pillows_up_to_a_level(mode, size):
    # Where one side grows and the other shrinks, Pillow 13 may begin with the other side, which
    # shows where the first pass overshoots: 10 levels on noise.
    image = noise((90, 110))
    ours = kernels.resize_image(image, size, f"torch_{mode}_antialias").astype(int)
    pillow = kernels.resize_image(image, size, f"pillow_{mode}")
    assert np.abs(ours - pillow).max() <= 1


MAPS = {
    "torch_bilinear": {"mode": "bilinear"},
    "torch_bilinear_align_corners": {"mode": "bilinear", "align_corners": True},
    "torch_bicubic": {"mode": "bicubic"},
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("source", "size"), [*SIZES, ((1, 1), (5, 9)), ((7, 5), (1, 1))])
def test_map_kernels_are_torchs(source, size, name):
    x = np.random.default_rng(1).random((*source, 2))
    ours = kernels.resize_map(x, size, name)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, interpolate(x, size, **MAPS[name]), atol=1e-6)
    theirs = interpolate(x.astype(np.float32), size, **MAPS[name])
    np.testing.assert_allclose(ours, theirs, atol=3e-5)


def test_large_sides_agree_with_torch_in_float64():
    x = np.random.default_rng(1).random((518, 3, 1))
    for name, options in MAPS.items():
        ours = kernels.resize_map(x, (4000, 3), name)
        np.testing.assert_allclose(ours, interpolate(x, (4000, 3), **options), atol=1e-6)


@pytest.mark.parametrize(("source", "size"), SIZES)
def test_aligned_corners_of_an_image_are_torchs(source, size):
    image = noise(source)
    ours = kernels.resize_image(image, size, "torch_bilinear_align_corners")
    theirs = interpolate(image / 255, size, mode="bilinear", align_corners=True)
    np.testing.assert_allclose(ours / 255, theirs, atol=1e-6)


@pytest.mark.parametrize(("name", "code"), [("opencv_cubic", 2), ("opencv_area", 3)])
@pytest.mark.parametrize(("source", "size"), [*SIZES, ((1, 1), (5, 9)), ((7, 5), (1, 1))])
def test_opencv_kernels_are_opencvs(source, size, name, code):
    cv2 = pytest.importorskip("cv2")
    image = noise(source)
    ours = kernels.resize_image(image, size, name) / 255
    for dtype, tolerance in ((np.float32, 2e-6), (np.float64, 1e-5)):
        theirs = cv2.resize(image.astype(dtype) / 255, size[::-1], interpolation=code)
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_opencv_cubic_is_neither_antialiased_nor_clipped():
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::4] = 255
    ours = kernels.resize_image(stripes, (8, 16), "opencv_cubic")
    pillow = kernels.resize_image(stripes, (8, 16), "pillow_bicubic")
    assert np.ptp(pillow[:, 2:-2]) <= 1
    assert ours.min() < -10
    edge = np.repeat(np.uint8([0, 255]), 4)[None, :, None]
    assert kernels.resize_image(edge, (1, 24), "opencv_cubic").max() > 260


@pytest.mark.parametrize("name", MAPS)
def test_a_window_is_a_crop_of_the_whole(name):
    x = np.random.default_rng(2).random((13, 17))
    whole = kernels.resize_map(x, (50, 61), name)
    part = kernels.resize_map(x, (30, 40), name, (Window(7, 50), Window(11, 61)))
    np.testing.assert_allclose(part, whole[7:37, 11:51], atol=1e-6)


def test_windows_may_begin_between_samples():
    ramp = np.arange(100.0)[:, None].repeat(4, 1)
    part = kernels.resize_map(ramp, (20, 4), "torch_bilinear", (Window(2.25, 40), Window(0, 4)))
    expected = (np.arange(20) + 2.25 + 0.5) * 100 / 40 - 0.5
    np.testing.assert_allclose(part[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("strip_values", [1, 5000, 2**24])
def test_argmax_in_strips_is_the_argmax_of_the_whole(monkeypatch, smooth, strip_values):
    monkeypatch.setattr(kernels, "_STRIP_VALUES", strip_values)
    logits = np.random.default_rng(3).standard_normal((9, 11, 150))
    if smooth:
        logits = kernels.resize_map(logits, (36, 44), "torch_bicubic")
    windows = (Window(3.5, 77), Window(4, 110))
    for size, part in (((61, 90), windows), ((20, 13), None)):
        ours = kernels.argmax_of_map(logits, size, part)
        whole = kernels.resize_map(logits, size, "torch_bilinear", part)
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(ours, whole.argmax(-1))


def test_argmax_takes_the_first_of_equals():
    logits = np.zeros((2, 2, 5))
    logits[..., [1, 3]] = 1
    assert (kernels.argmax_of_map(logits, (5, 5)) == 1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_labels_are_resized_as_pillow_nearest(dtype):
    labels = np.random.default_rng(4).integers(0, 120, (31, 47)).astype(dtype)
    for size in ((13, 20), (64, 64), (31, 47)):
        ours = kernels.resize_labels(labels, size)
        image = Image.fromarray(labels.astype(np.uint8))
        theirs = image.resize(size[::-1], Image.Resampling.NEAREST)
        assert ours.dtype == dtype
        np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_large_label_ids_survive():
    labels = np.array([[1_000, 70_000]], np.int64)
    assert kernels.resize_labels(labels, (1, 4)).tolist() == [[1_000, 1_000, 70_000, 70_000]]
