# SPDX-License-Identifier: Apache-2.0
"""What `train.py` and `eval.py` share: readable log lines, and mistakes that end in one line."""

import logging as standard_logging
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, logging

from dpt_jax.data.sources import DatasetError
from dpt_jax.training import ConfigError, TrainingDiverged

# What a person can mend; anything else is a bug here and keeps its traceback.
MENDABLE = (ConfigError, DatasetError, TrainingDiverged, FileNotFoundError, ValueError)


def start(run: Callable[[], None]) -> NoReturn:
    """Parses the command line and calls `run`; exits with 1 and "error: ..." on what can be mended.

    With --verbosity=1 the traceback is printed as well.
    """
    _log_for_people()
    app.run(lambda argv: _run(run, argv), flags_parser=_parse_flags)


def _run(run: Callable[[], None], argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: unknown arguments {' '.join(argv[1:])}")
    try:
        run()
    except MENDABLE as error:
        logging.log(1, "where it was raised:", exc_info=True)
        sys.exit(f"error: {error}")


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:  # ml_collections, with the nearest name
        sys.exit(f"error: unknown key in --config: {str(error.args[0]).replace(chr(10), '. ')}")


def _log_for_people() -> None:
    """Lines of time and message, without the chatter of libraries."""
    logging.set_verbosity(logging.INFO)
    formatter = standard_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    logging.get_absl_handler().setFormatter(formatter)
    for name in ("jax", "orbax", "grain"):
        standard_logging.getLogger(name).setLevel(standard_logging.WARNING)
