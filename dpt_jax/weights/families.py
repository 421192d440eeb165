# SPDX-License-Identifier: Apache-2.0
"""Which class of `transformers` a model is, and how that class names its parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

from dpt_jax.models.depth_bins import BinnedDepthHead
from dpt_jax.models.dpt import BACKBONES, DPT, HEADS
from dpt_jax.models.heads import DepthHead
from dpt_jax.models.hybrid import HybridViT
from dpt_jax.models.resnetv2 import ResNetV2
from dpt_jax.models.zoedepth import ZoeDepthHead
from dpt_jax.weights import chmv2, tipsv2

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
        ignored: regular expressions of names that its files may have, and it does not.
    """

    model_type: str
    architecture: str
    backbone_prefix: str
    dead: Callable[[Any], dict[str, Shape]]
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()


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
# The head's own parameters are the metric head's, its `relative_head` stands beside it.
_HEADS_OF_ZOEDEPTH = (
    (r"^head\.relative_head\.", "relative_head."),
    (r"^head\.(seed_bin_regressors|attractors|conditional_log_binomial)_(\w+)\.", r"head.\1.\2."),
    (r"^head\.", "metric_head."),
)


def _zoedepth(head: ZoeDepthHead, dead_in: Callable[[Any], dict[str, Shape]]) -> Family:
    unused: dict[str, Shape] = {}
    if len(head.bin_configurations) > 1:
        unused["relative_head.conv3.weight"] = (1, head.num_relative_features, 1, 1)
        unused["relative_head.conv3.bias"] = (1,)
    return Family(
        "zoedepth",
        "ZoeDepthForDepthEstimation",
        "backbone",
        lambda backbone: dead_in(backbone) | unused,
        (*_SHARED_BIAS_OF_BEIT, *_HEADS_OF_ZOEDEPTH),
    )


# What the encoder is called, what of it is never read, and its renames; the rest are called alike.
_ENCODERS: dict[str, tuple[str, Callable[[Any], dict[str, Shape]], tuple]] = {
    "dinov2": ("backbone", _dead_dinov2, ()),
    "tipsv2": ("vision_encoder", tipsv2.dead_parameters, tipsv2.ENCODER_NAMES),
    "dinov3": ("backbone", chmv2.dead_parameters, chmv2.ENCODER_NAMES),
}
_TIPSV2_HEADS = tuple(HEADS[name] for name in tipsv2.HEADS.values())


def family(model: DPT) -> Family:
    """The class of `transformers` that `model` is, by its backbone and head."""
    backbone = backbone_type(model)
    prefix, dead, names = _ENCODERS.get(backbone, ("backbone", lambda _: {}, _SHARED_BIAS_OF_BEIT))
    if isinstance(model.head, ZoeDepthHead):
        return _zoedepth(model.head, dead)
    if type(model.head) in _TIPSV2_HEADS:
        return Family(
            "tipsv2_dpt",
            tipsv2.ARCHITECTURES[model.task],
            prefix,
            dead,
            (*names, *tipsv2.decoder_names(model.task)),
            tipsv2.other_tasks(model.task),
        )
    if isinstance(model.head, BinnedDepthHead):
        renames = (*names, *chmv2.DECODER_NAMES)
        return Family("chmv2", "CHMv2ForDepthEstimation", prefix, dead, renames)
    if backbone in ("vit", "hybrid"):
        name = "DPTForDepthEstimation" if model.task == "depth" else "DPTForSemanticSegmentation"
        return Family("dpt", name, "dpt", _dead_vit)
    if isinstance(model.head, DepthHead) and model.head.upsample_to_input:
        kind, name = "depth_anything", "DepthAnythingForDepthEstimation"
        if model.neck.prompt_depth:  # pyright: ignore[reportAttributeAccessIssue]
            kind, name = f"prompt_{kind}", f"Prompt{name}"
        return Family(kind, name, prefix, dead, (*names, *_HEAD_OF_DEPTH_ANYTHING))
    return Family("dpt", "DPTForDepthEstimation", prefix, dead, names)


def backbone_type(model: DPT) -> str:
    """The key of `BACKBONES` that the model's backbone was built from."""
    return next(name for name, kind in BACKBONES.items() if type(model.backbone) is kind)
