# SPDX-License-Identifier: Apache-2.0
"""`folder`: a person's own images, written by hand."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.sources.base import DatasetError, voc_colors
from dpt_jax.data.sources.folder import folder
from tests.data.own_folder import (
    BOTH,
    DEPTH,
    MASKS,
    SIZE,
    describe,
    ids,
    millimetres,
    names,
    opened,
    rgb,
    save,
    write,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


# --- What is right


@pytest.mark.parametrize("masks, depth", [(True, False), (False, True), (True, True)])
def test_masks_and_depth(tmp_path, masks, depth):
    write(tmp_path, (MASKS if masks else {}) | (DEPTH if depth else {}), masks, depth)
    for split, stems in (("train", ["b.c", "day/a"]), ("validation", ["a", "day/late/d"])):
        source = opened(tmp_path, split)
        source = pickle.loads(pickle.dumps(source))
        assert [source.name(i) for i in range(len(source))] == [f"images/{s}.png" for s in stems]
        assert source.classes == (("road", "sky", "car") if masks else ())
        assert source.palette.shape == (3 if masks else 0, 3)
        for i, stem in enumerate(stems):
            example = source[i]
            assert example.keys() == {"image", *["label"] * masks, *["depth"] * depth}
            np.testing.assert_array_equal(example["image"], rgb(stem))
            if masks:
                np.testing.assert_array_equal(example["label"], ids(stem), strict=True)
            if depth:
                want = millimetres(stem) / 1000
                assert example["depth"].dtype == np.float32
                np.testing.assert_allclose(example["depth"], want, rtol=1e-6)


def test_label_map_and_ignore(tmp_path):
    labels = {"0": "sky", "2": "road", "1": "sky"}
    write(tmp_path, MASKS | {"label_map": labels, "ignore": [255, 9]}, depth=False)
    source = opened(tmp_path, "train")
    table = np.full(256, 77, np.uint8)
    table[[0, 1, 2, 9, 255]] = 1, 1, 0, 255, 255
    np.testing.assert_array_equal(source[0]["label"], table[ids("b.c")])
    assert source.classes == ("road", "sky", "car"), "a class that no value stands for stays"
    save(tmp_path / "masks" / "b.c.png", np.full(SIZE, 3, np.uint8))
    with pytest.raises(
        DatasetError, match=r"b\.c\.png holds the label values \[3\].*0\.\.2, 9, 255"
    ):
        source[0]


@pytest.mark.parametrize(
    ("unit", "scale", "metres"),
    [
        ("metre", 0.001, 0.001),
        ("metre", 1 / 256, 1 / 256),
        ("centimetre", 1, 0.01),
        ("millimetre", 0.5, 0.0005),
    ],
)
def test_depth_units(tmp_path, unit, scale, metres):
    write(tmp_path, DEPTH | {"depth_unit": unit, "depth_scale": scale}, masks=False)
    got = opened(tmp_path, "train")[0]["depth"]
    np.testing.assert_allclose(got, millimetres("b.c") * metres, rtol=1e-6)


def test_arrays_and_other_formats(tmp_path):
    write(tmp_path, DEPTH | {"depth_scale": 1}, masks=False)
    (tmp_path / "depth" / "a.png").unlink()
    floats = millimetres("a").astype(np.float64) / 1000
    save(tmp_path / "depth" / "a.npy", floats)
    (tmp_path / "images" / "a.png").unlink()
    Image.fromarray(rgb("a")).save(tmp_path / "images" / "a.WEBP", lossless=True)
    (tmp_path / "images" / ".DS_Store").write_text("")
    (tmp_path / "depth" / ".thumbnails").mkdir()
    example = opened(tmp_path, "validation")[0]
    np.testing.assert_array_equal(example["image"], rgb("a"))
    np.testing.assert_array_equal(example["depth"], floats.astype(np.float32), strict=True)


def test_the_description_may_be_elsewhere(tmp_path):
    root = write(tmp_path / "data", "{}")
    (tmp_path / "mine").mkdir()
    describe(tmp_path / "mine", BOTH)
    (tmp_path / "mine" / "validation.txt").write_text("b.c")
    description = str(tmp_path / "mine" / "dataset.json")
    assert names(root, "validation", description=description) == ["images/b.c.png"]


# --- What is wrong


def without(*keys):
    return {key: value for key, value in BOTH.items() if key not in keys}


WRONG_DESCRIPTIONS = {
    "not-json": ("{'classes': 1", "is not valid JSON"),
    "empty": ("", "is not valid JSON"),
    "list": ([1], "must be a JSON object, not list"),
    "twice": ('{"ignore": [], "ignore": [1]}', "'ignore' is there twice"),
    "mistyped": (BOTH | {"depth_units": "metre"}, "'depth_units'; did you mean 'depth_unit'"),
    "no-unit": (without("depth_unit"), "'depth_unit', without which the depth.*\"validation\""),
    "no-scale": (without("depth_scale"), "lacks 'depth_scale'"),
    "no-depth-keys": (without("depth_scale", "depth_unit"), "'depth_unit' and 'depth_scale'"),
    "no-classes": (without("classes"), "lacks 'classes'"),
    "no-validation": (without("validation"), "'validation' is missing"),
    "inch": (BOTH | {"depth_unit": "inch"}, "'inch' is not one of metre, centimetre"),
    "unit-list": (BOTH | {"depth_unit": ["metre"]}, "'depth_unit' must be a string"),
    **{
        f"scale-{scale!r}": (BOTH | {"depth_scale": scale}, "depth_scale")
        for scale in (0, -0.001, True, "0.001", None, [0.001], float("nan"), float("inf"))
    },
    "classes-text": (BOTH | {"classes": "road"}, "'classes' must be a list, not 'road'"),
    "classes-empty": (BOTH | {"classes": []}, "'classes' must be one or more different names"),
    "class-twice": (BOTH | {"classes": ["road", "sky", "road"]}, r"not \['road', 'road'\]"),
    "class-number": (BOTH | {"classes": ["road", 3]}, r"not \[3\]"),
    "class-blank": (BOTH | {"classes": ["road", " "]}, r"not \[' '\]"),
    "255-classes": (BOTH | {"classes": [f"c{i}" for i in range(255)]}, "255 classes; at most"),
    "map-unknown": (BOTH | {"label_map": {"1": "raod"}}, "'raod'.*did you mean 'road'"),
    "map-number": (BOTH | {"label_map": {"1": 0}}, "names the class 0"),
    **{
        f"map-{key}": (BOTH | {"label_map": {key: "road"}}, f"label_map '{key}' is not a label")
        for key in ("256", "-1", "07", "1.0", "x", "²", "")
    },
    "ignore-256": (BOTH | {"ignore": [256]}, "'ignore' holds 256"),
    "ignore-text": (BOTH | {"ignore": ["0"]}, "'ignore' holds '0'"),
    "ignore-true": (BOTH | {"ignore": [True]}, "'ignore' holds True"),
    "ignore-class": (BOTH | {"ignore": [0]}, "0 is both ignored and class 'road'; .*'label_map'"),
    "ignore-mapped": (BOTH | {"label_map": {"7": "sky"}, "ignore": [7]}, "7 is both.*class 'sky'$"),
    "manifest-number": (BOTH | {"manifest": 3}, "'manifest' must be a string"),
}


@pytest.mark.parametrize(("spec", "message"), WRONG_DESCRIPTIONS.values(), ids=WRONG_DESCRIPTIONS)
def test_wrong_descriptions_are_refused(tmp_path, spec, message):
    write(tmp_path, spec if isinstance(spec, str) else json.dumps(spec))
    with pytest.raises(DatasetError, match=re.compile(message, re.DOTALL)) as error:
        opened(tmp_path, "train")
    assert "dataset.json" in str(error.value) or "255 classes" in message


def lone(path):
    return lambda root: (root / path).unlink()


def rename(path, to):
    return lambda root: (root / path).rename(root / to)


WRONG_FOLDERS = {
    "no-images": (rename("images", "pictures"), "images is not a directory"),
    "no-targets": (
        lambda r: (rename("masks", "m")(r), rename("depth", "d")(r)),
        "neither masks/ nor depth/",
    ),
    "no-mask": (
        lone("masks/day/a.png"),
        "1 of 4 images .*masks, the first.*images/day/a.png.*together",
    ),
    "no-image": (
        lone("images/day/a.png"),
        "1 of 4 label .*images, the first.*masks/day/a.png.*together",
    ),
    "renamed": (rename("depth/a.png", "depth/a_depth.png"), "use a 'manifest'"),
    "mask-jpeg": (rename("masks/a.png", "masks/a.jpg"), "masks/a.jpg is none of .png; convert"),
    "image-tiff": (rename("images/a.png", "images/a.tiff"), "images/a.tiff is none of .jpg"),
    "same-stem": (
        lambda r: (r / "images/a.jpg").write_bytes(b""),
        r"a\.(jpg|png) and .*a\.(jpg|png) differ only in their suffix",
    ),
    "stray-depth-key": (
        lambda r: rename("depth", "d")(r),
        "has 'depth_unit', but no example has a depth",
    ),
    "stray-classes": (
        lambda r: rename("masks", "m")(r),
        "has 'classes', but no example has a label",
    ),
    "no-description": (lone("dataset.json"), 'dataset.json. It says.*"depth_unit": "millimetre"'),
}


@pytest.mark.parametrize(("breaks", "message"), WRONG_FOLDERS.values(), ids=WRONG_FOLDERS)
def test_wrong_folders_are_refused(tmp_path, breaks, message):
    breaks(write(tmp_path, BOTH | {"origin": "the corner shop"}))
    with pytest.raises(DatasetError, match=re.compile(message, re.DOTALL)) as error:
        opened(tmp_path, "train")
    if "the first is" in str(error.value):
        assert "the corner shop" in str(error.value)


def test_no_root_and_unknown_splits(tmp_path):
    with pytest.raises(DatasetError, match=r"config\.data\.root=DIR"):
        folder(root=None, split="train")
    with pytest.raises(DatasetError, match="nowhere"):
        folder(root=str(tmp_path / "nowhere"), split="train")
    with pytest.raises(DatasetError, match="'val'"):
        folder(root=str(write(tmp_path, BOTH)), split="val")
    with pytest.raises(DatasetError, match=r"else\.json"):
        opened(tmp_path, "train", description=str(tmp_path / "else.json"))


# --- Colours, and real data


def test_the_palette_is_that_of_pascal_voc(tmp_path):
    colors = voc_colors(255)
    assert colors[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert colors[20] == (0, 64, 128)  # tvmonitor
    assert len(set(colors)) == 255
    source = opened(write(tmp_path, BOTH), "train")
    np.testing.assert_array_equal(source.palette, colors[1:4])


def test_ade20k_as_a_folder(tmp_path):
    if not (SHARED / "ade20k_sample").is_dir():
        pytest.skip("ade20k_sample is not next to this repository")
    data = SHARED / "ade20k_sample" / "ADEChallengeData2016"
    (tmp_path / "images").symlink_to(data / "images" / "validation")
    (tmp_path / "masks").symlink_to(data / "annotations" / "validation")
    classes = [f"class {i}" for i in range(150)]
    table = {str(i + 1): name for i, name in enumerate(classes)}
    rule = {"fraction": 0.5, "seed": 0}
    describe(tmp_path, {"classes": classes, "label_map": table, "ignore": [0], "validation": rule})
    seen = 0
    for split in ("train", "validation"):
        source = opened(tmp_path, split)
        for i in range(len(source)):
            path = tmp_path / source.name(i).replace("images", "masks").replace(".jpg", ".png")
            want = np.asarray(Image.open(path)) - np.uint8(1)
            np.testing.assert_array_equal(source[i]["label"], want, strict=True)
            seen += 1
    assert seen == 3
