# SPDX-License-Identifier: Apache-2.0
"""The graphs of the public checkpoints, at their size: names, shapes, counts, and two predictions.

Configurations are those of transformers' conversion scripts; counts were taken from them.
"""

import os
import re
from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference models are PyTorch ones")
transformers = pytest.importorskip("transformers", reason="the reference models are in it")

from transformers.core_model_loading import revert_weight_conversion  # noqa: E402

from dpt_jax.models.dpt import abstract_variables, build_model  # noqa: E402
from dpt_jax.models.resnetv2 import ResNetV2  # noqa: E402
from dpt_jax.weights import huggingface, huggingface_config  # noqa: E402
from tests.parity import reference  # noqa: E402

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
WIDE_NECK = {"neck_hidden_sizes": [256, 512, 1024, 1024]}
DPT_LARGE = LARGE | WIDE_NECK | {"backbone_out_indices": [5, 11, 17, 23]}
DPT_HYBRID = {
    "is_hybrid": True,
    "neck_hidden_sizes": [256, 512, 768, 768],
    "reassemble_factors": [1, 1, 1, 0.5],
}
ADE = {"num_labels": 150, "use_batch_norm_in_fusion_residual": True}
# Width, layers, heads, taps of the DPT heads and widths of their necks.
DINOV2 = {
    "small": (384, 12, 6, [3, 6, 9, 12], [48, 96, 192, 384]),
    "base": (768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768]),
    "large": (1024, 24, 16, [5, 12, 18, 24], [128, 256, 512, 1024]),
    "giant": (1536, 40, 24, [10, 20, 30, 40], [192, 384, 768, 1536]),
}


def dinov2(size: str, **options) -> dict:
    width, layers, heads, taps, _ = DINOV2[size]
    return {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "use_swiglu_ffn": size == "giant",
        "image_size": 518,
        "patch_size": 14,
        "out_indices": taps,
        "reshape_hidden_states": False,
        **options,
    }


def dpt_dinov2(size: str) -> dict:
    return {
        "backbone_config": dinov2(size, apply_layernorm=False),
        "neck_hidden_sizes": DINOV2[size][-1],
        "use_bias_in_fusion_residual": False,
        "add_projection": True,
    }


def depth_anything(size: str, neck: list[int], width: int) -> dict:
    return {
        "backbone_config": dinov2(size),
        "reassemble_hidden_size": DINOV2[size][0],
        "neck_hidden_sizes": neck,
        "fusion_hidden_size": width,
    }


def beit(large: bool, side: int) -> dict:
    stages = (6, 12, 18, 24) if large else (3, 6, 9, 12)
    backbone = {
        "model_type": "beit",
        "image_size": side,
        "use_relative_position_bias": True,
        "reshape_hidden_states": False,
        "out_features": [f"stage{i}" for i in stages],
    }
    return {"backbone_config": backbone | (LARGE if large else {})} | (WIDE_NECK if large else {})


