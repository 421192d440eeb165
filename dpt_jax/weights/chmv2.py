# SPDX-License-Identifier: Apache-2.0
"""CHMv2 on disk: the names of its parameters, and `config.json` both ways."""

from collections.abc import Mapping
from typing import Any

from dpt_jax.models import dinov3
from dpt_jax.models.dpt import DPT

# HF's defaults.
BACKBONE = {
    "model_type": "dinov3_vit",
    "image_size": 416,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "num_register_tokens": 4,
    "key_bias": True,
    "layer_norm_eps": 1e-6,
    "out_indices": (6, 12, 18, 24),
}
_DEFAULTS = {
    "readout_type": "project",
    "post_process_channels": (128, 256, 512, 1024),
    "reassemble_factors": (4, 2, 1, 0.5),
    "fusion_hidden_size": 256,
    "head_hidden_size": 128,
    "number_output_channels": 256,
    "min_depth": 0.001,
    "max_depth": 96.0,
    "bins_strategy": "chmv2_mixlog",
    "norm_strategy": "chmv2_mixlog",
}
# From the mechanical names to those on disk: the neck is part of the head.
ENCODER_NAMES = (
    (
        r"^backbone\.embeddings\.patch_embeddings\.projection\.",
        "backbone.embeddings.patch_embeddings.",
    ),
)
DECODER_NAMES = (
    (r"^head\.", "head.conv_depth."),
    (r"^neck\.fusion_stage\.layers\.", "head.fusion_layers."),
    (r"^neck\.", "head."),
)
# What HF's null means.
NO_AUGMENTATION = dict(
    zip(
        ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"),
        dinov3.NO_AUGMENTATION,
        strict=True,
    )
)
_PREFIX = "chmv2_"


def dead_parameters(backbone: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what the encoder has and the head does not read, outside its blocks."""
    width = backbone.hidden_size
    dead: dict[str, tuple[int, ...]] = {"backbone.embeddings.mask_token": (1, 1, width)}
    if not backbone.num_register_tokens:
        dead["backbone.embeddings.register_tokens"] = (1, 0, width)
    if not backbone.apply_layernorm and backbone.num_hidden_layers - 1 not in backbone.out_indices:
        dead |= {"backbone.norm.weight": (width,), "backbone.norm.bias": (width,)}
    return dead


def decoder_settings(hf: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The groups `neck` and `head` of `config.model`."""
    given = {**_DEFAULTS, **{key: value for key, value in hf.items() if value is not None}}
    neck = {
        "readout_type": given["readout_type"],
        "hidden_sizes": tuple(given["post_process_channels"]),
        "reassemble_factors": tuple(given["reassemble_factors"]),
        "fusion_hidden_size": given["fusion_hidden_size"],
        "hidden_act": "gelu",
    }
    head = {
        "type": "binned_depth",
        "head_hidden_size": given["head_hidden_size"],
        "num_bins": given["number_output_channels"],
        "min_depth": given["min_depth"],
        "max_depth": given["max_depth"],
        "bins": given["bins_strategy"].removeprefix(_PREFIX),
        "norm": given["norm_strategy"].removeprefix(_PREFIX),
    }
    return neck, head


def decoder_config(model: DPT) -> dict[str, Any]:
    """What `config.json` says of neck and head: the inverse of `decoder_settings`."""
    neck: Any = model.neck
    head: Any = model.head
    backbone: Any = model.backbone
    return {
        "patch_size": backbone.patch_size,
        "readout_type": neck.readout_type,
        "post_process_channels": list(neck.hidden_sizes),
        "reassemble_factors": list(neck.reassemble_factors),
        "fusion_hidden_size": neck.fusion_hidden_size,
        "head_hidden_size": head.head_hidden_size,
        "number_output_channels": head.num_bins,
        "min_depth": head.min_depth,
        "max_depth": head.max_depth,
        "bins_strategy": _strategy(head.bins),
        "norm_strategy": _strategy(head.norm),
    }


def _strategy(name: str) -> str:
    return _PREFIX + name if name == "mixlog" else name


def lacking_in_transformers(model: DPT, backbone: str) -> list[str]:
    """Settings of `model` that transformers' CHMv2 does not have."""
    neck: Any = model.neck
    lacking = []
    if backbone != "dinov3":
        lacking.append(f"model.head: the head of CHMv2 with the backbone {backbone}")
    if neck.readout_type == "project" and neck.hidden_act not in ("gelu", "gelu_python"):
        lacking.append("model.neck.hidden_act: CHMv2 has 'gelu'")
    if neck.use_batch_norm_in_fusion_residual or neck.use_bias_in_fusion_residual is False:
        lacking.append("CHMv2 has biases and no BatchNorm in its fusion layers")
    return lacking
