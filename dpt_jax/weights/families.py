# SPDX-License-Identifier: Apache-2.0
"""Which class of `transformers` a model is, and how that class names its parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

from dpt_jax.models.dpt import BACKBONES, DPT
from dpt_jax.models.heads import DepthHead
from dpt_jax.models.hybrid import HybridViT
from dpt_jax.models.resnetv2 import ResNetV2

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Family:
    """How a class of `transformers` names its parameters.

    Attributes:
        model_type: of `config.json`.
        architecture: the class.
        backbone_prefix: what its attribute for the backbone is called.
        renames: (regular expression, replacement) from the mechanical names to its own, and
        dead: names and shapes, given a backbone, of parameters outside blocks that are never read.
    """

    model_type: str
    architecture: str
    backbone_prefix: str
    dead: Callable[[Any], dict[str, Shape]]
    renames: tuple[tuple[str, str], ...] = ()


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _dead_vit(backbone: Any) -> dict[str, Shape]:
    dead = _norm("dpt.layernorm", backbone.hidden_size)
    if isinstance(backbone, HybridViT):
        bit = ResNetV2(**backbone.bit)
        if bit.layer_type == "preactivation":
            width = bit.hidden_sizes[len(bit.depths) - 1]
            dead |= _norm("dpt.embeddings.backbone.bit.norm", width)
    return dead


def _dead_dinov2(backbone: Any) -> dict[str, Shape]:
    dead: dict[str, Shape] = {"backbone.embeddings.mask_token": (1, backbone.hidden_size)}
    if backbone.interpolate_antialias and not backbone.num_register_tokens:
        dead["backbone.embeddings.register_tokens"] = (1, 0, backbone.hidden_size)
    if not backbone.apply_layernorm:
        dead |= _norm("backbone.layernorm", backbone.hidden_size)
    return dead


_HEAD_OF_DEPTH_ANYTHING = (
    (r"^head\.head\.0\.", "head.conv1."),
    (r"^head\.head\.2\.", "head.conv2."),
    (r"^head\.head\.4\.", "head.conv3."),
)
_SHARED_BIAS_OF_BEIT = (
    (
        r"^backbone\.encoder\.relative_position_bias\.",
        "backbone.beit.encoder.relative_position_bias.",
    ),
)


def family(model: DPT) -> Family:
    """The class of `transformers` that `model` is, by its backbone and head."""
    backbone = backbone_type(model)
    if backbone in ("vit", "hybrid"):
        name = "DPTForDepthEstimation" if model.task == "depth" else "DPTForSemanticSegmentation"
        return Family("dpt", name, "dpt", _dead_vit)
    dead = _dead_dinov2 if backbone == "dinov2" else (lambda _: {})
    if isinstance(model.head, DepthHead) and model.head.upsample_to_input:
        return Family(
            "depth_anything",
            "DepthAnythingForDepthEstimation",
            "backbone",
            dead,
            _HEAD_OF_DEPTH_ANYTHING,
        )
    return Family("dpt", "DPTForDepthEstimation", "backbone", dead, _SHARED_BIAS_OF_BEIT)


def backbone_type(model: DPT) -> str:
    """The key of `BACKBONES` that the model's backbone was built from."""
    return next(name for name, kind in BACKBONES.items() if type(model.backbone) is kind)
