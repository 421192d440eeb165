# SPDX-License-Identifier: Apache-2.0
"""Data sets in a bucket (gs://), which is played by fsspec's files in memory."""

import sys

import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from dpt_jax.data.prepare import prepare
from dpt_jax.data.sources import DatasetError, build_source
from dpt_jax.data.sources.prepared import PreparedSource, is_prepared
from dpt_jax.data.sources.rooms_layouts import write_layout


class Bucket(MemoryFileSystem):
    """Objects by name; a folder is there if an object's name begins with it."""

    protocol = ("gs", "gcs")
    store = {}  # noqa: RUF012  (fsspec's way to share files between instances)
    pseudo_dirs = [""]  # noqa: RUF012

    def __init__(self, finalize_on_close=False, **kwargs):
        super().__init__(**kwargs)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://").removeprefix("gcs://"))


@pytest.fixture
def bucket(monkeypatch):
    """Copies a local folder to `gs://bucket/`; nothing of it stays when the test ends."""
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gcs", Bucket)
    cached = backend._FileSystemSpecBackend._get_filesystem
    cached.cache_clear()

    def upload(folder):
        for path in folder.rglob("*"):
            if path.is_file():
                name = f"gs://bucket/{folder.name}/{path.relative_to(folder).as_posix()}"
                Bucket().pipe_file(name, path.read_bytes())
        return f"gs://bucket/{folder.name}"

    yield upload
    Bucket.store.clear()
    cached.cache_clear()


def opened(source, root, split="train", **changed):
    config = {
        "source": source,
        "root": str(root),
        "lists": {"train": None, "validation": None},
        "description": None,
        "nyuv2_mat": {"depth": "raw"},
        "pascal_context": {"background": False},
    }
    return build_source(config | changed, split)


def assert_equal(remote, local):
    assert len(remote) == len(local) > 0
    assert remote.meaning == local.meaning
    for i in range(len(local)):
        assert remote.name(i) == local.name(i)
        found, expected = remote[i], local[i]
        assert found.keys() == expected.keys()
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key])


LAYOUTS = {
    "ade20k": ("ade20k", (32, 40)),
    "nyuv2": ("nyuv2", None),
    "kitti": ("kitti", None),
    "pascal_context": ("pascal_context", (32, 40)),
    "cityscapes": ("cityscapes", (32, 64)),
    "folder_masks": ("folder", (32, 40)),
    "folder_depth": ("folder", (32, 40)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_are_read_from_a_bucket(layout, bucket, tmp_path):
    source, size = LAYOUTS[layout]
    local = write_layout(layout, tmp_path / layout, train=1, validation=1, size=size)
    remote = bucket(local)
    for split in ("train", "validation"):
        assert_equal(opened(source, remote, split), opened(source, local, split))


def test_what_a_bucket_lacks_is_named(bucket, tmp_path):
    local = write_layout("ade20k", tmp_path / "ade", train=2, validation=1, size=(32, 40))
    root = bucket(local)
    source = opened("ade20k", root)
    label = source.encoded(1).where["label"]
    epath.Path(label).unlink()
    with pytest.raises(DatasetError, match=f"file not found: {label}"):
        source[1]
    with pytest.raises(DatasetError, match="1 of 2 images have no annotation in gs://bucket/ade"):
        opened("ade20k", root)
    with pytest.raises(DatasetError, match="gs://bucket/none is not a directory"):
        opened("ade20k", "gs://bucket/none")


def test_a_bucket_is_prepared_into_a_local_folder_but_not_the_other_way(bucket, tmp_path):
    local = write_layout("ade20k", tmp_path / "ade", train=2, validation=1, size=(32, 40))
    splits = {"train": opened("ade20k", bucket(local))}
    out = prepare("ade20k", splits, tmp_path / "out", progress=False)
    assert_equal(opened("ade20k", out), opened("ade20k", local))

    with pytest.raises(DatasetError, match=r"gs://bucket/out: .*local disks only.*copy"):
        prepare("ade20k", splits, "gs://bucket/out", progress=False)
    assert not epath.Path("gs://bucket/out").exists()
    root = bucket(out)
    assert is_prepared(root)
    for read in (lambda: PreparedSource(root, "train"), lambda: opened("ade20k", root)):
        with pytest.raises(DatasetError, match=r"gs://bucket/out: .*Mount .*gcsfuse.* copy"):
            read()
