"""Stochastic equations that are learned, beside exact likelihoods of their chain of steps and laws of their noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Uniform

from sciinf import Observable, Prior
from sciinf.core import Batch
from sciinf.core.component import to_json
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import Brownian, Fractional, NeuralSDE, Series, Sizes
from sciinf.emulators.processes.bayes_steps import Told, new_noise
from sciinf.networks.solver_cost import local_error
from sciinf.simulators.dynamics.noise import MarkovFractional

STEPS, SEEN = 2, 0.4
TIMES = torch.tensor([[0.0, 0.5, 1.7, 2.0]])
VALUES = torch.tensor([[0.3, -0.6, 0.8, 0.2]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def series_of(rows, values=VALUES, times=TIMES, context=0):
    seen = values[..., None].expand(rows, -1, -1)
    there = torch.ones(rows, values.shape[1], dtype=torch.bool)
    return Series(seen, there, torch.zeros(rows, context), times.expand(rows, -1))


def linear(count=1, **more):
    """A process with a linear drift, of weights that are not special."""
    process = NeuralSDE(count, steps=STEPS, hidden=0, width=8, **more).build(Sizes(1, 0, 0), seed=1)
    draw = generator(5)
    with torch.no_grad():
        turn = torch.tensor([[-0.6, 0.9], [-0.9, -0.4]])[:count, :count]
        process.flow.direct.weight.copy_(turn)
        process.flow.direct.bias.fill_(0.2)
        process.start.direct.bias.copy_(torch.tensor([0.3, -0.2][:count] + [0.1, -0.3][:count]))
        for part in (process.later.say, process.later.look):
            part.weight.copy_(0.3 * torch.randn(part.weight.shape, generator=draw))
    return process


def exact(process):
    """log likelihood of values of the first number of a path, by the joint law of all of the chain, float64."""
    count = process.states
    matrix, bias = process.flow.direct.weight.detach().double(), process.flow.direct.bias.detach().double()
    start, log_sd = process.start(torch.zeros(1, 0))[0].detach().double().chunk(2)
    g = process.diffusion(torch.zeros(1, 0))[0].detach().double()
    eye = torch.eye(count).double()
    mean, covariance, means, covariances = start, torch.diag((2 * log_sd).exp()), [start], []
    blocks = [[covariance]]
    for gap in TIMES[0].diff().tolist():
        h, through = gap / STEPS, eye
        for _ in range(STEPS):
            m = h * matrix
            push = eye + m / 2 @ (eye + m / 3 @ (eye + m / 4))
            step = eye + m @ push
            mean = step @ mean + h * push @ bias
            covariance = step @ covariance @ step.T + h * torch.diag(g.square())
            through = step @ through
        blocks.append([through @ each for each in blocks[-1]] + [covariance])
        means.append(mean)
    law = torch.stack([m[0] for m in means])
    for j in range(4):
        covariances.append([blocks[max(i, j)][min(i, j)][0, 0] for i in range(4)])
    noisy = torch.tensor(covariances, dtype=torch.float64) + SEEN**2 * torch.eye(4).double()
    return float(torch.distributions.MultivariateNormal(law, noisy).log_prob(VALUES[0].double()))


@pytest.mark.parametrize("count", [1, 2])
def test_its_evidence_is_that_of_its_chain_and_its_bound_is_below(count):
    """20,000 draws; false alarms: 4.5 standard errors, below 1 in 100,000."""
    process, rows = linear(count), 20_000
    with torch.no_grad():
        found = process.posterior(series_of(rows), generator=generator(2))
        log = torch.distributions.Normal(found.z[..., 0], SEEN).log_prob(VALUES).sum(-1).double()
    truth = exact(process)
    weight = (log - found.log_ratio.double() - truth).exp()
    error = float(weight.std()) / rows**0.5
    assert error < 0.05
    assert abs(float(weight.mean()) - 1) < 4.5 * error
    bound, noise = (log - found.kl.double()).mean(), (log - found.kl.double()).std() / rows**0.5
    assert float(bound) < truth - 4.5 * float(noise)
    wrong = (log - found.kl.double() - truth).exp()  # the fault: the mean of KL, which is not of this path
    assert abs(float(wrong.mean()) - 1) > 4.5 * float(wrong.std()) / rows**0.5
    wrong = (log - truth).exp()  # the fault: no KL
    assert abs(float(wrong.mean()) - 1) > 4.5 * float(wrong.std()) / rows**0.5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_step_that_is_told_of_a_value_is_by_bayes_rule(count):
    """KL - E log p(x | z') = -log p(x), for any x, where y is x and Lambda the precision of its noise."""
    draw = generator(1)
    root = torch.randn(7, count, count, generator=draw)
    sd, ahead, x = (torch.rand(7, count, generator=draw) + 0.2 for _ in range(3))
    told = Told(torch.zeros(7, 1), torch.zeros(7, 1), 0.3 * torch.ones(7, count), torch.ones(7))
    found = new_noise(torch.zeros(7, count), x - ahead, root, sd, told)
    precision = root.mT.double()  # of rows: P = L L'
    precision = torch.linalg.inv(torch.linalg.inv(precision.mT @ precision) + 0.09 * torch.eye(count).double())
    spread = torch.diag_embed(sd.double().square())
    law = torch.distributions.MultivariateNormal(ahead.double(), spread + torch.linalg.inv(precision))
    mean = ahead.double() + sd.double() * found.e.double()  # white noise is 0: e is its mean
    left = torch.linalg.inv(torch.linalg.inv(spread) + precision)
    seen = torch.distributions.MultivariateNormal(mean, precision_matrix=precision).log_prob(x.double())
    seen = seen - 0.5 * (precision @ left).diagonal(dim1=-2, dim2=-1).sum(-1)
    assert torch.allclose(seen - found.kl.double(), law.log_prob(x.double()), atol=1e-3)


def test_of_short_steps_the_kl_is_girsanovs():
    """1/2 |g Lambda (y - z)|^2 h, up to a part that goes as h^2."""
    root, off, g, h = torch.tensor([[[0.8]]]), torch.tensor([[2.0]]), 0.7, torch.tensor([1e-3, 1e-4])
    girsanov = 0.5 * (g * 0.64 * 2.0) ** 2 * h
    for k, length in enumerate(h):
        told = Told(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1))
        kl = new_noise(torch.zeros(1, 1), off, root, g * length.sqrt()[None, None], told).kl
        assert float(kl / girsanov[k]) == pytest.approx(1.0, abs=20 * float(length) + 2e-3)


