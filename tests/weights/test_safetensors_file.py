# SPDX-License-Identifier: Apache-2.0
"""safetensors files against the library, and damaged and hostile ones."""

import json
import math
import os
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save, save_file

from dpt_jax.weights import safetensors_file
from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.safetensors_file import read_safetensors, write_safetensors

INDEX = "model.safetensors.index.json"
DINOV2 = Path(__file__).parents[3] / "shared" / "data" / "dinov2_small" / "model.safetensors"
DTYPES = ("f8", "f4", "f2", ml_dtypes.bfloat16, "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")


def tensors():
    square = np.arange(6).reshape(2, 3)
    return {
        **{np.dtype(dtype).name: square.astype(dtype) for dtype in DTYPES},
        "scalar": np.array(2.5, "f4"),
        "empty": np.zeros((0, 3), "f4"),
    }


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape), name
        assert actual[name].tobytes() == array.tobytes(), name


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def read(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    return read_safetensors(path)


def test_reads_what_the_library_writes(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path, {"format": "pt"})
    assert_same(read_safetensors(path), tensors())
    assert_same(read_safetensors(str(tmp_path)), tensors())  # the directory


def test_reads_what_torch_writes(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    value = {"w": torch.arange(6.0).reshape(2, 3).to(torch.bfloat16), "n": torch.tensor(3)}
    save_torch(value, tmp_path / "a.safetensors")
    expected = {"w": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16), "n": np.array(3)}
    assert_same(read_safetensors(tmp_path / "a.safetensors"), expected)


def test_real_weights(tmp_path):
    if not DINOV2.is_file():
        pytest.skip(f"{DINOV2} is not there")
    tracemalloc.start()
    found = read_safetensors(DINOV2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21 < sum(array.nbytes for array in found.values())
    assert not any(array.flags.writeable for array in found.values())
    with safe_open(DINOV2, "numpy") as library:
        assert sorted(library.keys()) == sorted(found)
        for name in sorted(found)[::40]:
            np.testing.assert_array_equal(found[name], library.get_tensor(name))


def test_what_is_written_is_read_by_all(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"something old")
    square = np.arange(6, dtype="f4").reshape(2, 3)
    odd = {
        "transposed": square.T,
        "reversed": square[::-1, ::2],
        "fortran": np.asfortranarray(square),
        "big_endian": square.astype(">f4"),
        "broadcast": np.broadcast_to(square[:, :1], (2, 4)),
        "half": square.T.astype(ml_dtypes.bfloat16),
    }
    write_safetensors(path, tensors() | odd, {"step": "7"})
    odd["big_endian"] = square
    assert_same(read_safetensors(path), tensors() | odd)
    with safe_open(path, "numpy") as library:
        assert library.metadata() == {"format": "pt", "step": "7"}
        for name, array in odd.items():
            np.testing.assert_array_equal(library.get_tensor(name), array, err_msg=name)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    write_safetensors(path, {})
    assert read_safetensors(path) == {}


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"w": np.ones(2, "f4")})
    for value in (np.zeros(2, "c8"), np.array(["a"]), np.array([None]), np.zeros(2, "f4,f4")):
        with pytest.raises(WeightsError, match=r"model.safetensors: w is "):
            write_safetensors(path, {"w": value})

    def fails_late(arrays, temporary, metadata):
        Path(temporary).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors_file, "save_file", fails_late)
    with pytest.raises(OSError, match="disk full"):
        write_safetensors(path, {"w": np.zeros(2, "f4")})
    assert_same(read_safetensors(path), {"w": np.ones(2, "f4")})
    assert os.listdir(tmp_path) == ["model.safetensors"]


EIGHT = bytes(8)
HOSTILE = {
    "nothing": (b"", "empty"),
    "short": (b"\1", "not a safetensors file"),
    "header longer than the file": (file_of({}, length=3), "header of 3 bytes"),
    "huge header": (file_of({}, length=2**63), "not a safetensors file"),
    "text": (b"version https://git-lfs.github.com/spec/v1", "not a safetensors file"),
    "no json": (file_of(b"{"), "JSON|Expecting"),
    "not utf-8": (file_of(b'{"\xff":1}'), "utf-8"),
    "a list": (file_of([]), "expected a JSON object"),
    "deep": (file_of(b"[" * 100_000), "too deep"),
    "long number": (file_of(b'{"w":' + b"9" * 5000 + b"}"), "4300"),
    "key twice": (file_of(b'{"w":1,"w":1}'), "key twice"),
    "key of an entry twice": (file_of(b'{"w":{"dtype":"F32","dtype":"F16"}}'), "key twice"),
    "entry is a number": (file_of({"w": 1}), "'w': expected dtype"),
    "entry lacks offsets": (file_of({"w": {"dtype": "F32", "shape": []}}), "data_offsets"),
    "unknown field": (file_of({"w": entry() | {"x": 1}}, EIGHT), "expected dtype, shape"),
    "float8": (file_of({"w": entry("F8_E4M3", (8,))}, EIGHT), "'w' is 'F8_E4M3', expected one of"),
    "dtype is a list": (file_of({"w": entry([])}, EIGHT), "expected one of"),
    "shape is text": (file_of({"w": entry() | {"shape": "2"}}, EIGHT), "lists of sizes"),
    "shape of floats": (file_of({"w": entry(shape=(2.0,))}, EIGHT), "lists of sizes"),
    "shape of bools": (file_of({"w": entry(shape=(True, 2))}, EIGHT), "lists of sizes"),
    "negative shape": (file_of({"w": entry(shape=(-1, -2))}, EIGHT), "lists of sizes"),
    "65 dimensions": (file_of({"w": entry(shape=[1] * 65, offsets=(0, 4))}, EIGHT), "lists of"),
    "three offsets": (file_of({"w": entry(offsets=(0, 8, 8))}, EIGHT), "lists of sizes"),
    "offsets reversed": (file_of({"w": entry(offsets=(8, 0))}, EIGHT), r"bytes 8 to 0 of 8"),
    "outside": (file_of({"w": entry(shape=(4,), offsets=(0, 16))}, EIGHT), "bytes 0 to 16 of 8"),
    "other size": (file_of({"w": entry(shape=(1,))}, EIGHT), r"float32\[1\] in bytes 0 to 8"),
    "product wraps": (file_of({"w": entry(shape=(2**62, 8), offsets=(0, 0))}), "in bytes 0 to 0"),
    "empty and huge": (file_of({"w": entry(shape=(0, 2**62, 8), offsets=(0, 0))}), "array"),
    "overlap": (file_of({"v": entry(), "w": entry()}, EIGHT), "'w' begins at byte 0"),
    "hole": (file_of({"w": entry(offsets=(8, 16))}, 2 * EIGHT), "'w' begins at byte 8"),
    "bytes left": (file_of({"w": entry()}, 2 * EIGHT), "8 bytes too many"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(case, tmp_path):
    content, message = HOSTILE[case]
    with pytest.raises(WeightsError, match=message) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "weights.safetensors") in str(caught.value)


def test_a_long_header_is_not_read(tmp_path):
    with pytest.raises(WeightsError, match="header of 16777217 bytes"):
        read(tmp_path, file_of(b" " * (2**24 + 1)))


def shards(folder, places=None, **files):
    """Two shards, and the index of `places`."""
    files = files or {
        "model-00001-of-00002": {"a": np.ones(2, "f4"), "b": np.zeros(3, "f2")},
        "model-00002-of-00002": {"c": np.arange(2)},
    }
    for name, content in files.items():
        save_file(content, folder / f"{name}.safetensors")
    if places is None:
        places = {key: f"{name}.safetensors" for name in files for key in files[name]}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index))
    return {key: value for content in files.values() for key, value in content.items()}


