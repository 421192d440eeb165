# SPDX-License-Identifier: Apache-2.0
"""`config.json` of the class of `transformers` that computes what a model computes."""

from typing import Any

from dpt_jax.models.dpt import DPT
from dpt_jax.models.hybrid import HybridViT
from dpt_jax.models.resnetv2 import ResNetV2
from dpt_jax.models.vit import ViT
from dpt_jax.weights import chmv2, tipsv2, zoedepth_config
from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.families import backbone_type, family
from dpt_jax.weights.huggingface_config import BIT, FIELDS, VIT

_DEPTH_ANYTHING = ("depth_anything", "prompt_depth_anything")
# Who knows the neck and the head of a model type.
_DECODERS = {"tipsv2_dpt": tipsv2, "chmv2": chmv2}
_BACKBONE_TYPES = {"tipsv2": "tipsv2_vision_model", "dinov3": "dinov3_vit"}


def hf_config(model: DPT, *, approximate: bool = False) -> dict[str, Any]:
    """The `config.json` of the class of `transformers` that computes what `model` computes.

    Args:
        model: what is exported.
        approximate: accept conventions of an original repository that `transformers` has in
            another form, as its own conversions of these checkpoints did.

    Raises:
        WeightsError: `transformers` has no such model; the message says which settings it lacks.
    """
    lacking, differing = _not_in_transformers(model)
    if lacking or (differing and not approximate):
        hint = (
            ""
            if lacking
            else "\nIts own conversions ignore this; pass approximate=True (--approximate) to do so"
        )
        raise WeightsError(
            "transformers has no model that computes this one:\n  "
            + "\n  ".join(lacking + differing)
            + hint
        )
    kind = family(model)
    backbone: Any = model.backbone
    neck: Any = model.neck
    head: Any = model.head
    config: dict[str, Any] = {
        "model_type": kind.model_type,
        "architectures": [kind.architecture],
        "dtype": "float32",
    }
    # A kernel of size 2.0 is an error in PyTorch.
    factors = [int(f) if f == int(f) else f for f in neck.reassemble_factors]
    if type(backbone) not in (ViT, HybridViT):
        config["backbone_config"] = _backbone_config(model)
    if kind.model_type in _DECODERS:
        config |= _DECODERS[kind.model_type].decoder_config(model)
        config["reassemble_factors"] = factors
        return config | (_labels(head.num_labels) if hasattr(head, "num_labels") else {})
    config |= {
        "reassemble_factors": factors,
        "neck_hidden_sizes": list(neck.hidden_sizes),
        "fusion_hidden_size": neck.fusion_hidden_size,
        "head_in_index": head.head_in_index,
    }
    if kind.model_type in _DEPTH_ANYTHING:
        metric = head.activation == "sigmoid"
        return config | {
            "patch_size": backbone.patch_size,
            "reassemble_hidden_size": backbone.hidden_size,
            "head_hidden_size": head.head_hidden_size,
            "depth_estimation_type": "metric" if metric else "relative",
            "max_depth": int(head.max_depth if metric else head.scale),
        }
    config |= {
        "readout_type": neck.readout_type,
        "hidden_act": neck.hidden_act,
        "use_batch_norm_in_fusion_residual": neck.use_batch_norm_in_fusion_residual,
        "use_bias_in_fusion_residual": neck.use_bias_in_fusion_residual,
    }
    if kind.model_type == "zoedepth":
        return config | zoedepth_config.head_config(head, neck.fusion_hidden_size)
    if isinstance(backbone, ViT):
        config |= {key: getattr(backbone, key) for key in VIT}
        config["backbone_out_indices"] = list(backbone.out_indices)
    if isinstance(backbone, HybridViT):
        bit = ResNetV2(**backbone.bit)
        grid = backbone.image_size // backbone.patch_size
        config |= {
            "is_hybrid": True,
            "backbone_config": _bit_config(bit),
            "backbone_featmap_shape": [1, bit.channels()[-1], grid, grid],
            "neck_ignore_stages": [0, 1],
            "backbone_out_indices": [0, 1, *backbone.out_indices],
        }
    if model.task == "depth":
        return config | {"add_projection": head.add_projection}
    return (
        config
        | _labels(head.num_labels)
        | {
            "use_auxiliary_head": model.auxiliary_head is not None,
            "semantic_classifier_dropout": head.dropout,
        }
    )


def _labels(count: int) -> dict[str, Any]:
    names = {str(i): f"LABEL_{i}" for i in range(count)}
    return {
        "id2label": names,
        "label2id": {name: int(i) for i, name in names.items()},
        "semantic_loss_ignore_index": 255,
    }


