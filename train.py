# SPDX-License-Identifier: Apache-2.0
"""Trains a DPT: `python train.py --config configs/quickstart.py --workdir runs/quickstart`.

The same command again resumes. Any key of the config is a flag: `--config.train.steps=100`.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from dpt_jax.data.sources import DatasetError
from dpt_jax.training import ConfigError, TrainingDiverged, train
from dpt_jax.training.log import log_for_people

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, e.g. configs/ade20k.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if missing.")


def main(argv: list[str]) -> None:
    """Runs the recipe; what the user can mend ends in one line instead of a traceback."""
    if len(argv) > 1:
        app.usage(shorthelp=True, detailed_error=f"unknown arguments {argv[1:]}", exitcode=2)
    try:
        train(CONFIG.value, str(WORKDIR.value))
    except (ConfigError, DatasetError, TrainingDiverged, ValueError) as error:
        logging.log(1, "where it was raised:", exc_info=True)  # shown by --verbosity=1
        sys.exit(f"error: {error}")


def parse_flags(argv: list[str]) -> list[str]:
    """Absl's parser, with an unknown config key as a usage error that names the nearest one."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        sys.exit(f"error: unknown key in --config: {str(error.args[0]).replace(chr(10), '. ')}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    log_for_people()
    app.run(main, flags_parser=parse_flags)
