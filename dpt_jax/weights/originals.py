# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the original repositories, renamed to Hugging Face's names on disk.

One table of regular expressions per layout; every key of a file must match exactly one row, which
gives its HF name, or None where no dense prediction reads it. Layouts are known by their keys:

* isl-org/DPT and MiDaS 3.x: `pretrained.model.*`, `scratch.*`, with timm's ViT, hybrid, BEiT, Swin;
* Depth Anything V1 and V2: `pretrained.blocks.*`, `depth_head.*`;
* DINOv2's depth heads in mmseg's layout: `decode_head.*` with `backbone.*`;
* bare encoders: DINOv2 and timm's ViT (`blocks.*`), for initialisation only.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.lazy import Tensors

Rule = tuple[str, str | Callable[[re.Match], str] | None]

# In a target, "{qkv}" stands for query, key and value, which are a third of the rows each.
_QKV = "{qkv}"


def _vit_blocks(source: str, target: str) -> list[Rule]:
    """The `VisionTransformer` of timm as HF's ViT."""
    block, to = rf"{source}blocks\.(\d+)\.", rf"{target}encoder.layer.\1."
    return [
        (rf"{source}cls_token", rf"{target}embeddings.cls_token"),
        (rf"{source}pos_embed", rf"{target}embeddings.position_embeddings"),
        (
            rf"{source}patch_embed\.proj\.(weight|bias)",
            rf"{target}embeddings.patch_embeddings.projection.\1",
        ),
        (rf"{block}norm1\.(weight|bias)", rf"{to}layernorm_before.\2"),
        (rf"{block}norm2\.(weight|bias)", rf"{to}layernorm_after.\2"),
        (rf"{block}attn\.qkv\.(weight|bias)", rf"{to}attention.attention.{_QKV}.\2"),
        (rf"{block}attn\.proj\.(weight|bias)", rf"{to}attention.output.dense.\2"),
        (rf"{block}mlp\.fc1\.(weight|bias)", rf"{to}intermediate.dense.\2"),
        (rf"{block}mlp\.fc2\.(weight|bias)", rf"{to}output.dense.\2"),
        (rf"{source}norm\.(weight|bias)", rf"{target}layernorm.\1"),
        (rf"{source}(head|fc_norm|pre_logits)\..*", None),
    ]


def _hybrid(source: str, target: str) -> list[Rule]:
    stem = rf"{source}patch_embed\.backbone\.stem\."
    bit = rf"{target}embeddings.backbone.bit."
    return [
        (rf"{stem}conv\.weight", rf"{bit}embedder.convolution.weight"),
        (rf"{stem}norm\.(weight|bias)", rf"{bit}embedder.norm.\1"),
        (
            rf"{source}patch_embed\.backbone\.stages\.(\d+)\.blocks\.(\d+)\.(.+)",
            rf"{bit}encoder.stages.\1.layers.\2.\3",
        ),
        (rf"{source}patch_embed\.proj\.(weight|bias)", rf"{target}embeddings.projection.\1"),
        *(rule for rule in _vit_blocks(source, target) if "patch_embed" not in rule[0]),
    ]


def _beit(source: str, target: str) -> list[Rule]:
    block, to = rf"{source}blocks\.(\d+)\.", rf"{target}encoder.layer.\1."
    own: list[Rule] = [
        (rf"{block}gamma_([12])", rf"{to}lambda_\2"),
        (rf"{block}attn\.q_bias", rf"{to}attention.attention.query.bias"),
        (rf"{block}attn\.v_bias", rf"{to}attention.attention.value.bias"),
        (
            rf"{block}attn\.relative_position_bias_table",
            rf"{to}attention.attention.relative_position_bias.relative_position_bias_table",
        ),
        (rf"{block}attn\.(relative_position_index|k_bias)", None),
    ]
    return own + [rule for rule in _vit_blocks(source, target) if "pos_embed" not in rule[0]]


def _swinv2(source: str, target: str) -> list[Rule]:
    block = rf"{source}layers\.(\d+)\.blocks\.(\d+)\."
    to = rf"{target}encoder.layers.\1.blocks.\2."
    return [
        (
            rf"{source}patch_embed\.proj\.(weight|bias)",
            rf"{target}embeddings.patch_embeddings.projection.\1",
        ),
        (rf"{source}patch_embed\.norm\.(weight|bias)", rf"{target}embeddings.norm.\1"),
        (rf"{block}attn\.qkv\.weight", rf"{to}attention.self.{_QKV}.weight"),
        (rf"{block}attn\.q_bias", rf"{to}attention.self.query.bias"),
        (rf"{block}attn\.v_bias", rf"{to}attention.self.value.bias"),
        (rf"{block}attn\.logit_scale", rf"{to}attention.self.logit_scale"),
        (
            rf"{block}attn\.cpb_mlp\.([02])\.(weight|bias)",
            rf"{to}attention.self.continuous_position_bias_mlp.\3.\4",
        ),
        (rf"{block}attn\.proj\.(weight|bias)", rf"{to}attention.output.dense.\3"),
        (rf"{block}norm1\.(weight|bias)", rf"{to}layernorm_before.\3"),
        (rf"{block}norm2\.(weight|bias)", rf"{to}layernorm_after.\3"),
        (rf"{block}mlp\.fc1\.(weight|bias)", rf"{to}intermediate.dense.\3"),
        (rf"{block}mlp\.fc2\.(weight|bias)", rf"{to}output.dense.\3"),
        (rf"{block}attn_mask", None),
        (rf"{block}attn\.(relative_position_index|relative_coords_table|k_bias)", None),
        (
            rf"{source}layers\.(\d+)\.downsample\.(.+)",
            rf"{target}encoder.layers.\1.downsample.\2",
        ),
        (rf"{source}(head|norm)\..*", None),
    ]


