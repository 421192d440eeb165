# SPDX-License-Identifier: Apache-2.0
"""Reads and writes safetensors files, whole or in shards.

A file is the length of its header (uint64), the header, a JSON object
`{name: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, "__metadata__": {...}}`, and
the bytes of the tensors, C-ordered and little-endian, in a row without holes. Shards are such files
beside a `model.safetensors.index.json` whose "weight_map" says which tensor is where.

Reading is done here and not by the `safetensors` library because its NumPy arrays are copies.
"""

import json
import math
import mmap
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from dpt_jax.weights.errors import WeightsError

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_INDEX = "model.safetensors.index.json"
# Far above any checkpoint; JSON takes tens of times its length in memory.
_MOST_JSON_BYTES = 2**24


def read_safetensors(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a file, or of a directory of Hugging Face, by name.

    The arrays are read-only views of a memory map: they take no memory of their own, and the file
    must not be changed as long as they live. There are no checksums in the format.

    Args:
        path: a `.safetensors` file, or a directory with `model.safetensors` or, where there is
            none, with shards and their `model.safetensors.index.json` (the order of transformers).

    Raises:
        WeightsError: a file is damaged, has dtypes that are not of weights (float8, complex), or
            the shards are not exactly what the index says.
        OSError: there is no such file.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_file(path)
    if (path / "model.safetensors").is_file():
        return _read_file(path / "model.safetensors")
    if (path / _INDEX).is_file():
        return _read_shards(path / _INDEX)
    raise FileNotFoundError(
        f"{path} holds neither model.safetensors nor {_INDEX} (a pytorch_model.bin is not read: "
        "fetch a revision with safetensors, or save it so with transformers)"
    )


def write_safetensors(
    path: str | PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes one file; it appears under its name when it is complete, or not at all.

    Args:
        path: replaced if it is there.
        tensors: arrays of any memory layout, of bool, float or integer types or bfloat16.
        metadata: added to `{"format": "pt"}`, without which transformers refuses a file.

    Raises:
        WeightsError: an array of another type.
        OSError: the file cannot be written.
    """
    path = Path(path)
    arrays = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        if array.dtype.newbyteorder("<") not in _DTYPES.values():
            raise WeightsError(
                f"{path}: {name} is {array.dtype}, expected bool, float, integer or bfloat16"
            )
        # The library writes the memory as it lies, in whatever order that is.
        arrays[name] = np.asarray(array, order="C")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(arrays, temporary, {"format": "pt", **(metadata or {})})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    try:
        if index.stat().st_size > _MOST_JSON_BYTES:
            raise ValueError(f"has {index.stat().st_size} bytes, more than any checkpoint's")
        content = _parse_json(index.read_bytes())
        places = content.get("weight_map")
        if not isinstance(places, dict):
            raise ValueError('expected an object "weight_map"')
        names: dict[str, set[str]] = {}
        for name, shard in places.items():
            # Plain names only, which cannot lead out of the directory.
            if not isinstance(shard, str) or not shard or set(shard) & set("/\\\0:"):
                raise ValueError(f"{name!r:.99} is said to be in {shard!r:.99}, not a file name")
            names.setdefault(shard, set()).add(name)
        tensors = {}
        for shard, expected in names.items():
            if not (index.parent / shard).is_file():
                raise ValueError(f"there is no file {shard!r:.99}, which it names")
            found = _read_file(index.parent / shard)
            if found.keys() != expected:
                raise ValueError(
                    f"{shard!r:.99} lacks {sorted(expected - found.keys())[:5]} or has "
                    f"{sorted(found.keys() - expected)[:5]} too many (the first five of each)"
                )
            tensors |= found
        return {name: tensors[name] for name in places}
    except WeightsError:
        raise
    except ValueError as error:
        raise WeightsError(f"{index}: {error}") from error


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        length = int.from_bytes(bytes(data[:8]), "little")
        if length > min(_MOST_JSON_BYTES, len(data) - 8):
            raise ValueError(
                f"not a safetensors file, or a truncated one: a header of {length} bytes in a "
                f"file of {len(data)} (or a download that failed, or a Git LFS pointer)"
            )
        header = _parse_json(bytes(data[8 : 8 + length]))
        header.pop("__metadata__", None)
        return _views(header, data[8 + length :])
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def _parse_json(content: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) != len(pairs):
            raise ValueError("a JSON object with a key twice")
        return keys

    try:
        parsed = json.loads(content.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"expected a JSON object, found {type(parsed).__name__}")
    return parsed


def _views(header: dict[str, Any], data: memoryview) -> dict[str, np.ndarray]:
    ends, tensors = {}, {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{name!r:.99}: expected dtype, shape and data_offsets")
        dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            raise ValueError(
                f"{name!r:.99} is {entry['dtype']!r:.99}, expected one of {', '.join(_DTYPES)}"
            )
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not (_are_counts(shape) and _are_counts(offsets)) or len(offsets) != 2:
            raise ValueError(f"{name!r:.99}: shape and data_offsets must be lists of sizes")
        begin, end = offsets
        if not begin <= end <= len(data) or math.prod(shape) * dtype.itemsize != end - begin:
            raise ValueError(
                f"{name!r:.99}: {dtype}{shape} in bytes {begin} to {end} of {len(data)}"
            )
        tensors[name] = np.ndarray(shape, dtype, data[begin:end])
        ends[name] = begin, end
    covered = 0
    for name, (begin, end) in sorted(ends.items(), key=lambda item: item[1]):
        if begin != covered:
            raise ValueError(
                f"{name!r:.99} begins at byte {begin}, the one before ends at {covered}"
            )
        covered = end
    if covered != len(data):
        raise ValueError(f"{len(data) - covered} bytes too many at the end")
    return tensors


def _are_counts(value: Any) -> bool:
    """Whether this is a list of sizes, few enough and small enough for an array."""
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(type(number) is int and 0 <= number < 2**63 for number in value)
    )
