# SPDX-License-Identifier: Apache-2.0
"""ZoeDepth against transformers: predictions, gradients, files and what is refused."""

import dataclasses
import functools
import itertools
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference models are PyTorch ones")
transformers = pytest.importorskip("transformers", reason="the reference models are in it")

from dpt_jax import load_pretrained, save_pretrained  # noqa: E402
from dpt_jax.models.dpt import build_model  # noqa: E402
from dpt_jax.models.neck import Fused  # noqa: E402
from dpt_jax.weights import huggingface, huggingface_config, huggingface_export, zoedepth_config  # noqa: E402
from dpt_jax.weights.checkpoints import CHECKPOINTS  # noqa: E402
from dpt_jax.weights.safetensors_file import read_safetensors  # noqa: E402
from tests.parity import reference  # noqa: E402
from tests.parity.families import Case, deal, pixels  # noqa: E402

TAPS = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False}
TRANSFORMER = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 4} | TAPS
BEIT = TRANSFORMER | {
    "model_type": "beit",
    "intermediate_size": 30,
    "image_size": 64,
    "use_relative_position_bias": True,
}
SHARED = BEIT | {"use_shared_relative_position_bias": True, "num_hidden_layers": 5}
DINOV2 = TRANSFORMER | {"model_type": "dinov2", "image_size": 56, "apply_layernorm": False}
SWINV2 = {
    "model_type": "swinv2",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "image_size": 64,
    "out_features": TAPS["out_features"],
}
CLASSIFIER = {
    "num_patch_transformer_layers": 4,
    "patch_transformer_hidden_size": 128,
    "patch_transformer_intermediate_size": 20,
    "patch_transformer_num_attention_heads": 8,
}


def bins(several: bool, count: int = 9) -> list[dict]:
    near = {"name": "in_doors", "n_bins": count, "min_depth": 0.5, "max_depth": 10.0}
    far = {"name": "road2", "n_bins": count + 3, "min_depth": 1e-3, "max_depth": 80.0}
    return [near, far] if several else [near]


def tiny(several: bool, **config) -> Case:
    base = {
        "backbone_config": BEIT,
        "neck_hidden_sizes": [6, 7, 8, 9],
        "fusion_hidden_size": 10,
        "bottleneck_features": 10,
        "bin_embedding_dim": 8,
        "num_relative_features": 5,
        "bin_configurations": bins(several),
    }
    config = base | (CLASSIFIER if several else {}) | config
    return Case("", "", config, (48, 64), 5, "ZoeDepthForDepthEstimation")


def random_cases(count: int = 10) -> list[Case]:
    """Every option of the heads."""
    rng, rows = deal(
        count,
        20230223,
        kinds=list(itertools.product([False, True], ["softplus", "normed"], ["mean", "sum"])),
        width=[8, 12, 21],
        projection=[False] * 5 + [True],
        head_in_index=[-1, -1, -1, 2],
        grid=[(4, 4), (3, 5), (2, 4), (4, 1), (1, 6), (5, 3)],
        temperatures=[(0.0212, 50.0), (0.5, 9.0)],
        n_bins=[1, 9, 16],
    )
    cases = []
    for i, row in enumerate(rows):
        several, centers, attractors = row.kinds
        case = tiny(
            several,
            reassemble_factors=[1, 1, 1, 0.5] if row.projection else [4, 2, 1, 0.5],
            fusion_hidden_size=256 if row.projection else row.width,
            bottleneck_features=256 if row.projection else row.width,
            head_in_index=row.head_in_index,
            add_projection=row.projection,
            num_relative_features=int(rng.integers(3, 9)),
            num_attractors=rng.integers(1, 7, 4).tolist(),
            bin_embedding_dim=int(2 * rng.integers(3, 9)),
            attractor_kind=attractors,
            bin_centers_type=centers,
            min_temp=row.temperatures[0],
            max_temp=row.temperatures[1],
            bin_configurations=bins(several, row.n_bins),
        )
        name = f"{i}-{centers}-{attractors}-{'two_domains' if several else 'one_domain'}"
        cases.append(
            dataclasses.replace(case, name=name, size=pixels(row.grid, 16, (0, 0)), seed=i)
        )
    return cases


