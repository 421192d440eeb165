# SPDX-License-Identifier: Apache-2.0
"""Every family against transformers: tiny random networks, every tensor of them random."""

import dataclasses

import pytest

pytest.importorskip("torch", reason="the reference models are PyTorch ones")
pytest.importorskip("transformers", reason="the reference models are in transformers")

from tests.parity import families, reference, successors, training

CASES = [
    *families.hybrid_cases(),
    *families.dinov2_cases(),
    *families.register_cases(),
    *families.beit_cases(),
    *families.swinv2_cases(),
    *successors.depth_anything_cases(),
]


@pytest.fixture(scope="module")
def errors(request):
    """Collects (family, error, case); at the end the terminal shows the worst of each family."""
    found: list[tuple[str, float, str]] = []
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *reference.table(found), sep="\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_predictions_are_those_of_transformers(case, errors):
    error = reference.disagreement(case)
    errors.append((case.family, error, case.name))
    assert error <= reference.TOLERANCE


def test_there_are_two_hundred_random_networks_of_different_names():
    cases = [*families.vit_cases(), *CASES]
    assert len(cases) >= 200
    assert len({case.name for case in cases}) == len(cases)


OPTIONS = {
    "hybrid": {
        "num_groups": 4,
        "depths": 4,
        "layer_type": 2,
        "global_padding": 2,
        "embedding_dynamic_padding": 2,
        "embedding_size": 2,
        "width_factor": 2,
        "hidden_act": 3,
        "hidden_sizes": 20,
    },
    "DINOv2": {
        "use_swiglu_ffn": 2,
        "mlp_ratio": 3,
        "qkv_bias": 2,
        "hidden_act": 6,
        "apply_layernorm": 2,
        "use_mask_token": 2,
        "num_register_tokens": 4,
        "layer_norm_eps": 2,
        "patch_size": 3,
        "out_indices": 8,
    },
    "Depth Anything": {
        "use_swiglu_ffn": 2,
        "mlp_ratio": 3,
        "qkv_bias": 2,
        "apply_layernorm": 2,
        "patch_size": 3,
        "out_indices": 8,
    },
    "BEiT": {
        "use_relative_position_bias": 2,
        "use_shared_relative_position_bias": 2,
        "use_absolute_position_embeddings": 2,
        "layer_scale_init_value": 2,
        "use_mean_pooling": 2,
        "use_mask_token": 2,
        "hidden_act": 6,
        "layer_norm_eps": 3,
        "patch_size": 3,
        "out_features": 8,
    },
    "Swinv2": {
        "window_size": 6,
        "pretrained_window_sizes": 5,
        "depths": 7,
        "num_heads": 10,
        "mlp_ratio": 4,
        "qkv_bias": 2,
        "patch_size": 2,
        "hidden_act": 6,
        "out_features": 4,
    },
}
DECODER_OPTIONS = {
    "readout_type": 3,
    "use_batch_norm_in_fusion_residual": 2,
    "use_bias_in_fusion_residual": 3,
    "fusion_hidden_size": 5,
    "add_projection": 2,
    "head_in_index": 3,
}


@pytest.mark.parametrize("family", OPTIONS)
def test_the_random_networks_cover_every_option(family):
    cases = [case for case in CASES if case.family.startswith(family)]
    wanted = OPTIONS[family] | (DECODER_OPTIONS if family != "Depth Anything" else {})
    if family == "hybrid":
        wanted["readout_type"] = 1
    for key, count in wanted.items():
        inner = key in OPTIONS[family]
        values = {
            str((case.config["backbone_config"] if inner else case.config).get(key))
            for case in cases
        }
        assert len(values) >= count, key
    rectangles = sum(case.size[0] != case.size[1] for case in cases)
    assert rectangles >= (0 if family == "hybrid" else len(cases) // 2)


def hybrid(name: str, seed: int, bit: dict, **config) -> families.Case:
    config = {
        "is_hybrid": True,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "image_size": 64,
        "patch_size": 16,
        "backbone_out_indices": [0, 0, 0, 1],
        "backbone_featmap_shape": [1, 32, 4, 4],
        "neck_hidden_sizes": [16, 24, 12, 10],
        "reassemble_factors": [1, 1, 1, 0.5],
        "fusion_hidden_size": 16,
        "semantic_classifier_dropout": 0.0,
        "num_labels": 6,
        "backbone_config": {
            "model_type": "bit",
            "embedding_size": 8,
            "hidden_sizes": [16, 24, 32],
            "depths": [1, 2, 1],
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "num_groups": 4,
            "out_features": ["stage1", "stage2", "stage3"],
        }
        | bit,
    } | config
    return families.Case(
        "hybrid", name, config, (64, 64), seed, "DPTForSemanticSegmentation", embedding_scale=0.3
    )


@pytest.mark.parametrize(
    "case",
    [
        hybrid("hybrid_bn", 41, {}, use_batch_norm_in_fusion_residual=True),
        hybrid("hybrid_preactivation", 42, {"layer_type": "preactivation"}),
        hybrid("hybrid_torch_padding", 43, {"global_padding": None}, patch_size=12),
    ],
    ids=lambda case: case.name,
)
def test_segmentation_training_steps_are_those_of_transformers(case, errors):
    training.compare_segmentation_step(case, errors)


def first(family: str) -> families.Case:
    """The first case of a family whose every map is used, without BatchNorm, without drop path."""
    for case in CASES:
        config = case.config
        plain = not config.get("use_batch_norm_in_fusion_residual")
        narrow = not config.get("add_projection") and config["head_in_index"] == -1
        if case.family == family and plain and narrow:
            backbone = dict(config["backbone_config"])
            if backbone["model_type"] in ("beit", "swinv2"):
                backbone["drop_path_rate"] = 0.0
            return dataclasses.replace(case, config=config | {"backbone_config": backbone})
    raise AssertionError(f"no plain case of {family}")


@pytest.mark.parametrize("family", sorted({case.family for case in CASES if not case.segmentation}))
def test_gradients_of_depth_are_those_of_transformers(family, errors):
    training.compare_depth_gradients(first(family), errors)
