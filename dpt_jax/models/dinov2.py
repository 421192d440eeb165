# SPDX-License-Identifier: Apache-2.0
"""DINOv2 (arXiv 2304.07193), with registers (arXiv 2309.16588) or without, as a backbone with taps.

Differences from a ViT of DPT: patches of 14 pixels, LayerScale, SwiGLU in the giant, and position
embeddings resized bicubically. The encoder stops at the last tap; registers take part in attention
and are not handed on (HF's DPT cannot run a backbone with registers at all).
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.models import layers, resize
from dpt_jax.models.vit import Features


def resize_positions(
    positions: Float[Array, "1 n*n d"],
    grid: tuple[int, int],
    *,
    offset: float,
    antialias: bool,
    kernel: resize.Kernel = "bicubic",
) -> Float[Array, "1 h w d"]:
    """Position embeddings of a square grid for a grid of any size; in float32.

    Args:
        positions: of the patches only, row by row.
        grid: (h, w) wanted.
        offset: 0 resizes to the size of the grid, as HF does. Otherwise by the factor
            (size + offset) / n, which moves the samples: 0.1 in the original DINOv2 and in Depth
            Anything (facebookresearch/dinov2 #378), to keep what their weights were trained with.
        antialias: as in the models with registers.
        kernel: "bilinear" in TIPSv2.
    """
    native = round(positions.shape[1] ** 0.5)
    square = positions.reshape(1, native, native, -1)
    if grid == (native, native):
        return square
    h, w = grid
    scale = ((h + offset) / native, (w + offset) / native) if offset else None
    return resize.interpolate(square, grid, kernel, antialias=antialias, scale=scale)


class _Embeddings(nn.Module):
    hidden_size: int
    patch_size: int
    num_channels: int
    image_size: int
    num_register_tokens: int
    interpolate_offset: float
    interpolate_antialias: bool
    interpolate_kernel: resize.Kernel
    dropout: float
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"], *, train: bool) -> Features:
        patches = layers.PatchEmbeddings(
            self.hidden_size,
            self.patch_size,
            self.num_channels,
            self.dtype,
            name="patch_embeddings",
        )(pixels)
        b, h, w, d = patches.shape
        init = nn.initializers.truncated_normal(self.initializer_range)
        cls = self.param("cls_token", init, (1, 1, d), jnp.float32)
        count = 1 + (self.image_size // self.patch_size) ** 2
        positions = self.param("position_embeddings", init, (1, count, d), jnp.float32)
        grid = resize_positions(
            positions[:, 1:],
            (h, w),
            offset=self.interpolate_offset,
            antialias=self.interpolate_antialias,
            kernel=self.interpolate_kernel,
        )
        prefix = cls + positions[:, :1]
        if self.num_register_tokens:
            shape = (1, self.num_register_tokens, d)
            registers = self.param("register_tokens", init, shape, jnp.float32)
            prefix = jnp.concatenate([prefix, registers], axis=1)
        prefix = jnp.broadcast_to(prefix.astype(self.dtype), (b, prefix.shape[1], d))
        patches = (patches + grid.astype(self.dtype)).reshape(b, h * w, d)
        tokens = jnp.concatenate([prefix, patches], axis=1)
        tokens = nn.Dropout(self.dropout, deterministic=not train)(tokens)
        return Features((tokens,), (h, w))


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch."""

    init_value: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        init = nn.initializers.constant(self.init_value)
        return x * self.param("lambda1", init, (x.shape[-1],), jnp.float32).astype(self.dtype)


class _MLP(nn.Module):
    """Two linear layers; or SwiGLU, whose first is twice as wide: the gate, then what it gates."""

    width: int
    swiglu: bool
    hidden_act: str
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        def dense(features: int, name: str) -> nn.Dense:
            init = nn.initializers.truncated_normal(self.initializer_range)
            return nn.Dense(features, kernel_init=init, dtype=self.dtype, name=name)

        if not self.swiglu:
            y = layers.activation(self.hidden_act)(dense(self.width, "fc1")(x))
            return dense(x.shape[-1], "fc2")(y)
        # Two thirds, rounded up to a multiple of 8: as many parameters as the plain form has.
        width = (int(self.width * 2 / 3) + 7) // 8 * 8
        gate, value = jnp.split(dense(2 * width, "weights_in")(x), 2, axis=-1)
        return dense(x.shape[-1], "weights_out")(nn.silu(gate) * value)


class _Block(nn.Module):
    num_heads: int
    mlp: dict
    qkv_bias: bool
    fused_qkv: bool
    layer_norm_eps: float
    layerscale_value: float
    attention_dropout: float
    drop_path: float
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        init, dtype = self.initializer_range, self.dtype
        path = nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)
        y = layers.layer_norm(self.layer_norm_eps, "norm1", dtype)(x)
        y = layers.Attention(
            self.num_heads,
            self.qkv_bias,
            self.attention_dropout,
            init,
            dtype,
            self.fused_qkv,
            name="attention",
        )(y, train=train)
        x = x + path(LayerScale(self.layerscale_value, dtype, name="layer_scale1")(y))
        y = layers.layer_norm(self.layer_norm_eps, "norm2", dtype)(x)
        y = _MLP(**self.mlp, initializer_range=init, dtype=dtype, name="mlp")(y)
        x = x + path(LayerScale(self.layerscale_value, dtype, name="layer_scale2")(y))
        return layers.constrain_batch(x)


