# SPDX-License-Identifier: Apache-2.0
"""What the values in a `config.json` may be.

The file comes from somewhere else: a string where a number is expected would fail far away from
here, and a size of 10^9 would exhaust the memory. The limits are far above any published model.
"""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dpt_jax.weights.errors import WeightsError

_MOST_CHANNELS, _MOST_LAYERS, _LONGEST = 65_536, 64, 64


class _Rule(NamedTuple):
    expected: str
    holds: Callable[[Any], bool]


def _whole(low: int, high: int) -> _Rule:
    return _Rule(
        f"a whole number within {low}..{high}", lambda v: type(v) is int and low <= v <= high
    )


def _real(low: float, high: float) -> _Rule:
    # NaN, which JSON in Python may hold, is not within anything.
    return _Rule(
        f"a number within {low:g}..{high:g}",
        lambda v: type(v) in (int, float) and low <= v <= high,
    )


def _choice(*names: str) -> _Rule:
    return _Rule(f"one of {', '.join(names)}", lambda v: v in names)


def _several(rule: _Rule) -> _Rule:
    return _Rule(
        f"a list of 1 to {_LONGEST}, each {rule.expected}",
        lambda v: (
            isinstance(v, list | tuple) and 0 < len(v) <= _LONGEST and all(map(rule.holds, v))
        ),
    )


def _one_or_several(rule: _Rule) -> _Rule:
    several = _several(rule)
    return _Rule(f"{rule.expected}, or a list of them", lambda v: rule.holds(v) or several.holds(v))


def _are_names(labels: Any) -> bool:
    return (
        isinstance(labels, Mapping)
        and {str(key) for key in labels} == {str(i) for i in range(len(labels))}
        and all(isinstance(name, str) for name in labels.values())
    )


_CHANNELS, _LAYERS = _whole(1, _MOST_CHANNELS), _whole(1, _MOST_LAYERS)
_SIDE, _SHARE = _whole(1, 16_384), _real(0, 1)
_FACTOR, _AMOUNT = _real(1 / 64, 16), _real(0, 1e9)
_FLAG = _Rule("true or false", lambda v: type(v) is bool)
_WORD = _Rule("a string", lambda v: isinstance(v, str))
_OBJECT = _Rule("an object", lambda v: isinstance(v, Mapping))
_WORDS = _Rule(
    "a list of strings", lambda v: isinstance(v, list | tuple) and all(map(_WORD.holds, v))
)
_BLOCKS = _Rule(
    f"a list of numbers of layers, {_MOST_LAYERS} in all",
    lambda v: _several(_LAYERS).holds(v) and sum(v) <= _MOST_LAYERS,
)

_RULES: dict[str, _Rule] = {
    "architectures": _WORDS,
    "backbone_config": _OBJECT,
    "bin_configurations": _several(_OBJECT),
    "depth_estimation_type": _choice("relative", "metric"),
    "depths": _BLOCKS,
    "dpt_jax": _OBJECT,
    # A head halves it.
    "fusion_hidden_size": _whole(2, _MOST_CHANNELS),
    "head_in_index": _whole(-_LONGEST, _LONGEST),
    "id2label": _Rule("an object from 0, 1, ... to the names of the classes", _are_names),
    "num_channels": _whole(1, 64),
    "num_labels": _whole(1, _MOST_CHANNELS),
    "num_register_tokens": _whole(0, 1024),
    "out_features": _WORDS,
    "output_stride": _SIDE,
    "pretrained_window_sizes": _several(_whole(0, 512)),
    "window_size": _whole(1, 512),
    **dict.fromkeys(
        (
            "hidden_sizes",
            "neck_hidden_sizes",
            "num_attractors",
            "num_heads",
            "post_process_channels",
        ),
        _several(_CHANNELS),
    ),
    **dict.fromkeys(("num_hidden_layers", "num_patch_transformer_layers"), _LAYERS),
    **dict.fromkeys(("image_size", "patch_size"), _one_or_several(_SIDE)),
    "mlp_ratio": _FACTOR,
    "reassemble_factors": _several(_FACTOR),
    **dict.fromkeys(
        ("backbone_out_indices", "out_indices"), _several(_whole(-_MOST_LAYERS, _MOST_LAYERS))
    ),
    **dict.fromkeys(
        (
            "bin_embedding_dim",
            "bottleneck_features",
            "embed_dim",
            "embedding_size",
            "head_hidden_size",
            "hidden_size",
            "intermediate_size",
            "n_bins",
            "num_attention_heads",
            "num_depth_bins",
            "num_groups",
            "num_relative_features",
            "number_output_channels",
            "patch_transformer_hidden_size",
            "patch_transformer_intermediate_size",
            "patch_transformer_num_attention_heads",
            "width_factor",
        ),
        _CHANNELS,
    ),
    **dict.fromkeys(
        (
            "attention_dropout",
            "attention_probs_dropout_prob",
            "batch_norm_eps",
            "drop_path_rate",
            "hidden_dropout_prob",
            "layer_norm_eps",
            "semantic_classifier_dropout",
        ),
        _SHARE,
    ),
    **dict.fromkeys(
        (
            "initializer_range",
            "layer_scale_init_value",
            "layerscale_value",
            "max_depth",
            "max_temp",
            "min_depth",
            "min_temp",
            "pos_embed_jitter",
            "pos_embed_rescale",
            "pos_embed_shift",
            "rope_theta",
        ),
        _AMOUNT,
    ),
    **dict.fromkeys(
        (
            "add_projection",
            "apply_layernorm",
            "embedding_dynamic_padding",
            "is_hybrid",
            "key_bias",
            "mlp_bias",
            "proj_bias",
            "qkv_bias",
            "query_bias",
            "use_absolute_position_embeddings",
            "use_auxiliary_head",
            "use_batch_norm_in_fusion_residual",
            "use_bias_in_fusion_residual",
            "use_gated_mlp",
            "use_relative_position_bias",
            "use_shared_relative_position_bias",
            "use_swiglu_ffn",
            "value_bias",
        ),
        _FLAG,
    ),
    **dict.fromkeys(
        (
            "attractor_kind",
            "bin_centers_type",
            "bins_strategy",
            "depth_decoder_activation",
            "global_padding",
            "hidden_act",
            "layer_type",
            "model_type",
            "name",
            "norm_strategy",
            "readout_activation",
            "readout_type",
        ),
        _WORD,
    ),
}


def check_values(config: Mapping[str, Any]) -> None:
    """Refuses values that no network can have; null is always the default.

    Raises:
        WeightsError: all of them, in one message.
    """
    if problems := _problems(config, ""):
        raise WeightsError("config.json: " + "; ".join(problems))


def _problems(config: Mapping[str, Any], parent: str) -> list[str]:
    problems = []
    for key, value in config.items():
        rule = _RULES.get(key)
        if rule is None or value is None:
            continue
        if not rule.holds(value):
            # reprlib, because the value may be of any size and depth.
            problems.append(f"{parent}{key}: expected {rule.expected}, got {reprlib.repr(value)}")
        elif key == "backbone_config":
            problems += _problems(value, f"{key}.")
        elif key == "bin_configurations":
            problems += [p for bins in value for p in _problems(bins, f"{key}.")]
    return problems
