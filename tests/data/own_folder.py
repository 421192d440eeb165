# SPDX-License-Identifier: Apache-2.0
"""A person's own folder of images, masks and depth, written by hand for tests."""

import json

import numpy as np
from PIL import Image

from dpt_jax.data.sources.folder import folder

SIZE = (6, 9)
MASKS = {
    "classes": ["road", "sky", "car"],
    "ignore": [255],
    "validation": {"list": "validation.txt"},
}
DEPTH = {
    "depth_unit": "metre",
    "depth_scale": 0.001,
    "validation": {"list": "validation.txt"},
}
BOTH = MASKS | DEPTH
STEMS = ["a", "b.c", "day/a", "day/late/d"]


def rgb(stem):
    seed = int.from_bytes(stem.encode()[:8])
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def ids(stem):
    """0, 1, 2 and 255."""
    stored = rgb(stem)[..., 0] % 4
    stored[stored == 3] = 255
    return stored


def millimetres(stem):
    stored = rgb(stem)[..., 1].astype(np.uint16) * 200
    stored[0, 0] = 0
    return stored


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def describe(root, spec):
    (root / "dataset.json").write_text(spec if isinstance(spec, str) else json.dumps(spec))


def write(root, spec, masks=True, depth=True):
    """Four images, of which "a" and "day/late/d" are held out."""
    for stem in STEMS:
        save(root / "images" / f"{stem}.png", rgb(stem))
        if masks:
            save(root / "masks" / f"{stem}.png", ids(stem))
        if depth:
            save(root / "depth" / f"{stem}.png", millimetres(stem))
    (root / "validation.txt").write_text("a\n\nimages/day/late/d.png\n")
    describe(root, spec)
    return root


def opened(root, split, **options):
    return folder(root=str(root), split=split, **options)


def names(root, split, **options):
    source = opened(root, split, **options)
    return [source.name(i) for i in range(len(source))]
