# SPDX-License-Identifier: Apache-2.0
"""Colour steps against mmseg's and BTS's arithmetic, operation by operation."""

import itertools

import numpy as np
import pytest

from dpt_jax.data import kernels
from dpt_jax.data.transforms import ColorJitter, PhotoMetricDistortion


class Script:
    """Stands in for a generator: coins and integers from lists, uniforms at one end."""

    def __init__(self, coins=(), integers=(), high=True):
        self.coins, self.numbers, self.high = list(coins), list(integers), high

    def random(self):
        return self.coins.pop(0)

    def integers(self, n):
        assert self.numbers[0] < n
        return self.numbers.pop(0)

    def uniform(self, low, high):
        return high if self.high else low


def rng(seed=0):
    return np.random.default_rng(seed)


def random_image(seed=0, size=(12, 14)):
    """Strong and weak colours, dark and light."""
    generator = rng(seed)
    image = generator.integers(0, 256, (*size, 3))
    image[:4] = image[:4] // 8 + 100
    return image.astype(np.uint8)


def distorted(cv2, image, brightness, first, contrast, saturation, hue):
    """mmseg's steps, each on bytes, as it writes them; None leaves a step out."""

    def convert(x, alpha=1, beta=0):
        x = x.astype(np.float32) * alpha + beta
        return np.clip(x, 0, 255).astype(np.uint8)

    if brightness is not None:
        image = convert(image, beta=brightness)
    if first and contrast is not None:
        image = convert(image, alpha=contrast)
    if saturation is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = convert(hsv[..., 1], alpha=saturation)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if hue is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not first and contrast is not None:
        image = convert(image, alpha=contrast)
    return image


@pytest.mark.parametrize("high", [True, False])
@pytest.mark.parametrize("with_opencv", [True, False])
def test_distortion_gives_the_bytes_of_mmseg(monkeypatch, with_opencv, high):
    cv2 = pytest.importorskip("cv2", minversion=None if with_opencv else "5.0")
    if not with_opencv:
        monkeypatch.setattr(kernels, "cv2", None)
    step = PhotoMetricDistortion(contrast=(0.6, 1.43), saturation=(0.7, 1.31), hue=11)
    end = int(high)
    on = ((-32, 32)[end], True, (0.6, 1.43)[end], (0.7, 1.31)[end], (-11, 10)[end])
    off = (None, False, None, None, None)
    image = random_image(size=(12, 64))
    for coins in itertools.product((False, True), repeat=5):
        script = Script(
            coins=[0.49 if c else 0.51 for c in coins], integers=[(0, 21)[end]], high=high
        )
        got = step({"image": image}, script)["image"]
        assert not script.coins and len(script.numbers) == 1 - coins[4]
        want = distorted(cv2, image, *(on[i] if yes else off[i] for i, yes in enumerate(coins)))
        np.testing.assert_array_equal(got, want, err_msg=str(coins))


def test_half_of_the_distortions_are_left_out():
    image = random_image(size=(8, 8))
    generator = rng(0)
    same = [
        np.array_equal(PhotoMetricDistortion()({"image": image}, generator)["image"], image)
        for _ in range(1500)
    ]
    assert np.mean(same) == pytest.approx(1 / 16, abs=0.03)


@pytest.mark.parametrize("high", [True, False])
def test_the_jitter_of_bts(high):
    image = random_image(1)
    gamma, brightness, tint = (1.1, 1.25, 1.1) if high else (0.9, 0.75, 0.9)
    got = ColorJitter()({"image": image}, Script(coins=[0.5], high=high))["image"]
    want = np.clip((image / 255.0) ** gamma * brightness * tint * 255, 0, 255)
    assert np.abs(got - want).max() <= 0.51 and got.dtype == np.uint8
    same = ColorJitter()({"image": image}, Script(coins=[0.49]))["image"]
    np.testing.assert_array_equal(same, image)


def test_each_channel_has_a_tint_of_its_own():
    grey = np.full((2, 2, 3), 100, np.uint8)
    got = [ColorJitter()({"image": grey}, rng(s))["image"][0, 0] for s in range(40)]
    coloured = [c for c in got if len(set(c.tolist())) > 1]
    assert 8 < len(coloured) < 32


@pytest.mark.parametrize("step", [PhotoMetricDistortion(), ColorJitter()])
def test_colour_steps_leave_all_but_the_image_alone(step):
    given = {"image": random_image(), "label": np.ones((12, 14), np.uint8), "name": "x"}
    for seed in range(6):
        got = step(given, rng(seed))
        assert got["label"] is given["label"] and got["name"] == "x"
        assert got["image"].shape == (12, 14, 3) and got["image"].dtype == np.uint8
