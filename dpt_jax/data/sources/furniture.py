# SPDX-License-Identifier: Apache-2.0
"""The pieces that rooms are furnished with: solids of real-world sizes, and what they are painted.

Each builder draws one piece about its own origin, on the floor, with its back towards its own -y,
in metres. Flat things (door, window, picture, rug) are boxes of a few centimetres.
"""

import colorsys
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dpt_jax.data.sources.raycast import BOX, CYLINDER, SPHERE

PLAIN, CHECKER, STRIPES, PLANKS, BRICKS, MOTTLE = range(6)


class Paint(NamedTuple):
    """Two linear RGB colours mixed by a pattern of `scale` metres; `glow` is light given off."""

    first: np.ndarray
    second: np.ndarray
    pattern: int
    scale: float
    glow: float = 0.0


class Part(NamedTuple):
    """One solid of a piece: kind, centre and half extents in the piece's axes (metres), paint."""

    kind: int
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    paint: Paint


# Class: hue, saturation and value ranges, patterns, and range of the pattern's scale in metres.
_LOOKS: dict[str, tuple] = {
    "wall": ((0, 1), (0, 0.25), (0.55, 0.95), (PLAIN, MOTTLE, BRICKS, STRIPES), (0.15, 0.35)),
    "floor": ((0.05, 0.12), (0.25, 0.55), (0.2, 0.5), (PLANKS, CHECKER, MOTTLE), (0.15, 0.6)),
    "ceiling": ((0, 1), (0, 0.1), (0.75, 0.98), (PLAIN, PLAIN, MOTTLE, PLANKS), (0.3, 0.6)),
    "door": ((-0.03, 0.03), (0.6, 0.9), (0.4, 0.8), (PLAIN, PLANKS, MOTTLE), (0.1, 0.3)),
    "window": ((0.5, 0.58), (0.2, 0.5), (0.8, 1.0), (PLAIN, MOTTLE), (0.3, 0.8)),
    "picture": ((0.7, 0.82), (0.5, 1.0), (0.4, 1.0), (MOTTLE, CHECKER, STRIPES), (0.06, 0.2)),
    "rug": ((0.86, 0.95), (0.5, 0.9), (0.35, 0.85), (CHECKER, STRIPES, MOTTLE), (0.1, 0.3)),
    "bed": ((0.58, 0.68), (0.4, 0.9), (0.5, 0.95), (PLAIN, STRIPES, CHECKER), (0.1, 0.3)),
    "table": ((0.06, 0.11), (0.7, 1.0), (0.55, 0.95), (PLANKS, PLAIN, MOTTLE), (0.1, 0.2)),
    "cabinet": ((0.42, 0.5), (0.3, 0.8), (0.3, 0.8), (PLAIN, PLANKS, MOTTLE), (0.15, 0.4)),
    "lamp": ((0.13, 0.17), (0.4, 0.9), (0.8, 1.0), (PLAIN, STRIPES), (0.05, 0.1)),
    "ball": ((0.18, 0.26), (0.75, 1.0), (0.6, 1.0), (PLAIN, STRIPES, CHECKER), (0.1, 0.25)),
    "column": ((0, 1), (0, 0.2), (0.3, 0.7), (PLAIN, MOTTLE, BRICKS), (0.1, 0.25)),
    "plant": ((0.3, 0.39), (0.5, 0.95), (0.2, 0.6), (MOTTLE,), (0.05, 0.12)),
}


def draw_paint(rng: np.random.Generator, name: str, glow: float = 0.0) -> Paint:
    """Draws a paint that is typical of class `name`, mostly."""
    hues, saturations, values, patterns, scales = _LOOKS[name]
    if rng.random() < 0.1:  # Any class may take any colour: colour alone must not tell it.
        hues, saturations = (0, 1), (0, 0.9)

    draws = rng.random((3, 3)).tolist()
    ranges = (hues, saturations, values)
    hsvs = [[a + (b - a) * t for (a, b), t in zip(ranges, row, strict=True)] for row in draws[:2]]
    first, other = (np.array(colorsys.hsv_to_rgb(*hsv)) for hsv in hsvs)
    pick, blend, size = draws[2]
    pattern = patterns[int(pick * len(patterns))]
    if pattern == PLAIN:
        second = first
    elif pattern in (PLANKS, BRICKS):
        second = first * (0.3 + 0.4 * blend)
    else:
        second = other + (first - other) * 0.7 * blend
    scale = scales[0] + (scales[1] - scales[0]) * size
    return Paint(first**2, second**2, pattern, scale, glow)


