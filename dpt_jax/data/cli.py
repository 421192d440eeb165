# SPDX-License-Identifier: Apache-2.0
"""`dpt-jax data`: prepare a data set, check it, or write a small one to try things with.

dpt-jax data check ade20k --source ADEChallengeData2016
dpt-jax data check my_folder
dpt-jax data prepare ade20k --source ADEChallengeData2016 --out prepared/ade20k
dpt-jax data rooms kitti --out rooms_kitti
"""

import argparse
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpt_jax.data import check as checking
from dpt_jax.data.prepare import prepare
from dpt_jax.data.sources import SOURCES, DatasetError, Source, base, build_source
from dpt_jax.data.sources.prepared import PreparedSource, is_prepared
from dpt_jax.data.sources.rooms_layouts import LAYOUTS, write_layout

_ON_DISK = tuple(name for name in SOURCES if name != "rooms")
# What errors call by its key of `config`, and what it is called here.
_FLAGS = {
    "source": "NAME",
    "root": "--source",
    "lists.train": "--train_list",
    "lists.validation": "--validation_list",
    "description": "--description",
    "nyuv2_mat.depth": "--depth",
    "pascal_context.background": "--background",
}
_KEY = re.compile(rf"(?:--)?config\.data\.({'|'.join(map(re.escape, _FLAGS))})\b")
# By what is in a folder, the data set whose layout it probably has.
_SIGNS = {
    "images/training": "ade20k",
    "leftImg8bit": "cityscapes",
    "VOCdevkit": "pascal_context",
    "VOC2010": "pascal_context",
    "official_splits": "nyuv2",
    "data_depth_annotated": "kitti",
}


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
        "config.data.quarantine). Exit status 1 if there is an error; warnings leave it 0.",
    )
    _add_source_options(checked, "a folder with a dataset.json, or a prepared one")
    checked.add_argument(
        "--out",
        type=Path,
        help="folder of the report; default: NAME_check, of a folder or a prepared copy "
        "FOLDER_check or NAME_prepared_check",
    )
    checked.add_argument("--limit", type=_positive, help="only so many examples of each split")
    checked.add_argument("--max_depth", type=float, help="metres; counts the pixels beyond")
    checked.add_argument("--workers", type=_positive, help="threads; default: one per core")
    checked.set_defaults(run=functools.partial(_run, _check))

    prepared = actions.add_parser(
        "prepare",
        help="copy a data set into a few large files (ArrayRecord)",
        description="The copy holds the same bytes; give its folder as config.data.root. A "
        "preparation that was interrupted continues with the same command.",
    )
    _add_source_options(prepared, "a folder with a dataset.json")
    prepared.add_argument("--out", required=True, help="folder to make")
    prepared.set_defaults(run=functools.partial(_run, _prepare))

    rooms = actions.add_parser(
        "rooms",
        help="procedural rooms in the layout of a data set",
        description="A small stand-in to try a recipe or a reader with; its scores mean nothing.",
        epilog="\n".join(f"{name:15} {layout.about}" for name, layout in LAYOUTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rooms.add_argument("layout", metavar="LAYOUT", choices=tuple(LAYOUTS), help="see below")
    rooms.add_argument("--out", required=True, type=Path, help="folder to make")
    rooms.add_argument("--train", type=_positive, default=8, help="examples (8)")
    rooms.add_argument("--validation", type=_positive, default=4, help="examples (4)")
    rooms.add_argument("--seed", type=int, default=0)
    rooms.set_defaults(run=functools.partial(_run, _write_rooms))


def _run(command: Callable[[argparse.Namespace], int], parsed: argparse.Namespace) -> int:
    """Runs a command; what errors say of keys of `config` is said again with its own flags."""
    try:
        return command(parsed)
    except DatasetError as error:
        raise DatasetError(_KEY.sub(lambda key: _FLAGS[key[1]], str(error))) from error


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _add_source_options(parser: argparse.ArgumentParser, folders: str) -> None:
    names = f"one of {', '.join(_ON_DISK)}; or {folders}"
    parser.add_argument("dataset", metavar="NAME|FOLDER", help=names)
    parser.add_argument("--source", metavar="DIR", help="folder of the data set")
    parser.add_argument("--train_list", metavar="FILE", help="nyuv2, kitti: list of the split")
    parser.add_argument("--validation_list", metavar="FILE", help="nyuv2, kitti")
    parser.add_argument("--description", metavar="FILE", help="folder: dataset.json elsewhere")
    parser.add_argument("--depth", choices=("raw", "filled"), default="raw", help="nyuv2_mat")
    parser.add_argument("--background", action="store_true", help="pascal_context: 60 classes")
    parser.add_argument("--split", choices=base.SPLITS, help="only this one")


def _data_set(parsed: argparse.Namespace) -> tuple[str, str | None]:
    """Name and root of the data set that is meant."""
    name = parsed.dataset
    if name in _ON_DISK:
        return name, parsed.source
    directory = Path(name).expanduser()
    if parsed.source or not directory.is_dir():
        raise DatasetError(f"{name!r} is neither a data set ({', '.join(_ON_DISK)}) nor a folder")
    described = parsed.description or (directory / "dataset.json").is_file()
    for sign, layout in _SIGNS.items():
        if not described and (directory / sign).is_dir():
            raise DatasetError(
                f"{name} has no dataset.json, but {sign}, as {layout} has; if it is that, give "
                f"`{layout} --source {name}`, else write a dataset.json"
            )
    return "folder", name


def _open(name: str, root: str | None, parsed: argparse.Namespace) -> dict[str, Source]:
    config = {
        "source": name,
        "root": root,
        "lists": {"train": parsed.train_list, "validation": parsed.validation_list},
        "description": parsed.description,
        "nyuv2_mat": {"depth": parsed.depth},
        "pascal_context": {"background": parsed.background},
    }
    opened: dict[str, Source] = {}
    failed: list[DatasetError] = []
    for split in (parsed.split,) if parsed.split else base.SPLITS:
        try:
            # A prepared copy that is given without a name may be of any data set.
            if root and parsed.dataset not in _ON_DISK and is_prepared(root):
                opened[split] = PreparedSource(root, split)
            else:
                opened[split] = build_source(config, split)
        except DatasetError as error:
            failed.append(error)
    if failed:
        fine = "".join(f" (the split {s} can be read: --split={s})" for s in opened)
        raise DatasetError(f"{failed[0]}{fine}") from failed[0]
    return opened


def _check(parsed: argparse.Namespace) -> int:
    name, root = _data_set(parsed)
    report = checking.check(
        _open(name, root, parsed),
        root=root,
        limit=parsed.limit,
        max_depth=parsed.max_depth,
        workers=parsed.workers,
    )
    print(report.text())
    print(f"look at {checking.write(report, parsed.out or _report_folder(name, root))}")
    return 0 if report.ok else 1


def _report_folder(name: str, root: str | None) -> Path:
    if name == "folder" and root:
        name = Path(root).expanduser().resolve().name
    return Path(f"{name}_prepared_check" if root and is_prepared(root) else f"{name}_check")


def _prepare(parsed: argparse.Namespace) -> int:
    name, root = _data_set(parsed)
    if parsed.dataset not in _ON_DISK and root and is_prepared(root):
        raise DatasetError(f"{root} is a prepared copy already, which can be trained on")
    out = prepare(name, _open(name, root, parsed), parsed.out)
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
