# SPDX-License-Identifier: Apache-2.0
"""A second reference: the forward pass of isl-org/DPT's ViT models, over its own parameter names.

Plain arithmetic over a state dict, written from notes about that repository and not from Hugging
Face's port: an error in one reference is not in the other. Unlike Hugging Face's it takes
rectangles; like the original it fails on grids with an odd side.
"""

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F


@dataclasses.dataclass(frozen=True)
class Spec:
    """What the shapes of a state dict do not tell.

    Attributes:
        width, heads, depth, mlp, patch: of the ViT.
        native: side of the square patch grid that `pos_embed` was made for.
        hooks: 0-based blocks that are read.
        widths: channels of the four reassembled maps.
        features: channels of the decoder.
        readout: "ignore", "add" or "project".
        labels: classes of a segmentation model; None is a depth model.
        use_bn: BatchNorm in the residual units (isl-org: in segmentation models only).
    """

    width: int = 24
    heads: int = 3
    depth: int = 4
    mlp: int = 48
    patch: int = 16
    native: int = 4
    hooks: tuple[int, int, int, int] = (0, 1, 2, 3)
    widths: tuple[int, int, int, int] = (8, 12, 16, 20)
    features: int = 16
    readout: str = "project"
    labels: int | None = None
    use_bn: bool = False
    eps: float = 1e-6


def shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint of `spec`, those that no forward pass reads included."""
    out: dict[str, tuple[int, ...]] = {}

    def affine(name: str, *weight: int, bias: int | None = None) -> None:
        out[f"{name}.weight"] = weight
        out[f"{name}.bias"] = (weight[0] if bias is None else bias,)

    def batch_norm(name: str, channels: int) -> None:
        affine(name, channels)
        out[f"{name}.running_mean"] = out[f"{name}.running_var"] = (channels,)
        out[f"{name}.num_batches_tracked"] = ()

    d, f = spec.width, spec.features
    vit = "pretrained.model"
    out[f"{vit}.cls_token"] = (1, 1, d)
    out[f"{vit}.pos_embed"] = (1, 1 + spec.native**2, d)
    affine(f"{vit}.patch_embed.proj", d, 3, spec.patch, spec.patch)
    for n in range(spec.depth):
        block = f"{vit}.blocks.{n}"
        affine(f"{block}.norm1", d)
        affine(f"{block}.attn.qkv", 3 * d, d)
        affine(f"{block}.attn.proj", d, d)
        affine(f"{block}.norm2", d)
        affine(f"{block}.mlp.fc1", spec.mlp, d)
        affine(f"{block}.mlp.fc2", d, spec.mlp)
    affine(f"{vit}.norm", d)
    affine(f"{vit}.head", 10, d)
    for i, c in enumerate(spec.widths, start=1):
        post = f"pretrained.act_postprocess{i}"
        if spec.readout == "project":
            affine(f"{post}.0.project.0", d, 2 * d)
        affine(f"{post}.3", c, d, 1, 1)
        if i in (1, 2):
            side = 4 if i == 1 else 2
            affine(f"{post}.4", c, c, side, side)
        if i == 4:
            affine(f"{post}.4", c, c, 3, 3)
        out[f"scratch.layer{i}_rn.weight"] = (f, c, 3, 3)
        fusion = f"scratch.refinenet{i}"
        affine(f"{fusion}.out_conv", f, f, 1, 1)
        for unit in ("resConfUnit1", "resConfUnit2"):
            for k in (1, 2):
                if spec.use_bn:
                    out[f"{fusion}.{unit}.conv{k}.weight"] = (f, f, 3, 3)
                    batch_norm(f"{fusion}.{unit}.bn{k}", f)
                else:
                    affine(f"{fusion}.{unit}.conv{k}", f, f, 3, 3)
    head = "scratch.output_conv"
    if spec.labels is None:
        affine(f"{head}.0", f // 2, f, 3, 3)
        affine(f"{head}.2", 32, f // 2, 3, 3)
        affine(f"{head}.4", 1, 32, 1, 1)
    else:
        for branch in (head, "auxlayer"):
            out[f"{branch}.0.weight"] = (f, f, 3, 3)
            batch_norm(f"{branch}.1", f)
            affine(f"{branch}.4", spec.labels, f, 1, 1)
    return out


def random_state(spec: Spec, seed: int) -> dict[str, torch.Tensor]:
    """A checkpoint in which every number is random and activations stay near one."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        value = rng.standard_normal(shape)
        if len(shape) == 1 and name.endswith(("weight", "running_var")):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            value = 0.2 * value
        elif "act_postprocess" in name and name.endswith(".4.weight") and shape[-1] != 3:
            value = value * shape[0] ** -0.5  # transposed: (in, out, side, side)
        elif len(shape) != 3:
            value = value * math.prod(shape[1:]) ** -0.5
        if name == "scratch.output_conv.4.weight" and spec.labels is None:
            value = value + 0.1  # both signs occur in front of the final ReLU
        state[name] = torch.from_numpy(np.asarray(value, np.float32))
    return state


