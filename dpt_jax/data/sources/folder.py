# SPDX-License-Identifier: Apache-2.0
"""`folder`: your own images with masks, depth maps, or both.

    root/
        dataset.json
        images/**/NAME.{jpg,jpeg,png,webp}     8 bits per channel
        masks/**/NAME.png                      8 bits, one channel (or palette): label values
        depth/**/NAME.{png,npy}                16-bit PNG, or an array (height, width); 0 = no value

Files belong together by their path without suffix: `images/day/7.jpg`, `masks/day/7.png`. Every
image must have its targets and every target its image. `dataset.json` says what the values mean;
nothing is guessed:

    {
      "classes": ["road", "sidewalk"],
      "label_map": {"7": "road", "8": "sidewalk", "9": "sidewalk"},
      "ignore": [0, 255],
      "depth_unit": "metre",
      "depth_scale": 0.001,
      "validation": {"fraction": 0.1, "seed": 0},
      "manifest": "pairs.csv",
      "origin": "filmed in May by the harbour"
    }

classes: names, in the order of the network's outputs; needed with masks.
label_map: the class of each label value; without it, value 0 is the first class, 1 the second, ...
ignore: label values that count neither in losses nor in metrics; none if left out. A value that is
    neither mapped nor ignored is an error.
depth_unit, depth_scale: depth is stored value x depth_scale, in "metre", "centimetre" or
    "millimetre"; both are needed with depth.
validation: which images are held out.
    {"fraction": 0.1, "seed": 0} draws for each image by a hash of seed and name, so that an image
    stays where it is when others come or go (a tenth of them is what to expect, not what is
    counted out). Frames of one video end up in both splits: use a list.
    {"list": "validation.txt"} names them, one per line: "day/7", or "images/day/7.jpg".
    {"same_as_train": true} holds out nothing: to see whether a few images are learnt by heart.
manifest: a table of the examples, where they do not lie in three such folders; see `manifest.py`.
    Its column `split` can stand in for `validation`.
origin: where the data is from; said again in errors.

All paths are relative to root and must not lead out of it; only `manifest` and `list` are relative
to the folder of `dataset.json`, which `config.data.description` may name elsewhere.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from etils import epath

from dpt_jax.data.sources import base, manifest
from dpt_jax.data.sources.files import FileSource, Meaning, Sample

METRES = {"metre": 1.0, "centimetre": 0.01, "millimetre": 0.001}
_LABEL_KEYS = {"classes": list, "label_map": dict, "ignore": list}
_DEPTH_KEYS = {"depth_unit": str, "depth_scale": float}
_KEYS = _LABEL_KEYS | _DEPTH_KEYS | {"validation": dict, "manifest": str, "origin": str}
_KINDS = {list: "a list", dict: "an object", str: "a string", float: "a number"}
_TEMPLATE = """{
  "classes": ["road", "sidewalk"],
  "ignore": [255],
  "depth_unit": "millimetre",
  "depth_scale": 1,
  "validation": {"fraction": 0.1, "seed": 0}
}"""


def folder(*, root: str | None, split: str, description: str | None = None) -> FileSource:
    """Your own data; see the module's docstring for its layout.

    Args:
        root: the folder.
        split: "train" or "validation".
        description: path of its `dataset.json`; None is the one in `root`.

    Raises:
        DatasetError: a missing root, description, manifest, list or file; a wrong or missing key;
            an image without target or the other way round; an image named twice; an empty split; on
            access, what `files.decode` refuses.
    """
    base.check_split(split, "a folder")
    if not root:
        raise base.DatasetError("a folder of images needs --config.data.root=DIR")
    directory = base.existing_directory(
        root, "the folder of images", "Pass --config.data.root=DIR."
    )
    path = epath.Path(description).expanduser() if description else directory / "dataset.json"
    spec = _read_description(path)
    advice = f"{path} describes the data" + (
        f", which is from: {spec['origin']}" if "origin" in spec else "."
    )
    if "manifest" in spec:
        table = base.inside(path.parent, spec["manifest"])
        samples, splits = manifest.read(table, directory, advice)
    else:
        samples, splits = manifest.from_folders(directory, advice), None
    if splits and "validation" in spec:
        raise base.DatasetError(
            f"{path}: the manifest {spec['manifest']} has a column 'split', so that "
            "'validation' must not be given as well"
        )
    meaning = _meaning(path, spec, directory, samples[0])
    if splits is None:
        splits = _held_out(path, spec, samples)
    chosen = [s for s, where in zip(samples, splits, strict=True) if where in (split, "both")]
    if not chosen:
        raise base.DatasetError(
            f"{path}: none of the {len(samples)} examples is in split {split!r}"
        )
    return FileSource(meaning, chosen, advice)


def _read_description(path: epath.Path) -> dict[str, Any]:
    advice = (
        "It says what the values in your files mean; write it like this, with what you have:\n"
        f"{_TEMPLATE}\nAll keys: dpt_jax/data/sources/folder.py"
    )
    text = base.read_text(path, "the description of the data set", advice)
    spec = manifest.parse_object(text, str(path))
    for key, value in spec.items():
        if key not in _KEYS:
            raise base.DatasetError(
                f"{path}: unknown key {key!r}; did you mean {base.nearest(key, _KEYS)!r}?"
            )
        _check_type(str(path), key, value, _KEYS[key])
    return spec


def _check_type(where: str, key: str, value: Any, kind: type) -> None:
    accepted = int | float if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise base.DatasetError(f"{where}: {key!r} must be {_KINDS[kind]}, not {value!r}")


def _meaning(
    path: epath.Path, spec: dict[str, Any], directory: epath.Path, sample: Sample
) -> Meaning:
    """What the description says about the targets that there are, and only about these."""
    for target, needed, known in (
        ("label", ("classes",), _LABEL_KEYS),
        ("depth", tuple(_DEPTH_KEYS), _DEPTH_KEYS),
    ):
        there = getattr(sample, target) is not None
        missing = [key for key in needed if key not in spec]
        if there and missing:
            raise base.DatasetError(
                f"{path} lacks {' and '.join(map(repr, missing))}, without which the {target}s in "
                f"{getattr(sample, target).parent} mean nothing. For example:\n{_TEMPLATE}"
            )
        given = [key for key in known if key in spec]
        if not there and given:
            raise base.DatasetError(
                f"{path} has {given[0]!r}, but no example has a {target}; put it there or take the "
                "key out"
            )
    classes = tuple(spec.get("classes", ()))
    wrong = [c for c in classes if not isinstance(c, str) or not c.strip() or classes.count(c) > 1]
    if wrong or (sample.label and not classes):
        raise base.DatasetError(
            f"{path}: 'classes' must be one or more different names, not {wrong or 'empty'}"
        )
    return Meaning(
        f"folder {directory.resolve().name}",
        classes=classes,
        palette=base.voc_colors(len(classes) + 1)[1:],  # black stands for ignored
        class_of=_class_of(path, spec, classes) if classes else {},
        metres_per_unit=_metres_per_unit(path, spec) if sample.depth else None,
    )


def _metres_per_unit(path: epath.Path, spec: dict[str, Any]) -> float:
    unit, scale = spec["depth_unit"], spec["depth_scale"]
    if unit not in METRES:
        raise base.DatasetError(f"{path}: depth_unit {unit!r} is not one of {', '.join(METRES)}")
    if not 1e-9 < scale < 1e6:
        raise base.DatasetError(
            f"{path}: depth_scale must be positive, from 1e-9 to 1e6, not {scale!r} (what is "
            "stored x depth_scale is in depth_unit)"
        )
    return scale * METRES[unit]


def _class_of(path: epath.Path, spec: dict[str, Any], classes: tuple[str, ...]) -> dict[int, int]:
    class_of: dict[int, int] = {}
    named = spec.get("label_map", {str(i): name for i, name in enumerate(classes)})
    for key, name in named.items():
        value = int(key) if key.isdecimal() and key.isascii() else 256
        if str(value) != key or value > 255:
            raise base.DatasetError(
                f"{path}: label_map {key!r} is not a label value; they are 0..255, in quotes"
            )
        if name not in classes:
            raise base.DatasetError(
                f"{path}: label_map {key!r} names the class {name!r}, which is not in 'classes'; "
                f"did you mean {base.nearest(str(name), classes)!r}?"
            )
        class_of[value] = classes.index(name)
    for value in spec.get("ignore", []):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
            raise base.DatasetError(f"{path}: 'ignore' holds {value!r}; label values are 0..255")
        if value in class_of:
            raise base.DatasetError(
                f"{path}: label value {value} is both ignored and class "
                f"{classes[class_of[value]]!r}"
                + ("" if "label_map" in spec else "; say what each value means in 'label_map'")
            )
        class_of[value] = base.IGNORE
    return class_of


def _held_out(path: epath.Path, spec: dict[str, Any], samples: Sequence[Sample]) -> list[str]:
    """The split of each sample: "train", "validation" or "both"."""
    rule = spec.get("validation")
    kinds = ({"fraction", "seed"}, {"list"}, {"same_as_train"})
    if rule is None or set(rule) not in kinds:
        found = "is missing" if rule is None else f"has the keys {', '.join(map(repr, rule))}"
        raise base.DatasetError(
            f"{path}: 'validation' {found}; say which images are held out, in one of these ways:\n"
            '"validation": {"fraction": 0.1, "seed": 0}\n'
            '"validation": {"list": "validation.txt"}\n'
            '"validation": {"same_as_train": true}'
        )
    if "same_as_train" in rule:
        if rule["same_as_train"] is not True:
            raise base.DatasetError(f"{path}: 'same_as_train' can only be true")
        return ["both"] * len(samples)
    if "list" in rule:
        _check_type(str(path), "list", rule["list"], str)
        held = manifest.read_names(base.inside(path.parent, rule["list"]), samples)
    else:
        held = _drawn(path, rule, samples)
    return ["validation" if s.name in held else "train" for s in samples]


def _drawn(path: epath.Path, rule: dict[str, Any], samples: Sequence[Sample]) -> set[str]:
    fraction, seed = rule["fraction"], rule["seed"]
    _check_type(str(path), "fraction", fraction, float)
    if not 0 < fraction < 1:
        raise base.DatasetError(f"{path}: 'fraction' must be between 0 and 1, not {fraction!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise base.DatasetError(f"{path}: 'seed' must be a whole number, not {seed!r}")
    held = set()
    for sample in samples:
        digest = hashlib.sha256(f"{seed}/{manifest.short(sample.name)}".encode()).digest()
        if int.from_bytes(digest[:8]) < fraction * 2**64:
            held.add(sample.name)
    if not 0 < len(held) < len(samples):
        raise base.DatasetError(
            f"{path}: fraction {fraction:g} with seed {seed} holds out {len(held)} of "
            f"{len(samples)} images; take another seed or fraction, or name the images in a list "
            '({"list": "validation.txt"})'
        )
    return held
