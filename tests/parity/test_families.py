# SPDX-License-Identifier: Apache-2.0
"""Every family against transformers: tiny random networks, every tensor of them random."""

import pytest

pytest.importorskip("torch", reason="the reference models are PyTorch ones")
pytest.importorskip("transformers", reason="the reference models are in transformers")

from tests.parity import families, reference, successors

CASES = [
    *families.hybrid_cases(),
    *families.dinov2_cases(),
    *families.beit_cases(),
    *families.swinv2_cases(),
    *successors.depth_anything_cases(),
]


@pytest.fixture(scope="module")
def errors(request):
    """Collects (family, error, case); at the end the terminal shows the worst of each family."""
    found: list[tuple[str, float, str]] = []
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *reference.table(found), sep="\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_predictions_are_those_of_transformers(case, errors):
    error = reference.disagreement(case)
    errors.append((case.family, error, case.name))
    assert error <= reference.TOLERANCE
