# SPDX-License-Identifier: Apache-2.0
"""Directories that transformers writes load and predict the same; what is not one is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dpt_jax import load_pretrained

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 64,
    "backbone_out_indices": [0, 1],
    "neck_hidden_sizes": [8, 12],
    "reassemble_factors": [2, 1],
    "fusion_hidden_size": 16,
}


@pytest.mark.parametrize("labels", [None, 2, 7])
def test_a_directory_that_transformers_saved_predicts_the_same(tmp_path, labels):
    torch = pytest.importorskip("torch", reason="needs torch, the oracle")
    transformers = pytest.importorskip("transformers", reason="needs transformers, the oracle")
    torch.manual_seed(0)
    if labels is None:
        model = transformers.DPTForDepthEstimation(transformers.DPTConfig(**SMALL))
    else:
        config = transformers.DPTConfig(**SMALL, num_labels=labels)
        model = transformers.DPTForSemanticSegmentation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    model.eval().save_pretrained(tmp_path)

    pixels = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    loaded, variables = load_pretrained(tmp_path)
    with jax.default_matmul_precision("highest"):
        ours = loaded.apply(variables, pixels)
    if labels is None:
        expected, found = theirs.predicted_depth.numpy(), ours.depth
    else:
        expected, found = theirs.logits.numpy().transpose(0, 2, 3, 1), ours.logits
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_is_not_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no weights: expected a folder"):
        load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_pretrained(tmp_path)


def test_other_kinds_of_models_are_named(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x"}))
    with pytest.raises(ValueError, match="model_type 'x' is not one of the DPT family"):
        load_pretrained(tmp_path)


def test_the_evaluation_command_wants_a_recipe_for_a_converted_workdir(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"model": {}, "depth": "metric"}))
    done = subprocess.run(
        [sys.executable, "eval.py", f"--workdir={tmp_path}"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "pass --config as well" in done.stderr


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_the_evaluation_command_reads_directories_and_refuses_relative_depth(tmp_path, task):
    pytest.importorskip("torch", reason="needs torch, the oracle")
    transformers = pytest.importorskip("transformers", reason="needs transformers, the oracle")
    config = transformers.DPTConfig(**SMALL, num_labels=14)
    family = "ForSemanticSegmentation" if task == "segmentation" else "ForDepthEstimation"
    getattr(transformers, f"DPT{family}")(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4, 0.5, 0.6]}))
    recipe = (
        "configs/quickstart.py:segmentation" if task == "segmentation" else "configs/quickstart.py"
    )
    options = ["--limit=3", f"--output={tmp_path}/out", "--config.eval.baseline_images=0"]
    done = subprocess.run(
        [sys.executable, "eval.py", f"--config={recipe}", f"--checkpoint={tmp_path}", *options],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    if task == "depth":
        assert done.returncode == 1 and "error: " in done.stderr
        assert "inverse relative depth" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        written = json.loads((tmp_path / "out" / "validation.json").read_text())
        assert written["scores"]["images"] == 3 and written["settings"]["step"] is None
