# SPDX-License-Identifier: Apache-2.0
"""The train state and every jit boundary of training."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from dpt_jax.evaluation.inference import normalize
from dpt_jax.models.dpt import DPT
from dpt_jax.training import losses, sharding
from dpt_jax.training.config import ConfigError

Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """All that changes in training; randomness and the data position follow from `step`.

    Attributes:
        step: int32, batches consumed so far.
        params: float32 parameters.
        batch_stats: running statistics of BatchNorm, {} without it.
        opt_state: of optax.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(
    model: DPT, tx: Callable[[Any], optax.GradientTransformation], seed: int, size: tuple[int, int]
) -> Callable[[], TrainState]:
    """A function that makes the initial state; jit it with `out_shardings` to make it in shards.

    Args:
        model: the model.
        tx: makes the optimizer from the (abstract) parameters.
        seed: of the parameters.
        size: rows and columns of a small input; parameters do not depend on it.
    """

    def init() -> TrainState:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        variables = model.init(key, jnp.zeros((1, *size, 3)), train=False)
        params = variables["params"]
        return TrainState(
            jnp.zeros((), jnp.int32),
            params,
            variables.get("batch_stats", {}),
            tx(params).init(params),
        )

    return init


def with_values(state: TrainState, values: Mapping[tuple[str, ...], Any]) -> TrainState:
    """The state with some parameters and statistics replaced; each keeps its sharding.

    Args:
        state: as initialised.
        values: path in `state.variables`, the collection first, to an array of the same shape.
    """
    flat: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(dict(state.variables))
    for path, value in values.items():
        flat[path] = jax.device_put(value, flat[path].sharding)
    variables = flax.traverse_util.unflatten_dict(flat)
    return TrainState(
        state.step,
        variables["params"],
        variables.get("batch_stats", state.batch_stats),
        state.opt_state,
    )


def make_train_step(
    model: DPT,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Mapping[str, Any],
    shardings: TrainState,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]:
    """One optimizer step, jitted; the state is donated.

    A step whose loss or gradient norm is not finite changes nothing but `state.step`: the decision
    is made on the device, before the update. Its metric `finite` is 0.

    Args:
        model: the model.
        tx: the optimizer.
        schedule: its learning rate, for the log.
        config: the whole config; reads `seed`, `loss` and `data.mean`, `data.std`.
        shardings: of the state.

    Returns:
        step(state, batch) -> (state, metrics); metrics are float32 scalars: loss and its parts,
        grad_norm, learning_rate, finite.
    """
    loss_config = dict(config["loss"])
    mean, std = config["data"]["mean"], config["data"]["std"]

    patch: int = model.backbone.patch_size  # pyright: ignore[reportAttributeAccessIssue]

    def loss_of(params: Any, state: TrainState, batch: Mapping[str, jax.Array]) -> Any:
        h, w = batch["image"].shape[1:3]
        if h % patch or w % patch:
            raise ConfigError(
                f"training images of {h} x {w} are no multiple of the patch size {patch}: what "
                "exceeds whole patches would never be seen, and the prediction of the rest be "
                "stretched over it. Set --config.data.augment.crop"
            )
        output, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            normalize(batch["image"], mean, std),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.fold_in(jax.random.key(config["seed"] + 1), state.step)},
        )
        if "label" in batch:
            loss, parts = losses.segmentation_loss(
                output, batch["label"], auxiliary_weight=loss_config["auxiliary_weight"]
            )
        else:
            names = ("name", "variance_focus", "weight", "min_depth", "max_depth")
            loss, parts = losses.depth_loss(
                output, batch["depth"], **{key: loss_config[key] for key in names}
            )
        return loss, (parts, updated.get("batch_stats", {}))

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (parts, batch_stats)), grads = grad(state.params, state, batch)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, batch_stats, opt_state),
            (state.params, state.batch_stats, state.opt_state),
        )
        metrics = {
            "loss": loss,
            **parts,
            "grad_norm": norm,
            "learning_rate": jnp.asarray(schedule(state.step)),
            "finite": finite.astype(jnp.float32),
        }
        return TrainState(state.step + 1, *kept), metrics

    mesh = jax.tree.leaves(shardings)[0].mesh
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, jax.NamedSharding(mesh, sharding.BATCH)),
        out_shardings=(shardings, jax.NamedSharding(mesh, jax.P())),
    )
