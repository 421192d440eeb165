# SPDX-License-Identifier: Apache-2.0
"""ADE20K semantic segmentation, 150 classes: the recipe of the DPT paper.

    python train.py --config configs/ade20k.py --config.data.root=ADEChallengeData2016 --workdir
    runs/ade20k

Long side scaled to 520 x [0.5, 2], 480 x 480 crops, flip; SGD, poly 0.9, BatchNorm in the decoder,
auxiliary head of weight 0.2, batch 48, 240 epochs. The augmentation is confirmed by the authors
(isl-org/DPT issue 41); the rest follows the paper and lang-seg, code of the same authors.

Hardware: 8 accelerators of 24 GB or more for batch 48. Expected in the paper for DPT-Large,
pretrained on ImageNet and evaluated at six scales with flips: mIoU 47.6. This file starts from
random weights unless `--config.init_from` names an encoder (see README.md), and evaluates one
scale; nobody has run it in full yet.

Over-fit check on three images, see README.md: `configs/ade20k.py:overfit`.
"""

import ml_collections

from configs import common


def get_config(recipe: str = "dpt") -> ml_collections.ConfigDict:
    """The config; `recipe` is "dpt" or "overfit", what follows the colon on the command line."""
    if recipe not in ("dpt", "overfit"):
        raise ValueError(f"configs/ade20k.py:{recipe}: the recipe is dpt or overfit")
    c = common.default()
    c.model.variant = "dpt_large"
    c.model.dtype = "bfloat16"
    c.model.head.type = "segmentation"
    c.model.head.num_labels = 150
    c.model.auxiliary_head.use = True
    c.model.neck.use_batch_norm_in_fusion_residual = True
    c.data.source = "ade20k"
    c.data.threads = 8
    c.data.augment.recipe = "dpt_ade20k"
    c.loss.auxiliary_weight = 0.2
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.02  # of the decoder, ten times the backbone's 0.002
    c.optimizer.weight_decay = 1e-4
    c.optimizer.multipliers = ((r"^backbone/", 0.1),)
    c.train.steps = 101_000  # 240 epochs of 20,210 images
    c.train.batch_size = 48
    c.train.log_every = 100
    c.train.evaluate_every = 5000
    c.train.checkpoint_every = 1000
    c.eval.batch_size = 8
    c.eval.size = 480
    c.eval.limit = 500
    if recipe == "overfit":
        _overfit(c)
    return c


def _overfit(c: ml_collections.ConfigDict) -> None:
    """A few 4:3 images at 288 x 384, unaugmented: does the whole chain learn them by heart?"""
    c.model.variant = "dpt_tiny"
    c.model.dtype = "float32"
    c.data.threads = 2
    c.data.augment.scale = (1.0, 1.0)
    c.data.augment.long_side = 384
    c.data.augment.crop = (288, 384)
    c.data.augment.flip = 0.0
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 3e-3
    c.optimizer.beta2 = 0.95
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 20
    c.optimizer.clip_norm = 1.0
    c.optimizer.multipliers = ()
    c.train.steps = 250
    c.train.batch_size = 3
    c.train.log_every = 20
    c.train.evaluate_every = 100
    c.train.checkpoint_every = 100
    c.eval.batch_size = 1
    c.eval.size = 288
