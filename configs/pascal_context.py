# SPDX-License-Identifier: Apache-2.0
"""Pascal Context semantic segmentation, 59 classes: mmsegmentation's recipe.

    python train.py --config configs/pascal_context.py --config.data.root=VOCdevkit --workdir
    runs/pascal_context

`VOCdevkit/` holds VOC2010 with what mmsegmentation's converter adds; docs/data.md says how to get
it. With the background as a 60th class: `--config.data.pascal_context.background=True
--config.model.head.num_labels=60`.

Both sides scaled to fit 520 x [0.5, 2], 480 x 480 crops of which no class covers more than 0.75,
flip, photometric distortion; AdamW 6e-5 for all of the network, poly 1.0 after 1,500 steps of
warm-up, batch 16, 40,000 steps (128 epochs), BatchNorm in the decoder. Augmentation and length are
mmsegmentation's for Pascal Context, the optimizer is that of its DPT on ADE20K.

Hardware: 4 accelerators of 24 GB. Expected: the paper has mIoU of about 60.5 for DPT-Hybrid,
fine-tuned from ADE20K by a recipe of its own and evaluated at six scales with flips; there is no
published number for this recipe. It starts from random weights unless `--config.init_from` names
an encoder or a DPT (see README.md), and evaluates one scale; nobody has run it in full yet.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """The config of the recipe."""
    c = common.default()
    c.model.variant = "dpt_base"
    c.model.dtype = "bfloat16"
    c.model.head.type = "segmentation"
    c.model.head.num_labels = 59
    c.model.neck.use_batch_norm_in_fusion_residual = True
    c.data.source = "pascal_context"
    c.data.threads = 8
    c.data.augment.recipe = "mmseg_pascal_context"
    c.optimizer.learning_rate = 6e-5
    c.optimizer.power = 1.0
    c.optimizer.warmup_steps = 1500
    c.optimizer.multipliers = ()
    c.train.steps = 40_000
    c.train.batch_size = 16
    c.train.log_every = 100
    c.train.evaluate_every = 4000
    c.train.checkpoint_every = 1000
    c.eval.batch_size = 8
    c.eval.size = 480
    c.eval.limit = 500
    return c
