# SPDX-License-Identifier: Apache-2.0
"""There and back: what transformers saves, we load, and what we save is what was there."""

import json
from pathlib import Path
from typing import Any

import transformers
from safetensors import safe_open
from safetensors.numpy import load_file

from dpt_jax import load_pretrained, save_pretrained

WEIGHTS = "model.safetensors"


def load(hf, directory: Path):
    """Our model and its variables, from what `hf` saves in `directory`."""
    hf.save_pretrained(directory)
    return load_pretrained(directory)


def assert_saved_again(model, variables, hf, directory: Path) -> None:
    """Saving gives the file in `directory` bit for bit, and transformers finds all it looks for."""
    again = directory / "again"
    save_pretrained(model, variables, again)
    want, got = load_file(directory / WEIGHTS), load_file(again / WEIGHTS)
    assert sorted(want) == sorted(got)
    for name, value in want.items():
        assert value.dtype == got[name].dtype
        assert value.shape == got[name].shape
        assert value.tobytes() == got[name].tobytes(), name
    with safe_open(again / WEIGHTS, "np") as file:
        assert file.metadata() == {"format": "pt"}
    architecture = getattr(transformers, type(hf).__name__)
    loaded, info = architecture.from_pretrained(again, output_loading_info=True)
    problems = {key: names for key, names in info.items() if names}
    assert not problems
    for name, value in hf.state_dict().items():
        assert value.equal(loaded.state_dict()[name]), name


def assert_same_settings(given: dict[str, Any], directory: Path) -> None:
    """What we saved says the same as `given`, from which transformers' model was made."""
    saved = json.loads((directory / "again" / "config.json").read_text())
    backbone = saved["backbone_config"]
    assert {key: backbone.get(key, "missing") for key in given["backbone_config"]} == given[
        "backbone_config"
    ]
    common = (given.keys() & saved.keys()) - {"backbone_config"}
    assert len(common) > 3
    assert {key: saved[key] for key in common} == {key: given[key] for key in common}
