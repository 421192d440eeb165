# SPDX-License-Identifier: Apache-2.0
"""Reading prepared data: by this package, by TFDS and grain alone, and when it is damaged."""

import concurrent.futures
import io
import json
import os
import pickle
import shutil
from pathlib import Path

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from dpt_jax.data.pipeline import evaluation_examples
from dpt_jax.data.prepare import prepare
from dpt_jax.data.sources import DatasetError
from dpt_jax.data.sources.ade20k import ade20k
from dpt_jax.data.sources.kitti import kitti
from dpt_jax.data.sources.nyuv2 import nyuv2
from dpt_jax.data.sources.prepared import PreparedSource, is_prepared
from tests.data.small_sets import assert_same, sources, write_files

SAMPLES = Path(__file__).parents[3] / "shared/data"


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """The sources of a data set and the folder of its copy; not to be changed."""
    root = tmp_path_factory.mktemp("labels")
    splits = sources(write_files(root, "labels"), "labels")
    return splits, prepare("labels", splits, root / "out", examples_per_part=3, progress=False)


@pytest.fixture
def damaged(labels, tmp_path):
    return Path(shutil.copytree(labels[1], tmp_path / "damaged"))


def test_tfds_and_grain_read_it_without_this_package(labels):
    splits, out = labels
    builder = tfds.builder_from_directory(out)
    assert builder.info.metadata["source"] == "labels"
    records = builder.as_data_source("train")
    loaded = list(grain.MapDataset.source(records)[1:5].to_iter_dataset())
    assert len(loaded) == 4
    for i, record in enumerate(loaded, 1):
        encoded = splits["train"].encoded(i)
        assert record["name"].decode() == splits["train"].name(i)
        for key in ("image", "label"):
            expected = np.asarray(Image.open(io.BytesIO(getattr(encoded, key))))
            np.testing.assert_array_equal(record[key].reshape(expected.shape), expected)


def test_threads_and_other_processes_read_the_same(labels):
    splits, out = labels
    prepared = PreparedSource(out, "train")
    order = np.random.default_rng(0).integers(0, 7, 400)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, found in zip(order, pool.map(prepared.encoded, order), strict=True):
            assert found.image == splits["train"].encoded(i).image
    assert_same(pickle.loads(pickle.dumps(prepared)), splits["train"])
    names = [e["name"] for e in evaluation_examples(prepared, target="label", threads=4)]
    assert names == [splits["train"].name(i) for i in range(7)]


def test_indices_are_those_of_a_sequence(labels):
    prepared = PreparedSource(labels[1], "validation")
    assert prepared.encoded(-1).name == prepared.name(1) == prepared.name(-1)
    for index in (2, -3):
        with pytest.raises(IndexError):
            prepared[index]


def test_a_damaged_record_is_named(labels, damaged):
    shard = damaged / "dpt_data-train.array_record-00001-of-00003"
    whole = shard.read_bytes()
    expected = [labels[0]["train"].encoded(i).image for i in range(7)]
    named = set()
    for position in [i for i, value in enumerate(whole) if value][::29]:  # the rest is padding
        shard.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        try:
            prepared = PreparedSource(damaged, "train")
            assert [prepared.encoded(i).image for i in range(7)] == expected
        except DatasetError as error:
            named.add(str(error).split(" is damaged")[0].split("damaged/")[1])
    of = "dpt_data-train.array_record-00001-of-00003"
    assert named == {f"{of}, record {i}" for i in range(3)}


@pytest.mark.parametrize(
    ("file", "size", "message"),
    [
        ("dpt_data-train.array_record-00001-of-00003", None, "00001-of-00003 is missing"),
        ("dpt_data-train.array_record-00002-of-00003", 5000, "has 5000 bytes instead of 131072"),
        ("names-train.json", None, "names-train.json cannot be read"),
        ("names-train.json", 9, "names-train.json cannot be read"),
        ("metadata.json", None, "cannot be opened as prepared data"),
        ("features.json", 50, "cannot be opened as prepared data"),
        ("dataset_info.json", 400, "cannot be opened as prepared data"),
        ("dataset_info.json", None, "was not written by `dpt-jax data prepare`"),
    ],
)
def test_damaged_folders_are_refused_at_opening(file, size, message, damaged):
    if size is None:
        (damaged / file).unlink()
    else:
        os.truncate(damaged / file, size)
    with pytest.raises(DatasetError, match=message):
        PreparedSource(damaged, "train")


def test_names_of_another_count_are_refused(damaged):
    (damaged / "names-train.json").write_text('["a"]')
    with pytest.raises(DatasetError, match="1 names for 7 records"):
        PreparedSource(damaged, "train")


def test_a_split_that_was_not_prepared_is_refused(labels, tmp_path):
    out = prepare("labels", {"train": labels[0]["train"]}, tmp_path / "out", progress=False)
    with pytest.raises(DatasetError, match="with the split train only, not 'validation'"):
        PreparedSource(out, "validation")


def test_other_folders_are_not_prepared_data(tmp_path):
    assert not is_prepared(tmp_path / "none")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"name": "nyu_depth_v2"}))
    assert not is_prepared(tmp_path)


def sample(name):
    root = SAMPLES / f"{name}_sample"
    if not root.is_dir():
        pytest.skip(f"{root} is absent")
    if name == "ade20k":
        return ade20k(root=str(root), split="validation")
    read = {"nyuv2": nyuv2, "kitti": kitti}[name]
    return read(root=str(root), split="validation", list_file=str(root / "test_files.txt"))


@pytest.mark.parametrize("name", ["ade20k", "nyuv2", "kitti"])
def test_real_samples_are_the_same_prepared(name, tmp_path):
    source = sample(name)
    out = prepare(name, {"validation": source}, tmp_path / "out", progress=False)
    assert_same(PreparedSource(out, "validation"), source)
