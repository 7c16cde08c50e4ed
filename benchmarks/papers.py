"""Ideas of papers that finish what is built on them: what each gains, beside what was there before.

    python benchmarks/papers.py                      all parts
    python benchmarks/papers.py --parts guided       some
    python benchmarks/papers.py --quick              shorter; checks are wider

A row has the figure with the idea, its baseline and the bound that it is held to. An idea that does not pay is held to
no gain: its figure stands beside its baseline, and docs/choosing.md says so.

"levels": data with error bars of their own, given to a `Joint` as numbers at a noise level, beside ignoring the errors.
"guided": draws guided away from the prior by a weight w: their variance beside that of the posterior, and v^w.
"gap": draws along the equation without noise and with it, by scores trained with and without `consistency`.
"learned": a diffusion with an auxiliary that is learned, beside fixed ones: bounds on log densities of three tasks.
"preserving": layers that keep magnitudes: the loss on fresh rows beside plain ones, on three tasks.
"distilled": two steps of a draw, distilled at once and stage by stage, at about equal CPU seconds.
"rollouts": errors of 200 steps of two equations, with no noise, one level and random levels in training.
"solvers": evaluations of a continuous flow at about equal likelihood, by what training penalises.
"drifts": the same for the drift of a hidden path, taken out and solved by itself, at about an equal bound.
"batches": curves of training at batches x1, x4 and x16 by the rule for adaptive optimisers, and without it.
"fluids": errors of one network for three flows in a plane, with the symbols of their equations and without.

Seconds are CPU seconds of one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from papers_fluids import fluids
from papers_learned import learned
from papers_scores import distilled, gap, guided, levels, preserving
from papers_training import batches, drifts, rollouts, solvers
from reporting import in_parts

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]

PARTS: dict[str, Callable[[Any, Path], Found]] = {
    "levels": levels,
    "guided": guided,
    "gap": gap,
    "learned": learned,
    "preserving": preserving,
    "distilled": distilled,
    "rollouts": rollouts,
    "solvers": solvers,
    "drifts": drifts,
    "batches": batches,
    "fluids": fluids,
}


def main() -> None:
    """Print the tables."""
    in_parts(str(__doc__), PARTS)


if __name__ == "__main__":
    main()
