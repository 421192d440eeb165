# SPDX-License-Identifier: Apache-2.0
"""Vision Transformer backbone (arXiv 2010.11929) with taps, as in Hugging Face's `DPTModel`.

Image in, the tokens of some encoder blocks out. Differences from HF, on purpose:

* any rectangle: position embeddings are resized to the true patch grid, and the grid travels with
  the tokens (HF takes the square root of the token count: wrong or an error off squares);
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
        taps: each either tokens `b 1+h*w d`, the class token first, then patches row by row; or a
            map `b h w c`, which the neck does not reassemble.
        grid: (h, w) of the patch grid, in which tokens lie.
    """

    taps: tuple[Array, ...]
    grid: tuple[int, int] = flax.struct.field(pytree_node=False)


def embed_tokens(
    cls_token: Float[Array, "1 1 d"],
    patches: Float[Array, "b h w d"],
    positions: Float[Array, "1 1+n*n d"],
) -> Float[Array, "b 1+h*w d"]:
    """Class token and patches with the position embeddings of ViT-DPT: resized bilinearly."""
    b, h, w, d = patches.shape
    native = round((positions.shape[1] - 1) ** 0.5)
    grid = resize.bilinear(
        positions[:, 1:].reshape(1, native, native, d), (h, w), align_corners=False
    )
    first = jnp.broadcast_to((cls_token + positions[:, :1]).astype(patches.dtype), (b, 1, d))
    rest = (patches + grid.astype(patches.dtype)).reshape(b, h * w, d)
    return jnp.concatenate([first, rest], axis=1)


class _Embeddings(nn.Module):
    hidden_size: int
    patch_size: int
    num_channels: int
    image_size: int
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
        init = nn.initializers.truncated_normal(self.initializer_range)
        cls = self.param("cls_token", init, (1, 1, self.hidden_size), jnp.float32)
        count = 1 + (self.image_size // self.patch_size) ** 2
        positions = self.param(
            "position_embeddings", init, (1, count, self.hidden_size), jnp.float32
        )
        tokens = embed_tokens(cls, patches, positions)
        tokens = nn.Dropout(self.dropout, deterministic=not train)(tokens)
        return Features((tokens,), (patches.shape[1], patches.shape[2]))


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
        init, dtype = self.initializer_range, self.dtype
        y = layers.layer_norm(self.layer_norm_eps, "layernorm_before", dtype)(x)
        y = layers.Attention(
            self.num_heads, self.qkv_bias, self.attention_dropout, init, dtype, name="attention"
        )(y, train=train)
        x = x + dropout(y)
        y = layers.layer_norm(self.layer_norm_eps, "layernorm_after", dtype)(x)
        y = layers.Dense(self.intermediate_size, init, dtype, name="intermediate")(y)
        y = layers.activation(self.hidden_act)(y)
        y = layers.Dense(x.shape[-1], init, dtype, name="output")(y)
        return layers.constrain_batch(x + dropout(y))


class Encoder(nn.Module):
    """Blocks up to the last tap; the raw outputs of the tapped ones, before any norm."""

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
    num_channels: int = 3
    qkv_bias: bool = True
    out_indices: tuple[int, ...] = (2, 5, 8, 11)
    dtype: layers.Dtype = jnp.float32

    def setup(self) -> None:
        layers.check_taps(self.out_indices, self.num_hidden_layers)
        self.embeddings = self._make_embeddings()
        self.encoder = Encoder(
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

    def _make_embeddings(self) -> nn.Module:
        return _Embeddings(
            self.hidden_size,
            self.patch_size,
            self.num_channels,
            self.image_size,
            self.hidden_dropout_prob,
            self.initializer_range,
            self.dtype,
        )

    def __call__(self, pixels: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Taps of a batch of images: what the embeddings hand over first, then encoder blocks."""
        embedded = self.embeddings(pixels, train=train)
        *maps, tokens = embedded.taps
        return Features((*maps, *self.encoder(tokens, train=train)), embedded.grid)
