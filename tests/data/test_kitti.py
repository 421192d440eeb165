# SPDX-License-Identifier: Apache-2.0
"""KITTI's files, written by hand in its layout, against PIL and OpenCV."""

import logging
from pathlib import Path

import numpy as np
import pytest
from ml_collections import config_flags  # noqa: F401  (configs are read as train.py reads them)
from PIL import Image

from configs import common
from dpt_jax.data.sources import build_source
from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.sources.kitti import kitti

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "kitti_sample"
DAY = "2011_09_26"
SIZE = (376, 1241)
# Lines of a real calib_cam_to_cam.txt, among others that look alike.
CALIBRATION = """\
calib_time: 09-Jan-2012 13:57:47
S_rect_02: 1.241000e+03 3.760000e+02
R_rect_02: 9.9e-01 1.5e-02 -2.8e-03 -1.5e-02 9.9e-01 -9.3e-04 2.8e-03 9.7e-04 9.9e-01
P_rect_00: 7.1e+02 0.0e+00 6.1e+02 0.0e+00 0.0e+00 7.1e+02 1.9e+02 0.0e+00 0.0e+00 0.0e+00 1.0 0.0
P_rect_02: 7.215377e+02 0.000000e+00 6.095593e+02 4.485728e+01 0.000000e+00 7.225377e+02 \
1.728540e+02 2.163791e-01 0.000000e+00 0.000000e+00 1.000000e+00 2.745884e-03
P_rect_03: 7.070493e+02 0.000000e+00 6.040814e+02 -3.395242e+02 0.000000e+00 7.070493e+02 \
1.805066e+02 2.199936e+00 0.000000e+00 0.000000e+00 1.000000e+00 2.729905e-03
"""


def image_name(number, drive="0002", camera="02"):
    return f"{DAY}/{DAY}_drive_{drive}_sync/image_{camera}/data/{number:010d}.png"


def depth_name(number, drive="0002", camera="02"):
    return f"{DAY}_drive_{drive}_sync/proj_depth/groundtruth/image_{camera}/{number:010d}.png"


def line(*args, **kwargs):
    return f"{image_name(*args, **kwargs)} {depth_name(*args, **kwargs)} 721.5377"


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, compress_level=1)


def layout(root, lines, *, name="kitti_eigen_test_files_with_gt.txt", tree="val"):
    """Empty files for all lines; enough for a reader that has not been asked for an example."""
    for image, depth, _ in map(str.split, lines):
        write(root / "raw" / image)
        if depth != "None":
            write(root / "data_depth_annotated" / tree / depth)
    write(root / name, "\n".join(lines) + "\n")
    return root


def read(root, split="validation", list_file=None):
    return kitti(root=str(root), split=split, list_file=list_file)


def refused(root, *words, split="validation", list_file=None):
    with pytest.raises(DatasetError) as error:
        read(root, split, list_file)
    for word in words:
        assert word in str(error.value), error.value
    return str(error.value)


