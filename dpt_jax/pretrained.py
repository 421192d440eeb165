# SPDX-License-Identifier: Apache-2.0
"""Loads what was trained, here or elsewhere, and saves it for `transformers`."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from absl import logging

from dpt_jax.models.dpt import DPT, build_model
from dpt_jax.predict.processor import ImageProcessor
from dpt_jax.training import config as run_config
from dpt_jax.training import workdir
from dpt_jax.weights import huggingface
from dpt_jax.weights.checkpoints import DepthKind
from dpt_jax.weights.families import backbone_type, family
from dpt_jax.weights.huggingface_export import hf_config
from dpt_jax.weights.safetensors_file import write_safetensors
from dpt_jax.weights.source import open_weights


def load_pretrained(
    path: str | Path, *, dtype: Any = jnp.float32, which: str = "best", record: str | None = None
) -> tuple[DPT, dict[str, Any]]:
    """The model and its variables from weights of any kind.

    Args:
        path: a Hugging Face directory of the DPT family (`config.json` and `*.safetensors`), a
            `.pt` or `.pth` file of isl-org/DPT, MiDaS 3, Depth Anything or DINOv2's depth heads,
            or a workdir of `train.py`.
        dtype: computed in, float32 or bfloat16; variables are float32.
        which: of a workdir, "best", the checkpoint with the best score, or "latest".
        record: of a `.pt` file that has not its published name, which of
            `weights.checkpoints.CHECKPOINTS` it is.

    Returns:
        (model, variables), for `model.apply(variables, pixels)`. Pixels have to be prepared as the
        checkpoint wants: see `Predictor`, which does.

    Raises:
        FileNotFoundError: `path` is none of these; or the workdir has no finished checkpoint.
        WeightsError: a damaged or unknown file, or weights that do not fit the model.
    """
    path = Path(path).expanduser()
    if workdir.is_workdir(path):
        config = run_config.load(path / "config.json")
        model = build_model(dict(config["model"]) | {"dtype": jnp.dtype(dtype).name})
        return model, workdir.load_variables(path, model, which)[0]
    source = open_weights(path, record)
    model = build_model(dict(source.model) | {"dtype": jnp.dtype(dtype).name})
    return model, huggingface.to_variables(source.tensors, model)


def save_pretrained(
    model: DPT,
    variables: Mapping[str, Any],
    path: str | Path,
    *,
    processor: ImageProcessor | None = None,
    labels: Sequence[str] = (),
    depth: DepthKind | None = None,
    approximate: bool = False,
) -> None:
    """Writes a directory that `transformers` loads without a missing or unexpected key.

    `config.json`, `preprocessor_config.json` and `model.safetensors` appear together, once all
    three are written.

    Args:
        model: what is saved.
        variables: its parameters and statistics; with "unused" from `load_pretrained` the file that
            was read is written again, bit for bit.
        path: of the directory; made if it is not there.
        processor: how images become pixels. None assumes what the public checkpoints of this
            architecture use, and says so in the log.
        labels: names of the classes, in order.
        depth: what the model's depth means; None: metres if it says so (ZoeDepth, DINOv2's
            depth heads, Depth Anything with a maximum), else inverse relative depth.
        approximate: see `huggingface_export.hf_config`.

    Raises:
        WeightsError: `transformers` has no such model; or the variables do not fit the model.
    """
    config = hf_config(model, approximate=approximate)
    if labels:
        if len(labels) != model.head.num_labels:  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(f"{len(labels)} labels for {config['id2label']}")
        config["id2label"] = {str(i): name for i, name in enumerate(labels)}
        config["label2id"] = {name: i for i, name in enumerate(labels)}
    if depth is not None:
        config["dpt_jax"] = {"depth": depth}
    if processor is None:
        processor = default_processor(model)
        logging.info("preprocessing is assumed to be the usual one: %s", processor)
    target = Path(path).expanduser()
    target.mkdir(parents=True, exist_ok=True)
    partial = target / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write_safetensors(
        partial / "model.safetensors", huggingface.to_state_dict(variables, model), {"format": "pt"}
    )
    for name, contents in (
        ("preprocessor_config.json", processor.to_dict()),
        ("config.json", config),
    ):
        (partial / name).write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n")
    # The config last: without it a directory holds no model.
    for name in ("model.safetensors", "preprocessor_config.json", "config.json"):
        (partial / name).replace(target / name)
    partial.rmdir()


def default_processor(model: DPT) -> ImageProcessor:
    """What the public checkpoints of this architecture do to images."""
    backbone: Any = model.backbone
    side = backbone.image_size
    imagenet: dict[str, Any] = {
        "image_mean": (0.485, 0.456, 0.406),
        "image_std": (0.229, 0.224, 0.225),
    }
    if family(model).model_type == "zoedepth":
        return ImageProcessor.from_dict(
            {"image_processor_type": "ZoeDepthImageProcessor", "ensure_multiple_of": 32}
        )
    if family(model).model_type == "depth_anything":
        return ImageProcessor(
            size=(side, side),
            keep_aspect_ratio=True,
            ensure_multiple_of=backbone.patch_size,
            **imagenet,
        )
    if backbone_type(model) == "dinov2":
        return ImageProcessor(
            do_resize=False, do_pad=True, size_divisor=backbone.patch_size, **imagenet
        )
    return ImageProcessor(size=(side, side))
