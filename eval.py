# SPDX-License-Identifier: Apache-2.0
"""Scores a trained model on a split, every image exactly once.

    python eval.py --workdir runs/quickstart
    python eval.py --config configs/ade20k.py --config.data.root=DIR --checkpoint path/to/hf_model

Prints the table and writes SPLIT.json and SPLIT.png (a contact sheet) to --output. Without
--config, the config is that of the run.
"""

from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from ml_collections import config_flags

from dpt_jax import build_model, command_line
from dpt_jax.data.sources import build_source
from dpt_jax.evaluation.evaluate import format_table, write_evaluation
from dpt_jax.predict.pretrained import Pretrained, open_pretrained
from dpt_jax.training import ConfigError, config, sharding, validation, workdir

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe; default: the workdir's own.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Weights of any kind: see load_pretrained.")
RECORD = flags.DEFINE_string("record", None, "Which public checkpoint a renamed .pt file is.")
WHICH = flags.DEFINE_enum("which", "best", ["best", "latest"], "Of a workdir, which checkpoint.")
SPLIT = flags.DEFINE_enum("split", "validation", ["train", "validation"], "What to score.")
LIMIT = flags.DEFINE_integer("limit", None, "Only so many first images.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "Folder for results; default: WORKDIR/eval or ./eval.")


def run() -> None:
    """Loads, scores, prints and writes."""
    if not WORKDIR.value and not CHECKPOINT.value:
        raise ConfigError("nothing to evaluate: pass --workdir or --checkpoint")
    weights = Path(CHECKPOINT.value or WORKDIR.value or "")
    # A converted checkpoint is a workdir without a recipe.
    is_run = workdir.is_workdir(weights) and "data" in config.load(weights / "config.json")
    settings = run_settings(weights) if is_run else directory_settings(weights)
    dtype, step = settings["model"]["dtype"], None
    if is_run:
        model = build_model(settings["model"])
        variables, step = workdir.load_variables(weights, model, WHICH.value)
    else:
        found = open_pretrained(weights, dtype=dtype, which=WHICH.value, record=RECORD.value)
        model, variables = found.model, found.variables
        check_directory_task(weights, found, settings)
        settings["data"] |= normalisation(weights, found)
    mesh = sharding.make_mesh(**settings["mesh"])
    sharding.check_batch_size(mesh, settings["eval"]["batch_size"], "config.eval.batch_size")
    variables = jax.device_put(variables, jax.NamedSharding(mesh, jax.P()))
    source = build_source(settings["data"], SPLIT.value)
    validation.check_classes(model, source)
    baseline = None
    if settings["eval"]["baseline_images"]:
        train_source = build_source(settings["data"], "train")
        baseline = validation.make_baseline(settings, model, train_source)
    with jax.set_mesh(mesh):
        evaluate = validation.make_evaluate(settings, model, mesh, source, SPLIT.value)
        found = evaluate(variables, step, LIMIT.value, baseline)
    print(f"{weights}\n{format_table(found)}")
    output = Path(OUTPUT.value or Path(WORKDIR.value or ".") / "eval")
    paths = write_evaluation(
        found, output, SPLIT.value, palette=source.palette, classes=source.classes
    )
    print("numbers: {}   pictures: {}".format(*paths))


def run_settings(workdir: Path) -> dict[str, Any]:
    """The config to score a run with: its own, or data and eval of --config.

    How pixels are normalised belongs to the weights and is always the run's own.
    """
    stored = config.load(workdir / "config.json")
    if not CONFIG.value:
        return stored
    given = config.resolve(CONFIG.value)
    tasks = [each["model"]["head"]["type"] for each in (given, stored)]
    if tasks[0] != tasks[1]:
        raise ConfigError(f"the config is for {tasks[0]}, {workdir} was trained for {tasks[1]}")
    normalisation = {key: stored["data"][key] for key in ("mean", "std")}
    return stored | {
        "data": given["data"] | normalisation,
        "eval": given["eval"],
        "mesh": given["mesh"],
    }


def directory_settings(directory: Path) -> dict[str, Any]:
    """The config to score weights with that carry none of their own: --config."""
    if not CONFIG.value:
        raise ConfigError(f"{directory} is not the workdir of a training: pass --config as well")
    return config.resolve(CONFIG.value)


def normalisation(path: Path, found: Pretrained) -> dict[str, Any]:
    """Mean and std of the weights, for pixels of 0..1; they come before those of --config."""
    processor = found.processor
    if processor is None:
        logging.warning("%s has no preprocessor_config.json; mean and std of --config hold", path)
        return {}
    factor = 1 if processor.do_rescale else 1 / 255
    return {
        "mean": tuple(factor * x for x in processor.image_mean),
        "std": tuple(factor * x for x in processor.image_std),
    }


def check_directory_task(path: Path, found: Pretrained, settings: dict[str, Any]) -> None:
    """Refuses the other task, and depth that is not in metres."""
    task = settings["model"]["head"]["type"]
    if task != found.model.task:
        raise ConfigError(f"the config is for {task}, {path} holds a {found.model.task} model")
    if task == "depth" and found.depth != "metric":
        raise ConfigError(
            f"{path} predicts inverse relative depth; scores in metres would mean nothing without "
            "an alignment, which is not there yet"
        )


if __name__ == "__main__":
    command_line.start(run)
