# SPDX-License-Identifier: Apache-2.0
"""Steps that change colours: bytes in, bytes out, through lookup tables."""

import dataclasses

import numpy as np

from dpt_jax.data import kernels
from dpt_jax.data.sources.base import Example

_LEVELS = np.arange(256, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class PhotoMetricDistortion:
    """mmseg's class of that name: each change with probability 1/2, cut to a byte after each.

    Brightness + U(-32, 32); contrast x U(0.5, 1.5), before or after the two others by a coin;
    saturation x U(0.5, 1.5) and hue + a whole number from [-18, 18) modulo 180, each in OpenCV's
    HSV of bytes. The same draws give the bytes that mmseg gives.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = example["image"]
        table = _LEVELS
        if rng.random() < 0.5:
            table = _clipped(table + rng.uniform(-self.brightness, self.brightness))
        contrast_first = rng.random() < 0.5
        contrast = rng.uniform(*self.contrast) if rng.random() < 0.5 else 1.0
        if contrast_first:
            table = _clipped(table * contrast)
        image = _through(image, table)
        if rng.random() < 0.5:
            saturated = _clipped(_LEVELS * rng.uniform(*self.saturation))
            image = _in_hsv(image, saturation=saturated)
        if rng.random() < 0.5:
            turned = (_LEVELS + (int(rng.integers(2 * self.hue)) - self.hue)) % 180
            image = _in_hsv(image, hue=turned)
        if not contrast_first:
            image = _through(image, _clipped(_LEVELS * contrast))
        return example | {"image": image}


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """The colour augmentation of BTS for depth: gamma, brightness and a tint, with probability 1/2.

    Gamma U(0.9, 1.1), brightness x U(`brightness`) (NYUv2 0.75..1.25, KITTI 0.9..1.1), each channel
    x U(0.9, 1.1). BTS goes on in float; this rounds once, to a byte.
    """

    brightness: tuple[float, float] = (0.75, 1.25)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() < 0.5:
            return example
        levels = (np.arange(256) / 255) ** rng.uniform(0.9, 1.1) * rng.uniform(*self.brightness)
        tints = [rng.uniform(0.9, 1.1) for _ in range(3)]
        table = np.rint(np.clip(255 * np.outer(levels, tints), 0, 255)).astype(np.uint8)
        return example | {"image": kernels.lookup(example["image"], table)}


def _clipped(table: np.ndarray) -> np.ndarray:
    """Levels as mmseg stores them between two changes: fractions are cut off, not rounded."""
    return np.floor(np.clip(table, 0, 255))


def _through(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    if np.array_equal(table, _LEVELS):
        return image
    return kernels.lookup(image, table.astype(np.uint8))


def _in_hsv(
    image: np.ndarray, *, hue: np.ndarray = _LEVELS, saturation: np.ndarray = _LEVELS
) -> np.ndarray:
    table = np.stack([hue, saturation, _LEVELS], axis=-1).astype(np.uint8)
    return kernels.hsv_to_rgb(kernels.lookup(kernels.rgb_to_hsv(image), table))
