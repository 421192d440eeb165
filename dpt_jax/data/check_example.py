# SPDX-License-Identifier: Apache-2.0
"""What `dpt-jax data check` notes about one example: small, so that 20,000 fit in memory."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from dpt_jax.data.sources import base, decode, files

BITS = 15
"""A depth's bin is its float32 bits without the last 15: bins 0.2 to 0.4 % wide, in order, for any
positive number, so that histograms of any two images can be added."""

BINS = 0x7F800000 >> BITS  # the bits of infinity

OUT_OF_RANGE = "label values out of range"
"""The kind of an example whose label map holds values without a meaning."""


class StoredSource(base.Source, Protocol):
    """A source whose examples are files (`files.FileSource` and its prepared copies)."""

    meaning: files.Meaning

    def encoded(self, index: int) -> files.Encoded:
        """The files of an example, as they are."""
        ...


class Depths(NamedTuple):
    """Measured depth of one image, in metres.

    Attributes:
        pixels: of the image, holes included.
        valid: pixels with a depth.
        nearest: smallest valid depth, 0 if there is none.
        farthest: largest valid depth.
        beyond: pixels farther than the `max_depth` asked for.
        bins: which bins are occupied, int64 (n,); `bin_centers` are their depths.
        counts: by how many pixels, int64 (n,).
    """

    pixels: int
    valid: int
    nearest: float
    farthest: float
    beyond: int
    bins: np.ndarray
    counts: np.ndarray


class Observation(NamedTuple):
    """One example.

    Attributes:
        index: in its split.
        name: see `base.Source.name`.
        digest: SHA-256 of the image file, None if it could not be read.
        size: (h, w) of the example, None if it is bad.
        orientation: of the image, which training does not apply (see `decode.orientation`).
        stored: int64 (256,), pixels of each stored label value; None if there is no readable label.
        depths: None if there is no depth or the example is bad.
        kind: in which way the example is bad; empty if it is good.
        error: what reading it says.
    """

    index: int
    name: str
    digest: bytes | None = None
    size: tuple[int, int] | None = None
    orientation: int = 1
    stored: np.ndarray | None = None
    depths: Depths | None = None
    kind: str = ""
    error: str = ""


def observe(source: StoredSource, index: int, max_depth: float | None = None) -> Observation:
    """Reads and decodes one example. Whatever is wrong with it is in the result, not raised."""
    seen = Observation(index, source.name(index))
    try:
        encoded = source.encoded(index)
    except Exception as error:  # what would stop the check belongs in its report
        return seen._replace(kind="missing or unreadable file", error=_said(error))
    seen = seen._replace(
        digest=hashlib.sha256(encoded.image).digest(),
        orientation=decode.orientation(encoded.image),
    )
    try:
        example = files.decode(encoded, source.meaning)
    except base.DatasetError as error:
        kind, stored = _diagnose(encoded, source.meaning)
        return seen._replace(kind=kind, error=str(error), stored=stored)
    except Exception as error:
        text = f"{encoded.where['image']}: {_said(error)}"
        return seen._replace(kind="unexpected error", error=text)
    if encoded.label is not None:
        seen = seen._replace(stored=_histogram(decode.ids(encoded.label, encoded.where["label"])))
    if "depth" in example:
        seen = seen._replace(depths=_depths(example["depth"], max_depth))
    return seen._replace(size=example["image"].shape[:2])


def _diagnose(encoded: files.Encoded, meaning: files.Meaning) -> tuple[str, np.ndarray | None]:
    """The kind of an example that `files.decode` refuses, and its label values if readable."""
    where = encoded.where
    image = _or_none(lambda: decode.rgb(encoded.image, where["image"]))
    ids = depth = stored = None
    if encoded.label is not None:
        data = encoded.label
        ids = _or_none(lambda: decode.ids(data, where["label"]))
        stored = None if ids is None else _histogram(ids)
    if encoded.depth is not None:
        metres, raw = meaning.metres_per_unit or 1.0, encoded.depth
        depth = _or_none(lambda: decode.depth(raw, where["depth"], metres))
    if image is None:
        return "unreadable or unfit image", stored
    if encoded.label is not None and ids is None:
        return "unreadable or unfit label map", None
    if encoded.depth is not None and depth is None:
        return "unreadable or unfit depth map", stored
    h, w = image.shape[:2]
    shapes = {target.shape for target in (ids, depth) if target is not None}
    if shapes - {(h, w)}:
        turned = (w, h) in shapes and decode.orientation(encoded.image) > 4
        why = ", as its EXIF orientation is not applied to the image" if turned else ""
        return f"sizes disagree{why}", stored
    if stored is not None and any(int(v) not in meaning.class_of for v in np.flatnonzero(stored)):
        return OUT_OF_RANGE, stored
    return "refused", stored


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, base.DatasetError) else repr(error)


def _or_none(read: Callable[[], np.ndarray]) -> np.ndarray | None:
    try:
        return read()
    except base.DatasetError:
        return None


def _histogram(ids: np.ndarray) -> np.ndarray:
    return np.bincount(ids.ravel(), minlength=256)


def _depths(depth: np.ndarray, max_depth: float | None) -> Depths:
    valid = depth[depth > 0]
    counts = np.bincount(valid.view(np.uint32) >> BITS, minlength=BINS)
    occupied = np.flatnonzero(counts)
    return Depths(
        pixels=depth.size,
        valid=valid.size,
        nearest=float(valid.min()) if valid.size else 0.0,
        farthest=float(valid.max()) if valid.size else 0.0,
        beyond=0 if max_depth is None else int((valid > max_depth).sum()),
        bins=occupied,
        counts=counts[occupied],
    )


def bin_centers() -> np.ndarray:
    """float32 (BINS,): the depth, in metres, in the middle of each bin."""
    bits = (np.arange(BINS, dtype=np.uint32) << BITS) + (1 << (BITS - 1))
    return bits.astype(np.uint32).view(np.float32)
