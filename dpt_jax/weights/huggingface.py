# SPDX-License-Identifier: Apache-2.0
"""State dicts of Hugging Face's DPT family <-> variables.

Names follow one mechanical rule, which starts from the names that HF writes to disk. Dots between
words become levels, a number joins the word before it with an underscore, `dpt` is called
`backbone`, and the leaves are linen's:

    dpt.encoder.layer.3.attention.output.dense.weight
    backbone/encoder/layer_3/attention/output/dense/kernel

`weight` is `kernel` in convolutions and linear layers and `scale` in norms; `running_mean` and
`running_var` are `mean` and `var` of the collection "batch_stats". Checkpoints of the original
repositories are renamed to HF's disk names first (`originals.py`), so this is the only place that
fills parameters.

What a checkpoint holds and no dense prediction reads (`dead_parameters`) travels in the collection
"unused" under its HF name, so that an export is the file that was read, bit for bit.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from dpt_jax.models.dpt import DPT, abstract_variables
from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.families import family
from dpt_jax.weights.lazy import Tensors, lazy

Path = tuple[str, ...]

# What may be in a file besides `dead_parameters`: counters and tables that older versions stored,
# the pooler of the bare encoder, and classifiers of the backbone's own pretraining.
IGNORED = (
    r".*\.num_batches_tracked$",
    r".*\.relative_position_index$",
    r".*\.relative_coords_table$",
    r"(dpt|backbone)\.pooler\.",
    r"neck\.fusion_stage\.layers\.0\.residual_layer1\.",
    r"backbone\.(beit\.)?(embeddings\.mask_token$|layernorm\.)",
    r"dpt\.embeddings\.backbone\.bit\.(norm\.|encoder\.stages\.3\.)",
)

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}

# HF's names in memory -> on disk, where they differ since transformers 5.
_TO_DISK = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.model\.layer\.", "backbone.layer."),
        (r"^backbone\.beit\.layers\.", "backbone.encoder.layer."),
        (r"^backbone\.beit\.embeddings\.", "backbone.embeddings."),
        (
            r"^backbone\.(beit\.shared_position_bias|encoder\.relative_position_bias)\.",
            "backbone.beit.encoder.relative_position_bias.",
        ),
        (r"^backbone\.beit\.encoder\.layer\.", "backbone.encoder.layer."),
        (r"^(backbone\.encoder\.layer\.\d+\.attention)\.q_proj\.", r"\1.attention.query."),
        (r"^(backbone\.encoder\.layer\.\d+\.attention)\.k_proj\.", r"\1.attention.key."),
        (r"^(backbone\.encoder\.layer\.\d+\.attention)\.v_proj\.", r"\1.attention.value."),
        (r"^(backbone\.encoder\.layer\.\d+\.attention)\.o_proj\.", r"\1.output.dense."),
        (
            r"^(backbone\.encoder\.layer\.\d+)(?:\.attention)?\.relative_position_bias\.",
            r"\1.attention.attention.relative_position_bias.",
        ),
        (r"^(backbone\.encoder\.layer\.\d+\.mlp)\.down_proj\.", r"\1.weights_out."),
    )
)
_BEIT_MLP = re.compile(r"^backbone\.beit\.layers\.\d+\.mlp\.fc([12])\.")
# A parameter of a Transformer block, whatever its class calls them.
_BLOCK = re.compile(r"^(\w+\.(?:encoder\.layer|blocks|layer)\.)(\d+)(\..+)$")
_SWIGLU_GATE = re.compile(r"^(backbone\.encoder\.layer\.\d+\.mlp)\.gate_proj\.(weight|bias)$")


def to_disk_names(tensors: Tensors) -> dict[str, Callable[[], np.ndarray]]:
    """In-memory HF names as those on disk, which are left as they are."""
    renamed = {}
    for name, fetch in tensors.items():
        if match := _BEIT_MLP.match(name):
            name = name.replace(
                f".mlp.fc{match[1]}.",
                ".intermediate.dense." if match[1] == "1" else ".output.dense.",
            )
        for pattern, replacement in _TO_DISK:
            name = pattern.sub(replacement, name)
        renamed[name] = fetch
    for name in [name for name in renamed if _SWIGLU_GATE.match(name)]:
        up = name.replace(".gate_proj.", ".up_proj.")
        if up in renamed:
            parts = renamed.pop(name), renamed.pop(up)
            renamed[_SWIGLU_GATE.sub(r"\1.weights_in.\2", name)] = lambda parts=parts: (
                np.concatenate([fetch() for fetch in parts])
            )
    return renamed


def hf_name(path: Path, model: DPT) -> str:
    """The HF disk name of the parameter (or statistic) at `path` of a variables tree of `model`."""
    kind = family(model)
    *modules, leaf = path
    if modules[0] == "backbone" and kind.backbone_prefix != "backbone":
        modules[0] = kind.backbone_prefix
    words = [re.sub(r"_(\d+)(?=(_\d+)*$)", r".\1", m) for m in modules]
    name = ".".join([*words, _LEAVES.get(leaf, leaf)])
    for ours, theirs in kind.renames:
        name = re.sub(ours, theirs, name)
    return name


def to_variables(
    state_dict: Mapping[str, np.ndarray] | Tensors, model: DPT
) -> dict[str, dict[str, Any]]:
    """Variables of `model` from an HF state dict, strictly.

    Args:
        state_dict: HF names, of memory or disk, to arrays in PyTorch's layouts, or to functions
            that fetch them (one at a time, which keeps peak memory low).
        model: a model of the same architecture.

    Returns:
        {"params": ..., "batch_stats": ..., "unused": ...} of NumPy arrays; "batch_stats" only with
        BatchNorm, "unused" only with dead parameters. Numbers are float32.

    Raises:
        WeightsError: a parameter without a source, a source that is neither used nor known to be
            dead, or a shape that differs; all of them are in the one message.
    """
    if not all(callable(value) for value in state_dict.values()):
        state_dict = lazy(state_dict)  # pyright: ignore[reportArgumentType]
    tensors = to_disk_names(state_dict)  # pyright: ignore[reportArgumentType]
    leaves = _leaves(model)
    filled: dict[Path, np.ndarray] = {}
    used: set[str] = set()
    problems = []
    for path, leaf in leaves.items():
        name = hf_name(path[1:], model)
        if name not in tensors:
            problems.append(f"missing: {name} (for {'/'.join(path)})")
            continue
        used.add(name)
        value = to_linen(tensors[name](), path, model)
        if value.shape != leaf.shape:
            problems.append(f"shape: {name} gives {value.shape}, the model has {leaf.shape}")
            continue
        filled[path] = np.asarray(value, leaf.dtype, order="C")
    dead = _dead(model, leaves)
    ignored = (*IGNORED, *family(model).ignored)
    if model.auxiliary_head is None:
        ignored = (*ignored, r"auxiliary_head\.")
    unused = {}
    for name, fetch in tensors.items():
        if name in used:
            continue
        if name in dead:
            unused[name] = np.array(fetch())
        elif not any(re.match(pattern, name) for pattern in ignored):
            problems.append(f"unused: {name}")
    if problems:
        raise WeightsError(
            "the checkpoint does not fit the model:\n  " + "\n  ".join(sorted(problems))
        )
    variables: dict[str, Any] = flax.traverse_util.unflatten_dict(filled)
    return variables | ({"unused": unused} if unused else {})


def to_linen(value: np.ndarray, path: Path, model: DPT) -> np.ndarray:
    """A tensor in PyTorch's layout as the parameter at `path` (collection first) has it."""
    axes = _axes(path, value.ndim, model)
    return value if axes is None else value.transpose(axes)


