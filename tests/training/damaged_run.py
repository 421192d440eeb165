# SPDX-License-Identifier: Apache-2.0
"""`python damaged_run.py WORKDIR JSON`: a run on rooms of which some cannot be read.

JSON has what `config.data` is to have beside. Exits as `train.py` does. Parameters are zeros and a
step only counts, because to compile more would take most of the time.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax
import jax.numpy as jnp
from small_run import small_config

from dpt_jax import command_line
from dpt_jax.data.sources import DatasetError, build_source
from dpt_jax.training import loop
from dpt_jax.training.step import init_state

BAD = (0, 1, 7, 23)


class Damaged:
    """The training rooms, without those of `BAD`."""

    def __init__(self, rooms):
        self.rooms, self.classes, self.palette = rooms, rooms.classes, rooms.palette

    def __len__(self):
        return len(self.rooms)

    def __getitem__(self, index):
        if index in BAD:
            raise DatasetError(f"damaged: {self.name(index)}")
        return self.rooms[index]

    def name(self, index):
        return self.rooms.name(index)


def build(config, split):
    source = build_source(config, split)
    return Damaged(source) if split == "train" else source


def zeros(*arguments):
    abstract = jax.eval_shape(init_state(*arguments))
    return lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract)


def make_counting_step(*_):
    def step(state, batch):
        assert set(batch) == {"image", "depth"}
        metrics = {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 1.0, "finite": 1.0}
        return state.replace(step=state.step + 1), metrics

    return step


if __name__ == "__main__":
    loop.build_source = build
    loop.init_state, loop.make_train_step = zeros, make_counting_step
    config = small_config("depth")
    config.data.on_error = "quarantine"
    config.data.update(json.loads(sys.argv[2]))
    config.train.steps = 8
    config.train.evaluate_every = 8
    config.eval.limit = 1
    config.eval.baseline_images = 3
    workdir = sys.argv[1]
    sys.argv = sys.argv[:1]
    command_line.start(lambda: loop.train(config, workdir))
