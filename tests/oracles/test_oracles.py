# SPDX-License-Identifier: Apache-2.0
"""The transcriptions against transformers.

Agreement is asked with Hugging Face's conventions switched on in the transcriptions (`formula`,
`interpolate_offset`, masks of -200). The epsilons are those of the originals on both sides.
"""

import re

import pytest

torch = pytest.importorskip("torch", reason="the transcriptions are PyTorch code")
transformers = pytest.importorskip("transformers", reason="they are compared with transformers")

from tests.oracles import depth_anything  # noqa: E402
from tests.oracles.tiny import (  # noqa: E402
    DINO,
    WIDTHS,
    anything,
    assert_close,
    beit,
    depther,
    hybrid,
    noise,
    seeded,
    swin,
)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


# Hugging Face's names in memory: the first line whose left side begins a name is its name there.
# Indices that count from one, or from the finest fusion block, were changed before.
HEADS = """
pretrained.act_postprocess.#.0.project   neck.reassemble_stage.readout_projects.#
pretrained.act_postprocess.#.3           neck.reassemble_stage.layers.#.projection
pretrained.act_postprocess.#.4           neck.reassemble_stage.layers.#.resize
scratch.layer_rn.#                       neck.convs.#
scratch.refinenet.#.out_conv             neck.fusion_stage.layers.#.projection
scratch.refinenet.#.resConfUnit#.conv#   neck.fusion_stage.layers.#.residual_layer#.convolution#
scratch.refinenet.#.resConfUnit#.bn#     neck.fusion_stage.layers.#.residual_layer#.batch_norm#
scratch.output_conv                      head.head
auxlayer                                 auxiliary_head.head
projects.#                               neck.reassemble_stage.layers.#.projection
resize_layers.#                          neck.reassemble_stage.layers.#.resize
scratch.output_conv1                     head.conv1
scratch.output_conv2.0                   head.conv2
scratch.output_conv2.2                   head.conv3
reassemble_blocks.projects.#.conv        neck.reassemble_stage.layers.#.projection
reassemble_blocks.readout_projects       neck.reassemble_stage.readout_projects
reassemble_blocks.resize_layers.#        neck.reassemble_stage.layers.#.resize
convs.#.conv                             neck.convs.#
fusion_blocks.#.project.conv             neck.fusion_stage.layers.#.projection
fusion_blocks.#.res_conv_unit#.conv#.conv neck.fusion_stage.layers.#.residual_layer#.convolution#
project.conv                             head.projection
conv_depth.head                          head.head
"""
VIT = """
blocks.#.attn.proj              dpt.encoder.layer.#.attention.output.dense
blocks.#.attn                   dpt.encoder.layer.#.attention.attention
blocks.#.norm1                  dpt.encoder.layer.#.layernorm_before
blocks.#.norm2                  dpt.encoder.layer.#.layernorm_after
blocks.#.mlp.fc1                dpt.encoder.layer.#.intermediate.dense
blocks.#.mlp.fc2                dpt.encoder.layer.#.output.dense
norm                            dpt.layernorm
cls_token                       dpt.embeddings.cls_token
pos_embed                       dpt.embeddings.position_embeddings
patch_embed.proj                dpt.embeddings.projection
patch_embed.backbone.stem.conv  dpt.embeddings.backbone.bit.embedder.convolution
patch_embed.backbone.stem.norm  dpt.embeddings.backbone.bit.embedder.norm
patch_embed.backbone.stages.#.blocks.#  dpt.embeddings.backbone.bit.encoder.stages.#.layers.#
"""
DINOV2 = """
blocks.#.attn.query    backbone.encoder.layer.#.attention.q_proj
blocks.#.attn.key      backbone.encoder.layer.#.attention.k_proj
blocks.#.attn.value    backbone.encoder.layer.#.attention.v_proj
blocks.#.attn.proj     backbone.encoder.layer.#.attention.o_proj
blocks.#.ls#.gamma     backbone.encoder.layer.#.layer_scale#.lambda1
blocks.#.mlp.w3        backbone.encoder.layer.#.mlp.down_proj
blocks.#               backbone.encoder.layer.#
norm                   backbone.layernorm
pos_embed              backbone.embeddings.position_embeddings
patch_embed.proj       backbone.embeddings.patch_embeddings.projection
cls_token              backbone.embeddings.cls_token
mask_token             backbone.embeddings.mask_token
register_tokens        backbone.embeddings.register_tokens
"""
BEIT_NAMES = """
blocks.#.attn.query    backbone.beit.layers.#.attention.q_proj
blocks.#.attn.key      backbone.beit.layers.#.attention.k_proj
blocks.#.attn.value    backbone.beit.layers.#.attention.v_proj
blocks.#.attn.proj     backbone.beit.layers.#.attention.o_proj
blocks.#.attn          backbone.beit.layers.#.relative_position_bias
blocks.#.gamma_1       backbone.beit.layers.#.lambda_1
blocks.#.gamma_2       backbone.beit.layers.#.lambda_2
blocks.#.norm1         backbone.beit.layers.#.layernorm_before
blocks.#.norm2         backbone.beit.layers.#.layernorm_after
blocks.#.mlp           backbone.beit.layers.#.mlp
cls_token              backbone.beit.embeddings.cls_token
patch_embed.proj       backbone.beit.embeddings.patch_embeddings.projection
"""
SWINV2 = """
layers.#.blocks.#.attn.cpb_mlp  backbone.encoder.layers.#.blocks.#.attention.self.continuous_position_bias_mlp
layers.#.blocks.#.attn.proj     backbone.encoder.layers.#.blocks.#.attention.output.dense
layers.#.blocks.#.attn          backbone.encoder.layers.#.blocks.#.attention.self
layers.#.blocks.#.norm1         backbone.encoder.layers.#.blocks.#.layernorm_before
layers.#.blocks.#.norm2         backbone.encoder.layers.#.blocks.#.layernorm_after
layers.#.blocks.#.mlp.fc1       backbone.encoder.layers.#.blocks.#.intermediate.dense
layers.#.blocks.#.mlp.fc2       backbone.encoder.layers.#.blocks.#.output.dense
layers.#.downsample             backbone.encoder.layers.#.downsample
patch_embed.proj                backbone.embeddings.patch_embeddings.projection
patch_embed.norm                backbone.embeddings.norm
"""  # noqa: E501


