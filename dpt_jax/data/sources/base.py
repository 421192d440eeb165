# SPDX-License-Identifier: Apache-2.0
"""What a source of examples is, and how its files are read: checked, never skipped in silence."""

import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

IGNORE = 255
"""Label of pixels that count neither in losses nor in metrics."""

# Far above any photograph; a small file that claims more is refused before it is decoded.
MAX_PIXELS = 100_000_000

Example = dict[str, Any]


class DatasetError(Exception):
    """The data on disk is not what was promised; the message names the file and what to do."""


class Source(Protocol):
    """Random access to examples.

    `source[i]` is a dict of NumPy arrays: `image` uint8 (h, w, 3) RGB and one or both of `label`
    uint8 (h, w), class ids with 255 for ignored pixels, and `depth` float32 (h, w), metres with 0
    where nothing was measured.

    Attributes:
        classes: names of the classes, empty without labels.
        palette: uint8 (len(classes), 3), the colour of each class.
    """

    classes: tuple[str, ...]
    palette: np.ndarray

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """A stable, readable id of example `index`, such as its path within the data set."""
        ...


def existing_directory(path: str | Path, what: str, advice: str) -> Path:
    """`path`, if it is a directory; else a `DatasetError` that says what was expected there."""
    directory = Path(path).expanduser()
    if not directory.is_dir():
        raise DatasetError(f"{what} not found: {directory} is not a directory. {advice}")
    return directory


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refusing names that lead out of `root`."""
    path = root / relative.lstrip("/")
    if ".." in Path(relative).parts:
        raise DatasetError(f"{relative!r} leads out of the data set's root {root}; remove the '..'")
    return path


def read_rgb(path: Path) -> np.ndarray:
    """An image file as uint8 (h, w, 3); grey is repeated, alpha dropped, EXIF rotation ignored.

    EXIF is ignored because annotations are stored unrotated, as the reference pipelines read them.
    """
    with _open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise DatasetError(
                f"{path} has mode {image.mode}; images must have 8 bits per channel, because how "
                "brighter ones are to be mapped is not known. Is it a depth map?"
            )
        with warnings.catch_warnings():
            # Palette images with transparency in bytes: the colours are right all the same.
            warnings.filterwarnings("ignore", "Palette images with Transparency")
            return np.asarray(_decoded(image.convert, path, "RGB"))


def read_ids(path: Path) -> np.ndarray:
    """An 8-bit one-channel PNG of class ids as uint8 (h, w); palette images give their indices."""
    with _open(path) as image:
        # Pillow stretches grey PNGs of 1, 2 or 4 bits to 0..255, which would change the ids.
        if image.mode not in ("L", "P") or (image.mode == "L" and _bits(path) != 8):
            raise DatasetError(
                f"{path} has mode {image.mode}, {_bits(path)} bits; a label map must "
                "be an 8-bit single-channel (or "
                "palette) PNG whose pixel values are class ids"
            )
        return np.asarray(_decoded(np.array, path, image), np.uint8)


def read_depth16(path: Path, metres_per_unit: float) -> np.ndarray:
    """A 16-bit PNG as float32 metres (h, w): stored value x `metres_per_unit`; 0 is "no value"."""
    with _open(path) as image:
        if not image.mode.startswith("I"):
            raise DatasetError(
                f"{path} has mode {image.mode}; depth must be a 16-bit single-channel PNG (an "
                "8-bit picture of a depth map has lost its scale)"
            )
        stored = np.asarray(_decoded(np.array, path, image))
    return stored.astype(np.float32) * np.float32(metres_per_unit)


def same_size(image: np.ndarray, target: np.ndarray, image_path: Path, target_path: Path) -> None:
    """Raises a `DatasetError` unless an image and its annotation have the same height and width."""
    if image.shape[:2] != target.shape[:2]:
        raise DatasetError(
            f"sizes disagree (h x w): {image_path} is {image.shape[0]} x {image.shape[1]}, "
            f"{target_path} is {target.shape[0]} x {target.shape[1]}; one of the two files is not "
            "what its name says"
        )


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise DatasetError(f"file not found: {path}")
    try:
        image = Image.open(path)
    except Exception as error:  # Pillow raises many types for damaged headers
        raise _unreadable(path, error) from error
    if image.width * image.height > MAX_PIXELS:
        raise DatasetError(
            f"{path} claims {image.width} x {image.height} pixels, over the limit of {MAX_PIXELS}"
        )
    return image


def _bits(path: Path) -> int:
    """Bits per sample in the header of a PNG; 8 for other formats."""
    with path.open("rb") as file:
        header = file.read(25)
    return header[24] if header[:8] == b"\x89PNG\r\n\x1a\n" and len(header) == 25 else 8


def _decoded(decode: Any, path: Path, argument: Any) -> Any:
    try:
        return decode(argument)
    except Exception as error:  # zlib, struct, OSError and SyntaxError all mean a damaged file
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"unreadable image file {path} ({type(error).__name__}: {error}); download or export it "
        "again, or take it out of the data set"
    )
