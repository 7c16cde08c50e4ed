"""What every process has to keep: tests over all of `kinds.PROCESSES`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from processes.kinds import PROCESSES, Drifting

from sciinf import Recipe, load_fit, simulate
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import Series, Sizes
from sciinf.training import train_ensemble

EACH = pytest.mark.parametrize("name", PROCESSES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def series_of(rows=5, length=6, seed=1, *, controls=True, times=True):
    """Rows with gaps, times of their own, and controls."""
    draw = generator(seed)
    there = torch.rand(rows, length, generator=draw) < 0.6
    seen = torch.where(there[..., None], torch.randn(rows, length, 3, generator=draw), 0.0)
    when = (0.3 + torch.rand(rows, length, generator=draw)).cumsum(1) if times else None
    known = torch.randn(rows, length, 1, generator=draw)
    return Series(seen, there, torch.randn(rows, 2, generator=draw), when, known if controls else None)


def built(name, *, controls=True, seed=0):
    return PROCESSES[name]().build(Sizes(3, 2, 1 if controls else 0), seed=seed)


@EACH
@pytest.mark.parametrize("plain", [False, True])
def test_shapes_slopes_and_seeds(name, plain):
    process, series = built(name, controls=not plain), series_of(controls=not plain, times=not plain)
    found = process.posterior(series, generator=generator())
    assert found.z.shape == (5, 6, process.states)
    assert found.kl.shape == (5,)
    assert found.log_ratio is None or found.log_ratio.shape == (5,)
    assert found.z.dtype == found.kl.dtype == torch.float32
    prior = process.prior(series, generator=generator())
    assert prior.shape == found.z.shape
    assert process.shared().shape == ()
    again = process.posterior(series, generator=generator())
    assert torch.equal(found.z, again.z)
    assert torch.equal(found.kl, again.kl)
    assert torch.equal(prior, process.prior(series, generator=generator()))
    assert not torch.equal(found.z, process.posterior(series, generator=generator(1)).z)
    assert torch.equal(found.z, built(name, controls=not plain).posterior(series, generator=generator()).z)
    (found.z.square().sum() + found.kl.sum() + process.shared()).backward()
    without = [n for n, p in process.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    assert without == []


@EACH
def test_rows_know_nothing_of_each_other(name):
    process, series = built(name), series_of()
    others = series_of(seed=7)
    mixed = Series(*(torch.cat([getattr(series, f)[:1], getattr(others, f)[1:]]) for f in FIELDS))
    one, two = (process.posterior(each, generator=generator()) for each in (series, mixed))
    for first, second in zip(vars(one).values(), vars(two).values(), strict=True):
        if first is not None:
            assert torch.allclose(first[:1], second[:1], atol=1e-4)
    assert not torch.allclose(one.z[1:], two.z[1:], atol=1e-2)  # the fault: rows that are others'
    first, second = (process.prior(each, generator=generator()) for each in (series, mixed))
    assert torch.allclose(first[:1], second[:1], atol=1e-4)


FIELDS = ("seen", "there", "context", "times", "controls")


@EACH
def test_the_prior_does_not_look_at_what_was_seen(name):
    process, series = built(name), series_of()
    one, two = (process.prior(each, generator=generator()) for each in (series, series.blank()))
    assert torch.equal(one, two)
    assert not torch.allclose(process.posterior(series, generator=generator()).z, one, atol=1e-2)


@EACH
def test_equal_steps_are_times_one_apart(name):
    process, series = built(name), series_of(times=False)
    told = replace(series, times=torch.arange(6.0).expand(5, -1))
    one, two = (process.posterior(each, generator=generator()) for each in (series, told))
    assert torch.allclose(one.z, two.z, atol=1e-4)
    assert torch.allclose(one.kl, two.kl, atol=1e-3, rtol=1e-3)


@EACH
def test_what_is_fitted_to_a_row_moves_its_path(name):
    process, series = built(name), series_of()
    offset = torch.zeros_like(series.seen, requires_grad=True)
    found = process.posterior(replace(series, offset=offset), generator=generator())
    assert torch.equal(found.z, process.posterior(series, generator=generator()).z)
    (slope,) = torch.autograd.grad(found.z.square().sum() + found.kl.sum(), offset)
    assert bool((slope[series.there] != 0).any())


@EACH
def test_kl_and_density_ratio_are_those_of_the_draws(name):
    """5,000 draws of one row. False alarms: 4.5 standard errors, some 10 numbers a process, below 1 in 10,000."""
    process, count = built(name, seed=3), 5_000
    one = series_of(rows=1, length=4, seed=2)
    many = Series(*(getattr(one, f).expand(count, *getattr(one, f).shape[1:]) for f in FIELDS))
    with torch.no_grad():
        found, prior = process.posterior(many, generator=generator(4)), process.prior(many, generator=generator(5))
    if found.log_ratio is None:
        pytest.skip("this process does not tell the density of a path")
    weight = (-found.log_ratio).double().exp()
    assert far(weight, 1.0) < 4.5
    assert far((found.log_ratio - found.kl).double(), 0.0) < 4.5
    for power in (1, 2):  # the prior of the ratio is that of `prior`
        for k in (0, -1):
            weighted, plain = weight * found.z[:, k, 0].double() ** power, prior[:, k, 0].double() ** power
            error = (weighted.var() / count + plain.var() / count).sqrt()
            assert abs(float((weighted.mean() - plain.mean()) / error)) < 4.5
    assert far((0.5 - found.log_ratio).double().exp(), 1.0) > 4.5  # the fault: half a nat too much


def far(values, mean):
    """How many standard errors the mean of values is off."""
    return abs(float((values.mean() - mean) / (values.std() / len(values) ** 0.5).clamp_min(1e-9)))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(Drifting(), tmp_path_factory.mktemp("rows") / "store", 60, seed=0, progress=False)


@pytest.mark.slow
@EACH
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_trains_in_an_ensemble_and_is_read_back(name, store, tmp_path):
    simulator = Drifting()
    made = [
        LatentDynamics(
            simulator.prior, simulator.observables, PROCESSES[name](), given=("u",), width=8, hide=0.2, seed=k
        )
        for k in range(2)
    ]
    fits = train_ensemble(made, store, tmp_path / "both", recipe=Recipe(epochs=2, batch=12), progress=False)
    first = store.load().rows(slice(0, 6))
    bounds = []
    for fit in fits:
        learned = fit.surrogate
        assert isinstance(learned, LatentDynamics)
        assert fit.record["bound"] == fit.record["bound"]  # not NaN
        again = load_fit(fit.folder, trust=("processes.kinds",)).surrogate
        assert isinstance(again, LatentDynamics)
        one, two = (s.complete(first.theta, first.x, generator=generator()) for s in (learned, again))
        assert torch.equal(one, two)
        there = first.x["x_mask"]
        assert torch.equal(one[there], first.x["x"][there])
        hidden = {**first.x, "x": torch.full_like(first.x["x"], torch.nan)}
        drawn = [learned.draw(first.theta, x, generator=generator()) for x in (first.x, hidden)]
        assert torch.equal(*drawn)
        bounds.append(learned.bound(first.theta, first.x, generator=generator()))
    assert not torch.allclose(*bounds)
