# SPDX-License-Identifier: Apache-2.0
"""What `dpt-jax data check` makes of faults that no single file shows."""

import io

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.check import check
from dpt_jax.data.sources.files import FileSource, Meaning
from tests.data.checked_sets import CLASSES, SIZE, ids, picture, source
from tests.data.small_sets import png


def test_one_set_for_both_splits_is_a_warning_and_a_part_in_common_an_error(tmp_path):
    examples = [(picture(i), png(ids(i))) for i in range(5)]

    def found(train, validation, **options):
        splits = {"train": train, "validation": validation}
        chosen = {
            split: source(tmp_path / split, CLASSES, "label", [examples[i] for i in order])
            for split, order in splits.items()
        }
        problems = check(chosen, pictures=0, **options).problems()
        return [problem for problem in problems if "split" in problem.text]

    same = "both splits hold the same 3 images: fine to see whether they are learnt by heart, "
    assert found([0, 1, 2], [2, 0, 1]) == [("warning", same + "meaningless as a score")]
    assert found([0, 1, 2], [3, 4]) == []
    for train, validation in (([0, 1, 2], [2, 1, 3]), ([0, 1, 2], [2, 1]), ([0], [1, 0])):
        (problem,) = found(train, validation)
        assert problem.level == "error" and "in more than one split" in problem.text
    (problem,) = found([0, 1, 2], [0, 3], limit=1)
    assert problem.level == "error"


def test_the_same_name_twice_in_a_split_is_a_warning(tmp_path):
    one, other = (
        source(tmp_path / str(i) / "same", CLASSES, "label", [(picture(i), png(ids(i)))])
        for i in (1, 2)
    )
    assert check({"train": one, "validation": other}).same_names == []
    both = FileSource(CLASSES, [*one._samples, *other._samples], "")
    report = check({"train": both})
    assert report.ok and report.same_images == []
    assert report.same_names == [[("train", "same/<i>0.jpg")] * 2]
    assert any("1 name is shared by" in problem.text for problem in report.problems())


def turned(value, kind="JPEG"):
    """A picture whose EXIF data says how to turn it."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = value
    Image.open(io.BytesIO(picture(0))).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def test_exif_orientation_is_a_warning(tmp_path):
    images = [picture(0), turned(1), turned(3), turned(9), turned(6, kind="PNG"), turned(8)[:-20]]
    examples = [(image, png(ids(i))) for i, image in enumerate(images)]
    report = check({"train": source(tmp_path / "t", CLASSES, "label", examples)}, pictures=0)
    told = "3 images have an EXIF orientation (first: t/<i>2.jpg), which training does not apply"
    found = [problem for problem in report.problems() if "EXIF" in problem.text]
    assert len(found) == 1 and found[0].level == "warning" and told in found[0].text
    assert report.splits[0].to_json()["exif_orientation"] == [f"t/<i>{i}.jpg" for i in (2, 4, 5)]


def test_sizes_that_an_exif_orientation_exchanges_are_told_so(tmp_path):
    upright, other = png(ids(0, size=SIZE[::-1])), png(ids(0, size=(4, 4)))
    examples = [
        (turned(6), upright),
        (turned(3), upright),
        (turned(6), other),
        (picture(0), upright),
    ]
    bad = check({"train": source(tmp_path / "t", CLASSES, "label", examples)}).splits[0].bad
    exchanged = "sizes disagree, as its EXIF orientation is not applied to the image"
    assert [seen.kind for seen in bad] == [exchanged, *["sizes disagree"] * 3]


@pytest.mark.parametrize(("unit", "wrong"), [(1.0, True), (1e-6, True), (0.001, False)])
@pytest.mark.parametrize(
    ("dataset", "advice"), [("folder mine", "correct depth_scale"), ("nyuv2", "another data set?")]
)
def test_an_implausible_unit_of_depth_is_an_error(tmp_path, unit, wrong, dataset, advice):
    examples = [(picture(0), png(np.arange(1000, 1054, dtype=np.uint16).reshape(SIZE)))]
    meaning = Meaning(dataset, metres_per_unit=unit)
    report = check({"train": source(tmp_path / "d", meaning, "depth", examples)})
    assert report.ok is not wrong
    found = [text for level, text in report.problems() if level == "error"]
    assert len(found) == wrong
    for text in found:
        assert "0.001 (mm) would make it" in text and advice in text
