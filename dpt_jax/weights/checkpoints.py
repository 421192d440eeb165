# SPDX-License-Identifier: Apache-2.0
"""The public checkpoints: one record each, with everything that their numbers depend on.

A Hugging Face directory carries its own graph and preprocessing; the records say what it predicts
and under which licence. Files of the original repositories (`.pt`, `.pth`) hold tensors only: their
graph, with the conventions of the code that trained them, and their preprocessing are here, and a
file is recognised by its published name, or by the `record` that the caller names.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from dpt_jax.weights.errors import WeightsError

DepthKind = Literal["metric", "inverse_relative"]
UNITS: dict[str, str] = {
    "metric": "metres",
    "inverse_relative": "none: 1/metres times an unknown scale plus an unknown shift",
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


_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
_HUB = "https://huggingface.co/"


def _model(variant: str, head: Mapping[str, Any] | None = None, **groups: Any) -> dict[str, Any]:
    return {"variant": variant, "head": {"type": "depth", **(head or {})}, **groups}


def _segmentation(variant: str, **groups: Any) -> dict[str, Any]:
    return {
        "variant": variant,
        "neck": {"use_batch_norm_in_fusion_residual": True},
        "head": {"type": "segmentation", "num_labels": 150},
        "auxiliary_head": {"use": True},
        **groups,
    }


# --- Hugging Face directories --------------------------------------------------------------------

_MIDAS31 = {"ensure_multiple_of": 32}
_DINOV2_PIXELS = {
    "do_resize": False,
    "do_rescale": False,
    "do_pad": True,
    "size_divisor": 14,
    "image_mean": (123.675, 116.28, 103.53),
    "image_std": (58.395, 57.12, 57.375),
}
_DEPTH_ANYTHING_PIXELS = {
    "size": (518, 518),
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    **_IMAGENET,
}
_ZOEDEPTH_PIXELS = {
    "image_processor_type": "ZoeDepthImageProcessor",
    "size": (384, 512),
    "resample": "torch_bilinear_align_corners",
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 32,
    "do_pad": True,
    "pad_mode": "reflect",
    "crop_padding": True,
}


def _huggingface() -> list[Checkpoint]:
    records = [
        Checkpoint(
            "Intel/dpt-large",
            _model("dpt_large"),
            {"resample": "pillow_bilinear"},
            "inverse_relative",
            "Apache-2.0",
            f"{_HUB}Intel/dpt-large",
            scores="zero-shot: KITTI delta>1.25 8.46 %, NYU 8.32 %, ETH3D AbsRel 0.089 (paper)",
        ),
        Checkpoint(
            "Intel/dpt-large-ade",
            _segmentation("dpt_large"),
            {"size": (480, 480), "resample": "pillow_bilinear"},
            None,
            "Apache-2.0",
            f"{_HUB}Intel/dpt-large-ade",
            scores="ADE20K mIoU 47.63, pixel accuracy 82.70 (paper)",
        ),
        Checkpoint(
            "Intel/dpt-hybrid-midas",
            _model("dpt_hybrid"),
            {"resample": "pillow_bilinear"},
            "inverse_relative",
            "Apache-2.0",
            f"{_HUB}Intel/dpt-hybrid-midas",
            scores="zero-shot: KITTI delta>1.25 11.56 %, NYU 8.69 %, ETH3D AbsRel 0.093 (paper)",
        ),
    ]
    for variant, side, etc in (
        ("beit-base-384", 384, "TUM 9.88 %, NYU 3.91 %"),
        ("beit-large-384", 384, "TUM 7.17 %, NYU 2.21 %"),
        ("beit-large-512", 512, "TUM 6.13 %, NYU 1.86 %"),
        ("swinv2-tiny-256", 256, "TUM 13.43 %, NYU 5.55 %"),
        ("swinv2-base-384", 384, "TUM 8.93 %, NYU 3.28 %"),
        ("swinv2-large-384", 384, "TUM 8.87 %, NYU 2.92 %"),
    ):
        records.append(
            Checkpoint(
                f"Intel/dpt-{variant}",
                _model(f"dpt_{variant.replace('-', '_')}"),
                {"size": (side, side), **_MIDAS31},
                "inverse_relative",
                "MIT",
                f"{_HUB}Intel/dpt-{variant}",
                scores=f"delta>1.25: {etc}, NYU in the training set (MiDaS README)",
            )
        )
    for size in ("small", "base", "large", "giant"):
        for data in ("nyu", "kitti"):
            records.append(
                Checkpoint(
                    f"facebook/dpt-dinov2-{size}-{data}",
                    _model(f"dpt_dinov2_{size}"),
                    _DINOV2_PIXELS,
                    "metric",
                    "Apache-2.0",
                    f"{_HUB}facebook/dpt-dinov2-{size}-{data}",
                )
            )
    for size in ("small", "base", "large"):
        records.append(
            Checkpoint(
                f"LiheYoung/depth-anything-{size}-hf",
                _model(f"depth_anything_v1_{size}"),
                _DEPTH_ANYTHING_PIXELS,
                "inverse_relative",
                "Apache-2.0",
                f"{_HUB}LiheYoung/depth-anything-{size}-hf",
            )
        )
        licence = "Apache-2.0" if size == "small" else "CC-BY-NC-4.0"
        for kind, limit in (("", None), ("Metric-Indoor-", 20.0), ("Metric-Outdoor-", 80.0)):
            name = f"depth-anything/Depth-Anything-V2-{kind}{size.capitalize()}-hf"
            head = {"activation": "sigmoid", "max_depth": limit} if limit else None
            records.append(
                Checkpoint(
                    name,
                    _model(f"depth_anything_{size}", head),
                    _DEPTH_ANYTHING_PIXELS,
                    "metric" if limit else "inverse_relative",
                    licence,
                    f"{_HUB}{name}",
                )
            )
    for data in ("nyu", "kitti", "nyu-kitti"):
        name = f"Intel/zoedepth-{data}"
        model = {"variant": f"zoedepth_{data.replace('-', '_')}"}
        records.append(Checkpoint(name, model, _ZOEDEPTH_PIXELS, "metric", "MIT", f"{_HUB}{name}"))
    return records


# --- Files of the original repositories ----------------------------------------------------------

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
        record("dpt_large-midas-2f21e586.pt", _model("dpt_large", **large), {}, "inverse_relative"),
        record(
            "dpt_hybrid-midas-501f0c75.pt", _model("dpt_hybrid", **hybrid), {}, "inverse_relative"
        ),
        record(
            "dpt_large-ade20k-b12dca68.pt",
            _segmentation("dpt_large", **large),
            ade,
            None,
            "ADE20K mIoU 47.63 (paper)",
        ),
        record(
            "dpt_hybrid-ade20k-53898607.pt",
            _segmentation("dpt_hybrid", **hybrid),
            ade,
            None,
            "ADE20K mIoU 49.02, pixel accuracy 83.11 (paper)",
        ),
        record(
            "dpt_hybrid_kitti-cb926ef4.pt",
            _model("dpt_hybrid", kitti, **hybrid),
            {"size": (352, 1216)},
            "metric",
            "KITTI AbsRel 0.062, RMSE 2.575, delta1 0.959 (isl-org/DPT EVALUATION.md)",
        ),
        record(
            "dpt_hybrid_nyu-2ce69ec7.pt",
            _model("dpt_hybrid", nyu, **hybrid),
            room,
            "metric",
            scores_nyu.format("0.904"),
        ),
        record(
            "dpt_hybrid_nyu_new-217f207d.pt",
            _model("dpt_hybrid", nyu, **hybrid),
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
        model = _model(variant, backbone=backbone, neck={"upsample_to_skip": True})
        pixels = {"size": (side, side), "keep_aspect_ratio": "swin2" not in file}
        records.append(
            record(file, model, pixels, "inverse_relative", release=f"{_MIDAS}{release}")
        )
    return records


# Position embeddings as the original code resizes them.
_ORIGINAL_DINOV2 = {"interpolate_offset": 0.1}
_ORIGINAL_DEPTH_ANYTHING = _DEPTH_ANYTHING_PIXELS | {
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
                _model(f"depth_anything_v1_{size}", **backbone),
                _ORIGINAL_DEPTH_ANYTHING,
                "inverse_relative",
                "Apache-2.0",
                f"{_HUB}spaces/LiheYoung/Depth-Anything/tree/main/checkpoints",
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
                    _model(f"depth_anything_{size}", head, **backbone),
                    _ORIGINAL_DEPTH_ANYTHING,
                    "metric" if limit else "inverse_relative",
                    licence,
                    f"{_HUB}depth-anything/Depth-Anything-V2-{place}{size.capitalize()}",
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
                    _model(f"dpt_dinov2_{size}", {"shift": 0.001}, backbone=_ORIGINAL_DINOV2),
                    _DINOV2_PIXELS | {"depth_resample": "torch_bilinear"},
                    "metric",
                    "Apache-2.0",
                    f"https://dl.fbaipublicfiles.com/dinov2/{stem}/{head}",
                    (head, f"{stem}_pretrain.pth"),
                )
            )
    return records


CHECKPOINTS: dict[str, Checkpoint] = {
    record.name: record
    for record in (*_huggingface(), *_isl(), *_depth_anything(), *_dinov2_heads())
}


def find(path: Path, name: str | None) -> Checkpoint:
    """The record of a file of an original repository.

    Args:
        path: the file; its name decides if `name` is None.
        name: of the record, whatever the file is called.

    Raises:
        WeightsError: there is no such record; the message lists them.
    """
    if name is not None:
        if name not in CHECKPOINTS:
            raise WeightsError(_unknown(f"record {name!r}", CHECKPOINTS))
        return CHECKPOINTS[name]
    for record in CHECKPOINTS.values():
        if path.name in record.files[:1]:
            return record
    named = [record.name for record in CHECKPOINTS.values() if record.files]
    raise WeightsError(
        _unknown(f"file name {path.name!r}", named)
        + "\nIf it is one of them, or was trained with its graph, pass record=NAME (--record)"
    )


def _unknown(what: str, names: Iterable[str]) -> str:
    return f"no public checkpoint has the {what}. Known:\n  " + "\n  ".join(names)
