# SPDX-License-Identifier: Apache-2.0
"""From an image to the pixels a checkpoint was trained on, and from its output to the image's size.

NumPy and Pillow only: what happens to one image before and after the network, on the host.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from dpt_jax.predict import kernels, preprocessor_config
from dpt_jax.predict.geometry import (
    NO_MARGINS,
    Geometry,
    ResizeMethod,
    padding_to_multiple,
    resized_size,
    zoedepth_margins,
)
from dpt_jax.predict.images import MAX_PIXELS, read_image

IGNORED_LABEL = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """What a checkpoint does to images, under the names of transformers' `DPTImageProcessor`.

        processor = ImageProcessor.from_pretrained(directory)
        pixels, geometry = processor("room.jpg")
        depth = model.apply(variables, pixels[None], train=False).depth[0]
        depth = processor.depth_to_source(depth, geometry)

    The order is: margins (`pad_mode="reflect"`), resize, rescale, normalise, padding
    (`pad_mode="constant"`). The defaults are `DPTImageProcessor`'s.

    Attributes:
        image_processor_type: transformers' class of which `from_dict` took the defaults, and of
            which `to_dict` writes the settings. Changes nothing by itself.
        do_resize: whether to resize, to `output_size`.
        size: (height, width).
        resample: kernel of the resize, one of `kernels.IMAGE_KERNELS`.
        keep_aspect_ratio: see `geometry.resized_size`.
        ensure_multiple_of: see `geometry.resized_size`.
        resize_method: see `geometry.resized_size`.
        do_rescale: whether to multiply levels of 0..255 by `rescale_factor`.
        rescale_factor: usually 1/255.
        do_normalize: whether to subtract `image_mean` and divide by `image_std`.
        image_mean: of red, green and blue, as they are after the rescaling.
        image_std: likewise.
        do_pad: whether to pad.
        size_divisor: with "constant", sides are padded to multiples of this.
        pad_mode: "constant": to multiples of `size_divisor`, around the image, with zeros (that is,
            the mean colour) after normalising; or "reflect": ZoeDepth's margins, 3 sqrt(side / 2)
            mirrored pixels on each side, before the resize.
        do_reduce_labels: whether label 0 of `segmentation_map` is "none" and the classes begin at
            1, as in ADE20K's files.
        depth_resample: kernel of `depth_to_source`, one of `kernels.MAP_KERNELS`.
        crop_padding: whether maps lose the share that belongs to margins and padding on their way
            back. If not, as transformers does with "constant", the whole map is stretched over the
            image, which shifts it by up to `size_divisor` / 2 pixels near the borders. That is the
            default because dpt-dinov2 was trained so: its loss stretched the maps of padded
            features over the unpadded ground truth. ZoeDepth crops.
        prompt_scale_to_meter: unit of Prompt Depth Anything's prompts in metres.
    """

    image_processor_type: str = "DPTImageProcessor"
    do_resize: bool = True
    size: tuple[int, int] = (384, 384)
    resample: str = "pillow_bicubic"
    keep_aspect_ratio: bool = False
    ensure_multiple_of: float = 1
    resize_method: ResizeMethod = "minimal"
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    do_pad: bool = False
    size_divisor: int | None = None
    pad_mode: Literal["constant", "reflect"] = "constant"
    do_reduce_labels: bool = False
    depth_resample: str = "torch_bicubic"
    crop_padding: bool = False
    prompt_scale_to_meter: float = 0.001

    def __post_init__(self):
        for name, kind, count in (
            ("size", int, 2),
            ("image_mean", float, 3),
            ("image_std", float, 3),
            ("ensure_multiple_of", float, 1),
            ("rescale_factor", float, 1),
            ("size_divisor", int, 1),
            ("prompt_scale_to_meter", float, 1),
        ):
            value = getattr(self, name)
            if count > 1 and isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
            if not (value is None and name == "size_divisor"):
                _check_numbers(name, value, kind, count)
        for name, choices in (
            ("image_processor_type", tuple(preprocessor_config.FAMILIES)),
            ("resample", kernels.IMAGE_KERNELS),
            ("resize_method", ("minimal", "lower_bound", "upper_bound")),
            ("pad_mode", ("constant", "reflect")),
            ("depth_resample", kernels.MAP_KERNELS),
            *(
                (field.name, (True, False))
                for field in dataclasses.fields(self)
                if field.type is bool
            ),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: expected one of {', '.join(map(str, choices))}; got "
                    f"{getattr(self, name)!r}"
                )
        if self.do_pad and self.pad_mode == "constant" and self.size_divisor is None:
            raise ValueError("do_pad: needs size_divisor, the multiple to pad to")

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """The processor that a `preprocessor_config.json` describes.

        Args:
            config: its contents: `DPTImageProcessor`'s (also as DPTFeatureExtractor, ...Fast or
                ...Pil, and with older spellings), ZoeDepth's, Prompt Depth Anything's,
                TIPSv2-DPT's or CHMv2's; or `to_dict`'s. What is absent or null has that class's
                default; null is refused where transformers would do something else.

        Returns:
            What the class with these settings does. For `DPTImageProcessor` and Prompt Depth
            Anything that is their Pillow version, bit by bit; transformers' torchvision version
            differs from it by one level in few pixels.

        Raises:
            ValueError: a key or a class that is not known, or a value that cannot be.
        """
        return cls(**preprocessor_config.to_fields(config))

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """The processor of a Hugging Face directory, from its `preprocessor_config.json`.

        Raises:
            FileNotFoundError: the directory has no such file.
            ValueError: the file is not what `from_dict` expects; the message names it.
        """
        return cls(**preprocessor_config.read(Path(path).expanduser()))

    def to_dict(self) -> dict[str, Any]:
        """The contents of a `preprocessor_config.json`, for transformers and for `from_dict`.

        What transformers has no word for (an OpenCV kernel, "lower_bound") stands under the key
        "dpt_jax", which it carries along but does not heed; "resample" then has what comes nearest.
        """
        plain = self.from_dict({"image_processor_type": self.image_processor_type})
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed = [name for name, value in fields.items() if value != getattr(plain, name)]
        return preprocessor_config.from_fields(fields, changed)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) to which the resize brings an image: the size rule alone."""
        return resized_size(
            (height, width),
            self.size,
            keep_aspect_ratio=self.keep_aspect_ratio,
            multiple=self.ensure_multiple_of,
            method=self.resize_method,
        )

    def geometry(self, height: int, width: int) -> Geometry:
        """The way of an image of this size into the network.

        Raises:
            ValueError: the network would see more pixels than `images.MAX_PIXELS`, as of a long
                strip that "lower_bound" enlarges.
        """
        margins = padding = NO_MARGINS
        if self.do_pad and self.pad_mode == "reflect":
            margins = zoedepth_margins((height, width))
        resized = (height + sum(margins[0]), width + sum(margins[1]))
        if self.do_resize:
            resized = self.output_size(*resized)
        if self.do_pad and self.pad_mode == "constant":
            assert self.size_divisor is not None
            padding = padding_to_multiple(resized, self.size_divisor)
        result = Geometry((height, width), margins, resized, padding)
        if math.prod(result.network) > MAX_PIXELS:
            raise ValueError(
                f"an image of {height} x {width} would become {result.network[0]} x "
                f"{result.network[1]} for the network; crop it, or change size or resize_method"
            )
        return result

    def __call__(self, image: Any) -> tuple[np.ndarray, Geometry]:
        """The pixels of one image.

        Args:
            image: a path, a PIL image or an array; see `images.read_image`. White is 255 in uint8,
                1 in floats, and means the same whatever `do_rescale` says. (transformers rescales
                floats again unless told not to.)

        Returns:
            (pixels, geometry): float32 `h w 3`, and what leads back.
        """
        levels = read_image(image)
        if levels.dtype != np.uint8:
            levels = levels * np.float32(255)
        geometry = self.geometry(*levels.shape[:2])
        if geometry.margins != NO_MARGINS:
            levels = np.pad(levels, (*geometry.margins, (0, 0)), mode="reflect")
        if self.do_resize:
            levels = kernels.resize_image(levels, geometry.resized, self.resample)
        pixels = self._normalized(levels)
        if geometry.padding != NO_MARGINS:
            pixels = np.pad(pixels, (*geometry.padding, (0, 0)))
        return pixels, geometry

    def depth_to_source(
        self, depth: Any, geometry: Geometry, *, keep_overshoot: bool = False
    ) -> np.ndarray:
        """A depth map at the size of its image.

        Args:
            depth: `h' w'`, the network's output for one image, of any unit.
            geometry: the image's geometry.
            keep_overshoot: bicubic resizing overshoots, and makes negative values of a map that has
                none. They are set to 0, unless this is true: transformers and isl-org leave them.

        Returns:
            float32 `height width`. With `keep_overshoot`, and `crop_padding` as the class has it,
            this is transformers' `post_process_depth_estimation` to the size of the image.
        """
        depth = np.asarray(depth, np.float32)
        if depth.ndim != 2 or depth.size == 0:
            raise ValueError(f"depth: expected one map (height, width), got {depth.shape}")
        windows = geometry.windows() if self.crop_padding else None
        result = kernels.resize_map(depth, geometry.source, self.depth_resample, windows)
        if not keep_overshoot and depth.min() >= 0:
            np.maximum(result, 0, out=result)
        return result

    def labels_to_source(self, logits: Any, geometry: Geometry) -> np.ndarray:
        """The classes at the size of the image: logits resized bilinearly, then the largest.

        Args:
            logits: `h' w' k`, the network's output for one image, of at most 255 classes.
            geometry: the image's geometry.

        Returns:
            uint8 `height width`, ids of 0..k-1: `post_process_semantic_segmentation` of
            transformers. 255 remains free for "none".
        """
        logits = np.asarray(logits, np.float32)
        if logits.ndim != 3 or logits.size == 0 or logits.shape[-1] > IGNORED_LABEL:
            raise ValueError(
                "logits: expected (height, width, classes) with at most 255 classes, got "
                f"{logits.shape}"
            )
        windows = geometry.windows() if self.crop_padding else None
        return kernels.argmax_of_map(logits, geometry.source, windows)

    def segmentation_map(self, labels: Any) -> np.ndarray:
        """Ground truth, resized and padded as the pixels of its image.

        Args:
            labels: `height width` of class ids, an array of integers or a PIL image of one channel.
                It is not changed.

        Returns:
            The ids at the size the network sees, with the type of `labels`. With `do_reduce_labels`
            0 becomes 255, 255 stays and all others are one less. Unlike transformers, which resizes
            labels with the image's kernel and so invents classes between neighbours, and which pads
            with class 0, this takes the nearest id and pads with 255.
        """
        ids = np.asarray(labels)
        if ids.ndim != 2 or ids.size == 0:
            raise ValueError(f"labels: expected (height, width), got {ids.shape}")
        if not np.issubdtype(ids.dtype, np.integer) or np.iinfo(ids.dtype).max < IGNORED_LABEL:
            raise ValueError(f"labels: expected integers that hold 255, got {ids.dtype}")
        if self.do_pad and self.pad_mode == "reflect":
            raise ValueError("labels: with pad_mode 'reflect' there is no segmentation")
        if self.do_reduce_labels:
            none = (ids == 0) | (ids == IGNORED_LABEL)
            ids = np.where(none, IGNORED_LABEL, ids - 1).astype(ids.dtype)
        geometry = self.geometry(*ids.shape)
        if self.do_resize:
            ids = kernels.resize_labels(ids, geometry.resized)
        return np.pad(ids, geometry.padding, constant_values=IGNORED_LABEL)

    def prompt(self, depth: Any) -> np.ndarray:
        """A measured depth map as Prompt Depth Anything wants it.

        Args:
            depth: `h w` in units of `prompt_scale_to_meter`, of any size.

        Returns:
            float32 `h w 1` in metres. A constant map has 1e-6 added to its first row, as in
            transformers, because the network divides by the range.
        """
        metres = np.asarray(depth) * self.prompt_scale_to_meter
        if metres.ndim != 2 or metres.size == 0:
            raise ValueError(f"depth: expected one map (height, width), got {metres.shape}")
        if metres.min() == metres.max():
            metres[0] += 1e-6
        return metres.astype(np.float32)[..., None]

    def _normalized(self, levels: np.ndarray) -> np.ndarray:
        if levels.dtype != np.uint8:
            return self._normalized_levels(levels)
        table = self._normalized_levels(np.arange(256, dtype=np.float32)[:, None])
        table = np.broadcast_to(table, (256, 3))
        return np.stack([table[:, c][levels[..., c]] for c in range(3)], axis=-1)

    def _normalized_levels(self, levels: np.ndarray) -> np.ndarray:
        """In the precisions of transformers: factors in float64, the rest in float32."""
        pixels = levels
        if self.do_rescale:
            pixels = (pixels.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.do_normalize:
            pixels = (pixels - np.array(self.image_mean, np.float32)) / np.array(
                self.image_std, np.float32
            )
        return pixels


def _check_numbers(name: str, value: Any, kind: type, count: int) -> None:
    values = value if isinstance(value, (list, tuple)) else (value,)
    kinds = (int,) if kind is int else (int, float)
    least = -math.inf if name == "image_mean" else 0
    if len(values) != count or not all(type(v) in kinds and least < v < math.inf for v in values):
        raise ValueError(
            f"{name}: expected {count} of {kind.__name__}"
            f"{'' if name == 'image_mean' else ', above 0'}; got {value!r}"
        )