def renamed(name: str, table: str) -> str:
    prefixes = r"(pretrained\.model|pretrained(?!\.act)|backbone|depth_head|decode_head)\."
    name = name[len(re.match(prefixes + "|", name)[0]) :]
    name = re.sub(r"act_postprocess(\d)", lambda m: f"act_postprocess.{int(m[1]) - 1}", name)
    name = re.sub(r"layer(\d)_rn", lambda m: f"layer_rn.{int(m[1]) - 1}", name)
    name = re.sub(r"refinenet(\d)", lambda m: f"refinenet.{4 - int(m[1])}", name)
    for line in filter(None, (HEADS + table).split("\n")):
        old, new = line.split()
        fits = re.match(re.escape(old).replace(r"\#", r"(\d)") + r"(?=\.|$)", name)
        if fits:
            for index in fits.groups():
                new = new.replace("#", index, 1)
            return new + name[fits.end() :]
    raise ValueError(f"{name} has no name in transformers")


def parts(name: str, tensor) -> list:
    """What Hugging Face keeps apart of a tensor."""
    for fused, names in (("qkv", ("query", "key", "value")), ("w12", ("gate_proj", "up_proj"))):
        if fused in name:
            rows = tensor.chunk(len(names))
            return [(name.replace(fused, n), r) for n, r in zip(names, rows, strict=True)]
    return [(name.replace("q_bias", "query.bias").replace("v_bias", "value.bias"), tensor)]


