# SPDX-License-Identifier: Apache-2.0
"""The trivial baseline against brute force, and the pictures to look at."""

import colorsys
from collections import Counter

import numpy as np
import pytest

from dpt_jax.data.sources.ade20k import PALETTE
from dpt_jax.evaluation import colors
from dpt_jax.evaluation.baseline import PixelPrior
from dpt_jax.evaluation.contact_sheet import Panel, contact_sheet

H, W = 96, 128


def test_the_depth_baseline_is_the_mean_of_what_was_measured():
    rng = np.random.default_rng(0)
    maps = rng.uniform(1, 9, (3, H, W)).astype(np.float32)
    maps[rng.random(maps.shape) < 0.4] = 0
    maps[:, 5, 7] = 0
    prior = PixelPrior(({"depth": m} for m in maps), None)
    got = prior.predict((H, W))
    assert got.dtype == np.float32 and prior.images == 3
    everything = maps[maps > 0].astype(np.float64).mean()
    for y in range(0, H, 5):
        for x in range(0, W, 7):
            seen = [float(m[y, x]) for m in maps if m[y, x] > 0]
            want = sum(seen) / len(seen) if seen else everything
            assert got[y, x] == pytest.approx(want, rel=1e-5)
    assert got[5, 7] == pytest.approx(everything, rel=1e-5)


def test_the_class_baseline_is_the_most_frequent_class():
    rng = np.random.default_rng(1)
    maps = rng.integers(0, 4, (5, H, W)).astype(np.uint8)
    maps[:, :20] = 2
    maps[rng.random(maps.shape) < 0.3] = 255
    maps[:, 5, 7] = 255
    prior = PixelPrior(({"label": m} for m in maps), 4)
    got = prior.predict((H, W))
    assert got.dtype == np.uint8 and prior.images == 5
    overall = Counter(maps[maps != 255].tolist()).most_common(1)[0][0]
    for y in range(H):
        for x in range(W):
            votes = Counter(m[y, x] for m in maps if m[y, x] != 255)
            if votes:
                assert votes[got[y, x]] == max(votes.values())
            else:
                assert got[y, x] == overall
    assert got[5, 7] == overall == 2


def test_targets_of_all_sizes_meet_on_the_grid():
    small = np.full((48, 64), 2.0, np.float32)
    large = np.full((192, 256), 4.0, np.float32)
    large[:96] = 0  # nothing measured in the upper half, and no average with it
    got = PixelPrior([{"depth": small}, {"depth": large}], None).predict((H, W))
    np.testing.assert_allclose(got[:48], 2, rtol=1e-6)
    np.testing.assert_allclose(got[48:], 3, rtol=1e-6)


