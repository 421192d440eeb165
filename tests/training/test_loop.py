# SPDX-License-Identifier: Apache-2.0
"""Whole runs: what they leave behind, and that interruptions leave no trace in the result."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dpt_jax import load_pretrained
from dpt_jax.training import ConfigError, train

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from small_run import small_config  # noqa: E402  (a script beside this file)

CACHE = tempfile.TemporaryDirectory(prefix="compiled")


def start(workdir, *overrides, task="depth"):
    command = [sys.executable, str(HERE / "small_run.py"), task, str(workdir), *overrides]
    # One device: the flag for eight is for this process. What one run compiles serves the next.
    cache = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": CACHE.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **cache}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(workdir, *overrides, task="depth"):
    process = start(workdir, *overrides, task=task)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output.decode()
    return output.decode()


def lines(workdir, kind):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def timeless(rows):
    """Without what a clock measured."""
    clocked = ("images_per_second", "data_wait")
    return [{k: v for k, v in row.items() if k not in clocked} for row in rows]


def assert_same_variables(one, two, which="latest"):
    a = load_pretrained(one, which=which)[1]
    b = load_pretrained(two, which=which)[1]
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module", params=["depth", "segmentation"])
def whole_run(request, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    finish(workdir, task=request.param)
    return request.param, workdir


def test_a_run_leaves_what_the_readme_promises(whole_run):
    task, workdir = whole_run
    config = json.loads((workdir / "config.json").read_text())
    assert config["train"]["steps"] == 12 and config["model"]["head"]["type"] == task
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment[0]["start_step"] == 0 and environment[0]["packages"]["jax"]
    assert [row["step"] for row in lines(workdir, "train")] == [2, 4, 6, 8, 10, 12]
    assert [row["step"] for row in lines(workdir, "eval")] == [3, 6, 9, 12]
    assert [row["images"] for row in lines(workdir, "eval")] == [3, 3, 3, 3]
    assert all(np.isfinite(row["loss"]) for row in lines(workdir, "train"))
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["10", "12"]
    assert len(list((workdir / "best").iterdir())) == 1
    assert len(list((workdir / "samples").glob("step_*.png"))) == 4
    assert list(workdir.glob("events.out.tfevents.*"))
    final = json.loads((workdir / "eval" / "final.json").read_text())
    assert final["scores"]["images"] == 6 and final["baseline"]["images"] == 6
    assert len(final["per_image"]) == 6 and (workdir / "eval" / "final.png").is_file()
    assert [(row["step"], row["images"]) for row in lines(workdir, "final")] == [(12, 6)]


def test_the_best_checkpoint_is_that_of_the_best_evaluation(whole_run):
    task, workdir = whole_run
    rows = lines(workdir, "eval")
    key, sign = ("abs_rel", 1) if task == "depth" else ("miou", -1)
    best = min(rows, key=lambda row: sign * row[key])
    assert [p.name for p in (workdir / "best").iterdir()] == [str(best["step"])]


def test_the_same_command_on_a_complete_run_repeats_the_evaluation_only(whole_run):
    task, workdir = whole_run
    before = (workdir / "eval" / "final.json").read_text()
    metrics = (workdir / "metrics.jsonl").read_text()
    finish(workdir, task=task)
    assert (workdir / "eval" / "final.json").read_text() == before
    assert (workdir / "metrics.jsonl").read_text() == metrics


def test_sigkill_after_a_checkpoint_changes_nothing(whole_run, tmp_path):
    task, whole = whole_run
    wait = 0.0 if task == "depth" else 0.4  # right at a checkpoint, or some steps or saves later
    workdir = tmp_path / "run"
    process = start(workdir, task=task)
    committed = workdir / "checkpoints" / "4" / "commit_success.txt"
    while not committed.exists():
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(0.01)
    time.sleep(wait)
    process.kill()
    process.communicate()
    finish(workdir, task=task)
    assert_same_variables(whole, workdir)
    assert_same_variables(whole, workdir, which="best")
    for kind in ("train", "eval"):
        assert timeless(lines(workdir, kind)) == timeless(lines(whole, kind))
    final = "eval/final.json"
    assert json.loads((workdir / final).read_text()) == json.loads((whole / final).read_text())


def test_sigterm_saves_and_ends_well(whole_run, tmp_path):
    task, whole = whole_run
    workdir = tmp_path / "run"
    process = start(workdir, "train.checkpoint_every=12", "train.log_every=1", task=task)
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and "\n" in metrics.read_text()):
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode()
    steps = [int(p.name) for p in (workdir / "checkpoints").iterdir()]
    assert len(steps) == 1
    if steps != [12]:  # else it had come too late
        assert not (workdir / "eval").exists()
    finish(workdir, task=task)
    assert_same_variables(whole, workdir)


def test_another_configuration_is_refused_by_name(whole_run):
    task, workdir = whole_run
    config = small_config(task)
    config.optimizer.learning_rate = 0.5
    config.eval.batch_size = 16  # this may change
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate: \S+ -> 0\.5") as caught:
        train(config, workdir)
    assert "eval.batch_size" not in str(caught.value)


def test_a_run_that_diverges_stops_with_the_examples(tmp_path):
    process = start(tmp_path / "run", "loss.variance_focus=NaN")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert b"TrainingDiverged: 3 steps in a row" in output
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "nonfinite.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(len(row["examples"]) == 8 for row in rows)
    assert all(name.startswith("rooms/train/") for row in rows for name in row["examples"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.steps", 0, r"config\.train\.steps=0"),
        ("train.checkpoint_every", 3, r"checkpoint_every=3 must be a multiple .*log_every=2"),
        ("train.batch_size", 6, r"config\.train\.batch_size=6 .* 8 devices"),
        ("eval.batch_size", 6, r"config\.eval\.batch_size=6 .* 8 devices"),
        ("model.head.type", "depht", r"config\.model\.head\.type 'depht'"),
        ("model.variant", "dpt_hug", r"did you mean"),
        ("model.head.max_depth", 5.0, r"loss\.max_depth=12\.0 is beyond .*head\.max_depth=5\.0"),
        (
            "data.augment.crop",
            (24, 32),
            r"augment\.crop \(24, 32\).*multiples of the patch size 16",
        ),
        ("data.augment.crop", (32,), r"augment\.crop must have 2 numbers"),
        ("data.augment.long_side", 64, r"long_side needs"),
        ("data.source", "room", r"config\.data\.source 'room'"),
        ("data.augment.photometric", "mseg", r"photometric 'mseg'"),
        ("optimizer.schedule", "linear", r"schedule 'linear'"),
        ("optimizer.name", "adam", r"name 'adam'"),
        ("optimizer.multipliers", (("bakbone", 0.1),), r"'bakbone' decides for no parameter"),
        ("loss.name", "l1", r"config\.loss\.name 'l1'"),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_key(tmp_path, key, value, message):
    config = small_config("depth")
    *groups, last = key.split(".")
    group = config
    for name in groups:
        group = group[name]
    group[last] = value
    with pytest.raises(Exception, match=message):
        train(config, tmp_path / "run")
