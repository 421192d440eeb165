# SPDX-License-Identifier: Apache-2.0
"""Schedules at points computed by hand, and optimizers against torch and float64 NumPy."""

import math

import jax
import numpy as np
import optax
import pytest

from dpt_jax.training.optimizer import (
    describe_groups,
    make_optimizer,
    make_schedule,
    match_rules,
)

CONFIG = {
    "name": "adamw",
    "learning_rate": 0.1,
    "schedule": "poly",
    "power": 0.9,
    "warmup_steps": 0,
    "end_factor": 0.0,
    "weight_decay": 0.0,
    "no_weight_decay": (),
    "multipliers": (),
    "clip_norm": None,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "momentum": 0.9,
}
# One learning rate for all steps.
FLAT = CONFIG | {"end_factor": 1.0}


def parameters(seed=0):
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "backbone": {"layer_0": {"kernel": leaf(3, 4), "bias": leaf(4)}},
        "head": {"kernel": leaf(4, 2), "norm": {"scale": leaf(2)}},
    }


def trained(config, gradients, steps=100):
    """Parameters after a step with each of the gradients."""
    params = parameters()
    optimizer, _ = make_optimizer(config, jax.eval_shape(lambda: params), steps)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def gradients(count):
    return [parameters(seed + 1) for seed in range(count)]


@pytest.mark.parametrize(
    ("changes", "points"),
    [
        # Ten steps, without and with a warm-up of four; progress counts from the warm-up's end.
        ({}, {0: 1, 5: 0.5**0.9, 9: 0.1**0.9, 10: 0, 12: 0}),
        ({"warmup_steps": 4}, {0: 0, 1: 0.25, 3: 0.75, 4: 1, 7: 0.5**0.9, 10: 0}),
        ({"end_factor": 0.2}, {0: 1, 5: 0.2 + 0.8 * 0.5**0.9, 10: 0.2, 11: 0.2}),
        ({"power": 1.0}, {0: 1, 3: 0.7, 10: 0}),
        ({"schedule": "cosine"}, {0: 1, 5: 0.5, 10: 0, 2.5: (1 + math.sqrt(0.5)) / 2}),
        ({"schedule": "cosine", "end_factor": 0.2, "warmup_steps": 4}, {2: 0.5, 4: 1, 7: 0.6}),
        ({"schedule": "cosine", "end_factor": 0.2, "warmup_steps": 4}, {10: 0.2, 20: 0.2}),
    ],
)
@pytest.mark.parametrize("peak", [1.0, 3e-4])
def test_schedules_by_hand(changes, points, peak):
    schedule = make_schedule(CONFIG | changes | {"learning_rate": peak}, 10)
    for step, want in points.items():
        assert schedule(step) == pytest.approx(peak * want, rel=1e-5, abs=1e-7 * peak)


@pytest.mark.parametrize("warmup", [10, 11, -1])
def test_a_warm_up_must_fit_into_the_run(warmup):
    with pytest.raises(ValueError, match=f"warmup_steps={warmup}"):
        make_schedule(CONFIG | {"warmup_steps": warmup}, 10)
    make_schedule(CONFIG | {"warmup_steps": 9}, 10)


@pytest.mark.parametrize(
    ("key", "value"), [("schedule", "step"), ("name", "adam"), ("schedule", "")]
)
def test_unknown_names_are_refused(key, value):
    with pytest.raises(ValueError, match=f"config.optimizer.{key} '{value}'"):
        make_optimizer(CONFIG | {key: value}, parameters(), 10)


