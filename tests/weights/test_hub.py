# SPDX-License-Identifier: Apache-2.0
"""Names of the Hub need a revision; everything else is a path. Nothing here has a network."""

import inspect
import sys
import types
from pathlib import Path

import pytest

from dpt_jax import load_pretrained
from dpt_jax.weights import hub
from dpt_jax.weights.errors import WeightsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it fails


@pytest.mark.parametrize(
    "path", ["a/b", "/a/b", "a@b", "./hf/a", "a.pt", Path("a/b"), "https://a/b"]
)
def test_a_path_stays_as_it_is(path, no_hub):
    assert hub.local_path(path) == Path(path)


def test_the_home_directory_is_understood(no_hub, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert hub.local_path("~/a") == Path("/somewhere/a")


@pytest.mark.parametrize(
    "name",
    [
        "hf://owner/name",
        "hf://owner/name@",
        "hf://owner/name@main",
        "hf://owner/name@v1.0",
        "hf://owner/name@refs/pr/3",
        f"hf://owner@{COMMIT}",
        f"hf://@{COMMIT}",
        "hf://",
        "hf:/owner/name@main",
        f"hf://owner/name/more@{COMMIT}",
        f"hf://owner/name@0123456789abcdef0123456789abcdef01234567@{COMMIT}",
        f"hf://owner/name@{COMMIT}\n",
        f"hf://owner/../name@{COMMIT}",
        Path(f"hf://owner/name@{COMMIT}"),  # loses a slash
    ],
)
def test_a_name_without_a_revision_or_of_another_form_is_refused(name, no_hub):
    with pytest.raises(WeightsError, match=r"expected hf://owner/name@revision"):
        hub.local_path(name)


def test_without_huggingface_hub_the_message_says_what_to_install(no_hub):
    with pytest.raises(WeightsError, match=r"hf://a/b@\w+ needs .*pip install .*\[hub\].*download"):
        hub.local_path(f"hf://a/b@{COMMIT}")


def test_a_name_is_downloaded_at_its_revision_and_without_pickles(monkeypatch, tmp_path):
    calls = []

    def snapshot_download(*arguments, **options):
        calls.append((arguments, options))
        return str(tmp_path)

    module = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    assert hub.local_path(f"hf://depth-anything/V2_Small.hf@{COMMIT}") == tmp_path
    ((arguments, options),) = calls
    assert arguments == ("depth-anything/V2_Small.hf",)
    patterns = options.pop("allow_patterns")
    assert options == {"revision": COMMIT}
    assert sorted(patterns) == [
        "*.safetensors",
        "*.safetensors.index.json",
        "config.json",
        "preprocessor_config.json",
    ]


def test_what_was_downloaded_is_opened(monkeypatch, tmp_path):
    module = types.SimpleNamespace(snapshot_download=lambda *_, **__: str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} holds no weights"):
        load_pretrained(f"hf://a/b@{COMMIT}")


def test_the_real_function_takes_these_arguments():
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="an optional dependency")
    parameters = inspect.signature(huggingface_hub.snapshot_download).parameters
    assert next(iter(parameters)) == "repo_id"
    assert {"revision", "allow_patterns"} <= parameters.keys()
