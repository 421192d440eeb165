# SPDX-License-Identifier: Apache-2.0
"""Hugging Face DPT checkpoints (`DPTForDepthEstimation`, `DPTForSemanticSegmentation`) as
variables.

Parameter names follow one mechanical rule. In an HF name, dots between words become levels, a
number joins the word before it with an underscore, `dpt` is called `backbone`, and the leaves are
linen's:

    dpt.encoder.layer.3.attention.output.dense.weight
    backbone/encoder/layer_3/attention/output/dense/kernel

`weight` is `kernel` in convolutions and linear layers and `scale` in norms; `running_mean` and
`running_var` are `mean` and `var` of the collection "batch_stats".
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from dpt_jax.models.dpt import DPT

# Present in checkpoints, read by no dense prediction: the final norm and the pooler of the bare
# encoder, the first residual unit of the coarsest fusion layer, PyTorch's batch counters.
KNOWN_DEAD = (
    r"dpt\.layernorm\.",
    r"dpt\.pooler\.",
    r"neck\.fusion_stage\.layers\.0\.residual_layer1\.",
    r".*\.num_batches_tracked$",
)

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def hf_name(path: tuple[str, ...]) -> str:
    """The HF name of the parameter (or statistic) at `path` of a variables tree."""
    *modules, leaf = path
    modules = ["dpt" if i == 0 and m == "backbone" else m for i, m in enumerate(modules)]
    words = [re.sub(r"_(\d+)(?=(_\d+)*$)", r".\1", m) for m in modules]
    return ".".join([*words, _LEAVES.get(leaf, leaf)])


def model_config(hf: Mapping[str, Any]) -> dict[str, Any]:
    """`config.model` for `build_model` from the contents of a plain ViT-DPT's `config.json`.

    Raises:
        ValueError: the config describes a hybrid or an AutoBackbone model, which are not here yet.
    """
    if hf.get("model_type", "dpt") != "dpt" or hf.get("is_hybrid") or hf.get("backbone_config"):
        raise ValueError(
            "only the plain ViT-DPT of Hugging Face can be read so far; this config.json has "
            f"model_type={hf.get('model_type')!r}, is_hybrid={hf.get('is_hybrid')!r}, "
            f"backbone_config {'set' if hf.get('backbone_config') else 'unset'}"
        )

    def pick(*keys: str) -> dict[str, Any]:
        return {key: hf[key] for key in keys if hf.get(key) is not None}

    backbone = pick(
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "initializer_range",
        "layer_norm_eps",
        "image_size",
        "patch_size",
        "qkv_bias",
    )
    neck = pick(
        "readout_type",
        "reassemble_factors",
        "fusion_hidden_size",
        "use_batch_norm_in_fusion_residual",
        "use_bias_in_fusion_residual",
    )
    backbone["out_indices"] = sorted(set(hf.get("backbone_out_indices") or (2, 5, 8, 11)))
    neck["hidden_sizes"] = hf.get("neck_hidden_sizes") or (96, 192, 384, 768)
    # DPTConfig's defaults are those of the parts, but the variant's row would shadow them.
    neck.setdefault("fusion_hidden_size", 256)
    segmentation = any("Segmentation" in name for name in hf.get("architectures") or [])
    if segmentation:
        labels = hf.get("id2label") or {}
        head = {
            "type": "segmentation",
            "num_labels": hf.get("num_labels") or len(labels) or 2,
            "dropout": hf.get("semantic_classifier_dropout", 0.1),
        }
    else:
        head = {"type": "depth", "add_projection": bool(hf.get("add_projection"))}
    head["head_in_index"] = hf.get("head_in_index", -1)
    return {
        "variant": "dpt_base",
        "backbone": backbone,
        "neck": neck,
        "head": head,
        "auxiliary_head": {"use": segmentation and hf.get("use_auxiliary_head", True)},
    }


def to_variables(state_dict: Mapping[str, np.ndarray], model: DPT) -> dict[str, Any]:
    """Variables of `model` from an HF state dict, strictly.

    Args:
        state_dict: HF names to arrays in PyTorch's layouts.
        model: a model of the same architecture.

    Returns:
        {"params": ..., "batch_stats": ...} of NumPy arrays ("batch_stats" only with BatchNorm).

    Raises:
        ValueError: a parameter without a source, a source that is neither used nor known to be
        dead,
            or a shape that differs; all of them are in the one message.
    """
    abstract = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    factors: tuple[float, ...] = model.neck.reassemble_factors  # pyright: ignore
    filled, used, problems = {}, set(), []
    leaves: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(dict(abstract))
    for path, leaf in leaves.items():
        name = hf_name(path[1:])
        if name not in state_dict:
            problems.append(f"missing: {name} (for {'/'.join(path)})")
            continue
        used.add(name)
        value = np.asarray(state_dict[name])
        if path[-1] == "kernel" and value.ndim == leaf.ndim:
            value = value.transpose(_axes(name, value.ndim, factors))
        if value.shape != leaf.shape:
            problems.append(f"shape: {name} gives {value.shape}, the model has {leaf.shape}")
            continue
        filled[path] = value.astype(leaf.dtype)
    dead = (*KNOWN_DEAD, *_dead_in(model))
    problems += [
        f"unused: {name}"
        for name in state_dict
        if name not in used and not any(re.match(pattern, name) for pattern in dead)
    ]
    if problems:
        raise ValueError("the checkpoint does not fit the model:\n  " + "\n  ".join(problems))
    return flax.traverse_util.unflatten_dict(filled)


def _axes(name: str, ndim: int, factors: tuple[float, ...]) -> tuple[int, ...]:
    """The transposition that turns PyTorch's layout of a kernel into linen's."""
    if ndim == 2:
        return 1, 0
    layer = re.match(r"neck\.reassemble_stage\.layers\.(\d+)\.resize", name)
    if layer and factors[int(layer[1])] > 1:
        return 2, 3, 0, 1  # PyTorch's transposed convolution is in, out, h, w
    return 2, 3, 1, 0


def _dead_in(model: DPT) -> list[str]:
    """Patterns of what this model does not read: blocks behind its last tap, heads it lacks."""
    backbone: Any = model.backbone
    behind = range(max(backbone.out_indices) + 1, backbone.num_hidden_layers)
    dead = [rf"dpt\.encoder\.layer\.{i}\." for i in behind]
    return dead if model.auxiliary_head is not None else [*dead, r"auxiliary_head\."]


def read_directory(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The parsed `config.json` and the tensors of `model.safetensors` of an HF directory.

    Raises:
        FileNotFoundError: one of the two files is missing.
    """
    from safetensors.numpy import load_file

    directory = Path(path)
    for name in ("config.json", "model.safetensors"):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory} holds no {name}: not a Hugging Face model directory"
            )
    return json.loads((directory / "config.json").read_text()), load_file(
        directory / "model.safetensors"
    )
