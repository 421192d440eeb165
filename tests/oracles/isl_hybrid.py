# SPDX-License-Identifier: Apache-2.0
"""isl-org/DPT's DPT-Hybrid (`vitb_rn50_384`) over timm 0.4.5's `vit_base_resnet50_384`.

Transcribed from `dpt/models.py`, `dpt/blocks.py`, `dpt/vit.py` and timm's `resnetv2.py` and
`std_conv.py`; modules carry the original names, so `state_dict()` has the key layout of
`dpt_hybrid-midas-501f0c75.pt`, `dpt_hybrid_nyu-2ce69ec7.pt`, `dpt_hybrid_kitti-cb926ef4.pt` and
`dpt_hybrid-ade20k-53898607.pt`. What differs from Hugging Face's `DPTConfig(is_hybrid=True)`:

- weights are standardised as `(w - mean) / (std + 1e-5)`, not by `sqrt(var + 1e-8)`;
- LayerNorm has epsilon 1e-6, not 1e-12;
- any size of which both sides are multiples of 32 is taken, not 384 x 384 only;
- `scale`, `shift` and `invert` turn disparity into depth; `non_negative=False` drops the last ReLU;
- `pretrained.model.head` and `auxlayer` are in the files and read by no forward pass.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


def named(**modules: nn.Module) -> nn.Sequential:
    """A chain of modules under these names."""
    return nn.Sequential(OrderedDict(modules))


def same_padding(x: torch.Tensor, kernel: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """`x` padded as TensorFlow's SAME does; the odd row or column goes to the bottom or right."""
    pads = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


class StdConv2dSame(nn.Conv2d):
    """A convolution of standardised weights, without bias; `formula` is "std" or "var"."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, formula: str):
        super().__init__(inputs, outputs, kernel, stride, bias=False)
        self.formula = formula

    def forward(self, x):
        centred = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        var = centred.square().mean(dim=(1, 2, 3), keepdim=True)
        scale = {"std": var.sqrt() + 1e-5, "var": (var + 1e-8).sqrt()}[self.formula]
        x = same_padding(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, centred / scale, None, self.stride)


class Bottleneck(nn.Module):
    """Post-activation; the 3 x 3 convolution has the stride; `project` adds `downsample`."""

    def __init__(self, inputs, outputs, stride, groups, formula, project):
        super().__init__()
        mid = _make_divisible(outputs / 4)
        self.downsample = nn.Identity()
        if project:
            conv = StdConv2dSame(inputs, outputs, 1, stride, formula)
            self.downsample = named(conv=conv, norm=nn.GroupNorm(groups, outputs))
        self.conv1 = StdConv2dSame(inputs, mid, 1, 1, formula)
        self.norm1 = nn.GroupNorm(groups, mid)
        self.conv2 = StdConv2dSame(mid, mid, 3, stride, formula)
        self.norm2 = nn.GroupNorm(groups, mid)
        self.conv3 = StdConv2dSame(mid, outputs, 1, 1, formula)
        self.norm3 = nn.GroupNorm(groups, outputs)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.downsample(x))


def _make_divisible(value: float) -> int:
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


class ResNetV2(nn.Module):
    """timm's stem and stages with `preact=False, stem_type="same"`; returns every stage."""

    def __init__(self, stem, channels, layers, groups, formula):
        super().__init__()
        conv = StdConv2dSame(3, stem, 7, 2, formula)
        self.stem = named(conv=conv, norm=nn.GroupNorm(groups, stem))
        self.stages = nn.ModuleList()
        for s, (width, depth) in enumerate(zip(channels, layers, strict=True)):
            first = Bottleneck((stem, *channels)[s], width, 2 if s else 1, groups, formula, True)
            others = (Bottleneck(width, width, 1, groups, formula, False) for _ in range(depth - 1))
            self.stages.append(named(blocks=nn.Sequential(first, *others)))

    def forward(self, x):
        x = F.max_pool2d(same_padding(F.relu(self.stem(x)), 3, 2, value=-torch.inf), 3, 2)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Block(nn.Module):
    """A pre-norm Transformer block with timm's fused `attn.qkv`."""

    def __init__(self, width, heads, eps):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = nn.Module()
        self.attn.qkv = nn.Linear(width, 3 * width)
        self.attn.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        fc1, fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = named(fc1=fc1, act=nn.GELU(), fc2=fc2)

    def forward(self, x):
        b, n, d = x.shape
        qkv = self.attn.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * (d // self.heads) ** -0.5).softmax(dim=-1)
        x = x + self.attn.proj((weights @ v).transpose(1, 2).reshape(b, n, d))
        return x + self.mlp(self.norm2(x))


class ResidualConvUnit(nn.Module):
    """`ResidualConvUnit_custom`: the skip is the input before its ReLU; a bias or BatchNorm."""

    def __init__(self, features, use_bn):
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1, bias=not use_bn)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=not use_bn)
        self.bn1 = nn.BatchNorm2d(features) if use_bn else nn.Identity()
        self.bn2 = nn.BatchNorm2d(features) if use_bn else nn.Identity()

    def forward(self, x):
        y = self.bn1(self.conv1(F.relu(x)))
        return x + self.bn2(self.conv2(F.relu(y)))


