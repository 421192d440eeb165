# SPDX-License-Identifier: Apache-2.0
"""The run's configuration: resolved to plain data, stored, and compared when a run is resumed."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from dpt_jax.data.sources import Source

# What may differ between the start and the resumption of a run, because no parameter depends on it.
MAY_CHANGE = (
    r"^train\.(log_every|evaluate_every|checkpoint_every|max_nonfinite)$",
    r"^data\.(root|description|lists\..*)$",  # what they lead to is compared: `fingerprint`
    r"^data\.(threads|workers|prefetch)$",
    r"^data\.(on_error|max_quarantined|quarantine)$",  # they decide whether a run goes on
    r"^eval\.(batch_size|baseline_images)$",
    r"^mesh\.",
)


class ConfigError(Exception):
    """A configuration that cannot be run; the message names the key and what was expected."""


def resolve(config: ml_collections.ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Plain nested dicts of a config; unset placeholders become None, sequences become tuples."""
    if isinstance(config, ml_collections.ConfigDict):
        config = json.loads(config.to_json())
    return {k: _plain(v) for k, v in config.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        # `--config.key=None` arrives as (None,) where the key is a tuple.
        return None if tuple(value) == (None,) else tuple(_plain(v) for v in value)
    return value


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train.steps": 100, ...} of nested mappings."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def validate(config: Mapping[str, Any]) -> None:
    """Checks what no other part would: that counts are positive and intervals fit together.

    Raises:
        ConfigError: naming the key.
    """
    train = config["train"]
    for key in ("steps", "batch_size", "log_every", "evaluate_every", "checkpoint_every"):
        if train[key] < 1:
            raise ConfigError(f"config.train.{key}={train[key]} must be at least 1")
    for key in ("batch_size", "multiple_of", "limit", "size"):
        value = config["eval"][key]
        if value is not None and value < 1:
            raise ConfigError(f"config.eval.{key}={value} must be at least 1")
    if train["checkpoint_every"] % train["log_every"]:
        raise ConfigError(
            f"config.train.checkpoint_every={train['checkpoint_every']} must be a multiple of "
            f"config.train.log_every={train['log_every']}, so that a resumed run logs "
            "the same lines"
        )
    head = config["model"]["head"]
    if head["type"] == "depth" and head["activation"] == "sigmoid" and head["max_depth"]:
        for key in ("loss", "eval"):
            if config[key]["max_depth"] > head["max_depth"]:
                raise ConfigError(
                    f"config.{key}.max_depth={config[key]['max_depth']} is beyond "
                    f"config.model.head.max_depth={head['max_depth']}, which the sigmoid cannot "
                    "exceed; the three should be equal"
                )
    if config["model"]["head"]["type"] not in ("depth", "segmentation"):
        raise ConfigError(
            f"config.model.head.type {config['model']['head']['type']!r} is not depth "
            "or segmentation"
        )


def load(path: Path) -> dict[str, Any]:
    """A config that `save` wrote.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    try:
        return resolve(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def save(config: Mapping[str, Any], path: Path) -> None:
    """Stores a resolved config; a run that is killed meanwhile leaves the old file or none."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    partial.replace(path)


def fingerprint(source: Source) -> str:
    """What tells a split from another: how many examples, and a hash of their names and meaning.

    Where the files are is not part of it, nor whether they have been prepared.
    """
    meaning = getattr(source, "meaning", None)  # rooms have none
    fields = meaning.to_json() if meaning else {}
    told = {key: value for key, value in fields.items() if key not in ("dataset", "note")}
    names = [source.name(index) for index in range(len(source))]
    content = json.dumps([told, names], sort_keys=True)
    return f"{len(source)} examples, {hashlib.sha256(content.encode()).hexdigest()[:16]}"


def check_resumable(stored: Mapping[str, Any], config: Mapping[str, Any], workdir: Path) -> None:
    """Refuses to go on with another model, data or optimizer than the run was started with.

    Raises:
        ConfigError: listing every key that differs and must not.
    """
    old, new = flatten(stored), flatten(config)
    changed = [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not any(re.search(p, key) for p in MAY_CHANGE)
    ]
    if changed:
        raise ConfigError(
            f"{workdir} holds a run with another configuration; use a new --workdir, or the old "
            "settings:\n  " + "\n  ".join(changed)
        )
