# SPDX-License-Identifier: Apache-2.0
"""CHMv2 (DINOv3 with a DPT) against transformers: canopy heights, there and back."""

import functools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference models are PyTorch ones")
transformers = pytest.importorskip("transformers", reason="the reference models are in it")

import jax  # noqa: E402
from transformers.models.dinov3_vit import modeling_dinov3_vit  # noqa: E402

from dpt_jax import build_model  # noqa: E402
from dpt_jax.models import dinov3  # noqa: E402
from dpt_jax.models.depth_bins import binned_depth  # noqa: E402
from dpt_jax.weights import initialize  # noqa: E402
from dpt_jax.weights.huggingface_config import model_config  # noqa: E402
from tests.parity import directories, reference  # noqa: E402
from tests.parity.families import (  # noqa: E402
    ACTIVATIONS,
    FACTORS,
    GRIDS,
    RAGGED,
    Case,
    deal,
    pixels,
)

BINS = ["chmv2_mixlog", "chmv2_mixlog", "linear", "log"]
NORMS = ["chmv2_mixlog", "chmv2_mixlog", "linear", "softmax", "sigmoid"]


def cases(count: int = 10) -> list[Case]:
    rng, rows = deal(
        count,
        20260311,
        taps=[2, 3, 4],
        patch=[16, 16, 8],
        width_heads=[(16, 2), (24, 3), (32, 4), (40, 2), (12, 1)],
        biases=[(True, False, True, True, True), (True,) * 5, (False,) * 5],
        act=ACTIVATIONS,
        gated=[False, False, True],
        theta=[100.0, 100.0, 20.0],
        eps_scale=[(1e-5, 0.05), (1e-6, 1.0), (1e-3, 1.0)],
        layerscale=[1.0, 0.5],
        registers=[4, 4, 0, 1],
        normed=[True, True, False],
        behind=[0, 0, 1],
        augmentation=[(None, None, 2.0), (None, None, None), (0.1, 1.5, None)],
        readout=["project", "project", "ignore", "add"],
        width=[8, 9, 16],
        head_width=[128, 7, 16],
        bins=BINS,
        norm=NORMS,
        num_bins=[6, 12, 9, 1],
        range=[(0.001, 96.0), (0.5, 20.0), (0.1, 40.0)],
        grid=GRIDS,
        ragged=RAGGED,
    )
    found = []
    for i, row in enumerate(rows):
        layers = row.taps + int(rng.integers(0, 2))
        taps = 1 + np.sort(rng.permutation(layers)[: row.taps])
        (hidden, heads), (eps, scale) = row.width_heads, row.eps_scale
        names = ("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias")
        ranges = ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale")
        config: dict[str, Any] = {
            "backbone_config": {
                "model_type": "dinov3_vit",
                "hidden_size": hidden,
                "num_attention_heads": heads,
                "num_hidden_layers": layers + row.behind,
                "intermediate_size": int(rng.integers(hidden, 2 * hidden)),
                "hidden_act": row.act,
                "use_gated_mlp": row.gated,
                "rope_theta": row.theta,
                "layer_norm_eps": eps,
                "layerscale_value": row.layerscale,
                "image_size": row.grid[0] * row.patch,
                "patch_size": row.patch,
                "num_register_tokens": row.registers,
                "apply_layernorm": row.normed,
                "out_indices": taps.tolist(),
                "reshape_hidden_states": True,
                "return_class_token": True,
                **dict(zip(names, row.biases, strict=True)),
                **dict(zip(ranges, row.augmentation, strict=True)),
            },
            "patch_size": row.patch,
            "post_process_channels": rng.integers(5, 25, row.taps).tolist(),
            "reassemble_factors": list(FACTORS[row.taps][rng.integers(len(FACTORS[row.taps]))]),
            "fusion_hidden_size": row.width,
            "head_hidden_size": row.head_width,
            "readout_type": row.readout,
            "number_output_channels": row.num_bins,
            "bins_strategy": row.bins,
            "norm_strategy": row.norm,
            "min_depth": row.range[0],
            "max_depth": row.range[1],
        }
        size = pixels(row.grid[1], row.patch, row.ragged)
        name = f"{i}-{row.bins}-{row.norm}"
        found.append(Case("CHMv2", name, config, size, i, "CHMv2ForDepthEstimation", scale))
    return found


