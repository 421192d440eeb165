# SPDX-License-Identifier: Apache-2.0
"""Swin Transformer V2 backbone (arXiv 2111.09883) with taps, as in Hugging Face's `Swinv2Backbone`.

Attention in windows, shifted in every other block; cosine similarity with a learned temperature
instead of a dot product; a bias per head and offset from a small MLP on log-spaced coordinates;
norms after the residual branches. Between stages, 2 x 2 positions merge into one. What the public
checkpoints need and one would not guess, all of it as in HF:

* windows and shifts follow from `image_size`, not from the image: a stage whose native map has at
  most `window_size` rows takes that many as its window, and does not shift;
* maps are padded to whole windows with zeros behind the last row and column, and what is padded
  takes part in attention, unmasked;
* the mask between regions that the shift brought together is -200: HF adds its -100 twice, and
  `mask_value` can be set to the -100 of the original;
* the norms of the embeddings and of the merging have an epsilon of 1e-5 whatever `layer_norm_eps`,
  and the output of attention is dropped with `attention_probs_dropout_prob`.

The encoder stops at the last tapped stage, before its merging. HF's `use_absolute_embeddings` is
not here: its position embeddings count one more than the patches, and adding them is an error.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dpt_jax.models import layers
from dpt_jax.models.beit import check_common, relative_index, require
from dpt_jax.models.vit import Features

_EPS = 1e-5  # of the norms that layer_norm_eps does not reach
_MAX_LOGIT_SCALE = float(np.log(100.0))


def _log_offsets(window: int, pretrained: int) -> Float[np.ndarray, "n 2"]:
    """Coordinates of the bias MLP: offsets in units of the pretrained window, on a log scale.

    8 for the largest offset of that window becomes log2(9) / log2(8), as in the paper's code.
    """
    offset = np.arange(1 - window, window) / max((pretrained or window) - 1, 1) * 8
    offset = np.sign(offset) * np.log2(np.abs(offset) + 1) / np.log2(8)
    return np.stack(np.meshgrid(offset, offset, indexing="ij"), -1).reshape(-1, 2)


def _regions(height: int, width: int, window: int, shift: int) -> Int[Array, "m n"]:
    """Which of the 3 x 3 regions of a shifted map each position of each window is in."""

    def axis(size: int) -> np.ndarray:
        i = np.arange(size)
        return (i >= size - window).astype(np.int32) + (i >= size - shift)

    regions = jnp.asarray(axis(height)[:, None] * 3 + axis(width))
    return _to_windows(regions[None, :, :, None], window)[0, :, :, 0]


def _to_windows(x: Float[Array, "b h w c"], window: int) -> Float[Array, "b m n c"]:
    """Cuts a map into m windows of n = window * window positions; both count row by row."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.swapaxes(2, 3).reshape(b, -1, window * window, c)


