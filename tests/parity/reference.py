# SPDX-License-Identifier: Apache-2.0
"""transformers' model of a case, and ours with its weights. Importing this needs torch.

transformers starts biases, class tokens, position embeddings and bias tables at zero and BatchNorm
at the identity, which would hide a bug in any of them: here every tensor is random.
"""

import json
import re

import jax
import numpy as np
import torch
import transformers

from dpt_jax.models.dpt import build_model
from dpt_jax.weights import huggingface, huggingface_config
from tests.fast_jit import fast_jit

TOLERANCE = 1e-5
TOKENS = r"(dpt|backbone)\.(beit\.)?embeddings\."
# What a final ReLU follows.
FINAL_CONVOLUTIONS = {
    "DPTForDepthEstimation": "head.head.4",
    "DepthAnythingForDepthEstimation": "head.conv3",
}


def random_value(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(shape)
    if name.endswith(("_token", "_tokens", "position_embeddings", "relative_position_bias_table")):
        return noise
    if name.endswith("logit_scale"):
        # Cut at log 100 = 4.6, where an attention so sharp multiplies rounding: a few heads only.
        return np.where(rng.random(shape) < 0.04, 5.0, rng.uniform(0, 2.5, shape))
    if name.endswith("running_var"):
        return rng.uniform(0.5, 2, shape)
    if name.endswith(("bias", "running_mean")):
        return 0.2 * noise
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 4 and ".resize." in name and shape[2] != 3:
        return noise * shape[0] ** -0.5
    if "residual_layer" in name:
        return noise * (2 / np.prod(shape[1:])) ** 0.5 / 2
    return noise * np.prod(shape[1:]) ** -0.5


def reference(case):
    """transformers' model in eval mode with every parameter and statistic random."""
    torch.set_num_threads(1)
    architecture = getattr(transformers, case.architecture)
    config = architecture.config_class(**case.config)
    config.architectures = [case.architecture]
    hf = architecture(config).eval()
    randomise(hf, case.seed, case.embedding_scale)
    if case.family == "DINOv2, registers":
        drop_registers(hf.backbone)
    if case.architecture in FINAL_CONVOLUTIONS:
        balance(hf.get_submodule(FINAL_CONVOLUTIONS[case.architecture]), hf, images(case))
    return hf


def drop_registers(backbone) -> None:
    """Leaves the class and patch tokens in the feature maps, which is what the neck expects."""
    registers = backbone.config.num_register_tokens

    def drop(module, inputs, output):
        output.feature_maps = tuple(
            torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], 1)
            for tokens in output.feature_maps
        )
        return output

    backbone.register_forward_hook(drop)


def balance(final, hf, pixels: np.ndarray) -> None:
    """Shifts and scales the last convolution so that its activation has something to do.

    Values then have std 1, and pixels are positive in every example and often not all of them. The
    shift no more than halves the largest value: rounding would weigh more in the rest.
    """
    caught = []
    handle = final.register_forward_hook(lambda module, inputs, output: caught.append(output))
    with torch.no_grad():
        hf(nchw(pixels))
        values = caught[0].flatten(1)
        final.bias -= torch.minimum(values.quantile(0.5, dim=1), values.amax(1) / 2).min()
        for parameter in (final.weight, final.bias):
            parameter /= values.std()
    handle.remove()


def randomise(hf, seed: int, embedding_scale: float = 1.0) -> None:
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in hf.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                value = np.asarray(random_value(name, tuple(tensor.shape), rng))
                if re.match(TOKENS, name):
                    value = value * embedding_scale
                tensor.copy_(torch.from_numpy(value))


def arrays(hf) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in hf.state_dict().items()}


def hf_config(hf) -> dict:
    """What `save_pretrained` would write, defaults included."""
    return json.loads(hf.config.to_json_string(use_diff=False))


def ours(hf, **changes):
    """Our model and the weights of `hf`; `changes` replace entries of the config."""
    model = build_model(huggingface_config.model_config(hf_config(hf) | changes))
    return model, huggingface.to_variables(arrays(hf), model)


def images(case, batch: int = 2) -> np.ndarray:
    rng = np.random.default_rng(1000 + case.seed)
    return rng.standard_normal((batch, *case.size, 3)).astype(np.float32)


def nchw(x: np.ndarray):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def reference_output(hf, pixels: np.ndarray) -> np.ndarray:
    """Depth `b h w`, or logits `b h w k`."""
    with torch.no_grad():
        output = hf(nchw(pixels))
    if "logits" in output:
        return output.logits.permute(0, 2, 3, 1).numpy()
    return output.predicted_depth.numpy()


def our_output(model, variables, pixels: np.ndarray) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        output = fast_jit(model.apply)(variables, pixels)
    assert output.aux_logits is None
    assert (output.depth is None) != (output.logits is None)
    return np.asarray(output.logits if output.depth is None else output.depth)


def relative(got, want) -> float:
    """The largest difference within an example, over the largest value of that example."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    axes = tuple(range(1, want.ndim))
    return float(np.max(np.abs(got - want).max(axes) / np.abs(want).max(axes)))


def assert_telling(want: np.ndarray, segmentation: bool) -> None:
    """A constant, or one huge value among small ones, would agree with anything."""
    assert np.isfinite(want).all()
    for example in want:
        assert 0.01 < np.abs(example).max() < 1e4
        assert np.std(example) > 0.03 * np.abs(example).max()
        assert np.percentile(np.abs(example), 95) > 0.1 * np.abs(example).max()
        assert segmentation or np.mean(example > 0) > 0.1


def disagreement(case) -> float:
    """How far our prediction is from that of transformers, relative to the latter's largest."""
    hf = reference(case)
    pixels = images(case)
    want = reference_output(hf, pixels)
    assert_telling(want, case.segmentation)
    return relative(our_output(*ours(hf), pixels), want)


def table(errors: list[tuple[str, float, str]]) -> list[str]:
    """A line for each family of (family, error, case): how many, and the worst."""
    lines = []
    for family in sorted({family for family, _, _ in errors}):
        rows = [row for row in errors if row[0] == family]
        _, error, case = max(rows, key=lambda row: row[1])
        lines.append(f"worst of {len(rows):3d}, {family}: {error:.1e} ({case})")
    return lines