def to_state_dict(variables: Mapping[str, Any], model: DPT) -> dict[str, np.ndarray]:
    """HF's state dict, with its disk names and PyTorch's layouts: the inverse of `to_variables`.

    Dead parameters that `variables` does not carry are written as they do no harm: norms as the
    identity, all else as zeros.

    Raises:
        WeightsError: a parameter is missing or has another shape than the model's.
    """
    flat: dict[Path, Any] = flax.traverse_util.flatten_dict(
        {key: variables[key] for key in variables if key in ("params", "batch_stats")}
    )
    leaves = _leaves(model)
    state_dict, problems = {}, []
    for path, leaf in leaves.items():
        value = flat.get(path)
        if value is None or np.shape(value) != leaf.shape:
            found = "missing" if value is None else f"of shape {np.shape(value)}"
            problems.append(f"{'/'.join(path)} is {found}, the model has {leaf.shape}")
            continue
        value = np.asarray(value, np.float32)
        axes = _axes(path, value.ndim, model)
        if axes is not None:
            value = value.transpose(np.argsort(axes))
        state_dict[hf_name(path[1:], model)] = np.asarray(value, order="C")
    problems += [f"{'/'.join(path)} is not of the model" for path in flat if path not in leaves]
    if problems:
        raise WeightsError("the variables do not fit the model:\n  " + "\n  ".join(problems))
    carried = variables.get("unused", {})
    for name, shape in _dead(model, leaves).items():
        integer = name.endswith(".num_batches_tracked")
        neutral = np.ones if "norm" in name and name.endswith(".weight") else np.zeros
        value = np.asarray(carried[name] if name in carried else neutral(shape))
        state_dict[name] = value.astype(np.int64 if integer else np.float32).reshape(shape)
    return state_dict


