# SPDX-License-Identifier: Apache-2.0
"""`train.py` and `eval.py` as a person calls them: recipes, mistakes in flags, missing data."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from dpt_jax.models.dpt import build_model
from dpt_jax.training import config as run_config
from dpt_jax.training import optimizer

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
RECIPES = ["quickstart", "quickstart:segmentation", "ade20k", "ade20k:overfit", "nyuv2"]
RECIPES += ["nyuv2:overfit", "kitti", "pascal_context", "cityscapes"]
RECIPES += ["finetune_folder", "finetune_folder:segmentation"]
SMALL = [
    "--config.model.backbone.hidden_size=32",
    "--config.model.backbone.num_hidden_layers=2",
    "--config.model.backbone.out_indices=(0,1)",
    "--config.model.neck.hidden_sizes=(8,16)",
    "--config.model.neck.reassemble_factors=(2.0,1.0)",
    "--config.data.rooms.size=(32,48)",
    "--config.train.steps=4",
    "--config.train.log_every=2",
    "--config.train.checkpoint_every=2",
    "--config.train.evaluate_every=2",
    "--config.optimizer.warmup_steps=1",
    "--config.eval.limit=8",
]


def call(*arguments, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling is most of their time
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def assert_one_clear_line(done, *words):
    assert done.returncode == 1, done.stderr
    message = done.stderr.strip().splitlines()
    assert len(message) == 1 and message[0].startswith("error: "), done.stderr
    for word in words:
        assert word in message[0], done.stderr


def get_config(recipe):
    module, _, argument = recipe.partition(":")
    config = importlib.import_module(f"configs.{module}").get_config
    return config(argument) if argument else config()


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_build_and_survive_json(recipe):
    config = run_config.resolve(get_config(recipe))
    run_config.validate(config)
    assert run_config.resolve(json.loads(json.dumps(config))) == config
    model = build_model(config["model"])
    pixels = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), pixels)
    optimizer.make_optimizer(config["optimizer"], variables["params"], config["train"]["steps"])


@pytest.mark.parametrize("recipe", ["ade20k", "nyuv2"])
def test_recipes_say_their_command_hardware_and_expected_score(recipe):
    header = importlib.import_module(f"configs.{recipe}").__doc__
    for word in ("python train.py", "Hardware", "Expected", "nobody has run it in full"):
        assert word in re.sub(r"\s+", " ", header)


def test_a_recipe_without_data_says_what_to_do(tmp_path):
    done = call("train.py", "--config=configs/ade20k.py", f"--workdir={tmp_path}/a")
    assert_one_clear_line(done, "ADEChallengeData2016.zip", "--config.data.root")
    done = call("train.py", "--config=configs/nyuv2.py", f"--workdir={tmp_path}/b")
    assert_one_clear_line(done, "github.com/cleinc/bts", "--config.data.root", "nyu")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.modle.variant=x"], ["modle", "model"]),
        (["--config.optimizer.learning_rat=1"], ["learning_rat", "learning_rate"]),
        (["--config.model.variant=dpt_hug"], ["dpt_hug", "dpt_large"]),
        (["--config.model.neck.readout_type=projct"], ["projct", "project"]),
    ],
)
def test_a_mistake_in_a_flag_names_the_nearest(tmp_path, flags, words):
    done = call("train.py", "--config=configs/quickstart.py", f"--workdir={tmp_path}/a", *flags)
    assert_one_clear_line(done, *words)


def test_training_and_evaluation_agree(tmp_path):
    workdir = tmp_path / "run"
    command = ["train.py", "--config=configs/quickstart.py:segmentation", f"--workdir={workdir}"]
    done = call(*command, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "baseline" in done.stderr and "numbers: " in done.stderr
    done = call("eval.py", f"--workdir={workdir}", "--which=latest")
    assert done.returncode == 0, done.stderr
    final = json.loads((workdir / "eval" / "final.json").read_text())
    validation = json.loads((workdir / "eval" / "validation.json").read_text())
    assert validation == final
    for name in ("miou", "pixel_accuracy"):
        assert f"{final['scores'][name]:.4f}" in done.stdout
    assert (workdir / "eval" / "validation.png").is_file()
    # Another batch size and eight devices, fewer images: the same scores image by image.
    done = call(
        *("eval.py", "--config=configs/quickstart.py:segmentation", f"--workdir={workdir}"),
        *("--config.eval.batch_size=8", "--config.data.rooms.size=(32,48)", "--limit=7"),
        *("--which=latest", f"--output={tmp_path}/out"),
        devices=8,
    )
    assert done.returncode == 0, done.stderr
    few = json.loads((tmp_path / "out" / "validation.json").read_text())
    assert few["per_image"] == final["per_image"][:7]

    depth = ["eval.py", "--config=configs/quickstart.py", f"--workdir={workdir}"]
    assert_one_clear_line(call(*depth), "segmentation", "depth")


def test_evaluation_needs_something_to_evaluate(tmp_path):
    assert_one_clear_line(call("eval.py"), "--workdir", "--checkpoint")
    assert_one_clear_line(call("eval.py", f"--checkpoint={tmp_path}"), str(tmp_path))
