# SPDX-License-Identifier: Apache-2.0
"""The Swin Transformer V2 backbones of isl-org/MiDaS 3.1, of timm 0.6.12.

Transcribed from `midas/backbones/{swin2,swin_common}.py` and timm's `swin_transformer_v2.py`.
Modules carry the original names: `state_dict()` of midas31.py's `DPT(Swin2())` has the key layout
of `dpt_swin2_tiny_256.pt`, with the buffer that timm 0.6 still saved (`attn_mask`) and the weights
that no forward pass reads (`norm`, `head`). Compared with Hugging Face's port:

- a stage ends with its `downsample`, as Hugging Face's does; timm >= 0.9 has it, and names it, at
  the start of the next stage;
- pairs that the shift brought together get -100, and not twice that: a clamped `logit_scale` of
  log(100) makes scores from -100 to 100, which the mask then does not rule out;
- the image has the size that the model was built for, for MiDaS unflattens to that grid.
"""

import math
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


class SwinAttention(Attention):
    """Cosine attention in a square window; a small network gives the bias of an offset."""

    def __init__(self, width, heads, window, pretrained_window):
        super().__init__(width, heads)
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False)
        )
        offsets = torch.arange(1 - window, window) / ((pretrained_window or window) - 1)
        offsets = offsets.sign() * (8 * offsets.abs() + 1).log2() / 3
        self.offsets = torch.cartesian_prod(offsets, offsets)
        self.index = relative_index(window, window)

    def forward(self, x, mask):
        q, k, v = self.split(x)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores * self.logit_scale.clamp(max=math.log(100)).exp()
        scores = scores + 16 * self.cpb_mlp(self.offsets)[self.index].permute(2, 0, 1).sigmoid()
        if mask is not None:  # one for each window, the same for every image and head
            scores = scores + mask.repeat(len(x) // len(mask), 1, 1).unsqueeze(1)
        return self.merge(scores, v)


def windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """`b h w c` as `b*n window*window c`, windows row-major."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window**2, c)


class SwinBlock(nn.Module):
    """Norms after attention and MLP; a window as large as the map is not shifted."""

    def __init__(self, width, heads, side, window, pretrained_window, shift):
        super().__init__()
        self.window = min(window, side)
        self.shift = window // 2 if shift and side > window else 0
        self.attn = SwinAttention(width, heads, self.window, pretrained_window)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = mlp(width)
        self.norm2 = nn.LayerNorm(width)
        mask = None
        if self.shift:
            band = torch.zeros(side)
            band[-window:], band[-self.shift :] = 1, 2
            region = windows((3 * band[:, None] + band)[None, ..., None], window).squeeze(-1)
            mask = -100.0 * (region[:, None] != region[:, :, None])
        self.register_buffer("attn_mask", mask)

    def forward(self, x):
        b, h, w, c = x.shape
        y = windows(x.roll((-self.shift, -self.shift), dims=(1, 2)), self.window)
        y = self.attn(y, self.attn_mask)
        y = y.reshape(b, h // self.window, w // self.window, self.window, self.window, c)
        y = y.transpose(2, 3).reshape(b, h, w, c).roll((self.shift, self.shift), dims=(1, 2))
        x = x + self.norm1(y)
        return x + self.norm2(self.mlp(x))


class PatchMerging(nn.Module):
    """Four cells to one, column by column: top left, bottom left, top right, bottom right."""

    def __init__(self, width):
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, x):
        cells = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.norm(self.reduction(torch.cat(cells, dim=-1)))


class Swin2(nn.Module):
    """`pretrained` of `dpt_swin2_*`, by default `dpt_swin2_tiny_256`.

    Args:
        width: channels of the first stage; they double from stage to stage.
        depths, heads: of the four stages.
        window: side of a window in cells.
        pretrained_windows: sides that offsets are divided by; 0 is the window itself. The 384
            models have (12, 12, 12, 6).
        image_size: side in pixels of the square images.
    """

    def __init__(
        self,
        width=96,
        depths=(2, 2, 6, 2),
        heads=(3, 6, 12, 24),
        window=16,
        pretrained_windows=(0, 0, 0, 0),
        image_size=256,
    ):
        super().__init__()
        self.widths = [width * 2**s for s in range(4)]
        swin = self.model = nn.Module()
        swin.patch_embed = nn.Module()
        swin.patch_embed.proj = nn.Conv2d(3, width, 4, stride=4)
        swin.patch_embed.norm = nn.LayerNorm(width)
        swin.layers = nn.ModuleList()
        for s, depth in enumerate(depths):
            c, side = self.widths[s], image_size // 4 // 2**s
            shape = c, heads[s], side, window, pretrained_windows[s]
            blocks = nn.Sequential(*(SwinBlock(*shape, shift=n % 2) for n in range(depth)))
            downsample = PatchMerging(c) if s < 3 else nn.Identity()
            swin.layers.append(named(blocks=blocks, downsample=downsample))
        swin.norm = nn.LayerNorm(c)
        swin.head = nn.Linear(c, 10)

    def forward(self, pixels):
        swin = self.model
        x = swin.patch_embed.norm(swin.patch_embed.proj(pixels).permute(0, 2, 3, 1))
        maps = []
        for stage in swin.layers:
            x = stage.blocks(x)
            maps.append(x.permute(0, 3, 1, 2))
            x = stage.downsample(x)
        return maps


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """`model` with every parameter random; the buffers follow from the sizes and stay."""
    for name, tensor in model.named_parameters():
        normal = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 1 and name.endswith("weight"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim == 1:
            tensor.copy_(0.2 * normal)
        elif name.endswith("logit_scale"):
            tensor.uniform_(0, 2.5, generator=generator)[0] = 5  # is cut to log(100)
        else:
            tensor.copy_(normal * tensor[0].numel() ** -0.5)
            if name == "scratch.output_conv.4.weight":
                tensor.add_(0.1)  # both signs occur in front of the final ReLU
    return model
