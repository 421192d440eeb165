# SPDX-License-Identifier: Apache-2.0
"""The whole way of an image, against transformers, PyTorch and OpenCV."""

import ast
import json
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpt_jax.predict.geometry import Geometry
from dpt_jax.predict.processor import ImageProcessor

IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
# facebook/dpt-dinov2-*: pixels of 0..255, padded to whole patches.
DINOV2 = {
    "do_resize": False,
    "do_rescale": False,
    "do_pad": True,
    "size_divisor": 14,
    "image_mean": (123.675, 116.28, 103.53),
    "image_std": (58.395, 57.12, 57.375),
}
FAMILIES = [
    "DPTImageProcessor",
    "PromptDepthAnythingImageProcessor",
    "ZoeDepthImageProcessor",
    "Tipsv2DptImageProcessor",
    "CHMv2ImageProcessor",
]


def noise(height, width, seed=0):
    """Rough enough that every overshoot and every rounding shows."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(name, **settings):
    pytest.importorskip("torch").set_num_threads(1)
    pytest.importorskip("transformers")
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
    from transformers.models.prompt_depth_anything import (
        image_processing_pil_prompt_depth_anything as prompt,
    )
    from transformers.models.zoedepth.image_processing_pil_zoedepth import (
        ZoeDepthImageProcessorPil,
    )

    classes = {
        "DPTImageProcessor": DPTImageProcessorPil,
        "PromptDepthAnythingImageProcessor": prompt.PromptDepthAnythingImageProcessorPil,
        "ZoeDepthImageProcessor": ZoeDepthImageProcessorPil,
    }
    return classes[name](**settings)


def reference_pixels(processor, image):
    return np.asarray(processor(image, input_data_format="channels_last")["pixel_values"][0])


def channels_last(x):
    return np.moveaxis(x, 0, -1)


# Sizes.


@pytest.mark.parametrize(
    ("source", "target", "multiple", "expected"),
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
        ((333, 500), 518, 14, (350, 518)),
        ((10, 3000), 384, 1, (1, 384)),
        ((10, 3000), 384, 32, (32, 384)),
    ],
)
def test_known_sizes(source, target, multiple, expected):
    processor = ImageProcessor(
        size=(target, target), keep_aspect_ratio=True, ensure_multiple_of=multiple
    )
    assert processor.output_size(*source) == expected


def test_sizes_are_those_of_transformers():
    pytest.importorskip("transformers")
    from transformers.models.dpt import image_processing_pil_dpt as dpt

    rng = np.random.default_rng(0)
    for _ in range(500):
        source, target = rng.integers(1, 900, 2).tolist(), rng.integers(32, 700, 2).tolist()
        keep, multiple = bool(rng.integers(2)), int(rng.choice([1, 14, 16, 32]))
        image = np.broadcast_to(np.uint8(0), (3, *source))
        theirs = dpt.get_resize_output_image_size(image, target, keep, multiple)
        processor = ImageProcessor(
            size=tuple(target), keep_aspect_ratio=keep, ensure_multiple_of=multiple
        )
        expected = tuple(max(n, multiple) for n in (theirs.height, theirs.width))
        assert processor.output_size(*source) == expected


def midas_size(source, target, keep, multiple, method):
    """MiDaS' transform, written down from its description: one side decides, bounds hold."""
    (height, width), (rows, columns) = source, target
    scale_height, scale_width = rows / height, columns / width
    if keep:
        pick = max if method == "lower_bound" else min
        scale_height = scale_width = pick(scale_height, scale_width)
    sides = []
    for length, bound in ((scale_height * height, rows), (scale_width * width, columns)):
        side = int(np.round(length / multiple) * multiple)
        if method == "lower_bound" and side < bound:
            side = int(np.ceil(length / multiple) * multiple)
        if method == "upper_bound" and side > bound:
            side = int(np.floor(length / multiple) * multiple)
        sides.append(max(side, multiple))
    return tuple(sides)


