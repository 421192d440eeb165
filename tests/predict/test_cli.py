# SPDX-License-Identifier: Apache-2.0
"""The command `dpt-jax`, called as a function: what it writes, prints and returns."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from dpt_jax import ImageProcessor, Predictor, build_model, save_pretrained
from dpt_jax.models.dpt import abstract_variables
from dpt_jax.predict import cli
from dpt_jax.weights.checkpoints import CHECKPOINTS

TINY = {
    "backbone": {
        "type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 32,
        "out_indices": (0,),
    },
    "neck": {"hidden_sizes": (8,), "reassemble_factors": (1,), "fusion_hidden_size": 8},
}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling is nearly all of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders of a network for depth and of one for three classes."""
    root = tmp_path_factory.mktemp("weights")
    rng = np.random.default_rng(0)
    for task, head, labels in (("depth", {}, ()), ("segmentation", {"num_labels": 3}, "abc")):
        model = build_model(TINY | {"head": {"type": task, **head}})
        variables = jax.tree.map(lambda x: rng.uniform(0, 0.3, x.shape), abstract_variables(model))
        size = ImageProcessor(size=(32, 32))
        save_pretrained(model, variables, root / task, processor=size, labels=labels)
    return root


def save_image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (20 + seed, 30, 3), dtype=np.uint8)
    Image.fromarray(levels).save(path)
    return path


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def three(*names):
    return {f"{name}{end}" for name in names for end in (".png", ".json", "_preview.jpg")}


@pytest.fixture
def run(weights, capsys):
    def call(*arguments, checkpoint="depth"):
        status = cli.main([*map(str, arguments), "--checkpoint", str(weights / checkpoint)])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def refused(run, monkeypatch):
    """The one line that is printed when nothing is even loaded."""

    def no_weights(*_, **__):
        raise AssertionError("weights were loaded before the input was checked")

    monkeypatch.setattr(Predictor, "from_pretrained", no_weights)

    def call(*arguments):
        status, out, err = run(*arguments)
        assert status == 1 and out == ""
        assert err.startswith("error: ") and err.count("\n") == 1
        return err

    return call


# --- predict -------------------------------------------------------------------------------------


def test_an_image(run, tmp_path):
    image = save_image(tmp_path / "room.jpg")
    status, out, err = run("predict", image, tmp_path / "out")
    assert (status, err) == (0, "")
    assert "inverse_relative" in out and "room.jpg -> " in out
    assert files(tmp_path / "out") == three("room")
    with Image.open(tmp_path / "out" / "room.png") as depth:
        assert depth.size == (30, 20) and depth.mode == "I;16"


def test_a_folder_with_folders_and_what_else_is_in_it(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("a.jpg", "b/a.png", "b/c/B.PNG", "same.jpg", "same.png")):
        save_image(tmp_path / "in" / name, seed=i)
    for name in ("notes.txt", "document.pdf", "noimage"):  # Pillow writes PDF and reads none
        (tmp_path / "in" / name).write_text("hello")
    status, out, err = run("predict", "in", "out", "--dtype", "bfloat16", checkpoint="segmentation")
    assert (status, err) == (0, "")
    assert "classes" in out and "[5/5] in/same.png -> out/same.png.png" in out
    names = ("a", "b/a", "b/c/B", "same.jpg", "same.png")
    assert files(tmp_path / "out") == three(*names)
    for i, name in enumerate(names):
        sidecar = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert set(sidecar["classes"].values()) <= set("abc")
        with Image.open(tmp_path / "out" / f"{name}.png") as labels:
            assert labels.size == (30, 20 + i) and labels.mode == "P"


def test_one_bad_file_does_not_stop_the_rest(run, tmp_path):
    for name in ("a.png", "c.png"):
        save_image(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:300])
    status, out, err = run("predict", tmp_path / "in", tmp_path / "out")
    assert status == 1
    assert files(tmp_path / "out") == three("a", "c")
    assert "[1/3]" in out and "[3/3]" in out and "b.png" not in out
    assert "[2/3]" in err and "b.png" in err and "1 of 3 images failed" in err
    assert "Traceback" not in err


def test_predictions_in_the_folder_itself_are_not_predicted_again(run, tmp_path):
    save_image(tmp_path / "in" / "a.jpg")
    for _ in range(2):  # the second time, the first's are replaced
        status, out, _ = run("predict", tmp_path / "in", tmp_path / "in" / "out")
        assert status == 0 and "[1/1]" in out
    assert files(tmp_path / "in") == {"a.jpg", *(f"out/{name}" for name in three("a"))}


