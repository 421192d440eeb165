# SPDX-License-Identifier: Apache-2.0
"""DPT (Vision Transformers for Dense Prediction) in JAX: train, fine-tune, evaluate and use."""

from dpt_jax.models.dpt import DPT, DPTOutput, build_model
from dpt_jax.predict.predictor import Predictor
from dpt_jax.predict.pretrained import load_pretrained, save_pretrained
from dpt_jax.predict.processor import ImageProcessor

__version__ = "0.1.0"

__all__ = [
    "DPT",
    "DPTOutput",
    "ImageProcessor",
    "Predictor",
    "__version__",
    "build_model",
    "load_pretrained",
    "save_pretrained",
]
