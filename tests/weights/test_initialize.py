# SPDX-License-Identifier: Apache-2.0
"""Training's initial values: encoders of every origin, another head, another grid, another encoder.

Encoders are compared by what they compute: transformers' or the original's tokens on an image.
"""

import functools
import shutil
import sys
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest

from dpt_jax.models.dpt import abstract_variables, build_model
from dpt_jax.training import checkpoint, loop, sharding, workdir
from dpt_jax.training import config as run_config
from dpt_jax.weights import initialize
from dpt_jax.weights.errors import WeightsError
from tests.fast_jit import fast_jit

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from small_run import small_config

DINOV2 = Path(__file__).parents[2] / "../shared/data/dinov2_small"
DEPTH = {"type": "depth"}


def tokens(model, values, pixels: np.ndarray) -> list[np.ndarray]:
    """What the encoder of `model` hands to the decoder, with the values of a checkpoint."""
    params = flax.traverse_util.unflatten_dict(values)["params"]["backbone"]
    with jax.default_matmul_precision("highest"):
        features = fast_jit(lambda p, x: model.backbone.apply({"params": p}, x))(params, pixels)
    return [np.asarray(tap) for tap in features.taps]


@pytest.mark.skipif(not DINOV2.is_dir(), reason="the DINOv2 weights are not on this machine")
@pytest.mark.parametrize(("shape", "apply_layernorm"), [("native", False), ("rect", True)])
def test_real_dinov2_weights_give_the_reference_tokens(shape, apply_layernorm):
    backbone = {"apply_layernorm": apply_layernorm}
    model = build_model({"variant": "dpt_dinov2_small", "head": DEPTH, "backbone": backbone})
    found = initialize.initial_values(DINOV2, model)
    assert not any("backbone" in name for name in found.reinitialised)
    reference = np.load(DINOV2 / "reference_tokens.npz")
    pixels = reference[f"{shape}_pixels_uint8"].astype(np.float32) / 255
    pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    pixels = pixels.astype(np.float32).reshape(1, *pixels.shape[-3:])
    index = reference[f"{shape}_token_index"]
    for block, tap in zip((3, 6, 9, 12), tokens(model, found.values, pixels), strict=True):
        want = reference[f"{shape}_block{block}{'_norm' if apply_layernorm else ''}"]
        got = tap[0][index]
        assert np.abs(got - want.reshape(got.shape)).max() <= 2e-5 * np.abs(want).max()


# --- Tiny networks -------------------------------------------------------------------------------

ENCODER = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
NECK = {"hidden_sizes": (8, 12), "reassemble_factors": (2, 1), "fusion_hidden_size": 8}


def tiny(kind: str = "vit", head: dict = DEPTH, **backbone):
    mlp = {} if kind == "dinov2" else {"intermediate_size": 48}
    backbone = {"type": kind, "out_indices": (0, 2), **ENCODER, **mlp, **backbone}
    return build_model({"variant": None, "backbone": backbone, "neck": NECK, "head": head})


def segmenter(classes: int):
    return build_model(
        {
            "variant": None,
            "backbone": {
                "type": "vit",
                "out_indices": (0, 2),
                **ENCODER,
                "intermediate_size": 48,
            },
            "neck": NECK | {"use_batch_norm_in_fusion_residual": True},
            "head": {"type": "segmentation", "num_labels": classes},
            "auxiliary_head": {"use": True},
        }
    )


def leaves_of(model) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    return flax.traverse_util.flatten_dict(abstract_variables(model))