def test_no_picture_is_overwritten(refused, tmp_path):
    save_image(tmp_path / "in" / "a.jpg")
    assert "OUT is IN" in refused("predict", tmp_path / "in", tmp_path / "other" / ".." / "in")
    for picture in (tmp_path / "a.png", tmp_path / "in" / "a_preview.jpg"):
        save_image(picture)
        message = refused("predict", tmp_path / "in" / "a.jpg", picture.parent)
        assert f"{picture} would be overwritten" in message


def test_no_two_images_share_a_name(tmp_path):
    images = [save_image(tmp_path / n) for n in ("a.jpg", "a.png", "a.jpg.png", "b/a.jpg", "b.png")]
    names = [str(name) for name in cli._names(images, tmp_path)]
    assert names == ["a.jpg", "a.png", "a.jpg.png", "b/a", "b"]


def test_what_cannot_be_predicted_is_refused_first(refused, tmp_path):
    assert f"there is no {tmp_path}/no" in refused("predict", tmp_path / "no", tmp_path / "out")
    (tmp_path / "in").mkdir()
    assert "holds no file" in refused("predict", tmp_path / "in", tmp_path / "out")
    image = save_image(tmp_path / "in" / "a.jpg")
    (tmp_path / "file").touch()
    assert "file is a file" in refused("predict", image, tmp_path / "file")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("checkpoint", "options", "message"),
    [
        ("nothing", [], r"there is no .*/nothing$"),
        ("nothing.pt", [], r"there is no .*/nothing\.pt$"),
        ("dpt_large-midas-2f21e586.pt", [], r"dpt_large-midas-2f21e586\.pt is missing"),
        ("file.onnx", [], "holds no weights: expected a folder"),
        ("file.pt", [], "no public checkpoint has the file name 'file.pt'"),
        ("file.pt", ["--record", "me/mine"], "there is no record 'me/mine'"),
        ("depth", ["--record", "Intel/dpt-large"], "is not for it"),
    ],
)
def test_a_checkpoint_that_is_none_is_one_error(
    weights, run, tmp_path, checkpoint, options, message
):
    image = save_image(tmp_path / "a.jpg")
    for name in ("file.onnx", "file.pt"):
        (tmp_path / name).touch()
    path = weights / "depth" if checkpoint == "depth" else tmp_path / checkpoint
    status, out, err = run("predict", image, tmp_path / "out", *options, checkpoint=path)
    assert (status, out) == (1, "") and err.startswith("error: ")
    assert not (tmp_path / "out").exists()
    assert re.search(message, err)


def test_a_hub_name_needs_a_revision(run, tmp_path, capsys):
    image = save_image(tmp_path / "a.jpg")
    arguments = ["predict", str(image), str(tmp_path), "--checkpoint", "hf://Intel/dpt-large"]
    assert cli.main(arguments) == 1
    assert "expected hf://owner/name@revision" in capsys.readouterr().err


# --- The rest ------------------------------------------------------------------------------------


def test_the_public_checkpoints_are_listed(capsys):
    assert cli.main(["checkpoints"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == list(CHECKPOINTS)
    for name, predicts, licence, origin in lines:
        record = CHECKPOINTS[name]
        assert (record.depth or "150 classes") in predicts
        assert (licence, origin) == (record.licence, record.origin)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["predict", "a", "b"], "--checkpoint"),
        (["predict", "a", "b", "--checkpoint", "c", "--dtype", "float16"], "float16"),
        (["convert", "a"], "DST"),
        (["convert", "a", "b", "--to", "onnx"], "onnx"),
        (["guess"], "guess"),
    ],
)
def test_usage_errors_are_those_of_argparse(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch, run, tmp_path):
    def broken(*_, **__):
        raise TypeError("a bug")

    monkeypatch.setattr(Predictor, "from_pretrained", broken)
    with pytest.raises(TypeError, match="a bug"):
        run("predict", save_image(tmp_path / "a.jpg"), tmp_path / "out")


def test_the_module_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "dpt_jax.predict.cli", "--help"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "XLA_FLAGS": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: dpt-jax")
    assert all(command in done.stdout for command in ("predict", "convert", "checkpoints"))
