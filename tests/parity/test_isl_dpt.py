# SPDX-License-Identifier: Apache-2.0
"""The model against a transcription of isl-org/DPT: rectangles, which Hugging Face cannot judge."""

import functools
import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models.dpt import build_model
from dpt_jax.weights import huggingface

torch = pytest.importorskip("torch", reason="the reference is written in PyTorch")


def load_oracle():
    path = Path(__file__).parents[1] / "oracles" / "isl_dpt.py"
    spec = importlib.util.spec_from_file_location("isl_dpt_oracle", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


isl = load_oracle()
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

BLOCK = r"pretrained\.model\.blocks\.(\d+)"
LAYER = r"dpt.encoder.layer.\1"
FUSION = {"1": "3", "2": "2", "3": "1", "4": "0"}  # refinenet4 is the coarsest, HF's layer 0
# Exactly one pattern fits each name; qkv is split before.
NAMES = {
    r"pretrained\.model\.cls_token": "dpt.embeddings.cls_token",
    r"pretrained\.model\.pos_embed": "dpt.embeddings.position_embeddings",
    r"pretrained\.model\.patch_embed\.proj": "dpt.embeddings.patch_embeddings.projection",
    r"pretrained\.model\.norm": "dpt.layernorm",
    BLOCK + r"\.norm1": LAYER + ".layernorm_before",
    BLOCK + r"\.norm2": LAYER + ".layernorm_after",
    BLOCK + r"\.attn\.(query|key|value)": LAYER + r".attention.attention.\2",
    BLOCK + r"\.attn\.proj": LAYER + ".attention.output.dense",
    BLOCK + r"\.mlp\.fc1": LAYER + ".intermediate.dense",
    BLOCK + r"\.mlp\.fc2": LAYER + ".output.dense",
    r"pretrained\.act_postprocess(\d)\.0\.project\.0": lambda m: (
        f"neck.reassemble_stage.readout_projects.{int(m[1]) - 1}.0"
    ),
    r"pretrained\.act_postprocess(\d)\.([34])": lambda m: (
        f"neck.reassemble_stage.layers.{int(m[1]) - 1}." + {"3": "projection", "4": "resize"}[m[2]]
    ),
    r"scratch\.layer(\d)_rn": lambda m: f"neck.convs.{int(m[1]) - 1}",
    r"scratch\.refinenet(\d)\.out_conv": lambda m: (
        f"neck.fusion_stage.layers.{FUSION[m[1]]}.projection"
    ),
    r"scratch\.refinenet(\d)\.resConfUnit(\d)\.(conv|bn)(\d)": lambda m: (
        f"neck.fusion_stage.layers.{FUSION[m[1]]}.residual_layer{m[2]}."
        + {"conv": "convolution", "bn": "batch_norm"}[m[3]]
        + m[4]
    ),
    r"scratch\.output_conv\.(\d)": r"head.head.\1",
    r"auxlayer\.(\d)": r"auxiliary_head.head.\1",
}
LEAF = r"(\.weight|\.bias|\.running_mean|\.running_var|\.num_batches_tracked|)"


def to_hugging_face(state) -> dict[str, np.ndarray]:
    split = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            for part, rows in zip(
                ("query", "key", "value"), np.split(tensor.numpy(), 3), strict=True
            ):
                split[name.replace("qkv", part)] = rows
        elif not name.startswith("pretrained.model.head."):
            split[name] = tensor.numpy()
    renamed = {}
    for name, value in split.items():
        fits = [(p, new) for p, new in NAMES.items() if re.fullmatch(p + LEAF, name)]
        assert len(fits) == 1, name
        (pattern, new), leaf = fits[0], re.search(LEAF + "$", name)[0]
        renamed[re.sub(f"^{pattern}$", new, name.removesuffix(leaf)) + leaf] = value
    return renamed


def our_model(spec):
    head = {"type": "depth"}
    if spec.labels is not None:
        head = {"type": "segmentation", "num_labels": spec.labels}
    return build_model(
        {
            "variant": "dpt_base",
            "backbone": {
                "hidden_size": spec.width,
                "num_hidden_layers": spec.depth,
                "num_attention_heads": spec.heads,
                "intermediate_size": spec.mlp,
                "layer_norm_eps": spec.eps,
                "patch_size": spec.patch,
                "image_size": spec.patch * spec.native,
                "out_indices": spec.hooks,
            },
            "neck": {
                "hidden_sizes": spec.widths,
                "readout_type": spec.readout,
                "fusion_hidden_size": spec.features,
                "use_batch_norm_in_fusion_residual": spec.use_bn,
            },
            "head": head,
            "auxiliary_head": {"use": spec.labels is not None},
        }
    )


SIZES = [(64, 128), (128, 64), (64, 96), (96, 160), (32, 224), (64, 64)]
SPECS = {
    "project": isl.Spec(),
    "add": isl.Spec(readout="add", depth=5, hooks=(0, 2, 3, 4)),
    "ignore": isl.Spec(readout="ignore", features=10, native=5),
    "segmentation": isl.Spec(labels=7, use_bn=True),
    "segmentation_add": isl.Spec(labels=3, use_bn=True, readout="add", width=32, heads=4),
    "depth_with_bn": isl.Spec(use_bn=True, native=3),
}
PICKED = [
    *(("project", size) for size in SIZES),
    *(("segmentation", size) for size in SIZES[:4]),
    *(("add", size) for size in SIZES[:2]),
    *(("ignore", size) for size in SIZES[1:3]),
    ("segmentation_add", (128, 64)),
    ("depth_with_bn", (96, 160)),
]


@pytest.fixture(scope="module")
def errors(request):
    found = []
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        for name in sorted({name for name, _, _ in found}):
            error, size = max((e, s) for n, e, s in found if n == name)
            print(f"\nworst of isl-org {name}: {error:.1e} at {size}", end="")
        print()


@functools.cache
def prepared(name):
    spec = SPECS[name]
    state = isl.random_state(spec, seed=list(SPECS).index(name))
    model = our_model(spec)
    return spec, state, model, huggingface.to_variables(to_hugging_face(state), model)


@pytest.mark.parametrize(("name", "size"), PICKED)
def test_rectangles_are_those_of_isl_org(name, size, errors):
    torch.set_num_threads(1)
    spec, state, model, variables = prepared(name)
    pixels = np.random.default_rng(9).standard_normal((2, *size, 3)).astype(np.float32)
    want = isl.forward(state, spec, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    with jax.default_matmul_precision("highest"):
        output = fast_jit(model.apply)(variables, pixels)
    if spec.labels is None:
        got, want = output.depth, want.numpy()
        assert np.mean(want > 0) > 0.05
    else:
        got, want = output.logits, want.permute(0, 2, 3, 1).numpy()
    assert got.shape[1:3] == size
    assert got.shape == want.shape
    assert want.std() > 0.01
    error = float(np.abs(got - want).max() / np.abs(want).max())
    errors.append((name, error, size))
    assert error <= 1e-5


@pytest.mark.parametrize("size", [(16, 64), (80, 48), (48, 96), (70, 101)])
def test_odd_grids_work_here(size):
    _, _, model, variables = prepared("project")
    pixels = np.random.default_rng(9).standard_normal((1, *size, 3)).astype(np.float32)
    rows, columns = (-(-(side // 16) // 2) for side in size)
    depth = fast_jit(model.apply)(variables, pixels).depth
    assert depth.shape == (1, 32 * rows, 32 * columns)
    assert bool(jnp.isfinite(depth).all()) and float(depth.max()) > 0


def test_isl_org_itself_refuses_odd_grids():
    spec, state, *_ = prepared("project")
    with pytest.raises(RuntimeError, match="size of tensor"):
        isl.forward(state, spec, torch.zeros(1, 3, 80, 64))


@pytest.mark.parametrize("name", ["project", "segmentation"])
def test_only_dead_weights_are_dropped(name):
    _, state, model, _ = prepared(name)
    renamed = to_hugging_face(state)
    unknown = dict(renamed) | {"neck.convs.4.weight": np.zeros(1, np.float32)}
    with pytest.raises(ValueError, match=r"unused: neck\.convs\.4\.weight"):
        huggingface.to_variables(unknown, model)
    never_read = huggingface.dead_parameters(model)
    dead = [k for k in renamed if k in never_read or k.endswith(".num_batches_tracked")]
    assert dead
    huggingface.to_variables({k: v for k, v in renamed.items() if k not in dead}, model)
