# SPDX-License-Identifier: Apache-2.0
"""Files of the original repositories, read as published, against transcriptions of those.

Each case is a random tiny network with the names of its repository, saved by torch under a
published file name. The graph comes from the published record: only sizes are replaced, so that a
record with a wrong epsilon, kernel or shift fails.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the transcriptions are PyTorch code")
pytest.importorskip("transformers", reason="what the parity tests share needs it")

from dpt_jax import Predictor, load_pretrained  # noqa: E402
from dpt_jax.models.dpt import build_model  # noqa: E402
from dpt_jax.weights import checkpoints  # noqa: E402
from dpt_jax.weights.errors import WeightsError  # noqa: E402
from tests.oracles import (  # noqa: E402
    depth_anything,
    dinov2_depth,
    isl_dpt,
    isl_hybrid,
    midas31,
    midas31_swin2,
)
from tests.parity import reference  # noqa: E402

# A convention that is replaced has to show by this much.
TELLING = 10 * reference.TOLERANCE


@dataclasses.dataclass
class Case:
    """A random network of an original repository.

    Attributes:
        record: whose conventions it is read with.
        sizes: of the tiny network, laid over `config.model` of the record.
        oracle: pixels `b 3 h w` to depth `b h w` or logits `b k h w`.
        files: contents of the record's files.
        size: height and width of the test images.
        wrong: what must not be replaced unnoticed: overrides of `config.model`.
    """

    record: str
    sizes: Mapping[str, Any]
    oracle: Callable
    files: list[Any]
    size: tuple[int, int]
    wrong: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    legacy: bool = False


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {k: merged(base[k], over[k]) for k in base if isinstance(over.get(k), Mapping)}
    return {**base, **over, **both}


def tensors(state: Mapping[str, Any], skip: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(skip or ("?",))}


def random_sizes(rng: np.random.Generator) -> dict[str, Any]:
    """Sizes of a Transformer and of a decoder, by the names of the transcriptions."""
    heads, depth = int(rng.integers(1, 4)), int(rng.integers(4, 6))
    return {
        "width": heads * int(rng.choice([6, 8])),
        "heads": heads,
        "depth": depth,
        "hooks": tuple(sorted(rng.choice(depth, 4, replace=False).tolist())),
        "widths": tuple(rng.integers(5, 20, 4).tolist()),
        "features": int(rng.integers(6, 16)),
    }


def encoder(sizes: Mapping[str, Any], image_size: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": sizes["heads"],
        "image_size": image_size,
        "out_indices": sizes["hooks"],
        **more,
    }


def decoder(sizes: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"hidden_sizes": sizes["widths"], "fusion_hidden_size": sizes["features"], **more}


def generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**31)))


def test_images(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(sum(size)).standard_normal((2, *size, 3)).astype(np.float32)


test_images.__test__ = False


@torch.no_grad()
def ready(model, final: str, size: tuple[int, int], small: tuple[str, ...] = (), gain: float = 1):
    """`model` with weights that tell: a final activation at work, and epsilons that matter.

    Args:
        model: of random weights.
        final: the last convolution; its output is brought to a deviation of `gain`.
        size: of the images.
        small: beginnings of names of weights that are scaled down to 1 %, so that the variance
            which a norm divides by is near its epsilon.
        gain: see `final`.
    """
    for name, tensor in model.state_dict().items():
        if small and name.startswith(small):
            tensor.mul_(0.01)
    last = model.get_submodule(final)
    reference.balance(last, model, test_images(size))
    for parameter in (last.weight, last.bias):
        parameter *= gain
    return model


# --- isl-org/DPT and MiDaS 3 ---------------------------------------------------------------------

EPS = {"backbone": {"layer_norm_eps": 1e-12}}
MASK = {"backbone": {"mask_value": -200.0}}
TIMES_TWO = {"neck": {"upsample_to_skip": False}}
VARIANCE = {"backbone": {"bit": {"standardization": "variance"}}}
EMBEDDINGS = tuple(f"pretrained.model.{name}" for name in ("cls_token", "pos_embed", "patch_embed"))


class PlainViT(torch.nn.Module):
    """The functional transcription of isl-org's ViT models as a module."""

    def __init__(self, spec: isl_dpt.Spec, seed: int):
        super().__init__()
        self.spec, self.state = spec, isl_dpt.random_state(spec, seed)
        for name, tensor in self.state.items():
            if name.startswith(EMBEDDINGS):
                tensor.mul_(0.01)

    def forward(self, pixels):
        state = {name: tensor.to(pixels.dtype) for name, tensor in self.state.items()}
        return isl_dpt.forward(state, self.spec, pixels)


