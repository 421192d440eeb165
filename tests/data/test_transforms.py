# SPDX-License-Identifier: Apache-2.0
"""Augmentations of examples whose pixels say where they came from."""

import colorsys
import copy
import itertools

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.transforms import (
    Box,
    ColorJitter,
    Crop,
    Flip,
    PhotoMetricDistortion,
    Rotate,
    Scale,
    build_augmentations,
    model_input_size,
    resize_image,
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
    got = Scale(factor, factor)(located(), rng())
    assert got["image"].shape == (round(H * factor), round(W * factor), 3)
    # Nearest and bilinear may differ by half a source pixel, plus rounding.
    y, x, real = check_aligned(got, factor=factor, slack=1.0 if factor > 0.6 else 1.6)
    assert real.all()
    rows, columns = np.mgrid[: len(y), : y.shape[1]]
    assert np.abs((rows + 0.5) * H / len(y) - 0.5 - y).max() <= 0.51
    assert np.abs((columns + 0.5) * W / y.shape[1] - 0.5 - x).max() <= 0.51


def test_scale_draws_from_its_range_and_counts_the_long_side():
    wide = [Scale(0.5, 2.0)(located(), rng(s))["image"].shape[1] for s in range(60)]
    assert 0.5 * W <= min(wide) < 0.65 * W and 1.85 * W < max(wide) <= 2 * W
    for example, size in ((located(), (60, 90)), (located(40, 20), (90, 45))):
        got = Scale(1.5, 1.5, long_side=60)(example, rng())
        assert got["image"].shape[:2] == size
        share = 90 / max(example["image"].shape[:2])
        assert got["depth"].max() == pytest.approx(example["depth"].max() / share)


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
    got = Crop(*size)(located(), rng(3))
    assert got["image"].shape == (*size, 3)
    y, x, real = check_aligned(got, slack=0)
    h, w = min(size[0], H), min(size[1], W)
    assert real[:h, :w].all() and real.sum() == h * w
    assert not got["image"][~real].any() and not got["depth"][~real].any()
    assert (got["label"][~real] == 255).all()
    assert (size[0] < H or y[0, 0] == 0) and (size[1] < W or x[0, 0] == 0)


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


def random_image(seed=0, size=(12, 14)):
    """Strong and weak colours, dark and light."""
    generator = rng(seed)
    image = generator.integers(0, 256, (*size, 3))
    image[:4] = image[:4] // 8 + 100
    return image.astype(np.uint8)


def distorted(image, brightness, first, contrast, saturation, hue):
    """The steps of mmseg in floating point; None leaves a step out."""

    def clipped(x):
        return np.clip(x, 0, 255)

    x = image.astype(float)
    if brightness is not None:
        x = clipped(x + brightness)
    if first and contrast is not None:
        x = clipped(x * contrast)
    if saturation is not None or hue is not None:
        for place in np.ndindex(x.shape[:2]):
            h, s, v = colorsys.rgb_to_hsv(*(x[place] / 255))
            h, s = (h + (hue or 0) / 180) % 1, min(s * (saturation or 1), 1)
            x[place] = 255 * np.array(colorsys.hsv_to_rgb(h, s, v))
    if not first and contrast is not None:
        x = clipped(x * contrast)
    return x


@pytest.mark.parametrize("high", [True, False])
def test_distortion_follows_the_steps_of_mmseg(high):
    step = PhotoMetricDistortion(contrast=(1.5, 1.5), saturation=(0.7, 1.3), hue=11)
    end = int(high)
    on = ((-32, 32)[end], True, 1.5, (0.7, 1.3)[end], (-11, 11)[end])
    off = (None, False, None, None, None)
    image = random_image()
    options = list(itertools.product((False, True), repeat=5))
    wants = [
        distorted(image, *(on[i] if yes else off[i] for i, yes in enumerate(o))) for o in options
    ]
    # Every outcome of the five coins is one of the 32 pictures, and each of those comes up.
    nearest = []
    for coins in options:
        script = Script(coins=[0.49 if c else 0.51 for c in coins], high=high)
        got = step({"image": image}, script)["image"]
        assert not script.coins and got.dtype == np.uint8
        errors = [np.abs(got - want) for want in wants]
        best = int(np.argmin([e.mean() for e in errors]))
        assert errors[best].max() <= 13 and errors[best].mean() < 2.0
        nearest.append(best)
    # The order of contrast matters only together with a step in HSV.
    apart = {o for o in options if not o[1] or (o[2] and (o[3] or o[4]))}
    assert {options[i] for i in nearest} >= apart


def test_half_of_the_distortions_are_left_out():
    image = random_image(size=(8, 8))
    generator = rng(0)
    same = [
        np.array_equal(PhotoMetricDistortion()({"image": image}, generator)["image"], image)
        for _ in range(1500)
    ]
    assert np.mean(same) == pytest.approx(1 / 16, abs=0.03)


@pytest.mark.parametrize("high", [True, False])
def test_the_jitter_of_bts(high):
    image = random_image(1)
    gamma, brightness, tint = (1.1, 1.25, 1.1) if high else (0.9, 0.75, 0.9)
    got = ColorJitter()({"image": image}, Script(coins=[0.5], high=high))["image"]
    want = np.clip((image / 255.0) ** gamma * brightness * tint * 255, 0, 255)
    assert np.abs(got - want).max() <= 1 and got.dtype == np.uint8
    same = ColorJitter()({"image": image}, Script(coins=[0.49]))["image"]
    np.testing.assert_array_equal(same, image)


def test_each_channel_has_a_tint_of_its_own():
    grey = np.full((2, 2, 3), 100, np.uint8)
    got = [ColorJitter()({"image": grey}, rng(s))["image"][0, 0] for s in range(40)]
    coloured = [c for c in got if len(set(c.tolist())) > 1]
    assert 8 < len(coloured) < 32


STEPS = {
    "box": Box(2, 38, 3, 50),
    "scale": Scale(0.5, 2.0),
    "rotate": Rotate(10.0),
    "crop": Crop(20, 30, cat_max_ratio=0.75),
    "pad": Crop(50, 70),
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


@pytest.mark.parametrize("step", [PhotoMetricDistortion(), ColorJitter()])
def test_colour_steps_leave_targets_alone(step):
    for seed in range(6):
        got = step(located(), rng(seed))
        np.testing.assert_array_equal(got["label"], located()["label"])
        np.testing.assert_array_equal(got["depth"], located()["depth"])
        assert got["image"].shape == (H, W, 3)


@pytest.mark.parametrize("seed", range(6))
def test_geometry_stays_joint_through_all_steps(seed):
    steps = [Box(2, 38, 3, 57), Scale(0.8, 1.5), Rotate(5.0), Crop(30, 40), Flip(0.5)]
    example, generator, factors = located(), rng(seed), []
    for step in steps:
        before = example["depth"].max()
        example = step(example, generator)
        if isinstance(step, Scale):
            factors.append(before / example["depth"].max())
    check_aligned(example, factor=factors[0], slack=2.0)


OFF = {
    "box": None,
    "scale": None,
    "long_side": None,
    "rotate": None,
    "crop": None,
    "cat_max_ratio": 1.0,
    "flip": 0.0,
    "photometric": None,
}


def test_build_augmentations():
    assert build_augmentations(OFF) == ()
    on = {
        "photometric": "mmseg",
        "flip": 0.5,
        "crop": [20, 30],
        "cat_max_ratio": 0.75,
        "rotate": 2.5,
        "scale": (0.5, 2.0),
        "long_side": 520,
        "box": (1, 2, 3, 4),
    }
    assert build_augmentations(on) == (
        Box(1, 2, 3, 4),
        Scale(0.5, 2.0, long_side=520),
        Rotate(2.5),
        Crop(20, 30, cat_max_ratio=0.75),
        Flip(0.5),
        PhotoMetricDistortion(),
    )
    assert build_augmentations(OFF | {"photometric": "bts"}) == (ColorJitter(),)
    with pytest.raises(DatasetError, match=r"'sepia'.*mmseg, bts"):
        build_augmentations(OFF | {"photometric": "sepia"})


@pytest.mark.parametrize(
    ("source", "size", "multiple_of", "want"),
    [
        ((480, 640), 384, 32, (384, 512)),
        ((480, 640), 512, 32, (512, 672)),
        ((480, 640), 518, 14, (518, 686)),
        ((480, 640), 480, 32, (480, 640)),
        ((375, 1242), 384, 32, (384, 1280)),
        ((1080, 1920), 384, 32, (384, 672)),
        ((333, 500), 384, 32, (384, 576)),
        ((333, 500), 512, 32, (352, 512)),
        ((489, 640), 512, 32, (512, 672)),
        # Never nothing.
        ((10, 3000), 384, 32, (32, 384)),
        ((3000, 10), 384, 32, (384, 32)),
    ],
)
def test_model_input_size_is_that_of_the_reference(source, size, multiple_of, want):
    options = {"size": size, "multiple_of": multiple_of}
    assert model_input_size(*source, keep_aspect_ratio=True, **options) == want
    side = round(size / multiple_of) * multiple_of
    assert model_input_size(*source, keep_aspect_ratio=False, **options) == (side, side)


@pytest.mark.parametrize("size", [(24, 35), (6, 7), (13, 40), (12, 14)])
def test_resize_image_is_bicubic_of_pillow(size):
    image = random_image(2)
    want = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    got = resize_image(image, size)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, want)
