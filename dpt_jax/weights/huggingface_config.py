# SPDX-License-Identifier: Apache-2.0
"""`config.model` from the `config.json` of Hugging Face's DPT family.

Model types: "dpt" (plain ViT, hybrid, and the backbones BEiT, Swin v2 and DINOv2),
"depth_anything", "prompt_depth_anything", "zoedepth", "tipsv2_dpt" and "chmv2". Values that HF's
config leaves out or null have HF's defaults. The way back is `huggingface_export.py`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from dpt_jax.models.dpt import BACKBONES
from dpt_jax.weights import chmv2, tipsv2, zoedepth_config
from dpt_jax.weights.config_values import check_values
from dpt_jax.weights.errors import WeightsError

# Keys that mean the same in HF's configs and in our backbones.
VIT = (
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
    "num_channels",
    "qkv_bias",
)
BIT = (
    "embedding_size",
    "layer_type",
    "hidden_act",
    "num_groups",
    "drop_path_rate",
    "width_factor",
)
ENCODER = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "drop_path_rate",
)
FIELDS = {
    "dinov2": (
        *ENCODER,
        "mlp_ratio",
        "qkv_bias",
        "layerscale_value",
        "use_swiglu_ffn",
        "apply_layernorm",
    ),
    "beit": (
        *ENCODER,
        "intermediate_size",
        "use_absolute_position_embeddings",
        "use_relative_position_bias",
        "use_shared_relative_position_bias",
        "layer_scale_init_value",
    ),
    "swinv2": (
        "embed_dim",
        "depths",
        "num_heads",
        "window_size",
        "pretrained_window_sizes",
        "mlp_ratio",
        "qkv_bias",
        "hidden_act",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "drop_path_rate",
        "initializer_range",
        "layer_norm_eps",
        "image_size",
        "patch_size",
        "num_channels",
    ),
    "dinov3": (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "attention_dropout",
        "initializer_range",
        "layer_norm_eps",
        "rope_theta",
        "image_size",
        "patch_size",
        "num_channels",
        "query_bias",
        "key_bias",
        "value_bias",
        "proj_bias",
        "mlp_bias",
        "layerscale_value",
        "drop_path_rate",
        "use_gated_mlp",
        "num_register_tokens",
        "pos_embed_shift",
        "pos_embed_jitter",
        "pos_embed_rescale",
        "apply_layernorm",
    ),
}
FIELDS["tipsv2"] = (*FIELDS["dinov2"], "num_register_tokens")
# What HF calls each backbone that a DPT may have, and those of its successors.
_OF_DPT = {
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "beit": "beit",
    "swinv2": "swinv2",
}
_OF_TIPSV2_DPT, _OF_CHMV2 = {"tipsv2_vision_model": "tipsv2"}, {"dinov3_vit": "dinov3"}
# HF's own defaults where they are not those of our classes.
_DEFAULTS: dict[str, dict[str, Any]] = {"dinov2": {"image_size": 224}}
_NECK = (
    "readout_type",
    "reassemble_factors",
    "fusion_hidden_size",
    "use_batch_norm_in_fusion_residual",
    "use_bias_in_fusion_residual",
)
# Model types whose depth is metres whatever their config says; with a prompt in metres.
_METRIC = ("prompt_depth_anything", "zoedepth", "tipsv2_dpt", "chmv2")


def model_config(hf: Mapping[str, Any]) -> dict[str, Any]:
    """`config.model` for `build_model` from the contents of a `config.json`.

    HF silently drops taps that are out of range and reassemble factors beyond the number of taps;
    here both are errors.

    Raises:
        WeightsError: another kind of model, or values that no network can have.
    """
    check_values(hf)
    kind = hf.get("model_type") or "dpt"
    if kind == "dpt":
        return _from_dpt(hf)
    if kind in ("depth_anything", "prompt_depth_anything"):
        return _from_depth_anything(hf)
    if kind == "zoedepth":
        return _from_zoedepth(hf)
    if kind == "tipsv2_dpt":
        return _from_tipsv2_dpt(hf)
    if kind == "chmv2":
        backbone = hf.get("backbone_config") or chmv2.BACKBONE
        return _groups(backbone, _OF_CHMV2, *chmv2.decoder_settings(hf))
    raise WeightsError(
        f"config.json: model_type {kind!r} is not one of the DPT family: dpt, depth_anything, "
        "prompt_depth_anything, zoedepth, tipsv2_dpt, chmv2"
    )


def _from_dpt(hf: Mapping[str, Any]) -> dict[str, Any]:
    stages = hf.get("neck_hidden_sizes") or (96, 192, 384, 768)
    neck = _pick(hf, _NECK) | {"hidden_sizes": tuple(stages)}
    neck["hidden_act"] = hf.get("hidden_act") or "gelu"
    segmentation = any("Segmentation" in name for name in hf.get("architectures") or [])
    taps = hf.get("backbone_out_indices") or (2, 5, 8, 11)
    if hf.get("is_hybrid"):
        backbone = {"type": "hybrid"} | _pick(hf, VIT)
        backbone["bit"] = _from_bit(hf.get("backbone_config") or {})
        # As in HF, the first two entries stand for ResNet stages, whatever their values are.
        backbone["out_indices"] = tuple(sorted(set(taps[2:])))
    elif hf.get("backbone_config") and not segmentation:
        backbone = _from_backbone(hf["backbone_config"], len(stages))
        if backbone["type"] == "swinv2":
            # HF has no reassemble stage here, and does not look at its options.
            neck |= {"readout_type": "ignore", "reassemble_factors": (1,) * len(stages)}
    elif hf.get("backbone_config"):
        raise WeightsError(
            "config.json: DPTForSemanticSegmentation does not read its backbone_config; there is "
            "no such model in transformers"
        )
    else:
        backbone = {"type": "vit"} | _pick(hf, VIT) | {"out_indices": tuple(sorted(set(taps)))}
    if segmentation:
        labels = hf.get("id2label") or {}
        head = {
            "type": "segmentation",
            "num_labels": hf.get("num_labels") or len(labels) or 2,
            "dropout": float(_value(hf, "semantic_classifier_dropout", 0.1)),
        }
    else:
        head = {"type": "depth", "add_projection": bool(hf.get("add_projection"))}
        if head["add_projection"] and neck.get("fusion_hidden_size", 256) != 256:
            raise WeightsError("config.json: add_projection needs fusion_hidden_size 256")
    head["head_in_index"] = _value(hf, "head_in_index", -1)
    return {
        "variant": None,
        "backbone": _square(backbone),
        "neck": neck,
        "head": head,
        "auxiliary_head": {"use": segmentation and hf.get("use_auxiliary_head") is not False},
    }


def _from_depth_anything(hf: Mapping[str, Any]) -> dict[str, Any]:
    stages = tuple(hf.get("neck_hidden_sizes") or (48, 96, 192, 384))
    backbone = hf.get("backbone_config") or {
        "model_type": "dinov2",
        "image_size": 518,
        "hidden_size": 384,
        "num_attention_heads": 6,
        "out_indices": [9, 10, 11, 12],
    }
    metric = hf.get("depth_estimation_type") == "metric"
    prompted = hf.get("model_type") == "prompt_depth_anything"
    # HF does not read max_depth and head_in_index of a model with prompts.
    limit = 1.0 if prompted else float(hf.get("max_depth") or 1)
    head = {
        "type": "depth",
        "head_in_index": -1 if prompted else _value(hf, "head_in_index", -1),
        "head_hidden_size": hf.get("head_hidden_size") or 32,
        "upsample_to_input": True,
        # HF multiplies relative depth as well.
        **({"activation": "sigmoid", "max_depth": limit} if metric else {"scale": limit}),
    }
    neck = {
        "readout_type": "ignore",
        "hidden_sizes": stages,
        "reassemble_factors": tuple(hf.get("reassemble_factors") or (4, 2, 1, 0.5)),
        "fusion_hidden_size": hf.get("fusion_hidden_size") or 64,
        "upsample_to_skip": True,
        "prompt_depth": prompted,
    }
    return _groups(backbone, _OF_DPT, neck, head)


def _from_tipsv2_dpt(hf: Mapping[str, Any]) -> dict[str, Any]:
    if "backbone_repo" in hf and not hf.get("backbone_config"):
        raise WeightsError(
            "config.json: this revision of TIPSv2-DPT holds heads only, and its encoder is in "
            f"{hf['backbone_repo']}; take a later one, with a backbone_config"
        )
    backbone = hf.get("backbone_config") or tipsv2.BACKBONE
    return _groups(backbone, _OF_TIPSV2_DPT, *tipsv2.decoder_settings(hf))


def _groups(
    backbone: Mapping[str, Any],
    kinds: Mapping[str, str],
    neck: dict[str, Any],
    head: dict[str, Any],
) -> dict[str, Any]:
    stages = len(neck["hidden_sizes"])
    return {
        "variant": None,
        "backbone": _square(_from_backbone(backbone, stages, kinds)),
        "neck": neck,
        "head": head,
        "auxiliary_head": {"use": False},
    }


def _from_zoedepth(hf: Mapping[str, Any]) -> dict[str, Any]:
    stages = tuple(hf.get("neck_hidden_sizes") or (96, 192, 384, 768))
    neck = _pick(hf, _NECK) | {"hidden_sizes": stages, "hidden_act": hf.get("hidden_act") or "gelu"}
    backbone = _from_backbone(hf.get("backbone_config") or zoedepth_config.BACKBONE, len(stages))
    if backbone["type"] == "swinv2":
        # As in a DPT: there is no reassemble stage.
        neck |= {"readout_type": "ignore", "reassemble_factors": (1,) * len(stages)}
    return {
        "variant": None,
        "backbone": _square(backbone),
        "neck": neck,
        "head": zoedepth_config.head_settings(hf),
        "auxiliary_head": {"use": False},
    }


def _from_bit(hf: Mapping[str, Any]) -> dict[str, Any]:
    if _value(hf, "output_stride", 32) < 16:
        raise WeightsError(
            f"config.json: backbone_config.output_stride={hf['output_stride']}: a dilated ResNet "
            "is not in dpt_jax"
        )
    explicit = bool(hf)
    depths = tuple(hf.get("depths") or ((3, 4, 6) if explicit else (3, 4, 9)))[:3]
    sizes = tuple(hf.get("hidden_sizes") or (256, 512, 1024))[: len(depths)]
    padding = hf.get("global_padding") if explicit else "SAME"
    return _pick(hf, BIT) | {
        "layer_type": hf.get("layer_type") or ("preactivation" if explicit else "bottleneck"),
        "embedding_dynamic_padding": bool(hf.get("embedding_dynamic_padding", not explicit)),
        "global_padding": padding.upper() if padding else "SYMMETRIC",
        "depths": depths,
        "hidden_sizes": sizes,
    }


def _from_backbone(
    hf: Mapping[str, Any], stages: int, kinds: Mapping[str, str] = _OF_DPT
) -> dict[str, Any]:
    special: dict[str, Any] = {}
    if hf.get("model_type") == "dinov2_with_registers":
        # HF resizes the positions of these with antialiasing, and of plain DINOv2 without.
        special = {
            "num_register_tokens": _value(hf, "num_register_tokens", 4),
            "interpolate_antialias": True,
        }
    if hf.get("model_type") not in kinds:
        raise WeightsError(
            f"config.json: backbone_config.model_type {hf.get('model_type')!r} is not one of "
            + ", ".join(kinds)
        )
    kind = kinds[hf["model_type"]]
    if kind == "dinov3":
        special = {k: v for k, v in chmv2.NO_AUGMENTATION.items() if k in hf and hf[k] is None}
    backbone = {"type": kind} | _DEFAULTS.get(kind, {}) | _pick(hf, FIELDS[kind]) | special
    depth = len(hf.get("depths") or (2, 2, 6, 2)) if kind == "swinv2" else None
    last = depth or hf.get("num_hidden_layers") or 12
    if hf.get("out_features"):
        names = {"stem": 0} | {f"stage{i}": i for i in range(1, last + 1)}
        unknown = [name for name in hf["out_features"] if name not in names]
        if unknown:
            raise WeightsError(f"config.json: backbone_config.out_features {unknown} do not exist")
        taps = [names[name] for name in hf["out_features"]]
    else:
        taps = [i if i >= 0 else last + 1 + i for i in hf.get("out_indices") or [last]]
    if 0 in taps:
        raise WeightsError(
            "config.json: a tap at the stem (stage 0) of a backbone is not in dpt_jax"
        )
    if len(taps) != stages:
        raise WeightsError(
            f"config.json: {len(taps)} taps {taps} of the backbone for {stages} neck_hidden_sizes"
        )
    return backbone | {"out_indices": tuple(sorted(tap - 1 for tap in taps))}


def _pick(hf: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: _plain(hf[key]) for key in keys if hf.get(key) is not None}


def _value(hf: Mapping[str, Any], key: str, default: Any) -> Any:
    return default if hf.get(key) is None else hf[key]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(value)
    return value


def _square(backbone: dict[str, Any]) -> dict[str, Any]:
    """Squares of equal sides as one number, and at least one patch."""
    for key in ("image_size", "patch_size"):
        value = backbone.get(key)
        if isinstance(value, tuple):
            if len(set(value)) != 1:
                raise WeightsError(f"config.json: {key} {value} is not square")
            backbone[key] = value[0]
    kind: Any = BACKBONES[backbone["type"]]
    side, patch = (backbone.get(k, getattr(kind, k)) for k in ("image_size", "patch_size"))
    if side < patch:
        raise WeightsError(f"config.json: image_size {side} is less than patch_size {patch}")
    return backbone


def depth_kind(hf: Mapping[str, Any]) -> Literal["metric", "inverse_relative"]:
    """What the depth of an HF model means; its configs do not say it of DPT.

    Depth Anything says it; the other successors of DPT are metric, Prompt Depth Anything given a
    prompt in metres. The public DPTs are inverse and relative (MiDaS), but for DINOv2's, which are
    known by their extra projection. What dpt_jax trained says it under "dpt_jax".
    """
    stated = (hf.get("dpt_jax") or {}).get("depth")
    if stated in ("metric", "inverse_relative"):
        return stated
    if stated is not None:
        raise WeightsError(
            f"config.json: dpt_jax.depth {stated!r} is not metric or inverse_relative"
        )
    if hf.get("model_type") == "depth_anything":
        metric = hf.get("depth_estimation_type") == "metric"
    else:
        metric = hf.get("model_type") in _METRIC or bool(hf.get("add_projection"))
    return "metric" if metric else "inverse_relative"
