# SPDX-License-Identifier: Apache-2.0
"""facebookresearch/dinov2's depther with a DPT head (`dinov2_vit*14_dd` of torch.hub).

Transcribed from `dinov2/hub/depthers.py`, `dinov2/hub/depth/decode_heads.py`,
`encoder_decoder.py` and `hub/utils.py`. Modules carry the original (mmseg) names: `state_dict()`
has the `decode_head.*` keys of `dinov2_vits14_nyu_dpt_head.pth` (under its "state_dict") and, under
`backbone.`, those of `dinov2_vits14_pretrain.pth`, a file of its own without that prefix. What
differs from Hugging Face's `dpt-dinov2-*`:

- `min_depth` 0.001 is added after the last ReLU; the result is clamped to `max_depth` metres
  and resized to the image;
- images are zero-padded around their centre to whole patches, after normalisation;
- position embeddings are resized by a scale factor (see depth_anything.py);
- `fusion_blocks.0` has no `res_conv_unit1`.
"""

import torch
import torch.nn.functional as F
from torch import nn


class ConvModule(nn.Module):
    """mmcv's module with one convolution below the name `conv`."""

    def __init__(self, inputs, outputs, kernel, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x):
        return self.conv(x)


class ReassembleBlocks(nn.Module):
    """Readout "project", 1 x 1 projection and resize of four taps."""

    def __init__(self, inputs, widths):
        super().__init__()
        self.projects = nn.ModuleList(ConvModule(inputs, c, 1) for c in widths)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        self.readout_projects = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * inputs, inputs), nn.GELU()) for _ in widths
        )

    def forward(self, taps):
        maps = []
        for i, (x, cls) in enumerate(taps):
            patches = x.flatten(2).transpose(1, 2)
            both = torch.cat([patches, cls.unsqueeze(1).expand_as(patches)], dim=-1)
            x = self.readout_projects[i](both).transpose(1, 2).reshape(x.shape)
            maps.append(self.resize_layers[i](self.projects[i](x)))
        return maps


class PreActResidualConvUnit(nn.Module):
    """ReLU before each convolution, no bias; the skip is the input before its ReLU."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = ConvModule(channels, channels, 3, bias=False)
        self.conv2 = ConvModule(channels, channels, 3, bias=False)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FeatureFusionBlock(nn.Module):
    """A skip of another size (odd grids) is resized to the path, corners not aligned."""

    def __init__(self, channels, first):
        super().__init__()
        self.project = ConvModule(channels, channels, 1)
        self.res_conv_unit1 = None if first else PreActResidualConvUnit(channels)
        self.res_conv_unit2 = PreActResidualConvUnit(channels)

    def forward(self, x, skip=None):
        if skip is not None:
            if skip.shape != x.shape:
                skip = F.interpolate(skip, size=x.shape[-2:], mode="bilinear")
            x = x + self.res_conv_unit1(skip)
        return self.project(double(self.res_conv_unit2(x)))


def double(x: torch.Tensor) -> torch.Tensor:
    """Twice as high and wide, bilinear with aligned corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class DPTHead(nn.Module):
    """`decode_head`: metres `b 1 32*ceil(h/2) 32*ceil(w/2)` of a grid of `h w` patches."""

    def __init__(self, inputs, channels, widths, min_depth):
        super().__init__()
        self.min_depth = min_depth
        self.conv_depth = nn.Module()
        self.conv_depth.head = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(channels // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
        )
        self.reassemble_blocks = ReassembleBlocks(inputs, widths)
        self.convs = nn.ModuleList(ConvModule(c, channels, 3, bias=False) for c in widths)
        self.fusion_blocks = nn.ModuleList(
            FeatureFusionBlock(channels, first=i == 0) for i in range(len(widths))
        )
        self.project = ConvModule(channels, channels, 3)

    def forward(self, taps):
        maps = self.reassemble_blocks(taps)
        skips = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        path = self.fusion_blocks[0](skips[-1])
        for block, skip in zip(self.fusion_blocks[1:], skips[-2::-1], strict=True):
            path = block(path, skip)
        x = self.conv_depth.head(F.relu(self.project(path)))
        return F.relu(x) + self.min_depth


def center_padding(pixels: torch.Tensor, multiple: int) -> torch.Tensor:
    """`pixels` with zeros around, the smaller half at the top and the left."""
    pads = []
    for side in (pixels.shape[-1], pixels.shape[-2]):
        total = -side % multiple
        pads += [total // 2, total - total // 2]
    return F.pad(pixels, pads)


class DepthEncoderDecoder(nn.Module):
    """`DepthEncoderDecoder`; the hub's head has 256 channels and widths `d/8, d/4, d/2, d`.

    Args:
        backbone: a `DinoVisionTransformer` of depth_anything.py, with registers or without.
        taps: 0-based blocks, not normalised: (2, 5, 8, 11), ViT-L (4, 11, 17, 23), ViT-g
            (9, 19, 29, 39).
        channels: of the decoder.
        widths: channels of the four reassembled maps; None is the hub's rule.
        min_depth, max_depth: in metres; the hub has 0.001 and 10 (NYU) or 80 (KITTI).
    """

    def __init__(
        self,
        backbone,
        taps=(2, 5, 8, 11),
        channels=256,
        widths=None,
        min_depth=0.001,
        max_depth=10.0,
    ):
        super().__init__()
        self.taps, self.min_depth, self.max_depth = taps, min_depth, max_depth
        inputs = backbone.cls_token.shape[-1]
        widths = widths or [inputs // 2 ** (3 - i) for i in range(4)]
        self.backbone = backbone
        self.decode_head = DPTHead(inputs, channels, widths, min_depth)
        self.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The head's metres `b h' w'` of normalised `pixels` `b 3 h w` (any size), not resized."""
        pixels = center_padding(pixels, self.backbone.patch)
        taps = self.backbone.get_intermediate_layers(pixels, self.taps, norm=False)
        return self.decode_head(taps).squeeze(1)

    def whole_inference(self, pixels: torch.Tensor) -> torch.Tensor:
        """Metres `b h w`, clamped and resized to the unpadded image, corners not aligned.

        The padding is not cropped: the map of the padded image is squeezed into the image.
        """
        depth = self.forward(pixels).clamp(self.min_depth, self.max_depth).unsqueeze(1)
        return F.interpolate(depth, size=pixels.shape[-2:], mode="bilinear").squeeze(1)


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
            if name.endswith("conv_depth.head.4.weight"):
                tensor.add_(0.1)  # both signs occur in front of the final ReLU
    return model
