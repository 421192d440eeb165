# SPDX-License-Identifier: Apache-2.0
"""A picture to judge at a glance: image, target, prediction and error, row by row."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dpt_jax.evaluation import colors

_GAP, _HEADER, _CAPTION = 6, 22, 18


@dataclasses.dataclass(frozen=True)
class Panel:
    """One evaluated image.

    Attributes:
        name: of the example.
        image: uint8 (h, w, 3).
        target: depth in metres or class ids, (h, w).
        prediction: like `target`.
        score: abs_rel (depth) or share of wrong pixels (segmentation).
    """

    name: str
    image: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    score: float


def contact_sheet(
    panels: Sequence[Panel],
    *,
    palette: np.ndarray,
    classes: Sequence[str] = (),
    title: str = "",
    cell_width: int = 240,
) -> Image.Image:
    """Draws panels as rows of image | target | prediction | error.

    Depth targets are float arrays: target and prediction share one colour scale per row, and the
    error is |prediction - target| / target, full at 0.5. Class ids are uint8 arrays: the error
    column shows wrong pixels bright and ignored ones grey, and a legend lists the classes in sight.

    Args:
        panels: at least one.
        palette: uint8 (k, 3), colours of the classes.
        classes: their names.
        title: written on top.
        cell_width: pixels of each picture.
    """
    if not panels:
        raise ValueError("a contact sheet needs at least one image")
    segmentation = panels[0].target.dtype == np.uint8
    rows = []
    for panel in panels:
        cells = _segmentation_cells(panel, palette) if segmentation else _depth_cells(panel)
        height = max(1, round(cell_width * panel.image.shape[0] / panel.image.shape[1]))
        rows.append((panel, cells, height))
    legend = _legend(panels, palette, classes) if segmentation else []
    width = 4 * cell_width + 5 * _GAP
    per_line = max(1, width // 120)
    legend_height = 18 * -(-len(legend) // per_line) + _GAP if legend else 0
    total = 2 * _HEADER + sum(height + _CAPTION + _GAP for *_, height in rows) + legend_height
    sheet = Image.new("RGB", (width, total), (250, 250, 250))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    draw.text((_GAP, 4), title, fill=(0, 0, 0), font=font)
    heads = ("image", "target", "prediction", "wrong pixels" if segmentation else "relative error")
    for i, head in enumerate(heads):
        draw.text((_GAP + i * (cell_width + _GAP), _HEADER + 3), head, fill=(70, 70, 70), font=font)
    y = 2 * _HEADER
    for panel, cells, height in rows:
        for i, cell in enumerate(cells):
            kernel = Image.Resampling.NEAREST if i else Image.Resampling.BILINEAR
            picture = Image.fromarray(cell).resize((cell_width, height), kernel)
            sheet.paste(picture, (_GAP + i * (cell_width + _GAP), y))
        score = f"{100 * panel.score:.1f} % wrong" if segmentation else f"abs_rel {panel.score:.3f}"
        draw.text((_GAP, y + height), f"{panel.name}   {score}", fill=(70, 70, 70), font=font)
        y += height + _CAPTION + _GAP
    for i, (name, color) in enumerate(legend):
        x, line = _GAP + (i % per_line) * 120, y + 18 * (i // per_line)
        draw.rectangle((x, line + 3, x + 12, line + 13), fill=color)
        draw.text((x + 17, line), name[:14], fill=(0, 0, 0), font=font)
    return sheet


def _depth_cells(panel: Panel) -> list[np.ndarray]:
    seen = panel.target[panel.target > 0]
    near, far = np.percentile(seen, [2, 98]) if seen.size else (1.0, 10.0)
    valid = panel.target > 0
    error = np.full(panel.target.shape, np.nan)
    error[valid] = np.abs(panel.prediction - panel.target)[valid] / panel.target[valid]
    return [
        panel.image,
        colors.depth_colors(panel.target, near, far),
        colors.depth_colors(np.maximum(panel.prediction, 1e-3), near, far),
        colors.error_colors(error, 0.5),
    ]


def _segmentation_cells(panel: Panel, palette: np.ndarray) -> list[np.ndarray]:
    error = np.where(panel.target == 255, np.nan, panel.prediction != panel.target)
    return [
        panel.image,
        colors.label_colors(panel.target, palette),
        colors.label_colors(panel.prediction, palette),
        colors.error_colors(error, 1.0),
    ]


def _legend(
    panels: Sequence[Panel], palette: np.ndarray, classes: Sequence[str]
) -> list[tuple[str, tuple[int, ...]]]:
    ids = np.unique(
        np.concatenate([np.unique(x) for p in panels for x in (p.target, p.prediction)])
    )
    return [
        (str(classes[i]) if i < len(classes) else f"class {i}", tuple(int(c) for c in palette[i]))
        for i in ids
        if i < len(palette)
    ]
