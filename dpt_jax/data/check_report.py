# SPDX-License-Identifier: Apache-2.0
"""What `dpt-jax data check` found: sums over the examples of each split, and what is wrong."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from dpt_jax.data import check_example
from dpt_jax.data.check_example import OUT_OF_RANGE, Depths, Observation
from dpt_jax.data.sources.base import IGNORE
from dpt_jax.data.sources.files import Meaning

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

# A median depth outside says that the unit is wrong; a sensible one is inside the second range.
_PLAUSIBLE, _SENSIBLE = (0.05, 500.0), (0.3, 100.0)
_UNITS = {1.0: "metres", 0.01: "cm", 0.001: "mm", 1 / 256: "KITTI", 1 / 5000: "TUM RGB-D"}


class Problem(NamedTuple):
    """A finding; errors make the check fail, warnings do not."""

    level: Literal["error", "warning"]
    text: str


@dataclasses.dataclass
class SplitReport:
    """Sums over the examples of a split; grows by `add`.

    Attributes:
        name: "train" or "validation".
        meaning: of the stored values.
        examples: in the split.
        max_depth: metres; depth beyond is counted apart. None counts nothing.
        checked: examples looked at.
        bad: those that cannot be used.
        sizes: examples of each (h, w), after the data set's crop.
        label_pixels: int64 (256,), pixels of each stored value, in every label map that is
            readable.
        label_images: int64 (256,), label maps that hold the value.
        ignored: (share of ignored pixels, index) of each readable label map.
        depth_counts: int64 (check_example.BINS,), valid pixels by depth.
        depth_pixels: of all depth maps of usable examples, holes included.
        depth_beyond: pixels beyond `max_depth`.
        nearest: smallest depth, metres.
        farthest: (largest depth, index) of each depth map.
        holes: (share of holes, index) of each depth map.
        constant: indices of depth maps with one single value.
        turned: indices of images with an EXIF orientation, which training does not apply.
        names: by index, of the examples looked at.
    """

    name: str
    meaning: Meaning
    examples: int
    max_depth: float | None = None
    checked: int = 0
    bad: list[Observation] = dataclasses.field(default_factory=list)
    sizes: collections.Counter[tuple[int, int]] = dataclasses.field(
        default_factory=collections.Counter
    )
    label_pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    label_images: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    ignored: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    depth_counts: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(check_example.BINS, np.int64)
    )
    depth_pixels: int = 0
    depth_beyond: int = 0
    nearest: float = np.inf
    farthest: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    holes: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    constant: list[int] = dataclasses.field(default_factory=list)
    turned: list[int] = dataclasses.field(default_factory=list)
    names: dict[int, str] = dataclasses.field(default_factory=dict)

    def add(self, seen: Observation) -> None:
        """Adds one example."""
        self.checked += 1
        self.names[seen.index] = seen.name
        if seen.orientation != 1:
            self.turned.append(seen.index)
        if seen.kind:
            self.bad.append(seen)
        else:
            assert seen.size is not None
            self.sizes[seen.size] += 1
        if seen.stored is not None:
            self.label_pixels += seen.stored
            self.label_images += seen.stored > 0
            ignored = seen.stored[self.meaning.label_table == IGNORE].sum()
            self.ignored.append((float(ignored / max(seen.stored.sum(), 1)), seen.index))
        if seen.depths is not None:
            self._add_depths(seen.depths, seen.index)

    def _add_depths(self, depths: Depths, index: int) -> None:
        self.depth_counts[depths.bins] += depths.counts
        self.depth_pixels += depths.pixels
        self.depth_beyond += depths.beyond
        self.holes.append((1 - depths.valid / max(depths.pixels, 1), index))
        if depths.valid:
            self.nearest = min(self.nearest, depths.nearest)
            self.farthest.append((depths.farthest, index))
        if depths.valid > 1 and depths.nearest == depths.farthest:
            self.constant.append(index)

    @property
    def label_values(self) -> list[int]:
        """Stored values that are in the label maps or have a meaning, in order."""
        return sorted({*np.flatnonzero(self.label_pixels).tolist(), *self.meaning.class_of})

    def becomes(self, stored: int) -> str:
        """What training makes of a stored value: "ignored", "class 3 road" or "OUT OF RANGE"."""
        class_id = self.meaning.class_of.get(stored)
        if class_id is None:
            return "OUT OF RANGE"
        return "ignored" if class_id == IGNORE else f"class {class_id} {self.name_of(class_id)}"

    def name_of(self, class_id: int) -> str:
        """The name of a class."""
        names = self.meaning.classes
        return names[class_id] if class_id < len(names) else "(no name)"

    @property
    def classes_absent(self) -> list[int]:
        """Class ids without a pixel; empty without label maps."""
        if not self.ignored:
            return []
        there = {self.meaning.class_of.get(v) for v in np.flatnonzero(self.label_pixels).tolist()}
        return [k for k in range(len(self.meaning.classes)) if k not in there]

    @property
    def ignored_share(self) -> float:
        """Of all label pixels, the share that counts neither in losses nor in metrics."""
        ignored = self.label_pixels[self.meaning.label_table == IGNORE].sum()
        return float(ignored / max(self.label_pixels.sum(), 1))

    @property
    def hole_share(self) -> float:
        """Of all depth pixels, the share that was not measured."""
        return float(1 - self.depth_counts.sum() / max(self.depth_pixels, 1))

    def depth_quantile(self, share: float) -> float:
        """The depth, in metres, that `share` of the measured pixels do not exceed; to 0.2 %."""
        sums = np.cumsum(self.depth_counts)
        depth = check_example.bin_centers()[np.searchsorted(sums, share * sums[-1])]
        return float(np.clip(depth, self.nearest, max(self.farthest)[0]))

    def names_where(self, shares: Iterable[tuple[float, int]], value: float) -> list[str]:
        """Names of the examples that have this share."""
        return [self.names[index] for share, index in shares if share == value]

    def problems(self) -> list[Problem]:
        """What is wrong within this split, errors first."""
        found = []
        strange = [
            f"{v} in {self.label_images[v]:,} of {len(self.ignored):,} label maps"
            for v in self.label_values
            if v not in self.meaning.class_of
        ]
        # Counted by kind and by value, but one fault.
        details = {OUT_OF_RANGE: f": {_first(strange, 6)}"} if strange else {}
        for kind, number in collections.Counter(seen.kind for seen in self.bad).most_common():
            first = next(seen for seen in self.bad if seen.kind == kind)
            text = f"{number} x {kind}{details.pop(kind, '')}; the first: {first.error}"
            found.append(Problem("error", text))
        # Such maps may all be of examples that are bad in another way.
        found += [Problem("error", kind + detail) for kind, detail in details.items()]
        absent = [self.name_of(k) for k in self.classes_absent]
        if absent:
            text = f"{len(absent)} of {len(self.meaning.classes)} classes never occur: "
            found.append(Problem("warning", text + _first(absent, 8)))
        for names, what in (
            (self.names_where(self.ignored, 1.0), "only ignored pixels"),
            (self.names_where(self.holes, 1.0), "no depth at all"),
            ([self.names[index] for index in self.constant], "one single depth"),
        ):
            if names:
                text = enumerated(names, f"examples have {what}", f"example has {what}")
                found.append(Problem("warning", text))
        if self.turned:
            number = f"{len(self.turned):,} image{' has' if len(self.turned) == 1 else 's have'}"
            text = (
                f"{number} an EXIF orientation (first: {self.names[self.turned[0]]}), which "
                "training does not apply; turn the files themselves (e.g. exiftran -ai) if their "
                "targets are upright"
            )
            found.append(Problem("warning", text))
        if self.depth_counts.any():
            found += self._unit_problem()
        return [Problem(level, f"{self.name}: {text}") for level, text in found]

    def _unit_problem(self) -> list[Problem]:
        median, unit = self.depth_quantile(0.5), self.meaning.metres_per_unit or 1.0
        if _PLAUSIBLE[0] <= median <= _PLAUSIBLE[1]:
            return []
        better = [
            f"{scale:.6g} ({name}) would make it {median / unit * scale:.3g} m"
            for scale, name in _UNITS.items()
            if _SENSIBLE[0] <= median / unit * scale <= _SENSIBLE[1]
        ]
        text = (
            f"the median depth is {median:.3g} m, so the unit is wrong: stored values are "
            f"multiplied by {unit:.6g} metres"
        )
        own = self.meaning.dataset.startswith("folder ")
        advice = (
            'correct depth_scale in dataset.json, with "depth_unit": "metre"'
            if own
            else "are the files those of another data set?"
        )
        return [Problem("error", "; ".join([text, *better, advice]))]

    def summary(self) -> list[str]:
        """The numbers in a few lines."""
        part = "" if self.checked == self.examples else f" of {self.examples:,}"
        lines = [f"examples   {self.checked:,}{part} checked, {len(self.bad):,} cannot be used"]
        if self.sizes:
            (h, w), number = self.sizes_listed[0]
            low, high = (f"{a} x {b}" for a, b in self.extreme_sizes)
            text = f"{low} to {high} pixels, most often {h} x {w} ({number:,})"
            lines.append(f"h x w      {text if len(self.sizes) > 1 else f'all {h} x {w} pixels'}")
        if self.ignored:
            there = len(self.meaning.classes) - len(self.classes_absent)
            lines.append(
                f"labels     {there} of {len(self.meaning.classes)} classes occur; "
                f"{self.ignored_share:.2%} of the pixels are ignored"
            )
        if self.holes:
            lines.append(f"depth      {self.hole_share:.2%} of the pixels are holes")
        if self.farthest:
            middle = ", ".join(f"{q} %: {self.depth_quantile(q / 100):.3g}" for q in (5, 50, 95))
            lines.append(
                f"           {self.nearest:.3g} to {max(self.farthest)[0]:.4g} m ({middle})"
            )
        if self.farthest and self.max_depth is not None:
            share = self.depth_beyond / self.depth_counts.sum()
            lines.append(
                f"           {share:.2%} of the measured pixels beyond {self.max_depth:g} m"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        fields: dict[str, Any] = {
            "dataset": self.meaning.dataset,
            "examples": self.examples,
            "checked": self.checked,
            "bad": [{"name": s.name, "kind": s.kind, "error": s.error} for s in self.bad],
            "sizes": [{"height": h, "width": w, "examples": n} for (h, w), n in self.sizes_listed],
            "exif_orientation": [self.names[index] for index in self.turned],
        }
        if self.ignored:
            fields["label"] = {
                "values": [
                    {
                        "stored": value,
                        "becomes": self.becomes(value),
                        "pixels": int(self.label_pixels[value]),
                        "images": int(self.label_images[value]),
                    }
                    for value in self.label_values
                ],
                "ignored_share": self.ignored_share,
                "classes_absent": [self.name_of(k) for k in self.classes_absent],
                "only_ignored": self.names_where(self.ignored, 1.0),
            }
        if self.holes:
            fields["depth"] = {
                "metres_per_unit": self.meaning.metres_per_unit,
                "pixels": self.depth_pixels,
                "hole_share": self.hole_share,
                "empty": self.names_where(self.holes, 1.0),
                "constant": [self.names[index] for index in self.constant],
            }
        if self.farthest:
            fields["depth"] |= {
                "min": self.nearest,
                "max": max(self.farthest)[0],
                "percentiles": {str(q): self.depth_quantile(q / 100) for q in PERCENTILES},
            }
            if self.max_depth is not None:
                fields["depth"] |= {"max_depth": self.max_depth, "beyond": self.depth_beyond}
        return fields

    @property
    def extreme_sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(h, w) of the fewest and of the most pixels."""
        ordered = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        return ordered[0], ordered[-1]

    @property
    def sizes_listed(self) -> list[tuple[tuple[int, int], int]]:
        """((h, w), examples), the most frequent first."""
        return sorted(self.sizes.items(), key=lambda item: (-item[1], item[0]))


def enumerated(names: Sequence[str], many: str, one: str) -> str:
    """What is said of these names, and the first of them: "5 images are empty: a, b, c, ..."."""
    return f"{len(names):,} {one if len(names) == 1 else many}: {_first(names, 3)}"


def _first(names: Sequence[str], limit: int) -> str:
    return ", ".join(names[:limit]) + ", ..." * (len(names) > limit)
