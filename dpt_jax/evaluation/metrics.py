# SPDX-License-Identifier: Apache-2.0
"""Metrics on the host: integer counts for segmentation, float64 per image for depth.

Both meters give the same result for every batch size and order of images: counts are integers, and
depth scores are kept per image and summed exactly.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

DEPTH_METRICS = (
    "abs_rel",
    "sq_rel",
    "rmse",
    "rmse_log",
    "log10",
    "silog",
    "delta1",
    "delta2",
    "delta3",
)


def confusion_matrix(
    target: np.ndarray, prediction: np.ndarray, num_classes: int, *, ignore: int = 255
) -> np.ndarray:
    """Counts int64 (num_classes, num_classes): row = target, column = prediction.

    Pixels whose target is `ignore` count nowhere, not even as false positives.

    Raises:
        ValueError: shapes differ, or an id outside 0..num_classes-1 (other than `ignore` in
        target).
    """
    if target.shape != prediction.shape:
        raise ValueError(f"target is {target.shape}, prediction is {prediction.shape}")
    valid = target != ignore
    t, p = target[valid].astype(np.int64), prediction[valid].astype(np.int64)
    for name, ids in (("target", t), ("prediction", p)):
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            raise ValueError(
                f"{name} holds class ids {ids.min()}..{ids.max()}; expected 0..{num_classes - 1}"
                f" (and {ignore} for ignored target pixels). Does config.model.head.num_labels fit?"
            )
    counts = np.bincount(t * num_classes + p, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


@dataclasses.dataclass(frozen=True)
class SegmentationScores:
    """Scores of a confusion matrix, fractions in 0..1.

    Attributes:
        miou: mean IoU over the classes that occur in target or prediction (mmseg's convention);
            nan when no pixel was labelled.
        miou_absent_as_zero: mean over all classes, absent ones counted as 0 (CSAIL's convention).
        pixel_accuracy: correct share of the labelled pixels.
        mean_accuracy: mean recall over the classes that occur in the target.
        iou: per class, nan where the class is absent from both.
        accuracy: per class recall, nan where it is absent from the target.
        target_pixels: per class.
        absent: ids of the classes that no target pixel has.
    """

    miou: float
    miou_absent_as_zero: float
    pixel_accuracy: float
    mean_accuracy: float
    iou: np.ndarray
    accuracy: np.ndarray
    target_pixels: np.ndarray
    absent: tuple[int, ...]


def segmentation_scores(confusion: np.ndarray) -> SegmentationScores:
    """The scores of a confusion matrix (k, k) of counts; see `SegmentationScores`."""
    confusion = confusion.astype(np.float64)
    hit = np.diag(confusion)
    target, predicted = confusion.sum(1), confusion.sum(0)
    iou = _ratio(hit, target + predicted - hit)
    accuracy = _ratio(hit, target)
    return SegmentationScores(
        miou=_mean(iou),
        miou_absent_as_zero=float(np.nan_to_num(iou).mean()),
        pixel_accuracy=float(_ratio(hit.sum(), target.sum())),
        mean_accuracy=_mean(accuracy),
        iou=iou,
        accuracy=accuracy,
        target_pixels=target.astype(np.int64),
        absent=tuple(int(i) for i in np.flatnonzero(target == 0)),
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    return float(values[~np.isnan(values)].mean()) if (~np.isnan(values)).any() else math.nan


def depth_scores(
    prediction: np.ndarray, target: np.ndarray, *, min_depth: float, max_depth: float
) -> dict[str, float] | None:
    """Scores of one image over its valid pixels, in float64 (the formulas of BTS's
    `eval_with_pngs`).

    With p the prediction clamped to [min_depth, max_depth], g the target and d = ln p - ln g:
    abs_rel = mean |p - g| / g; sq_rel = mean (p - g)^2 / g, in metres; rmse, in metres; rmse_log =
    sqrt(mean d^2); log10 = mean |log10 p - log10 g|; silog = 100 sqrt(mean d^2 - (mean d)^2);
    delta_k = share of max(p/g, g/p) < 1.25^k, strictly.

    Args:
        prediction: metres (h, w).
        target: metres (h, w); pixels count where min_depth < target < max_depth, strictly.
        min_depth: metres, above 0.
        max_depth: metres.

    Returns:
        The nine scores by the names in `DEPTH_METRICS`, or None where no pixel is valid.

    Raises:
        ValueError: shapes differ, the prediction is not finite, or the limits make no sense.
    """
    if not 0 < min_depth < max_depth:
        raise ValueError(f"expected 0 < min_depth < max_depth, got {min_depth} and {max_depth}")
    if prediction.shape != target.shape:
        raise ValueError(f"target is {target.shape}, prediction is {prediction.shape}")
    if not np.isfinite(prediction).all():
        raise ValueError("the predicted depth holds NaN or infinity")
    valid = (target > min_depth) & (target < max_depth)
    if not valid.any():
        return None
    g = target[valid].astype(np.float64)
    p = np.clip(prediction[valid].astype(np.float64), min_depth, max_depth)
    d = np.log(p) - np.log(g)
    ratio = np.maximum(p / g, g / p)
    return {
        "abs_rel": float(np.mean(np.abs(p - g) / g)),
        "sq_rel": float(np.mean((p - g) ** 2 / g)),
        "rmse": float(np.sqrt(np.mean((p - g) ** 2))),
        "rmse_log": float(np.sqrt(np.mean(d**2))),
        "log10": float(np.mean(np.abs(np.log10(p) - np.log10(g)))),
        "silog": float(100 * np.sqrt(max(np.mean(d**2) - np.mean(d) ** 2, 0.0))),
        **{f"delta{k}": float(np.mean(ratio < 1.25**k)) for k in (1, 2, 3)},
    }


class SegmentationMeter:
    """Sums confusion matrices over images."""

    def __init__(self, num_classes: int):
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.images = 0

    def update(self, name: str, prediction: np.ndarray, target: np.ndarray) -> float:
        """Adds an image of class ids (h, w); returns its share of wrong pixels, or nan."""
        counts = confusion_matrix(target, prediction, len(self.confusion))
        self.confusion += counts
        self.images += 1
        return 1 - segmentation_scores(counts).pixel_accuracy

    def result(self) -> dict[str, float | int]:
        """Scores in 0..1, and the number of images and of classes absent from the targets."""
        scores = segmentation_scores(self.confusion)
        return {
            "miou": scores.miou,
            "miou_absent_as_zero": scores.miou_absent_as_zero,
            "pixel_accuracy": scores.pixel_accuracy,
            "mean_accuracy": scores.mean_accuracy,
            "absent_classes": len(scores.absent),
            "images": self.images,
        }

    def table(self, classes: Sequence[str]) -> list[dict[str, float | int | str]]:
        """One row per class: name, iou, accuracy (nan where undefined) and target pixels."""
        scores = segmentation_scores(self.confusion)
        names = classes or [f"class {i}" for i in range(len(self.confusion))]
        columns = zip(names, scores.iou, scores.accuracy, scores.target_pixels, strict=True)
        return [
            {"class": n, "iou": float(i), "accuracy": float(a), "target_pixels": int(t)}
            for n, i, a, t in columns
        ]


class DepthMeter:
    """Keeps the scores of every image; the result is their mean over images."""

    def __init__(self, *, min_depth: float, max_depth: float):
        self.min_depth, self.max_depth = min_depth, max_depth
        self.scores: list[dict[str, float]] = []
        self.empty: list[str] = []

    def update(self, name: str, prediction: np.ndarray, target: np.ndarray) -> float:
        """Adds an image, metres (h, w); returns its abs_rel, nan without valid pixels.

        Raises:
            ValueError: as `depth_scores`, with the image's name.
        """
        try:
            scores = depth_scores(
                prediction, target, min_depth=self.min_depth, max_depth=self.max_depth
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if scores is None:
            self.empty.append(name)
            return math.nan
        self.scores.append(scores)
        return scores["abs_rel"]

    def result(self) -> dict[str, float | int]:
        """Mean scores, the number of images in the mean, and of those without a valid pixel."""
        count = len(self.scores)
        means = {
            key: math.fsum(s[key] for s in self.scores) / count if count else math.nan
            for key in DEPTH_METRICS
        }
        return {**means, "images": count, "images_without_depth": len(self.empty)}
