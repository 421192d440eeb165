# SPDX-License-Identifier: Apache-2.0
"""transformers saves, we load and save, transformers loads: nothing changes on the way."""

import json
import re

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference models are PyTorch ones")
transformers = pytest.importorskip("transformers", reason="the reference models are in it")

from safetensors.numpy import load_file  # noqa: E402

import dpt_jax  # noqa: E402
from tests.parity import families, reference, successors  # noqa: E402

FAMILIES = {
    "vit, depth": families.vit_cases,
    "vit, segmentation": families.vit_cases,
    "hybrid, depth": families.hybrid_cases,
    "hybrid, segmentation": families.hybrid_cases,
    "DINOv2": families.dinov2_cases,
    "DINOv2, SwiGLU": families.dinov2_cases,
    "BEiT": families.beit_cases,
    "Swinv2": families.swinv2_cases,
    "Depth Anything, relative": successors.depth_anything_cases,
    "Depth Anything, metric": successors.depth_anything_cases,
}
# No prediction reads these. The public files of DINOv2 have a mask token, those of BEiT have
# neither; what we save is like them, whatever `use_mask_token` and `use_mean_pooling` were.
NEVER_READ = r"backbone\.embeddings\.mask_token|backbone\.beit\.layernorm\.(weight|bias)"


def picks(family: str) -> list[families.Case]:
    """The first case of a family, and its first with what the first has not."""
    cases = [case for case in FAMILIES[family]() if case.family == family]
    option = "use_batch_norm_in_fusion_residual"
    other = [case for case in cases if case.config.get(option) != cases[0].config.get(option)]
    return [cases[0], (other or cases[1:])[0]]


@pytest.mark.parametrize(
    "case", [case for family in FAMILIES for case in picks(family)], ids=lambda case: case.name
)
def test_a_directory_of_transformers_is_written_again_bit_for_bit(case, tmp_path):
    hf = reference.reference(case)
    hf.save_pretrained(tmp_path / "theirs")
    model, variables = dpt_jax.load_pretrained(tmp_path / "theirs")
    dpt_jax.save_pretrained(model, variables, tmp_path / "ours")

    want = load_file(tmp_path / "theirs" / "model.safetensors")
    got = load_file(tmp_path / "ours" / "model.safetensors")
    differing = {name for name in got.keys() ^ want.keys() if not re.fullmatch(NEVER_READ, name)}
    assert not differing
    for name in got.keys() & want.keys():
        value = want[name]
        assert got[name].dtype == value.dtype, name
        np.testing.assert_array_equal(got[name], value, err_msg=name)

    architecture = getattr(transformers, case.architecture)
    again, info = architecture.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not info["error_msgs"]
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert written["architectures"] == [case.architecture]
    pixels = reference.images(case)
    expected = reference.reference_output(hf, pixels)
    # Not always to the bit: how torch adds up depends on where in memory a tensor begins.
    found = reference.reference_output(again.eval(), pixels)
    assert reference.relative(found, expected) <= reference.TOLERANCE


@pytest.mark.parametrize("family", ["vit, segmentation", "DINOv2, SwiGLU", "BEiT"])
def test_names_of_memory_and_of_disk_give_the_same_variables(family, tmp_path):
    hf = reference.reference(picks(family)[0])
    hf.save_pretrained(tmp_path)
    model, loaded = dpt_jax.load_pretrained(tmp_path)
    want_model, want = reference.ours(hf)
    assert model == want_model
    assert loaded.keys() == want.keys()
    jax.tree.map(np.testing.assert_array_equal, loaded, want)
