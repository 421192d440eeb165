# SPDX-License-Identifier: Apache-2.0
"""DPT (Vision Transformers for Dense Prediction) in JAX: train, fine-tune, evaluate and use."""

__version__ = "0.1.0"
