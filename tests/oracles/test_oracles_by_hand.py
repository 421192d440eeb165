# SPDX-License-Identifier: Apache-2.0
"""What the originals do and transformers does not, by hand."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the transcriptions are PyTorch code")

from tests.oracles import dinov2_depth, isl_hybrid, midas31  # noqa: E402
from tests.oracles.tiny import (  # noqa: E402
    anything,
    assert_close,
    beit,
    depther,
    hybrid,
    noise,
    swin,
)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def transposed(model):
    """A model that sees rows as columns: it turns a transposed image into a transposed map."""
    model = copy.deepcopy(model)
    for name, tensor in model.named_parameters():
        if tensor.ndim == 4:
            tensor.data = tensor.data.transpose(-1, -2).contiguous()
        rows = {"pos_embed": slice(1, None), "bias_table": slice(0, -3)}
        for end, where in rows.items():
            if name.endswith(end):
                table = tensor.data.view(-1, tensor.shape[-1])[where]
                side = int(len(table) ** 0.5)
                table[:] = table.unflatten(0, (side, side)).transpose(0, 1).flatten(0, 1).clone()
    return model


@pytest.mark.parametrize(
    ("model", "size", "out"),
    [
        (hybrid(), (64, 128), (64, 128)),
        (hybrid(num_classes=5), (96, 32), (96, 32)),
        (anything({"interpolate_offset": 0.1}, taps=None, use_clstoken=True), (42, 70), (42, 70)),
        (anything({"interpolate_offset": 0.1, "registers": 2}, taps=None), (14, 56), (14, 56)),
        (depther(interpolate_offset=0.1), (70, 42), (96, 64)),
        (beit(), (48, 80), (48, 80)),
    ],
    ids=["hybrid", "hybrid segmentation", "readout", "registers", "depther", "beit"],
)
def test_rows_and_columns_are_not_confused(model, size, out):
    pixels = noise(2, 3, *size)
    got = model(pixels)
    assert got.shape[-2:] == out
    assert got.std() > 0.01
    assert_close(transposed(model)(pixels.transpose(2, 3)).transpose(-1, -2), got)


def test_depth_of_disparity():
    pixels = noise(1, 3, 64, 64)
    raw = hybrid(non_negative=False)
    raw.scratch.output_conv[-1].bias.data -= raw(pixels).mean()
    assert raw(pixels).min() < 0 < raw(pixels).max()
    disparity, clipped = copy.deepcopy(raw), copy.deepcopy(raw)
    disparity.non_negative = True
    assert_close(disparity(pixels), raw(pixels).relu())
    clipped.scale, clipped.shift, clipped.invert = 0.5, 0.25, True
    want = 1 / np.maximum(0.5 * raw(pixels).numpy() + 0.25, 1e-8)
    assert want.max() == np.float32(1e8)
    np.testing.assert_allclose(clipped(pixels), want, rtol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "stride", "shape"), [(3, 2, (7, 6)), (7, 2, (8, 9)), (3, 1, (4, 5))]
)
def test_standardised_convolution_by_hand(kernel, stride, shape):
    x, conv = noise(2, *shape), isl_hybrid.StdConv2dSame(2, 3, kernel, stride, "std")
    weight = conv.weight.detach().double().numpy()
    flat = weight.reshape(3, -1)
    weight = (weight - flat.mean(1)[:, None, None, None]) / (flat.std(1) + 1e-5)[
        :, None, None, None
    ]
    sizes = [-(-side // stride) for side in shape]
    before = [max((n - 1) * stride + kernel - s, 0) // 2 for n, s in zip(sizes, shape, strict=True)]
    want = np.zeros((3, *sizes))
    for _, y, x_ in np.ndindex(1, *sizes):
        for i, j in np.ndindex(kernel, kernel):
            at = y * stride + i - before[0], x_ * stride + j - before[1]
            if 0 <= at[0] < shape[0] and 0 <= at[1] < shape[1]:
                want[:, y, x_] += weight[:, :, i, j] @ x[:, at[0], at[1]].double().numpy()
    np.testing.assert_allclose(conv(x[None])[0].detach(), want, atol=1e-5)


@pytest.mark.parametrize("grid", [(3, 5), (6, 2), (4, 5)])
def test_offset_of_positions_by_hand(grid):
    vit = anything({"interpolate_offset": 0.1}).pretrained

    def cubic(t, a=-0.75):
        t = abs(t)
        inner = (a + 2) * t**3 - (a + 3) * t**2 + 1
        return inner if t <= 1 else a * (t**3 - 5 * t**2 + 8 * t - 4) * (t < 2)

    def matrix(size):
        out = np.zeros((size, 4))
        for i in range(size):
            at = (i + 0.5) * 4 / (size + 0.1) - 0.5
            for k in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
                out[i, np.clip(k, 0, 3)] += cubic(at - k)
        return out

    native = vit.pos_embed[0, 1:].detach().numpy().reshape(4, 4, -1)
    want = np.einsum("yi,xj,ijd->yxd", matrix(grid[0]), matrix(grid[1]), native)
    got = vit.positions(*grid)[0].detach()
    np.testing.assert_array_equal(got[0], vit.pos_embed[0, 0].detach())
    np.testing.assert_allclose(got[1:], want.reshape(-1, 24), atol=1e-5)


def test_depther_pads_clamps_and_resizes():
    padded = dinov2_depth.center_padding(torch.ones(1, 1, 5, 3), 4)[0, 0]
    assert padded.shape == (8, 4)
    assert padded.sum(1).tolist() == [0, 3, 3, 3, 3, 3, 0, 0]
    assert padded.sum(0).tolist() == [5, 5, 5, 0]
    model, pixels = depther(), noise(1, 3, 50, 61)
    model.max_depth = float(model(pixels).median())
    depth = model.whole_inference(pixels)
    assert depth.shape == (1, 50, 61)
    assert model(pixels).shape == (1, 64, 96)
    assert 0.001 <= float(depth.min()) and float(depth.max()) == pytest.approx(model.max_depth)


def test_beit_index_by_hand():
    # A window of one row and two columns: table rows are the offsets -1, 0, 1 of columns.
    want = [[5, 3, 3], [4, 1, 0], [4, 2, 1]]
    assert midas31.beit_index(1, 2).tolist() == want


def test_unread_weights_and_buffers_of_the_files():
    assert "pretrained.model.blocks.3.attn.relative_position_index" in beit().state_dict()
    masks = [name for name in swin().state_dict() if name.endswith("attn_mask")]
    # The maps of 16, 8, 4 and 2 cells: the last two fit into one window.
    assert masks == [f"pretrained.model.layers.{s}.blocks.1.attn_mask" for s in (0, 1)]
