# SPDX-License-Identifier: Apache-2.0
"""Pascal Context, 59 classes or 60 with the background, as mmsegmentation's converter writes it.

    VOCdevkit/VOC2010/
        JPEGImages/2008_000002.jpg ...
        SegmentationClassContext/2008_000002.png ...           0 = background, 1..59
        ImageSets/SegmentationContext/{train,val}.txt          a name in each line

59 classes: 0 becomes 255 (ignored), 1..59 become 0..58. 60 classes: values stay.

To make it: VOCtrainval_03-May-2010.tar, `trainval_merged.json` (590 MB) and
`tools/dataset_converters/pascal_context.py` of mmsegmentation, which keeps 59 of the 459 classes
and numbers them in the order of their old ids, that is by the alphabet: aeroplane, bag, bed. The
authors' own `59_labels.txt`, which FCN's labels follow, numbers the 20 VOC classes first
(aeroplane, bicycle, bird): same values, other meaning, and no file says which it is. Look at the
overlays of `dpt-jax data check`. Annotations with the 459 ids are refused, for they need 16 bits.

Licence: the images are from Flickr, under Flickr's terms of use, as Pascal VOC says; no licence of
the annotations is known to us.
"""

from etils import epath

from dpt_jax.data.sources import base
from dpt_jax.data.sources.files import FileSource, Meaning, Sample

VOC_URL = "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar"
JSON_URL = "https://codalabuser.blob.core.windows.net/public/trainval_merged.json"
CONVERTER_URL = (
    "https://github.com/open-mmlab/mmsegmentation/blob/main/tools/dataset_converters/"
    "pascal_context.py"
)
CLASSES = (
    *("background", "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat"),
    *("book", "bottle", "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth"),
    *("computer", "cow", "cup", "curtain", "dog", "door", "fence", "floor", "flower", "food"),
    *("grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse", "person"),
    *("plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign"),
    *("sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall"),
    *("water", "window", "wood"),
)
"""Names by stored value: those of the 459-class data set, in its order."""
_LISTS = {"train": "train.txt", "validation": "val.txt"}
_ADVICE = (
    f"Unpack {VOC_URL}, put {JSON_URL} into VOCdevkit/VOC2010, convert it with {CONVERTER_URL} "
    "and pass --config.data.root=DIR with DIR the folder VOC2010."
)
_NOTE = (
    "the class order is that of mmsegmentation's converter (aeroplane, bag, bed, ...). Annotations "
    "in the order of 59_labels.txt (aeroplane, bicycle, bird, ...) hold the same values and cannot "
    "be told apart: look at the overlays of `dpt-jax data check`"
)


def pascal_context(*, root: str | None, split: str, background: bool) -> FileSource:
    """Pascal Context from the converter's folder.

    Args:
        root: `VOC2010`, `VOCdevkit`, or the folder that holds `VOCdevkit`.
        split: "train" (4,998 images) or "validation" (5,105).
        background: whether the background is a class of its own, the first of 60, or ignored.

    Raises:
        DatasetError: a missing root or list, an image or annotation that does not exist; on access,
            what `files.decode` refuses, such as a value above 59.
    """
    base.check_split(split, "Pascal Context")
    if not root:
        raise base.DatasetError(f"Pascal Context needs its folder. {_ADVICE}")
    directory = _voc2010(base.existing_directory(root, "Pascal Context", _ADVICE))
    path = directory / "ImageSets" / "SegmentationContext" / _LISTS[split]
    rows = base.read_rows(path, 1, "the converter's list of images", _ADVICE)
    first = 0 if background else 1
    meaning = Meaning(
        f"pascal_context background={background}",
        classes=CLASSES[first:],
        palette=base.voc_colors(len(CLASSES))[first:],
        class_of={0: base.IGNORE} | {value: value - first for value in range(first, len(CLASSES))},
        note=_NOTE,
    )
    samples = [
        Sample(
            f"JPEGImages/{name}.jpg",
            base.inside(directory, f"JPEGImages/{name}.jpg"),
            label=base.inside(directory, f"SegmentationClassContext/{name}.png"),
        )
        for name, *_ in rows
    ]
    return FileSource(meaning, samples, _ADVICE)


def _voc2010(directory: epath.Path) -> epath.Path:
    inner = (directory / "VOCdevkit" / "VOC2010", directory / "VOC2010")
    return next((path for path in inner if path.is_dir()), directory)