CASES = random_cases()


def hugging_face(case: Case):
    """transformers' model with bins far apart, probabilities and temperatures near their ends."""
    hf = reference.reference(case)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if ".mlp.2." in name:
                parameter *= 1.5
            if "seed_bin_regressor" in name and ".conv2." in name:
                parameter *= 5
    if hasattr(hf.metric_head, "mlp_classifier"):
        disagree(hf, reference.images(case))
    return hf


def domain_logits(hf, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return hf(reference.nchw(images)).domain_logits.numpy()


def disagree(hf, images: np.ndarray) -> None:
    """Moves the classifier's bias so that the domains of two images differ."""
    first, second = (a - b for a, b in domain_logits(hf, images))
    with torch.no_grad():
        hf.metric_head.mlp_classifier.linear2.bias[1] += float(first + second) / 2


def one_by_one(hf, images: np.ndarray) -> np.ndarray:
    want = np.concatenate([reference.reference_output(hf, image[None]) for image in images])
    assert np.isfinite(want).all() and np.std(want) > 0.01
    return want


def fused_maps(hf, images: np.ndarray) -> Fused:
    """What the neck of transformers hands to its heads."""
    caught = []
    handle = hf.neck.register_forward_hook(lambda module, inputs, output: caught.extend(output))
    reference.reference_output(hf, images)
    handle.remove()
    *maps, coarsest = (x.permute(0, 2, 3, 1).numpy() for x in (*caught[0], caught[1]))
    return Fused(tuple(maps), coarsest)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_heads_are_those_of_transformers(case):
    hf, images = hugging_face(case), reference.images(case)
    model, variables = reference.ours(hf)
    want = one_by_one(hf, images)

    @reference.fast_jit
    def predict(params, fused):
        return model.head.apply({"params": params}, fused, mutable=["intermediates"])

    with jax.default_matmul_precision("highest"):
        depth, sown = predict(variables["params"]["head"], fused_maps(hf, images))
    # The sum of 16 attractors, where some coincide, multiplies rounding: against its own float64,
    # transformers' float32 is up to 1.2e-5 off here, and ours 1.0e-5.
    noisy = case.config["attractor_kind"] == "sum"
    assert reference.relative(depth, want) <= reference.TOLERANCE * (3 if noisy else 1)
    if len(case.config["bin_configurations"]) == 1:
        assert sown == {}
        return
    (logits,) = sown["intermediates"]["domain_logits"]
    np.testing.assert_allclose(logits, domain_logits(hf, images), rtol=1e-5, atol=2e-5)
    assert sorted(np.argmax(logits, -1)) == [0, 1]
    # Where a batch disagrees, transformers takes the domain of the larger sum for all of it.
    together = reference.reference_output(hf, images)
    assert min(reference.relative(together[i:][:1], want[i:][:1]) for i in (0, 1)) < 1e-4
    assert reference.relative(together, want) > 0.01


def test_the_random_heads_cover_every_option():
    configs = [case.config for case in CASES]
    kinds = {
        (len(c["bin_configurations"]), c["bin_centers_type"], c["attractor_kind"]) for c in configs
    }
    assert len(kinds) == 8
    assert {c["head_in_index"] for c in configs} == {-1, 2}
    assert {c["add_projection"] for c in configs} == {False, True}


@pytest.mark.parametrize(
    "several, backbone, size, config",
    [
        (False, SHARED, (48, 80), {"hidden_act": "relu", "bin_centers_type": "normed"}),
        (True, BEIT | {"use_absolute_position_embeddings": True}, (63, 48), {}),
        (True, DINOV2, (56, 28), {"use_batch_norm_in_fusion_residual": True}),
        (False, SWINV2, (64, 96), {"use_bias_in_fusion_residual": False}),
    ],
    ids=["beit-shared", "beit-absolute", "dinov2", "swinv2"],
)
def test_files_predict_the_same_and_are_written_bit_by_bit(
    tmp_path, several, backbone, size, config
):
    if backbone is SWINV2:
        config = config | {"neck_hidden_sizes": [8, 16, 32, 64]}
    case = dataclasses.replace(tiny(several, backbone_config=backbone, **config), size=size)
    hf, images = hugging_face(case), reference.images(case)
    hf.save_pretrained(tmp_path / "theirs")
    model, variables = load_pretrained(tmp_path / "theirs")
    got = reference.our_output(model, variables, images)
    assert reference.relative(got, one_by_one(hf, images)) <= reference.TOLERANCE

    save_pretrained(model, variables, tmp_path / "ours")
    want, got = (read_safetensors(tmp_path / name) for name in ("theirs", "ours"))
    assert set(want) == set(got)
    for name in want:
        assert want[name].dtype == got[name].dtype
        np.testing.assert_array_equal(want[name], got[name])
    again, report = type(hf).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    np.testing.assert_array_equal(
        reference.reference_output(again.eval(), images), reference.reference_output(hf, images)
    )
    written = json.loads((tmp_path / "ours" / "preprocessor_config.json").read_text())
    assert written["image_processor_type"] == "ZoeDepthImageProcessor"
    assert written["ensure_multiple_of"] == 32 and written["do_pad"]


def test_gradients_of_the_heads_are_those_of_transformers():
    case = dataclasses.replace(tiny(False, bin_centers_type="normed"), size=(32, 48))
    hf, images = hugging_face(case), reference.images(case)
    model, variables = reference.ours(hf)
    fused = fused_maps(hf, images)
    hf(reference.nchw(images)).predicted_depth.square().mean().backward()
    grads = {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
        for name, p in hf.named_parameters()
    }
    want = huggingface.to_variables(grads, model)["params"]["head"]
    floor = 1e-3 * max(np.abs(grad).max() for grad in jax.tree.leaves(want))

    def loss(head):
        return jnp.mean(model.head.apply({"params": head}, fused) ** 2)

    got = reference.fast_jit(jax.grad(loss))(variables["params"]["head"])
    got = flax.traverse_util.flatten_dict(got)
    for path, value in flax.traverse_util.flatten_dict(want).items():
        error = np.abs(got[path] - value).max() / max(np.abs(value).max(), floor)
        assert error <= 1e-4, path


LARGE = {
    "neck_hidden_sizes": [256, 512, 1024, 1024],
    "num_patch_transformer_layers": 4,
    "patch_transformer_hidden_size": 128,
    "patch_transformer_intermediate_size": 1024,
    "patch_transformer_num_attention_heads": 4,
}
NYU, KITTI = (
    {"name": name, "n_bins": 64, "min_depth": 1e-3, "max_depth": metres}
    for name, metres in (("nyu", 10.0), ("kitti", 80.0))
)


@pytest.mark.parametrize(
    "name, config",
    [
        ("nyu", {"bin_configurations": [NYU]}),
        ("kitti", {"bin_configurations": [KITTI], "bin_centers_type": "normed"}),
        ("nyu-kitti", {"bin_configurations": [NYU, KITTI]}),
    ],
)
def test_the_records_are_those_of_the_published_checkpoints(name, config):
    hf = json.loads(transformers.ZoeDepthConfig(**LARGE, **config).to_json_string(use_diff=False))
    record = CHECKPOINTS[f"Intel/zoedepth-{name}"]
    model = build_model(huggingface_config.model_config(hf))
    assert model == build_model(record.model)
    if len(config["bin_configurations"]) == 1:  # nothing else tells one from several
        assert model.head.num_patch_transformer_layers == 4
    again = transformers.ZoeDepthConfig(**huggingface_export.hf_config(model))
    assert build_model(huggingface_config.model_config(again.to_dict())) == model


def test_the_published_range_of_kitti_is_doubted(monkeypatch):
    said = []
    monkeypatch.setattr(zoedepth_config.logging, "warning", lambda text, *_: said.append(text))
    for each, doubted in ((NYU, True), (KITTI, False), (NYU | {"max_depth": 12.0}, False)):
        head = zoedepth_config.head_settings(
            {"bin_centers_type": "normed", "bin_configurations": [each]}
        )
        assert head["bin_configurations"] == (each,)
        assert len(said) == doubted and all("80" in text for text in said)
        said.clear()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_attractors": [4, 2, 1]}, "num_attractors"),
        ({"bottleneck_features": 12}, "bottleneck_features=12.*fusion_hidden_size=10"),
        ({"add_projection": True}, "add_projection needs fusion_hidden_size 256"),
        ({"batch_norm_eps": 1e-3}, "batch_norm_eps=0.001"),
        ({"bin_configurations": [NYU | {"n_bins": 0}]}, "n_bins"),
        ({"bin_configurations": [NYU | {"max_depth": 1e-4}]}, "min_depth < max_depth"),
        ({"bin_configurations": [{"n_bins": 3}]}, "expected n_bins, min_depth, max_depth"),
        ({"bin_configurations": [NYU, NYU]}, "different names.*nyu.*nyu"),
        ({"bin_configurations": [NYU, KITTI | {"name": "a_2"}]}, "a_2"),
        ({"bin_configurations": [NYU, KITTI, KITTI | {"name": "x"}]}, "has 2, not 3"),
        ({"bin_configurations": [NYU, KITTI], "patch_transformer_hidden_size": 64}, "128, not 64"),
    ],
)
def test_what_transformers_cannot_run_is_refused(change, message):
    config = transformers.ZoeDepthConfig(**tiny(False).config).to_dict()
    with pytest.raises(ValueError, match=message):
        huggingface_config.model_config(config | change)


