# SPDX-License-Identifier: Apache-2.0
"""Depth Anything V1 and V2 as in their own repositories, over the DINOv2 ViT of torch.hub.

`DinoVisionTransformer` transcribes facebookresearch/dinov2 `dinov2/models/vision_transformer.py`
(the copies in LiheYoung/Depth-Anything and DepthAnything/Depth-Anything-V2 compute the same);
`DepthAnything` transcribes `depth_anything/dpt.py` (V1), `depth_anything_v2/dpt.py` and
`metric_depth/depth_anything_v2/dpt.py` (V2). Modules carry the original names, so `state_dict()`
has the key layout of `dinov2_vits14_pretrain.pth` and of `depth_anything_vitl14.pth`,
`depth_anything_v2_vits.pth`, `depth_anything_v2_metric_hypersim_vits.pth`.

What differs from Hugging Face's ports: position embeddings are resized by a scale factor
`(grid + 0.1) / native`, which moves every sample, and not to an explicit size. Both resize when
the grid is not square, even if the count of its patches is the native one. The rest agrees.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """A pre-norm block with LayerScale; `hidden` is the width of the MLP or of a SwiGLU arm."""

    def __init__(self, width, heads, hidden, swiglu):
        super().__init__()
        self.heads, self.swiglu = heads, swiglu
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.Module()
        self.attn.qkv = nn.Linear(width, 3 * width)
        self.attn.proj = nn.Linear(width, width)
        self.ls1 = nn.Module()
        self.ls1.gamma = nn.Parameter(torch.ones(width))
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Module()
        if swiglu:
            self.mlp.w12 = nn.Linear(width, 2 * hidden)
            self.mlp.w3 = nn.Linear(hidden, width)
        else:
            self.mlp.fc1 = nn.Linear(width, hidden)
            self.mlp.fc2 = nn.Linear(hidden, width)
        self.ls2 = nn.Module()
        self.ls2.gamma = nn.Parameter(torch.ones(width))

    def attention(self, x):
        b, n, d = x.shape
        qkv = self.attn.qkv(x).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = ((q * (d // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.attn.proj((weights @ v).transpose(1, 2).reshape(b, n, d))

    def feed_forward(self, x):
        if self.swiglu:
            gate, value = self.mlp.w12(x).chunk(2, dim=-1)
            return self.mlp.w3(F.silu(gate) * value)
        return self.mlp.fc2(F.gelu(self.mlp.fc1(x)))

    def forward(self, x):
        x = x + self.ls1.gamma * self.attention(self.norm1(x))
        return x + self.ls2.gamma * self.feed_forward(self.norm2(x))


class DinoVisionTransformer(nn.Module):
    """The backbone; the defaults are ViT-S/14. `*_reg` hub models have 4, offset 0, antialias.

    Args:
        width, depth, heads: of the ViT.
        image_size: side in pixels that `pos_embed` is made for.
        patch: side of a patch in pixels.
        swiglu: the gated feed-forward of ViT-g, `(int(8/3 width) + 7) // 8 * 8` wide.
        registers: tokens between the class token and the patches; they have no position.
        interpolate_offset: added to the grid before it is divided by the native side; 0 resizes
            to the exact size instead.
        interpolate_antialias: of the bicubic resize.
    """

    def __init__(
        self,
        width=384,
        depth=12,
        heads=6,
        image_size=518,
        patch=14,
        swiglu=False,
        registers=0,
        interpolate_offset=0.1,
        interpolate_antialias=False,
    ):
        super().__init__()
        self.patch, self.native = patch, image_size // patch
        self.offset, self.antialias = interpolate_offset, interpolate_antialias
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.native**2, width))
        self.register_tokens = None
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, stride=patch)
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8 if swiglu else 4 * width
        self.blocks = nn.ModuleList(Block(width, heads, hidden, swiglu) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.eval()

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        """Position embeddings `1 1+n d` of a grid."""
        if rows == columns == self.native:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (self.native, self.native)).permute(0, 3, 1, 2)
        how = {"size": (rows, columns)}
        if self.offset:
            scales = ((side + self.offset) / self.native for side in (rows, columns))
            how = {"scale_factor": tuple(scales)}
        grid = F.interpolate(grid, mode="bicubic", antialias=self.antialias, **how)
        if grid.shape[-2:] != (rows, columns):
            raise ValueError(f"the positions are {tuple(grid.shape[-2:])}, not {(rows, columns)}")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """What enters the first block, `b 1+r+n d`: class token, registers, patches."""
        x = self.patch_embed.proj(pixels)
        rows, columns = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.positions(rows, columns)
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        return x

    def get_intermediate_layers(self, pixels, n, norm=True):
        """Pairs of patches `b d h w` and class tokens `b d` after the 0-based blocks `n`.

        The original returns patches as `b h*w d` unless it is asked to reshape them.
        """
        rows, columns = (side // self.patch for side in pixels.shape[-2:])
        x = self.tokens(pixels)
        taps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in n:
                y = self.norm(x) if norm else x
                patches = y[:, y.shape[1] - rows * columns :].transpose(1, 2)
                taps.append((patches.unflatten(2, (rows, columns)), y[:, 0]))
        return taps


class ResidualConvUnit(nn.Module):
    """The skip is the input before its ReLU."""

    def __init__(self, features):
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FeatureFusionBlock(nn.Module):
    """The coarsest block's `resConfUnit1` is never called."""

    def __init__(self, features):
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)

    def forward(self, x, skip, size):
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        return self.out_conv(aligned(self.resConfUnit2(x), size))


