# SPDX-License-Identifier: Apache-2.0
"""Scores a trained model on a split, every image exactly once.

    python eval.py --workdir runs/quickstart
    python eval.py --config configs/nyuv2.py --config.data.root=nyu --checkpoint DIR

Prints the table and writes OUTPUT/validation.json and OUTPUT/validation.png (a contact sheet).
Without --config, the config is that of the run, and --config.* cannot be used.
"""

from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from dpt_jax import command_line, load_pretrained
from dpt_jax.data.sources import build_source
from dpt_jax.evaluation.evaluate import format_table, write_evaluation
from dpt_jax.training import ConfigError, config, sharding, validation

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe; default: the workdir's own.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Weights: a workdir or a Hugging Face folder.")
WHICH = flags.DEFINE_enum("which", "best", ["best", "latest"], "Of a workdir, which checkpoint.")
SPLIT = flags.DEFINE_enum("split", "validation", ["train", "validation"], "What to score.")
LIMIT = flags.DEFINE_integer("limit", None, "Only so many first images.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; default: WORKDIR/eval.")


def run() -> None:
    """Loads, scores, prints and writes."""
    if not WORKDIR.value and not CHECKPOINT.value:
        raise ConfigError("nothing to evaluate: pass --workdir or --checkpoint")
    weights = Path(CHECKPOINT.value or WORKDIR.value or "")
    settings = resolved_config(weights)
    model, variables = load_pretrained(weights, which=WHICH.value)
    task = settings["model"]["head"]["type"]
    if task != model.task:  # a Hugging Face folder brings its own head
        raise ConfigError(f"the config is for {task}, {weights} holds a {model.task} model")
    mesh = sharding.make_mesh(**settings["mesh"])
    sharding.check_batch_size(mesh, settings["eval"]["batch_size"], "config.eval.batch_size")
    source = build_source(settings["data"], SPLIT.value)
    validation.check_classes(model, source)
    baseline = None
    if settings["eval"]["baseline_images"]:
        train_source = build_source(settings["data"], "train")
        baseline = validation.make_baseline(settings, model, train_source)
    with jax.set_mesh(mesh):
        evaluate = validation.make_evaluate(settings, model, mesh, source, SPLIT.value)
        found = evaluate(variables, LIMIT.value, baseline)
    print(f"{weights}\n{format_table(found)}")
    output = Path(OUTPUT.value or Path(WORKDIR.value or ".") / "eval")
    paths = write_evaluation(
        found, output, SPLIT.value, palette=source.palette, classes=source.classes
    )
    print("numbers: {}   pictures: {}".format(*paths))


def resolved_config(weights: Path) -> dict:
    """The config to score with: data and eval of --config, the rest of the run that was trained.

    How pixels are normalised belongs to the weights: for a run it is always the run's own.
    """
    given = config.resolve(CONFIG.value) if CONFIG.value else None
    if not (weights / "checkpoints").is_dir():
        if given is None:
            raise ConfigError(f"{weights} is not a training workdir: pass --config as well")
        return given
    stored = config.load(weights / "config.json")
    if given is None:
        return stored
    tasks = [each["model"]["head"]["type"] for each in (given, stored)]
    if tasks[0] != tasks[1]:
        raise ConfigError(f"the config is for {tasks[0]}, {weights} was trained for {tasks[1]}")
    normalisation = {key: stored["data"][key] for key in ("mean", "std")}
    return stored | {
        "data": given["data"] | normalisation,
        "eval": given["eval"],
        "mesh": given["mesh"],
    }


if __name__ == "__main__":
    command_line.start(run)
