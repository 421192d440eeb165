# SPDX-License-Identifier: Apache-2.0
"""Rooms drawn at a data set's sizes, and the picture files that its archives hold."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dpt_jax.data.sources.base import SPLITS
from dpt_jax.data.sources.rooms import Rooms

# Drawn in about 40 ms; larger pictures are enlarged from about as many pixels.
_PIXELS = 60_000


class Room(NamedTuple):
    """One example of `Rooms`, and a generator for what a sensor would add to it."""

    image: np.ndarray  # h w 3, uint8
    depth: np.ndarray  # h w, float32 metres
    label: np.ndarray  # h w, uint8 indices of `rooms.CLASSES`
    rng: np.random.Generator


@dataclass(frozen=True)
class Drawing:
    """The first rooms of a split, drawn one after the other.

    Attributes:
        split: "train" or "validation", a split of `Rooms`.
        length: number of rooms.
        sizes: (height, width) that the rooms take in turn.
        seed: of `Rooms`.
    """

    split: str
    length: int
    sizes: Sequence[tuple[int, int]]
    seed: int

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Room]:
        for index in range(self.length):
            size = self.sizes[index % len(self.sizes)]
            factor = math.ceil(math.sqrt(size[0] * size[1] / _PIXELS))
            drawn = (math.ceil(size[0] / factor), math.ceil(size[1] / factor))
            room = Rooms(split=self.split, size=drawn, length=self.length, seed=self.seed)[index]
            rows, columns = (np.arange(side) // factor for side in size)
            image, depth, label = (
                room[key][rows[:, None], columns] for key in ("image", "depth", "label")
            )
            # One number more than the generator of the scene has.
            rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index, 1))
            yield Room(image, depth, label, rng)


def save_jpeg(path: Path, image: np.ndarray) -> None:
    """Writes an image (h, w, 3) as JPEG of quality 95, its colours at full resolution."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, "JPEG", quality=95, subsampling=0)


def save_png(path: Path, array: np.ndarray) -> None:
    """Writes a PNG: uint8 (h, w) grey, (h, w, 3) RGB, (h, w, 4) RGBA, or uint16 (h, w)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, "PNG")


def save_lines(path: Path, lines: Sequence[str]) -> None:
    """Writes a text file; the last line ends as the others do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), newline="\n")