def test_shards(tmp_path):
    expected = shards(tmp_path)
    assert_same(read_safetensors(tmp_path), expected)
    # transformers takes the single file where there are both.
    save_file({"whole": np.ones(1)}, tmp_path / "model.safetensors")
    assert_same(read_safetensors(tmp_path), {"whole": np.ones(1)})


def test_shards_may_be_links(tmp_path):
    """As in the cache of the hub."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    expected = shards(tmp_path / "blobs")
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert_same(read_safetensors(tmp_path / "snapshot"), expected)


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    "places, message",
    [
        ({"a": FIRST, "b": FIRST, "c": SECOND, "d": SECOND}, r"lacks \['d'\]"),
        ({"a": FIRST, "c": SECOND}, r"\['b'\] too many"),
        ({"a": SECOND, "b": FIRST, "c": SECOND}, "lacks|too many"),
        ({"a": FIRST, "b": FIRST, "c": "model-3.safetensors"}, "there is no file"),
        ({"a": "../secret/model.safetensors"}, "not a file name"),
        ({"a": "/etc/passwd"}, "not a file name"),
        ({"a": "..\\secret.safetensors"}, "not a file name"),
        ({"a": "C:model.safetensors"}, "not a file name"),
        ({"a": ".."}, "there is no file"),
        ({"a": ""}, "not a file name"),
        ({"a": 3}, "not a file name"),
        ({"a": "x\0y"}, "not a file name"),
        ([], "weight_map"),
        ({"a": INDEX}, "not a safetensors file"),
    ],
)
def test_shards_are_what_the_index_says(places, message, tmp_path):
    shards(tmp_path, places)
    with pytest.raises(WeightsError, match=message) as caught:
        read_safetensors(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_damaged_index(tmp_path):
    for content in (b"", b"[]", b'{"weight_map": {"a": "b", "a": "b"}}', b"[" * 100_000, b"\xff"):
        (tmp_path / INDEX).write_bytes(content)
        with pytest.raises(WeightsError, match=INDEX):
            read_safetensors(tmp_path)
    (tmp_path / INDEX).write_bytes(b" " * (2**24 + 1))
    with pytest.raises(WeightsError, match="more than any checkpoint"):
        read_safetensors(tmp_path)


def test_absent(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds neither"):
        read_safetensors(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_safetensors(tmp_path / "absent.safetensors")


FUZZED = save(
    {"first": np.arange(6, dtype="f4").reshape(2, 3), "second": np.arange(4, dtype="f2")},
    {"format": "pt"},
)


@st.composite
def damage(draw):
    content = bytearray(FUZZED)
    for _ in range(draw(st.integers(1, 3))):
        # Mostly bytes that keep the JSON valid, so that the damage gets further than the parser.
        values = st.one_of(st.sampled_from(b'0123456789,:"[]FI ab'), st.integers(0, 255))
        content[draw(st.integers(0, len(content) - 1))] = draw(values)
    return bytes(content[: draw(st.sampled_from([len(content)] * 4 + [len(content) * 2 // 3]))])


def test_a_damaged_file_is_refused_or_read_as_the_library_reads_it(tmp_path):
    read_again = 0

    @settings(
        max_examples=300,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @example(FUZZED)
    @given(damage())
    def compare(content):
        nonlocal read_again
        try:
            found = read(tmp_path, content)
        except WeightsError:
            return
        assert sum(array.nbytes for array in found.values()) == 32
        assert all(
            array.nbytes == math.prod(array.shape) * array.itemsize for array in found.values()
        )
        try:
            expected = load_file(tmp_path / "weights.safetensors")
        except SafetensorError:  # stricter with the spelling of the header
            return
        assert_same(found, expected)
        read_again += 1

    compare()
    assert read_again >= 10