def test_an_example_is_the_benchmark_crop_in_metres(tmp_path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    stored = rng.integers(0, 65536, SIZE).astype(np.uint16)
    stored[rng.random(SIZE) < 0.8] = 0
    layout(tmp_path, [line(7)], tree="train")
    write_png(tmp_path / "raw" / image_name(7), rgb)
    write_png(tmp_path / "data_depth_annotated/train" / depth_name(7), stored)
    write(tmp_path / "raw" / DAY / "calib_cam_to_cam.txt", CALIBRATION)

    source = read(tmp_path)
    assert len(source) == 1 and source.name(0) == image_name(7)
    assert source.classes == () and source.palette.shape == (0, 3)
    example = source[0]
    assert set(example) == {"image", "depth", "intrinsics"}
    np.testing.assert_array_equal(example["image"], rgb[24:, 12:1228])
    want = stored[24:376, 12:1228].astype(np.float64) / 256
    assert example["depth"].dtype == np.float32
    np.testing.assert_array_equal(example["depth"], want)
    focal = [[721.5377, 0, 609.5593 - 12], [0, 722.5377, 172.854 - 24], [0, 0, 1]]
    np.testing.assert_allclose(example["intrinsics"], focal, rtol=1e-6)


def test_each_camera_has_its_own_calibration_and_none_without_the_file(tmp_path):
    layout(tmp_path, [line(1), line(2, camera="03")])
    assert [read(tmp_path).encoded(i).intrinsics for i in range(2)] == [None, None]
    write(tmp_path / "raw" / DAY / "calib_cam_to_cam.txt", CALIBRATION)
    left, right = (read(tmp_path).encoded(i).intrinsics for i in range(2))
    assert left == (721.5377, 0, 609.5593, 0, 722.5377, 172.854, 0, 0, 1)
    assert right == (707.0493, 0, 604.0814, 0, 707.0493, 180.5066, 0, 0, 1)


@pytest.mark.parametrize("trees", [("train", "val"), (".", ".")], ids=["official", "merged"])
@pytest.mark.parametrize("outer", ["data_depth_annotated", "."])
@pytest.mark.parametrize("raw", ["raw", "."])
def test_ground_truth_is_found_in_both_trees(tmp_path, raw, outer, trees):
    lines = [line(3, "0001"), line(3, "0002"), line(4, "0001")]
    for text in lines:
        image, depth, _ = text.split()
        write(tmp_path / raw / image, f"image {image}")
        write(tmp_path / outer / trees["drive_0002" in depth] / depth, f"depth {depth}")
    write(tmp_path / "kitti_eigen_train_files_with_gt.txt", "\n".join(lines))
    source = read(tmp_path, "train")
    assert len(source) == 3
    for i, text in enumerate(lines):
        image, depth, _ = text.split()
        encoded = source.encoded(i)
        assert encoded.name == image
        assert encoded.image.decode() == f"image {image}"
        assert encoded.depth is not None and encoded.depth.decode() == f"depth {depth}"


def test_images_without_ground_truth_are_left_out_and_counted(tmp_path):
    lines = [line(0), f"{image_name(5)} None 721.5377", line(9)]
    layout(tmp_path, lines)
    source = read(tmp_path)
    assert [source.name(i) for i in range(len(source))] == [image_name(0), image_name(9)]
    assert "2 of 3 images in kitti_eigen_test_files_with_gt.txt have" in source.meaning.note
    layout(tmp_path, [lines[0], lines[2]])
    assert not read(tmp_path).meaning.note
    layout(tmp_path, lines[1:2])
    refused(tmp_path, "empty")


def test_the_note_of_each_split_is_logged_once(tmp_path, caplog):
    layout(tmp_path, [line(0), f"{image_name(5)} None 721.5377"])
    write(tmp_path / "train.txt", f"{line(0)}\n" + f"{image_name(5)} None 7\n" * 12)
    config = common.default().data.to_dict() | {"source": "kitti", "root": str(tmp_path)}
    config["lists"] = {"train": str(tmp_path / "train.txt"), "validation": None}
    with caplog.at_level(logging.WARNING, "absl"):
        for split in ("train", "validation", "train"):
            build_source(config, split)
    text = caplog.text
    assert text.count("kitti: 1 of 13 images in train.txt have ground truth") == 1
    assert text.count("kitti: 1 of 2 images in kitti_eigen_test_files_with_gt.txt") == 1


def test_lists_are_those_of_the_split_or_the_given_one(tmp_path, monkeypatch):
    layout(tmp_path, [line(1)], name="eigen_train_files_with_gt.txt")
    layout(tmp_path, [line(2), line(3)], name="eigen_test_files_with_gt.txt")
    layout(tmp_path, [line(4)], name="lists/mine.txt")
    assert read(tmp_path, "train").name(0) == image_name(1)
    assert len(read(tmp_path, "validation")) == 2
    layout(tmp_path, [line(5)], name="kitti_eigen_train_files_with_gt.txt")
    assert read(tmp_path, "train").name(0) == image_name(5)
    monkeypatch.chdir(tmp_path / "lists")
    for name in ("mine.txt", "lists/mine.txt", str(tmp_path / "lists/mine.txt")):
        assert read(tmp_path, "train", name).name(0) == image_name(4)
    refused(
        tmp_path, "other.txt", "--config.data.lists.train", split="train", list_file="other.txt"
    )


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"--config\.data\.root"):
        kitti(root=None, split="train", list_file=None)
    refused(tmp_path / "nowhere", "nowhere", "raw_data.php", "data_depth_annotated")
    refused(tmp_path, "'test'", "validation", split="test")
    for split, name in (("train", "train_files"), ("validation", "test_files")):
        words = f"kitti_eigen_{name}_with_gt.txt", "ZoeDepth", f"--config.data.lists.{split}=FILE"
        refused(tmp_path, *words, split=split)
    layout(tmp_path, [line(1), line(2), line(3)])
    (tmp_path / "data_depth_annotated/val" / depth_name(2)).unlink()
    refused(tmp_path, "1 of 3 ground truth files", depth_name(2), "/train", "/val")
    layout(tmp_path, [line(1), line(2), line(3)])
    (tmp_path / "raw" / image_name(3)).unlink()
    refused(tmp_path, "1 of 6 files", image_name(3))


