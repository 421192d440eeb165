# SPDX-License-Identifier: Apache-2.0
"""The procedural rooms as files, each data set's way: to try a recipe before its download.

`write_layout` writes names, formats, units, lists and oddities as the real archives have them, so
that a reader cannot tell the difference. What the pictures show is always a furnished room, with
label ids and focal lengths of the data set; a score on them says nothing about the data set.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dpt_jax.data.sources.base import DatasetError, nearest
from dpt_jax.data.sources.rooms_layouts import depth, segmentation
from dpt_jax.data.sources.rooms_layouts.drawing import Drawing

__all__ = ["LAYOUTS", "Layout", "write_layout"]


class Layout(NamedTuple):
    """How the files of a data set lie.

    Attributes:
        write: `write(directory, train, validation)` writes all files.
        sizes: (height, width) that pictures take in turn.
        resizable: whether the data set has pictures of any other size.
        about: what is written, in a line.
    """

    write: Callable[[Path, Drawing, Drawing], None]
    sizes: tuple[tuple[int, int], ...]
    resizable: bool
    about: str


LAYOUTS: dict[str, Layout] = {
    "ade20k": Layout(
        segmentation.ade20k,
        ((512, 683), (256, 256), (683, 512)),
        True,
        "ADEChallengeData2016 with images, annotations and objectInfo150.txt",
    ),
    "nyuv2": Layout(
        depth.nyuv2,
        ((480, 640),),
        False,
        "NYUv2 as BTS has it: sync, official_splits/test and the two lists",
    ),
    "nyuv2_mat": Layout(
        depth.nyuv2_mat,
        ((480, 640),),
        False,
        "nyu_depth_v2_labeled.mat and splits.mat (needs h5py)",
    ),
    "kitti": Layout(
        depth.kitti,
        ((375, 1242), (370, 1226)),
        False,
        "raw, data_depth_annotated and the two lists of the Eigen split",
    ),
    "pascal_context": Layout(
        segmentation.pascal_context,
        ((375, 500), (500, 375)),
        True,
        "VOCdevkit/VOC2010 with masks of the 60 classes and their lists",
    ),
    "cityscapes": Layout(
        segmentation.cityscapes,
        ((256, 512),),
        True,
        "leftImg8bit and gtFine, 256 x 512 pixels (the data set's are 1024 x 2048)",
    ),
    "folder_depth": Layout(
        depth.folder_depth,
        ((480, 640),),
        True,
        "your own depth data: images, depth, pairs.csv and dataset.json",
    ),
    "folder_masks": Layout(
        segmentation.folder_masks,
        ((480, 640),),
        True,
        "your own masks: images, masks, dataset.json and validation.txt",
    ),
}
"""Every layout by name. `folder_depth` and `folder_masks` are read by the source `folder`, the
others by the source of their name."""


def write_layout(
    layout: str,
    directory: str | Path,
    *,
    train: int,
    validation: int,
    size: tuple[int, int] | None = None,
    seed: int = 0,
) -> Path:
    """Writes rooms as a data set's files; the same call writes the same bytes.

    Args:
        layout: A name in `LAYOUTS`.
        directory: Where to; made if need be, and empty.
        train: Number of training examples, at least 1: the first of `Rooms(split="train")`.
        validation: Number of validation or test examples, at least 1, of the other split.
        size: (height, width) of all pictures in pixels, each at least 16; None is the layout's own.
        seed: Non-negative seed of the rooms and of what is missing in their depth.

    Returns:
        `directory`. Pass it as `--config.data.root`.

    Raises:
        DatasetError: An unknown layout, a directory with something in it, a number out of range, a
            size for a data set of fixed size, or a package that is missing.
    """
    if layout not in LAYOUTS:
        raise DatasetError(
            f"no layout {layout!r}; did you mean {nearest(layout, LAYOUTS)!r}? There are "
            f"{', '.join(LAYOUTS)}"
        )
    kind = LAYOUTS[layout]
    if min(train, validation) < 1:
        raise DatasetError(
            f"expected at least one example in each split, not train={train} and "
            f"validation={validation}"
        )
    if seed < 0:
        raise DatasetError(f"expected a seed of 0 or more, not {seed}")
    if size is not None and not kind.resizable:
        shapes = " and ".join(f"{height} x {width}" for height, width in kind.sizes)
        raise DatasetError(f"pictures of {layout} are {shapes} (h x w); leave the size out")
    if size is not None and min(size) < 16:
        raise DatasetError(f"expected a size of at least 16 x 16 pixels, not {size[0]} x {size[1]}")
    directory = Path(directory).expanduser()
    if directory.exists() and not directory.is_dir():
        raise DatasetError(f"{directory} is a file; give a new or an empty folder")
    if directory.is_dir() and any(directory.iterdir()):
        raise DatasetError(f"{directory} is not empty; give a new or an empty folder")
    sizes = kind.sizes if size is None else (size,)
    kind.write(
        directory,
        Drawing("train", train, sizes, seed),
        Drawing("validation", validation, sizes, seed),
    )
    return directory
