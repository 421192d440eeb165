# SPDX-License-Identifier: Apache-2.0
"""Loads what was trained, here or elsewhere, and saves it for `transformers`."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from absl import logging

from dpt_jax.data.transforms import augment_settings
from dpt_jax.models.dpt import DPT, build_model
from dpt_jax.predict.processor import ImageProcessor
from dpt_jax.training import config as run_config
from dpt_jax.training import workdir
from dpt_jax.weights import hub, huggingface
from dpt_jax.weights.checkpoints import UNITS, DepthKind
from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.families import backbone_type, family
from dpt_jax.weights.huggingface_export import hf_config
from dpt_jax.weights.safetensors_file import write_safetensors
from dpt_jax.weights.source import open_weights


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A trained network with all that its numbers depend on.

    Attributes:
        model_config: the `config.model` that it is built from.
        model: the network.
        variables: its parameters and statistics, NumPy or JAX arrays.
        processor: how images become its pixels; None where a Hugging Face directory has no
            `preprocessor_config.json`.
        depth: what its depth means, a key of `weights.checkpoints.UNITS`; None for segmentation.
        labels: names of its classes; empty where they are not known.
    """

    model_config: Mapping[str, Any]
    model: DPT
    variables: dict[str, Any]
    processor: ImageProcessor | None
    depth: DepthKind | None
    labels: tuple[str, ...]


def open_pretrained(
    path: str | Path, *, dtype: Any = jnp.float32, which: str = "best", record: str | None = None
) -> Pretrained:
    """Everything about weights of any kind; arguments and errors are those of `load_pretrained`."""
    if which not in ("best", "latest"):
        raise ValueError(f"which: expected 'best' or 'latest', got {which!r}")
    path = hub.local_path(path)
    dtype_name = jnp.dtype(dtype).name
    if workdir.is_workdir(path):
        if record is not None:
            raise WeightsError(f"{path} is a workdir; record={record!r} is not for it")
        config = run_config.load(path / "config.json")
        model = build_model(dict(config["model"]) | {"dtype": dtype_name})
        return Pretrained(
            config["model"],
            model,
            workdir.load_variables(path, model, which)[0],
            _processor_of_run(path, config),
            config.get("depth", "metric") if model.task in ("depth", "dense") else None,
            tuple(config.get("labels", ())),
        )
    source = open_weights(path, record)
    model = build_model(dict(source.model) | {"dtype": dtype_name})
    processor = None
    if source.preprocessing is not None:
        processor = ImageProcessor(**source.preprocessing)
    elif source.directory and (source.directory / "preprocessor_config.json").is_file():
        processor = ImageProcessor.from_pretrained(source.directory)
    return Pretrained(
        source.model,
        model,
        huggingface.to_variables(source.tensors, model),
        processor,
        source.depth,
        source.labels,
    )


def load_pretrained(
    path: str | Path, *, dtype: Any = jnp.float32, which: str = "best", record: str | None = None
) -> tuple[DPT, dict[str, Any]]:
    """The model and its variables from weights of any kind.

    Args:
        path: a Hugging Face directory of the DPT family (`config.json` and `*.safetensors`), a
            `.pt` or `.pth` file of isl-org/DPT, MiDaS 3, Depth Anything or DINOv2's depth heads,
            a workdir of `train.py`, or `hf://owner/name@revision` (see `weights.hub`).
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
    found = open_pretrained(path, dtype=dtype, which=which, record=record)
    return found.model, found.variables


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
    state_dict = huggingface.to_state_dict(variables, model)
    if labels:
        count = getattr(model.head, "num_labels", 0)
        if len(labels) != count:
            raise ValueError(f"labels: {len(labels)} names for a model of {count} classes")
        config["id2label"] = {str(i): name for i, name in enumerate(labels)}
        config["label2id"] = {name: i for i, name in enumerate(labels)}
    if depth is not None:
        if depth not in UNITS or model.task not in ("depth", "dense"):
            raise ValueError(f"depth={depth!r}: expected one of {tuple(UNITS)}, of a depth model")
        config["dpt_jax"] = {"depth": depth}
    if processor is None:
        processor = default_processor(model)
        logging.warning("preprocessing is assumed to be the usual one: %s", processor)
    target = Path(path).expanduser()
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; a directory is written")
    target.mkdir(parents=True, exist_ok=True)
    partial = target / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write_safetensors(partial / "model.safetensors", state_dict, {"format": "pt"})
        for name, contents in (
            ("preprocessor_config.json", processor.to_dict()),
            ("config.json", config),
        ):
            (partial / name).write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n")
        # Without a config a directory holds no model: an old one goes first, the new comes last.
        (target / "config.json").unlink(missing_ok=True)
        for name in ("model.safetensors", "preprocessor_config.json", "config.json"):
            (partial / name).replace(target / name)
    finally:
        shutil.rmtree(partial)


def default_processor(model: DPT) -> ImageProcessor:
    """What the public checkpoints of this architecture do to images."""
    backbone: Any = model.backbone
    kind, side = family(model).model_type, backbone.image_size
    imagenet: dict[str, Any] = {
        "image_mean": (0.485, 0.456, 0.406),
        "image_std": (0.229, 0.224, 0.225),
    }
    if kind == "zoedepth":
        return ImageProcessor.from_dict(
            {"image_processor_type": "ZoeDepthImageProcessor", "ensure_multiple_of": 32}
        )
    if kind == "tipsv2_dpt":
        return ImageProcessor.from_dict(
            {"image_processor_type": "Tipsv2DptImageProcessor", "size": side}
        )
    if kind == "chmv2":
        return ImageProcessor.from_dict({"image_processor_type": "CHMv2ImageProcessor"})
    if kind == "prompt_depth_anything":
        return ImageProcessor(
            image_processor_type="PromptDepthAnythingImageProcessor",
            size=(756, 756),
            keep_aspect_ratio=True,
            ensure_multiple_of=backbone.patch_size,
            **imagenet,
        )
    if kind == "depth_anything":
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


def _processor_of_run(path: Path, config: Mapping[str, Any]) -> ImageProcessor:
    """What a run's evaluation does; where that takes images as they are, the size it trained at."""
    if (path / "preprocessor_config.json").is_file():  # a converted checkpoint
        return ImageProcessor.from_pretrained(path)
    data, settings = config["data"], config["eval"]
    size = settings["size"] or augment_settings(data["augment"])["crop"]
    if not size:
        size = data["rooms"]["size"] if data["source"] == "rooms" else 384
    return ImageProcessor(
        size=(size, size) if isinstance(size, int) else tuple(size),
        keep_aspect_ratio=settings["keep_aspect_ratio"],
        ensure_multiple_of=settings["multiple_of"],
        image_mean=data["mean"],
        image_std=data["std"],
        depth_resample="torch_bilinear",
    )
