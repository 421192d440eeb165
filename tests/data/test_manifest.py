# SPDX-License-Identifier: Apache-2.0
"""Which files of a `folder` belong together and to which split: tables, lists, draws."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.sources.folder import folder
from tests.data.own_folder import (
    BOTH,
    DEPTH,
    MASKS,
    STEMS,
    describe,
    ids,
    names,
    opened,
    rgb,
    save,
    write,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ROWS = [
    {"image": "images/a.png", "label": "masks/a.png", "split": "validation"},
    {"image": "./images//b.c.png", "label": "masks/b.c.png", "split": "train"},
    {"image": "images/day/a.png", "label": "masks/day/a.png", "split": "train"},
]
TABLE = {"classes": ["road", "sky", "car"], "ignore": [255], "manifest": "pairs.csv"}


def as_csv(rows, columns=("split", "label", "image")):
    lines = [",".join(f'"{row[key]}"' for key in columns) for row in rows]
    return "\ufeff" + "\r\n".join([",".join(columns), *lines, ""])


def as_json_lines(rows):
    return "\n".join(map(json.dumps, rows)) + "\n\n"


@pytest.mark.parametrize("name", ["pairs.csv", "tables/pairs.jsonl"])
def test_tables(tmp_path, name):
    root = write(tmp_path, TABLE | {"manifest": name})
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text((as_csv if name.endswith("csv") else as_json_lines)(ROWS))
    assert names(root, "validation") == ["images/a.png"]
    assert names(root, "train") == ["images/b.c.png", "images/day/a.png"], "in the table's order"
    example = opened(root, "train")[0]
    assert example.keys() == {"image", "label"}
    np.testing.assert_array_equal(example["image"], rgb("b.c"))
    np.testing.assert_array_equal(example["label"], ids("b.c"))


def test_a_table_without_splits(tmp_path):
    root = write(tmp_path, TABLE | {"validation": {"list": "validation.txt"}})
    rows = [row | {"depth": row["label"].replace("masks", "depth")} for row in ROWS]
    (root / "pairs.csv").write_text(as_csv(rows, ("image", "depth")))
    describe(root, DEPTH | {"manifest": "pairs.csv"})
    (root / "validation.txt").write_text("day/a\n")
    assert names(root, "validation") == ["images/day/a.png"]
    assert opened(root, "train")[0].keys() == {"image", "depth"}


def table(text, name="pairs.csv", spec=None):
    def breaks(root):
        describe(root, (spec or TABLE) | {"manifest": name})
        (root / name).write_text(text)

    return breaks


def row(**changed):
    return table(as_json_lines([ROWS[1], ROWS[0] | changed]), "p.jsonl")


WRONG_TABLES = {
    "none": (lambda r: describe(r, TABLE), r"the manifest not found: .*pairs\.csv"),
    "outside": (
        lambda r: describe(r, TABLE | {"manifest": "../p.csv"}),
        r"'\.\./p\.csv' leads out",
    ),
    "empty": (table("image,label\n"), "pairs.csv has no rows"),
    "no-header": (table("a.png,b.png\nc.png,d.png\n"), "'a.png'.*first row must be the header"),
    "mistyped": (table(as_csv(ROWS).replace("label", "lable")), "'lable'; did you mean 'label'"),
    "no-target": (table("image,split\na,train\n"), "needs the column image, and label or depth"),
    "no-image": (table("label,split\na,train\n"), "needs the column image"),
    "twice": (table("image,label,label\na,b,c\n"), "names a column twice"),
    "short": (table("image,label\na,b\nc\n"), r"pairs\.csv, line 3: every row must fill"),
    "long": (table("image,label\na,b,c\n"), "line 2: .* the columns image, label and no more"),
    "header": (table('"image,label\n'), r"pairs\.csv, after line 0"),
    "hole": (row(label=""), r"p\.jsonl, line 2: every row must fill"),
    "number": (row(label=3), r"line 2: every row must fill"),
    "more": (row(depth="depth/a.png"), r"line 2: every row must fill"),
    "quote": (table('image,label\na,b\n"c,d\n'), r"pairs\.csv, after line 2"),
    "json": (table("{\n", "p.jsonl"), r"p\.jsonl, line 1 is not valid JSON"),
    "list": (table('["a", "b"]\n', "p.jsonl"), "line 1 must be a JSON object, not list"),
    "key-twice": (table('{"image": "a", "image": "b"}', "p.jsonl"), "'image' is there twice"),
    "up": (row(image="images/../a.png"), r"'images/\.\./a\.png' leads out"),
    "absolute": (row(label="/etc/a.png"), "'/etc/a.png' leads out"),
    "missing": (row(label="masks/x.png"), "1 of 2 files do not exist.*masks/x.png"),
    "duplicate": (row(image="images/b.c.png"), r"line 2: the image images/b\.c\.png is named"),
    "one-label-for-two": (
        row(label="masks//b.c.png"),
        r"line 2: the label masks/b\.c\.png is named a second time, after .*p\.jsonl, line 1",
    ),
    "one-depth-for-two": (
        table("image,depth\na.png,d.npy\nb.png,e.npy\nc.png,./d.npy\n"),
        r"csv, line 4: the depth d\.npy is named a second time, after .*pairs\.csv, line 2",
    ),
    "split": (row(split="val"), "split 'val' is not train or validation"),
    "both-rules": (
        table(as_csv(ROWS), spec=TABLE | MASKS),
        "column 'split'.*'validation' must not",
    ),
    "no-rule": (table("image,label\nimages/a.png,masks/a.png\n"), "'validation' is missing"),
    "one-split": (table(as_csv(ROWS[1:])), "none of the 2 examples is in split 'validation'"),
    "depth-named": (
        table(as_csv(ROWS), spec=TABLE | {"depth_unit": "metre"}),
        "no example has a dep",
    ),
}


@pytest.mark.parametrize(("breaks", "message"), WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_wrong_tables_are_refused(tmp_path, breaks, message):
    breaks(write(tmp_path, TABLE))
    with pytest.raises(DatasetError, match=message):
        opened(tmp_path, "validation")


# --- Splits


def drawn(root, stems, **rule):
    for stem in stems:
        save(root / "images" / f"{stem}.png", rgb(stem))
        save(root / "masks" / f"{stem}.png", ids(stem))
    describe(root, MASKS | {"validation": rule})
    return set(names(root, "train")), set(names(root, "validation"))


def test_the_drawn_split(tmp_path):
    stems = [f"day/{i}" for i in range(60)]
    train, held = drawn(tmp_path, stems, fraction=0.3, seed=0)

    def share(stem):
        return int(hashlib.sha256(f"0/{stem}".encode()).hexdigest()[:16], 16) / 16**16

    assert held == {f"images/{stem}.png" for stem in stems if share(stem) < 0.3}
    assert train == {f"images/{stem}.png" for stem in stems} - held and 9 <= len(held) <= 27
    # Other images come, none that was there moves; a larger fraction only adds.
    more, held_more = drawn(tmp_path, ["a", "night/1", "z"], fraction=0.3, seed=0)
    assert train <= more and held <= held_more
    assert held_more <= drawn(tmp_path, [], fraction=0.6, seed=0)[1]
    assert held_more != drawn(tmp_path, [], fraction=0.3, seed=1)[1]
    # The same images in a table fall into the same splits.
    rows = [f"images/{stem}.png,masks/{stem}.png" for stem in [*stems, "a", "night/1", "z"]]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,label", *reversed(rows)]))
    describe(tmp_path, TABLE | {"validation": {"fraction": 0.3, "seed": 0}})
    assert set(names(tmp_path, "validation")) == held_more


def test_the_same_images_in_both_splits(tmp_path):
    write(tmp_path, BOTH | {"validation": {"same_as_train": True}})
    assert names(tmp_path, "train") == names(tmp_path, "validation")
    assert len(names(tmp_path, "train")) == 4


def listed(text):
    return lambda root: (root / "validation.txt").write_text(text)


WRONG_SPLITS = {
    "missing": (
        lambda r: describe(r, BOTH | {"validation": None}),
        "'validation' must be an object",
    ),
    "empty": (lambda r: describe(r, BOTH | {"validation": {}}), "'validation' has the keys"),
    "no-seed": ({"fraction": 0.1}, '"fraction": 0.1, "seed": 0'),
    "mixed": ({"fraction": 0.1, "seed": 0, "list": "x"}, "'list'; say which"),
    "fraction-1": ({"fraction": 1, "seed": 0}, "'fraction' must be between 0 and 1, not 1"),
    "fraction-text": ({"fraction": "0.1", "seed": 0}, "'fraction' must be a number, not '0.1'"),
    "seed-true": ({"fraction": 0.1, "seed": True}, "'seed' must be a whole number, not True"),
    "seed-float": ({"fraction": 0.1, "seed": 0.5}, "'seed' must be a whole number"),
    "nothing-drawn": ({"fraction": 1e-9, "seed": 0}, "holds out 0 of 4"),
    "all-drawn": ({"fraction": 1 - 1e-9, "seed": 0}, "holds out 4 of 4"),
    "same-false": ({"same_as_train": False}, "can only be true"),
    "list-number": ({"list": 3}, "'list' must be a string"),
    "list-outside": ({"list": "/x.txt"}, "'/x.txt' leads out"),
    "list-gone": ({"list": "x.txt"}, r"x\.txt"),
    "list-empty": (listed("\n"), "names 0 of 4"),
    "list-all": (listed("\n".join(STEMS)), "names 4 of 4"),
    "list-unknown": (listed("a\nday/b\n"), r"line 2: 'day/b'.*did you mean day/a"),
    "list-twice": (listed("a\nimages/a.png\n"), "line 2: 'images/a.png' is there a second time"),
}


@pytest.mark.parametrize(("breaks", "message"), WRONG_SPLITS.values(), ids=WRONG_SPLITS)
def test_wrong_splits_are_refused(tmp_path, breaks, message):
    write(tmp_path, BOTH if callable(breaks) else BOTH | {"validation": breaks})
    if callable(breaks):
        breaks(tmp_path)
    with pytest.raises(DatasetError, match=message):
        opened(tmp_path, "train")


def test_names_that_mean_two_images(tmp_path):
    root = write(tmp_path, TABLE | {"validation": {"list": "validation.txt"}})
    Image.fromarray(rgb("x")).save(root / "images" / "a.jpg")
    text = "image,label\nimages/a.png,masks/a.png\nimages/a.jpg,masks/b.c.png\n"
    (root / "pairs.csv").write_text(text)
    (root / "validation.txt").write_text("images/a.jpg\n")
    assert names(root, "validation") == ["images/a.jpg"]
    (root / "validation.txt").write_text("a\n")
    with pytest.raises(DatasetError, match=r"'a' is the name of 2 examples"):
        opened(root, "train")


def test_nyuv2_as_a_table(tmp_path):
    if not (SHARED / "nyuv2_sample").is_dir():
        pytest.skip("nyuv2_sample is not next to this repository")
    rows = (SHARED / "nyuv2_sample" / "test_files.txt").read_text().split("\n")
    pairs = [row.split()[:2] for row in rows if row]
    stem = "official_splits/test"
    lines = [f"{stem}/{image},{stem}/{depth}" for image, depth in pairs]
    (tmp_path / "nyu.csv").write_text("\n".join(["image,depth", *lines]))
    describe(tmp_path, DEPTH | {"manifest": "nyu.csv", "validation": {"same_as_train": True}})
    root = str(SHARED / "nyuv2_sample")
    source = folder(root=root, split="train", description=str(tmp_path / "dataset.json"))
    for i, (image, depth) in enumerate(pairs):
        assert source.name(i) == f"{stem}/{image}"
        want = np.asarray(Image.open(Path(root) / stem / depth)) / 1000
        np.testing.assert_allclose(source[i]["depth"], want, rtol=1e-6)
