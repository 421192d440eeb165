# SPDX-License-Identifier: Apache-2.0
"""The public checkpoints: one record each, with everything that their numbers depend on.

A Hugging Face directory carries its own graph and preprocessing; the records say what it predicts
and under which licence. Files of the original repositories (`.pt`, `.pth`) hold tensors only: their
graph, with the conventions of the code that trained them, and their preprocessing are here, and a
file is recognised by its published name, or by the `record` that the caller names.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpt_jax.weights.checkpoint_record import (
    DEPTH_ANYTHING_PIXELS,
    DINOV2_PIXELS,
    HUB,
    depth_model,
    segmentation_model,
)
from dpt_jax.weights.checkpoint_record import UNITS as UNITS
from dpt_jax.weights.checkpoint_record import Checkpoint as Checkpoint
from dpt_jax.weights.checkpoint_record import DepthKind as DepthKind
from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.hub_checkpoints import hub_checkpoints

# isl-org/DPT and MiDaS: timm's LayerNorm eps, OpenCV's cubic kernel on floats, sides of 32.
_ISL_PIXELS = {"keep_aspect_ratio": True, "ensure_multiple_of": 32, "resample": "opencv_cubic"}
_ISL_VIT = {"layer_norm_eps": 1e-6}
# Weight standardisation as in timm 0.4.5, with which these were trained.
_ISL_HYBRID = {"layer_norm_eps": 1e-6, "bit": {"standardization": "deviation"}}
_ISL_SWIN = {"mask_value": -100.0}
_ISL_DPT = "https://github.com/isl-org/DPT/releases/download/1_0/"
_MIDAS = "https://github.com/isl-org/MiDaS/releases/download/"


def _isl() -> list[Checkpoint]:
    def record(
        file: str,
        model: Mapping[str, Any],
        pixels: Mapping[str, Any],
        depth: DepthKind | None,
        scores: str = "",
        release: str = _ISL_DPT,
    ) -> Checkpoint:
        stem = file.removesuffix(".pt")
        hashed = stem.rsplit("-", 1)
        name = hashed[0] if release == _ISL_DPT else stem
        return Checkpoint(
            f"isl-org/{name}",
            model,
            {**_ISL_PIXELS, **pixels},
            depth,
            "MIT",
            release + file,
            (file,),
            scores,
        )

    large, hybrid = {"backbone": _ISL_VIT}, {"backbone": _ISL_HYBRID}
    nyu = {"scale": 0.000305, "shift": 0.1378, "invert": True}
    kitti = {"scale": 0.00006016, "shift": 0.00579, "invert": True}
    ade, room = {"size": (480, 480)}, {"size": (480, 640)}
    scores_nyu = "NYUv2 AbsRel 0.109, RMSE 0.357, delta1 {} (isl-org/DPT EVALUATION.md)"
    records = [
        record(
            "dpt_large-midas-2f21e586.pt", depth_model("dpt_large", **large), {}, "inverse_relative"
        ),
        record(
            "dpt_hybrid-midas-501f0c75.pt",
            depth_model("dpt_hybrid", **hybrid),
            {},
            "inverse_relative",
        ),
        record(
            "dpt_large-ade20k-b12dca68.pt",
            segmentation_model("dpt_large", **large),
            ade,
            None,
            "ADE20K mIoU 47.63 (paper)",
        ),
        record(
            "dpt_hybrid-ade20k-53898607.pt",
            segmentation_model("dpt_hybrid", **hybrid),
            ade,
            None,
            "ADE20K mIoU 49.02, pixel accuracy 83.11 (paper)",
        ),
        record(
            "dpt_hybrid_kitti-cb926ef4.pt",
            depth_model("dpt_hybrid", kitti, **hybrid),
            {"size": (352, 1216)},
            "metric",
            "KITTI AbsRel 0.062, RMSE 2.575, delta1 0.959 (isl-org/DPT EVALUATION.md)",
        ),
        record(
            "dpt_hybrid_nyu-2ce69ec7.pt",
            depth_model("dpt_hybrid", nyu, **hybrid),
            room,
            "metric",
            scores_nyu.format("0.904"),
        ),
        record(
            "dpt_hybrid_nyu_new-217f207d.pt",
            depth_model("dpt_hybrid", nyu, **hybrid),
            room,
            "metric",
            scores_nyu.format("0.905"),
        ),
    ]
    for file, variant, backbone, release in (
        ("dpt_large_384.pt", "dpt_large", _ISL_VIT, "v3/"),
        ("dpt_hybrid_384.pt", "dpt_hybrid", _ISL_HYBRID, "v3/"),
        ("dpt_beit_base_384.pt", "dpt_beit_base_384", _ISL_VIT, "v3_1/"),
        ("dpt_beit_large_384.pt", "dpt_beit_large_384", _ISL_VIT, "v3_1/"),
        ("dpt_beit_large_512.pt", "dpt_beit_large_512", _ISL_VIT, "v3_1/"),
        ("dpt_swin2_tiny_256.pt", "dpt_swinv2_tiny_256", _ISL_SWIN, "v3_1/"),
        ("dpt_swin2_base_384.pt", "dpt_swinv2_base_384", _ISL_SWIN, "v3_1/"),
        ("dpt_swin2_large_384.pt", "dpt_swinv2_large_384", _ISL_SWIN, "v3_1/"),
    ):
        side = int(file.removesuffix(".pt").rsplit("_", 1)[1])
        model = depth_model(variant, backbone=backbone, neck={"upsample_to_skip": True})
        pixels = {"size": (side, side), "keep_aspect_ratio": "swin2" not in file}
        records.append(
            record(file, model, pixels, "inverse_relative", release=f"{_MIDAS}{release}")
        )
    return records


# Position embeddings as the original code resizes them.
_ORIGINAL_DINOV2 = {"interpolate_offset": 0.1}
_ORIGINAL_DEPTH_ANYTHING = DEPTH_ANYTHING_PIXELS | {
    "resample": "opencv_cubic",
    "resize_method": "lower_bound",
    "depth_resample": "torch_bilinear_align_corners",
}


def _depth_anything() -> list[Checkpoint]:
    records = []
    for size in ("small", "base", "large"):
        letter, backbone = size[0], {"backbone": _ORIGINAL_DINOV2}
        records.append(
            Checkpoint(
                f"LiheYoung/depth_anything_vit{letter}14",
                depth_model(f"depth_anything_v1_{size}", **backbone),
                _ORIGINAL_DEPTH_ANYTHING,
                "inverse_relative",
                "Apache-2.0",
                f"{HUB}spaces/LiheYoung/Depth-Anything/tree/main/checkpoints",
                (f"depth_anything_vit{letter}14.pth",),
            )
        )
        licence = "Apache-2.0" if size == "small" else "CC-BY-NC-4.0"
        for kind, place, limit in (
            ("", "", None),
            ("metric_hypersim_", "Metric-Hypersim-", 20.0),
            ("metric_vkitti_", "Metric-VKITTI-", 80.0),
        ):
            head = {"activation": "sigmoid", "max_depth": limit} if limit else None
            stem = f"depth_anything_v2_{kind}vit{letter}"
            records.append(
                Checkpoint(
                    f"DepthAnything/{stem}",
                    depth_model(f"depth_anything_{size}", head, **backbone),
                    _ORIGINAL_DEPTH_ANYTHING,
                    "metric" if limit else "inverse_relative",
                    licence,
                    f"{HUB}depth-anything/Depth-Anything-V2-{place}{size.capitalize()}",
                    (f"{stem}.pth",),
                )
            )
    return records


def _dinov2_heads() -> list[Checkpoint]:
    records = []
    for size in ("small", "base", "large", "giant"):
        for data in ("nyu", "kitti"):
            stem = f"dinov2_vit{size[0]}14"
            head = f"{stem}_{data}_dpt_head.pth"
            records.append(
                Checkpoint(
                    f"facebookresearch/{stem}_{data}_dpt_head",
                    depth_model(f"dpt_dinov2_{size}", {"shift": 0.001}, backbone=_ORIGINAL_DINOV2),
                    DINOV2_PIXELS | {"depth_resample": "torch_bilinear"},
                    "metric",
                    "Apache-2.0",
                    f"https://dl.fbaipublicfiles.com/dinov2/{stem}/{head}",
                    (head, f"{stem}_pretrain.pth"),
                )
            )
    return records


CHECKPOINTS: dict[str, Checkpoint] = {
    record.name: record
    for record in (*hub_checkpoints(), *_isl(), *_depth_anything(), *_dinov2_heads())
}


def find(path: Path, name: str | None) -> Checkpoint:
    """The record of a file of an original repository.

    Args:
        path: the file; its name decides if `name` is None.
        name: of the record, whatever the file is called.

    Raises:
        WeightsError: there is no such record; the message lists them.
    """
    originals = [record for record in CHECKPOINTS.values() if record.files]
    known = "Known:\n  " + "\n  ".join(f"{r.name} ({r.files[0]})" for r in originals)
    if name is not None:
        if name not in CHECKPOINTS:
            near = difflib.get_close_matches(name, [record.name for record in originals], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise WeightsError(f"there is no record {name!r}{hint} {known}")
        return CHECKPOINTS[name]
    for record in CHECKPOINTS.values():
        if path.name in record.files[:1]:
            return record
    raise WeightsError(
        f"no public checkpoint has the file name {path.name!r}. If it is one of them, or was "
        f"trained with its graph, pass record=NAME (--record). {known}"
    )
