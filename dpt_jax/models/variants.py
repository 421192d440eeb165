# SPDX-License-Identifier: Apache-2.0
"""Named models, one table. A row says what differs from the defaults of the parts' classes.

Widths and taps are those of the public checkpoints: `dpt_*` of isl-org/DPT and MiDaS 3.1,
`dpt_dinov2_*` of facebookresearch/dinov2's depth heads, `depth_anything_*` of Depth Anything V2
(V1 has other taps: `depth_anything_v1_*`), `prompt_depth_anything_*` of DepthAnything/PromptDA,
`zoedepth_*` of isl-org/ZoeDepth, `tipsv2_*` of google-deepmind/tips (depth, normals and
segmentation at once) and `chmv2_*` of facebookresearch/dinov3. `dpt_tiny` is ours, for tests and
the quick start.
"""

from typing import Any

Variant = dict[str, dict[str, Any]]


def _vit(hidden_size: int, layers: int, heads: int, taps: tuple[int, ...], **more: Any) -> dict:
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "out_indices": taps,
        **more,
    }


_BASE_TAPS, _LARGE_TAPS = (2, 5, 8, 11), (5, 11, 17, 23)
_BASE_WIDTHS, _LARGE_WIDTHS = (96, 192, 384, 768), (256, 512, 1024, 1024)


def _beit(size: str, image_size: int) -> Variant:
    large = size == "large"
    shape = (1024, 24, 16, _LARGE_TAPS) if large else (768, 12, 12, _BASE_TAPS)
    return {
        "backbone": {
            "type": "beit",
            **_vit(*shape, intermediate_size=4096 if large else 3072),
            "image_size": image_size,
            "use_relative_position_bias": True,
        },
        "neck": {"hidden_sizes": _LARGE_WIDTHS if large else _BASE_WIDTHS},
    }


def _swinv2(embed_dim: int, heads: tuple[int, ...], tiny: bool) -> Variant:
    return {
        "backbone": {
            "type": "swinv2",
            "embed_dim": embed_dim,
            "depths": (2, 2, 6, 2) if tiny else (2, 2, 18, 2),
            "num_heads": heads,
            "window_size": 16 if tiny else 24,
            "pretrained_window_sizes": (0, 0, 0, 0) if tiny else (12, 12, 12, 6),
            "image_size": 256 if tiny else 384,
            "out_indices": (0, 1, 2, 3),
        },
        "neck": {
            "hidden_sizes": tuple(embed_dim * 2**i for i in range(4)),
            "reassemble_factors": (1, 1, 1, 1),
            "readout_type": "ignore",
        },
    }


_DINOV2 = {
    "small": _vit(384, 12, 6, _BASE_TAPS),
    "base": _vit(768, 12, 12, _BASE_TAPS),
    "large": _vit(1024, 24, 16, (4, 11, 17, 23)),
    "giant": _vit(1536, 40, 24, (9, 19, 29, 39), use_swiglu_ffn=True),
}
_DINOV2_WIDTHS = {
    "small": (48, 96, 192, 384),
    "base": _BASE_WIDTHS,
    "large": (128, 256, 512, 1024),
    "giant": (192, 384, 768, 1536),
}
_DEPTH_ANYTHING_WIDTHS = _DINOV2_WIDTHS | {"large": _LARGE_WIDTHS, "giant": (1536,) * 4}
_DEPTH_ANYTHING_FUSION = {"small": 64, "base": 128, "large": 256, "giant": 384}
_LAST_FOUR = {"small": (8, 9, 10, 11), "base": (8, 9, 10, 11), "large": (20, 21, 22, 23)}


def _dpt_dinov2(size: str) -> Variant:
    return {
        "backbone": {
            "type": "dinov2",
            **_DINOV2[size],
            "image_size": 518,
            "apply_layernorm": False,
        },
        "neck": {"hidden_sizes": _DINOV2_WIDTHS[size], "use_bias_in_fusion_residual": False},
        "head": {"add_projection": True},
    }


def _depth_anything(size: str, taps: tuple[int, ...] | None = None) -> Variant:
    backbone = {"type": "dinov2", **_DINOV2[size], "image_size": 518}
    return {
        "backbone": backbone | ({"out_indices": taps} if taps else {}),
        "neck": {
            "hidden_sizes": _DEPTH_ANYTHING_WIDTHS[size],
            "readout_type": "ignore",
            "fusion_hidden_size": _DEPTH_ANYTHING_FUSION[size],
            "upsample_to_skip": True,
        },
        "head": {"upsample_to_input": True},
    }


