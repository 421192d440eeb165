# SPDX-License-Identifier: Apache-2.0
"""Your own RGB-D images: 8-bit RGB + 16-bit depth PNG pairs, described by a manifest.

The manifest is a JSON file; nothing about units is guessed:

    {
      "depth_unit": "metre",          unit of (stored value x depth_scale): metre, centimetre,
      millimetre "depth_scale": 0.001,           0.001 for NYUv2, 0.00390625 (1/256) for KITTI; 0
      stored = no value "origin": "where to get it",    optional; repeated in error messages
      "splits": {
        "train": {"pairs": [["rgb/0.jpg", "depth/0.png"], ...]},
        "validation": {"root": "official_splits/test", "list": "test_files.txt"}
      }
    }

A split names its pairs inline, or in a text file with "rgb depth" on each line (further columns,
such as the focal length in the lists of BTS, are not read). Paths in `pairs` and lists are relative
to the split's `root`, which is relative to the data root; `list` is relative to the data root.
"""

import difflib
import json
from pathlib import Path
from typing import Any

import numpy as np

from dpt_jax.data.sources import base

METRES = {"metre": 1.0, "centimetre": 0.01, "millimetre": 0.001}


class RGBD:
    """RGB-D pairs as a `Source`; examples have `image` and `depth` (metres, 0 = no value).

    Args:
        root: folder that the manifest's paths are relative to; None means the manifest's own
            folder.
        manifest: path of the manifest; None means `root/manifest.json`.
        split: name of one of the manifest's splits.

    Raises:
        DatasetError: a missing root, manifest, list or file, a wrong or missing key, an empty
        split;
            and on access an unreadable file, sizes that disagree, a depth map that is not 16-bit.
    """

    classes: tuple[str, ...] = ()
    palette = np.zeros((0, 3), np.uint8)

    def __init__(self, *, root: str | None, manifest: str | None, split: str):
        advice = (
            "Pass --config.data.root=DIR and --config.data.manifest=FILE; the format is described "
            "in dpt_jax/data/sources/rgbd.py."
        )
        if not root and not manifest:
            raise base.DatasetError(
                f"an RGB-D data set needs its folder and its manifest. {advice}"
            )
        path = Path(manifest or Path(root or ".") / "manifest.json").expanduser()
        spec = _read_manifest(path, advice)
        if "origin" in spec:
            advice = f"{spec['origin']} {advice}"
        self._root = base.existing_directory(root or path.parent, "RGB-D data set", advice)
        self._metres_per_unit = spec["depth_scale"] * METRES[spec["depth_unit"]]
        splits = spec["splits"]
        if split not in splits:
            raise base.DatasetError(f"{path} has no split {split!r}, only {sorted(splits)}")
        self._pairs = _read_pairs(path, self._root, split, splits[split], advice)
        missing = [p for pair in self._pairs for p in pair if not p.is_file()]
        if missing:
            raise base.DatasetError(
                f"{len(missing)} of {2 * len(self._pairs)} files of split {split!r} do not exist, "
                f"the first is {missing[0]}. {advice}"
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> base.Example:
        image_path, depth_path = self._pairs[index]
        image = base.read_rgb(image_path)
        depth = base.read_depth16(depth_path, self._metres_per_unit)
        base.same_size(image, depth, image_path, depth_path)
        return {"image": image, "depth": depth}

    def name(self, index: int) -> str:
        return self._pairs[index][0].relative_to(self._root).as_posix()


def _read_manifest(path: Path, advice: str) -> dict[str, Any]:
    if not path.is_file():
        raise base.DatasetError(f"manifest not found: {path}. {advice}")
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise base.DatasetError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(spec, dict):
        raise base.DatasetError(f"{path} must hold a JSON object, not a {type(spec).__name__}")
    required = ("depth_unit", "depth_scale", "splits")
    for key in required:
        if key not in spec:
            raise base.DatasetError(f"{path} lacks {key!r}. {advice}")
    _check_keys(str(path), spec, (*required, "origin"))
    if not isinstance(spec["depth_unit"], str) or spec["depth_unit"] not in METRES:
        raise base.DatasetError(
            f"{path}: depth_unit {spec['depth_unit']!r} is not one of {', '.join(METRES)}"
        )
    scale = spec["depth_scale"]
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < 1e6:
        raise base.DatasetError(
            f"{path}: depth_scale must be a positive number (unit = stored value x "
            f"scale), not {scale!r}"
        )
    if not isinstance(spec["splits"], dict):
        raise base.DatasetError(f"{path}: splits must be an object of named splits")
    return spec


def _check_keys(where: str, spec: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in spec:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise base.DatasetError(f"{where}: unknown key {key!r}; did you mean {near!r}?")


def _read_pairs(
    manifest: Path, root: Path, split: str, spec: Any, advice: str
) -> list[tuple[Path, Path]]:
    where = f"{manifest}, split {split!r}"
    if not isinstance(spec, dict) or ("pairs" in spec) == ("list" in spec):
        raise base.DatasetError(f"{where}: must have either 'pairs' or 'list'")
    for key, kind in (("root", str), ("list", str), ("pairs", list)):
        if not isinstance(spec.get(key, kind()), kind):
            raise base.DatasetError(
                f"{where}: {key!r} must be a {kind.__name__}, not {spec[key]!r}"
            )
    _check_keys(where, spec, ("root", "list", "pairs"))
    folder = base.inside(root, spec.get("root", ""))
    rows = spec.get("pairs")
    if rows is None:
        listing = base.inside(root, spec["list"])
        if not listing.is_file():
            raise base.DatasetError(
                f"file not found: {listing}, the list of split {split!r} in {manifest}. {advice}"
            )
        where = str(listing)
        try:
            lines = listing.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise base.DatasetError(f"{listing} is not UTF-8 text: {error}") from error
        rows = [line.split()[:2] for line in lines if line.strip()]
    if not rows:
        raise base.DatasetError(f"split {split!r} is empty: no pairs in {where}")
    pairs = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != 2 or not all(isinstance(x, str) for x in row):
            raise base.DatasetError(
                f"{where}, entry {number}: expected the two paths 'rgb depth', found {row!r}"
            )
        if "None" in row:
            raise base.DatasetError(
                f"{where}, entry {number} ({row[0]}) has no depth file ('None'); take the line out"
            )
        pairs.append((base.inside(folder, row[0]), base.inside(folder, row[1])))
    return pairs
