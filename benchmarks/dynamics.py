"""Hidden states: filters against exact references and peers, and real records answered with their paths.

    python benchmarks/dynamics.py                          all parts
    python benchmarks/dynamics.py --parts filters nile     some
    python benchmarks/dynamics.py --quick                  shorter; checks are wider

References are computed in the run. "filters": Kalman's against statsmodels and one large Gaussian, chains against the
sum over all paths, particles against Kalman's; their cost, and that of the package particles where it is installed.
"nile": the annual volume of the Nile, weighted by the exact likelihood and by that of particles, against a grid.
Seconds are CPU seconds of one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynamics_filters import filters
from dynamics_nile import nile
from reporting import in_parts

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]

PARTS: dict[str, Callable[[Any, Path], Found]] = {"filters": filters, "nile": nile}


def main() -> None:
    """Print the tables."""
    in_parts(str(__doc__), PARTS)


if __name__ == "__main__":
    main()