def test_bounds_of_midas_and_depth_anything():
    assert ImageProcessor(
        size=(518, 518), keep_aspect_ratio=True, ensure_multiple_of=14, resize_method="lower_bound"
    ).output_size(333, 500) == (518, 784)
    rng = np.random.default_rng(1)
    for _ in range(500):
        source, target = rng.integers(100, 900, 2).tolist(), rng.integers(100, 700, 2).tolist()
        keep, multiple = bool(rng.integers(2)), int(rng.choice([1, 14, 32]))
        for method in ("lower_bound", "upper_bound"):
            processor = ImageProcessor(
                size=tuple(target),
                keep_aspect_ratio=keep,
                ensure_multiple_of=multiple,
                resize_method=method,
            )
            expected = midas_size(source, target, keep, multiple, method)
            assert processor.output_size(*source) == expected


def test_a_network_image_of_absurd_size_is_refused():
    processor = ImageProcessor(
        size=(518, 518), keep_aspect_ratio=True, ensure_multiple_of=14, resize_method="lower_bound"
    )
    with pytest.raises(ValueError, match="1 x 4000 would become 518 x 2072000"):
        processor.geometry(1, 4000)


# Pixels.


@pytest.mark.parametrize("seed", range(30))
def test_pixels_are_those_of_transformers_bit_by_bit(seed):
    rng = np.random.default_rng(seed)
    settings = {
        "size": {"height": int(rng.integers(20, 90)), "width": int(rng.integers(20, 90))},
        "resample": int(rng.integers(6)),
        "keep_aspect_ratio": bool(rng.integers(2)),
        "ensure_multiple_of": int(rng.choice([1, 4, 7])),
        "do_resize": bool(rng.random() < 0.8),
        "do_rescale": bool(rng.random() < 0.8),
        "rescale_factor": float(rng.choice([1 / 255, 1 / 127.5])),
        "do_normalize": bool(rng.random() < 0.8),
        "do_pad": bool(rng.integers(2)),
        "size_divisor": int(rng.choice([8, 14])),
        "image_mean": rng.random(3).tolist(),
        "image_std": (0.1 + rng.random(3)).tolist(),
    }
    image = noise(*rng.integers(20, 90, 2))
    pixels, geometry = ImageProcessor.from_dict(settings)(image)
    expected = reference_pixels(reference("DPTImageProcessor", **settings), image)
    assert pixels.dtype == np.float32 and pixels.shape[:2] == geometry.network
    np.testing.assert_array_equal(pixels, channels_last(expected))


@pytest.mark.parametrize(
    ("size", "padding"),
    [((480, 640), ((5, 5), (2, 2))), ((481, 645), ((4, 5), (6, 7))), ((28, 14), ((0, 0), (0, 0)))],
)
def test_padding_is_centred_and_zero_after_normalising(size, padding):
    image = noise(*size)
    pixels, geometry = ImageProcessor(**DINOV2)(image)
    assert geometry == Geometry(size, ((0, 0), (0, 0)), size, padding)
    (top, _), (left, _) = padding
    assert not pixels[:top].any() and not pixels[:, :left].any()
    assert not pixels[top + size[0] :].any() and not pixels[:, left + size[1] :].any()
    inner = pixels[top : top + size[0], left : left + size[1]]
    expected = (image - np.array(DINOV2["image_mean"])) / DINOV2["image_std"]
    np.testing.assert_allclose(inner, expected, atol=1e-6)
    theirs = reference_pixels(reference("DPTImageProcessor", **DINOV2), image)
    np.testing.assert_array_equal(pixels, channels_last(theirs))


