# SPDX-License-Identifier: Apache-2.0
"""What there is to know about a public checkpoint, and what many of them have in common."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

DepthKind = Literal["metric", "inverse_relative"]
UNITS: dict[str, str] = {
    "metric": "metres",
    "inverse_relative": "none (1/metres times an unknown scale, plus an unknown shift)",
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One public checkpoint.

    Attributes:
        name: `owner/name`, as on the Hugging Face Hub or GitHub.
        model: `config.model` of its graph.
        preprocessing: fields of `ImageProcessor`.
        depth: what its depth means, a key of `UNITS`; None for segmentation.
        licence: SPDX identifier of the weights' licence.
        origin: where to get it.
        files: names of its files, for the original formats; the first holds the decoder. Empty for
            Hugging Face directories.
        scores: published, with where: "NYUv2 delta1 0.904 (paper)".
    """

    name: str
    model: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    depth: DepthKind | None
    licence: str
    origin: str
    files: tuple[str, ...] = ()
    scores: str = ""


IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
HUB = "https://huggingface.co/"


def depth_model(
    variant: str, head: Mapping[str, Any] | None = None, **groups: Any
) -> dict[str, Any]:
    """`config.model` of a variant with a depth head whose fields are `head`."""
    return {"variant": variant, "head": {"type": "depth", **(head or {})}, **groups}


def segmentation_model(variant: str, **groups: Any) -> dict[str, Any]:
    """`config.model` of a variant trained on ADE20K."""
    return {
        "variant": variant,
        "neck": {"use_batch_norm_in_fusion_residual": True},
        "head": {"type": "segmentation", "num_labels": 150},
        "auxiliary_head": {"use": True},
        **groups,
    }


DINOV2_PIXELS = {
    "do_resize": False,
    "do_rescale": False,
    "do_pad": True,
    "size_divisor": 14,
    "image_mean": (123.675, 116.28, 103.53),
    "image_std": (58.395, 57.12, 57.375),
}
DEPTH_ANYTHING_PIXELS = {
    "size": (518, 518),
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    **IMAGENET,
}