def isl_vit(rng, record, size, readout="project", labels=None, wrong=()):
    sizes = random_sizes(rng)
    native = int(rng.integers(3, 6))
    spec = isl_dpt.Spec(
        **sizes, mlp=40, native=native, readout=readout, labels=labels, use_bn=labels is not None
    )
    oracle = PlainViT(spec, int(rng.integers(2**31)))
    model = {
        "backbone": encoder(sizes, 16 * native, intermediate_size=40),
        "neck": decoder(sizes, readout_type=readout),
    }
    if labels is not None:
        model["head"] = {"num_labels": labels}
    return Case(record, model, oracle, [oracle.state], size, [*wrong])


def hybrid(rng, record, size, labels=None, gain=1.0, wrong=(), in_midas=False, **conventions):
    sizes = random_sizes(rng)
    sizes |= {"hooks": sizes["hooks"][-2:], "widths": sizes["widths"][-2:]}
    native = int(rng.integers(3, 6))
    bit = {"stem": 8, "channels": (16, 24, 32), "layers": (1, 2, 1), "groups": 4}
    oracle = isl_hybrid.DPTHybrid(
        **sizes, **bit, image_size=16 * native, num_classes=labels, **conventions
    )
    isl_hybrid.randomise(oracle, generator(rng))
    for module in oracle.modules():
        # A deviation of 1e-4 and less: what is added to it shows.
        if isinstance(module, isl_hybrid.StdConv2dSame):
            scale = 10 ** rng.uniform(-4, -2, (len(module.weight), 1, 1, 1))
            module.weight.data *= torch.from_numpy(scale.astype(np.float32))
    model = {
        "backbone": encoder(
            sizes,
            16 * native,
            intermediate_size=4 * sizes["width"],
            bit={
                "embedding_size": bit["stem"],
                "hidden_sizes": bit["channels"],
                "depths": bit["layers"],
                "num_groups": bit["groups"],
            },
        ),
        "neck": decoder(sizes) | {"hidden_sizes": (*bit["channels"][:2], *sizes["widths"])},
    }
    state = oracle.state_dict()
    if in_midas:
        oracle = with_midas_decoder(oracle, model["neck"]["hidden_sizes"], sizes["features"])
    if labels is not None:
        model["head"] = {"num_labels": labels}
        return Case(record, model, oracle, [state], size, [*wrong])
    small = tuple(f"pretrained.model.{name}" for name in ("cls_token", "pos_embed"))
    small += ("pretrained.model.patch_embed.proj",)
    ready(oracle, "scratch.output_conv.4", size, small, gain)
    return Case(record, model, oracle, [state], size, [*wrong])


def with_midas_decoder(oracle, widths, features):
    """The encoder of `oracle` in MiDaS's decoder; the tensors are shared."""

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.widths, self.model = widths, oracle.pretrained

        def forward(self, pixels):
            return oracle.encode(pixels)

    model = midas31.DPT(Encoder(), features)
    model.scratch.load_state_dict(oracle.scratch.state_dict(), assign=True)
    model.pretrained = Encoder()
    oracle.scratch = model.scratch
    return model


