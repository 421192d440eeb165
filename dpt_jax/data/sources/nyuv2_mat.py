# SPDX-License-Identifier: Apache-2.0
"""NYUv2 depth from its original file, the 1,449 labelled images.

    nyu/
        nyu_depth_v2_labeled.mat     2.8 GB, HDF5: images, depths (in-painted), rawDepths (0 = hole)
        splits.mat                   trainNdxs (795) and testNdxs (654), counted from 1

Both are at http://horatio.cs.nyu.edu/mit/silberman: `nyu_depth_v2/nyu_depth_v2_labeled.mat` and
`indoor_seg_sup/splits.mat`. MATLAB stores columns first, so that HDF5 shows images as (n, 3, 640,
480) and depth as (n, 640, 480); examples here are (480, 640, 3) and (480, 640).

The test images are those of `nyuv2`, but without BTS's black frame and JPEG compression, and depth
is not rounded down to millimetres.
"""

import io
import os
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from dpt_jax.data.sources import base, decode, files

_LABELED = "nyu_depth_v2_labeled.mat"
_SPLITS = "splits.mat"
_KEYS = {"raw": "rawDepths", "filled": "depths"}
_INDICES = {"train": "trainNdxs", "validation": "testNdxs"}
_SITE = "http://horatio.cs.nyu.edu/mit/silberman"
_ADVICE = (
    f"Download {_SITE}/nyu_depth_v2/{_LABELED} (2.8 GB) and {_SITE}/indoor_seg_sup/{_SPLITS} into "
    "a folder DIR and pass --config.data.root=DIR."
)
_FILLED = (
    "targets are in-painted: scores are not comparable with the literature, which counts measured "
    "pixels only (--config.data.nyuv2_mat.depth=raw)"
)


class NYUv2Mat:
    """The labelled images as a `Source`; made by `nyuv2_mat`.

    The file is opened when it is first read, so that the source can be sent to worker processes.
    HDF5 reads one example at a time, whatever the number of threads.

    Args:
        path: the .mat file.
        indices: which of its images, from 0.
        depth: "raw" or "filled".

    Attributes:
        meaning: see `files.Meaning`.
    """

    classes: tuple[str, ...] = ()
    palette = np.zeros((0, 3), np.uint8)

    def __init__(self, path: epath.Path, indices: np.ndarray, depth: str):
        self.meaning = files.Meaning(
            f"nyuv2_mat depth={depth}",
            metres_per_unit=1.0,
            note=_FILLED if depth == "filled" else "",
        )
        self._path, self._indices, self._key = path, indices, _KEYS[depth]
        self._opened: Any = None

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """The image's index in the .mat file from 0, as BTS names its files."""
        return f"{self._indices[index]:05d}"

    def encoded(self, index: int) -> files.Encoded:
        """Example `index` as files: a PNG and a .npy of float32 metres."""
        stored = io.BytesIO()
        Image.fromarray(self._image(index)).save(stored, "png", compress_level=1)
        where = {"image": self._where(index, "images"), "depth": self._where(index, self._key)}
        return files.Encoded(
            self.name(index), stored.getvalue(), depth=self._depth(index), where=where
        )

    def __getitem__(self, index: int) -> base.Example:
        # The same as files.decode(self.encoded(index)), without the way through a PNG.
        depth = decode.depth(self._depth(index), self._where(index, self._key), 1.0)
        return {"image": self._image(index), "depth": depth}

    def _image(self, index: int) -> np.ndarray:
        return np.ascontiguousarray(self._read("images", index).transpose(2, 1, 0))

    def _depth(self, index: int) -> bytes:
        stored = io.BytesIO()
        np.save(stored, np.ascontiguousarray(self._read(self._key, index).T, np.float32))
        return stored.getvalue()

    def _read(self, key: str, index: int) -> np.ndarray:
        if self._opened is None:
            self._opened = _open(self._path)
        try:
            return self._opened[key][int(self._indices[index])]
        except OSError as error:
            raise base.DatasetError(
                f"{self._where(index, key)} cannot be read: {error}. The file is damaged; {_ADVICE}"
            ) from error

    def _where(self, index: int, key: str) -> str:
        return f"{self._path}, {key}[{self._indices[index]}]"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


