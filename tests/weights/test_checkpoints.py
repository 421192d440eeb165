# SPDX-License-Identifier: Apache-2.0
"""The table of public checkpoints: graphs at full size, preprocessing, and how files are found."""

import functools
import math
import re

import flax.traverse_util
import numpy as np
import pytest

from dpt_jax.models.dpt import abstract_variables, build_model
from dpt_jax.predict.processor import ImageProcessor
from dpt_jax.weights import checkpoints, huggingface, originals, source
from dpt_jax.weights.checkpoints import CHECKPOINTS
from dpt_jax.weights.errors import WeightsError
from dpt_jax.weights.hub_checkpoints import hub_checkpoints

ORIGINALS = {name: record for name, record in CHECKPOINTS.items() if record.files}
DEPTH = {"type": "depth"}


# --- Graphs --------------------------------------------------------------------------------------


def shape_of(record) -> tuple[str, str | None]:
    # V1's last four blocks end where V2's do: it has the same parameters.
    variant = record.model["variant"].replace("anything_v1", "anything")
    return variant, record.model.get("head", {}).get("type")


@functools.cache
def graph(variant: str, head: str):
    """A model of these shapes, and shapes by path; conventions change neither names nor shapes."""
    record = next(r for r in CHECKPOINTS.values() if shape_of(r) == (variant, head))
    model = build_model(dict(record.model) | {"variant": variant})
    return model, flax.traverse_util.flatten_dict(abstract_variables(model))


def parameters(leaves) -> int:
    return sum(math.prod(leaf.shape) for path, leaf in leaves.items() if path[0] == "params")


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_every_record_builds(name):
    record = CHECKPOINTS[name]
    model = build_model(record.model)
    assert (record.depth is None) == (model.task == "segmentation")
    metric = re.search("nyu|kitti|metric|zoedepth|prompt|tipsv2|chmv2", name, re.IGNORECASE)
    assert (record.depth == "metric") == bool(metric)
    processor = ImageProcessor(**record.preprocessing)
    assert ImageProcessor.from_dict(processor.to_dict()) == processor
    assert record.licence and record.origin.startswith("https://")
    assert record.name == name


# Parameters of transformers' models of the configurations in the conversion scripts, the dead ones
# included. Of Depth Anything's metric heads it has as many as of the relative.
TOTALS = {
    ("dpt_large", "depth"): 343_030_465,
    ("dpt_large", "segmentation"): 343_960_364,
    ("dpt_hybrid", "depth"): 122_377_985,
    ("dpt_hybrid", "segmentation"): 123_307_884,
    ("dpt_dinov2_small", "depth"): 37_197_601,
    ("dpt_dinov2_base", "depth"): 111_954_049,
    ("dpt_dinov2_large", "depth"): 339_738_305,
    ("dpt_dinov2_giant", "depth"): 1_199_461_185,
    ("dpt_beit_base_384", "depth"): 110_761_153,
    ("dpt_beit_large_384", "depth"): 343_311_553,
    ("dpt_beit_large_512", "depth"): 343_987_393,
    ("dpt_swinv2_tiny_256", "depth"): 40_930_795,
    ("dpt_swinv2_base_384", "depth"): 101_351_865,
    ("dpt_swinv2_large_384", "depth"): 211_871_797,
    ("depth_anything_small", "depth"): 24_785_089,
    ("depth_anything_base", "depth"): 97_470_785,
    ("depth_anything_large", "depth"): 335_315_649,
}


@pytest.mark.parametrize(("shape", "total"), TOTALS.items(), ids=str)
def test_parameters_are_as_many_as_those_of_transformers(shape, total):
    model, leaves = graph(*shape)
    # Which it has and does not read: a unit of the coarsest fusion layer, the final norm where
    # taps are raw, and DINOv2's mask token.
    width = model.neck.fusion_hidden_size
    biases = 2 * width if model.neck.use_batch_norm_in_fusion_residual else width
    unread = 2 * (9 * width**2 + (0 if "dpt_dinov2" in shape[0] else biases))
    if shape[0].startswith(("dpt_large", "dpt_hybrid", "dpt_dinov2")):
        unread += 2 * model.backbone.hidden_size
    if "dinov2" in shape[0] or "anything" in shape[0]:
        unread += model.backbone.hidden_size
    assert parameters(leaves) + unread == total


