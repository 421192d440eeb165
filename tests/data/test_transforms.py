# SPDX-License-Identifier: Apache-2.0
"""Augmentations of examples whose pixels say where they came from."""

import copy
import itertools

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from dpt_jax.data.kernels import KERNELS
from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.transforms import (
    AtLeast,
    Box,
    ByFactor,
    ColorJitter,
    Crop,
    Flip,
    Pad,
    PhotoMetricDistortion,
    Resize,
    Rotate,
)

H, W = 40, 60
CLASSES = np.random.default_rng(9).integers(0, 20, (H, W)).astype(np.uint8)
CLASSES[::7, ::5] = 255


def located(h=H, w=W):
    """Red is 40 + row, green 40 + column; depth is 1 + column + row * w; labels are random."""
    y, x = np.mgrid[:h, :w]
    return {
        "image": np.stack([40 + y, 40 + x, np.full((h, w), 77)], -1).astype(np.uint8),
        "label": CLASSES[:h, :w].copy(),
        "depth": (1 + x + y * w).astype(np.float32),
        "name": "x",
    }


def where(depth, w=W, factor=1.0):
    """Rows and columns of the source that depth stands for, -1 where it was made up."""
    index = np.asarray(depth, np.float64) * factor
    whole = np.round(index)
    np.testing.assert_allclose(index, whole, atol=1e-2, err_msg="a depth that was not measured")
    found = whole.astype(int) - 1
    return np.where(found >= 0, found // w, -1), np.where(found >= 0, found % w, -1)


def check_aligned(example, *, w=W, factor=1.0, slack=1.0):
    """Labels come from the same source pixels as depths, colours from within `slack` of them."""
    y, x = where(example["depth"], w, factor)
    real = y >= 0
    assert real.any()
    np.testing.assert_array_equal(example["label"][real], CLASSES[y[real], x[real]])
    np.testing.assert_array_equal(example["label"][~real], 255)
    core = real.copy()
    for axis, step in itertools.product((0, 1), (-1, 1)):
        core &= np.roll(real, step, axis)
    core[[0, -1]] = core[:, [0, -1]] = False
    colours = example["image"].astype(float)
    assert np.abs(colours[..., 0] - 40 - y)[core].max() <= slack
    assert np.abs(colours[..., 1] - 40 - x)[core].max() <= slack
    assert np.abs(colours[..., 2] - 77)[core].max() <= 1
    assert example["image"].dtype == example["label"].dtype == np.uint8
    assert example["depth"].dtype == np.float32
    return y, x, real


class Script:
    """Stands in for a generator: coins and integers from lists, uniforms at one end."""

    def __init__(self, coins=(), integers=(), high=True):
        self.coins, self.numbers, self.high = list(coins), list(integers), high

    def random(self):
        return self.coins.pop(0)

    def integers(self, n):
        assert self.numbers[0] < n
        return self.numbers.pop(0)

    def uniform(self, low, high):
        return high if self.high else low


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("factor", [0.5, 0.73, 1.0, 1.4, 2.0])
def test_scale_keeps_targets_aligned_and_divides_depth(factor):
    got = Resize(ByFactor(factor, factor))(located(), rng())
    assert got["image"].shape == (round(H * factor), round(W * factor), 3)
    # Nearest and bilinear may differ by half a source pixel, plus rounding.
    y, x, real = check_aligned(got, factor=factor, slack=1.0 if factor > 0.6 else 1.6)
    assert real.all()
    rows, columns = np.mgrid[: len(y), : y.shape[1]]
    assert np.abs((rows + 0.5) * H / len(y) - 0.5 - y).max() <= 0.51
    assert np.abs((columns + 0.5) * W / y.shape[1] - 0.5 - x).max() <= 0.51


def test_factors_are_drawn_from_their_range():
    step = Resize(ByFactor(0.5, 2.0))
    wide = [step(located(), rng(s))["image"].shape[1] for s in range(60)]
    assert 0.5 * W <= min(wide) < 0.65 * W and 1.85 * W < max(wide) <= 2 * W


def test_depth_stays_where_a_resize_is_more_pixels_of_the_same_view():
    got = Resize(ByFactor(1.5, 1.5), divide_depth=False)(located(), rng())
    check_aligned(got)
    assert got["image"].shape == (60, 90, 3)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("factor", "size"), [(0.7, (20, 30)), (1.6, (50, 40)), (1.6, (90, 20))])
