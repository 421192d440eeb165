# SPDX-License-Identifier: Apache-2.0
"""NYUv2 metric depth on the training set of BTS (24,231 pairs), tested on the 654 official images.

    python train.py --config configs/nyuv2.py --config.data.root=nyu --workdir runs/nyuv2

`nyu/` holds what BTS's instructions (github.com/cleinc/bts) lead to: `sync/`, its list
`nyudepthv2_train_files_with_gt.txt` and `official_splits/test/`; see dpt_jax/data/sources/nyuv2.py.
With `--config.data.source=nyuv2_mat` it trains on the 795 images of the original file instead.

Border crop, rotation, 416 x 544 crop, flip and colour jitter of BTS; scale-invariant log loss with
lambda 0.85 and weight 10; AdamW, backbone x 0.1. Hardware: 4 accelerators of 24 GB for batch 16.
Expected: Monocular-Depth-Toolbox reports abs_rel 0.135, rmse 0.413 for DPT ViT-B pretrained on
ImageNet, with flips and the Eigen crop. This file starts from random weights unless
`--config.init_from` names an encoder (see README.md), and evaluates without crop and flip; nobody
has run it in full yet.

Over-fit check on a few images, see README.md: `configs/nyuv2.py:overfit`. They lie in
`official_splits/test/` or `sync/` of root, whose `test_files.txt` lists them as BTS's lists do.
"""

import ml_collections

from configs import common


def get_config(recipe: str = "bts") -> ml_collections.ConfigDict:
    """The config; `recipe` is "bts" or "overfit", what follows the colon on the command line."""
    if recipe not in ("bts", "overfit"):
        raise ValueError(f"configs/nyuv2.py:{recipe}: the recipe is bts or overfit")
    c = common.default()
    c.model.variant = "dpt_base"
    c.model.dtype = "bfloat16"
    c.model.head.type = "depth"
    c.model.head.activation = "sigmoid"
    c.model.head.max_depth = 10.0
    c.data.source = "nyuv2"
    c.data.root = "nyu"
    c.data.threads = 8
    c.data.augment.recipe = "bts_nyu"
    c.loss.min_depth = 0.1
    c.loss.max_depth = 10.0
    c.optimizer.learning_rate = 1e-4
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 1500
    c.train.steps = 36_000  # 24 epochs
    c.train.batch_size = 16
    c.train.log_every = 100
    c.train.evaluate_every = 3000
    c.train.checkpoint_every = 1000
    c.eval.batch_size = 8
    if recipe == "overfit":
        _overfit(c)
    return c


def _overfit(c: ml_collections.ConfigDict) -> None:
    """A few images, unaugmented: does the whole chain learn them by heart?"""
    c.model.variant = "dpt_tiny"
    c.model.dtype = "float32"
    c.data.lists.train = "test_files.txt"  # in root
    c.data.lists.validation = "test_files.txt"
    c.data.threads = 2
    c.data.augment.recipe = None
    c.data.augment.crop = (480, 640)
    c.data.augment.flip = 0.0
    c.optimizer.learning_rate = 1e-3
    c.optimizer.warmup_steps = 20
    c.optimizer.clip_norm = 1.0
    c.optimizer.multipliers = ()
    c.train.steps = 250
    c.train.batch_size = 1
    c.train.log_every = 25
    c.train.evaluate_every = 50
    c.train.checkpoint_every = 50
    c.eval.batch_size = 1
