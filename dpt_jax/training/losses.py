# SPDX-License-Identifier: Apache-2.0
"""Losses, in float32, with finite gradients for every mask: empty, one pixel, a perfect prediction.

Masked values are replaced before the function that could be infinite there, not only after
(`where(m, log(where(m, x, 1)), 0)`): zero times an infinite derivative is NaN.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from dpt_jax.models import resize
from dpt_jax.models.dpt import DPTOutput

# Predictions are kept within these bounds inside logarithms; metres, or any unit of depth.
LOG_MIN, LOG_MAX = 1e-3, 1e6


def cross_entropy(
    logits: Float[Array, "b h w k"], labels: Integer[Array, "b h w"], *, ignore: int = 255
) -> Float[Array, ""]:
    """Mean over the labelled pixels of the batch; 0, with zero gradients, where there are none.

    A label that is neither `ignore` nor one of the k classes makes the loss NaN rather than wrong.
    """
    valid = labels != ignore
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    picked = jnp.take_along_axis(
        log_probabilities, jnp.where(valid, labels, 0).astype(jnp.int32)[..., None], axis=-1
    )[..., 0]
    return -_masked_mean(picked, valid)


def segmentation_loss(
    output: DPTOutput,
    labels: Integer[Array, "b h w"],
    *,
    auxiliary_weight: float = 0.4,
    ignore: int = 255,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Cross entropy plus `auxiliary_weight` times that of the auxiliary head.

    Logits are resized to the labels' size first (bilinear, align_corners=False), as HF does. The
    paper's weight is 0.2; mmseg's and HF's is 0.4.

    Returns:
        The loss and its parts {"ce", "aux_ce"} ("aux_ce" only with an auxiliary head).
    """
    size = (labels.shape[1], labels.shape[2])

    def ce(logits: Float[Array, "b h w k"]) -> Float[Array, ""]:
        resized = resize.bilinear(logits.astype(jnp.float32), size, align_corners=False)
        return cross_entropy(resized, labels, ignore=ignore)

    if output.logits is None:
        raise ValueError("the model has no segmentation head: set config.model.head.type")
    loss = ce(output.logits)
    parts = {"ce": loss}
    if output.aux_logits is not None:
        parts["aux_ce"] = ce(output.aux_logits)
        loss = loss + auxiliary_weight * parts["aux_ce"]
    return loss, parts


def silog(
    prediction: Float[Array, "b h w"],
    target: Float[Array, "b h w"],
    mask: Bool[Array, "b h w"],
    *,
    variance_focus: float = 0.85,
    weight: float = 10.0,
) -> Float[Array, ""]:
    """Scale-invariant log loss of BTS (arXiv 1907.10326, eq. 4) and AdaBins.

    weight * sqrt(mean(d^2) - variance_focus * mean(d)^2), d = log prediction - log target, pooled
    over the valid pixels of the batch. AdaBins and dinov2 differ by the unbiased variance only.

    Args:
        prediction: any finite number; values outside [1e-3, 1e6] count as the bound.
        target: positive where `mask` is True; clipped to the same bounds.
        mask: which pixels count; with none the loss is 0 and so are its gradients.
        variance_focus: lambda; 1 ignores the scale, 0 is the root mean square of d.
        weight: factor in front (BTS and AdaBins: 10; Depth Anything V2: 1 with lambda 0.5).
    """
    d = _log_difference(prediction, target, mask)
    mean = _masked_mean(d, mask)
    # var + (1 - lambda) mean^2: the same, but a sum of squares, so rounding cannot make it
    # negative.
    inside = _masked_mean((d - mean) ** 2, mask) + (1 - variance_focus) * mean**2
    positive = inside > 0
    return weight * jnp.where(positive, jnp.sqrt(jnp.where(positive, inside, 1.0)), 0.0)


def eigen_loss(
    prediction: Float[Array, "b h w"],
    target: Float[Array, "b h w"],
    mask: Bool[Array, "b h w"],
    *,
    variance_focus: float = 0.5,
    weight: float = 1.0,
) -> Float[Array, ""]:
    """Scale-invariant error of Eigen et al. (arXiv 1406.2283, eq. 4), without the root.

    weight * (mean(d^2) - variance_focus * mean(d)^2) per image, then the mean over the images that
    have a valid pixel. Arguments as in `silog`.
    """
    d = _log_difference(prediction, target, mask)
    pixels = mask.sum((1, 2))
    safe = jnp.maximum(pixels, 1)
    mean = d.sum((1, 2)) / safe
    square = (d**2).sum((1, 2)) / safe
    return weight * _masked_mean(square - variance_focus * mean**2, pixels > 0)


def depth_loss(
    output: DPTOutput,
    target: Float[Array, "b h w"],
    *,
    name: str,
    variance_focus: float,
    weight: float,
    min_depth: float,
    max_depth: float,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The named loss between predicted depth, resized to the target's size, and target, in metres.

    Args:
        output: of a model with a depth head.
        target: metres; pixels count where min_depth < target < max_depth.
        name: "silog" or "eigen".
        variance_focus: lambda of either.
        weight: factor in front.
        min_depth: metres.
        max_depth: metres.

    Returns:
        The loss and {"valid_share": share of pixels that counted}.
    """
    losses = {"silog": silog, "eigen": eigen_loss}
    if name not in losses:
        raise ValueError(f"config.loss.name {name!r} is not one of {', '.join(losses)}")
    if output.depth is None:
        raise ValueError("the model has no depth head: set config.model.head.type")
    prediction = resize.bilinear(
        output.depth[..., None], (target.shape[1], target.shape[2]), align_corners=False
    )[..., 0]
    mask = (target > min_depth) & (target < max_depth)
    loss = losses[name](prediction, target, mask, variance_focus=variance_focus, weight=weight)
    return loss, {"valid_share": mask.mean()}


def _log_difference(prediction: Array, target: Array, mask: Array) -> Array:
    prediction = jnp.where(mask, prediction, 1.0).astype(jnp.float32)
    target = jnp.where(mask, target, 1.0).astype(jnp.float32)
    clamped = jnp.clip(prediction, LOG_MIN, LOG_MAX)
    return jnp.log(clamped) - jnp.log(jnp.clip(target, LOG_MIN, LOG_MAX))


def _masked_mean(values: Array, mask: Array) -> Array:
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)
