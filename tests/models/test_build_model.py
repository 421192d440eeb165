# SPDX-License-Identifier: Apache-2.0
"""Models from configs: published sizes, output shapes, types, and mistakes in a config."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models.dpt import build_model, resolve_model_config

TINY = {
    "variant": "dpt_tiny",
    "backbone": {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "patch_size": 8,
        "image_size": 32,
    },
    "neck": {"hidden_sizes": [4, 6, 8, 10], "fusion_hidden_size": 8},
    "head": {"type": "depth"},
}
SEGMENTATION = TINY | {
    "head": {"type": "segmentation", "num_labels": 5},
    "auxiliary_head": {"use": True},
}


def changed(config, **groups):
    """`config` with fields of some of its groups replaced."""
    return config | {k: {**config.get(k, {}), **v} for k, v in groups.items()}


def shapes(config, pixels=(1, 32, 32, 3)):
    model = build_model(config)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(pixels)))


def outputs(config, pixels, train=False):
    model = build_model(config)

    def init_and_apply(x):
        variables = model.init(jax.random.key(0), x)
        rngs = {"dropout": jax.random.key(1)}
        return model.apply(variables, x, train=train, mutable=["batch_stats"], rngs=rngs)[0]

    return jax.eval_shape(init_and_apply, jnp.zeros(pixels))


# Compiling is most of the time; an optimised program of a tiny network does not earn it back.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def random_variables(model, seed=0):
    """Random weights by NumPy: compiling `model.init` takes longer than any test here."""
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else 0.3
        return (spread * rng.standard_normal(leaf.shape)).astype(np.float32)

    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    return jax.tree_util.tree_map_with_path(value, abstract)


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


FINAL_NORM = 2 * 1024
CONV3 = 3 * 3 * 256 * 256
# What HF counts on top: the final norm, and one residual unit of two convolutions, which in the
# segmentation model have BatchNorms (scale and bias) instead of biases.
DEAD_DEPTH = FINAL_NORM + 2 * (CONV3 + 256)
DEAD_SEGMENTATION = FINAL_NORM + 2 * (CONV3 + 2 * 256)


@pytest.mark.parametrize(
    ("config", "of_hugging_face", "dead"),
    [
        ({"head": {"type": "depth"}}, 343_030_465, DEAD_DEPTH),
        (
            {
                "neck": {"use_batch_norm_in_fusion_residual": True},
                "head": {"type": "segmentation", "num_labels": 150},
                "auxiliary_head": {"use": True},
            },
            343_960_364,
            DEAD_SEGMENTATION,
        ),
    ],
    ids=["dpt-large", "dpt-large-ade"],
)
def test_parameters_of_the_published_models(config, of_hugging_face, dead):
    variables = shapes({"variant": "dpt_large"} | config, (1, 384, 384, 3))
    assert count(variables["params"]) == of_hugging_face - dead
    if "batch_stats" in variables:
        # Two per residual unit (7 live ones) and one per head, mean and variance of 256 channels.
        assert count(variables["batch_stats"]) == (2 * 7 + 2) * 2 * 256
    else:
        assert config["head"]["type"] == "depth"


def test_parameters_of_the_base_model():
    d, neck, width = 768, (96, 192, 384, 768), 256
    dense = lambda i, o: i * o + o  # noqa: E731
    block = 2 * 2 * d + 4 * dense(d, d) + dense(d, 4 * d) + dense(4 * d, d)
    embeddings = dense(3 * 16 * 16, d) + d + (1 + 24 * 24) * d
    reassemble = sum(dense(2 * d, d) + dense(d, c) for c in neck)
    resized = 16 * 96 * 96 + 96 + 4 * 192 * 192 + 192 + 9 * 768 * 768 + 768
    convs = sum(9 * c * width for c in neck)
    fusion = 7 * 2 * dense(9 * width, width) + 4 * dense(width, width)
    head = dense(9 * width, width // 2) + dense(9 * width // 2, 32) + 33
    total = 12 * block + embeddings + reassemble + resized + convs + fusion + head
    assert count(shapes({"variant": "dpt_base", "head": {"type": "depth"}})) == total


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (2, 4), (3, 5), (4, 1), (7, 4), (1, 5), (7, 5)]
)
def test_outputs_cover_the_grid_rounded_up_to_even(rows, columns):
    height, width = 32 * -(-rows // 2), 32 * -(-columns // 2)
    pixels = (2, 8 * rows + 3, 8 * columns, 3)  # three rows of pixels too few for another patch
    depth = outputs(TINY, pixels)
    assert depth.depth.shape == (2, height, width)
    assert depth.logits is None and depth.aux_logits is None
    logits = outputs(SEGMENTATION, pixels)
    assert logits.logits.shape == (2, height, width, 5)
    assert logits.depth is None and logits.aux_logits is None
    training = outputs(SEGMENTATION, pixels, train=True)
    assert training.logits.shape == (2, height, width, 5)
    assert training.aux_logits.shape == (2, height // 2, width // 2, 5)


@pytest.mark.parametrize("size", [(352, 1216), (480, 640)])
def test_large_gives_the_input_size_at_multiples_of_32(size):
    output = outputs({"variant": "dpt_large", "head": {"type": "depth"}}, (1, *size, 3))
    assert output.depth.shape == (1, *size)


@pytest.mark.parametrize(("index", "scale"), [(0, 4), (1, 8), (2, 16), (3, 32), (-1, 32)])
def test_heads_read_the_fused_map_of_their_index(index, scale):
    config = changed(TINY, head={"head_in_index": index})
    assert outputs(config, (1, 48, 32, 3)).depth.shape == (1, 3 * scale, 2 * scale)


@pytest.mark.parametrize("config", [TINY, SEGMENTATION], ids=["depth", "segmentation"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", None])
def test_outputs_and_parameters_are_float32_whatever_is_computed_in(config, dtype):
    config = changed(config, neck={"use_batch_norm_in_fusion_residual": True}) | {"dtype": dtype}
    for leaf in jax.tree.leaves(shapes(config)):
        assert leaf.dtype == jnp.float32
    for leaf in jax.tree.leaves(outputs(config, (1, 32, 48, 3), train=True)):
        assert leaf.dtype == jnp.float32


def test_bfloat16_is_close_to_float32_and_not_equal():
    exact = build_model(SEGMENTATION)
    rough = build_model(SEGMENTATION | {"dtype": "bfloat16"})
    x = jax.random.normal(jax.random.key(1), (1, 16, 40, 3))
    variables = random_variables(exact)
    want, got = fast_jit(exact.apply)(variables, x), fast_jit(rough.apply)(variables, x)
    scale = float(jnp.abs(want.logits).max())
    error = float(jnp.abs(want.logits - got.logits).max()) / scale
    assert 0 < error < 0.05


def test_half_precision_of_the_other_kind_is_refused():
    with pytest.raises(ValueError, match="float16"):
        build_model(TINY | {"dtype": "float16"})


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match="7 x 32 pixels"):
        outputs(TINY, (1, 7, 32, 3))


def test_every_image_of_a_batch_is_on_its_own():
    model = build_model(changed(SEGMENTATION, neck={"use_batch_norm_in_fusion_residual": True}))
    x = jax.random.normal(jax.random.key(2), (3, 16, 24, 3))
    variables = random_variables(model)
    apply = fast_jit(model.apply)
    together = apply(variables, x).logits
    for i in range(3):
        np.testing.assert_allclose(apply(variables, x[i : i + 1]).logits[0], together[i], atol=1e-5)


def test_sigmoid_depth_stays_within_its_range():
    config = changed(TINY, head={"activation": "sigmoid", "max_depth": 3.0})
    model = build_model(config)
    x = 100 * jax.random.normal(jax.random.key(3), (1, 16, 16, 3))
    variables = random_variables(model)
    depth = fast_jit(model.apply)(variables, x).depth
    assert depth.min() >= 0 and depth.max() <= 3 and depth.std() > 0
    variables["params"]["head"]["head_4"]["bias"] += 1e4
    np.testing.assert_allclose(fast_jit(model.apply)(variables, x).depth, 3.0)


def test_dropout_needs_training_and_is_then_random():
    model = build_model(SEGMENTATION)
    x = jax.random.normal(jax.random.key(2), (1, 16, 24, 3))
    variables = random_variables(model)

    @fast_jit
    def logits(key):
        return model.apply(
            variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )[0].logits

    one, again, other = (logits(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("rate", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_of_the_backbone_is_random_in_training_only(rate):
    model = build_model(changed(TINY, backbone={rate: 0.5}, head={"activation": "sigmoid"}))
    x = jax.random.normal(jax.random.key(2), (1, 16, 24, 3))
    variables = random_variables(model)
    apply = fast_jit(model.apply, static_argnames="train")
    one, other = (
        apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)}).depth
        for seed in (1, 2)
    )
    assert not np.array_equal(one, other)
    still = build_model(changed(TINY, head={"activation": "sigmoid"}))
    np.testing.assert_allclose(
        apply(variables, x).depth, fast_jit(still.apply)(variables, x).depth, rtol=1e-6
    )


def test_an_auxiliary_head_is_for_segmentation_and_only_where_asked_for():
    assert build_model(SEGMENTATION).auxiliary_head is not None
    assert build_model(SEGMENTATION | {"auxiliary_head": {"use": False}}).auxiliary_head is None
    assert build_model(changed(TINY, auxiliary_head={"use": True})).auxiliary_head is None
    params = shapes(SEGMENTATION)["params"]
    assert params["auxiliary_head"]["head_4"]["kernel"].shape == (1, 1, 8, 5)


def test_configs_lie_over_their_variant_and_none_keeps_it():
    config = {
        "variant": "dpt_large",
        "backbone": {"qkv_bias": False, "hidden_size": None},
        "neck": None,
        "head": {"type": "depth"},
    }
    resolved = resolve_model_config(config)
    assert resolved["backbone"]["hidden_size"] == 1024
    assert resolved["backbone"]["qkv_bias"] is False
    assert resolved["backbone"]["out_indices"] == (5, 11, 17, 23)
    assert resolved["neck"] == {"hidden_sizes": (256, 512, 1024, 1024)}
    assert resolved["auxiliary_head"] == {}
    # The table itself is not written to.
    again = resolve_model_config({"variant": "dpt_large", "head": {"type": "depth"}})
    assert "qkv_bias" not in again["backbone"]
    assert build_model(config).backbone.hidden_size == 1024


def test_building_changes_no_config():
    config = changed(SEGMENTATION, neck={"reassemble_factors": [4, 2, 1, 0.5]})
    before = repr(config)
    assert build_model(config) == build_model(config)
    assert repr(config) == before


def test_sequences_of_a_config_become_tuples():
    assert hash(build_model(TINY)) == hash(build_model(TINY))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**TINY, "variant": "dpt_lrge"}, "'dpt_lrge'.*did you mean 'dpt_large'"),
        ({**TINY, "backbne": {}}, "'backbne'.*did you mean 'backbone'"),
        (changed(TINY, backbone={"type": "vti"}), "backbone.type 'vti'.*did you mean 'vit'"),
        (changed(TINY, head={"type": "dept"}), "head.type 'dept'.*did you mean 'depth'"),
        ({k: v for k, v in TINY.items() if k != "head"}, "head.type None.* depth, .*segmentation"),
        (changed(TINY, backbone={"hidden_sise": 8}), "backbone.*did you mean 'hidden_size'"),
        (changed(TINY, neck={"readout": "add"}), "neck.*did you mean 'readout_type'"),
        (changed(TINY, head={"max_dept": 8}), "head.*did you mean 'max_depth'"),
        (changed(TINY, head={"num_labels": 8}), "head for type 'depth' 'num_labels'"),
        (
            changed(SEGMENTATION, auxiliary_head={"num_label": 8}),
            "auxiliary_head.*did you mean 'num_labels'",
        ),
        (changed(TINY, backbone={"name": "x"}), "backbone.*'name'"),
        (changed(TINY, backbone={"parent": "x"}), "backbone.*'parent'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(config, message):
    with pytest.raises(ValueError, match=message):
        build_model(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neck": {"readout_type": "ad"}}, "readout_type 'ad'.*'add'"),
        ({"head": {"activation": "softplus"}}, "activation 'softplus'.*'sigmoid'"),
        ({"backbone": {"hidden_act": "gelo"}}, "hidden_act 'gelo'.*gelu"),
        ({"neck": {"hidden_sizes": [4, 6, 8]}}, "same length, got 4, 3, 4"),
        ({"neck": {"reassemble_factors": [4, 2, 1]}}, "same length, got 4, 4, 3"),
        ({"backbone": {"out_indices": [1, 2, 3]}}, "same length, got 3, 4, 4"),
        ({"backbone": {"out_indices": [0, 1, 2, 4]}}, r"out_indices .*0\.\.3"),
        ({"backbone": {"out_indices": [0, 2, 1, 3]}}, "out_indices .*ascend"),
        ({"backbone": {"out_indices": [0, 1, 1, 3]}}, "out_indices .*ascend"),
        ({"backbone": {"out_indices": [-1, 1, 2, 3]}}, "out_indices .*ascend"),
        ({"backbone": {"num_attention_heads": 3}}, "hidden_size 16 .*3"),
        ({"neck": {"reassemble_factors": [2.5, 2, 1, 0.5]}}, r"2\.5.*whole number"),
    ],
)
def test_values_that_do_not_fit_are_refused_at_the_latest_at_first_use(change, message):
    with pytest.raises(ValueError, match=message):
        shapes(changed(TINY, **change))


def test_init_is_a_pure_function_of_the_key():
    model = build_model(SEGMENTATION)
    x = jnp.zeros((1, 32, 32, 3))
    init = fast_jit(model.init)
    one, again, other = (init(jax.random.key(seed), x) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert not np.array_equal(*(jax.tree.leaves(v["params"]["backbone"])[0] for v in (one, other)))
    # The sizes of the parameters do not depend on the size of the image they were made with.
    small = shapes(SEGMENTATION, (1, 8, 24, 3))
    assert jax.tree.map(jnp.shape, one) == jax.tree.map(jnp.shape, small)


def test_a_nonsquare_image_differs_from_its_transpose_only_by_position():
    """Without positions and with symmetric kernels, transposing pixels transposes the depth."""
    model = build_model(TINY)
    x = jax.random.normal(jax.random.key(5), (1, 24, 48, 3))
    variables = random_variables(model)

    def symmetric(path, leaf):
        if "position_embeddings" in jax.tree_util.keystr(path):
            return jnp.zeros_like(leaf)
        if "head_4" in jax.tree_util.keystr(path) and leaf.ndim == 1:
            return jnp.ones_like(leaf)
        return (leaf + leaf.swapaxes(0, 1)) / 2 if leaf.ndim == 4 else leaf

    variables = jax.tree_util.tree_map_with_path(symmetric, variables)
    apply = fast_jit(model.apply)
    wide = apply(variables, x).depth
    tall = apply(variables, x.swapaxes(1, 2)).depth
    assert wide.shape == (1, 64, 96) and float(wide.std()) > 0
    np.testing.assert_allclose(tall, wide.swapaxes(1, 2), atol=1e-5 * float(wide.max()))
