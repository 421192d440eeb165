# SPDX-License-Identifier: Apache-2.0
"""TIPSv2-DPT on disk: the names of its parameters, and `config.json` both ways.

transformers renames everything when it loads, and back when it saves: its files have the names of
the original repository (google-deepmind/tips). The public ones hold the necks and heads of depth,
normals and segmentation; its classes for one task leave the others out.
"""

from collections.abc import Mapping
from typing import Any

from dpt_jax.models.dpt import DPT
from dpt_jax.models.linear_heads import TASKS

ARCHITECTURES = {
    "depth": "Tipsv2DptForDepthEstimation",
    "normals": "Tipsv2DptForNormalEstimation",
    "segmentation": "Tipsv2DptForSemanticSegmentation",
    "dense": "Tipsv2DptForDensePrediction",
}
HEADS = {
    "depth": "linear_depth",
    "normals": "normals",
    "segmentation": "linear_segmentation",
    "dense": "dense",
}
# HF's defaults.
BACKBONE = {"model_type": "tipsv2_vision_model", "out_indices": (3, 6, 9, 12)}
_DEFAULTS = {
    "neck_hidden_sizes": (96, 192, 384, 768),
    "reassemble_factors": (4, 2, 1, 0.5),
    "fusion_hidden_size": 256,
    "readout_activation": "gelu_pytorch_tanh",
    "num_depth_bins": 256,
    "min_depth": 0.001,
    "max_depth": 10.0,
    "depth_decoder_activation": "relu",
}