def test_where_nothing_later_was_seen_the_path_follows_the_prior():
    process, series = linear(2), series_of(50)
    blank = series.blank()
    one, two = process.posterior(blank, generator=generator()), process.prior(series, generator=generator())
    assert torch.allclose(one.z, two, atol=1e-5)
    assert bool((one.kl == 0).all())
    there, times = torch.tensor([[True, True, False, False]]).expand(50, -1), series.clock()
    half = Series(series.seen * there[..., None], there, series.context, times)
    longer = process.posterior(half, generator=generator())
    cut = Series(half.seen[:, :2], there[:, :2], series.context, times[:, :2])
    shorter = process.posterior(cut, generator=generator())
    assert torch.allclose(longer.kl.mean(), shorter.kl.mean(), atol=0.01)
    assert float(longer.kl.mean()) > 0.01


def decaying(theta, z, t):
    """What a scientist knows: decay in 1/s, from 2 s on."""
    return -theta["rate"][:, None] * z * (t[:, None] > 2.0)


def test_a_known_drift_has_its_own_units_of_parameters_states_and_time():
    process = NeuralSDE(2, known=decaying, scales=(100.0, 5.0), unknown=(), steps=40, width=4).build(
        Sizes(1, 1, 0, ("rate",)), seed=0
    )
    with torch.no_grad():
        process.scale.direct.bias.fill_(-12.0)
        process.start.direct.bias.copy_(torch.tensor([2.0, 1.0, -12.0, -12.0]))
    # times from 1.5 s on, 0.25 s a mean step
    theta, clock = torch.tensor([[3.0], [1.0]]), torch.tensor([0.0, 2.0, 6.0]).expand(2, -1)
    none = torch.zeros(2, 3, 1)
    series = Series(none, none[..., 0] > 0, theta - 2, clock, theta=theta, unit=torch.full((2,), 0.25))
    path = process.prior(_with(series, origin=torch.full((2,), 1.5)), generator=generator())
    truth = torch.tensor([200.0, 5.0]) * (-theta * 1.0).exp()
    assert torch.allclose(path[:, 1], torch.tensor([200.0, 5.0]).expand(2, -1), rtol=1e-2)
    assert torch.allclose(path[:, 2], truth, rtol=2e-2)
    early = process.prior(_with(series, origin=torch.full((2,), 2.5)), generator=generator())
    assert not torch.allclose(early[:, 2], truth, rtol=0.2)  # the fault: another origin of time
    other = process.prior(_with(series, unit=torch.full((2,), 1.0)), generator=generator())
    assert not torch.allclose(other[:, 2], truth, rtol=0.2)  # the fault: time in mean steps


def _with(series, **more):
    from dataclasses import replace

    return replace(series, **more)


