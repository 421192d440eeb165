# SPDX-License-Identifier: Apache-2.0
"""Which files of a `folder` belong together: by their names, or by a table.

A table is CSV in UTF-8, with commas, a header, and columns in any order:

    image,label,depth,split
    photos/a.jpg,hand_drawn/a.png,lidar/a.npy,train

or JSON lines with the same keys, `{"image": "photos/a.jpg", "label": ...}`, when its name ends in
.jsonl. `image` and at least one of `label` and `depth` are needed; `split`, "train" or
"validation", is optional. Every row fills every column, with files that no other row has there.
Paths are relative to the root of the data.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from etils import epath

from dpt_jax.data.sources import base
from dpt_jax.data.sources.files import Sample

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_TARGETS = {"label": ("masks", (".png",)), "depth": ("depth", (".png", ".npy"))}
_COLUMNS = ("image", "label", "depth", "split")
_TOGETHER = (
    "Files belong together by their path without suffix; where they are named otherwise, use a "
    "'manifest'."
)


def from_folders(root: epath.Path, advice: str) -> list[Sample]:
    """The files of `images/` and of `masks/` and `depth/`, as far as they exist, by name."""
    images = _files(root / "images", IMAGES, advice)
    targets = {
        key: _files(root / name, suffixes, advice)
        for key, (name, suffixes) in _TARGETS.items()
        if (root / name).is_dir()
    }
    if not targets:
        raise base.DatasetError(
            f"{root} has images/ but neither masks/ nor depth/; put the targets there, or name "
            f"the files in a 'manifest'. {advice}"
        )
    for key, found in targets.items():
        places = root / "images", root / _TARGETS[key][0]
        base.check_pairs(images, found, places, f"{key} file", f"{_TOGETHER} {advice}")
    return [
        Sample(f"images/{path.relative_to(root / 'images').as_posix()}", path)._replace(
            **{key: found[stem] for key, found in targets.items()}
        )
        for stem, path in images.items()
    ]


def _files(directory: epath.Path, suffixes: Sequence[str], advice: str) -> dict[str, epath.Path]:
    """Files at any depth below a folder by their path in it without suffix, sorted."""
    base.existing_directory(directory, "your own data", advice)
    found, folders = [], [directory]
    while folders:
        for path in base.entries(folders.pop()):
            if path.suffix.lower() not in suffixes:
                if not path.is_dir():
                    raise base.DatasetError(
                        f"{path} is none of {', '.join(suffixes)}; convert it or take it out of "
                        f"{directory}"
                    )
                folders.append(path)
            else:
                found.append(path)
    if not found:
        raise base.DatasetError(f"{directory} holds no {', '.join(suffixes)}. {advice}")
    return dict(sorted(base.by_stem(found, directory).items()))


def read(path: epath.Path, root: epath.Path, advice: str) -> tuple[list[Sample], list[str] | None]:
    """The samples of a table, in its order, and the split of each if it says.

    Args:
        path: the table.
        root: folder that its paths are relative to.
        advice: what to do about missing files.

    Raises:
        DatasetError: a missing or malformed table, unknown or missing columns, empty cells, paths
            that lead out of the root, a file that is named twice in a column.
    """
    text = base.read_text(path, "the manifest", advice)
    rows = _json_rows(text, path) if path.suffix == ".jsonl" else _csv_rows(text, path)
    if not rows:
        raise base.DatasetError(f"{path} has no rows")
    columns = set(rows[0][1])
    for column in rows[0][1]:
        if column not in _COLUMNS:
            raise base.DatasetError(
                f"{path}: unknown column {column!r}; did you mean "
                f"{base.nearest(column, _COLUMNS)!r}? The first row must be the header"
            )
    if "image" not in columns or not columns & set(_TARGETS):
        raise base.DatasetError(f"{path} needs the column image, and label or depth or both")
    samples, splits = [], []
    first: dict[tuple[str, str], str] = {}
    for where, row in rows:
        if set(row) != columns or not all(isinstance(v, str) and v for v in row.values()):
            raise base.DatasetError(
                f"{where}: every row must fill the columns {', '.join(rows[0][1])}; found {row}"
            )
        # "./a.jpg" and "a//b.jpg" are other spellings of "a.jpg" and "a/b.jpg".
        keys = [key for key in ("image", *_TARGETS) if key in columns]
        names = {key: PurePosixPath(row[key]).as_posix() for key in keys}
        files = {key: base.inside(root, name) for key, name in names.items()}
        for cell in names.items():
            if cell in first:
                raise base.DatasetError(
                    f"{where}: the {cell[0]} {cell[1]} is named a second time, after {first[cell]}"
                )
            first[cell] = where
        samples.append(
            Sample(names["image"], files["image"], files.get("label"), files.get("depth"))
        )
        splits.append(row.get("split"))
        if "split" in row and row["split"] not in base.SPLITS:
            raise base.DatasetError(f"{where}: split {row['split']!r} is not train or validation")
    return samples, splits if "split" in columns else None


def _csv_rows(text: str, path: epath.Path) -> list[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        header = reader.fieldnames or ()
        rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise base.DatasetError(f"{path}, after line {reader.line_num}: {error}") from error
    if len(set(header)) != len(header):
        raise base.DatasetError(f"{path}: the header {','.join(header)} names a column twice")
    for where, row in rows:
        if reader.restkey in row:
            raise base.DatasetError(
                f"{where}: every row must fill the columns {', '.join(header)} and no more"
            )
    return rows


def _json_rows(text: str, path: epath.Path) -> list[tuple[str, dict[str, Any]]]:
    wheres = ((f"{path}, line {n}", line) for n, line in enumerate(text.splitlines(), 1))
    return [(where, parse_object(line, where)) for where, line in wheres if line.strip()]


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object without repeated keys, of which JSON readers keep the last in silence."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise base.DatasetError(f"{where}: the key {key!r} is there twice")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except ValueError as error:
        raise base.DatasetError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise base.DatasetError(f"{where} must be a JSON object, not {type(found).__name__}")
    return found


def short(name: str) -> str:
    """The name of an example without `images/` and suffix."""
    return PurePosixPath(name.removeprefix("images/")).with_suffix("").as_posix()


def read_names(path: epath.Path, samples: Sequence[Sample]) -> set[str]:
    """The examples that a list names, one per line, by `Sample.name` or by its `short` form.

    Raises:
        DatasetError: a missing or empty list, a name that is unknown, ambiguous or there twice, a
            list of everything.
    """
    text = base.read_text(path, "the list of validation images", "")
    spelled: dict[str, list[str]] = {}
    for sample in samples:
        for spelling in {sample.name, short(sample.name)}:
            spelled.setdefault(spelling, []).append(sample.name)
    held: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if not word:
            continue
        names = spelled.get(word, [])
        if len(names) != 1:
            hint = ", ".join(names) if names else base.nearest(word, spelled)
            raise base.DatasetError(
                f"{path}, line {number}: {word!r} is the name of {len(names)} examples; did you "
                f"mean {hint}?"
            )
        if names[0] in held:
            raise base.DatasetError(f"{path}, line {number}: {word!r} is there a second time")
        held.add(names[0])
    if not 0 < len(held) < len(samples):
        raise base.DatasetError(
            f"{path} names {len(held)} of {len(samples)} examples; both splits need some"
        )
    return held
