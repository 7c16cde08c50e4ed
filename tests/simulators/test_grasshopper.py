"""The grasshopper's ear: its likelihood cell by cell in plain numbers, its own intervals, the record, and what tires.

False-alarm rates: KS tests alarm at p < 1e-4. Seeds are fixed.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from scipy import stats

from sciinf.campaigns.densities import density_finding
from sciinf.core import load_simulator

FOLDER = Path(__file__).parents[2] / "simulators"
FITTED = {"rate": 4180.0, "threshold": 4.95, "shift": 0.65, "width": 1.58, "latency": 6.44, "smoothing": 0.60}
FITTED |= {"share": 0.49, "memory": 10.5, "refractory": 2.67, "growth": 0.248}


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FOLDER / "grasshopper.py")


@pytest.fixture(scope="module")
def module(simulator):
    return sys.modules[type(simulator).__module__]


@pytest.fixture(scope="module")
def record(simulator):
    return {name: value[None] for name, value in simulator.observe(FOLDER / "grasshopper_spikes.csv").items()}


@pytest.fixture(scope="module")
def theta(simulator):
    return torch.tensor([[FITTED[name] for name in simulator.prior.names]], dtype=torch.float64)


@pytest.fixture(scope="module")
def own(simulator, theta):
    """Thirty cells like the recorded one."""
    return simulator(theta.expand(30, -1), generator=torch.Generator().manual_seed(1))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_record_is_as_it_was_published(module, record):
    times = module.read(FOLDER / "grasshopper_spikes.csv")
    assert len(times) == 929
    assert times[:4].tolist() == [6.7, 9.9, 13.9, 20.1]
    assert float(record["intervals"].double().sum()) == pytest.approx(float(times[599]), abs=1e-3)
    assert int(record["heard"][0, 1].argmax()) + 2 == 6  # ms: the level that a spike follows


def test_the_likelihood_is_that_of_every_cell(simulator, module, theta, record):
    cells = (module.read(FOLDER / "grasshopper_spikes.csv")[:600] / 0.1).round().long().tolist()
    f = simulator.filtered(theta)[0].tolist()
    log, last, events = 0.0, None, set(cells)
    for k in range(1, cells[-1] + 1):
        tired = 1 + k * 0.1 / 500
        drive = FITTED["rate"] / 1e3
        drive /= 1 + math.exp(-(f[k] - FITTED["threshold"] - FITTED["shift"] * math.log(tired)) / FITTED["width"])
        c = FITTED["refractory"] * tired ** FITTED["growth"]
        age = math.inf if last is None else (k - last) * 0.1
        h = 0.1 * drive * (1 - math.exp(-2 * max(age / c - 1, 0)))
        log += math.log(-math.expm1(-h)) if k in events else -h
        last = k if k in events else last
    assert float(simulator.log_likelihood(theta, record)) == pytest.approx(log, abs=1e-6)


def test_the_level_is_filtered_as_it_says(simulator, theta):
    """By sums over the level of each cell, without Fourier's series."""
    level, c = simulator.fine.tolist(), dict(zip(simulator.prior.names, theta[0].tolist(), strict=True))
    at, smooth, recent, found = 300.0, 0.0, 0.0, []
    for k in range(-1_000, 4_000):  # begins in the silence
        moment = k - 0.5 - 10 * c["latency"]
        whole = math.floor(moment)
        value = level[whole] + (moment - whole) * (level[whole + 1] - level[whole])
        recent = value if k == -1_000 else recent + (value - recent) * -math.expm1(-0.1 / c["memory"])
        less = value - c["share"] * recent
        smooth = less if k == -1_000 else smooth + (less - smooth) * -math.expm1(-0.1 / c["smoothing"])
        if k >= 10 * at:
            found.append(smooth)
    seen = simulator.filtered(theta)[0, 3_000:4_000]
    assert float((seen - torch.tensor(found, dtype=torch.float64)).abs().max()) < 0.3  # of 15 dB; cells are 0.1 ms
    assert float(seen.std()) > 3


def test_its_own_intervals_are_uniform_and_those_of_a_cell_that_does_not_tire_are_not(simulator, theta, own):
    rows = theta.expand(30, -1)
    u = simulator.rescaled(rows, own)
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-4
    fresh = rows.clone()
    fresh[:, list(FITTED).index("growth")] = 0.0
    assert stats.kstest(simulator.rescaled(fresh, own).flatten().numpy(), "uniform").pvalue < 1e-4


@pytest.mark.slow
def test_the_likelihood_is_the_density_of_what_is_simulated(simulator):
    assert density_finding(simulator, 40, 0) == ""


def test_slow_cells_are_heard_to_the_end(simulator, theta):
    slow = theta.clone()
    slow[:, list(FITTED).index("threshold")] = 9.0
    x = simulator(slow.expand(2, -1), generator=generator())
    number = (x["intervals"] > 0).sum(1)
    assert int(number.max()) < 600
    assert float(x["intervals"].sum(1).max()) < 8_000
    longer = x["intervals"].clone()
    longer[0, number[0] :] = 0.0
    known = simulator.log_likelihood(slow.expand(2, -1), {**x, "intervals": longer})
    assert bool(known.isfinite().all())
    process = simulator.process(slow)
    times = x["intervals"][:1].double().cumsum(1)
    there = x["intervals"][:1] > 0
    assert float(known[0]) == pytest.approx(float(process.log_prob(times, there)), abs=1e-6)


def test_the_last_seconds_come_when_the_model_says_and_not_if_nothing_tires(simulator, module, theta):
    """At the most probable parameters given the first 600 spikes; of the intervals after 7 s nothing is in these."""
    times = module.read(FOLDER / "grasshopper_spikes.csv")[None]
    late, mask = times[0] >= 7_000, torch.ones_like(times, dtype=torch.bool)
    u = simulator.process(theta, 10.0).rescaled(times, mask, generator=generator())[0, late]
    assert len(u) == 241
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.01
    fresh = theta.clone()
    fresh[:, [list(FITTED).index(name) for name in ("shift", "growth")]] = 0.0
    u = simulator.process(fresh, 10.0).rescaled(times, mask, generator=generator())[0, late]
    assert stats.kstest(u.numpy(), "uniform").pvalue < 1e-4


def test_what_is_no_record_is_refused(simulator, tmp_path):
    with pytest.raises(ValueError, match="expected one file with the times of spikes, got 0"):
        simulator.observe()
