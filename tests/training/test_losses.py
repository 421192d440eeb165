# SPDX-License-Identifier: Apache-2.0
"""Losses against float64 loops and torch, and finite gradients whatever the mask."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models.dpt import DPTOutput
from dpt_jax.training.losses import (
    cross_entropy,
    depth_loss,
    eigen_loss,
    segmentation_loss,
    silog,
)

SHAPE = (2, 3, 4)
LOSSES = {
    "silog-bts": (silog, {"variance_focus": 0.85, "weight": 10.0}),
    "silog-depth-anything": (silog, {"variance_focus": 0.5, "weight": 1.0}),
    "silog-lambda-1": (silog, {"variance_focus": 1.0, "weight": 10.0}),
    "silog-lambda-0": (silog, {"variance_focus": 0.0, "weight": 3.0}),
    "eigen": (eigen_loss, {"variance_focus": 0.5, "weight": 1.0}),
    "eigen-lambda-1": (eigen_loss, {"variance_focus": 1.0, "weight": 2.0}),
}


def value_and_grad(name):
    loss, parameters = LOSSES[name]
    return jax.jit(jax.value_and_grad(lambda p, t, m: loss(p, t, m, **parameters)))


COMPILED = {name: value_and_grad(name) for name in LOSSES}


def exact(name, prediction, target, mask):
    """The formulas of the papers in float64, pixel by pixel."""
    loss, parameters = LOSSES[name]
    focus, weight = parameters["variance_focus"], parameters["weight"]
    per_image = []
    for p, t, m in zip(prediction, target, mask, strict=True):
        per_image.append(
            [
                math.log(min(max(float(p[y, x]), 1e-3), 1e6)) - math.log(float(t[y, x]))
                for y, x in np.argwhere(m)
            ]
        )
    if loss is silog:
        per_image = [list(itertools.chain(*per_image))]
    scores = []
    for d in per_image:
        if d:
            square = sum(x * x for x in d) / len(d)
            inside = square - focus * (sum(d) / len(d)) ** 2
            scores.append(math.sqrt(max(inside, 0)) if loss is silog else inside)
    return weight * sum(scores) / len(scores) if scores else 0.0


def masks():
    one_pixel, one_image = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    one_pixel[1, 2, 1] = True
    one_image[0] = True
    some = np.random.default_rng(5).random(SHAPE) < 0.6
    return {
        "empty": np.zeros(SHAPE, bool),
        "one-pixel": one_pixel,
        "one-image": one_image,
        "some": some,
        "full": np.ones(SHAPE, bool),
    }


def depths(seed=0):
    rng = np.random.default_rng(seed)
    return np.exp(rng.uniform(-2, 2, (2, *SHAPE))).astype(np.float32)


@pytest.mark.parametrize("mask", masks().values(), ids=masks())
@pytest.mark.parametrize("name", LOSSES)
def test_depth_losses_are_those_of_the_papers(name, mask):
    prediction, target = depths()
    value, gradient = COMPILED[name](prediction, target, mask)
    assert value == pytest.approx(exact(name, prediction, target, mask), rel=1e-4, abs=1e-5)
    if name == "silog-lambda-1" and mask.sum() <= 1:
        np.testing.assert_array_equal(gradient, 0)
        return
    for place in [(0, 0, 0), (0, 1, 2), (1, 2, 1), (1, 0, 3)]:
        step = np.zeros(SHAPE)
        step[place] = 1e-5
        wide = prediction.astype(np.float64)
        up, down = (exact(name, wide + s, target, mask) for s in (step, -step))
        assert gradient[place] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-4)


def test_silog_by_hand():
    mask = np.ones((1, 1, 2), bool)
    prediction = np.array([[[math.e, 1.0]]], np.float32)
    target = np.array([[[1.0, math.e]]], np.float32)
    # d = 1, -1: mean 0, mean square 1.
    assert silog(prediction, target, mask) == pytest.approx(10, rel=1e-5)
    assert eigen_loss(prediction, target, mask) == pytest.approx(1, rel=1e-5)
    # d = 1, 1: mean 1, mean square 1.
    target = np.array([[[1.0, 1 / math.e]]], np.float32)
    assert silog(prediction, target, mask) == pytest.approx(10 * math.sqrt(0.15), rel=1e-5)
    one = silog(prediction, target, mask, variance_focus=0.5, weight=1.0)
    assert one == pytest.approx(math.sqrt(0.5), rel=1e-5)
    assert eigen_loss(prediction, target, mask) == pytest.approx(0.5, rel=1e-5)


def test_silog_is_pooled_over_the_batch_and_eigen_is_not():
    target = np.ones((2, 1, 4), np.float32)
    prediction = target * np.array([1.0, math.e], np.float32)[:, None, None]
    mask = np.ones((2, 1, 4), bool)
    mask[1, :, 1:] = False
    # Pooled: d = 0 four times and 1 once. Per image: d = 0, and d = 1.
    assert silog(prediction, target, mask, weight=1.0) == pytest.approx(
        math.sqrt(0.2 - 0.85 * 0.04), rel=1e-5
    )
    assert eigen_loss(prediction, target, mask) == pytest.approx((0 + 0.5) / 2, rel=1e-5)


HARD = {
    "perfect": lambda t: t,
    "constant-ratio": lambda t: np.float32(1.7) * t,
    "zero": np.zeros_like,
    "negative": lambda t: -t,
    "1e-30": lambda t: np.full_like(t, 1e-30),
    "1e30": lambda t: np.full_like(t, 1e30),
    "mixed": lambda t: np.resize(np.float32([0, -3, 1e-30, 1e30, 1e-3, 1e6, 1]), t.shape),
    "almost-perfect": lambda t: np.nextafter(t, np.float32(np.inf)),
}


@pytest.mark.parametrize("prediction", HARD.values(), ids=HARD)
@pytest.mark.parametrize("name", LOSSES)
def test_depth_losses_and_gradients_are_finite(name, prediction):
    near_and_far = np.resize(np.float32([1e-3, 1e4]), SHAPE)
    for target in (depths()[1], near_and_far, np.full(SHAPE, 1e-3, np.float32)):
        for mask in masks().values():
            value, gradient = COMPILED[name](prediction(target), target, mask)
            assert np.isfinite(value) and np.isfinite(gradient).all()
            assert value >= -1e-4  # rounding, with lambda = 1
            want = exact(name, prediction(target), target, mask)
            assert value == pytest.approx(want, rel=1e-4, abs=1e-4)
            if not mask.any():
                assert value == 0 and not gradient.any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_prediction_costs_nothing(name):
    target = depths()[1]
    value, gradient = COMPILED[name](target, target, np.ones(SHAPE, bool))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("garbage", [0.0, -5.0, 1e-30, 1e30, np.nan, np.inf])
@pytest.mark.parametrize("mask", masks().values(), ids=masks())
@pytest.mark.parametrize("name", LOSSES)
def test_masked_pixels_do_not_count(name, mask, garbage):
    prediction, target = depths(1)
    value, gradient = COMPILED[name](prediction, target, mask)
    np.testing.assert_array_equal(gradient[~mask], 0)
    dirty = [np.where(mask, x, np.float32(garbage)) for x in (prediction, target)]
    other, other_gradient = COMPILED[name](*dirty, mask)
    assert other == value
    np.testing.assert_array_equal(other_gradient, gradient)


def test_unmasked_gradients_are_not_zero():
    prediction, target = depths(2)
    for name in LOSSES:
        gradient = COMPILED[name](prediction, target, np.ones(SHAPE, bool))[1]
        assert (gradient != 0).all()


def halfway(x, size):
    """Bilinear resize of (b, h, w, c) with aligned borders, in float64, pixel by pixel."""
    b, h, w, c = x.shape
    out = np.zeros((b, *size, c))
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * h / size[0] - 0.5, 0), h - 1)
            z = min(max((j + 0.5) * w / size[1] - 0.5, 0), w - 1)
            y0, z0 = int(y), int(z)
            y1, z1 = min(y0 + 1, h - 1), min(z0 + 1, w - 1)
            top = x[:, y0, z0] * (1 - z + z0) + x[:, y0, z1] * (z - z0)
            low = x[:, y1, z0] * (1 - z + z0) + x[:, y1, z1] * (z - z0)
            out[:, i, j] = top * (1 - y + y0) + low * (y - y0)
    return out


@pytest.mark.parametrize("name", ["silog", "eigen"])
def test_depth_loss_resizes_the_prediction_and_has_strict_bounds(name):
    rng = np.random.default_rng(3)
    depth = rng.uniform(0.5, 9, (2, 3, 2)).astype(np.float32)
    target = rng.uniform(0.6, 7.9, (2, 5, 7)).astype(np.float32)
    target[0, 0, :5] = 0.5, 8.0, 0.0, 20.0, -1.0
    target[1, 1, :3] = np.nan, np.inf, np.nextafter(np.float32(0.5), np.float32(1))
    mask = np.array([[[0.5 < x < 8 for x in row] for row in image] for image in target])
    assert mask.sum() == 70 - 7
    bounds = {"min_depth": 0.5, "max_depth": 8.0}
    loss, parts = jax.jit(
        lambda d, t: depth_loss(
            DPTOutput(depth=d), t, name=name, variance_focus=0.5, weight=1.0, **bounds
        )
    )(depth, target)
    key = {"silog": "silog-depth-anything", "eigen": "eigen"}[name]
    resized = halfway(depth[..., None], (5, 7))[..., 0]
    assert loss == pytest.approx(exact(key, resized, target, mask), rel=1e-4)
    assert set(parts) == {"valid_share"}
    assert parts["valid_share"] == pytest.approx(63 / 70, rel=1e-6)


def test_depth_loss_passes_focus_and_weight_on():
    prediction, target = depths(4)
    bounds = {"min_depth": 1e-3, "max_depth": 1e3}
    for key, (loss, parameters) in LOSSES.items():
        name = "silog" if loss is silog else "eigen"
        got, _ = depth_loss(
            DPTOutput(depth=jnp.asarray(prediction)), target, name=name, **bounds, **parameters
        )
        assert got == pytest.approx(
            exact(key, prediction, target, np.ones(SHAPE, bool)), rel=1e-4, abs=1e-5
        )


def test_depth_loss_of_an_empty_target_is_zero_with_zero_gradients():
    def loss(depth):
        return depth_loss(
            DPTOutput(depth=depth),
            jnp.zeros((1, 4, 4)),
            name="silog",
            variance_focus=0.85,
            weight=10.0,
            min_depth=1e-3,
            max_depth=10.0,
        )[0]

    value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 2, 2)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_mistakes_are_named():
    limits = {"variance_focus": 0.5, "weight": 1.0, "min_depth": 1e-3, "max_depth": 10.0}
    depth = DPTOutput(depth=jnp.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="'berhu'"):
        depth_loss(depth, jnp.ones((1, 2, 2)), name="berhu", **limits)
    with pytest.raises(ValueError, match="depth head"):
        depth_loss(DPTOutput(), jnp.ones((1, 2, 2)), name="silog", **limits)
    with pytest.raises(ValueError, match="segmentation head"):
        segmentation_loss(depth, jnp.zeros((1, 2, 2), jnp.uint8))


def exact_cross_entropy(logits, labels, ignore=255):
    total, count = 0.0, 0
    for place in np.ndindex(labels.shape):
        if labels[place] != ignore:
            row = [float(x) for x in logits[place]]
            top = max(row)
            total += top + math.log(sum(math.exp(x - top) for x in row)) - row[labels[place]]
            count += 1
    return total / count if count else 0.0


def segmentation_example(seed=0, classes=5):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal((2, 3, 4, classes))).astype(np.float32)
    labels = rng.integers(0, classes, (2, 3, 4)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.3] = 255
    return logits, labels


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
def test_cross_entropy_is_the_mean_over_labelled_pixels(kind):
    logits, labels = segmentation_example()
    want = exact_cross_entropy(logits, labels)
    assert cross_entropy(logits, labels.astype(kind)) == pytest.approx(want, rel=1e-5)
    # Another id to ignore.
    other = np.where(labels == 255, 0, labels)
    want = exact_cross_entropy(logits, other, ignore=0)
    assert cross_entropy(logits, other.astype(kind), ignore=0) == pytest.approx(want, rel=1e-5)


def test_cross_entropy_and_its_gradient_are_those_of_torch():
    torch = pytest.importorskip("torch", reason="needs torch")
    logits, labels = segmentation_example(1)
    leaf = torch.tensor(logits.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    want = torch.nn.functional.cross_entropy(leaf, torch.tensor(labels).long(), ignore_index=255)
    want.backward()
    value, gradient = jax.jit(jax.value_and_grad(cross_entropy))(logits, labels)
    assert value == pytest.approx(want.item(), rel=1e-5)
    np.testing.assert_allclose(
        gradient, leaf.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("labelled", ["none", "one", "some", "all"])
def test_cross_entropy_is_finite_for_large_logits(scale, labelled):
    logits, labels = segmentation_example(2)
    logits = np.float32(scale) * np.sign(logits)
    if labelled == "none":
        labels[:] = 255
    elif labelled == "one":
        labels[:] = 255
        labels[1, 2, 0] = 3
    elif labelled == "all":
        labels[labels == 255] = 1
    value, gradient = jax.jit(jax.value_and_grad(cross_entropy))(logits, labels)
    assert np.isfinite(gradient).all()
    assert value == pytest.approx(exact_cross_entropy(logits, labels), rel=1e-5, abs=1e-6)
    np.testing.assert_array_equal(gradient[labels == 255], 0)
    if labelled == "none":
        assert value == 0


def test_logits_of_ignored_pixels_do_not_count():
    logits, labels = segmentation_example(3)
    dirty = np.where((labels == 255)[..., None], np.float32(77), logits)
    assert cross_entropy(dirty, labels) == cross_entropy(logits, labels)


def test_cross_entropy_computes_in_float32():
    logits, labels = segmentation_example(4)
    half = jnp.asarray(logits, jnp.bfloat16)
    got = cross_entropy(half, labels)
    assert got.dtype == jnp.float32
    want = exact_cross_entropy(np.asarray(half.astype(jnp.float32)), labels)
    assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("size", [(3, 4), (5, 7), (8, 3)])
@pytest.mark.parametrize("weight", [0.4, 0.2])
def test_segmentation_loss_resizes_both_heads(size, weight):
    rng = np.random.default_rng(6)
    logits = (2 * rng.standard_normal((2, 3, 4, 3))).astype(np.float32)
    aux = (2 * rng.standard_normal((2, 2, 2, 3))).astype(np.float32)
    labels = rng.integers(0, 3, (2, *size)).astype(np.uint8)
    labels[:, 0] = 255
    ce = exact_cross_entropy(halfway(logits, size), labels)
    aux_ce = exact_cross_entropy(halfway(aux, size), labels)
    output = DPTOutput(logits=jnp.asarray(logits), aux_logits=jnp.asarray(aux))
    loss, parts = segmentation_loss(output, labels, auxiliary_weight=weight)
    assert set(parts) == {"ce", "aux_ce"}
    assert parts["ce"] == pytest.approx(ce, rel=1e-5)
    assert parts["aux_ce"] == pytest.approx(aux_ce, rel=1e-5)
    assert loss == pytest.approx(ce + weight * aux_ce, rel=1e-5)
    loss, parts = segmentation_loss(DPTOutput(logits=jnp.asarray(logits)), labels)
    assert set(parts) == {"ce"} and loss == pytest.approx(ce, rel=1e-5)


def test_segmentation_loss_is_that_of_torch():
    torch = pytest.importorskip("torch", reason="needs torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(7)
    logits, aux = (rng.standard_normal((2, *s, 4)).astype(np.float32) for s in [(4, 6), (2, 3)])
    labels = rng.integers(0, 4, (2, 9, 11)).astype(np.uint8)
    labels[0, :3] = 255

    def ce(x):
        resized = functional.interpolate(
            torch.tensor(x.transpose(0, 3, 1, 2).copy()),
            size=(9, 11),
            mode="bilinear",
            align_corners=False,
        )
        return functional.cross_entropy(resized, torch.tensor(labels).long(), ignore_index=255)

    output = DPTOutput(logits=jnp.asarray(logits), aux_logits=jnp.asarray(aux))
    loss, _ = segmentation_loss(output, labels)
    assert loss == pytest.approx((ce(logits) + 0.4 * ce(aux)).item(), rel=1e-5)
