# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of ZoeDepth's bins (arXiv 2302.12288, section 3.2), without any parameters.

Each pixel has its own bin centres. A first guess of them at the coarsest resolution is pulled
towards attractor points at four finer ones, and depth is their mean under a binomial distribution
that the network parametrises. Everything is float32: the distribution raises rounding errors to
the power of the number of bins.

There are two types of centres. "softplus": any positive number of metres. "normed": between 0 and
1, for `min_depth` and `max_depth`. The constants are those with which the public models were
trained (isl-org/ZoeDepth, and `modeling_zoedepth.py` of transformers, which reproduces it).
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BinCentersType = Literal["normed", "softplus"]
AttractorKind = Literal["mean", "sum"]


def seed_centers(
    x: Float[Array, "b h w n"], bin_centers_type: BinCentersType
) -> Float[Array, "b h w n"]:
    """The first guess: metres, or the middles of bins whose widths sum to 1."""
    if bin_centers_type == "softplus":
        return nn.softplus(x)
    widths = nn.relu(x) + 1e-3
    widths = widths / widths.sum(-1, keepdims=True)
    return jnp.cumsum(widths, axis=-1) - widths / 2


def attractor_points(
    x: Float[Array, "b h w m"], bin_centers_type: BinCentersType
) -> Float[Array, "b h w a"]:
    """Where centres are pulled to, of the same type as they.

    "normed" predicts pairs to be divided by their sum, but takes the first of each as it is: an
    oversight of isl-org/ZoeDepth with which its models were trained. So `m` is 2 a there.
    """
    return nn.softplus(x) if bin_centers_type == "softplus" else nn.relu(x[..., ::2]) + 1e-3


def attract(
    centers: Float[Array, "b h w n"], points: Float[Array, "b h w a"], kind: AttractorKind
) -> Float[Array, "b h w n"]:
    """Each centre, moved by the mean or sum of d / (1 + 300 d^2) over its distances d to points.

    300 and 2 are what the code of the public models computes with; `attractor_alpha` (1000) and
    `attractor_gamma` of their configurations never reached it.
    """

    # One attractor at a time, and again in the backward pass: all pairs would be the largest
    # tensor of the network.
    @jax.checkpoint
    def add_pull(total: Array, point: Array) -> tuple[Array, None]:
        distance = point[..., None] - centers
        return total + distance / (1 + 300 * distance**2), None

    pull, _ = jax.lax.scan(add_pull, jnp.zeros_like(centers), jnp.moveaxis(points, -1, 0))
    return centers + (pull / points.shape[-1] if kind == "mean" else pull)


def scaled_centers(
    centers: Float[Array, "b h w n"], min_depth: float, max_depth: float
) -> Float[Array, "b h w n"]:
    """Ascending metres within [min_depth, max_depth], of "normed" centres that may have left it."""
    metres = jnp.sort(centers * (max_depth - min_depth) + min_depth, axis=-1)
    return jnp.clip(metres, min_depth, max_depth)


def binomial_probabilities(
    p: Float[Array, "b h w"], temperature: Float[Array, "b h w"], n_bins: int
) -> Float[Array, "b h w n"]:
    """softmax(log Binomial(k; n - 1, p) / temperature) over the bins k = 0 .. n - 1.

    The binomial coefficients are Stirling's approximations, n log n - k log k - (n-k) log(n-k).
    """
    k = np.arange(n_bins, dtype=np.float32)
    last, eps = np.float32(n_bins - 1), np.float32(1e-7)
    coefficients = (last + eps) * np.log(last + eps) - (k + eps) * np.log(k + eps)
    coefficients -= (last - k) * np.log(last - k + eps)
    log_p, log_q = (jnp.log(jnp.clip(x, 1e-4, 1))[..., None] for x in (p, 1 - p))
    y = coefficients + k * log_p + (last - k) * log_q
    return nn.softmax(y / temperature[..., None], axis=-1)
