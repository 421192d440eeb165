# SPDX-License-Identifier: Apache-2.0
"""Metrics against scikit-learn, scalar loops, a published golden vector and a real sample."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.sources.ade20k import ade20k
from dpt_jax.evaluation.metrics import (
    DEPTH_METRICS,
    DepthMeter,
    SegmentationMeter,
    confusion_matrix,
    depth_scores,
    segmentation_scores,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
LIMITS = {"min_depth": 1e-3, "max_depth": 10.0}


def class_maps(seed, classes=6, size=(9, 11), ignored=0.2):
    rng = np.random.default_rng(seed)
    target, prediction = rng.integers(0, classes, (2, *size)).astype(np.uint8)
    prediction = np.where(rng.random(size) < 0.5, target, prediction)
    target = np.where(rng.random(size) < ignored, np.uint8(255), target)
    return target, prediction


@pytest.mark.parametrize("ignore", [255, 0, 3])
@pytest.mark.parametrize("seed", range(3))
def test_confusion_is_that_of_scikit_learn(seed, ignore):
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    target, prediction = class_maps(seed)
    target = np.where(target == 255, np.uint8(ignore), target)
    keep = target != ignore
    want = sklearn.confusion_matrix(target[keep], prediction[keep], labels=range(8))
    got = confusion_matrix(target, prediction, 8, ignore=ignore)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, want)


def test_rows_are_targets_and_columns_predictions():
    target = np.array([[0, 0, 1, 255]], np.uint8)
    prediction = np.array([[0, 2, 2, 1]], np.uint8)
    np.testing.assert_array_equal(
        confusion_matrix(target, prediction, 3), [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    )


def test_large_ids_do_not_wrap():
    target = np.full((3, 3), 149, np.uint8)
    got = confusion_matrix(target, target, 150)
    assert got[149, 149] == 9 and got.sum() == 9


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(seed):
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    target, prediction = class_maps(seed, classes=5)
    target[target == 2] = 255  # class 2 is predicted only, classes 5 and 6 do not occur
    keep = target != 255
    t, p = target[keep], prediction[keep]
    scores = segmentation_scores(confusion_matrix(target, prediction, 7))
    jaccard = sklearn.jaccard_score(t, p, labels=range(7), average=None, zero_division=0)
    recall = sklearn.recall_score(t, p, labels=range(7), average=None, zero_division=0)
    np.testing.assert_allclose(scores.iou[:5], jaccard[:5])
    assert np.isnan(scores.iou[5:]).all() and scores.iou[2] == 0
    assert scores.miou == pytest.approx(jaccard[:5].mean())
    assert scores.miou_absent_as_zero == pytest.approx(jaccard.mean())
    assert scores.pixel_accuracy == pytest.approx(sklearn.accuracy_score(t, p))
    assert scores.mean_accuracy == pytest.approx(recall[[0, 1, 3, 4]].mean())
    np.testing.assert_allclose(scores.accuracy[[0, 1, 3, 4]], recall[[0, 1, 3, 4]])
    assert np.isnan(scores.accuracy[[2, 5, 6]]).all()
    np.testing.assert_array_equal(scores.target_pixels, np.bincount(t, minlength=7))
    assert scores.absent == (2, 5, 6)


def test_scores_by_hand():
    # Class 0: hit 2, one more in the target. Class 1: hit 1, one more predicted. Class 2: absent
    # from the target, predicted once (IoU 0, no recall). Class 3: absent from both.
    confusion = np.array([[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = segmentation_scores(confusion)
    np.testing.assert_allclose(scores.iou, [2 / 3, 1 / 3, 0, np.nan])
    np.testing.assert_allclose(scores.accuracy, [2 / 3, 1 / 2, np.nan, np.nan])
    assert scores.miou == pytest.approx(1 / 3)
    assert scores.miou_absent_as_zero == pytest.approx(1 / 4)
    assert scores.pixel_accuracy == pytest.approx(3 / 5)
    assert scores.mean_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores.absent == (2, 3)


def test_without_a_labelled_pixel_there_is_no_score():
    ignored = np.full((2, 2), 255, np.uint8)
    prediction = np.array([[0, 1], [200, 255]], np.uint8)  # not looked at
    counts = confusion_matrix(ignored, prediction, 3)
    assert counts.shape == (3, 3) and counts.sum() == 0
    scores = segmentation_scores(counts)
    assert math.isnan(scores.miou) and math.isnan(scores.pixel_accuracy)
    assert math.isnan(scores.mean_accuracy) and scores.absent == (0, 1, 2)
    meter = SegmentationMeter(3)
    assert math.isnan(meter.update("x", prediction, ignored))
    assert meter.result()["images"] == 1 and math.isnan(meter.result()["miou"])


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([[0, 3]], [[0, 0]], "target holds class ids 0..3"),
        ([[0, 254]], [[0, 0]], "target"),
        ([[0, -1]], [[0, 0]], "target"),
        ([[0, 1]], [[0, 3]], "prediction holds class ids 0..3"),
        ([[0, 1]], [[0, 255]], "prediction"),
        ([[0, 1]], [[0], [1]], "target is .1, 2.*prediction is .2, 1"),
    ],
)
def test_ids_and_shapes_must_fit(target, prediction, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(target), np.array(prediction), 3)


def test_the_segmentation_meter_sums_over_images():
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    maps = [class_maps(seed, size=(5 + seed, 7)) for seed in range(5)]
    meter, backwards = SegmentationMeter(6), SegmentationMeter(6)
    for i, (target, prediction) in enumerate(maps):
        keep = target != 255
        share = meter.update(str(i), prediction, target)
        assert share == pytest.approx((prediction != target)[keep].mean())
    for i, (target, prediction) in reversed(list(enumerate(maps))):
        backwards.update(str(i), prediction, target)
    assert backwards.result() == meter.result()
    assert meter.result()["images"] == 5 and meter.result()["absent_classes"] == 0
    t, p = (np.concatenate([m[k].ravel() for m in maps]) for k in range(2))
    keep = t != 255
    want = sklearn.jaccard_score(t[keep], p[keep], labels=range(6), average="macro")
    assert meter.result()["miou"] == pytest.approx(want)
    rows = meter.table(list("abcdef"))
    assert [row["class"] for row in rows] == list("abcdef")
    assert sum(row["target_pixels"] for row in rows) == keep.sum()
    assert np.mean([row["iou"] for row in rows]) == pytest.approx(want)
    assert meter.table(())[2]["class"] == "class 2"


def test_the_official_sample_of_ade20k():
    folder = SHARED / "ade20k_sample"
    if not folder.is_dir():
        pytest.skip("the ADE20K sample is not next to this repository")
    source = ade20k(root=str(folder), split="validation")
    meter = SegmentationMeter(150)
    for i in range(len(source)):
        name = Path(source.name(i)).stem
        stored = np.asarray(Image.open(folder / "predictions" / f"{name}.png")).astype(int)
        # What is predicted where the target is ignored does not matter.
        prediction = np.where(stored == 0, 0, stored - 1).astype(np.uint8)
        assert meter.update(name, prediction, source[i]["label"]) == 0
    result = meter.result()
    assert result["images"] == 3
    assert result["pixel_accuracy"] == 1.0 and result["miou"] == 1.0
    assert result["miou_absent_as_zero"] == pytest.approx(0.1, abs=1e-12)
    assert result["absent_classes"] == 150 - 15


def test_the_golden_vector():
    target = np.array([[1, 2, 4], [8, 0, 5]], np.float32)
    prediction = np.array([[1.1, 1.6, 4.4], [8.8, 3, 12]])
    scores = depth_scores(prediction, target, **LIMITS)
    want = (0.3, 1.042, 2.279035, 0.333916, 0.104424, 29.772835, 0.6, 0.8, 0.8)
    assert scores is not None and tuple(scores) == DEPTH_METRICS
    for key, value in zip(DEPTH_METRICS, want, strict=True):
        assert scores[key] == pytest.approx(value, abs=1e-6), key


def scalar_scores(prediction, target, low, high):
    pairs = [
        (min(max(float(p), low), high), float(g))
        for p, g in zip(prediction.ravel(), target.ravel(), strict=True)
        if low < g < high
    ]
    n = len(pairs)

    def mean(f):
        return math.fsum(f(p, g) for p, g in pairs) / n

    def log_error(p, g):
        return math.log(p) - math.log(g)

    square, average = mean(lambda p, g: log_error(p, g) ** 2), mean(log_error)
    return {
        "abs_rel": mean(lambda p, g: abs(p - g) / g),
        "sq_rel": mean(lambda p, g: (p - g) ** 2 / g),
        "rmse": math.sqrt(mean(lambda p, g: (p - g) ** 2)),
        "rmse_log": math.sqrt(square),
        "log10": mean(lambda p, g: abs(math.log10(p) - math.log10(g))),
        "silog": 100 * math.sqrt(square - average**2),
        "delta1": mean(lambda p, g: max(p / g, g / p) < 1.25),
        "delta2": mean(lambda p, g: max(p / g, g / p) < 1.25**2),
        "delta3": mean(lambda p, g: max(p / g, g / p) < 1.25**3),
    }


def depth_maps(seed, size=(7, 9)):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0, 12, size).astype(np.float32)
    target[rng.random(size) < 0.3] = 0
    prediction = target * np.exp(0.4 * rng.standard_normal(size)) + rng.uniform(-0.5, 0.5, size)
    return prediction.astype(np.float32), target


@pytest.mark.parametrize("limits", [(1e-3, 10.0), (1.0, 5.0), (0.5, 80.0)])
@pytest.mark.parametrize("seed", range(3))
def test_depth_scores_are_the_formulas(seed, limits):
    prediction, target = depth_maps(seed)
    got = depth_scores(prediction, target, min_depth=limits[0], max_depth=limits[1])
    assert got == pytest.approx(scalar_scores(prediction, target, *limits), rel=1e-9, abs=1e-9)


def test_depth_bounds_and_deltas_are_strict():
    target = np.array([[1.0, 10.0, 2.0, 4.0, 4.0, 0.0]])
    prediction = np.array([[9.0, 1.0, 2.0, 5.0, 5.0 - 1e-9, 7.0]])
    scores = depth_scores(prediction, target, min_depth=1.0, max_depth=10.0)
    assert scores is not None
    assert scores["delta1"] == pytest.approx(2 / 3) and scores["delta2"] == 1
    assert scores["abs_rel"] == pytest.approx(1 / 6)
    target, power = np.full((1, 1), 1.0), 1.25**3
    got = depth_scores(np.full((1, 1), power), target, **LIMITS)
    assert got is not None and got["delta3"] == 0


def test_a_constant_factor_has_no_silog():
    target = depth_maps(4)[1]
    scores = depth_scores(1.3 * target.astype(np.float64), target, min_depth=0.5, max_depth=99.0)
    assert scores is not None
    assert scores["silog"] == pytest.approx(0, abs=1e-4) and scores["abs_rel"] > 0.2


@pytest.mark.parametrize(
    ("prediction", "target", "limits", "message"),
    [
        ([[np.nan, 1]], [[1, 1]], (1e-3, 10), "NaN"),
        ([[np.inf, 1]], [[1, 1]], (1e-3, 10), "infinity"),
        ([[np.nan, 1]], [[0, 1]], (1e-3, 10), "NaN"),
        ([[1.0]], [[1.0, 1.0]], (1e-3, 10), "target is .1, 2.*prediction is .1, 1"),
        ([[1.0]], [[1.0]], (0, 10), "min_depth"),
        ([[1.0]], [[1.0]], (-1, 10), "min_depth"),
        ([[1.0]], [[1.0]], (10, 10), "max_depth"),
        ([[1.0]], [[1.0]], (10, 1), "max_depth"),
    ],
)
def test_depth_mistakes_are_errors(prediction, target, limits, message):
    prediction, target = np.array(prediction, float), np.array(target, float)
    with pytest.raises(ValueError, match=message):
        depth_scores(prediction, target, min_depth=limits[0], max_depth=limits[1])
    if 0 < limits[0] < limits[1]:
        meter = DepthMeter(min_depth=limits[0], max_depth=limits[1])
        with pytest.raises(ValueError, match=f"scene/7.png.*{message}"):
            meter.update("scene/7.png", prediction, target)


def test_the_depth_meter_is_the_mean_over_images_in_any_order():
    maps = {str(seed): depth_maps(seed, (3 + seed, 8)) for seed in range(7)}
    singles = [scalar_scores(*pair, 1e-3, 10.0) for pair in maps.values()]
    results = []
    for seed in range(4):
        names = list(maps)
        np.random.default_rng(seed).shuffle(names)
        meter = DepthMeter(**LIMITS)
        for name in names:
            abs_rel = meter.update(name, *maps[name])
            assert abs_rel == pytest.approx(singles[int(name)]["abs_rel"])
        assert math.isnan(meter.update("hole", np.ones((2, 2)), np.zeros((2, 2))))
        results.append(meter.result())
    assert all(result == results[0] for result in results), "bit for bit"
    assert results[0]["images"] == 7 and results[0]["images_without_depth"] == 1
    for key in DEPTH_METRICS:
        assert results[0][key] == pytest.approx(np.mean([s[key] for s in singles]), rel=1e-9)


def test_no_valid_pixel_is_no_score():
    for value in (0.0, 1e-3, 10.0, 11.0, -1.0, np.nan):
        assert depth_scores(np.ones((2, 3)), np.full((2, 3), value), **LIMITS) is None
    empty = DepthMeter(**LIMITS).result()
    assert empty["images"] == 0 and all(math.isnan(empty[key]) for key in DEPTH_METRICS)
