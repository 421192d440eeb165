# SPDX-License-Identifier: Apache-2.0
"""Small data sets as files, for the tests of `dpt-jax data check`."""

import io

import numpy as np
from etils import epath
from PIL import Image

from dpt_jax.data.sources.files import FileSource, Meaning, Sample

SIZE = (6, 9)
CLASSES = Meaning(
    "toy classes",
    classes=("road", "sky", "<b>tree", "never"),
    palette=((200, 0, 0), (0, 0, 200), (0, 200, 0), (9, 9, 9)),
    class_of={0: 255, 1: 0, 2: 1, 3: 2, 9: 3},
)
MILLIMETRES = Meaning("toy depth", metres_per_unit=0.001)


def picture(seed, size=SIZE):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def source(root, meaning, target, examples):
    """A source of (image, target) bytes, written to `root`."""
    samples = []
    for i, (image, stored) in enumerate(examples):
        paths = epath.Path(root) / f"<i>{i}.jpg", epath.Path(root) / f"<i>{i}.png"
        root.mkdir(parents=True, exist_ok=True)
        for path, data in zip(paths, (image, stored), strict=True):
            path.write_bytes(data)
        samples.append(Sample(f"{root.name}/<i>{i}.jpg", paths[0], **{target: paths[1]}))
    return FileSource(meaning, samples, "")


def ids(seed, high=4, size=SIZE):
    return np.random.default_rng(seed).integers(0, high, size).astype(np.uint8)
