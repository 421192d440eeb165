# SPDX-License-Identifier: Apache-2.0
"""Batched prediction against one image at a time, resized in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.evaluation.inference import (
    batches_by_size,
    make_predict,
    normalize,
    predict_examples,
)
from dpt_jax.models.dpt import build_model

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TINY = {
    "variant": "dpt_tiny",
    "backbone": {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "patch_size": 8,
        "image_size": 32,
    },
    "neck": {"hidden_sizes": [4, 4, 6, 8], "fusion_hidden_size": 6},
}
HEADS = {
    "depth": {"type": "depth", "activation": "sigmoid"},
    "segmentation": {"type": "segmentation", "num_labels": 7},
}


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Optimising programs of a tiny network takes longer than running them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def random_variables(model, seed=0):
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = 1.5 * np.prod(leaf.shape[:-1]) ** -0.5 if path[-1].key == "kernel" else 0.3
        return (spread * rng.standard_normal(leaf.shape)).astype(np.float32)

    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    return jax.tree_util.tree_map_with_path(value, abstract)


@pytest.fixture(scope="module")
def network(request):
    """Model, variables, compiled prediction, and the outputs for one normalised image."""
    model = build_model(TINY | {"head": HEADS[request.param]})

    @jax.jit
    def alone(variables, pixels):
        output = model.apply(variables, pixels[None])
        return output.depth[0, ..., None] if output.logits is None else output.logits[0]

    return model, random_variables(model), make_predict(model, MEAN, STD), alone


# Input sizes, each with the sizes of targets; 64 and 65 are about the padding of outputs.
SIZES = {
    (32, 48): [(37, 51), (64, 64), (65, 130), (20, 7)],
    (32, 32): [(32, 32), (1, 60), (50, 64)],
}


def examples(seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for size, targets in SIZES.items():
        for target in targets:
            # Low frequencies too, so that images differ from each other.
            image = rng.integers(0, 256, (1, 1, 3)) + rng.integers(-99, 99, (*size, 3))
            found.append(
                {
                    "image": np.clip(image, 0, 255).astype(np.uint8),
                    "source_image": np.zeros((*target, 3), np.uint8),
                    "name": str(len(found)),
                }
            )
    return [found[i] for i in rng.permutation(len(found))]


def matrix(n, size):
    """Rows of a bilinear resize with aligned borders, in float64."""
    rows = np.zeros((size, n))
    for i in range(size):
        x = min(max((i + 0.5) * n / size - 0.5, 0), n - 1)
        low = int(x)
        rows[i, low] += 1 - (x - low)
        rows[i, min(low + 1, n - 1)] += x - low
    return rows


@pytest.mark.parametrize(
    ("network", "batch_size"),
    [("segmentation", 1), ("depth", 3), ("segmentation", 7)],
    indirect=["network"],
)
def test_predictions_are_those_of_one_image_at_a_time(network, batch_size):
    model, variables, predict, alone = network
    seen, different = [], set()
    given = examples()
    for example, prediction in predict_examples(
        predict, variables, model, iter(given), batch_size=batch_size
    ):
        seen.append(example["name"])
        pixels = (example["image"] / 255 - np.array(MEAN)) / np.array(STD)
        maps = np.asarray(alone(variables, np.float32(pixels)), np.float64)
        h, w = example["source_image"].shape[:2]
        assert prediction.shape == (h, w)
        want = np.einsum("Hh,Ww,hwk->HWk", matrix(len(maps), h), matrix(maps.shape[1], w), maps)
        if want.shape[-1] == 1:
            assert prediction.dtype == np.float32
            assert np.ptp(want) > 0.01
            np.testing.assert_allclose(prediction, want[..., 0], rtol=1e-4, atol=1e-4)
        else:
            assert prediction.dtype == np.uint8
            picked = np.take_along_axis(want, prediction[..., None].astype(int), -1)[..., 0]
            assert (picked >= want.max(-1) - 1e-4).all(), "no class is better"
            assert (prediction == want.argmax(-1)).mean() > 0.98
            different |= set(np.unique(prediction))
    assert sorted(seen) == sorted(example["name"] for example in given)
    assert len(different) > 2 or maps.shape[-1] == 1, "a constant would prove nothing"


def test_the_real_resize_of_torch_is_the_same():
    torch = pytest.importorskip("torch", reason="needs torch")
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 9))
    want = torch.nn.functional.interpolate(
        torch.tensor(x), size=(13, 4), mode="bilinear", align_corners=False
    )
    got = np.einsum("Hh,Ww,bkhw->bkHW", matrix(5, 13), matrix(9, 4), x)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-12)


@pytest.mark.parametrize("network", ["segmentation"], indirect=True)
def test_every_batch_that_is_placed_is_full(network):
    model, variables, predict, _ = network
    sizes = []

    def place(batch):
        assert set(batch) == {"image", "rows", "columns"}
        assert batch["image"].dtype == np.uint8
        sizes.append({len(x) for x in batch.values()})
        return batch

    count = sum(
        1
        for _ in predict_examples(predict, variables, model, examples(1), batch_size=7, place=place)
    )
    assert count == 7
    # Four of one size and three of the other.
    assert sizes == [{7}] * 2


@pytest.mark.parametrize("seed", range(8))
def test_batches_hold_every_example_once(seed):
    rng = np.random.default_rng(seed)
    count, batch_size = int(rng.integers(0, 30)), int(rng.integers(1, 6))
    shapes = [(4, 6, 3), (6, 4, 3), (5, 5, 3)]
    given = [
        {"image": np.zeros(shapes[rng.integers(3)], np.uint8), "name": i} for i in range(count)
    ]
    names, partial = [], {}
    for group, padded in batches_by_size(iter(given), batch_size):
        assert 1 <= len(group) <= batch_size == len(padded)
        assert len({example["image"].shape for example in padded}) == 1
        assert [e["name"] for e in padded[: len(group)]] == [e["name"] for e in group]
        assert all(filler is group[0] for filler in padded[len(group) :])
        names += [example["name"] for example in group]
        if len(group) < batch_size:
            shape = group[0]["image"].shape
            partial[shape] = partial.get(shape, 0) + 1
    assert sorted(names) == list(range(count))
    assert all(n == 1 for n in partial.values()), "one padded batch per size at most"


def test_batches_do_not_wait_for_the_end():
    endless = ({"image": np.zeros((2, 2 + i % 2, 3), np.uint8), "name": i} for i in range(10**9))
    stream = batches_by_size(endless, 3)
    assert [e["name"] for e in next(stream)[0]] == [0, 2, 4]
    assert [e["name"] for e in next(stream)[0]] == [1, 3, 5]


def test_normalize():
    image = np.array([[[[0, 255, 51]]]], np.uint8)
    got = normalize(jnp.asarray(image), (0.5, 0.25, 0.1), (0.5, 0.5, 0.2))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got[0, 0, 0], [-1, 1.5, 0.5], rtol=1e-6)
