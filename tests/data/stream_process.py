# SPDX-License-Identifier: Apache-2.0
"""`python stream_process.py JSON`: one process of a run, as test_pipeline_processes.py starts it.

JSON is a list of streams, one after the other: options of `train_stream`, `bad`, `excluded` and
`limit` of the examples, and how many `steps` to take. Prints a line of JSON per step: its number
and a digest per example; and a last line per stream with the error that ended it and the ids of the
worker processes. Before the steps of `pause` it waits for a line of input.
"""

import hashlib
import json
import multiprocessing
import os
import sys

import numpy as np

from dpt_jax.data.pipeline import train_stream
from dpt_jax.data.quarantine import Readable
from dpt_jax.data.sources import DatasetError
from dpt_jax.data.transforms import Crop, Flip, PhotoMetricDistortion

STEPS = (Crop(8, 9), Flip(0.5), PhotoMetricDistortion())
KEPT = []  # errors live to the end, as the one does that ends a program


class Pictures:
    """Random pictures; `bad` ones cannot be read. Appends a byte to a file for each one read."""

    classes = ()
    palette = np.zeros((0, 3), np.uint8)

    def __init__(self, bad=(), count_in=None):
        self.bad, self.count_in = bad, count_in

    def __len__(self):
        return 17

    def __getitem__(self, index):
        if self.count_in:
            with open(self.count_in, "ab", buffering=0) as file:
                file.write(b".")
        if index in self.bad:
            raise DatasetError(f"damaged: {self.name(index)}")
        rng = np.random.default_rng(int(index))
        image, label = rng.integers(0, 256, (12, 16, 3)), rng.integers(0, 9, (12, 16))
        return {"image": image.astype(np.uint8), "label": label.astype(np.uint8)}

    def name(self, index):
        return f"folder/{index}.png"


def digests(batch):
    """One for each example, of all its arrays."""
    keys = sorted(batch)
    return [
        hashlib.sha256(b"".join(f"{k}{batch[k][i].dtype}".encode() + batch[k][i].tobytes()
                                for k in keys)).hexdigest()
        for i in range(len(batch["image"]))
    ]  # fmt: skip


def run(steps, bad=(), excluded=(), limit=0, pause=(), count_in=None, start_step=0, **options):
    """Yields what is to be printed."""
    source = Readable(Pictures(set(bad), count_in), excluded=set(excluded), limit=limit)
    options = {"target": "label", "seed": 3, "batch_size": 8} | options
    error, workers = None, []
    with train_stream(source, STEPS, start_step=start_step, **options) as stream:
        for step in range(start_step, start_step + steps):
            if step in pause:
                sys.stdin.readline()
            try:
                batch = next(stream)
            except DatasetError as caught:
                error = str(caught)
                KEPT.append(caught)
                break
            workers = [process.pid for process in multiprocessing.active_children()]
            yield {"step": step, "digests": digests(batch), "workers": workers}
    left = [process.pid for process in multiprocessing.active_children()]
    yield {"error": error, "left": left, "pid": os.getpid()}


if __name__ == "__main__":
    for stream in json.loads(sys.argv[1]):
        for line in run(**stream):
            print(json.dumps(line), flush=True)
