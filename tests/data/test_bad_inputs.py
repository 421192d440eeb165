# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong with a data set, one `DatasetError` names the file and says what it should be.

`bad_inputs_examples` holds files that spoil one example, `bad_inputs_datasets` what spoils a whole
data set.
"""

import itertools
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.pipeline import train_stream
from dpt_jax.data.prepare import prepare
from dpt_jax.data.quarantine import readable
from dpt_jax.data.sources import build_source
from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.sources.prepared import verify

sys.path.insert(0, str(Path(__file__).parent))

import bad_inputs_datasets as datasets
import bad_inputs_examples as examples
import bad_inputs_layouts as layouts

pytestmark = [
    # A run only prints it; as an error it would stand in for the refusal that follows.
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def check_message(error, names, words):
    message = str(error.value)
    assert names in message
    assert re.search(words, message, re.DOTALL | re.IGNORECASE), message
    assert "0x7f" not in message, "the address of an object says nothing to anyone"


@pytest.mark.parametrize(
    ("file", "content", "words"), [c[1:] for c in examples.CASES], ids=examples.IDS
)
def test_a_bad_example_is_refused_by_name(tmp_path, file, content, words):
    source = examples.data_set(tmp_path, file, content)
    with pytest.raises(DatasetError) as error:
        source[examples.BAD]
    check_message(error, str(tmp_path / file), words)
    for index in {0, 1, 2} - {examples.BAD}:
        assert source[index]["label"].shape == (examples.H, examples.W)


def test_the_three_examples_are_right(tmp_path):
    """The others could be refused for any reason."""
    source = examples.data_set(tmp_path, "depth/b.png", examples.DEPTH)
    for index in range(3):
        example = source[index]
        label = np.array([255, 0, 1, 2])[examples.ids()]
        np.testing.assert_array_equal(example["label"], label)
        np.testing.assert_allclose(example["depth"], examples.millimetres() / 1000, rtol=1e-6)


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_the_data_sets_are_read_before_they_are_broken(tmp_path, layout):
    layouts.LAYOUTS[layout](tmp_path)
    source = build_source(layouts.config(layout, tmp_path), "train")
    assert len(source) == 2
    for index in range(2):
        assert source[index]["image"].shape[2] == 3


@pytest.mark.parametrize(
    ("layout", "breaks", "names", "words"),
    [case[1:] for case in datasets.OPENING],
    ids=[case[0] for case in datasets.OPENING],
)
def test_a_bad_data_set_is_refused_when_it_is_opened(tmp_path, layout, breaks, names, words):
    root = tmp_path / "the-data"
    layouts.LAYOUTS[layout](root)
    config = layouts.config(layout, root) | (breaks(root) or {})
    with pytest.raises(DatasetError) as error:
        build_source(config, "train")
    check_message(error, names, words)


@pytest.mark.parametrize(
    ("layout", "breaks", "names", "words"),
    [case[1:] for case in datasets.READING],
    ids=[case[0] for case in datasets.READING],
)
def test_a_bad_file_is_refused_when_it_is_read(tmp_path, layout, breaks, names, words):
    layouts.LAYOUTS[layout](tmp_path)
    breaks(tmp_path)
    source = build_source(layouts.config(layout, tmp_path), "train")
    with pytest.raises(DatasetError) as error:
        source[0]
    check_message(error, names, words)
    assert source[1]["image"].size


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("path", ["images", "images/a.png", "dataset.json", "validation.txt"])
def test_what_may_not_be_read_is_named(tmp_path, path):
    layouts.folder(tmp_path)
    mode = (tmp_path / path).stat().st_mode
    (tmp_path / path).chmod(0)
    try:
        with pytest.raises(DatasetError) as error:
            build_source(layouts.config("folder", tmp_path), "train")[0]
    finally:
        (tmp_path / path).chmod(mode)
    check_message(error, str(tmp_path / path), "Permission denied")


# --- What is odd but right must not be refused.


def _palette_png(bits):
    """Indices 0..3 of a palette whose colours are transparent at times."""
    image = Image.fromarray(examples.ids()).convert("L")
    image.putpalette(examples.colors(7, (2, 2)).tobytes())
    return examples.save(image, bits=bits, transparency=b"\x00\x80\xff\x40")


def _exif():
    turned = Image.Exif()
    turned[0x0112] = 6
    return turned


COLORS = examples.colors()
GREY = COLORS[..., 0]
WITH_ALPHA = np.dstack([COLORS, GREY])
BLACK_AND_WHITE = examples.ids() > 1
CYAN = Image.new("CMYK", (examples.W, examples.H), (255, 0, 0, 0))
ODD_IMAGES = {
    "rgba": (examples.save(WITH_ALPHA), COLORS),
    "grey": (examples.save(GREY), np.dstack([GREY] * 3)),
    "grey-alpha": (examples.save(Image.fromarray(GREY).convert("LA")), np.dstack([GREY] * 3)),
    "1-bit": (examples.save(BLACK_AND_WHITE), np.dstack([BLACK_AND_WHITE * np.uint8(255)] * 3)),
    "palette": (_palette_png(8), examples.colors(7, (2, 2)).reshape(4, 3)[examples.ids()]),
    "palette-2-bit": (_palette_png(2), examples.colors(7, (2, 2)).reshape(4, 3)[examples.ids()]),
    "turned-by-exif": (examples.save(COLORS, exif=_exif()), COLORS),
    "webp": (examples.save(COLORS, "WEBP", lossless=True), COLORS),
    "jpeg-cmyk": (examples.save(CYAN, "JPEG"), np.full_like(COLORS, (0, 255, 255))),
    "jpeg-with-more-behind": (examples.JPEG + b"\xff\xdamovie" * 99, None),
    "jpeg-progressive": (examples.PROGRESSIVE, None),
}


@pytest.mark.parametrize(("content", "expected"), ODD_IMAGES.values(), ids=ODD_IMAGES)
def test_odd_images_are_read_right(tmp_path, content, expected):
    source = examples.data_set(tmp_path, "image/b.png", content)
    if expected is None:
        expected = source[0]["image"]
    np.testing.assert_array_equal(source[examples.BAD]["image"], expected)


@pytest.mark.parametrize("bits", [2, 8])
def test_label_maps_with_a_palette_are_their_indices(tmp_path, bits):
    source = examples.data_set(tmp_path, "label/b.png", _palette_png(bits))
    np.testing.assert_array_equal(source[examples.BAD]["label"], source[0]["label"])


@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8", "<u2", ">u2", "<i4", "<u8", "fortran"])
def test_depth_arrays_of_any_numbers_are_read(tmp_path, kind):
    stored = examples.millimetres() // 32 * 32  # which 16-bit floats hold exactly
    array = np.asfortranarray(stored) if kind == "fortran" else stored.astype(kind)
    source = examples.data_set(tmp_path, "depth/b.npy", examples.npy(array))
    depth = source[examples.BAD]["depth"]
    assert depth.dtype == np.float32 and depth.dtype.isnative
    np.testing.assert_allclose(depth, stored / 1000, rtol=1e-6)


@pytest.mark.parametrize("layout", ["folder", "manifest"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order-mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_text_files_of_other_editors_are_read(tmp_path, layout, mark, end):
    layouts.LAYOUTS[layout](tmp_path)
    for path in tmp_path.glob("*.*"):
        path.write_bytes(mark + path.read_bytes().replace(b"\n", end))
    config = layouts.config(layout, tmp_path)
    names = [
        [source.name(i) for i in range(len(source))]
        for source in (build_source(config, split) for split in ("train", "validation"))
    ]
    assert names == [["images/a.png", "images/b.png"], ["images/c.png"]]


# --- Prepared data


@pytest.fixture(scope="module")
def copy_of_ade20k(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    layouts.ade20k(root / "ade20k")
    config = layouts.config("ade20k", root / "ade20k")
    splits = {"train": build_source(config, "train")}
    return prepare("ade20k", splits, root / "out", progress=False)


SHARD = "dpt_data-train.array_record-00000-of-00001"


def cut(path):
    path.write_bytes(path.read_bytes()[:-99])


def flip(path):
    """Other bits in the middle of the label of an example; the size stays."""
    data = path.read_bytes()
    path.write_bytes(examples.flipped(data, data.index(b"\x89PNG") + 60))


# What is tried, how the folder is broken, a name in the message and words in it, and a name that
# `verify` finds by itself.
PREPARED = {
    "shard-cut": (lambda r: cut(r / SHARD), SHARD, r"\d bytes instead of \d", SHARD),
    "shard-gone": (lambda r: (r / SHARD).unlink(), SHARD, "is missing", SHARD),
    "shard-empty": (lambda r: (r / SHARD).write_bytes(b""), SHARD, "0 bytes instead", SHARD),
    "names-gone": (
        lambda r: (r / "names-train.json").unlink(),
        "names-train.json",
        "read",
        "names",
    ),
    "names-short": (
        lambda r: (r / "names-train.json").write_text('["a"]'),
        "names-train.json",
        "1 names for 2 records",
        "names-train.json",
    ),
    "features-gone": (lambda r: (r / "features.json").unlink(), "out", "again", "features.json"),
    "info-cut": (lambda r: cut(r / "dataset_info.json"), "out", "again", "dataset_info.json"),
    "byte-flipped": (lambda r: flip(r / SHARD), SHARD, "damaged", SHARD),
}


@pytest.mark.parametrize(("breaks", "names", "words", "found"), PREPARED.values(), ids=PREPARED)
def test_bad_prepared_data_is_refused(tmp_path, copy_of_ade20k, breaks, names, words, found):
    root = tmp_path / "out"
    shutil.copytree(copy_of_ade20k, root)
    config = layouts.config("ade20k", root)
    assert verify(root) == [] and len(build_source(config, "train")) == 2
    breaks(root)
    with pytest.raises(DatasetError) as error:
        source = build_source(config, "train")
        for index in range(2):
            source[index]
    check_message(error, names, words)
    (problem,) = verify(root)
    assert found in problem


@pytest.mark.parametrize(
    ("change", "split", "words"),
    [
        ({"source": "cityscapes"}, "train", "'ade20k', not from 'cityscapes'"),
        ({}, "validation", "only.*'validation'"),
    ],
    ids=["other-source", "split-not-prepared"],
)
def test_prepared_data_that_was_not_asked_for(copy_of_ade20k, change, split, words):
    with pytest.raises(DatasetError) as error:
        build_source(layouts.config("ade20k", copy_of_ade20k) | change, split)
    check_message(error, str(copy_of_ade20k), words)


def test_what_is_prepared_is_good(tmp_path):
    """A bad example stops the preparation, by name."""
    source = examples.data_set(tmp_path, "label/b.png", examples.LABEL[:-40])
    with pytest.raises(DatasetError) as error:
        prepare("small", {"train": source}, tmp_path / "out", progress=False)
    check_message(error, str(tmp_path / "label/b.png"), "unreadable")
    assert not (tmp_path / "out").exists()


# --- The stream


def policy(on_error="strict", most=0, known=None):
    return {"on_error": on_error, "max_quarantined": most, "quarantine": known}


def stream(source, target="label", threads=0):
    return train_stream(
        source, [], target=target, seed=0, start_step=0, batch_size=3, threads=threads
    )


@pytest.mark.parametrize("target", ["label", "depth"])
def test_the_stream_stops_at_a_bad_example_with_its_own_error(tmp_path, target):
    source = examples.data_set(tmp_path, "image/b.jpg", examples.JPEG[:-2])
    with stream(readable(policy(), source), target, threads=2) as batches:
        with pytest.raises(DatasetError) as error:
            next(batches)
    check_message(error, str(tmp_path / "image/b.jpg"), "truncated")


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return examples.every_data_set(tmp_path_factory.mktemp("every"))


def test_the_stream_goes_on_without_any_of_the_bad_examples(every):
    bad = {i for i in range(len(every)) if i % 3 == examples.BAD}
    assert len(bad) == len(examples.CASES)
    seen = set()
    with stream(readable(policy("quarantine", len(bad)), every)) as batches:
        for batch in itertools.islice(batches, len(every) // 3):
            for drawn, used, label in zip(
                batch["drawn"], batch["index"], batch["label"], strict=True
            ):
                assert used == (drawn + 1 if drawn in bad else drawn)
                np.testing.assert_array_equal(label, np.array([255, 0, 1, 2])[examples.ids()])
                seen.add(int(drawn))
    assert seen == set(range(len(every))), "a pass reads every example"


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_the_stream_leaves_out_known_bad_examples(tmp_path, every, end):
    bad = [i for i in range(len(every)) if i % 3 == examples.BAD]
    known = tmp_path / "bad.txt"
    known.write_bytes(end.join([*map(every.name, bad), ""]).encode())
    with stream(readable(policy(known=str(known)), every)) as batches:
        used = [i for batch in itertools.islice(batches, 20) for i in batch["index"].tolist()]
    assert not set(used) & set(bad)


BAD_LISTS = {
    "missing": (None, "not found"),
    "unknown-name": ("a\nbb\n", "no example 'bb'.*did you mean 'b'"),
    "path-instead-of-name": ("image/b.jpg\n", "no example 'image/b.jpg'"),
    "everything": ("a\nb\nc\n", "all 3"),
    "not-utf-8": ("b\n".encode("utf-16"), "not UTF-8"),
}


@pytest.mark.parametrize(("content", "words"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_a_bad_list_of_bad_examples_is_refused(tmp_path, content, words):
    source = examples.data_set(tmp_path, "depth/b.png", examples.DEPTH)
    known = tmp_path / "bad.txt"
    if content is not None:
        layouts.put(known, content)
    with pytest.raises(DatasetError) as error:
        readable(policy(known=str(known)), source)
    check_message(error, str(known), words)


def test_an_unknown_policy_is_refused(tmp_path):
    source = examples.data_set(tmp_path, "depth/b.png", examples.DEPTH)
    with pytest.raises(DatasetError, match=r"on_error 'skip'.*strict, quarantine"):
        readable(policy("skip"), source)


def test_more_bad_examples_than_allowed_stop_the_stream(tmp_path):
    source = examples.data_set(tmp_path, "image/b.jpg", b"")
    for name in ("a", "c"):
        (tmp_path / f"image/{name}.jpg").write_bytes(b"")
    with stream(readable(policy("quarantine", 2), source)) as batches:
        with pytest.raises(DatasetError) as error:
            next(batches)
    for name in ("a", "b", "c"):
        check_message(error, str(tmp_path / f"image/{name}.jpg"), "max_quarantined=2.*0 bytes")