@pytest.mark.parametrize("size", [(48, 64), (31, 90), (77, 40)])
@pytest.mark.parametrize("multiple", [None, 32])
def test_zoedepth(size, multiple):
    settings = {"size": {"height": 96, "width": 128}}
    settings |= {"ensure_multiple_of": multiple} if multiple else {}
    image = noise(*size)
    processor = ImageProcessor.from_dict(
        settings | {"image_processor_type": "ZoeDepthImageProcessor"}
    )
    theirs = reference("ZoeDepthImageProcessor", **settings)
    pixels, geometry = processor(image)
    expected = channels_last(reference_pixels(theirs, image))
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels, expected, atol=5e-5)

    import torch

    depth = np.random.default_rng(1).random(geometry.network, np.float32)
    outputs = types.SimpleNamespace(predicted_depth=torch.from_numpy(depth[None]))
    ours = processor.depth_to_source(depth, geometry, keep_overshoot=True)
    enlarged = [n + 2 * int(np.sqrt(n / 2) * 3) for n in size]
    whole = torch.nn.functional.interpolate(
        outputs.predicted_depth[None].double(), enlarged, mode="bicubic"
    )
    (top, _), (left, _) = geometry.margins
    expected = whole[0, 0, top : top + size[0], left : left + size[1]]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_zoedepth_default_size():
    processor = ImageProcessor.from_dict({"image_processor_type": "ZoeDepthImageProcessor"})
    geometry = processor.geometry(480, 640)
    assert geometry.margins == ((46, 46), (53, 53))
    assert geometry.network == (392, 512)


def test_prompt_depth_anything():
    name = "PromptDepthAnythingImageProcessor"
    settings = {
        "size": {"height": 56, "width": 56},
        "keep_aspect_ratio": True,
        "ensure_multiple_of": 14,
        "prompt_scale_to_meter": 0.002,
    }
    processor = ImageProcessor.from_dict(settings | {"image_processor_type": name})
    theirs = reference(name, **settings)
    image = noise(60, 80)
    varied = np.random.default_rng(0).integers(0, 9000, (12, 16)).astype(np.uint16)
    for prompt in (varied, np.full((12, 16), 500, np.uint16)):
        expected = theirs(image, prompt, input_data_format="channels_last")
        pixels, _ = processor(image)
        np.testing.assert_array_equal(pixels, channels_last(expected["pixel_values"][0]))
        ours = processor.prompt(prompt)
        assert ours.shape == (12, 16, 1) and ours.dtype == np.float32
        np.testing.assert_array_equal(ours[..., 0], expected["prompt_depth"][0][0])
    assert prompt.max() == 500


def test_tipsv2_and_chmv2():
    # Their classes need torchvision, whose resize of uint8 is interpolate(antialias=True).
    torch = pytest.importorskip("torch")
    image = noise(60, 80)
    chw = torch.from_numpy(np.moveaxis(image, -1, 0).copy())[None]
    tips = ImageProcessor.from_dict(
        {"image_processor_type": "Tipsv2DptImageProcessor", "size": {"height": 40, "width": 40}}
    )
    pixels, geometry = tips(image)
    resized = torch.nn.functional.interpolate(chw, (40, 40), mode="bilinear", antialias=True)
    np.testing.assert_allclose(pixels, resized[0].permute(1, 2, 0) / 255, atol=1e-7)
    depth = np.random.default_rng(1).random((40, 40))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(depth)[None, None], (60, 80), mode="bilinear"
    )
    np.testing.assert_allclose(tips.depth_to_source(depth, geometry), expected[0, 0], atol=1e-6)

    chm = ImageProcessor.from_dict({"image_processor_type": "CHMv2ImageProcessor"})
    pixels, geometry = chm(image)
    assert pixels.shape == (64, 80, 3)
    expected = (image / 255 - chm.image_mean) / chm.image_std
    np.testing.assert_allclose(pixels[2:62], expected, atol=1e-5)
    depth = np.random.default_rng(1).random((64, 80))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(depth)[None, None], (60, 80), mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(chm.depth_to_source(depth, geometry), expected[0, 0], atol=1e-6)