class _Encoder(nn.Module):
    out_indices: tuple[int, ...]
    block: dict
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> list[Array]:
        taps = []
        for i in range(max(self.out_indices) + 1):
            x = _Block(**self.block, dtype=self.dtype, name=f"layer_{i}")(x, train)
            if i in self.out_indices:
                taps.append(x)
        return taps


class DINOv2(nn.Module):
    """DINOv2 as a backbone. Field names and defaults are those of HF's `Dinov2Config`.

    Attributes:
        image_size: side in pixels of the square whose patch grid the position embeddings were made
            for; 518 in every public checkpoint.
        mlp_ratio: width of the MLP relative to hidden_size, before SwiGLU's two thirds.
        num_register_tokens: 0, or 4 in the public checkpoints with registers.
        apply_layernorm: whether taps go through the final norm (Depth Anything) or are raw block
            outputs (the DPT heads of DINOv2).
        interpolate_offset: see `resize_positions`.
        interpolate_antialias: see `resize_positions`.
        out_indices: 0-based blocks that feed the neck, ascending (HF's stage numbers less 1).
    """

    interpolate_kernel: ClassVar[resize.Kernel] = "bicubic"
    fused_qkv: ClassVar[bool] = False

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    qkv_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_swiglu_ffn: bool = False
    num_register_tokens: int = 0
    apply_layernorm: bool = True
    interpolate_offset: float = 0.0
    interpolate_antialias: bool = False
    out_indices: tuple[int, ...] = (2, 5, 8, 11)
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Class token and patch tokens after each tapped block."""
        layers.check_taps(self.out_indices, self.num_hidden_layers)
        embedded = _Embeddings(
            self.hidden_size,
            self.patch_size,
            self.num_channels,
            self.image_size,
            self.num_register_tokens,
            self.interpolate_offset,
            self.interpolate_antialias,
            self.interpolate_kernel,
            self.hidden_dropout_prob,
            self.initializer_range,
            self.dtype,
            name="embeddings",
        )(pixels, train=train)
        taps = _Encoder(
            self.out_indices,
            {
                "num_heads": self.num_attention_heads,
                "mlp": {
                    "width": int(self.hidden_size * self.mlp_ratio),
                    "swiglu": self.use_swiglu_ffn,
                    "hidden_act": self.hidden_act,
                },
                "qkv_bias": self.qkv_bias,
                "fused_qkv": self.fused_qkv,
                "layer_norm_eps": self.layer_norm_eps,
                "layerscale_value": self.layerscale_value,
                "attention_dropout": self.attention_probs_dropout_prob,
                "drop_path": self.drop_path_rate,
                "initializer_range": self.initializer_range,
            },
            self.dtype,
            name="encoder",
        )(embedded.taps[0], train=train)
        if self.apply_layernorm:
            norm = layers.layer_norm(self.layer_norm_eps, "layernorm", self.dtype)
            taps = [norm(x) for x in taps]
        registers = self.num_register_tokens
        if registers:
            taps = [jnp.concatenate([x[:, :1], x[:, 1 + registers :]], axis=1) for x in taps]
        return Features(tuple(taps), embedded.grid)
