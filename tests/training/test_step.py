# SPDX-License-Identifier: Apache-2.0
"""The jitted step: the same losses on any number of devices, and only finite states."""

import functools

import jax
import numpy as np
import optax
import pytest

from configs import quickstart
from dpt_jax.models.dpt import build_model
from dpt_jax.training import ConfigError, optimizer, sharding
from dpt_jax.training import config as run_config
from dpt_jax.training.step import init_state, make_train_step

BATCH, SIZE = 8, (32, 64)


@functools.cache
def tiny_config(task):
    c = quickstart.get_config(task)
    c.model.backbone.hidden_size = 64
    c.model.backbone.intermediate_size = 1024  # 64 x 1024 is just big enough to be sharded
    c.model.backbone.num_hidden_layers = 2
    c.model.backbone.out_indices = (0, 1)
    c.model.neck.hidden_sizes = (8, 16)
    c.model.neck.reassemble_factors = (2.0, 1.0)
    c.model.neck.fusion_hidden_size = 16
    c.model.backbone.hidden_dropout_prob = 0.1
    c.optimizer.warmup_steps = 0
    # Adam divides a gradient by its own size, which turns rounding into steps; SGD does not.
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.05
    return run_config.resolve(c)


def make_step(task, mesh, initialise=True):
    config = tiny_config(task)
    model = build_model(config["model"])

    def make_tx(params):
        return optimizer.make_optimizer(config["optimizer"], params, 10)

    init = init_state(model, lambda p: make_tx(p)[0], 0, SIZE)
    abstract = jax.eval_shape(init)
    shardings = sharding.state_shardings(mesh, abstract)
    state = jax.jit(init, out_shardings=shardings)() if initialise else abstract
    return state, make_train_step(model, *make_tx(abstract.params), config, shardings)


def batches(task, count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        batch = {"image": rng.integers(0, 256, (BATCH, *SIZE, 3), np.uint8)}
        if task == "depth":
            batch["depth"] = rng.uniform(-1, 8, (BATCH, *SIZE)).astype(np.float32)
        else:
            batch["label"] = rng.choice([0, 3, 13, 255], (BATCH, *SIZE)).astype(np.uint8)
        yield batch


def run(task, mesh, steps=3):
    with jax.set_mesh(mesh):
        state, step = make_step(task, mesh)
        losses = []
        for batch in batches(task, steps):
            state, metrics = step(state, sharding.shard_batch(mesh, batch))
            losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state)


@pytest.fixture(scope="module", params=["depth", "segmentation"])
def one_device(request):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return request.param, *run(request.param, mesh)


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "fsdp": 4}], ids=["data", "fsdp"])
def test_eight_devices_give_the_losses_of_one(one_device, axes):
    task, losses, state = one_device
    mesh = sharding.make_mesh(**axes)
    assert mesh.size == 8
    sharded_losses, sharded = run(task, mesh)
    np.testing.assert_allclose(sharded_losses, losses, rtol=2e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(sharded.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(
        jax.tree.leaves(state.batch_stats), jax.tree.leaves(sharded.batch_stats), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_big_leaves_are_split_over_fsdp_and_their_optimizer_state_too():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    with jax.set_mesh(mesh):
        state, _ = make_step("depth", mesh)
    kernel = state.params["backbone"]["encoder"]["layer_0"]["intermediate"]["dense"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    moments = state.opt_state[1].trace["backbone"]["encoder"]["layer_0"]["intermediate"]["dense"]
    assert moments["kernel"].addressable_shards[0].data.size == kernel.size // 4
    bias = state.params["backbone"]["encoder"]["layer_0"]["intermediate"]["dense"]["bias"]
    assert bias.addressable_shards[0].data.size == bias.size


@pytest.mark.parametrize("axes", [{"data": 3}, {"data": 16}, {"data": -1, "fsdp": 3}, {"data": 0}])
def test_a_mesh_that_does_not_fit_is_refused(axes):
    with pytest.raises(ValueError, match=r"config\.mesh .* 8 devices"):
        sharding.make_mesh(**axes)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"config\.train\.batch_size=12 .* 8 devices"):
        sharding.check_batch_size(sharding.make_mesh(), 12, "config.train.batch_size")


def test_the_state_is_donated():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        state, step = make_step("depth", mesh)
        before = jax.tree.leaves(state)
        step(state, sharding.shard_batch(mesh, next(batches("depth", 1))))
        assert all(leaf.is_deleted() for leaf in before)


@pytest.mark.parametrize("task", ["depth", "segmentation"])
def test_a_step_that_is_not_finite_leaves_all_but_the_step_as_it_was(task, monkeypatch):
    from dpt_jax.training import losses
    from dpt_jax.training import step as step_module

    name = "depth_loss" if task == "depth" else "segmentation_loss"
    original = getattr(losses, name)

    def poisoned(output, target, **kwargs):
        loss, parts = original(output, target, **kwargs)
        # For one marked batch the loss stays finite and its gradient does not: sqrt at 0.
        prediction = output.depth if task == "depth" else output.logits
        spike = jax.lax.cond(
            target[0, 0, 0] == 13,
            lambda p: jax.numpy.sqrt(jax.numpy.abs(p * 0).sum()),
            lambda p: jax.numpy.float32(0),
            prediction,
        )
        return loss + spike, parts

    monkeypatch.setattr(step_module.losses, name, poisoned)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        state, step = make_step(task, mesh)
        good, bad = batches(task, 2)
        target = "depth" if task == "depth" else "label"
        good[target][0, 0, 0], bad[target][0, 0, 0] = 3, 13
        state, metrics = step(state, sharding.shard_batch(mesh, good))
        assert float(metrics["finite"]) == 1
        before = jax.device_get(state)
        after, metrics = step(state, sharding.shard_batch(mesh, bad))
    assert np.isfinite(float(metrics["loss"]))
    assert float(metrics["finite"]) == 0 and not np.isfinite(float(metrics["grad_norm"]))
    after = jax.device_get(after)
    assert after.step == before.step + 1
    for group in ("params", "batch_stats", "opt_state"):
        for a, b in zip(
            jax.tree.leaves(getattr(before, group)),
            jax.tree.leaves(getattr(after, group)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_the_global_norm_is_of_all_gradients():
    tree = {"a": np.full((2, 2), 3.0, np.float32), "b": np.full(4, 4.0, np.float32)}
    assert float(optax.tree.norm(tree)) == pytest.approx((4 * 9 + 4 * 16) ** 0.5)


def test_images_that_are_no_whole_patches_are_refused():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        state, step = make_step("depth", mesh, initialise=False)
        batch = {
            "image": jax.ShapeDtypeStruct((BATCH, SIZE[0] + 8, SIZE[1], 3), "uint8"),
            "depth": jax.ShapeDtypeStruct((BATCH, SIZE[0] + 8, SIZE[1]), "float32"),
        }
        message = rf"{SIZE[0] + 8} x {SIZE[1]} .* patch size 16.*config\.data\.augment\.crop"
        with pytest.raises(ConfigError, match=message):
            jax.eval_shape(step, state, batch)
