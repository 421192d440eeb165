# SPDX-License-Identifier: Apache-2.0
"""Readout, reassemble, fusion: token maps in, fused feature maps out (arXiv 2103.13413, section 3).

Written so that the arithmetic is done once where the plain form repeats it; the results are the
same: the class token's half of the "project" readout is computed per image instead of per patch,
and the 1x1 convolution of a fusion layer runs before its upsampling (both are linear and commute).
"""

from typing import Literal, get_args

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.models import layers, resize
from dpt_jax.models.vit import Features

ReadoutType = Literal["ignore", "add", "project"]


@flax.struct.dataclass
class Fused:
    """What a neck hands to the heads.

    Attributes:
        maps: output of each fusion layer, coarsest first.
        coarsest: the map that entered the first of them, which ZoeDepth reads as well.
    """

    maps: tuple[Float[Array, "b h w c"], ...]
    coarsest: Float[Array, "b h w c"]


class _ProjectReadout(nn.Module):
    """act(Dense([patch, cls])), without repeating cls over the patches."""

    hidden_act: str
    dtype: layers.Dtype

    @nn.compact
    def __call__(
        self, patches: Float[Array, "b n d"], cls: Float[Array, "b 1 d"]
    ) -> Float[Array, "b n d"]:
        d = patches.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (2 * d, d), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (d,), jnp.float32)
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        return layers.activation(self.hidden_act)(patches @ kernel[:d] + (cls @ kernel[d:] + bias))


class _ReassembleLayer(nn.Module):
    channels: int
    factor: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 c"]:
        x = layers.conv(self.channels, 1, "projection", dtype=self.dtype)(x)
        if self.factor > 1:
            if self.factor != int(self.factor):
                raise ValueError(
                    f"reassemble factor {self.factor}: a factor above 1 must be a whole number"
                )
            return layers.TransposedConv(
                self.channels, int(self.factor), self.dtype, name="resize"
            )(x)
        if self.factor < 1:
            stride = int(1 / self.factor)
            return layers.conv(self.channels, 3, "resize", stride=stride, dtype=self.dtype)(x)
        return x


class _Reassemble(nn.Module):
    channels: tuple[int, ...]
    factors: tuple[float, ...]
    readout_type: ReadoutType
    hidden_act: str
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, features: Features) -> list[Float[Array, "b h w c"]]:
        h, w = features.grid
        maps = []
        for i, tap in enumerate(features.taps):
            if tap.ndim == 4:
                if tap.shape[-1] != self.channels[i]:
                    raise ValueError(
                        f"model.neck.hidden_sizes[{i}]={self.channels[i]}, but that tap of the "
                        f"backbone is a map of {tap.shape[-1]} channels, which is not projected"
                    )
                maps.append(tap)
                continue
            cls, patches = tap[:, :1], tap[:, 1:]
            if self.readout_type == "add":
                patches = patches + cls
            elif self.readout_type == "project":
                patches = _ProjectReadout(
                    self.hidden_act, self.dtype, name=f"readout_projects_{i}_0"
                )(patches, cls)
            x = patches.reshape(patches.shape[0], h, w, patches.shape[-1])
            x = _ReassembleLayer(self.channels[i], self.factors[i], self.dtype, name=f"layers_{i}")(
                x
            )
            maps.append(x)
        return maps


