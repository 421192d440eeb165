# SPDX-License-Identifier: Apache-2.0
"""TIPSv2-DPT against transformers: depth, normals, segmentation and all three, there and back."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference models are PyTorch ones")
transformers = pytest.importorskip("transformers", reason="the reference models are in it")

import flax.traverse_util  # noqa: E402
import jax  # noqa: E402

from dpt_jax import build_model, load_pretrained  # noqa: E402
from dpt_jax.weights import initialize  # noqa: E402
from dpt_jax.weights.errors import WeightsError  # noqa: E402
from dpt_jax.weights.huggingface_config import model_config  # noqa: E402
from tests.parity import directories, reference  # noqa: E402
from tests.parity.families import (  # noqa: E402
    ACTIVATIONS,
    FACTORS,
    GRIDS,
    RAGGED,
    WIDTHS_AND_HEADS,
    Case,
    deal,
    pixels,
)

TASKS = {
    "depth": "Tipsv2DptForDepthEstimation",
    "normals": "Tipsv2DptForNormalEstimation",
    "segmentation": "Tipsv2DptForSemanticSegmentation",
    "dense": "Tipsv2DptForDensePrediction",
}


def cases(count: int = 9) -> list[Case]:
    rng, rows = deal(
        count,
        20260414,
        task=list(TASKS),
        taps=[2, 3, 4],
        patch=[14, 14, 8],
        width_heads=WIDTHS_AND_HEADS,
        qkv_bias=[True, True, False],
        act=ACTIVATIONS,
        readout_act=["gelu_pytorch_tanh", "gelu_pytorch_tanh", "gelu", "relu"],
        decoder_act=["relu", "relu", "gelu"],
        eps_scale=[(1e-6, 0.05), (1e-6, 1.0), (1e-3, 1.0)],
        mlp_ratio=[2, 1.7, 4],
        swiglu=[False, False, True],
        normed=[True, True, False],
        registers=[1, 1, 2, 0],
        behind=[0, 0, 1],
        width=[8, 9, 16],
        bins=[5, 8, 12],
        depths=[(0.001, 10.0), (0.1, 4.0), (0.02, 80.0)],
        grid=GRIDS,
        ragged=RAGGED,
    )
    found = []
    for i, row in enumerate(rows):
        layers = row.taps + int(rng.integers(0, 2))
        taps = 1 + np.sort(rng.permutation(layers)[: row.taps])
        (hidden, heads), (eps, scale) = row.width_heads, row.eps_scale
        config: dict[str, Any] = {
            "backbone_config": {
                "model_type": "tipsv2_vision_model",
                "hidden_size": hidden,
                "num_attention_heads": heads,
                "num_hidden_layers": layers + row.behind,
                "mlp_ratio": row.mlp_ratio,
                "hidden_act": row.act,
                "layer_norm_eps": eps,
                "image_size": row.grid[0] * row.patch + int(rng.integers(0, row.patch)),
                "patch_size": row.patch,
                "qkv_bias": row.qkv_bias,
                "use_swiglu_ffn": row.swiglu,
                "num_register_tokens": row.registers,
                "apply_layernorm": row.normed,
                "out_indices": taps.tolist(),
                "reshape_hidden_states": False,
            },
            "neck_hidden_sizes": rng.integers(5, 25, row.taps).tolist(),
            "reassemble_factors": list(FACTORS[row.taps][rng.integers(len(FACTORS[row.taps]))]),
            "fusion_hidden_size": row.width,
            "readout_activation": row.readout_act,
            "num_depth_bins": row.bins,
            "min_depth": row.depths[0],
            "max_depth": row.depths[1],
            "depth_decoder_activation": row.decoder_act,
            "num_labels": int(rng.choice([2, 5, 11])),
        }
        size = pixels(row.grid[1], row.patch, row.ragged)
        found.append(Case(row.task, f"{row.task}{i}", config, size, i, TASKS[row.task], scale))
    return found


def network(case: Case):
    hf = getattr(transformers, case.architecture)(transformers.Tipsv2DptConfig(**case.config))
    reference.randomise(hf.eval(), case.seed, case.embedding_scale)
    return hf


def expected(hf, image: np.ndarray) -> dict[str, np.ndarray]:
    """transformers' outputs under the names of ours, channels last."""
    with torch.no_grad():
        output = hf(reference.nchw(image))
    names = {"segmentation_logits": "logits", "predicted_depth": "depth"}
    found = {names.get(name, name): value for name, value in output.items()}
    return {
        name: (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy()
        for name, value in found.items()
    }


def predicted(model, variables, image: np.ndarray) -> dict[str, np.ndarray]:
    with jax.default_matmul_precision("highest"):
        output = reference.fast_jit(model.apply)(variables, image)
    fields = {name: getattr(output, name) for name in ("depth", "normals", "logits")}
    return {name: np.asarray(value) for name, value in fields.items() if value is not None}


def assert_agrees(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        reference.assert_telling(value, segmentation=name != "depth")
        assert reference.relative(got[name], value) <= reference.TOLERANCE, name


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_outputs_and_files_are_those_of_transformers(case, tmp_path):
    torch.set_num_threads(1)
    hf = network(case)
    model, variables = directories.load(hf, tmp_path)
    assert model.task == case.family
    image = reference.images(case)
    assert_agrees(predicted(model, variables, image), expected(hf, image))
    directories.assert_saved_again(model, variables, hf, tmp_path)
    directories.assert_same_settings(case.config, tmp_path)


def test_a_class_for_one_task_reads_the_file_of_all(tmp_path):
    case = next(case for case in cases() if case.family == "dense")
    hf = network(case)
    hf.save_pretrained(tmp_path)
    image = reference.images(case)
    want = expected(hf, image)
    config = tmp_path / "config.json"
    text = config.read_text()
    for task, output in (("depth", "depth"), ("normals", "normals"), ("segmentation", "logits")):
        config.write_text(text.replace(TASKS["dense"], TASKS[task]))
        got = predicted(*load_pretrained(tmp_path), image)
        assert got.keys() == {output}
        assert reference.relative(got[output], want[output]) <= reference.TOLERANCE


def test_training_starts_from_the_encoder_or_from_all(tmp_path):
    case = next(case for case in cases() if case.family == "depth")
    hf = network(case)
    model, variables = directories.load(hf, tmp_path / "depth")
    found = initialize.initial_values(tmp_path / "depth", model)
    assert not found.reinitialised
    for path, value in flax.traverse_util.flatten_dict(variables["params"]).items():
        np.testing.assert_array_equal(found.values[("params", *path)], value)
    encoder = transformers.Tipsv2VisionModel(hf.config.backbone_config)
    encoder.save_pretrained(tmp_path / "encoder")
    found = initialize.initial_values(tmp_path / "encoder", model)
    assert all(path[1] == "backbone" for path in found.values)
    assert not any("backbone" in name for name in found.reinitialised)


def test_the_default_is_the_public_base_size():
    config = transformers.Tipsv2DptConfig(num_labels=150).to_dict()
    assert build_model(model_config(config)) == build_model({"variant": "tipsv2_base"})


def test_revisions_without_the_encoder_are_refused():
    with pytest.raises(WeightsError, match="heads only, and its encoder is in google/tipsv2-l14"):
        model_config({"model_type": "tipsv2_dpt", "backbone_repo": "google/tipsv2-l14"})
