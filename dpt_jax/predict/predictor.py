# SPDX-License-Identifier: Apache-2.0
"""From a picture to its depth or classes in one call."""

from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from dpt_jax.predict.outputs import Prediction
from dpt_jax.predict.pretrained import Pretrained, open_pretrained
from dpt_jax.predict.processor import ImageProcessor
from dpt_jax.weights.errors import WeightsError


class Predictor:
    """A trained network that takes pictures of any size and kind.

        predictor = dpt_jax.Predictor.from_pretrained("path/to/dpt-large")
        prediction = predictor("room.jpg")
        prediction.depth, prediction.kind
        prediction.save("out", "room")

    The network is compiled once for each size of its input, which follows from the picture's.

    Attributes:
        pretrained: the network and what its numbers depend on; its variables are on the device.
        processor: how pictures become its pixels, and its output theirs.
    """

    def __init__(self, pretrained: Pretrained, processor: ImageProcessor | None = None):
        """Args:
        pretrained: from `open_pretrained`.
        processor: instead of the checkpoint's own.
        """
        processor = processor or pretrained.processor
        if processor is None:
            raise WeightsError(
                "the checkpoint has no preprocessor_config.json, which says how images are "
                "prepared: put it beside config.json, or pass `processor` to Predictor"
            )
        if pretrained.model.task == "normals":
            raise WeightsError("a Predictor gives depth or classes; this network predicts normals")
        self.pretrained = pretrained
        self.processor = processor
        # "unused" is what no output depends on.
        used = {k: v for k, v in pretrained.variables.items() if k != "unused"}
        self._variables = jax.device_put(used)
        self._apply = jax.jit(pretrained.model.apply)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: Any = jnp.float32,
        which: str = "best",
        record: str | None = None,
        processor: ImageProcessor | None = None,
    ) -> Self:
        """A predictor from weights of any kind; see `load_pretrained`.

        Args:
            path: as `load_pretrained`.
            dtype: as `load_pretrained`.
            which: as `load_pretrained`.
            record: as `load_pretrained`.
            processor: instead of the checkpoint's own: another input size, for example.

        Raises:
            FileNotFoundError: as `load_pretrained`.
            WeightsError: as `load_pretrained`; or there is neither a `preprocessor_config.json`
                nor a `processor`.
        """
        found = open_pretrained(path, dtype=dtype, which=which, record=record)
        return cls(found, processor)

    def __call__(self, image: Any, prompt_depth: Any = None) -> Prediction:
        """Predicts one picture.

        Args:
            image: a path, a PIL image, or an array; see `images.read_image`.
            prompt_depth: what Prompt Depth Anything completes, and no other network takes: a
                measured depth map `h w` of any size, see `ImageProcessor.prompt`.

        Returns:
            Depth or classes at the picture's own size; of TIPSv2-DPT, which predicts both, depth.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a picture, or one that the network cannot take; the network's output
                is not finite; or `prompt_depth` is missing (without it Prompt Depth Anything's
                depth is not in metres), or given to another network.
        """
        found = self.pretrained
        prompted = found.model.neck.prompt_depth  # pyright: ignore[reportAttributeAccessIssue]
        if prompted != (prompt_depth is not None):
            raise ValueError(
                "this network needs prompt_depth, a measured depth map, beside the image"
                if prompted
                else "prompt_depth: this network takes none; only Prompt Depth Anything does"
            )
        pixels, geometry = self.processor(image)
        prompt = self.processor.prompt(prompt_depth)[None] if prompted else None
        output: Any = self._apply(self._variables, pixels[None], prompt_depth=prompt)
        if output.depth is not None:
            depth = _finite(np.asarray(output.depth[0]), image)
            depth = self.processor.depth_to_source(depth, geometry)
            return Prediction(depth=depth, kind=found.depth)
        logits = _finite(np.asarray(output.logits[0]), image)
        labels = self.processor.labels_to_source(logits, geometry)
        return Prediction(labels=labels, classes=found.labels)


def _finite(values: np.ndarray, image: Any) -> np.ndarray:
    if not np.isfinite(values).all():
        name = image if isinstance(image, str | Path) else "this image"
        raise ValueError(f"{name}: the network's output is not finite; are the weights whole?")
    return values
