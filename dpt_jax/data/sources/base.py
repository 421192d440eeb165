# SPDX-License-Identifier: Apache-2.0
"""What a source of examples is, and how its folders and lists are found and checked."""

import difflib
from collections.abc import Iterable, Sequence
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


def check_split(split: str, dataset: str) -> None:
    """Raises a `DatasetError` unless `split` is "train" or "validation"."""
    if split not in SPLITS:
        raise DatasetError(f"{dataset} has no split {split!r}; use one of {', '.join(SPLITS)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """The most similar of the known words, for a message about a mistyped one."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]
