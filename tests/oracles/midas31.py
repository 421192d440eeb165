# SPDX-License-Identifier: Apache-2.0
"""isl-org/MiDaS 3.1's DPT models: the decoder, and the BEiT backbones of timm 0.6.12.

Transcribed from `midas/dpt_depth.py`, `blocks.py`, `backbones/{beit,utils}.py` and timm's
`beit.py`; the Swin backbones are in midas31_swin2.py. Modules carry the original names:
`state_dict()` of `DPT(Beit())` has the key layout of `dpt_beit_base_384.pt`, with the buffer that
timm 0.6 still saved (`relative_position_index`) and the weights that no forward pass reads
(`fc_norm`, `head`). What differs from Hugging Face's ports:

- the fusion blocks resize to the size of the next skip, not by two, so odd grids come out whole;
- BEiT's LayerNorms have epsilon 1e-6, not 1e-12.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


def named(**modules: nn.Module) -> nn.Sequential:
    """A chain of modules under the original names."""
    return nn.Sequential(OrderedDict(modules))


def mlp(width: int) -> nn.Sequential:
    fc1, fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    return named(fc1=fc1, act=nn.GELU(), fc2=fc2)


class ResidualConvUnit(nn.Module):
    """`ResidualConvUnit_custom`: the skip is the input before its ReLU."""

    def __init__(self, features):
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FeatureFusionBlock(nn.Module):
    """`FeatureFusionBlock_custom`; the coarsest block's `resConfUnit1` is never called."""

    def __init__(self, features):
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)

    def forward(self, x, skip, size):
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        x = self.resConfUnit2(x)
        return self.out_conv(F.interpolate(x, size=size, mode="bilinear", align_corners=True))


