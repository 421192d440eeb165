# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, who owns which heavy dependency, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dpt_jax"

MAY_IMPORT = {
    "models": set(),
    "data": set(),
    "weights": {"models"},
    "evaluation": {"models"},
    "training": {"models", "data", "evaluation", "weights"},
    "predict": {"models", "weights", "data", "evaluation", "training"},
}
OWNERS = {
    "cv2": {"data/kernels.py", "data/sources/decode.py"},
    "grain": {"data/pipeline.py"},
    "h5py": {"data/sources/nyuv2_mat.py", "data/sources/rooms_layouts/depth.py"},
    "orbax": {"training/checkpoint.py"},
    "tensorboardX": {"training/log.py"},
    "tensorflow_datasets": {
        "data/prepare.py",
        "data/sources/nyuv2_tfds.py",
        "data/sources/prepared.py",
    },
}


def imported(path):
    """Dotted names of everything a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_follow_the_layers(path):
    here = path.relative_to(PACKAGE).as_posix()
    layer = here.split("/")[0]
    for name in imported(path):
        top = name.split(".")[0]
        assert top not in ("tensorflow", "torch", "transformers", "configs"), f"{here}: {name}"
        assert "._src" not in name, f"{here} reaches into the private {name}"
        if top in OWNERS:
            assert here in OWNERS[top], f"{here} imports {name}"
        if top == "dpt_jax" and layer in MAY_IMPORT:
            other = name.split(".")[1]
            assert other == layer or other in MAY_IMPORT[layer], f"{here} imports {name}"
        if layer == "data":
            assert top not in ("jax", "flax"), f"{here} imports {name}: workers must not start jax"


def test_configs_are_plain_data():
    for path in (ROOT / "configs").glob("*.py"):
        tops = {name.split(".")[0] for name in imported(path)}
        assert tops <= {"ml_collections", "configs"}, path


def test_files_fit_in_one_head():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 400, path


def test_importing_needs_neither_tensorflow_nor_torch():
    # tensorboardX takes torch where it is installed; the log must not let it.
    code = (
        "import sys, pathlib, tempfile, dpt_jax, dpt_jax.training.log as log;"
        "log.RunLog(pathlib.Path(tempfile.mkdtemp()), 0);"
        "print([m for m in ('tensorflow', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
