# SPDX-License-Identifier: Apache-2.0
"""Bytes of image files to arrays: checked, and refused rather than guessed.

Pillow decodes everything. Where OpenCV is installed (the extra `fast`) it decodes intact JPEGs, in
less time and to the same bytes. EXIF orientation is ignored throughout, because annotations are
stored unrotated, as the reference pipelines read them.
"""

import io
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from dpt_jax.data.sources.base import DatasetError

try:
    import cv2  # pyright: ignore[reportMissingImports]
except ImportError:
    cv2: Any = None
else:
    # Examples are decoded in parallel; threads of its own would only compete with them.
    cv2.setNumThreads(1)

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
"""A small file may claim any size; above this one (Pillow's limit) it is not decoded."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_END = b"\xff\xd9"


def rgb(data: bytes, where: str) -> np.ndarray:
    """An encoded image as uint8 (h, w, 3); grey is repeated and alpha dropped.

    Args:
        data: the file.
        where: its path, for errors.

    Raises:
        DatasetError: an empty, damaged or oversized file, or more than 8 bits per channel.
    """
    image = _open(data, where, "JPEG", "PNG", "WEBP")
    # Of 16-bit colour Pillow silently drops the lower half.
    if image.mode.startswith(("I", "F")) or _bits(data) > 8:
        raise DatasetError(
            f"{where} has mode {image.mode}, {max(_bits(data), 16)} bits; images must have 8 bits "
            "per channel, because how brighter ones are to be mapped is not known. Is it a depth "
            "map?"
        )
    if cv2 and image.format == "JPEG" and image.mode in ("RGB", "L"):
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if decoded is not None:
            return decoded
    # Pillow warns of transparent palettes; the colours are right all the same.
    image.info.pop("transparency", None)
    return _decoded(image if image.mode == "RGB" else image.convert, where, "RGB")


def orientation(data: bytes) -> int:
    """How EXIF data wants a picture turned, 1 (not at all) to 8; from 5 on height becomes width.

    `rgb` does not turn it. A file without readable EXIF data has 1.
    """
    exif = Image.Exif()
    try:
        exif.load(Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")).info["exif"])
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises many types for damaged headers
        return 1
    return value if value in range(1, 9) else 1


def ids(data: bytes, where: str) -> np.ndarray:
    """An 8-bit one-channel PNG as uint8 (h, w); palette images give their indices.

    Raises:
        DatasetError: as for `rgb`; another mode or bit depth; a JPEG, which changes ids at edges.
    """
    image = _open(data, where, "PNG", "JPEG")
    # Pillow stretches grey PNGs of 1, 2 or 4 bits to 0..255, which would change the ids.
    if image.mode not in ("L", "P") or (image.mode == "L" and _bits(data) != 8):
        raise DatasetError(
            f"{where} has mode {image.mode}, {_bits(data)} bits; a label map must be an 8-bit "
            "single-channel (or palette) PNG whose pixel values are class ids"
        )
    if image.format == "JPEG":
        raise DatasetError(
            f"{where} is a JPEG, whose compression has changed class ids; label maps must be PNG"
        )
    return _decoded(image, where)


def depth(data: bytes, where: str, metres_per_unit: float) -> np.ndarray:
    """A 16-bit PNG or a .npy array as float32 metres (h, w); 0 stands for "no value".

    Args:
        data: the file.
        where: its path, for errors.
        metres_per_unit: what the stored values are multiplied by.

    Raises:
        DatasetError: as for `rgb`; another mode, bit depth or shape; values that are negative,
            infinite or not a number.
    """
    if data.startswith(b"\x93NUMPY"):
        stored = _npy(data, where)
    else:
        image = _open(data, where, "PNG", "JPEG")
        if not image.mode.startswith("I") or _bits(data) != 16:
            raise DatasetError(
                f"{where} has mode {image.mode}, {_bits(data)} bits; depth must be a 16-bit "
                "single-channel PNG or a .npy array (an 8-bit picture of a depth map has lost its "
                "scale)"
            )
        stored = _decoded(image, where)
    if stored.dtype.kind != "u" and stored.size and stored.min() < 0:
        raise DatasetError(f"{where} holds negative depth ({stored.min():g}); holes must be 0")
    return stored.astype(np.float32) * np.float32(metres_per_unit)


def _npy(data: bytes, where: str) -> np.ndarray:
    try:
        stored = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # ValueError, EOFError, SyntaxError: all mean a damaged file
        raise _unreadable(where, error) from error
    if stored.ndim != 2 or stored.dtype.kind not in "fiu" or stored.dtype.itemsize < 2:
        raise DatasetError(
            f"{where} is an array of shape {stored.shape} and type {stored.dtype}; depth must be "
            "(height, width) numbers of at least 16 bits"
        )
    with np.errstate(over="ignore"):  # which gives infinity, refused below
        stored = stored.astype(np.float32)
    if not np.isfinite(stored).all():
        raise DatasetError(
            f"{where} holds values that are infinite or not a number; holes must be 0"
        )
    return stored


def _open(data: bytes, where: str, *formats: str) -> Image.Image:
    if not data:
        raise DatasetError(f"{where} is empty (0 bytes); download or export it again")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(f"{where}: {error}") from error
    except UnidentifiedImageError as error:
        raise DatasetError(
            f"{where} is not one of {', '.join(formats)}, or its header is damaged: it begins with "
            f"{data[:16]!r}; download or export it again, or take it out of the data set"
        ) from error
    except Exception as error:  # Pillow raises many types for damaged headers
        raise _unreadable(where, error) from error
    if image.width * image.height > MAX_PIXELS:
        raise DatasetError(
            f"{where} claims {image.width} x {image.height} pixels, over the limit of {MAX_PIXELS}"
        )
    _check_ends(image, data, where)
    return image


def _check_ends(image: Any, data: bytes, where: str) -> None:
    """Refuses what decoders would fill with grey, or read from pixels that a checksum disowns."""
    try:
        if image.format == "PNG":
            Image.open(io.BytesIO(data), formats=("PNG",)).verify()
        # Pillow has read up to the first scan. After a crash the rest of a file may be zeros.
        elif image.format == "JPEG" and data.find(_JPEG_END, image.fp.tell()) < 0:
            raise OSError("the JPEG is truncated: no end marker")
    except Exception as error:
        raise _unreadable(where, error) from error


def _bits(data: bytes) -> int:
    """Bits per sample in the header of a PNG; 8 for other formats."""
    return data[24] if data.startswith(_PNG) and len(data) > 24 else 8


def _decoded(image: Any, where: str, *mode: str) -> np.ndarray:
    try:
        return np.asarray(image(*mode) if callable(image) else image)
    except Exception as error:  # zlib, struct, OSError and SyntaxError all mean a damaged file
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"unreadable file {where} ({type(error).__name__}: {error}); download or export it again, "
        "or take it out of the data set"
    )