def beit(rng, record, size, wrong=()):
    sizes = random_sizes(rng)
    native = int(rng.integers(3, 6))
    names = ("width", "depth", "heads", "hooks", "widths")
    pretrained = midas31.Beit(**{k: sizes[k] for k in names}, image_size=16 * native)
    oracle = midas31.DPT(pretrained, sizes["features"])
    midas31.randomise(oracle, generator(rng))
    ready(oracle, "scratch.output_conv.4", size, EMBEDDINGS)
    model = {
        "backbone": encoder(sizes, 16 * native, intermediate_size=4 * sizes["width"]),
        "neck": decoder(sizes),
    }
    return Case(record, model, oracle, [oracle.state_dict()], size, [*wrong])


def swin2(rng, record, size, pretrained=(0, 0, 0, 0), window=2, wrong=()):
    width, features = int(rng.choice([8, 12])), int(rng.integers(6, 16))
    depths, heads = tuple(rng.integers(1, 3, 4).tolist()), (2, 2, 4, 4)
    depths = (2, *depths[1:])  # a shifted block
    swin = midas31_swin2.Swin2(width, depths, heads, window, pretrained, image_size=size[0])
    oracle = midas31.DPT(swin, features)
    midas31_swin2.randomise(oracle, generator(rng))
    # Attention so sharp that a mask of -100 does not rule a pair out multiplies rounding, too: one
    # head of a shifted block has it.
    for name, tensor in oracle.named_parameters():
        if name.endswith("logit_scale") and ".layers.0.blocks.1." not in name:
            tensor.data.clamp_(max=2.5)
    ready(oracle, "scratch.output_conv.4", size)
    backbone = {"embed_dim": width, "depths": depths, "num_heads": heads, "window_size": window}
    backbone |= {"pretrained_window_sizes": pretrained, "image_size": size[0]}
    neck = {"hidden_sizes": tuple(swin.widths), "fusion_hidden_size": features}
    sizes = {"backbone": backbone, "neck": neck}
    return Case(record, sizes, oracle, [oracle.state_dict()], size, [*wrong])


# --- DINOv2 and Depth Anything -------------------------------------------------------------------

NO_OFFSET = {"backbone": {"interpolate_offset": 0.0}}
NO_SHIFT = {"head": {"shift": 0.0}}


def dino(rng, sizes, **conventions):
    native = int(rng.integers(3, 6))
    keys = {k: sizes[k] for k in ("width", "depth", "heads")}
    vit = {**keys, "image_size": 14 * native, **conventions}
    return vit, encoder(sizes, 14 * native, use_swiglu_ffn=conventions.get("swiglu", False))


def anything(rng, record, size, *, v1=False, clstoken=False, limit=None, wrong=(), **vit):
    sizes = random_sizes(rng)
    if v1:
        sizes["hooks"] = tuple(range(sizes["depth"] - 4, sizes["depth"]))
    vit, backbone = dino(rng, sizes, **vit)
    oracle = depth_anything.DepthAnything(
        vit,
        None if v1 else sizes["hooks"],
        sizes["features"],
        sizes["widths"],
        use_clstoken=clstoken,
        max_depth=limit,
    )
    depth_anything.randomise(oracle, generator(rng))
    ready(oracle, "depth_head.scratch.output_conv2.2", size)
    neck = decoder(sizes) | ({"readout_type": "project"} if clstoken else {})
    sizes = {"backbone": backbone, "neck": neck}
    return Case(record, sizes, oracle, [oracle.state_dict()], size, [*wrong])


def depther(rng, record, size, *, wrong=(), **vit):
    """`size` must be of whole patches: padding is tested on its own."""
    sizes = random_sizes(rng)
    vit, backbone = dino(rng, sizes, **vit)
    registers = vit.get("registers", 0)
    if registers:  # as those of torch.hub; no record has them
        backbone |= {"num_register_tokens": registers, "interpolate_antialias": True}
        backbone |= {"interpolate_offset": 0.0}
    vit = depth_anything.DinoVisionTransformer(**vit)
    oracle = dinov2_depth.DepthEncoderDecoder(
        vit, sizes["hooks"], sizes["features"], sizes["widths"]
    )
    dinov2_depth.randomise(oracle, generator(rng))
    ready(oracle, "decode_head.conv_depth.head.4", size)
    head = tensors(oracle.state_dict(), skip=("backbone.",))
    sizes = {"backbone": backbone, "neck": decoder(sizes)}
    # As the hub's files: the head below "state_dict", the encoder bare and without prefix.
    files = [{"meta": {"epoch": 3}, "state_dict": head}, vit.state_dict()]
    return Case(record, sizes, oracle, files, size, [*wrong])