class _ResidualConvUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))): pre-activation, the skip carries x before its ReLU."""

    use_batch_norm: bool
    use_bias: bool
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        y = x
        for i, init in ((1, layers.AFTER_RELU), (2, layers.SMALL)):
            y = layers.conv(
                x.shape[-1],
                3,
                f"convolution{i}",
                use_bias=self.use_bias,
                kernel_init=init,
                dtype=self.dtype,
            )(nn.relu(y))
            if self.use_batch_norm:
                y = layers.batch_norm(train, f"batch_norm{i}", self.dtype)(y)
        return x + y


class _PromptEncoder(nn.Module):
    """A normalised depth map as features: three convolutions with ReLU between them."""

    features: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, depth: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        def conv(name: str, init: nn.initializers.Initializer) -> nn.Conv:
            return layers.conv(self.features, 3, name, kernel_init=init, dtype=self.dtype)

        x = nn.relu(conv("convolution1", layers.AFTER_LINEAR)(depth))
        x = nn.relu(conv("convolution2", layers.AFTER_RELU)(x))
        # Starts small: training begins near the model without a prompt.
        return conv("convolution3", layers.SMALL)(x)


class _FusionLayer(nn.Module):
    use_batch_norm: bool
    use_bias: bool
    dtype: layers.Dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        skip: Float[Array, "b h2 w2 c"] | None,
        prompt: Float[Array, "b h4 w4 1"] | None,
        *,
        size: tuple[int, int],
        train: bool,
    ) -> Float[Array, "b h3 w3 c"]:
        unit = (self.use_batch_norm, self.use_bias, self.dtype)
        if skip is not None:
            # Sizes differ on odd grids only; HF bends the skip, and so do we.
            skip = resize.bilinear(skip, (x.shape[1], x.shape[2]), align_corners=False)
            x = x + _ResidualConvUnit(*unit, name="residual_layer1")(skip, train=train)
        x = _ResidualConvUnit(*unit, name="residual_layer2")(x, train=train)
        if prompt is not None:
            encode = _PromptEncoder(x.shape[-1], self.dtype, name="prompt_depth_layer")
            x = x + encode(resize.bilinear(prompt, (x.shape[1], x.shape[2]), align_corners=False))
        x = layers.conv(x.shape[-1], 1, "projection", dtype=self.dtype)(x)
        return layers.constrain_batch(resize.bilinear(x, size, align_corners=True))


class _Fusion(nn.Module):
    use_batch_norm: bool
    use_bias: bool
    upsample_to_skip: bool
    dtype: layers.Dtype

    @nn.compact
    def __call__(
        self,
        maps: list[Float[Array, "b h w c"]],
        prompt: Float[Array, "b h2 w2 1"] | None,
        *,
        train: bool,
    ) -> list[Float[Array, "b h w c"]]:
        coarse_to_fine = maps[::-1]
        fused, x = [], coarse_to_fine[0]
        for j, skip in enumerate(coarse_to_fine):
            size = (2 * x.shape[1], 2 * x.shape[2])
            if self.upsample_to_skip and j + 1 < len(maps):
                size = coarse_to_fine[j + 1].shape[1:3]
            layer = _FusionLayer(self.use_batch_norm, self.use_bias, self.dtype, name=f"layers_{j}")
            x = layer(x, skip if j else None, prompt, size=size, train=train)
            fused.append(x)
        return fused


class Neck(nn.Module):
    """Taps of `len(hidden_sizes)` depths to as many fused maps. Fields are those of `DPTConfig`.

    Taps that are maps already (ResNet stages of the hybrid, Swin) are not reassembled.

    Attributes:
        hidden_sizes: channels of each map after its reassemble projection (`neck_hidden_sizes`).
        reassemble_factors: size of each map relative to the patch grid: a whole number above 1
            (transposed convolution), 1 (nothing), or below 1 (3x3 convolution of stride int(1/f)).
        readout_type: what becomes of the class token: "ignore" it, "add" it to every patch, or
            "project" its concatenation with every patch.
        fusion_hidden_size: channels of every fused map.
        use_bias_in_fusion_residual: None means: where there is no BatchNorm.
        upsample_to_skip: upsample to the size of the next skip connection (Depth Anything, MiDaS
            3.1) instead of twice the size (DPT), which is another size on odd grids.
        hidden_act: activation of the "project" readout.
        prompt_depth: whether every fusion layer has an encoder of a prompt, a depth map that is
            added to its features (Prompt Depth Anything).
    """

    hidden_sizes: tuple[int, ...] = (96, 192, 384, 768)
    reassemble_factors: tuple[float, ...] = (4, 2, 1, 0.5)
    readout_type: ReadoutType = "project"
    fusion_hidden_size: int = 256
    use_batch_norm_in_fusion_residual: bool = False
    use_bias_in_fusion_residual: bool | None = None
    upsample_to_skip: bool = False
    hidden_act: str = "gelu"
    prompt_depth: bool = False
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Features,
        prompt: Float[Array, "b h w 1"] | None = None,
        *,
        train: bool = False,
    ) -> Fused:
        """Fused maps; the last has 16 * ceil(grid / 2) rows at usual factors.

        Args:
            features: taps of a backbone.
            prompt: depth within 0..1, of any size; None leaves its encoders out.
            train: as in `DPT.__call__`.
        """
        if prompt is not None and not self.prompt_depth:
            raise ValueError("prompt_depth was given, but model.neck.prompt_depth is False")
        if self.prompt_depth and prompt is None and self.is_initializing():
            prompt = jnp.zeros((1, 1, 1, 1))
        if self.readout_type not in get_args(ReadoutType):
            raise ValueError(
                f"model.neck.readout_type {self.readout_type!r} is not one of "
                f"{get_args(ReadoutType)}"
            )
        if not len(features.taps) == len(self.hidden_sizes) == len(self.reassemble_factors):
            raise ValueError(
                "model.backbone.out_indices, model.neck.hidden_sizes and "
                "model.neck.reassemble_factors must have the same length, got "
                f"{len(features.taps)}, {len(self.hidden_sizes)}, {len(self.reassemble_factors)}"
            )
        maps = _Reassemble(
            self.hidden_sizes,
            self.reassemble_factors,
            self.readout_type,
            self.hidden_act,
            self.dtype,
            name="reassemble_stage",
        )(features)
        maps = [
            layers.conv(self.fusion_hidden_size, 3, f"convs_{i}", use_bias=False, dtype=self.dtype)(
                x
            )
            for i, x in enumerate(maps)
        ]
        use_batch_norm = self.use_batch_norm_in_fusion_residual
        use_bias = self.use_bias_in_fusion_residual
        fused = _Fusion(
            use_batch_norm,
            not use_batch_norm if use_bias is None else use_bias,
            self.upsample_to_skip,
            self.dtype,
            name="fusion_stage",
        )(maps, prompt, train=train)
        return Fused(tuple(fused), maps[-1])
