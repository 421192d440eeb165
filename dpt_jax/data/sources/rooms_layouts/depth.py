# SPDX-License-Identifier: Apache-2.0
"""The rooms' depth as NYUv2, KITTI and folders of depth maps store theirs.

Focal lengths and calibrations are those of the data sets, not of the rooms' camera.
"""

import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.sources.rooms_layouts.drawing import (
    Drawing,
    Room,
    save_jpeg,
    save_lines,
    save_png,
)

_REACH = 10.0  # metres, of the Kinect
_NYU_BORDER = np.ones((480, 640), bool)
_NYU_BORDER[7:474, 7:632] = False


def _measured(room: Room) -> np.ndarray:
    """Depth as a Kinect has it, float32 metres: 0 in a few patches and beyond its reach."""
    height, width = room.depth.shape
    measured = np.where(room.depth < _REACH, room.depth, np.float32(0))
    for top, left in room.rng.uniform(0.0, 0.9, (6, 2)):
        top, left = int(top * height), int(left * width)
        measured[top : top + height // 10, left : left + width // 10] = 0
    return measured


def _millimetres(metres: np.ndarray) -> np.ndarray:
    return (metres * 1000).astype(np.uint16)  # rounded down, as in BTS


def nyuv2(directory: Path, train: Drawing, validation: Drawing) -> None:
    """Writes NYUv2 as BTS has it: `sync`, `official_splits/test` and the two lists."""
    for name, folder, scenes, slash, rooms in (
        ("train", "sync", ("bedroom_0001", "living_room_0002a"), "/", train),
        ("test", "official_splits/test", ("bedroom", "living_room"), "", validation),
    ):
        lines = []
        for index, room in enumerate(rooms):
            rgb = f"{scenes[index % 2]}/rgb_{index:05d}.jpg"
            depth = f"{scenes[index % 2]}/sync_depth_{index:05d}.png"
            if name == "test":
                room.image[_NYU_BORDER] = 0
            save_jpeg(directory / folder / rgb, room.image)
            save_png(directory / folder / depth, _millimetres(_measured(room)))
            lines.append(f"{slash}{rgb} {slash}{depth} 518.8579")
        save_lines(directory / f"nyudepthv2_{name}_files_with_gt.txt", lines)


def nyuv2_mat(directory: Path, train: Drawing, validation: Drawing) -> None:
    """Writes nyu_depth_v2_labeled.mat (MATLAB 7.3, which is HDF5) and splits.mat.

    Images have their white border. `depths` has no holes and `rawDepths` has. Indices of the splits
    count from 1 and interleave, as the official ones do.

    Raises:
        DatasetError: h5py is not installed.
    """
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DatasetError("nyuv2_mat is an HDF5 file: run `pip install h5py`") from error
    from scipy.io import savemat

    total = len(train) + len(validation)
    testing = np.arange(len(validation)) * total // len(validation)
    training = np.setdiff1d(np.arange(total), testing)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        arrays = {}
        # MATLAB's axes are h w c n, and HDF5 lists them from the last to the first.
        for key, shape, dtype in (
            ("images", (3, 640, 480), "uint8"),
            ("depths", (640, 480), "float32"),
            ("rawDepths", (640, 480), "float32"),
            ("labels", (640, 480), "uint16"),
        ):
            arrays[key] = file.create_dataset(
                key, (total, *shape), dtype, chunks=(1, *shape), compression="gzip"
            )
        for indices, rooms in ((training, train), (testing, validation)):
            for index, room in zip(indices, rooms, strict=True):
                room.image[_NYU_BORDER] = 255
                arrays["images"][index] = room.image.T
                arrays["depths"][index] = room.depth.T
                arrays["rawDepths"][index] = _measured(room).T
                arrays["labels"][index] = room.label.T + 1
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    columns = {
        "trainNdxs": (training[:, None] + 1).astype(np.uint16),
        "testNdxs": (testing[:, None] + 1).astype(np.uint16),
    }
    splits = io.BytesIO()
    savemat(splits, columns, do_compression=True)
    # The first 116 bytes are free text, in which SciPy puts the time.
    text = b"MATLAB 5.0 MAT-file".ljust(116)
    (directory / "splits.mat").write_bytes(text + splits.getvalue()[116:])


# Of a date: size of its pictures, and fx = fy, cx, cy and the last column of P_rect_02.
_KITTI_CAMERAS = {
    "2011_09_26": (375, 1242, 721.5377, 609.5593, 172.854, (44.85728, 0.2163791, 0.002745884)),
    "2011_09_30": (370, 1226, 707.0912, 601.8873, 183.1104, (46.88783, 0.1178601, 0.006203223)),
}
# A train and a test drive of the Eigen split for each date, and where their ground truth lies.
_KITTI_DRIVES = {
    "train": (("2011_09_26_drive_0005_sync", "val"), ("2011_09_30_drive_0020_sync", "train")),
    "test": (("2011_09_26_drive_0002_sync", "val"), ("2011_09_30_drive_0018_sync", "train")),
}


def kitti(directory: Path, train: Drawing, validation: Drawing) -> None:
    """Writes KITTI's raw data, annotated depth and the two lists of the Eigen split as BTS has it.

    About 80 % of the pixels have no depth. The test list has one line more than there are examples,
    a picture without ground truth (`None`).
    """
    for name, rooms in (("train", train), ("test", validation)):
        lines = []
        for index, room in enumerate(rooms):
            drive, level = _KITTI_DRIVES[name][index % 2]
            date = drive[:10]
            focal = _KITTI_CAMERAS[date][2]
            # Drives have no ground truth for their first five frames.
            frame = f"{5 + index // 2:010d}.png"
            image = f"{date}/{drive}/image_02/data/{frame}"
            depth = f"{drive}/proj_depth/groundtruth/image_02/{frame}"
            save_png(directory / "raw" / image, room.image)
            save_png(directory / "data_depth_annotated" / level / depth, _scanned(room))
            lines.append(f"{image} {depth} {focal}")
            if name == "test" and index == 0:
                image = f"{date}/{drive}/image_02/data/0000000000.png"
                save_png(directory / "raw" / image, room.image)
                lines.append(f"{image} None {focal}")
        save_lines(directory / f"kitti_eigen_{name}_files_with_gt.txt", lines)
    for date in _KITTI_CAMERAS:
        save_lines(directory / "raw" / date / "calib_cam_to_cam.txt", _calibration(date))


def _scanned(room: Room) -> np.ndarray:
    """Depth as a laser scanner has it, uint16 metres x 256: sparse, and none in the top third."""
    hit = room.rng.random(room.depth.shape) < 0.3
    hit[: len(hit) // 3] = False
    return np.where(hit, np.rint(room.depth * 256), 0).astype(np.uint16)


def _calibration(date: str) -> list[str]:
    """The lines of a calib_cam_to_cam.txt: as recorded (S, K, D, R, T) and rectified (_rect)."""
    height, width, focal, x, y, shift = _KITTI_CAMERAS[date]
    unit = (1, 0, 0, 0, 1, 0, 0, 0, 1)

    def line(key: str, values: Sequence[float]) -> str:
        return f"{key}: " + " ".join(f"{value:.6e}" for value in values)

    lines = ["calib_time: 09-Jan-2012 13:57:47", "corner_dist: 9.950000e-02"]
    for camera, baseline in enumerate((0.0, -0.54, 0.06, -0.47)):  # metres, two grey, two colour
        tx, ty, tz = shift if camera == 2 else (baseline * focal, 0.0, 0.0)
        lines += [
            line(f"S_{camera:02d}", (1392, 512)),
            line(f"K_{camera:02d}", (960, 0, 690, 0, 957, 225, 0, 0, 1)),
            line(f"D_{camera:02d}", (-0.37, 0.2, 0.001, 0.001, -0.07)),
            line(f"R_{camera:02d}", unit),
            line(f"T_{camera:02d}", (baseline, 0, 0)),
            line(f"S_rect_{camera:02d}", (width, height)),
            line(f"R_rect_{camera:02d}", unit),
            line(f"P_rect_{camera:02d}", (focal, 0, x, tx, 0, focal, y, ty, 0, 0, 1, tz)),
        ]
    return lines


def folder_depth(directory: Path, train: Drawing, validation: Drawing) -> None:
    """Writes images, 16-bit depth in millimetres with holes, and a table with their splits."""
    rows = ["image,depth,split"]
    for number, room in enumerate(itertools.chain(train, validation), start=1):
        image, depth = f"images/room_{number:05d}.jpg", f"depth/room_{number:05d}.png"
        save_jpeg(directory / image, room.image)
        save_png(directory / depth, _millimetres(_measured(room)))
        rows.append(f"{image},{depth},{'train' if number <= len(train) else 'validation'}")
    save_lines(directory / "pairs.csv", rows)
    description = {"depth_unit": "millimetre", "depth_scale": 1.0, "manifest": "pairs.csv"}
    save_lines(directory / "dataset.json", [json.dumps(description, indent=2)])