@pytest.mark.parametrize("size", [(60, 90), (333, 500), (97, 41)])
def test_the_originals_with_opencv(size):
    cv2 = pytest.importorskip("cv2")
    image = noise(*size)
    depth_anything = ImageProcessor(
        size=(98, 98),
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resize_method="lower_bound",
        resample="opencv_cubic",
        depth_resample="torch_bilinear_align_corners",
        **IMAGENET,
    )
    isl = ImageProcessor(
        size=(96, 96), keep_aspect_ratio=True, ensure_multiple_of=32, resample="opencv_cubic"
    )
    for processor in (depth_anything, isl):
        pixels, geometry = processor(image)
        for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 2e-4)):  # see `resize_map`
            resized = cv2.resize(
                image.astype(dtype) / 255, geometry.resized[::-1], interpolation=cv2.INTER_CUBIC
            )
            expected = (resized - processor.image_mean) / processor.image_std
            np.testing.assert_allclose(pixels, expected, atol=tolerance)


@pytest.mark.parametrize("resample", ["pillow_bicubic", "opencv_cubic", "torch_bicubic_antialias"])
@pytest.mark.parametrize("do_rescale", [True, False])
def test_white_is_white_in_every_type(resample, do_rescale):
    image = noise(33, 47)
    processor = ImageProcessor(size=(20, 30), resample=resample, do_rescale=do_rescale)
    pixels, _ = processor(image)
    unit = 1 if do_rescale else 255
    rounded = 1 if resample.startswith("torch") else 1e-3  # PyTorch rounds uint8 twice
    for other in (image / 255, (image / 255).astype(np.float32), image.astype(np.uint16) * 257):
        np.testing.assert_allclose(processor(other)[0], pixels, atol=unit * 2 * rounded / 25)
    np.testing.assert_array_equal(processor(Image.fromarray(image))[0], pixels)


def test_files_and_grey_images(tmp_path):
    image = noise(33, 47)
    Image.fromarray(image).save(tmp_path / "a.png")
    processor = ImageProcessor(size=(20, 30))
    np.testing.assert_array_equal(processor(tmp_path / "a.png")[0], processor(image)[0])
    grey = processor(image[..., 0])[0]
    assert grey.shape == (20, 30, 3)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])


# Back to the source.


@pytest.mark.parametrize("settings", [{"size": (48, 64)}, DINOV2])
def test_depth_is_that_of_transformers(settings):
    processor = ImageProcessor(**settings)
    geometry = processor.geometry(45, 70)
    depth = np.random.default_rng(0).random((64, 96), np.float32)
    torch = pytest.importorskip("torch")
    outputs = types.SimpleNamespace(predicted_depth=torch.from_numpy(depth[None]))
    theirs = reference("DPTImageProcessor").post_process_depth_estimation(outputs, [(45, 70)])
    ours = processor.depth_to_source(depth, geometry, keep_overshoot=True)
    assert ours.dtype == np.float32 and ours.shape == (45, 70)
    np.testing.assert_allclose(ours, theirs[0]["predicted_depth"].numpy(), atol=2e-5)


def test_overshoot_is_cut_only_where_there_is_nothing_negative():
    processor = ImageProcessor()
    geometry = processor.geometry(40, 40)
    step = np.repeat([[0.0, 1.0]], 2, axis=0).repeat(4, axis=1)
    assert processor.depth_to_source(step, geometry).min() == 0
    kept = processor.depth_to_source(step, geometry, keep_overshoot=True)
    assert kept.min() < -0.01
    signed = processor.depth_to_source(step - 0.1, geometry)
    np.testing.assert_allclose(signed, kept - 0.1, atol=1e-6)


