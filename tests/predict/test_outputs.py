# SPDX-License-Identifier: Apache-2.0
"""What is saved means what was predicted: read back with Pillow, JSON and the sidecar's formula."""

import json

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.sources.ade20k import PALETTE
from dpt_jax.predict.outputs import Prediction

RNG = np.random.default_rng(0)


def saved(prediction, directory, name="a"):
    """The stored integers and the sidecar, from the three files that there are to be."""
    paths = prediction.save(directory, name)
    assert paths == tuple(directory / f"{name}{end}" for end in (".png", ".json", "_preview.jpg"))
    assert sorted(directory.iterdir()) == sorted(paths)
    sidecar = json.loads(paths[1].read_text(), parse_constant=pytest.fail)
    with Image.open(paths[2]) as preview, Image.open(paths[0]) as stored:
        assert preview.mode == "RGB" and preview.format == "JPEG"
        assert preview.size == stored.size
        if sidecar["task"] == "depth":
            assert stored.mode == "I;16"
            return np.asarray(stored), sidecar
        assert stored.mode == "P"
        return stored.copy(), sidecar


def decoded(prediction, directory):
    """Depth as a reader of the sidecar gets it, and one quantisation step."""
    stored, sidecar = saved(prediction, directory)
    assert stored.dtype == np.uint16 and stored.shape == prediction.depth.shape
    assert sidecar["value"] == "png * scale + offset" and sidecar["kind"] == prediction.kind
    assert sidecar["minimum"] == prediction.depth.min()
    assert sidecar["maximum"] == prediction.depth.max()
    return stored * sidecar["scale"] + sidecar["offset"], sidecar["scale"]


def within_half_a_step(got, want, step):
    return np.abs(got - want.astype(np.float64)).max() <= step / 2 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("farthest", "step"),
    [(0.3, 1e-3), (9.0, 1e-3), (65.535, 1e-3), (65.6, 1 / 256), (250, 1 / 256)],
)
def test_metric_depth_comes_back_within_half_a_step(tmp_path, farthest, step):
    depth = RNG.uniform(0, farthest, (37, 53)).astype(np.float32)
    depth[3, 4] = farthest
    got, scale = decoded(Prediction(depth=depth, kind="metric"), tmp_path)
    assert scale == step
    assert within_half_a_step(got, depth, scale)


def test_metric_depth_that_16_bits_do_not_reach_is_0(tmp_path):
    depth = np.float32([[1, 255.99, 256, 1e4, 3e38]])
    got, scale = decoded(Prediction(depth=depth, kind="metric"), tmp_path)
    assert scale == 1 / 256
    assert within_half_a_step(got[:, :2], depth[:, :2], scale)
    assert (got[0, 2:] == 0).all()


@pytest.mark.parametrize("farthest", [0, 5.0, 100.0])
def test_metric_depth_of_zero_or_less_is_0(tmp_path, farthest):
    depth = np.float32([[farthest, 0, -0.2], [-30, -1e30, -3e38]])
    got, scale = decoded(Prediction(depth=depth, kind="metric"), tmp_path)
    assert within_half_a_step(got, np.maximum(depth, 0), scale)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0, 3000.0), (-5, -4), (-7, 12.0), (1e-12, 2e-12), (1e30, 3e38), (-1e38, 1e38)],
)
def test_inverse_depth_fills_the_16_bits(tmp_path, low, high):
    depth = RNG.uniform(low, high, (20, 30)).astype(np.float32)
    got, scale = decoded(Prediction(depth=depth, kind="inverse_relative"), tmp_path)
    assert within_half_a_step(got, depth, scale)
    stored = np.asarray(Image.open(tmp_path / "a.png"))
    assert stored.min() == 0 and stored.max() == 65535


@pytest.mark.parametrize("kind", ["inverse_relative", "metric"])
@pytest.mark.parametrize("value", [0, 1e-30, 17.25, -3.0, 3e38])
def test_a_constant_map_is_saved(tmp_path, kind, value):
    depth = np.full((4, 5), value, np.float32)
    got, _ = decoded(Prediction(depth=depth, kind=kind), tmp_path)
    if kind == "inverse_relative":
        np.testing.assert_array_equal(got, depth)
    else:
        assert np.abs(got - (17.25 if value == 17.25 else 0)).max() < 1e-9


def test_the_sidecar_names_the_unit(tmp_path):
    depth = np.ones((2, 2), np.float32)
    assert saved(Prediction(depth=depth, kind="metric"), tmp_path)[1]["unit"] == "metres"
    inverse = saved(Prediction(depth=depth, kind="inverse_relative"), tmp_path)[1]
    assert "unknown scale" in inverse["unit"]


@pytest.mark.parametrize("count", [2, 14, 150, 255])
def test_classes_come_back_as_indices(tmp_path, count):
    labels = RNG.integers(0, count, (31, 17)).astype(np.uint8)
    classes = tuple(f"class {i}" for i in range(count))
    picture, sidecar = saved(Prediction(labels=labels, classes=classes), tmp_path)
    np.testing.assert_array_equal(np.asarray(picture), labels)
    assert sidecar["task"] == "segmentation"
    assert sidecar["classes"] == {str(i): f"class {i}" for i in np.unique(labels)}
    if count == 150:
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), PALETTE[labels])
    colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > min(count, 100) * 0.9


def test_classes_without_names_are_their_ids(tmp_path):
    labels = np.uint8([[0, 7], [149, 7]])
    picture, sidecar = saved(Prediction(labels=labels), tmp_path)
    assert sidecar["classes"] == [0, 7, 149]
    np.testing.assert_array_equal(np.asarray(picture), labels)


def test_the_preview_of_classes_has_the_colours_of_the_map():
    labels = RNG.integers(0, 150, (5, 6)).astype(np.uint8)
    preview = Prediction(labels=labels, classes=("",) * 150).preview()
    np.testing.assert_array_equal(np.asarray(preview), PALETTE[labels])


@pytest.mark.parametrize("kind", ["metric", "inverse_relative"])
def test_near_is_red_and_far_is_blue(kind):
    ramp = np.linspace(0.5, 20, 300, dtype=np.float32).reshape(10, 30)
    depth = ramp if kind == "metric" else ramp[::-1, ::-1]
    colours = np.asarray(Prediction(depth=depth, kind=kind).preview()).astype(int)
    assert colours[0, 0, 0] > colours[0, 0, 2] and colours[-1, -1, 2] > colours[-1, -1, 0]


def test_a_folder_is_made_and_files_are_replaced(tmp_path):
    folder = tmp_path / "a" / "b"
    for value in (1, 2):
        depth = np.full((3, 4), value, np.float32)
        got, _ = decoded(Prediction(depth=depth, kind="metric"), folder)
        assert (got == value).all()


def test_a_name_with_dots_is_kept(tmp_path):
    saved(Prediction(depth=np.ones((2, 2), np.float32), kind="metric"), tmp_path, "v1.2 room")


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1)])
def test_maps_of_any_shape(tmp_path, shape):
    depth = RNG.uniform(1, 2, shape).astype(np.float32)
    got, step = decoded(Prediction(depth=depth, kind="metric"), tmp_path)
    assert within_half_a_step(got, depth, step)
