# SPDX-License-Identifier: Apache-2.0
"""The model against Hugging Face's `DPTFor*`: tiny random networks, every tensor of them random.

HF starts biases, class tokens and position embeddings at zero and BatchNorm at the identity, which
would hide a bug in any of them. Inputs are square: HF is wrong on other shapes.
"""

import re

import flax.traverse_util
import numpy as np
import pytest

from dpt_jax.models.dpt import build_model
from dpt_jax.weights import huggingface, huggingface_config

pytest.importorskip("torch", reason="the reference model is a PyTorch one")
pytest.importorskip("transformers", reason="the reference model is in transformers")

from tests.parity.families import Case, vit_cases
from tests.parity.reference import TOLERANCE, arrays, disagreement, ours, reference, table
from tests.parity.training import compare_depth_gradients, compare_segmentation_step


def vit_case(name, config, side, segmentation, seed, scale=1.0) -> Case:
    """One network (keyword arguments of `DPTConfig`) and the side of its square input."""
    task = "SemanticSegmentation" if segmentation else "DepthEstimation"
    return Case("vit", name, config, (side, side), seed, f"DPTFor{task}", scale)


def special_cases() -> list[Case]:
    base = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "patch_size": 8,
        "image_size": 24,
        "backbone_out_indices": [0, 1],
        "neck_hidden_sizes": [12, 16],
        "reassemble_factors": [2, 0.5],
        "fusion_hidden_size": 16,
    }
    wide = {"fusion_hidden_size": 256, "add_projection": True}
    usual = {
        "num_hidden_layers": 4,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [6, 8, 12, 16],
        "reassemble_factors": [4, 2, 1, 0.5],
        "layer_norm_eps": 1e-12,
    }
    return [
        vit_case("projection", base | wide, 24, False, 901),
        vit_case("projection_coarse", base | wide | {"head_in_index": 0}, 32, False, 902),
        vit_case("usual_depth", base | usual | {"image_size": 32}, 32, False, 903, 0.01),
        vit_case("usual_odd_depth", base | usual, 40, False, 904),
        vit_case("usual_segmentation", base | usual | {"num_labels": 7}, 48, True, 905),
        vit_case("one_patch", base | usual, 8, False, 906),
        vit_case("blocks_behind_the_last_tap", base | {"num_hidden_layers": 5}, 24, False, 907),
    ]


CASES = vit_cases() + special_cases()


def kind(case: Case) -> str:
    patch = case.config["patch_size"]
    native, grid = case.config["image_size"] // patch, case.size[0] // patch
    positions = "native" if grid == native else "up" if grid > native else "down"
    head = "segmentation" if case.segmentation else "depth"
    return f"{head}, positions {positions}, {'odd' if grid % 2 else 'even'} grid"


@pytest.fixture(scope="module")
def errors(request):
    """Collects (family, error, case); at the end the terminal shows the worst of each family."""
    found: list[tuple[str, float, str]] = []
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *table(found), sep="\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_is_that_of_hugging_face(case, errors):
    error = disagreement(case)
    errors.append((kind(case), error, case.name))
    assert error <= TOLERANCE


def test_the_random_networks_cover_every_option():
    values = {key: {str(case.config.get(key)) for case in CASES} for key in CASES[0].config}
    for key, count in {
        "readout_type": 3,
        "patch_size": 3,
        "hidden_act": 5,
        "qkv_bias": 2,
        "fusion_hidden_size": 5,
        "head_in_index": 5,
        "reassemble_factors": 10,
        "num_hidden_layers": 4,
    }.items():
        assert len(values[key] - {"None"}) >= count, key
    residuals = {
        (
            case.segmentation,
            case.config["use_batch_norm_in_fusion_residual"],
            case.config["use_bias_in_fusion_residual"],
        )
        for case in vit_cases()
    }
    assert len(residuals) == 12
    assert len({kind(case) for case in CASES}) == 12


def train_case(name, seed, segmentation, **config) -> Case:
    base = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "patch_size": 8,
        "image_size": 32,
        "backbone_out_indices": [0, 1, 2],
        "neck_hidden_sizes": [8, 12, 16],
        "reassemble_factors": [2, 1, 0.5],
        "fusion_hidden_size": 16,
        "semantic_classifier_dropout": 0.0,
    }
    if segmentation:
        base["num_labels"] = 6
    return vit_case(name, base | config, 40, segmentation, seed)


