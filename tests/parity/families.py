# SPDX-License-Identifier: Apache-2.0
"""Random configurations of transformers' `DPTFor*`, one generator for each family of backbones.

Only numbers are here: neither torch nor jax is imported. Every option that changes the graph is
dealt out evenly over the cases of its family. What transformers itself cannot run is left out:

- plain ViT: only squares come out right; hybrid: only squares of exactly `image_size`
- hybrid: padding "valid" (a 3x3 convolution then shrinks the map its shortcut keeps), a
  `neck_ignore_stages` other than [0, 1], "preactivation" together with a `width_factor`
- BEiT: a bias table of a rectangle is read with its sides swapped; native sizes are squares here
- Swinv2: absolute position embeddings (they hold one token too many)
- token backbones with `reshape_hidden_states`, and backbones of other families

So is what dpt_jax refuses by name: a dilated BiT (`output_stride` below 16), a tap at the stem.
"""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One network and one input size.

    `config` are keyword arguments of `architecture`'s configuration class; `embedding_scale`
    multiplies what makes the tokens. Tokens of std 0.01 tell layer_norm_eps=1e-6 from 1e-12 (and a
    standardised weight's 1e-8 from another epsilon); of std 1 do not.
    """

    family: str
    name: str
    config: dict[str, Any]
    size: tuple[int, int]
    seed: int
    architecture: str = "DPTForDepthEstimation"
    embedding_scale: float = 1.0

    @property
    def segmentation(self) -> bool:
        return "Segmentation" in self.architecture


FACTORS = {
    2: [(2, 1), (1, 0.5), (4, 0.75), (2, 0.25)],
    3: [(3, 1, 0.5), (4, 2, 1), (2, 0.75, 0.5), (4, 1, 0.25)],
    4: [(4, 2, 1, 0.5), (2, 2, 1, 0.25), (3, 1, 0.5, 0.5), (4, 2, 0.75, 0.5)],
    5: [(4, 4, 2, 1, 0.5), (2, 1, 1, 1, 0.25)],
}
WIDTHS_AND_HEADS = [(16, 2), (24, 3), (32, 4), (20, 5), (30, 1)]
ACTIVATIONS = ["gelu", "gelu", "gelu_new", "relu", "silu", "tanh", "gelu_pytorch_tanh"]
# (native grid, rows and columns of the input)
GRIDS = [
    (4, (4, 4)),
    (3, (3, 5)),
    (5, (2, 4)),
    (3, (6, 2)),
    (4, (1, 3)),
    (2, (4, 1)),
    (4, (2, 8)),
    (5, (5, 3)),
    (3, (3, 3)),
]
RAGGED = [(0, 0), (1, 0), (0, 1), (1, 1)]
DECODER = {
    "readout": ["ignore", "add", "project"],
    "residual": [(bn, bias) for bn in (False, True) for bias in (None, False, True)],
    "width": [8, 9, 16, 21],
    "readout_act": ACTIVATIONS,
    "projection": [False] * 9 + [True],
}


def deal(count: int, seed: int, **columns: list[Any]):
    """A generator and `count` rows; each option of a column occurs equally often among them."""
    rng = np.random.default_rng(seed)
    dealt = {}
    for name, options in columns.items():
        picks = [options[i % len(options)] for i in range(count)]
        dealt[name] = [picks[i] for i in rng.permutation(count)]
    return rng, [SimpleNamespace(**{n: c[i] for n, c in dealt.items()}) for i in range(count)]


def pixels(grid: tuple[int, int], patch: int, ragged: tuple[int, int]) -> tuple[int, int]:
    """An input of that many patches and, where `ragged`, some pixels more than they cover."""
    rows, columns = (g * patch + r * (patch - 1) for g, r in zip(grid, ragged, strict=True))
    return rows, columns


def random_taps(rng: np.random.Generator, taps: int, layers: int) -> list[int]:
    """Ascending numbers of layers, counted from 1, the last layer among them."""
    return [*sorted((1 + rng.permutation(layers - 1)[: taps - 1]).tolist()), layers]


def decoder(row: SimpleNamespace, rng: np.random.Generator, taps: int) -> dict[str, Any]:
    """Options of neck and head. An add_projection is 256 wide, so its maps are kept small."""
    factors = FACTORS[taps][rng.integers(len(FACTORS[taps]))]
    if row.projection:
        factors = (*(1 for _ in range(taps - 1)), 0.5)
    bn, bias = row.residual
    return {
        "readout_type": row.readout,
        "reassemble_factors": list(factors),
        "neck_hidden_sizes": rng.integers(5, 25, taps).tolist(),
        "fusion_hidden_size": 256 if row.projection else row.width,
        "add_projection": row.projection,
        "use_batch_norm_in_fusion_residual": bn,
        "use_bias_in_fusion_residual": bias,
        "head_in_index": int(rng.choice([-1, -1, -1, -1, taps - 1, rng.integers(taps)])),
        "hidden_act": row.readout_act,
    }


def vit_cases(count: int = 60) -> list[Case]:
    """Depth and segmentation with the plain ViT: squares only."""
    rng, rows = deal(
        count,
        20210324,
        taps=[2, 3, 4],
        readout=["ignore", "add", "project"],
        residual=[(bn, bias) for bn in (False, True) for bias in (None, False, True)],
        patch=[8, 14, 16],
        width_heads=[*WIDTHS_AND_HEADS, (48, 4)],
        width=[8, 9, 16, 21],
        qkv_bias=[True, True, False],
        act=["gelu", "gelu", "gelu", "gelu_new", "relu", "silu", "tanh"],
        eps_scale=[(1e-12, 0.01), (1e-6, 0.01), (1e-12, 1.0), (1e-6, 1.0)],
        task=[(False, True), (True, True), (False, True), (True, False)],
        grid=[(4, 4), (3, 3), (2, 5), (3, 4), (4, 3), (5, 2), (3, 6), (4, 1), (6, 4)],
        ragged=[0, 1, 2],
    )
    cases = []
    for i, row in enumerate(rows):
        row.projection, row.readout_act = False, row.act
        layers = int(rng.integers(row.taps, 6)) if rng.random() < 0.5 else max(row.taps, 2)
        (hidden, heads), (eps, scale) = row.width_heads, row.eps_scale
        (segmentation, auxiliary), (native, grid) = row.task, row.grid
        config = decoder(row, rng, row.taps) | {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": int(rng.integers(hidden, 2 * hidden)),
            "qkv_bias": row.qkv_bias,
            "layer_norm_eps": eps,
            "patch_size": row.patch,
            "image_size": native * row.patch + (row.patch // 2 if row.ragged == 1 else 0),
            "backbone_out_indices": [tap - 1 for tap in random_taps(rng, row.taps, layers)],
            "use_auxiliary_head": auxiliary,
        }
        side = grid * row.patch + (row.patch - 1 if row.ragged == 2 else 0)
        cases.append(task_case(rng, "vit", f"vit{i}", config, side, i, segmentation, scale))
    return cases


def task_case(rng, family, name, config, side, seed, segmentation, scale) -> Case:
    if segmentation:
        config = config | {"num_labels": int(rng.choice([2, 5, 11]))}
        family, architecture = f"{family}, segmentation", "DPTForSemanticSegmentation"
    else:
        family, architecture = f"{family}, depth", "DPTForDepthEstimation"
    return Case(family, name, config, (side, side), seed, architecture, scale)


def bit_grid(side: int, same: bool, dynamic: bool) -> int:
    """The side of BiT's last feature map."""
    side = -(-side // 2) + (0 if same else 2)
    side = -(-side // 2) if dynamic else (side - 3) // 2 + 1
    return -(-side // 4)


def hybrid_cases(count: int = 30) -> list[Case]:
    """Depth and segmentation with BiT in front of the ViT, at exactly `image_size`."""
    rng, rows = deal(
        count,
        20210325,
        **DECODER | {"readout": ["project"]},
        vit_taps=[2, 2, 1, 3],
        width_heads=WIDTHS_AND_HEADS,
        qkv_bias=[True, True, False],
        eps_scale=[(1e-12, 0.05), (1e-6, 0.05), (1e-12, 1.0)],
        task=[(False, True), (True, True), (False, True), (True, False)],
        side=[48, 64, 50, 80, 33],
        padding=[("same", True), ("same", True), ("same", False), (None, True), (None, False)],
        layer=["bottleneck", "bottleneck", "preactivation"],
        depths=[(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)],
        stem=[8, 16],
        groups=[1, 2, 4, 8],
        bit_act=["relu", "relu", "relu", "gelu", "silu"],
        width_factor=[1, 1, 2],
    )
    cases = []
    for i, row in enumerate(rows):
        padding, dynamic = row.padding
        factor = 1 if row.layer == "preactivation" else row.width_factor
        widths = (8 * rng.integers(1, 5, 3)).tolist()
        grid = bit_grid(row.side, padding == "same", dynamic)
        layers = max(row.vit_taps, 1) + int(rng.integers(0, 2))
        taps = random_taps(rng, row.vit_taps, layers)
        (hidden, heads), (eps, scale) = row.width_heads, row.eps_scale
        config = decoder(row, rng, 2 + row.vit_taps)
        config["neck_hidden_sizes"][:2] = [factor * width for width in widths[:2]]
        config |= {
            "is_hybrid": True,
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": int(rng.integers(hidden, 2 * hidden)),
            "qkv_bias": row.qkv_bias,
            "layer_norm_eps": eps,
            "image_size": row.side,
            "patch_size": row.side // grid,
            # Two entries that a hybrid does not read come first.
            "backbone_out_indices": [0, 0, *(tap - 1 for tap in taps)],
            "backbone_featmap_shape": [1, factor * widths[2], grid, grid],
            "neck_ignore_stages": [0, 1],
            "use_auxiliary_head": row.task[1],
            "backbone_config": {
                "model_type": "bit",
                "embedding_size": row.stem,
                "hidden_sizes": widths,
                "depths": list(row.depths),
                "layer_type": row.layer,
                "global_padding": padding,
                "embedding_dynamic_padding": dynamic,
                "num_groups": row.groups,
                "hidden_act": row.bit_act,
                "width_factor": factor,
                "out_features": ["stage1", "stage2", "stage3"],
            },
        }
        assert row.side // config["patch_size"] == grid, "transformers counts positions so"
        case = task_case(rng, "hybrid", f"hybrid{i}", config, row.side, 130 + i, row.task[0], scale)
        cases.append(case)
    return cases


def dinov2_cases(count: int = 30) -> list[Case]:
    """Depth with a DINOv2 backbone; any rectangle."""
    rng, rows = deal(count, 20230414, **DECODER, **DINOV2)
    cases = []
    for i, row in enumerate(rows):
        grid = (2, 3) if row.projection else row.grid[1]
        backbone, scale = dinov2(row, rng)
        config = decoder(row, rng, row.taps) | {"backbone_config": backbone}
        family = "DINOv2, SwiGLU" if row.swiglu else "DINOv2"
        size = pixels(grid, row.patch, row.ragged)
        cases.append(Case(family, f"dinov2_{i}", config, size, 200 + i, embedding_scale=scale))
    return cases


DINOV2 = {
    "taps": [2, 3, 4],
    "patch": [14, 14, 8, 16],
    "width_heads": WIDTHS_AND_HEADS,
    "qkv_bias": [True, True, False],
    "act": ACTIVATIONS,
    "eps_scale": [(1e-6, 0.01), (1e-6, 1.0), (1e-3, 1.0)],
    "swiglu": [False, False, True],
    "mlp_ratio": [1, 2, 3],
    "normed": [True, False],
    "behind": [0, 0, 1],
    "mask_token": [True, True, False],
    "layerscale": [1.0, 0.5],
    "negative": [False, False, True],
    "grid": GRIDS,
    "ragged": RAGGED,
}


def dinov2(row: SimpleNamespace, rng: np.random.Generator) -> tuple[dict[str, Any], float]:
    """A `Dinov2Config` and the scale of its tokens."""
    layers = row.taps + int(rng.integers(0, 2))
    taps = random_taps(rng, row.taps, layers)
    layers += row.behind
    if row.negative:
        taps[-1] -= layers + 1  # counted from the end
    eps, scale = row.eps_scale
    return {
        "model_type": "dinov2",
        "hidden_size": row.width_heads[0],
        "num_attention_heads": row.width_heads[1],
        "num_hidden_layers": layers,
        "mlp_ratio": row.mlp_ratio,
        "hidden_act": row.act,
        "layer_norm_eps": eps,
        "image_size": row.grid[0] * row.patch + int(rng.integers(0, row.patch)),
        "patch_size": row.patch,
        "qkv_bias": row.qkv_bias,
        "layerscale_value": row.layerscale,
        "use_swiglu_ffn": row.swiglu,
        "use_mask_token": row.mask_token,
        "apply_layernorm": row.normed,
        "out_indices": taps,
        "reshape_hidden_states": False,
    }, scale


def register_cases(count: int = 6) -> list[Case]:
    """Depth with a DINOv2 that has register tokens.

    The reassemble stage of transformers does not know them and fails; `reference` drops them first.
    """
    columns = DECODER | DINOV2 | {"registers": [1, 4, 3], "mask_token": [True]}
    rng, rows = deal(count, 20230928, **columns)
    cases = []
    for i, row in enumerate(rows):
        backbone, scale = dinov2(row, rng)
        del backbone["use_mask_token"]
        registers = {"model_type": "dinov2_with_registers", "num_register_tokens": row.registers}
        config = decoder(row, rng, row.taps) | {"backbone_config": backbone | registers}
        size = pixels((2, 3) if row.projection else row.grid[1], row.patch, row.ragged)
        cases.append(
            Case(
                "DINOv2, registers",
                f"registers{i}",
                config,
                size,
                600 + i,
                embedding_scale=scale,
            )
        )
    return cases


def beit_cases(count: int = 25) -> list[Case]:
    """Depth with a BEiT backbone; any rectangle, native sizes are squares."""
    positions = ["relative", "shared", "absolute", "absolute relative", "relative shared", "none"]
    rng, rows = deal(
        count,
        20230726,
        **DECODER,
        taps=[2, 3, 4],
        patch=[16, 16, 8, 14],
        width_heads=WIDTHS_AND_HEADS,
        act=ACTIVATIONS,
        eps_scale=[(1e-12, 0.01), (1e-6, 0.01), (1e-12, 1.0), (1e-3, 1.0)],
        positions=["relative", "relative", *positions],
        layer_scale=[0.1, 0.1, 0.0],
        mean_pooling=[True, False],
        mask_token=[False, False, True],
        behind=[0, 0, 1],
        grid=GRIDS,
        ragged=RAGGED,
    )
    cases = []
    for i, row in enumerate(rows):
        layers = row.taps + int(rng.integers(0, 2))
        taps = random_taps(rng, row.taps, layers)
        (hidden, heads), (eps, scale) = row.width_heads, row.eps_scale
        grid = (2, 3) if row.projection else row.grid[1]
        config = decoder(row, rng, row.taps) | {
            "backbone_config": {
                "model_type": "beit",
                "hidden_size": hidden,
                "num_attention_heads": heads,
                "num_hidden_layers": layers + row.behind,
                "intermediate_size": int(rng.integers(hidden, 2 * hidden)),
                "hidden_act": row.act,
                "layer_norm_eps": eps,
                "image_size": row.grid[0] * row.patch + int(rng.integers(0, row.patch)),
                "patch_size": row.patch,
                "use_relative_position_bias": "relative" in row.positions,
                "use_shared_relative_position_bias": "shared" in row.positions,
                "use_absolute_position_embeddings": "absolute" in row.positions,
                "layer_scale_init_value": row.layer_scale,
                "use_mean_pooling": row.mean_pooling,
                "use_mask_token": row.mask_token,
                "out_features": [f"stage{tap}" for tap in taps],
                "reshape_hidden_states": False,
            },
        }
        size = pixels(grid, row.patch, row.ragged)
        cases.append(Case("BEiT", f"beit{i}", config, size, 300 + i, embedding_scale=scale))
    return cases


def swinv2_cases(count: int = 25) -> list[Case]:
    """Depth with a Swinv2 backbone, whose maps enter the neck as they are; any rectangle."""
    rng, rows = deal(
        count,
        20230727,
        **DECODER,
        depths=[(2, 1), (2, 2), (1, 2, 1), (2, 1, 1), (2, 2, 1), (1, 1, 1, 1), (2, 1, 1, 1)],
        embed=[8, 12, 16],
        window=[2, 3, 4, 5, 7, 16],
        pretrained=[0, 0, 3, 6],
        mlp_ratio=[1.0, 1.5, 2.0, 4.0],
        qkv_bias=[True, True, False],
        patch=[4, 4, 2],
        act=ACTIVATIONS,
        eps_scale=[(1e-5, 1.0), (1e-3, 1.0), (1e-5, 0.01)],
        features=["all", "all", "late"],
        native=[8, 10, 16],
        grid=[(8, 8), (9, 13), (16, 8), (5, 7), (12, 10), (16, 16), (8, 21)],
        ragged=RAGGED,
    )
    cases = []
    for i, row in enumerate(rows):
        names = [f"stage{j + 1}" for j in range(len(row.depths))]
        widths = [row.embed * 2**j for j in range(len(row.depths))]
        if row.features == "late" and len(names) > 2:
            names, widths = names[1:], widths[1:]
        pretrained = [max(row.pretrained - j, 2) if row.pretrained else 0 for j in range(4)]
        eps, scale = row.eps_scale
        grid = (5, 6) if row.projection else row.grid
        config = decoder(row, rng, len(names)) | {
            "neck_hidden_sizes": widths,
            "backbone_config": {
                "model_type": "swinv2",
                "embed_dim": row.embed,
                "depths": list(row.depths),
                "num_heads": [int(rng.choice([1, 2, 4])) for _ in row.depths],
                "window_size": row.window,
                "pretrained_window_sizes": pretrained[: len(row.depths)],
                "mlp_ratio": row.mlp_ratio,
                "qkv_bias": row.qkv_bias,
                "patch_size": row.patch,
                "image_size": row.native * row.patch,
                "hidden_act": row.act,
                "layer_norm_eps": eps,
                "out_features": names,
            },
        }
        size = pixels(grid, row.patch, row.ragged)
        cases.append(Case("Swinv2", f"swinv2_{i}", config, size, 460 + i, embedding_scale=scale))
    return cases
