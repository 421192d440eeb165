# SPDX-License-Identifier: Apache-2.0
"""DINOv3's Vision Transformer (arXiv 2508.10104) as a backbone with taps.

Differences from DINOv2: positions are rotations of queries and keys (RoPE) by the patches' places
within the image, so that any rectangle is native; a bias for each projection on its own; and the
final norm is always applied to a tap of the last block. The encoder stops at the last tap;
registers take part in attention and are not handed on.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.models import layers
from dpt_jax.models.dinov2 import LayerScale
from dpt_jax.models.vit import Features

# Shift, jitter and rescale that change nothing; HF has null for each.
NO_AUGMENTATION = (0.0, 1.0, 1.0)


def patch_centers(grid: tuple[int, int]) -> Float[Array, "h*w 2"]:
    """(y, x) of the patches' centres row by row, the image's borders being at -1 and 1."""
    y, x = (2 * (jnp.arange(size) + 0.5) / size - 1 for size in grid)
    return jnp.stack(jnp.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def augment_centers(
    centers: Float[Array, "n 2"],
    key: Array,
    shift: float,
    jitter: float,
    rescale: float,
) -> Float[Array, "n 2"]:
    """What training does to the places of patches: one draw for a whole batch.

    Args:
        centers: see `patch_centers`.
        key: of the random numbers.
        shift: y and x move by uniform numbers within +-shift;
        jitter: then are multiplied by log-uniform ones within 1/jitter..jitter;
        rescale: then both by one within 1/rescale..rescale.
    """
    keys = jax.random.split(key, 3)
    centers = centers + jax.random.uniform(keys[0], (2,), minval=-shift, maxval=shift)
    for key, size, factor in ((keys[1], 2, jitter), (keys[2], 1, rescale)):
        limit = math.log(factor)
        centers *= jnp.exp(jax.random.uniform(key, (size,), minval=-limit, maxval=limit))
    return centers


def rotations(
    centers: Float[Array, "n 2"], head_dim: int, theta: float, prefix: int
) -> tuple[Float[Array, "prefix+n e"], Float[Array, "prefix+n e"]]:
    """Cosines and sines of the angles by which RoPE turns each token; the `prefix` ones not at all.

    A quarter of the channels have frequencies 1 to 1 / theta of y, the next one of x, and the other
    half are the partners of both, as in transformers.
    """
    quarter = head_dim // 4
    frequencies = 2 * math.pi / theta ** (jnp.arange(quarter) / quarter)
    angles = (centers[:, :, None] * frequencies).reshape(-1, 2 * quarter)
    angles = jnp.pad(jnp.tile(angles, (1, 2)), ((prefix, 0), (0, 0)))
    return jnp.cos(angles), jnp.sin(angles)


def _rotate(
    x: Float[Array, "b n heads e"], cos: Float[Array, "n e"], sin: Float[Array, "n e"]
) -> Float[Array, "b n heads e"]:
    first, second = jnp.split(x, 2, axis=-1)
    return x * cos[:, None] + jnp.concatenate([-second, first], axis=-1) * sin[:, None]


class _Embeddings(nn.Module):
    hidden_size: int
    patch_size: int
    num_channels: int
    num_register_tokens: int
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"]) -> Features:
        patches = layers.PatchEmbeddings(
            self.hidden_size,
            self.patch_size,
            self.num_channels,
            self.dtype,
            name="patch_embeddings",
        )(pixels)
        b, h, w, d = patches.shape
        init = nn.initializers.truncated_normal(self.initializer_range)
        prefix = self.param("cls_token", init, (1, 1, d), jnp.float32)
        if self.num_register_tokens:
            shape = (1, self.num_register_tokens, d)
            registers = self.param("register_tokens", init, shape, jnp.float32)
            prefix = jnp.concatenate([prefix, registers], axis=1)
        prefix = jnp.broadcast_to(prefix.astype(self.dtype), (b, prefix.shape[1], d))
        tokens = jnp.concatenate([prefix, patches.reshape(b, h * w, d)], axis=1)
        return Features((tokens,), (h, w))


class _Attention(nn.Module):
    num_heads: int
    query_bias: bool
    key_bias: bool
    value_bias: bool
    proj_bias: bool
    attention_dropout: float
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], rotation: tuple[Array, Array], *, train: bool
    ) -> Float[Array, "b n d"]:
        b, n, d = x.shape

        def dense(name: str, use_bias: bool) -> nn.Dense:
            init = nn.initializers.truncated_normal(self.initializer_range)
            return nn.Dense(d, use_bias=use_bias, kernel_init=init, dtype=self.dtype, name=name)

        query, key, value = (
            dense(name, use_bias)(x).reshape(b, n, self.num_heads, -1)
            for name, use_bias in (
                ("q_proj", self.query_bias),
                ("k_proj", self.key_bias),
                ("v_proj", self.value_bias),
            )
        )
        query, key = _rotate(query, *rotation), _rotate(key, *rotation)
        mixed = layers.attend(query, key, value, dropout=self.attention_dropout, train=train)
        return dense("o_proj", self.proj_bias)(mixed)


class _MLP(nn.Module):
    """Two linear layers; or gated, where the activation of one multiplies another."""

    width: int
    gated: bool
    use_bias: bool
    hidden_act: str
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        def dense(features: int, name: str) -> nn.Dense:
            init = nn.initializers.truncated_normal(self.initializer_range)
            return nn.Dense(
                features, use_bias=self.use_bias, kernel_init=init, dtype=self.dtype, name=name
            )

        act = layers.activation(self.hidden_act)
        y = dense(self.width, "up_proj")(x)
        y = act(dense(self.width, "gate_proj")(x)) * y if self.gated else act(y)
        return dense(x.shape[-1], "down_proj")(y)


class _Block(nn.Module):
    attention: dict
    mlp: dict
    layer_norm_eps: float
    layerscale_value: float
    drop_path: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], rotation: tuple[Array, Array], train: bool
    ) -> Float[Array, "b n d"]:
        path = nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)
        y = layers.layer_norm(self.layer_norm_eps, "norm1", self.dtype)(x)
        attention = _Attention(**self.attention, dtype=self.dtype, name="attention")
        y = attention(y, rotation, train=train)
        x = x + path(LayerScale(self.layerscale_value, self.dtype, name="layer_scale1")(y))
        y = layers.layer_norm(self.layer_norm_eps, "norm2", self.dtype)(x)
        y = _MLP(**self.mlp, dtype=self.dtype, name="mlp")(y)
        x = x + path(LayerScale(self.layerscale_value, self.dtype, name="layer_scale2")(y))
        return layers.constrain_batch(x)


class DINOv3(nn.Module):
    """DINOv3's ViT as a backbone. Field names and defaults are those of HF's `DINOv3ViTConfig`.

    Attributes:
        rope_theta: the largest over the smallest frequency of RoPE.
        image_size: side in pixels of the images it is meant for; changes nothing.
        use_gated_mlp: whether the MLP is gated (SwiGLU with `hidden_act="silu"`).
        num_register_tokens: 4 in the public checkpoints.
        pos_embed_shift: see `augment_centers`, for which training needs rng "dropout"; 0 for none.
        pos_embed_jitter: likewise; 1 for none.
        pos_embed_rescale: likewise; 1 for none.
        apply_layernorm: whether taps before the last block go through the final norm as well.
        out_indices: 0-based blocks that feed the neck, ascending (HF's stage numbers less 1).
    """

    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    intermediate_size: int = 1536
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    rope_theta: float = 100.0
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_gated_mlp: bool = False
    num_register_tokens: int = 0
    pos_embed_shift: float = 0.0
    pos_embed_jitter: float = 1.0
    pos_embed_rescale: float = 2.0
    apply_layernorm: bool = True
    out_indices: tuple[int, ...] = (2, 5, 8, 11)
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Class token and patch tokens after each tapped block."""
        layers.check_taps(self.out_indices, self.num_hidden_layers)
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                f"model.backbone.hidden_size {self.hidden_size} is not a multiple of 4 times "
                f"num_attention_heads {self.num_attention_heads}"
            )
        init, registers = self.initializer_range, self.num_register_tokens
        embedded = _Embeddings(
            self.hidden_size,
            self.patch_size,
            self.num_channels,
            registers,
            init,
            self.dtype,
            name="embeddings",
        )(pixels)
        rotation = self._rotation(embedded.grid, train)
        block = {
            "attention": {
                "num_heads": self.num_attention_heads,
                "query_bias": self.query_bias,
                "key_bias": self.key_bias,
                "value_bias": self.value_bias,
                "proj_bias": self.proj_bias,
                "attention_dropout": self.attention_dropout,
                "initializer_range": init,
            },
            "mlp": {
                "width": self.intermediate_size,
                "gated": self.use_gated_mlp,
                "use_bias": self.mlp_bias,
                "hidden_act": self.hidden_act,
                "initializer_range": init,
            },
            "layer_norm_eps": self.layer_norm_eps,
            "layerscale_value": self.layerscale_value,
            "drop_path": self.drop_path_rate,
        }
        norm = layers.layer_norm(self.layer_norm_eps, "norm", self.dtype)
        x, taps = embedded.taps[0], []
        for i in range(max(self.out_indices) + 1):
            x = _Block(**block, dtype=self.dtype, name=f"layer_{i}")(x, rotation, train)
            if i in self.out_indices:
                normed = self.apply_layernorm or i == self.num_hidden_layers - 1
                y = norm(x) if normed else x
                taps.append(jnp.concatenate([y[:, :1], y[:, 1 + registers :]], axis=1))
        return Features(tuple(taps), embedded.grid)

    def _rotation(self, grid: tuple[int, int], train: bool) -> tuple[Array, Array]:
        centers = patch_centers(grid)
        ranges = (self.pos_embed_shift, self.pos_embed_jitter, self.pos_embed_rescale)
        if train and ranges != NO_AUGMENTATION:
            centers = augment_centers(centers, self.make_rng("dropout"), *ranges)
        head_dim = self.hidden_size // self.num_attention_heads
        prefix = 1 + self.num_register_tokens
        cos, sin = rotations(centers, head_dim, self.rope_theta, prefix)
        return cos.astype(self.dtype), sin.astype(self.dtype)
