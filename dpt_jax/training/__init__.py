# SPDX-License-Identifier: Apache-2.0
"""Training: `train(config, workdir)` and what it raises."""

from dpt_jax.training.config import ConfigError
from dpt_jax.training.loop import TrainingDiverged, train

__all__ = ["ConfigError", "TrainingDiverged", "train"]