class _Forward:
    def __init__(self, state: dict[str, torch.Tensor], spec: Spec):
        self.state, self.spec = state, spec

    def weights(self, name: str):
        return self.state[f"{name}.weight"], self.state.get(f"{name}.bias")

    def linear(self, name: str, x):
        return F.linear(x, *self.weights(name))

    def conv(self, name: str, x, **options):
        return F.conv2d(x, *self.weights(name), **options)

    def conv3(self, name: str, x):
        return self.conv(name, x, padding=1)

    def layer_norm(self, name: str, x):
        return F.layer_norm(x, x.shape[-1:], *self.weights(name), eps=self.spec.eps)

    def batch_norm(self, name: str, x):
        mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, *self.weights(name), training=False, eps=1e-5)

    def vit(self, pixels) -> list[torch.Tensor]:
        spec, vit = self.spec, "pretrained.model"
        x = self.conv(f"{vit}.patch_embed.proj", pixels, stride=spec.patch)
        grid = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.state[f"{vit}.cls_token"].expand(len(x), -1, -1), x], dim=1)
        x = x + self.resized_positions(*grid)
        taps = []
        for n in range(spec.depth):
            block = f"{vit}.blocks.{n}"
            x = x + self.attention(f"{block}.attn", self.layer_norm(f"{block}.norm1", x))
            y = self.linear(f"{block}.mlp.fc1", self.layer_norm(f"{block}.norm2", x))
            x = x + self.linear(f"{block}.mlp.fc2", F.gelu(y))
            if n in spec.hooks:
                taps.append(x)
        return taps

    def resized_positions(self, rows: int, columns: int):
        positions = self.state["pretrained.model.pos_embed"]
        side = self.spec.native
        first, grid = positions[:, :1], positions[0, 1:]
        grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, columns), mode="bilinear")
        grid = grid.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)
        return torch.cat([first, grid], dim=1)

    def attention(self, name: str, x):
        b, n, d = x.shape
        heads = self.spec.heads
        qkv = self.linear(f"{name}.qkv", x).reshape(b, n, 3, heads, d // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * (d // heads) ** -0.5
        x = scores.softmax(dim=-1) @ v
        return self.linear(f"{name}.proj", x.transpose(1, 2).reshape(b, n, d))

    def reassemble(self, i: int, tokens, rows: int, columns: int):
        post = f"pretrained.act_postprocess{i}"
        cls, x = tokens[:, 0], tokens[:, 1:]
        if self.spec.readout == "add":
            x = x + cls.unsqueeze(1)
        elif self.spec.readout == "project":
            both = torch.cat([x, cls.unsqueeze(1).expand_as(x)], dim=-1)
            x = F.gelu(self.linear(f"{post}.0.project.0", both))
        x = x.transpose(1, 2).unflatten(2, (rows, columns))
        x = self.conv(f"{post}.3", x)
        if i in (1, 2):
            x = F.conv_transpose2d(x, *self.weights(f"{post}.4"), stride=4 if i == 1 else 2)
        if i == 4:
            x = self.conv(f"{post}.4", x, stride=2, padding=1)
        return self.conv3(f"scratch.layer{i}_rn", x)

    def residual_unit(self, name: str, x):
        y = x
        for k in (1, 2):
            y = self.conv3(f"{name}.conv{k}", F.relu(y))
            if self.spec.use_bn:
                y = self.batch_norm(f"{name}.bn{k}", y)
        return x + y

    def fuse(self, i: int, path, skip):
        name = f"scratch.refinenet{i}"
        if path is None:
            x = skip
        else:
            x = path + self.residual_unit(f"{name}.resConfUnit1", skip)
        x = self.residual_unit(f"{name}.resConfUnit2", x)
        return self.conv(f"{name}.out_conv", double(x))

    def __call__(self, pixels):
        rows, columns = (side // self.spec.patch for side in pixels.shape[-2:])
        path = None
        taps = dict(enumerate(self.vit(pixels), start=1))
        for i in (4, 3, 2, 1):
            path = self.fuse(i, path, self.reassemble(i, taps[i], rows, columns))
        head = "scratch.output_conv"
        x = self.conv3(f"{head}.0", path)
        if self.spec.labels is not None:
            x = F.relu(self.batch_norm(f"{head}.1", x))
            return double(self.conv(f"{head}.4", x))
        x = F.relu(self.conv3(f"{head}.2", double(x)))
        return F.relu(self.conv(f"{head}.4", x)).squeeze(1)


def double(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


@torch.no_grad()
def forward(state: dict[str, torch.Tensor], spec: Spec, pixels: torch.Tensor) -> torch.Tensor:
    """Depth `b h w`, or logits `b k h w`, of `pixels` `b 3 h w` (sides multiples of 2 patches)."""
    return _Forward(state, spec)(pixels)
