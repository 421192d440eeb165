# SPDX-License-Identifier: Apache-2.0
"""What stands in a folder is a network, or one clear error that names the file or the key."""

import copy
import json
import time
import tracemalloc

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpt_jax import load_pretrained
from dpt_jax.models.dpt import abstract_variables, build_model
from dpt_jax.weights import huggingface
from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.huggingface_config import model_config
from dpt_jax.weights.safetensors_file import write_safetensors
from dpt_jax.weights.source import open_weights

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 16,
}
NECK = {"neck_hidden_sizes": [8, 8], "reassemble_factors": [1, 0.5], "fusion_hidden_size": 8}
DINO = {
    "model_type": "dinov2",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 1,
    "image_size": 28,
    "patch_size": 14,
    "out_indices": [1, 2],
}
BEIT = VIT | {"model_type": "beit", "use_relative_position_bias": True}
DEPTH = {
    "model_type": "dpt",
    "architectures": ["DPTForDepthEstimation"],
    "backbone_out_indices": [0, 1],
    "readout_type": "project",
    "hidden_act": "gelu",
    **NECK,
    **VIT,
}
BIT = {
    "model_type": "bit",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 8],
    "depths": [1, 1, 1],
    "layer_type": "bottleneck",
    "global_padding": "same",
    "embedding_dynamic_padding": True,
    "num_groups": 2,
}
TINY = {
    "vit": DEPTH,
    "segmentation": DEPTH
    | {
        "architectures": ["DPTForSemanticSegmentation"],
        "id2label": {"0": "wall", "1": "floor", "2": "sky"},
        "semantic_classifier_dropout": 0.1,
        "use_auxiliary_head": True,
        "use_batch_norm_in_fusion_residual": True,
    },
    "hybrid": DEPTH
    | {
        "is_hybrid": True,
        "neck_hidden_sizes": [8, 8, 8],
        "reassemble_factors": [1, 1, 0.5],
        "backbone_out_indices": [0, 0, 1],
        "backbone_config": BIT,
    },
    "dinov2": {"model_type": "dpt", **NECK, "backbone_config": DINO},
    "beit": {
        "model_type": "dpt",
        **NECK,
        "backbone_config": BEIT | {"out_features": ["stage1", "stage2"]},
    },
    "swinv2": {
        "model_type": "dpt",
        **NECK,
        "neck_hidden_sizes": [8, 16],
        "backbone_config": {
            "model_type": "swinv2",
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 1],
            "window_size": 2,
            "image_size": 16,
            "patch_size": 4,
            "pretrained_window_sizes": [0, 0],
            "out_features": ["stage1", "stage2"],
        },
    },
    "depth_anything": {
        "model_type": "depth_anything",
        **NECK,
        "backbone_config": DINO,
        "head_hidden_size": 8,
        "depth_estimation_type": "metric",
        "max_depth": 20,
    },
    "chmv2": {
        "model_type": "chmv2",
        "post_process_channels": [8, 8],
        "reassemble_factors": [1, 0.5],
        "fusion_hidden_size": 8,
        "head_hidden_size": 8,
        "number_output_channels": 8,
        "min_depth": 0.1,
        "max_depth": 9.0,
        "bins_strategy": "linear",
        "norm_strategy": "linear",
        "backbone_config": VIT
        | {
            "model_type": "dinov3_vit",
            "num_register_tokens": 1,
            "out_indices": [1, 2],
            "rope_theta": 100.0,
        },
    },
    "tipsv2_dpt": {
        "model_type": "tipsv2_dpt",
        "architectures": ["Tipsv2DptForDepthEstimation"],
        **NECK,
        "num_depth_bins": 8,
        "min_depth": 0.1,
        "max_depth": 9.0,
        "backbone_config": DINO | {"model_type": "tipsv2_vision_model", "num_register_tokens": 1},
    },
    "zoedepth": {
        "model_type": "zoedepth",
        "neck_hidden_sizes": [8, 8, 8, 8],
        "reassemble_factors": [1, 1, 1, 0.5],
        "fusion_hidden_size": 8,
        "bottleneck_features": 8,
        "num_relative_features": 8,
        "num_attractors": [2, 2, 2, 2],
        "bin_embedding_dim": 8,
        "bin_configurations": [{"n_bins": 4, "min_depth": 0.1, "max_depth": 9.0, "name": "nyu"}],
        "backbone_config": BEIT
        | {"num_hidden_layers": 4, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
    },
}


