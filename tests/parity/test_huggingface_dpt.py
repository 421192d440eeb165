# SPDX-License-Identifier: Apache-2.0
"""The model against Hugging Face's `DPTFor*`: tiny random networks, every tensor of them random.

HF starts biases, class tokens and position embeddings at zero and BatchNorm at the identity, which
would hide a bug in any of them. Inputs are square: HF is wrong on other shapes.
"""

import dataclasses
import functools
import json
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models import resize
from dpt_jax.models.dpt import build_model
from dpt_jax.weights import huggingface

torch = pytest.importorskip("torch", reason="the reference model is a PyTorch one")
transformers = pytest.importorskip("transformers", reason="the reference model is in transformers")

TOLERANCE = 1e-5
FACTORS = {
    2: [(2, 1), (1, 0.5), (4, 0.75), (2, 0.25)],
    3: [(3, 1, 0.5), (4, 2, 1), (2, 0.75, 0.5), (4, 1, 0.25)],
    4: [(4, 2, 1, 0.5), (2, 2, 1, 0.25), (3, 1, 0.5, 0.5), (4, 2, 0.75, 0.5)],
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One network (keyword arguments of `DPTConfig`) and one input size."""

    name: str
    config: dict
    pixels: int
    segmentation: bool
    seed: int
    # Tokens of std 0.01 tell layer_norm_eps=1e-6 from 1e-12; of std 1 do not.
    embedding_scale: float = 1.0

    @property
    def family(self) -> str:
        patch = self.config["patch_size"]
        native, grid = self.config["image_size"] // patch, self.pixels // patch
        kind = "native" if grid == native else "up" if grid > native else "down"
        head = "segmentation" if self.segmentation else "depth"
        return f"{head}, positions {kind}, {'odd' if grid % 2 else 'even'} grid"


def random_cases(count: int) -> list[Case]:
    """Random networks in which every option below occurs equally often."""
    rng = np.random.default_rng(20210324)

    def spread(options):
        picks = [options[i % len(options)] for i in range(count)]
        return [picks[i] for i in rng.permutation(count)]

    columns = zip(
        spread([2, 3, 4]),
        spread(["ignore", "add", "project"]),
        spread([(bn, bias) for bn in (False, True) for bias in (None, False, True)]),
        spread([8, 14, 16]),
        spread([(16, 2), (24, 3), (32, 4), (48, 4), (20, 5), (30, 1)]),
        spread([8, 9, 16, 21]),
        spread([True, True, False]),
        spread(["gelu", "gelu", "gelu_new", "relu", "silu", "tanh"]),
        spread([(1e-12, 0.01), (1e-6, 0.01), (1e-12, 1.0), (1e-6, 1.0)]),
        spread([(False, True), (True, True), (False, True), (True, False)]),
        spread([(4, 4), (3, 3), (2, 5), (3, 4), (4, 3), (5, 2), (3, 6), (4, 1), (6, 4)]),
        spread([0, 1, 2]),
        strict=True,
    )
    cases = []
    for i, column in enumerate(columns):
        taps, readout, (bn, bias), patch, (hidden, heads), width, qkv_bias, act = column[:8]
        (eps, scale), (segmentation, aux), (native, grid), ragged = column[8:]
        layers = int(rng.integers(taps, 6)) if rng.random() < 0.5 else max(taps, 2)
        config = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": int(rng.integers(hidden, 2 * hidden)),
            "hidden_act": act,
            "qkv_bias": qkv_bias,
            "layer_norm_eps": eps,
            "patch_size": patch,
            "image_size": native * patch + (patch // 2 if ragged == 1 else 0),
            "backbone_out_indices": [
                *sorted(rng.permutation(layers - 1)[: taps - 1].tolist()),
                layers - 1,
            ],
            "readout_type": readout,
            "reassemble_factors": list(FACTORS[taps][rng.integers(4)]),
            "neck_hidden_sizes": rng.integers(5, 25, taps).tolist(),
            "fusion_hidden_size": width,
            "use_batch_norm_in_fusion_residual": bn,
            "use_bias_in_fusion_residual": bias,
            "head_in_index": int(rng.choice([-1, -1, -1, *range(taps)])),
            "use_auxiliary_head": aux,
        }
        if segmentation:
            config["num_labels"] = int(rng.choice([2, 5, 11]))
        pixels = grid * patch + (patch - 1 if ragged == 2 else 0)
        cases.append(Case(f"random{i}", config, pixels, segmentation, i, scale))
    return cases


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
        Case("projection", base | wide, 24, False, 901),
        Case("projection_coarse", base | wide | {"head_in_index": 0}, 32, False, 902),
        Case("usual_depth", base | usual | {"image_size": 32}, 32, False, 903, 0.01),
        Case("usual_odd_depth", base | usual, 40, False, 904),
        Case("usual_segmentation", base | usual | {"num_labels": 7}, 48, True, 905),
        Case("one_patch", base | usual, 8, False, 906),
        Case("blocks_behind_the_last_tap", base | {"num_hidden_layers": 5}, 24, False, 907),
    ]


CASES = random_cases(60) + special_cases()


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def errors(request):
    """Collects (family, error, case); at the end the terminal shows the worst of each family."""
    found: list[tuple[str, float, str]] = []
    yield found
    lines = []
    for family in sorted({f for f, _, _ in found}):
        count = sum(f == family for f, _, _ in found)
        _, error, case = max((row for row in found if row[0] == family), key=lambda row: row[1])
        lines.append(f"worst of {count:2d}, {family}: {error:.1e} ({case})")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *lines, sep="\n")


def random_value(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(shape)
    if name.endswith(("cls_token", "position_embeddings")):
        return noise
    if name.endswith("running_var"):
        return rng.uniform(0.5, 2, shape)
    if name.endswith(("bias", "running_mean")):
        return 0.2 * noise
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 4 and ".resize." in name and shape[2] != 3:
        return noise * shape[0] ** -0.5
    if "residual_layer" in name:
        return noise * (2 / np.prod(shape[1:])) ** 0.5 / 2
    return noise * np.prod(shape[1:]) ** -0.5


def reference(case: Case):
    """HF's model in eval mode with every parameter and statistic random."""
    torch.set_num_threads(1)
    kind = "DPTForSemanticSegmentation" if case.segmentation else "DPTForDepthEstimation"
    config = transformers.DPTConfig(**case.config)
    config.architectures = [kind]
    hf = getattr(transformers, kind)(config).eval()
    rng = np.random.default_rng(case.seed)
    with torch.no_grad():
        for name, tensor in hf.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            value = random_value(name, tuple(tensor.shape), rng)
            if name.startswith("dpt.embeddings."):
                value = value * case.embedding_scale
            if name == "head.head.4.weight" and not case.segmentation:
                value = value + 0.1  # both signs occur in front of the final ReLU
            tensor.copy_(torch.from_numpy(np.asarray(value)))
    return hf


def arrays(hf) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in hf.state_dict().items()}


