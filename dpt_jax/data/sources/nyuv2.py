# SPDX-License-Identifier: Apache-2.0
"""NYUv2 depth in the folder layout of BTS (github.com/cleinc/bts), which most papers share.

    nyu/
        sync/SCENE/{rgb_%05d.jpg,sync_depth_%05d.png}                        training, 480 x 640
        official_splits/test/SCENE_TYPE/{rgb_%05d.jpg,sync_depth_%05d.png}   test, 480 x 640
        nyudepthv2_train_files_with_gt.txt                                   24,231 lines
        nyudepthv2_test_files_with_gt.txt                                    654 lines

A line of a list is "rgb depth focal"; paths are relative to `sync/` or `official_splits/test/` and
may start with "/"; focal is not read. Depth is stored as 16-bit millimetres, 0 where the sensor saw
nothing. The test images have a black frame, which BTS painted over rows 0..6 and 474..479 and
columns 0..6 and 632..639.

The benchmark's test split is "validation" here. Its list is not needed: it names every pair below
`official_splits/test/`. The training list is a selection and cannot be made from the folder.
"""

from etils import epath

from dpt_jax.data.sources import base
from dpt_jax.data.sources.files import FileSource, Meaning, Sample

TEST_IMAGES = 654
_LISTS = {
    "train": "nyudepthv2_train_files_with_gt.txt",
    "validation": "nyudepthv2_test_files_with_gt.txt",
}
_TEST = "official_splits/test"
_ADVICE = (
    "How to get sync/ and official_splits/test/: github.com/cleinc/bts, pytorch/README.md; the "
    "lists: train_test_inputs/ of github.com/isl-org/ZoeDepth (MIT). Put all of it into one folder "
    "DIR and pass --config.data.root=DIR"
)


def nyuv2(*, root: str | None, split: str, list_file: str | None = None) -> FileSource:
    """NYUv2 from the folder of BTS.

    The images of a list are looked for below `sync/` and below `official_splits/test/`; the first
    line decides for the whole list.

    Args:
        root: folder that holds `sync/` and `official_splits/`.
        split: "train" or "validation" (the 654 official test images).
        list_file: another list for this split, as a path from here or from `root`; None is the one
            of BTS in `root`.

    Raises:
        DatasetError: a missing root, list, folder or file; a test folder that is not complete and
            has no list; on access, what `files.decode` refuses.
    """
    base.check_split(split, "NYUv2")
    if not root:
        raise base.DatasetError(f"NYUv2 needs its folder. {_ADVICE}")
    directory = base.existing_directory(root, "NYUv2", _ADVICE)
    path = _list(directory, split, list_file)
    if path is None:
        pairs = _test_pairs(directory)
    else:
        rows = base.read_rows(path, 2, f"the NYUv2 list of {split}", _ADVICE)
        pairs = [(row[0].lstrip("/"), row[1].lstrip("/")) for row in rows]
        folder = _folder(directory, pairs[0][0], path)
        pairs = [(f"{folder}/{image}", f"{folder}/{depth}") for image, depth in pairs]
    samples = [
        Sample(image, base.inside(directory, image), depth=base.inside(directory, depth))
        for image, depth in pairs
    ]
    return FileSource(Meaning("nyuv2", metres_per_unit=0.001), samples, f"{_ADVICE}.")


def _list(directory: epath.Path, split: str, list_file: str | None) -> epath.Path | None:
    """The list of a split; None where the folder itself is the list."""
    if list_file:
        return base.given_list(list_file, directory, split)
    path = directory / _LISTS[split]
    if path.is_file():
        return path
    if split == "validation" and (directory / _TEST).is_dir():
        return None
    which = (
        "it selects 24,231 of the frames in sync/ and cannot be made from the folder"
        if split == "train"
        else f"nor is there a folder {directory / _TEST}, which could stand in for it"
    )
    raise base.DatasetError(
        f"{path}, the NYUv2 list of {split}, does not exist; {which}. {_ADVICE}, or name a list of "
        f"your own: --config.data.lists.{split}=FILE."
    )


def _folder(directory: epath.Path, image: str, path: epath.Path) -> str:
    for folder in ("sync", _TEST):
        if (base.inside(directory / folder, image)).is_file():
            return folder
    raise base.DatasetError(
        f"{image}, the first image in {path}, is neither in {directory / 'sync'} nor in "
        f"{directory / _TEST}. {_ADVICE}."
    )


def _test_pairs(directory: epath.Path) -> list[tuple[str, str]]:
    pairs = []
    for scene in base.entries(directory / _TEST):
        if scene.is_dir():
            stem = f"{_TEST}/{scene.name}"
            for image in base.listed(scene, (".jpg",)):
                depth = image.with_suffix(".png").name.replace("rgb_", "sync_depth_")
                pairs.append((f"{stem}/{image.name}", f"{stem}/{depth}"))
    if len(pairs) != TEST_IMAGES:
        raise base.DatasetError(
            f"{directory / _TEST} holds {len(pairs)} images; without a list there must be the "
            f"{TEST_IMAGES} of the benchmark. Extract it again, or name those you have in a list: "
            "--config.data.lists.validation=FILE, with 'SCENE_TYPE/rgb_00000.jpg "
            "SCENE_TYPE/sync_depth_00000.png' on each line."
        )
    return pairs
