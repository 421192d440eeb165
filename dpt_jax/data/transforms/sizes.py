# SPDX-License-Identifier: Apache-2.0
"""To which size images are resized before they are cut: one rule for each family of recipes."""

import dataclasses
import math
from typing import NamedTuple, Protocol

import numpy as np


class Size(NamedTuple):
    """Rows and columns after a resize, and by which factor the image grew, before rounding."""

    rows: int
    columns: int
    factor: float


class SizeRule(Protocol):
    """The size that an image of this height and width is resized to."""

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> Size: ...


@dataclasses.dataclass(frozen=True)
class ByFactor:
    """Both sides times a factor drawn uniformly from [low, high]."""

    low: float
    high: float

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> Size:
        factor = rng.uniform(self.low, self.high)
        return Size(max(1, round(height * factor)), max(1, round(width * factor)), factor)


@dataclasses.dataclass(frozen=True)
class LongSide:
    """The longer side is drawn from the whole numbers in [low, high] x pixels; ratio kept.

    PyTorch-Encoding (`_sync_transform` of zhanghang1989/PyTorch-Encoding, datasets/base.py), which
    rounds the shorter side as int(x + 0.5).
    """

    pixels: int
    low: float
    high: float

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> Size:
        shortest, longest = int(self.pixels * self.low), int(self.pixels * self.high)
        side = shortest + int(rng.integers(longest - shortest + 1))
        factor = side / max(height, width)
        short = max(1, int(min(height, width) * side / max(height, width) + 0.5))
        return Size(side, short, factor) if height > width else Size(short, side, factor)


@dataclasses.dataclass(frozen=True)
class Within:
    """As large as fits, ratio kept, into long x short pixels times a factor from [low, high].

    mmseg's `RandomResize(scale=(long, short), ratio_range=(low, high), keep_ratio=True)`: the two
    bounds are cut to whole numbers, the sides rounded as int(x + 0.5).
    """

    long: int
    short: int
    low: float
    high: float

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> Size:
        ratio = rng.uniform(self.low, self.high)
        long, short = int(self.long * ratio), int(self.short * ratio)
        factor = min(long / max(height, width), short / min(height, width))
        rows, columns = int(height * factor + 0.5), int(width * factor + 0.5)
        return Size(max(1, rows), max(1, columns), factor)


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """As small as covers a square of this many pixels, each side rounded to a multiple.

    `Resize(resize_method="lower_bound")` of MiDaS and Depth Anything; draws nothing.
    """

    pixels: int
    multiple_of: int

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> Size:
        factor = self.pixels / min(height, width)
        return Size(self._side(factor * height), self._side(factor * width), factor)

    def _side(self, side: float) -> int:
        rounded = round(side / self.multiple_of) * self.multiple_of
        if rounded < self.pixels:
            rounded = math.ceil(side / self.multiple_of) * self.multiple_of
        return rounded
