# SPDX-License-Identifier: Apache-2.0
"""Twenty steps of every data set's own recipe, on rooms written in its layout."""

import json
import sys
from pathlib import Path

import pytest
from absl import logging
from ml_collections import config_flags  # noqa: F401  (configs are read as train.py reads them)

from dpt_jax.data import pipeline
from dpt_jax.data.sources import build_source
from dpt_jax.data.sources.rooms_layouts import write_layout
from dpt_jax.data.transforms import augment_settings, build_augmentations
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


def prepared_config(layout, folder):
    get_config, changes = RUNS[layout]
    config = get_config()
    config.data.root = str(write_layout(layout, folder, train=6, validation=3))
    config.data.update(changes)
    if layout == "folder_masks":
        config.model.head.num_labels = 14
    return config


@pytest.mark.parametrize("layout", RUNS)
def test_recipes_make_batches_of_their_data(layout, tmp_path):
    config = prepared_config(layout, tmp_path / "data")
    source = build_source(config.data, "train")
    target = "label" if source.classes else "depth"
    crop = augment_settings(config.data.augment)["crop"]
    steps = build_augmentations(config.data.augment)
    options = {"target": target, "seed": 0, "start_step": 0, "batch_size": 2}
    with pipeline.train_stream(source, steps, **options) as stream:
        batch = next(stream)
    assert batch["image"].shape == (2, *crop, 3) and batch["image"].dtype == "uint8"
    assert batch[target].shape == (2, *crop)
    if target == "label":
        assert config.model.head.num_labels == len(source.classes)
        assert set(batch["label"].ravel()) <= {*range(len(source.classes)), 255}
    else:
        assert 0 < batch["depth"].max() < config.loss.max_depth == config.model.head.max_depth


# The rest takes minutes and differs in nothing that is not tested above: `pytest -m slow`.
QUICK = ("kitti", "folder_masks")


@pytest.mark.parametrize(
    "layout",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RUNS],
)
def test_twenty_steps(layout, tmp_path):
    logging.set_verbosity(logging.WARNING)
    config = small(prepared_config(layout, tmp_path / "data"))
    found = train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    assert steps[-1]["step"] == 20
    assert all(row["finite"] == 1 for row in steps)
    assert found is not None and found.scores["images"] >= 2
