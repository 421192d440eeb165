# SPDX-License-Identifier: Apache-2.0
"""Where examples come from. `build_source(config.data, split)` is the one door."""

from collections.abc import Mapping
from typing import Any

from dpt_jax.data.sources.ade20k import ADE20K
from dpt_jax.data.sources.base import IGNORE, DatasetError, Example, Source
from dpt_jax.data.sources.rgbd import RGBD
from dpt_jax.data.sources.rooms import Rooms

__all__ = ["ADE20K", "IGNORE", "RGBD", "DatasetError", "Example", "Rooms", "Source", "build_source"]

SOURCES = ("rooms", "ade20k", "rgbd")


def build_source(config: Mapping[str, Any], split: str) -> Source:
    """The source that `config.data` describes.

    Args:
        config: `source` is "rooms" (reads `rooms.size`, `rooms.train_length`,
            `rooms.validation_length`, `rooms.seed`), "ade20k" (reads `root`) or "rgbd" (reads
            `root` and `manifest`).
        split: "train" or "validation".

    Raises:
        DatasetError: an unknown source, or data that is missing or inconsistent.
    """
    if split not in ("train", "validation"):
        raise DatasetError(f"unknown split {split!r}; use train or validation")
    kind = config["source"]
    if kind == "rooms":
        rooms = config["rooms"]
        return Rooms(
            split=split,
            size=tuple(rooms["size"]),
            length=rooms[f"{split}_length"],
            seed=rooms["seed"],
        )
    if kind == "ade20k":
        return ADE20K(root=config["root"], split=split)
    if kind == "rgbd":
        return RGBD(root=config["root"], manifest=config["manifest"], split=split)
    raise DatasetError(f"config.data.source {kind!r} is not one of {', '.join(SOURCES)}")
