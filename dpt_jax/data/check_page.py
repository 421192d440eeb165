# SPDX-License-Identifier: Apache-2.0
"""The page of `dpt-jax data check`: one HTML file that needs nothing else."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from dpt_jax.data import check_example
from dpt_jax.data.check_report import PERCENTILES, Problem, SplitReport
from dpt_jax.data.sources.base import IGNORE, Example

_WIDTH = 480  # of a thumbnail, pixels
_ROWS = 100  # of a table of bad examples; bad_SPLIT.txt has all
# Near to far; evenly spaced in the logarithm of depth.
_RAMP = ((255, 240, 150), (250, 160, 70), (205, 65, 90), (110, 40, 130), (25, 20, 75))
_HOLE = (150, 150, 150)
_STATUS = "<p>The exit status is 1 if there is an error; warnings leave it 0.</p>"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1d2733; background: #f5f6f8;
  max-width: 1180px; margin: 0 auto; padding: 24px; }
h1 { font-size: 22px; } h2 { font-size: 18px; margin: 36px 0 10px; }
h1 { border-left: 10px solid #23864b; padding-left: 12px; } h1.error { border-color: #c2372b; }
section { background: #fff; border: 1px solid #e1e4e9; border-radius: 8px; padding: 12px 18px;
  overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: 2px 14px 2px 0; text-align: left; vertical-align: top; }
th { color: #66707d; font-weight: 600; } td.n, th.n { text-align: right; }
ul { list-style: none; padding: 0; margin: 0; } li { padding: 3px 0; }
li b { display: inline-block; width: 72px; color: #9a6a00; } .error, li.error b { color: #c2372b; }
li { overflow-wrap: anywhere; } summary { margin-top: 8px; color: #66707d; }
.bar { display: inline-block; height: 11px; min-width: 1px; border-radius: 2px;
  box-shadow: inset 0 0 0 1px #0003; } .track { display: inline-block; width: 220px; }
.chip { display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  box-shadow: inset 0 0 0 1px #0003; margin-right: 5px; }
.legend > span { display: inline-block; margin-right: 14px; white-space: nowrap; }
.card { background: #fff; border: 1px solid #e1e4e9; border-radius: 8px; padding: 12px;
  margin-bottom: 14px; } .card p { margin: 6px 0 0; color: #66707d; overflow-wrap: anywhere; }
.card p b { color: #1d2733; } .views { display: flex; gap: 8px; }
.views img { flex: 1 1 0; min-width: 0; width: 100%; border-radius: 4px; }
.ramp { display: inline-block; width: 160px; height: 11px; border-radius: 2px; margin: 0 7px; }
"""


class Picture(NamedTuple):
    """An example to look at.

    Attributes:
        split: it is from.
        name: see `base.Source.name`.
        reasons: why it is shown.
        views: images as data URIs: the picture, then its labels and its depth if it has them.
        legend: HTML lines below.
    """

    split: str
    name: str
    reasons: Sequence[str]
    views: Sequence[str]
    legend: Sequence[str]


