# SPDX-License-Identifier: Apache-2.0
"""Any picture, from a file or memory, as upright RGB."""

import os
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow's own limit: 512 MiB of RGB.
MAX_PIXELS = 178_956_970

# How far rounding may carry a float image out of 0..1.
_TOLERANCE = 1e-4


def read_image(image: Any, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a picture as RGB, as it is to be looked at.

    Args:
        image: one of
            a path, of any format that Pillow reads but EPS, which would start a program;
            a `PIL.Image.Image`;
            an array (or what NumPy makes one of) of shape `h w`, `h w 1`, `h w 3` or `h w 4`:
            uint8; uint16, of which 65535 is white; or float of 0..1, of which 1 is white.
        max_pixels: larger images are refused, from the header, before anything is decoded. Not
            for arrays. Above the default, Pillow's `PIL.Image.MAX_IMAGE_PIXELS` must be raised too;
            from half of that on Pillow warns.

    Returns:
        `h w 3`, a copy: uint8; or float32 in 0..1 where the source has more than 8 bits.
        The EXIF orientation is applied (as OpenCV's `imread` and transformers' `load_image` do).
        Grey is repeated, palettes and CMYK are converted, of an animation the first frame counts.
        Alpha is dropped, not blended with a background: OpenCV and Pillow's `convert("RGB")` do so.
        Colour profiles are not applied. Grey of 16 bits keeps them; of RGB with 16 bits Pillow
        decodes the upper 8.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable image; too large or empty; or an array with another shape, type
            or range. The message names the path.
        TypeError: `image` is none of the above.
    """
    if isinstance(image, (str, os.PathLike)):
        return _read_file(os.fspath(image), max_pixels)
    if isinstance(image, Image.Image):
        return _from_pillow(image, "image", max_pixels)
    if hasattr(image, "__array__"):
        return _from_array(np.asarray(image), "image")
    raise TypeError(f"image: expected a path, a PIL image or an array, got {type(image).__name__}")


def _read_file(path: str, max_pixels: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return _from_pillow(image, path, max_pixels)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise ValueError(
            f"{path}: not an image, or of a format that Pillow does not read"
        ) from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: {error}; see PIL.Image.MAX_IMAGE_PIXELS") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def _from_pillow(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    width, height = image.size
    if width * height == 0:
        raise ValueError(f"{name}: the image is empty, {height} x {width}")
    if width * height > max_pixels:
        raise ValueError(
            f"{name}: {height} x {width} is {width * height:,} pixels, more than the limit of "
            f"{max_pixels:,} (max_pixels of read_image)"
        )
    if image.format == "EPS":
        raise ValueError(f"{name}: EPS is a program, not an image; convert it to PNG")
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # whose "I" are 16 bits
        raise ValueError(
            f"{name}: 32-bit integers (Pillow's mode I), whose white is unknown; convert to 16 bits"
        )
    try:
        array = _decode(image)
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        raise ValueError(
            f"{name}: damaged or unreadable ({type(error).__name__}: {error})"
        ) from error
    return _from_array(array, name)


def _decode(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # convert("RGB") would cut 16 bits off at 255
        return np.asarray(image).astype(np.uint16)
    if image.mode == "F":
        return np.asarray(image)
    # Pillow warns where it turns a palette with transparency into RGB at once.
    transparent = image.mode in ("P", "PA", "RGBa")
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))[..., :3]


def _from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{name}: expected an array of shape (height, width), or with 1, 3 or 4 channels last, "
            f"got {array.shape}"
        )
    if array.size == 0:
        raise ValueError(f"{name}: the image is empty, {array.shape}")
    array = array[..., :3]
    if array.dtype == np.uint8:
        levels = array
    elif np.issubdtype(array.dtype, np.uint16):
        levels = array.astype(np.float32) / 65535
    elif np.issubdtype(array.dtype, np.floating):
        levels = _unit_range(array, name)
    else:
        raise ValueError(
            f"{name}: expected uint8, uint16 or floats of 0..1, got {array.dtype}; convert it, "
            "since its white is unknown"
        )
    return np.array(np.broadcast_to(levels, (*levels.shape[:2], 3)), order="C")


def _unit_range(array: np.ndarray, name: str) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # NaN fails too
        raise ValueError(
            f"{name}: floats of an image are expected in 0..1, got {low:g}..{high:g}; divide by "
            "the value of white, or convert to uint8"
        )
    return np.clip(array, 0, 1).astype(np.float32)
