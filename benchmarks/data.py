# SPDX-License-Identifier: Apache-2.0
"""How fast examples are decoded, augmented and batched: `python benchmarks/data.py [CASE ...]`.

For the recipes mmseg_ade20k, dpt_ade20k (with Pillow's kernel, its own, and with OpenCV's) and
bts_nyu, side by side and interleaved in one run: this package (with OpenCV and without it), and the
same steps as torch code usually writes them, through Pillow and through OpenCV
(`benchmarks/data_baselines.py`), in a torch DataLoader. Prints, per example, the thread CPU time of
each stage in milliseconds (median over rounds), and images per second with two threads against two
worker processes. Files are in memory: the samples of `../shared/data`, where they are, otherwise
noise over gradients. Needs OpenCV and torch.
"""

import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import data_baselines as baselines
from dpt_jax.data import kernels, pipeline
from dpt_jax.data.sources import decode
from dpt_jax.data.transforms import (
    ColorJitter,
    PhotoMetricDistortion,
    build_augmentations,
)

ROOT = Path(__file__).parents[1]
STAGES: tuple[str, ...] = ("decode", "geometry", "photometric", "stack")
BATCH, WORKERS, ROUNDS, PER_ROUND = 8, 2, 7, 8
LENGTH = 20_210  # of ADE20K; grain shuffles a handful of examples slowly
Files = list[tuple[bytes, bytes]]
# Our settings, the target, and the baselines through Pillow and through OpenCV.
CASES: dict[str, tuple[dict[str, str], str, Callable[[], Any], Callable[[], Any]]] = {
    "mmseg_ade20k": (
        {"recipe": "mmseg_ade20k"},
        "label",
        lambda: baselines.PillowSegmentation(True),
        lambda: baselines.OpenCVSegmentation(True),
    ),
    "dpt_ade20k": (
        {"recipe": "dpt_ade20k"},
        "label",
        lambda: baselines.PillowSegmentation(False),
        lambda: baselines.OpenCVSegmentation(False),
    ),
    # OpenCV has no antialiased kernel, so this is what its baseline is to be compared with.
    "dpt_ade20k_opencv": (
        {"recipe": "dpt_ade20k", "kernel": "opencv_linear"},
        "label",
        lambda: baselines.PillowSegmentation(False),
        lambda: baselines.OpenCVSegmentation(False),
    ),
    "bts_nyu": ({"recipe": "bts_nyu"}, "depth", baselines.PillowDepth, baselines.OpenCVDepth),
}


