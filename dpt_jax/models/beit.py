# SPDX-License-Identifier: Apache-2.0
"""BEiT backbone (arXiv 2106.08254) with taps, as in Hugging Face's `BeitBackbone`.

A ViT whose attention scores carry a learned bias per head and relative position, and whose residual
branches are scaled per channel (LayerScale). The bias table is resized to the grid of the image, as
MiDaS 3.1 (arXiv 2307.14460) does. Differences from HF, on purpose:

* `image_size` may be a rectangle. HF exchanges height and width of the bias table of one, and takes
  the square root of its number of position embeddings: wrong or an error. On squares, all that was
  ever published, the two agree; and so they do for images of any shape;
* the encoder stops at the last tapped block; the final norm, which taps never pass, is absent, and
  with it HF's `use_mean_pooling`, which only chooses that norm.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpt_jax.models import layers, resize
from dpt_jax.models.vit import Features


def require(backbone: Any, key: str, holds: bool, rule: str) -> None:
    """Raises ValueError "model.backbone.`key` <its value> `rule`" unless it `holds`."""
    if not holds:
        raise ValueError(f"model.backbone.{key} {getattr(backbone, key)!r} {rule}")


def check_common(backbone: Any) -> tuple[int, int]:
    """Checks the settings that BEiT and Swinv2 share; returns (h, w) of the native patch grid."""
    known = ", ".join(sorted(layers.ACTIVATIONS))
    require(
        backbone, "hidden_act", backbone.hidden_act in layers.ACTIVATIONS, f"is not one of {known}"
    )
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
        require(backbone, key, 0 <= getattr(backbone, key) < 1, "is not a probability below 1")
    patch, size = backbone.patch_size, backbone.image_size
    require(backbone, "patch_size", isinstance(patch, int) and patch > 0, "is not a side in pixels")
    sides = (size, size) if isinstance(size, int) else tuple(size)
    require(
        backbone,
        "image_size",
        len(sides) == 2 and min(sides) >= patch,
        f"is not a side or (h, w) in pixels, at least patch_size {patch}",
    )
    return sides[0] // patch, sides[1] // patch


def relative_index(grid: tuple[int, int]) -> Int[Array, "h*w h*w"]:
    """Rows of a table of the (2h-1) * (2w-1) offsets, (1-h, 1-w) first, for each pair of positions.

    Entry [q, k] is the row of the offset from position k to position q; positions of the grid count
    row by row. It is computed in the program instead of embedded in it: all layers use it, and that
    of a 32 x 32 grid has a million entries.
    """
    h, w = grid
    down, right = (jnp.arange(n)[:, None] - jnp.arange(n) + n - 1 for n in grid)
    index = down[:, None, :, None] * (2 * w - 1) + right[None, :, None, :]
    return index.reshape(h * w, h * w)


class _RelativePositionBias(nn.Module):
    """A table with a row per offset in the native grid, and three more that involve the class
    token: class to patch, patch to class, class to class.
    """

    num_heads: int
    native_grid: tuple[int, int]

    @nn.compact
    def __call__(self, grid: tuple[int, int]) -> Float[Array, "heads 1+h*w 1+h*w"]:
        height, width = (2 * n - 1 for n in self.native_grid)
        table = self.param(
            "relative_position_bias_table",
            nn.initializers.zeros,
            (height * width + 3, self.num_heads),
            jnp.float32,
        )
        offsets = resize.bilinear(
            table[:-3].reshape(1, height, width, self.num_heads),
            (2 * grid[0] - 1, 2 * grid[1] - 1),
            align_corners=False,
        ).reshape(-1, self.num_heads)
        count = offsets.shape[0]
        index = jnp.pad(relative_index(grid), ((1, 0), (0, 0)), constant_values=count)
        index = jnp.pad(index, ((0, 0), (1, 0)), constant_values=count + 1).at[0, 0].set(count + 2)
        return jnp.take(jnp.concatenate([offsets, table[-3:]]).T, index, axis=1, mode="clip")


class _Embeddings(nn.Module):
    hidden_size: int
    patch_size: int
    num_channels: int
    native_grid: tuple[int, int]
    use_absolute_position_embeddings: bool
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
        if self.use_absolute_position_embeddings:
            native = self.native_grid
            count = 1 + native[0] * native[1]
            positions = self.param("position_embeddings", init, (1, count, d), jnp.float32)
            cls = cls + positions[:, :1]
            grid = resize.bicubic(positions[:, 1:].reshape(1, *native, d), (h, w))
            patches = patches + grid.astype(self.dtype)
        cls = jnp.broadcast_to(cls.astype(self.dtype), (b, 1, d))
        tokens = jnp.concatenate([cls, patches.reshape(b, h * w, d)], axis=1)
        tokens = nn.Dropout(self.dropout, deterministic=not train)(tokens)
        return Features((tokens,), (h, w))


class _SelfAttention(nn.Module):
    """Self-attention with a bias per pair of tokens. The key projection has no bias vector."""

    num_heads: int
    native_grid: tuple[int, int] | None
    attention_dropout: float
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        grid: tuple[int, int],
        bias: Float[Array, "heads n n"] | None,
        *,
        train: bool,
    ) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        query, key, value = (
            nn.Dense(
                d,
                use_bias=name != "key",
                kernel_init=nn.initializers.truncated_normal(self.initializer_range),
                dtype=self.dtype,
                name=name,
            )(x).reshape(b, n, self.num_heads, d // self.num_heads)
            for name in ("query", "key", "value")
        )
        if self.native_grid is not None:
            own = _RelativePositionBias(
                self.num_heads, self.native_grid, name="relative_position_bias"
            )(grid)
            bias = own if bias is None else own + bias
        if train and self.attention_dropout > 0:
            scores = jnp.einsum("bqhe,bkhe->bhqk", query, key, preferred_element_type=jnp.float32)
            scores = scores / query.shape[-1] ** 0.5 + (0 if bias is None else bias)
            probabilities = nn.Dropout(self.attention_dropout, deterministic=False)(
                nn.softmax(scores)
            )
            out = jnp.einsum("bhqk,bkhe->bqhe", probabilities.astype(self.dtype), value)
        else:
            out = jax.nn.dot_product_attention(
                query, key, value, None if bias is None else bias[None]
            )
        return out.reshape(b, n, d)


class _Attention(nn.Module):
    num_heads: int
    native_grid: tuple[int, int] | None
    attention_dropout: float
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        grid: tuple[int, int],
        bias: Float[Array, "heads n n"] | None,
        *,
        train: bool,
    ) -> Float[Array, "b n d"]:
        mixed = _SelfAttention(
            self.num_heads,
            self.native_grid,
            self.attention_dropout,
            self.initializer_range,
            self.dtype,
            name="attention",
        )(x, grid, bias, train=train)
        return layers.Dense(x.shape[-1], self.initializer_range, self.dtype, name="output")(mixed)


class _Block(nn.Module):
    num_heads: int
    native_grid: tuple[int, int] | None
    intermediate_size: int
    hidden_act: str
    layer_norm_eps: float
    layer_scale_init_value: float
    hidden_dropout: float
    attention_dropout: float
    drop_path: float
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        grid: tuple[int, int],
        bias: Float[Array, "heads n n"] | None,
        train: bool,
    ) -> Float[Array, "b n d"]:
        def scale_and_drop(y: Array, name: str) -> Array:
            y = nn.Dropout(self.hidden_dropout, deterministic=not train)(y)
            if self.layer_scale_init_value > 0:
                init = nn.initializers.constant(self.layer_scale_init_value)
                y = y * self.param(name, init, y.shape[-1:], jnp.float32).astype(self.dtype)
            return nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)(y)

        init, dtype = self.initializer_range, self.dtype
        y = layers.layer_norm(self.layer_norm_eps, "layernorm_before", dtype)(x)
        y = _Attention(
            self.num_heads, self.native_grid, self.attention_dropout, init, dtype, name="attention"
        )(y, grid, bias, train=train)
        x = x + scale_and_drop(y, "lambda_1")
        y = layers.layer_norm(self.layer_norm_eps, "layernorm_after", dtype)(x)
        y = layers.Dense(self.intermediate_size, init, dtype, name="intermediate")(y)
        y = layers.activation(self.hidden_act)(y)
        y = layers.Dense(x.shape[-1], init, dtype, name="output")(y)
        return layers.constrain_batch(x + scale_and_drop(y, "lambda_2"))


class _Encoder(nn.Module):
    out_indices: tuple[int, ...]
    drop_path_rates: tuple[float, ...]
    shared_bias_grid: tuple[int, int] | None
    block: dict
    dtype: layers.Dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], grid: tuple[int, int], *, train: bool
    ) -> tuple[Array, ...]:
        bias = None
        if self.shared_bias_grid is not None:
            bias = _RelativePositionBias(
                self.block["num_heads"], self.shared_bias_grid, name="relative_position_bias"
            )(grid)
        taps = []
        for i in range(max(self.out_indices) + 1):
            drop_path = self.drop_path_rates[i]
            block = _Block(**self.block, drop_path=drop_path, dtype=self.dtype, name=f"layer_{i}")
            x = block(x, grid, bias, train)
            if i in self.out_indices:
                taps.append(x)
        return tuple(taps)


class BEiT(nn.Module):
    """The backbone of `dpt-beit-*`. Field names and defaults are those of HF's `BeitConfig`.

    Attributes:
        image_size: side in pixels of the square, or (h, w) of the rectangle, for whose patch grid
            the bias tables and position embeddings were made; other images get them resized.
        use_absolute_position_embeddings: add position embeddings to the patches (bicubic).
        use_relative_position_bias: a bias table in every block.
        use_shared_relative_position_bias: one bias table for all blocks, added to theirs if any.
        layer_scale_init_value: start of the scales of the residual branches; 0 or less means that
            there are none.
        drop_path_rate: probability in training, per image, that a residual branch of the last block
            is skipped; block i of n has i / (n - 1) of it.
        out_indices: 0-based blocks whose raw outputs feed the neck, ascending (HF's stage numbers
            less 1).
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    num_channels: int = 3
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = False
    use_shared_relative_position_bias: bool = False
    layer_scale_init_value: float = 0.1
    drop_path_rate: float = 0.1
    out_indices: tuple[int, ...] = (2, 5, 8, 11)
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Class token and patch tokens after each tapped block; `pixels` as for a ViT."""
        layers.check_taps(self.out_indices, self.num_hidden_layers)
        heads = self.num_attention_heads
        require(
            self,
            "hidden_size",
            self.hidden_size % heads == 0,
            f"is not a multiple of num_attention_heads {heads}",
        )
        native = check_common(self)
        depth = self.num_hidden_layers
        embedded = _Embeddings(
            self.hidden_size,
            self.patch_size,
            self.num_channels,
            native,
            self.use_absolute_position_embeddings,
            self.hidden_dropout_prob,
            self.initializer_range,
            self.dtype,
            name="embeddings",
        )(pixels, train=train)
        taps = _Encoder(
            self.out_indices,
            tuple(self.drop_path_rate * i / max(depth - 1, 1) for i in range(depth)),
            native if self.use_shared_relative_position_bias else None,
            {
                "num_heads": heads,
                "native_grid": native if self.use_relative_position_bias else None,
                "intermediate_size": self.intermediate_size,
                "hidden_act": self.hidden_act,
                "layer_norm_eps": self.layer_norm_eps,
                "layer_scale_init_value": self.layer_scale_init_value,
                "hidden_dropout": self.hidden_dropout_prob,
                "attention_dropout": self.attention_probs_dropout_prob,
                "initializer_range": self.initializer_range,
            },
            self.dtype,
            name="encoder",
        )(embedded.taps[0], embedded.grid, train=train)
        return Features(taps, embedded.grid)
