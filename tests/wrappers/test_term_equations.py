"""What tells simulators of equations apart."""

from __future__ import annotations

import torch

from sciinf import HalfNormal, wrappers
from sciinf.posteriors.equations import EquationPosterior
from sciinf.simulators.dynamics.term_library import Library

STATES = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64)[:, None]


def test_what_a_name_does_not_tell_is_part_of_the_digest() -> None:
    """Functions of terms, states, starts and substeps; not that a library was made anew."""

    def digest(function, record) -> str:
        library = Library({"x": ""}, {"f": function})
        return EquationPosterior(wrappers.equations(library, record, sd=1.0, noise={"x": HalfNormal(1.0)})).digest

    def line(s):
        return s["x"]

    start, times = torch.zeros(1, 1), [0.0, 1.0]
    records = [
        wrappers.Rates(STATES),
        wrappers.Rates(STATES + 9),
        wrappers.Rates(lambda n, source: torch.randn(n, 12, 1, generator=source), 12),
        wrappers.Rates(lambda n, source: torch.rand(n, 12, 1, generator=source), 12),
        wrappers.Paths(start, times),
        wrappers.Paths(start + 1, times),
        wrappers.Paths(start, times, substeps=20),
    ]
    made = [digest(line, record) for record in records]
    made += [digest(lambda s: s["x"] ** 3, records[0]), digest(lambda s: s["x"].abs().log(), records[0])]
    assert len(set(made)) == len(made)
    assert digest(lambda s: 1 * s["x"], wrappers.Rates(STATES.clone())) == made[0]
