# SPDX-License-Identifier: Apache-2.0
"""Peak memory of importing DPT-Large, as a multiple of its weights.

    python benchmarks/import_memory.py

Writes a Hugging Face directory of DPT-Large with constant weights into a temporary folder and reads
it in a process of its own, whose highest resident set counts (memory maps included), less what it
was before.
"""

import subprocess
import sys
import tempfile

import jax
import numpy as np

from dpt_jax import build_model, save_pretrained
from dpt_jax.models.dpt import abstract_variables

_READ = """
import resource, sys, jax
from dpt_jax import load_pretrained
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
_, variables = load_pretrained(sys.argv[1])
unit = 1 if sys.platform == "darwin" else 1024
weights = sum(x.nbytes for x in jax.tree.leaves(variables))
print(f"weights {weights / 2**20:.0f} MiB, peak {(peak() - before) * unit / weights:.2f} times that")
"""

if __name__ == "__main__":
    model = build_model({"variant": "dpt_large", "head": {"type": "depth"}})
    variables = jax.tree.map(lambda x: np.full(x.shape, 0.01, x.dtype), abstract_variables(model))
    with tempfile.TemporaryDirectory() as directory:
        save_pretrained(model, variables, directory)
        subprocess.run([sys.executable, "-c", _READ, directory], check=True)
