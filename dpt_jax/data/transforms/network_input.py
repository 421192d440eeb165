# SPDX-License-Identifier: Apache-2.0
"""The size and the look of images in evaluation, as the networks' own processors have them."""

import numpy as np
from PIL import Image


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
