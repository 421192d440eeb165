# SPDX-License-Identifier: Apache-2.0
"""Cityscapes semantic segmentation, 19 classes: mmsegmentation's recipe.

    python train.py --config configs/cityscapes.py --config.data.root=cityscapes --workdir
    runs/cityscapes

`cityscapes/` holds `leftImg8bit/` and `gtFine/`; docs/data.md says how to get them.

Scale [0.5, 2], 512 x 1024 crops of which no class covers more than 0.75, flip, photometric
distortion; AdamW 6e-5 for all of the network, poly 1.0 after 1,500 steps of warm-up, batch 8,
80,000 steps (215 epochs), BatchNorm in the decoder. Augmentation, batch and length are
mmsegmentation's for Cityscapes, the optimizer is that of its DPT on ADE20K.

Hardware: 8 accelerators of 24 GB, one crop each. Expected: unknown; neither the paper nor
mmsegmentation reports a DPT on Cityscapes. This file starts from random weights unless
`--config.init_from` names an encoder or a DPT (see README.md), and evaluates whole images of 1024 x
2048; nobody has run it in full yet.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """The config of the recipe."""
    c = common.default()
    c.model.variant = "dpt_base"
    c.model.dtype = "bfloat16"
    c.model.head.type = "segmentation"
    c.model.head.num_labels = 19
    c.model.neck.use_batch_norm_in_fusion_residual = True
    c.data.source = "cityscapes"
    c.data.threads = 8
    c.data.augment.recipe = "mmseg_cityscapes"
    c.optimizer.learning_rate = 6e-5
    c.optimizer.power = 1.0
    c.optimizer.warmup_steps = 1500
    c.optimizer.multipliers = ()
    c.train.steps = 80_000
    c.train.batch_size = 8
    c.train.log_every = 100
    c.train.evaluate_every = 8000
    c.train.checkpoint_every = 1000
    c.eval.batch_size = 8
    c.eval.limit = 100
    return c
