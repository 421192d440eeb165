# SPDX-License-Identifier: Apache-2.0
"""What a run says: a progress line, `metrics.jsonl`, TensorBoard events, `environment.json`."""

import contextlib
import datetime
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from dpt_jax.data.quarantine import Readable
from dpt_jax.data.sources import DatasetError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


class RunLog:
    """Writes the scalars and pictures of a run to its workdir.

    Args:
        workdir: of the run; gets `metrics.jsonl` (one JSON object a line: `step`, `kind` "train",
            "eval" or "final", and the numbers) and TensorBoard events.
        start_step: lines of later steps, left by a run that was killed after its last checkpoint,
            are removed, because the same steps will be taken again.
    """

    def __init__(self, workdir: Path, start_step: int):
        with _without_torch():
            from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        # The final evaluation belongs to no checkpoint: a complete run repeats it.
        keep_rows(path, lambda row: row["step"] <= start_step and row["kind"] != "final")
        self._file = path.open("a")
        self._events = SummaryWriter(str(workdir), purge_step=start_step + 1)

    def scalars(self, step: int, kind: str, values: Mapping[str, float | int]) -> None:
        """Appends one line and one TensorBoard point per value, under `kind/name`."""
        line = {"step": step, "kind": kind} | {k: _json(v) for k, v in values.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Adds an RGB picture, uint8 (h, w, 3), to the TensorBoard events."""
        self._events.add_image(name, image, step, dataformats="HWC")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: Any) -> None:
        """Flushes everything."""
        self._file.close()
        self._events.close()


class QuarantineLog:
    """Counts and names the training examples that could not be read.

    Args:
        workdir: of the run; gets `quarantine.jsonl`, where each such example has one line: `name`,
            `error`, and the first `step` that would have used it.
        start_step: as for `RunLog`; the lines up to it count towards the limit.
        source: that the examples come from; examples on its list count nothing.

    Attributes:
        count: of different examples so far.
    """

    def __init__(self, workdir: Path, start_step: int, source: Readable):
        self._path, self._source = workdir / "quarantine.jsonl", source
        rows = keep_rows(self._path, lambda row: row["step"] <= start_step)
        excluded = {source.name(index) for index in source.excluded}
        self._names = [row["name"] for row in rows if row["name"] not in excluded]

    @property
    def count(self) -> int:
        return len(self._names)

    def add(self, step: int, batch: Mapping[str, np.ndarray]) -> None:
        """Looks for examples of a batch that others stand in for; logs those that are new.

        Raises:
            DatasetError: there are more than the source's limit.
        """
        before = self.count
        for drawn, used in zip(batch["drawn"].tolist(), batch["index"].tolist(), strict=True):
            for index in self._source.skipped(drawn, used) if drawn != used else ():
                if (name := self._source.name(index)) not in self._names:
                    self._names.append(name)
                    row = {"name": name, "error": self._source.why(index), "step": step}
                    with self._path.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    logging.warning("step %d goes without %s: %s", step, name, row["error"])
        if before < self.count > self._source.limit:
            raise DatasetError(
                f"{self.count} different training examples cannot be read, more than "
                f"config.data.max_quarantined={self._source.limit}; the errors are in {self._path}."
                " Mend them, list them in a file for --config.data.quarantine, or allow more:\n  "
                + "\n  ".join(self._names)
            )


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Hides torch, which tensorboardX imports when it finds it, for seconds and to no use here."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        if hide:
            del sys.modules["torch"]


def keep_rows(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Reduces a file of JSON lines, which need not exist, to the wanted rows; returns those."""
    if not path.exists():
        return []
    # A killed run may have left half a line at the end.
    lines = path.read_text().split("\n")[:-1]
    whole = [line for line in lines if line.startswith("{") and line.endswith("}")]
    kept = [(line, row) for line in whole if wanted(row := json.loads(line))]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(f"{line}\n" for line, _ in kept))
    partial.replace(path)
    return [row for _, row in kept]


def _json(value: float | int) -> float | int | None:
    return value if np.isfinite(value) else None


class Progress:
    """Measures the speed between two log lines, evaluation and checkpoints left out.

    Args:
        total_steps: of the run.
        batch_size: images per step.
    """

    def __init__(self, total_steps: int, batch_size: int):
        self._total, self._batch = total_steps, batch_size
        self.restart()

    def restart(self) -> None:
        """Starts a new window; the time since the last one is not counted."""
        self._start, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def step(self, waited_for_data: float) -> None:
        """Counts a step and the seconds it waited for its batch."""
        self._steps += 1
        self._waited += waited_for_data

    def line(self, step: int, values: Mapping[str, float]) -> tuple[str, dict[str, float]]:
        """The progress line and its speeds {images_per_second, data_wait}; starts a new window."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rate = self._steps * self._batch / seconds
        wait = self._waited / seconds
        left = (self._total - step) * self._batch / max(rate, 1e-9)
        text = (
            f"step {step}/{self._total} ({100 * step / self._total:.0f}%)"
            f" loss {values['loss']:.4f} lr {values['learning_rate']:.2e}"
            f" gnorm {values['grad_norm']:.2f} | {rate:.1f} img/s | data wait {100 * wait:.0f}%"
            f" | eta {_duration(left) if self._steps else 'unknown'}"
        )
        self.restart()
        return text, {"images_per_second": rate, "data_wait": wait}


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}h{m:02d}m" if hours else f"{m}m{s:02d}s"


def write_environment(workdir: Path, start_step: int) -> None:
    """Appends when, where and with what the run was started to `environment.json`, a list."""
    path = workdir / "environment.json"
    starts = []
    if path.exists():
        try:
            starts = json.loads(path.read_text())
        except ValueError:
            logging.warning("%s was damaged and is written anew", path)
    starts.append(
        {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "start_step": start_step,
            "command": shlex.join(sys.argv),
            "git_commit": _git_commit(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
            "processes": jax.process_count(),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        }
    )
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(starts, indent=2) + "\n")
    partial.replace(path)


def _git_commit() -> str | None:
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
