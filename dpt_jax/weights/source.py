# SPDX-License-Identifier: Apache-2.0
"""Opens weights of any kind: what the network is, its tensors, and what its numbers mean."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpt_jax.models.dpt import HEADS
from dpt_jax.weights import checkpoints, huggingface_config, originals
from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.lazy import Tensors, lazy
from dpt_jax.weights.safetensors_file import read_safetensors
from dpt_jax.weights.torch_file import read_torch_file

_MOST_CONFIG_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class WeightsSource:
    """Weights on disk, not read yet.

    Attributes:
        model: `config.model` for `build_model`.
        tensors: Hugging Face's names to functions that fetch the arrays, in PyTorch's layouts.
        depth: what depth means, a key of `checkpoints.UNITS`; None for a model without depth.
        labels: names of the classes of a model with segmentation; empty where they are not stored.
        preprocessing: fields of `ImageProcessor`, or None where `directory` has its own
            `preprocessor_config.json`.
        directory: of a Hugging Face checkpoint; None for files of the original repositories.
    """

    model: Mapping[str, Any]
    tensors: Tensors
    depth: checkpoints.DepthKind | None
    labels: tuple[str, ...]
    preprocessing: Mapping[str, Any] | None
    directory: Path | None


def open_weights(path: str | Path, record: str | None = None) -> WeightsSource:
    """What `path` holds; tensors are read when they are fetched.

    Args:
        path: a Hugging Face directory (`config.json` with `model.safetensors` or its shards), a
            `.safetensors` file beside its `config.json`, or a `.pt` or `.pth` file of an original
            repository.
        record: name of the `checkpoints.CHECKPOINTS` whose graph and conventions a `.pt` file has;
            by default that which was published under the file's name.

    Raises:
        FileNotFoundError: nothing of that kind is there.
        WeightsError: a damaged or unknown file; the message names it.
    """
    path = Path(path).expanduser()
    if path.suffix in (".pt", ".pth"):
        try:
            found = checkpoints.find(path, record)
        except WeightsError:
            if not path.exists():
                raise FileNotFoundError(f"there is no {path}") from None
            raise
        return _open_original(path, found)
    directory = path.parent if path.suffix == ".safetensors" else path
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(
            f"{path} holds no weights: expected a folder with config.json and *.safetensors, or a "
            ".pt or .pth file of an original repository"
        )
    if record is not None:
        raise WeightsError(f"{path} has its own config.json; record={record!r} is not for it")
    hf = read_config(directory / "config.json")
    try:
        model = huggingface_config.model_config(hf)
    except WeightsError as error:  # which begins with "config.json: "
        raise WeightsError(f"{directory}/{error}") from error
    task = HEADS[model["head"]["type"]].task  # pyright: ignore[reportAttributeAccessIssue]
    labels = (hf.get("id2label") or {}) if task in ("segmentation", "dense") else {}
    if labels and len(labels) != model["head"]["num_labels"]:
        raise WeightsError(
            f"{directory}/config.json: id2label has {len(labels)} names for num_labels="
            f"{model['head']['num_labels']} classes"
        )
    return WeightsSource(
        model=model,
        tensors=lazy(read_safetensors(path)),
        depth=huggingface_config.depth_kind(hf) if task in ("depth", "dense") else None,
        labels=tuple(labels[key] for key in sorted(labels, key=int)),
        preprocessing=None,
        directory=directory,
    )


def _open_original(path: Path, record: checkpoints.Checkpoint) -> WeightsSource:
    if not record.files:
        raise WeightsError(
            f"{record.name} is a Hugging Face directory; {path} is not one of its files"
        )
    # The other files of the record, such as DINOv2's encoder, are expected beside the first.
    tensors: dict[str, Callable[[], np.ndarray]] = {}
    for file in (path, *(path.parent / name for name in record.files[1:])):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing; {record.name} consists of {' and '.join(record.files)}, in "
                f"one folder ({record.origin})"
            )
        state_dict = originals.state_dict_of(read_torch_file(file), file)
        tensors |= originals.to_hf_names(lazy(state_dict), file)
    return WeightsSource(
        model=record.model,
        tensors=tensors,
        depth=record.depth,
        labels=(),
        preprocessing=record.preprocessing,
        directory=None,
    )


def read_config(path: Path) -> dict[str, Any]:
    """A `config.json`.

    Raises:
        WeightsError: it is no JSON object, or too large to be one of ours.
    """
    try:
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise ValueError("larger than any config")
        config = json.loads(path.read_text())
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not a config.json: {error}") from error
    return config
