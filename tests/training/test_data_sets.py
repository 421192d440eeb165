# SPDX-License-Identifier: Apache-2.0
"""Twenty steps of every data set's own recipe, on rooms written in its layout."""

import json
import sys
from pathlib import Path

import jax
import pytest
from absl import logging
from ml_collections import config_flags  # noqa: F401  (configs are read as train.py reads them)

from dpt_jax.data.sources.rooms_layouts import write_layout
from dpt_jax.training import train

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from configs import (  # noqa: E402
    ade20k,
    cityscapes,
    finetune_folder,
    kitti,
    nyuv2,
    pascal_context,
)

# layout: the config of its recipe, and what is said on the command line beside the root.
RUNS = {
    "ade20k": (ade20k.get_config, {}),
    "nyuv2": (nyuv2.get_config, {}),
    "nyuv2_mat": (nyuv2.get_config, {"source": "nyuv2_mat"}),
    "kitti": (kitti.get_config, {}),
    "pascal_context": (pascal_context.get_config, {}),
    "cityscapes": (cityscapes.get_config, {}),
    "folder_depth": (finetune_folder.get_config, {}),
    "folder_masks": (lambda: finetune_folder.get_config("segmentation"), {}),
}


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Recipes share programs once they are made equally small; optimising these does not pay."""
    changes = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_disable_most_optimizations": True,
    }
    before = {key: jax.config.values[key] for key in changes}
    for key, value in changes.items():
        jax.config.update(key, value)
    yield
    for key, value in before.items():
        jax.config.update(key, value)


def small(c):
    """The recipe with a network, images and a run of next to nothing."""
    c.model.variant = "dpt_tiny"
    c.model.dtype = "float32"
    c.model.backbone.hidden_size = 32
    c.model.backbone.intermediate_size = 64
    c.model.backbone.num_hidden_layers = 2
    c.model.backbone.out_indices = (0, 1)
    c.model.neck.hidden_sizes = (8, 16)
    c.model.neck.reassemble_factors = (2.0, 1.0)
    c.model.neck.fusion_hidden_size = 8
    c.init_from = None
    c.data.threads = 1
    c.data.augment.crop = (32, 48)
    c.optimizer.warmup_steps = 2
    c.train.steps = 20
    c.train.batch_size = 8
    c.train.log_every = 10
    c.train.evaluate_every = 20
    c.train.checkpoint_every = 20
    c.eval.batch_size = 8
    c.eval.limit = 2
    c.eval.size = 64
    c.eval.multiple_of = 16
    c.mesh.data = 8
    return c


@pytest.mark.parametrize("layout", RUNS)
def test_twenty_steps(layout, tmp_path):
    logging.set_verbosity(logging.WARNING)
    get_config, changes = RUNS[layout]
    config = small(get_config())
    config.data.root = str(write_layout(layout, tmp_path / "data", train=6, validation=3))
    config.data.update(changes)
    if layout == "folder_masks":
        config.model.head.num_labels = 14
    found = train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    assert steps[-1]["step"] == 20
    assert all(row["finite"] == 1 for row in steps)
    assert found is not None and found.scores["images"] >= 2
