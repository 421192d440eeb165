# SPDX-License-Identifier: Apache-2.0
"""Whether the training stream holds its memory: `python benchmarks/stream_memory.py [--steps N]`.

Writes 64 pictures of 480 x 640 with depth to a temporary folder, streams augmented batches of 8
from them, without and with worker processes, and prints the highest resident memory of each quarter
of the steps, of this process and its workers together (Linux; shared pages count in both). The
quarters after the first should be alike.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from dpt_jax.data.pipeline import train_stream
from dpt_jax.data.transforms import Crop, Flip

PICTURES, BATCH, CROP = 64, 8, (384, 512)


class Folder:
    """The pictures, as a source."""

    classes = ()
    palette = np.zeros((0, 3), np.uint8)

    def __init__(self, root: str):
        self.root = root

    def __len__(self) -> int:
        return PICTURES

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        with (
            Image.open(f"{self.root}/{index}.jpg") as image,
            Image.open(f"{self.root}/{index}.png") as depth,
        ):
            return {
                "image": np.asarray(image),
                "depth": np.asarray(depth).astype(np.float32) / 1000,
            }

    def name(self, index: int) -> str:
        """The name of the picture."""
        return f"{index}.jpg"


def write_pictures(root: str) -> None:
    """Smooth random pictures, which compress as photographs do."""
    rng = np.random.default_rng(0)
    for index in range(PICTURES):
        small = Image.fromarray(rng.integers(0, 256, (15, 20, 3)).astype(np.uint8))
        image = small.resize((640, 480), Image.Resampling.BICUBIC)
        image.save(f"{root}/{index}.jpg", quality=90)
        depth = np.asarray(image.convert("L")).astype(np.uint16) * 40
        Image.fromarray(depth).save(f"{root}/{index}.png")


def resident(pid: int) -> float:
    """MiB of a process; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(root: str, steps: int, threads: int, workers: int) -> None:
    """Streams, and prints one line."""
    peaks, start = [0.0] * 4, 0.0
    with train_stream(
        Folder(root),
        (Crop(*CROP), Flip(0.5)),
        target="depth",
        seed=0,
        start_step=0,
        batch_size=BATCH,
        threads=threads,
        workers=workers,
    ) as stream:
        for step in range(steps):
            next(stream)
            if not step:
                start = time.perf_counter()
            pids = [os.getpid(), *(p.pid for p in multiprocessing.active_children() if p.pid)]
            quarter = 4 * step // steps
            peaks[quarter] = max(peaks[quarter], sum(map(resident, pids)))
        rate = (steps - 1) * BATCH / (time.perf_counter() - start)
    text = "  ".join(f"{peak:7.0f}" for peak in peaks)
    print(f"threads {threads}, workers {workers}: MiB by quarter {text}   {rate:6.0f} images/s")


def main() -> None:
    """One line per setting."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2000)
    steps = parser.parse_args().steps
    print(f"{steps} batches of {BATCH} x {CROP[0]} x {CROP[1]}, depth, on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as root:
        write_pictures(root)
        for threads, workers in ((2, 0), (0, 2)):
            measure(root, steps, threads, workers)


if __name__ == "__main__":
    main()
