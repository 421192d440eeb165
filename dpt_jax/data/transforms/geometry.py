# SPDX-License-Identifier: Apache-2.0
"""Steps that move pixels: image, label and depth together, each with a kernel of its own.

Labels and depth are picked, never mixed: an average of two class ids is a third class, and one of
two depths, or of a depth and a hole, lies on no surface. Pixels that a step invents are black,
label 255 and depth 0, which no loss counts.

`intrinsics`, float32 (3, 3) with pixel centres at whole numbers, follow where they are present;
`Rotate` drops them.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np
from PIL import Image

from dpt_jax.data import kernels
from dpt_jax.data.kernels import Window
from dpt_jax.data.sources.base import IGNORE, DatasetError, Example
from dpt_jax.data.transforms.sizes import SizeRule

FILL = {"image": 0, "label": IGNORE, "depth": 0}
"""What pixels that no camera saw are made of."""

# As in mmseg: after so many windows that are nearly all one class, the last one is taken.
_DRAWS = 10


class Transform(Protocol):
    """An augmentation step. It never changes its input; what it returns may share its memory."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example: ...


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
        return _cut(example, Window(self.top, self.bottom, self.left, self.right))


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resizes to a drawn size and, with `crop`, cuts a random window, of which alone it computes.

    Attributes:
        size: the rule that draws the size.
        kernel: of the image, one of `kernels.KERNELS`; says whose nearest labels and depth get.
        crop: rows and columns of the window; a side that is smaller than that is left whole.
        cat_max_ratio: see `Crop`.
        divide_depth: what a resize means for depth. True: the focal length stays, and a picture
            twice as large is one taken at half the distance, so depth is divided by the factor
            (Eigen et al., arXiv 1406.2283, section 3.3). False: the picture is the same seen by
            more pixels; depth stays, and the focal length grows.
    """

    size: SizeRule
    kernel: str = "pillow_bilinear"
    crop: tuple[int, int] | None = None
    cat_max_ratio: float = 1.0
    divide_depth: bool = True

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        h, w = example["image"].shape[:2]
        rows, columns, factor = self.size(h, w, rng)

        def resize(key: str, window: Window) -> np.ndarray:
            if key == "image":
                return kernels.resize_image(example[key], (rows, columns), self.kernel, window)
            return kernels.resize_nearest(example[key], (rows, columns), self.kernel, window)

        window = Window(0, rows, 0, columns)
        if self.crop:
            label = (lambda window: resize("label", window)) if "label" in example else None
            window = _draw(rng, (rows, columns), self.crop, self.cat_max_ratio, label)
        high, wide = rows / h, columns / w
        camera = np.array([[wide, 0, (wide - 1) / 2], [0, high, (high - 1) / 2], [0, 0, 1]])
        resized = _mapped(example, lambda key, _: resize(key, window), _shift(window) @ camera)
        if self.divide_depth:
            if "depth" in resized:
                resized["depth"] = resized["depth"] / np.float32(factor)
            if "intrinsics" in resized:
                resized["intrinsics"][:2, :2] = example["intrinsics"][:2, :2]
        return resized


@dataclasses.dataclass(frozen=True)
class Rotate:
    """Rotates about the centre by an angle drawn uniformly from [-degrees, degrees] (BTS: 2.5).

    Labels and depth as by Pillow, which BTS uses; the image by OpenCV's faster arithmetic (see
    `kernels.rotate_image`). Drops `intrinsics`, which could only follow a rotation about their own
    principal point.
    """

    degrees: float

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        angle = rng.uniform(-self.degrees, self.degrees)

        def rotate(key: str, value: np.ndarray) -> np.ndarray:
            if key == "image":
                return kernels.rotate_image(value, angle)
            return np.asarray(Image.fromarray(value).rotate(angle, fillcolor=FILL[key]))

        return _mapped({k: v for k, v in example.items() if k != "intrinsics"}, rotate)


@dataclasses.dataclass(frozen=True)
class Crop:
    """Cuts a random window; a side that is smaller is left whole (see `Pad`).

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
        label = example.get("label")
        window = _draw(
            rng,
            example["image"].shape[:2],
            (self.height, self.width),
            self.cat_max_ratio,
            None if label is None else lambda window: label[window.slices],
        )
        return _cut(example, window)


@dataclasses.dataclass(frozen=True)
class Flip:
    """Mirrors left and right with the given probability; in the mirrored world, so does the camera.

    `intrinsics` get the mirrored principal point and keep positive focal lengths.
    """

    probability: float

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        width = example["image"].shape[1]
        camera = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]])
        flipped = _mapped(example, lambda key, value: kernels.mirror(value), camera)
        if "intrinsics" in flipped:
            flipped["intrinsics"] *= np.array([-1, 1, 1], np.float32)
        return flipped


@dataclasses.dataclass(frozen=True)
class Pad:
    """Makes both sides at least this long, at the bottom and the right.

    Attributes:
        height: rows.
        width: columns.
        fill: red, green and blue of the new pixels.
    """

    height: int
    width: int
    fill: tuple[int, int, int] = (0, 0, 0)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        h, w = example["image"].shape[:2]
        if h >= self.height and w >= self.width:
            return example

        def pad(key: str, value: np.ndarray) -> np.ndarray:
            fill = self.fill if key == "image" else FILL[key]
            shape = (max(h, self.height), max(w, self.width), *value.shape[2:])
            padded = np.empty(shape, value.dtype)
            padded[:h, :w] = value
            row = np.full(shape[1:], fill, value.dtype)  # NumPy copies rows faster than colours
            padded[:h, w:] = row[w:]
            padded[h:] = row
            return padded

        return _mapped(example, pad)


def _mapped(
    example: Example,
    apply: Callable[[str, np.ndarray], np.ndarray],
    camera: np.ndarray | None = None,
) -> Example:
    """`apply(key, value)` of image, label and depth; `camera` takes old pixels to new ones."""
    mapped = {key: apply(key, value) if key in FILL else value for key, value in example.items()}
    if camera is not None and "intrinsics" in example:
        mapped["intrinsics"] = (camera @ example["intrinsics"]).astype(np.float32)
    return mapped


def _cut(example: Example, window: Window) -> Example:
    return _mapped(example, lambda key, value: value[window.slices], _shift(window))


def _shift(window: Window) -> np.ndarray:
    return np.array([[1, 0, -window.left], [0, 1, -window.top], [0, 0, 1]])


def _draw(
    rng: np.random.Generator,
    size: tuple[int, int],
    crop: tuple[int, int],
    cat_max_ratio: float,
    label: Callable[[Window], np.ndarray] | None,
) -> Window:
    height, width = min(size[0], crop[0]), min(size[1], crop[1])
    window = Window(0, height, 0, width)
    for _ in range(_DRAWS):
        top = int(rng.integers(size[0] - height + 1))
        left = int(rng.integers(size[1] - width + 1))
        window = Window(top, top + height, left, left + width)
        if label is None or cat_max_ratio >= 1 or _is_varied(label(window), cat_max_ratio):
            break
    return window


def _is_varied(label: np.ndarray, cat_max_ratio: float) -> bool:
    counts = kernels.class_counts(label)[:IGNORE]
    return (counts > 0).sum() > 1 and counts.max() / counts.sum() < cat_max_ratio
