# SPDX-License-Identifier: Apache-2.0
"""The vision encoder of TIPSv2 (arXiv 2604.12012) as a backbone with taps.

It is a DINOv2 with one register, which was a second class token in pretraining and which no dense
head reads. Position embeddings are resized bilinearly with antialiasing.
"""

from typing import ClassVar

from dpt_jax.models import resize
from dpt_jax.models.dinov2 import DINOv2


class TIPSv2(DINOv2):
    """TIPSv2 as a backbone. Field names and defaults are those of HF's `Tipsv2VisionConfig`."""

    interpolate_kernel: ClassVar[resize.Kernel] = "bilinear"
    fused_qkv: ClassVar[bool] = True

    image_size: int = 448
    num_register_tokens: int = 1
    interpolate_antialias: bool = True
