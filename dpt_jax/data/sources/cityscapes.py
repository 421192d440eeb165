# SPDX-License-Identifier: Apache-2.0
"""Cityscapes with fine annotations: 19 classes, in the folder layout of its official archives.

    cityscapes/
        leftImg8bit/{train,val}/<city>/<city>_%06d_%06d_leftImg8bit.png        1024 x 2048
        gtFine/{train,val}/<city>/<city>_%06d_%06d_gtFine_labelIds.png         0..33

The 19 ids that the benchmark scores become 0..18, all others 255 (ignored). Licence plates have
the id -1 in the benchmark's table, but are not drawn into `labelIds` files, which hold what lies
around them. The `labelTrainIds` files of cityscapesScripts are not read: renamed, they would pass
for `labelIds`. The annotations of `test` are not public (its files mark no more than the car itself
and the border of the image), and `gtCoarse` is not read. TensorFlow Datasets' `cityscapes` is the
same data, wants the same archives, and holds the same ids; this reader needs no conversion.

Licence: the data set's own, non-commercial, no redistribution; registration at
https://www.cityscapes-dataset.com.
"""

from etils import epath

from dpt_jax.data.sources import base
from dpt_jax.data.sources.files import FileSource, Meaning, Sample

URL = "https://www.cityscapes-dataset.com/downloads"
# Label id, name and colour by class id: `labels.py` of mcordts/cityscapesScripts.
_CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
_FOLDERS = {"train": "train", "validation": "val"}
_ADVICE = (
    f"Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip ({URL}) side by side and "
    "pass --config.data.root=DIR with DIR the folder that holds leftImg8bit and gtFine. "
    "Annotations are the files *_gtFine_labelIds.png; labelTrainIds are not read."
)


def cityscapes(*, root: str | None, split: str) -> FileSource:
    """Cityscapes from its folder.

    Args:
        root: the folder that holds `leftImg8bit` and `gtFine`.
        split: "train" (2,975 images of 18 cities) or "validation" (500 of 3 cities, the folder
            `val`).

    Raises:
        DatasetError: a missing root or folder, an empty split, an image without its annotation or
            the other way round; on access, what `files.decode` refuses, such as an id above 33.
    """
    base.check_split(split, "Cityscapes")
    if not root:
        raise base.DatasetError(f"Cityscapes needs its folder. {_ADVICE}")
    directory = base.existing_directory(root, "Cityscapes", _ADVICE)
    folder = _FOLDERS[split]
    places = directory / "leftImg8bit" / folder, directory / "gtFine" / folder
    images, labels = (
        _files(places[0], "_leftImg8bit.png"),
        _files(places[1], "_gtFine_labelIds.png"),
    )
    base.check_pairs(images, labels, places, "annotation", _ADVICE)
    meaning = Meaning(
        "cityscapes",
        classes=tuple(name for _, name, _ in _CLASSES),
        palette=tuple(color for _, _, color in _CLASSES),
        class_of=dict.fromkeys(range(34), base.IGNORE)
        | {stored: class_id for class_id, (stored, _, _) in enumerate(_CLASSES)},
    )
    samples = [
        Sample(f"{folder}/{scene}_leftImg8bit.png", path, label=labels[scene])
        for scene, path in images.items()
    ]
    return FileSource(meaning, samples, _ADVICE)


def _files(directory: epath.Path, suffix: str) -> dict[str, epath.Path]:
    """The files of all cities that end in `suffix`, by "city/scene", sorted."""
    base.existing_directory(directory, "Cityscapes", _ADVICE)
    cities = [path for path in base.entries(directory) if path.is_dir()]
    return {
        f"{city.name}/{path.name.removesuffix(suffix)}": path
        for city in cities
        for path in base.listed(city, (".png",))
        if path.name.endswith(suffix)
    }
