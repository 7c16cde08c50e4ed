"""The three verdicts of a calibration against planted errors: what passes, what does not, what cannot be told.

    python benchmarks/calibration_verdicts.py [--quick]

Truths of two parameters are N(0, 1) given the data; the posterior is N(shift, width^2) for the first and right for the
second. Each error is checked on 100 to 10,000 fresh simulations, many times over. An error that moves the coverage of
the first parameter's 90 % interval by five points or more must never pass.

Then, on 1,000 fresh simulations of one and of four parameters, how often the verdict is "not passed": of posteriors
15 % too narrow (at least .9) and of exact ones (at most .085). And of posteriors whose ranks and intervals are right
while their middles are not: scattered about the right ones, drawn to the middle of the prior, or away from it, each
with as much more width as that makes them err. Only their average over the data is wrong, and they must be seen in at
least .9.
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
KNOWN = 0.5  # share of a parameter's variance that the data tell
SCATTER = 0.5  # of the posterior's variance
PULL = {"drawn in": -0.4, "pushed out": 0.4}  # by this share of their distance from the middle
Averaged = tuple[torch.Tensor, torch.Tensor]


def counts(rows: int, width: float, shift: float, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """What `calibrate` counts: ranks (rows, 2), draws of higher density and draws nearer to a reference (rows,)."""
    truth = torch.randn(rows, 2, generator=generator)
    scale, centre = torch.tensor([width, 1.0]), torch.tensor([shift, 0.0])
    draws = centre + scale * torch.randn(DRAWS, rows, 2, generator=generator)
    reference = 1.4 * torch.randn(rows, 2, generator=generator)
    higher = ((draws - centre) / scale).norm(dim=-1) < ((truth - centre) / scale).norm(dim=-1)
    nearer = (draws - reference).norm(dim=-1) < (truth - reference).norm(dim=-1)
    return {"ranks": (draws < truth).sum(0), "hpd": higher.sum(0), "tarp": nearer.sum(0)}


def modelled(rows: int, size: int, fault: str, generator: torch.Generator) -> tuple[dict[str, torch.Tensor], Averaged]:
    """Counts, and truths and draws to average, for parameters N(0, 1) of which data tell KNOWN of the variance."""
    left = 1 - KNOWN
    right = math.sqrt(KNOWN) * torch.randn(rows, size, generator=generator)
    truth = right + math.sqrt(left) * torch.randn(rows, size, generator=generator)
    centre, scale = right.clone(), torch.full((size,), math.sqrt(left))
    if fault == "15 % too narrow":
        scale *= 0.85
    elif fault == "scattered":
        centre[:, 0] += math.sqrt(SCATTER * left) * torch.randn(rows, generator=generator)
        scale[0] *= math.sqrt(1 + SCATTER)
    elif fault in PULL:
        centre[:, 0] *= 1 + PULL[fault]
        scale[0] = math.sqrt(left + PULL[fault] ** 2 * KNOWN)
    draws = centre + scale * torch.randn(DRAWS, rows, size, generator=generator)
    reference = torch.randn(rows, size, generator=generator)
    higher = ((draws - centre) / scale).norm(dim=-1) < ((truth - centre) / scale).norm(dim=-1)
    nearer = (draws - reference).norm(dim=-1) < (truth - reference).norm(dim=-1)
    counts = {"ranks": (draws < truth).sum(0), "hpd": higher.sum(0), "tarp": nearer.sum(0)}
    return counts, (truth, draws[:31])


def flagged(size: int, fault: str, times: int) -> dict[str, float]:
    """How often the verdict was "not passed", with the average over data among the tests and without it."""
    found = {"with averages": 0.0, "without": 0.0}
    for seed in range(times):
        generator = torch.Generator().manual_seed(seed)
        counted, averaged = modelled(1_000, size, fault, generator)
        names = tuple("abcd"[:size])
        for label, given in (("with averages", averaged), ("without", None)):
            tests = agreements(counted, names, DRAWS, torch.Generator().manual_seed(seed), given)
            found[label] += (judged(tests)[0] == "not passed") / times
    return found


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
    checks = [check("passed with an error of five points or more", wrong, 0)]
    times = 40 if options.quick else 200
    for size in (1, 4):
        for fault in ("none", "15 % too narrow", "scattered", *PULL):
            found = flagged(size, fault, times)
            rows.append({"parameters": size, "fault": fault, **found})
            name = f"{fault}, {size} parameters: "
            if fault == "none":
                checks.append(check(name + "not passed", found["with averages"], 0.085))
            else:
                checks.append(check(name + "not seen", 1 - found["with averages"], 0.1))
    print("passed / cannot tell / not passed, of 100")
    finish(rows, checks, options.json)


if __name__ == "__main__":
    main()
