"""Phenobarbital: the record of the study, and a likelihood that is the sum over doses in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sciinf.core.simulator import load_module

ROOT = Path(__file__).parents[2]
STUDY = load_module(ROOT / "simulators" / "phenobarbital.py")
SIMULATOR = STUDY.simulator


def exact(infant, theta, count: int) -> np.ndarray:
    """log p of an infant's first samples, dose by dose."""
    clearance, volume, noise = theta.double().numpy().T
    found = np.zeros(len(theta))
    for when, seen in zip(infant.sampled[:count], np.float32(infant.samples[:count]).astype(float), strict=True):
        level = sum(
            dose / volume * np.exp(-clearance / volume * (when - given))
            for given, dose in zip(infant.dosed, infant.doses, strict=True)
            if given < when
        )
        found += -0.5 * ((seen - level) / noise) ** 2 - np.log(noise) - 0.5 * math.log(2 * math.pi)
    return found


def test_the_record_is_that_of_the_study() -> None:
    """As the paper and the packages describe it: 59 infants, 155 samples, birth weights of 0.6 to 3.6 kg."""
    lines = (ROOT / "simulators" / "phenobarbital_1985.csv").read_text().splitlines()
    table = np.genfromtxt(lines[1:], delimiter=",")
    assert lines[:3] == ["infant,time,dose,weight,apgar,concentration", "1,0,25,1.4,7,", "1,2,,1.4,7,17.3"]
    assert len(table) == 744
    assert np.isfinite(table[:, 5]).sum() == 155
    assert (table[:, 3].min(), table[:, 3].max()) == (0.6, 3.6)
    assert (np.isfinite(table[:, 2]) != np.isfinite(table[:, 5])).all()
    infants = STUDY.infants()
    assert len(infants) == 59
    assert sum(len(one.samples) > 1 for one in infants) == 50
    assert max(len(one.samples) + 2 * len(one.dosed) for one in infants) == 34


@pytest.mark.slow
def test_the_likelihood_is_that_of_the_sum_over_doses() -> None:
    theta = SIMULATOR.prior.sample(20, generator=torch.Generator().manual_seed(0)).double()
    for infant in STUDY.infants()[::6]:
        for hidden in range(min(2, len(infant.samples))):
            x = {name: value[None] for name, value in STUDY.record_of(SIMULATOR, infant, hidden=hidden).items()}
            found = SIMULATOR.log_likelihood(theta, x).numpy()
            np.testing.assert_allclose(found, exact(infant, theta, len(infant.samples) - hidden), rtol=1e-9, atol=1e-9)
        # with half of the dose it would be another
        x["dose"] = x["dose"] / 2
        assert np.abs(SIMULATOR.log_likelihood(theta, x).numpy() - found).min() > 1e-3


def test_plans_are_those_of_infants() -> None:
    times, doses, there = STUDY._plans()
    for row, infant in enumerate(STUDY.infants()):
        x = STUDY.record_of(SIMULATOR, infant)
        assert torch.equal(x["sample_times"], times[row])
        torch.testing.assert_close(x["dose"], doses[row])
        assert torch.equal(x["sample_mask"], there[row])
    plan = STUDY.plans(500, torch.Generator().manual_seed(0))
    assert bool((plan.times.diff(dim=1) >= 0).all())
    assert bool((plan.controls["dose"] >= 0).all())


def test_a_path_jumps_at_doses_and_is_certain_given_the_parameters() -> None:
    infant = STUDY.infants()[0]
    x = {name: value[None] for name, value in STUDY.record_of(SIMULATOR, infant).items()}
    theta = torch.tensor([[0.005, 1.25, 2.0]]).expand(7, -1)
    path = SIMULATOR.paths(theta, x, torch.Generator().manual_seed(0))["concentration"]
    assert np.ptp(path.draws, axis=0).max() < 1e-6
    assert path.draws[0, 1] - path.draws[0, 0] == pytest.approx(25 / 1.4 / 1.25, rel=1e-6)
    assert path.draws[0, 2] == pytest.approx(25 / 1.4 / 1.25 * math.exp(-0.004 * 2), rel=1e-6)