def network(case: Case):
    hf = transformers.CHMv2ForDepthEstimation(transformers.CHMv2Config(**case.config)).eval()
    reference.randomise(hf, case.seed, case.embedding_scale)
    with torch.no_grad():
        # Decided enough for a map of heights that is not flat.
        hf.head.conv_depth.head[4].weight *= 4
    return hf


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_heights_and_files_are_those_of_transformers(case, tmp_path):
    torch.set_num_threads(1)
    hf = network(case)
    model, variables = directories.load(hf, tmp_path)
    image = reference.images(case)
    want = reference.reference_output(hf, image)
    reference.assert_telling(want, segmentation=False)
    got = reference.our_output(model, variables, image)
    assert reference.relative(got, want) <= reference.TOLERANCE
    directories.assert_saved_again(model, variables, hf, tmp_path)
    directories.assert_same_settings(case.config, tmp_path)


def test_training_starts_from_the_encoder(tmp_path):
    case = cases()[0]
    hf = network(case)
    model, _ = directories.load(hf, tmp_path / "all")
    encoder = transformers.DINOv3ViTModel(hf.config.backbone_config)
    encoder.save_pretrained(tmp_path / "encoder")
    found = initialize.initial_values(tmp_path / "encoder", model)
    assert all(path[1] == "backbone" for path in found.values)
    assert not any("backbone" in name for name in found.reinitialised)
    assert not initialize.initial_values(tmp_path / "all", model).reinitialised


def test_the_default_is_the_public_size():
    config = transformers.CHMv2Config().to_dict()
    assert build_model(model_config(config)) == build_model({"variant": "chmv2_large"})


@pytest.mark.parametrize("kind", sorted(set(BINS)))
@pytest.mark.parametrize("norm", sorted(set(NORMS)))
def test_every_pair_of_bins_and_norm(kind, norm):
    config = transformers.CHMv2Config(
        bins_strategy=kind, norm_strategy=norm, min_depth=0.02, max_depth=50.0
    )
    head = transformers.models.chmv2.modeling_chmv2.CHMv2FeaturesToDepth(config)
    logits = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(np.float32)
    logits[0, 0, 0] = -1  # no bin has any weight
    with torch.no_grad():
        want = head(reference.nchw(logits))[:, 0].numpy()
    kind, norm = (name.removeprefix("chmv2_") for name in (kind, norm))
    got = binned_depth(logits, kind, norm, 0.02, 50.0)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_training_moves_the_patches_of_all_images_alike():
    centers = dinov3.patch_centers((3, 5))
    want = modeling_dinov3_vit.get_patches_center_coordinates(3, 5, torch.float32, "cpu")
    np.testing.assert_allclose(centers, want, rtol=1e-6)
    keys = jax.random.split(jax.random.key(0), 20)

    def augmented(*ranges: float) -> np.ndarray:
        """20 draws of (y, x) of 15 patches."""
        augment = jax.vmap(lambda key: dinov3.augment_centers(centers, key, *ranges))
        return np.asarray(augment(keys))

    shift = augmented(0.2, 1.0, 1.0) - centers
    assert np.ptp(shift, axis=1).max() < 1e-6
    assert 0.15 < np.abs(shift).max() <= 0.2
    at = (slice(None), 0)  # the first patch, which is on neither axis
    jitter = augmented(0.0, 1.5, 1.0)[at] / centers[0]
    assert jitter.min() >= 1 / 1.5 and jitter.max() <= 1.5
    assert np.std(jitter, axis=0).min() > 0.1
    assert np.abs(np.diff(jitter)).min() > 1e-4
    rescale = augmented(0.0, 1.0, 2.0)[at] / centers[0]
    assert rescale.min() >= 1 / 2 and rescale.max() <= 2
    assert np.std(rescale, axis=0).min() > 0.2
    assert np.abs(np.diff(rescale)).max() < 1e-6


def test_only_training_moves_them():
    config = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config |= {"num_hidden_layers": 1, "out_indices": (0,), "patch_size": 8}
    image = np.random.default_rng(0).standard_normal((1, 16, 24, 3)).astype(np.float32)
    model = dinov3.DINOv3(**config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape), shapes)

    @functools.partial(reference.fast_jit, static_argnums=(0, 2))
    def patches(model, seed, train):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, image, train=train, rngs=rngs).taps[0]

    calm = dinov3.DINOv3(**config, pos_embed_rescale=1.0)
    still, one, two = patches(model, 1, False), patches(model, 1, True), patches(model, 2, True)
    np.testing.assert_array_equal(patches(calm, 1, True), still)
    assert np.abs(one - still).max() > 1e-3
    assert np.abs(one - two).max() > 1e-3
