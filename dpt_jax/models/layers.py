# SPDX-License-Identifier: Apache-2.0
"""Blocks that backbones, necks and heads share, with PyTorch's numerics where they differ from
linen's.

Letters in shapes: `b` batch, `h w` rows and columns, `n` tokens, `c`/`d` channels, `k` classes.
Channels are last everywhere. Parameters are float32; `dtype` is the type that is computed in, and
softmax and the statistics of norms stay in float32 whatever it is.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Dtype = Any

# torch's "gelu" is the exact one; linen's default is the tanh approximation, 5e-4 away.
_exact_gelu = functools.partial(nn.gelu, approximate=False)
_tanh_gelu = functools.partial(nn.gelu, approximate=True)
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _exact_gelu,
    "gelu_python": _exact_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "leaky_relu": nn.leaky_relu,
    "linear": lambda x: x,
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
    "relu": nn.relu,
    "relu2": lambda x: jnp.square(nn.relu(x)),
    "relu6": nn.relu6,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": jnp.tanh,
}


# Convolutions keep the variance of what they read: He's doubled one after a ReLU, LeCun's
# otherwise. The last of a residual branch starts small, so that a deep stack of them starts near
# the identity.
AFTER_RELU = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
AFTER_LINEAR = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
SMALL = nn.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function that Hugging Face calls `name`."""
    if name not in ACTIVATIONS:
        raise ValueError(f"hidden_act {name!r} is not one of {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


def constrain_batch(x: Array) -> Array:
    """Keeps activations sharded over the batch at block boundaries; identity outside a mesh.

    Without it XLA may pick a layout that follows the sharded parameters instead and gather every
    activation, which costs several times the arithmetic under FSDP.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(name for name in ("data", "fsdp") if name in mesh.axis_names)
    if mesh.empty or not axes:
        return x
    return jax.lax.with_sharding_constraint(x, jax.P(axes))


def layer_norm(eps: float, name: str, dtype: Dtype = jnp.float32) -> nn.LayerNorm:
    """LayerNorm with the two-pass variance of PyTorch (linen's fast one loses digits)."""
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, dtype=dtype, name=name)


def batch_norm(train: bool, name: str, dtype: Dtype = jnp.float32) -> nn.BatchNorm:
    """BatchNorm with PyTorch's eps and momentum, over the global batch when that is sharded.

    The running variance is the biased one, as everywhere in JAX; PyTorch stores the unbiased one.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        use_fast_variance=False,
        dtype=dtype,
        name=name,
    )


def conv(
    features: int,
    kernel_size: int,
    name: str,
    *,
    stride: int = 1,
    use_bias: bool = True,
    kernel_init: nn.initializers.Initializer = AFTER_LINEAR,
    dtype: Dtype = jnp.float32,
) -> nn.Conv:
    """A square convolution padded by `kernel_size // 2` on **both** sides.

    linen's "SAME" pads (0, 1) at stride 2 on even sizes, which is another function than PyTorch's.
    """
    pad = kernel_size // 2
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=dtype,
        name=name,
    )


class TransposedConv(nn.Module):
    """Transposed convolution with kernel = stride: each pixel becomes a `factor` x `factor` patch.

    Nothing overlaps, so it is one matmul and a depth-to-space. The kernel is stored as
    (factor, factor, in, out): entry [i, j] makes row i, column j of the patch.
    """

    features: int
    factor: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h*factor w*factor d"]:
        b, h, w, c = x.shape
        f = self.factor
        # Each output pixel reads one input pixel: the factor is no part of the fan-in.
        init = nn.initializers.variance_scaling(
            1.0, "fan_in", "truncated_normal", batch_axis=(0, 1)
        )
        kernel = self.param("kernel", init, (f, f, c, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        patches = jnp.einsum("bhwc,ijcd->bhiwjd", x.astype(self.dtype), kernel.astype(self.dtype))
        return patches.reshape(b, h * f, w * f, self.features) + bias.astype(self.dtype)


def attend(
    query: Float[Array, "b n heads e"],
    key: Float[Array, "b m heads e"],
    value: Float[Array, "b m heads e"],
    *,
    dropout: float,
    train: bool,
) -> Float[Array, "b n heads*e"]:
    """Scaled dot-product attention; with dropout of probabilities only inside a compact module."""
    b, n, heads, e = query.shape
    if train and dropout > 0:
        scores = jnp.einsum("bqhe,bkhe->bhqk", query, key, preferred_element_type=jnp.float32)
        probabilities = nn.Dropout(dropout, deterministic=False)(nn.softmax(scores / e**0.5))
        out = jnp.einsum("bhqk,bkhe->bqhe", probabilities.astype(query.dtype), value)
    else:
        out = jax.nn.dot_product_attention(query, key, value)
    return out.reshape(b, n, heads * e)


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Attributes:
        fused_qkv: whether queries, keys and values come from one parameter `qkv`, in this order,
            or from the three `query`, `key` and `value`: as the checkpoints have it.
    """

    num_heads: int
    qkv_bias: bool = True
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    dtype: Dtype = jnp.float32
    fused_qkv: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        if d % self.num_heads:
            raise ValueError(
                f"hidden_size {d} is not a multiple of num_attention_heads {self.num_heads}"
            )

        def dense(features: int, name: str) -> Array:
            init = nn.initializers.truncated_normal(self.initializer_range)
            return nn.Dense(
                features, use_bias=self.qkv_bias, kernel_init=init, dtype=self.dtype, name=name
            )(x)

        if self.fused_qkv:
            projections = jnp.split(dense(3 * d, "qkv"), 3, axis=-1)
        else:
            projections = [dense(d, name) for name in ("query", "key", "value")]
        query, key, value = (y.reshape(b, n, self.num_heads, -1) for y in projections)
        return attend(query, key, value, dropout=self.attention_dropout, train=train)


class Dense(nn.Module):
    """A linear layer one level down under the name `dense`, where HF keeps it."""

    features: int
    initializer_range: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n e"]:
        return nn.Dense(
            self.features,
            kernel_init=nn.initializers.truncated_normal(self.initializer_range),
            dtype=self.dtype,
            name="dense",
        )(x)


class Attention(nn.Module):
    """Self-attention and its output projection; fields as in `SelfAttention`."""

    num_heads: int
    qkv_bias: bool = True
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    dtype: Dtype = jnp.float32
    fused_qkv: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        mixed = SelfAttention(
            self.num_heads,
            self.qkv_bias,
            self.attention_dropout,
            self.initializer_range,
            self.dtype,
            self.fused_qkv,
            name="attention",
        )(x, train=train)
        return Dense(x.shape[-1], self.initializer_range, self.dtype, name="output")(mixed)


class PatchEmbeddings(nn.Module):
    """Patches as tokens on their grid: a convolution with kernel = stride = `patch_size`."""

    hidden_size: int
    patch_size: int
    num_channels: int = 3
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b h/p w/p d"]:
        _, h, w, c = pixels.shape
        if c != self.num_channels:
            raise ValueError(
                f"pixels have {c} channels (b h w c), model.backbone.num_channels is "
                f"{self.num_channels}"
            )
        if min(h, w) < self.patch_size:
            raise ValueError(
                f"an image of {h} x {w} pixels (h x w) holds no {self.patch_size} x "
                f"{self.patch_size} patch"
            )
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


def check_taps(out_indices: tuple[int, ...], num_hidden_layers: int) -> None:
    """Refuses taps that are not ascending block numbers; HF would silently drop or reorder them.

    Raises:
        ValueError: naming `model.backbone.out_indices`.
    """
    if (
        not out_indices
        or list(out_indices) != sorted(set(out_indices))
        or not all(0 <= i < num_hidden_layers for i in out_indices)
    ):
        raise ValueError(
            f"model.backbone.out_indices {out_indices} must ascend within "
            f"0..{num_hidden_layers - 1} (num_hidden_layers - 1)"
        )