def _leg(x: float, y: float, low: float, high: float, radius: float, paint: Paint) -> Part:
    half = (radius, radius, (high - low) / 2)
    return Part(CYLINDER, (x, y, (low + high) / 2), half, paint)


def _block(x: float, y: float, low: float, high: float, w: float, d: float, paint: Paint) -> Part:
    return Part(BOX, (x, y, (low + high) / 2), (w, d, (high - low) / 2), paint)


def _door(rng: np.random.Generator, _: float) -> list[Part]:
    width, height = rng.uniform(0.4, 0.5), rng.uniform(1.95, 2.1)
    frame, leaf = draw_paint(rng, "door"), draw_paint(rng, "door")
    return [
        _block(0, -0.06, 0, height + 0.09, width + 0.09, 0.03, frame),
        _block(0, -0.045, 0, height, width, 0.045, leaf),
        Part(SPHERE, (0.8 * width, 0.03, 1.0), (0.04, 0.04, 0.04), frame),
    ]


def _window(rng: np.random.Generator, _: float) -> list[Part]:
    width, low, high = rng.uniform(0.45, 0.9), rng.uniform(0.7, 1.0), rng.uniform(1.75, 2.1)
    frame, glass = draw_paint(rng, "ceiling"), draw_paint(rng, "window", glow=rng.uniform(0.3, 1.5))
    pane = width / 2 - 0.03
    return [
        _block(0, 0, low - 0.07, high + 0.07, width + 0.07, 0.04, frame),
        _block(-width / 2, 0, low, high, pane, 0.045, glass),
        _block(width / 2, 0, low, high, pane, 0.045, glass),
    ]


def _picture(rng: np.random.Generator, _: float) -> list[Part]:
    width, height, middle = *rng.uniform(0.25, 0.6, 2), rng.uniform(1.4, 1.65)
    low, high = middle - height, middle + height
    return [
        _block(0, 0, low - 0.05, high + 0.05, width + 0.05, 0.02, draw_paint(rng, "table")),
        _block(0, 0, low, high, width, 0.025, draw_paint(rng, "picture")),
    ]


def _rug(rng: np.random.Generator, _: float) -> list[Part]:
    width, length = rng.uniform(0.6, 1.5), rng.uniform(0.5, 1.1)
    border, field = draw_paint(rng, "rug"), draw_paint(rng, "rug")
    return [
        _block(0, 0, 0, 0.012, width, length, border),
        _block(0, 0, 0, 0.016, width - 0.12, length - 0.12, field),
    ]


def _bed(rng: np.random.Generator, _: float) -> list[Part]:
    width, top, board = rng.uniform(0.45, 0.9), rng.uniform(0.42, 0.58), rng.uniform(0.8, 1.15)
    wood, cover, linen = (
        draw_paint(rng, "table"),
        draw_paint(rng, "bed"),
        draw_paint(rng, "ceiling"),
    )
    parts = [
        _block(0, -0.95, 0, board, width + 0.05, 0.05, wood),
        _block(0, 0, 0, top - 0.2, width, 0.98, wood),
        _block(0, 0, top - 0.2, top, width - 0.02, 0.95, cover),
    ]
    pillows = 2 if width > 0.65 else 1
    for side in np.linspace(-0.5, 0.5, pillows) * width if pillows > 1 else [0.0]:
        half = (0.42 * width if pillows > 1 else 0.3, 0.2, 0.08)
        parts.append(Part(SPHERE, (side, -0.68, top + 0.04), half, linen))
    return parts


def _table(rng: np.random.Generator, _: float) -> list[Part]:
    width, depth = rng.uniform(0.45, 0.95), rng.uniform(0.35, 0.5)
    height, leg = rng.uniform(0.68, 0.8), rng.uniform(0.035, 0.06)
    top, wood = draw_paint(rng, "table"), draw_paint(rng, "table")
    x, y = width - leg - 0.03, depth - leg - 0.03
    return [_block(0, 0, height - 0.06, height, width, depth, top)] + [
        _block(a * x, b * y, 0, height - 0.06, leg, leg, wood) for a in (-1, 1) for b in (-1, 1)
    ]