def test_a_window_is_cut_out_of_the_full_resize(kernel, factor, size):
    """The fused step, the same seed: resized as a whole, then cut."""
    rule = ByFactor(factor, factor)
    for seed in range(4):
        got = Resize(rule, kernel, crop=size, cat_max_ratio=0.5)(located(), rng(seed))
        generator = rng(seed)
        whole = Resize(rule, kernel)(located(), generator)
        want = Crop(*size, cat_max_ratio=0.5)(whole, generator)
        assert got["image"].shape == want["image"].shape
        slack = 1 if kernel.startswith("pillow") else 0
        assert np.abs(got["image"].astype(int) - want["image"]).max() <= slack
        np.testing.assert_array_equal(got["label"], want["label"])
        np.testing.assert_array_equal(got["depth"], want["depth"])


@pytest.mark.parametrize("seed", range(4))
def test_rotation_turns_everything_about_the_centre(seed):
    got = Rotate(20.0)(located(), rng(seed))
    assert got["image"].shape == (H, W, 3)
    y, x, real = check_aligned(got, slack=1.5)
    rows, columns = np.mgrid[:H, :W] - np.array([(H - 1) / 2, (W - 1) / 2])[:, None, None]
    before = (y - (H - 1) / 2) + 1j * (x - (W - 1) / 2)
    after = rows + 1j * columns
    far = real & (np.abs(after) > 8)
    assert np.abs(np.abs(before) - np.abs(after))[far].max() < 1.3
    angles = np.degrees(np.angle(before / np.where(after == 0, 1, after)))[far]
    assert abs(np.median(angles)) <= 20 and np.abs(angles - np.median(angles)).max() < 9
    if abs(np.median(angles)) > 5:
        assert not real.all() and (got["image"][~real].min(-1) < 40).mean() > 0.5


