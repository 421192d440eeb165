# SPDX-License-Identifier: Apache-2.0
"""Where examples come from. `build_source(config.data, split)` is the one door."""

import functools
import importlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from dpt_jax.data.sources import base
from dpt_jax.data.sources.base import IGNORE, DatasetError, Example, Source
from dpt_jax.data.sources.prepared import PreparedSource, is_prepared
from dpt_jax.data.sources.rooms import Rooms

__all__ = ["IGNORE", "SOURCES", "DatasetError", "Example", "Rooms", "Source", "build_source"]

# Readers that are on disk, and the keys of config.data that they need beside root and split.
_READERS: dict[str, tuple[str, ...]] = {
    "ade20k": (),
    "nyuv2": ("list_file",),
    "nyuv2_mat": ("depth",),
    "nyuv2_tfds": (),
    "kitti": ("list_file",),
    "pascal_context": ("background",),
    "cityscapes": (),
    "folder": ("description",),
}
# Options that are part of `Meaning.dataset`, "pascal_context background=True", and their keys.
_CHANGE_MEANING = {"depth": "nyuv2_mat.depth", "background": "pascal_context.background"}
SOURCES = ("rooms", *_READERS)


def build_source(config: Mapping[str, Any], split: str) -> Source:
    """The source that `config.data` describes.

    Args:
        config: `source` is one of `SOURCES`. "rooms" reads `rooms.{size, train_length,
            validation_length, seed}`. All others read `root`, which is a folder in the data set's
            own layout, or what `dpt-jax data prepare` made of it; besides, "nyuv2" and "kitti" read
            `lists.{train, validation}`, "nyuv2_mat" `nyuv2_mat.depth`, "pascal_context"
            `pascal_context.background` and "folder" `description`. A prepared copy has lists and
            description in it, and takes none.
        split: "train" or "validation" (where a benchmark is scored, which some call its test set).

    Raises:
        DatasetError: an unknown source, or data that is missing or inconsistent.
    """
    base.check_split(split, "config.data")
    name = config["source"]
    if name == "rooms":
        rooms = config["rooms"]
        return Rooms(
            split=split,
            size=tuple(rooms["size"]),
            length=rooms[f"{split}_length"],
            seed=rooms["seed"],
        )
    if name not in _READERS:
        raise DatasetError(f"config.data.source {name!r} is not one of {', '.join(SOURCES)}")
    options = {
        "list_file": config["lists"][split],
        "depth": config["nyuv2_mat"]["depth"],
        "background": config["pascal_context"]["background"],
        "description": config["description"],
    }
    for option, key in (("list_file", f"lists.{split}"), ("description", "description")):
        if options[option] and option not in _READERS[name]:
            raise DatasetError(f"{name} does not read --config.data.{key}; unset it")
    found = _open(name, config["root"], split, {key: options[key] for key in _READERS[name]})
    if found.meaning.note:
        _say_once(name, found.meaning.note)
    return found


@functools.cache
def _say_once(name: str, note: str) -> None:
    logging.warning("%s: %s", name, note)


def _open(name: str, root: str | None, split: str, options: Mapping[str, Any]) -> Any:
    if root and is_prepared(root):
        for option, key in (("list_file", f"lists.{split}"), ("description", "description")):
            if options.get(option):
                raise DatasetError(
                    f"{root} is a prepared copy, which has its lists and its description in it; "
                    f"unset --config.data.{key} or prepare anew"
                )
        source = PreparedSource(root, split)
        changing = [k for k in _CHANGE_MEANING if k in options]
        wanted = [name, *(f"{k}={options[k]}" for k in changing)]
        if source.meaning.dataset.split(" ")[: len(wanted)] != wanted:
            keys = ["source", *(_CHANGE_MEANING[k] for k in changing)]
            raise DatasetError(
                f"{root} was prepared from {source.meaning.dataset!r}, not from "
                f"{' '.join(wanted)!r}; set {' and '.join(f'--config.data.{k}' for k in keys)} as "
                "before, or prepare it anew"
            )
        return source
    # Each reader is imported when it is asked for: some need packages that others do not.
    reader = getattr(importlib.import_module(f"dpt_jax.data.sources.{name}"), name)
    return reader(root=root, split=split, **options)