def ours(hf):
    config = huggingface.model_config(json.loads(hf.config.to_json_string(use_diff=False)))
    model = build_model(config)
    return model, huggingface.to_variables(arrays(hf), model)


def images(case: Case, batch: int = 2) -> np.ndarray:
    rng = np.random.default_rng(1000 + case.seed)
    return rng.standard_normal((batch, case.pixels, case.pixels, 3)).astype(np.float32)


def nchw(x: np.ndarray):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def relative(got, want) -> float:
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    return float(np.abs(got - want).max() / np.abs(want).max())


# Compiling is nearly all of the time: these networks are too small for an optimised program to pay.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_is_that_of_hugging_face(case, errors):
    hf = reference(case)
    model, variables = ours(hf)
    pixels = images(case)
    with torch.no_grad():
        expected = hf(nchw(pixels))
    output = fast_jit(model.apply)(variables, pixels)
    assert output.aux_logits is None
    if case.segmentation:
        assert output.depth is None
        want, got = expected.logits.permute(0, 2, 3, 1).numpy(), output.logits
        assert np.std(want) > 0.01
    else:
        assert output.logits is None
        want, got = expected.predicted_depth.numpy(), output.depth
        assert np.mean(want > 0) > 0.05
    assert 0.01 < np.abs(want).max() < 1e4
    error = relative(got, want)
    errors.append((case.family, error, case.name))
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
        for case in CASES
        if case.name.startswith("random")
    }
    assert len(residuals) == 12
    assert len({case.family for case in CASES}) == 12


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
    return Case(name, base | config, 40, segmentation, seed)


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


def compare_gradients(hf, model, gradients, errors, case: Case) -> None:
    """HF's gradients travel through the same converter as the weights do."""
    torch_gradients = {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
        for name, p in hf.named_parameters()
    }
    buffers = {name: b.numpy() for name, b in hf.named_buffers()}
    converted = huggingface.to_variables(torch_gradients | buffers, model)["params"]
    want = flax.traverse_util.flatten_dict(converted, sep="/")
    got = flax.traverse_util.flatten_dict(gradients, sep="/")
    assert want.keys() == got.keys()
    # Some true gradients are zero (of the key's bias, of a bias in front of BatchNorm).
    floor = 1e-3 * max(float(np.abs(g).max()) for g in want.values())
    worst, where = 0.0, ""
    for name, value in want.items():
        error = float(np.abs(np.asarray(got[name]) - value).max())
        error /= max(float(np.abs(value).max()), floor)
        if error > worst:
            worst, where = error, name
    errors.append(("gradients", worst, f"{case.name} {where}"))
    assert worst <= 1e-4, where