def _cabinet(rng: np.random.Generator, _: float) -> list[Part]:
    width, depth, height = rng.uniform(0.35, 0.8), rng.uniform(0.2, 0.3), rng.uniform(0.8, 2.0)
    body, front = draw_paint(rng, "cabinet"), draw_paint(rng, "cabinet")
    leaves = 2 if width > 0.45 else 1
    leaf = width / leaves - 0.025
    parts = [_block(0, -0.01, 0, height, width, depth, body)]
    for k in range(leaves):
        x = (2 * k + 1 - leaves) * width / leaves
        parts.append(_block(x, depth - 0.01, 0.08, height - 0.05, leaf, 0.02, front))
    return parts


def _lamp(rng: np.random.Generator, _: float) -> list[Part]:
    height, radius, drop = rng.uniform(1.3, 1.75), rng.uniform(0.17, 0.28), rng.uniform(0.13, 0.2)
    metal, shade = (
        draw_paint(rng, "cabinet"),
        draw_paint(rng, "lamp", glow=float(rng.choice([0.1, 0.7]))),
    )
    kind = int(rng.choice([CYLINDER, SPHERE]))
    head = Part(kind, (0, 0, height - drop), (radius, radius, max(drop, 0.7 * radius)), shade)
    return [
        _leg(0, 0, 0, 0.05, 0.18, metal),
        _leg(0, 0, 0, height - drop, 0.035, metal),
        head,
    ]


def _ball(rng: np.random.Generator, _: float) -> list[Part]:
    radius = rng.uniform(0.26, 0.45)
    return [Part(SPHERE, (0, 0, radius), (radius, radius, radius), draw_paint(rng, "ball"))]


def _column(rng: np.random.Generator, ceiling: float) -> list[Part]:
    radius = rng.uniform(0.14, 0.28)
    shaft, ends = draw_paint(rng, "column"), draw_paint(rng, "column")
    edge = radius + 0.06
    return [
        _leg(0, 0, 0, ceiling, radius, shaft),
        _block(0, 0, 0, 0.15, edge, edge, ends),
        _block(0, 0, ceiling - 0.15, ceiling, edge, edge, ends),
    ]


def _plant(rng: np.random.Generator, _: float) -> list[Part]:
    radius, pot = rng.uniform(0.14, 0.22), rng.uniform(0.28, 0.42)
    parts = [
        _leg(0, 0, 0, pot, radius, draw_paint(rng, "cabinet")),
        _leg(0, 0, pot, pot + 0.4, 0.035, draw_paint(rng, "table")),
    ]
    leaves = draw_paint(rng, "plant")
    for turn in np.arange(4) * 1.7 + rng.uniform(0, 6):
        out, high, size = rng.uniform(0.08, 0.2), rng.uniform(0.25, 0.75), rng.uniform(0.18, 0.28)
        centre = (out * math.cos(turn), out * math.sin(turn), pot + high)
        parts.append(Part(SPHERE, centre, (size, size, 1.1 * size), leaves))
    return parts


Builder = Callable[[np.random.Generator, float], list[Part]]
# Builder, most copies in a room, and probability to stand against a wall. The order is the order
# of placing: what needs most room comes first.
FURNITURE: dict[str, tuple[Builder, int, float]] = {
    "bed": (_bed, 1, 0.8),
    "cabinet": (_cabinet, 2, 0.9),
    "table": (_table, 1, 0.3),
    "column": (_column, 1, 0.0),
    "plant": (_plant, 1, 0.0),
    "lamp": (_lamp, 1, 0.0),
    "ball": (_ball, 2, 0.0),
}

# What hangs on the walls: builder, fewest and most copies in a room.
DECOR: dict[str, tuple[Builder, int, int]] = {
    "door": (_door, 1, 2),
    "window": (_window, 1, 3),
    "picture": (_picture, 1, 4),
}

RUG: Builder = _rug