class Ours:
    """A source for the stream, and the same in stages for the stopwatch."""

    classes = ()
    palette = np.zeros((0, 3), np.uint8)

    def __init__(self, files: Files, augment: dict[str, str], target: str):
        self.files, self.target = files, target
        self.steps = build_augmentations(augment)

    def __len__(self) -> int:
        return LENGTH

    def name(self, index: int) -> str:
        return str(index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, target = self.files[index % len(self.files)]
        if self.target == "label":
            # 0 is "other" in ADE20K; as a byte, 0 - 1 is 255.
            found = decode.ids(target, "label") - np.uint8(1)
        else:
            found = decode.depth(target, "depth", 0.001)
        return {"image": decode.rgb(image, "image"), self.target: found}

    def stages(self, index: int, rng: np.random.Generator, clock: "Clock") -> Any:
        with clock("decode"):
            example = self[index]
        for step in self.steps:
            colour = isinstance(step, PhotoMetricDistortion | ColorJitter)
            with clock("photometric" if colour else "geometry"):
                example = step(example, rng)
        return example

    def stack(self, examples: list[Any]) -> Any:
        return {key: np.stack([example[key] for example in examples]) for key in examples[0]}

    def batches(self) -> Iterator[Any]:
        return pipeline.train_stream(
            self,
            self.steps,
            target=self.target,
            seed=0,
            start_step=0,
            batch_size=BATCH,
            threads=WORKERS,
        )


class OursWithoutOpenCV(Ours):
    """The same without the extra `fast`."""

    def stages(self, index: int, rng: np.random.Generator, clock: "Clock") -> Any:
        found, kernels.cv2, decode.cv2 = kernels.cv2, None, None
        try:
            return super().stages(index, rng, clock)
        finally:
            kernels.cv2 = decode.cv2 = found


class Theirs(torch.utils.data.Dataset):
    """A baseline as a dataset of torch."""

    def __init__(self, files: Files, baseline: Any):
        self.files, self.baseline = files, baseline

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> Any:
        rng = np.random.default_rng(index)
        return self.baseline.finish(self.stages(index, rng, Clock()))

    def stages(self, index: int, rng: np.random.Generator, clock: "Clock") -> Any:
        with clock("decode"):
            sample = self.baseline.decode(*self.files[index % len(self.files)])
        with clock("geometry"):
            sample = self.baseline.geometry(sample, rng)
        with clock("photometric"):
            return self.baseline.photometric(sample, rng)

    def stack(self, samples: list[Any]) -> Any:
        collate = torch.utils.data.default_collate
        return collate([self.baseline.finish(sample) for sample in samples])

    def batches(self) -> Iterator[Any]:
        loader = torch.utils.data.DataLoader(
            self, BATCH, num_workers=WORKERS, multiprocessing_context="spawn"
        )
        return iter(loader)


class Clock:
    """Adds up the CPU time of this thread, in seconds, under the name of a stage."""

    def __init__(self):
        self.seconds = {stage: 0.0 for stage in STAGES}

    def __call__(self, stage: str) -> "Clock":
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._start = time.thread_time()

    def __exit__(self, *_: Any) -> None:
        self.seconds[self._stage] += time.thread_time() - self._start


def cpu_times(loaders: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Milliseconds per example and stage: medians over rounds that take the loaders in turn."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in loaders}
    for number in range(ROUNDS + 1):
        for name, loader in loaders.items():
            clock = Clock()
            # The first draw of each example is its scale, or its angle, for all of them.
            examples = [
                loader.stages(i, np.random.default_rng((number, i)), clock)
                for i in range(PER_ROUND)
            ]
            with clock("stack"):
                loader.stack(examples)
            if number:  # the first round warms up
                rounds[name].append(clock.seconds)
    return {
        name: {
            stage: 1e3 * statistics.median(r[stage] for r in found) / PER_ROUND
            for stage in found[0]
        }
        for name, found in rounds.items()
    }


def throughput(loaders: dict[str, Any], batches: int = 8, rounds: int = 3) -> dict[str, float]:
    """Images per second, medians over rounds that take the running loaders in turn."""
    streams = {name: loader.batches() for name, loader in loaders.items()}
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, stream in streams.items():
            for _ in range(2 * WORKERS + 2):  # what was made while the others had their turn
                next(stream)
            start = time.perf_counter()
            for _ in range(batches):
                next(stream)
            rates[name].append(batches * BATCH / (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in rates.items()}


def files_for(target: str) -> tuple[Files, str]:
    """Encoded image and target, real ones if there are any, and where they are from."""
    shared = ROOT.parent / "shared/data"
    if target == "label":
        pairs = [
            (path, Path(str(path).replace("images", "annotations")).with_suffix(".png"))
            for path in sorted(shared.glob("ade20k_sample/*/images/training/*.jpg"))
        ]
        size, target_type = (512, 683), np.uint8
    else:
        pairs = [
            (path, path.with_name(path.name.replace("rgb", "sync_depth")).with_suffix(".png"))
            for path in sorted(shared.glob("nyuv2_sample/**/rgb_*.jpg"))
        ]
        size, target_type = (480, 640), np.uint16
    if pairs:
        return [(image.read_bytes(), target.read_bytes()) for image, target in pairs], "samples"
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.stack([x / 3, y / 3, (x + y) / 5], -1) + rng.normal(0, 8, (*size, 3))
    found = (
        (x // 90 + 8 * (y // 90))
        if target == "label"
        else 1500 + 3 * x + rng.integers(9, size=size)
    )
    encoded = []
    for array, form in ((np.clip(image, 0, 255).astype(np.uint8), "JPEG"), (found, "PNG")):
        buffer = io.BytesIO()
        Image.fromarray(array.astype(target_type) if form == "PNG" else array).save(buffer, form)
        encoded.append(buffer.getvalue())
    return [tuple(encoded)], "synthetic"


def main(recipes: list[str]) -> None:
    """Prints one table per recipe."""
    torch.set_num_threads(1)
    for recipe in recipes or list(CASES):
        augment, target, pillow, opencv = CASES[recipe]
        files, origin = files_for(target)
        loaders = {
            "ours": Ours(files, augment, target),
            "ours without OpenCV": OursWithoutOpenCV(files, augment, target),
            "torch, Pillow": Theirs(files, pillow()),
            "torch, OpenCV": Theirs(files, opencv()),
        }
        times = cpu_times(loaders)
        rates = throughput({k: v for k, v in loaders.items() if "without" not in k})
        print(
            f"\n{recipe} ({origin}): CPU ms per example; images/s of {WORKERS} threads, processes"
        )
        print(
            f"{'':20s}{''.join(f'{s:>12s}' for s in times['ours'])}       total   x ours  images/s"
        )
        total = sum(times["ours"].values())
        for name, stages in times.items():
            cells = "".join(f"{ms:12.2f}" for ms in stages.values())
            own = sum(stages.values())
            rate = f"{rates[name]:10.0f}" if name in rates else ""
            print(f"{name:20s}{cells}{own:12.2f}{own / total:9.2f}{rate}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
