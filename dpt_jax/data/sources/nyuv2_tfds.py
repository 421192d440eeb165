# SPDX-License-Identifier: Apache-2.0
"""NYUv2 depth as TensorFlow Datasets prepares it: `nyu_depth_v2`, 47,584 / 654 images.

This is the data of FastDepth: image (480, 640, 3) as PNG and depth (480, 640) in metres as float16,
whose steps are 1 mm at 1 m and 8 mm at 10 m. The 654 images are the official test images, but their
depth is in-painted. `nyuv2` and `nyuv2_mat` have what the literature scores on.

Reading needs tensorflow-datasets but no TensorFlow; preparing needs both, once, elsewhere:

    pip install tensorflow-cpu tensorflow-datasets importlib_resources h5py
    tfds build nyu_depth_v2 --file_format=array_record --data_dir=DIR
"""

import io
from typing import Any

import numpy as np
from etils import epath

from dpt_jax.data.sources import base, files

_BUILD = "tfds build nyu_depth_v2 --file_format=array_record --data_dir=DIR"
_ADVICE = (
    f"Prepare it where TensorFlow is installed, `{_BUILD}` (34 GB to download), and pass "
    "--config.data.root=DIR."
)
_MEANING = files.Meaning(
    "nyuv2_tfds",
    metres_per_unit=1.0,
    note="targets are in-painted and stored as float16: scores are not comparable with the "
    "literature, which counts the measured pixels of nyuv2",
)


class NYUv2TFDS:
    """The prepared data set as a `Source`; made by `nyuv2_tfds`.

    Args:
        records: what `builder.as_data_source` returns, with the images left as bytes.
        where: folder and split, for errors.
        split: for names; TFDS keeps none.

    Attributes:
        meaning: see `files.Meaning`.
    """

    classes: tuple[str, ...] = ()
    palette = np.zeros((0, 3), np.uint8)

    def __init__(self, records: Any, where: str, split: str):
        self.meaning = _MEANING
        self._records, self._where, self._split = records, where, split

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        return f"{self._split}/{index:05d}"

    def encoded(self, index: int) -> files.Encoded:
        """Example `index` as files: the PNG as it is stored, and a .npy of float16 metres."""
        where = f"{self._where}, record {index}"
        try:
            record = self._records[index]
        except Exception as error:  # RuntimeError, DecodeError and more: a damaged or absent shard
            raise base.DatasetError(
                f"{where} cannot be read ({type(error).__name__}: {error}); prepare it again. "
                f"{_ADVICE}"
            ) from error
        depth = io.BytesIO()
        np.save(depth, record["depth"])
        return files.Encoded(
            self.name(index),
            record["image"],
            depth=depth.getvalue(),
            where={"image": f"{where}, image", "depth": f"{where}, depth"},
        )

    def __getitem__(self, index: int) -> base.Example:
        return files.decode(self.encoded(index), self.meaning)


def nyuv2_tfds(*, root: str | None, split: str) -> NYUv2TFDS:
    """NYUv2 from the folder of `tfds build nyu_depth_v2 --file_format=array_record`.

    Args:
        root: the --data_dir it was built in, or the folder of the version, `nyu_depth_v2/0.0.1`.
        split: "train" (47,584 images) or "validation" (654).

    Raises:
        DatasetError: tensorflow-datasets is missing; nothing is prepared in `root`, another data
            set or another file format; a damaged record on access.
    """
    base.check_split(split, "NYUv2")
    if not root:
        raise base.DatasetError(f"nyu_depth_v2 of TensorFlow Datasets needs its folder. {_ADVICE}")
    version = _version(base.existing_directory(root, "nyu_depth_v2", _ADVICE))
    try:
        import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise base.DatasetError(
            f"reading {version} needs tensorflow-datasets (and no TensorFlow): pip install "
            "tensorflow-datasets importlib_resources"
        ) from error
    try:
        builder: Any = tfds.builder_from_directory(version)
    except Exception as error:  # of JSON, protobuf or OSError: the folder's own metadata is damaged
        raise base.DatasetError(
            f"the metadata in {version} cannot be read ({type(error).__name__}: {error}). {_ADVICE}"
        ) from error
    features = set(builder.info.features or ())
    if builder.name != "nyu_depth_v2" or features != {"image", "depth"}:
        raise base.DatasetError(
            f"{version} holds {builder.name!r} with {', '.join(sorted(features))}; expected "
            f"'nyu_depth_v2' with depth, image. {_ADVICE}"
        )
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        found = getattr(builder.info.file_format, "value", None)
        raise base.DatasetError(
            f"{version} is prepared as {found}, which has no random access. Convert it where "
            f"TensorFlow is installed, `tfds convert_format --dataset_version_dir={version} "
            "--out_file_format=array_record --out_dir=DIR/nyu_depth_v2/0.0.1`, and pass "
            "--config.data.root=DIR"
        )
    if split not in builder.info.splits:
        raise base.DatasetError(
            f"{version} has no split {split!r}, only {list(builder.info.splits)}"
        )
    decoders = {"image": tfds.decode.SkipDecoding()}
    return NYUv2TFDS(builder.as_data_source(split, decoders=decoders), f"{version}, {split}", split)


def _version(directory: epath.Path) -> epath.Path:
    """The one folder in or at `directory` that holds a prepared version."""
    patterns = ("dataset_info.json", "*/dataset_info.json", "nyu_depth_v2/*/dataset_info.json")
    found = [path.parent for pattern in patterns for path in sorted(directory.glob(pattern))]
    if len(found) != 1:
        raise base.DatasetError(
            f"expected one prepared version of nyu_depth_v2 in {directory}, found "
            f"{', '.join(map(str, found)) or 'none'}. {_ADVICE}"
        )
    return found[0]
