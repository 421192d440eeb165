# SPDX-License-Identifier: Apache-2.0
"""How far predictions are from those of transformers: `python benchmarks/parity.py [family ...]`.

Runs the random networks of `tests/parity` (float32, on the default device) and prints, for each
family, how many there are, the median and the worst relative error, and whose it is. Needs the
extra "parity" (torch and transformers). A family is named by a part of its name, such as "BEiT".
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.parity import families, reference, successors


def main(names: list[str]) -> int:
    """Prints one line per family; 1 if one of its networks is off by more than the tolerance."""
    cases = [
        *families.vit_cases(),
        *families.hybrid_cases(),
        *families.dinov2_cases(),
        *families.register_cases(),
        *families.beit_cases(),
        *families.swinv2_cases(),
        *successors.depth_anything_cases(),
    ]
    cases = [case for case in cases if not names or any(name in case.family for name in names)]
    if not cases:
        print(f"no family is called {' or '.join(names)}")
        return 1
    print(f"{'family':26s} {'networks':>8s} {'median':>8s} {'worst':>8s}  seconds each")
    worst = 0.0
    for family in sorted({case.family for case in cases}):
        start = time.perf_counter()
        errors = {
            case.name: reference.disagreement(case) for case in cases if case.family == family
        }
        seconds = (time.perf_counter() - start) / len(errors)
        name = max(errors, key=lambda name: errors[name])
        print(
            f"{family:26s} {len(errors):8d} {statistics.median(errors.values()):8.1e} "
            f"{errors[name]:8.1e}  {seconds:.1f} ({name})",
            flush=True,
        )
        worst = max(worst, errors[name])
    print(f"{len(cases)} networks, worst {worst:.1e}, allowed {reference.TOLERANCE:.0e}")
    return int(worst > reference.TOLERANCE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