def picture(split: SplitReport, index: int, example: Example, reasons: Sequence[str]) -> Picture:
    """Draws an example: its image, the labels over it, its depth in colours."""
    image = Image.fromarray(example["image"])
    scale = min(1.0, _WIDTH / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    views, legend = [_uri(image, "JPEG", quality=85)], []
    if "label" in example:
        views.append(_uri(label_overlay(image, example["label"], split.meaning.colors), "PNG"))
        legend.append(_label_legend(split, example["label"]))
    if "depth" in example:
        view, near, far = depth_view(example["depth"], size)
        views.append(_uri(view, "PNG"))
        legend.append(_depth_legend(example["depth"], near, far))
    return Picture(split.name, split.names[index], reasons, views, legend)


def label_overlay(image: Image.Image, label: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Classes (h, w) in their colours over the grey image; ignored pixels stay dark grey."""
    shown = Image.fromarray(label).resize(image.size, Image.Resampling.NEAREST)
    ids = np.asarray(shown)
    colors = np.zeros((256, 3), np.float32)
    colors[: len(palette)] = palette
    light = np.asarray(image.convert("L"), np.float32)[..., None]
    mixed = np.where(ids[..., None] == IGNORE, 0.3 * light, 0.35 * light + 0.65 * colors[ids])
    return Image.fromarray(mixed.astype(np.uint8))


def depth_view(depth: np.ndarray, size: tuple[int, int]) -> tuple[Image.Image, float, float]:
    """Depth (h, w) as a picture of (width, height) `size`, and the depths of its two end colours.

    The ends are the 2nd and the 98th percentile. The points of sparse depth are drawn larger.
    """
    valid = depth > 0
    near, far = (float(x) for x in np.percentile(depth[valid], (2, 98))) if valid.any() else (1, 1)
    far = max(far, near * 1.001)
    position = np.log(np.where(valid, depth, near) / near) / np.log(far / near)
    steps = np.where(valid, 1 + np.clip(position, 0, 1) * 254, 0).astype(np.uint8)
    view = Image.fromarray(steps)
    if valid.mean() < 0.5:
        view = view.filter(ImageFilter.MaxFilter(3))
    view = view.resize(size, Image.Resampling.NEAREST)
    x = np.linspace(0, len(_RAMP) - 1, 255)
    ramp = np.stack([np.interp(x, range(len(_RAMP)), c) for c in zip(*_RAMP, strict=True)], -1)
    view.putpalette([*_HOLE, *ramp.astype(int).ravel().tolist()])
    return view, near, far


def _label_legend(split: SplitReport, label: np.ndarray) -> str:
    shares = np.bincount(label.ravel(), minlength=256) / label.size
    chips = []
    for class_id in np.argsort(-shares, kind="stable")[:14].tolist():
        if shares[class_id]:
            name = "ignored" if class_id == IGNORE else split.name_of(class_id)
            chips.append(
                f"<span>{_chip(_color(split, class_id))}{html.escape(name)} "
                f"{shares[class_id]:.1%}</span>"
            )
    return f'<span class="legend">{"".join(chips)}</span>'


def _depth_legend(depth: np.ndarray, near: float, far: float) -> str:
    holes = f"{_chip(f'rgb{_HOLE}')}holes {1 - (depth > 0).mean():.1%}"
    if not (depth > 0).any():
        return holes
    ramp = ", ".join(f"rgb{color}" for color in _RAMP)
    return (
        f'{near:.2f} m<span class="ramp" style="background: linear-gradient(to right, {ramp})">'
        f"</span>{far:.2f} m (logarithmic) &nbsp; {holes}"
    )


def page(
    verdict: str,
    problems: Sequence[Problem],
    splits: Sequence[SplitReport],
    pictures: Sequence[Picture],
) -> str:
    """The whole page.

    Args:
        verdict: the title.
        problems: what is wrong, in order.
        splits: what was counted.
        pictures: examples to show.
    """
    failed = any(problem.level == "error" for problem in problems)
    found = "".join(
        f'<li class="{problem.level}"><b>{problem.level}</b> {html.escape(problem.text)}</li>'
        for problem in problems
    )
    parts = [
        f'<h1 class="{"error" if failed else ""}">{html.escape(verdict)}</h1>',
        f"<section><ul>{found or '<li>Nothing is wrong.</li>'}</ul>{_STATUS}</section>",
        _numbers(splits),
        *(_bad(split) for split in splits if split.bad),
    ]
    if any(split.ignored for split in splits):
        parts.append(_labels([split for split in splits if split.ignored]))
    parts += [_depths(split) for split in splits if split.farthest]
    for split in splits:
        cards = [_card(shown) for shown in pictures if shown.split == split.name]
        parts += [f"<h2>Examples of {html.escape(split.name)}</h2>", *cards] if cards else []
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(verdict)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _numbers(splits: Sequence[SplitReport]) -> str:
    notes = dict.fromkeys(split.meaning.note for split in splits if split.meaning.note)
    summaries = "".join(
        f"<tr><th>{html.escape(split.name)}</th>"
        f"<td><pre style='margin:0'>{html.escape(chr(10).join(split.summary()))}</pre></td></tr>"
        for split in splits
    )
    sizes = "".join(
        f"<tr><th>{html.escape(split.name)}</th><td>{_sizes(split)}</td></tr>" for split in splits
    )
    said = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return (
        f"<h2>In numbers</h2><section>{said}<table>{summaries}</table></section>"
        f"<h2>Most frequent sizes, height x width</h2><section><table>{sizes}</table></section>"
    )


def _sizes(split: SplitReport) -> str:
    shown = [f"{h} x {w}: {number:,}" for (h, w), number in split.sizes_listed[:12]]
    return ", &nbsp; ".join(shown) + (" ..." if len(split.sizes) > 12 else "")


def _bad(split: SplitReport) -> str:
    rows = [(seen.name, seen.kind, seen.error) for seen in split.bad[:_ROWS]]
    more = f"<p>{len(split.bad) - _ROWS:,} more are in bad_{split.name}.txt.</p>"
    return (
        f"<h2>Examples of {html.escape(split.name)} that cannot be used</h2><section>"
        f"{_table(('name', 'kind', 'what is wrong'), rows)}"
        f"{more if len(split.bad) > _ROWS else ''}</section>"
    )


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{heads}</tr>{body}</table>"


def _labels(splits: Sequence[SplitReport]) -> str:
    """One row per stored value, with a bar of its pixels per split."""
    heads = "".join(
        f'<th>{html.escape(split.name)}</th><th class="n">pixels</th><th class="n">images</th>'
        for split in splits
    )
    rows, absent = [], []
    for value in sorted({v for split in splits for v in split.label_values}):
        class_id = splits[0].meaning.class_of.get(value)
        color = "#c2372b" if class_id is None else _color(splits[0], class_id)
        named = f"{_chip(color)}{html.escape(splits[0].becomes(value))}"
        if any(split.label_pixels[value] for split in splits):
            cells = "".join(_label_cells(split, value, color) for split in splits)
            kind = ' class="error"' if class_id is None else ""
            rows.append(f'<tr{kind}><td class="n">{value}</td><td>{named}</td>{cells}</tr>')
        else:
            absent.append(f"<span>{value}: {named}</span>")
    never = (
        f'<details class="legend"><summary>values that never occur: {len(absent)}</summary>'
        f"{' '.join(absent)}</details>"
    )
    return (
        "<h2>Label values, as stored; bars on a logarithmic scale</h2><section>"
        f'<table><tr><th class="n">stored</th><th>in training</th>{heads}</tr>'
        f"{''.join(rows)}</table>{never if absent else ''}</section>"
    )


def _label_cells(split: SplitReport, value: int, color: str) -> str:
    pixels, total = int(split.label_pixels[value]), int(split.label_pixels.sum())
    if not pixels:
        return '<td></td><td class="n">-</td><td class="n">-</td>'
    width = 100 * np.log1p(pixels) / np.log1p(int(split.label_pixels.max()))
    return (
        f'<td><span class="track"><span class="bar" style="width: {width:.1f}%; '
        f'background: {color}"></span></span></td><td class="n">{pixels / total:.3%}</td>'
        f'<td class="n">{split.label_images[value]:,}</td>'
    )


def _depths(split: SplitReport) -> str:
    """A histogram of measured depth over a logarithmic axis."""
    near, far = split.nearest / 1.01, max(split.farthest)[0] * 1.01
    centers = check_example.bin_centers()[: np.flatnonzero(split.depth_counts)[-1] + 1]
    counts = split.depth_counts[: len(centers)]
    edges = np.geomspace(near, far, 81)
    bars, _ = np.histogram(np.clip(centers, near, far), edges, weights=counts)
    drawn = [
        f'<rect x="{20 + 12 * i}" y="{190 - h:.1f}" width="11" height="{h:.1f}" fill="#3d6fb0"/>'
        for i, h in enumerate(170 * bars / bars.max())
    ]
    decades = range(int(np.floor(np.log10(near))), int(np.ceil(np.log10(far))) + 1)
    for tick in (digit * 10.0**decade for decade in decades for digit in (1, 2, 3, 5, 7)):
        if near <= tick <= far:
            x = 20 + 960 * np.log(tick / near) / np.log(far / near)
            drawn.append(
                f'<path d="M{x:.1f} 190v5" stroke="#66707d"/><text x="{x:.1f}" y="209" '
                f'text-anchor="middle" font-size="12" fill="#66707d">{tick:g}</text>'
            )
    values = [f"{split.nearest:.3g}"]
    values += [f"{split.depth_quantile(q / 100):.3g}" for q in PERCENTILES]
    values.append(f"{max(split.farthest)[0]:.4g}")
    heads = ["min", *(f"{q} %" for q in PERCENTILES), "max"]
    return (
        f"<h2>Depth of {html.escape(split.name)}, metres (logarithmic axis)</h2><section>"
        f'<svg viewBox="0 0 1000 215" width="100%" role="img">{"".join(drawn)}</svg>'
        f"{_table(heads, [values])}</section>"
    )


def _card(shown: Picture) -> str:
    views = "".join(f'<img src="{uri}" alt="">' for uri in shown.views)
    legend = "".join(f"<p>{line}</p>" for line in shown.legend)
    return (
        f'<div class="card"><div class="views">{views}</div><p><b>{html.escape(shown.name)}</b> '
        f"&nbsp; {html.escape('; '.join(shown.reasons))}</p>{legend}</div>"
    )


def _chip(color: str) -> str:
    return f'<span class="chip" style="background: {color}"></span>'


def _color(split: SplitReport, class_id: int) -> str:
    palette = split.meaning.palette
    return f"rgb{tuple(palette[class_id])}" if class_id < len(palette) else "#3a3a3a"


def _uri(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{data}"