def _from_windows(
    x: Float[Array, "b m n c"], window: int, h: int, w: int
) -> Float[Array, "b h w c"]:
    b, c = x.shape[0], x.shape[-1]
    x = x.reshape(b, h // window, w // window, window, window, c)
    return x.swapaxes(2, 3).reshape(b, h, w, c)


def _unit(x: Float[Array, "... e"]) -> Float[Array, "... e"]:
    """Vectors of length 1, in float32; zeros, as the keys of padding are, stay zeros."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


class _SelfAttention(nn.Module):
    """Cosine attention within each window. The key projection has no bias vector."""

    num_heads: int
    window: int
    pretrained_window: int
    mask_value: float
    qkv_bias: bool
    dropout: float
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m n d"], regions: Int[Array, "m n"] | None, *, train: bool
    ) -> Float[Array, "b m n d"]:
        d, heads = x.shape[-1], self.num_heads
        init = nn.initializers.truncated_normal(self.initializer_range)
        query, key, value = (
            nn.Dense(
                d,
                use_bias=self.qkv_bias and name != "key",
                kernel_init=init,
                dtype=self.dtype,
                name=name,
            )(x).reshape(*x.shape[:-1], heads, d // heads)
            for name in ("query", "key", "value")
        )
        logit_scale = self.param(
            "logit_scale", nn.initializers.constant(np.log(10.0)), (heads, 1, 1), jnp.float32
        )
        scale = jnp.exp(jnp.minimum(logit_scale[:, 0], _MAX_LOGIT_SCALE))
        query = (_unit(query) * scale).astype(self.dtype)
        key = _unit(key).astype(self.dtype)

        offsets = jnp.asarray(_log_offsets(self.window, self.pretrained_window), jnp.float32)
        hidden = nn.Dense(512, kernel_init=init, name="continuous_position_bias_mlp_0")(offsets)
        table = nn.Dense(
            heads, use_bias=False, kernel_init=init, name="continuous_position_bias_mlp_2"
        )(nn.relu(hidden))
        index = relative_index((self.window, self.window))
        bias = jnp.take(16 * nn.sigmoid(table).T, index, axis=1, mode="clip")[None]
        if regions is not None:
            apart = regions[:, None, :, None] != regions[:, None, None, :]
            bias = bias + jnp.where(apart, self.mask_value, 0.0)

        if train and self.dropout > 0:
            scores = jnp.einsum(
                "bmqhe,bmkhe->bmhqk", query, key, preferred_element_type=jnp.float32
            )
            probabilities = nn.Dropout(self.dropout, deterministic=False)(nn.softmax(scores + bias))
            out = jnp.einsum("bmhqk,bmkhe->bmqhe", probabilities.astype(self.dtype), value)
        else:
            attend = functools.partial(jax.nn.dot_product_attention, bias=bias, scale=1.0)
            out = jax.vmap(attend)(query, key, value)
        return out.reshape(x.shape)


class _Attention(nn.Module):
    """Map to map: pad, shift, cut into windows, attend, and back."""

    attention: dict
    shift: int
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"], *, train: bool) -> Float[Array, "b h w d"]:
        h, w, d = x.shape[1:]
        window, shift = self.attention["window"], self.shift
        y = jnp.pad(x, ((0, 0), (0, -h % window), (0, -w % window), (0, 0)))
        padded_h, padded_w = y.shape[1:3]
        regions = None
        if shift:
            y = jnp.roll(y, (-shift, -shift), (1, 2))
            regions = _regions(padded_h, padded_w, window, shift)
        y = _SelfAttention(
            **self.attention,
            initializer_range=self.initializer_range,
            dtype=self.dtype,
            name="self",
        )(_to_windows(y, window), regions, train=train)
        y = _from_windows(y, window, padded_h, padded_w)
        if shift:
            y = jnp.roll(y, (shift, shift), (1, 2))
        y = layers.Dense(d, self.initializer_range, self.dtype, name="output")(y[:, :h, :w])
        return nn.Dropout(self.attention["dropout"], deterministic=not train)(y)


class _Block(nn.Module):
    attention: dict
    shift: int
    mlp_ratio: float
    hidden_act: str
    layer_norm_eps: float
    hidden_dropout: float
    drop_path: float
    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"], train: bool) -> Float[Array, "b h w d"]:
        d, init, dtype = x.shape[-1], self.initializer_range, self.dtype
        path = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)
        y = _Attention(self.attention, self.shift, init, dtype, name="attention")(x, train=train)
        x = x + path(layers.layer_norm(self.layer_norm_eps, "layernorm_before", dtype)(y))
        y = layers.Dense(int(self.mlp_ratio * d), init, dtype, name="intermediate")(x)
        y = layers.activation(self.hidden_act)(y)
        y = layers.Dense(d, init, dtype, name="output")(y)
        y = nn.Dropout(self.hidden_dropout, deterministic=not train)(y)
        x = x + path(layers.layer_norm(self.layer_norm_eps, "layernorm_after", dtype)(y))
        return layers.constrain_batch(x)


class _PatchMerging(nn.Module):
    """2 x 2 positions to one of twice the channels; odd maps are padded with zeros."""

    initializer_range: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 2*d"]:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        b, h, w, d = x.shape
        # Within the four, rows vary faster than columns.
        x = x.reshape(b, h // 2, 2, w // 2, 2, d).transpose(0, 1, 3, 4, 2, 5)
        x = nn.Dense(
            2 * d,
            use_bias=False,
            kernel_init=nn.initializers.truncated_normal(self.initializer_range),
            dtype=self.dtype,
            name="reduction",
        )(x.reshape(b, h // 2, w // 2, 4 * d))
        return layers.layer_norm(_EPS, "norm", self.dtype)(x)


class _Stage(nn.Module):
    attention: dict
    shift: int
    drop_path_rates: tuple[float, ...]
    merge: bool
    block: dict
    dtype: layers.Dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w d"], *, train: bool
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b h2 w2 d2"]]:
        """The stage's map, and what the next stage reads."""
        for i, drop_path in enumerate(self.drop_path_rates):
            x = _Block(
                self.attention,
                self.shift if i % 2 else 0,
                **self.block,
                drop_path=drop_path,
                dtype=self.dtype,
                name=f"blocks_{i}",
            )(x, train)
        if not self.merge:
            return x, x
        init = self.block["initializer_range"]
        return x, _PatchMerging(init, self.dtype, name="downsample")(x)


class _Encoder(nn.Module):
    stages: tuple[dict, ...]
    out_indices: tuple[int, ...]
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"], *, train: bool) -> tuple[Array, ...]:
        taps = []
        for i, settings in enumerate(self.stages):
            tap, x = _Stage(**settings, dtype=self.dtype, name=f"layers_{i}")(x, train=train)
            if i in self.out_indices:
                taps.append(tap)
        return tuple(taps)


class _Embeddings(nn.Module):
    embed_dim: int
    patch_size: int
    num_channels: int
    dropout: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
        p = self.patch_size
        pixels = jnp.pad(
            pixels, ((0, 0), (0, -pixels.shape[1] % p), (0, -pixels.shape[2] % p), (0, 0))
        )
        x = layers.PatchEmbeddings(
            self.embed_dim, p, self.num_channels, self.dtype, name="patch_embeddings"
        )(pixels)
        x = layers.layer_norm(_EPS, "norm", self.dtype)(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class Swinv2(nn.Module):
    """The backbone of `dpt-swinv2-*`. Field names and defaults are those of HF's `Swinv2Config`.

    Attributes:
        image_size: side in pixels, or (h, w), of the images the model was made for; it decides on
            windows and shifts (by h alone, as in HF). Images may have any size.
        embed_dim: channels of the first stage; every next one has twice as many.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window_size: side of the windows in patches; odd blocks shift them by half of it.
        pretrained_window_sizes: per stage, the window that the bias MLP was trained with if it was
            another one, else 0.
        mask_value: what is added to the scores of positions that the shift only brought together:
            -200 in HF, -100 in timm, with which the public checkpoints were trained.
        drop_path_rate: probability in training, per image, that a residual branch of the last block
            is skipped; it rises linearly from 0 in the first.
        out_indices: 0-based stages that feed the neck, ascending (HF's stage numbers less 1).
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 4
    num_channels: int = 3
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    pretrained_window_sizes: tuple[int, ...] = (0, 0, 0, 0)
    mask_value: float = -200.0
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.1
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    out_indices: tuple[int, ...] = (0, 1, 2, 3)
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Map of each tapped stage i, `b ceil(h/s) ceil(w/s) c` with s = patch_size * 2**i.

        Pixels are padded with zeros to whole patches.
        """
        stages = self._checked_stages()
        x = _Embeddings(
            self.embed_dim,
            self.patch_size,
            self.num_channels,
            self.hidden_dropout_prob,
            self.dtype,
            name="embeddings",
        )(pixels, train=train)
        taps = _Encoder(stages, self.out_indices, self.dtype, name="encoder")(x, train=train)
        return Features(taps, (x.shape[1], x.shape[2]))

    def _stage(self, i: int, rows: int) -> dict:
        rates = np.linspace(0, self.drop_path_rate, sum(self.depths))
        first = sum(self.depths[:i])
        return {
            "attention": {
                "num_heads": self.num_heads[i],
                "window": min(rows, self.window_size),
                "pretrained_window": self.pretrained_window_sizes[i],
                "mask_value": self.mask_value,
                "qkv_bias": self.qkv_bias,
                "dropout": self.attention_probs_dropout_prob,
            },
            "shift": self.window_size // 2 if rows > self.window_size else 0,
            "drop_path_rates": tuple(rates[first : first + self.depths[i]].tolist()),
            "merge": i < max(self.out_indices),
            "block": {
                "mlp_ratio": self.mlp_ratio,
                "hidden_act": self.hidden_act,
                "layer_norm_eps": self.layer_norm_eps,
                "hidden_dropout": self.hidden_dropout_prob,
                "initializer_range": self.initializer_range,
            },
        }

    def _checked_stages(self) -> tuple[dict, ...]:
        count, taps = len(self.depths), self.out_indices
        require(
            self,
            "out_indices",
            len(taps) > 0 and list(taps) == [i for i in range(count) if i in taps],
            f"must ascend within 0..{count - 1} (stages of depths)",
        )
        require(
            self,
            "num_heads",
            len(self.num_heads) == count,
            f"is not one number for each of {count} stages",
        )
        pretrained = self.pretrained_window_sizes
        require(
            self,
            "pretrained_window_sizes",
            len(pretrained) >= count and all(w == 0 or w > 1 for w in pretrained),
            f"is not 0 or a size above 1 for each of {count} stages",
        )
        require(self, "window_size", self.window_size > 0, "is not positive")
        native_rows = check_common(self)[0]
        stages = []
        for i in range(max(taps) + 1):
            rows, channels, heads = native_rows // 2**i, self.embed_dim * 2**i, self.num_heads[i]
            require(self, "image_size", rows > 0, f"leaves no row of patches to stage {i}")
            require(
                self,
                "num_heads",
                channels % heads == 0,
                f"do not divide {channels} channels in stage {i}",
            )
            stages.append(self._stage(i, rows))
        return tuple(stages)
