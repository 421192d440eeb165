# SPDX-License-Identifier: Apache-2.0
"""A small `nyu_depth_v2`, prepared by TFDS itself under the real one's name and features."""

import concurrent.futures
import io
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.sources import files
from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.sources.nyuv2_tfds import nyuv2_tfds

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

H, W = 6, 9
NUMBERS = {"train": (0, 1, 2), "validation": (3, 4)}


def rgb(i):
    return np.random.default_rng(i).integers(0, 256, (H, W, 3)).astype(np.uint8)


def metres(i):
    depth = np.random.default_rng(i + 10).uniform(0.7, 10, (H, W)).astype(np.float16)
    depth[0, 0] = 0
    return depth


def png(array):
    stored = io.BytesIO()
    Image.fromarray(array).save(stored, "png")
    return stored.getvalue()


class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("0.0.1")
    name = "nyu_depth_v2"

    def _info(self):
        image = tfds.features.Image(shape=(H, W, 3))
        depth = tfds.features.Tensor(shape=(H, W), dtype=np.float16)
        features = tfds.features.FeaturesDict({"image": image, "depth": depth})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager):
        return {split: self._generate_examples(numbers) for split, numbers in NUMBERS.items()}

    def _generate_examples(self, numbers):
        for i in numbers:
            yield i, {"image": io.BytesIO(png(rgb(i))), "depth": metres(i)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tfds.disable_progress_bar()
    directory = tmp_path_factory.mktemp("tensorflow_datasets")
    Builder(data_dir=directory).download_and_prepare(file_format="array_record")
    return directory


def numbers(source):
    """Which examples these are: TFDS shuffles."""
    known = {rgb(i).tobytes(): i for split in NUMBERS.values() for i in split}
    return [known[source[k]["image"].tobytes()] for k in range(len(source))]


@pytest.mark.parametrize("inner", ["", "nyu_depth_v2", "nyu_depth_v2/0.0.1"])
def test_examples(prepared, inner):
    for split, there in NUMBERS.items():
        source = nyuv2_tfds(root=str(prepared / inner), split=split)
        found = numbers(source)
        assert sorted(found) == list(there)
        for k, i in enumerate(found):
            example = source[k]
            assert example.keys() == {"image", "depth"}
            want = metres(i).astype(np.float32)
            np.testing.assert_array_equal(example["depth"], want, strict=True)
            np.testing.assert_array_equal(example["image"], rgb(i), strict=True)
            assert source.name(k) == f"{split}/{k:05d}"
            encoded = source.encoded(k)
            assert encoded.image == png(rgb(i)), "the stored bytes, not decoded and encoded again"
            again = files.decode(encoded, source.meaning)
            np.testing.assert_array_equal(again["depth"], want, strict=True)
        assert "not comparable" in source.meaning.note


def test_it_is_read_by_threads_and_travels(prepared):
    source = nyuv2_tfds(root=str(prepared), split="train")
    want = numbers(source)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(each == want for each in pool.map(numbers, [source] * 8))
    assert numbers(pickle.loads(pickle.dumps(source))) == want


def version(root):
    return root / "nyu_depth_v2" / "0.0.1"


def edit(**changed):
    def breaks(root):
        path = version(root) / "dataset_info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return breaks


def other_features(root):
    path = version(root) / "features.json"
    path.write_text(path.read_text().replace('"depth"', '"label"'))


WRONG = {
    "empty": (lambda r: shutil.rmtree(r / "nyu_depth_v2"), r"found none.*tfds build nyu_depth_v2"),
    "tfrecord": (edit(fileFormat="tfrecord"), "as tfrecord.*tfds convert_format"),
    "another-data-set": (edit(name="kitti"), "holds 'kitti'"),
    "other-features": (other_features, "with image, label"),
    "no-such-split": (edit(splits=[]), "has no split 'train'"),
    "no-metadata": (lambda r: (version(r) / "dataset_info.json").write_text("{"), "metadata in"),
    "two-versions": (
        lambda r: shutil.copytree(version(r), r / "nyu_depth_v2" / "0.0.2"),
        r"expected one prepared version.*0\.0\.1, .*0\.0\.2",
    ),
}


@pytest.mark.parametrize(("breaks", "message"), WRONG.values(), ids=WRONG)
def test_what_is_not_prepared_is_refused(prepared, tmp_path, breaks, message):
    shutil.copytree(prepared, tmp_path / "data")
    breaks(tmp_path / "data")
    with pytest.raises(DatasetError, match=message):
        nyuv2_tfds(root=str(tmp_path / "data"), split="train")


@pytest.mark.parametrize("size", [None, 0, 5000], ids=["gone", "empty", "cut"])
def test_a_damaged_record_is_named(prepared, tmp_path, size):
    shutil.copytree(prepared, tmp_path / "data")
    (path,) = version(tmp_path / "data").glob("*-train.array_record*")
    content = path.read_bytes()
    path.unlink()
    if size is not None:
        path.write_bytes(content[:size])
    source = nyuv2_tfds(root=str(tmp_path / "data"), split="train")
    with pytest.raises(DatasetError, match=r"train, record 1 cannot be read"):
        source[1]


def test_arguments(prepared, tmp_path):
    with pytest.raises(DatasetError, match=r"config\.data\.root=DIR"):
        nyuv2_tfds(root=None, split="train")
    with pytest.raises(DatasetError, match="'test'"):
        nyuv2_tfds(root=str(prepared), split="test")
    with pytest.raises(DatasetError, match="nowhere"):
        nyuv2_tfds(root=str(tmp_path / "nowhere"), split="train")
