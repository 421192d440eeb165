# SPDX-License-Identifier: Apache-2.0
"""Training's initial values: real DINOv2 weights, an AugReg file, another head, another encoder."""

from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest

from dpt_jax.models.dpt import build_model
from dpt_jax.weights import initialize
from dpt_jax.weights.errors import WeightsError

DINOV2 = Path(__file__).parents[2] / "../shared/data/dinov2_small"
DEPTH = {"type": "depth"}


@pytest.mark.skipif(not DINOV2.is_dir(), reason="the DINOv2 weights are not on this machine")
@pytest.mark.parametrize("shape", ["native", "rect"])
@pytest.mark.parametrize("apply_layernorm", [False, True])
def test_real_dinov2_weights_give_the_reference_tokens(shape, apply_layernorm):
    model = build_model(
        {
            "variant": "dpt_dinov2_small",
            "head": DEPTH,
            "backbone": {"apply_layernorm": apply_layernorm},
        }
    )
    found = initialize.initial_values(DINOV2, model)
    assert not any("backbone" in name for name in found.reinitialised)
    params = flax.traverse_util.unflatten_dict(found.values)["params"]["backbone"]
    reference = np.load(DINOV2 / "reference_tokens.npz")
    pixels = reference[f"{shape}_pixels_uint8"].astype(np.float32) / 255
    pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    pixels = pixels.astype(np.float32).reshape(1, *pixels.shape[-3:])
    features = jax.jit(lambda p, x: model.backbone.apply({"params": p}, x))(params, pixels)
    index = reference[f"{shape}_token_index"]
    for block, tokens in zip((3, 6, 9, 12), features.taps, strict=True):
        want = reference[f"{shape}_block{block}{'_norm' if apply_layernorm else ''}"]
        got = np.asarray(tokens)[0][index]
        assert np.abs(got - want.reshape(got.shape)).max() <= 2e-5 * np.abs(want).max()
