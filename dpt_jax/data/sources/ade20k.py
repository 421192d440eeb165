# SPDX-License-Identifier: Apache-2.0
"""ADE20K, the 150-class scene parsing benchmark, in the folder layout of its official archive.

    ADEChallengeData2016/
        images/{training,validation}/ADE_{train,val}_%08d.jpg
        annotations/{training,validation}/ADE_{train,val}_%08d.png     0 = other, 1..150
        objectInfo150.txt                                              names

0 becomes 255 (ignored), 1..150 become 0..149. TensorFlow Datasets' `scene_parse150` is another data
set (instance labels of 100 things; no wall, sky or floor) and cannot stand in for it.
"""

import numpy as np
from etils import epath

from dpt_jax.data.sources import base
from dpt_jax.data.sources.files import FileSource, Meaning, Sample

NUM_CLASSES = 150
URL = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
# The benchmark's colours, by class id: `color150.mat` of CSAILVision/sceneparsing (BSD-3-Clause).
PALETTE = np.frombuffer(
    bytes.fromhex(
        "787878b4787806e6e650323204c8037878508c8c8ccc05ffe6e6e604fa07e005ffebff0796053d78784608ff33"
        "ff06528fff8cccff04ff3307cc46030066c83de6faff06330b66ffff0747ff09e00907e6dcdcdcff095c7009ff"
        "08ffd607ffe0ffb8060aff47ff290a07ffffe0ff086608ffff3d06ffc207ff7a0800ff14ff0829ff05990633ff"
        "eb0cffa0961400a3ff8c8c8cfa0a0f14ff001fff00ff1f00ffe00099ff000000ffff470000ebff00adff1f00ff"
        "0bc8c8ff520000fff5003dff00ff7000ff85ff0000ffa300ff6600c2ff00008fff33ff000052ff00ff2900ffad"
        "0a00ffadff0000ff99ff5c00ff00ffff00f5ff0066ffad00ff0014ffb8b8001fff00ff3d0047ffff00cc00ffc2"
        "00ff52000aff0070ff3300ff00c2ff007aff00ffa3ff990000ff0aff70008fff005200ffa3ff00ffeb0008b8aa"
        "8500ff00ff5cb800ffff001f00b8ff00d6ffff00705cff0000e0ff70e0ff46b8a0a300ff9900ff47ff00ff00a3"
        "ffcc00ff008f00ffeb85ff00ff00ebf500ffff007afff5000abed4d6ff0000ccff1400ffffff000099ff0029ff"
        "00ffcc2900ff29ff00ad00ff00f5ff4700ff7a00ff00ffb8005cffb8ff000085ffffd60019c2c266ff005c00ff"
    ),
    np.uint8,
).reshape(NUM_CLASSES, 3)
_FOLDERS = {"train": "training", "validation": "validation"}


def ade20k(*, root: str | None, split: str) -> FileSource:
    """ADE20K from its folder.

    Args:
        root: `ADEChallengeData2016`, or the folder that holds it.
        split: "train" (20,210 images) or "validation" (2,000).

    Raises:
        DatasetError: a missing root or folder, an empty split, an image without its annotation or
            the other way round, two images that differ only in their suffix; on access, what
            `files.decode` refuses, such as a label above 150.
    """
    base.check_split(split, "ADE20K")
    advice = (
        f"Download {URL} (0.9 GB), unpack it, and pass --config.data.root=DIR with DIR the "
        "folder ADEChallengeData2016."
    )
    if not root:
        raise base.DatasetError(f"ADE20K needs its folder. {advice}")
    directory = base.existing_directory(root, "ADE20K", advice)
    if (directory / "ADEChallengeData2016").is_dir():
        directory /= "ADEChallengeData2016"
    if not (directory / "images").is_dir():
        _refuse_scene_parse150(directory)
    folder = _FOLDERS[split]
    images = base.existing_directory(directory / "images" / folder, "ADE20K images", advice)
    annotations = base.existing_directory(
        directory / "annotations" / folder, "ADE20K annotations", advice
    )
    labels = base.by_stem(base.listed(annotations, (".png",)), annotations)
    paths = base.by_stem(base.listed(images, (".jpg", ".png")), images)
    base.check_pairs(paths, labels, (images, annotations), "annotation", advice)
    meaning = Meaning(
        "ade20k",
        classes=_class_names(directory / "objectInfo150.txt"),
        palette=tuple((r, g, b) for r, g, b in PALETTE.tolist()),
        class_of={0: base.IGNORE} | {i: i - 1 for i in range(1, NUM_CLASSES + 1)},
    )
    samples = [Sample(f"{folder}/{p.name}", p, label=labels[stem]) for stem, p in paths.items()]
    return FileSource(meaning, samples, advice)


def _refuse_scene_parse150(directory: epath.Path) -> None:
    names = [directory.name, directory.parent.name]  # .../scene_parse150/1.0.0
    if "scene_parse150" in names or (directory / "scene_parse150").is_dir():
        raise base.DatasetError(
            f"{directory} is TensorFlow Datasets' scene_parse150, which holds instance labels of "
            "100 things (no wall, floor, sky or tree): the 150 classes cannot be learnt from it. "
            f"Download {URL} and pass --config.data.root=ADEChallengeData2016"
        )


def _class_names(path: epath.Path) -> tuple[str, ...]:
    """The first of each class's synonyms, in order; from the archive's own table.

    Columns are separated by tabs and synonyms by commas; the .csv of the same name separates both
    by semicolons and cannot be split.
    """
    text = base.read_text(path, "ADE20K's table of classes", f"It comes with the archive {URL}.")
    rows = [line.split("\t") for line in text.splitlines()[1:] if line.strip()]
    names = tuple(row[-1].split(",")[0].strip() for row in rows)
    if len(names) != NUM_CLASSES:
        raise base.DatasetError(f"{path} names {len(names)} classes instead of {NUM_CLASSES}")
    return names
