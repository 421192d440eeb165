# SPDX-License-Identifier: Apache-2.0
"""`hf://owner/name@revision`: weights of the Hugging Face Hub, downloaded once and cached.

Needs the extra `pip install "dpt_jax[hub]"`. A path on disk never touches the network.
"""

import re
from pathlib import Path

from dpt_jax.weights.errors import WeightsError

_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)@([0-9a-f]{40})")
# Never the pickles that some repositories hold beside their safetensors.
_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")


def local_path(path: str | Path) -> Path:
    """The path itself, or the folder that an `hf://` name was downloaded to.

    Raises:
        WeightsError: an `hf://` name without the hash of a commit (what a branch or a tag names can
            change, and with it every number), or `huggingface_hub` is not installed.
    """
    if not str(path).startswith("hf:/"):
        return Path(path).expanduser()
    match = _NAME.fullmatch(str(path))
    if not match:
        raise WeightsError(
            f"{path}: expected hf://owner/name@revision; the revision is the 40 digits of a "
            "commit, from the model's page (Files and versions > History)"
        )
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise WeightsError(
            f'{path} needs huggingface_hub: pip install "dpt_jax[hub]"; or download the folder and '
            "pass its path"
        ) from error
    return Path(snapshot_download(match[1], revision=match[2], allow_patterns=list(_FILES)))
