# SPDX-License-Identifier: Apache-2.0
"""`dpt-jax data check`: reads everything once and says what training would make of it.

    report = check({"train": ..., "validation": ...})
    print(report.text())
    write(report, "ade20k_check")         # check.html to look at, check.json, bad_*.txt

What it cannot notice: a JPEG that is damaged within, such as a stretch of zeros, and still has its
end. Decoders make up the rest and do not say so; `jpeginfo -c` finds such files.

Threads, not processes: decoders and hashes release Python's lock, and every source can be shared.
"""

import collections
import concurrent.futures
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tqdm
from etils import epath

from dpt_jax.data import check_page
from dpt_jax.data.check_example import Observation, StoredSource, observe
from dpt_jax.data.check_report import Problem, SplitReport, enumerated
from dpt_jax.data.sources import base, prepared

Twins = list[tuple[str, str]]
"""(split, name) of examples that are the same in some respect."""


@dataclasses.dataclass
class Report:
    """Everything that `check` found.

    Attributes:
        splits: what was found in each.
        same_images: groups of examples whose image files are identical.
        same_names: groups of examples of one split that have one name.
        corrupt: what is wrong with a prepared copy's files.
        pictures: examples to look at.
    """

    splits: list[SplitReport]
    same_images: list[Twins] = dataclasses.field(default_factory=list)
    same_names: list[Twins] = dataclasses.field(default_factory=list)
    corrupt: list[str] = dataclasses.field(default_factory=list)
    pictures: list[check_page.Picture] = dataclasses.field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error: exit status 1 if there is one; warnings leave it 0."""
        return all(problem.level != "error" for problem in self.problems())

    def problems(self) -> list[Problem]:
        """What is wrong, errors first."""
        found = [Problem("error", text) for text in self.corrupt]
        leaked = [twins for twins in self.same_images if len({split for split, _ in twins}) > 1]
        if leaked:
            found.append(self._leak(leaked))
        for split in self.splits:
            found += split.problems()
        for split in self.splits:
            within = [[n for s, n in twins if s == split.name] for twins in self.same_images]
            repeated = [names for names in within if len(names) > 1]
            if repeated:
                text = _same(repeated, "more than once in the split")
                found.append(Problem("warning", f"{split.name}: {text}"))
        if self.same_names:
            names = [twins[0][1] for twins in self.same_names]
            what = "shared by examples of a split (config.data.quarantine takes out all of them)"
            text = enumerated(names, f"names are {what}", f"name is {what}")
            found.append(Problem("warning", text))
        return sorted(found, key=lambda problem: problem.level)

    def _leak(self, leaked: list[Twins]) -> Problem:
        """One set for both splits is made on purpose; a part in common is not."""
        number = collections.Counter(split for twins in leaked for split, _ in twins)
        whole = all(number[split.name] == split.checked for split in self.splits)
        if whole and len({split.examples for split in self.splits}) == 1:
            images = f"{len(leaked):,} images" if len(leaked) > 1 else "image"
            text = (
                f"both splits hold the same {images}: fine to see whether they are learnt by "
                "heart, meaningless as a score"
            )
            return Problem("warning", text)
        text = "in more than one split, so that scores cannot be trusted"
        return Problem("error", _same([_labelled(twins) for twins in leaked], text))

    def text(self) -> str:
        """A summary in a few lines, what is wrong first."""
        problems = self.problems()
        lines = [self.verdict, *(f"{level:8}{text}" for level, text in problems), ""]
        for split in self.splits:
            lines += [f"{split.name:12}{line}" for line in split.summary()]
        return "\n".join(lines)

    @property
    def verdict(self) -> str:
        """One line: the data set, and how many errors and warnings there are."""
        counts = collections.Counter(problem.level for problem in self.problems())
        names = ", ".join(dict.fromkeys(split.meaning.dataset for split in self.splits))
        number = [f"{counts[k]} {k}{'s' * (counts[k] != 1)}" for k in ("error", "warning")]
        return f"{names}: {'OK' if self.ok else 'NOT OK'}, {' and '.join(number)}"

    def to_json(self) -> dict[str, Any]:
        """As plain values, the same for the same data."""
        return {
            "ok": self.ok,
            "problems": [problem._asdict() for problem in self.problems()],
            "splits": {split.name: split.to_json() for split in self.splits},
            "same_images": [[list(twin) for twin in twins] for twins in self.same_images],
            "same_names": [[list(twin) for twin in twins] for twins in self.same_names],
        }


def check(
    splits: Mapping[str, base.Source],
    *,
    root: epath.PathLike | None = None,
    limit: int | None = None,
    max_depth: float | None = None,
    workers: int | None = None,
    pictures: int = 4,
    seed: int = 0,
) -> Report:
    """Decodes every example and adds up what is in it.

    Args:
        splits: the sources by split.
        root: of the data set; the checksums of a prepared copy are compared.
        limit: look at so many examples of each split only, evenly spaced; twins are looked
            for among them only.
        max_depth: metres; pixels beyond are counted.
        workers: threads; None is one per core.
        pictures: how many random examples of each split to show, and how many of the most
            suspicious in each respect.
        seed: of the random examples.

    Raises:
        DatasetError: a source that is not made of files.
    """
    found, images, names = [], collections.defaultdict(list), collections.defaultdict(list)
    shown = []
    for split, source in splits.items():
        stored = _stored(source)
        totals = SplitReport(split, stored.meaning, len(source), max_depth)
        for seen in _observations(split, stored, limit, max_depth, workers or os.cpu_count() or 1):
            totals.add(seen)
            names[split, seen.name].append((split, seen.name))
            if seen.digest:
                images[seen.digest].append((split, seen.name))
        found.append(totals)
        for index, reasons in _worth_seeing(totals, pictures, seed).items():
            shown.append(check_page.picture(totals, index, stored[index], reasons))
    return Report(
        found,
        same_images=[twins for twins in images.values() if len(twins) > 1],
        same_names=[twins for twins in names.values() if len(twins) > 1],
        corrupt=prepared.verify(root) if root and prepared.is_prepared(root) else [],
        pictures=shown,
    )


def write(report: Report, out: epath.PathLike) -> epath.Path:
    """Writes `check.html`, `check.json` and a `bad_SPLIT.txt` for each split to a folder.

    `bad_train.txt` has the name of an unusable example per line, as `config.data.quarantine` reads
    it.

    Returns:
        The path of the page.
    """
    directory = epath.Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False)
    (directory / "check.json").write_text(text + "\n", encoding="utf-8")
    for split in report.splits:
        names = "".join(f"{name}\n" for name in dict.fromkeys(seen.name for seen in split.bad))
        (directory / f"bad_{split.name}.txt").write_text(names, encoding="utf-8")
    page = check_page.page(report.verdict, report.problems(), report.splits, report.pictures)
    (directory / "check.html").write_text(page, encoding="utf-8")
    return directory / "check.html"


def _stored(source: Any) -> StoredSource:
    if not hasattr(source, "encoded"):
        raise base.DatasetError(
            f"{type(source).__name__} is not made of files, so that there is nothing to check; "
            "choose another --config.data.source"
        )
    return source


def _observations(
    split: str, source: StoredSource, limit: int | None, max_depth: float | None, workers: int
) -> Iterator[Observation]:
    """What is in each example, in order, with a bounded number of examples in memory."""
    total = len(source)
    count = total if limit is None else min(limit, total)
    pending: collections.deque[concurrent.futures.Future[Observation]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool, _Progress(split, count) as bar:
        for i in range(count):
            pending.append(pool.submit(observe, source, i * total // count, max_depth))
            if len(pending) > 4 * workers:
                yield bar.passed(pending.popleft().result())
        while pending:
            yield bar.passed(pending.popleft().result())


class _Progress:
    """A bar on a terminal; elsewhere about ten lines."""

    def __init__(self, split: str, total: int):
        self._split, self._total, self._done = split, total, 0
        self._bar = tqdm.tqdm(total=total, desc=f"check {split}", unit="image", disable=None)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def passed(self, seen: Observation) -> Observation:
        """Counts one example."""
        self._done += 1
        self._bar.update()
        tenth = -(-self._total // 10)
        if self._bar.disable and (self._done % tenth == 0 or self._done == self._total):
            print(f"check {self._split}: {self._done:,} of {self._total:,}", file=sys.stderr)
        return seen


def _worth_seeing(totals: SplitReport, count: int, seed: int) -> dict[int, list[str]]:
    """Indices of usable examples to show, each with the reasons."""
    bad = {seen.index for seen in totals.bad}
    good = np.array([index for index in totals.names if index not in bad], np.int64)
    random = np.random.default_rng(seed).permutation(good)[:count]
    chosen: dict[int, list[str]] = {int(index): ["random"] for index in sorted(random)}
    for ranking, reason in (
        (totals.ignored, "most ignored pixels: {:.1%}"),
        (totals.holes, "most holes: {:.1%}"),
        (totals.farthest, "deepest: {:.2f} m"),
    ):
        some = [(value, index) for value, index in ranking if value > 0 and index not in bad]
        for value, index in sorted(some, key=lambda entry: (-entry[0], entry[1]))[:count]:
            chosen.setdefault(index, []).append(reason.format(value))
    return chosen


def _labelled(twins: Twins) -> list[str]:
    return [f"{name} ({split})" for split, name in twins]


def _same(groups: list[list[str]], what: str) -> str:
    equations = [" = ".join(names[:3]) for names in groups]
    return enumerated(equations, f"images are {what}", f"image is {what}")
