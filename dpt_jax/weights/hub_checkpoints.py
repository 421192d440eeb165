# SPDX-License-Identifier: Apache-2.0
"""Records of the Hugging Face directories; those of TIPSv2-DPT predict all three of its tasks.

The directory of CHMv2 is gated: its sizes and preprocessing are the defaults of transformers, which
name it, and its licence is what facebookresearch/dinov3 says of its weights.
"""

from dpt_jax.weights.checkpoint_record import (
    DEPTH_ANYTHING_PIXELS,
    DINOV2_PIXELS,
    HUB,
    Checkpoint,
    depth_model,
    segmentation_model,
)

_MIDAS31 = {"ensure_multiple_of": 32}
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
_PROMPT_DEPTH_ANYTHING_PIXELS = {
    **DEPTH_ANYTHING_PIXELS,
    "image_processor_type": "PromptDepthAnythingImageProcessor",
    "size": (756, 756),
}
_TIPSV2_PIXELS = {
    "image_processor_type": "Tipsv2DptImageProcessor",
    "size": (448, 448),
    "resample": "torch_bilinear_antialias",
    "do_normalize": False,
    "depth_resample": "torch_bilinear",
}
_CHMV2_PIXELS = {
    "image_processor_type": "CHMv2ImageProcessor",
    "do_resize": False,
    "resample": "torch_bicubic_antialias",
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 16,
    "image_mean": (0.420, 0.411, 0.296),
    "image_std": (0.213, 0.156, 0.143),
    "do_pad": True,
    "size_divisor": 16,
    "depth_resample": "torch_bilinear_align_corners",
}


def hub_checkpoints() -> list[Checkpoint]:
    """A record for each."""
    records = [
        Checkpoint(
            "Intel/dpt-large",
            depth_model("dpt_large"),
            {"resample": "pillow_bilinear"},
            "inverse_relative",
            "Apache-2.0",
            f"{HUB}Intel/dpt-large",
            scores="zero-shot: KITTI delta>1.25 8.46 %, NYU 8.32 %, ETH3D AbsRel 0.089 (paper)",
        ),
        Checkpoint(
            "Intel/dpt-large-ade",
            segmentation_model("dpt_large"),
            {"size": (480, 480), "resample": "pillow_bilinear"},
            None,
            "Apache-2.0",
            f"{HUB}Intel/dpt-large-ade",
            scores="ADE20K mIoU 47.63, pixel accuracy 82.70 (paper)",
        ),
        Checkpoint(
            "Intel/dpt-hybrid-midas",
            depth_model("dpt_hybrid"),
            {"resample": "pillow_bilinear"},
            "inverse_relative",
            "Apache-2.0",
            f"{HUB}Intel/dpt-hybrid-midas",
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
                depth_model(f"dpt_{variant.replace('-', '_')}"),
                {"size": (side, side), **_MIDAS31},
                "inverse_relative",
                "MIT",
                f"{HUB}Intel/dpt-{variant}",
                scores=f"delta>1.25: {etc}, NYU in the training set (MiDaS README)",
            )
        )
    for size in ("small", "base", "large", "giant"):
        for data in ("nyu", "kitti"):
            records.append(
                Checkpoint(
                    f"facebook/dpt-dinov2-{size}-{data}",
                    depth_model(f"dpt_dinov2_{size}"),
                    DINOV2_PIXELS,
                    "metric",
                    "Apache-2.0",
                    f"{HUB}facebook/dpt-dinov2-{size}-{data}",
                )
            )
    for size in ("small", "base", "large"):
        records.append(
            Checkpoint(
                f"LiheYoung/depth-anything-{size}-hf",
                depth_model(f"depth_anything_v1_{size}"),
                DEPTH_ANYTHING_PIXELS,
                "inverse_relative",
                "Apache-2.0",
                f"{HUB}LiheYoung/depth-anything-{size}-hf",
            )
        )
        licence = "Apache-2.0" if size == "small" else "CC-BY-NC-4.0"
        for kind, limit in (("", None), ("Metric-Indoor-", 20.0), ("Metric-Outdoor-", 80.0)):
            name = f"depth-anything/Depth-Anything-V2-{kind}{size.capitalize()}-hf"
            head = {"activation": "sigmoid", "max_depth": limit} if limit else None
            records.append(
                Checkpoint(
                    name,
                    depth_model(f"depth_anything_{size}", head),
                    DEPTH_ANYTHING_PIXELS,
                    "metric" if limit else "inverse_relative",
                    licence,
                    f"{HUB}{name}",
                )
            )
    # As trained: the published config.json of kitti has NYU's 10 m, see `zoedepth_config`.
    for data in ("nyu", "kitti", "nyu-kitti"):
        name = f"Intel/zoedepth-{data}"
        model = {"variant": f"zoedepth_{data.replace('-', '_')}"}
        records.append(Checkpoint(name, model, _ZOEDEPTH_PIXELS, "metric", "MIT", f"{HUB}{name}"))
    records += [_prompt_depth_anything("vits", "small"), _prompt_depth_anything("vitl", "large")]
    records.append(_prompt_depth_anything("vits-transparent", "small"))
    for name, size in (("b", "base"), ("l", "large"), ("so400m", "so400m"), ("g", "giant")):
        name = f"google/tipsv2-{name}14-dpt"
        model = {"variant": f"tipsv2_{size}"}
        pixels = _TIPSV2_PIXELS
        records.append(Checkpoint(name, model, pixels, "metric", "Apache-2.0", f"{HUB}{name}"))
    name = "facebook/dinov3-vitl16-chmv2-dpt-head"
    model, licence = {"variant": "chmv2_large"}, "LicenseRef-DINOv3"
    records.append(Checkpoint(name, model, _CHMV2_PIXELS, "metric", licence, f"{HUB}{name}"))
    return records


def _prompt_depth_anything(name: str, size: str) -> Checkpoint:
    name = f"depth-anything/prompt-depth-anything-{name}-hf"
    model = depth_model(f"prompt_depth_anything_{size}")
    pixels = _PROMPT_DEPTH_ANYTHING_PIXELS
    return Checkpoint(name, model, pixels, "metric", "Apache-2.0", f"{HUB}{name}")
