# SPDX-License-Identifier: Apache-2.0
"""`dpt-jax data`: prepare a data set, check it, or write a small one to try things with.

dpt-jax data check ade20k --source ADEChallengeData2016
dpt-jax data check my_folder
dpt-jax data prepare ade20k --source ADEChallengeData2016 --out prepared/ade20k
dpt-jax data rooms kitti --out rooms_kitti
"""

import argparse
from pathlib import Path
from typing import Any

from dpt_jax.data import check as checking
from dpt_jax.data.prepare import prepare
from dpt_jax.data.sources import SOURCES, DatasetError, Source, base, build_source
from dpt_jax.data.sources.prepared import PreparedSource, is_prepared
from dpt_jax.data.sources.rooms_layouts import LAYOUTS, write_layout

_ON_DISK = tuple(name for name in SOURCES if name != "rooms")


def add_commands(commands: Any) -> None:
    """Adds `data` and what is under it to the subparsers of `dpt-jax`."""
    data = commands.add_parser("data", help="check, prepare, or make data sets")
    actions = data.add_subparsers(required=True, metavar="ACTION")

    checked = actions.add_parser(
        "check",
        help="read everything and say what training would make of it",
        description="Decodes every example; tells which label values are mapped, ignored or out "
        "of range, how depth is distributed, which files are damaged, and what both splits share. "
        "Writes check.html (look at it), check.json and bad_train.txt (for "
        "config.data.quarantine). Exit status 1 if anything is wrong.",
    )
    checked.add_argument(
        "dataset",
        metavar="NAME|FOLDER",
        help=f"one of {', '.join(_ON_DISK)}; or a folder with a dataset.json, or a prepared one",
    )
    _add_source_options(checked)
    checked.add_argument("--out", type=Path, help="folder of the report; default: NAME_check")
    checked.add_argument("--limit", type=_positive, help="only so many examples of each split")
    checked.add_argument("--max_depth", type=float, help="metres; counts the pixels beyond")
    checked.add_argument("--workers", type=_positive, help="threads; default: one per core")
    checked.set_defaults(run=_check)

    prepared = actions.add_parser(
        "prepare",
        help="copy a data set into a few large files (ArrayRecord)",
        description="The copy holds the same bytes; give its folder as config.data.root. A "
        "preparation that was interrupted continues with the same command.",
    )
    prepared.add_argument("dataset", metavar="NAME", choices=_ON_DISK, help=", ".join(_ON_DISK))
    _add_source_options(prepared)
    prepared.add_argument("--out", required=True, help="folder to make")
    prepared.set_defaults(run=_prepare)

    rooms = actions.add_parser(
        "rooms",
        help="procedural rooms in the layout of a data set",
        description="A small stand-in to try a recipe or a reader with; its scores mean nothing.",
    )
    rooms.add_argument("layout", metavar="LAYOUT", choices=tuple(LAYOUTS), help=", ".join(LAYOUTS))
    rooms.add_argument("--out", required=True, type=Path, help="folder to make")
    rooms.add_argument("--train", type=_positive, default=8, help="examples (8)")
    rooms.add_argument("--validation", type=_positive, default=4, help="examples (4)")
    rooms.add_argument("--seed", type=int, default=0)
    rooms.set_defaults(run=_write_rooms)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", metavar="DIR", help="folder of the data set")
    parser.add_argument("--train_list", metavar="FILE", help="nyuv2, kitti: list of the split")
    parser.add_argument("--validation_list", metavar="FILE", help="nyuv2, kitti")
    parser.add_argument("--description", metavar="FILE", help="folder: dataset.json elsewhere")
    parser.add_argument("--depth", choices=("raw", "filled"), default="raw", help="nyuv2_mat")
    parser.add_argument("--background", action="store_true", help="pascal_context: 60 classes")
    parser.add_argument("--split", choices=base.SPLITS, help="only this one")


def _open(name: str, root: str | None, parsed: argparse.Namespace) -> dict[str, Source]:
    config = {
        "source": name,
        "root": root,
        "lists": {"train": parsed.train_list, "validation": parsed.validation_list},
        "description": parsed.description,
        "nyuv2_mat": {"depth": parsed.depth},
        "pascal_context": {"background": parsed.background},
    }
    return {split: build_source(config, split) for split in _splits(parsed)}


def _splits(parsed: argparse.Namespace) -> tuple[str, ...]:
    return (parsed.split,) if parsed.split else base.SPLITS


def _check(parsed: argparse.Namespace) -> int:
    name, root = parsed.dataset, parsed.source
    if name not in _ON_DISK:
        if root or not Path(name).expanduser().is_dir():
            raise DatasetError(
                f"{name!r} is neither a data set ({', '.join(_ON_DISK)}) nor a folder"
            )
        name, root = "folder", name
    if root and is_prepared(root):
        splits: dict[str, Source] = {s: PreparedSource(root, s) for s in _splits(parsed)}
    else:
        splits = _open(name, root, parsed)
    report = checking.check(
        splits,
        root=root,
        limit=parsed.limit,
        max_depth=parsed.max_depth,
        workers=parsed.workers,
    )
    print(report.text())
    folder = name if parsed.source else Path(parsed.dataset).expanduser().resolve().name
    out = parsed.out or Path(f"{folder}_check")
    print(f"look at {checking.write(report, out)}")
    return 0 if report.ok else 1


def _prepare(parsed: argparse.Namespace) -> int:
    splits = _open(parsed.dataset, parsed.source, parsed)
    out = prepare(parsed.dataset, splits, parsed.out)
    print(f"{out}: pass --config.data.root={out}")
    return 0


def _write_rooms(parsed: argparse.Namespace) -> int:
    print(
        write_layout(
            parsed.layout,
            parsed.out,
            train=parsed.train,
            validation=parsed.validation,
            seed=parsed.seed,
        )
    )
    return 0
