# SPDX-License-Identifier: Apache-2.0
"""Small data sets in the layout of each reader, and ways to break them."""

import json
import os
import shutil

import numpy as np
import pytest
from bad_inputs_examples import colors, ids, millimetres, save

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"
TRUTH = f"{DRIVE.split('/')[1]}/proj_depth/groundtruth/image_02"
DESCRIPTION = {
    "classes": ["wall", "floor", "lamp"],
    "label_map": {"1": "wall", "2": "floor", "3": "lamp"},
    "ignore": [0],
    "depth_unit": "millimetre",
    "depth_scale": 1,
    "validation": {"list": "validation.txt"},
}
TABLE = "image,label,depth,split\n" + "".join(
    f"images/{name}.png,masks/{name}.png,depth/{name}.png,{split}\n"
    for name, split in (("a", "train"), ("b", "train"), ("c", "validation"))
)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def ade20k(root):
    for folder, short in (("training", "train"), ("validation", "val")):
        for i in (1, 2):
            put(root / f"images/{folder}/ADE_{short}_{i:08d}.jpg", save(colors(), "JPEG"))
            put(root / f"annotations/{folder}/ADE_{short}_{i:08d}.png", save(ids()))
    rows = [f"{i}\t0\t0\t0\t0\tthing {i}, synonym\n" for i in range(1, 151)]
    put(root / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "".join(rows))


def cityscapes(root):
    for scene in ("bonn_000000_000019", "bonn_000001_000019"):
        for folder in ("train", "val"):
            image = root / f"leftImg8bit/{folder}/bonn/{scene}_leftImg8bit.png"
            put(image, save(colors()))
            put(root / f"gtFine/{folder}/bonn/{scene}_gtFine_labelIds.png", save(ids()))


def pascal_context(root):
    for name in ("2008_000002", "2008_000003"):
        put(root / f"JPEGImages/{name}.jpg", save(colors(), "JPEG"))
        put(root / f"SegmentationClassContext/{name}.png", save(ids()))
    for split in ("train", "val"):
        put(root / f"ImageSets/SegmentationContext/{split}.txt", "2008_000002\n2008_000003\n")


def kitti(root):
    lines = []
    for i, tree in ((5, "train"), (6, "val")):
        put(root / f"raw/{DRIVE}/image_02/data/{i:010d}.png", save(np.zeros((352, 1216, 3), "u1")))
        depth = save(np.zeros((352, 1216), np.uint16))
        put(root / f"data_depth_annotated/{tree}/{TRUTH}/{i:010d}.png", depth)
        lines.append(f"{DRIVE}/image_02/data/{i:010d}.png {TRUTH}/{i:010d}.png 721.5\n")
    put(root / "kitti_eigen_train_files_with_gt.txt", "".join(lines))


def nyuv2(root):
    for i in (0, 1):
        put(root / f"sync/attic/rgb_{i:05d}.jpg", save(colors(), "JPEG"))
        put(root / f"sync/attic/sync_depth_{i:05d}.png", save(millimetres()))
    lines = [f"/attic/rgb_{i:05d}.jpg /attic/sync_depth_{i:05d}.png 518.8\n" for i in (0, 1)]
    put(root / "nyudepthv2_train_files_with_gt.txt", "".join(lines))


def folder(root):
    for name in ("a", "b", "c"):
        put(root / f"images/{name}.png", save(colors()))
        put(root / f"masks/{name}.png", save(ids()))
        put(root / f"depth/{name}.png", save(millimetres()))
    put(root / "validation.txt", "c\n")
    describe()(root)


def manifest(root):
    folder(root)
    rule = {key: value for key, value in DESCRIPTION.items() if key != "validation"}
    put(root / "dataset.json", json.dumps(rule | {"manifest": "pairs.csv"}))
    put(root / "pairs.csv", TABLE)


LAYOUTS = {
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "pascal_context": pascal_context,
    "kitti": kitti,
    "nyuv2": nyuv2,
    "folder": folder,
    "manifest": manifest,
}


def config(layout, root):
    """As `config.data` has it."""
    return {
        "source": "folder" if layout == "manifest" else layout,
        "root": str(root),
        "lists": {"train": None, "validation": None},
        "description": None,
        "nyuv2_mat": {"depth": "raw"},
        "pascal_context": {"background": False},
    }


# --- How a data set is broken: by functions of its root, which may return changes of config.data.


def write(path, content):
    return lambda root: put(root / path, content)


def remove(path):
    def breaks(root):
        if (root / path).is_dir():
            shutil.rmtree(root / path)
        else:
            (root / path).unlink()

    return breaks


def move(path, to):
    def breaks(root):
        (root / to).parent.mkdir(parents=True, exist_ok=True)
        (root / path).rename(root / to)

    return breaks


def name_not_utf_8(path, to):
    def breaks(root):
        try:
            os.rename(root / path, os.fsencode(root) + b"/" + to)
        except OSError:
            pytest.skip("this file system has no such names")

    return breaks


def empty(*paths):
    def breaks(root):
        for path in paths:
            shutil.rmtree(root / path)
            (root / path).mkdir()

    return breaks


def link(path, to):
    def breaks(root):
        (root / path).unlink(missing_ok=True)
        os.symlink(to, root / path)

    return breaks


def directory_instead(path):
    def breaks(root):
        (root / path).unlink()
        (root / path).mkdir()

    return breaks


def describe(*without, **changed):
    kept = {key: value for key, value in DESCRIPTION.items() if key not in without}
    return write("dataset.json", json.dumps(kept | changed))


def table(*old_and_new):
    text = TABLE
    for old, new in zip(old_and_new[::2], old_and_new[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return write("pairs.csv", text)


def lines(*rows):
    """A manifest as JSON lines."""

    def breaks(root):
        text = (root / "dataset.json").read_text()
        put(root / "dataset.json", text.replace("pairs.csv", "pairs.jsonl"))
        put(
            root / "pairs.jsonl",
            "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows),
        )

    return breaks


def both(*breaks):
    def all_of_them(root):
        for each in breaks:
            each(root)

    return all_of_them


def setting(**changed):
    return lambda root: changed


def inside(path):
    return lambda root: {"root": str(root / path)}


def pair(path):
    return {"image": path, "label": "masks/a.png", "depth": "depth/a.png", "split": "train"}


JSON_LINE = json.dumps(pair("images/a.png"))
ADE_1, MASK_1 = (
    "images/training/ADE_train_00000001.jpg",
    "annotations/training/ADE_train_00000001.png",
)
CITY_1 = "leftImg8bit/train/bonn/bonn_000000_000019_leftImg8bit.png"
IDS_1 = "gtFine/train/bonn/bonn_000000_000019_gtFine_labelIds.png"
VOC_LIST = "ImageSets/SegmentationContext/train.txt"
KITTI_LIST, NYU_LIST = "kitti_eigen_train_files_with_gt.txt", "nyudepthv2_train_files_with_gt.txt"
KITTI_1 = f"raw/{DRIVE}/image_02/data/0000000005.png"
KITTI_DEPTH_1 = f"data_depth_annotated/train/{TRUTH}/0000000005.png"
CALIBRATION = f"raw/{DRIVE.split('/')[0]}/calib_cam_to_cam.txt"
NYU_1 = "sync/attic/rgb_00000.jpg"
