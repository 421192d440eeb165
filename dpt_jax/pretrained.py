# SPDX-License-Identifier: Apache-2.0
"""Loads what was trained: here, or elsewhere."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from dpt_jax.models.dpt import DPT, build_model
from dpt_jax.training import checkpoint
from dpt_jax.training import config as run_config
from dpt_jax.weights import huggingface


def load_pretrained(
    path: str | Path, *, dtype: Any = jnp.float32, which: str = "best"
) -> tuple[DPT, dict[str, Any]]:
    """The model and its variables from a training workdir or a Hugging Face directory.

    Args:
        path: a workdir of `train.py` (with `config.json` and `checkpoints/`), or an HF directory of
            a plain ViT-DPT (`config.json` and `model.safetensors`).
        dtype: computed in, float32 or bfloat16; variables are float32.
        which: of a workdir, "best", the checkpoint with the best score, or "latest".

    Returns:
        (model, variables), for `model.apply(variables, pixels)`.

    Raises:
        FileNotFoundError: `path` is neither; or the workdir has no finished checkpoint.
        ValueError: the weights do not fit the model.
    """
    path = Path(path).expanduser()
    if (path / "checkpoints").is_dir():
        config = run_config.load(path / "config.json")
        model = build_model(dict(config["model"]) | {"dtype": jnp.dtype(dtype).name})
        return model, load_workdir_variables(path, model, which)[0]
    if (path / "model.safetensors").is_file():
        config, tensors = huggingface.read_directory(path)
        model = build_model(huggingface.model_config(config) | {"dtype": jnp.dtype(dtype).name})
        return model, huggingface.to_variables(tensors, model)
    raise FileNotFoundError(
        f"{path} is neither a training workdir (with config.json and checkpoints/) nor a Hugging "
        "Face directory (with config.json and model.safetensors)"
    )


def load_workdir_variables(workdir: Path, model: DPT, which: str) -> tuple[dict[str, Any], int]:
    """The variables of a workdir's best or newest checkpoint, and its step.

    A run that was not evaluated yet has no best checkpoint; then it is the newest.
    """
    folder = workdir / ("best" if which == "best" else "checkpoints")
    if which == "best" and not checkpoint.has_steps(folder):
        logging.warning("%s has no best checkpoint yet; reading the newest instead", workdir)
        folder = workdir / "checkpoints"
    abstract = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    abstract = {"params": abstract["params"], "batch_stats": abstract.get("batch_stats", {})}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = checkpoint.abstract_like(abstract, jax.tree.map(lambda _: device, abstract))
    return checkpoint.load_variables(folder, abstract)
