# SPDX-License-Identifier: Apache-2.0
"""Recipes: their numbers, their steps against the sources' own order, real images, bad settings."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from configs import common
from dpt_jax.data.sources import decode
from dpt_jax.data.sources.base import DatasetError
from dpt_jax.data.transforms import (
    RECIPES,
    AtLeast,
    Box,
    ByFactor,
    ColorJitter,
    Crop,
    Flip,
    LongSide,
    Pad,
    PhotoMetricDistortion,
    Resize,
    Rotate,
    Within,
    augment_settings,
    build_augmentations,
    model_input_size,
    resize_image,
)

SHARED = Path(__file__).parents[3] / "shared/data"
MMSEG_PAD = (124, 116, 104)
MMSEG_COLOUR = (Flip(0.5), PhotoMetricDistortion(32, (0.5, 1.5), (0.5, 1.5), 18))
# The sources' own numbers, in the sources' own order.
STEPS = {
    None: (Flip(0.5),),
    "dpt_ade20k": (
        Flip(0.5),
        Resize(LongSide(520, 0.5, 2.0), "pillow_bilinear", (480, 480)),
        Pad(480, 480),
    ),
    "mmseg_ade20k": (
        Resize(Within(2048, 512, 0.5, 2.0), "opencv_linear", (512, 512), 0.75),
        *MMSEG_COLOUR,
        Pad(512, 512, MMSEG_PAD),
    ),
    "mmseg_pascal_context": (
        Resize(Within(520, 520, 0.5, 2.0), "opencv_linear", (480, 480), 0.75),
        *MMSEG_COLOUR,
        Pad(480, 480, MMSEG_PAD),
    ),
    "mmseg_cityscapes": (
        Resize(Within(2048, 1024, 0.5, 2.0), "opencv_linear", (512, 1024), 0.75),
        *MMSEG_COLOUR,
        Pad(512, 1024, MMSEG_PAD),
    ),
    "bts_nyu": (
        Box(45, 472, 43, 608),
        Rotate(2.5),
        Crop(416, 544),
        Flip(0.5),
        ColorJitter((0.75, 1.25)),
        Pad(416, 544),
    ),
    "bts_kitti": (
        Rotate(1.0),
        Crop(352, 704),
        Flip(0.5),
        ColorJitter((0.9, 1.1)),
        Pad(352, 704),
    ),
    "midas": (
        Resize(AtLeast(384, 32), "opencv_cubic", (384, 384), divide_depth=False),
        Flip(0.5),
        Pad(384, 384),
    ),
    "depth_anything_metric": (
        Resize(AtLeast(518, 14), "opencv_cubic", (518, 518), divide_depth=False),
        Flip(0.5),
        Pad(518, 518),
    ),
}


@pytest.mark.parametrize("recipe", STEPS, ids=str)
def test_the_steps_of_recipes(recipe):
    config = common.default().data.augment
    config.recipe = recipe
    assert build_augmentations(config) == STEPS[recipe]
    assert set(RECIPES) | {None} == set(STEPS)


class Script:
    """Stands in for a generator: coins, integers and uniforms from lists."""

    def __init__(self, coins=(), integers=(), uniforms=()):
        self.coins, self.numbers, self.uniforms = list(coins), list(integers), list(uniforms)

    def random(self):
        return self.coins.pop(0)

    def integers(self, n):
        assert self.numbers[0] < n
        return self.numbers.pop(0)

    def uniform(self, low, high):
        assert low <= self.uniforms[0] <= high
        return self.uniforms.pop(0)


def rng(seed=0):
    return np.random.default_rng(seed)


def random_image(seed=0, size=(12, 14)):
    return rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


@pytest.mark.parametrize("side", [260, 431, 1040])
@pytest.mark.parametrize(("size", "flip"), [((150, 201), True), ((201, 150), False)])
def test_dpt_ade20k_is_what_pytorch_encoding_does(size, flip, side):
    image, label = random_image(0, size), random_image(1, size)[..., 0]
    pictures = [Image.fromarray(image), Image.fromarray(label)]
    if flip:
        pictures = [p.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for p in pictures]
    w, h = pictures[0].size
    ow, oh = side, side
    if h > w:
        ow = int(1.0 * w * side / h + 0.5)
    else:
        oh = int(1.0 * h * side / w + 0.5)
    top, left = max(0, oh - 480) // 2, max(0, ow - 480) // 3
    wants = []
    for picture, kernel, fill in zip(pictures, (2, 0), (0, 255), strict=True):
        picture = picture.resize((ow, oh), kernel)
        picture = ImageOps.expand(picture, (0, 0, max(480 - ow, 0), max(480 - oh, 0)), fill)
        wants.append(np.asarray(picture.crop((left, top, left + 480, top + 480))))
    example = {"image": image, "label": label}
    script = Script([0.0 if flip else 0.9], [side - 260, top, left])
    for step in build_augmentations({"recipe": "dpt_ade20k"}):
        example = step(example, script)
    assert not script.coins and not script.numbers
    np.testing.assert_array_equal(example["label"], wants[1])
    assert np.abs(example["image"].astype(int) - wants[0]).max() <= 1


@pytest.mark.parametrize("ratio", [0.5, 0.77, 1.9])
def test_mmseg_ade20k_is_what_mmseg_does_up_to_the_colours(ratio):
    cv2 = pytest.importorskip("cv2")
    image, label = random_image(0, (150, 601)), random_image(1, (150, 601))[..., 0]
    # mmcv.rescale_size and imrescale.
    long, short = max(int(2048 * ratio), int(512 * ratio)), min(int(2048 * ratio), int(512 * ratio))
    factor = min(long / 601, short / 150)
    size = (int(601 * float(factor) + 0.5), int(150 * float(factor) + 0.5))
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR_EXACT)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    top, left = max(size[1] - 512, 0) // 2, max(size[0] - 512, 0) // 3
    example = {"image": random_image(0, (150, 601)), "label": random_image(1, (150, 601))[..., 0]}
    config = {"recipe": "mmseg_ade20k", "photometric": "", "flip": 0}
    for step in build_augmentations(config):
        example = step(example, Script([], [top, left], [ratio]))
    h, w = min(size[1], 512), min(size[0], 512)
    np.testing.assert_array_equal(example["image"][:h, :w], image[top : top + h, left : left + w])
    np.testing.assert_array_equal(example["label"][:h, :w], label[top : top + h, left : left + w])
    assert example["image"].shape == (512, 512, 3)
    assert (example["image"][h:] == MMSEG_PAD).all() and (example["label"][h:] == 255).all()


@pytest.mark.parametrize(("pixels", "multiple"), [(384, 32), (518, 14), (390, 32)])
def test_at_least_is_the_lower_bound_of_midas(pixels, multiple):
    for h, w in rng().integers(100, 1500, (50, 2)).tolist():
        scale = max(pixels / h, pixels / w)
        sides = np.array([h, w]) * scale
        want = (np.round(sides / multiple) * multiple).astype(int)
        want = np.where(want < pixels, np.ceil(sides / multiple) * multiple, want).astype(int)
        got = AtLeast(pixels, multiple)(h, w, rng())
        assert got[:2] == tuple(want) and got.factor == scale


def test_long_sides_are_whole_numbers_of_the_range():
    sides = {LongSide(10, 0.5, 2.0)(40, 80, rng(s))[:2] for s in range(300)}
    assert {side for _, side in sides} == set(range(5, 21))
    assert all(short == int(side / 2 + 0.5) for short, side in sides)
    assert LongSide(384, 1.0, 1.0)(683, 512, rng())[:2] == (384, 288)


def examples(kind):
    """Real examples, or noise of the same sizes where there are none."""
    if kind == "label":
        for path in sorted(SHARED.glob("ade20k_sample/*/images/training/*.jpg")):
            other = Path(str(path).replace("images", "annotations")).with_suffix(".png")
            label = decode.ids(other.read_bytes(), str(other)) - np.uint8(1)
            yield {"image": decode.rgb(path.read_bytes(), str(path)), "label": label}
        return
    where = "nyuv2_sample/**/rgb_*.jpg" if kind == "nyu" else "kitti_sample/raw/**/*.png"
    for path in sorted(SHARED.glob(where)):
        image = decode.rgb(path.read_bytes(), str(path))
        if kind == "nyu":
            other = path.with_name(path.name.replace("rgb", "sync_depth")).with_suffix(".png")
            depth = decode.depth(other.read_bytes(), str(other), 0.001)
        else:
            (other,) = SHARED.glob(f"kitti_sample/data_depth_annotated/**/{path.name}")
            depth = decode.depth(other.read_bytes(), str(other), 1 / 256)
            top, left = image.shape[0] - 352, (image.shape[1] - 1216) // 2
            window = (slice(top, top + 352), slice(left, left + 1216))
            image, depth = image[window], depth[window]
        yield {"image": image, "depth": depth}


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_recipes_on_real_images(recipe):
    kind = "label" if STEPS[recipe][-1] in (Pad(480, 480),) or "mmseg" in recipe else "nyu"
    kind = "kitti" if "kitti" in recipe else kind
    given = list(examples(kind))
    if not given:
        pytest.skip(f"no real images in {SHARED}")
    steps = build_augmentations({"recipe": recipe})
    target = "label" if kind == "label" else "depth"
    for seed, example in enumerate(given):
        got, generator = example, rng(seed)
        for step in steps:
            got = step(got, generator)
        shape = augment_settings({"recipe": recipe})["crop"]
        assert got["image"].shape == (*shape, 3) and got["image"].dtype == np.uint8
        assert got[target].shape == shape and got[target].dtype == example[target].dtype
        assert set(np.unique(got[target])) <= {
            *np.unique(example[target]),
            255 if kind == "label" else 0,
        }
        inside = (got[target] != 255) if kind == "label" else got[target] > 0
        assert inside.mean() > (0.1 if kind != "kitti" else 0.01)
        assert got["image"].std() > 10


def test_keys_override_the_recipe_and_switch_its_steps_off():
    off = {"scale": (), "crop": (), "flip": 0, "photometric": ""}
    assert build_augmentations({"recipe": "mmseg_ade20k"} | off) == ()
    assert build_augmentations({"recipe": "bts_nyu", "box": (), "rotate": 0.0, "crop": ()}) == (
        Flip(0.5),
        ColorJitter(),
    )
    assert build_augmentations({"recipe": "mmseg_ade20k", "rotate": 5.0, "crop": [20, 30]}) == (
        Resize(Within(2048, 512, 0.5, 2.0), "opencv_linear"),
        Rotate(5.0),
        Crop(20, 30, 0.75),
        *MMSEG_COLOUR,
        Pad(20, 30, MMSEG_PAD),
    )
    got = augment_settings({"recipe": "dpt_ade20k", "cat_max_ratio": 0, "flip": None})
    assert got["cat_max_ratio"] == 1 and got["flip"] == 0.5 and got["crop"] == (480, 480)
    assert build_augmentations({"flip": 0.0, "scale": (0.5, 2.0), "box": (1, 2, 3, 4)}) == (
        Box(1, 2, 3, 4),
        Resize(ByFactor(0.5, 2.0)),
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"recipe": "mmseg_ade20"}, r"recipe 'mmseg_ade20' is not one of .*mean 'mmseg_ade20k'"),
        ({"photometric": "sepia"}, r"photometric 'sepia' is not one of mmseg, bts, bts_kitti"),
        ({"kernel": "bilinear"}, r"kernel 'bilinear' .*did you mean 'pillow_bilinear'"),
        ({"crop": (32,)}, r"crop must have 2 numbers, not \(32,\)"),
        ({"box": (1, 2)}, r"box must have 4 numbers"),
        ({"crop": (32, 0)}, r"crop must be whole numbers of pixels above 0"),
        ({"crop": (32.5, 32)}, r"crop must be whole numbers"),
        ({"scale": (2.0, 0.5)}, r"scale must be 0 < low <= high"),
        ({"flip": 1.5}, r"flip must lie between 0 and 1"),
        ({"rotate": -3.0}, r"rotate must not be negative"),
        ({"fill": (0, 0, 300), "crop": (5, 5)}, r"fill must be bytes"),
        ({"long_side": 520}, r"long_side needs config.data.augment.scale"),
        ({"within": (99, 9)}, r"within needs config.data.augment.scale"),
        ({"cat_max_ratio": 0.75}, r"cat_max_ratio needs config.data.augment.crop"),
        ({"multiple_of": 14}, r"multiple_of needs config.data.augment.at_least"),
        ({"recipe": "mmseg_ade20k", "long_side": 520}, r'long_side 520 and within .*within="\(\)"'),
        ({"recipe": "midas", "scale": (0.5, 2.0)}, r"at_least 384 and scale .*both say how"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:12],
)
def test_settings_that_make_no_sense_are_refused_by_their_key(config, message):
    with pytest.raises(DatasetError, match=r"config\.data\.augment\." + message):
        build_augmentations(config)


@pytest.mark.parametrize(
    ("source", "size", "multiple_of", "want"),
    [
        ((480, 640), 384, 32, (384, 512)),
        ((480, 640), 512, 32, (512, 672)),
        ((480, 640), 518, 14, (518, 686)),
        ((480, 640), 480, 32, (480, 640)),
        ((375, 1242), 384, 32, (384, 1280)),
        ((1080, 1920), 384, 32, (384, 672)),
        ((333, 500), 384, 32, (384, 576)),
        ((333, 500), 512, 32, (352, 512)),
        ((489, 640), 512, 32, (512, 672)),
        # Never nothing.
        ((10, 3000), 384, 32, (32, 384)),
        ((3000, 10), 384, 32, (384, 32)),
    ],
)
def test_model_input_size_is_that_of_the_reference(source, size, multiple_of, want):
    options = {"size": size, "multiple_of": multiple_of}
    assert model_input_size(*source, keep_aspect_ratio=True, **options) == want
    side = round(size / multiple_of) * multiple_of
    assert model_input_size(*source, keep_aspect_ratio=False, **options) == (side, side)


@pytest.mark.parametrize("size", [(24, 35), (6, 7), (13, 40), (12, 14)])
def test_resize_image_is_bicubic_of_pillow(size):
    image = random_image(2)
    want = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    got = resize_image(image, size)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, want)