@pytest.mark.parametrize("case", TRAIN_CASES, ids=lambda case: case.name)
def test_segmentation_training_step_is_that_of_hugging_face(case, errors):
    hf = reference(case)
    config = huggingface.model_config(hf.config.to_dict())
    assert build_model(config).auxiliary_head.dropout == 0.1
    config["auxiliary_head"]["dropout"] = 0.0
    model = build_model(config)
    variables = huggingface.to_variables(arrays(hf), model)
    before = arrays(hf)

    pixels = images(case, batch=3)
    labels = np.random.default_rng(case.seed).integers(0, 6, (3, 37, 50))
    labels[:, :9] = 255
    samples = {}
    hf.train()
    for name, module in hf.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(
                lambda m, inputs, _, name=name: samples.update(
                    {name: inputs[0].numel() // inputs[0].shape[1]}
                )
            )
    expected = hf(nchw(pixels), labels=torch.from_numpy(labels))
    expected.loss.backward()

    def loss(params):
        output, updates = model.apply(
            {**variables, "params": params}, pixels, train=True, mutable=["batch_stats"]
        )
        total = 0.0
        for weight, logits in ((1.0, output.logits), (0.4, output.aux_logits)):
            logits = resize.bilinear(logits, labels.shape[1:], align_corners=False)
            log_p = jax.nn.log_softmax(logits)
            picked = jnp.take_along_axis(log_p, np.minimum(labels, 5)[..., None], -1)[..., 0]
            total -= weight * jnp.sum(jnp.where(labels < 255, picked, 0)) / np.sum(labels < 255)
        return total, (output, updates)

    (value, (output, updates)), gradients = fast_jit(jax.value_and_grad(loss, has_aux=True))(
        variables["params"]
    )
    assert output.aux_logits.shape[1] == output.logits.shape[1] // 2 or case.name == "plain_coarse"
    error = relative(output.logits, expected.logits.detach().permute(0, 2, 3, 1).numpy())
    errors.append(("logits in training", error, case.name))
    assert error <= TOLERANCE
    error = relative(value, expected.loss.item())
    errors.append(("training loss", error, case.name))
    assert error <= TOLERANCE
    compare_gradients(hf, model, gradients, errors, case)

    after = arrays(hf)
    expected_samples = {name for name in samples if ".layers.0.residual_layer1." not in name}
    statistics = flax.traverse_util.flatten_dict(updates["batch_stats"])
    names = {huggingface.hf_name(path): value for path, value in statistics.items()}
    assert {name.rsplit(".", 1)[0] for name in names} == expected_samples
    for name, value in names.items():
        module, leaf = name.rsplit(".", 1)
        want = after[name]
        if leaf == "running_var":  # torch stores the unbiased variance of the batch
            batch = (want - 0.9 * before[name]) / 0.1
            n = samples[module]
            want = 0.9 * before[name] + 0.1 * batch * (n - 1) / n
        error = relative(value, want)
        errors.append((f"BatchNorm {leaf} after a step", error, f"{case.name} {name}"))
        assert error <= TOLERANCE


def test_depth_gradients_are_those_of_hugging_face(errors):
    case = train_case("depth", 21, False)
    hf = reference(case)
    model, variables = ours(hf)
    pixels = images(case)
    output = hf(nchw(pixels)).predicted_depth
    assert (output > 0).float().mean() > 0.05
    direction = np.random.default_rng(3).standard_normal(output.shape).astype(np.float32)
    (output * torch.from_numpy(direction)).mean().backward()
    gradients = fast_jit(
        jax.grad(
            lambda params: jnp.mean(
                model.apply({"params": params}, pixels, train=True).depth * direction
            )
        )
    )(variables["params"])
    compare_gradients(hf, model, gradients, errors, case)


def test_a_saved_directory_reads_back(tmp_path):
    case = special_cases()[4]
    hf = reference(case)
    hf.save_pretrained(tmp_path)
    config, tensors = huggingface.read_directory(tmp_path)
    model = build_model(huggingface.model_config(config))
    want_model, want = ours(hf)
    assert model == want_model
    got = huggingface.to_variables(tensors, model)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_directory_without_weights_says_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        huggingface.read_directory(tmp_path)


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
    config = huggingface.model_config(hf.config.to_dict())
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
    model, _ = ours(hf)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    paths = [path[1:] for path in flax.traverse_util.flatten_dict(dict(shapes))]
    names = [huggingface.hf_name(path) for path in paths]
    assert len(set(names)) == len(names)
    keys = set(hf.state_dict())
    assert set(names) <= keys
    for key in keys - set(names):
        assert any(re.match(dead, key) for dead in huggingface.KNOWN_DEAD), key
    for name in names:
        assert not any(re.match(dead, name) for dead in huggingface.KNOWN_DEAD), name


@pytest.mark.parametrize("change", [{"is_hybrid": True}, {"backbone_config": {"model_type": "x"}}])
def test_other_backbones_are_refused(change):
    config = transformers.DPTConfig().to_dict() | change
    with pytest.raises(ValueError, match="plain ViT-DPT"):
        huggingface.model_config(config)
