# SPDX-License-Identifier: Apache-2.0
"""Joint augmentations of an image and its targets: `transform(example, rng) -> example`.

One `np.random.Generator` drives each step, and every geometric step acts on image, label and depth
together, each with its own kernel: bilinear for colours, nearest for labels and depth (an average
of two depths, or of depth and a hole, lies on no surface). Pixels that a step invents are black,
label 255 and depth 0, which no loss counts. Images stay uint8: they travel to the device as bytes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from PIL import Image

from dpt_jax.data.sources.base import IGNORE, DatasetError, Example

_FILL = {"image": 0, "label": IGNORE, "depth": 0}
_KERNEL = {
    "image": Image.Resampling.BILINEAR,
    "label": Image.Resampling.NEAREST,
    "depth": Image.Resampling.NEAREST,
}


class Transform(Protocol):
    """An augmentation step. It never changes its input; what it returns may share its memory."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example: ...


def _spatial(example: Example, apply: Any) -> Example:
    return {k: apply(k, v) if k in _FILL else v for k, v in example.items()}


def _resized(example: Example, size: tuple[int, int]) -> Example:
    def resize(key: str, value: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(value).resize((size[1], size[0]), _KERNEL[key]))

    return _spatial(example, resize)


@dataclasses.dataclass(frozen=True)
class Box:
    """Cuts rows top:bottom and columns left:right, e.g. the white border of NYUv2 (45, 472, 43,
    608).

    Source: the PIL box (43, 45, 608, 472) of cleinc/bts.
    """

    top: int
    bottom: int
    left: int
    right: int

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        h, w = example["image"].shape[:2]
        if not (0 <= self.top < self.bottom <= h and 0 <= self.left < self.right <= w):
            raise DatasetError(
                f"config.data.augment.box {dataclasses.astuple(self)} does not fit an "
                f"image of {h} x {w}"
            )
        window = (slice(self.top, self.bottom), slice(self.left, self.right))
        return _spatial(example, lambda key, value: value[window])


@dataclasses.dataclass(frozen=True)
class Scale:
    """Resizes by a factor drawn uniformly from [low, high].

    Depth is divided by the factor: at a fixed focal length a picture twice as large is one taken at
    half the distance (Eigen et al., arXiv 1406.2283, section 3.3).

    With `long_side`, the drawn factor multiplies that many pixels for the longer side instead of
    the image's own size (PyTorch-Encoding's recipe, which DPT used on ADE20K: 520 x [0.5, 2]).
    """

    low: float
    high: float
    long_side: int | None = None

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        h, w = example["image"].shape[:2]
        factor = rng.uniform(self.low, self.high)
        if self.long_side:
            factor *= self.long_side / max(h, w)
        size = (max(1, round(h * factor)), max(1, round(w * factor)))
        scaled = _resized(example, size)
        if "depth" in scaled:
            scaled["depth"] = scaled["depth"] / np.float32(factor)
        return scaled


@dataclasses.dataclass(frozen=True)
class Rotate:
    """Rotates about the centre by an angle drawn uniformly from [-degrees, degrees] (BTS: 2.5)."""

    degrees: float

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        angle = rng.uniform(-self.degrees, self.degrees)

        def rotate(key: str, value: np.ndarray) -> np.ndarray:
            fill = (0, 0, 0) if key == "image" else _FILL[key]
            image = Image.fromarray(value)
            return np.asarray(image.rotate(angle, _KERNEL[key], fillcolor=fill))

        return _spatial(example, rotate)


@dataclasses.dataclass(frozen=True)
class Crop:
    """Cuts a random window; an image that is smaller is first padded at the right and the bottom.

    Attributes:
        height: rows of the window.
        width: columns of the window.
        cat_max_ratio: with labels, windows are redrawn, up to ten times, until more than one class
            is in it and none covers this share of its labelled pixels or more (mmseg: 0.75). 1
            turns this off.
    """

    height: int
    width: int
    cat_max_ratio: float = 1.0

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        h, w = example["image"].shape[:2]
        pad = (max(0, self.height - h), max(0, self.width - w))
        if any(pad):
            example = _spatial(example, lambda key, value: _padded(value, pad, _FILL[key]))
            h, w = h + pad[0], w + pad[1]
        redraw = "label" in example and self.cat_max_ratio < 1
        window = (slice(0), slice(0))
        for _ in range(10 if redraw else 1):
            top, left = rng.integers(h - self.height + 1), rng.integers(w - self.width + 1)
            window = (slice(top, top + self.height), slice(left, left + self.width))
            if not redraw or self._varied(example["label"][window]):
                break
        return _spatial(example, lambda key, value: value[window])

    def _varied(self, label: np.ndarray) -> bool:
        counts = np.bincount(label.ravel(), minlength=256)[:IGNORE]
        return (counts > 0).sum() > 1 and counts.max() < self.cat_max_ratio * counts.sum()


def _padded(value: np.ndarray, pad: tuple[int, int], fill: int) -> np.ndarray:
    widths = [(0, pad[0]), (0, pad[1])] + [(0, 0)] * (value.ndim - 2)
    return np.pad(value, widths, constant_values=fill)


@dataclasses.dataclass(frozen=True)
class Flip:
    """Mirrors left and right with the given probability."""

    probability: float

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        return _spatial(example, lambda key, value: np.ascontiguousarray(value[:, ::-1]))


