# SPDX-License-Identifier: Apache-2.0
"""From an image file to depth or classes: what transformers' processor, model and post-processing
give.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="the reference models are PyTorch ones")
transformers = pytest.importorskip("transformers", reason="the reference models are in it")

from transformers.image_utils import load_image  # noqa: E402

from dpt_jax import ImageProcessor, Predictor  # noqa: E402
from dpt_jax.predict.pretrained import open_pretrained  # noqa: E402
from dpt_jax.weights.errors import WeightsError  # noqa: E402
from tests.parity import reference  # noqa: E402
from tests.parity.families import Case  # noqa: E402

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 64,
    "patch_size": 16,
    "backbone_out_indices": [0, 1],
    "neck_hidden_sizes": [12, 16],
    "reassemble_factors": [2, 1],
    "fusion_hidden_size": 16,
}
DINO = {
    "model_type": "dinov2",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "mlp_ratio": 2,
    "image_size": 56,
    "patch_size": 14,
    "out_indices": [1, 2],
    "reshape_hidden_states": False,
}
NECK = {
    "neck_hidden_sizes": [8, 12],
    "reassemble_factors": [2, 1],
    "fusion_hidden_size": 16,
    "head_in_index": -1,
}
SQUARE = {"size": {"height": 64, "width": 64}, "keep_aspect_ratio": False}
NAMES = {0: "wall", 1: "floor", 2: "sky"}
# (architecture, configuration, preprocessing, size that the network sees)
NETWORKS = {
    "dpt": ("DPTForDepthEstimation", VIT, SQUARE, (64, 64)),
    "ade20k": ("DPTForSemanticSegmentation", VIT | {"num_labels": 150}, SQUARE, (64, 64)),
    "named": ("DPTForSemanticSegmentation", VIT | {"id2label": NAMES}, SQUARE, (64, 64)),
    "depth anything": (
        "DepthAnythingForDepthEstimation",
        NECK
        | {
            "backbone_config": DINO,
            "reassemble_hidden_size": 24,
            "patch_size": 14,
            "depth_estimation_type": "metric",
            "max_depth": 20,
        },
        {
            "size": {"height": 56, "width": 56},
            "keep_aspect_ratio": True,
            "ensure_multiple_of": 14,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        (56, 70),
    ),
    "dinov2": (
        "DPTForDepthEstimation",
        NECK
        | {
            "backbone_config": DINO | {"apply_layernorm": False},
            "fusion_hidden_size": 256,
            "add_projection": True,
            "use_bias_in_fusion_residual": False,
        },
        {
            "do_resize": False,
            "do_rescale": False,
            "do_pad": True,
            "size_divisor": 14,
            "image_mean": [123.675, 116.28, 103.53],
            "image_std": [58.395, 57.12, 57.375],
        },
        (56, 70),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling is nearly all of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something smooth with noise on it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 23
    waves = [np.sin(a * y + b * x + c) for a, b, c in rng.uniform(-2, 2, (3, 3))]
    levels = 128 + 80 * np.stack(waves, -1) + rng.normal(0, 15, (height, width, 3))
    return levels.clip(0, 255).astype(np.uint8)


class Network:
    """A folder that transformers wrote, and what transformers makes of an image with it."""

    def __init__(self, name, folder):
        architecture, config, preprocessing, size = NETWORKS[name]
        self.model = reference.reference(Case(name, name, config, size, 7, architecture))
        self.processor = transformers.DPTImageProcessorPil(**preprocessing)
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        self.folder = folder

    def predict(self, image):
        """Depth, or labels and by how much the largest logit leads."""
        image = load_image(image) if not isinstance(image, np.ndarray) else Image.fromarray(image)
        inputs = self.processor(images=image, return_tensors="pt")
        sizes = [(image.height, image.width)]
        with torch.no_grad():
            output = self.model(**inputs)
        if "logits" in output:
            return self.processor.post_process_semantic_segmentation(output, sizes)[0].numpy()
        (depth,) = self.processor.post_process_depth_estimation(output, sizes)
        return depth["predicted_depth"].numpy()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    made = {}

    def make(name):
        if name not in made:
            found = Network(name, tmp_path_factory.mktemp(name.replace(" ", "_")))
            made[name] = found, Predictor.from_pretrained(found.folder)
        return made[name]

    return make


def assert_depth_is(prediction, want):
    """Within 1e-4 of the largest; transformers leaves the negative values of its cubic resize."""
    assert prediction.labels is None and prediction.depth.dtype == np.float32
    assert prediction.depth.shape == want.shape and prediction.depth.min() >= 0
    assert want.std() > 0.02 * want.max()
    error = np.abs(prediction.depth - np.maximum(want, 0)).max() / want.max()
    assert error < 1e-4


# --- The whole chain -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(53, 67), (64, 64), (101, 33)])
def test_depth_of_dpt_is_that_of_transformers(network, tmp_path, size):
    theirs, ours = network("dpt")
    Image.fromarray(photo(*size)).save(tmp_path / "a.png")
    prediction = ours(tmp_path / "a.png")
    assert prediction.kind == "inverse_relative"
    assert_depth_is(prediction, theirs.predict(str(tmp_path / "a.png")))


def test_overshoot_of_the_cubic_resize_is_cut_and_can_be_had(network):
    theirs, ours = network("dpt")
    images = [photo(150, 190, seed) for seed in range(4)]
    wanted = [theirs.predict(image) for image in images]
    least = int(np.argmin([want.min() for want in wanted]))
    want, image = wanted[least], images[least]
    assert want.min() < 0
    assert_depth_is(ours(image), want)
    pixels, geometry = ours.processor(image)
    depth = ours._apply(ours._variables, pixels[None], prompt_depth=None).depth[0]
    got = ours.processor.depth_to_source(depth, geometry, keep_overshoot=True)
    assert np.abs(got - want).max() / want.max() < 1e-4


@pytest.mark.parametrize("name", ["depth anything", "dinov2"])
@pytest.mark.parametrize("size", [(51, 68), (43, 59)])
def test_metric_depth_is_that_of_transformers(network, tmp_path, name, size):
    theirs, ours = network(name)
    # JPEG, as cameras write.
    Image.fromarray(photo(*size)).save(tmp_path / "a.jpg", quality=95)
    prediction = ours(str(tmp_path / "a.jpg"))
    assert prediction.kind == "metric"
    assert_depth_is(prediction, theirs.predict(str(tmp_path / "a.jpg")))


@pytest.mark.parametrize("name", ["ade20k", "named"])
def test_classes_are_those_of_transformers(network, tmp_path, name):
    theirs, ours = network(name)
    classes = tuple(NAMES.values()) if name == "named" else tuple(f"LABEL_{i}" for i in range(150))
    same = []
    for seed, size in enumerate(((53, 67), (64, 64), (160, 90))):
        Image.fromarray(photo(*size, seed)).save(tmp_path / "a.png")
        prediction, want = ours(tmp_path / "a.png"), theirs.predict(str(tmp_path / "a.png"))
        assert prediction.depth is None and prediction.kind is None
        assert prediction.classes == classes and prediction.labels.dtype == np.uint8
        assert prediction.labels.shape == want.shape
        assert len(np.unique(want)) > (1 if name == "named" else 5)
        same.append((prediction.labels == want).ravel())
    assert np.concatenate(same).mean() > 0.999


# --- Images --------------------------------------------------------------------------------------


def test_a_turned_photo_is_upright(network, tmp_path):
    theirs, ours = network("dpt")
    upright = photo(50, 80)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "a.png", exif=exif)
    prediction = ours(tmp_path / "a.png")
    assert_depth_is(prediction, theirs.predict(upright))
    assert_depth_is(prediction, theirs.predict(str(tmp_path / "a.png")))


def test_grey_of_8_and_16_bits(network, tmp_path):
    theirs, ours = network("dpt")
    grey = photo(60, 45)[..., 0]
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    want = theirs.predict(str(tmp_path / "8.png"))
    assert_depth_is(ours(tmp_path / "8.png"), want)
    # transformers would clip 16 bits at 255; resized in floats, they differ by rounding from 8.
    fine = ours(tmp_path / "16.png").depth
    assert np.abs(fine - np.maximum(want, 0)).max() / want.max() < 0.02


def test_paths_pillow_images_and_arrays_are_the_same(network, tmp_path):
    _, ours = network("dpt")
    levels = photo(53, 67)
    Image.fromarray(levels).save(tmp_path / "a.png")
    want = ours(tmp_path / "a.png").depth
    with Image.open(tmp_path / "a.png") as opened:
        for image in (str(tmp_path / "a.png"), opened, levels, jnp.asarray(levels)):
            np.testing.assert_array_equal(ours(image).depth, want)
    alpha = np.concatenate([levels, levels[..., :1]], -1)
    np.testing.assert_array_equal(ours(alpha).depth, want)
    floats = ours(levels.astype(np.float32) / 255).depth
    assert np.abs(floats - want).max() / want.max() < 0.02


def test_a_prediction_is_saved_at_the_size_of_the_image(network, tmp_path):
    _, ours = network("dpt")
    png, *_, preview = ours(photo(31, 77)).save(tmp_path, "a")
    with Image.open(png) as stored, Image.open(preview) as shown:
        assert stored.size == shown.size == (77, 31)


# --- Options and errors --------------------------------------------------------------------------


def test_bfloat16_is_near(network):
    made, ours = network("depth anything")
    half = Predictor.from_pretrained(made.folder, dtype=jnp.bfloat16)
    image = photo(51, 68)
    want, got = ours(image).depth, half(image).depth
    assert got.dtype == np.float32
    error = np.abs(got - want).max() / want.max()
    assert 1e-5 < error < 0.05


def test_another_processor_is_another_size(network):
    made, ours = network("depth anything")
    larger = ImageProcessor.from_dict(ours.processor.to_dict() | {"size": 112})
    predictor = Predictor.from_pretrained(made.folder, processor=larger)
    image = photo(51, 68)
    assert predictor.processor is larger
    assert predictor(image).depth.shape == (51, 68)
    assert np.abs(predictor(image).depth - ours(image).depth).max() > 1e-3


def test_without_preprocessing_a_processor_is_asked_for(network, tmp_path):
    made, ours = network("dpt")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((made.folder / name).read_bytes())
    with pytest.raises(WeightsError, match=r"no preprocessor_config\.json.*`processor`"):
        Predictor.from_pretrained(tmp_path)
    predictor = Predictor.from_pretrained(tmp_path, processor=ours.processor)
    np.testing.assert_array_equal(predictor(photo(9, 9)).depth, ours(photo(9, 9)).depth)


def test_damaged_preprocessing_is_named(network, tmp_path):
    made, _ = network("dpt")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((made.folder / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": "large"}))
    with pytest.raises(ValueError, match=rf"{tmp_path}/preprocessor_config\.json: size"):
        Predictor.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["dpt", "named"])
def test_an_output_that_is_not_finite_is_refused(network, tmp_path, name):
    made, _ = network(name)
    found = open_pretrained(made.folder)
    found.variables["params"]["head"]["head_4"]["bias"][0] = np.inf
    predictor = Predictor(found)
    Image.fromarray(photo(20, 20)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"{tmp_path}/a\.png: .*not finite"):
        predictor(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"this image: .*not finite"):
        predictor(photo(20, 20))


def test_what_is_no_image_is_named(network, tmp_path):
    _, ours = network("dpt")
    with pytest.raises(FileNotFoundError, match=r"a\.png: no such image"):
        ours(tmp_path / "a.png")
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.png: not an image"):
        ours(tmp_path / "a.png")
    with pytest.raises(ValueError, match="prompt_depth: this network takes none"):
        ours(photo(9, 9), prompt_depth=np.ones((4, 4)))


def test_prompt_depth_anything_needs_its_prompt_and_completes_it(tmp_path):
    config = NECK | {
        "backbone_config": DINO,
        "reassemble_hidden_size": 24,
        "patch_size": 14,
        "depth_estimation_type": "metric",
    }
    architecture = "PromptDepthAnythingForDepthEstimation"
    model = reference.reference(Case("prompt", "prompt", config, (56, 56), 3, architecture))
    processor = transformers.PromptDepthAnythingImageProcessorPil(
        size={"height": 56, "width": 56}, ensure_multiple_of=14, keep_aspect_ratio=True
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    predictor = Predictor.from_pretrained(tmp_path)
    millimetres = np.random.default_rng(0).integers(800, 4000, (10, 12)).astype(np.uint16)
    image = photo(51, 68)
    inputs = processor(images=Image.fromarray(image), prompt_depth=millimetres, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    want = processor.post_process_depth_estimation(output, [(51, 68)])[0]["predicted_depth"].numpy()
    prediction = predictor(image, prompt_depth=millimetres)
    assert prediction.kind == "metric"
    assert_depth_is(prediction, want)
    with pytest.raises(ValueError, match="needs prompt_depth"):
        predictor(image)
