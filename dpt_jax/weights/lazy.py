# SPDX-License-Identifier: Apache-2.0
"""State dicts whose tensors are read one at a time, so that an import needs little more memory than
the weights themselves.
"""

import mmap
from collections.abc import Callable, Mapping

import numpy as np

Tensors = Mapping[str, Callable[[], np.ndarray]]


def lazy(state_dict: Mapping[str, np.ndarray]) -> dict[str, Callable[[], np.ndarray]]:
    """A state dict as functions that fetch each tensor when it is its turn."""
    return {name: lambda name=name: _in_memory(np.asarray(state_dict[name])) for name in state_dict}


def _in_memory(value: np.ndarray) -> np.ndarray:
    """The array, or a copy if it is a view of a memory map, whose pages are then given back.

    They would count as memory of this process as long as the map lives: all of the file, twice.
    """
    base = value
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if not isinstance(base, mmap.mmap):
        return value
    copy = np.array(value)
    if hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
    return copy
