# SPDX-License-Identifier: Apache-2.0
"""Prompt Depth Anything against transformers: with and without a prompt, there and back."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference models are PyTorch ones")
transformers = pytest.importorskip("transformers", reason="the reference models are in it")

import jax  # noqa: E402

from dpt_jax import build_model  # noqa: E402
from dpt_jax.weights.huggingface_config import model_config  # noqa: E402
from tests.parity import directories, reference  # noqa: E402
from tests.parity.families import DINOV2, Case, deal, dinov2, pixels  # noqa: E402
from tests.parity.successors import depth_anything_config  # noqa: E402

COUNT = 8
# The grids of the prompt; None is no prompt.
PROMPTS = [(3, 4), (24, 32), (7, 5), None, (1, 2), (192, 256), (56, 42), (5, 60)]


def cases() -> list[tuple[Case, tuple[int, int] | None]]:
    """Neither head_in_index nor max_depth changes anything; they are here to show it."""
    options = DINOV2 | {
        "width": [8, 9, 16, 21],
        "head_width": [32, 7, 16],
        "kind": [("metric", 1), ("relative", 1), ("metric", 20), ("relative", 3)],
        "prompt": PROMPTS,
        "mask_token": [True],  # as in the public ones; what we save has one
    }
    rng, rows = deal(COUNT, 20241218, **options)
    found = []
    for i, row in enumerate(rows):
        backbone, scale = dinov2(row, rng)
        config = depth_anything_config(row, rng) | {"backbone_config": backbone}
        size = pixels(row.grid[1], row.patch, row.ragged)
        architecture = "PromptDepthAnythingForDepthEstimation"
        case = Case("Prompt Depth Anything", f"{i}", config, size, i, architecture, scale)
        found.append((case, row.prompt))
    return found


def network(case: Case, prompt: np.ndarray | None = None):
    config = transformers.PromptDepthAnythingConfig(**case.config)
    hf = transformers.PromptDepthAnythingForDepthEstimation(config).eval()
    reference.randomise(hf, case.seed, case.embedding_scale)
    reference.balance(hf.head.conv3, prompted(hf, prompt), reference.images(case))
    return hf


def prompted(hf, prompt: np.ndarray | None):
    """`hf` as a function of the image."""
    given = None if prompt is None else reference.nchw(prompt)
    return lambda image: hf(image, prompt_depth=given)


def metres(size: tuple[int, int] | None, seed: int) -> np.ndarray | None:
    """Two prompts of different ranges."""
    if size is None:
        return None
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.3, 7, (2, *size, 1)) * [[[[1]]], [[[3]]]]).astype(np.float32)


@pytest.mark.parametrize("case,size", cases(), ids=lambda value: getattr(value, "name", None))
def test_depth_and_files_are_those_of_transformers(case, size, tmp_path):
    torch.set_num_threads(1)
    image, prompt = reference.images(case), metres(size, case.seed)
    hf = network(case, prompt)
    model, variables = directories.load(hf, tmp_path)
    want = reference.reference_output(prompted(hf, prompt), image)
    reference.assert_telling(want, segmentation=False)
    with jax.default_matmul_precision("highest"):
        apply = reference.fast_jit(model.apply)
        got = apply(variables, image, prompt_depth=prompt).depth
        assert reference.relative(got, want) <= reference.TOLERANCE
        if prompt is not None:
            other = apply(variables, image, prompt_depth=prompt[:, ::-1, ::-1]).depth
            assert reference.relative(other, want) > 1e-3, "the prompt hardly matters"
    directories.assert_saved_again(model, variables, hf, tmp_path)


def test_the_default_is_the_public_small_size():
    config = transformers.PromptDepthAnythingConfig(depth_estimation_type="metric").to_dict()
    taps = {"out_indices": [3, 6, 9, 12], "out_features": None}
    config["backbone_config"] |= taps  # the default's are those of the first Depth Anything
    variant = {"variant": "prompt_depth_anything_small", "head": {"type": "depth"}}
    assert build_model(model_config(config)) == build_model(variant)


def test_a_constant_prompt_comes_back_and_bad_ones_are_refused():
    case, _ = cases()[0]
    hf = network(case)
    model, variables = reference.ours(hf)
    image = reference.images(case)
    constant = np.full((2, 3, 4, 1), 2.5, np.float32)
    apply = reference.fast_jit(model.apply)
    depth = apply(variables, image, prompt_depth=constant).depth
    np.testing.assert_array_equal(depth, 2.5)
    for shape in [(2, 3, 4), (1, 3, 4, 1), (2, 3, 4, 3)]:
        with pytest.raises(ValueError, match=r"prompt_depth: expected \(2, height, width, 1\)"):
            model.apply(variables, image, prompt_depth=np.zeros(shape, np.float32))
    neck = model.neck.clone(prompt_depth=False)
    with pytest.raises(ValueError, match=r"prompt_depth was given, .* is False"):
        model.clone(neck=neck).apply(variables, image, prompt_depth=constant)
