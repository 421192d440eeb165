# SPDX-License-Identifier: Apache-2.0
"""Reads the model of a finished or running training back from its workdir."""

from pathlib import Path
from typing import Any

import jax
from absl import logging

from dpt_jax.models.dpt import DPT, abstract_variables
from dpt_jax.training import checkpoint


def is_workdir(path: Path) -> bool:
    """Whether `path` is the workdir of a run of `train.py`."""
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def load_variables(workdir: Path, model: DPT, which: str) -> tuple[dict[str, Any], int]:
    """The variables of a workdir's best or newest checkpoint, and its step.

    A run that was not evaluated yet has no best checkpoint; then it is the newest.
    """
    folder = workdir / ("best" if which == "best" else "checkpoints")
    if which == "best" and not checkpoint.has_steps(folder):
        logging.warning("%s has no best checkpoint yet; reading the newest instead", workdir)
        folder = workdir / "checkpoints"
    abstract = abstract_variables(model)
    abstract = {"params": abstract["params"], "batch_stats": abstract.get("batch_stats", {})}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = checkpoint.abstract_like(abstract, jax.tree.map(lambda _: device, abstract))
    return checkpoint.load_variables(folder, abstract)
