# SPDX-License-Identifier: Apache-2.0
"""`dpt-jax data check`: data sets with known faults, counted by brute force."""

import collections
import html.parser
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data import check as checking
from dpt_jax.data import check_example, check_page
from dpt_jax.data.check import check, write
from dpt_jax.data.sources import base
from dpt_jax.data.sources.ade20k import ade20k
from dpt_jax.data.sources.rooms import Rooms
from tests.data.checked_sets import CLASSES, MILLIMETRES, SIZE, ids, picture, source
from tests.data.small_sets import png

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
STRANGE = ids(1)
STRANGE[0, :2] = 151
# Every readable label map of the training split; below, by which image it is accompanied.
LABELS = {
    "good": ids(0, 3),
    "strange": STRANGE,
    "cut image": ids(2),
    "other size": ids(3, size=(6, 8)),
    "ignored": np.zeros(SIZE, np.uint8),
    "repeated": ids(5),
}


@pytest.fixture
def labelled(tmp_path):
    images = {name: picture(i) for i, name in enumerate(LABELS)}
    images["cut image"] = images["cut image"][:-100]
    images["repeated"] = images["good"]
    train = [(images[name], png(label)) for name, label in LABELS.items()]
    train.append((picture(10), png(np.zeros((*SIZE, 3), np.uint8))))
    train.append((b"", png(ids(6))))
    train.append((picture(11), b"\x89PNG nothing"))
    validation = [(images["good"], png(ids(7))), (picture(20), png(ids(8)))]
    splits = {"train": train, "validation": validation}
    return {
        name: source(tmp_path / name, CLASSES, "label", examples)
        for name, examples in splits.items()
    }


BAD = {
    1: "label values out of range",
    2: "unreadable or unfit image",
    3: "sizes disagree",
    6: "unreadable or unfit label map",
    7: "unreadable or unfit image",
    8: "unreadable or unfit label map",
}


def test_bad_examples_are_named_with_their_kind_and_error(labelled, tmp_path):
    report = check(labelled)
    train = report.splits[0]
    assert {seen.index: seen.kind for seen in train.bad} == BAD
    for seen in train.bad:
        with pytest.raises(base.DatasetError) as raised:
            labelled["train"][seen.index]
        assert seen.error == str(raised.value)
        assert str(tmp_path / "train" / f"<i>{seen.index}.") in seen.error
    assert report.splits[1].bad == []
    write(report, tmp_path / "out")
    assert (tmp_path / "out" / "bad_validation.txt").read_text() == ""
    lines = (tmp_path / "out" / "bad_train.txt").read_text().splitlines()
    assert lines == [f"train/<i>{i}.jpg" for i in BAD]


def test_label_values_are_counted_as_stored(labelled):
    train = check(labelled).splits[0]
    maps = [*LABELS.values(), ids(6)]
    pixels, images = collections.Counter(), collections.Counter()
    for stored in maps:
        values = stored.ravel().tolist()
        pixels.update(values)
        images.update(set(values))
    assert {v: int(n) for v, n in enumerate(train.label_pixels) if n} == pixels
    assert {v: int(n) for v, n in enumerate(train.label_images) if n} == images
    assert train.ignored_share == pytest.approx(pixels[0] / pixels.total())
    assert [train.becomes(v) for v in train.label_values] == [
        "ignored",
        "class 0 road",
        "class 1 sky",
        "class 2 <b>tree",
        "class 3 never",
        "OUT OF RANGE",
    ]
    assert train.classes_absent == [3]


def test_problems_are_told_worst_first(labelled):
    report = check(labelled)
    levels = [problem.level for problem in report.problems()]
    assert not report.ok and levels == sorted(levels)
    told = {problem.text.split("; the first")[0] for problem in report.problems()}
    assert told == {
        "1 image is in more than one split, so that scores cannot be trusted: "
        "train/<i>0.jpg (train) = train/<i>5.jpg (train) = validation/<i>0.jpg (validation)",
        "train: 1 x label values out of range: 151 in 1 of 7 label maps",
        "train: 1 x sizes disagree",
        "train: 2 x unreadable or unfit image",
        "train: 2 x unreadable or unfit label map",
        "train: 1 of 4 classes never occur: never",
        "train: 1 example has only ignored pixels: train/<i>4.jpg",
        "train: 1 image is more than once in the split: train/<i>0.jpg = train/<i>5.jpg",
        "validation: 1 of 4 classes never occur: never",
    }
    lines = report.text().splitlines()
    assert lines[0] == "toy classes: NOT OK, 5 errors and 4 warnings"
    assert lines[1].startswith("error   1 image is in more than one split")
    assert "train       examples   9 checked, 6 cannot be used" in lines


