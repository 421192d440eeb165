# SPDX-License-Identifier: Apache-2.0
"""How a run's config says that a split is to be scored; shared by the loop and `eval.py`."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax

from dpt_jax.data import pipeline
from dpt_jax.data.quarantine import readable
from dpt_jax.data.sources import Source
from dpt_jax.evaluation import evaluate as evaluation
from dpt_jax.evaluation.baseline import PixelPrior
from dpt_jax.evaluation.inference import make_predict
from dpt_jax.models.dpt import DPT
from dpt_jax.training import sharding
from dpt_jax.training.config import ConfigError


class Evaluate(Protocol):
    """Scores variables of `step` on the first `limit` images (None: all), beside a baseline."""

    def __call__(
        self,
        variables: Any,
        step: int | None,
        limit: int | None,
        baseline: PixelPrior | None = None,
    ) -> evaluation.Evaluation: ...


def target_name(config: Mapping[str, Any]) -> str:
    """The key of the target in examples: "depth" or "label"."""
    return "depth" if config["model"]["head"]["type"] == "depth" else "label"


def make_evaluate(
    config: Mapping[str, Any], model: DPT, mesh: jax.sharding.Mesh, source: Source, split: str
) -> Evaluate:
    """A function that scores variables as `config.eval` says.

    Args:
        config: the whole resolved config.
        model: the model.
        mesh: over whose devices batches are split.
        source: the split's examples.
        split: its name, stored with the numbers.
    """
    check_multiple(config, model)
    batch = jax.NamedSharding(mesh, sharding.BATCH)
    predict = make_predict(model, config["data"]["mean"], config["data"]["std"], batch)

    def evaluate(
        variables: Any,
        step: int | None,
        limit: int | None,
        baseline: PixelPrior | None = None,
    ) -> evaluation.Evaluation:
        return evaluation.evaluate(
            predict,
            variables,
            model,
            _examples(config, source, limit),
            task=config["model"]["head"]["type"],
            batch_size=config["eval"]["batch_size"],
            settings=_settings(config, split) | {"step": step},
            classes=source.classes,
            baseline=baseline,
            place=functools.partial(sharding.shard_batch, mesh),
        )

    return evaluate


def make_baseline(config: Mapping[str, Any], model: DPT, train_source: Source) -> PixelPrior | None:
    """The trivial baseline from the first `config.eval.baseline_images` of training; None for 0.

    They are read as training reads them (see `dpt_jax/data/quarantine.py`).
    """
    count = config["eval"]["baseline_images"]
    if not count:
        return None
    target = target_name(config)
    examples = pipeline.evaluation_examples(
        readable(config["data"], train_source),
        target=target,
        limit=count,
        threads=config["data"]["threads"],
    )
    classes = model.head.num_labels if target == "label" else None  # pyright: ignore
    return PixelPrior(examples, classes)


def check_multiple(config: Mapping[str, Any], model: DPT) -> None:
    """Raises a ConfigError if `config.eval.multiple_of` is no multiple of the model's patches."""
    patch: int = model.backbone.patch_size  # pyright: ignore[reportAttributeAccessIssue]
    if config["eval"]["multiple_of"] % patch:
        raise ConfigError(
            f"config.eval.multiple_of={config['eval']['multiple_of']} must be a multiple of the "
            f"patch size {patch}, or pixels at the border would never be seen"
        )


def check_classes(model: DPT, source: Source) -> None:
    """Raises a ConfigError if a segmentation model has another number of classes than the data."""
    labels = getattr(model.head, "num_labels", None)
    if labels is not None and source.classes and len(source.classes) != labels:
        raise ConfigError(
            f"config.model.head.num_labels={labels}, but the data has {len(source.classes)} classes"
        )


def _examples(
    config: Mapping[str, Any], source: Source, limit: int | None
) -> Iterator[dict[str, Any]]:
    return pipeline.evaluation_examples(
        source,
        target=target_name(config),
        limit=limit,
        size=config["eval"]["size"],
        keep_aspect_ratio=config["eval"]["keep_aspect_ratio"],
        multiple_of=config["eval"]["multiple_of"],
        threads=config["data"]["threads"],
    )


def _settings(config: Mapping[str, Any], split: str) -> dict[str, Any]:
    settings = {
        "source": config["data"]["source"],
        "split": split,
        "dtype": config["model"]["dtype"],
    }
    keys = ["multiple_of"]
    if config["eval"]["size"]:
        keys += ["size", "keep_aspect_ratio"]
    settings |= {key: config["eval"][key] for key in keys} | {"resize": "pillow_bicubic"}
    if target_name(config) == "depth":
        settings |= {key: config["eval"][key] for key in ("min_depth", "max_depth")}
        settings |= {"unit": "metre"}
    return settings