HUB = {"registers": 4, "interpolate_offset": 0, "interpolate_antialias": True}
NYU = {"scale": 0.000305, "shift": 0.1378, "invert": True}
KITTI = {"scale": 0.00006016, "shift": 0.00579, "invert": True}

# Who draws a case, the record, the size of the images, and options.
CASES: list[tuple[Callable, str, tuple[int, int], dict[str, Any]]] = [
    (isl_vit, "isl-org/dpt_large-midas", (64, 64), {"wrong": [EPS]}),
    (isl_vit, "isl-org/dpt_large-midas", (96, 160), {"readout": "add"}),
    (isl_vit, "isl-org/dpt_large_384", (128, 64), {"readout": "ignore"}),
    (isl_vit, "isl-org/dpt_large-ade20k", (64, 96), {"labels": 7}),
    (hybrid, "isl-org/dpt_hybrid-midas", (96, 32), {"wrong": [EPS, VARIANCE]}),
    (hybrid, "isl-org/dpt_hybrid_384", (48, 80), {"in_midas": True, "wrong": [TIMES_TWO]}),
    (hybrid, "isl-org/dpt_hybrid-ade20k", (32, 96), {"labels": 5}),
    (hybrid, "isl-org/dpt_hybrid_nyu", (64, 64), {"gain": 300, **NYU}),
    (hybrid, "isl-org/dpt_hybrid_nyu_new", (96, 64), {"gain": 300, **NYU}),
    (hybrid, "isl-org/dpt_hybrid_kitti", (32, 128), {"gain": 60, **KITTI}),
    (beit, "isl-org/dpt_beit_base_384", (64, 64), {"wrong": [EPS]}),
    (beit, "isl-org/dpt_beit_large_384", (96, 32), {}),
    (beit, "isl-org/dpt_beit_large_512", (48, 80), {"wrong": [TIMES_TWO]}),
    (swin2, "isl-org/dpt_swin2_tiny_256", (64, 64), {"wrong": [MASK]}),
    (swin2, "isl-org/dpt_swin2_large_384", (64, 64), {"pretrained": (3, 3, 3, 2), "window": 4}),
    (anything, "LiheYoung/depth_anything_vits14", (56, 56), {"v1": True}),
    (anything, "LiheYoung/depth_anything_vitl14", (70, 42), {"v1": True, "wrong": [TIMES_TWO]}),
    (anything, "DepthAnything/depth_anything_v2_vitb", (42, 98), {"wrong": [NO_OFFSET]}),
    (anything, "DepthAnything/depth_anything_v2_vits", (56, 84), {"clstoken": True}),
    (anything, "DepthAnything/depth_anything_v2_vitl", (84, 56), {"swiglu": True}),
    (anything, "DepthAnything/depth_anything_v2_metric_hypersim_vits", (56, 56), {"limit": 20.0}),
    (anything, "DepthAnything/depth_anything_v2_metric_vkitti_vitb", (70, 98), {"limit": 80.0}),
    (depther, "facebookresearch/dinov2_vits14_nyu_dpt_head", (56, 56), {"wrong": [NO_SHIFT]}),
    (depther, "facebookresearch/dinov2_vitl14_kitti_dpt_head", (84, 42), {"wrong": [NO_OFFSET]}),
    (depther, "facebookresearch/dinov2_vitg14_nyu_dpt_head", (56, 98), {"swiglu": True}),
    (depther, "facebookresearch/dinov2_vits14_kitti_dpt_head", (70, 56), HUB),
]


