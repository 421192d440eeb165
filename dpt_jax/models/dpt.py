# SPDX-License-Identifier: Apache-2.0
"""DPT = backbone + neck + head, composed from `config.model` (arXiv 2103.13413)."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import flax.core
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpt_jax.models.beit import BEiT
from dpt_jax.models.depth_bins import BinnedDepthHead
from dpt_jax.models.dinov2 import DINOv2
from dpt_jax.models.dinov3 import DINOv3
from dpt_jax.models.heads import DepthHead, SegmentationHead
from dpt_jax.models.hybrid import HybridViT
from dpt_jax.models.layers import Dtype
from dpt_jax.models.linear_heads import (
    DenseHead,
    LinearDepthHead,
    LinearSegmentationHead,
    NormalsHead,
    TaskNecks,
)
from dpt_jax.models.neck import Neck
from dpt_jax.models.resnetv2 import ResNetV2
from dpt_jax.models.swinv2 import Swinv2
from dpt_jax.models.tipsv2 import TIPSv2
from dpt_jax.models.variants import VARIANTS
from dpt_jax.models.vit import ViT
from dpt_jax.models.zoedepth import ZoeDepthHead

BACKBONES: dict[str, type[nn.Module]] = {
    "vit": ViT,
    "hybrid": HybridViT,
    "dinov2": DINOv2,
    "beit": BEiT,
    "swinv2": Swinv2,
    "tipsv2": TIPSv2,
    "dinov3": DINOv3,
}
NECKS: dict[str, type[nn.Module]] = {"dpt": Neck, "tasks": TaskNecks}
HEADS: dict[str, type[nn.Module]] = {
    "depth": DepthHead,
    "segmentation": SegmentationHead,
    "binned_depth": BinnedDepthHead,
    "linear_depth": LinearDepthHead,
    "normals": NormalsHead,
    "linear_segmentation": LinearSegmentationHead,
    "dense": DenseHead,
    "zoedepth": ZoeDepthHead,
}


@flax.struct.dataclass
class DPTOutput:
    """What a DPT returns; fields that the model does not have are None.

    With the usual factors and a grid of g_h x g_w patches of p pixels, h' is (and w' alike)
    32 * ceil(g_h / 2) in a DPT, which for p = 16 is the input's size if that is a multiple of 32;
    16 * g_h with `neck.upsample_to_skip` (MiDaS's own decoder); p * g_h with
    `head.upsample_to_input` (Depth Anything). The heads of TIPSv2-DPT do not upsample: theirs is
    half of a DPT's.

    Attributes:
        depth: `b h' w'`, non-negative float32; metres or inverse relative depth, as the model was
            trained. Of CHMv2 it is the height of the canopy in metres.
        normals: `b h' w' 3` float32, surface normals (x, y, z) of any length.
        logits: `b h' w' k` float32.
        aux_logits: `b h'/2 w'/2 k` float32, of the auxiliary head; only computed with train=True.
    """

    depth: Float[Array, "b h w"] | None = None
    normals: Float[Array, "b h w 3"] | None = None
    logits: Float[Array, "b h w k"] | None = None
    aux_logits: Float[Array, "b h2 w2 k"] | None = None


class DPT(nn.Module):
    """Backbone, neck and head, linen modules of any make. Build one with `build_model`."""

    backbone: nn.Module
    neck: nn.Module
    head: nn.Module
    auxiliary_head: nn.Module | None = None

    @property
    def task(self) -> str:
        """What the head predicts: "depth", "segmentation", "normals", or all three: "dense"."""
        return self.head.task  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(
        self,
        pixels: Float[Array, "b h w 3"],
        train: bool = False,
        prompt_depth: Float[Array, "b h2 w2 1"] | None = None,
    ) -> DPTOutput:
        """Predicts from normalised pixels, any rectangle of at least one patch.

        Args:
            pixels: float32 `b h w 3`, RGB, normalised as the checkpoint says.
            train: dropout on (rng "dropout"), BatchNorm on batch statistics ("batch_stats"
                mutable).
            prompt_depth: of Prompt Depth Anything, a measured depth map in metres, of any size.
                The network sees it scaled to 0..1 by its range, and its output is scaled back to
                that range: depth is in metres, too. Without a prompt it is 0..1 of an unknown
                range. A prompt that is constant is what comes back.

        Raises:
            ValueError: a shape that does not fit, or a prompt for a model that takes none.
        """
        features = self.backbone(pixels, train=train)
        prompt, low, extent = _normalized_prompt(prompt_depth, pixels.shape[0])
        fused = self.neck(features, prompt, train=train)
        if self.task == "dense":
            return DPTOutput(**self.head(fused, train=train))
        if self.task == "normals":
            return DPTOutput(normals=self.head(fused, train=train))
        if self.task == "depth":
            patch_size: int = self.backbone.patch_size  # pyright: ignore
            covered = (features.grid[0] * patch_size, features.grid[1] * patch_size)
            depth = self.head(fused, covered, train=train)
            return DPTOutput(depth=depth if prompt is None else depth * extent + low)
        aux = None
        if self.auxiliary_head is not None and (train or self.is_initializing()):
            aux = self.auxiliary_head(fused, train=train)
        return DPTOutput(logits=self.head(fused, train=train), aux_logits=aux)


def _normalized_prompt(prompt: Array | None, batch: int) -> tuple[Array | None, Any, Any]:
    """The prompt within 0..1, its least depth and its range (`b 1 1` each)."""
    if prompt is None:
        return None, 0.0, 1.0
    if prompt.ndim != 4 or prompt.shape[0] != batch or prompt.shape[-1] != 1:
        raise ValueError(f"prompt_depth: expected ({batch}, height, width, 1), got {prompt.shape}")
    prompt = prompt.astype(jnp.float32)
    low = prompt.min((1, 2, 3), keepdims=True)
    extent = prompt.max((1, 2, 3), keepdims=True) - low
    # A constant prompt is zeros (transformers divides by zero).
    scaled = (prompt - low) / jnp.where(extent > 0, extent, 1)
    return scaled, low[..., 0], extent[..., 0]


def abstract_variables(model: DPT) -> dict[str, Any]:
    """Shapes and types of the variables of `model`, without computing any of them."""
    channels: int = model.backbone.num_channels  # pyright: ignore[reportAttributeAccessIssue]
    pixels = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    return dict(jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), pixels))


def resolve_model_config(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The full settings of a model: its variant's table row, overlaid with what the config sets.

    Args:
        config: `variant` (a name in `variants.VARIANTS`, or None for none) and the groups
            `backbone`, `neck`, `head` and `auxiliary_head`, each a mapping whose keys are fields of
            the part's class, plus `type` for backbone, neck ("dpt" by default) and head. None means
            "as the variant has it".

    Returns:
        {"backbone": {...}, "neck": {...}, "head": {...}, "auxiliary_head": {...} or {}}; sequences
        are tuples.

    Raises:
        ValueError: an unknown variant, group, type or field; the message names the nearest one.
    """
    variant = config.get("variant")
    if variant is not None and variant not in VARIANTS:
        raise _unknown("model.variant", variant, VARIANTS)
    rows = VARIANTS[variant] if variant else {}
    groups = ("backbone", "neck", "head", "auxiliary_head")
    for key in config:
        if key not in (*groups, "variant", "dtype"):
            raise _unknown("key of config.model", key, (*groups, "variant", "dtype"))
    head_type = (config.get("head") or {}).get("type")
    resolved: dict[str, dict[str, Any]] = {}
    for group in groups:
        row = dict(rows.get(group, {}))
        if group == "head" and head_type not in (None, row.get("type", "depth")):
            row = {}  # the row's head is of another kind
        for key, value in (config.get(group) or {}).items():
            value = _plain(value)
            if value is not None and value != {}:
                row[key] = value
        resolved[group] = {k: _plain(v) for k, v in row.items()}
    return resolved


def build_model(config: Mapping[str, Any]) -> DPT:
    """The model that `config.model` describes; see `resolve_model_config` for its keys.

    `config["dtype"]` ("float32" or "bfloat16", default float32) is the type computed in; parameters
    stay float32.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"expected a mapping such as {{'variant': 'dpt_large'}}, got {config!r}")
    groups = resolve_model_config(config)
    dtype = jnp.dtype(config.get("dtype") or "float32")
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"model.dtype {dtype} is not float32 or bfloat16")
    groups["neck"].setdefault("hidden_act", groups["backbone"].get("hidden_act", "gelu"))
    if (groups["neck"].get("type") == "tasks") != (groups["head"].get("type") == "dense"):
        raise ValueError(
            "model.neck.type 'tasks' and model.head.type 'dense' belong together, got "
            f"{groups['neck'].get('type', 'dpt')!r} and {groups['head'].get('type')!r}"
        )
    auxiliary = groups["auxiliary_head"]
    use_auxiliary = auxiliary.pop("use", False) and groups["head"].get("type") == "segmentation"
    if use_auxiliary:
        auxiliary = {"num_labels": groups["head"].get("num_labels", 150)} | auxiliary
    return DPT(
        backbone=_build("backbone", groups["backbone"], BACKBONES, dtype),
        neck=_build("neck", {"type": "dpt"} | groups["neck"], NECKS, dtype),
        head=_build("head", groups["head"], HEADS, dtype),
        auxiliary_head=_build(
            "auxiliary_head",
            {"type": "segmentation", "upsample": False} | auxiliary,
            HEADS,
            dtype,
        )
        if use_auxiliary
        else None,
    )


def _build(
    group: str, settings: dict[str, Any], types: dict[str, type[nn.Module]], dtype: Dtype
) -> nn.Module:
    settings = dict(settings)
    kind = settings.pop("type", None)
    if kind not in types:
        raise _unknown(f"model.{group}.type", kind, types)
    fields = _fields(types[kind])
    for key in settings:
        if key not in fields:
            raise _unknown(f"key of config.model.{group} for type {kind!r}", key, fields)
    for key in settings.get("bit", ()):
        if key not in _fields(ResNetV2):
            raise _unknown(f"key of config.model.{group}.bit", key, _fields(ResNetV2))
    settings = {key: _hashable(value) for key, value in settings.items()}
    return types[kind](**settings, dtype=dtype)  # pyright: ignore[reportCallIssue]


def _fields(kind: type[nn.Module]) -> set[str]:
    names = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    return names - {"parent", "name", "dtype"}


def _hashable(value: Any) -> Any:
    """Mappings frozen, so that a model can be a key, as other linen modules can."""
    if isinstance(value, Mapping):
        return flax.core.freeze({k: _hashable(v) for k, v in value.items()})
    return tuple(_hashable(v) for v in value) if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    """Sequences as tuples, mappings without what is unset."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    return tuple(_plain(v) for v in value) if isinstance(value, list | tuple) else value


def _unknown(what: str, found: Any, known: Any) -> ValueError:
    names = sorted(known)
    near = difflib.get_close_matches(str(found), names, n=1, cutoff=0.0)
    return ValueError(
        f"unknown {what} {found!r}; did you mean {near[0]!r}? Known: {', '.join(names)}"
    )
