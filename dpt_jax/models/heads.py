# SPDX-License-Identifier: Apache-2.0
"""Heads: a fused map in, depth or class logits out. Outputs are float32 whatever `dtype` is."""

from typing import ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.models import layers, resize
from dpt_jax.models.neck import Fused

# The last layer starts near zero: an even guess everywhere, whatever the scale of the features.
LAST = nn.initializers.normal(0.01)

DepthActivation = Literal["relu", "sigmoid"]


def convolve_and_upsample(
    x: Float[Array, "b h w c"],
    hidden_size: int,
    outputs: int,
    size: tuple[int, int] | None,
    dtype: layers.Dtype,
) -> Float[Array, "b h2 w2 k"]:
    """conv3x3, upsample, conv3x3, ReLU, conv1x1; parameters of the compact module that calls it.

    Args:
        x: a fused map.
        hidden_size: channels of the second convolution.
        outputs: channels of the last one, which is float32 whatever `dtype` is.
        size: to upsample to; None: twice that of `x`.
        dtype: computed in.
    """
    x = layers.conv(x.shape[-1] // 2, 3, "head_0", dtype=dtype)(x)
    x = resize.bilinear(x, size, align_corners=True) if size else resize.upsample_x2(x)
    x = nn.relu(layers.conv(hidden_size, 3, "head_2", dtype=dtype)(x))
    x = layers.conv(outputs, 1, "head_4", kernel_init=LAST, dtype=dtype)(x)
    return x.astype(jnp.float32)


class DepthHead(nn.Module):
    """conv3x3, upsample, conv3x3, ReLU, conv1x1, and an activation that says what depth means.

    Attributes:
        head_in_index: which fused map is read; 0 is the coarsest, -1 the finest.
        add_projection: an extra conv3x3 + ReLU in front (the DINOv2 depth heads).
        head_hidden_size: channels of the second convolution.
        upsample_to_input: upsample to the pixels that whole patches cover (Depth Anything) instead
            of twice the size.
        activation: "relu", as in HF and isl-org: an unbounded non-negative number, inverse relative
            depth in the MiDaS checkpoints, metres in the DINOv2 ones. "sigmoid": metres within
            (0, max_depth), as in Depth Anything's metric models; trains well from scratch, where a
            final ReLU that dies has no gradient.
        max_depth: metres; only read by "sigmoid".
        scale: what the output of "relu" is multiplied by.
        shift: what is then added to it: 0.001 in the original DINOv2 heads.
        invert: then 1 / max(., 1e-8): the isl-org hybrids for NYUv2 and KITTI, whose scale and
            shift turn inverse relative depth into 1 / metres (isl-org/DPT, `DPTDepthModel`).
    """

    task: ClassVar[str] = "depth"

    head_in_index: int = -1
    add_projection: bool = False
    head_hidden_size: int = 32
    upsample_to_input: bool = False
    activation: DepthActivation = "relu"
    max_depth: float = 10.0
    scale: float = 1.0
    shift: float = 0.0
    invert: bool = False
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        fused: Fused,
        covered: tuple[int, int] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b h2 w2"]:
        """Depth from the fused maps; `covered`: height and width for `upsample_to_input`."""
        if self.activation not in get_args(DepthActivation):
            raise ValueError(
                f"model.head.activation {self.activation!r} is not one of "
                f"{get_args(DepthActivation)}"
            )
        x = fused.maps[self.head_in_index]
        if self.add_projection:
            x = nn.relu(layers.conv(x.shape[-1], 3, "projection", dtype=self.dtype)(x))
        assert covered is not None or not self.upsample_to_input
        size = covered if self.upsample_to_input else None
        x = convolve_and_upsample(x, self.head_hidden_size, 1, size, self.dtype)[..., 0]
        if self.activation == "sigmoid":
            return self.max_depth * jax.nn.sigmoid(x)
        x = self.scale * nn.relu(x) + self.shift
        return 1 / jnp.maximum(x, 1e-8) if self.invert else x


def check_num_labels(num_labels: int) -> None:
    """Refuses a number of classes that label maps cannot have, naming `model.head.num_labels`."""
    if not 1 <= num_labels <= 255:
        raise ValueError(
            f"model.head.num_labels={num_labels}: labels are bytes and 255 means ignored, so there "
            "can be 1 to 255 classes"
        )


class SegmentationHead(nn.Module):
    """conv3x3, BatchNorm, ReLU, dropout, conv1x1, and upsample x2 unless it is auxiliary.

    Attributes:
        num_labels: classes.
        dropout: rate in training (`semantic_classifier_dropout`; HF fixes 0.1 in the auxiliary
            head).
        head_in_index: which fused map is read; 0 is the coarsest, -1 the finest.
        upsample: False in the auxiliary head.
    """

    task: ClassVar[str] = "segmentation"

    num_labels: int = 150
    dropout: float = 0.1
    head_in_index: int = -1
    upsample: bool = True
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, fused: Fused, covered: tuple[int, int] | None = None, *, train: bool = False
    ) -> Float[Array, "b h2 w2 k"]:
        """Logits from the fused maps."""
        check_num_labels(self.num_labels)
        x = fused.maps[self.head_in_index]
        x = layers.conv(x.shape[-1], 3, "head_0", use_bias=False, dtype=self.dtype)(x)
        x = nn.relu(layers.batch_norm(train, "head_1", self.dtype)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        last = layers.conv(self.num_labels, 1, "head_4", kernel_init=LAST, dtype=self.dtype)
        x = last(x).astype(jnp.float32)
        return resize.upsample_x2(x) if self.upsample else x
