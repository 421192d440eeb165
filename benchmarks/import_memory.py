# SPDX-License-Identifier: Apache-2.0
"""Peak memory of importing DPT-Large, as a multiple of its weights.

    python benchmarks/import_memory.py

Writes a Hugging Face directory of DPT-Large with constant weights into a temporary folder and reads
it again, each in a process of its own. What counts is the highest resident set (memory maps
included) of the reader, less what it was before.
"""

import subprocess
import sys
import tempfile

_WRITE = """
import sys, jax, numpy as np
from dpt_jax import build_model, save_pretrained
from dpt_jax.models.dpt import abstract_variables
model = build_model({"variant": "dpt_large", "head": {"type": "depth"}})
variables = jax.tree.map(lambda x: np.full(x.shape, 0.01, x.dtype), abstract_variables(model))
save_pretrained(model, variables, sys.argv[1])
"""
_READ = """
import resource, sys, jax
from dpt_jax import load_pretrained
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
_, variables = load_pretrained(sys.argv[1])
unit = 1 if sys.platform == "darwin" else 1024
weights = sum(x.nbytes for x in jax.tree.leaves(variables))
ratio = (peak() - before) * unit / weights
print(f"weights {weights / 2**20:.0f} MiB, peak {ratio:.2f} times that")
"""

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        for program in (_WRITE, _READ):
            subprocess.run([sys.executable, "-c", program, directory], check=True)
