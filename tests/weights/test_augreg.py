# SPDX-License-Identifier: Apache-2.0
"""Files of Google's vision_transformer: a random ViT of transformers, written in their layout."""

import re
import zipfile

import flax.traverse_util
import jax
import numpy as np
import pytest

from dpt_jax.models.dpt import build_model
from dpt_jax.weights import initialize
from dpt_jax.weights.augreg import read_augreg
from dpt_jax.weights.errors import WeightsError

WIDTH, HEADS, BLOCKS, MLP, PATCH, SIDE = 24, 3, 3, 40, 8, 32


def model():
    return build_model(
        {
            "variant": None,
            "backbone": {
                "type": "vit",
                "hidden_size": WIDTH,
                "num_hidden_layers": BLOCKS,
                "num_attention_heads": HEADS,
                "intermediate_size": MLP,
                "image_size": SIDE,
                "patch_size": PATCH,
                "layer_norm_eps": 1e-6,
                "out_indices": (0, 2),
            },
            "neck": {"hidden_sizes": (8, 12), "reassemble_factors": (2, 1)},
            "head": {"type": "depth"},
        }
    )


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of such a file, after vision_transformer/models_vit.py.

    Attention has an axis of heads: queries, keys and values are projected to (heads, width of a
    head), which the output projection reads. Modules are counted where flax named them within a
    block: LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2, MlpBlock_3.
    """
    head = WIDTH // HEADS
    found = {
        "cls": (1, 1, WIDTH),
        "embedding/kernel": (PATCH, PATCH, 3, WIDTH),
        "embedding/bias": (WIDTH,),
        "Transformer/posembed_input/pos_embedding": (1, 1 + (SIDE // PATCH) ** 2, WIDTH),
        "Transformer/encoder_norm/scale": (WIDTH,),
        "Transformer/encoder_norm/bias": (WIDTH,),
        "pre_logits/kernel": (WIDTH, WIDTH),
        "pre_logits/bias": (WIDTH,),
        "head/kernel": (WIDTH, 10),
        "head/bias": (10,),
    }
    for i in range(BLOCKS):
        block = f"Transformer/encoderblock_{i}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            found[f"{attention}/{name}/kernel"] = (WIDTH, HEADS, head)
            found[f"{attention}/{name}/bias"] = (HEADS, head)
        found[f"{attention}/out/kernel"] = (HEADS, head, WIDTH)
        found[f"{attention}/out/bias"] = (WIDTH,)
        for name in ("LayerNorm_0", "LayerNorm_2"):
            found[f"{block}/{name}/scale"] = found[f"{block}/{name}/bias"] = (WIDTH,)
        for name, sizes in (("Dense_0", (WIDTH, MLP)), ("Dense_1", (MLP, WIDTH))):
            found[f"{block}/MlpBlock_3/{name}/kernel"] = sizes
            found[f"{block}/MlpBlock_3/{name}/bias"] = sizes[1:]
    return found


def random_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes().items():
        value = 0.3 * rng.standard_normal(shape)
        arrays[name] = (value + name.endswith("scale")).astype(np.float32)
    return arrays


def as_transformers(arrays: dict[str, np.ndarray], torch):
    """The ViT of transformers with these numbers: each matrix is set by what it maps."""
    transformers = pytest.importorskip("transformers", reason="the reference encoder")
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        intermediate_size=MLP,
        image_size=SIDE,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
    )
    vit = transformers.ViTModel(config, add_pooling_layer=False).eval()

    def fill(parameter, value):
        assert parameter.shape == value.shape
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))

    def linear(layer, name, matrix=None):
        """`matrix`: inputs by outputs."""
        matrix = arrays[f"{name}/kernel"] if matrix is None else matrix
        fill(layer.weight, np.einsum("io->oi", matrix))
        fill(layer.bias, arrays[f"{name}/bias"].ravel())

    def norm(layer, name):
        fill(layer.weight, arrays[f"{name}/scale"])
        fill(layer.bias, arrays[f"{name}/bias"])

    with torch.no_grad():
        fill(vit.embeddings.cls_token, arrays["cls"])
        positions = arrays["Transformer/posembed_input/pos_embedding"]
        fill(vit.embeddings.position_embeddings, positions)
        patches = vit.embeddings.patch_embeddings.projection
        fill(patches.weight, np.einsum("hwio->oihw", arrays["embedding/kernel"]))
        fill(patches.bias, arrays["embedding/bias"])
        norm(vit.layernorm, "Transformer/encoder_norm")
        modules = dict(vit.named_modules())
        for i in range(BLOCKS):
            block = f"Transformer/encoderblock_{i}"
            attention = f"{block}/MultiHeadDotProductAttention_1"

            def layer(*endings, i=i):
                names = [n for n in modules if re.search(rf"layers?\.{i}\.", n)]
                (name,) = (n for n in names if n.endswith(endings))
                return modules[name]

            for part, ending in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
                matrix = arrays[f"{attention}/{part}/kernel"].reshape(WIDTH, WIDTH)
                linear(layer(ending, f"attention.{part}"), f"{attention}/{part}", matrix)
            out = arrays[f"{attention}/out/kernel"].reshape(WIDTH, WIDTH)
            linear(layer("o_proj", "attention.output.dense"), f"{attention}/out", out)
            norm(layer("layernorm_before"), f"{block}/LayerNorm_0")
            norm(layer("layernorm_after"), f"{block}/LayerNorm_2")
            linear(layer("fc1", "intermediate.dense"), f"{block}/MlpBlock_3/Dense_0")
            linear(layer("fc2", f"{i}.output.dense"), f"{block}/MlpBlock_3/Dense_1")
    return vit


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_gives_the_hidden_states_of_transformers(save, tmp_path):
    torch = pytest.importorskip("torch", reason="the reference encoder is a PyTorch one")
    arrays, ours = random_arrays(), model()
    save(tmp_path / "B_8.npz", **arrays)
    found = initialize.initial_values(tmp_path / "B_8.npz", ours)
    assert {path[1] for path in found.values} == {"backbone"}
    assert not [name for name in found.reinitialised if "backbone" in name]
    assert found.resized == found.not_used == ()
    if save is np.savez_compressed:
        return
    pixels = np.random.default_rng(1).standard_normal((2, SIDE, SIDE, 3)).astype(np.float32)
    with torch.no_grad():
        states = as_transformers(arrays, torch)(
            torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), output_hidden_states=True
        ).hidden_states
    params = flax.traverse_util.unflatten_dict(found.values)["params"]["backbone"]
    with jax.default_matmul_precision("highest"):
        taps = jax.jit(lambda p, x: ours.backbone.apply({"params": p}, x))(params, pixels).taps
    for index, got in zip((0, 2), taps, strict=True):
        want = states[index + 1].numpy()
        assert np.abs(np.asarray(got) - want).max() <= 1e-5 * np.abs(want).max()


def test_a_file_for_another_image_size_has_its_positions_resized(tmp_path):
    arrays = random_arrays()
    name = "Transformer/posembed_input/pos_embedding"
    arrays[name] = np.ones((1, 1 + 7 * 7, WIDTH), np.float32)
    np.savez(tmp_path / "B_8.npz", **arrays)
    found = initialize.initial_values(tmp_path / "B_8.npz", model())
    assert found.resized == ("params/backbone/embeddings/position_embeddings",)
    where = tuple(found.resized[0].split("/"))
    np.testing.assert_allclose(found.values[where], np.ones((1, 17, WIDTH)), rtol=1e-6)


def test_a_file_of_a_smaller_vit_is_another_encoder(tmp_path):
    arrays = {k: v for k, v in random_arrays().items() if "encoderblock_2" not in k}
    np.savez(tmp_path / "Ti_8.npz", **arrays)
    with pytest.raises(WeightsError, match=r"Ti_8\.npz is not this encoder \(16 of"):
        initialize.initial_values(tmp_path / "Ti_8.npz", model())


# --- What is not such a file ---------------------------------------------------------------------


def test_keys_of_other_networks_are_all_named(tmp_path):
    hybrid = {"conv_root/kernel": np.zeros(1), "gn_root/scale": np.zeros(1)}
    np.savez(tmp_path / "R50.npz", **random_arrays(), **hybrid)
    with pytest.raises(WeightsError) as error:
        read_augreg(tmp_path / "R50.npz")
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/R50.npz is not a plain ViT of vision_transformer")
    assert message.endswith(":\n  conv_root/kernel\n  gn_root/scale")


class Bomb:
    """Unpickling it makes a directory."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