def nyuv2_mat(*, root: str | None, split: str, depth: str = "raw") -> NYUv2Mat:
    """NYUv2 from `nyu_depth_v2_labeled.mat` and `splits.mat`. Needs h5py.

    Args:
        root: the folder of both files, on a local disk.
        split: "train" (795 images) or "validation" (the 654 test images).
        depth: "raw", as the sensor measured it, 0 where it saw nothing: what BTS and after it the
            literature scores on; or "filled", in-painted.

    Raises:
        DatasetError: h5py is missing; a missing or damaged file; arrays of other names, types or
            shapes; indices that are out of range or in both splits; on access, depth that is
            negative or not finite.
    """
    base.check_split(split, "NYUv2")
    if depth not in _KEYS:
        raise base.DatasetError(
            f"--config.data.nyuv2_mat.depth={depth} is not one of {', '.join(_KEYS)}"
        )
    if not root:
        raise base.DatasetError(f"NYUv2 needs its folder. {_ADVICE}")
    directory = base.existing_directory(root, "NYUv2", _ADVICE)
    if not base.is_local(directory):
        raise base.DatasetError(
            f"{_LABELED} can only be read from a local disk, not from {directory}: copy it, or "
            "copy what `dpt-jax data prepare nyuv2_mat` makes of it"
        )
    for name in (_LABELED, _SPLITS):
        if not (directory / name).is_file():
            raise base.DatasetError(f"file not found: {directory / name}. {_ADVICE}")
    count = _checked_count(directory / _LABELED, _KEYS[depth])
    indices = _checked_splits(directory / _SPLITS, count)
    return NYUv2Mat(directory / _LABELED, indices[split], depth)


def _open(path: epath.Path) -> Any:
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise base.DatasetError(
            f"{path} is an HDF5 file, and h5py is not installed: pip install h5py, or the extra "
            "`nyu` of this package"
        ) from error
    try:
        return h5py.File(os.fspath(path), "r")
    except OSError as error:
        raise base.DatasetError(f"{path} is not a whole HDF5 file: {error}. {_ADVICE}") from error


def _checked_count(path: epath.Path, depth_key: str) -> int:
    """The number of images, once both arrays are what they should be."""
    with _open(path) as opened:
        for key in ("images", depth_key):
            if key not in opened:
                raise base.DatasetError(
                    f"{path} has no {key!r}, only {sorted(opened)}; is it {_LABELED}? {_ADVICE}"
                )
        images, depth = opened["images"], opened[depth_key]
        shape = images.shape
        if len(shape) != 4 or shape[1] != 3 or images.dtype != np.uint8:
            raise base.DatasetError(
                f"{path}: images are {images.dtype} {shape}; expected uint8 (n, 3, width, height)"
            )
        if depth.shape != (shape[0], *shape[2:]) or depth.dtype.kind != "f":
            raise base.DatasetError(
                f"{path}: {depth_key} are {depth.dtype} {depth.shape}; expected floating point "
                f"{(shape[0], *shape[2:])}, as the images are {shape}"
            )
        return shape[0]


def _checked_splits(path: epath.Path, count: int) -> dict[str, np.ndarray]:
    """For each split, which images it has, from 0."""
    from scipy import io as scipy_io

    try:
        stored = scipy_io.loadmat(os.fspath(path))
    except Exception as error:  # scipy raises many types for damaged files
        raise base.DatasetError(f"{path} cannot be read: {error}. {_ADVICE}") from error
    indices = {}
    for split, key in _INDICES.items():
        if key not in stored:
            raise base.DatasetError(f"{path} has no {key!r}. {_ADVICE}")
        indices[split] = stored[key].astype(np.int64).ravel() - 1
    every = np.concatenate(list(indices.values()))
    if not all(map(len, indices.values())) or every.min() < 0 or every.max() >= count:
        raise base.DatasetError(
            f"{path} must name images 1..{count} of {_LABELED} in both splits; it has "
            + ", ".join(f"{len(x)} in {_INDICES[s]}" for s, x in indices.items())
            + (f", from {every.min() + 1} to {every.max() + 1}" if len(every) else "")
        )
    if len(np.unique(every)) != len(every):
        raise base.DatasetError(f"{path} names an image twice; splits must not overlap. {_ADVICE}")
    return indices
