# SPDX-License-Identifier: Apache-2.0
"""ViT encoders in the `.npz` files of Google's vision_transformer, such as AugReg's.

Files that big_vision itself wrote have other names, and are refused.
"""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dpt_jax.weights.errors import WeightsError

_BLOCK = r"Transformer/encoderblock_(\d+)/"
_TO = r"backbone.encoder.layer.\1."
_ATTENTION = rf"{_BLOCK}MultiHeadDotProductAttention_1/"

_RULES: tuple[tuple[str, str | None], ...] = (
    (r"cls", "backbone.embeddings.cls_token"),
    (r"Transformer/posembed_input/pos_embedding", "backbone.embeddings.position_embeddings"),
    (r"embedding/(kernel|bias)", r"backbone.embeddings.patch_embeddings.projection.\1"),
    (rf"{_BLOCK}LayerNorm_0/(scale|bias)", rf"{_TO}layernorm_before.\2"),
    (rf"{_BLOCK}LayerNorm_2/(scale|bias)", rf"{_TO}layernorm_after.\2"),
    (rf"{_ATTENTION}(query|key|value)/(kernel|bias)", rf"{_TO}attention.attention.\2.\3"),
    (rf"{_ATTENTION}out/(kernel|bias)", rf"{_TO}attention.output.dense.\2"),
    (rf"{_BLOCK}MlpBlock_3/Dense_0/(kernel|bias)", rf"{_TO}intermediate.dense.\2"),
    (rf"{_BLOCK}MlpBlock_3/Dense_1/(kernel|bias)", rf"{_TO}output.dense.\2"),
    (r"Transformer/encoder_norm/(scale|bias)", r"backbone.layernorm.\1"),
    (r"(head|pre_logits)/.*", None),
)


def read_augreg(path: str | Path) -> dict[str, Callable[[], np.ndarray]]:
    """The tensors of a ViT as `backbone.*` under Hugging Face's names, in PyTorch's layouts.

    Raises:
        WeightsError: no `.npz` of arrays (pickled objects are never read), or keys of another
            network than a plain ViT; all of them are named.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is not a .npz of arrays: {error}") from error
    names = [member.removesuffix(".npy") for member in archive.namelist()]
    renamed: dict[str, Callable[[], np.ndarray]] = {}
    unknown = []
    for name in names:
        matches = [(m, to) for rule, to in _RULES if (m := re.fullmatch(rule, name))]
        if len(matches) != 1:
            unknown.append(name)
            continue
        match, target = matches[0]
        if target is not None:
            target = re.sub(r"\.(kernel|scale)$", ".weight", match.expand(target))
            renamed[target] = lambda name=name: _array(archive, name, path)
    if unknown:
        raise WeightsError(
            f"{path} is not a plain ViT of vision_transformer; it has the keys:\n  "
            + "\n  ".join(sorted(unknown))
        )
    return renamed


def _array(archive: zipfile.ZipFile, name: str, path: str | Path) -> np.ndarray:
    try:
        with archive.open(f"{name}.npy") as member:
            value = np.lib.format.read_array(member, allow_pickle=False)
        if value.dtype.kind != "f":
            raise ValueError(f"an array of {value.dtype}, not of floats")
        return _torch_layout(name, value)
    except Exception as error:  # zipfile, zlib and NumPy have a dozen kinds for damaged files
        raise WeightsError(f"{path}: {name} cannot be read: {error}") from error


def _torch_layout(name: str, value: np.ndarray) -> np.ndarray:
    if name.startswith("embedding/kernel"):
        return value.transpose(3, 2, 0, 1)
    if re.search(r"/(query|key|value)/kernel$", name):  # width, heads, head width
        return value.reshape(value.shape[0], -1).T
    if name.endswith("/out/kernel"):  # heads, head width, width
        return value.reshape(-1, value.shape[-1]).T
    if re.search(r"/(query|key|value)/bias$", name):
        return value.reshape(-1)
    return value.T if name.endswith("kernel") else value