@dataclasses.dataclass(frozen=True)
class PhotoMetricDistortion:
    """mmseg's colour jitter: each step with probability 1/2, clipped to a byte after each.

    Brightness +U(-32, 32); contrast xU(0.5, 1.5), before or after the two others by a coin;
    saturation xU(0.5, 1.5) and hue +-18 half-degrees, in HSV (Pillow's, of 256 hue levels).
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        levels = np.arange(256, dtype=np.float32)
        image = example["image"]
        if rng.random() < 0.5:
            image = _lookup(image, levels + rng.uniform(-self.brightness, self.brightness))
        contrast_first = rng.random() < 0.5
        contrast = levels * rng.uniform(*self.contrast) if rng.random() < 0.5 else levels
        saturation = levels * rng.uniform(*self.saturation) if rng.random() < 0.5 else levels
        hue = rng.uniform(-self.hue, self.hue) if rng.random() < 0.5 else 0.0
        if contrast_first:
            image = _lookup(image, contrast)
        if saturation is not levels or hue:
            hsv = np.asarray(Image.fromarray(image).convert("HSV"))
            turned = ((levels + round(hue / 180 * 256)) % 256).astype(np.uint8)
            changed = np.stack(
                [turned[hsv[..., 0]], _lookup(hsv[..., 1], saturation), hsv[..., 2]], axis=-1
            )
            h, w = image.shape[:2]
            buffer = np.ascontiguousarray(changed).tobytes()
            image = np.asarray(Image.frombytes("HSV", (w, h), buffer).convert("RGB"))
        if not contrast_first:
            image = _lookup(image, contrast)
        return example | {"image": image}


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """The colour augmentation of BTS for depth: gamma, brightness and a tint, with probability 1/2.

    Gamma U(0.9, 1.1), brightness xU(`brightness`) (NYUv2 0.75..1.25, KITTI 0.9..1.1), each channel
    xU(0.9, 1.1).
    """

    brightness: tuple[float, float] = (0.75, 1.25)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() < 0.5:
            return example
        levels = (np.arange(256) / 255) ** rng.uniform(0.9, 1.1) * rng.uniform(*self.brightness)
        channels = [
            _lookup(example["image"][..., c], 255 * levels * rng.uniform(0.9, 1.1))
            for c in range(3)
        ]
        return example | {"image": np.stack(channels, axis=-1)}


def _lookup(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    return np.clip(table, 0, 255).astype(np.uint8)[values]


def build_augmentations(config: Mapping[str, Any]) -> tuple[Transform, ...]:
    """The steps that `config.data.augment` turns on, always in this order.

    Args:
        config: `box` (top, bottom, left, right); `scale` (low, high) and `long_side` pixels;
            `rotate` degrees; `crop` (height, width) with `cat_max_ratio`; `flip` probability;
            `photometric` "mmseg" or "bts". None or 0 leaves a step out.
    """
    lengths = {"box": 4, "scale": 2, "crop": 2}
    for key, length in lengths.items():
        if config[key] and len(config[key]) != length:
            raise DatasetError(
                f"config.data.augment.{key} must have {length} numbers, not {config[key]}"
            )
    if config["long_side"] and not config["scale"]:
        raise DatasetError("config.data.augment.long_side needs config.data.augment.scale")
    steps: list[Transform] = []
    if config["box"]:
        steps.append(Box(*config["box"]))
    if config["scale"]:
        steps.append(Scale(*config["scale"], long_side=config["long_side"]))
    if config["rotate"]:
        steps.append(Rotate(config["rotate"]))
    if config["crop"]:
        steps.append(Crop(*config["crop"], cat_max_ratio=config["cat_max_ratio"]))
    if config["flip"]:
        steps.append(Flip(config["flip"]))
    if config["photometric"]:
        jitters = {"mmseg": PhotoMetricDistortion, "bts": ColorJitter}
        if config["photometric"] not in jitters:
            raise DatasetError(
                f"config.data.augment.photometric {config['photometric']!r} is not one of "
                f"{', '.join(jitters)}"
            )
        steps.append(jitters[config["photometric"]]())
    return tuple(steps)


def model_input_size(
    height: int, width: int, *, size: int, keep_aspect_ratio: bool, multiple_of: int
) -> tuple[int, int]:
    """Rows and columns that an image is resized to before the network (HF's and isl-org's rule).

    With `keep_aspect_ratio` the scale of whichever side needs the smaller change is used for both
    ("minimal"); each side is then rounded to a multiple, at least one.
    """
    scale_h, scale_w = size / height, size / width
    if keep_aspect_ratio:
        scale_h = scale_w = scale_w if abs(1 - scale_w) < abs(1 - scale_h) else scale_h
    return nearest_multiple(scale_h * height, scale_w * width, multiple_of)


def nearest_multiple(height: float, width: float, multiple_of: int) -> tuple[int, int]:
    """Both sides rounded to a multiple, at least one."""
    return (
        max(1, round(height / multiple_of)) * multiple_of,
        max(1, round(width / multiple_of)) * multiple_of,
    )


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An RGB image as the network sees it in evaluation: Pillow's bicubic, as in HF's processor."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
