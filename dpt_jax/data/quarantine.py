# SPDX-License-Identifier: Apache-2.0
"""What training does about examples that cannot be read: it stops, or takes the next one.

`config.data.on_error` is "strict", and the first unreadable example stops the run, or "quarantine",
and the next readable example of the source stands in for it, until more than
`config.data.max_quarantined` different ones were met. `config.data.quarantine` is a text file with
one example name per line, as `Source.name` gives it and `dpt-jax data check` writes it; those are
never read. Evaluation reads every example or stops.
"""

from collections.abc import Mapping, Set
from typing import Any

from etils import epath

from dpt_jax.data.sources import base

POLICIES = ("strict", "quarantine")


class Readable:
    """A source in which the next readable example stands in for one that is not.

    Next is index + 1, and 0 after the last. Which example stands in for which depends on nothing
    but the index and on which examples are readable, so the stream stays a function of (seed,
    step). Only a `DatasetError` makes an example unreadable; any other exception is a bug and
    propagates.

    Args:
        source: the examples.
        excluded: indices that are never read.
        limit: how many unreadable examples in a row are tried, and how many different ones a run
            may meet; 0 raises the error of the first.
    """

    def __init__(self, source: base.Source, *, excluded: Set[int] = frozenset(), limit: int = 0):
        self.source, self.excluded, self.limit = source, frozenset(excluded), limit
        self.classes, self.palette = source.classes, source.palette

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> base.Example:
        return self.read(index)[1]

    def name(self, index: int) -> str:
        """The name of example `index` itself, readable or not."""
        return self.source.name(index)

    def read(self, drawn: int) -> tuple[int, base.Example]:
        """The first readable example from `drawn` on, behind its index.

        Raises:
            DatasetError: that of the example if `limit` is 0; else a list of the errors, once more
                than `limit` examples in a row, or all there are, cannot be read.
        """
        errors = []
        for offset in range(len(self)):
            index = (drawn + offset) % len(self)
            if index in self.excluded:
                continue
            try:
                return index, self.source[index]
            except base.DatasetError as error:
                if not self.limit:
                    raise
                errors.append(f"\n  {self.name(index)}: {error}")
            if len(errors) > self.limit:
                break
        over = len(errors) > self.limit
        extent = f"more than config.data.max_quarantined={self.limit}" if over else "all there are"
        raise base.DatasetError(
            f"{len(errors)} examples in a row, {extent}, cannot be read. Is --config.data.root the "
            "right folder?" + "".join(errors)
        )

    def skipped(self, drawn: int, used: int) -> list[int]:
        """The unreadable examples that `read(drawn)` tried before it came to `used`."""
        between = range(drawn, drawn + (used - drawn) % len(self))
        return [i for i in (index % len(self) for index in between) if i not in self.excluded]

    def why(self, index: int) -> str:
        """The error of an unreadable example, found by reading it again."""
        try:
            self.source[index]
        except base.DatasetError as error:
            return str(error)
        return "could be read when it was tried again"


def readable(config: Mapping[str, Any], source: base.Source) -> Readable:
    """The training source as `on_error`, `max_quarantined` and `quarantine` of `config.data` say.

    Raises:
        DatasetError: an unknown policy, or a list that cannot be read, has an unknown name or
            leaves nothing.
    """
    if config["on_error"] not in POLICIES:
        raise base.DatasetError(
            f"config.data.on_error {config['on_error']!r} is not one of {', '.join(POLICIES)}"
        )
    if config["max_quarantined"] < 0:
        raise base.DatasetError(
            f"config.data.max_quarantined={config['max_quarantined']} must be at least 0"
        )
    excluded = read_list(config["quarantine"], source) if config["quarantine"] else frozenset()
    limit = config["max_quarantined"] if config["on_error"] == "quarantine" else 0
    return Readable(source, excluded=excluded, limit=limit)


def read_list(path: epath.PathLike, source: base.Source) -> frozenset[int]:
    """Indices of the examples that a text file names, one per line; empty lines are left out.

    Raises:
        DatasetError: see `readable`.
    """
    text = base.read_text(
        epath.Path(path).expanduser(), "the list of --config.data.quarantine", "Correct the path."
    )
    wanted = {line for line in text.splitlines() if line}
    names = [source.name(index) for index in range(len(source))]
    if unknown := sorted(wanted - set(names)):
        raise base.DatasetError(
            f"{path}: the training data has no example {unknown[0]!r} ({len(unknown)} of "
            f"{len(wanted)} names are unknown); did you mean {base.nearest(unknown[0], names)!r}?"
        )
    if wanted >= set(names):
        raise base.DatasetError(
            f"{path} lists all {len(names)} training examples; shorten --config.data.quarantine"
        )
    return frozenset(index for index, name in enumerate(names) if name in wanted)
