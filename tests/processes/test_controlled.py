"""Controlled paths: what a control moves and when, what tells of a path and what does not, and laws in closed form."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from sciinf import Observable, Prior
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import Controlled, Series, Sizes
from sciinf.emulators.processes.bayes_steps import LaterValues

LENGTH, LAST = 8, 5  # the last value that is seen is the fifth


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def series(rows=4, controls=1):
    g = generator(1)
    there = (torch.arange(LENGTH) < LAST).expand(rows, -1)
    seen = torch.where(there[..., None], torch.randn(rows, LENGTH, 3, generator=g), 0.0)
    times = (0.3 + torch.rand(rows, LENGTH, generator=g)).cumsum(1)
    return Series(seen, there, torch.zeros(rows, 0), times, torch.randn(rows, LENGTH, controls, generator=g))


def built(controls=1, **told):
    return Controlled(**{"states": 2, "weights": 2, "impulses": (0,)} | told).build(Sizes(3, 0, controls), seed=0)


def changed(one, first):
    """Controls, and times, that are others from a time on."""
    later = torch.arange(LENGTH) >= first
    controls = torch.where(later[:, None], one.controls + 1.0, one.controls)
    return replace(one, controls=controls), replace(one, times=one.times + 2.0 * (torch.arange(LENGTH) > first))


@pytest.mark.parametrize("impulses", [(), (0,)])
def test_what_comes_after_the_last_value_moves_later_times_alone(impulses):
    process, one = built(impulses=impulses), series()
    found = process.posterior(one, generator=generator())
    for other in changed(one, LAST - 1):
        again = process.posterior(other, generator=generator())
        assert torch.equal(found.z[:, :LAST], again.z[:, :LAST])
        assert torch.equal(found.kl, again.kl)
        assert not torch.allclose(found.z[:, LAST:], again.z[:, LAST:], atol=1e-3)


def test_without_an_end_later_doses_would_tell_of_the_past():
    """The fault that the test above is for: a reader that looks at all doses there are."""
    plain = LaterValues.__init__

    def looking(self, *args, ends, **told):
        plain(self, *args, **told)

    with patch.object(LaterValues, "__init__", looking):
        process = built()
    one = series()
    found, again = (process.posterior(each, generator=generator()) for each in (one, changed(one, LAST - 1)[0]))
    assert not torch.equal(found.z[:, :LAST], again.z[:, :LAST])


def test_after_the_last_value_the_posterior_adds_nothing_to_kl():
    process, one = built(), series()
    shorter = Series(*(getattr(one, name)[:, :LAST] for name in ("seen", "there")), one.context, one.times[:, :LAST])
    shorter = replace(shorter, controls=one.controls[:, :LAST])
    many, few = (
        Series(**{n: each.repeat(3_000, *[1] * (each.ndim - 1)) for n, each in vars(s).items() if each is not None})
        for s in (one, shorter)
    )
    with torch.no_grad():
        whole, part = (process.posterior(s, generator=generator(k)).kl for k, s in enumerate((many, few)))
    error = ((whole.var() + part.var()) / len(part)).sqrt()
    assert abs(float(whole.mean() - part.mean())) < 4.5 * float(error)  # a false alarm in about 100,000
    assert float(part.mean()) > 0


def test_a_dose_acts_at_once_a_rate_while_it_lasts_and_none_does_nothing():
    process, one = built(controls=2), series(controls=2)
    nought = torch.tensor([[-0.7, 0.4]]).expand(4, -1)
    still = replace(one, times=torch.zeros(4, LENGTH), nought=nought)  # no time passes at all
    paths = []
    for dose, rate in ((0.0, 0.0), (0.0, 3.0), (2.0, 0.0)):
        controls = nought[:, None] + torch.tensor([dose, rate]).expand(4, LENGTH, 2)
        paths.append(process.prior(replace(still, controls=controls), generator=generator()))
    none, rate, dose = paths
    assert torch.allclose(none, none[:, :1].expand_as(none), atol=1e-5)
    assert torch.allclose(rate, none, atol=1e-5)
    assert not torch.allclose(dose[:, 1:], none[:, 1:], atol=1e-2)


def test_values_of_a_time_know_nothing_of_its_dose():
    """Through the whole surrogate: a dose that was chosen by a value must not tell of it."""
    observables = {name: Observable((LENGTH,), dims=("time",)) for name in ("x", "dose")}
    learned = LatentDynamics(Prior.none(), observables, Controlled(2, impulses=(0,)), given=("dose",))
    dose = torch.rand(3, LENGTH, generator=generator(1))
    other = torch.where(torch.arange(LENGTH) >= 4, dose + 1, dose)
    theta = torch.zeros(3, 0)
    one, two = (learned.draw(theta, {"dose": each}, generator=generator()) for each in (dose, other))
    assert torch.equal(one[:, :5], two[:, :5])
    assert not torch.allclose(one[:, 5:], two[:, 5:], atol=1e-3)


def linear(process, *, own, weight=0.0):
    """dz = (own z + weight w) dt."""
    with torch.no_grad():
        process.field.weight.zero_()
        process.field.bias.zero_()
        process.field.weight[0, 0] = own
        if weight:
            process.field.bias[1] = weight
    return process


def test_a_linear_equation_has_the_path_that_it_should():
    process = linear(built(controls=0, states=1, weights=0, impulses=(), steps=8), own=-0.8)
    one = replace(series(), controls=None)
    path = process.prior(one, generator=generator())[..., 0]
    exact = path[:, :1] * (-0.8 * (one.times - one.times[:, :1])).exp()
    assert torch.allclose(path, exact, atol=1e-3)


def test_weights_wander_as_a_stationary_process():
    """dz = w dt: var (z_t - z_0) = 2 (t/r - (1 - e^{-rt})/r^2); 20,000 rows, 4.5 standard errors: 1 in 100,000."""
    process = linear(built(controls=0, states=1, weights=1, impulses=(), steps=16), own=0.0, weight=1.0)
    rate, count, far = 0.9, 20_000, 3.0
    with torch.no_grad():
        process.log_rate.fill_(torch.tensor(rate).log())
        nothing = Series(torch.zeros(count, 2, 3), torch.zeros(count, 2, dtype=torch.bool), torch.zeros(count, 0))
        path = process.prior(
            replace(nothing, times=torch.tensor([[0.0, far]]).expand(count, -1)), generator=generator()
        )
    gone = (path[:, 1] - path[:, 0])[:, 0]
    exact = 2 * (far / rate - (1 - torch.tensor(-rate * far).exp()) / rate**2)
    assert abs(float(gone.var() / exact - 1)) < 4.5 * (2 / count) ** 0.5 + 2e-3  # steps of 0.19 are off by 0.1 %


@pytest.mark.parametrize("told", [{"states": 0}, {"weights": -1}, {"steps": 0}, {"hidden": 0}, {"impulses": (-1,)}])
def test_numbers_out_of_their_range_are_refused(told):
    with pytest.raises(ValueError, match=next(iter(told))):
        Controlled(**told)


def test_a_dose_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"impulses names \[1\], and there are 1 controls"):
        built(impulses=(0, 1))


def test_weights_that_do_not_wander_are_kept():
    """dz = w dt is a line then, and no line where w wanders."""
    one, bent = replace(series(), controls=None), []
    for wander in (False, True):
        process = built(controls=0, states=1, weights=1, impulses=(), wander=wander)
        path = linear(process, own=0.0, weight=1.0).prior(one, generator=generator())[..., 0].detach()
        speed = path.diff(dim=1) / one.times.diff(dim=1)
        bent.append(float((speed - speed[:, :1]).abs().max()))
    assert bent[0] < 1e-4 < 1e-2 < bent[1]
    assert torch.equal(built(wander=False).rates(), torch.zeros(2))
