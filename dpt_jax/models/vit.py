# SPDX-License-Identifier: Apache-2.0
"""Vision Transformer backbone (arXiv 2010.11929) with taps, as in Hugging Face's `DPTModel`.

Image in, the tokens of some encoder blocks out. Differences from HF, on purpose:

* any rectangle: position embeddings are resized to the true patch grid, and the grid travels with
the
  tokens (HF takes the square root of the token count: wrong or an error off squares);
* the encoder stops at the last tapped block, and the final norm, which no dense head reads, is
absent.
"""

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.models import layers, resize


@flax.struct.dataclass
class Features:
    """What a backbone hands to the neck: one entry per tap, shallow to deep.

    Attributes:
        tokens: each `b 1+h*w d`, the class token first, then patches row by row.
        grid: (h, w) of the patch grid.
    """

    tokens: tuple[Float[Array, "b n d"], ...]
    grid: tuple[int, int] = flax.struct.field(pytree_node=False)


class _Embeddings(nn.Module):
    hidden_size: int
    patch_size: int
    image_size: int
    dropout: float
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"], *, train: bool) -> Features:
        p = self.patch_size
        grid = (pixels.shape[1] // p, pixels.shape[2] // p)
        if min(grid) < 1:
            raise ValueError(
                f"an image of {pixels.shape[1]} x {pixels.shape[2]} pixels (h x w) holds no "
                f"{p} x {p} patch"
            )
        init = nn.initializers.truncated_normal(self.initializer_range)
        patches = _PatchEmbeddings(
            self.hidden_size, p, self.initializer_range, self.dtype, name="patch_embeddings"
        )(pixels)
        cls = self.param("cls_token", init, (1, 1, self.hidden_size), jnp.float32)
        native = self.image_size // p
        positions = self.param(
            "position_embeddings", init, (1, 1 + native * native, self.hidden_size), jnp.float32
        )
        patch_positions = resize.bilinear(
            positions[:, 1:].reshape(1, native, native, self.hidden_size), grid, align_corners=False
        )
        tokens = jnp.concatenate(
            [
                jnp.broadcast_to(
                    (cls + positions[:, :1]).astype(self.dtype),
                    (patches.shape[0], 1, self.hidden_size),
                ),
                (patches + patch_positions.astype(self.dtype)).reshape(
                    patches.shape[0], -1, self.hidden_size
                ),
            ],
            axis=1,
        )
        tokens = nn.Dropout(self.dropout, deterministic=not train)(tokens)
        return Features((tokens,), grid)


class _PatchEmbeddings(nn.Module):
    hidden_size: int
    patch_size: int
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b h/p w/p d"]:
        # Rows and columns beyond the last whole patch are dropped, as VALID padding does in torch.
        return nn.Conv(
            self.hidden_size,
            (self.patch_size, self.patch_size),
            strides=self.patch_size,
            padding="VALID",
            kernel_init=nn.initializers.lecun_normal(),
            dtype=self.dtype,
            name="projection",
        )(pixels.astype(self.dtype))


class _Dense(nn.Module):
    """A linear layer one level down under the name `dense`, where HF keeps it."""

    features: int
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n e"]:
        return nn.Dense(
            self.features,
            kernel_init=nn.initializers.truncated_normal(self.initializer_range),
            dtype=self.dtype,
            name="dense",
        )(x)


class _Attention(nn.Module):
    num_heads: int
    qkv_bias: bool
    attention_dropout: float
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        mixed = layers.SelfAttention(
            self.num_heads,
            self.qkv_bias,
            self.attention_dropout,
            self.initializer_range,
            self.dtype,
            name="attention",
        )(x, train=train)
        return _Dense(x.shape[-1], self.initializer_range, self.dtype, name="output")(mixed)


class Block(nn.Module):
    """Pre-norm encoder layer: attention and MLP, each with a residual connection."""

    num_heads: int
    intermediate_size: int
    hidden_act: str
    qkv_bias: bool
    layer_norm_eps: float
    hidden_dropout: float
    attention_dropout: float
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        dropout = nn.Dropout(self.hidden_dropout, deterministic=not train)
        y = layers.layer_norm(self.layer_norm_eps, "layernorm_before", self.dtype)(x)
        y = _Attention(
            self.num_heads,
            self.qkv_bias,
            self.attention_dropout,
            self.initializer_range,
            self.dtype,
            name="attention",
        )(y, train=train)
        x = x + dropout(y)
        y = layers.layer_norm(self.layer_norm_eps, "layernorm_after", self.dtype)(x)
        y = _Dense(self.intermediate_size, self.initializer_range, self.dtype, name="intermediate")(
            y
        )
        y = layers.activation(self.hidden_act)(y)
        y = _Dense(x.shape[-1], self.initializer_range, self.dtype, name="output")(y)
        return layers.constrain_batch(x + dropout(y))


class _Encoder(nn.Module):
    out_indices: tuple[int, ...]
    block: dict
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> tuple[Array, ...]:
        taps = []
        for i in range(max(self.out_indices) + 1):
            x = Block(**self.block, dtype=self.dtype, name=f"layer_{i}")(x, train)
            if i in self.out_indices:
                taps.append(x)
        return tuple(taps)


class ViT(nn.Module):
    """The plain ViT of DPT. Field names and defaults are those of HF's `DPTConfig`.

    Attributes:
        out_indices: 0-based blocks whose raw outputs (before any final norm) feed the neck;
            ascending.
        image_size: side in pixels of the square whose patch grid the position embeddings were made
            for; images of any other size get them resized.
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
    image_size: int = 384
    patch_size: int = 16
    qkv_bias: bool = True
    out_indices: tuple[int, ...] = (2, 5, 8, 11)
    dtype: layers.Dtype = jnp.float32

    def setup(self) -> None:
        taps = self.out_indices
        if list(taps) != sorted(set(taps)) or not all(
            0 <= i < self.num_hidden_layers for i in taps
        ):
            raise ValueError(
                f"model.backbone.out_indices {taps} must ascend within "
                f"0..{self.num_hidden_layers - 1}"
                " (num_hidden_layers - 1)"
            )
        self.embeddings = _Embeddings(
            self.hidden_size,
            self.patch_size,
            self.image_size,
            self.hidden_dropout_prob,
            self.initializer_range,
            self.dtype,
        )
        self.encoder = _Encoder(
            self.out_indices,
            {
                "num_heads": self.num_attention_heads,
                "intermediate_size": self.intermediate_size,
                "hidden_act": self.hidden_act,
                "qkv_bias": self.qkv_bias,
                "layer_norm_eps": self.layer_norm_eps,
                "hidden_dropout": self.hidden_dropout_prob,
                "attention_dropout": self.attention_probs_dropout_prob,
                "initializer_range": self.initializer_range,
            },
            self.dtype,
        )

    def __call__(self, pixels: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        embedded = self.embeddings(pixels, train=train)
        return Features(self.encoder(embedded.tokens[0], train=train), embedded.grid)
