# SPDX-License-Identifier: Apache-2.0
"""KITTI metric depth: Eigen's split with the official ground truth, 23,158 images to train on.

    python train.py --config configs/kitti.py --config.data.root=kitti --workdir runs/kitti

`kitti/` holds `raw/`, `data_depth_annotated/` and the two lists of BTS; docs/data.md says how to
get them. Images are the benchmark crop, 352 x 1216.

Rotation by up to 1 degree, 352 x 704 crop, flip and colour jitter of BTS, depth up to 80 m;
scale-invariant log loss over targets beyond 1 m with lambda 0.85 and weight 10; AdamW, backbone x
0.1, 24 epochs. Hardware: 4 accelerators of 24 GB for batch 16. Expected: Monocular-Depth-Toolbox
reports abs_rel 0.073, rmse 2.604 for DPT ViT-B pretrained on ImageNet, with flips and Garg's crop;
the authors' DPT-Hybrid, pretrained on MiDaS's data, reaches 0.062 and 2.575 in BTS's evaluation,
without flips (EVALUATION.md of isl-org/DPT). This file starts from random weights unless
`--config.init_from` names an encoder or a DPT (see README.md), and evaluates the whole benchmark
crop of the 652 test images with ground truth, without Garg's crop and flips; nobody has run it in
full yet.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """The config of the recipe."""
    c = common.default()
    c.model.variant = "dpt_base"
    c.model.dtype = "bfloat16"
    c.model.head.type = "depth"
    c.model.head.activation = "sigmoid"
    c.model.head.max_depth = 80.0
    c.data.source = "kitti"
    c.data.threads = 8
    c.data.augment.recipe = "bts_kitti"
    c.loss.min_depth = 1.0
    c.loss.max_depth = 80.0
    c.optimizer.learning_rate = 1e-4
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 1500
    c.train.steps = 34_700  # 24 epochs
    c.train.batch_size = 16
    c.train.log_every = 100
    c.train.evaluate_every = 3000
    c.train.checkpoint_every = 1000
    c.eval.batch_size = 8
    c.eval.min_depth = 1e-3
    c.eval.max_depth = 80.0
    return c
