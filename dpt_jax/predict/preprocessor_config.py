# SPDX-License-Identifier: Apache-2.0
"""`preprocessor_config.json` of transformers, and the fields of `ImageProcessor`.

The classes were read in transformers 5.23.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dpt_jax.predict.kernels import PILLOW

FILE_NAME = "preprocessor_config.json"


@dataclasses.dataclass(frozen=True)
class Family:
    """An image processor class of transformers.

    Attributes:
        kernels: what its codes for `resample` mean.
        defaults: fields in which it differs from `ImageProcessor`'s defaults.
        settings: what it has beyond `_SHARED`.
    """

    kernels: Mapping[int, str]
    defaults: Mapping[str, Any]
    settings: tuple[str, ...] = ()


_PILLOW = {int(code): kernel for kernel, code in PILLOW.items()}
_TORCHVISION = {2: "torch_bilinear_antialias", 3: "torch_bicubic_antialias"}

FAMILIES = {
    # DPT, MiDaS 3.1, dpt-dinov2, Depth Anything.
    "DPTImageProcessor": Family(_PILLOW, {}),
    "PromptDepthAnythingImageProcessor": Family(_PILLOW, {}, ("prompt_scale_to_meter",)),
    "ZoeDepthImageProcessor": Family(
        {2: "torch_bilinear_align_corners"},
        {
            "size": (384, 512),
            "resample": "torch_bilinear_align_corners",
            "keep_aspect_ratio": True,
            "ensure_multiple_of": 1 / 32,
            "do_pad": True,
            "pad_mode": "reflect",
            "crop_padding": True,
        },
    ),
    "Tipsv2DptImageProcessor": Family(
        _TORCHVISION,
        {
            "size": (448, 448),
            "resample": "torch_bilinear_antialias",
            "do_normalize": False,
            "depth_resample": "torch_bilinear",
        },
    ),
    "CHMv2ImageProcessor": Family(
        _TORCHVISION,
        {
            "do_resize": False,
            "resample": "torch_bicubic_antialias",
            "keep_aspect_ratio": True,
            "ensure_multiple_of": 16,
            "image_mean": (0.420, 0.411, 0.296),
            "image_std": (0.213, 0.156, 0.143),
            "do_pad": True,
            "size_divisor": 16,
            "depth_resample": "torch_bilinear_align_corners",
        },
    ),
}

# Fields that transformers has under the same name.
_SHARED = (
    "do_resize",
    "size",
    "resample",
    "keep_aspect_ratio",
    "ensure_multiple_of",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
    "size_divisor",
    "do_reduce_labels",
)
# Where the fields stand that it does not have, and which they may be.
_OWN = "dpt_jax"
_OWN_FIELDS = {
    "resample",
    "resize_method",
    "pad_mode",
    "depth_resample",
    "crop_padding",
    "prompt_scale_to_meter",
}
# The code that comes nearest to a kernel; the same in every class.
_CODES = {kernel: int(code) for kernel, code in PILLOW.items()} | {
    "opencv_cubic": 3,
    "opencv_area": 4,
    "torch_bilinear_antialias": 2,
    "torch_bicubic_antialias": 3,
    "torch_bilinear_align_corners": 2,
}
_OLD_NAMES = {"size_divisibility": "size_divisor", "reduce_labels": "do_reduce_labels"}
# What says nothing about the pixels of one image.
_IGNORED = {
    "auto_map",
    "crop_size",
    "data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "image_seq_length",
    "input_data_format",
    "model_input_names",
    "processor_class",
    "return_tensors",
    "_processor_class",
    "_valid_kwargs_names",
    "_valid_processor_keys",
}
# What would change them in a way that no checkpoint of these families asks for.
_REFUSED = ("do_center_crop", "pad_size")


def read(directory: Path) -> dict[str, Any]:
    """`to_fields` of the file in a Hugging Face directory; errors name the file."""
    path = directory / FILE_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{directory} has no {FILE_NAME}, which says how images are prepared for the checkpoint"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    try:
        return to_fields(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def to_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `ImageProcessor` from the contents of the file; see its `from_dict`."""
    if not isinstance(config, Mapping):
        raise ValueError(f"expected an object of settings, got {type(config).__name__}")
    name = _family_name(config)
    family = FAMILIES[name]
    defaults = {"do_pad": False, **family.defaults}
    for key in ("do_resize", "do_rescale", "do_normalize", "do_pad", "resample"):
        if key in config and config[key] is None and defaults.get(key, True):
            raise ValueError(
                f"{key}: null, which transformers does not take for the default; write a value"
            )
    given = {key: value for key, value in config.items() if value is not None}
    own = given.pop(_OWN, {})
    if not isinstance(own, Mapping) or not own.keys() <= _OWN_FIELDS:
        raise ValueError(f"{_OWN}: expected only {', '.join(sorted(_OWN_FIELDS))}; got {own!r}")
    for old, new in _OLD_NAMES.items():
        if old in given:
            given.setdefault(new, given.pop(old))
    for key in _REFUSED:
        if given.pop(key, False):
            raise ValueError(f"{key}: {config[key]!r} is not supported; remove it")
    known = _SHARED + family.settings
    unknown = sorted(given.keys() - set(known) - _IGNORED)
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)} for {name}")
    fields = {key: given[key] for key in known if key in given}
    if "resample" in fields and "resample" not in own:
        fields["resample"] = _kernel(fields["resample"], name)
    if "size" in fields:
        fields["size"] = _size(fields["size"])
    for key in ("image_mean", "image_std"):
        if isinstance(fields.get(key), (int, float)):
            fields[key] = (fields[key],) * 3
    return {**family.defaults, **fields, **own, "image_processor_type": name}


def from_fields(fields: Mapping[str, Any], changed: Collection[str]) -> dict[str, Any]:
    """The contents of the file from all fields, and those that differ from the class's defaults."""
    name = fields["image_processor_type"]
    family = FAMILIES[name]
    known = _SHARED + family.settings
    height, width = fields["size"]
    config = {key: fields[key] for key in known if fields[key] is not None} | {
        "image_processor_type": name,
        "size": {"height": height, "width": width},
        "resample": _CODES[fields["resample"]],
        "image_mean": list(fields["image_mean"]),
        "image_std": list(fields["image_std"]),
    }
    own = {key: fields[key] for key in changed if key not in known}
    if family.kernels.get(config["resample"]) != fields["resample"]:
        own["resample"] = fields["resample"]
    return config | ({_OWN: own} if own else {})


def _family_name(config: Mapping[str, Any]) -> str:
    given = config.get("image_processor_type") or config.get("feature_extractor_type")
    name = str(given or "DPTImageProcessor").replace("FeatureExtractor", "ImageProcessor")
    name = name.removesuffix("Fast").removesuffix("Pil")
    if name not in FAMILIES:
        raise ValueError(
            f"image_processor_type: {given!r} is not known; known are {', '.join(FAMILIES)}"
        )
    return name


def _kernel(code: Any, name: str) -> str:
    known = FAMILIES[name].kernels
    if isinstance(code, bool) or code not in known:
        codes = ", ".join(f"{code} ({kernel})" for code, kernel in sorted(known.items()))
        raise ValueError(f"resample: expected one of {codes} for {name}, got {code!r}")
    return known[code]


def _size(size: Any) -> tuple[Any, Any]:
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return size["height"], size["width"]
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return size[0], size[1]
    if isinstance(size, int):
        return size, size
    raise ValueError(f"size: expected a height and a width, or one number for both, got {size!r}")
