# SPDX-License-Identifier: Apache-2.0
"""Eight CPU devices for every test.

The flag must be set before jax starts its backend; tests that want one device make a mesh of one.
"""

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The tests read configs/ and train.py, which are not installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

# Files of minutes first, so that no process is left alone with one at the end.
SLOW = ("test_loop.py", "test_step.py", "test_families.py", "test_commands.py", "test_full_size.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))
