"""The boarding school boy by boy: its parts, and its likelihood against a sum over all states of a small school.

False-alarm rates: means alarm at 4 standard errors (6e-5). Seeds are fixed.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from scipy import stats

from sciinf.core import load_simulator
from sciinf.simulators.dynamics.state_space import Record
from sciinf.simulators.samplers.particles import particle_filter

FOLDER = Path(__file__).parents[2] / "simulators"
FEW, SEEN = 6, [2, 2, 4, 3]  # boys of a small school, and those in bed
THETA = {"beta": 1.7, "gamma": 0.6, "phi_inv": 0.1}


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FOLDER / "sir_jumps.py")


@pytest.fixture(scope="module")
def module(simulator):
    return sys.modules[type(simulator.model).__module__]


def rows(count, **changed):
    return {name: torch.full((count,), value) for name, value in (THETA | changed).items()}


def test_it_has_the_laws_and_the_data_of_the_equations(simulator):
    equations = load_simulator(FOLDER / "influenza.py")
    assert simulator.prior.to_json() == equations.prior.to_json()
    assert simulator.random_likelihood
    mine, theirs = (s.observe(FOLDER / "influenza_1978.csv")["in_bed"] for s in (simulator, equations))
    assert torch.equal(mine, theirs)
    theta = torch.tensor([[1.8, 0.5, 0.05]]).expand(300, 3)
    x = simulator(theta, generator=torch.Generator().manual_seed(0))["in_bed"]
    assert x.dtype == torch.int64
    assert x.shape == (300, 14)
    assert 0.2 < float((x.sum(-1) < 10).double().mean()) < 0.36  # those that die out: gamma / beta of them or so


def test_counts_have_their_law(module):
    model, count = module.School(), 20_000
    state = torch.tensor([[700.0, 40.0]]).expand(count, 2)
    law = stats.nbinom(10, 10 / (10 + 40))
    found = model.log_observe(rows(3), state[:3], {"in_bed": torch.tensor([0.0, 38.0, 200.0])})["in_bed"]
    assert found.tolist() == pytest.approx(law.logpmf([0, 38, 200]).tolist(), rel=1e-6)
    seen = model.observe(rows(count), state, generator=torch.Generator().manual_seed(0))["in_bed"].double()
    assert abs(float(seen.mean()) - 40) < 4 * math.sqrt(law.var() / count)
    assert float(seen.var()) == pytest.approx(law.var(), rel=4 * math.sqrt(3 / count))
    gone = model.log_observe(rows(1, phi_inv=0.0), 0 * state[:1], {"in_bed": torch.zeros(1)})["in_bed"]
    assert float(gone) == pytest.approx(0.0, abs=1e-6)


def exactly(module):
    """The likelihood of the small school: all states (S, I), moved by the exponential of their rates."""
    states = [(s, i) for s in range(FEW) for i in range(FEW + 1 - s)]
    place = {state: k for k, state in enumerate(states)}
    q = torch.zeros(len(states), len(states), dtype=torch.float64)
    for (s, i), k in place.items():
        for later, rate in (
            ((s - 1, i + 1), THETA["beta"] * s * i / FEW),
            ((s, i - 1), THETA["gamma"] * i),
        ):
            if rate:
                q[k, place[later]] += rate
                q[k, k] -= rate
    day, p = torch.linalg.matrix_exp(q), torch.zeros(len(states), dtype=torch.float64)
    p[place[(FEW - 1, 1)]] = 1.0
    many = torch.tensor(states, dtype=torch.float64)
    for count in SEEN:
        x = {"in_bed": torch.full((len(states),), float(count))}
        p = (p @ day) * module.School().log_observe(rows(len(states)), many, x)["in_bed"].exp()
    return float(p.sum())


def estimates(model, count=1_500, particles=24):
    record = Record(torch.arange(1.0, 5.0)[None], {"in_bed": torch.tensor(SEEN).expand(count, -1)}, {}, begin=0.0)
    g = torch.Generator().manual_seed(0)
    return particle_filter(model, rows(count), record, particles, generator=g).log_likelihood.exp()


def test_its_likelihood_is_that_of_a_sum_over_all_states_and_leaps_are_told_apart(module, monkeypatch):
    monkeypatch.setattr(module, "BOYS", FEW)
    truth = exactly(module)
    found = estimates(module.School())
    error = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) - truth) < 4 * error
    assert error < 0.02 * truth
    wrong = estimates(module.School(leap=0.5))
    assert abs(float(wrong.mean()) - truth) > 4 * error