def swinv2(width: int, heads: list[int], *, tiny: bool) -> dict:
    return {
        "backbone_config": {
            "model_type": "swinv2",
            "embed_dim": width,
            "depths": [2, 2, 6 if tiny else 18, 2],
            "num_heads": heads,
            "window_size": 16 if tiny else 24,
            "pretrained_window_sizes": [0, 0, 0, 0] if tiny else [12, 12, 12, 6],
            "image_size": 256 if tiny else 384,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "neck_hidden_sizes": [width * 2**i for i in range(4)],
    }


# Variant of ours, configuration of transformers, its keys and parameters.
GRAPHS = [
    ("dpt_large", DPT_LARGE, 462, 343_030_465),
    ("dpt_large ADE", DPT_LARGE | ADE, 536, 343_960_364),
    ("dpt_hybrid", DPT_HYBRID, 414, 122_377_985),
    ("dpt_hybrid ADE", DPT_HYBRID | ADE, 488, 123_307_884),
    ("dpt_dinov2_small", dpt_dinov2("small"), 281, 37_197_601),
    ("dpt_dinov2_base", dpt_dinov2("base"), 281, 111_954_049),
    ("dpt_dinov2_large", dpt_dinov2("large"), 497, 339_738_305),
    ("dpt_dinov2_giant", dpt_dinov2("giant"), 865, 1_199_461_185),
    ("dpt_beit_base_384", beit(False, 384), 291, 110_761_153),
    ("dpt_beit_large_384", beit(True, 384), 507, 343_311_553),
    ("dpt_beit_large_512", beit(True, 512), 507, 343_987_393),
    ("dpt_swinv2_tiny_256", swinv2(96, [3, 6, 12, 24], tiny=True), 291, 40_930_795),
    ("dpt_swinv2_base_384", swinv2(128, [4, 8, 16, 32], tiny=False), 519, 101_351_865),
    ("dpt_swinv2_large_384", swinv2(192, [6, 12, 24, 48], tiny=False), 519, 211_871_797),
    ("depth_anything_small", depth_anything("small", [48, 96, 192, 384], 64), 287, 24_785_089),
    ("depth_anything_base", depth_anything("base", [96, 192, 384, 768], 128), 287, 97_470_785),
    (
        "depth_anything_large",
        depth_anything("large", [256, 512, 1024, 1024], 256),
        503,
        335_315_649,
    ),
]
# In the files and read by nothing: the whole list, for these graphs.
DEAD = [
    r"dpt\.layernorm\.(weight|bias)",
    r"backbone\.embeddings\.mask_token",
    r"neck\.fusion_stage\.layers\.0\.residual_layer1\..*",
    r".*\.num_batches_tracked",
]
DEAD_UNDER_DPT = [r"backbone\.layernorm\.(weight|bias)"]  # Depth Anything's taps are normed


def architecture(name: str):
    if name.startswith("depth_anything"):
        return transformers.DepthAnythingForDepthEstimation
    if name.endswith("ADE"):
        return transformers.DPTForSemanticSegmentation
    return transformers.DPTForDepthEstimation


@pytest.mark.parametrize(("name", "config", "keys", "parameters"), GRAPHS, ids=lambda x: x)
def test_every_parameter_of_a_public_checkpoint_has_its_place(name, config, keys, parameters):
    kind = architecture(name)
    config = kind.config_class(**config)
    config.architectures = [kind.__name__]
    with torch.device("meta"):
        hf = kind(config)
    assert len(hf.state_dict()) == keys
    assert sum(p.numel() for p in hf.parameters()) == parameters
    theirs = {k: tuple(v.shape) for k, v in revert_weight_conversion(hf, hf.state_dict()).items()}

    model = build_model(huggingface_config.model_config(reference.hf_config(hf)))
    ours = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_variables(model)):
        ours[huggingface.hf_name(tuple(key.key for key in path[1:]), model)] = leaf.shape
    patterns = DEAD + (DEAD_UNDER_DPT if name.startswith("dpt") else [])
    for key, shape in theirs.items():
        dead = any(re.fullmatch(pattern, key) for pattern in patterns)
        assert dead != (key in ours), key
        if not dead:  # a kernel is transposed, by how much is seen on networks that predict
            assert sorted(ours[key]) == sorted(shape), key
    assert ours.keys() <= theirs.keys()
    if "ADE" in name:
        return
    named = build_model({"variant": name, "head": {"type": "depth"}})
    if name == "dpt_hybrid":  # its BiT is spelled out in one, left at its defaults in the other
        backbones: list[Any] = [named.backbone, model.backbone]
        assert len({ResNetV2(**backbone.bit) for backbone in backbones}) == 1
        named = named.clone(backbone=backbones[0].clone(bit=backbones[1].bit))
    assert named == model


@pytest.mark.parametrize("config", [DPT_LARGE, DPT_HYBRID], ids=["dpt_large", "dpt_hybrid"])
def test_full_size_predictions_are_those_of_transformers(config, record_property):
    kind = transformers.DPTForDepthEstimation
    with torch.device("meta"):
        hf = kind(kind.config_class(**config, architectures=[kind.__name__]))
    hf = hf.to_empty(device="cpu").eval()
    reference.randomise(hf, seed=7)
    with torch.no_grad():
        hf.head.head[4].weight += 0.05  # features in front of it are positive
        for name, parameter in hf.named_parameters():
            if ".bit." in name and ".norm3." in name:
                parameter *= 0.3  # so many residual blocks of gain 1 would multiply rounding
    pixels = np.random.default_rng(8).standard_normal((1, 384, 384, 3)).astype(np.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    want = reference.reference_output(hf, pixels)
    torch.set_num_threads(threads)
    reference.assert_telling(want, segmentation=False)
    model, variables = reference.ours(hf)
    del hf
    with jax.default_matmul_precision("highest"):
        got = jax.jit(model.apply)(variables, pixels).depth
    error = reference.relative(got, want)
    record_property("relative error", error)
    assert error <= reference.TOLERANCE