def test_adamw_takes_the_steps_of_torch():
    torch = pytest.importorskip("torch", reason="needs torch")
    betas, eps, decay = (0.8, 0.95), 1e-3, 0.3
    config = FLAT | {"beta1": 0.8, "beta2": 0.95, "eps": eps, "weight_decay": decay}
    leaves = [torch.tensor(x, requires_grad=True) for x in jax.tree.leaves(parameters())]
    optimizer = torch.optim.AdamW(leaves, lr=0.1, betas=betas, eps=eps, weight_decay=decay)
    for gradient in gradients(5):
        for leaf, value in zip(leaves, jax.tree.leaves(gradient), strict=True):
            leaf.grad = torch.tensor(value)
        optimizer.step()
    got = jax.tree.leaves(trained(config, gradients(5)))
    for ours, theirs in zip(got, leaves, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def exact(config, gradients, rates, multiplier, decayed):
    """Either optimizer in float64; `multiplier` and `decayed` are functions of a leaf's index."""
    values = [x.astype(np.float64) for x in jax.tree.leaves(parameters())]
    first, second = ([0 * x for x in values] for _ in range(2))
    for n, gradient in enumerate(gradients):
        grads = [g.astype(np.float64) for g in jax.tree.leaves(gradient)]
        if config["clip_norm"]:
            norm = math.sqrt(sum((g * g).sum() for g in grads))
            grads = [g * min(1, config["clip_norm"] / norm) for g in grads]
        for i, g in enumerate(grads):
            if config["name"] == "sgd":
                first[i] = config["momentum"] * first[i] + g
                direction = first[i]
            else:
                b1, b2 = config["beta1"], config["beta2"]
                first[i] = b1 * first[i] + (1 - b1) * g
                second[i] = b2 * second[i] + (1 - b2) * g * g
                m, v = first[i] / (1 - b1 ** (n + 1)), second[i] / (1 - b2 ** (n + 1))
                direction = m / (np.sqrt(v) + config["eps"])
            if decayed(i):
                direction = direction + config["weight_decay"] * values[i]
            values[i] = values[i] - rates[n] * multiplier(i) * direction
    return values


# Leaves in tree order: backbone bias, backbone kernel, head kernel, head scale.
@pytest.mark.parametrize("clip", [None, 1.5, 1e3])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_all_parts_together(name, clip):
    config = CONFIG | {
        "name": name,
        "warmup_steps": 2,
        "weight_decay": 0.2,
        "no_weight_decay": (r"(bias|scale)$",),
        "multipliers": ((r"^head/kernel$", 3.0), (r"^backbone/", 0.1)),
        "clip_norm": clip,
    }
    rates = [0.0, 0.05, 0.1, 0.1 * (2 / 3) ** 0.9, 0.1 * (1 / 3) ** 0.9]
    want = exact(
        config,
        gradients(5),
        rates,
        multiplier=(0.1, 0.1, 3.0, 1.0).__getitem__,
        decayed=(False, True, True, False).__getitem__,
    )
    got = jax.tree.leaves(trained(config, gradients(5), steps=5))
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_clipping_is_by_the_norm_of_all_gradients_together():
    config = FLAT | {"name": "sgd", "momentum": 0.0, "learning_rate": 1.0, "clip_norm": 1.0}
    gradient = jax.tree.map(np.zeros_like, parameters())
    gradient["backbone"]["layer_0"]["bias"][0] = 3.0
    gradient["head"]["kernel"][0, 0] = 4.0
    moved = jax.tree.map(lambda a, b: a - b, parameters(), trained(config, [gradient]))
    assert moved["backbone"]["layer_0"]["bias"][0] == pytest.approx(0.6, rel=1e-5)
    assert moved["head"]["kernel"][0, 0] == pytest.approx(0.8, rel=1e-5)


def test_decay_is_decoupled_from_the_gradient_but_not_from_the_rate():
    zero = jax.tree.map(np.zeros_like, parameters())
    for name in ("adamw", "sgd"):
        config = FLAT | {"name": name, "weight_decay": 0.5, "multipliers": (("^head", 2.0),)}
        got, before = trained(config, [zero]), parameters()
        np.testing.assert_allclose(
            got["backbone"]["layer_0"]["kernel"],
            before["backbone"]["layer_0"]["kernel"] * (1 - 0.1 * 0.5),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            got["head"]["kernel"], before["head"]["kernel"] * (1 - 0.2 * 0.5), rtol=1e-5
        )


NAMES = ["backbone/a/kernel", "backbone/b/kernel", "head/kernel"]


def test_the_first_rule_that_matches_wins():
    rules = ((r"/b/", 5.0), (r"^backbone", 0.1))
    want = {NAMES[0]: 0.1, NAMES[1]: 5.0, NAMES[2]: 1.0}
    assert match_rules(NAMES, rules, "flag") == want
    assert match_rules(NAMES, (), "flag", default=7.0) == dict.fromkeys(NAMES, 7.0)
    # Patterns are searched for, not matched from the start.
    assert match_rules(NAMES, ((r"a/kernel$", 2.0),), "flag")[NAMES[0]] == 2.0


@pytest.mark.parametrize(
    "rules",
    [
        ((r"^bakbone/", 0.1),),
        ((r"^backbone/", 0.1), (r"^bakbone/", 0.1)),
        # Everything it would match is decided by the rule before.
        ((r"kernel", 0.1), (r"^bakbone/|^head/kernel$", 0.1)),
    ],
)
def test_a_rule_that_decides_nothing_is_an_error(rules):
    with pytest.raises(ValueError, match=r"some\.flag.*bakbone") as caught:
        match_rules(NAMES, rules, "some.flag")
    assert repr(rules[-1][0]) in str(caught.value)
    config = CONFIG | {"multipliers": rules}
    with pytest.raises(ValueError, match=r"config\.optimizer\.multipliers.*bakbone"):
        make_optimizer(config, parameters(), 10)


def test_the_schedule_is_handed_back_before_multipliers():
    config = CONFIG | {"multipliers": (("^head", 10.0),)}
    _, schedule = make_optimizer(config, parameters(), 10)
    assert schedule(0) == pytest.approx(0.1)


def test_groups_are_counted():
    config = CONFIG | {"multipliers": (("^head", 10.0),)}
    small, large = describe_groups(config, parameters()).splitlines()
    assert small.split() == ["learning", "rate", "x", "1", "2", "tensors", "16", "parameters"]
    assert large.split() == ["learning", "rate", "x", "10", "2", "tensors", "10", "parameters"]