def test_the_first_depth_anything_taps_its_last_four_blocks():
    for size, last in (("small", 12), ("base", 12), ("large", 24)):
        v1, v2 = (
            build_model({"variant": f"depth_anything{v}_{size}", "head": DEPTH})
            for v in ("_v1", "")
        )
        taps = tuple(range(last - 4, last))
        assert v1.backbone.out_indices == taps
        assert v1 == v2.clone(backbone=v2.backbone.clone(out_indices=taps))


# --- Files of the original repositories at their published size ----------------------------------

# What the transcriptions hold and no dense prediction of them reads.
UNREAD = (
    r"pretrained\.model\.(head|norm|fc_norm)\..*",
    r"(pretrained|backbone)\.mask_token",
    r"(depth_head\.)?scratch\.refinenet4\.resConfUnit1\..*",
)
BASE, LARGE = (2, 5, 8, 11), (5, 11, 17, 23)
DINOV2 = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
DINOV2 |= {"giant": (1536, 40, 24)}
TAPS = {"small": BASE, "base": BASE, "large": (4, 11, 17, 23), "giant": (9, 19, 29, 39)}
WIDE = (256, 512, 1024, 1024)


def plain_vit(oracles, labels):
    spec = oracles.isl_dpt.Spec(
        *(1024, 16, 24, 4096, 16, 24, LARGE, WIDE, 256, "project", labels, labels is not None)
    )
    return oracles.isl_dpt.shapes(spec)


def beit(oracles, large, side):
    if not large:
        return oracles.midas31.DPT(oracles.midas31.Beit())
    return oracles.midas31.DPT(oracles.midas31.Beit(1024, 24, 16, side, LARGE, WIDE))


def swin2(oracles, *sizes):
    return oracles.midas31.DPT(oracles.midas31_swin2.Swin2(*sizes))


def dinov2(oracles, size):
    width, depth, heads = DINOV2[size]
    return dict(width=width, depth=depth, heads=heads, swiglu=size == "giant")


def depth_anything(oracles, size):
    widths = {"small": (48, 96, 192, 384), "base": (96, 192, 384, 768), "large": WIDE}[size]
    features = {"small": 64, "base": 128, "large": 256}[size]
    return oracles.depth_anything.DepthAnything(dinov2(oracles, size), TAPS[size], features, widths)


def depther(oracles, size):
    vit = oracles.depth_anything.DinoVisionTransformer(**dinov2(oracles, size))
    return oracles.dinov2_depth.DepthEncoderDecoder(vit, TAPS[size])


WINDOWS = (12, 12, 12, 6)
# By variant and head: the transcription, and settings that shapes do not tell.
PUBLISHED = {
    ("dpt_large", "depth"): (plain_vit, (None,), 16, LARGE, 384),
    ("dpt_large", "segmentation"): (plain_vit, (150,), 16, LARGE, 384),
    ("dpt_hybrid", "depth"): (lambda o: o.isl_hybrid.DPTHybrid(), (), 12, (8, 11), 384),
    ("dpt_hybrid", "segmentation"): (
        lambda o: o.isl_hybrid.DPTHybrid(num_classes=150),
        (),
        12,
        (8, 11),
        384,
    ),
    ("dpt_beit_base_384", "depth"): (beit, (False, 384), 12, BASE, 384),
    ("dpt_beit_large_384", "depth"): (beit, (True, 384), 16, LARGE, 384),
    ("dpt_beit_large_512", "depth"): (beit, (True, 512), 16, LARGE, 512),
    ("dpt_swinv2_tiny_256", "depth"): (swin2, (), (3, 6, 12, 24), (0, 1, 2, 3), 256),
    ("dpt_swinv2_base_384", "depth"): (
        swin2,
        (128, (2, 2, 18, 2), (4, 8, 16, 32), 24, WINDOWS, 384),
        (4, 8, 16, 32),
        (0, 1, 2, 3),
        384,
    ),
    ("dpt_swinv2_large_384", "depth"): (
        swin2,
        (192, (2, 2, 18, 2), (6, 12, 24, 48), 24, WINDOWS, 384),
        (6, 12, 24, 48),
        (0, 1, 2, 3),
        384,
    ),
    **{
        (f"depth_anything_{size}", "depth"): (depth_anything, (size,), heads, TAPS[size], 518)
        for size, (_, _, heads) in DINOV2.items()
        if size != "giant"
    },
    **{
        (f"dpt_dinov2_{size}", "depth"): (depther, (size,), heads, TAPS[size], 518)
        for size, (_, _, heads) in DINOV2.items()
    },
}