@pytest.mark.parametrize(
    "group, change, message",
    [
        ("neck", {"readout_type": "ignore"}, "readout_type"),
        ("neck", {"upsample_to_skip": True}, "upsample_to_skip"),
        ("head", {"num_attractors": (16, 8, 4, 1)}, "num_attractors"),
        ("head", {"num_patch_transformer_layers": 2}, "has 4, not 2"),
    ],
)
def test_what_transformers_lacks_is_not_exported(group, change, message):
    config = huggingface_config.model_config(
        transformers.ZoeDepthConfig(**tiny(True).config).to_dict()
    )
    config[group] |= change
    with pytest.raises(ValueError, match=message):
        huggingface_export.hf_config(build_model(config))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bin_centers_type": "hybrid1"}, "bin_centers_type 'hybrid1' is not one of"),
        ({"attractor_kind": "max"}, "attractor_kind 'max'"),
        ({"num_attractors": (1, 2)}, "num_attractors .* 4 fused maps"),
        ({"min_temp": 0.0}, "0 < min_temp <= max_temp"),
        ({"bin_configurations": ()}, "expected one, or several"),
    ],
)
def test_heads_that_cannot_be_are_refused(change, message):
    config = huggingface_config.model_config(
        transformers.ZoeDepthConfig(**tiny(False).config).to_dict()
    )
    config["head"] |= change
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(build_model(config).init, jax.random.key(0), np.zeros((1, 64, 64, 3)))


def test_training_and_bfloat16():
    config = huggingface_config.model_config(
        transformers.ZoeDepthConfig(**tiny(True).config).to_dict()
    )
    images = jnp.ones((2, 48, 64, 3))
    model = build_model(config | {"dtype": "bfloat16"})
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert set(variables) == {"params"}
    apply = functools.partial(model.apply, train=True, rngs={"dropout": jax.random.key(1)})
    assert jax.eval_shape(apply, variables, images).depth.dtype == jnp.float32
