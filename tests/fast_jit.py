# SPDX-License-Identifier: Apache-2.0
"""A jit for tiny networks: compiling is nearly all of their time, and optimising does not pay."""

import functools

import jax

_OPTIONS = {"xla_backend_optimization_level": 0}
# It halves the time to compile again, where XLA still has it.
_SIMPLER = {"xla_cpu_use_fusion_emitters": False}


def _supported() -> dict:
    try:
        jax.jit(lambda x: x + 1, compiler_options=_OPTIONS | _SIMPLER)(0)
    except jax.errors.JaxRuntimeError:
        return _OPTIONS
    return _OPTIONS | _SIMPLER


fast_jit = functools.partial(jax.jit, compiler_options=_supported())
