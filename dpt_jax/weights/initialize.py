# SPDX-License-Identifier: Apache-2.0
"""Initial values for training from any checkpoint: an encoder, or a DPT with another head."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from dpt_jax.models.dpt import DPT, abstract_variables
from dpt_jax.models.resize import resize_matrix
from dpt_jax.weights import huggingface, originals
from dpt_jax.weights.augreg import read_augreg
from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.families import family
from dpt_jax.weights.lazy import Tensors, lazy
from dpt_jax.weights.safetensors_file import read_safetensors
from dpt_jax.weights.source import read_config
from dpt_jax.weights.torch_file import read_torch_file

Path_ = tuple[str, ...]

# What the encoder is called in the classes that hold one.
_PREFIX = re.compile(r"^(dpt|backbone|vit|dinov2|dinov2_with_registers|beit|vision_encoder)\.")
_DECODER = re.compile(r"^(neck|(\w+_)?head)\.")
_POSITIONS = ("position_embeddings", "pos_embed")


@dataclasses.dataclass(frozen=True)
class InitialValues:
    """What a checkpoint has for a model.

    Attributes:
        values: path in the variables (collection first) to the value.
        reinitialised: parameters that it has not, or in another shape; with the reason.
        resized: position embeddings that were resized to the model's native grid.
        not_used: HF names in the checkpoint that the model has no place for.
    """

    values: dict[Path_, np.ndarray]
    reinitialised: dict[str, str]
    resized: tuple[str, ...]
    not_used: tuple[str, ...]

    def report(self, path: Any) -> str:
        """Lines for the log: what was taken, and every parameter that was not."""
        lines = [
            f"initialised from {path}: {len(self.values)} parameters taken, "
            f"{len(self.reinitialised)} initialised anew, {len(self.not_used)} there not used"
        ]
        lines += [f"  resized to this grid: {name}" for name in self.resized]
        absent = [name for name, why in self.reinitialised.items() if why == _ABSENT]
        lines += [f"  anew, {_ABSENT}: {group}" for group in _groups(absent, "/")]
        lines += [f"  anew: {n}: {why}" for n, why in self.reinitialised.items() if why != _ABSENT]
        lines += [f"  not used: {group}" for group in _groups(self.not_used, ".")]
        return "\n".join(lines)


_ABSENT = "not in the checkpoint"


def _groups(names: Iterable[str], separator: str) -> list[str]:
    """Names that differ in their numbers and last word only, as one line each with their count."""
    counts: dict[str, int] = {}
    for name in names:
        words = re.sub(r"\d+", "*", name).split(separator)
        group = separator.join(words[:4]) + (f"{separator}*" if len(words) > 4 else "")
        counts[group] = counts.get(group, 0) + 1
    return [f"{group} ({count})" for group, count in counts.items()]


def initial_values(path: str | Path, model: DPT) -> InitialValues:
    """Values for the parameters of `model` from weights of another model with the same encoder.

    Decoder and heads are taken where name and shape agree and left to their initialisation where
    not. Position embeddings of another native size are resized bilinearly, corners not aligned, as
    ViT-DPT resizes them to the grid of an image.

    Args:
        path: a Hugging Face directory of a DPT, ViT, DINOv2 or BEiT, a `.pt` or `.pth` file of
            isl-org, MiDaS, Depth Anything, DINOv2 or timm, or an AugReg `.npz`.
        model: what will be trained.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        WeightsError: a parameter of the encoder is not there or has another shape: then it is
            another encoder, and training would start from noise.
    """
    _check_settings(path, model)
    return match(read_initial(path), model, path)


def _check_settings(path: str | Path, model: DPT) -> None:
    """What the shapes of tensors do not show, where a `config.json` says it."""
    config = Path(path).expanduser() / "config.json"
    if not config.is_file():
        return
    stored = read_config(config)
    if not stored.get("is_hybrid"):  # there it is the ResNet's
        stored = stored.get("backbone_config") or stored
    for key in ("num_attention_heads", "hidden_act"):
        wanted = getattr(model.backbone, key, None)
        if wanted is not None and stored.get(key) not in (None, wanted):
            raise WeightsError(
                f"config.init_from={path} is another encoder: its {key} is {stored[key]!r}, "
                f"config.model.backbone.{key} is {wanted!r}"
            )


def read_initial(path: str | Path) -> Tensors:
    """The tensors of any checkpoint under HF's names, its encoder as `backbone.*`."""
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"config.init_from: there is no {path}")
    if path.suffix == ".npz":
        return read_augreg(path)
    if path.suffix in (".pt", ".pth"):
        state_dict = originals.state_dict_of(read_torch_file(path), path)
        tensors = originals.to_hf_names(lazy(state_dict), path)
    else:
        tensors = lazy(read_safetensors(path))
    return encoder_names(tensors)


def encoder_names(tensors: Tensors) -> Tensors:
    """HF's names with the encoder called `backbone`, whatever its class calls it."""
    return huggingface.to_disk_names({_backbone_name(k): fetch for k, fetch in tensors.items()})


def _backbone_name(name: str) -> str:
    if _DECODER.match(name):
        return name
    return "backbone." + _PREFIX.sub("", name)


def match(tensors: Tensors, model: DPT, path: Any) -> InitialValues:
    """See `initial_values`; `tensors` as `read_initial` gives them."""
    prefix = family(model).backbone_prefix
    leaves: dict[Path_, Any] = flax.traverse_util.flatten_dict(abstract_variables(model))
    values, anew, resized, wrong = {}, {}, [], []
    used = set()
    for where, leaf in leaves.items():
        name = huggingface.hf_name(where[1:], model)
        key = _backbone_name(name) if name.startswith(f"{prefix}.") else name
        place = "/".join(where)
        if key not in tensors:
            why = _ABSENT
        else:
            used.add(key)
            value = huggingface.to_linen(tensors[key](), where, model)
            if name.endswith(_POSITIONS) and value.shape != leaf.shape:
                value = _resized_positions(value, leaf.shape)
                resized.append(place)
            if value is not None and value.shape == leaf.shape:
                values[where] = np.asarray(value, leaf.dtype, order="C")
                continue
            found = "another layout" if value is None else str(value.shape)
            why = f"{found} there, {leaf.shape} here"
        if where[1] == "backbone":
            wrong.append(f"{place}: {why}")
        else:
            anew[place] = why
    if wrong:
        raise WeightsError(
            f"config.init_from={path} is not this encoder ({len(wrong)} of its parameters):\n  "
            + "\n  ".join(wrong[:20])
            + ("\n  ..." if len(wrong) > 20 else "")
        )
    dead = {_backbone_name(name) for name in huggingface.dead_parameters(model)}
    not_used = tuple(k for k in tensors if k not in used and k not in dead)
    return InitialValues(values, anew, tuple(resized), not_used)


def _resized_positions(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Positions of another square grid; the class token's row stays. None if it is no square."""
    old, new = (round((n - 1) ** 0.5) for n in (positions.shape[1], shape[1]))
    if old * old + 1 != positions.shape[1] or positions.shape[::2] != shape[::2]:
        return None
    matrix = resize_matrix(old, new)
    grid = positions[0, 1:].reshape(old, old, -1)
    grid = np.einsum("ih,jw,hwd->ijd", matrix, matrix, grid, optimize=True)
    return np.concatenate([positions[:, :1], grid.reshape(1, new * new, -1)], axis=1)
