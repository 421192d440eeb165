# SPDX-License-Identifier: Apache-2.0
"""Reads what `torch.save` wrote, without torch and without executing pickle.

The pickles are followed by `torch_pickle`, which executes nothing; this file knows the formats
around them, those of `torch/serialization.py`:

- since torch 1.6 a zip archive: `<name>/data.pkl` is the pickle, `<name>/data/<key>` the bytes of
  the storage that the pickle refers to by `key`, stored and never compressed;
- before (and with `_use_new_zipfile_serialization=False`), a stream: the pickles of a magic number,
  a version, facts of the machine, the value and the list of storage keys, then for each key the
  number of elements as int64 and the bytes.

A tensor is a view of a storage: an offset, sizes and strides, all in elements.
"""

import io
import math
import mmap
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.torch_pickle import DTYPES, Global, Namespace, Storage, Tensor, unpickle

# Far above any checkpoint; a hostile one then costs seconds and some hundred megabytes.
_MOST_BYTES = 2**24  # of a pickle, and of a zip directory
_MOST_VALUES = 2**19  # of the tree, with shared parts repeated
_MOST_LEVELS = 32

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

# The saved value, the storages it refers to, and the bytes of each.
_Saved = tuple[Any, dict[str, Storage], Mapping[str, memoryview]]


def read_torch_file(path: str | PathLike[str]) -> Any:
    """The value saved in a `.pt` or `.pth` file, of either format, as plain Python and NumPy.

    Tensors and parameters become read-only arrays that view a memory map of the file and take no
    memory of their own; the file must not be changed as long as they live. In the legacy format
    they may be unaligned. bfloat16 is `ml_dtypes.bfloat16`. `OrderedDict` becomes `dict` without
    its attributes (`_metadata`), `argparse.Namespace` becomes `dict`, `torch.Size` becomes `tuple`,
    `torch.device`, `torch.dtype` and NumPy dtypes become `str`, and NumPy scalars become numbers.

    The checksums of the zip format are verified; the legacy format has none, so there a damaged
    file may give other numbers.

    Args:
        path: a file of `torch.save`.

    Returns:
        Dicts (of str and int keys), lists and tuples of arrays, str, int, float, bool, bytes, None.

    Raises:
        WeightsError: the file is damaged or of another kind (TorchScript, the tar format of torch
            0.1, compressed or big-endian), or it holds something else than the above: other
            classes and functions, sparse, quantised, complex or broadcast tensors.
        OSError: the file cannot be opened.
    """
    try:
        data = _map(path)
        if bytes(data[:4]) == b"PK\x03\x04":
            value, storages, contents = _read_zip(path, data)
        else:
            value, storages, contents = _read_legacy(data)
        for key, storage in storages.items():
            if len(contents[key]) != storage.nbytes:
                raise ValueError(
                    f"storage {key!r:.99} should have {storage.nbytes} bytes, but the file holds "
                    f"{len(contents[key])} for it"
                )
        return _to_arrays(value, contents)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def _map(path: str | PathLike[str]) -> memoryview:
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class _ShortReads(io.FileIO):
    """`zipfile` reads the whole directory at once; this bounds it."""

    def read(self, size: int | None = -1, /) -> Any:
        if size is not None and size > _MOST_BYTES:
            raise ValueError(f"a directory of {size} bytes")
        return super().read(size)


