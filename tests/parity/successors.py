# SPDX-License-Identifier: Apache-2.0
"""Random configurations of transformers' models that grew out of DPT; see `families`."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.parity.families import DINOV2, FACTORS, Case, deal, dinov2, pixels


def depth_anything_config(row: SimpleNamespace, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "patch_size": row.patch,
        "reassemble_hidden_size": row.width_heads[0],
        "reassemble_factors": list(FACTORS[row.taps][rng.integers(len(FACTORS[row.taps]))]),
        "neck_hidden_sizes": rng.integers(5, 25, row.taps).tolist(),
        "fusion_hidden_size": row.width,
        "head_in_index": int(rng.choice([-1, -1, -1, row.taps - 1, rng.integers(row.taps)])),
        "head_hidden_size": row.head_width,
        "depth_estimation_type": row.kind[0],
        "max_depth": row.kind[1],
    }


# The depth of a relative model is multiplied by max_depth too.
DEPTH_ANYTHING = DINOV2 | {
    "width": [8, 9, 16, 21],
    "head_width": [32, 7, 16],
    "kind": [("relative", 1), ("relative", 1), ("metric", 20), ("metric", 80), ("relative", 3)],
}


def depth_anything_cases(count: int = 30) -> list[Case]:
    """Relative and metric Depth Anything; any rectangle."""
    rng, rows = deal(count, 20240119, **DEPTH_ANYTHING)
    cases = []
    for i, row in enumerate(rows):
        backbone, scale = dinov2(row, rng)
        config = depth_anything_config(row, rng) | {"backbone_config": backbone}
        cases.append(
            Case(
                f"Depth Anything, {row.kind[0]}",
                f"depth_anything{i}",
                config,
                pixels(row.grid[1], row.patch, row.ragged),
                510 + i,
                "DepthAnythingForDepthEstimation",
                scale,
            )
        )
    return cases