def _not_in_transformers(model: DPT) -> tuple[list[str], list[str]]:
    """Settings that `transformers` does not have at all, and those it has in another form."""
    backbone: Any = model.backbone
    neck: Any = model.neck
    head: Any = model.head
    kind = family(model)
    lacking, differing = [], []
    depth_anything = kind.model_type in _DEPTH_ANYTHING
    if not depth_anything and neck.upsample_to_skip:
        differing.append(
            "model.neck.upsample_to_skip: DPT doubles the size instead: another result on grids "
            "of patches with an odd side, the same on even ones"
        )
    if getattr(backbone, "mask_value", -200.0) != -200.0:
        differing.append(
            f"model.backbone.mask_value={backbone.mask_value}: transformers masks with -200"
        )
    if getattr(backbone, "interpolate_offset", 0):
        differing.append(
            "model.backbone.interpolate_offset: transformers resizes position embeddings without "
            "an offset; no difference at the native size"
        )
    if isinstance(getattr(backbone, "image_size", 0), tuple):
        lacking.append(f"model.backbone.image_size={backbone.image_size}: squares only")
    if neck.prompt_depth and not depth_anything:
        lacking.append("model.neck.prompt_depth without model.head.upsample_to_input")
    if kind.model_type in _DECODERS:
        decoder = _DECODERS[kind.model_type]
        return lacking + decoder.lacking_in_transformers(model, backbone_type(model)), differing
    if backbone_type(model) in _BACKBONE_TYPES:
        lacking.append(f"the backbone {backbone_type(model)} with model.head {type(head).__name__}")
    if depth_anything:
        if neck.readout_type != "ignore" or not neck.upsample_to_skip:
            lacking.append(
                "Depth Anything (model.head.upsample_to_input) has readout_type 'ignore' and "
                "upsample_to_skip"
            )
        if neck.use_batch_norm_in_fusion_residual or neck.use_bias_in_fusion_residual is False:
            lacking.append("Depth Anything has biases and no BatchNorm in its fusion layers")
    if isinstance(backbone, ViT) and neck.readout_type == "project":
        if neck.hidden_act != backbone.hidden_act:
            lacking.append(
                f"model.neck.hidden_act={neck.hidden_act!r}: its DPT has one hidden_act, for the "
                f"backbone too, which has {backbone.hidden_act!r}"
            )
    if isinstance(backbone, HybridViT):
        if ResNetV2(**backbone.bit).standardization != "variance":
            differing.append(
                "model.backbone.bit.standardization='deviation': transformers divides by "
                "sqrt(variance + 1e-8); predictions differ by up to 1e-4"
            )
        if neck.readout_type != "project":
            lacking.append("a hybrid's model.neck.readout_type must be 'project'")
    if getattr(backbone, "num_register_tokens", 0):
        lacking.append("its DPT cannot run a backbone with registers (num_register_tokens)")
    if model.task == "segmentation":
        if not isinstance(backbone, ViT):
            lacking.append("segmentation only with the backbones vit and hybrid")
        auxiliary: Any = model.auxiliary_head
        if auxiliary and (auxiliary.num_labels, auxiliary.head_in_index) != (head.num_labels, -1):
            lacking.append(
                "model.auxiliary_head has the num_labels of model.head, and head_in_index -1"
            )
        return lacking, differing
    if kind.model_type == "zoedepth":
        lacking += zoedepth_config.lacking_in_transformers(head, neck, backbone_type(model))
        return lacking, differing
    if head.activation != "relu" and not depth_anything:
        lacking.append(
            "model.head.activation='sigmoid': its DPT ends in a ReLU (Depth Anything's does not)"
        )
    if head.invert or (head.activation == "relu" and head.scale != 1 and not depth_anything):
        lacking.append("model.head.scale, shift and invert of isl-org's metric models")
    elif head.shift:
        differing.append(
            f"model.head.shift={head.shift}: transformers leaves out what is added to each depth"
        )
    if depth_anything:
        factor = head.max_depth if head.activation == "sigmoid" else head.scale
        if factor != int(factor):
            lacking.append(f"Depth Anything's max_depth must be a whole number, not {factor}")
        if neck.prompt_depth and (factor != 1 or head.head_in_index != -1):
            lacking.append("Prompt Depth Anything has max_depth (or scale) 1, head_in_index -1")
        if head.add_projection:
            lacking.append("Depth Anything has no model.head.add_projection")
    elif head.head_hidden_size != 32:
        lacking.append(f"model.head.head_hidden_size={head.head_hidden_size}: DPT has 32")
    if head.add_projection and neck.fusion_hidden_size != 256:
        lacking.append("model.head.add_projection with a fusion_hidden_size other than 256")
    return lacking, differing


def _backbone_config(model: DPT) -> dict[str, Any]:
    backbone: Any = model.backbone
    kind = backbone_type(model)
    config = {key: getattr(backbone, key) for key in FIELDS[kind]}
    config |= {
        "model_type": _BACKBONE_TYPES.get(kind, kind),
        "out_indices": [tap + 1 for tap in backbone.out_indices],
        "out_features": [f"stage{tap + 1}" for tap in backbone.out_indices],
    }
    if kind != "swinv2":
        config["reshape_hidden_states"] = False
    if kind == "dinov3":
        config |= {"reshape_hidden_states": True, "return_class_token": True}
        config |= {k: None for k, v in chmv2.NO_AUGMENTATION.items() if config[k] == v}
    if kind in ("dinov2", "tipsv2"):
        ratio = config["mlp_ratio"]
        config["mlp_ratio"] = int(ratio) if ratio == int(ratio) else ratio
        if kind == "dinov2" and backbone.interpolate_antialias:
            config |= {"model_type": "dinov2_with_registers", "num_register_tokens": 0}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}


def _bit_config(bit: ResNetV2) -> dict[str, Any]:
    return {key: getattr(bit, key) for key in BIT} | {
        "model_type": "bit",
        "layer_type": bit.layer_type,
        "global_padding": None if bit.global_padding == "SYMMETRIC" else bit.global_padding,
        "embedding_dynamic_padding": bit.embedding_dynamic_padding,
        "depths": list(bit.depths),
        "hidden_sizes": list(bit.hidden_sizes[: len(bit.depths)]),
        "out_features": ["stage1", "stage2", "stage3"],
        "out_indices": [1, 2, 3],
    }
