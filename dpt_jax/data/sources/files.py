# SPDX-License-Identifier: Apache-2.0
"""Examples as encoded files, and what the stored values stand for.

Every data set on disk is a list of files and one `Meaning`. A folder layout (`FileSource`) and its
prepared copy (`prepared.PreparedSource`) hold the same bytes and the same meaning, and `decode` is
the only way from them to an example, so that both give the same arrays.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dpt_jax.data.sources import base
from dpt_jax.data.sources import decode as decoding

# Where the table of labels says so, the stored value has no meaning. Class ids stay below.
_UNKNOWN = 254


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What the stored values of a data set stand for; plain values, kept as JSON beside the data.

    Attributes:
        dataset: name of the data set, with the options that change its meaning.
        classes: names, by class id.
        palette: (red, green, blue) of each class.
        class_of: class id, or 255 for ignored, of each label value that may be stored; any other
            value is an error.
        metres_per_unit: what stored depth is multiplied by.
        crop: rows and columns cut from every image at the bottom, in the middle: KITTI's benchmark
            crop (352, 1216).
        note: what a person should know before comparing numbers; logged when the data is opened.
    """

    dataset: str
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    class_of: Mapping[int, int] = dataclasses.field(default_factory=dict)
    metres_per_unit: float | None = None
    crop: tuple[int, int] | None = None
    note: str = ""

    def __post_init__(self):
        if len(self.classes) > _UNKNOWN:
            raise base.DatasetError(
                f"{self.dataset} has {len(self.classes)} classes; at most {_UNKNOWN} are possible"
            )

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it: lists, and the label values as strings."""
        fields = dataclasses.asdict(self)
        return fields | {"class_of": {str(k): v for k, v in self.class_of.items()}}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Meaning":
        """The inverse of `to_json`."""
        values = dict(fields)
        values["classes"] = tuple(fields["classes"])
        values["palette"] = tuple(tuple(color) for color in fields["palette"])
        values["class_of"] = {int(k): v for k, v in fields["class_of"].items()}
        values["crop"] = tuple(fields["crop"]) if fields["crop"] else None
        return cls(**values)

    @functools.cached_property
    def label_table(self) -> np.ndarray:
        """uint8 (256,): class id of each stored value; 254 where it has none."""
        table = np.full(256, _UNKNOWN, np.uint8)
        for stored, class_id in self.class_of.items():
            table[stored] = class_id
        return table

    @functools.cached_property
    def colors(self) -> np.ndarray:
        """uint8 (len(classes), 3)."""
        return np.array(self.palette, np.uint8).reshape(-1, 3)


class Encoded(NamedTuple):
    """One example as its files hold it.

    Attributes:
        name: see `base.Source.name`.
        image: a JPEG or PNG.
        label: a PNG of stored label values.
        depth: a 16-bit PNG, or a .npy array.
        intrinsics: row by row the camera's 3 x 3 matrix, in pixels of `image` before any crop.
        where: of "image", "label" and "depth", where the bytes are from, for errors.
    """

    name: str
    image: bytes
    label: bytes | None = None
    depth: bytes | None = None
    intrinsics: tuple[float, ...] | None = None
    where: Mapping[str, str] = {}


def decode(encoded: Encoded, meaning: Meaning) -> base.Example:
    """The arrays of an example, checked.

    Returns:
        As `base.Source` says.

    Raises:
        DatasetError: a file that is damaged or of a wrong kind, sizes that disagree, a label value
            without a meaning, an image smaller than `meaning.crop`.
    """
    where = encoded.where
    image = decoding.rgb(encoded.image, where["image"])
    example: base.Example = {"image": image}
    if encoded.label is not None:
        stored = decoding.ids(encoded.label, where["label"])
        _check_size(encoded, image, stored, "label")
        example["label"] = _classes(stored, meaning, where["label"])
    if encoded.depth is not None:
        if meaning.metres_per_unit is None:
            raise base.DatasetError(f"{where['depth']}: {meaning.dataset} has no unit of depth")
        depth = decoding.depth(encoded.depth, where["depth"], meaning.metres_per_unit)
        _check_size(encoded, image, depth, "depth")
        example["depth"] = depth
    if encoded.intrinsics is not None:
        example["intrinsics"] = np.array(encoded.intrinsics, np.float32).reshape(3, 3)
    if meaning.crop:
        return _cropped(example, meaning.crop, where["image"])
    return example


def _classes(stored: np.ndarray, meaning: Meaning, where: str) -> np.ndarray:
    label = np.take(meaning.label_table, stored)
    if (label == _UNKNOWN).any():
        strange = np.unique(stored[label == _UNKNOWN]).tolist()
        advice = (
            "Add them to label_map or ignore in dataset.json, unless the file is of another kind"
            if meaning.dataset.startswith("folder ")
            else "Is it another data set's, or the wrong kind of file? For classes of your own "
            "there is the source folder"
        )
        raise base.DatasetError(
            f"{where} holds the label values {strange}; those of {meaning.dataset} are "
            f"{spans(meaning.class_of)}. {advice}"
        )
    return label


def spans(values: Any) -> str:
    """Whole numbers in a few words: "0..150, 255"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in runs)


