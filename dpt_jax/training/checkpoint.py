# SPDX-License-Identifier: Apache-2.0
"""Checkpoints; the only file that imports orbax.

    workdir/checkpoints/<step>/   the newest two, for resuming
    workdir/best/<step>/          the one with the best score

Each holds `variables` (parameters and BatchNorm statistics), which is all that evaluation reads,
`optimizer`, and `meta` (step and best score so far). There are two managers because one that keeps
the best deletes the newest when its score is poor. Saving is asynchronous; a checkpoint counts only
once its commit file is written, so a run killed in between resumes from the one before.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from dpt_jax.training.step import TrainState

Meta = dict[str, Any]


class Checkpoints:
    """The checkpoints of a run.

    Args:
        workdir: of the run; `checkpoints/` and `best/` are made below it.
    """

    def __init__(self, workdir: Path):
        self._latest = _manager(workdir / "checkpoints", keep=2)
        self._best = _manager(workdir / "best", keep=1)

    @property
    def latest_step(self) -> int | None:
        """Step of the newest committed checkpoint, None if there is none."""
        return self._latest.latest_step()

    def save(self, state: TrainState, step: int, meta: Meta) -> None:
        """Saves in the background; the state may be donated right after."""
        # Its meta names a best step, which has to be on disk before it.
        self._best.wait_until_finished()
        if step not in self._latest.all_steps():
            self._latest.save(step, args=_save_args(state, meta))

    def save_best(self, state: TrainState, step: int, meta: Meta) -> None:
        """Saves as the best; the one before is deleted when this one is committed."""
        self._best.save(step, args=_save_args(state, meta))

    def restore_latest(self, abstract_state: TrainState) -> tuple[TrainState, Meta] | None:
        """The newest checkpoint, straight into the shardings of `abstract_state`; None without one.

        Args:
            abstract_state: ShapeDtypeStructs with shardings.
        """
        step = self._latest.latest_step()
        for later in self._best.all_steps():
            # Steps that are going to be taken again; orbax saves none below them.
            if step is None or later > step:
                self._best.delete(later)
        if step is None:
            return None
        restored = self._latest.restore(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardRestore(abstract_state.variables),
                optimizer=ocp.args.StandardRestore(_optimizer(abstract_state)),
                meta=ocp.args.JsonRestore(),
            ),
        )
        state = TrainState(
            step=restored["optimizer"]["step"],
            params=restored["variables"]["params"],
            batch_stats=restored["variables"]["batch_stats"],
            opt_state=restored["optimizer"]["opt_state"],
        )
        return state, restored["meta"]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        """Waits until everything is committed, also when the run ends with an error."""
        self._latest.close()
        self._best.close()


def load_variables(directory: Path, abstract_variables: Any) -> tuple[Any, int]:
    """The variables of the newest checkpoint in a `checkpoints/` or `best/` folder, and its step.

    Args:
        directory: `workdir/best` or `workdir/checkpoints`.
        abstract_variables: ShapeDtypeStructs {"params", "batch_stats"}.

    Raises:
        FileNotFoundError: there is no committed checkpoint.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"no checkpoints: {directory} does not exist")
    with _manager(directory, keep=None) as manager:
        step = manager.latest_step()
        if step is None:
            raise FileNotFoundError(f"{directory} holds no finished checkpoint")
        restored = manager.restore(
            step,
            args=ocp.args.Composite(variables=ocp.args.StandardRestore(abstract_variables)),
        )
    return restored["variables"], step


def save_variables(workdir: Path, variables: Any) -> None:
    """Writes variables as the best checkpoint of a new workdir, at step 0.

    Args:
        workdir: a directory without checkpoints.
        variables: {"params", "batch_stats"} of arrays.
    """
    (workdir / "checkpoints").mkdir()
    with _manager(workdir / "best", keep=1) as manager:
        args = ocp.args.Composite(
            variables=ocp.args.StandardSave(jax.tree.map(jax.numpy.asarray, variables)),
            meta=ocp.args.JsonSave({"best_score": None, "best_step": 0}),
        )
        manager.save(0, args=args)


def has_steps(directory: Path) -> bool:
    """Whether a `checkpoints/` or `best/` folder holds a finished checkpoint."""
    if not directory.is_dir():
        return False
    with _manager(directory, keep=None) as manager:
        return manager.latest_step() is not None


def _manager(directory: Path, keep: int | None) -> ocp.CheckpointManager:
    """A manager that keeps the newest `keep`; None is for reading: it makes and deletes nothing."""
    logging.get_absl_logger().addFilter(_is_for_people)
    policy = checkpoint_managers.LatestN(keep) if keep else None
    return ocp.CheckpointManager(
        directory.absolute(),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            create=keep is not None,
            cleanup_tmp_directories=keep is not None,
            atomicity_options=ocp.options.AtomicityOptions(
                mode=ocp.options.AtomicityMode.COMMIT_FILE
            ),
        ),
    )


def _optimizer(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def _save_args(state: TrainState, meta: Meta) -> ocp.args.Composite:
    return ocp.args.Composite(
        variables=ocp.args.StandardSave(state.variables),
        optimizer=ocp.args.StandardSave(_optimizer(state)),
        meta=ocp.args.JsonSave(meta),
    )


def abstract_like(state: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs of a (possibly abstract) tree with these shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
    )


def _is_for_people(record: Any) -> bool:
    """Drops orbax's information, several lines for every save."""
    return record.levelno >= 30 or "orbax" not in record.pathname
