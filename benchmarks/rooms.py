# SPDX-License-Identifier: Apache-2.0
"""How fast `rooms` renders, in images per second of one thread: `python benchmarks/rooms.py`."""

import platform
import time

from dpt_jax.data.sources import Rooms


def main() -> None:
    """Prints one line per size, the best of three windows."""
    print(f"rooms on {platform.processor() or platform.machine()}, one thread")
    for size, count in (((96, 128), 100), ((240, 320), 30), ((480, 640), 10)):
        rooms = Rooms(split="train", size=size, length=3 * count)
        seconds = []
        for window in range(3):
            start = time.perf_counter()
            for index in range(window * count, (window + 1) * count):
                rooms[index]
            seconds.append(time.perf_counter() - start)
        print(f"  {size[0]:>4} x {size[1]:<4} {count / min(seconds):8.1f} images/s")


if __name__ == "__main__":
    main()