def _dinov2(source: str, target: str) -> list[Rule]:
    block, to = rf"{source}blocks\.(\d+)\.", rf"{target}encoder.layer.\1."
    return [
        (rf"{source}(cls_token|mask_token|register_tokens)", rf"{target}embeddings.\1"),
        (rf"{source}pos_embed", rf"{target}embeddings.position_embeddings"),
        (
            rf"{source}patch_embed\.proj\.(weight|bias)",
            rf"{target}embeddings.patch_embeddings.projection.\1",
        ),
        (rf"{block}(norm[12])\.(weight|bias)", rf"{to}\2.\3"),
        (rf"{block}attn\.qkv\.(weight|bias)", rf"{to}attention.attention.{_QKV}.\2"),
        (rf"{block}attn\.proj\.(weight|bias)", rf"{to}attention.output.dense.\2"),
        (rf"{block}ls([12])\.gamma", rf"{to}layer_scale\2.lambda1"),
        (rf"{block}(mlp\.fc[12])\.(weight|bias)", rf"{to}\2.\3"),
        (rf"{block}mlp\.w12\.(weight|bias)", rf"{to}mlp.weights_in.\2"),
        (rf"{block}mlp\.w3\.(weight|bias)", rf"{to}mlp.weights_out.\2"),
        (rf"{source}norm\.(weight|bias)", rf"{target}layernorm.\1"),
        (rf"{source}head\..*", None),
    ]


def _fusion(source: str) -> list[Rule]:
    """`scratch.*` of isl-org and Depth Anything: from 1, the finest, to 4, the coarsest."""
    unit = rf"{source}refinenet(\d)\.resConfUnit([12])\."

    def layer(match: re.Match) -> str:
        return f"neck.fusion_stage.layers.{4 - int(match[1])}"

    return [
        (rf"{source}layer(\d)_rn\.weight", lambda m: f"neck.convs.{int(m[1]) - 1}.weight"),
        (
            rf"{source}refinenet(\d)\.out_conv\.(weight|bias)",
            lambda m: f"{layer(m)}.projection.{m[2]}",
        ),
        (
            rf"{unit}conv([12])\.(weight|bias)",
            lambda m: f"{layer(m)}.residual_layer{m[2]}.convolution{m[3]}.{m[4]}",
        ),
        (
            rf"{unit}bn([12])\.(.+)",
            lambda m: f"{layer(m)}.residual_layer{m[2]}.batch_norm{m[3]}.{m[4]}",
        ),
    ]


def _isl_decoder() -> list[Rule]:
    def stage(match: re.Match) -> str:
        return str(int(match[1]) - 1)

    process = r"pretrained\.act_postprocess(\d)\."
    reassemble = "neck.reassemble_stage"
    return [
        (
            rf"{process}0\.project\.0\.(weight|bias)",
            lambda m: f"{reassemble}.readout_projects.{stage(m)}.0.{m[2]}",
        ),
        (
            rf"{process}3\.(weight|bias)",
            lambda m: f"{reassemble}.layers.{stage(m)}.projection.{m[2]}",
        ),
        (
            rf"{process}4\.(weight|bias)",
            lambda m: f"{reassemble}.layers.{stage(m)}.resize.{m[2]}",
        ),
        *_fusion(r"scratch\."),
        (r"scratch\.output_conv\.(\d)\.(.+)", r"head.head.\1.\2"),
        (r"auxlayer\.(\d)\.(.+)", r"auxiliary_head.head.\1.\2"),
    ]


def _depth_anything() -> list[Rule]:
    reassemble = "neck.reassemble_stage"
    return [
        *_dinov2(r"pretrained\.", "backbone."),
        (
            r"depth_head\.projects\.(\d)\.(weight|bias)",
            rf"{reassemble}.layers.\1.projection.\2",
        ),
        (
            r"depth_head\.resize_layers\.(\d)\.(weight|bias)",
            rf"{reassemble}.layers.\1.resize.\2",
        ),
        (
            r"depth_head\.readout_projects\.(\d)\.0\.(weight|bias)",
            rf"{reassemble}.readout_projects.\1.0.\2",
        ),
        *_fusion(r"depth_head\.scratch\."),
        (r"depth_head\.scratch\.output_conv1\.(weight|bias)", r"head.conv1.\1"),
        (r"depth_head\.scratch\.output_conv2\.0\.(weight|bias)", r"head.conv2.\1"),
        (r"depth_head\.scratch\.output_conv2\.2\.(weight|bias)", r"head.conv3.\1"),
    ]


