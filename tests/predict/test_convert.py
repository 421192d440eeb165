# SPDX-License-Identifier: Apache-2.0
"""What is written for transformers it loads and computes; what it cannot compute is refused; and
weights keep their meaning on the way into a workdir and back.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest
from PIL import Image

from dpt_jax import ImageProcessor, Predictor, build_model, load_pretrained, save_pretrained
from dpt_jax.models.dpt import abstract_variables
from dpt_jax.predict import cli, convert, pretrained
from dpt_jax.training import checkpoint
from dpt_jax.training import config as run_config
from dpt_jax.weights import checkpoints
from dpt_jax.weights.errors import WeightsError

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from small_run import small_config  # a script

TOLERANCE = 1e-5
WIDTHS, FACTORS = (8, 12), (2, 1)
NECK = {"hidden_sizes": WIDTHS, "reassemble_factors": FACTORS, "fusion_hidden_size": 16}
VIT = {
    "type": "vit",
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "image_size": 64,
    "out_indices": (0, 1),
}
DINO = {
    "type": "dinov2",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "mlp_ratio": 2,
    "image_size": 56,
    "out_indices": (0, 1),
}
BIT = {
    "embedding_size": 8,
    "hidden_sizes": (16, 24, 32),
    "depths": (1, 1, 1),
    "num_groups": 4,
}
HYBRID = VIT | {"type": "hybrid", "bit": BIT, "out_indices": (0, 2)}
HYBRID_NECK = NECK | {
    "hidden_sizes": (16, 24, 12, 10),
    "reassemble_factors": (1, 1, 1, 0.5),
    "use_batch_norm_in_fusion_residual": True,
}
BEIT = VIT | {"type": "beit", "use_relative_position_bias": True}
SWIN = {
    "type": "swinv2",
    "embed_dim": 8,
    "depths": (1, 2),
    "num_heads": (1, 2),
    "window_size": 4,
    "image_size": 64,
    "out_indices": (0, 1),
}
CLASSES = {"type": "segmentation", "num_labels": 5}
DEPTH_ANYTHING = {
    "backbone": DINO,
    "neck": NECK | {"readout_type": "ignore", "upsample_to_skip": True},
    "head": {"type": "depth", "upsample_to_input": True},
}
MODELS = {
    "vit": {"backbone": VIT, "neck": NECK},
    "vit, classes": {
        "backbone": VIT,
        "neck": NECK | {"use_batch_norm_in_fusion_residual": True},
        "head": CLASSES,
        "auxiliary_head": {"use": True},
    },
    "hybrid": {"backbone": HYBRID, "neck": HYBRID_NECK},
    "hybrid, classes": {"backbone": HYBRID, "neck": HYBRID_NECK, "head": CLASSES},
    "dinov2": {"backbone": DINO | {"apply_layernorm": False}, "neck": NECK},
    "beit": {"backbone": BEIT, "neck": NECK},
    "swinv2": {
        "backbone": SWIN,
        "neck": NECK
        | {"hidden_sizes": (8, 16), "readout_type": "ignore", "reassemble_factors": (1, 1)},
    },
    "depth anything": DEPTH_ANYTHING,
    "depth anything, metric": DEPTH_ANYTHING
    | {"head": DEPTH_ANYTHING["head"] | {"activation": "sigmoid", "max_depth": 80.0}},
}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling is nearly all of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def built(config):
    return build_model({"head": {"type": "depth"}} | config)


@functools.cache
def initial(name):
    """A model and random variables, statistics and scales among them."""
    model = built(MODELS[name])
    rng = np.random.default_rng(1)
    flat = flax.traverse_util.flatten_dict(abstract_variables(model))
    values = {}
    for path, leaf in flat.items():
        noise = rng.standard_normal(leaf.shape)
        if path[-1] == "kernel":
            noise *= (np.prod(leaf.shape) / leaf.shape[-1]) ** -0.5
        elif path[-1] in ("scale", "var", "lambda1", "lambda_1", "lambda_2"):
            noise = rng.uniform(0.5, 1.5, leaf.shape)
        values[path] = (noise if path[-1] != "bias" else 0.2 * noise).astype(np.float32)
    if model.task == "depth":  # what a ReLU follows
        values["params", "head", "head_4", "bias"][:] = 2
    return model, flax.traverse_util.unflatten_dict(values)


def output_of(model, variables, pixels):
    with jax.default_matmul_precision("highest"):
        output = jax.jit(model.apply)(variables, pixels)
    return np.asarray(output.depth if output.logits is None else output.logits)


def assert_near(got, want, tolerance=TOLERANCE):
    assert got.shape == want.shape and want.std() > 0.01 * np.abs(want).max()
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


THREE = ["config.json", "model.safetensors", "preprocessor_config.json"]


# --- For transformers ----------------------------------------------------------------------------


def theirs(folder, pixels):
    """What transformers computes; it must find all it looks for, and nothing else."""
    torch = pytest.importorskip("torch", reason="the reference models are PyTorch ones")
    transformers = pytest.importorskip("transformers", reason="the reference models are in it")
    torch.set_num_threads(1)
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    kind = getattr(transformers, architecture)
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not {key: names for key, names in info.items() if names}
    with torch.no_grad():
        output = model.eval()(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    if "logits" in output:
        return output.logits.numpy().transpose(0, 2, 3, 1)
    return output.predicted_depth.numpy()


@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_the_same(name, tmp_path):
    model, variables = initial(name)
    save_pretrained(model, variables, tmp_path / "out")
    assert files(tmp_path / "out") == THREE
    side = MODELS[name]["backbone"]["image_size"]
    pixels = np.random.default_rng(2).standard_normal((1, side, side, 3)).astype(np.float32)
    assert_near(output_of(model, variables, pixels), theirs(tmp_path / "out", pixels))
    again, read = load_pretrained(tmp_path / "out")
    assert again == model or name.startswith("hybrid")  # where defaults are written out
    for key in variables:
        jax.tree.map(np.testing.assert_array_equal, read[key], variables[key])


@pytest.mark.parametrize("name", ["vit", "vit, classes", "dinov2", "depth anything", "beit"])
def test_transformers_reads_the_preprocessing(name, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the reference processor is in it")
    model, variables = initial(name)
    save_pretrained(model, variables, tmp_path)
    processor = transformers.DPTImageProcessorPil.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    want = processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    pixels, _ = ImageProcessor.from_pretrained(tmp_path)(image)
    np.testing.assert_allclose(pixels.transpose(2, 0, 1), want, atol=1e-6)


def test_labels_and_the_meaning_of_depth_are_kept(tmp_path):
    model, variables = initial("vit, classes")
    names = ("wall", "floor", "sky", "tree", "road")
    save_pretrained(model, variables, tmp_path / "classes", labels=names)
    assert Predictor.from_pretrained(tmp_path / "classes").pretrained.labels == names
    config = json.loads((tmp_path / "classes" / "config.json").read_text())
    assert config["label2id"] == {name: i for i, name in enumerate(names)}
    model, variables = initial("vit")
    for depth in ("metric", "inverse_relative", None):
        save_pretrained(model, variables, tmp_path / "depth", depth=depth)
        found = pretrained.open_pretrained(tmp_path / "depth").depth
        assert found == (depth or "inverse_relative")


@pytest.mark.parametrize(("name", "found"), [("vit, classes", 5), ("vit", 0)])
def test_another_number_of_labels_is_refused(name, found, tmp_path):
    model, variables = initial(name)
    with pytest.raises(ValueError, match=f"3 names for a model of {found} classes"):
        save_pretrained(model, variables, tmp_path / "out", labels="abc")
    assert not (tmp_path / "out").exists()


def changed(name, **groups):
    config = {"head": {"type": "depth"}} | MODELS[name]
    return config | {group: config.get(group, {}) | more for group, more in groups.items()}


LACKING = {
    "sigmoid": (changed("vit", head={"activation": "sigmoid"}), "head.activation"),
    "scale": (changed("vit", head={"scale": 2.0}), "head.scale"),
    "invert": (changed("hybrid", head={"invert": True}), "invert"),
    "width of the head": (changed("dinov2", head={"head_hidden_size": 16}), "head_hidden_size"),
    "projection": (changed("vit", head={"add_projection": True}), "add_projection"),
    "registers": (changed("dinov2", backbone={"num_register_tokens": 2}), "num_register_tokens"),
    "classes": (changed("dinov2", head=CLASSES), "segmentation"),
    "readout": (changed("hybrid", neck={"readout_type": "add"}), "readout_type"),
    "readout of depth anything": (
        changed("depth anything", neck={"readout_type": "add"}),
        "readout_type",
    ),
    "BatchNorm of depth anything": (
        changed("depth anything", neck={"use_batch_norm_in_fusion_residual": True}),
        "BatchNorm",
    ),
    "a fraction of metres": (
        changed("depth anything, metric", head={"max_depth": 1.5}),
        "max_depth.*1.5",
    ),
    "another activation in the neck": (changed("vit", neck={"hidden_act": "relu"}), "hidden_act"),
    "a rectangle": (changed("beit", backbone={"image_size": (64, 32)}), "image_size"),
    "auxiliary classes": (
        changed("vit, classes", auxiliary_head={"num_labels": 3}),
        "auxiliary_head has the num_labels",
    ),
    "an auxiliary map": (
        changed("vit, classes", auxiliary_head={"head_in_index": 0}),
        "auxiliary_head .*head_in_index",
    ),
}
DIFFERING = {
    "skip": (changed("vit", neck={"upsample_to_skip": True}), "upsample_to_skip"),
    "offset": (changed("dinov2", backbone={"interpolate_offset": 0.1}), "interpolate_offset"),
    "mask": (changed("swinv2", backbone={"mask_value": -100.0}), "mask_value"),
    "shift": (changed("dinov2", head={"shift": 0.001}), "head.shift"),
    "standardisation": (
        changed("hybrid", backbone={"bit": BIT | {"standardization": "deviation"}}),
        "standardization",
    ),
}


@pytest.mark.parametrize("case", LACKING)
def test_what_transformers_lacks_is_refused_before_anything_is_written(case, tmp_path):
    config, message = LACKING[case]
    for approximate in (False, True):
        with pytest.raises(WeightsError, match=message) as error:
            save_pretrained(built(config), {}, tmp_path / "out", approximate=approximate)
        assert str(error.value).startswith("transformers has no model that computes this one:")
        assert "approximate" not in str(error.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", DIFFERING)
def test_what_transformers_has_otherwise_needs_approximate(case, tmp_path):
    config, message = DIFFERING[case]
    model = built(config)
    with pytest.raises(WeightsError, match=rf"(?s){message}.*--approximate"):
        save_pretrained(model, {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    variables = jax.tree.map(lambda x: np.zeros(x.shape), abstract_variables(model))
    save_pretrained(model, variables, tmp_path / "out", approximate=True)
    assert files(tmp_path / "out") == THREE


def test_all_reasons_are_in_one_error(tmp_path):
    head = {"activation": "sigmoid", "head_hidden_size": 16, "scale": 3.0}
    model = built(changed("vit", head=head, neck={"upsample_to_skip": True}))
    with pytest.raises(WeightsError) as error:
        save_pretrained(model, {}, tmp_path)
    for setting in ("activation", "head_hidden_size", "upsample_to_skip"):
        assert f"model.{'neck' if 'skip' in setting else 'head'}.{setting}" in str(error.value)


def test_variables_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    model, _ = initial("vit")
    _, variables = initial("vit, classes")
    with pytest.raises(WeightsError, match=r"variables do not fit the model"):
        save_pretrained(model, variables, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- Crashes -------------------------------------------------------------------------------------


def test_a_crash_while_the_weights_are_written_leaves_nothing_that_loads(monkeypatch, tmp_path):
    def crash(path, *_):
        path.write_bytes(b"half of it")
        raise OSError("No space left on device")

    model, variables = initial("vit")
    with monkeypatch.context() as patched:
        patched.setattr(pretrained, "write_safetensors", crash)
        with pytest.raises(OSError, match="No space"):
            save_pretrained(model, variables, tmp_path)
    assert files(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        load_pretrained(tmp_path)
    save_pretrained(model, variables, tmp_path)
    load_pretrained(tmp_path)


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_crash_never_mixes_two_models(monkeypatch, tmp_path, written):
    model, variables = initial("vit")
    save_pretrained(model, variables, tmp_path)
    other = built(changed("vit", backbone={"layer_norm_eps": 1e-3}))
    replaced, real = [], Path.replace

    def crash(path, target):
        if len(replaced) == written:
            raise KeyboardInterrupt
        replaced.append(target)
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            save_pretrained(other, variables, tmp_path)
    with pytest.raises(FileNotFoundError):
        load_pretrained(tmp_path)


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match="out is a file"):
        save_pretrained(*initial("vit"), tmp_path / "out")


# --- dpt-jax convert -----------------------------------------------------------------------------


@pytest.fixture
def original(monkeypatch, tmp_path):
    """A tiny file of MiDaS and its record; the oracle of its weights is in `tests.oracles`."""
    torch = pytest.importorskip("torch", reason="writes the file")
    from tests.oracles import isl_dpt

    spec = isl_dpt.Spec()
    torch.save(isl_dpt.random_state(spec, 0), tmp_path / "dpt_large_384.pt")
    record = checkpoints.CHECKPOINTS["isl-org/dpt_large_384"]
    backbone = {
        "hidden_size": spec.width,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.mlp,
        "image_size": spec.native * spec.patch,
        "out_indices": spec.hooks,
        "layer_norm_eps": spec.eps,
    }
    neck = {"hidden_sizes": spec.widths, "fusion_hidden_size": spec.features}
    tiny = dataclasses.replace(
        record,
        model={**record.model, "backbone": backbone, "neck": record.model["neck"] | neck},
        preprocessing={**record.preprocessing, "size": (64, 64)},
    )
    monkeypatch.setitem(checkpoints.CHECKPOINTS, record.name, tiny)
    return tmp_path / "dpt_large_384.pt"


def test_an_original_file_becomes_one_of_transformers(original, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["convert", str(original), str(out)]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert "upsample_to_skip" in error and "--approximate" in error and not out.exists()
    assert cli.main([*arguments, "--approximate"]) == 0
    printed = capsys.readouterr().out
    assert f"{out}: DPTForDepthEstimation, " in printed and printed.count("\n") == 1
    assert files(out) == THREE

    model, variables = load_pretrained(original)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert f"{count:,} parameters" in printed
    pixels = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)
    assert_near(output_of(model, variables, pixels), theirs(out, pixels))
    want, got = pretrained.open_pretrained(original), pretrained.open_pretrained(out)
    assert got.processor == want.processor and got.depth == want.depth == "inverse_relative"


def test_a_renamed_file_needs_its_record(original, tmp_path, capsys):
    renamed = original.rename(tmp_path / "mine.pt")
    arguments = ["convert", str(renamed), str(tmp_path / "out"), "--approximate"]
    assert cli.main(arguments) == 1
    assert "--record" in capsys.readouterr().err
    assert cli.main([*arguments, "--record", "isl-org/dpt_large_384"]) == 0
    assert files(tmp_path / "out") == THREE


@pytest.mark.parametrize("name", ["vit", "vit, classes", "depth anything, metric"])
def test_into_a_workdir_and_back(name, tmp_path, capsys):
    model, variables = initial(name)
    labels = "abcde" if "classes" in name else ()
    save_pretrained(model, variables, tmp_path / "a", labels=labels)
    to_workdir = ["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "workdir"]
    assert cli.main(to_workdir) == 0
    assert "b: a workdir, " in capsys.readouterr().out
    assert cli.main(["convert", str(tmp_path / "b"), str(tmp_path / "c")]) == 0
    for file in THREE:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "c" / file).read_bytes() or (
            file == "config.json"  # says what depth means
        )
    first, last = (pretrained.open_pretrained(tmp_path / x) for x in "ac")
    middle = pretrained.open_pretrained(tmp_path / "b")
    for found in (middle, last):
        assert found.model == first.model and found.processor == first.processor
        assert found.depth == first.depth and found.labels == first.labels == (*labels,)
    jax.tree.map(np.testing.assert_array_equal, middle.variables["params"], variables["params"])


@pytest.mark.parametrize("options", [[], ["--to", "workdir"]])
def test_nothing_is_overwritten(options, tmp_path, capsys):
    save_pretrained(*initial("vit"), tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").touch()
    for destination in ("full", "file", "a"):
        arguments = ["convert", str(tmp_path / "a"), str(tmp_path / destination), *options]
        assert cli.main(arguments) == 1
        assert f"{destination} is not an empty directory" in capsys.readouterr().err
    assert files(tmp_path / "full") == ["notes.txt"] and files(tmp_path / "a") == THREE


def test_a_workdir_needs_preprocessing(tmp_path):
    save_pretrained(*initial("vit"), tmp_path / "a")
    (tmp_path / "a" / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match=r"no preprocessor_config\.json"):
        convert.to_workdir(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs as train.py leaves them, for depth and for segmentation, with random weights."""
    root = tmp_path_factory.mktemp("runs")
    for task in ("depth", "segmentation"):
        config = run_config.resolve(small_config(task))
        model = build_model(config["model"])
        rng = np.random.default_rng(0)
        shapes = {"batch_stats": {}} | abstract_variables(model)
        random = jax.tree.map(lambda x, rng=rng: rng.uniform(0.01, 0.3, x.shape), shapes)
        (root / task).mkdir()
        checkpoint.save_variables(root / task, random)
        run_config.save(config, root / task / "config.json")
    return root


