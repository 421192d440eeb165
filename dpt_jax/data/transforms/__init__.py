# SPDX-License-Identifier: Apache-2.0
"""Joint augmentations of an image and its targets: `transform(example, rng) -> example`.

One `np.random.Generator` drives each step, and every geometric step acts on image, label and depth
together. Images stay uint8: they travel to the device as bytes.
"""

from dpt_jax.data.transforms.geometry import Box, Crop, Flip, Pad, Resize, Rotate, Transform
from dpt_jax.data.transforms.network_input import model_input_size, nearest_multiple, resize_image
from dpt_jax.data.transforms.photometric import ColorJitter, PhotoMetricDistortion
from dpt_jax.data.transforms.recipes import RECIPES, augment_settings, build_augmentations
from dpt_jax.data.transforms.sizes import AtLeast, ByFactor, LongSide, Within

__all__ = [
    "RECIPES",
    "AtLeast",
    "Box",
    "ByFactor",
    "ColorJitter",
    "Crop",
    "Flip",
    "LongSide",
    "Pad",
    "PhotoMetricDistortion",
    "Resize",
    "Rotate",
    "Transform",
    "Within",
    "augment_settings",
    "build_augmentations",
    "model_input_size",
    "nearest_multiple",
    "resize_image",
]