def test_pickled_objects_are_never_read(tmp_path):
    arrays = random_arrays()
    arrays["cls"] = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(WeightsError, match=r"bad\.npz: cls cannot be read: .*allow_pickle=False"):
        initialize.initial_values(tmp_path / "bad.npz", model())
    # A bare pickle, which np.load recognises as such.
    import pickle

    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(WeightsError, match=r"pickle\.npz is not a \.npz of arrays"):
        read_augreg(tmp_path / "pickle.npz")
    assert not (tmp_path / "exploded").exists()


def read_all(path):
    return {name: fetch() for name, fetch in read_augreg(path).items()}


def test_other_kinds_of_files_are_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(path)
    with pytest.raises(WeightsError, match=r"other\.npz is not a \.npz of arrays"):
        read_augreg(path)
    for contents in (b"", b"PK\x03\x04", b"x" * 1000):
        path.write_bytes(contents)
        with pytest.raises(WeightsError, match=r"other\.npz is not a \.npz of arrays"):
            read_augreg(path)
    for name, contents in (("cls", b"text"), ("cls.npy", b"not an array")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, contents)
        with pytest.raises(WeightsError, match=r"other\.npz: cls cannot be read: "):
            read_all(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 1, WIDTH), np.int32), "an array of int32, not of floats"),
        (np.zeros((1, 1, WIDTH), "V2"), "not of floats"),  # as bfloat16 is stored
        (np.zeros((PATCH, WIDTH), np.float32), "axes"),
    ],
)
def test_arrays_of_another_kind_are_refused(array, message, tmp_path):
    np.savez(tmp_path / "bad.npz", **{"embedding/kernel": array})
    with pytest.raises(WeightsError, match=rf"bad\.npz: embedding/kernel cannot.*{message}"):
        read_all(tmp_path / "bad.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_is_an_error_or_changes_nothing(save, tmp_path):
    path = tmp_path / "damaged.npz"
    arrays = {"cls": random_arrays()["cls"], "embedding/bias": np.ones(WIDTH, np.float32)}
    save(path, **arrays)
    whole, contents = read_all(path), path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(300):
        damaged = bytearray(contents)
        if i % 3:
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        else:
            damaged = damaged[: rng.integers(len(damaged))]
        path.write_bytes(damaged)
        try:
            found = read_all(path)
        except WeightsError as error:
            assert str(path) in str(error)
            refused += 1
        else:  # a time stamp
            assert found.keys() == whole.keys()
            assert all(np.array_equal(found[name], whole[name]) for name in whole)
    assert refused > 200