def test_seen_numbers_of_a_path_are_the_target_in_its_units():
    observables = {"x": Observable((4, 1), "m", dims=("time", "channel"))}
    prior = Prior(rate=Uniform(0.5, 3.0))
    process = NeuralSDE(2, known=decaying, scales=(100.0, 5.0), unknown=(), steps=1, width=4)
    made = LatentDynamics(prior, observables, process, width=4, columns=(0,))
    theta, x = torch.ones(3, 1), {"x": torch.full((3, 4, 1), 120.0)}
    made.emission.center.fill_(80.0)
    made.emission.scale.fill_(30.0)
    z = torch.full((3, 4, 2), 120.0)
    series = made.series(theta, x)
    sd = 30 * float(made.emission.log_sd.exp())
    expected = 4 * torch.distributions.Normal(120.0, sd).log_prob(torch.tensor(120.0))
    assert torch.allclose(made.likelihood(series, z, x), expected.expand(3), atol=1e-3)
    for wrong in ((0, 1), (2,)):
        with pytest.raises(ValueError, match="columns"):
            LatentDynamics(prior, observables, process, columns=wrong)


def rough(hurst=0.3, count=1):
    process = NeuralSDE(count, noise=Fractional(8.0, hurst), steps=1, hidden=0, width=4).build(Sizes(1, 0, 0), seed=0)
    with torch.no_grad():
        process.flow.direct.weight.zero_()
        process.start.direct.bias[count:] = -12.0
    return process


@pytest.mark.slow
@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_rough_paths_have_the_law_of_fractional_motion(hurst):
    """Variances of B(t), t^{2H} / (2H Gamma(H + 1/2)^2), at 8 times; 20,000 paths: 4.5 standard errors, 1 in 10,000."""
    times = torch.tensor([[0.0, 0.5, 1.0, 1.5, 3.0, 4.0, 5.0, 7.0, 8.0]])
    blank = torch.zeros(20_000, 9, 1)
    series = Series(blank, blank[..., 0] > 0, torch.zeros(20_000, 0), times.expand(20_000, -1))
    with torch.no_grad():
        path = rough(hurst).prior(series, generator=generator())[..., 0].double() / 0.5
    exact = times[0].double() ** (2 * hurst) / (2 * hurst * math.gamma(hurst + 0.5) ** 2)
    ratio = path.square().mean(0)[1:] / exact[1:]
    assert float((ratio - 1).abs().max()) < 4.5 * (2 / 20_000) ** 0.5 + 0.01  # and what six processes miss
    plain = times[0, 1:].double() / exact[1:]
    assert float((plain - 1).abs().max()) > 0.2  # the fault: Brownian motion
    step = (path[:, 2] - path[:, 1]) * (path[:, 3] - path[:, 2])
    assert (float(step.mean()) < 0) == (hurst < 0.5)  # turns back, or goes on


@pytest.mark.parametrize("hurst", [0.12, 0.3, 0.61, 0.93])
def test_weights_between_the_points_are_those_of_the_index(hurst):
    driver = Fractional(8.0, hurst).build(0)
    exact = MarkovFractional(torch.tensor([hurst]), 8.0, fastest=100.0).weights
    assert torch.allclose(driver.weights(torch.zeros(1, 0)), exact, rtol=1e-6, atol=1e-8)


def test_the_evidence_of_a_rough_path_does_not_depend_on_its_posterior():
    """One value after one step and a second: log p is Gaussian; 20,000 draws, 4.5 standard errors."""
    process = rough()
    with torch.no_grad():
        process.later.say.weight.copy_(0.3 * torch.randn(process.later.say.weight.shape, generator=generator(3)))
        series = series_of(20_000, VALUES[:, :2], torch.tensor([[0.0, 2.0]]))
        found = process.posterior(series, generator=generator())
        log = torch.distributions.Normal(found.z[:, 1, 0], SEEN).log_prob(VALUES[0, 1]).double()
    exact = 0.25 * 2.0**0.6 / (0.6 * math.gamma(0.8) ** 2)
    truth = torch.distributions.Normal(0.0, (exact + SEEN**2) ** 0.5).log_prob(VALUES[0, 1])
    weight = (log - found.log_ratio.double() - float(truth)).exp()
    assert abs(float(weight.mean()) - 1) < 4.5 * float(weight.std()) / 20_000**0.5 + 5e-3


def test_the_index_can_be_learned_and_is_read_off():
    process = NeuralSDE(1, noise=Fractional(8.0), steps=1, width=4).build(Sizes(1, 0, 0), seed=0)
    assert float(process.driver.index(torch.zeros(1, 0)).detach()) == pytest.approx(0.525)
    found = process.posterior(series_of(4), generator=generator())
    (slope,) = torch.autograd.grad(found.z.square().sum(), process.driver.head.direct.bias)
    assert float(slope.abs()) > 1e-4