# From the mechanical names to those on disk.
ENCODER_NAMES = (
    (
        r"^vision_encoder\.embeddings\.patch_embeddings\.projection\.",
        "vision_encoder.patch_embed.proj.",
    ),
    (r"^vision_encoder\.embeddings\.position_embeddings$", "vision_encoder.pos_embed"),
    (r"^vision_encoder\.embeddings\.", "vision_encoder."),
    (r"^vision_encoder\.layernorm\.", "vision_encoder.norm."),
    (r"^vision_encoder\.encoder\.layer\.", "vision_encoder.blocks."),
    (r"^(vision_encoder\.blocks\.\d+)\.attention\.attention\.qkv\.", r"\1.attn.qkv."),
    (r"^(vision_encoder\.blocks\.\d+)\.attention\.output\.dense\.", r"\1.attn.proj."),
    (r"^(vision_encoder\.blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
    (r"^(vision_encoder\.blocks\.\d+)\.mlp\.fc1\.", r"\1.mlp.c_fc."),
    (r"^(vision_encoder\.blocks\.\d+)\.mlp\.fc2\.", r"\1.mlp.c_proj."),
    (r"^(vision_encoder\.blocks\.\d+)\.mlp\.weights_in\.", r"\1.mlp.w12."),
    (r"^(vision_encoder\.blocks\.\d+)\.mlp\.weights_out\.", r"\1.mlp.w3."),
)
_DECODER_NAMES = (
    (r"^head\.(\w+)\.head\.", r"\1_head.\1_head."),
    (r"^(?:head|neck)\.(\w+)\.", r"\1_head."),
    (
        r"^(\w+_head)\.reassemble_stage\.readout_projects\.(\d+)\.0\.",
        r"\1.reassemble.readout_projects.\2.",
    ),
    (
        r"^(\w+_head)\.reassemble_stage\.layers\.(\d+)\.projection\.",
        r"\1.reassemble.out_projections.\2.",
    ),
    (r"^(\w+_head)\.reassemble_stage\.layers\.(\d+)\.resize\.", r"\1.reassemble.resize_layers.\2."),
    (r"^(\w+_head)\.fusion_stage\.layers\.", r"\1.fusion_blocks."),
    (r"^(\w+_head\.fusion_blocks\.\d+)\.projection\.", r"\1.out_conv."),
    (r"^(\w+_head\.fusion_blocks\.\d+)\.residual_layer1\.convolution", r"\1.residual_unit.conv"),
    (r"^(\w+_head\.fusion_blocks\.\d+)\.residual_layer2\.convolution", r"\1.main_unit.conv"),
)


def decoder_names(task: str) -> tuple[tuple[str, str], ...]:
    """Renames of necks and heads, from the mechanical names to those on disk."""
    if task == "dense":
        return _DECODER_NAMES
    return ((r"^(neck|head)\.", rf"\1.{task}."), *_DECODER_NAMES)


def other_tasks(task: str) -> tuple[str, ...]:
    """What a model of one task leaves out of a file with all of them, as regular expressions."""
    return tuple(rf"{other}_head\." for other in TASKS if task not in (other, "dense"))


def dead_parameters(backbone: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what the encoder has and no dense head reads, outside its blocks."""
    width = backbone.hidden_size
    dead: dict[str, tuple[int, ...]] = {"vision_encoder.mask_token": (1, width)}
    if not backbone.num_register_tokens:
        dead["vision_encoder.register_tokens"] = (1, 0, width)
    if not backbone.apply_layernorm:
        dead |= {"vision_encoder.norm.weight": (width,), "vision_encoder.norm.bias": (width,)}
    return dead


def decoder_settings(hf: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The groups `neck` and `head` of `config.model`; without a known class, all three tasks."""
    names = hf.get("architectures") or []
    task = next((task for task, name in ARCHITECTURES.items() if name in names), "dense")
    given = {**_DEFAULTS, **{key: value for key, value in hf.items() if value is not None}}
    neck = {
        "type": "tasks" if task == "dense" else "dpt",
        "hidden_sizes": tuple(given["neck_hidden_sizes"]),
        "reassemble_factors": tuple(given["reassemble_factors"]),
        "fusion_hidden_size": given["fusion_hidden_size"],
        "use_bias_in_fusion_residual": False,
        "hidden_act": given["readout_activation"],
    }
    head: dict[str, Any] = {"type": HEADS[task]}
    if task in ("depth", "dense"):
        head |= {
            "num_bins": given["num_depth_bins"],
            "min_depth": given["min_depth"],
            "max_depth": given["max_depth"],
            "hidden_act": given["depth_decoder_activation"],
        }
    if task in ("segmentation", "dense"):
        head["num_labels"] = given.get("num_labels") or len(given.get("id2label", ())) or 2
    return neck, head


def decoder_config(model: DPT) -> dict[str, Any]:
    """What `config.json` says of neck and head: the inverse of `decoder_settings`."""
    neck: Any = model.neck
    head: Any = model.head
    config: dict[str, Any] = {
        "neck_hidden_sizes": list(neck.hidden_sizes),
        "reassemble_factors": list(neck.reassemble_factors),
        "fusion_hidden_size": neck.fusion_hidden_size,
        "readout_activation": neck.hidden_act,
    }
    if model.task in ("depth", "dense"):
        config |= {
            "num_depth_bins": head.num_bins,
            "min_depth": head.min_depth,
            "max_depth": head.max_depth,
            "depth_decoder_activation": head.hidden_act,
        }
    return config


def lacking_in_transformers(model: DPT, backbone: str) -> list[str]:
    """Settings of `model` that transformers' TIPSv2-DPT does not have."""
    neck: Any = model.neck
    lacking = []
    if backbone != "tipsv2":
        lacking.append(f"model.head: the heads of TIPSv2-DPT with the backbone {backbone}")
    elif not getattr(model.backbone, "interpolate_antialias", True):
        lacking.append("model.backbone.interpolate_antialias=False")
    if neck.readout_type != "project":
        lacking.append("model.neck.readout_type: TIPSv2-DPT has 'project'")
    if neck.use_batch_norm_in_fusion_residual or neck.use_bias_in_fusion_residual is not False:
        lacking.append(
            "TIPSv2-DPT has neither BatchNorm nor biases in its fusion layers "
            "(model.neck.use_bias_in_fusion_residual=False)"
        )
    return lacking
