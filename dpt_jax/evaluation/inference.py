# SPDX-License-Identifier: Apache-2.0
"""From bytes to predictions at the target's size, in few compiled programs.

Images of one input size share a program whatever the size of their targets: the resize to the
target is a pair of matrices that are arguments, padded to a multiple of `BUCKET`, not part of the
program. Logits are resized and reduced to class ids on the device, a strip of rows at a time, so
that neither 150 full-size maps nor a float per class ever leaves it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from dpt_jax.models import resize
from dpt_jax.models.dpt import DPT

BUCKET = 64

Example = Mapping[str, Any]


def normalize(
    image: UInt8[Array, "b h w 3"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "b h w 3"]:
    """(image / 255 - mean) / std, float32, on the device."""
    pixels = image.astype(jnp.float32) / 255
    return (pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


Predict = Callable[[Any, Array, Array, Array], Array]


def make_predict(
    model: DPT, mean: Sequence[float], std: Sequence[float], sharding: Any = None
) -> Predict:
    """A jitted predict(variables, images, rows, columns).

    Args:
        model: depth or segmentation.
        mean: of the pixels in 0..1 that the model was trained with.
        std: likewise.
        sharding: of the batch axis of images and matrices; None on one device.

    Returns:
        A function of the variables, uint8 images (b, h, w, 3), and the matrices rows (b, H, h') and
        columns (b, W, w') of the resize of each output, to depth float32 (b, H, W) in the model's
        unit or class ids uint8 (b, H, W).
    """

    def predict(variables: Any, images: Array, rows: Array, columns: Array) -> Array:
        output: Any = model.apply(variables, normalize(images, mean, std), train=False)
        b, height, _ = rows.shape
        strips = rows.reshape(b, height // BUCKET, BUCKET, -1).swapaxes(0, 1)

        def resized(maps: Array, strip: Array) -> Array:
            wide = jnp.einsum("bRh,bhwk->bRwk", strip, maps, precision="highest")
            return jnp.einsum("bCw,bRwk->bRCk", columns, wide, precision="highest")

        if output.logits is None:
            out = jax.lax.map(lambda s: resized(output.depth[..., None], s)[..., 0], strips)
        else:
            out = jax.lax.map(
                lambda s: jnp.argmax(resized(output.logits, s), axis=-1).astype(jnp.uint8), strips
            )
        return out.swapaxes(0, 1).reshape(b, height, -1)

    if sharding is None:
        return jax.jit(predict)
    return jax.jit(predict, in_shardings=(None, sharding, sharding, sharding))


def batches_by_size(
    examples: Iterable[Example], batch_size: int
) -> Iterator[tuple[list[Example], list[Example]]]:
    """Groups examples of one image size, every example exactly once.

    Yields:
        (examples, padded): between 1 and `batch_size` examples, and the same list filled up to
        `batch_size` by repeating the first; what is predicted for the fillers is to be dropped.
    """
    waiting: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        group = waiting.setdefault(example["image"].shape, [])
        group.append(example)
        if len(group) == batch_size:
            yield group, group
            waiting[example["image"].shape] = []
    for group in waiting.values():
        if group:
            yield group, group + [group[0]] * (batch_size - len(group))


def predict_examples(
    predict: Predict,
    variables: Any,
    model: DPT,
    examples: Iterable[Example],
    *,
    batch_size: int,
    place: Callable[[dict[str, np.ndarray]], dict[str, Any]] = lambda batch: batch,
) -> Iterator[tuple[Example, np.ndarray]]:
    """Predictions at the size of each example's `source_image`.

    Args:
        predict: from `make_predict`.
        variables: of the model.
        model: the model.
        examples: with `image` uint8 as the network sees it and `source_image` at the output's size.
        batch_size: a multiple of the number of devices.
        place: puts a batch on the devices, such as `functools.partial(shard_batch, mesh)`.

    Yields:
        (example, prediction) in the order of completion: float32 depth or uint8 class ids, (h, w).
    """
    shapes: dict[tuple[int, ...], tuple[int, int]] = {}
    for group, padded in batches_by_size(examples, batch_size):
        images = np.stack([example["image"] for example in padded])
        if images.shape[1:] not in shapes:
            pixels = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
            output = jax.eval_shape(lambda v, x: model.apply(v, x), variables, pixels)
            maps = output.depth if output.logits is None else output.logits
            shapes[images.shape[1:]] = maps.shape[1:3]
        h, w = shapes[images.shape[1:]]
        sizes = [example["source_image"].shape[:2] for example in padded]
        rows = _matrices(h, [size[0] for size in sizes])
        columns = _matrices(w, [size[1] for size in sizes])
        placed = place({"image": images, "rows": rows, "columns": columns})
        out = np.asarray(predict(variables, placed["image"], placed["rows"], placed["columns"]))
        for i, example in enumerate(group):
            yield example, out[i, : sizes[i][0], : sizes[i][1]]


def _matrices(in_size: int, out_sizes: Sequence[int]) -> np.ndarray:
    padded = -(-max(out_sizes) // BUCKET) * BUCKET
    matrices = np.zeros((len(out_sizes), padded, in_size), np.float32)
    for i, size in enumerate(out_sizes):
        matrices[i, :size] = resize.resize_matrix(in_size, size)
    return matrices
