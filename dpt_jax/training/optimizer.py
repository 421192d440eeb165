# SPDX-License-Identifier: Apache-2.0
"""Schedules and the optimizer, with learning rates by regular expression over parameter names.

A parameter's name is its path, `backbone/encoder/layer_0/attention/attention/query/kernel`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax


def make_schedule(config: Mapping[str, Any], steps: int) -> optax.Schedule:
    """Learning rate of each step from `config.optimizer`.

    Linear warm-up over `warmup_steps` from 0 to `learning_rate`, then down to
    `end_factor * learning_rate` at step `steps`: "poly" as (1 - progress) ** `power`, "cosine" as
    half a cosine.

    Raises:
        ValueError: an unknown schedule, or a warm-up that is longer than the run.
    """
    peak, warmup = config["learning_rate"], config["warmup_steps"]
    if not 0 <= warmup < steps:
        raise ValueError(
            f"config.optimizer.warmup_steps={warmup} must be below train.steps={steps}"
        )
    if config["schedule"] == "poly":
        decay = optax.polynomial_schedule(
            peak, config["end_factor"] * peak, config["power"], steps - warmup
        )
    elif config["schedule"] == "cosine":
        decay = optax.cosine_decay_schedule(peak, steps - warmup, config["end_factor"])
    else:
        raise ValueError(f"config.optimizer.schedule {config['schedule']!r} is not poly or cosine")
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def match_rules(
    names: Sequence[str], rules: Sequence[tuple[str, float]], flag: str, default: float = 1.0
) -> dict[str, float]:
    """The value of the first rule whose regular expression is found in each name, else `default`.

    Raises:
        ValueError: a rule that decides for no name, which is almost surely a typing error.
    """
    values = {}
    used = set()
    for name in names:
        for i, (pattern, value) in enumerate(rules):
            if re.search(pattern, name):
                values[name] = value
                used.add(i)
                break
        else:
            values[name] = default
    for i, (pattern, _) in enumerate(rules):
        if i not in used:
            raise ValueError(
                f"{flag}: the rule {pattern!r} decides for no parameter; parameters are called, "
                f"for example, {names[0]!r}"
            )
    return values


def make_optimizer(
    config: Mapping[str, Any], abstract_params: Any, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of `config.optimizer` for these parameters.

    Args:
        config: `name` "adamw" (`beta1`, `beta2`, `eps`) or "sgd" (`momentum`); `learning_rate` and
            the schedule (`make_schedule`); `weight_decay`, decoupled, except for names that match
            `no_weight_decay`; `clip_norm`, of the global gradient norm, None for no clipping;
            `multipliers`, ((regex, factor), ...) on the learning rate, first match wins.
        abstract_params: tree of arrays or ShapeDtypeStructs.
        steps: length of the run.

    Returns:
        The gradient transformation and its schedule (before multipliers).
    """
    names = ["/".join(path) for path in flax.traverse_util.flatten_dict(abstract_params)]
    schedule = make_schedule(config, steps)
    multipliers = _tree(match_rules(names, config["multipliers"], "config.optimizer.multipliers"))
    decayed = _tree(
        {
            name: not any(re.search(pattern, name) for pattern in config["no_weight_decay"])
            for name in names
        }
    )
    if config["name"] == "adamw":
        direction = optax.scale_by_adam(config["beta1"], config["beta2"], config["eps"])
    elif config["name"] == "sgd":
        direction = optax.trace(config["momentum"])
    else:
        raise ValueError(f"config.optimizer.name {config['name']!r} is not adamw or sgd")
    clip = config["clip_norm"]
    return optax.chain(
        optax.clip_by_global_norm(clip) if clip else optax.identity(),
        direction,
        optax.add_decayed_weights(config["weight_decay"], mask=decayed),
        optax.stateless(
            lambda updates, _: jax.tree.map(lambda u, m: u * jnp.float32(m), updates, multipliers)
        ),
        optax.scale_by_learning_rate(schedule),
    ), schedule


def _tree(flat: Mapping[str, Any]) -> Any:
    return flax.traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in flat.items()})


def describe_groups(config: Mapping[str, Any], params: Any) -> str:
    """A table of parameter counts by learning-rate multiplier, for the log."""
    flat: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(params)
    names = ["/".join(path) for path in flat]
    values = match_rules(names, config["multipliers"], "config.optimizer.multipliers")
    rows: dict[float, tuple[int, int]] = {}
    for name, leaf in zip(names, flat.values(), strict=True):
        tensors, size = rows.get(values[name], (0, 0))
        rows[values[name]] = (tensors + 1, size + leaf.size)
    return "\n".join(
        f"  learning rate x {value:<6g} {tensors:>5} tensors {size:>12,} parameters"
        for value, (tensors, size) in sorted(rows.items())
    )
