# SPDX-License-Identifier: Apache-2.0
"""The score of knowing nothing about the image: the floor that numbers are to be read against."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

GRID = (96, 128)


class PixelPrior:
    """For depth the per-pixel mean, for segmentation the per-pixel most frequent class of training.

    Targets of all sizes are brought to one grid of 96 x 128 (nearest) and the answer is brought to
    the size asked for (bilinear for depth, nearest for classes). Pixels that no training image has
    a value for get the overall mean or class.

    Args:
        examples: of the training split, with `depth` (metres, 0 = no value) or `label` (255 =
            ignored).
        num_classes: None for depth.
    """

    def __init__(self, examples: Iterable[Mapping[str, Any]], num_classes: int | None):
        self._num_classes = num_classes
        votes = np.zeros((*GRID, num_classes or 2))
        self.images = 0
        for example in examples:
            if num_classes is None:
                depth = _nearest(example["depth"])
                votes[..., 0] += depth
                votes[..., 1] += depth > 0
            else:
                label = _nearest(example["label"])
                y, x = np.nonzero(label < num_classes)
                votes[y, x, label[y, x]] += 1
            self.images += 1
        if not self.images:
            raise ValueError("the baseline needs at least one training image")
        overall = votes.sum((0, 1))
        if num_classes is None:
            mean = overall[0] / max(overall[1], 1)
            counts = np.maximum(votes[..., 1], 1)
            self._answer = np.where(votes[..., 1] > 0, votes[..., 0] / counts, mean)
            self._answer = self._answer.astype(np.float32)
        else:
            seen = votes.sum(-1) > 0
            self._answer = np.where(seen, votes.argmax(-1), overall.argmax()).astype(np.uint8)

    def predict(self, size: tuple[int, int]) -> np.ndarray:
        """Depth float32 in metres, or class ids uint8, of `size` (h, w)."""
        kernel = (
            Image.Resampling.BILINEAR if self._num_classes is None else Image.Resampling.NEAREST
        )
        return np.asarray(Image.fromarray(self._answer).resize((size[1], size[0]), kernel))


def _nearest(target: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(target).resize((GRID[1], GRID[0]), Image.Resampling.NEAREST))