@pytest.mark.parametrize("shape", PUBLISHED, ids=str)
def test_files_of_published_size_fit_name_by_name(shape):
    torch = pytest.importorskip("torch", reason="the transcriptions are PyTorch code")
    import tests.oracles.depth_anything
    import tests.oracles.dinov2_depth
    import tests.oracles.isl_dpt
    import tests.oracles.isl_hybrid
    import tests.oracles.midas31
    import tests.oracles.midas31_swin2

    make, options, heads, taps, side = PUBLISHED[shape]
    with torch.device("meta"):
        shapes = make(tests.oracles, *options)
    if not isinstance(shapes, dict):
        shapes = {name: tuple(tensor.shape) for name, tensor in shapes.state_dict().items()}
    model, leaves = graph(*shape)
    # Arrays of these shapes without memory of their own.
    tensors = {
        name: lambda shape=shape: np.broadcast_to(np.float32(0), shape)
        for name, shape in shapes.items()
    }
    renamed = originals.to_hf_names(tensors, "this file")
    names = {path: huggingface.hf_name(path[1:], model) for path in leaves}
    for path, leaf in leaves.items():
        assert huggingface.to_linen(renamed[names[path]](), path, model).shape == leaf.shape
    # And nothing else is in the file but what is known to be read by nothing.
    unread = UNREAD + ((r"backbone\.norm\..*",) if "dpt_dinov2" in shape[0] else ())
    buffers = r".*(running_mean|running_var|num_batches_tracked|relative_position_index|attn_mask)"
    read = [n for n in shapes if not any(re.fullmatch(p, n) for p in (*unread, buffers))]
    assert sum(math.prod(shapes[n]) for n in read) == parameters(leaves)

    backbone = model.backbone
    swin = "swinv2" in shape[0]
    assert (backbone.num_heads if swin else backbone.num_attention_heads) == heads
    assert (backbone.out_indices, backbone.image_size) == (taps, side)
    if swin:
        window, pretrained = (24, WINDOWS) if side == 384 else (16, (0, 0, 0, 0))
        assert (backbone.window_size, backbone.pretrained_window_sizes) == (window, pretrained)