def dead_parameters(model: DPT) -> dict[str, tuple[int, ...]]:
    """HF names and shapes of what HF's model of this architecture has and never reads.

    The first residual unit of the coarsest fusion layer, the final norm of an encoder whose taps
    are raw, blocks behind the last tap, mask tokens, and BatchNorm's counters.
    """
    return _dead(model, _leaves(model))


def _dead(model: DPT, leaves: Mapping[Path, Any]) -> dict[str, tuple[int, ...]]:
    shapes = {
        hf_name(path[1:], model): _torch_shape(path, leaf.shape, model)
        for path, leaf in leaves.items()
    }
    dead: dict[str, tuple[int, ...]] = {}
    unit = "neck.fusion_stage.layers.0.residual_layer"
    for name in shapes:
        if name.startswith(f"{unit}2."):
            dead[name.replace(f"{unit}2.", f"{unit}1.")] = shapes[name]
    backbone: Any = model.backbone
    kind = family(model)
    blocks = {name: match for name in shapes if (match := _BLOCK.match(name))}
    last = max((int(match[2]) for match in blocks.values()), default=None)
    if last is not None:
        template = [match for match in blocks.values() if int(match[2]) == last]
        for i in range(last + 1, backbone.num_hidden_layers):
            for match in template:
                dead[f"{match[1]}{i}{match[3]}"] = shapes[match[0]]
    for name, shape in kind.dead(backbone).items():
        dead[name] = shape
    for name in [*shapes, *dead]:
        if name.endswith(".running_var"):
            dead[name.replace(".running_var", ".num_batches_tracked")] = ()
    return dead


def _leaves(model: DPT) -> dict[Path, Any]:
    return flax.traverse_util.flatten_dict(abstract_variables(model))


def _torch_shape(path: Path, shape: tuple[int, ...], model: DPT) -> tuple[int, ...]:
    axes = _axes(path, len(shape), model)
    return shape if axes is None else tuple(shape[i] for i in np.argsort(axes))


def _axes(path: Path, ndim: int, model: DPT) -> tuple[int, ...] | None:
    """The transposition that turns PyTorch's layout of a kernel into linen's; None for none."""
    if path[-1] != "kernel":
        return None
    if ndim == 2:
        return 1, 0
    layer = re.fullmatch(r"layers_(\d+)", path[-3]) if path[-2] == "resize" else None
    factors: Any = model.neck.reassemble_factors  # pyright: ignore[reportAttributeAccessIssue]
    if layer and factors[int(layer[1])] > 1:
        return 2, 3, 0, 1  # PyTorch's transposed convolution is in, out, h, w
    return (2, 3, 1, 0) if ndim == 4 else None