def state_dict(config):
    """Weights that fit, every number of them 1/2."""
    model = build_model(model_config(config))
    variables = jax.tree.map(lambda x: np.full(x.shape, 0.5), abstract_variables(model))
    return huggingface.to_state_dict(variables, model)


def write(directory, config, tensors=None):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(
        config if isinstance(config, str) else json.dumps(config)
    )
    write_safetensors(directory / "model.safetensors", tensors or {"a": np.zeros(1)})
    return directory


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each family."""
    root = tmp_path_factory.mktemp("tiny")
    return {name: write(root / name, config, state_dict(config)) for name, config in TINY.items()}


# --- What it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_a_folder_opens_as_what_it_predicts(folders, name):
    source = open_weights(folders[name])
    assert source.directory == folders[name] and source.preprocessing is None
    if name == "segmentation":
        assert source.depth is None and source.labels == ("wall", "floor", "sky")
    else:
        metric = ("depth_anything", "chmv2", "tipsv2_dpt", "zoedepth")
        assert source.depth == ("metric" if name in metric else "inverse_relative")
        assert source.labels == ()
    huggingface.to_variables(source.tensors, build_model(source.model))


@pytest.mark.parametrize(
    ("changes", "depth"),
    [
        ({"model_type": "depth_anything", "depth_estimation_type": "relative"}, "inverse_relative"),
        ({"model_type": "depth_anything", "depth_estimation_type": None}, "inverse_relative"),
        ({"model_type": "prompt_depth_anything"}, "metric"),
        ({"fusion_hidden_size": 256, "add_projection": True}, "metric"),
        ({"dpt_jax": {"depth": "metric"}}, "metric"),
        ({"dpt_jax": None}, "inverse_relative"),
    ],
)
def test_what_depth_means_follows_from_the_config(tmp_path, changes, depth):
    assert open_weights(write(tmp_path, TINY["dinov2"] | changes)).depth == depth


def test_labels_are_in_the_order_of_their_ids(tmp_path):
    names = {str(i): f"class {i}" for i in reversed(range(12))}
    assert open_weights(write(tmp_path, TINY["segmentation"] | {"id2label": names})).labels == (
        *(f"class {i}" for i in range(12)),
    )


def keys(config, path=()):
    """The path to each setting, also of the backbone and of the bins."""
    items = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in items:
        yield (*path, key)
        if key in ("backbone_config", "bin_configurations", 0) and isinstance(value, list | dict):
            yield from keys(value, (*path, key))


def inside(config, path):
    """What holds the last key of `path`."""
    for key in path[:-1]:
        config = config[key]
    return config


def outcome(config):
    try:
        return model_config(config)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", TINY)
def test_null_is_the_default_as_if_the_key_were_absent(name):
    for path in keys(TINY[name]):
        if path[0] == "bin_configurations" and path[-1] != "bin_configurations":
            continue  # has no defaults
        null, absent = copy.deepcopy(TINY[name]), copy.deepcopy(TINY[name])
        inside(null, path)[path[-1]] = None
        del inside(absent, path)[path[-1]]
        assert outcome(null) == outcome(absent), path


def test_what_a_backbone_makes_superfluous_may_be_null():
    # As in the configs of facebook/dpt-dinov2-*.
    nulls = dict.fromkeys([*VIT, "layer_norm_eps", "num_channels", "qkv_bias", "hidden_act"])
    nulls |= dict.fromkeys(("backbone_featmap_shape", "backbone_out_indices", "id2label"))
    assert model_config(TINY["dinov2"] | nulls) == model_config(TINY["dinov2"])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_any_precision_load_as_float32(tmp_path, dtype):
    rng = np.random.default_rng(0)
    stored = {k: rng.normal(size=v.shape).astype(dtype) for k, v in state_dict(DEPTH).items()}
    model, variables = load_pretrained(write(tmp_path, DEPTH, stored))
    assert {x.dtype for x in jax.tree.leaves(variables["params"])} == {np.dtype(np.float32)}
    for name, value in huggingface.to_state_dict(variables, model).items():
        np.testing.assert_array_equal(value, stored[name].astype(np.float32), err_msg=name)


# --- Errors --------------------------------------------------------------------------------------


def test_all_tensors_that_do_not_fit_are_in_one_error(tmp_path):
    tensors = state_dict(DEPTH)
    tensors["head.head.0.bias"] = np.zeros(5)
    tensors["one.too.many"] = tensors["another"] = np.zeros(1)
    del tensors["neck.convs.0.weight"], tensors["dpt.embeddings.cls_token"]
    with pytest.raises(WeightsError) as error:
        load_pretrained(write(tmp_path, DEPTH, tensors))
    lines = str(error.value).splitlines()[1:]
    assert [line.strip().split(" (")[0] for line in lines] == [
        "missing: dpt.embeddings.cls_token",
        "missing: neck.convs.0.weight",
        "shape: head.head.0.bias gives",
        "unused: another",
        "unused: one.too.many",
    ]


def test_variables_of_another_model_are_not_saved():
    model = build_model(model_config(DEPTH))
    other = build_model(model_config(DEPTH | {"num_hidden_layers": 3, "fusion_hidden_size": 4}))
    variables = jax.tree.map(lambda x: np.zeros(x.shape), abstract_variables(other))
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    flat["params/backbone/more"] = np.zeros(1)
    with pytest.raises(WeightsError) as error:
        huggingface.to_state_dict(flax.traverse_util.unflatten_dict(flat, sep="/"), model)
    assert "params/neck/convs_0/kernel is of shape (3, 3, 8, 4)" in str(error.value)
    assert "params/backbone/more is not of the model" in str(error.value)


def with_backbone(**changes):
    return TINY["dinov2"] | {"backbone_config": DINO | changes}


HOSTILE = {
    "a million layers": (DEPTH | {"num_hidden_layers": 10**6}, "num_hidden_layers"),
    "a negative size": (DEPTH | {"hidden_size": -16}, "hidden_size"),
    "no patch": (DEPTH | {"patch_size": 0}, "patch_size"),
    "an image without a patch": (DEPTH | {"image_size": 15}, "image_size"),
    "a rectangle": (DEPTH | {"image_size": [32, 64]}, "image_size"),
    "a huge image": (with_backbone(image_size=10**9), "backbone_config.image_size"),
    "a huge width": (DEPTH | {"neck_hidden_sizes": [8, 10**12]}, "neck_hidden_sizes"),
    "many widths": (DEPTH | {"neck_hidden_sizes": [8] * 10**5}, "neck_hidden_sizes"),
    "a number as text": (DEPTH | {"hidden_size": "16"}, "hidden_size"),
    "a fraction": (DEPTH | {"num_attention_heads": 2.5}, "num_attention_heads"),
    "a flag as a number": (DEPTH | {"qkv_bias": 1}, "qkv_bias"),
    "a number as a flag": (DEPTH | {"num_hidden_layers": True}, "num_hidden_layers"),
    "not a number": (DEPTH | {"layer_norm_eps": float("nan")}, "layer_norm_eps"),
    "infinity": (TINY["depth_anything"] | {"max_depth": float("inf")}, "max_depth"),
    "a factor of 0": (DEPTH | {"reassemble_factors": [1, 0]}, "reassemble_factors"),
    "a kind of depth": (
        TINY["depth_anything"] | {"depth_estimation_type": "Metric"},
        "depth_estimation_type",
    ),
    "a list of lists": (with_backbone(out_indices=[[1], [2]]), "backbone_config.out_indices"),
    "a backbone in words": (DEPTH | {"backbone_config": "dinov2"}, "backbone_config"),
    "junk": (DEPTH | {"backbone_config": {"a": [[{}]]}}, "backbone_config.model_type"),
    "another backbone": (with_backbone(model_type="convnext"), "convnext"),
    "another model": ({"model_type": "bert"}, "'bert'"),
    "a tap that is not there": (with_backbone(out_features=["stage1", "stage9"]), "stage9"),
    "too few taps": (with_backbone(out_indices=[2]), "neck_hidden_sizes"),
    "classes from 1": (TINY["segmentation"] | {"id2label": {"1": "a", "2": "b"}}, "id2label"),
    "too few names": (TINY["segmentation"] | {"num_labels": 5}, "id2label"),
    "a huge head": (TINY["zoedepth"] | {"bin_configurations": [{"n_bins": 10**9}]}, "n_bins"),
    "a class that is no word": (DEPTH | {"architectures": [1]}, "architectures"),
    "two mistakes": (DEPTH | {"hidden_size": 0, "num_labels": []}, "hidden_size.*num_labels"),
    "a list": ("[]", "not an object"),
    "nothing": ("", "Expecting value"),
    "a number of many digits": ('{"hidden_size": ' + "9" * 10**5 + "}", "config.json"),
    "deep nesting": ('{"hidden_size": ' + "[" * 10**5 + "]" * 10**5 + "}", "config.json"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_config_that_no_network_can_have_is_refused_at_once(tmp_path, case):
    config, message = HOSTILE[case]
    write(tmp_path, config)
    start = time.process_time()
    tracemalloc.start()
    with pytest.raises(WeightsError, match=message) as error:
        open_weights(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(tmp_path / "config.json") in str(error.value)
    assert len(str(error.value)) < 1000
    assert peak < 2**25 and time.process_time() - start < 2


def test_a_config_of_100_megabytes_is_not_read(tmp_path):
    write(tmp_path, DEPTH)
    with open(tmp_path / "config.json", "r+b") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(WeightsError, match="larger than any config"):
        open_weights(tmp_path)


def test_a_config_that_is_no_text_is_named(tmp_path):
    write(tmp_path, DEPTH)
    (tmp_path / "config.json").write_bytes(b'{"\xff": 1}')
    with pytest.raises(WeightsError, match=r"config\.json is not a config\.json"):
        open_weights(tmp_path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"there is no {tmp_path}/a$"):
        open_weights(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=rf"there is no {tmp_path}/a\.pt$"):
        open_weights(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} holds no weights.*config\.json"):
        open_weights(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(DEPTH))
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}.*model\.safetensors"):
        open_weights(tmp_path)


def test_a_record_is_not_for_a_folder_with_its_own_config(folders):
    with pytest.raises(WeightsError, match="record='Intel/dpt-large'"):
        open_weights(folders["vit"], "Intel/dpt-large")


def test_a_safetensors_file_opens_beside_its_config(folders):
    source = open_weights(folders["vit"] / "model.safetensors")
    assert source.model == open_weights(folders["vit"]).model
    assert source.directory == folders["vit"]


NUMBERS = st.sampled_from([-(10**30), -1, 0, 1, 2, 3, 5, 64, 10**6, 10**30, 0.5, 1e308])
WORDS = st.sampled_from(["", "4", "gelu", "stage1", "relu", "add", "dpt", "x" * 50])
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.parametrize("name", TINY)
def test_any_value_gives_a_network_or_a_clear_error(folders, tmp_path_factory, name):
    folder = write(tmp_path_factory.mktemp(name), "{}")
    tensors = (folders[name] / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(tensors)
    paths = st.sampled_from(sorted(keys(TINY[name]), key=str))

    @settings(max_examples=25, derandomize=True, deadline=None, database=None)
    @given(st.dictionaries(paths, JUNK, min_size=1, max_size=2))
    def check(changes):
        config = copy.deepcopy(TINY[name])
        for path in sorted(changes, key=len, reverse=True):
            inside(config, path)[path[-1]] = changes[path]
        (folder / "config.json").write_text(json.dumps(config))
        try:
            load_pretrained(folder)
        except ValueError as error:  # WeightsError is one
            assert str(error)

    check()