def test_conventions_of_the_originals():
    assert len(ORIGINALS) == 35
    for record in ORIGINALS.values():
        model = build_model(record.model)
        variant, head = shape_of(record)
        plain = build_model({"variant": record.model["variant"], "head": {"type": head}})
        backbone, neck = {}, {}
        if variant.startswith(("dpt_large", "dpt_hybrid", "dpt_beit")):
            backbone["layer_norm_eps"] = 1e-6
        if variant == "dpt_hybrid":
            backbone["bit"] = {"standardization": "deviation"}
        if "swinv2" in variant:
            backbone["mask_value"] = -100.0
        if "dinov2" in variant or "anything" in variant:
            backbone["interpolate_offset"] = 0.1
        if "anything" in variant or "MiDaS" in record.origin:
            neck["upsample_to_skip"] = True
        if head == "segmentation":
            neck["use_batch_norm_in_fusion_residual"] = True
        assert model.backbone == plain.backbone.clone(**backbone), record.name
        assert model.neck == plain.neck.clone(**neck), record.name
        found = (
            {key: getattr(model.head, key) for key in ("scale", "shift", "invert", "activation")}
            if head == "depth"
            else {}
        )
        wanted = {"scale": 1.0, "shift": 0.0, "invert": False, "activation": "relu"}
        if "hybrid_nyu" in record.name:
            wanted |= {"scale": 0.000305, "shift": 0.1378, "invert": True}
        if "hybrid_kitti" in record.name:
            wanted |= {"scale": 0.00006016, "shift": 0.00579, "invert": True}
        if "dpt_head" in record.name:
            wanted["shift"] = 0.001
        if "_metric_" in record.name:
            wanted["activation"] = "sigmoid"
            assert model.head.max_depth == (20.0 if "hypersim" in record.name else 80.0)
        assert found == (wanted if head == "depth" else {}), record.name
        if head == "segmentation":
            assert (model.head.num_labels, model.auxiliary_head.num_labels) == (150, 150)


# --- Preprocessing -------------------------------------------------------------------------------

SOURCES = [(480, 640), (375, 1242), (333, 500)]
# What the network sees of them.
SIZES = {
    "Intel/dpt-large": [(384, 384)] * 3,
    "Intel/dpt-large-ade": [(480, 480)] * 3,
    "Intel/dpt-hybrid-midas": [(384, 384)] * 3,
    "Intel/dpt-beit-large-512": [(512, 512)] * 3,
    "Intel/dpt-swinv2-tiny-256": [(256, 256)] * 3,
    "facebook/dpt-dinov2-small-nyu": [(490, 644), (378, 1246), (336, 504)],
    "LiheYoung/depth-anything-small-hf": [(518, 686), (518, 1722), (350, 518)],
    "depth-anything/Depth-Anything-V2-Metric-Indoor-Large-hf": [
        (518, 686),
        (518, 1722),
        (350, 518),
    ],
    "isl-org/dpt_large-midas": [(384, 512), (384, 1280), (384, 576)],
    "isl-org/dpt_hybrid_384": [(384, 512), (384, 1280), (384, 576)],
    "isl-org/dpt_large-ade20k": [(480, 640), (480, 1600), (320, 480)],
    "isl-org/dpt_hybrid_nyu": [(480, 640), (480, 1600), (416, 640)],
    "isl-org/dpt_hybrid_kitti": [(352, 480), (352, 1216), (352, 544)],
    "isl-org/dpt_beit_large_512": [(512, 672), (512, 1696), (352, 512)],
    "isl-org/dpt_swin2_base_384": [(384, 384)] * 3,
    "LiheYoung/depth_anything_vits14": [(518, 686), (518, 1722), (518, 784)],
    "DepthAnything/depth_anything_v2_metric_vkitti_vitl": [(518, 686), (518, 1722), (518, 784)],
    "facebookresearch/dinov2_vitg14_kitti_dpt_head": [(490, 644), (378, 1246), (336, 504)],
}


@pytest.mark.parametrize("name", SIZES)
def test_the_network_sees_images_of_the_published_size(name):
    processor = ImageProcessor(**CHECKPOINTS[name].preprocessing)
    assert [processor.geometry(*size).network for size in SOURCES] == SIZES[name]


