# SPDX-License-Identifier: Apache-2.0
"""The quick start: `dpt_tiny` learns metric depth, or 14 classes, of procedurally made rooms.

    python train.py --config configs/quickstart.py --workdir runs/quickstart
    python train.py --config configs/quickstart.py:segmentation --workdir
    runs/quickstart_segmentation

Hardware: 2 CPU cores. Needs no data. See README.md for the time it takes and the scores it reaches.
"""

import ml_collections

from configs import common


def get_config(task: str = "depth") -> ml_collections.ConfigDict:
    """The config; `task` is what follows the colon on the command line."""
    if task not in ("depth", "segmentation"):
        raise ValueError(f"configs/quickstart.py:{task}: the task is depth or segmentation")
    c = common.default()
    c.model.variant = "dpt_tiny"
    c.model.head.type = task
    if task == "depth":
        c.model.head.activation = "sigmoid"
        c.model.head.max_depth = 12.0
        c.loss.max_depth = c.eval.max_depth = 12.0
    else:
        c.model.head.num_labels = 14
        c.model.auxiliary_head.use = True
    # The paper has BatchNorm in the decoder for segmentation only; from random weights, and for so
    # few steps, it helps both tasks.
    c.model.neck.use_batch_norm_in_fusion_residual = True
    c.data.source = "rooms"
    c.optimizer.learning_rate = 1e-3 if task == "depth" else 2e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.multipliers = ()  # nothing is pretrained
    c.optimizer.clip_norm = 1.0
    c.optimizer.beta2 = 0.95  # a short run
    c.train.steps = 700
    c.train.batch_size = 16
    c.train.log_every = 25
    c.train.evaluate_every = 200
    c.train.checkpoint_every = 100
    c.eval.batch_size = 20
    c.eval.baseline_images = 200
    return c
