# SPDX-License-Identifier: Apache-2.0
"""train(config, workdir): the whole of a run, in run order."""

import collections
import contextlib
import functools
import json
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from dpt_jax.data import pipeline
from dpt_jax.data.quarantine import readable
from dpt_jax.data.sources import DatasetError, Source, build_source
from dpt_jax.data.transforms import augment_settings, build_augmentations
from dpt_jax.evaluation import evaluate as evaluation
from dpt_jax.evaluation.contact_sheet import contact_sheet
from dpt_jax.models.dpt import DPT, abstract_variables, build_model
from dpt_jax.training import checkpoint, optimizer, sharding, validation
from dpt_jax.training import config as run_config
from dpt_jax.training.log import Progress, QuarantineLog, RunLog, keep_rows, write_environment
from dpt_jax.training.step import init_state, make_train_step, with_values
from dpt_jax.training.workdir import initial_values

# Metrics are read this many steps late, so that the device always has its next step queued.
STEPS_IN_FLIGHT = 2


class TrainingDiverged(Exception):
    """Too many steps in a row had a non-finite loss or gradient; parameters are as before them."""


def train(
    config: ml_collections.ConfigDict | Mapping[str, Any], workdir: str | Path
) -> evaluation.Evaluation | None:
    """Trains what `config` describes, resuming what `workdir` holds.

    The workdir gets `config.json`, `environment.json`, `metrics.jsonl`, TensorBoard events,
    `checkpoints/`, `best/`, `samples/` (a contact sheet per evaluation), `eval/final.{json,png}`
    and, once training examples could not be read, `quarantine.jsonl`. Calling again with the same
    arguments continues, or evaluates anew if the run is complete; on CPU the parameters come out
    bit for bit as without the interruption.

    Args:
        config: see `configs/common.py` for every key.
        workdir: folder of the run; made if missing.

    Returns:
        The final evaluation on all of the validation split, or None if SIGTERM ended the run early
        (after a checkpoint).

    Raises:
        ConfigError: the configuration cannot be run, or is not that of the workdir's run.
        DatasetError: data is missing or inconsistent, or more of it is unreadable than allowed.
        TrainingDiverged: see there.
        ValueError: a part of the configuration makes no sense to the part that reads it.
    """
    config = run_config.resolve(config)
    run_config.validate(config)
    if jax.process_count() > 1:
        raise run_config.ConfigError("training on several processes is not supported yet")
    task = config["model"]["head"]["type"]
    target = validation.target_name(config)

    # Everything that can be wrong is looked at before anything is written or compiled.
    train_source = build_source(config["data"], "train")
    validation_source = build_source(config["data"], "validation")
    examples = readable(config["data"], train_source)
    augmentations = build_augmentations(config["data"]["augment"])
    reading = {key: config["data"][key] for key in ("threads", "workers", "prefetch")}
    pipeline.read_ahead(**reading)
    model = build_model(config["model"])
    validation.check_classes(model, train_source)
    _check_augmentations(config, model)
    validation.check_multiple(config, model)
    _make_tx(config, config["train"]["steps"], abstract_variables(model)["params"])
    mesh = sharding.make_mesh(**config["mesh"])
    batch_size, total_steps = config["train"]["batch_size"], config["train"]["steps"]
    sharding.check_batch_size(mesh, batch_size, "config.train.batch_size")
    sharding.check_batch_size(mesh, config["eval"]["batch_size"], "config.eval.batch_size")

    if task == "segmentation":
        config["labels"] = tuple(train_source.classes)  # for those who use the model
    config["examples"] = {
        "train": run_config.fingerprint(train_source),
        "validation": run_config.fingerprint(validation_source),
    }

    workdir = Path(workdir)
    stored = workdir / "config.json"
    initial = None
    if checkpoint.has_steps(workdir / "checkpoints"):
        run_config.check_resumable(run_config.load(stored), config, workdir)
    elif config["init_from"]:
        initial = initial_values(config["init_from"], model)
    workdir.mkdir(parents=True, exist_ok=True)
    run_config.save(config, stored)

    with (
        jax.set_mesh(mesh),
        checkpoint_on_sigterm() as terminated,
        checkpoint.Checkpoints(workdir) as checkpoints,
        contextlib.ExitStack() as stack,
    ):
        make_tx = functools.partial(_make_tx, config, total_steps)
        init = init_state(model, lambda p: make_tx(p)[0], config["seed"], _small_input(model))
        abstract = jax.eval_shape(init)
        shardings = sharding.state_shardings(mesh, abstract)
        tx, schedule = make_tx(abstract.params)
        train_step = make_train_step(model, tx, schedule, config, shardings)

        # Where the state comes from: 1. the newest checkpoint of this run; 2. initialisation, over
        # which the values of config.init_from are laid.
        restored = checkpoints.restore_latest(checkpoint.abstract_like(abstract, shardings))
        if restored:
            state, meta = restored
        else:
            state = jax.jit(init, out_shardings=shardings)()
            if initial is not None:
                logging.info("%s", initial.report(config["init_from"]))
                state = with_values(state, initial.values)
                initial = None
            meta = {"best_score": None, "best_step": None}
        step = start_step = int(state.step)

        write_environment(workdir, start_step)
        log = stack.enter_context(RunLog(workdir, start_step))
        _announce(config, task, model, abstract.params, mesh, train_source, start_step, workdir)

        evaluate = validation.make_evaluate(config, model, mesh, validation_source, "validation")
        stream = stack.enter_context(
            pipeline.train_stream(
                examples,
                augmentations,
                target=target,
                seed=config["seed"],
                start_step=start_step,
                batch_size=batch_size,
                **reading,
            )
        )
        quarantine = QuarantineLog(workdir, start_step, examples)
        watch = _Watch(train_source, workdir, start_step, config["train"]["max_nonfinite"])
        progress = Progress(total_steps, batch_size)

        if step < total_steps:
            # Whether evaluating works, and its memory suffices, shows now and not hours later.
            evaluate(state.variables, step, config["eval"]["batch_size"])
            progress.restart()

        try:
            while step < total_steps and not terminated.is_set():
                asked = time.perf_counter()
                batch = next(stream)
                waited = time.perf_counter() - asked
                quarantine.add(step + 1, batch)
                arrays = {key: batch[key] for key in ("image", target)}
                state, metrics = train_step(state, sharding.shard_batch(mesh, arrays))
                step += 1
                watch.add(step, metrics, batch["index"])
                if step == start_step + 1:
                    jax.block_until_ready(state)
                    progress.restart()  # the first step compiles, which says nothing about speed
                else:
                    progress.step(waited)

                due = {k: step % config["train"][f"{k}_every"] == 0 for k in _INTERVALS}
                last = step == total_steps
                if due["log"] or last:
                    means = watch.flush()
                    text, speeds = progress.line(step, means)
                    logging.info("%s", text)
                    counts = {"quarantined": quarantine.count}
                    log.scalars(step, "train", means | speeds | counts)
                if due["evaluate"] or last:
                    found = evaluate(state.variables, step, config["eval"]["limit"])
                    _record(found, step, log, workdir, validation_source)
                    if _is_better(found, meta):
                        meta = {"best_score": found.main_score, "best_step": step}
                        checkpoints.save_best(state, step, meta)
                if due["checkpoint"] or last:
                    checkpoints.save(state, step, meta)
                if due["evaluate"] or due["checkpoint"]:
                    progress.restart()
        except DatasetError as error:
            checkpoints.save(state, step, meta)
            raise DatasetError(
                f"{error}\nStep {step} is saved; once the data is mended, the same command "
                "continues. `dpt-jax data check` finds everything of the kind; "
                "--config.data.on_error=quarantine trains without images that cannot be read"
            ) from error

        if step < total_steps:
            watch.flush()
            checkpoints.save(state, step, meta)
            logging.info("SIGTERM: saved step %d; the same command continues", step)
            return None
        stream.close()
        baseline = validation.make_baseline(config, model, train_source)
        found = evaluate(state.variables, step, None, baseline)
        log.scalars(step, "final", found.scores)

    paths = evaluation.write_evaluation(
        found,
        workdir / "eval",
        "final",
        palette=validation_source.palette,
        classes=validation_source.classes,
    )
    logging.info("final evaluation at step %d\n%s", step, evaluation.format_table(found))
    logging.info("numbers: %s   pictures: %s", *paths)
    return found


