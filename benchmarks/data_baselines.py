# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks/data.py` is compared with: the same recipes as torch code usually writes them.

`Pillow*` does what research code in the manner of PyTorch-Encoding and BTS does: resize all of the
image, photometric steps in float32, normalise and transpose on the host. `OpenCV*` does it in the
manner of mmsegmentation 1.x: OpenCV wherever it has a function; segmentation leaves the host as
bytes. Each has four stages; `finish` makes tensors of what collate stacks.
"""

import importlib
import io
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from PIL import Image, ImageOps

cv2: Any = importlib.import_module("cv2")  # its type hints refuse what it takes
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
Sample = tuple[Any, Any]


class PillowSegmentation:
    """Pillow and NumPy; `mmseg` is scale, crop, flip, distort; otherwise flip, scale, pad, crop."""

    def __init__(self, mmseg: bool):
        self.mmseg, self.crop = mmseg, 512 if mmseg else 480

    def decode(self, image: bytes, target: bytes) -> Sample:
        label = np.asarray(Image.open(io.BytesIO(target))).astype(np.int32) - 1
        label[label < 0] = 255
        return Image.open(io.BytesIO(image)).convert("RGB"), Image.fromarray(label.astype(np.uint8))

    def geometry(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image, label = sample
        flip = self.mmseg or rng.random() < 0.5
        size = drawn_size(image.height, image.width, self.mmseg, rng)
        if flip and not self.mmseg:
            image, label = (x.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for x in sample)
        image = image.resize(size, Image.Resampling.BILINEAR)
        label = label.resize(size, Image.Resampling.NEAREST)
        pad = (0, 0, max(0, self.crop - size[0]), max(0, self.crop - size[1]))
        image, label = ImageOps.expand(image, pad, 0), ImageOps.expand(label, pad, 255)
        pixels, ids = np.asarray(image), np.asarray(label)
        top, left = drawn_window(ids, self.crop, self.mmseg, rng)
        pixels = pixels[top : top + self.crop, left : left + self.crop]
        ids = ids[top : top + self.crop, left : left + self.crop]
        if self.mmseg and rng.random() < 0.5:
            pixels, ids = pixels[:, ::-1].copy(), ids[:, ::-1].copy()
        return pixels, ids

    def photometric(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if not self.mmseg:
            return sample
        image = distorted(
            sample[0],
            rng,
            lambda x: np.array(Image.fromarray(x).convert("HSV")),
            lambda x: np.array(Image.fromarray(x, "HSV").convert("RGB")),
            256,
        )
        return image, sample[1]

    def finish(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        image = (sample[0].astype(np.float32) / 255 - MEAN) / STD
        label = torch.from_numpy(sample[1].astype(np.int64))
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), label


class OpenCVSegmentation(PillowSegmentation):
    """OpenCV, bytes to the end."""

    def decode(self, image: bytes, target: bytes) -> Sample:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        label = cv2.imdecode(np.frombuffer(target, np.uint8), cv2.IMREAD_UNCHANGED)
        label[label == 0] = 255  # as mmseg's reduce_zero_label
        label = label - 1
        label[label == 254] = 255
        return pixels, label

    def geometry(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image, label = sample
        flip = self.mmseg or rng.random() < 0.5
        size = drawn_size(image.shape[0], image.shape[1], self.mmseg, rng)
        if flip and not self.mmseg:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        pad = (0, max(0, self.crop - size[1]), 0, max(0, self.crop - size[0]), cv2.BORDER_CONSTANT)
        if any(pad[:4]):
            image = cv2.copyMakeBorder(image, *pad, value=(0, 0, 0))
            label = cv2.copyMakeBorder(label, *pad, value=(255,))
        top, left = drawn_window(label, self.crop, self.mmseg, rng)
        image = image[top : top + self.crop, left : left + self.crop]
        label = label[top : top + self.crop, left : left + self.crop]
        if self.mmseg and rng.random() < 0.5:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        return image, label

    def photometric(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if not self.mmseg:
            return sample
        image = distorted(
            sample[0],
            rng,
            lambda x: cv2.cvtColor(x, cv2.COLOR_BGR2HSV),
            lambda x: cv2.cvtColor(x, cv2.COLOR_HSV2BGR),
            180,
        )
        return image, sample[1]

    def finish(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.from_numpy(np.ascontiguousarray(sample[0].transpose(2, 0, 1)))
        return image, torch.from_numpy(sample[1].astype(np.int64))


class PillowDepth:
    """BTS on NYUv2: border crop, rotate, crop, flip, gamma, brightness, tint."""

    def decode(self, image: bytes, target: bytes) -> Sample:
        picture, depth = Image.open(io.BytesIO(image)), Image.open(io.BytesIO(target))
        return picture.crop((43, 45, 608, 472)), depth.crop((43, 45, 608, 472))

    def geometry(self, sample: Sample, rng: np.random.Generator) -> Sample:
        angle = rng.uniform(-2.5, 2.5)
        image = sample[0].rotate(angle, resample=Image.Resampling.BILINEAR)
        depth = sample[1].rotate(angle, resample=Image.Resampling.NEAREST)
        pixels = np.asarray(image, dtype=np.float32) / 255.0
        metres = np.asarray(depth, dtype=np.float32)[..., None] / 1000.0
        return self.cut(pixels, metres, rng)

    def cut(self, image: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> Sample:
        top, left = int(rng.integers(len(image) - 415)), int(rng.integers(image.shape[1] - 543))
        image, depth = (x[top : top + 416, left : left + 544] for x in (image, depth))
        if rng.random() < 0.5:
            image, depth = image[:, ::-1].copy(), depth[:, ::-1].copy()
        return image, depth

    def photometric(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image, depth = sample
        if rng.random() < 0.5:
            image = image ** rng.uniform(0.9, 1.1) * rng.uniform(0.75, 1.25)
            white = np.ones(image.shape[:2])
            image *= np.stack([white * rng.uniform(0.9, 1.1) for _ in range(3)], axis=2)
            image = np.clip(image, 0, 1)
        return image, depth

    def finish(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        image, depth = (torch.from_numpy(x.transpose(2, 0, 1)) for x in sample)
        mean, std = torch.from_numpy(MEAN)[:, None, None], torch.from_numpy(STD)[:, None, None]
        return ((image - mean) / std).contiguous(), depth.contiguous()


class OpenCVDepth(PillowDepth):
    """The same in the manner of the Monocular-Depth-Toolbox, an mmseg of older days."""

    def decode(self, image: bytes, target: bytes) -> Sample:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        depth = cv2.imdecode(np.frombuffer(target, np.uint8), cv2.IMREAD_UNCHANGED)
        depth = depth.astype(np.float32) / 1000
        return pixels[45:472, 43:608], depth[45:472, 43:608]

    def geometry(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image, depth = sample
        size = (image.shape[1], image.shape[0])
        centre = ((size[0] - 1) * 0.5, (size[1] - 1) * 0.5)
        turn = cv2.getRotationMatrix2D(centre, rng.uniform(-2.5, 2.5), 1.0)
        image = cv2.warpAffine(image, turn, size, flags=cv2.INTER_LINEAR)
        depth = cv2.warpAffine(depth, turn, size, flags=cv2.INTER_NEAREST)
        return self.cut(image, depth[..., None], rng)

    def photometric(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image, depth = super().photometric((sample[0].astype(np.float32) / 255, sample[1]), rng)
        return image.astype(np.float32) * 255, depth

    def finish(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        image = cv2.cvtColor(sample[0], cv2.COLOR_BGR2RGB)
        image = cv2.multiply(cv2.subtract(image, (127.5,) * 4), (1 / 127.5,) * 4)
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return image, torch.from_numpy(np.ascontiguousarray(sample[1].transpose(2, 0, 1)))


def drawn_size(height: int, width: int, mmseg: bool, rng: np.random.Generator) -> tuple[int, int]:
    """Columns and rows of the recipes of mmseg and of PyTorch-Encoding."""
    if mmseg:
        ratio = rng.uniform(0.5, 2.0)
        long, short = int(2048 * ratio), int(512 * ratio)
        factor = min(long / max(height, width), short / min(height, width))
    else:
        factor = rng.integers(260, 1041) / max(height, width)
    return int(width * factor + 0.5), int(height * factor + 0.5)


def drawn_window(
    label: np.ndarray, crop: int, mmseg: bool, rng: np.random.Generator
) -> tuple[int, int]:
    """Top and left, drawn again, up to ten times, while one class fills the crop (mmseg)."""
    top = left = 0
    for _ in range(10 if mmseg else 1):
        top = int(rng.integers(label.shape[0] - crop + 1))
        left = int(rng.integers(label.shape[1] - crop + 1))
        if not mmseg:
            break
        ids, counts = np.unique(label[top : top + crop, left : left + crop], return_counts=True)
        counts = counts[ids != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
            break
    return top, left


def distorted(
    image: np.ndarray, rng: np.random.Generator, to_hsv: Any, to_rgb: Any, hues: int
) -> np.ndarray:
    """PhotoMetricDistortion step by step, each in float32 and back to bytes."""

    def converted(x: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
        return np.clip(x.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    brightness, first, contrast, saturation, hue = rng.random(5) < 0.5
    if brightness:
        image = converted(image, beta=rng.uniform(-32, 32))
    if first and contrast:
        image = converted(image, alpha=rng.uniform(0.5, 1.5))
    if saturation:
        hsv = to_hsv(image)
        hsv[..., 1] = converted(hsv[..., 1], alpha=rng.uniform(0.5, 1.5))
        image = to_rgb(hsv)
    if hue:
        hsv = to_hsv(image)
        hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(-hues // 10, hues // 10)) % hues
        image = to_rgb(hsv)
    if not first and contrast:
        image = converted(image, alpha=rng.uniform(0.5, 1.5))
    return image