def test_a_training_run_for_transformers(runs, tmp_path):
    assert cli.main(["convert", str(runs / "segmentation"), str(tmp_path / "out")]) == 0
    ours = Predictor.from_pretrained(runs / "segmentation")
    assert ours.processor == Predictor.from_pretrained(tmp_path / "out").processor
    assert ours.processor.size == (32, 48)
    model, variables = load_pretrained(runs / "segmentation")
    # HF's plain ViT takes squares only.
    side = model.backbone.image_size
    pixels = np.random.default_rng(0).standard_normal((1, side, side, 3)).astype(np.float32)
    assert_near(output_of(model, variables, pixels), theirs(tmp_path / "out", pixels))


def test_a_training_run_with_a_sigmoid_head_is_refused(runs, tmp_path, capsys):
    assert cli.main(["convert", str(runs / "depth"), str(tmp_path / "out")]) == 1
    assert "model.head.activation='sigmoid'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert Predictor.from_pretrained(runs / "depth").pretrained.depth == "metric"


def test_options_that_do_not_apply_are_refused(runs):
    with pytest.raises(ValueError, match="'best' or 'latest', got 'newest'"):
        load_pretrained(runs / "depth", which="newest")
    with pytest.raises(WeightsError, match=r"is a workdir; record='Intel/dpt-large'"):
        load_pretrained(runs / "depth", record="Intel/dpt-large")
