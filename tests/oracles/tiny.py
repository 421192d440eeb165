# SPDX-License-Identifier: Apache-2.0
"""Tiny random instances of the transcriptions, in eval mode."""

import torch

from tests.oracles import depth_anything, dinov2_depth, isl_hybrid, midas31, midas31_swin2

torch.set_num_threads(1)

HYBRID = {"width": 24, "depth": 4, "heads": 3, "image_size": 64, "stem": 16, "groups": 4}
HYBRID |= {"channels": (16, 32, 64), "layers": (2, 1, 2), "hooks": (1, 3), "widths": (20, 24)}
HYBRID |= {"features": 16}
DINO = {"width": 24, "depth": 4, "heads": 3, "image_size": 56}
WIDTHS = (8, 12, 16, 20)
DECODER = {"features": 16, "widths": WIDTHS}
BEIT = {"width": 24, "depth": 4, "heads": 3, "image_size": 64, "hooks": (0, 1, 2, 3)}
SWIN = {"width": 8, "depths": (2, 3, 2, 1), "heads": (1, 2, 2, 4), "window": 4, "image_size": 64}


def hybrid(**options):
    return seeded(isl_hybrid, isl_hybrid.DPTHybrid(**HYBRID, **options))


def anything(backbone, **options):
    backbone = DINO | {"interpolate_offset": 0} | backbone
    return seeded(depth_anything, depth_anything.DepthAnything(backbone, **DECODER, **options))


def depther(**backbone):
    backbone = DINO | {"interpolate_offset": 0} | backbone
    vit = depth_anything.DinoVisionTransformer(**backbone)
    model = dinov2_depth.DepthEncoderDecoder(vit, (0, 1, 2, 3), 256, WIDTHS)
    return seeded(dinov2_depth, model)


def beit():
    return seeded(midas31, midas31.DPT(midas31.Beit(**BEIT, widths=WIDTHS), 16))


def swin(**options):
    return seeded(midas31_swin2, midas31.DPT(midas31_swin2.Swin2(**SWIN, **options), 16))


def seeded(module, model):
    return module.randomise(model, torch.Generator().manual_seed(0))


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def assert_close(got, want, tolerance=5e-6):
    assert got.shape == want.shape
    assert float((got - want).abs().max() / want.abs().max()) <= tolerance
