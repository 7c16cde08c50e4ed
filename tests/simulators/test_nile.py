"""The Nile: the record, and its exact posterior against particles."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from samplers.hidden import Level

from sciinf import wrappers
from sciinf.core import load_simulator

FOLDER = Path(__file__).parents[2] / "simulators"


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FOLDER / "nile.py")


@pytest.fixture(scope="module")
def record(simulator):
    return {k: v[None] for k, v in simulator.observe(FOLDER / "nile_1871.csv").items()}


class LevelByParticles(Level):
    """The simulator's own start."""

    def initial(self, theta, rows, *, generator):
        return 1000.0 + 500.0 * torch.randn(rows, 1, generator=generator)


@pytest.fixture(scope="module")
def by_particles(simulator):
    return wrappers.state_space(LevelByParticles(), simulator.prior, simulator.times, simulator.observables)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_record_is_that_of_statsmodels(record):
    pytest.importorskip("statsmodels")
    from statsmodels.datasets import nile

    data = nile.load_pandas().data
    assert record["volume"][0].tolist() == data.volume.tolist()
    assert data.year.tolist() == list(range(1871, 1971))
    assert (FOLDER / "nile_1871.csv").read_text().splitlines()[1:3] == ["1871,1120", "1872,1160"]


@pytest.mark.slow
def test_the_estimate_by_particles_is_unbiased_and_scatters_little(simulator, by_particles, record):
    """Mean of 2,000 estimates / exact within 3 standard errors (false alarms .3 %, with a fixed seed); sd at most 1."""
    theta = torch.tensor([[122.9, 38.3]])
    exact = simulator.log_likelihood(theta, record)
    found = by_particles.log_likelihood(theta.expand(2_000, -1), record) - exact
    ratio = found.exp()
    assert abs(float(ratio.mean()) - 1) < 3 * float(ratio.std()) / math.sqrt(2_000)
    assert float(found.std()) < 1
    assert by_particles.random_likelihood
    assert not simulator.random_likelihood


@pytest.mark.slow
def test_the_level_is_the_same_by_both_filters(simulator, by_particles, record):
    """Means of 2,000 paths each within .15 sd, sds within 10 %."""
    theta = torch.tensor([[122.9, 38.3]]).expand(2_000, -1)
    one = simulator.smooth(theta, record, generator=generator(1))[..., 0]
    two = by_particles.smooth(theta, record, generator=generator(2))[..., 0].double()
    sd = one.std(0)
    assert float(((one.mean(0) - two.mean(0)) / sd).abs().max()) < 0.15
    assert float((two.std(0) / sd - 1).abs().max()) < 0.1
    fall = one.mean(0)
    assert float(fall[20:27].mean() - fall[32:40].mean()) > 150  # about 1898, from 1,100 to 850
