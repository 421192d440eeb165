# SPDX-License-Identifier: Apache-2.0
"""A run on damaged data: what it goes without is counted and named, also when it is resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpt_jax.data.prepare import prepare
from dpt_jax.data.sources.folder import folder
from dpt_jax.data.sources.prepared import PreparedSource
from dpt_jax.data.sources.rooms_layouts import write_layout
from dpt_jax.training import ConfigError, train
from dpt_jax.training.config import check_resumable, fingerprint

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from small_run import small_config  # noqa: E402  (a script beside this file)

SCRIPT = HERE / "damaged_run.py"


def run(workdir, cache, **data):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, str(SCRIPT), str(workdir), json.dumps(data)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def rows(path, **wanted):
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in found if wanted.items() <= row.items()]


def test_a_run_goes_on_within_its_budget_and_stops_beyond(tmp_path):
    workdir, cache = tmp_path / "run", tmp_path / "cache"
    first = run(workdir, cache, max_quarantined=3, workers=1)
    assert first.returncode == 1, first.stderr
    *_, last, advice = first.stderr.splitlines()
    assert "error: 4 different training examples cannot be read, more than" in first.stderr
    assert last.strip() == "rooms/train/00000007"  # the list of all four ends the error
    assert "Traceback" not in first.stderr
    assert first.stderr.count("goes without") == 4

    found = rows(workdir / "quarantine.jsonl")
    assert {row["name"] for row in found} == {f"rooms/train/{i:08d}" for i in (0, 1, 7, 23)}
    assert all(row["error"] == f"damaged: {row['name']}" for row in found)
    steps = [row["step"] for row in found]
    assert steps == sorted(steps) and 6 < steps[3] <= 8  # beyond the last checkpoint that was due
    assert advice.startswith(f"Step {steps[3] - 1} is saved")

    second = run(workdir, cache, max_quarantined=4)
    assert second.returncode == 0, second.stderr
    assert f"starting at step {steps[3] - 1} of 8" in second.stderr
    assert second.stderr.count("goes without") == 1  # the three before it are known
    assert rows(workdir / "quarantine.jsonl") == found
    lines = rows(workdir / "metrics.jsonl", kind="train")
    assert [row["step"] for row in lines] == [2, 4, 6, 8]
    assert [row["quarantined"] for row in lines] == [
        sum(step <= row["step"] for step in steps) for row in lines
    ]
    # The baseline is of training examples and goes without the same ones.
    final = json.loads((workdir / "eval" / "final.json").read_text())
    assert final["baseline"]["images"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_error": "skip"}, r"config\.data\.on_error 'skip'"),
        ({"quarantine": "no/list.txt"}, r"--config\.data\.quarantine not found: no/list\.txt"),
        ({"workers": 2, "prefetch": 7}, r"config\.data\.prefetch=7"),
        ({"augment": {"recipe": "mmseg_ade20k"}}, r"config\.data\.augment\.within"),
        ({"augment": {"crop": (33, 48)}}, r"config\.data\.augment\.crop \(33, 48\)"),
    ],
)
def test_what_cannot_be_streamed_is_refused_before_anything_is_written(tmp_path, changes, message):
    config = small_config("depth")
    config.data.update(changes)
    with pytest.raises(Exception, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("multiple_of", 24), ("limit", 0), ("batch_size", 0), ("size", -64)],
)
def test_evaluation_settings_are_looked_at_before_anything_is_written(tmp_path, key, value):
    config = small_config("depth")
    config.eval[key] = value
    with pytest.raises(ConfigError, match=rf"config\.eval\.{key}={value}"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_split_is_known_by_its_names_and_their_meaning(tmp_path):
    write_layout("folder_depth", tmp_path / "one", train=3, validation=1, size=(48, 64))
    write_layout("folder_depth", tmp_path / "two", train=3, validation=1, size=(48, 64))
    write_layout("folder_depth", tmp_path / "more", train=4, validation=1, size=(48, 64))

    def split(name, which="train"):
        return folder(root=str(tmp_path / name), split=which)

    print_of_one = fingerprint(split("one"))
    prepare("folder", {"train": split("one")}, tmp_path / "copy", progress=False)
    assert print_of_one == fingerprint(split("two")) != fingerprint(split("more"))
    assert print_of_one == fingerprint(PreparedSource(tmp_path / "copy", "train"))
    assert print_of_one != fingerprint(split("one", "validation"))
    description = tmp_path / "two" / "dataset.json"
    description.write_text(description.read_text().replace("millimetre", "centimetre"))
    assert print_of_one != fingerprint(split("two"))

    stored = {"examples": {"train": print_of_one}, "data": {"root": "one"}}
    moved = {"examples": {"train": print_of_one}, "data": {"root": "elsewhere"}}
    check_resumable(stored, moved, tmp_path)
    with pytest.raises(ConfigError, match=r"examples\.train: '3 examples, .*' -> '4 examples, "):
        check_resumable(stored, {"examples": {"train": fingerprint(split("more"))}}, tmp_path)