@pytest.mark.parametrize("output_scale", [1, 2, 0.5, 8 / 7])
def test_cropped_padding_leaves_everything_in_its_place(output_scale):
    # The map says where its samples lie in the image; back there, each must say its own place.
    processor = ImageProcessor(
        size=(43, 61),
        do_pad=True,
        size_divisor=14,
        crop_padding=True,
        depth_resample="torch_bilinear",
    )
    geometry = processor.geometry(100, 90)
    assert geometry.padding == ((6, 7), (4, 5))
    for axis in (0, 1):
        rows = int(geometry.network[axis] * output_scale)
        places = (np.arange(rows) + 0.5) * geometry.network[axis] / rows
        places = (places - geometry.padding[axis][0]) * geometry.source[axis]
        places = places / geometry.resized[axis]
        depth = np.broadcast_to(np.expand_dims(places, 1 - axis), (rows, rows))
        back = processor.depth_to_source(depth, geometry, keep_overshoot=True)
        expected = np.arange(geometry.source[axis]) + 0.5
        np.testing.assert_allclose(np.take(back, 40, 1 - axis), expected, atol=1e-4)
    stretched = ImageProcessor(**{**DINOV2, "do_pad": True}).depth_to_source(depth, geometry)
    assert np.abs(stretched[40] - expected).max() > 1


@pytest.mark.parametrize("classes", [3, 150])
def test_labels_are_those_of_transformers(classes):
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).standard_normal((24, 30, classes)).astype(np.float32)
    processor = ImageProcessor(size=(24, 30))
    geometry = processor.geometry(75, 61)
    ours = processor.labels_to_source(logits, geometry)
    outputs = types.SimpleNamespace(logits=torch.from_numpy(logits).permute(2, 0, 1)[None])
    theirs = reference("DPTImageProcessor").post_process_semantic_segmentation(
        outputs, [geometry.source]
    )
    assert ours.dtype == np.uint8
    # Rounding may decide between two classes that are level.
    assert (ours != theirs[0].numpy()).mean() < 1e-3


def test_maps_of_another_shape_are_refused():
    processor = ImageProcessor()
    geometry = processor.geometry(40, 40)
    with pytest.raises(ValueError, match=r"depth: .* got \(1, 4, 4\)"):
        processor.depth_to_source(np.zeros((1, 4, 4)), geometry)
    for shape in ((4, 4), (4, 4, 256), (0, 4, 3)):
        with pytest.raises(ValueError, match="logits: expected"):
            processor.labels_to_source(np.zeros(shape), geometry)


# Ground truth.


def test_segmentation_maps():
    labels = np.random.default_rng(0).choice(np.uint8([0, 1, 3, 150, 255]), (30, 50))
    before = labels.copy()
    processor = ImageProcessor(size=(20, 30), do_reduce_labels=True, do_pad=True, size_divisor=8)
    ours = processor.segmentation_map(labels)
    np.testing.assert_array_equal(labels, before)
    reduced = np.select([labels == 0, labels == 255], [255, 255], labels.astype(int) - 1)
    rows = ((np.arange(20) + 0.5) * 30 / 20).astype(int)
    columns = ((np.arange(30) + 0.5) * 50 / 30).astype(int)
    assert ours.shape == (24, 32) and ours.dtype == np.uint8
    np.testing.assert_array_equal(ours[2:-2, 1:-1], reduced[rows][:, columns])
    assert (ours[:2] == 255).all() and (ours[-2:] == 255).all() and (ours[:, -1] == 255).all()
    np.testing.assert_array_equal(processor.segmentation_map(Image.fromarray(labels)), ours)
    wide = processor.segmentation_map(labels.astype(np.int64))
    assert wide.dtype == np.int64
    np.testing.assert_array_equal(wide, ours)


def test_reduced_labels_are_those_of_transformers():
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    theirs = reference("DPTImageProcessor", do_resize=False, do_reduce_labels=True)
    expected = theirs(noise(16, 16), labels.copy(), input_data_format="channels_last")["labels"][0]
    ours = ImageProcessor(do_resize=False, do_reduce_labels=True).segmentation_map(labels)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 2, 3), np.uint8), r"\(2, 2, 3\)"),
        (np.zeros((2, 2)), "float64"),
        (np.zeros((2, 2), np.int8), "int8"),
        (np.zeros((2, 2), bool), "bool"),
    ],
)
def test_labels_that_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"labels: .*{message}"):
        ImageProcessor().segmentation_map(labels)