def loaded(hf, model, table, unread="nothing", missing=()):
    """`hf` with the weights of `model`, but for those whose name fits `unread`."""
    state = {
        renamed(name, table): part
        for original, tensor in model.state_dict().items()
        if not re.fullmatch(unread, original)
        for name, part in parts(original, tensor)
    }
    result = hf.load_state_dict(state, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (list(missing), [])
    return hf.eval()


def dpt_config(**options):
    defaults = {"fusion_hidden_size": 16, "neck_hidden_sizes": WIDTHS}
    return transformers.DPTConfig(**defaults | options)


def dinov2_config(**options):
    options |= {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3}
    options |= {"image_size": 56, "patch_size": 14, "out_indices": [1, 2, 3, 4]}
    return transformers.Dinov2Config(reshape_hidden_states=False, **options)


@pytest.mark.parametrize("num_classes", [None, 5])
def test_hybrid_is_that_of_transformers(num_classes):
    bit = {"depths": [2, 1, 2], "hidden_sizes": [16, 32, 64], "embedding_size": 16}
    bit |= {"global_padding": "same", "embedding_dynamic_padding": True, "num_groups": 4}
    bit |= {"layer_type": "bottleneck", "out_features": ["stage1", "stage2", "stage3"]}
    config = dpt_config(
        is_hybrid=True,
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=64,
        layer_norm_eps=1e-6,
        backbone_out_indices=[0, 0, 1, 3],
        backbone_featmap_shape=[1, 64, 4, 4],
        reassemble_factors=[1, 1, 1, 0.5],
        neck_hidden_sizes=[16, 32, 20, 24],
        use_batch_norm_in_fusion_residual=num_classes is not None,
        num_labels=num_classes or 1,
        backbone_config=bit,
    )
    model, pixels = hybrid(num_classes=num_classes, formula="var"), noise(2, 3, 64, 64)
    hf = transformers.DPTForDepthEstimation
    if num_classes is not None:
        hf = transformers.DPTForSemanticSegmentation
    hf = loaded(hf(config), model, VIT, r"pretrained\.model\.head\..*")
    want = hf(pixels)[0]
    assert_close(model(pixels), want)
    original = hybrid(num_classes=num_classes)(pixels)
    with pytest.raises(AssertionError):
        assert_close(original, want)
    assert_close(original, want, 1e-2)


@pytest.mark.parametrize("size", [(56, 56), (70, 42), (28, 98)])
@pytest.mark.parametrize("max_depth", [None, 20])
def test_depth_anything_is_that_of_transformers(max_depth, size):
    model, pixels = anything({}, taps=None, max_depth=max_depth), noise(2, 3, *size)
    config = transformers.DepthAnythingConfig(
        backbone_config=dinov2_config(),
        reassemble_hidden_size=24,
        patch_size=14,
        fusion_hidden_size=16,
        neck_hidden_sizes=WIDTHS,
        depth_estimation_type="metric" if max_depth else "relative",
        max_depth=max_depth or 1,
    )
    hf = loaded(transformers.DepthAnythingForDepthEstimation(config), model, DINOV2)
    assert_close(model(pixels), hf(pixels)[0])


@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov2_depther_is_that_of_transformers(swiglu):
    model, pixels = depther(swiglu=swiglu), noise(2, 3, 70, 42)
    vit = dinov2_config(use_swiglu_ffn=swiglu, apply_layernorm=False)
    config = dpt_config(
        backbone_config=vit,
        fusion_hidden_size=256,
        use_bias_in_fusion_residual=False,
        add_projection=True,
    )
    dead = "neck.fusion_stage.layers.0.residual_layer1.convolution{}.weight"
    dead = [dead.format(i) for i in (1, 2)]
    hf = loaded(transformers.DPTForDepthEstimation(config), model, DINOV2, missing=dead)
    assert_close(model(pixels) - 0.001, hf(pixels)[0])


def test_registers_are_those_of_transformers():
    # transformers has no dense model that drops the registers, so the taps are compared.
    backbone = DINO | {"registers": 3, "interpolate_offset": 0, "interpolate_antialias": True}
    model = seeded(depth_anything, depth_anything.DinoVisionTransformer(**backbone))
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_register_tokens=3,
        image_size=56,
        patch_size=14,
        out_indices=[2, 4],
    )
    hf = torch.nn.Module()
    hf.backbone = transformers.AutoBackbone.from_config(config)
    loaded(hf, model, DINOV2)
    for size in ((56, 56), (70, 28)):
        pixels = noise(2, 3, *size)
        taps = model.get_intermediate_layers(pixels, (1, 3))
        for (got, _), want in zip(taps, hf.backbone(pixels).feature_maps, strict=True):
            assert_close(got, want)


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (96, 64)])
def test_beit_is_that_of_transformers(size):
    model, pixels = beit(), noise(2, 3, *size)
    vit = transformers.BeitConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=64,
        use_relative_position_bias=True,
        reshape_hidden_states=False,
        layer_norm_eps=1e-6,
        out_indices=[1, 2, 3, 4],
    )
    hf = transformers.DPTForDepthEstimation(dpt_config(backbone_config=vit))
    hf = loaded(hf, model, BEIT_NAMES, r".*(\.head\..*|fc_norm\..*|position_index)")
    assert_close(model(pixels), hf(pixels)[0])


@pytest.mark.parametrize("pretrained", [(0, 0, 0, 0), (3, 3, 3, 2)])
def test_swin2_is_that_of_transformers(pretrained):
    model, pixels = swin(pretrained_windows=pretrained), noise(2, 3, 64, 64)
    vit = transformers.Swinv2Config(
        image_size=64,
        embed_dim=8,
        depths=[2, 3, 2, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        pretrained_window_sizes=list(pretrained),
        out_indices=[1, 2, 3, 4],
    )
    config = dpt_config(backbone_config=vit, neck_hidden_sizes=[8, 16, 32, 64])
    hf = transformers.DPTForDepthEstimation(config)
    hf = loaded(hf, model, SWINV2, r".*(\.head\..*|attn_mask|model\.norm\..*)")
    for mask in model.buffers():
        mask.mul_(2)
    assert_close(model(pixels), hf(pixels)[0])
