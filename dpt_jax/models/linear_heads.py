# SPDX-License-Identifier: Apache-2.0
"""The heads of TIPSv2-DPT: a convolution and a linear layer, at the size of the finest fused map.

Depth, surface normals and segmentation are models of their own, or one model with a neck and a head
for each of the three (`TaskNecks` with `DenseHead`), as the public checkpoints are stored.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.models import layers
from dpt_jax.models.depth_bins import bin_centers, expected_depth
from dpt_jax.models.heads import LAST, check_num_labels
from dpt_jax.models.neck import Fused, Neck
from dpt_jax.models.vit import Features

TASKS = ("depth", "normals", "segmentation")


def _project(
    fused: Fused, outputs: int, hidden_act: str, dtype: layers.Dtype
) -> Float[Array, "b h w k"]:
    """conv3x3, activation and linear layer on the finest map; parameters of the caller."""
    x = fused.maps[-1]
    x = layers.conv(x.shape[-1], 3, "project", dtype=dtype)(x)
    x = layers.activation(hidden_act)(x)
    return nn.Dense(outputs, kernel_init=LAST, dtype=dtype, name="head")(x).astype(jnp.float32)


class LinearDepthHead(nn.Module):
    """Depth as the expectation over equidistant bins.

    Attributes:
        num_bins: outputs of the linear layer; a bin's weight is the ReLU of its output, plus
            `min_depth`, over the sum of all.
        min_depth: of the first bin, metres.
        max_depth: of the last bin, metres.
        hidden_act: between convolution and linear layer (`depth_decoder_activation`).
    """

    task: ClassVar[str] = "depth"

    num_bins: int = 256
    min_depth: float = 0.001
    max_depth: float = 10.0
    hidden_act: str = "relu"
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, fused: Fused, covered: tuple[int, int] | None = None, *, train: bool = False
    ) -> Float[Array, "b h w"]:
        """Depth from the finest fused map."""
        if self.min_depth <= 0:
            raise ValueError(f"model.head.min_depth={self.min_depth} must be above 0")
        x = _project(fused, self.num_bins, self.hidden_act, self.dtype)
        centers = bin_centers("linear", self.num_bins, self.min_depth, self.max_depth)
        return expected_depth(nn.relu(x) + self.min_depth, centers)


class NormalsHead(nn.Module):
    """Surface normals, of any length; divide by it before use."""

    task: ClassVar[str] = "normals"

    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, fused: Fused, *, train: bool = False) -> Float[Array, "b h w 3"]:
        """Normals from the finest fused map."""
        return _project(fused, 3, "linear", self.dtype)


class LinearSegmentationHead(nn.Module):
    """Logits of `num_labels` classes."""

    task: ClassVar[str] = "segmentation"

    num_labels: int = 150
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, fused: Fused, covered: tuple[int, int] | None = None, *, train: bool = False
    ) -> Float[Array, "b h w k"]:
        """Logits from the finest fused map."""
        check_num_labels(self.num_labels)
        return _project(fused, self.num_labels, "linear", self.dtype)


class TaskNecks(Neck):
    """A `Neck` with these fields for each of `TASKS`, under its name."""

    @nn.compact
    def __call__(
        self,
        features: Features,
        prompt: Float[Array, "b h w 1"] | None = None,
        *,
        train: bool = False,
    ) -> dict[str, Fused]:
        """Fused maps of each task."""
        names = {field.name for field in dataclasses.fields(Neck)} - {"parent", "name"}
        fields = {name: getattr(self, name) for name in names}
        return {task: Neck(**fields, name=task)(features, prompt, train=train) for task in TASKS}


class DenseHead(nn.Module):
    """The three heads at once, on `TaskNecks`. Attributes are those of the heads."""

    task: ClassVar[str] = "dense"

    num_bins: int = 256
    min_depth: float = 0.001
    max_depth: float = 10.0
    hidden_act: str = "relu"
    num_labels: int = 150
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, fused: dict[str, Fused], *, train: bool = False) -> dict[str, Array]:
        """Fields of `DPTOutput`."""
        depth = LinearDepthHead(
            self.num_bins,
            self.min_depth,
            self.max_depth,
            self.hidden_act,
            self.dtype,
            name="depth",
        )
        normals = NormalsHead(self.dtype, name="normals")
        segmentation = LinearSegmentationHead(self.num_labels, self.dtype, name="segmentation")
        return {
            "depth": depth(fused["depth"]),
            "normals": normals(fused["normals"]),
            "logits": segmentation(fused["segmentation"]),
        }
