# SPDX-License-Identifier: Apache-2.0
"""How large the network sees an image, and where the image lies in what it sees."""

import math
from typing import Literal, NamedTuple

from dpt_jax.predict.kernels import Window

ResizeMethod = Literal["minimal", "lower_bound", "upper_bound"]

Margins = tuple[tuple[int, int], tuple[int, int]]
NO_MARGINS: Margins = ((0, 0), (0, 0))


class Geometry(NamedTuple):
    """The way of one image into the network; every size is (height, width).

    Attributes:
        source: size of the image.
        margins: ((top, bottom), (left, right)) in pixels of the image, added before the resize.
        resized: size after the resize.
        padding: ((top, bottom), (left, right)) in pixels of the network, added after the resize.
    """

    source: tuple[int, int]
    margins: Margins
    resized: tuple[int, int]
    padding: Margins

    @property
    def network(self) -> tuple[int, int]:
        """Size of the pixels that the network sees."""
        height, width = (n + sum(p) for n, p in zip(self.resized, self.padding, strict=True))
        return height, width

    def windows(self) -> tuple[Window, Window]:
        """Where the image lies, per axis, in what the network sees, margins and padding included.

        In fractions of a pixel, and so valid for an output of any size.
        """
        rows, columns = (
            _window(source, margins, resized, padding)
            for source, margins, resized, padding in zip(*self, strict=True)
        )
        return rows, columns


def _window(
    source: int, margins: tuple[int, int], resized: int, padding: tuple[int, int]
) -> Window:
    enlarged = source + sum(margins)
    scale = enlarged / resized
    return Window(margins[0] + padding[0] * scale, enlarged + sum(padding) * scale)


def resized_size(
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    keep_aspect_ratio: bool,
    multiple: float,
    method: ResizeMethod,
) -> tuple[int, int]:
    """The size rule of transformers' `DPTImageProcessor` and of MiDaS' `Resize`.

    Args:
        source: (height, width) of the image.
        target: (height, width) that is wanted.
        keep_aspect_ratio: one scale for both sides instead of exactly the target.
        multiple: sides are rounded (half to even) to multiples of this. May be a fraction, as
            ZoeDepth's 1/32, after which sides are cut down to integers.
        method: with `keep_aspect_ratio`, the scale is the one of the two sides' scales which is
            "minimal": nearest to 1 (transformers, DPT, MiDaS 3);
            "lower_bound": larger, so that no side falls below its target (Depth Anything);
            "upper_bound": smaller, so that no side exceeds its target (MiDaS 2.1).
            The bounds also hold for the rounding, with and without `keep_aspect_ratio`.

    Returns:
        (height, width), each at least one multiple and one pixel: where the references round the
        short side of an extreme image to nothing (10 x 3000 to 0 x 384), this does not.
    """
    scales = [t / s for t, s in zip(target, source, strict=True)]
    if keep_aspect_ratio:
        # Of equal candidates the references take the height, which comes first here.
        key = {"minimal": lambda s: abs(1 - s), "lower_bound": lambda s: -s, "upper_bound": float}
        scales = [min(scales, key=key[method])] * 2
    height, width = (
        _rounded(scale * s, t, multiple, method)
        for scale, s, t in zip(scales, source, target, strict=True)
    )
    return height, width


def _rounded(length: float, target: int, multiple: float, method: ResizeMethod) -> int:
    count = round(length / multiple)
    if method == "lower_bound" and int(count * multiple) < target:
        count = math.ceil(length / multiple)
    if method == "upper_bound" and int(count * multiple) > target:
        count = math.floor(length / multiple)
    return max(int(count * multiple), math.ceil(multiple))


def padding_to_multiple(size: tuple[int, int], divisor: int) -> Margins:
    """((top, bottom), (left, right)) up to the next multiple; the odd pixel goes after."""
    rows, columns = ((-n % divisor // 2, -n % divisor - -n % divisor // 2) for n in size)
    return rows, columns


def zoedepth_margins(size: tuple[int, int]) -> Margins:
    """ZoeDepth's ((top, bottom), (left, right)), which keep its border artefacts off the image."""
    rows, columns = (int(3 * math.sqrt(n / 2)) for n in size)
    return (rows, rows), (columns, columns)
