# SPDX-License-Identifier: Apache-2.0
"""The head of ZoeDepth in HF's `config.json`, both ways."""

from collections.abc import Mapping
from typing import Any

from absl import logging

from dpt_jax.models.zoedepth import ZoeDepthHead, check_bins
from dpt_jax.weights.errors import WeightsError

# HF's backbone if the config has none; see `ZoeDepthConfig`.
BACKBONE: dict[str, Any] = {
    "model_type": "beit",
    "image_size": 384,
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "use_relative_position_bias": True,
    "out_features": ["stage6", "stage12", "stage18", "stage24"],
}
_HEAD = (
    "head_in_index",
    "add_projection",
    "num_relative_features",
    "num_attractors",
    "bin_embedding_dim",
    "attractor_kind",
    "min_temp",
    "max_temp",
    "bin_centers_type",
    "bin_configurations",
)
_CLASSIFIER = (
    "num_patch_transformer_layers",
    "patch_transformer_hidden_size",
    "patch_transformer_intermediate_size",
    "patch_transformer_num_attention_heads",
)


def head_settings(hf: Mapping[str, Any]) -> dict[str, Any]:
    """`config.model.head` of a `ZoeDepthConfig`.

    The published `config.json` of Intel/zoedepth-kitti has the range of NYU, up to 10 m, in which
    its "normed" bins come out an eighth as far as they were trained to be. It is read as it is, as
    transformers does, and the log says so.

    Raises:
        WeightsError: bins that no head can have, or what transformers builds and cannot run.
    """
    head = {key: hf[key] for key in (*_HEAD, *_CLASSIFIER) if hf.get(key) is not None}
    for key in ("num_attractors", "bin_configurations"):
        head[key] = tuple(head.get(key) or getattr(ZoeDepthHead, key))
    bins = head["bin_configurations"]
    try:
        check_bins(bins)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"config.json: {error}") from error
    if len(bins) > 1:
        # HF builds these with the default of its attractor layers and reads only the length.
        head["num_attractors"] = (16,) * len(head["num_attractors"])
    elif head.get("bin_centers_type") == "normed" and _is_nyu(bins[0]):
        logging.warning(
            "config.json: depth is within 0.001 to 10 m. If this is Intel/zoedepth-kitti, trained "
            "for 80 m, its published config is wrong and distances are an eighth of the true ones: "
            'set "max_depth": 80.0 in bin_configurations'
        )
    width = hf.get("fusion_hidden_size") or 256
    problems = _unknown_to_transformers(ZoeDepthHead(**head), width)
    if (hf.get("bottleneck_features") or 256) != width:
        problems.append(
            f"bottleneck_features={hf.get('bottleneck_features')}, but the coarsest map has "
            f"fusion_hidden_size={width} channels"
        )
    if (hf.get("batch_norm_eps") or 1e-5) != 1e-5:
        problems.append(f"batch_norm_eps={hf['batch_norm_eps']} is not 1e-5")
    if problems:
        raise WeightsError("config.json: " + "; ".join(problems))
    return {"type": "zoedepth"} | head


def head_config(head: ZoeDepthHead, fusion_hidden_size: int) -> dict[str, Any]:
    """The inverse of `head_settings`: keys of `ZoeDepthConfig`."""
    keys = _HEAD + (_CLASSIFIER if len(head.bin_configurations) > 1 else ())
    config = {key: getattr(head, key) for key in keys}
    return config | {
        "num_attractors": list(head.num_attractors),
        "bin_configurations": [dict(bins) for bins in head.bin_configurations],
        "bottleneck_features": fusion_hidden_size,
    }


def lacking_in_transformers(head: ZoeDepthHead, neck: Any, backbone: str) -> list[str]:
    """What `ZoeDepthForDepthEstimation` cannot compute of a model."""
    lacking = _unknown_to_transformers(head, neck.fusion_hidden_size)
    if len(head.bin_configurations) > 1 and set(head.num_attractors) != {16}:
        lacking.append(
            f"model.head.num_attractors {head.num_attractors}: with several bin_configurations "
            "ZoeDepth has 16 at each map"
        )
    if backbone in ("vit", "hybrid"):
        lacking.append(f"ZoeDepth with the backbone {backbone}")
    elif backbone != "swinv2" and neck.readout_type != "project":
        lacking.append("ZoeDepth cannot run model.neck.readout_type other than 'project'")
    return lacking


def _unknown_to_transformers(head: ZoeDepthHead, fusion_hidden_size: int) -> list[str]:
    problems = []
    if len(head.num_attractors) != 4:
        problems.append(f"ZoeDepth reads 4 fused maps, num_attractors has {head.num_attractors}")
    if head.add_projection and fusion_hidden_size != 256:
        problems.append("add_projection needs fusion_hidden_size 256")
    if len(head.bin_configurations) > 1:
        wanted = {
            "bin_configurations": (len(head.bin_configurations), 2),
            "num_patch_transformer_layers": (head.num_patch_transformer_layers, 4),
            "patch_transformer_hidden_size": (head.patch_transformer_hidden_size, 128),
        }
        problems += [
            f"{key}: ZoeDepth's classifier of domains has {want}, not {found}"
            for key, (found, want) in wanted.items()
            if found != want
        ]
    return problems


def _is_nyu(bins: Mapping[str, Any]) -> bool:
    return bins["max_depth"] == 10 and bins.get("name", "nyu") == "nyu"
