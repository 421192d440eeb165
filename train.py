# SPDX-License-Identifier: Apache-2.0
"""Trains a DPT: `python train.py --config configs/quickstart.py --workdir runs/quickstart`.

The same command again resumes. Any key of the config is a flag: `--config.train.steps=100`.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from dpt_jax.data.sources import DatasetError
from dpt_jax.training import ConfigError, TrainingDiverged, nearest_key, train

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, e.g. configs/ade20k.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if missing.")


def main(argv: list[str]) -> None:
    """Runs the recipe and ends with one line for errors that the user can mend."""
    if len(argv) > 1:
        app.usage(shorthelp=True, detailed_error=f"unknown arguments {argv[1:]}", exitcode=2)
    logging.set_verbosity(logging.INFO)
    try:
        train(CONFIG.value, WORKDIR.value)
    except (ConfigError, DatasetError, TrainingDiverged, ValueError) as error:
        logging.debug("", exc_info=True)
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
