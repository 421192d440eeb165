# SPDX-License-Identifier: Apache-2.0
"""Scores a model over a split: every image exactly once, whatever the batch size."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpt_jax.evaluation.baseline import PixelPrior
from dpt_jax.evaluation.contact_sheet import Panel, contact_sheet
from dpt_jax.evaluation.inference import Predict, predict_examples
from dpt_jax.evaluation.metrics import DEPTH_METRICS, DepthMeter, SegmentationMeter
from dpt_jax.models.dpt import DPT

SEGMENTATION_METRICS = ("miou", "pixel_accuracy", "mean_accuracy")

# Which score decides what is best, and whether more is better.
MAIN_METRIC = {"depth": ("abs_rel", False), "segmentation": ("miou", True)}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        task: "depth" or "segmentation".
        scores: by name, with the number of images.
        baseline: the same of the trivial baseline, or None.
        classes: one row per class (segmentation), else empty.
        per_image: one row per image, in the order of the split: name and score.
        panels: the first images, for the contact sheet.
        settings: what the numbers depend on: depth limits, resize, split.
    """

    task: str
    scores: dict[str, float | int]
    baseline: dict[str, float | int] | None
    classes: list[dict[str, Any]]
    per_image: list[dict[str, Any]]
    panels: list[Panel]
    settings: dict[str, Any]

    @property
    def main_score(self) -> float:
        """The score that decides what is best."""
        return float(self.scores[MAIN_METRIC[self.task][0]])


def evaluate(
    predict: Predict,
    variables: Any,
    model: DPT,
    examples: Iterable[Mapping[str, Any]],
    *,
    task: str,
    batch_size: int,
    settings: Mapping[str, Any],
    classes: Sequence[str] = (),
    baseline: PixelPrior | None = None,
    place: Callable[[dict[str, np.ndarray]], dict[str, Any]] = lambda batch: batch,
    panels: int = 6,
) -> Evaluation:
    """Predicts every example and scores it at its target's own size.

    Args:
        predict: from `inference.make_predict`.
        variables: of the model.
        model: the model.
        examples: as `data.pipeline.evaluation_examples` yields them.
        task: "depth" or "segmentation".
        batch_size: a multiple of the number of devices; does not change the result.
        settings: what to store with the numbers; depth reads `min_depth` and `max_depth`, metres.
        classes: names (segmentation).
        baseline: scored on the same images, if given.
        place: puts a batch on the devices.
        panels: how many first images to keep for the contact sheet.
    """
    target_key = "depth" if task == "depth" else "label"
    meter = _make_meter(task, model, settings)
    baseline_meter = _make_meter(task, model, settings) if baseline else None
    rows: dict[int, dict[str, Any]] = {}
    kept: dict[int, Panel] = {}
    for example, prediction in predict_examples(
        predict, variables, model, examples, batch_size=batch_size, place=place
    ):
        target, name, index = example[target_key], example["name"], example["index"]
        score = meter.update(name, prediction, target)
        key = "abs_rel" if task == "depth" else "wrong_pixels"
        rows[index] = {"name": name, key: score}
        if baseline and baseline_meter:
            baseline_meter.update(name, baseline.predict(target.shape), target)
        if index < panels:
            kept[index] = Panel(name, example["source_image"], target, prediction, score)
    if not rows:
        raise ValueError("nothing to evaluate: the split has no images")
    return Evaluation(
        task=task,
        scores=meter.result(),
        baseline=baseline_meter.result() if baseline_meter else None,
        classes=meter.table(classes) if isinstance(meter, SegmentationMeter) else [],
        per_image=[rows[i] for i in sorted(rows)],
        panels=[kept[i] for i in sorted(kept)],
        settings=dict(settings),
    )


def _make_meter(
    task: str, model: DPT, settings: Mapping[str, Any]
) -> SegmentationMeter | DepthMeter:
    if task == "segmentation":
        return SegmentationMeter(model.head.num_labels)  # pyright: ignore
    return DepthMeter(min_depth=settings["min_depth"], max_depth=settings["max_depth"])


def format_table(evaluation: Evaluation) -> str:
    """The scores as text, with the baseline's beside them where there is one."""
    names = DEPTH_METRICS if evaluation.task == "depth" else SEGMENTATION_METRICS
    units = {"sq_rel": "m", "rmse": "m", "silog": "x100"}
    lower = {"abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog"}
    lines = [f"  {'':<16}{'model':>9}" + (f"{'baseline':>11}" if evaluation.baseline else "")]
    for name in names:
        line = f"  {name:<16}{evaluation.scores[name]:>9.4f}"
        if evaluation.baseline:
            line += f"{evaluation.baseline[name]:>11.4f}"
        better = "lower" if name in lower else "higher"
        unit = f"{units[name]}, " if name in units else ""
        lines.append(f"{line}   ({unit}{better} is better)")
    if evaluation.classes:
        lines.append(f"  {'class':<20}{'IoU':>8}{'accuracy':>10}{'pixels':>12}")
        for row in evaluation.classes:
            if row["target_pixels"]:
                lines.append(
                    f"  {row['class']:<20}{row['iou']:>8.3f}{row['accuracy']:>10.3f}"
                    f"{row['target_pixels']:>12,}"
                )
        absent = sum(row["target_pixels"] == 0 for row in evaluation.classes)
        if absent:
            lines.append(
                f"  {absent} of {len(evaluation.classes)} classes are in no target; mIoU skips "
                "those that are not predicted either"
            )
    settings = ", ".join(f"{k}={v}" for k, v in evaluation.settings.items() if v is not None)
    lines.append(f"  over {evaluation.scores['images']} images; {settings}")
    empty = evaluation.scores.get("images_without_depth")
    if empty:
        lines.append(f"  {empty} images had no valid depth and are not in the means")
    return "\n".join(lines)


def write_evaluation(
    evaluation: Evaluation,
    directory: str | Path,
    stem: str,
    *,
    palette: np.ndarray,
    classes: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Writes `stem.json` (numbers, settings, per image) and `stem.png` (the contact sheet).

    Returns:
        The two paths. Undefined scores are null in the JSON.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "task": evaluation.task,
        "scores": evaluation.scores,
        "baseline": evaluation.baseline,
        "settings": evaluation.settings,
        "classes": evaluation.classes,
        "per_image": evaluation.per_image,
    }
    json_path, png_path = directory / f"{stem}.json", directory / f"{stem}.png"
    json_path.write_text(json.dumps(_finite(content), indent=2) + "\n")
    name, _ = MAIN_METRIC[evaluation.task]
    title = f"{stem}: {name} {evaluation.main_score:.4f}"
    if evaluation.baseline:
        title += f" (baseline {evaluation.baseline[name]:.4f})"
    sheet = contact_sheet(evaluation.panels, palette=palette, classes=classes, title=title)
    sheet.save(png_path)
    return json_path, png_path


def _finite(value: Any) -> Any:
    """NaN as None, which is what JSON has for it."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
