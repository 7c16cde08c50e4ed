"""The three verdicts of a calibration against planted errors: what passes, what does not, what cannot be told.

    python benchmarks/calibration_verdicts.py [--quick]

Truths of two parameters are N(0, 1) given the data; the posterior is N(shift, width^2) for the first and right for the
second. Each error is checked on 100 to 10,000 fresh simulations, many times over. An error that moves the coverage of
the first parameter's 90 % interval by five points or more must never pass.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from reporting import arguments, check, finish

from sciinf.trust.agreement import agreements, judged

DRAWS = 127
ROWS = (100, 300, 1_000, 3_000, 10_000)
WIDTHS = (0.7, 0.8, 0.875, 0.95, 1.0, 1.05, 1.19, 1.3)
SHIFTS = (0.1, 0.25, 0.5)


def counts(rows: int, width: float, shift: float, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """What `calibrate` counts: ranks (rows, 2), draws of higher density and draws nearer to a reference (rows,)."""
    truth = torch.randn(rows, 2, generator=generator)
    scale, centre = torch.tensor([width, 1.0]), torch.tensor([shift, 0.0])
    draws = centre + scale * torch.randn(DRAWS, rows, 2, generator=generator)
    reference = 1.4 * torch.randn(rows, 2, generator=generator)
    higher = ((draws - centre) / scale).norm(dim=-1) < ((truth - centre) / scale).norm(dim=-1)
    nearer = (draws - reference).norm(dim=-1) < (truth - reference).norm(dim=-1)
    return {"ranks": (draws < truth).sum(0), "hpd": higher.sum(0), "tarp": nearer.sum(0)}


def covered(width: float, shift: float) -> float:
    """Coverage of the first parameter's 90 % interval."""
    low, high = (shift + side * 1.6449 * width for side in (-1, 1))
    return 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))


def states(rows: int, width: float, shift: float, times: int) -> Counter[str]:
    """How often each verdict was given."""
    found: Counter[str] = Counter()
    for seed in range(times):
        generator = torch.Generator().manual_seed(seed)
        tests = agreements(counts(rows, width, shift, generator), ("a", "b"), DRAWS, generator)
        found[judged(tests)[0]] += 1
    return found


def main() -> None:
    """Print the table and check that no large error passed."""
    options = arguments("The three verdicts of a calibration against planted errors.").parse_args()
    sizes = ROWS[:-1] if options.quick else ROWS
    faults = [(width, 0.0) for width in WIDTHS] + [(1.0, shift) for shift in SHIFTS]
    rows: list[dict[str, Any]] = []
    wrong = 0
    for width, shift in faults:
        row: dict[str, Any] = {"width": width, "shift": shift, "90 % holds": f"{covered(width, shift):.1%}"}
        for n in sizes:
            times = 40 if options.quick else 200 if n < 10_000 else 60
            found = states(n, width, shift, times)
            row[f"{n:,} rows"] = " / ".join(
                f"{100 * found[state] / times:.0f}" for state in ("passed", "cannot tell", "not passed")
            )
            if abs(covered(width, shift) - 0.9) >= 0.0499:
                wrong += found["passed"]
        rows.append(row)
    print("passed / cannot tell / not passed, of 100")
    finish(rows, [check("passed with an error of five points or more", wrong, 0)], options.json)


if __name__ == "__main__":
    main()
