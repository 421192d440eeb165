# SPDX-License-Identifier: Apache-2.0
"""ZoeDepth's heads (arXiv 2302.12288): metric depth from a network for relative depth."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.models import layers, resize, zoedepth_bins
from dpt_jax.models.neck import Fused

_DROPOUT = 0.1


def _resize(x: Float[Array, "b h w c"], like: Float[Array, "b h2 w2 d"]) -> Array:
    return resize.bilinear(x, (like.shape[1], like.shape[2]), align_corners=True)


class _RelativeHead(nn.Module):
    """A `DepthHead` whose last features are wanted too; it ends there unless `predict`."""

    add_projection: bool
    num_relative_features: int
    predict: bool
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        channels = x.shape[-1]
        if self.add_projection:
            x = nn.relu(layers.conv(channels, 3, "projection", dtype=self.dtype)(x))
        x = layers.conv(channels // 2, 3, "conv1", dtype=self.dtype)(x)
        x = resize.upsample_x2(x)
        x = nn.relu(layers.conv(self.num_relative_features, 3, "conv2", dtype=self.dtype)(x))
        if not self.predict:
            return x
        depth = nn.relu(layers.conv(1, 1, "conv3", dtype=self.dtype)(x))
        return jnp.concatenate([x, depth], axis=-1)


class _PointwiseMlp(nn.Module):
    hidden_features: int
    features: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        x = nn.relu(layers.conv(self.hidden_features, 1, "conv1", dtype=self.dtype)(x))
        init = layers.AFTER_RELU
        return layers.conv(self.features, 1, "conv2", kernel_init=init, dtype=self.dtype)(x)


class _ConditionalLogBinomial(nn.Module):
    """The distribution over bins; a hidden layer of 1 / `reduction` of its input's channels."""

    n_bins: int
    reduction: int
    min_temp: float
    max_temp: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w n"]:
        x = layers.conv(x.shape[-1] // self.reduction, 1, "mlp_0", dtype=self.dtype)(x)
        x = layers.conv(4, 1, "mlp_2", dtype=self.dtype)(layers.activation("gelu")(x))
        x = nn.softplus(x.astype(jnp.float32)) + 1e-4
        p, heat = x[..., 0] / (x[..., 0] + x[..., 1]), x[..., 2] / (x[..., 2] + x[..., 3])
        temperature = (self.max_temp - self.min_temp) * heat + self.min_temp
        return zoedepth_bins.binomial_probabilities(p, temperature, self.n_bins)


class _SelfAttention(layers.SelfAttention):
    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        mixed = super().__call__(x, train=train)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out_proj")(mixed)


class _TransformerLayer(nn.Module):
    """A layer of "Attention Is All You Need": norms behind the sums, ReLU."""

    num_heads: int
    intermediate_size: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        drop = nn.Dropout(_DROPOUT, deterministic=not train)
        attention = _SelfAttention(
            self.num_heads, attention_dropout=_DROPOUT, dtype=self.dtype, name="self_attn"
        )
        x = x + drop(attention(x, train=train))
        x = layers.layer_norm(1e-5, "norm1", self.dtype)(x)
        y = nn.relu(nn.Dense(self.intermediate_size, dtype=self.dtype, name="linear1")(x))
        y = nn.Dense(x.shape[-1], dtype=self.dtype, name="linear2")(drop(y))
        return layers.layer_norm(1e-5, "norm2", self.dtype)(x + drop(y))


def _positions(count: int, width: int) -> Float[Array, "n d"]:
    """Sines, then cosines, of wavelengths from 2 pi to 2 pi 10000; float32 as in the original."""
    frequency = jnp.exp(jnp.arange(0, width, 2) * (-jnp.log(jnp.float32(10_000)) / width))
    angle = jnp.arange(count, dtype=jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


class _PatchTransformer(nn.Module):
    """What a class token, zero at first, has learnt of the map."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b d"]:
        x = layers.conv(self.hidden_size, 1, "embedding_convPxP", dtype=self.dtype)(x)
        x = x.reshape(x.shape[0], -1, self.hidden_size)
        x = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))
        x = x + _positions(*x.shape[1:]).astype(self.dtype)
        for i in range(self.num_layers):
            layer = _TransformerLayer(
                self.num_heads, self.intermediate_size, self.dtype, name=f"transformer_encoder_{i}"
            )
            x = layer(x, train=train)
        return x[:, 0]


class _Classifier(nn.Module):
    num_domains: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b k"]:
        x = nn.relu(nn.Dense(x.shape[-1], dtype=self.dtype, name="linear1")(x))
        return nn.Dense(self.num_domains, dtype=self.dtype, name="linear2")(x).astype(jnp.float32)


class ZoeDepthHead(nn.Module):
    """Metres, as the mean of bin centres. Fields are those of HF's `ZoeDepthConfig`.

    With several `bin_configurations` each is a domain with its own bins, and a classifier of the
    coarsest map decides for each image which of them predicts, as the paper has it. The authors'
    code and HF add up the logits of a batch and send all of its images one way: the same on batches
    of one image, and wherever the images of a batch agree. All domains are computed and one is
    chosen, which costs little and keeps shapes static. No gradient reaches the classifier: its
    logits are sown as "domain_logits" (collection "intermediates", `b k`) for a loss of their own.

    One and several configurations differ in more than that, in HF as in the original: several have
    narrower hidden layers and do not read the relative depth (so `relative_head.conv3` is unused).

    Attributes:
        head_in_index: which fused map the relative head reads.
        add_projection: an extra conv3x3 + ReLU in front of the relative head.
        num_relative_features: channels of the relative head's last features.
        num_attractors: at each fused map, coarsest first. HF has 16 at each, whatever its
            configuration says, if there are several `bin_configurations`.
        bin_embedding_dim: channels of the features that predict bins.
        attractor_kind: "mean" or "sum" of the pulls of the attractors.
        min_temp: temperatures of the distribution over bins are between this and
        max_temp: this.
        bin_centers_type: "softplus": metres without a bound, `min_depth` and `max_depth` are not
            read. "normed": always between the two.
        bin_configurations: each `n_bins`, `min_depth` and `max_depth` in metres, and `name`, which
            only several need.
        num_patch_transformer_layers: of the classifier of domains, as the three below.
        patch_transformer_hidden_size: its width.
        patch_transformer_intermediate_size: hidden channels of its MLPs.
        patch_transformer_num_attention_heads: its attention heads.
    """

    task: ClassVar[str] = "depth"

    head_in_index: int = -1
    add_projection: bool = False
    num_relative_features: int = 32
    num_attractors: tuple[int, ...] = (16, 8, 4, 1)
    bin_embedding_dim: int = 128
    attractor_kind: zoedepth_bins.AttractorKind = "mean"
    min_temp: float = 0.0212
    max_temp: float = 50.0
    bin_centers_type: zoedepth_bins.BinCentersType = "softplus"
    bin_configurations: tuple[Mapping[str, Any], ...] = (
        {"n_bins": 64, "min_depth": 1e-3, "max_depth": 10.0},
    )
    num_patch_transformer_layers: int = 4
    patch_transformer_hidden_size: int = 128
    patch_transformer_intermediate_size: int = 1024
    patch_transformer_num_attention_heads: int = 4
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, fused: Fused, covered: tuple[int, int] | None = None, *, train: bool = False
    ) -> Float[Array, "b h2 w2"]:
        """Metres from the fused maps, at twice the size of the one that the relative head reads."""
        self._check(len(fused.maps))
        several = len(self.bin_configurations) > 1
        features = _RelativeHead(
            self.add_projection,
            self.num_relative_features,
            not several,
            self.dtype,
            name="relative_head",
        )(fused.maps[self.head_in_index])
        bottleneck = fused.coarsest
        bottleneck = layers.conv(bottleneck.shape[-1], 1, "conv2", dtype=self.dtype)(bottleneck)
        hidden = self.bin_embedding_dim // 2 if several else 128
        embeddings = [
            _PointwiseMlp(hidden, self.bin_embedding_dim, self.dtype, name=name)(x)
            for name, x in (
                ("seed_projector", bottleneck),
                *((f"projectors_{i}", x) for i, x in enumerate(fused.maps)),
            )
        ]
        attracting = [
            embedding + _resize(coarser, embedding) for coarser, embedding in pairwise(embeddings)
        ]
        features = jnp.concatenate([features, _resize(embeddings[-1], features)], axis=-1)
        depths = [
            self._depth(bottleneck, attracting, features, bins) for bins in self.bin_configurations
        ]
        if not several:
            return depths[0]
        summary = _PatchTransformer(
            self.num_patch_transformer_layers,
            self.patch_transformer_hidden_size,
            self.patch_transformer_intermediate_size,
            self.patch_transformer_num_attention_heads,
            self.dtype,
            name="patch_transformer",
        )(bottleneck, train=train)
        logits = _Classifier(len(depths), self.dtype, name="mlp_classifier")(summary)
        self.sow("intermediates", "domain_logits", logits)
        domain = jnp.argmax(logits, axis=-1)[:, None, None, None]
        return jnp.take_along_axis(jnp.stack(depths, axis=1), domain, axis=1)[:, 0]

    def _depth(
        self,
        bottleneck: Float[Array, "b h w c"],
        attracting: list[Array],
        features: Float[Array, "b h2 w2 f"],
        bins: Mapping[str, Any],
    ) -> Float[Array, "b h2 w2"]:
        """Depth by the bins of one domain: first centres from the bottleneck, attractors from
        `attracting`, coarsest first, and the distribution from `features`.
        """
        several = len(self.bin_configurations) > 1
        domain = f"_{bins['name']}" if several else ""
        kind, dim = self.bin_centers_type, self.bin_embedding_dim
        centers = zoedepth_bins.seed_centers(
            _PointwiseMlp(
                dim // 2 if several else 256,
                bins["n_bins"],
                self.dtype,
                name=f"seed_bin_regressor{'s' if several else ''}{domain}",
            )(bottleneck).astype(jnp.float32),
            kind,
        )
        for i, x in enumerate(attracting):
            outputs = self.num_attractors[i] * (2 if kind == "normed" else 1)
            points = _PointwiseMlp(dim, outputs, self.dtype, name=f"attractors{domain}_{i}")(x)
            centers = zoedepth_bins.attract(
                _resize(centers, x),
                zoedepth_bins.attractor_points(points.astype(jnp.float32), kind),
                self.attractor_kind,
            )
        if kind == "normed":
            centers = zoedepth_bins.scaled_centers(centers, bins["min_depth"], bins["max_depth"])
        probabilities = _ConditionalLogBinomial(
            bins["n_bins"],
            4 if several else 2,
            self.min_temp,
            self.max_temp,
            self.dtype,
            name=f"conditional_log_binomial{domain}",
        )(features)
        return jnp.sum(probabilities * _resize(centers, features), axis=-1)

    def _check(self, num_maps: int) -> None:
        """Raises ValueError, naming the key of config.model.head."""
        for key, value, choices in (
            ("bin_centers_type", self.bin_centers_type, get_args(zoedepth_bins.BinCentersType)),
            ("attractor_kind", self.attractor_kind, get_args(zoedepth_bins.AttractorKind)),
        ):
            if value not in choices:
                raise ValueError(f"model.head.{key} {value!r} is not one of {choices}")
        if len(self.num_attractors) != num_maps:
            raise ValueError(
                f"model.head.num_attractors {self.num_attractors} must have an entry for each of "
                f"the {num_maps} fused maps (model.neck.hidden_sizes)"
            )
        if not 0 < self.min_temp <= self.max_temp:
            raise ValueError(
                f"model.head.min_temp={self.min_temp} and max_temp={self.max_temp}: expected "
                "0 < min_temp <= max_temp"
            )
        check_bins(self.bin_configurations)


def check_bins(configurations: tuple[Mapping[str, Any], ...]) -> None:
    """Refuses bins that no head can have.

    Raises:
        ValueError: naming `bin_configurations`.
    """
    known = {"name", "n_bins", "min_depth", "max_depth"}
    for bins in configurations:
        if not known - {"name"} <= set(bins) <= known:
            raise ValueError(
                f"bin_configurations: expected n_bins, min_depth, max_depth and possibly name, got "
                f"{dict(bins)}"
            )
        if bins["n_bins"] < 1 or not 0 < bins["min_depth"] < bins["max_depth"]:
            raise ValueError(
                f"bin_configurations: expected n_bins > 0 and 0 < min_depth < max_depth, got "
                f"{dict(bins)}"
            )
    names = [str(bins.get("name", "")) for bins in configurations]
    # They are parts of parameters' names, in which a number after an underscore is an index.
    word = r"[A-Za-z][A-Za-z0-9]*"
    wrong = [name for name in names if not re.fullmatch(rf"{word}(_{word})*", name)]
    if not names or (len(names) > 1 and (wrong or len(set(names)) < len(names))):
        raise ValueError(
            "bin_configurations: expected one, or several with different names of letters and "
            f"digits (a digit not first, nor after an underscore), got the names {names}"
        )
