# SPDX-License-Identifier: Apache-2.0
"""The command `dpt-jax`: use a trained network without writing Python.

dpt-jax predict photos/ out/ --checkpoint path/to/weights
dpt-jax convert dpt_large-midas-2f21e586.pt out/
dpt-jax data check path/to/images
"""

import argparse
import collections
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import logging
from PIL import Image

from dpt_jax.data import cli as data_commands
from dpt_jax.data.sources import DatasetError
from dpt_jax.predict import convert
from dpt_jax.predict.predictor import Predictor
from dpt_jax.training.config import ConfigError
from dpt_jax.weights.checkpoints import CHECKPOINTS, UNITS

# What a person can mend; anything else is a bug here and keeps its traceback.
_MENDABLE = (ConfigError, DatasetError, OSError, ValueError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, or 1 where something failed."""
    parsed = _parser().parse_args(arguments)
    logging.set_verbosity(logging.WARNING)
    try:
        return parsed.run(parsed)
    except _MENDABLE as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dpt-jax", description="Dense Prediction Transformers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    predict = commands.add_parser(
        "predict",
        help="depth or classes of an image or a folder of images",
        description="Writes NAME.png (16-bit depth, or class ids with a palette), NAME.json (what "
        "its numbers mean) and NAME_preview.jpg for each image, at the image's own size.",
    )
    predict.add_argument("input", metavar="IN", type=Path, help="an image, or a folder of images")
    predict.add_argument("output", metavar="OUT", type=Path, help="folder, made if need be")
    predict.add_argument("--checkpoint", required=True, metavar="PATH", help=_WEIGHTS)
    _add_weights_options(predict)
    predict.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    predict.set_defaults(run=_predict)

    converted = commands.add_parser(
        "convert",
        help="weights for transformers, or for training",
        description="Writes weights of any kind as a folder that transformers loads, or as the "
        "workdir of a run, which eval.py and train.py's config.init_from read.",
    )
    converted.add_argument("source", metavar="SRC", help=_WEIGHTS)
    converted.add_argument("destination", metavar="DST", type=Path, help="folder, new or empty")
    converted.add_argument("--to", choices=("transformers", "workdir"), default="transformers")
    converted.add_argument(
        "--approximate",
        action="store_true",
        help="accept what transformers computes in a slightly other form (an error says what)",
    )
    _add_weights_options(converted)
    converted.set_defaults(run=_convert)

    data_commands.add_commands(commands)

    listed = commands.add_parser("checkpoints", help="the public checkpoints that can be read")
    listed.set_defaults(run=_list_checkpoints)
    return parser


_WEIGHTS = (
    "a Hugging Face folder, a .pt or .pth file of an original repository, a workdir of train.py, "
    "or hf://owner/name@revision"
)


def _add_weights_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--which", choices=("best", "latest"), default="best", help="of a workdir's checkpoints"
    )
    parser.add_argument(
        "--record", metavar="NAME", help="which of `dpt-jax checkpoints` a renamed .pt file is"
    )


def _predict(parsed: argparse.Namespace) -> int:
    images = _images(parsed.input, parsed.output)
    names = _names(images, parsed.input)
    _check_output(parsed.output, names)
    predictor = Predictor.from_pretrained(
        parsed.checkpoint, dtype=parsed.dtype, which=parsed.which, record=parsed.record
    )
    if predictor.pretrained.model.neck.prompt_depth:  # pyright: ignore
        raise ValueError(
            f"{parsed.checkpoint} needs a measured depth map beside each image; use "
            "Predictor(image, prompt_depth) in Python"
        )
    kind = predictor.pretrained.depth
    meaning = f"depth, {kind}; unit: {UNITS[kind]}" if kind else "classes"
    print(f"{parsed.checkpoint}: {meaning}")
    failed = 0
    for i, (image, name) in enumerate(zip(images, names, strict=True), start=1):
        start = time.perf_counter()
        try:
            prediction = predictor(image)
            target = parsed.output / name
            written, *_ = prediction.save(target.parent, target.name)
        except (OSError, ValueError) as error:
            failed += 1
            print(f"[{i}/{len(images)}] {image} failed: {error}", file=sys.stderr)
            continue
        print(f"[{i}/{len(images)}] {image} -> {written} ({time.perf_counter() - start:.1f} s)")
    if failed:
        print(f"error: {failed} of {len(images)} images failed", file=sys.stderr)
    return 1 if failed else 0


def _images(path: Path, output: Path) -> list[Path]:
    """The image itself, or those of a folder and the folders in it, by Pillow's suffixes.

    Not those in `output`: they are predictions of an earlier run.
    """
    path, output = path.expanduser(), output.expanduser().resolve()
    if path.resolve() == output:
        raise ValueError(f"OUT is IN, {path}; choose another folder for the predictions")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"there is no {path}")
    formats = Image.registered_extensions()  # of which Pillow only writes some
    suffixes = {suffix for suffix, name in formats.items() if name in Image.OPEN}
    found = sorted(
        p
        for p in path.rglob("*")
        if p.suffix.lower() in suffixes and p.is_file() and not p.resolve().is_relative_to(output)
    )
    if not found:
        raise FileNotFoundError(f"{path} holds no file with a suffix of an image")
    return found


def _names(images: Sequence[Path], source: Path) -> list[Path]:
    """Where each image's files go below OUT: without its suffix unless another would go there."""
    source = source.expanduser()
    below = [p.relative_to(source) if source.is_dir() else Path(p.name) for p in images]
    wanted = collections.Counter(below) + collections.Counter(p.with_suffix("") for p in below)
    return [p.with_suffix("") if wanted[p.with_suffix("")] == 1 else p for p in below]


def _check_output(output: Path, names: Sequence[Path]) -> None:
    """Refuses to overwrite what is no prediction: pictures without a sidecar."""
    output = output.expanduser()
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file; OUT is the folder to write into")
    for name in names:
        for path in (output / f"{name}.png", output / f"{name}_preview.jpg"):
            if path.exists() and not (output / f"{name}.json").exists():
                raise FileExistsError(f"{path} would be overwritten; choose another OUT")


def _convert(parsed: argparse.Namespace) -> int:
    to_workdir = parsed.to == "workdir"
    write = convert.to_workdir if to_workdir else convert.to_transformers
    options = {} if to_workdir else {"approximate": parsed.approximate}
    print(
        write(
            parsed.source,
            parsed.destination,
            which=parsed.which,
            record=parsed.record,
            **options,
        )
    )
    return 0


def _list_checkpoints(_: argparse.Namespace) -> int:
    for record in CHECKPOINTS.values():
        predicts = f"{record.depth} depth" if record.depth else "150 classes"
        print(f"{record.name}\t{predicts}\t{record.licence}\t{record.origin}")
    return 0


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