class DPT(nn.Module):
    """`DPTDepthModel`.

    Args:
        pretrained: a `Beit`, or a `Swin2` of midas31_swin2.py: it turns pixels into four maps,
            finest first, of `pretrained.widths` channels.
        features: channels of the decoder.
    """

    def __init__(self, pretrained: nn.Module, features: int = 256):
        super().__init__()
        self.pretrained = pretrained
        self.scratch = nn.Module()
        for i, c in enumerate(pretrained.widths, start=1):
            rn = nn.Conv2d(c, features, 3, padding=1, bias=False)
            self.scratch.add_module(f"layer{i}_rn", rn)
            self.scratch.add_module(f"refinenet{i}", FeatureFusionBlock(features))
        self.scratch.output_conv = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(features // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )
        self.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Disparity `b h w` of `pixels` `b 3 h w`, both sides multiples of 16."""
        skips = [
            self.scratch.get_submodule(f"layer{i}_rn")(x)
            for i, x in enumerate(self.pretrained(pixels), start=1)
        ]
        sizes = [tuple(2 * side for side in skips[0].shape[-2:]), *(s.shape[-2:] for s in skips)]
        path = self.scratch.refinenet4(skips[3], None, sizes[3])
        for i in (3, 2, 1):
            path = self.scratch.get_submodule(f"refinenet{i}")(path, skips[i - 1], sizes[i - 1])
        return self.scratch.output_conv(path).squeeze(1)


class Attention(nn.Module):
    """One `qkv` with biases for q and v alone."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def split(self, x):
        b, n, d = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).reshape(b, n, 3, self.heads, d // self.heads)
        return qkv.permute(2, 0, 3, 1, 4)

    def merge(self, scores, v):
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


def relative_index(rows: int, columns: int) -> torch.Tensor:
    """Row of a table `(2*rows-1) * (2*columns-1)` for each pair of a window's cells, row-major."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + rows - 1
    dx = x[:, None] - x[None, :] + columns - 1
    return dy * (2 * columns - 1) + dx


def beit_index(rows: int, columns: int) -> torch.Tensor:
    """`relative_index` with the class token in front; three rows follow the table for it."""
    table = (2 * rows - 1) * (2 * columns - 1)
    index = torch.empty((1 + rows * columns,) * 2, dtype=torch.long)
    index[1:, 1:] = relative_index(rows, columns)
    index[0, :], index[:, 0], index[0, 0] = table, table + 1, table + 2
    return index


class BeitAttention(Attention):
    """Every layer has a table of its own, resized bilinearly (corners not aligned) to the grid."""

    def __init__(self, width, heads, native):
        super().__init__(width, heads)
        self.native = native
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * native - 1) ** 2 + 3, heads)
        )
        self.register_buffer("relative_position_index", beit_index(native, native))

    def forward(self, x, rows, columns):
        q, k, v = self.split(x)
        table = self.relative_position_bias_table
        side = 2 * self.native - 1
        grid = table[:-3].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(2 * rows - 1, 2 * columns - 1), mode="bilinear")
        table = torch.cat([grid[0].flatten(1).T, table[-3:]])
        bias = table[beit_index(rows, columns)].permute(2, 0, 1)
        return self.merge((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias, v)


class BeitBlock(nn.Module):
    """Pre-norm with LayerScale."""

    def __init__(self, width, heads, native, eps):
        super().__init__()
        self.gamma_1 = nn.Parameter(torch.ones(width))
        self.gamma_2 = nn.Parameter(torch.ones(width))
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = BeitAttention(width, heads, native)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = mlp(width)

    def forward(self, x, rows, columns):
        x = x + self.gamma_1 * self.attn(self.norm1(x), rows, columns)
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class Beit(nn.Module):
    """`pretrained` of `dpt_beit_*`, by default `dpt_beit_base_384`.

    Args:
        width, depth, heads: of BEiT.
        image_size: side in pixels that the tables of relative positions are made for.
        hooks: 0-based blocks that are read, before any final norm.
        widths: channels of the four reassembled maps.
        eps: of LayerNorm.
    """

    def __init__(
        self,
        width=768,
        depth=12,
        heads=12,
        image_size=384,
        hooks=(2, 5, 8, 11),
        widths=(96, 192, 384, 768),
        eps=1e-6,
    ):
        super().__init__()
        self.hooks, self.widths = hooks, widths
        vit = self.model = nn.Module()
        vit.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        vit.patch_embed = named(proj=nn.Conv2d(3, width, 16, stride=16))
        native = image_size // 16
        vit.blocks = nn.ModuleList(BeitBlock(width, heads, native, eps) for _ in range(depth))
        vit.fc_norm = nn.LayerNorm(width, eps=eps)
        vit.head = nn.Linear(width, 10)
        for i, c in enumerate(widths, start=1):
            readout = named(project=nn.Sequential(nn.Linear(2 * width, width), nn.GELU()))
            post = [readout, nn.Identity(), nn.Identity(), nn.Conv2d(width, c, 1)]
            if i < 3:
                post.append(nn.ConvTranspose2d(c, c, 8 // 2**i, stride=8 // 2**i))
            if i == 4:
                post.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
            self.add_module(f"act_postprocess{i}", nn.Sequential(*post))

    def forward(self, pixels):
        vit = self.model
        x = vit.patch_embed(pixels)
        rows, columns = x.shape[-2:]
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        maps = []
        for n, block in enumerate(vit.blocks):
            x = block(x, rows, columns)
            if n in self.hooks:
                post = self.get_submodule(f"act_postprocess{len(maps) + 1}")
                y = torch.cat([x[:, 1:], x[:, :1].expand(-1, rows * columns, -1)], dim=-1)
                y = post[0](y).transpose(1, 2).unflatten(2, (rows, columns))
                maps.append(post[3:](y))
        return maps


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """`model` with every parameter random; the buffers follow from the sizes and stay."""
    for name, tensor in model.named_parameters():
        normal = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 1 and (name.endswith("weight") or "gamma" in name):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim == 1:
            tensor.copy_(0.2 * normal)
        elif name.endswith("logit_scale"):
            tensor.uniform_(0, 2.5, generator=generator)[0] = 5  # is cut to log(100)
        elif name.endswith(("cls_token", "bias_table")):
            tensor.copy_(normal)
        else:
            tensor.copy_(normal * tensor[0].numel() ** -0.5)
            if name == "scratch.output_conv.4.weight":
                tensor.add_(0.1)  # both signs occur in front of the final ReLU
    return model