def test_strange_values_of_a_map_that_is_bad_otherwise_are_an_error_of_their_own(tmp_path):
    examples = [(picture(0, (9, 6)), png(STRANGE)), (picture(1), png(ids(1)))]
    report = check({"train": source(tmp_path / "t", CLASSES, "label", examples)})
    errors = [text.split("; the first")[0] for level, text in report.problems() if level == "error"]
    assert errors == [
        "train: 1 x sizes disagree",
        "train: label values out of range: 151 in 1 of 2 label maps",
    ]


def test_sizes_are_counted(tmp_path):
    shapes = [(8, 8), (6, 9), (8, 8), (4, 20), (3, 5)]
    examples = [(picture(i, s), png(ids(i, size=s))) for i, s in enumerate(shapes)]
    split = check({"train": source(tmp_path / "t", CLASSES, "label", examples)}).splits[0]
    assert split.sizes_listed == [((8, 8), 2), ((3, 5), 1), ((4, 20), 1), ((6, 9), 1)]
    assert split.extreme_sizes == ((3, 5), (4, 20))


def depths(count=5):
    rng = np.random.default_rng(3)
    maps = [
        (np.exp(rng.normal(7.5, 1, SIZE)) * (rng.random(SIZE) < 0.7)).astype(np.uint16)
        for _ in range(count)
    ]
    return [*maps, np.zeros(SIZE, np.uint16), np.full(SIZE, 700, np.uint16)]


def test_depth_is_summed_up(tmp_path):
    maps = depths()
    examples = [(picture(i), png(stored)) for i, stored in enumerate(maps)]
    report = check({"train": source(tmp_path / "d", MILLIMETRES, "depth", examples)}, max_depth=4.0)
    assert report.ok
    split, metres = report.splits[0], np.concatenate(maps).ravel() / 1000
    valid = metres[metres > 0]
    for q in (0.01, 0.25, 0.5, 0.9, 0.99, 1.0):
        exact = np.quantile(valid, q, method="inverted_cdf")
        assert split.depth_quantile(q) == pytest.approx(exact, rel=2e-3)
    assert split.nearest == pytest.approx(valid.min())
    assert max(split.farthest)[0] == pytest.approx(valid.max())
    assert split.hole_share == pytest.approx((metres == 0).mean())
    assert split.depth_beyond == (valid > 4).sum() > 0
    assert [problem.text for problem in report.problems()] == [
        "train: 1 example has no depth at all: d/<i>5.jpg",
        "train: 1 example has one single depth: d/<i>6.jpg",
    ]


def test_bins_hold_their_depths():
    values = np.random.default_rng(0).lognormal(0, 5, 1000).astype(np.float32)
    centers = check_example.bin_centers()[values.view(np.uint32) >> check_example.BITS]
    np.testing.assert_allclose(centers, values, rtol=2e-3)


def test_a_limit_takes_evenly_spaced_examples(tmp_path, capsys):
    examples = [(picture(i), png(ids(i))) for i in range(10)]
    split = check({"train": source(tmp_path / "t", CLASSES, "label", examples)}, limit=3).splits[0]
    assert sorted(split.names) == [0, 3, 6] and (split.checked, split.examples) == (3, 10)
    assert split.summary()[0] == "examples   3 of 10 checked, 0 cannot be used"
    assert capsys.readouterr().err.splitlines()[-1] == "check train: 3 of 3"