# Settings.


def test_defaults_are_those_of_transformers():
    theirs = json.loads(reference("DPTImageProcessor").to_json_string())
    assert ImageProcessor.from_dict(theirs) == ImageProcessor()
    ours = ImageProcessor().to_dict()
    assert {key: ours[key] for key in theirs} == theirs
    for name in FAMILIES[1:3]:
        theirs = json.loads(reference(name).to_json_string())
        defaults = ImageProcessor.from_dict({"image_processor_type": name})
        assert ImageProcessor.from_dict(theirs) == defaults
        ours = defaults.to_dict()
        assert {key: ours[key] for key in theirs} == theirs


@pytest.mark.parametrize(("name", "module"), [(FAMILIES[3], "tipsv2_dpt"), (FAMILIES[4], "chmv2")])
def test_defaults_of_classes_that_need_torchvision(name, module):
    # Read, not imported.
    models = Path(pytest.importorskip("transformers").__file__).parent / "models"
    tree = ast.parse((models / module / f"image_processing_{module}.py").read_text("utf-8"))
    (body,) = (n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    theirs = {
        node.targets[0].id: ast.unparse(node.value)
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    codes = {f"PILImageResampling.{code.name}": str(int(code)) for code in Image.Resampling}
    theirs["resample"] = codes[theirs["resample"]]
    values = {key: eval(value, {}) for key, value in theirs.items() if key != "valid_kwargs"}
    processor = ImageProcessor.from_dict({"image_processor_type": name})
    assert ImageProcessor.from_dict({**values, "image_processor_type": name}) == processor
    ours = processor.to_dict()
    shared = {key for key in ours if values.get(key) is not None}
    assert {"do_resize", "size", "resample", "do_rescale", "do_normalize"} <= shared
    assert {key: ours[key] for key in shared} == {key: values[key] for key in shared}
    assert "dpt_jax" not in ours


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resample": "opencv_cubic", "resize_method": "lower_bound", **IMAGENET},
        {"resample": "pillow_lanczos", "crop_padding": True, "size": (20, 30)},
        {"depth_resample": "torch_bilinear", "do_pad": False, "do_reduce_labels": True},
        {"do_pad": True, "size_divisor": 8, "pad_mode": "constant", "prompt_scale_to_meter": 1.0},
    ],
)
def test_settings_survive_a_file(tmp_path, name, changes):
    fields = vars(ImageProcessor.from_dict({"image_processor_type": name})) | changes
    processor = ImageProcessor(**fields)
    text = json.dumps(processor.to_dict())
    assert ImageProcessor.from_dict(json.loads(text)) == processor
    (tmp_path / "preprocessor_config.json").write_text(text)
    assert ImageProcessor.from_pretrained(tmp_path) == processor
    assert hash(processor) == hash(ImageProcessor.from_pretrained(str(tmp_path)))


@pytest.mark.parametrize("name", FAMILIES[:3])
def test_transformers_reads_what_to_dict_writes(tmp_path, name):
    changes = {"size": {"height": 40, "width": 60}, "do_pad": True, "size_divisor": 8}
    ours = ImageProcessor.from_dict(changes | {"image_processor_type": name})
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ours.to_dict()))
    theirs = type(reference(name)).from_pretrained(str(tmp_path))
    image = noise(50, 70)
    expected = channels_last(reference_pixels(theirs, image))
    np.testing.assert_allclose(ours(image)[0], expected, atol=5e-5)


def test_transformers_carries_along_what_it_has_no_word_for(tmp_path):
    reference("DPTImageProcessor")
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    ours = ImageProcessor(resample="opencv_cubic", resize_method="lower_bound")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ours.to_dict()))
    theirs = DPTImageProcessorPil.from_pretrained(str(tmp_path))
    assert theirs.resample == 3
    theirs.save_pretrained(tmp_path)
    assert ImageProcessor.from_pretrained(tmp_path) == ours