def _check_size(encoded: Encoded, image: np.ndarray, target: np.ndarray, key: str) -> None:
    (h, w), size = image.shape[:2], target.shape
    if size != (h, w):
        turned = size == (w, h) and decoding.orientation(encoded.image) > 4
        raise base.DatasetError(
            f"sizes disagree (h x w): {encoded.where['image']} is {h} x {w}, "
            f"{encoded.where[key]} is {size[0]} x {size[1]}; "
            + (
                "the image has an EXIF orientation, which is not applied: turn the file itself"
                if turned
                else "one of the two files is not what its name says"
            )
        )


def _cropped(example: base.Example, crop: tuple[int, int], where: str) -> base.Example:
    h, w = example["image"].shape[:2]
    if h < crop[0] or w < crop[1]:
        raise base.DatasetError(
            f"{where} is {h} x {w}, smaller than the crop of {crop[0]} x {crop[1]} pixels"
        )
    top, left = h - crop[0], (w - crop[1]) // 2
    cropped = {
        key: value[top:, left : left + crop[1]] if key != "intrinsics" else value.copy()
        for key, value in example.items()
    }
    if "intrinsics" in cropped:
        cropped["intrinsics"][:2, 2] -= (left, top)
    return cropped


class Sample(NamedTuple):
    """The files of one example; fields as in `Encoded`."""

    name: str
    image: epath.Path
    label: epath.Path | None = None
    depth: epath.Path | None = None
    intrinsics: tuple[float, ...] | None = None


class FileSource:
    """A `Source` over single files.

    Args:
        meaning: of what the files hold.
        samples: the files, in order.
        advice: what to do if some are missing.

    Raises:
        DatasetError: no samples, or files that do not exist (looked for on local disks only: each
            question to a remote one takes its time, and reading will tell).
    """

    def __init__(self, meaning: Meaning, samples: Sequence[Sample], advice: str):
        if not samples:
            raise base.DatasetError(f"{meaning.dataset}: the split is empty. {advice}")
        paths = [p for s in samples for p in (s.image, s.label, s.depth) if p is not None]
        missing = [p for p in paths if base.is_local(p) and not p.is_file()]
        if missing:
            raise base.DatasetError(
                f"{meaning.dataset}: {len(missing)} of {len(paths)} files do not exist or are no "
                f"files, the first is {missing[0]}. {advice}"
            )
        self.meaning = meaning
        self._samples = samples

    @property
    def classes(self) -> tuple[str, ...]:
        return self.meaning.classes

    @property
    def palette(self) -> np.ndarray:
        return self.meaning.colors

    def __len__(self) -> int:
        return len(self._samples)

    def encoded(self, index: int) -> Encoded:
        """The files of example `index`, as they are."""
        sample = self._samples[index]
        paths = {"image": sample.image, "label": sample.label, "depth": sample.depth}
        there = {key: path for key, path in paths.items() if path is not None}
        contents = {key: _read(path) for key, path in there.items()}
        where = {key: str(path) for key, path in there.items()}
        return Encoded(sample.name, intrinsics=sample.intrinsics, where=where, **contents)

    def __getitem__(self, index: int) -> base.Example:
        return decode(self.encoded(index), self.meaning)

    def name(self, index: int) -> str:
        return self._samples[index].name


def _read(path: epath.Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise base.DatasetError(f"file not found: {path}") from error
    except OSError as error:
        raise base.DatasetError(f"{path} cannot be read: {error}") from error