def _prompt_depth_anything(size: str) -> Variant:
    variant = _depth_anything(size)
    variant["neck"]["prompt_depth"] = True
    variant["head"] |= {"activation": "sigmoid", "max_depth": 1.0}
    return variant


_TIPSV2 = {
    "base": _vit(768, 12, 12, _BASE_TAPS),
    "large": _vit(1024, 24, 16, _LARGE_TAPS),
    "so400m": _vit(1152, 27, 16, (6, 13, 20, 26), mlp_ratio=4304 / 1152),
    "giant": _vit(1536, 40, 24, (9, 19, 29, 39), use_swiglu_ffn=True),
}


def _tipsv2(size: str) -> Variant:
    width = _TIPSV2[size]["hidden_size"]
    return {
        "backbone": {"type": "tipsv2", **_TIPSV2[size]},
        "neck": {
            "type": "tasks",
            "hidden_sizes": (width // 8, width // 4, width // 2, width),
            "use_bias_in_fusion_residual": False,
            "hidden_act": "gelu_pytorch_tanh",
        },
        "head": {"type": "dense"},
    }


def _zoedepth(*domains: str) -> Variant:
    metres = {"nyu": 10.0, "kitti": 80.0}
    bins = ({"name": d, "n_bins": 64, "min_depth": 1e-3, "max_depth": metres[d]} for d in domains)
    head: dict[str, Any] = {"type": "zoedepth", "bin_configurations": tuple(bins)}
    if domains == ("kitti",):
        head["bin_centers_type"] = "normed"
    if len(domains) > 1:
        head["num_attractors"] = (16, 16, 16, 16)
    return _beit("large", 384) | {"head": head}


VARIANTS: dict[str, Variant] = {
    "dpt_large": {
        "backbone": {
            "type": "vit",
            **_vit(1024, 24, 16, _LARGE_TAPS, intermediate_size=4096),
        },
        "neck": {"hidden_sizes": _LARGE_WIDTHS},
    },
    "dpt_base": {
        "backbone": {"type": "vit", "out_indices": _BASE_TAPS},
        "neck": {"hidden_sizes": _BASE_WIDTHS},
    },
    "dpt_hybrid": {
        "backbone": {"type": "hybrid", "out_indices": (8, 11)},
        "neck": {
            "hidden_sizes": (256, 512, 768, 768),
            "reassemble_factors": (1, 1, 1, 0.5),
        },
    },
    "dpt_tiny": {
        "backbone": {
            "type": "vit",
            **_vit(128, 4, 4, (0, 1, 2, 3), intermediate_size=512),
            "layer_norm_eps": 1e-6,
            "image_size": 128,
        },
        "neck": {"hidden_sizes": (32, 48, 64, 96), "fusion_hidden_size": 32},
    },
    "dpt_beit_base_384": _beit("base", 384),
    "dpt_beit_large_384": _beit("large", 384),
    "dpt_beit_large_512": _beit("large", 512),
    "dpt_swinv2_tiny_256": _swinv2(96, (3, 6, 12, 24), tiny=True),
    "dpt_swinv2_base_384": _swinv2(128, (4, 8, 16, 32), tiny=False),
    "dpt_swinv2_large_384": _swinv2(192, (6, 12, 24, 48), tiny=False),
    **{f"dpt_dinov2_{size}": _dpt_dinov2(size) for size in _DINOV2},
    **{f"depth_anything_{size}": _depth_anything(size) for size in _DINOV2},
    **{f"depth_anything_v1_{size}": _depth_anything(size, t) for size, t in _LAST_FOUR.items()},
    **{
        f"prompt_depth_anything_{size}": _prompt_depth_anything(size) for size in ("small", "large")
    },
    **{f"tipsv2_{size}": _tipsv2(size) for size in _TIPSV2},
    "chmv2_large": {
        "backbone": {
            "type": "dinov3",
            **_vit(1024, 24, 16, _LARGE_TAPS, intermediate_size=4096),
            "image_size": 416,
            "num_register_tokens": 4,
            "key_bias": True,
            "layer_norm_eps": 1e-6,
        },
        "neck": {"hidden_sizes": (128, 256, 512, 1024), "hidden_act": "gelu"},
        "head": {"type": "binned_depth"},
    },
    "zoedepth_nyu": _zoedepth("nyu"),
    "zoedepth_kitti": _zoedepth("kitti"),
    "zoedepth_nyu_kitti": _zoedepth("nyu", "kitti"),
}