def test_lists_of_another_form_are_refused(tmp_path):
    layout(tmp_path, [line(1)])
    name = tmp_path / "kitti_eigen_test_files_with_gt.txt"
    write(name, "")
    refused(tmp_path, name.name, "empty")
    write(name, image_name(1))
    refused(tmp_path, "line 1", "2 columns")
    # A list in circulation leaves out the folder of the day.
    write(name, line(1).partition("/")[2])
    refused(tmp_path, name.name, "<date>/<drive>_sync", f"{DAY}_drive_0002_sync/image_02")
    write(name, line(1, camera="00"))
    write(tmp_path / "data_depth_annotated/val" / depth_name(1, camera="00"))
    refused(tmp_path, "image_00")
    write(name, f"{DAY}/../image_02/data/1.png {depth_name(1)}")
    refused(tmp_path, "'..'")
    write(name, f"{image_name(1)} ../{depth_name(1)}")
    refused(tmp_path, "'..'")


@pytest.mark.parametrize(
    "text",
    [
        "",
        CALIBRATION.replace("P_rect_02", "P_rect_05"),
        CALIBRATION.replace("P_rect_02: 7.215377e+02 ", "P_rect_02: "),
        CALIBRATION.replace("P_rect_02: 7.2", "P_rect_02: seven"),
        CALIBRATION.replace("P_rect_02: 7.215377e+02", "P_rect_02: inf"),
        CALIBRATION + CALIBRATION,
    ],
    ids=["empty", "absent", "eleven", "word", "infinite", "twice"],
)
def test_a_damaged_calibration_is_refused(tmp_path, text):
    layout(tmp_path, [line(1)])
    write(tmp_path / "raw" / DAY / "calib_cam_to_cam.txt", text)
    refused(tmp_path, "calib_cam_to_cam.txt", "P_rect_02", "12 numbers")


def test_files_that_are_no_kitti_are_refused_when_read(tmp_path):
    layout(tmp_path, [line(1), line(2)])
    depth = tmp_path / "data_depth_annotated/val"
    write_png(tmp_path / "raw" / image_name(1), np.zeros((351, 1300, 3), np.uint8))
    write_png(depth / depth_name(1), np.zeros((351, 1300), np.uint16))
    with pytest.raises(DatasetError, match="smaller than the crop of 352 x 1216"):
        read(tmp_path)[0]
    write_png(tmp_path / "raw" / image_name(2), np.zeros((352, 1216, 3), np.uint8))
    write_png(depth / depth_name(2), np.zeros((352, 1216), np.uint8))
    with pytest.raises(DatasetError, match="16-bit"):
        read(tmp_path)[1]


def test_real_images():
    if not SAMPLE.is_dir():
        pytest.skip("no KITTI sample beside the repository")
    cv2 = pytest.importorskip("cv2")
    source = kitti(root=str(SAMPLE), split="validation", list_file=str(SAMPLE / "test_files.txt"))
    assert len(source) == 3  # the fourth line of the list is None
    for i in range(3):
        day, drive, camera, _, number = source.name(i).split("/")
        bgr = cv2.imread(str(SAMPLE / "raw" / source.name(i)), cv2.IMREAD_COLOR)
        path = f"data_depth_annotated/val/{drive}/proj_depth/groundtruth/{camera}/{number}"
        stored = cv2.imread(str(SAMPLE / path), cv2.IMREAD_UNCHANGED)
        assert day == "2011_09_28" and bgr.shape == (375, 1242, 3) and stored.dtype == np.uint16
        example = source[i]
        assert set(example) == {"image", "depth"}  # the sample has no calibration
        np.testing.assert_array_equal(example["image"], bgr[23:375, 13:1229, ::-1])
        np.testing.assert_array_equal(example["depth"], stored[23:375, 13:1229] / 256)
        measured = example["depth"][example["depth"] > 0]
        assert 0.1 < len(measured) / example["depth"].size < 0.5
        assert 1 < measured.min() and measured.max() < 120