def _read_zip(path: str | PathLike[str], data: memoryview) -> _Saved:
    records = _zip_records(path, data)
    # torch.serialization.set_crc32_options(False) writes 0 for every checksum.
    has_checksums = any(checksum for _, checksum in records.values())

    def record(name: str) -> memoryview:
        if name not in records:
            raise ValueError(f"the zip archive has no record {name!r:.99}")
        content, checksum = records[name]
        if has_checksums and zlib.crc32(content) != checksum:
            raise ValueError(f"record {name!r:.99} is damaged: its checksum (CRC-32) is wrong")
        return content

    pickles = [name for name in records if re.fullmatch("[^/]+/data.pkl", name)]
    if any(name.endswith("/constants.pkl") for name in records):
        raise ValueError(
            "a TorchScript archive (torch.jit.save), which holds code; with torch, save "
            "torch.jit.load(file).state_dict() instead"
        )
    if len(pickles) != 1:
        raise ValueError(
            f"expected the zip archive of torch.save, with one <name>/data.pkl, found {pickles}"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in records and bytes(record(f"{folder}byteorder")) != b"little":
        raise ValueError("written on a big-endian machine, which is not supported")
    pickled = record(pickles[0])
    if len(pickled) > _MOST_BYTES:
        raise ValueError(f"data.pkl has {len(pickled)} bytes, more than any checkpoint's")
    value, storages = unpickle(io.BytesIO(pickled))
    return value, storages, {key: record(f"{folder}data/{key}") for key in storages}


def _zip_records(path: str | PathLike[str], data: memoryview) -> dict[str, tuple[memoryview, int]]:
    """The bytes and the declared checksum of each record."""
    try:
        with _ShortReads(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises whatever the damage leads it into
        raise ValueError(f"a damaged or truncated zip archive: {error}") from error
    records, free = {}, 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name, start = entry.orig_filename, entry.header_offset
        if start < free or start + 30 > len(data):
            raise ValueError(f"zip record {name!r:.99} overlaps another or lies outside the file")
        # Local header: signature, 22 bytes that the directory repeats, lengths of name and extra.
        signature, name_length, extra_length = struct.unpack("<4s22xHH", data[start : start + 30])
        local_name = bytes(data[start + 30 : start + 30 + name_length])
        start += 30 + name_length + extra_length
        free = start + entry.file_size
        encoding = "utf-8" if entry.flag_bits & 0x800 else "cp437"
        if signature != b"PK\x03\x04" or local_name.decode(encoding) != name or name in records:
            raise ValueError(f"zip record {name!r:.99} is not where the directory says, or twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(f"zip record {name!r:.99} is compressed; torch.save never does that")
        if entry.compress_size != entry.file_size or free > len(data):
            raise ValueError(f"zip record {name!r:.99} has a wrong size or ends outside the file")
        records[name] = data[start:free], entry.CRC
    return records


def _read_legacy(data: memoryview) -> _Saved:
    if bytes(data[257:262]) == b"ustar":
        raise ValueError("the tar format of torch 0.1; load it with torch and save it again")
    if _LEGACY_MAGIC.to_bytes(10, "little") not in bytes(data[:32]):
        raise ValueError(
            f"not a file of torch.save, it begins with {bytes(data[:24])!r} (a download that "
            "failed, or a Git LFS pointer, begins with text)"
        )
    stream = io.BytesIO(data[:_MOST_BYTES])
    magic, version, machine = (unpickle(stream)[0] for _ in range(3))
    if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION or type(machine) is not dict:
        raise ValueError("expected the magic number and version of torch.save's legacy format")
    if machine.get("little_endian") is not True:
        raise ValueError("written on a big-endian machine, which is not supported")
    value, storages = unpickle(stream)
    keys = unpickle(stream)[0]
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ValueError("expected the list of storage keys behind the saved value")
    if len(keys) != len(storages) or set(keys) != storages.keys():
        raise ValueError("the list of storage keys is not that of the storages referred to")
    contents, position = {}, stream.tell()
    for key in keys:
        start, end = position + 8, position + 8 + storages[key].nbytes
        count = int.from_bytes(bytes(data[position:start]), "little")
        if end > len(data) or count * storages[key].dtype.itemsize != storages[key].nbytes:
            raise ValueError(f"truncated or damaged at the storage {key!r:.99}")
        contents[key], position = data[start:end], end
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes too many at the end of the file")
    return value, storages, contents


def _to_arrays(value: Any, contents: Mapping[str, memoryview]) -> Any:
    """The tree with arrays and plain values; one that is too deep or refers to itself is refused.

    Few instructions can make a tree with more leaves than atoms, by sharing; its nodes are visited
    once each here, but a caller would walk all of it.
    """
    done: dict[int, tuple[Any, int, int]] = {}

    def convert(value: Any, path: tuple[str | int, ...]) -> tuple[Any, int, int]:
        """(result, number of values, number of levels)."""
        if value is None or type(value) in (str, bytes, int, float, bool):
            return value, 1, 1
        if id(value) in done:
            return done[id(value)]
        name, values, levels = ".".join(f"{key!s:.99}" for key in path), 1, 1
        if len(path) > _MOST_LEVELS:
            raise ValueError(f"{name}: nested more than {_MOST_LEVELS} levels deep, or in itself")
        if type(value) is Namespace:
            result, values, levels = convert(value.attributes, path)
        elif type(value) in (dict, OrderedDict, list, tuple):
            keyed = isinstance(value, dict)
            items = value.items() if keyed else enumerate(value)
            parts = {key: convert(item, (*path, key)) for key, item in items}
            results = {key: part[0] for key, part in parts.items()}
            result = results if keyed else type(value)(results.values())
            values += sum(part[1] for part in parts.values())
            levels += max((part[2] for part in parts.values()), default=0)
        elif type(value) is Tensor:
            result = _view(value, contents[value.key], name)
        elif type(value) is Global and value.name in DTYPES:
            result = value.name
        elif isinstance(value, np.dtype):
            result = value.name
        else:
            raise ValueError(f"{name}: a bare class or storage, expected a tensor or plain value")
        if values > _MOST_VALUES or len(path) + levels > _MOST_LEVELS + 1:
            raise ValueError(f"{name}: too many values or levels, once shared parts are repeated")
        done[id(value)] = result, values, levels
        return done[id(value)]

    return convert(value, ())[0]


def _view(tensor: Tensor, content: memoryview, name: str) -> np.ndarray:
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > 64:
        raise ValueError(f"{name}: {len(tensor.shape)} sizes, {len(tensor.strides)} strides")
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"{name}: expected an offset, sizes and strides of at least 0")
    size = tensor.dtype.itemsize
    available, count = len(content) // size, math.prod(tensor.shape)
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset + (last + 1 if count else 0) > available:
        raise ValueError(f"{name}: reaches outside its storage of {available} elements")
    if count > available:
        raise ValueError(
            f"{name}: {count} elements on a storage of {available}; save a broadcast or expanded "
            "tensor with .contiguous()"
        )
    # The stride of a dimension of size 1 is never taken and may be anything.
    strides = [s * size if n > 1 else 0 for n, s in zip(tensor.shape, tensor.strides, strict=True)]
    if count == 0:
        return np.empty(tensor.shape, tensor.dtype)
    return np.ndarray(tensor.shape, tensor.dtype, content, tensor.offset * size, strides)