def test_transformers_takes_null_for_false():
    # Why it is refused, instead of read as the default.
    assert not reference("DPTImageProcessor", do_resize=None).do_resize


def test_old_names_and_nulls():
    new = {"size": {"height": 384, "width": 384}, "size_divisor": 14, "do_reduce_labels": True}
    old = {
        "image_processor_type": "DPTFeatureExtractor",
        "feature_extractor_type": "DPTFeatureExtractor",
        "size": 384,
        "size_divisibility": 14,
        "reduce_labels": True,
        "do_pad": None,
        "keep_aspect_ratio": None,
        "image_mean": 0.5,
        "do_center_crop": False,
        "pad_size": None,
        "crop_size": {"height": 224, "width": 224},
        "do_convert_rgb": None,
        "_valid_processor_keys": ["images"],
        "processor_class": None,
    }
    processor = ImageProcessor.from_dict(old)
    assert processor == ImageProcessor.from_dict(new)
    assert processor.size_divisor == 14 and processor.do_reduce_labels
    for name in ("DPTImageProcessorFast", "DPTImageProcessorPil", None):
        assert ImageProcessor.from_dict({"image_processor_type": name}) == ImageProcessor()
    extractor = ImageProcessor.from_dict({"feature_extractor_type": "DPTFeatureExtractor"})
    assert extractor == ImageProcessor()
    assert ImageProcessor.from_dict({"size": [100, 200]}).size == (100, 200)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_resize": None}, "do_resize: null"),
        ({"do_pad": None, "image_processor_type": "CHMv2ImageProcessor"}, "do_pad: null"),
        ({"siize": 384}, "unknown settings siize"),
        ({"image_processor_type": "ViTImageProcessor"}, "'ViTImageProcessor' is not known"),
        ({"size": {"shortest_edge": 384}}, "size: expected a height and a width"),
        ({"size": "384"}, "size: expected a height and a width"),
        ({"size": 0}, "size: expected 2 of int, above 0"),
        ({"size": 384.0}, "size: expected a height and a width"),
        ({"resample": 6}, r"resample: expected one of 0 \(pillow_nearest\)"),
        ({"resample": "bicubic"}, "resample: expected one of"),
        ({"resample": 3, "image_processor_type": "ZoeDepthImageProcessor"}, r"one of 2 \(torch"),
        ({"image_mean": [0.5, 0.5]}, "image_mean: expected 3 of float"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std: expected 3 of float, above 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor: expected 1 of float"),
        ({"do_resize": "no"}, "do_resize: expected one of True, False; got 'no'"),
        ({"do_pad": True}, "do_pad: needs size_divisor"),
        ({"size_divisor": 14.5}, "size_divisor: expected 1 of int"),
        ({"do_center_crop": True}, "do_center_crop: True is not supported"),
        ({"dpt_jax": {"kernel": "x"}}, "dpt_jax: expected only"),
        ({"dpt_jax": {"resample": "cv2"}}, "resample: expected one of pillow_nearest"),
        ({"dpt_jax": {"resize_method": "largest"}}, "resize_method: expected one of minimal"),
        ([], "expected an object"),
    ],
    ids=str,
)
def test_settings_that_are_refused(tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        ImageProcessor.from_dict(config)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        ImageProcessor.from_pretrained(tmp_path)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no preprocessor_config\.json"):
        ImageProcessor.from_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text("{size: 3}")
    with pytest.raises(ValueError, match=f"{path} is not JSON"):
        ImageProcessor.from_pretrained(tmp_path)
    path.write_text('{"siize": 3}')
    with pytest.raises(ValueError, match=f"{path}: unknown settings siize"):
        ImageProcessor.from_pretrained(tmp_path)