def _dinov2_depth() -> list[Rule]:
    source, reassemble = r"decode_head\.", "neck.reassemble_stage"
    fusion = "neck.fusion_stage.layers"
    return [
        *_dinov2(r"backbone\.", "backbone."),
        (
            rf"{source}reassemble_blocks\.projects\.(\d)\.conv\.(weight|bias)",
            rf"{reassemble}.layers.\1.projection.\2",
        ),
        (
            rf"{source}reassemble_blocks\.readout_projects\.(\d)\.0\.(weight|bias)",
            rf"{reassemble}.readout_projects.\1.0.\2",
        ),
        (
            rf"{source}reassemble_blocks\.resize_layers\.(\d)\.(weight|bias)",
            rf"{reassemble}.layers.\1.resize.\2",
        ),
        (rf"{source}convs\.(\d)\.conv\.weight", r"neck.convs.\1.weight"),
        (
            rf"{source}fusion_blocks\.(\d)\.project\.conv\.(weight|bias)",
            rf"{fusion}.\1.projection.\2",
        ),
        (
            rf"{source}fusion_blocks\.(\d)\.res_conv_unit([12])\.conv([12])\.conv\.(weight|bias)",
            rf"{fusion}.\1.residual_layer\2.convolution\3.\4",
        ),
        (rf"{source}project\.conv\.(weight|bias)", r"head.projection.\1"),
        (rf"{source}conv_depth\.head\.(\d)\.(weight|bias)", r"head.head.\1.\2"),
        # mmseg's unused classifier, of one "class".
        (rf"{source}conv_depth\.(weight|bias)", None),
        (rf"{source}conv_seg\..*", None),
    ]


def state_dict_of(contents: Any, path: Any) -> Mapping[str, np.ndarray]:
    """The state dict in what a `.pt` file holds: itself, or under "model" or "state_dict"."""
    for key in ("model", "state_dict", "teacher"):
        if isinstance(contents, Mapping) and isinstance(contents.get(key), Mapping):
            contents = contents[key]
    if not isinstance(contents, Mapping) or not any(
        isinstance(value, np.ndarray) for value in contents.values()
    ):
        raise WeightsError(f"{path} holds no state dict of tensors")
    return {name: value for name, value in contents.items() if isinstance(value, np.ndarray)}


def to_hf_names(tensors: Tensors, path: Any) -> dict[str, Callable[[], np.ndarray]]:
    """The tensors under Hugging Face's names; bare encoders as `backbone.*`.

    Args:
        tensors: names of an original repository to functions that fetch the arrays.
        path: named in errors.

    Raises:
        WeightsError: an unknown layout, or keys that no rule of its table knows, all of them named.
    """
    rules = _rules(tensors, path)
    renamed: dict[str, Callable[[], np.ndarray]] = {}
    unknown = []
    for name, fetch in tensors.items():
        matches = [(m, rule[1]) for rule in rules if (m := re.fullmatch(rule[0], name))]
        if len(matches) != 1:
            unknown.append(name)
            continue
        match, target = matches[0]
        if target is None:
            continue
        new = target(match) if callable(target) else match.expand(target)
        if _QKV not in new:
            renamed[new] = fetch
            continue
        for i, part in enumerate(("query", "key", "value")):
            renamed[new.replace(_QKV, part)] = lambda fetch=fetch, i=i: _third(fetch(), i)
    if unknown:
        raise WeightsError(
            f"{path} has keys that its layout does not:\n  " + "\n  ".join(sorted(unknown))
        )
    return renamed


def _third(qkv: np.ndarray, i: int) -> np.ndarray:
    rows = qkv.shape[0] // 3
    return qkv[i * rows : (i + 1) * rows]


def _rules(tensors: Tensors, path: Any) -> Sequence[Rule]:
    def has(*fragments: str) -> bool:
        return all(any(name.startswith(fragment) for name in tensors) for fragment in fragments)

    if has("pretrained.model.", "scratch."):
        source = r"pretrained\.model\."
        if has("pretrained.model.layers."):
            backbone = _swinv2(source, "backbone.")
        elif has("pretrained.model.patch_embed.backbone."):
            backbone = _hybrid(source, "dpt.")
        elif has("pretrained.model.blocks.0.gamma_1"):
            backbone = _beit(source, "backbone.")
        else:
            backbone = _vit_blocks(source, "dpt.")
        return backbone + _isl_decoder()
    if has("pretrained.", "depth_head."):
        return _depth_anything()
    if has("decode_head."):
        return _dinov2_depth()
    if has("blocks.0.ls1.gamma"):
        return _dinov2("", "backbone.")
    if has("blocks.0.norm1."):
        return _vit_blocks("", "backbone.")
    raise WeightsError(
        f"{path}: its keys are of no known layout (isl-org/DPT, MiDaS 3, Depth Anything, DINOv2, "
        f"timm ViT); the first are {', '.join(list(tensors)[:3])}"
    )