def draw(index: int) -> Case:
    """A row of `CASES` with random sizes, numbers, and way of being saved."""
    kind, record, size, options = CASES[index]
    case = kind(np.random.default_rng([20210324, index]), record, size, **options)
    # As isl-org saved what it had trained, and as torch saved before 1.6.
    if len(case.files) == 1 and index % 3:
        case.files = [{"optimizer": {"state": {}, "param_groups": []}, "model": case.files[0]}]
    case.legacy = index % 8 == 1
    return case


@pytest.fixture(scope="module")
def errors(request):
    """Collects (family, error, case); at the end the terminal shows the worst of each family."""
    found: list[tuple[str, float, str]] = []
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *reference.table(found), sep="\n")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def publish(case: Case, directory, monkeypatch):
    """Writes the files under their published names and makes the record's graph as tiny as they."""
    record = checkpoints.CHECKPOINTS[case.record]
    tiny = dataclasses.replace(record, model=merged(record.model, case.sizes))
    monkeypatch.setitem(checkpoints.CHECKPOINTS, case.record, tiny)
    for name, contents in zip(record.files, case.files, strict=True):
        torch.save(contents, directory / name, _use_new_zipfile_serialization=not case.legacy)
    return directory / record.files[0], tiny.model


def expected(case: Case, pixels: np.ndarray) -> np.ndarray:
    """In float64, so that only our rounding counts; the oracle stays in it."""
    case.oracle.double()
    for module in case.oracle.modules():
        if isinstance(module, midas31_swin2.SwinAttention):
            module.offsets = module.offsets.double()
    with torch.no_grad():
        output = case.oracle(reference.nchw(pixels).double())
    return (output.permute(0, 2, 3, 1) if output.ndim == 4 else output).numpy()


def name_of(index: int) -> str:
    _, record, (height, width), _ = CASES[index]
    return f"{record.split('/')[1]}-{height}x{width}"


@pytest.mark.parametrize("index", range(len(CASES)), ids=name_of)
def test_files_predict_what_their_repository_does(index, tmp_path, monkeypatch, errors):
    case = draw(index)
    path, config = publish(case, tmp_path, monkeypatch)
    model, variables = load_pretrained(path)
    pixels = test_images(case.size)
    want = expected(case, pixels)
    reference.assert_telling(want, model.task == "segmentation")
    error = reference.relative(reference.our_output(model, variables, pixels), want)
    errors.append((CASES[index][0].__name__, error, name_of(index)))
    assert error <= reference.TOLERANCE
    for change in case.wrong:
        other = build_model(merged(config, change))
        got = reference.our_output(other, variables, pixels)
        assert got.shape != want.shape or reference.relative(got, want) > TELLING, change


def test_a_picture_of_odd_sides_has_the_depth_of_dinov2(tmp_path, monkeypatch):
    """Padding around the centre, and a padded map that is stretched over the picture."""
    case = depther(
        np.random.default_rng(5), "facebookresearch/dinov2_vits14_nyu_dpt_head", (56, 70)
    )
    path, _ = publish(case, tmp_path, monkeypatch)
    picture = np.random.default_rng(6).integers(0, 256, (50, 61, 3), np.uint8)
    found = Predictor.from_pretrained(path)(picture)
    assert found.kind == "metric"
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    case.oracle.max_depth = 1000.0  # there is no clamp here
    with torch.no_grad():
        pixels = torch.from_numpy((picture - mean) / std).permute(2, 0, 1)[None]
        want = case.oracle.double().whole_inference(pixels).numpy()
    assert reference.relative(found.depth[None], want) <= reference.TOLERANCE


def test_a_file_of_another_name_is_read_as_the_record_that_is_named(tmp_path, monkeypatch):
    case = draw(0)
    path, _ = publish(case, tmp_path, monkeypatch)
    renamed = path.rename(tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"file name 'mine\.pt'.*(?s:.*)--record"):
        load_pretrained(renamed)
    model, variables = load_pretrained(renamed, record=case.record)
    assert model.backbone.hidden_size == case.sizes["backbone"]["hidden_size"]
    cls = case.files[0]["pretrained.model.cls_token"].numpy()
    np.testing.assert_array_equal(variables["params"]["backbone"]["embeddings"]["cls_token"], cls)