@pytest.mark.parametrize("size", [(192, 256), (480, 640), (31, 17)])
def test_answers_come_at_the_size_asked_for(size):
    rows = np.repeat(np.arange(1, H + 1, dtype=np.float32)[:, None], W, 1)
    depth = PixelPrior([{"depth": rows}], None).predict(size)
    assert depth.shape == size
    # A ramp stays a ramp under a bilinear resize, away from its ends.
    want = (np.arange(size[0]) + 0.5) * H / size[0] + 0.5
    inner = slice(size[0] // 10, -(size[0] // 10))
    np.testing.assert_allclose(depth[inner, size[1] // 2], want[inner], rtol=1e-4, atol=0.02)
    halves = np.where(np.arange(W) < W // 2, 3, 9)[None].repeat(H, 0).astype(np.uint8)
    classes = PixelPrior([{"label": halves}], 10).predict(size)
    assert classes.shape == size and set(np.unique(classes)) == {3, 9}
    assert (classes[:, : size[1] // 2] == 3).all() and (classes[:, -(size[1] // 2) :] == 9).all()


def test_the_baseline_needs_an_image():
    with pytest.raises(ValueError, match="at least one"):
        PixelPrior([], None)


def test_label_colors():
    palette = np.array([[1, 2, 3], [40, 50, 60]], np.uint8)
    got = colors.label_colors(np.array([[0, 1], [2, 255]], np.uint8), palette)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, [[[1, 2, 3], [40, 50, 60]], [[0, 0, 0], [0, 0, 0]]])
    all_of_them = np.arange(150, dtype=np.uint8)[None]
    np.testing.assert_array_equal(colors.label_colors(all_of_them, PALETTE)[0], PALETTE)


def test_depth_colors_run_from_red_to_blue():
    depth = np.geomspace(0.5, 8, 200)[None]
    got = colors.depth_colors(depth, 0.5, 8)[0]
    hues = np.array([(colorsys.rgb_to_hsv(*(c / 255))[0] + 0.25) % 1 for c in got])
    assert (np.diff(hues) > -0.01).all() and hues[-1] - hues[0] > 0.5
    assert got[0, 0] > got[0, 1:].max() and got[-1, 2] > got[-1, :2].max()
    # Logarithmic: equal ratios are equal steps, in whatever unit.
    np.testing.assert_array_equal(colors.depth_colors(10 * depth, 5, 80)[0], got)
    middles = [
        colors.depth_colors(np.array([[np.sqrt(far)]]), 1, far)[0, 0].astype(int)
        for far in (4.0, 9.0, 100.0)
    ]
    assert np.ptp(middles, axis=0).max() <= 1


def test_depth_colors_end_at_the_limits_and_holes_are_grey():
    got = colors.depth_colors(np.array([[0.1, 1, 4, 99, 0, -1]]), 1, 4)[0]
    np.testing.assert_array_equal(got[0], got[1])
    np.testing.assert_array_equal(got[2], got[3])
    np.testing.assert_array_equal(got[4:], [colors.NO_VALUE] * 2)
    # Degenerate limits, such as those of a flat wall or an empty map.
    assert colors.depth_colors(np.ones((2, 2)), 1, 1).shape == (2, 2, 3)
    assert colors.depth_colors(np.zeros((2, 2)), 0, 0).shape == (2, 2, 3)


def test_error_colors():
    errors = np.concatenate([np.linspace(0, 0.5, 40), [7.0, np.nan]])[None]
    got = colors.error_colors(errors, 0.5)[0].astype(int)
    assert (np.diff(got[:40].sum(1)) >= 0).all()
    assert got[0].max() < 40, "black"
    assert min(got[39, :2]) > 200 > got[39, 2], "yellow"
    np.testing.assert_array_equal(got[40], got[39])
    np.testing.assert_array_equal(got[41], colors.NO_VALUE)


def count(sheet, color):
    return int((np.asarray(sheet) == np.asarray(color)).all(-1).sum())


def quarter_panel(ids=(0, 1, 2)):
    """Target: left half class a, right half class b, upper quarter ignored; prediction: all a."""
    a, b, _ = ids
    target = np.where(np.arange(40) < 20, a, b)[None].repeat(40, 0).astype(np.uint8)
    target[:10] = 255
    prediction = np.full((40, 40), a, np.uint8)
    return Panel("a/b.png", np.full((40, 40, 3), 200, np.uint8), target, prediction, 0.5)


def test_a_segmentation_sheet_shows_classes_and_wrong_pixels():
    palette = np.array([[10, 200, 30], [200, 10, 230], [30, 30, 90]], np.uint8)
    sheet = contact_sheet(
        [quarter_panel()], palette=palette, classes=("x", "y", "z"), cell_width=80
    )
    assert sheet.mode == "RGB" and sheet.width >= 4 * 80 and sheet.height >= 80
    area, slack = 80 * 80, 300  # the legend's squares
    assert 0 <= count(sheet, palette[0]) - area * (3 / 8 + 1) <= slack
    assert 0 < count(sheet, palette[1]) - area * 3 / 8 <= slack
    assert count(sheet, palette[2]) == 0, "not in sight, not in the legend"
    assert 0 <= count(sheet, (200, 200, 200)) - area <= slack
    assert 0 <= count(sheet, colors.NO_VALUE) - area / 4 <= slack
    wrong = colors.error_colors(np.ones((1, 1)), 1.0)[0, 0]
    assert 0 <= count(sheet, wrong) - area * 3 / 8 <= slack
    assert sum(wrong.astype(int)) > 500


@pytest.mark.parametrize("classes", [(), tuple(f"a rather long name {i}" for i in range(150))])
def test_a_legend_of_150_classes(classes):
    rng = np.random.default_rng(0)
    target = np.resize(np.arange(150, dtype=np.uint8), (30, 40))
    prediction = rng.integers(0, 150, (30, 40)).astype(np.uint8)
    panel = Panel("x", np.zeros((30, 40, 3), np.uint8), target, prediction, 0.9)
    few = contact_sheet([quarter_panel()], palette=PALETTE, classes=classes, cell_width=60)
    many = contact_sheet([panel], palette=PALETTE, classes=classes, cell_width=60)
    assert many.height > few.height + 100
    legend = many.crop((0, few.height, many.width, many.height))
    assert all(count(legend, color) > 50 for color in PALETTE[20::30])


def test_a_depth_sheet_shares_one_scale_per_row():
    target = np.full((20, 30), 2.0, np.float32)
    target[:, 10:20] = 8.0
    target[:, 20:] = 0.0
    prediction = target.copy()
    prediction[:, 20:] = 4.0
    panel = Panel("x", np.full((20, 30, 3), 255, np.uint8), target, prediction, 0.1)
    sheet = contact_sheet([panel], palette=np.zeros((0, 3), np.uint8), cell_width=90)
    near, middle, far = colors.depth_colors(np.array([[2.0, 4.0, 8.0]]), 2.0, 8.0)[0]
    third = 90 * 60 // 3
    assert 2 * third <= count(sheet, near) <= 2 * third + 50
    assert 2 * third <= count(sheet, far) <= 2 * third + 50
    assert third <= count(sheet, middle) <= third + 50
    # Holes of the target are grey in the target and in the error.
    assert 2 * third <= count(sheet, colors.NO_VALUE) <= 2 * third + 50


def test_the_depth_error_is_relative_and_full_at_one_half():
    target = np.full((20, 20), 4.0, np.float32)
    target[0, 0] = 1.0
    full = colors.error_colors(np.ones((1, 1)), 1.0)[0, 0]
    for value, share in ((6.0, 1.0), (2.0, 1.0), (5.0, 0.0)):
        prediction = np.full((20, 20), value, np.float32)
        panel = Panel("x", np.zeros((20, 20, 3), np.uint8), target, prediction, 0.1)
        sheet = contact_sheet([panel], palette=np.zeros((0, 3), np.uint8), cell_width=60)
        assert count(sheet, full) == pytest.approx(share * 3600, abs=40)


@pytest.mark.parametrize("cell_width", [60, 240])
def test_rows_keep_their_aspect_ratio(cell_width):
    def sheet(*sizes):
        return contact_sheet(
            [Panel("x", np.zeros((*s, 3), np.uint8), np.ones(s), np.ones(s), 0.0) for s in sizes],
            palette=np.zeros((0, 3), np.uint8),
            title="t",
            cell_width=cell_width,
        )

    one = sheet((20, 20))
    assert 4 * cell_width <= one.width < 4 * cell_width + 60
    assert sheet((40, 20)).height - one.height == cell_width
    assert sheet((10, 20)).height - one.height == -cell_width // 2
    two, three = sheet((20, 20), (20, 20)), sheet((20, 20), (20, 20), (20, 20))
    assert three.height - two.height == two.height - one.height > cell_width
    assert three.width == one.width


def test_holes_everywhere_are_drawn():
    zero = np.zeros((8, 8), np.float32)
    panel = Panel("x", np.zeros((8, 8, 3), np.uint8), zero, zero, float("nan"))
    sheet = contact_sheet([panel], palette=np.zeros((0, 3), np.uint8), cell_width=50)
    assert count(sheet, colors.NO_VALUE) >= 2 * 2500


def test_a_sheet_needs_a_panel():
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], palette=PALETTE)
