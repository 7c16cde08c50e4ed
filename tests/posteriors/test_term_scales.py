"""Terms and noise of any size: what the exact sum over sets of terms says of them, against least squares."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from sciinf import HalfNormal, LogUniform, query, wrappers
from sciinf.posteriors.equations import EquationPosterior
from sciinf.simulators.dynamics.term_library import polynomials


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_terms_may_differ_by_many_decades() -> None:
    """A logistic equation in mm: the cubic term is a billion times the constant; against least squares of two terms."""
    times, g = 0.05 * torch.arange(200.0).double(), generator(3)
    state, seen = 1000 * torch.tensor([[0.2], [0.5], [3.0]]).double(), list[torch.Tensor]()
    for _ in times:
        seen.append(state)
        noise = 100 * math.sqrt(0.05) * torch.randn(3, 1, generator=g).double()
        state = state + 0.05 * (state - 0.0005 * state**2) + noise
    simulator = wrappers.equations(
        polynomials({"x": "mm"}, 3, time="h"),
        wrappers.Paths(seen[0], times),
        sd=1.0,
        noise={"x": LogUniform(1.0, 1e4)},
        include=0.3,
    )
    x = torch.stack(seen, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = query(EquationPosterior(simulator), {"record": x}, draws=2_000)
    terms = torch.stack([x[:, :-1].flatten(), x[:, :-1].flatten() ** 2], 1) * 0.05
    step = x.diff(dim=1).flatten()
    fitted = torch.linalg.lstsq(terms / terms.amax(0), step[:, None]).solution[:, 0] / terms.amax(0)
    sd = float((step - terms @ fitted).std()) / math.sqrt(0.05)
    of = answer.draws
    named = dict(zip(of.names, of.theta.T, strict=True))
    assert float(named["d(x) has x"].mean()) > 0.99
    assert float(named["d(x) has x^2"].mean()) > 0.99
    assert float(named["d(x) has x^3"].mean()) < 0.01
    assert float(named["d(x) noise"].median()) == pytest.approx(sd, rel=0.05)
    for name, value in zip(("d(x) x", "d(x) x^2"), fitted.tolist(), strict=True):
        assert float(named[name].nanmedian()) == pytest.approx(value, rel=0.1)


def test_noise_that_its_prior_bounds_is_not_taken_for_rounding() -> None:
    """Data that scatter by 100, and a prior of noise around 1: an answer that leans on the bound, not another error."""
    times = torch.arange(50.0)
    record = 1e4 + 100 * torch.randn(1, 50, 1, generator=generator())
    library = polynomials({"x": "mm"}, 1, time="h")
    simulator = wrappers.equations(library, wrappers.Paths(record[:, 0], times), sd=1.0, noise={"x": HalfNormal(1e-4)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = query(EquationPosterior(simulator), {"record": record}, draws=100)
    (bounds,) = (check for check in answer.checks if check.name == "prior bounds")
    assert bounds.level != "good"