class _Page(html.parser.HTMLParser):
    """Collects a page's tags, text and resources; fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.resources, self._open = collections.Counter(), "", [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.resources += [value for key, value in attrs if key in ("src", "href", "action")]
        if tag not in ("meta", "img", "rect", "path"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_else_and_shows_everything(labelled, tmp_path):
    report = check(labelled, pictures=2)
    path = write(report, tmp_path / "out")
    page = _Page(path.read_text())
    assert all(uri.startswith("data:image/") for uri in page.resources)
    assert not {"script", "link", "iframe", "i"} & set(page.tags)  # names have <i> in them
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    for problem in report.problems():
        assert problem.text in page.text
    assert "exit status is 1 if there is an error" in page.text
    for text in ("class 2 <b>tree", "OUT OF RANGE", "train/<i>6.jpg", "toy classes: NOT OK"):
        assert text in page.text
    # Two random examples of each split, and the most ignored of train: each with its overlay.
    reasons = [reason for shown in report.pictures for reason in shown.reasons]
    assert reasons.count("random") == 4 and "most ignored pixels: 100.0%" in reasons
    assert page.tags["img"] == 2 * len(report.pictures)


def test_the_page_of_depth_has_histogram_and_pictures(tmp_path):
    examples = [(picture(i), png(stored)) for i, stored in enumerate(depths())]
    report = check({"train": source(tmp_path / "d", MILLIMETRES, "depth", examples)})
    page = _Page(write(report, tmp_path / "out").read_text())
    assert page.tags["svg"] == 1 and page.tags["img"] == 2 * len(report.pictures)
    assert "(logarithmic)" in page.text and "holes 100.0%" in page.text
    reasons = " ".join(reason for shown in report.pictures for reason in shown.reasons)
    assert f"deepest: {max(stored.max() for stored in depths()) / 1000:.2f} m" in reasons


def test_reports_are_reproducible(labelled, tmp_path):
    for workers in (1, 3):
        write(check(labelled, workers=workers), tmp_path / f"{workers}")
    for name in ("check.html", "check.json", "bad_train.txt"):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in "13")
        assert one == other


def test_json_says_what_was_found(labelled, tmp_path):
    report = check(labelled)
    write(report, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "check.json").read_text())
    assert told["ok"] is False and len(told["problems"]) == len(report.problems())
    train = told["splits"]["train"]
    assert train["examples"] == train["checked"] == 9
    assert [bad["kind"] for bad in train["bad"]] == list(BAD.values())
    assert {"stored": 151, "becomes": "OUT OF RANGE", "pixels": 2, "images": 1} in train["label"][
        "values"
    ]
    names = ["train/<i>0.jpg", "train/<i>5.jpg", "validation/<i>0.jpg"]
    assert told["same_images"] == [[[name.split("/")[0], name] for name in names]]


def test_label_overlay():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    label = ids(1)
    label[0] = 255
    shown = check_page.label_overlay(Image.fromarray(image), label, CLASSES.colors)
    for y, x in np.ndindex(SIZE):
        grey = image[y, x] @ [0.299, 0.587, 0.114]
        mixed = np.full(3, 0.3 * grey)
        if label[y, x] != 255:
            mixed = 0.35 * grey + 0.65 * CLASSES.colors[label[y, x]]
        np.testing.assert_allclose(np.asarray(shown)[y, x], mixed, atol=1.5)


def test_depth_view():
    depth = np.geomspace(1, 100, 54).reshape(SIZE).astype(np.float32)
    depth[0, :3] = 0
    view, near, far = check_page.depth_view(depth, (9, 6))
    steps = np.asarray(view)
    valid = depth > 0
    assert (steps[~valid] == 0).all() and (steps[valid] > 0).all()
    assert (np.diff(steps[valid].astype(int)) >= 0).all() and steps.max() == 255
    assert (near, far) == pytest.approx(np.percentile(depth[valid], (2, 98)))
    assert view.convert("RGB").getpixel((0, 0)) == (150, 150, 150)


def test_damage_to_a_prepared_copy_is_an_error(tmp_path, monkeypatch):
    splits = {"train": source(tmp_path / "t", CLASSES, "label", [(picture(0), png(ids(0)))])}
    monkeypatch.setattr(checking.prepared, "is_prepared", lambda root: True)
    monkeypatch.setattr(checking.prepared, "verify", lambda root: [f"{root}/shard is damaged"])
    report = check(splits, root="somewhere")
    assert not report.ok
    assert report.problems()[0] == ("error", "somewhere/shard is damaged")


def test_an_error_nobody_thought_of_is_reported(tmp_path, monkeypatch):
    examples = [(picture(i), png(ids(i))) for i in range(2)]
    splits = {"train": source(tmp_path / "t", CLASSES, "label", examples)}

    def broken(encoded, meaning):
        raise MemoryError("too large")

    monkeypatch.setattr(check_example.files, "decode", broken)
    bad = check(splits, pictures=0).splits[0].bad
    assert [(seen.kind, "too large" in seen.error) for seen in bad] == [
        ("unexpected error", True)
    ] * 2


def test_a_missing_file_is_reported(tmp_path):
    splits = {"train": source(tmp_path / "t", CLASSES, "label", [(picture(0), png(ids(0)))])}
    (tmp_path / "t" / "<i>0.png").unlink()
    bad = check(splits).splits[0].bad
    assert [seen.kind for seen in bad] == ["missing or unreadable file"]


def test_what_is_drawn_cannot_be_checked():
    rooms = Rooms(split="train", size=(16, 16), length=1)
    with pytest.raises(base.DatasetError, match="Rooms is not made of files"):
        check({"train": rooms})


def test_the_real_sample_says_that_its_splits_are_the_same():
    root = SHARED / "ade20k_sample"
    if not root.is_dir():
        pytest.skip("needs ../shared/data/ade20k_sample")
    report = check(
        {split: ade20k(root=str(root), split=split) for split in ("train", "validation")}
    )
    assert report.ok and not any(split.bad for split in report.splits)
    assert "both splits hold the same 3 images" in report.text()
    assert [{split for split, _ in twins} for twins in report.same_images] == [
        {"train", "validation"}
    ] * 3
    labels = sorted((root / "ADEChallengeData2016/annotations/validation").glob("*.png"))
    counts = sum(np.bincount(np.asarray(Image.open(p)).ravel(), minlength=256) for p in labels)
    for split in report.splits:
        np.testing.assert_array_equal(split.label_pixels, counts)