def swinging(theta, z, t):
    return torch.stack([z[:, 1], -4.0 * z[:, 0]], 1) + t[:, None]


def test_the_price_of_a_drift_is_what_a_solver_sees_along_the_path():
    """Of a drift M z + t the stiffness along any path is between the least and the largest stretch of M, 1 and 4."""
    told = {"known": swinging, "unknown": (), "width": 4, "steps": STEPS}
    z = torch.randn(3, 4, 2, generator=generator())
    series = Series(torch.ones(3, 4, 1), torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, 0), TIMES.expand(3, -1))
    process = NeuralSDE(2, penalty=2.0, penalised="stiffness", **told).build(Sizes(1, 0, 0), seed=0)
    assert 2 * 1.0 < float(process.cost(series, z)) < 2 * 4.0
    errors = NeuralSDE(2, penalty=1.0, **told).build(Sizes(1, 0, 0), seed=0).cost(series, z)
    starts, lengths = TIMES[0, :-1].repeat(3)[:, None], TIMES[0].diff().repeat(3)[:, None] / STEPS
    by_hand = local_error(lambda t, y: swinging({}, y, t[:, 0]), starts, z[:, :-1].flatten(0, 1), lengths)
    assert float(errors) == pytest.approx(float((by_hand * lengths).square().mean().sqrt() / lengths.mean()), rel=1e-5)
    assert float(NeuralSDE(2, **told).build(Sizes(1, 0, 0), seed=0).cost(series, z)) == 0.0
    bent = NeuralSDE(2, penalty=1.0).build(Sizes(1, 0, 0), seed=0)
    path = z.clone().requires_grad_()
    assert float(torch.autograd.grad(bent.cost(series, path), path)[0][:, :-1].abs().min()) > 0  # slopes through it
    one = Series(torch.ones(3, 1, 1), torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 0))
    assert float(process.cost(one, z[:, :1])) == 0.0


def test_the_price_is_paid_in_training_and_is_no_part_of_the_bound():
    losses, prior, x = {}, Prior.none(), {"x": torch.randn(6, 5, generator=generator())}
    for penalty in (0.0, 3.0):
        told = {"penalty": penalty, "penalised": "stiffness"} if penalty else {}
        surrogate = LatentDynamics(prior, {"x": Observable((5,))}, NeuralSDE(2, **told), width=4)
        batch = Batch(torch.zeros(6, 0), x)
        surrogate.standardise(lambda batch=batch: iter([batch]))
        series = surrogate.series(batch.theta, x)
        paid = surrogate.process.cost(series, surrogate.process.posterior(series, generator=generator()).z)
        for mode in (True, False):
            losses[penalty, mode] = surrogate.train(mode).loss(batch, generator=generator())
    assert float(paid.detach()) > 0.01
    torch.testing.assert_close(losses[3.0, True] - losses[0.0, True], paid.expand(6), atol=1e-5, rtol=1e-4)
    assert torch.equal(losses[3.0, False], losses[0.0, False])


def test_a_drift_without_a_price_is_described_as_before_there_were_prices():
    assert {"penalty", "penalised"}.isdisjoint(to_json(NeuralSDE(2))["arguments"])
    found = to_json(NeuralSDE(2, penalty=1.0, penalised="stiffness"))["arguments"]
    assert (found["penalty"], found["penalised"]) == (1.0, "stiffness")


def test_bad_arguments_are_named():
    for wrong, words in (
        (lambda: NeuralSDE(2, scales=(1.0,)), "scales"),
        (lambda: NeuralSDE(2, unknown=(0,)), "unknown"),
        (lambda: NeuralSDE(2, known=decaying, unknown=(2,)), "unknown"),
        (lambda: NeuralSDE(2, steps=0), "steps"),
        (lambda: NeuralSDE(2, penalty=-1.0), "penalty"),
        (lambda: NeuralSDE(2, penalty="1"), "penalty must be a number"),
        (lambda: NeuralSDE(2, penalty=1.0, penalised="local"), "is one of"),
        (lambda: NeuralSDE(2, penalised="stiffness"), "give NeuralSDE\\(penalty=...\\) too"),
        (lambda: Fractional(0.0), "horizon"),
        (lambda: Fractional(5.0, 0.05), "Hurst"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()
    assert Brownian().build(0).terms == 0

    process = NeuralSDE(2, known=of_one_number, unknown=(), width=4).build(Sizes(1, 0, 0), seed=0)
    with pytest.raises(ValueError, match="same shape"):
        process.prior(series_of(3), generator=generator())


def of_one_number(theta, z, t):
    return -z[:, 0]
