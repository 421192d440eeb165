# SPDX-License-Identifier: Apache-2.0
"""Depth as the expectation over fixed bins, whose weights are what the network computes.

Bins and norms are those of DINOv3's CHMv2 (arXiv 2603.06382), as in transformers.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpt_jax.models import layers
from dpt_jax.models.heads import convolve_and_upsample
from dpt_jax.models.neck import Fused

Bins = Literal["linear", "log", "mixlog"]
BinsNorm = Literal["linear", "softmax", "sigmoid", "mixlog"]

# CHMv2 places its mixed bins in an eighth of the range, and its mixed norm multiplies by 8.
_MIXLOG_SCALE = 8


def bin_centers(kind: Bins, count: int, min_depth: float, max_depth: float) -> np.ndarray:
    """The depth that each of `count` bins stands for, ascending, float32.

    Args:
        kind: equidistant ("linear") or with equal ratios ("log"); "mixlog" goes from the latter at
            its first bin to the former at its last, up to an eighth of `max_depth`.
        count: at least 2.
        min_depth: of the first bin; above 0 unless `kind` is "linear".
        max_depth: of the last bin.

    Raises:
        ValueError: an unknown kind, or a range that it does not have.
    """
    if kind not in get_args(Bins):
        raise ValueError(f"model.head.bins {kind!r} is not one of {get_args(Bins)}")
    last = max_depth / _MIXLOG_SCALE if kind == "mixlog" else max_depth
    if not (0 < min_depth or (kind == "linear" and min_depth == 0)) or not min_depth < last:
        raise ValueError(
            f"model.head.min_depth={min_depth} and max_depth={max_depth} are no range for {kind} "
            "bins"
        )
    linear = np.linspace(min_depth, last, count)
    if kind == "linear":
        return linear.astype(np.float32)
    log = np.exp(np.linspace(np.log(min_depth), np.log(last), count))
    if kind == "log":
        return log.astype(np.float32)
    share = np.linspace(1, 0, count)
    return (share * log + (1 - share) * linear).astype(np.float32)


def expected_depth(weights: Float[Array, "b h w k"], centers: np.ndarray) -> Float[Array, "b h w"]:
    """The mean of `centers` (k) under non-negative `weights`, which need not sum to 1."""
    # No matmul: its default precision on accelerators is a relative error of 1e-3.
    return jnp.sum(weights / weights.sum(-1, keepdims=True) * centers, axis=-1)


_WEIGHTS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: nn.relu(x) + 0.1,
    "softmax": nn.softmax,
    "sigmoid": nn.sigmoid,
    "mixlog": lambda x: nn.relu(x) + 1e-8,
}


def binned_depth(
    outputs: Float[Array, "b h w k"], bins: Bins, norm: BinsNorm, min_depth: float, max_depth: float
) -> Float[Array, "b h w"]:
    """Depth from a network's outputs; arguments as the attributes of `BinnedDepthHead`."""
    if norm not in _WEIGHTS:
        raise ValueError(f"model.head.norm {norm!r} is not one of {tuple(_WEIGHTS)}")
    centers = bin_centers(bins, outputs.shape[-1], min_depth, max_depth)
    depth = expected_depth(_WEIGHTS[norm](outputs), centers)
    return _MIXLOG_SCALE * depth if norm == "mixlog" else depth


class BinnedDepthHead(nn.Module):
    """The convolutions of `DepthHead`, then depth as an expectation over bins: CHMv2's head.

    Attributes:
        head_hidden_size: channels of the second convolution.
        num_bins: channels of the last one. A single one is not a bin: its ReLU plus `min_depth` is
            the depth.
        min_depth: of the first bin, metres.
        max_depth: of the last bin, metres.
        bins: see `bin_centers`.
        norm: how outputs become weights of bins: their ReLU plus 0.1 ("linear") or plus 1e-8
            ("mixlog"), their sigmoid or their exponential ("softmax"), over the sum. "mixlog" also
            multiplies depth by 8, the counterpart of the bins of that name.
    """

    task: ClassVar[str] = "depth"

    head_hidden_size: int = 128
    num_bins: int = 256
    min_depth: float = 0.001
    max_depth: float = 96.0
    bins: Bins = "mixlog"
    norm: BinsNorm = "mixlog"
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, fused: Fused, covered: tuple[int, int] | None = None, *, train: bool = False
    ) -> Float[Array, "b h2 w2"]:
        """Depth from the fused maps."""
        x = fused.maps[-1]
        x = convolve_and_upsample(x, self.head_hidden_size, self.num_bins, None, self.dtype)
        if self.num_bins == 1:
            return nn.relu(x[..., 0]) + self.min_depth
        return binned_depth(x, self.bins, self.norm, self.min_depth, self.max_depth)