def random_variables(model, seed: int = 0, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    values = {
        path: (scale * rng.uniform(0.5, 1.5, leaf.shape)).astype(np.float32)
        for path, leaf in leaves_of(model).items()
    }
    return flax.traverse_util.unflatten_dict(values)


def backbone_names(model) -> set[str]:
    return {"/".join(path) for path in leaves_of(model) if path[1] == "backbone"}


@functools.cache
def hugging_face(name: str):
    """A random encoder of transformers, every tensor of it; and our DPT of its size."""
    transformers = pytest.importorskip("transformers", reason="the reference encoders")
    from tests.parity import reference

    kind, extra, ours = {
        "ViT": ("vit", {"intermediate_size": 48}, {}),
        "Dinov2": ("dinov2", {}, {"apply_layernorm": False}),
        "Dinov2WithRegisters": (
            "dinov2",
            {"num_register_tokens": 4},
            {
                "apply_layernorm": False,
                "num_register_tokens": 4,
                "interpolate_antialias": True,
            },
        ),
        "Beit": (
            "beit",
            {"intermediate_size": 48, "use_relative_position_bias": True},
            {"use_relative_position_bias": True},
        ),
    }[name.removesuffix("Model").removesuffix("ForImageClassification")]
    cls = getattr(transformers, name)
    if name == "BeitModel":
        extra |= {"use_shared_relative_position_bias": True}
        ours |= {"use_shared_relative_position_bias": True}
    hf = cls(cls.config_class(**ENCODER, **extra)).eval()
    reference.randomise(hf, seed=3)
    return hf, tiny(kind, **ours)


@pytest.mark.parametrize(
    "name",
    [
        "ViTModel",
        "ViTForImageClassification",
        "Dinov2Model",
        "Dinov2ForImageClassification",
        "Dinov2WithRegistersModel",
        "BeitModel",
        "BeitForImageClassification",
    ],
)
def test_encoders_of_transformers_give_its_hidden_states(name, tmp_path):
    torch = pytest.importorskip("torch", reason="the reference encoders are PyTorch ones")
    hf, model = hugging_face(name)
    hf.save_pretrained(tmp_path)
    found = initialize.initial_values(tmp_path, model)
    assert {"/".join(path) for path in found.values} == backbone_names(model)
    assert all(why == "not in the checkpoint" for why in found.reinitialised.values())
    # Nothing of the encoder's blocks is left over.
    assert not [key for key in found.not_used if ".layer." in key or "embeddings" in key]

    pixels = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        states = hf(
            torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), output_hidden_states=True
        ).hidden_states
    registers = 4 if "Registers" in name else 0
    for index, got in zip((0, 2), tokens(model, found.values, pixels), strict=True):
        want = states[index + 1].numpy()
        want = np.concatenate([want[:, :1], want[:, 1 + registers :]], axis=1)
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_vits_of_timm_give_the_tokens_of_the_original(wrapper, tmp_path):
    torch = pytest.importorskip("torch", reason="writes the file")
    from tests.oracles import isl_dpt

    spec = isl_dpt.Spec(
        width=24, heads=3, depth=3, mlp=48, patch=8, native=4, hooks=(0, 2), widths=(8, 12, 8, 8)
    )
    state = isl_dpt.random_state(spec, seed=4)
    start = "pretrained.model."
    vit = {name.removeprefix(start): x for name, x in state.items() if name.startswith(start)}
    torch.save(vit if wrapper is None else {wrapper: vit, "epoch": 3}, tmp_path / "vit.pth")
    model = tiny(layer_norm_eps=spec.eps)
    found = initialize.initial_values(tmp_path / "vit.pth", model)
    assert {"/".join(path) for path in found.values} == backbone_names(model)
    if wrapper is not None:
        return
    pixels = np.random.default_rng(1).standard_normal((2, 32, 48, 3)).astype(np.float32)
    want = isl_dpt._Forward(state, spec).vit(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    for got, tap in zip(tokens(model, found.values, pixels), want, strict=True):
        assert np.abs(got - tap.numpy()).max() <= 1e-5 * tap.abs().max()


def test_dinov2_of_its_own_repository_gives_its_tokens(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the file")
    from tests.oracles import depth_anything

    vit = depth_anything.DinoVisionTransformer(
        24, 3, 3, image_size=32, patch=8, swiglu=True, registers=2
    )
    depth_anything.randomise(vit, torch.Generator().manual_seed(0))
    torch.save(vit.state_dict(), tmp_path / "dinov2.pth")
    options = {"use_swiglu_ffn": True, "num_register_tokens": 2, "interpolate_offset": 0.1}
    model = tiny("dinov2", **options)
    found = initialize.initial_values(tmp_path / "dinov2.pth", model)
    assert {"/".join(path) for path in found.values} == backbone_names(model)
    assert found.not_used == ()
    pixels = np.random.default_rng(1).standard_normal((2, 24, 40, 3)).astype(np.float32)
    with torch.no_grad():
        taps = vit.get_intermediate_layers(
            torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), (0, 2)
        )
    for got, (patches, cls) in zip(tokens(model, found.values, pixels), taps, strict=True):
        want = torch.cat([cls[:, None], patches.flatten(2).transpose(1, 2)], dim=1).numpy()
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("kind", ["hybrid", "beit", "swin"])
def test_whole_models_of_isl_org_are_taken_whole(kind, tmp_path):
    torch = pytest.importorskip("torch", reason="writes the files")
    from tests.oracles import tiny as oracles

    model = {
        "hybrid": lambda: build_model(
            {
                "variant": "dpt_hybrid",
                "backbone": ENCODER
                | {"num_hidden_layers": 4, "patch_size": 16, "image_size": 64}
                | {
                    "intermediate_size": 96,
                    "out_indices": (1, 3),
                    "bit": {
                        "embedding_size": 16,
                        "hidden_sizes": (16, 32, 64),
                        "depths": (2, 1, 2),
                        "num_groups": 4,
                    },
                },
                "neck": {"hidden_sizes": (16, 32, 20, 24), "fusion_hidden_size": 16},
                "head": DEPTH,
            }
        ),
        "beit": lambda: build_model(
            {
                "variant": "dpt_beit_base_384",
                "backbone": ENCODER
                | {"num_hidden_layers": 4, "patch_size": 16, "image_size": 64}
                | {"intermediate_size": 96, "out_indices": (0, 1, 2, 3)},
                "neck": {"hidden_sizes": oracles.WIDTHS, "fusion_hidden_size": 16},
                "head": DEPTH,
            }
        ),
        "swin": lambda: build_model(
            {
                "variant": "dpt_swinv2_tiny_256",
                "backbone": {
                    "embed_dim": 8,
                    "depths": (2, 3, 2, 1),
                    "num_heads": (1, 2, 2, 4),
                    "window_size": 4,
                    "image_size": 64,
                },
                "neck": {"hidden_sizes": (8, 16, 32, 64), "fusion_hidden_size": 16},
                "head": DEPTH,
            }
        ),
    }[kind]()
    state = getattr(oracles, kind)().state_dict()
    torch.save({"model": state, "optimizer": {}}, tmp_path / "best.pt")
    found = initialize.initial_values(tmp_path / "best.pt", model)
    assert found.reinitialised == {} and found.resized == ()
    assert found.values.keys() == leaves_of(model).keys()
    assert found.not_used == ()


# --- Heads, grids, and other encoders ------------------------------------------------------------


def as_workdir(folder, model_config, variables):
    folder.mkdir()
    checkpoint.save_variables(folder, variables)
    run_config.save(run_config.resolve({"model": model_config}), folder / "config.json")
    return folder


def saved(model, variables, folder):
    from dpt_jax.predict.pretrained import save_pretrained

    save_pretrained(model, variables, folder)
    return folder


def assert_values(found, variables, without: set[str]):
    flat = flax.traverse_util.flatten_dict(variables)
    assert {"/".join(path) for path in flat.keys() - found.values.keys()} == without
    for path, value in found.values.items():
        np.testing.assert_array_equal(value, flat[path])


def test_a_whole_dpt_is_taken_whole(tmp_path):
    for name, model in (("depth", tiny()), ("segmentation", segmenter(5))):
        variables = random_variables(model)
        found = initialize.initial_values(saved(model, variables, tmp_path / name), model)
        assert_values(found, variables, without=set())
        assert (found.reinitialised, found.resized, found.not_used) == ({}, (), ())


def test_another_number_of_classes_starts_the_last_layers_anew(tmp_path):
    theirs, ours = segmenter(5), segmenter(7)
    variables = random_variables(theirs)
    found = initialize.initial_values(saved(theirs, variables, tmp_path), ours)
    last = {
        f"params/{head}/head_4/{leaf}"
        for head in ("head", "auxiliary_head")
        for leaf in ("kernel", "bias")
    }
    assert_values(found, variables, without=last)
    assert found.reinitialised.keys() == last
    assert (
        found.reinitialised["params/head/head_4/kernel"] == "(1, 1, 8, 5) there, (1, 1, 8, 7) here"
    )
    assert not found.not_used
    report = found.report("that").splitlines()
    taken = len(flax.traverse_util.flatten_dict(variables)) - 4
    assert report[0] == (
        f"initialised from that: {taken} parameters taken, 4 initialised anew, 0 there not used"
    )
    assert "  anew: params/auxiliary_head/head_4/bias: (5,) there, (7,) here" in report
    assert len(report) == 5


def test_another_task_keeps_encoder_and_decoder(tmp_path):
    theirs, ours = tiny(), segmenter(5)
    variables = random_variables(theirs)
    found = initialize.initial_values(saved(theirs, variables, tmp_path), ours)
    taken = found.values.keys()
    assert {path[1] for path in taken} == {"backbone", "neck"}
    assert {name.split("/")[1] for name in found.reinitialised} == {
        "neck",
        "head",
        "auxiliary_head",
    }
    # Of the neck only its BatchNorms are new.
    neck = [name for name in found.reinitialised if "/neck/" in name]
    assert neck and all("batch_norm" in name for name in neck)
    assert any(
        "not in the checkpoint: params/neck" in line for line in found.report("").split("\n")
    )


@pytest.mark.parametrize(("old", "new"), [(4, 6), (6, 4), (4, 5), (3, 7)])
def test_position_embeddings_are_resized_bilinearly(old, new, tmp_path):
    torch = pytest.importorskip("torch", reason="resizes the reference")
    theirs, ours = (tiny(image_size=8 * side) for side in (old, new))
    variables = random_variables(theirs)
    found = initialize.initial_values(saved(theirs, variables, tmp_path), ours)
    where = ("params", "backbone", "embeddings", "position_embeddings")
    assert found.resized == ("/".join(where),)
    assert f"  resized to this grid: {'/'.join(where)}" in found.report("").splitlines()
    positions = torch.from_numpy(flax.traverse_util.flatten_dict(variables)[where])
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(
        grid, size=(new, new), mode="bilinear", align_corners=False
    )
    want = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    np.testing.assert_allclose(found.values[where], want.numpy(), atol=1e-6)
    assert found.values[where].dtype == np.float32
    del found.values[where]
    assert not found.reinitialised


def test_positions_that_are_no_square_are_refused(tmp_path):
    from safetensors.numpy import load_file, save_file

    model = tiny()
    saved(model, random_variables(model), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["dpt.embeddings.position_embeddings"] = np.zeros((1, 14, 24), np.float32)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 of its parameters.*\n.*position_embeddings: "):
        initialize.initial_values(tmp_path, model)


@pytest.mark.parametrize(
    ("model", "count", "message"),
    [
        (lambda: tiny(hidden_size=36), None, r"cls_token: \(1, 1, 24\) there, \(1, 1, 36\) here"),
        (lambda: tiny(num_hidden_layers=4, out_indices=(0, 3)), 16, "layer_3/.*: not in the"),
        (lambda: tiny("dinov2"), None, "layer_scale1/lambda1: not in the checkpoint"),
        (lambda: tiny(intermediate_size=40), 9, r"\(24, 48\) there, \(24, 40\) here"),
    ],
)
def test_another_encoder_is_one_error(model, count, message, tmp_path):
    theirs = tiny()
    saved(theirs, random_variables(theirs), tmp_path)
    with pytest.raises(WeightsError, match=message) as error:
        initialize.initial_values(tmp_path, model())
    first, *lines = str(error.value).splitlines()
    assert first.startswith(f"config.init_from={tmp_path} is not this encoder (")
    assert len(lines) <= 21 and all("params/backbone/" in line for line in lines[:20])
    if count is not None:
        assert f"({count} of its parameters)" in first and len(lines) == count


@pytest.mark.parametrize(("key", "value"), [("num_attention_heads", 4), ("hidden_act", "relu")])
def test_another_encoder_of_the_same_shapes_is_refused(key, value, tmp_path):
    saved(tiny(), random_variables(tiny()), tmp_path)
    with pytest.raises(WeightsError, match=key):
        initialize.initial_values(tmp_path, tiny(**{key: value}))


def test_fewer_blocks_than_the_checkpoint_has_are_fine(tmp_path):
    theirs, ours = tiny(), tiny(num_hidden_layers=2, out_indices=(0, 1))
    variables = random_variables(theirs)
    found = initialize.initial_values(saved(theirs, variables, tmp_path), ours)
    assert not found.reinitialised
    assert len(found.not_used) == 16 and all("layer.2." in name for name in found.not_used)
    last = found.report("").splitlines()[-1]
    assert last.startswith("  not used: backbone.encoder.layer.*") and last.endswith("(16)")


def test_what_is_not_there_or_not_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.init_from: there is no .*/nothing"):
        initialize.initial_values(tmp_path / "nothing", tiny())
    with pytest.raises((FileNotFoundError, WeightsError), match=str(tmp_path)):
        initialize.initial_values(tmp_path, tiny())
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        initialize.initial_values(tmp_path / "weights.pth", tiny())
    (tmp_path / "notes.txt").write_text("not weights")
    with pytest.raises(WeightsError, match=r"notes\.txt"):
        initialize.initial_values(tmp_path / "notes.txt", tiny())


# --- Workdirs ------------------------------------------------------------------------------------


@pytest.fixture
def quick_compiler():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_training_starts_from_a_workdir_and_resumes_without_it(
    tmp_path, monkeypatch, quick_compiler
):
    config = small_config("depth")
    config.train.steps = config.train.log_every = config.train.checkpoint_every = 2
    config.train.evaluate_every = 2
    config.optimizer.warmup_steps = 0
    config.data.rooms.train_length = 16
    config.data.rooms.validation_length = 8
    model = build_model(run_config.resolve(config)["model"])
    stored = random_variables(model, scale=0.1)
    config.init_from = str(
        as_workdir(tmp_path / "first", run_config.resolve(config)["model"], stored)
    )

    starts = []
    make = loop.make_train_step

    def recording(*args):
        step = make(*args)

        def wrapped(state, batch):
            starts.append(jax.device_get(state.variables))
            return step(state, batch)

        return wrapped

    monkeypatch.setattr(loop, "make_train_step", recording)
    one_device = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", one_device)
    loop.train(config, tmp_path / "second")
    assert len(starts) == 2
    jax.tree.map(np.testing.assert_array_equal, starts[0], stored)
    trained, step = workdir.load_variables(tmp_path / "second", model, "latest")
    kernel = ("params", "head", "head_4", "kernel")
    before, after = (flax.traverse_util.flatten_dict(v)[kernel] for v in (stored, trained))
    assert step == 2 and not np.array_equal(before, after)

    # The run has its own parameters now: what it started from may be gone.
    shutil.rmtree(tmp_path / "first")
    loop.train(config, tmp_path / "second")
    assert len(starts) == 2
    with pytest.raises(FileNotFoundError, match=r"config\.init_from: there is no .*/first"):
        loop.train(config, tmp_path / "third")
    assert not (tmp_path / "third").exists()