TRAIN_CASES = [
    train_case("bn_project", 11, True, use_batch_norm_in_fusion_residual=True),
    train_case(
        "bn_bias_add",
        12,
        True,
        use_batch_norm_in_fusion_residual=True,
        use_bias_in_fusion_residual=True,
        readout_type="add",
    ),
    train_case("plain_coarse", 13, True, head_in_index=1, qkv_bias=False, readout_type="ignore"),
]


@pytest.mark.parametrize("case", TRAIN_CASES, ids=lambda case: case.name)
def test_segmentation_training_step_is_that_of_hugging_face(case, errors):
    compare_segmentation_step(case, errors)


def test_depth_gradients_are_those_of_hugging_face(errors):
    compare_depth_gradients(train_case("depth", 21, False), errors)


def test_every_misfit_is_in_one_error():
    hf = reference(train_case("strict", 31, True, use_batch_norm_in_fusion_residual=True))
    model, _ = ours(hf)
    state = arrays(hf)
    del state["dpt.embeddings.cls_token"]
    del state["head.head.1.running_mean"]
    state["neck.convs.1.weight"] = state["neck.convs.1.weight"][:, :5]
    state["head.head.4.bias"] = np.zeros(7, np.float32)
    state["dpt.encoder.layer.1.gamma"] = np.zeros(3, np.float32)
    state["somewhere.else"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError) as caught:
        huggingface.to_variables(state, model)
    message = str(caught.value)
    for line in (
        r"missing: dpt\.embeddings\.cls_token",
        r"missing: head\.head\.1\.running_mean",
        r"shape: neck\.convs\.1\.weight .*5.*12",
        r"shape: head\.head\.4\.bias .*7.*6",
        r"unused: dpt\.encoder\.layer\.1\.gamma",
        r"unused: somewhere\.else",
    ):
        assert re.search(line, message), line
    assert len(re.findall("missing:|shape:|unused:", message)) == 6


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_a_kernel_of_another_rank_is_a_misfit_like_others(shape):
    hf = reference(train_case("rank", 34, False))
    model, _ = ours(hf)
    state = arrays(hf) | {"neck.convs.1.weight": np.zeros(shape, np.float32)}
    del state["head.head.4.bias"]
    with pytest.raises(ValueError, match=r"shape: neck\.convs\.1\.weight") as caught:
        huggingface.to_variables(state, model)
    assert "missing: head.head.4.bias" in str(caught.value)


def test_only_the_first_fusion_layer_has_a_dead_unit():
    hf = reference(train_case("unused", 32, True))
    model, _ = ours(hf)
    extra = arrays(hf) | {"neck.fusion_stage.layers.1.residual_layer1.convolution3.weight": 0}
    with pytest.raises(ValueError, match=r"unused: neck\.fusion_stage\.layers\.1\.residual_layer1"):
        huggingface.to_variables(extra, model)


def test_auxiliary_weights_may_be_left_out_only_by_a_model_without_that_head():
    hf = reference(train_case("auxiliary", 33, True))
    config = huggingface_config.model_config(hf.config.to_dict())
    config["auxiliary_head"] = {"use": False}
    model = build_model(config)
    assert model.auxiliary_head is None
    huggingface.to_variables(arrays(hf), model)
    state = {k: v for k, v in arrays(hf).items() if not k.startswith("auxiliary_head.")}
    huggingface.to_variables(state, model)
    with pytest.raises(ValueError, match=r"missing: auxiliary_head\.head\.4\.bias"):
        huggingface.to_variables(state, ours(hf)[0])


@pytest.mark.parametrize("case", [*TRAIN_CASES, *special_cases()[:3]], ids=lambda case: case.name)
def test_names_are_a_mechanical_rule_in_both_directions(case):
    hf = reference(case)
    model, variables = ours(hf)
    paths = flax.traverse_util.flatten_dict({k: variables[k] for k in variables if k != "unused"})
    names = [huggingface.hf_name(path[1:], model) for path in paths]
    assert len(set(names)) == len(names)
    assert not set(names) & set(huggingface.dead_parameters(model))
    assert set(names) | set(huggingface.dead_parameters(model)) == set(hf.state_dict())
