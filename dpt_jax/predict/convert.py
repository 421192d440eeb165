# SPDX-License-Identifier: Apache-2.0
"""Weights of any kind, written for `transformers` or as a workdir."""

import json
from pathlib import Path

import jax

from dpt_jax.predict.pretrained import Pretrained, open_pretrained, save_pretrained
from dpt_jax.training import checkpoint
from dpt_jax.training import config as run_config
from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.families import family


def to_transformers(
    source: str | Path,
    destination: str | Path,
    *,
    which: str = "best",
    record: str | None = None,
    approximate: bool = False,
) -> str:
    """Writes a directory that `transformers` loads; see `save_pretrained`.

    Args:
        source: as `load_pretrained`.
        destination: directory, new or empty.
        which: as `load_pretrained`.
        record: as `load_pretrained`.
        approximate: as `save_pretrained`.

    Returns:
        A line about what was written.
    """
    target = _empty(destination)
    found = open_pretrained(source, which=which, record=record)
    save_pretrained(
        found.model,
        found.variables,
        target,
        processor=found.processor,
        labels=found.labels,
        depth=found.depth,
        approximate=approximate,
    )
    return f"{target}: {family(found.model).architecture}, {_count(found):,} parameters"


def to_workdir(
    source: str | Path, destination: str | Path, *, which: str = "best", record: str | None = None
) -> str:
    """Writes a workdir with the weights as its best checkpoint, at step 0.

    It is read like a run's: by `load_pretrained`, `eval.py` and `config.init_from`. What no output
    depends on (the collection "unused") is left out.

    Args:
        source: as `load_pretrained`.
        destination: directory, new or empty.
        which: as `load_pretrained`.
        record: as `load_pretrained`.

    Returns:
        A line about what was written.
    """
    target = _empty(destination)
    found = open_pretrained(source, which=which, record=record)
    if found.processor is None:
        raise WeightsError(f"{source} has no preprocessor_config.json, which a workdir needs")
    variables = {
        "params": found.variables["params"],
        "batch_stats": found.variables.get("batch_stats", {}),
    }
    target.mkdir(parents=True, exist_ok=True)
    checkpoint.save_variables(target, variables)
    (target / "preprocessor_config.json").write_text(
        json.dumps(found.processor.to_dict(), indent=2) + "\n"
    )
    config = {"model": found.model_config, "depth": found.depth, "labels": found.labels}
    run_config.save(config, target / "config.json")
    return f"{target}: a workdir, {_count(found):,} parameters"


def _empty(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is not an empty directory; nothing is overwritten")
    return path


def _count(found: Pretrained) -> int:
    return sum(x.size for x in jax.tree.leaves(found.variables.get("params")))
