"""Chance in time: filters against exact references and peers, processes against their laws, real records answered.

    python benchmarks/dynamics.py                          all parts
    python benchmarks/dynamics.py --parts filters nile     some
    python benchmarks/dynamics.py --quick                  shorter; checks are wider

References are computed in the run.

"filters": Kalman's against statsmodels and one large Gaussian, chains against the sum over all paths, particles against
Kalman's; their cost, and that of the package particles where it is installed.
"nile": the annual volume of the Nile, weighted by the exact likelihood and by that of particles, against a grid.
"processes": jumps, stochastic equations, noise and events against laws in closed form, and against torchsde where it is
installed.
"school": the boarding school's influenza as a jump process, beside known figures, a pseudo-marginal chain, equations
and leaps that are too long.
"records": what is compared with a record at its own times, and records that are shorter than most simulations.
"pheno": a drug in 59 newborns, doses as controls: the last sample of each, predicted by the earlier ones, beside the
medians of the population; one infant's answer against a grid.
"events": a Hawkes process weighted by its likelihood, against a grid; the spikes of a grasshopper's ear, whose last
seconds test three models (a second record where `--data DIR` holds nitime's wheel).
"latent": hidden paths that are learned (`emulators.LatentDynamics`): the bound beside the exact likelihood, gaps
beside a recurrent encoder's, eigenvalues of two oscillators beside the true ones.
"neural": paths of stochastic equations and jump processes that are learned, beside exact likelihoods, and a known
equation with a learned part.
"series": paths drawn in parallel, refined when asked, and of Gaussian processes, beside exact likelihoods and gaps.
"graphs": who pushes whom in systems of linear nodes, beside the exact posterior over graphs and Euler's regression.
"treatments": outcomes under doses that were set, by a path that doses drive, beside the equations themselves; what
weights of each row are to gain is a target, which may be missed.
"terms": which terms of a library drive an equation, exactly, where Euler's likelihood breaks, and by a network.
"equations": expressions of points, told hypotheses or not, beside gplearn where it is installed.
"collocation": a narrow peak, learned from its equation alone with points placed in five ways; what the two that learn
where to place them are to gain are targets, which may be missed.

Seconds are CPU seconds of one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynamics_collocation import collocation
from dynamics_equations import equations
from dynamics_events import events
from dynamics_filters import filters
from dynamics_graphs import graphs
from dynamics_latent import latent
from dynamics_neural import neural
from dynamics_nile import nile
from dynamics_pheno import pheno
from dynamics_processes import processes
from dynamics_records import records
from dynamics_school import school
from dynamics_series import series
from dynamics_terms import terms
from dynamics_treatments import treatments
from reporting import in_parts

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]

PARTS: dict[str, Callable[[Any, Path], Found]] = {
    "filters": filters,
    "nile": nile,
    "processes": processes,
    "school": school,
    "records": records,
    "pheno": pheno,
    "events": events,
    "latent": latent,
    "neural": neural,
    "series": series,
    "graphs": graphs,
    "treatments": treatments,
    "terms": terms,
    "equations": equations,
    "collocation": collocation,
}


def main() -> None:
    """Print the tables."""
    in_parts(str(__doc__), PARTS)


if __name__ == "__main__":
    main()
