# SPDX-License-Identifier: Apache-2.0
"""NYUv2's own .mat files, written with h5py and scipy."""

import builtins
import concurrent.futures
import pickle

import numpy as np
import pytest

from dpt_jax.data.sources import files
from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.sources.nyuv2_mat import nyuv2_mat

h5py = pytest.importorskip("h5py")
scipy_io = pytest.importorskip("scipy.io")

COUNT, H, W = 5, 4, 6
TRAIN, TEST = [4, 1, 5], [2, 3]  # as MATLAB counts


def images():
    """(n, h, w, 3)."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, H, W, 3)).astype(np.uint8)


def filled():
    """(n, h, w), metres."""
    return np.random.default_rng(1).uniform(0.7, 10, (COUNT, H, W)).astype(np.float32)


def raw():
    return np.where(np.random.default_rng(2).random((COUNT, H, W)) < 0.2, 0, filled())


def write(root, splits=None, **changed):
    """As MATLAB writes: its (h, w, 3, n) is what HDF5 shows as (n, 3, w, h)."""
    arrays = {
        "images": images().transpose(0, 3, 2, 1),
        "depths": filled().transpose(0, 2, 1),
        "rawDepths": raw().transpose(0, 2, 1),
    }
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as stored:
        for key, value in (arrays | changed).items():
            if value is not None:
                chunks = (1, *value.shape[1:])
                stored.create_dataset(key, data=value, compression="gzip", chunks=chunks)
    columns = splits if splits is not None else {"trainNdxs": TRAIN, "testNdxs": TEST}
    columns = {k: np.array(v, np.uint16).reshape(-1, 1) for k, v in columns.items()}
    scipy_io.savemat(root / "splits.mat", columns)
    return str(root)


@pytest.mark.parametrize("split, numbers", [("train", TRAIN), ("validation", TEST)])
@pytest.mark.parametrize("depth, metres", [("raw", raw()), ("filled", filled())])
def test_examples(tmp_path, split, numbers, depth, metres):
    source = nyuv2_mat(root=write(tmp_path), split=split, depth=depth)
    assert len(source) == len(numbers)
    for index, number in enumerate(numbers):
        example = source[index]
        assert example.keys() == {"image", "depth"}
        np.testing.assert_array_equal(example["image"], images()[number - 1], strict=True)
        np.testing.assert_array_equal(example["depth"], metres[number - 1], strict=True)
        assert source.name(index) == f"{number - 1:05d}"
        # What is prepared and checked are the same examples as files.
        encoded = source.encoded(index)
        assert encoded.name == source.name(index) and encoded.image.startswith(b"\x89PNG")
        again = files.decode(encoded, source.meaning)
        assert again.keys() == example.keys()
        for key in example:
            np.testing.assert_array_equal(again[key], example[key], strict=True)


def test_filled_depth_comes_with_a_warning(tmp_path):
    root = write(tmp_path)
    assert not nyuv2_mat(root=root, split="train").meaning.note
    assert "not comparable" in nyuv2_mat(root=root, split="train", depth="filled").meaning.note


def total(source):
    return [int(source[i]["image"].sum()) for i in range(len(source))]


def test_it_is_read_by_threads_and_travels(tmp_path):
    source = nyuv2_mat(root=write(tmp_path), split="train")
    want = [int(images()[number - 1].sum()) for number in TRAIN]
    assert len(pickle.dumps(source)) < 10_000
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(each == want for each in pool.map(total, [source] * 8))
    # The open file must not travel.
    assert total(pickle.loads(pickle.dumps(source))) == want


def axes(array, *order):
    return np.ascontiguousarray(array.transpose(order))


WRONG = {
    "no-raw": ({"rawDepths": None}, "has no 'rawDepths', only .*images"),
    "no-images": ({"images": None}, "has no 'images'"),
    "images-in-numpy-order": ({"images": images()}, r"images are uint8 \(5, 4, 6, 3\)"),
    "float-images": ({"images": axes(images(), 0, 3, 2, 1) / 255}, "images are float64"),
    "depth-upright": ({"rawDepths": raw()}, r"rawDepths are float32 \(5, 4, 6\); .*\(5, 6, 4\)"),
    "millimetres": ({"rawDepths": axes(raw(), 0, 2, 1).astype(np.uint16)}, "rawDepths are uint16"),
    "fewer-depths": ({"rawDepths": axes(raw(), 0, 2, 1)[:4]}, r"rawDepths are float32 \(4"),
    "no-test": ({"splits": {"trainNdxs": TRAIN}}, "splits.mat has no 'testNdxs'"),
    "empty-split": ({"splits": {"trainNdxs": [], "testNdxs": [1]}}, "0 in trainNdxs"),
    "counted-from-0": ({"splits": {"trainNdxs": [0, 1], "testNdxs": [2]}}, "1..5.*from 0 to 2"),
    "beyond": ({"splits": {"trainNdxs": [1], "testNdxs": [6]}}, "1..5.*from 1 to 6"),
    "overlap": ({"splits": {"trainNdxs": [1, 2], "testNdxs": [2]}}, "names an image twice"),
}


@pytest.mark.parametrize(("changed", "message"), WRONG.values(), ids=WRONG)
def test_wrong_files_are_refused(tmp_path, changed, message):
    root = write(tmp_path, **changed)
    with pytest.raises(DatasetError, match=message):
        nyuv2_mat(root=root, split="train")


@pytest.mark.parametrize("name", ["nyu_depth_v2_labeled.mat", "splits.mat"])
@pytest.mark.parametrize("content", [None, b"", b"<html>404</html>"], ids=["gone", "empty", "html"])
def test_files_that_are_missing_or_no_mat_are_named(tmp_path, name, content):
    root = write(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=f"{name}.*http://horatio"):
        nyuv2_mat(root=root, split="train")


def test_a_damaged_example_is_named(tmp_path):
    source = nyuv2_mat(root=write(tmp_path), split="train")
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    with h5py.File(path) as stored:
        chunk = stored["rawDepths"].id.get_chunk_info(3)  # training example 0 is image 4
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"labeled\.mat, rawDepths\[3\] cannot be read"):
        source[0]
    assert source[1]["depth"].shape == (H, W)


@pytest.mark.parametrize("value, word", [(-1, "negative"), (np.nan, "not a number")])
def test_impossible_depth_is_refused(tmp_path, value, word):
    depth = axes(raw(), 0, 2, 1)
    depth[0, 2, 1] = value
    source = nyuv2_mat(root=write(tmp_path, rawDepths=depth), split="train")
    with pytest.raises(DatasetError, match=rf"rawDepths\[0\] holds.*{word}"):
        source[TRAIN.index(1)]


def test_arguments(tmp_path, monkeypatch):
    root = write(tmp_path)
    with pytest.raises(DatasetError, match=r"nyuv2_mat\.depth=inpainted is not one of raw, filled"):
        nyuv2_mat(root=root, split="train", depth="inpainted")
    with pytest.raises(DatasetError, match="'test'"):
        nyuv2_mat(root=root, split="test")
    with pytest.raises(DatasetError, match=r"config\.data\.root=DIR"):
        nyuv2_mat(root=None, split="train")
    real = builtins.__import__

    def without_h5py(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(DatasetError, match=r"pip install h5py"):
        nyuv2_mat(root=root, split="train")
