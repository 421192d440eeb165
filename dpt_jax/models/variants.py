# SPDX-License-Identifier: Apache-2.0
"""Named models, one table. A row says what differs from the defaults of the parts' classes.

`dpt_large` and `dpt_base` are the ViT-L/16 and ViT-B/16 of the paper with the taps and widths of
isl-org/DPT (`vitl16_384`, `vitb16_384`). `dpt_tiny` is ours, for tests and the quick start.
"""

from typing import Any

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "dpt_large": {
        "backbone": {
            "type": "vit",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "out_indices": (5, 11, 17, 23),
        },
        "neck": {"hidden_sizes": (256, 512, 1024, 1024)},
    },
    "dpt_base": {
        "backbone": {"type": "vit", "out_indices": (2, 5, 8, 11)},
        "neck": {"hidden_sizes": (96, 192, 384, 768)},
    },
    "dpt_tiny": {
        "backbone": {
            "type": "vit",
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "layer_norm_eps": 1e-6,
            "image_size": 128,
            "out_indices": (0, 1, 2, 3),
        },
        "neck": {"hidden_sizes": (32, 48, 64, 96), "fusion_hidden_size": 32},
    },
}
