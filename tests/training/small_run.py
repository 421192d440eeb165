# SPDX-License-Identifier: Apache-2.0
"""`python small_run.py TASK WORKDIR [key=value ...]`: the quick start, small enough for tests."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from configs import quickstart


def small_config(task):
    c = quickstart.get_config(task)
    c.model.backbone.hidden_size = 32
    c.model.backbone.intermediate_size = 64
    c.model.backbone.num_hidden_layers = 2
    c.model.backbone.out_indices = (0, 1)
    c.model.backbone.hidden_dropout_prob = 0.1
    c.model.neck.hidden_sizes = (8, 16)
    c.model.neck.reassemble_factors = (2.0, 1.0)
    c.model.neck.fusion_hidden_size = 8
    c.data.rooms.size = (32, 48)
    c.data.rooms.train_length = 50
    c.data.rooms.validation_length = 6
    c.data.augment.photometric = "mmseg"
    c.optimizer.warmup_steps = 2
    c.train.steps = 12
    c.train.batch_size = 8
    c.train.log_every = 2
    c.train.evaluate_every = 3
    c.train.checkpoint_every = 2
    c.eval.batch_size = 8
    c.eval.limit = 3
    c.eval.baseline_images = 8
    return c


if __name__ == "__main__":
    from dpt_jax.training import train

    config = small_config(sys.argv[1])
    for override in sys.argv[3:]:
        key, value = override.split("=")
        *groups, last = key.split(".")
        group = config
        for name in groups:
            group = group[name]
        group[last] = json.loads(value)
    train(config, sys.argv[2])