def test_pixels_are_normalised_as_published():
    gray = np.full((28, 28, 3), 128, np.uint8)
    imagenet = (128 / 255 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    for record in ORIGINALS.values():
        processor = ImageProcessor(**{**record.preprocessing, "size": (28, 28)})
        want = imagenet
        if record.name.startswith("isl-org/"):
            want = np.full(3, 128 / 127.5 - 1)
            assert processor.depth_resample == "torch_bicubic", record.name
        elif "dpt_head" in record.name:
            assert processor.depth_resample == "torch_bilinear", record.name
        else:
            assert processor.depth_resample == "torch_bilinear_align_corners", record.name
        if processor.do_resize:
            assert processor.resample == "opencv_cubic", record.name
        np.testing.assert_allclose(processor(gray)[0][5, 5], want, atol=2e-4, err_msg=record.name)


# --- Which record a file is of -------------------------------------------------------------------


def test_no_name_stands_for_two_records():
    decoders = [record.files[0] for record in ORIGINALS.values()]
    assert len(set(decoders)) == len(decoders)
    hub = [record.name for record in hub_checkpoints()]
    assert len(set(hub)) == len(hub) == len(CHECKPOINTS) - len(ORIGINALS)
    # An encoder is not taken for the head that it belongs to.
    assert not {name for record in ORIGINALS.values() for name in record.files[1:]} & set(decoders)
    assert all(
        file == record.origin.split("/")[-1]
        for record in ORIGINALS.values()
        for file in record.files[:1]
        if record.origin.endswith((".pt", ".pth"))
    )


def test_files_are_known_by_their_published_names(tmp_path):
    for record in ORIGINALS.values():
        assert checkpoints.find(tmp_path / record.files[0], None) is record
        assert checkpoints.find(tmp_path / "mine.pt", record.name) is record


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(WeightsError) as error:
        checkpoints.find(tmp_path / "dpt_large.pt", None)
    message = str(error.value)
    assert "'dpt_large.pt'" in message and "record=" in message
    assert all(name in message for name in ORIGINALS) and "Intel/dpt-large\n" not in message
    near = r"record 'isl-org/dpt-large-midas'; did you mean 'isl-org/dpt_large-midas'\?"
    with pytest.raises(WeightsError, match=near):
        checkpoints.find(tmp_path / "dpt_large.pt", "isl-org/dpt-large-midas")
    # The encoder alone is no checkpoint.
    with pytest.raises(WeightsError, match=r"dinov2_vits14_pretrain\.pth"):
        checkpoints.find(tmp_path / "dinov2_vits14_pretrain.pth", None)
    with pytest.raises(WeightsError, match=r"Intel/dpt-large is a Hugging Face directory"):
        source.open_weights(tmp_path / "dpt_large.pt", "Intel/dpt-large")


def test_missing_files_are_named(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the first of the two files")
    with pytest.raises(FileNotFoundError, match=r"dpt_beit_base_384\.pt is missing.*MiDaS"):
        source.open_weights(tmp_path / "dpt_beit_base_384.pt")
    head = tmp_path / "dinov2_vitb14_kitti_dpt_head.pth"
    torch.save({"state_dict": {"decode_head.project.conv.bias": torch.zeros(2)}}, head)
    with pytest.raises(FileNotFoundError) as error:
        source.open_weights(head)
    assert str(error.value).startswith(f"{tmp_path}/dinov2_vitb14_pretrain.pth is missing")
    assert "in one folder" in str(error.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"epoch": 3}, "no state dict of tensors"),
        ([1, 2], "no state dict of tensors"),
        ({"model": {"fc.weight": 0}}, r"no known layout .*; the first are fc\.weight"),
        (
            {"pretrained.model.blocks.0.norm1.weight": 0, "scratch.a": 0, "scratch.b.c": 0},
            r"keys that its layout does not:\n  scratch\.a\n  scratch\.b\.c$",
        ),
        (
            {"pretrained.model.blocks.0.attn.qkv.bias": 0, "scratch.layer1_rn.weight.old": 0},
            r"layout does not:\n  scratch\.layer1_rn\.weight\.old$",
        ),
    ],
)
def test_foreign_contents_are_refused(tmp_path, contents, message):
    torch = pytest.importorskip("torch", reason="writes the files")

    def filled(value):
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        return torch.zeros(3) if value == 0 else value

    path = tmp_path / "dpt_large_384.pt"
    torch.save(filled(contents), path)
    with pytest.raises(WeightsError, match=message) as error:
        source.open_weights(path)
    assert str(path) in str(error.value)
