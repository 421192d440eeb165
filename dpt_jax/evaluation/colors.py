# SPDX-License-Identifier: Apache-2.0
"""Numbers as colours: depth, error and class ids as RGB pictures."""

import colorsys
import itertools

import numpy as np

# Near to far, dark red to deep blue over yellow; evenly spaced, interpolated linearly.
_DEPTH = (
    (95, 10, 38),
    (215, 66, 44),
    (253, 180, 98),
    (250, 243, 170),
    (92, 186, 165),
    (34, 62, 140),
)
_ERROR = ((12, 12, 24), (72, 20, 92), (180, 44, 84), (246, 132, 44), (252, 246, 170))

NO_VALUE = (110, 110, 110)


def depth_colors(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depth (h, w) as uint8 (h, w, 3): red at `near` metres, blue at `far`, grey where depth <= 0.

    The scale is logarithmic, as the losses and most metrics are.
    """
    near, far = max(near, 1e-3), max(far, near * 1.001, 2e-3)
    position = np.log(np.maximum(depth, 1e-6) / near) / np.log(far / near)
    return _blend(position, _DEPTH, depth > 0)


def error_colors(error: np.ndarray, full: float) -> np.ndarray:
    """Errors (h, w) as uint8 (h, w, 3): black at 0, yellow from `full` on, grey where nan."""
    return _blend(np.nan_to_num(error) / full, _ERROR, ~np.isnan(error))


def label_colors(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Class ids (h, w) as uint8 (h, w, 3); black where the id is not in the palette (ignored)."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[label]


def inverse_depth_colors(inverse: np.ndarray) -> np.ndarray:
    """Inverse depth (h, w), of any scale and shift, as uint8 (h, w, 3): red is near, blue far.

    The scale is linear between the 1st and the 99th percentile.
    """
    low, high = (float(x) for x in np.percentile(inverse, (1, 99)))
    position = (high - inverse) / max(high - low, float(np.finfo(np.float32).tiny))
    return _blend(position, _DEPTH, np.isfinite(inverse))


def class_palette(count: int) -> np.ndarray:
    """Colours of `count` classes, uint8 (count, 3): hues far apart, brightness in turns."""
    golden = 0.618033988749895
    return np.array(
        [
            [round(255 * c) for c in colorsys.hsv_to_rgb(i * golden % 1, (0.85, 0.55)[i % 2], v)]
            for i, v in zip(range(count), itertools.cycle((0.95, 0.75, 0.55)), strict=False)
        ],
        np.uint8,
    ).reshape(count, 3)


def _blend(position: np.ndarray, anchors: tuple, valid: np.ndarray) -> np.ndarray:
    table = np.asarray(anchors, np.float64)
    x = np.clip(position, 0, 1) * (len(table) - 1)
    colors = np.stack([np.interp(x, np.arange(len(table)), table[:, c]) for c in range(3)], axis=-1)
    return np.where(valid[..., None], colors, NO_VALUE).astype(np.uint8)
