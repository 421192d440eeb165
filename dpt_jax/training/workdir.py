# SPDX-License-Identifier: Apache-2.0
"""Reads the model of a finished or running training back from its workdir."""

from pathlib import Path
from typing import Any

import jax
from absl import logging

from dpt_jax.models.dpt import DPT, abstract_variables, build_model
from dpt_jax.training import checkpoint
from dpt_jax.training import config as run_config
from dpt_jax.weights import huggingface, initialize
from dpt_jax.weights.lazy import lazy


def is_workdir(path: Path) -> bool:
    """Whether `path` is the workdir of a run of `train.py`."""
    return (path / "checkpoints").is_dir() and not any(path.glob("*.safetensors"))


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


def initial_values(path: str | Path, model: DPT) -> initialize.InitialValues:
    """Values to start training `model` from, of a workdir or of what `weights.initialize` reads."""
    path = Path(path).expanduser()
    if not is_workdir(path):
        return initialize.initial_values(path, model)
    theirs = build_model(run_config.load(path / "config.json")["model"])
    variables, _ = load_variables(path, theirs, "best")
    tensors = lazy(huggingface.to_state_dict(variables, theirs))
    return initialize.match(initialize.encoder_names(tensors), model, path)
