# SPDX-License-Identifier: Apache-2.0
"""Gradients, losses and BatchNorm statistics of a training step, against those of transformers.

transformers computes in float64 here: gradients that nearly cancel, as those of a bias in front of
BatchNorm do, are rounded enough once.
"""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import torch

from dpt_jax.models import resize
from dpt_jax.models.dpt import build_model
from dpt_jax.weights import huggingface, huggingface_config
from tests.parity.reference import (
    TOLERANCE,
    arrays,
    fast_jit,
    hf_config,
    images,
    nchw,
    ours,
    reference,
    relative,
)

GRADIENT_TOLERANCE = 1e-4


def compare_gradients(hf, model, gradients, errors, case) -> None:
    """transformers' gradients travel through the same converter as the weights do.

    A parameter that the converter counts as read by nothing must have no gradient.
    """
    torch_gradients = {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
        for name, p in hf.named_parameters()
    }
    buffers = {name: np.zeros(b.shape, b.numpy().dtype) for name, b in hf.named_buffers()}
    persistent = {name: b for name, b in buffers.items() if name in hf.state_dict()}
    converted = huggingface.to_variables(torch_gradients | persistent, model)
    for name, gradient in converted.get("unused", {}).items():
        assert not np.any(gradient), f"{name} is said to be unused"
    want = flax.traverse_util.flatten_dict(converted["params"], sep="/")
    got = flax.traverse_util.flatten_dict(gradients, sep="/")
    assert want.keys() == got.keys()
    # Some true gradients are zero (of the key's bias, of a bias in front of BatchNorm).
    floor = 1e-3 * max(float(np.abs(g).max()) for g in want.values())
    worst, where = 0.0, ""
    for name, value in want.items():
        error = float(np.abs(np.asarray(got[name]) - value).max())
        error /= max(float(np.abs(value).max()), floor)
        if error > worst:
            worst, where = error, name
    errors.append((f"{case.family}, gradients", worst, f"{case.name} {where}"))
    assert worst <= GRADIENT_TOLERANCE, where


def compare_depth_gradients(case, errors) -> None:
    """Of a random projection of the depth map: transformers has no loss for depth."""
    hf = reference(case)
    model, variables = ours(hf)
    pixels = images(case)
    output = hf.double()(nchw(pixels).double()).predicted_depth
    direction = np.random.default_rng(3).standard_normal(output.shape).astype(np.float32)
    (output * torch.from_numpy(direction)).mean().backward()

    def projection(params):
        output = model.apply({**variables, "params": params}, pixels, train=True)
        return jnp.mean(output.depth * direction)

    with jax.default_matmul_precision("highest"):
        gradients = fast_jit(jax.grad(projection))(variables["params"])
    compare_gradients(hf, model, gradients, errors, case)


def compare_segmentation_step(case, errors) -> None:
    """Loss with the auxiliary head, logits, gradients, and statistics after the step."""
    hf = reference(case)
    config = huggingface_config.model_config(hf_config(hf))
    config["auxiliary_head"]["dropout"] = 0.0
    model = build_model(config)
    variables = huggingface.to_variables(arrays(hf), model)
    before = arrays(hf.double())
    classes = hf.config.num_labels

    pixels = images(case, batch=3)
    labels = np.random.default_rng(case.seed).integers(0, classes, (3, 37, 50))
    labels[:, :9] = 255
    samples = {}
    hf.train()
    for name, module in hf.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(
                lambda m, inputs, _, name=name: samples.update(
                    {name: inputs[0].numel() // inputs[0].shape[1]}
                )
            )
    expected = hf(nchw(pixels).double(), labels=torch.from_numpy(labels))
    expected.loss.backward()

    def loss(params):
        output, updates = model.apply(
            {**variables, "params": params}, pixels, train=True, mutable=["batch_stats"]
        )
        total = 0.0
        for weight, logits in ((1.0, output.logits), (0.4, output.aux_logits)):
            logits = resize.bilinear(logits, labels.shape[1:], align_corners=False)
            log_p = jax.nn.log_softmax(logits)
            picked = jnp.take_along_axis(log_p, np.minimum(labels, classes - 1)[..., None], -1)
            picked = jnp.where(labels < 255, picked[..., 0], 0)
            total -= weight * jnp.sum(picked) / np.sum(labels < 255)
        return total, (output, updates)

    with jax.default_matmul_precision("highest"):
        (value, (output, updates)), gradients = fast_jit(jax.value_and_grad(loss, has_aux=True))(
            variables["params"]
        )
    halved = output.logits.shape[1] // 2
    assert output.aux_logits.shape[1] == halved or case.config.get("head_in_index", -1) != -1
    for name, got, want in (
        ("logits in training", output.logits, expected.logits.detach().permute(0, 2, 3, 1)),
        ("training loss", jnp.reshape(value, (1, 1)), expected.loss.detach().reshape(1, 1)),
    ):
        error = relative(got, want.numpy())
        errors.append((f"{case.family}, {name}", error, case.name))
        assert error <= TOLERANCE
    compare_gradients(hf, model, gradients, errors, case)
    compare_statistics(model, updates["batch_stats"], before, arrays(hf), samples, errors, case)


def compare_statistics(model, updated, before, after, samples, errors, case) -> None:
    """torch stores the unbiased variance of the batch, over `samples[module]` values."""
    statistics = flax.traverse_util.flatten_dict(updated)
    names = {huggingface.hf_name(path, model): value for path, value in statistics.items()}
    used = {name for name in samples if ".layers.0.residual_layer1." not in name}
    assert {name.rsplit(".", 1)[0] for name in names} == used
    for name, value in names.items():
        module, leaf = name.rsplit(".", 1)
        want = after[name]
        if leaf == "running_var":
            batch = (want - 0.9 * before[name]) / 0.1
            n = samples[module]
            want = 0.9 * before[name] + 0.1 * batch * (n - 1) / n
        error = relative(np.asarray(value)[None], want[None])
        errors.append((f"{case.family}, BatchNorm {leaf}", error, f"{case.name} {name}"))
        assert error <= TOLERANCE
