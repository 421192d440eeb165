# SPDX-License-Identifier: Apache-2.0
"""A data set that `dpt-jax data prepare` has copied into a few large files (ArrayRecord).

    OUT/
        dpt_data-train.array_record-00000-of-00021   records: the bytes of the data set's files
        dataset_info.json, features.json             of TensorFlow Datasets
        metadata.json                                source, `Meaning` by split, sizes of shards
        names-train.json                             names of the examples, in order
        checksums.sha256                             for `sha256sum -c`

It is an ordinary data set of TensorFlow Datasets (TFDS), `tfds.builder_from_directory(OUT)`, and is
read without TensorFlow. To TFDS a label is the values that its PNG stores, and depth those of its
16-bit PNG or the bytes of its .npy file; `PreparedSource` makes classes and metres of them.

Shards are opened on local disks only, because ArrayRecord's reader knows no other. A bucket has to
be mounted (gcsfuse) or copied.
"""

import bisect
import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from dpt_jax.data.sources import base, files

NAME = "dpt_data"
"""Name of the data set for TFDS, by which `is_prepared` knows it."""
CHECKSUMS = "checksums.sha256"
"""Name of the list of checksums, as `sha256sum -c` reads it."""

_AGAIN = "Copy it again, or prepare it again with `dpt-jax data prepare`."


def is_prepared(root: epath.PathLike) -> bool:
    """Whether `root` is a folder that `dpt-jax data prepare` has written."""
    info = epath.Path(root).expanduser() / "dataset_info.json"
    return info.is_file() and f'"{NAME}"'.encode() in info.read_bytes()


def features(encoded: files.Encoded) -> dict[str, Any]:
    """What TFDS is told of the records of a data set, by one of its examples."""
    import tensorflow_datasets as tfds  # takes 1 to 2 seconds

    kinds = tfds.features
    image_format = "png" if encoded.image.startswith(b"\x89PNG") else "jpeg"
    described: dict[str, Any] = {
        "name": kinds.Text(),
        "image": kinds.Image(encoding_format=image_format),
        "intrinsics": kinds.Tensor(shape=(3, 3), dtype=np.float64, encoding=kinds.Encoding.BYTES),
    }
    if encoded.label is not None:
        described["label"] = kinds.Image(shape=(None, None, 1), encoding_format="png")
    if encoded.depth is not None and encoded.depth.startswith(b"\x93NUMPY"):
        described["depth"] = kinds.Text()  # which holds any bytes
    elif encoded.depth is not None:
        described["depth"] = kinds.Image(
            shape=(None, None, 1), dtype=np.uint16, encoding_format="png"
        )
    return described


def record(encoded: files.Encoded) -> dict[str, Any]:
    """An example as a record of these `features`. TFDS keeps bytes that it is given unchanged."""
    fields = {"name": encoded.name, "image": encoded.image, "intrinsics": np.full((3, 3), np.nan)}
    if encoded.intrinsics is not None:
        fields["intrinsics"] = np.array(encoded.intrinsics, np.float64).reshape(3, 3)
    targets = {"label": encoded.label, "depth": encoded.depth}
    return fields | {key: value for key, value in targets.items() if value is not None}


