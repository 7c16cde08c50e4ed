"""Discrete parameters, others that exist only sometimes, and parts of a whole: priors, probabilities, evidence, checks.

    python benchmarks/discrete.py                        all parts, 20 minutes on two idle cores
    python benchmarks/discrete.py --parts coal lines     some
    python benchmarks/discrete.py --quick                in minutes; its checks are wider

References are computed in the run. "prior": laws, their maps to normals and back, densities that integrate to 1.
"coal": changes of the rate of coal-mine disasters, against a sum over all their places. "nested": two nested linear
models, whose evidence is known, and sbi's MNPE on the same simulations. "epidemics": SIR against SEIR on the influenza
record, against dynesty. "lines": how many lines spectra have, against tempered particles and dynesty. "simplex": the
minerals of a rock, against the exact Dirichlet law. "alarms", "floor" and "unlisted": what checks find of exact
posteriors with and without faults, what weights need, and data of no listed model. "plain": what a prior of continuous
parameters costs beside an earlier version, for which `--before FOLDER` names a checkout of it. Seconds are CPU seconds
of one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from discrete_coal import coal
from discrete_epidemics import epidemics
from discrete_lines import lines
from discrete_nested import nested
from discrete_plain import plain
from discrete_prior import prior
from discrete_simplex import simplex
from discrete_weights import alarms, floor, unlisted
from reporting import in_parts

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]

PARTS: dict[str, Callable[[Any, Path], Found]] = {
    "prior": prior,
    "coal": coal,
    "nested": nested,
    "epidemics": epidemics,
    "lines": lines,
    "simplex": simplex,
    "alarms": alarms,
    "floor": floor,
    "unlisted": unlisted,
    "plain": plain,
}


def main() -> None:
    """Print the tables."""
    about = "folder of an earlier version, for the part plain"
    in_parts(str(__doc__), PARTS, lambda parser: parser.add_argument("--before", metavar="FOLDER", help=about))


if __name__ == "__main__":
    main()