class FeatureFusionBlock(nn.Module):
    """`FeatureFusionBlock_custom`; the coarsest block's `resConfUnit1` is never called."""

    def __init__(self, features, use_bn):
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualConvUnit(features, use_bn)
        self.resConfUnit2 = ResidualConvUnit(features, use_bn)

    def forward(self, path, skip=None):
        if skip is not None:
            path = path + self.resConfUnit1(skip)
        return self.out_conv(double(self.resConfUnit2(path)))


def double(x: torch.Tensor) -> torch.Tensor:
    """Twice as high and wide, bilinear with aligned corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class DPTHybrid(nn.Module):
    """`DPTDepthModel`, or `DPTSegmentationModel` where `num_classes` is given; in eval mode.

    Args:
        width, depth, heads: of the ViT.
        image_size: side in pixels that `pos_embed` is made for.
        stem, channels, layers, groups: of the ResNet; `groups`, 32 in the original, divide widths.
        hooks, widths: 0-based blocks read after two ResNet stages, and the channels of their maps.
        features, use_bn: of the decoder; a segmentation model always has BatchNorm.
        num_classes: of a segmentation model, which has an unused `auxlayer`.
        formula: of the weight standardisation, "std" (timm 0.4.5) or "var" (later, Hugging Face).
    """

    def __init__(
        self,
        width=768,
        depth=12,
        heads=12,
        image_size=384,
        stem=64,
        channels=(256, 512, 1024),
        layers=(3, 4, 9),
        groups=32,
        hooks=(8, 11),
        widths=(768, 768),
        features=256,
        num_classes=None,
        use_bn=False,
        non_negative=True,
        scale=1.0,
        shift=0.0,
        invert=False,
        formula="std",
        eps=1e-6,
    ):
        super().__init__()
        self.hooks, self.num_classes, self.non_negative = hooks, num_classes, non_negative
        self.scale, self.shift, self.invert = scale, shift, invert
        self.pretrained = nn.Module()
        vit = self.pretrained.model = nn.Module()
        vit.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        vit.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_size // 16) ** 2, width))
        vit.patch_embed = nn.Module()
        vit.patch_embed.backbone = ResNetV2(stem, channels, layers, groups, formula)
        vit.patch_embed.proj = nn.Conv2d(channels[-1], width, 1)
        vit.blocks = nn.ModuleList(Block(width, heads, eps) for _ in range(depth))
        vit.norm = nn.LayerNorm(width, eps=eps)
        vit.head = nn.Linear(width, 10)
        for i, out in zip((3, 4), widths, strict=True):
            readout = named(project=nn.Sequential(nn.Linear(2 * width, width), nn.GELU()))
            post = [readout, nn.Identity(), nn.Identity(), nn.Conv2d(width, out, 1)]
            if i == 4:
                post.append(nn.Conv2d(out, out, 3, stride=2, padding=1))
            self.pretrained.add_module(f"act_postprocess{i}", nn.Sequential(*post))
        self.scratch = nn.Module()
        for i, inputs in enumerate((*channels[:2], *widths), start=1):
            rn = nn.Conv2d(inputs, features, 3, padding=1, bias=False)
            fusion = FeatureFusionBlock(features, use_bn or num_classes is not None)
            self.scratch.add_module(f"layer{i}_rn", rn)
            self.scratch.add_module(f"refinenet{i}", fusion)
        if num_classes is None:
            self.scratch.output_conv = nn.Sequential(
                nn.Conv2d(features, features // 2, 3, padding=1),
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
                nn.Conv2d(features // 2, 32, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, 1, 1),
            )
        else:
            self.scratch.output_conv = _segmentation_head(features, num_classes)
            self.auxlayer = _segmentation_head(features, num_classes)
        self.eval()

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        """Position embeddings `1 1+n d` of a grid: bilinear, corners not aligned."""
        embedding = self.pretrained.model.pos_embed
        side = int((embedding.shape[1] - 1) ** 0.5)
        grid = embedding[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, columns), mode="bilinear")
        return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def encode(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The four maps that enter `scratch`, finest first."""
        vit = self.pretrained.model
        rows, columns = (side // 16 for side in pixels.shape[-2:])
        *maps, last = vit.patch_embed.backbone(pixels)
        x = vit.patch_embed.proj(last).flatten(2).transpose(1, 2)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], 1) + self.positions(rows, columns)
        for n, block in enumerate(vit.blocks):
            x = block(x)
            if n in self.hooks:
                post = self.pretrained.get_submodule(f"act_postprocess{len(maps) + 1}")
                cls = x[:, :1].expand(-1, rows * columns, -1)
                y = post[0](torch.cat([x[:, 1:], cls], dim=-1))
                maps.append(post[3:](y.transpose(1, 2).unflatten(2, (rows, columns))))
        return maps

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Disparity or (`invert`) depth `b h w`; logits `b k h w` where `num_classes` is given."""
        skips = [
            self.scratch.get_submodule(f"layer{i}_rn")(x)
            for i, x in enumerate(self.encode(pixels), start=1)
        ]
        x = self.scratch.refinenet4(skips[3])
        for i in (3, 2, 1):
            x = self.scratch.get_submodule(f"refinenet{i}")(x, skips[i - 1])
        x = self.scratch.output_conv(x)
        if self.num_classes is not None:
            return double(x)
        x = (F.relu(x) if self.non_negative else x).squeeze(1)
        return 1 / (self.scale * x + self.shift).clamp(min=1e-8) if self.invert else x


def _segmentation_head(features, classes):
    return nn.Sequential(
        nn.Conv2d(features, features, 3, padding=1, bias=False),
        nn.BatchNorm2d(features),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(features, classes, 1),
    )


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """`model` with every parameter and buffer random, such that activations stay near one."""
    for name, tensor in model.state_dict().items():
        normal = torch.randn(tensor.shape, generator=generator)
        if not tensor.is_floating_point():  # num_batches_tracked
            tensor.fill_(7)
        elif tensor.ndim == 1 and name.endswith(("weight", "running_var")):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim == 1:
            tensor.copy_(0.2 * normal)
        elif name.endswith(("cls_token", "pos_embed")):
            tensor.copy_(normal)
        else:
            tensor.copy_(normal * tensor[0].numel() ** -0.5)
            if name == "scratch.output_conv.4.weight":
                tensor.add_(0.1)  # both signs occur in front of the final ReLU
    return model