def test_rotation_angles_lie_on_both_sides_and_corners_are_black():
    turned = [Rotate(20.0)(located(), rng(s)) for s in range(12)]
    signs = {np.sign(where(t["depth"])[0][20, 50] - where(t["depth"])[0][20, 10]) for t in turned}
    assert signs >= {1, -1}
    corner = max(turned, key=lambda t: (t["depth"] == 0).sum())
    assert corner["depth"][0, 0] == 0 and corner["label"][0, 0] == 255
    assert corner["image"][0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_crop_is_a_window(seed):
    got = Crop(11, 23)(located(), rng(seed))
    assert got["image"].shape == (11, 23, 3)
    y, x, real = check_aligned(got, slack=0)
    assert real.all()
    np.testing.assert_array_equal(y - y[0, 0], np.mgrid[:11, :23][0])
    np.testing.assert_array_equal(x - x[0, 0], np.mgrid[:11, :23][1])


def test_crops_reach_every_place():
    corners = {tuple(Crop(H - 1, W - 2)(located(), rng(s))["image"][0, 0]) for s in range(80)}
    assert corners == {(40 + y, 40 + x, 77) for y in range(2) for x in range(3)}


@pytest.mark.parametrize("size", [(50, 70), (50, 30), (20, 70), (40, 60)])
def test_small_images_are_padded_at_the_right_and_the_bottom(size):
    cut = Crop(*size)(located(), rng(3))
    h, w = min(size[0], H), min(size[1], W)
    assert cut["image"].shape == (h, w, 3)
    got = Pad(*size, fill=(1, 2, 3))(cut, rng())
    assert got["image"].shape == (*size, 3)
    y, x, real = check_aligned(got, slack=0)
    assert real[:h, :w].all() and real.sum() == h * w
    assert (got["image"][~real] == (1, 2, 3)).all() and not got["depth"][~real].any()
    assert (got["label"][~real] == 255).all()
    assert (size[0] < H or y[0, 0] == 0) and (size[1] < W or x[0, 0] == 0)
    assert Pad(h, w - 1)(cut, rng()) is cut


def blocks(*ids):
    """Labels whose 4 x 4 window at (4 i, 4 i) holds the i-th list of 16 ids."""
    label = np.zeros((4 * len(ids), 4 * len(ids)), np.uint8)
    for i, block in enumerate(ids):
        label[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] = np.reshape(block, (4, 4))
    return {"image": np.zeros((*label.shape, 3), np.uint8), "label": label}


ONE = [5] * 16
ONE_AND_IGNORED = [5] * 8 + [255] * 8
EXACTLY = [5] * 12 + [6] * 4
EXACTLY_OF_LABELLED = [5] * 6 + [6] * 2 + [255] * 8
BELOW = [5] * 11 + [6] * 5
BELOW_WITH_IGNORED = [5] * 2 + [6] * 2 + [255] * 12
IGNORED = [255] * 16


@pytest.mark.parametrize(
    ("windows", "chosen"),
    [
        ([BELOW, ONE], 0),
        ([ONE, BELOW], 1),
        ([ONE_AND_IGNORED, EXACTLY, EXACTLY_OF_LABELLED, IGNORED, BELOW_WITH_IGNORED, BELOW], 4),
        ([ONE] * 9 + [BELOW], 9),
        ([ONE] * 10 + [BELOW], 9),
    ],
)
def test_windows_of_one_class_are_redrawn(windows, chosen):
    # Square windows on the diagonal, so that rows and columns are asked for alike.
    draws = [4 * i for i in range(len(windows)) for _ in range(2)]
    example = blocks(*windows)
    got = Crop(4, 4, cat_max_ratio=0.75)(example, Script(integers=draws))
    np.testing.assert_array_equal(got["label"].ravel(), windows[chosen])
    # Turned off, and without labels, the first window is taken.
    got = Crop(4, 4)(example, Script(integers=draws))
    np.testing.assert_array_equal(got["label"].ravel(), windows[0])
    del example["label"]
    script = Script(integers=draws)
    Crop(4, 4, cat_max_ratio=0.75)(example, script)
    assert len(script.numbers) == len(draws) - 2


def test_flip_mirrors_everything():
    given = located()
    got = Flip(1.0)(given, rng())
    for key in ("image", "label", "depth"):
        np.testing.assert_array_equal(got[key], given[key][:, ::-1])
    same = Flip(0.0)(given, rng())
    for key in ("image", "label", "depth"):
        np.testing.assert_array_equal(same[key], given[key])
    generator = rng(1)
    small = {"image": np.uint8([[[0] * 3, [9] * 3]])}
    share = np.mean([Flip(0.3)(small, generator)["image"][0, 0, 0] == 9 for _ in range(2000)])
    assert share == pytest.approx(0.3, abs=0.04)


def test_box():
    got = Box(3, 33, 7, 50)(located(), rng())
    y, x, _ = check_aligned(got, slack=0)
    assert (y[0, 0], x[0, 0], y[-1, -1], x[-1, -1]) == (3, 7, 32, 49)
    assert Box(0, H, 0, W)(located(), rng())["image"].shape == (H, W, 3)


@pytest.mark.parametrize(
    "box", [(0, 41, 0, 60), (0, 40, 0, 61), (-1, 9, 0, 9), (5, 5, 0, 9), (0, 9, 8, 4)]
)
def test_a_box_must_fit(box):
    with pytest.raises(DatasetError, match="40 x 60"):
        Box(*box)(located(), rng())


STEPS = {
    "box": Box(2, 38, 3, 50),
    "resize": Resize(ByFactor(0.5, 2.0)),
    "window": Resize(ByFactor(0.5, 2.0), "opencv_linear", crop=(20, 30), cat_max_ratio=0.75),
    "cubic": Resize(AtLeast(50, 7), "opencv_cubic", divide_depth=False),
    "rotate": Rotate(10.0),
    "crop": Crop(20, 30, cat_max_ratio=0.75),
    "pad": Pad(50, 70, fill=(1, 2, 3)),
    "flip": Flip(0.5),
    "mmseg": PhotoMetricDistortion(),
    "bts": ColorJitter(),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_steps_are_pure_functions_of_example_and_generator(step):
    changed = 0
    for seed in range(8):
        given = located()
        before = copy.deepcopy(given)
        for value in given.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        one, two = step(given, rng(seed)), step(given, rng(seed))
        assert set(one) == set(before) and one["name"] == "x"
        for key in ("image", "label", "depth"):
            np.testing.assert_array_equal(given[key], before[key])
            np.testing.assert_array_equal(one[key], two[key])
            assert one[key].dtype == before[key].dtype
            assert set(np.unique(one["label"])) <= {*np.unique(before["label"]), 255}
        changed += not np.array_equal(one["image"], before["image"])
    assert changed >= 2


@pytest.mark.parametrize("seed", range(6))
def test_geometry_stays_joint_through_all_steps(seed):
    steps = [Box(2, 38, 3, 57), Resize(ByFactor(0.8, 1.5)), Rotate(5.0), Crop(30, 40), Flip(0.5)]
    example, generator, factors = located(), rng(seed), []
    for step in steps:
        before = example["depth"].max()
        example = step(example, generator)
        if isinstance(step, Resize):
            factors.append(before / example["depth"].max())
    check_aligned(example, factor=factors[0], slack=2.0)


def camera(example):
    return example | {"intrinsics": np.array([[50, 0, 28], [0, 48, 21], [0, 0, 1]], np.float32)}


def unprojected(example, factor=1.0):
    """Where in space each pixel is, by its source pixel: {row and column of the source: point}."""
    y, x = where(example["depth"], factor=factor)
    rows, columns = np.nonzero(y >= 0)
    rays = np.stack([columns, rows, np.ones_like(rows)]) if len(rows) else np.zeros((3, 0))
    points = (np.linalg.inv(example["intrinsics"].astype(float)) @ rays).T
    return {(y[r, c], x[r, c]): p for r, c, p in zip(rows, columns, points, strict=True)}


@pytest.mark.parametrize(
    ("step", "mirrored"),
    [
        (Box(2, 38, 3, 50), False),
        (Crop(20, 30), False),
        (Pad(50, 70), False),
        (Flip(1.0), True),
        (Resize(ByFactor(2.0, 2.0), crop=(50, 70), divide_depth=False), False),
        (Resize(ByFactor(0.5, 0.5), divide_depth=False), False),
    ],
    ids=["box", "crop", "pad", "flip", "window", "half"],
)
def test_a_pixel_keeps_its_ray(step, mirrored):
    given = camera(located())
    before, after = unprojected(given), unprojected(step(given, rng(1)))
    assert len(after) > 100
    for place, ray in after.items():
        want = before[place] * ([-1, 1, 1] if mirrored else 1)
        # Where sizes change, nearest takes a source pixel up to half of one away.
        np.testing.assert_allclose(ray, want, atol=0.6 / 48 if isinstance(step, Resize) else 1e-6)


def test_intrinsics_where_depth_is_divided_and_where_they_cannot_follow():
    given = camera(located())
    k = Resize(ByFactor(2.0, 2.0))(given, rng())["intrinsics"]
    np.testing.assert_allclose(k, [[50, 0, 56.5], [0, 48, 42.5], [0, 0, 1]])
    assert k.dtype == np.float32 and given["intrinsics"][0, 2] == 28
    assert "intrinsics" not in Rotate(5.0)(given, rng())


@settings(max_examples=20, derandomize=True, deadline=None, database=None)
@for_all(st.integers(0, 2**32 - 1), st.sampled_from(sorted(STEPS)), st.integers(2, 30))
def test_nothing_is_made_up(seed, name, side):
    """Labels from the input or 255; depths from the input, divided by one factor, or 0."""
    generator = np.random.default_rng(seed)
    depth = generator.choice(np.float32([0, 0, 1, 2.5, 7]), (40, 50 + side))
    given = {
        "image": generator.integers(0, 256, (*depth.shape, 3)).astype(np.uint8),
        "label": generator.integers(3, 9, depth.shape).astype(np.uint8),
        "depth": depth,
    }
    got = STEPS[name](given, generator)
    assert set(np.unique(got["label"])) <= {*range(3, 9), 255}
    found, values = np.unique(got["depth"]), np.unique(depth)
    ratio = values.max() / found.max()
    assert np.isclose(found[:, None] * ratio, values, rtol=1e-5).any(1).all()
    assert got["image"].shape[:2] == got["label"].shape == got["depth"].shape


def test_flipping_twice_is_the_identity():
    for key, value in Flip(1.0)(Flip(1.0)(camera(located()), rng()), rng()).items():
        np.testing.assert_array_equal(value, camera(located())[key])
