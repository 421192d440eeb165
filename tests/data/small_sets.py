# SPDX-License-Identifier: Apache-2.0
"""Small data sets as files, for the tests of their prepared copies."""

import io

import numpy as np
from etils import epath
from PIL import Image

from dpt_jax.data.sources.files import FileSource, Meaning, Sample

COUNTS = {"train": 7, "validation": 2}
MEANINGS = {
    "labels": Meaning(
        "labels",
        classes=("road", "sky"),
        palette=((1, 2, 3), (250, 251, 252)),
        class_of={0: 255, 1: 0, 2: 1},
        note="drawn",
    ),
    "depth": Meaning("depth", metres_per_unit=1 / 256, crop=(8, 10)),
    "array": Meaning("array mode=x", metres_per_unit=0.1),
}


def png(array):
    stored = io.BytesIO()
    Image.fromarray(array).save(stored, "PNG")
    return stored.getvalue()


def jpeg(array):
    stored = io.BytesIO()
    Image.fromarray(array).save(stored, "JPEG")
    return stored.getvalue()


def npy(array):
    stored = io.BytesIO()
    np.save(stored, array)
    return stored.getvalue()


def write_files(root, kind):
    """For each split, the paths of every example's files by field; awkward names, many sizes."""
    rng = np.random.default_rng(0)
    written = {}
    for split, count in COUNTS.items():
        written[split] = []
        for i in range(count):
            shape = (9 + i % 3, 12)
            contents = {"image": jpeg(rng.integers(0, 256, (*shape, 3), np.uint8))}
            if kind == "labels":
                contents["label"] = png(rng.integers(0, 3, shape, np.uint8))
            elif kind == "depth":
                contents["depth"] = png(rng.integers(0, 65536, shape, np.uint16))
            else:
                contents["depth"] = npy(rng.uniform(0, 9, shape).astype(np.float32))
            paths = {field: root / field / f"{split} ü\n{i}.x" for field in contents}
            for field, path in paths.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents[field])
            written[split].append(paths)
    return written


def sources(written, kind):
    """A source over the files of each split. The camera is known of all depth images but one."""
    camera = (707.0493, 0.1, 3.3, 0.0, 707.1, 4.4, 0.0, 0.0, 1.0)
    found = {}
    for split, examples in written.items():
        samples = []
        for i, paths in enumerate(examples):
            files = {field: epath.Path(path) for field, path in paths.items()}
            known = camera if kind == "depth" and i != 1 else None
            samples.append(Sample(f"image/{paths['image'].name}", intrinsics=known, **files))
        found[split] = FileSource(MEANINGS[kind], samples, "Look elsewhere.")
    return found


def assert_same(prepared, source):
    assert len(prepared) == len(source)
    assert prepared.meaning == source.meaning
    assert prepared.classes == source.classes
    np.testing.assert_array_equal(prepared.palette, source.palette)
    for i in range(len(source)):
        assert prepared.name(i) == source.name(i)
        assert prepared.encoded(i)._replace(where={}) == source.encoded(i)._replace(where={})
        found, expected = prepared[i], source[i]
        assert found.keys() == expected.keys()
        for key in expected:
            assert found[key].dtype == expected[key].dtype
            np.testing.assert_array_equal(found[key], expected[key])
