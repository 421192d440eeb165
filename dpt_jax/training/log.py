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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

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
        if path.exists():
            rows = [(json.loads(line), line) for line in _whole_lines(path)]
            # The final evaluation belongs to no checkpoint: a complete run repeats it.
            kept = [x for row, x in rows if row["step"] <= start_step and row["kind"] != "final"]
            partial = path.with_suffix(".partial")
            partial.write_text("".join(f"{line}\n" for line in kept))
            partial.replace(path)
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


def _whole_lines(path: Path) -> list[str]:
    # A killed run may have left half a line at the end.
    lines = path.read_text().split("\n")
    return [line for line in lines[:-1] if line.startswith("{") and line.endswith("}")]


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
