# SPDX-License-Identifier: Apache-2.0
"""KITTI depth on the Eigen split: raw images, the official semi-dense ground truth, BTS's lists.

    kitti/
        raw/<date>/<drive>_sync/image_02/data/%010d.png
        raw/<date>/calib_cam_to_cam.txt                          optional: gives intrinsics
        data_depth_annotated/{train,val}/<drive>_sync/proj_depth/groundtruth/image_02/%010d.png
        kitti_eigen_train_files_with_gt.txt                      "image depth focal" in each line
        kitti_eigen_test_files_with_gt.txt

The <date> folders may also lie in the root itself, instead of in `raw`, and so may `train` and
`val`, instead of in `data_depth_annotated`. The lists leave out whether a drive is in `train` or in
`val`: the 652 test images with ground truth are in both (491 and 161), so both are searched. The
drives of both may also be merged into one folder, as BTS's own scripts need them. The names
`eigen_{train,test}_files_with_gt.txt` are found too.

Depth is uint16 / 256 metres, 0 where nothing was measured. Every image is cut to the benchmark
crop, its lowest 352 rows and middle 1216 columns. Licence: CC BY-NC-SA 3.0. TensorFlow Datasets'
`kitti` is another set (object detection, no depth).
"""

import functools
import math
import re
from collections.abc import Sequence

from etils import epath

from dpt_jax.data.sources import base
from dpt_jax.data.sources.files import FileSource, Meaning, Sample

CROP = (352, 1216)
RAW_URL = "https://www.cvlibs.net/datasets/kitti/raw_data.php"
DEPTH_URL = "https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction"
LISTS_URL = "https://github.com/isl-org/ZoeDepth/tree/main/train_test_inputs"
_LISTS = {
    "train": ("kitti_eigen_train_files_with_gt.txt", "eigen_train_files_with_gt.txt"),
    "validation": ("kitti_eigen_test_files_with_gt.txt", "eigen_test_files_with_gt.txt"),
}
_ADVICE = (
    f"The root holds raw/<date>/<drive>_sync/image_02/data ({RAW_URL}) and "
    f"data_depth_annotated/{{train,val}} ({DEPTH_URL}). Pass --config.data.root=DIR, and take out "
    "of the list what you do not have."
)
_IMAGE = re.compile(r"(?P<date>\d{4}_\d{2}_\d{2})/[^/]+/image_(?P<camera>0[23])/data/[^/]+")


def kitti(*, root: str | None, split: str, list_file: str | None) -> FileSource:
    """KITTI's Eigen split.

    Lines whose ground truth is `None` are left out, as in every published evaluation, and counted
    in the note. The third column, the focal length, is not read: without the principal point it is
    no camera. Intrinsics come from `P_rect_0x` of the calibration of the day, and are absent
    without that file.

    Args:
        root: folder of the layout above.
        split: "train" (23,158 images in BTS's list) or "validation" (Eigen's test images: 697 in
            the list, 652 of them with ground truth). Other lists may be of any length.
        list_file: another list for this split, as a path from here or from `root`; None is BTS's in
            `root`.

    Raises:
        DatasetError: a missing root, list, image or ground truth; a line or a calibration file of
            another form; on access, what `files.decode` refuses.
    """
    base.check_split(split, "KITTI")
    if not root:
        raise base.DatasetError(f"KITTI needs its folder. {_ADVICE}")
    directory = base.existing_directory(root, "KITTI", _ADVICE)
    raw = directory / "raw" if (directory / "raw").is_dir() else directory
    path = base.given_list(list_file, directory, split) if list_file else _own(directory, split)
    rows = base.read_rows(path, 2, "the list of KITTI's images and ground truth", _lists(split))
    pairs = [(image, depth) for image, depth, *_ in rows if depth != "None"]
    depths = _ground_truth(directory, [depth for _, depth in pairs])
    calibration = functools.cache(_calibration)  # one file per day
    samples = []
    for image, depth in pairs:
        found = _IMAGE.fullmatch(image)
        if not found:
            raise base.DatasetError(
                f"{path}: expected images named <date>/<drive>_sync/image_02/data/<number>.png, "
                f"found {image!r}"
            )
        calibrated = raw / found["date"] / "calib_cam_to_cam.txt"
        intrinsics = calibration(calibrated, found["camera"])
        samples.append(
            Sample(image, base.inside(raw, image), depth=depths[depth], intrinsics=intrinsics)
        )
    note = f"{len(pairs)} of {len(rows)} images in {path.name} have ground truth"
    meaning = Meaning(
        "kitti",
        metres_per_unit=1 / 256,
        crop=CROP,
        note=f"{note}; the others are left out" if len(pairs) < len(rows) else "",
    )
    return FileSource(meaning, samples, _ADVICE)


def _own(directory: epath.Path, split: str) -> epath.Path:
    """The first of BTS's lists that exists; if none does, the first that was looked for."""
    paths = [directory / name for name in _LISTS[split]]
    return next((path for path in paths if path.is_file()), paths[0])


def _lists(split: str) -> str:
    return (
        f"Put {' or '.join(_LISTS[split])} into the root, or pass --config.data.lists.{split}=FILE."
        f" {LISTS_URL} (MIT) has the lists of BTS (GPL), which are not part of this package."
    )


def _ground_truth(directory: epath.Path, wanted: Sequence[str]) -> dict[str, epath.Path]:
    """Where each of the ground truth files is, by its name in the list.

    Folders are listed once each, because a remote disk takes its time to answer whether a file
    exists, and there are 23,158 of them in two trees.
    """
    annotated = directory / "data_depth_annotated"
    parent = annotated if annotated.is_dir() else directory
    found: dict[str, epath.Path] = {}
    folders = dict.fromkeys(name.rpartition("/")[0] for name in wanted)
    for tree in (parent / "train", parent / "val", parent):
        for folder in folders:
            there = base.inside(tree, folder)
            if there.is_dir():
                found |= {f"{folder}/{path.name}": path for path in base.entries(there)}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise base.DatasetError(
            f"{len(missing)} of {len(wanted)} ground truth files are neither in {parent}/train nor "
            f"in {parent}/val, the first is {missing[0]}. {_ADVICE}"
        )
    return found


def _calibration(path: epath.Path, camera: str) -> tuple[float, ...] | None:
    """The left 3 x 3 of a rectified camera's projection, row by row; None without the file.

    The fourth column is where the camera sits beside the first one, which depth does not depend on.
    """
    if not path.is_file():
        return None
    name = f"P_rect_{camera}"
    lines = base.read_text(path, "KITTI's calibration", _ADVICE).splitlines()
    rows = [line.partition(":")[2].split() for line in lines if line.startswith(name + ":")]
    try:
        (values,) = [[float(value) for value in row] for row in rows]
        if len(values) != 12 or not all(map(math.isfinite, values)):
            raise ValueError(f"found {values}")
    except ValueError as error:
        raise base.DatasetError(
            f"{path}: expected one line {name} with 12 numbers ({error}). Download the calibration "
            f"of that day again ({RAW_URL}), or remove the file to go without intrinsics"
        ) from error
    return tuple(values[i] for i in (0, 1, 2, 4, 5, 6, 8, 9, 10))
