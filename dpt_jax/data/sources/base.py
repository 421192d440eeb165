# SPDX-License-Identifier: Apache-2.0
"""What a source of examples is, and how its folders and lists are found and checked."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

IGNORE = 255
"""Label of pixels that count neither in losses nor in metrics."""

SPLITS = ("train", "validation")

Example = dict[str, Any]


class DatasetError(Exception):
    """The data on disk is not what was promised; the message names the file and what to do."""


class Source(Protocol):
    """Random access to examples.

    `source[i]` is a dict of NumPy arrays: `image` uint8 (h, w, 3) RGB and one or both of `label`
    uint8 (h, w), class ids with 255 for ignored pixels, and `depth` float32 (h, w), metres with 0
    where nothing was measured. Where the camera is known, `intrinsics` is its float32 (3, 3)
    matrix, in pixels of `image`.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, empty without labels."""
        ...

    @property
    def palette(self) -> np.ndarray:
        """uint8 (len(classes), 3), the colour of each class."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """A stable, readable id of example `index`, such as its path within the data set."""
        ...


def existing_directory(path: epath.PathLike, what: str, advice: str) -> epath.Path:
    """`path`, if it is a directory; else a `DatasetError` that says what was expected there.

    Paths may be remote (`gs://`) where fsspec knows how to reach them.
    """
    directory = epath.Path(path).expanduser()
    if not directory.is_dir():
        raise DatasetError(f"{what} not found: {directory} is not a directory. {advice}")
    return directory


def inside(root: epath.Path, relative: str) -> epath.Path:
    """`root / relative`, refusing names that lead out of `root`, and those of two lines."""
    if relative.startswith("/") or ".." in relative.split("/"):
        raise DatasetError(
            f"{relative!r} leads out of the data set's root {root}; paths in lists and manifests "
            "are relative to it and have no '..'"
        )
    if relative:
        check_name(relative, f"a file of {root}")
    return root / relative


def is_local(path: epath.Path) -> bool:
    """Whether asking for each of thousands of files is cheap."""
    return "://" not in str(path)


def entries(directory: epath.Path) -> list[epath.Path]:
    """What is in a folder, sorted by name, but for hidden files.

    Raises:
        DatasetError: a folder that cannot be read; a name that is not UTF-8 or has a line break,
            which no list could hold.
    """
    try:
        found = [path for path in directory.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"{directory} cannot be read: {error}") from error
    for path in found:
        check_name(path.name, f"a file of {directory}")
    return sorted(found)


def listed(directory: epath.Path, suffixes: Sequence[str]) -> list[epath.Path]:
    """Those `entries` of a folder that have one of the suffixes (".png")."""
    return [path for path in entries(directory) if path.suffix.lower() in suffixes]


def by_stem(paths: Iterable[epath.Path], directory: epath.Path) -> dict[str, epath.Path]:
    """Files by their path in `directory` without suffix, which two of them must not share."""
    found: dict[str, epath.Path] = {}
    for path in paths:
        stem = path.relative_to(directory).with_suffix("").as_posix()
        if stem in found:
            raise DatasetError(
                f"{path} and {found[stem]} differ only in their suffix; rename or remove one of "
                "them"
            )
        found[stem] = path
    return found


def check_pairs(
    images: Mapping[str, epath.Path],
    targets: Mapping[str, epath.Path],
    places: tuple[epath.Path, epath.Path],
    target: str,
    advice: str,
) -> None:
    """Raises a `DatasetError` if an image has no target or a target no image.

    Args:
        images: the images by what they share with their targets.
        targets: the targets, likewise.
        places: the folder of the images and that of the targets.
        target: what a target is called: "annotation".
        advice: what to do about it.
    """
    for have, lack, what, place in (
        (images, targets, f"images have no {target}", places[1]),
        (targets, images, f"{target}s have no image", places[0]),
    ):
        bare = [path for key, path in have.items() if key not in lack]
        if bare:
            raise DatasetError(
                f"{len(bare)} of {len(have)} {what} in {place}, the first is {bare[0]}. {advice}"
            )


def check_name(name: str, where: str) -> None:
    """Raises a `DatasetError` if a file's name holds bytes that are no text, or a line break."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{where} is called {name!r}, which is not UTF-8; rename it") from error
    if name.splitlines() != [name]:
        raise DatasetError(f"{where} is called {name!r}, which is more than one line; rename it")


def read_text(path: epath.Path, what: str, advice: str) -> str:
    """A text file in UTF-8, without a byte order mark; a `DatasetError` says `what` is missing."""
    if not path.is_file():
        raise DatasetError(f"{what} not found: {path}. {advice}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{what} cannot be read: {error}. {advice}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: {error}") from error


def read_rows(path: epath.Path, columns: int, what: str, advice: str) -> list[list[str]]:
    """The lines of a list file, split at blanks; empty lines are left out.

    Args:
        path: the list.
        columns: how many each line must have at least.
        what: what the list is, for errors.
        advice: what to do if it is missing.
    """
    rows = []
    for number, line in enumerate(read_text(path, what, advice).splitlines(), 1):
        row = line.split()
        if row and len(row) < columns:
            raise DatasetError(
                f"{path}, line {number}: expected {columns} columns, found {line.strip()!r}"
            )
        if row:
            rows.append(row)
    if not rows:
        raise DatasetError(f"{path}, {what}, is empty. {advice}")
    return rows


def given_list(list_file: str, root: epath.Path, split: str) -> epath.Path:
    """The list that `config.data.lists` names, as a path from here or from the data set's root.

    Raises:
        DatasetError: there is no such file, or there are two, one in each place.
    """
    here, there = epath.Path(list_file).expanduser(), root / list_file
    flag = f"--config.data.lists.{split}={list_file}"
    found = [path for path in (here, there) if path.is_file()]
    if not found:
        raise DatasetError(f"list not found: {flag} is neither a file here nor in {root}")
    if len(found) == 2 and here.resolve() != there.resolve():
        raise DatasetError(
            f"{flag} may be {here.resolve()} or {there.resolve()}; give the whole path of one"
        )
    return found[0]


def check_split(split: str, dataset: str) -> None:
    """Raises a `DatasetError` unless `split` is "train" or "validation"."""
    if split not in SPLITS:
        raise DatasetError(f"{dataset} has no split {split!r}; use one of {', '.join(SPLITS)}")


def voc_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """The first `count` colours of Pascal VOC, at most 256: black, and others, all different.

    Bits 0, 1, 2 of the index are the top bits of red, green and blue, bits 3, 4, 5 the next, and so
    on (`VOClabelcolormap.m` of the VOC development kit).
    """
    colors = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colors.append(tuple(channels))
    return tuple(colors)


def nearest(word: str, known: Iterable[str]) -> str:
    """The most similar of the known words, for a message about a mistyped one."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]
