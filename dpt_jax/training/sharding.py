# SPDX-License-Identifier: Apache-2.0
"""One mesh, one rule for parameters, one for batches.

The mesh is `(data, fsdp)`. Batches are split over both axes. A parameter (and what the optimizer
keeps of it) is replicated over `data` and split over `fsdp` along its largest divisible axis, if it
is big. With one device everything below is the identity.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

# Smaller leaves stay whole: gathering them costs more than keeping them.
MIN_SHARDED_SIZE = 2**16

BATCH = jax.P(("data", "fsdp"))


def make_mesh(
    data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
    """The mesh over `devices` (None: all); -1 for one of the axes means "the rest".

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    devices = list(devices or jax.devices())
    count = len(devices)
    sizes = [data, fsdp]
    if sizes.count(-1) == 1:
        known = -data * fsdp  # the one unknown is -1
        sizes[sizes.index(-1)] = count // known if known > 0 else 0
    if min(sizes) < 1 or sizes[0] * sizes[1] != count:
        raise ValueError(
            f"config.mesh data={data}, fsdp={fsdp} does not fit {count} devices; their product "
            "must be the number of devices (-1 stands for the rest)"
        )
    # Linen's convolutions do not thread output shardings, which Explicit axes would ask for.
    return jax.make_mesh(
        tuple(sizes), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def state_shardings(mesh: jax.sharding.Mesh, abstract_state: Any) -> Any:
    """A NamedSharding for every leaf of the abstract train state (see the module docstring)."""
    fsdp = mesh.shape["fsdp"]

    def rule(leaf: jax.ShapeDtypeStruct) -> jax.NamedSharding:
        if fsdp > 1 and leaf.size >= MIN_SHARDED_SIZE:
            for axis in sorted(range(leaf.ndim), key=lambda i: -leaf.shape[i]):
                if leaf.shape[axis] % fsdp == 0:
                    return jax.NamedSharding(mesh, jax.P(*([None] * axis), "fsdp"))
        return jax.NamedSharding(mesh, jax.P())

    return jax.tree.map(rule, abstract_state)


def shard_batch(mesh: jax.sharding.Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """A process's part of a batch as global arrays, split over all devices along the first axis."""
    sharding = jax.NamedSharding(mesh, BATCH)
    return {
        key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()
    }


def check_batch_size(mesh: jax.sharding.Mesh, batch_size: int, flag: str) -> None:
    """Raises a ValueError unless a global batch divides over the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"{flag}={batch_size} must be a positive multiple of the {mesh.size} devices"
        )
