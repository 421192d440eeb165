# SPDX-License-Identifier: Apache-2.0
"""DPT-Hybrid's backbone: a ViT whose patches are the last feature map of a BiT ResNetV2.

The maps of the first two ResNet stages are taps too, and need no reassembling. Works on any
rectangle (HF's accepts only squares of exactly `image_size`).
"""

from collections.abc import Mapping
from typing import Any

import flax.core
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.models import layers
from dpt_jax.models.resnetv2 import ResNetV2
from dpt_jax.models.vit import Features, ViT, embed_tokens


class _Backbone(nn.Module):
    bit: Mapping[str, Any]
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"], *, train: bool) -> tuple[Array, ...]:
        return ResNetV2(**self.bit, dtype=self.dtype, name="bit")(pixels, train=train)


class _Embeddings(nn.Module):
    hidden_size: int
    native: int
    bit: Mapping[str, Any]
    num_channels: int
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"], *, train: bool) -> Features:
        if pixels.shape[-1] != self.num_channels:
            raise ValueError(
                f"pixels have {pixels.shape[-1]} channels (b h w c), model.backbone.num_channels "
                f"is {self.num_channels}"
            )
        maps = _Backbone(self.bit, self.dtype, name="backbone")(pixels, train=train)
        patches = layers.conv(self.hidden_size, 1, "projection", dtype=self.dtype)(maps[-1])
        init = nn.initializers.truncated_normal(self.initializer_range)
        cls = self.param("cls_token", init, (1, 1, self.hidden_size), jnp.float32)
        positions = self.param(
            "position_embeddings", init, (1, 1 + self.native**2, self.hidden_size), jnp.float32
        )
        tokens = embed_tokens(cls, patches, positions)
        return Features((*maps[:2], tokens), (patches.shape[1], patches.shape[2]))


class HybridViT(ViT):
    """ViT on ResNet features. Field names and defaults are those of HF's `DPTConfig(is_hybrid)`.

    Taps are the maps of ResNet stages 1 and 2, then the ViT blocks `out_indices`.

    Attributes:
        bit: fields of `resnetv2.ResNetV2`.
        patch_size: stride of the last ResNet stage; with `image_size` the count of position
            embeddings.
        out_indices: 0-based ViT blocks (HF's `backbone_out_indices` without its first two).
    """

    bit: Mapping[str, Any] = flax.core.freeze({})
    out_indices: tuple[int, ...] = (8, 11)

    def _make_embeddings(self) -> nn.Module:
        return _Embeddings(
            self.hidden_size,
            self.image_size // self.patch_size,
            self.bit,
            self.num_channels,
            self.initializer_range,
            self.dtype,
        )
