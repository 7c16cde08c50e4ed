"""Questions to a generator whose law is exactly that of the equation: all answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td

from sciinf.core import Batch, Observable, Prior
from sciinf.emulators import Field, Frame, Generator, conditioned
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import Frames, JointTokens, MixtureTokens, Patches
from sciinf.lab.stochastic import Ancestral
from sciinf.networks.diffusion.events import Event
from sciinf.networks.diffusion.inverse import Measured
from sciinf.networks.diffusion.product import Product
from simulators.pde.forced_burgers import ForcedBurgers

NET = TokenTransformer(8, 1, heads=1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def world():
    """A linear equation whose parameters hardly vary, and its law: a network that says 0 is right."""
    narrow = {"viscosity": td.LogNormal(-4.6, 1e-4), "forcing": td.Uniform(0.7, 0.7001)}
    equation = ForcedBurgers(16, (0.0, 0.1, 0.2, 0.3), steepening=0.0, longest=0.1, **narrow)
    theta = equation.prior.sample(6_000, generator=generator())
    rows = Batch(theta, equation(theta, generator=generator(1)))
    law = Generator(equation.prior, equation.observables, network=NET)
    law.standardise(lambda: iter([rows]))
    for parameter in law.law.network.out.parameters():
        torch.nn.init.zeros_(parameter)
    start = {"initial": rows.x["initial"][:1]}
    mean, covariance = equation.law(theta[:1], start["initial"], 0.3)
    return law, theta[:1], start, mean[0, 0].float(), covariance[0].float()


def asked_of(right, told):
    """A generator of another kind with the same law: of independent innovations, a network that says 0 is right."""
    other = Generator(right.prior, right.observables, network=NET, **told)
    for name in ("theta_mean", "theta_sd", "given_mean", "given_sd", "target_mean", "target_sd", "step_sd"):
        getattr(other, name).copy_(getattr(right, name))
    for name in ("plain", "first", "units"):
        getattr(other, name).load_state_dict(getattr(right, name).state_dict())
    for parameter in (*other.law.network.out.parameters(), *([other.law.apart] if "law" in told else [])):
        torch.nn.init.zeros_(parameter)
    return other


@pytest.mark.slow
def test_sensors_tell_the_rest_of_the_field_and_the_likelihood(world):
    law, theta, start, mean, covariance = world
    at, sd = torch.tensor([0, 5, 11]), 0.05
    seen = mean[at] + torch.tensor([0.2, -0.15, 0.1])
    found = conditioned(law, theta, start, Measured(lambda u: u[:, -1, 0, at], seen, sd), 500, generator=generator())
    s = covariance[at][:, at] + sd**2 * torch.eye(3)
    gain = torch.linalg.solve(s, covariance[at]).mT
    exact = td.MultivariateNormal(mean[at], s).log_prob(seen)
    assert found.log_evidence == pytest.approx(float(exact), abs=4 * found.error + 0.1)
    middle, sds = mean + gain @ (seen - mean[at]), (covariance - gain @ covariance[at]).diagonal().sqrt()
    drawn = found.resample(500, generator=generator())
    assert drawn.shape == (500, 3, 1, 16)
    assert float(((drawn[:, -1, 0].mean(0) - middle) / sds).abs().max()) < 0.3
    assert torch.allclose(drawn[:, -1, 0].std(0) / sds, torch.ones(16), atol=0.2)
    assert float(((mean - middle) / sds).abs().max()) > 1  # the fault: nothing was seen


@pytest.mark.slow
@pytest.mark.parametrize("told", [{}, {"order": Frames(2)}, {"order": Frames(1), "law": MixtureTokens(2)}])
def test_how_probable_it_is_that_a_wave_is_high(world, told):
    """Of every kind of generator; three standard errors of log P are .4 at 1 sd and .9 at 3 (seeds are given)."""
    law, theta, start, mean, covariance = world
    law = asked_of(law, told)
    for sds in (1.0, 3.0):
        level = float(mean[3] + sds * covariance[3, 3].sqrt())
        found = conditioned(law, theta, start, Event(lambda u: u[:, -1, 0, 3], level), 200, generator=generator(2))
        exact = math.log(0.5 * math.erfc(sds / math.sqrt(2)))
        assert found.log_evidence == pytest.approx(exact, abs=3 * found.error)
        assert found.x.shape[1] == 3  # and no frame more, where blocks of two go beyond the last
        assert found.error < (0.25 if sds == 1 else 0.5)
        assert float((found.x[:, -1, 0, 3] > level).float() @ found.log_weight.exp()) == pytest.approx(1.0)


def test_an_event_beside_measurements_and_more_than_one_start_are_refused(world):
    law, theta, start, mean, _ = world
    event = Event(lambda u: u[:, -1, 0].amax(1), 1.0)
    seen = Measured(lambda u: u[:, -1, 0, :2], mean[:2], 0.1)
    with pytest.raises(ValueError, match="far too improbable: let the generator learn Sensors"):
        conditioned(law, theta, start, Product(seen, Product(event)), 100, generator=generator())
    for one, what, says in ((law, lambda u: u, "Measured, an Event"), (start, event, "fit.surrogate")):
        with pytest.raises(TypeError, match=says):
            conditioned(one, theta, start, what, 100, generator=generator())
    with pytest.raises(TypeError, match="a Product takes Measured and Event"):
        Product([seen, event])  # pyright: ignore[reportArgumentType]
    two = {name: value.expand(2, -1, -1) for name, value in start.items()}
    for one, other in ((theta, two), (theta.expand(2, -1), start)):
        with pytest.raises(ValueError, match="one start is asked about at a time, and .* has 2 rows"):
            conditioned(law, one, other, event, 100, generator=generator())


def test_laws_that_are_too_sure_or_of_another_kind_say_so(world):
    law, theta, start, mean, _ = world
    event = Event(lambda u: u[:, -1, 0, 3], float(mean[3]))
    try:
        law.missing[-1] = 0.5
        with pytest.warns(UserWarning, match=r"50% of the variance of solutions is missing"):
            conditioned(law, theta, start, event, 80, generator=generator(), steps=20)
    finally:
        law.missing[-1] = 0.0
    measured = Measured(lambda u: u[:, -1, 0, :2], mean[:2], 0.1)
    for told in ({"order": Frames(1)}, {"law": MixtureTokens()}):
        other = Generator(law.prior, law.observables, network=NET, **told)
        with pytest.raises(ValueError, match="all frames at once by diffusion"):
            conditioned(other, theta, start, measured, 50, generator=generator())
    noisy = Generator(law.prior, law.observables, network=NET, law=JointTokens(solver=Ancestral(8)))
    with pytest.raises(ValueError, match=r"no function of the noise they start from: Exponential\(\) is one"):
        conditioned(noisy, theta, start, event, 80, generator=generator())


def test_fields_that_stay_are_known_in_every_frame():
    """A law of three frames that keeps to a hill: measurements of it are as likely as the hill says."""
    prior, draw = Prior.none(), generator()
    fields = {"initial": Observable((1, 8)), "hill": Observable((1, 8)), "u": Observable((3, 1, 8))}
    initial, hill = torch.randn(2, 2_000, 1, 8, generator=draw)
    u = torch.stack([initial, initial + hill, initial + 2 * hill], 1)
    u[:, 1:] += 0.1 * torch.randn(2_000, 2, 1, 8, generator=draw)
    rows = Batch(torch.empty(2_000, 0), {"initial": initial, "hill": hill, "u": u})
    law = Generator(prior, fields, Patches(2), given=[Frame(0), Field("hill")], network=NET)
    law.standardise(lambda: iter([rows]))
    for parameter in law.law.network.out.parameters():
        torch.nn.init.zeros_(parameter)
    start = {name: rows.x[name][:1] for name in ("initial", "hill")}
    seen = Measured(lambda v: v[:, 0, 0, :1], u[0, 1, 0, :1], 0.05)
    found = conditioned(law, torch.empty(1, 0), start, seen, 200, generator=generator(), steps=50)
    exact = td.Normal(initial[0, 0, 0] + hill[0, 0, 0], math.hypot(0.1, 0.05)).log_prob(u[0, 1, 0, 0])
    assert found.log_evidence == pytest.approx(float(exact), abs=0.4)
