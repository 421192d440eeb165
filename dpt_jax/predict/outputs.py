# SPDX-License-Identifier: Apache-2.0
"""A prediction on disk: 16-bit depth or class ids, a sidecar, a coloured preview."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from dpt_jax.data.sources.ade20k import PALETTE as ADE20K_PALETTE
from dpt_jax.evaluation import colors
from dpt_jax.weights.checkpoints import UNITS, DepthKind


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network sees in one image, at the size of that image (as its EXIF data turn it).

    Attributes:
        depth: `h w` float32; None for segmentation.
        labels: `h w` uint8 class ids; None for depth.
        kind: of depth: "metric" (metres) or "inverse_relative" (larger is nearer, up to an unknown
            scale and shift); None for segmentation.
        classes: names of the classes by id; may be empty.
    """

    depth: np.ndarray | None = None
    labels: np.ndarray | None = None
    kind: DepthKind | None = None
    classes: tuple[str, ...] = ()

    def preview(self) -> Image.Image:
        """In colours: near is red and far blue; classes have their palette's."""
        if self.labels is not None:
            palette = _palette(self.labels, self.classes)
            return Image.fromarray(colors.label_colors(self.labels, palette))
        assert self.depth is not None
        if self.kind == "metric":
            near, far = (float(x) for x in np.percentile(self.depth, (1, 99)))
            return Image.fromarray(colors.depth_colors(self.depth, near, far))
        return Image.fromarray(colors.inverse_depth_colors(self.depth))

    def save(self, directory: str | Path, name: str) -> tuple[Path, ...]:
        """Writes `name.png`, `name.json` and `name_preview.jpg` into `directory`.

        Depth is a 16-bit PNG; the sidecar's `scale` and `offset` make it numbers again:
        `png * scale + offset`. Metric depth is in millimetres (`scale` 0.001), or in 1/256 m where
        it is beyond 65.5 m, and 0 where it is farther than 16 bits reach. Inverse relative depth
        fills the 16 bits from its smallest to its largest value. Classes are a palette PNG whose
        indices are the ids.

        Args:
            directory: made if it is not there.
            name: of the three files, without a suffix.

        Returns:
            The paths, in that order.
        """
        directory = Path(directory).expanduser()
        directory.mkdir(parents=True, exist_ok=True)
        picture, sidecar = self._encoded()
        paths = (
            directory / f"{name}.png",
            directory / f"{name}.json",
            directory / f"{name}_preview.jpg",
        )
        picture.save(paths[0], pnginfo=PngImagePlugin.PngInfo())
        paths[1].write_text(json.dumps(sidecar, indent=2) + "\n")
        self.preview().save(paths[2], quality=92)
        return paths

    def _encoded(self) -> tuple[Image.Image, Mapping[str, Any]]:
        if self.labels is not None:
            picture = Image.fromarray(self.labels)
            picture.putpalette(_palette(self.labels, self.classes).tobytes())
            present = [int(i) for i in np.unique(self.labels)]
            names = {str(i): self.classes[i] for i in present if i < len(self.classes)}
            return picture, {"task": "segmentation", "classes": names or present}
        assert self.depth is not None and self.kind is not None
        low, high = float(self.depth.min()), float(self.depth.max())
        if self.kind == "metric":
            # Millimetres where 16 bits hold them, else KITTI's unit.
            scale, offset = (0.001 if round(high * 1000) <= 65535 else 1 / 256), 0.0
        else:
            scale, offset = (high - low) / 65535 or 1.0, low
        stored = np.rint((self.depth.astype(np.float64) - offset) / scale)
        if self.kind == "metric":
            stored = np.where(stored > 65535, 0, stored)
        return Image.fromarray(stored.clip(0, 65535).astype(np.uint16)), {
            "task": "depth",
            "kind": self.kind,
            "unit": UNITS[self.kind],
            "value": "png * scale + offset",
            "invalid": 0 if self.kind == "metric" else None,
            "scale": scale,
            "offset": offset,
            "minimum": low,
            "maximum": high,
        }


def _palette(labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    count = max(len(classes), int(labels.max(initial=0)) + 1)
    return ADE20K_PALETTE if count == len(ADE20K_PALETTE) else colors.class_palette(count)