def aligned(x: torch.Tensor, size) -> torch.Tensor:
    """`x` resized bilinearly with aligned corners."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class DPTHead(nn.Module):
    """`DPTHead`; with `max_depth` its last activation is a sigmoid and not ReLU."""

    def __init__(self, inputs, features, widths, use_clstoken, max_depth, patch):
        super().__init__()
        self.max_depth, self.patch = max_depth, patch
        self.projects = nn.ModuleList(nn.Conv2d(inputs, c, 1) for c in widths)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        self.readout_projects = None
        if use_clstoken:
            self.readout_projects = nn.ModuleList(
                nn.Sequential(nn.Linear(2 * inputs, inputs), nn.GELU()) for _ in widths
            )
        self.scratch = nn.Module()
        for i, c in enumerate(widths, start=1):
            rn = nn.Conv2d(c, features, 3, padding=1, bias=False)
            self.scratch.add_module(f"layer{i}_rn", rn)
            self.scratch.add_module(f"refinenet{i}", FeatureFusionBlock(features))
        self.scratch.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.scratch.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1)
        )

    def forward(self, taps):
        skips = []
        for i, (x, cls) in enumerate(taps):
            if self.readout_projects is not None:
                patches = x.flatten(2).transpose(1, 2)
                both = torch.cat([patches, cls.unsqueeze(1).expand_as(patches)], dim=-1)
                x = self.readout_projects[i](both).transpose(1, 2).reshape(x.shape)
            x = self.resize_layers[i](self.projects[i](x))
            skips.append(self.scratch.get_submodule(f"layer{i + 1}_rn")(x))
        sizes = [tuple(2 * side for side in skips[0].shape[-2:]), *(s.shape[-2:] for s in skips)]
        path = self.scratch.refinenet4(skips[3], None, sizes[3])
        for i in (3, 2, 1):
            path = self.scratch.get_submodule(f"refinenet{i}")(path, skips[i - 1], sizes[i - 1])
        size = tuple(self.patch * side for side in taps[0][0].shape[-2:])
        x = self.scratch.output_conv2(aligned(self.scratch.output_conv1(path), size))
        return F.relu(x) if self.max_depth is None else self.max_depth * torch.sigmoid(x)


class DepthAnything(nn.Module):
    """`DPT_DINOv2` (V1) and `DepthAnythingV2`; the two differ in `taps` alone.

    Args:
        backbone: keyword arguments of `DinoVisionTransformer`; the defaults are ViT-S/14.
        taps: 0-based blocks, each normalised by the final LayerNorm. None is V1's last four.
        features: channels of the decoder.
        widths: channels of the four reassembled maps.
        use_clstoken: projects class token and patches together; no released model does.
        max_depth: None is relative (disparity, ReLU); a number is metric (sigmoid times metres).
    """

    def __init__(
        self,
        backbone=None,
        taps=(2, 5, 8, 11),
        features=64,
        widths=(48, 96, 192, 384),
        use_clstoken=False,
        max_depth=None,
    ):
        super().__init__()
        self.pretrained = vit = DinoVisionTransformer(**(backbone or {}))
        depth, inputs = len(vit.blocks), vit.cls_token.shape[-1]
        self.taps = tuple(range(depth - 4, depth)) if taps is None else taps
        self.depth_head = DPTHead(inputs, features, widths, use_clstoken, max_depth, vit.patch)
        self.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Disparity or metres `b h w` of `pixels` `b 3 h w`; both sides multiples of the patch."""
        taps = self.pretrained.get_intermediate_layers(pixels, self.taps, norm=True)
        return self.depth_head(taps).squeeze(1)


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """`model` with every parameter random, such that activations stay near one."""
    for name, tensor in model.state_dict().items():
        normal = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 1 and name.endswith(("weight", "gamma")):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim == 1:
            tensor.copy_(0.2 * normal)
        elif name.endswith(("_token", "_tokens", "pos_embed")):
            tensor.copy_(normal)
        else:
            tensor.copy_(normal * tensor[0].numel() ** -0.5)
            if name.endswith("output_conv2.2.weight"):
                tensor.add_(0.1)  # both signs occur in front of the final ReLU
    return model
