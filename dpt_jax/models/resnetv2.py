# SPDX-License-Identifier: Apache-2.0
"""BiT ResNetV2 (arXiv 1912.11370), the convolutional stem of DPT-Hybrid.

Weight-standardised convolutions and GroupNorm; field names and defaults are those of HF's
`BitConfig` as DPT-Hybrid uses it. Feature maps are the outputs of the stages, at strides 4, 8, 16.
"""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpt_jax.models import layers

LayerType = Literal["bottleneck", "preactivation"]
Padding = Literal["SAME", "VALID", "SYMMETRIC"]
Standardization = Literal["variance", "deviation"]


def _pads(
    size: tuple[int, ...], kernel_size: int, stride: int, padding: Padding
) -> tuple[tuple[int, int], ...]:
    """(low, high) per axis; "SAME" is TensorFlow's, which depends on the size of the input."""
    if padding == "VALID":
        return ((0, 0),) * len(size)
    if padding == "SYMMETRIC" or stride == 1:
        symmetric = (stride - 1 + kernel_size - 1) // 2
        return ((symmetric, symmetric),) * len(size)
    totals = [max((-(-n // stride) - 1) * stride + kernel_size - n, 0) for n in size]
    return tuple((total // 2, total - total // 2) for total in totals)


class StdConv(nn.Module):
    """Convolution without bias whose kernel is standardised per output channel (arXiv 1903.10520).

    Attributes:
        standardization: "variance" divides by sqrt(variance + 1e-8), as HF and timm from 0.6 on;
            "deviation" by deviation + 1e-5, as timm 0.4.5, with which isl-org's hybrids were
            trained: predictions differ by up to 1e-4.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: Padding = "SAME"
    standardization: Standardization = "variance"
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        k = self.kernel_size
        init = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
        kernel = self.param("kernel", init, (k, k, x.shape[-1], self.features), jnp.float32)
        centered = kernel - kernel.mean((0, 1, 2))
        variance = jnp.square(centered).mean((0, 1, 2))
        if self.standardization == "variance":
            kernel = centered / jnp.sqrt(variance + 1e-8)
        else:
            kernel = centered / (jnp.sqrt(variance) + 1e-5)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            _pads(x.shape[1:3], k, self.stride, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class _Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1; normed after each convolution, or before (preactivation)."""

    features: int
    stride: int
    first: bool
    layer_type: LayerType
    conv: dict
    num_groups: int
    hidden_act: str
    drop_path: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        act = layers.activation(self.hidden_act)
        middle = _make_divisible(self.features / 4)
        pre = self.layer_type == "preactivation"
        y = act(_group_norm(self.num_groups, "norm1", self.dtype)(x)) if pre else x
        shortcut = x
        if self.first:
            shortcut = _Downsample(
                self.features,
                self.stride,
                None if pre else self.num_groups,
                self.conv,
                self.dtype,
                name="downsample",
            )(y)
        for i, (features, kernel_size, stride) in enumerate(
            ((middle, 1, 1), (middle, 3, self.stride), (self.features, 1, 1)), start=1
        ):
            y = StdConv(features, kernel_size, stride, **self.conv, name=f"conv{i}")(y)
            if pre and i < 3:
                y = act(_group_norm(self.num_groups, f"norm{i + 1}", self.dtype)(y))
            elif not pre:
                y = _group_norm(self.num_groups, f"norm{i}", self.dtype)(y)
                y = act(y) if i < 3 else y
        y = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)(y)
        return y + shortcut if pre else act(y + shortcut)


class _Downsample(nn.Module):
    features: int
    stride: int
    num_groups: int | None
    conv: dict
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        x = StdConv(self.features, 1, self.stride, **self.conv, name="conv")(x)
        return x if self.num_groups is None else _group_norm(self.num_groups, "norm", self.dtype)(x)


class _Embedder(nn.Module):
    features: int
    layer_type: LayerType
    embedding_dynamic_padding: bool
    conv: dict
    num_groups: int
    hidden_act: str
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b h/4 w/4 d"]:
        x = StdConv(self.features, 7, 2, **self.conv, name="convolution")(pixels)
        if self.conv["padding"] != "SAME":
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        if self.layer_type == "bottleneck":
            norm = _group_norm(self.num_groups, "norm", self.dtype)
            x = layers.activation(self.hidden_act)(norm(x))
        if self.embedding_dynamic_padding:
            # Zeros, not minus infinity: different only without the ReLU of a bottleneck stem.
            x = jnp.pad(x, ((0, 0), *_pads(x.shape[1:3], 3, 2, "SAME"), (0, 0)))
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")


class _Stage(nn.Module):
    depth: int
    stride: int
    drop_path: tuple[float, ...]
    layer: dict

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        for i in range(self.depth):
            x = _Bottleneck(
                stride=self.stride if i == 0 else 1,
                first=i == 0,
                drop_path=self.drop_path[i],
                **self.layer,
                name=f"layers_{i}",
            )(x, train)
        return x


class _Encoder(nn.Module):
    depths: tuple[int, ...]
    features: tuple[int, ...]
    drop_path_rate: float
    layer: dict

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> tuple[Array, ...]:
        rates = np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist()
        maps = []
        for i, (depth, features) in enumerate(zip(self.depths, self.features, strict=True)):
            start = sum(self.depths[:i])
            x = _Stage(
                depth,
                1 if i == 0 else 2,
                tuple(rates[start : start + depth]),
                {**self.layer, "features": features},
                name=f"stages_{i}",
            )(x, train)
            maps.append(layers.constrain_batch(x))
        return tuple(maps)


class ResNetV2(nn.Module):
    """Three stages of BiT's ResNetV2-50, or another `depths`.

    Attributes:
        hidden_sizes: channels of each stage, before `width_factor`; entries beyond `depths` are
            not read.
        layer_type: "bottleneck" norms after its convolutions (DPT-Hybrid), "preactivation" before.
        global_padding: "SAME" as in TensorFlow (DPT-Hybrid), "VALID" or "SYMMETRIC".
        embedding_dynamic_padding: whether the stem's pooling is padded as "SAME".
        standardization: formula of weight standardisation, see `StdConv`.
    """

    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024)
    depths: tuple[int, ...] = (3, 4, 9)
    layer_type: LayerType = "bottleneck"
    hidden_act: str = "relu"
    global_padding: Padding = "SAME"
    num_groups: int = 32
    drop_path_rate: float = 0.0
    embedding_dynamic_padding: bool = True
    width_factor: float = 1
    standardization: Standardization = "variance"
    dtype: layers.Dtype = jnp.float32

    def channels(self) -> tuple[int, ...]:
        """Channels of the map of each stage."""
        sizes = self.hidden_sizes[: len(self.depths)]
        return tuple(_make_divisible(size * self.width_factor) for size in sizes)

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h2 w2 d"], ...]:
        """The map of each stage; with padding "SAME" ceil(h / 4), ceil(h / 8), ceil(h / 16)."""
        for name, kinds in (
            ("layer_type", get_args(LayerType)),
            ("global_padding", get_args(Padding)),
            ("standardization", get_args(Standardization)),
        ):
            if getattr(self, name) not in kinds:
                raise ValueError(
                    f"model.backbone.bit.{name} {getattr(self, name)!r} is not one of {kinds}"
                )
        conv = {
            "padding": self.global_padding,
            "standardization": self.standardization,
            "dtype": self.dtype,
        }
        shared = {
            "layer_type": self.layer_type,
            "conv": conv,
            "num_groups": self.num_groups,
            "hidden_act": self.hidden_act,
            "dtype": self.dtype,
        }
        x = _Embedder(
            self.embedding_size,
            embedding_dynamic_padding=self.embedding_dynamic_padding,
            **shared,
            name="embedder",
        )(pixels)
        encoder = _Encoder(
            self.depths, self.channels(), self.drop_path_rate, shared, name="encoder"
        )
        return encoder(x, train)


def _group_norm(num_groups: int, name: str, dtype: layers.Dtype) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups, epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)


def _make_divisible(value: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, but not below 90 % of `value`; as in MobileNet."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
