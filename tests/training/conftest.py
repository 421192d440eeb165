# SPDX-License-Identifier: Apache-2.0
"""Compiling is nearly all of the time of these tests: quickly, and the same program once only."""

import jax
import pytest


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module", autouse=True)
def compile_once_and_quickly(compiled):
    changes = {
        "jax_compilation_cache_dir": str(compiled),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_disable_most_optimizations": True,
    }
    before = {key: jax.config.values[key] for key in changes}
    for key, value in changes.items():
        jax.config.update(key, value)
    yield
    for key, value in before.items():
        jax.config.update(key, value)
