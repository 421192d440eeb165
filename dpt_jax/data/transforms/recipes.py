# SPDX-License-Identifier: Apache-2.0
"""Published augmentation recipes as data, and how `config.data.augment` becomes steps.

`config.data.augment.recipe` names one of `RECIPES`; every other key is unset (None) or overrides
the recipe's value, where 0, "" or () switches a step off. Normalising is not among the steps:
images stay bytes until they are on the device.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dpt_jax.data import kernels
from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.transforms.geometry import Box, Crop, Flip, Pad, Resize, Rotate, Transform
from dpt_jax.data.transforms.photometric import ColorJitter, PhotoMetricDistortion
from dpt_jax.data.transforms.sizes import AtLeast, ByFactor, LongSide, SizeRule, Within

JITTERS = {
    "mmseg": PhotoMetricDistortion(),
    "bts": ColorJitter(),  # of NYUv2
    "bts_kitti": ColorJitter(brightness=(0.9, 1.1)),
}
"""What `config.data.augment.photometric` may name."""

_DEFAULTS = MappingProxyType(
    {
        "order": ("box", "resize", "rotate", "crop", "flip", "photometric", "pad"),
        "box": (),  # top, bottom, left, right
        "scale": (),  # low, high: factors of the image's own size, or of the next two
        "long_side": 0,  # of the result, pixels
        "within": (),  # long, short side of what the result fits into, pixels
        "at_least": 0,  # both sides of the result, pixels
        "multiple_of": 1,  # both sides with at_least
        "kernel": "pillow_bilinear",
        "rotate": 0.0,  # degrees
        "crop": (),  # height, width
        "cat_max_ratio": 1.0,
        "flip": 0.5,
        "photometric": "",
        "fill": (0, 0, 0),  # colour of what is padded to the crop's size
    }
)

# mmseg pads with zeros after normalising with ImageNet's mean, so with this colour.
_MMSEG = {
    "scale": (0.5, 2.0),
    "kernel": "opencv_linear",
    "cat_max_ratio": 0.75,
    "photometric": "mmseg",
    "fill": (124, 116, 104),
}

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # DPT on ADE20K: PyTorch-Encoding's `_sync_transform` with base_size 520, crop_size 480
        # (zhanghang1989/PyTorch-Encoding, datasets/base.py; confirmed in isl-org/DPT issue 41). It
        # flips first, so that what is padded lies at the right and the bottom.
        "dpt_ade20k": {
            "order": ("flip", "box", "resize", "rotate", "crop", "photometric", "pad"),
            "scale": (0.5, 2.0),
            "long_side": 520,
            "crop": (480, 480),
        },
        # mmseg 1.2.2, configs/_base_/datasets/{ade20k,pascal_context_59,cityscapes}.py.
        "mmseg_ade20k": _MMSEG | {"within": (2048, 512), "crop": (512, 512)},
        "mmseg_pascal_context": _MMSEG | {"within": (520, 520), "crop": (480, 480)},
        "mmseg_cityscapes": _MMSEG | {"within": (2048, 1024), "crop": (512, 1024)},
        # cleinc/bts, pytorch/bts_dataloader.py and arguments_train_{nyu,eigen}.txt. The KB crop of
        # KITTI comes before and belongs to the source.
        "bts_nyu": {
            "box": (45, 472, 43, 608),
            "rotate": 2.5,
            "crop": (416, 544),
            "photometric": "bts",
        },
        "bts_kitti": {"rotate": 1.0, "crop": (352, 704), "photometric": "bts_kitti"},
        # MiDaS and DPT's pretraining: no code was published. Flips and square crops of 384 are from
        # the papers (recalled, not checked); size rule and kernel are those of the released
        # `Resize`, with its lower bound, because the "longer side of 384 pixels" of the DPT paper
        # leaves nothing to cut a square of 384 from.
        "midas": {
            "at_least": 384,
            "multiple_of": 32,
            "kernel": "opencv_cubic",
            "crop": (384, 384),
        },
        # DepthAnything/Depth-Anything-V2, metric_depth/dataset/{transform,hypersim}.py; the flip is
        # in its train.py, on the device.
        "depth_anything_metric": {
            "at_least": 518,
            "multiple_of": 14,
            "kernel": "opencv_cubic",
            "crop": (518, 518),
        },
    }
)
"""What each recipe changes of the defaults, which flip and do nothing else."""

_LENGTHS = {"box": 4, "scale": 2, "within": 2, "crop": 2, "fill": 3}
_NEEDS = {
    "long_side": "scale",
    "within": "scale",
    "multiple_of": "at_least",
    "cat_max_ratio": "crop",
    "fill": "crop",
}


def augment_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, under the recipe that `config` names, under the keys that `config` sets.

    Args:
        config: `config.data.augment`: `recipe` and any key of the defaults above except `order`.

    Returns:
        Every key with its value; a step that is off has 0, "" or ().

    Raises:
        DatasetError: an unknown recipe, or values that make no sense; names the key.
    """
    recipe = config.get("recipe") or None
    if recipe is not None:
        _check_name("recipe", recipe, RECIPES)
    own = {key: config[key] for key in _DEFAULTS if config.get(key) is not None}
    settings = {**_DEFAULTS, **(RECIPES[recipe] if recipe else {}), **own}
    for key, length in _LENGTHS.items():
        if settings[key] and len(settings[key]) != length:
            raise _error(key, f"must have {length} numbers, not {settings[key]}")
        settings[key] = tuple(settings[key] or ())
    settings["cat_max_ratio"] = settings["cat_max_ratio"] or 1.0
    _check_values(settings)
    for key, needed in _NEEDS.items():
        if own.get(key) and not settings[needed]:
            raise _error(key, f"needs config.data.augment.{needed}")
    rules = [key for key in ("long_side", "within", "at_least") if settings[key]]
    if settings["at_least"] and settings["scale"]:
        rules.append("scale")
    if len(rules) > 1:
        raise _error(
            rules[0],
            f"{settings[rules[0]]} and {rules[1]} {settings[rules[1]]} both say how images are "
            f"resized; switch one off, e.g. --config.data.augment.{rules[1]}="
            + ('"()"' if _LENGTHS.get(rules[1]) else "0"),
        )
    return settings


