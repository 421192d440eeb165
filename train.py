# SPDX-License-Identifier: Apache-2.0
"""Trains a DPT: `python train.py --config configs/quickstart.py --workdir runs/quickstart`.

The same command again resumes. Any key of the config is a flag: `--config.train.steps=100`.
"""

from absl import flags
from ml_collections import config_flags

from dpt_jax import command_line
from dpt_jax.training import train

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, e.g. configs/ade20k.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if missing.")


def run() -> None:
    """Trains what the flags say."""
    train(CONFIG.value, str(WORKDIR.value))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.start(run)