_INTERVALS = ("log", "evaluate", "checkpoint")


class _Watch:
    """Collects metrics of the steps in flight and stops a run that has diverged."""

    def __init__(self, source: Source, workdir: Path, start_step: int, limit: int):
        self._source, self._path, self._limit = source, workdir / "nonfinite.jsonl", limit
        keep_rows(self._path, lambda row: row["step"] <= start_step)
        self._pending: collections.deque[tuple[int, Any, np.ndarray]] = collections.deque()
        self._window: list[dict[str, float]] = []
        self._consecutive: list[int] = []

    def add(self, step: int, metrics: Any, indices: np.ndarray) -> None:
        self._pending.append((step, metrics, indices))
        while len(self._pending) > STEPS_IN_FLIGHT:
            self._read()

    def flush(self) -> dict[str, float]:
        """Reads all that is in flight; the means over the finite steps since the last flush."""
        while self._pending:
            self._read()
        window, self._window = self._window, []
        finite = [values for values in window if values["finite"]] or window
        means = {k: float(np.mean([v[k] for v in finite])) for k in (finite[0] if finite else {})}
        if finite:
            means["learning_rate"] = finite[-1]["learning_rate"]
            means["finite"] = float(np.mean([v["finite"] for v in window]))
        return means

    def _read(self) -> None:
        step, metrics, indices = self._pending.popleft()
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        self._window.append(values)
        if values["finite"]:
            self._consecutive = []
            return
        names = [self._source.name(int(i)) for i in indices]
        self._consecutive.append(step)
        with self._path.open("a") as file:
            row = {"step": step, "loss": str(values["loss"]), "grad_norm": str(values["grad_norm"])}
            file.write(json.dumps(row | {"examples": names}) + "\n")
        logging.error(
            "step %d: loss %s, gradient norm %s; the update was left out. Examples: %s",
            step,
            values["loss"],
            values["grad_norm"],
            ", ".join(names),
        )
        if len(self._consecutive) >= self._limit:
            raise TrainingDiverged(
                f"{len(self._consecutive)} steps in a row had a non-finite loss or gradient (steps "
                f"{self._consecutive[0]}..{step}). The parameters are those before them; the "
                f"examples are in {self._path}. Look at them, or lower "
                "config.optimizer.learning_rate (in a new workdir)"
            )