def build_augmentations(config: Mapping[str, Any]) -> tuple[Transform, ...]:
    """The steps that `config.data.augment` asks for, in the order of its recipe.

    A resize that is followed by a crop becomes one step, which computes what remains only. Images
    that are smaller than the crop are padded to it.

    Args:
        config: see `augment_settings`.

    Raises:
        DatasetError: see `augment_settings`.
    """
    settings = augment_settings(config)
    crop, ratio = settings["crop"], settings["cat_max_ratio"]
    size, rotate = _size_rule(settings), settings["rotate"]
    steps: dict[str, Transform] = {}
    if settings["box"]:
        steps["box"] = Box(*settings["box"])
    if size:
        resize = Resize(size, settings["kernel"], divide_depth=not settings["at_least"])
        if crop and not rotate:
            resize = Resize(size, settings["kernel"], crop, ratio, resize.divide_depth)
        steps["resize"] = resize
    if rotate:
        steps["rotate"] = Rotate(rotate)
    if crop:
        if rotate or not size:
            steps["crop"] = Crop(*crop, cat_max_ratio=ratio)
        steps["pad"] = Pad(*crop, fill=settings["fill"] or (0, 0, 0))
    if settings["flip"]:
        steps["flip"] = Flip(settings["flip"])
    if settings["photometric"]:
        steps["photometric"] = JITTERS[settings["photometric"]]
    return tuple(steps[name] for name in settings["order"] if name in steps)


def _size_rule(settings: Mapping[str, Any]) -> SizeRule | None:
    if settings["at_least"]:
        return AtLeast(settings["at_least"], settings["multiple_of"] or 1)
    if not settings["scale"]:
        return None
    if settings["long_side"]:
        return LongSide(settings["long_side"], *settings["scale"])
    if settings["within"]:
        return Within(*settings["within"], *settings["scale"])
    return ByFactor(*settings["scale"])


def _check_values(settings: Mapping[str, Any]) -> None:
    _check_name("kernel", settings["kernel"], kernels.KERNELS)
    if settings["photometric"]:
        _check_name("photometric", settings["photometric"], JITTERS)
    if settings["scale"] and not 0 < settings["scale"][0] <= settings["scale"][1]:
        raise _error("scale", f"must be 0 < low <= high, not {settings['scale']}")
    for key in ("long_side", "within", "at_least", "multiple_of", "crop"):
        value = settings[key]
        sides = value if isinstance(value, tuple) else (value or 1,)
        if any(not isinstance(side, int) or side < 1 for side in sides):
            raise _error(key, f"must be whole numbers of pixels above 0, not {value}")
    for key in ("flip", "cat_max_ratio"):
        if not 0 <= settings[key] <= 1:
            raise _error(key, f"must lie between 0 and 1, not {settings[key]}")
    if settings["rotate"] < 0:
        raise _error("rotate", f"must not be negative, but is {settings['rotate']}")
    if any(not 0 <= level <= 255 for level in settings["fill"]):
        raise _error("fill", f"must be bytes, not {settings['fill']}")


def _check_name(key: str, name: str, known: Any) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), list(known), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise _error(key, f"{name!r} is not one of {', '.join(known)}{hint}")


def _error(key: str, problem: str) -> DatasetError:
    return DatasetError(f"config.data.augment.{key} {problem}")