class PreparedSource:
    """Prepared data as a `Source`: examples, names and order are those of the data set itself.

    Threads may read from it at the same time, and it travels to other processes by pickle.

    Args:
        root: the folder, on a local disk.
        split: "train" or "validation".

    Attributes:
        meaning: see `files.Meaning`.

    Raises:
        DatasetError: not prepared data, a bucket, a split that was not prepared, a shard that is
            missing or has another size than when it was written; on access, a damaged record and
            what `files.decode` refuses.
    """

    def __init__(self, root: epath.PathLike, split: str):
        import tensorflow_datasets as tfds

        directory = _local(root)
        try:
            builder: Any = tfds.builder_from_directory(directory)
            info = builder.info
            meanings, sizes = info.metadata["meaning"], info.metadata["bytes"]
        except Exception as error:  # TFDS raises many types for damaged JSON
            raise base.DatasetError(
                f"{directory} cannot be opened as prepared data ({type(error).__name__}: {error}). "
                f"{_AGAIN}"
            ) from error
        if split not in meanings:
            raise base.DatasetError(
                f"{directory} was prepared with the split {', '.join(meanings)} only, not {split!r}"
            )
        self.meaning = files.Meaning.from_json(meanings[split])
        instructions = info.splits[split].file_instructions
        self._shards = [epath.Path(each.filename) for each in instructions]
        self._ends = list(itertools.accumulate(each.examples_in_shard for each in instructions))
        for shard in self._shards:
            _check_size(shard, sizes[shard.name])
        self._names = _read_names(directory / f"names-{split}.json", self._ends[-1])
        images = [k for k, v in info.features.items() if isinstance(v, tfds.features.Image)]
        raw = dict.fromkeys(images, tfds.decode.SkipDecoding())
        self._records = builder.as_data_source(split, decoders=raw)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.meaning.classes

    @property
    def palette(self) -> np.ndarray:
        return self.meaning.colors

    def __len__(self) -> int:
        return len(self._names)

    def encoded(self, index: int) -> files.Encoded:
        """The bytes that example `index` was prepared from."""
        index = range(len(self))[index]
        shard = bisect.bisect_right(self._ends, index)
        position = index - (self._ends[shard - 1] if shard else 0)
        place = f"{self._shards[shard]}, record {position}"
        try:
            fields = self._records[index]
        except Exception as error:  # of the reader in C++, or of the parser of records
            raise base.DatasetError(
                f"{place} is damaged ({type(error).__name__}: {error}). {_AGAIN}"
            ) from error
        name = fields["name"].decode()
        intrinsics = tuple(fields["intrinsics"].ravel().tolist())
        return files.Encoded(
            name,
            image=fields["image"],
            label=fields.get("label"),
            depth=fields.get("depth"),
            intrinsics=None if np.isnan(intrinsics).any() else intrinsics,
            where={key: f"{key} of {name} ({place})" for key in ("image", "label", "depth")},
        )

    def __getitem__(self, index: int) -> base.Example:
        return files.decode(self.encoded(index), self.meaning)

    def name(self, index: int) -> str:
        return self._names[index]


def _local(root: epath.PathLike) -> epath.Path:
    directory = epath.Path(root).expanduser()
    if not base.is_local(directory):
        raise base.DatasetError(
            f"{directory}: prepared data is read from local disks only. Mount the bucket (gcsfuse) "
            "or copy it (`gcloud storage cp -r`), and pass --config.data.root=DIR. The data set's "
            "own folder can be read from a bucket"
        )
    if not is_prepared(directory):
        raise base.DatasetError(f"{directory} was not written by `dpt-jax data prepare`")
    return directory


def _check_size(shard: epath.Path, size: int) -> None:
    if not shard.is_file():
        raise base.DatasetError(f"{shard} is missing. {_AGAIN}")
    if shard.stat().length != size:
        raise base.DatasetError(
            f"{shard} has {shard.stat().length} bytes instead of {size}. {_AGAIN}"
        )


def _read_names(path: epath.Path, count: int) -> list[str]:
    try:
        names = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise base.DatasetError(f"{path} cannot be read ({error}). {_AGAIN}") from error
    if len(names) != count:
        raise base.DatasetError(f"{path} has {len(names)} names for {count} records. {_AGAIN}")
    return names


def verify(directory: str | os.PathLike[str]) -> list[str]:
    """Compares every file of prepared data with its checksum.

    Returns:
        One sentence for each file that is missing or changed; none if all is well.
    """
    listing = Path(directory).expanduser() / CHECKSUMS
    try:
        lines = listing.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [f"{listing} cannot be read: {error}"]
    problems = [] if lines else [f"{listing} is empty"]
    for line in lines:
        checksum, _, name = line.partition("  ")
        path = listing.parent / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif sha256(path) != checksum:
            problems.append(f"{path} is damaged: its checksum is not that in {CHECKSUMS}")
    return problems


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