class checkpoint_on_sigterm:
    """Within the block SIGTERM sets the event it yields instead of killing the process."""

    def __enter__(self) -> threading.Event:
        event = threading.Event()
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._old = signal.signal(signal.SIGTERM, lambda *_: event.set())
        return event

    def __exit__(self, *_: Any) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._old)


def _check_augmentations(config: Mapping[str, Any], model: DPT) -> None:
    augment = augment_settings(config["data"]["augment"])
    patch: int = model.backbone.patch_size  # pyright: ignore
    if augment["crop"] and any(side % patch for side in augment["crop"]):
        raise run_config.ConfigError(
            f"config.data.augment.crop {augment['crop']}: both sides must be multiples of the "
            f"patch size {patch}, or pixels at the border would never be seen"
        )
    for key in ("long_side", "within"):
        if augment[key] and model.task == "depth":
            raise run_config.ConfigError(
                f"config.data.augment.{key} is for segmentation: it gives images of different "
                "sizes different focal lengths, and depth in metres depends on that"
            )


def _make_tx(config: Mapping[str, Any], steps: int, params: Any) -> Any:
    return optimizer.make_optimizer(config["optimizer"], params, steps)


def _small_input(model: DPT) -> tuple[int, int]:
    side = 2 * model.backbone.patch_size  # pyright: ignore
    return side, side


def _is_better(found: evaluation.Evaluation, meta: Mapping[str, Any]) -> bool:
    best, score = meta["best_score"], found.main_score
    if best is None or np.isnan(best):
        return True
    higher = evaluation.MAIN_METRIC[found.task][1]
    return score > best if higher else score < best


def _record(
    found: evaluation.Evaluation, step: int, log: RunLog, workdir: Path, source: Source
) -> None:
    name, _ = evaluation.MAIN_METRIC[found.task]
    title = f"step {step}: {name} {found.main_score:.4f}"
    logging.info("evaluation at %s over %s images", title, found.scores["images"])
    log.scalars(step, "eval", found.scores)
    sheet = contact_sheet(found.panels, palette=source.palette, classes=source.classes, title=title)
    (workdir / "samples").mkdir(exist_ok=True)
    sheet.save(workdir / "samples" / f"step_{step:07d}.png")
    log.picture(step, "samples", np.asarray(sheet))


def _announce(
    config: Mapping[str, Any],
    task: str,
    model: DPT,
    params: Any,
    mesh: jax.sharding.Mesh,
    source: Source,
    start_step: int,
    workdir: Path,
) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    logging.info(
        "%s, %s: %.2f M parameters, patch %s, readout %s, in %s",
        config["model"]["variant"],
        task,
        count / 1e6,
        model.backbone.patch_size,  # pyright: ignore[reportAttributeAccessIssue]
        model.neck.readout_type,  # pyright: ignore
        workdir,
    )
    logging.info(
        "%d devices (%s), mesh %s; %d training examples (%s)",
        mesh.size,
        jax.devices()[0].device_kind,
        dict(mesh.shape),
        len(source),
        config["data"]["source"],
    )
    logging.info("parameter groups:\n%s", optimizer.describe_groups(config["optimizer"], params))
    logging.info("starting at step %d of %d", start_step, config["train"]["steps"])
