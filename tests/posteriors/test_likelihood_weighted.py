"""A network's draws weighted by a learned likelihood: right where it is right, and left alone where it is not."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributions as td
from untrained import Untrained

from sciinf import simulate
from sciinf.core import Density, Fit, Observable, Potential, Prior, Simulator
from sciinf.diagnostics.around import simulate_around
from sciinf.diagnostics.here import Local, check_here, local_finding
from sciinf.diagnostics.right import Kind
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.around import Law, Mixture
from sciinf.posteriors.around_one import Lowered
from sciinf.posteriors.likelihood_weighted import LikelihoodWeighted, best_power, inside, resampled
from sciinf.posteriors.refined import Refined
from sciinf.posteriors.rounds import gather

PRIOR = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0))
SEEN = {"x": Observable((2,))}
X = {"x": torch.tensor([[0.5, -0.3]])}
NOISE, WIDE = 0.1, 0.2
LAW = Law(torch.tensor([0.5, -0.3]).double(), torch.eye(2).double() * WIDE)
MIXTURE = Mixture(PRIOR, [(1.0, LAW)], {})
RECORD = {"store": {"digest": "d", "seed": 0, "used": 1, "rows": 1}}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def exact(x, wide):
    """Means (batch, 2) and sd of the posterior under a normal law about the observation, or the prior (wide = 1)."""
    centre = LAW.centre if wide == WIDE else torch.zeros(2).double()
    precision = 1 / NOISE**2 + 1 / wide**2
    return (x.double() / NOISE**2 + centre / wide**2) / precision, precision**-0.5


class Copy(Simulator):
    """x = theta + noise."""

    name, observables, prior = "copy", SEEN, PRIOR

    def __call__(self, theta, *, generator):
        return {"x": theta + NOISE * torch.randn(theta.shape, generator=generator)}


class Given(Untrained):
    """What it gives is off by some sds, and of another width."""

    prior, observables = PRIOR, SEEN

    def __init__(self, off, width):
        super().__init__()
        self.off, self.width = off, width


class Network(Given):
    """The posterior under the law, off by some sds and of another width."""

    def condition(self, x):
        mean, sd = exact(x["x"], WIDE)
        return Normal(td.Normal(mean + self.off * sd, self.width * sd))


class Normal(Density):
    def __init__(self, law):
        self.law = law

    def sample(self, n, *, generator):
        noise = torch.randn(n, *self.law.mean.shape, generator=generator, dtype=torch.float64)
        return (self.law.mean + noise * self.law.stddev).float()

    def log_prob(self, theta):
        return self.law.log_prob(theta.double()).sum(-1)


class Straying(Network):
    """One of its draws lies nearly four sds of the law away, where its density is next to nothing."""

    def condition(self, x):
        return Astray(super().condition(x).law)


class Astray(Normal):
    def sample(self, n, *, generator):
        theta = super().sample(n, generator=generator)
        theta[0, ..., 0] += 0.74
        return theta

    def log_prob(self, theta):
        return torch.logaddexp(super().log_prob(theta), torch.tensor(-20.0).double())


class Heard(Given):
    """The likelihood, of data moved by some sds."""

    normalised = False

    def condition(self, x):
        return Seen(x["x"].double() + self.off * NOISE, NOISE * self.width)


class Seen(Potential):
    def __init__(self, x, noise):
        self.x, self.noise = x, noise

    def log_likelihood(self, theta):
        return td.Normal(theta.double(), self.noise).log_prob(self.x).sum(-1)


def fit(estimator):
    return Fit(estimator, f"{type(estimator).__name__} {estimator.off} {estimator.width}", {}, RECORD, Path())


def weighted(network=(0.0, 1.0), likelihood=(0.0, 1.0), power=1.0):
    return LikelihoodWeighted(Amortised(fit(Network(*network))), fit(Heard(*likelihood)), MIXTURE, LAW, power)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    rows = simulate(Copy(), folder / "s", 2_000, seed=1, proposal=MIXTURE, progress=False)
    return gather([rows], folder / "near", Copy(), {}, partial(inside, PRIOR, LAW), newest_too=True)


def test_a_wrong_network_is_put_right_by_the_likelihood():
    """Off by half an sd and a fifth too wide, in 20,000 draws: errors of five times chance would be seen."""
    found = weighted(network=(0.5, 1.2))
    theta = found.draw_batched(X, 20_000, generator=generator())[:, 0].double()
    mean, sd = exact(X["x"], WIDE)
    assert ((theta.mean(0) - mean[0]) / sd).abs().max() < 0.06
    assert (theta.std(0) / sd - 1).abs().max() < 0.04
    log = found.log_prob_batched(theta[:100, None].float(), X)[:, 0]
    assert (log - td.Normal(mean[0], sd).log_prob(theta[:100]).sum(1)).abs().max() < 0.05


def test_a_refined_posterior_is_the_one_under_the_prior():
    found = Refined(fit(Network(0.5, 1.2)), MIXTURE, LAW, X, frozenset(), likelihood=(fit(Heard(0.0, 1.0)), 1.0))
    theta = found.draw_batched(X, 20_000, generator=generator())[:, 0].double()
    mean, sd = exact(X["x"], 1.0)
    assert ((theta.mean(0) - mean[0]) / sd).abs().max() < 0.06
    assert (theta.std(0) / sd - 1).abs().max() < 0.05
    log = found.log_prob_batched(theta[:100, None].float(), X)[:, 0]
    assert (log - td.Normal(mean[0], sd).log_prob(theta[:100]).sum(1)).abs().max() < 0.1
    assert found.reaches(X)
    alone = Refined(fit(Network(0.5, 1.2)), MIXTURE, LAW, X, frozenset())
    assert found.digest != alone.digest
    assert "weighted by a likelihood that was learned" in found.scope
    assert "weighted" not in alone.scope


@pytest.mark.parametrize("likelihood", [None, 1.0, 0.4])
def test_the_gradient_of_a_refined_density_is_that_of_all_its_factors(likelihood):
    """Or there is none, where the network gives none: that of the weights alone would lead to another mode."""
    network = fit(Network(0.5, 1.2))
    heard = (fit(Heard(0.2, 1.0)), likelihood) if likelihood else None
    found = Refined(network, MIXTURE, LAW, X, frozenset(), likelihood=heard)
    theta = torch.tensor([[[0.6, -0.2]]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(found.log_prob_batched(theta, X).sum(), theta)
    step = 1e-4 * torch.eye(2).double()[:, None]
    high, low = (found.log_prob_batched((theta.detach() + s * step).reshape(2, 1, 2), X)[:, 0] for s in (1, -1))
    assert slope[0, 0] == pytest.approx((high - low).numpy() / 2e-4, rel=1e-3)
    network.estimator.condition = lambda x: Still(Network(0.5, 1.2).condition(x).law)
    assert found.log_prob_batched(theta, X).requires_grad == (likelihood is not None)


class Still(Normal):
    """A density without gradients."""

    @torch.no_grad()
    def log_prob(self, theta):
        return super().log_prob(theta)


@pytest.mark.parametrize(
    ("network", "likelihood", "low", "high"),
    [
        ((0.5, 1.2), (0.0, 1.0), 0.9, 1.0),
        ((0.0, 1.0), (0.5, 1.0), 0.0, 0.1),
        ((0.0, 1.0), (0.0, 0.7), 0.0, 0.2),
        ((0.4, 1.0), (-0.4, 1.0), 0.4, 0.6),
    ],
)
def test_the_likelihood_counts_as_far_as_held_out_rows_speak_for_it(network, likelihood, low, high, rows):
    """Where one of both is right it is that one; where they are wrong by as much, what lies between is right."""
    power = best_power(weighted(network, likelihood), rows, 0.2, X)
    assert low <= power <= high
    theta = weighted(network, likelihood, power).draw_batched(X, 20_000, generator=generator())[:, 0].double()
    mean, sd = exact(X["x"], WIDE)
    assert ((theta.mean(0) - mean[0]) / sd).abs().max() < 0.1
    assert (theta.std(0) / sd - 1).abs().max() < 0.1


def test_a_density_between_both_adds_up_and_is_drawn_from():
    """Of normal laws one sd apart and of other widths, to the powers of .3 and .7: the normal law between them."""
    found = weighted(network=(1.0, 1.5), power=0.3)
    theta = found.draw_batched(X, 50_000, generator=generator())[:, 0].double()
    mean, sd = exact(X["x"], WIDE)
    precision = 0.7 / 1.5**2 + 0.3
    between = td.Normal(mean[0] + sd * 0.7 / 1.5**2 / precision, sd * precision**-0.5)
    assert ((theta.mean(0) - between.mean) / sd).abs().max() < 0.05
    assert (theta.std(0) / between.stddev - 1).abs().max() < 0.03
    log = found.log_prob_batched(theta[:100, None].float(), X)[:, 0]
    assert (log - between.log_prob(theta[:100]).sum(1)).abs().max() < 0.05


def test_a_draw_comes_twice_only_where_its_weight_is_more_than_a_share():
    """Of 4,000 draws with weights exp(a) for two observations, and a constant: 1,000 apart, with the tilted mean."""
    theta = 2.6 * torch.rand(4_000, 2, 2, generator=generator(), dtype=torch.float64) - 1.3
    log_w = torch.stack([theta[:, 0, 0], torch.full((4_000,), -math.inf, dtype=torch.float64)], dim=1)
    found = resampled(theta, log_w, 1_000, generator(1))
    assert len(found[:, 0].unique(dim=0)) == len(found[:, 1].unique(dim=0)) == 1_000
    tilted = log_w[:, 0].softmax(0) @ theta[:, 0]
    assert (found[:, 0].mean(0) - tilted).abs().max() < 4 / 1_000**0.5
    twice = resampled(
        theta, torch.where(torch.arange(4_000)[:, None] < 500, 0.0, -math.inf).expand(-1, 2), 1_000, generator()
    )
    assert len(twice[:, 0].unique(dim=0)) == 500


def test_rows_are_those_near_the_middle_of_the_last_law(rows):
    """Where |u|^2, of mean 2, is below 2 + 4 * 2."""
    u = (rows.load().theta.double() - LAW.centre).square().sum(1) / WIDE**2
    assert 9.0 < u.max() < 10.0


def outside(width, law):
    """A network of some width with the right likelihood, told inside a law of some width; its share inside; draws."""
    found = weighted(network=(0.0, width))
    found.last = Law(LAW.centre, torch.eye(2).double() * law)
    share = inside(PRIOR, found.last, found.network.draw_batched(X, 100_000, generator=generator())).double().mean()
    return found, share, found.draw_batched(X, 20_000, generator=generator(1))[:, 0].double()


def test_a_likelihood_lowers_a_network_where_it_was_not_learned():
    """A network four times too wide, of which most lies outside."""
    mean, sd = exact(X["x"], WIDE)
    found, share, theta = outside(4.0, NOISE)
    assert 0.2 < share < 0.4
    assert (theta.std(0) / sd - 1).abs().max() < 0.05
    theta = mean[0] + torch.tensor([[0.0, 0.0], [8.0, 8.0]]).double() * sd
    log = found.log_prob_batched(theta[:, None].float(), X)[:, 0] - share.log()
    assert log.tolist() == pytest.approx(td.Normal(mean[0], sd).log_prob(theta).sum(1).tolist(), abs=0.1)


def test_a_likelihood_does_not_raise_a_network_where_it_was_not_learned():
    """A network .6 times as wide as it should be, of which a fifth lies outside."""
    mean, sd = exact(X["x"], WIDE)
    found, share, theta = outside(0.6, 0.3 * NOISE)
    assert 0.7 < share < 0.85
    assert inside(PRIOR, found.last, theta).double().mean() == pytest.approx(float(share), abs=0.02)
    far = mean + 8 * sd
    expected = td.Normal(mean[0], 0.6 * sd).log_prob(far).sum()
    assert float(found.log_prob_batched(far[None].float(), X)) == pytest.approx(float(expected), abs=0.01)


def test_where_nothing_lies_inside_the_network_stays():
    found = weighted(network=(0.0, 2.0))
    found.last = Law(LAW.centre + 100.0, LAW.factor)
    theta = found.draw_batched(X, 20_000, generator=generator())[:, 0].double()
    assert (theta.std(0) / (2 * exact(X["x"], WIDE)[1]) - 1).abs().max() < 0.05
    assert (found.log_weight(theta[:9, None].float(), X) == 0).all()


def test_an_exact_refined_answer_is_called_right_at_its_observation():
    """Of laws six, three and one and a half times as wide as the answer, of which most rows lie outside the last."""
    laws = [Law(LAW.centre, torch.eye(2).double() * NOISE * k) for k in (6.0, 3.0, 1.5)]
    mixture = Mixture(PRIOR, [(1 / 3, law) for law in laws], {})
    network, heard = fit(Under(mixture)), (fit(Heard(0.0, 1.0)), 1.0)
    found = Refined(network, mixture, laws[-1], X, frozenset(), (0.0, 0.0), heard)
    theta = found.draw_batched(X, 2_000, generator=generator())[:, 0]
    around = simulate_around(found, Copy(), theta, rows=2_000, generator=generator(1))
    (check,) = check_here(found, X, around, generator=generator(2))
    assert check.kind == Kind.RIGHT


def test_where_network_and_likelihood_disagree_far_out_it_is_not_called_right():
    """Outside the last law nothing tells which is right: a tail that the likelihood took away had been half the sd."""
    found = []
    for width in (1.0, 2.0):
        last = Law(LAW.centre, torch.eye(2).double() * 0.4 * NOISE)
        heard = (fit(Heard(0.0, 1.0)), 1.0)
        posterior = Refined(fit(Network(0.0, width)), MIXTURE, last, X, frozenset(), likelihood=heard)
        theta = posterior.draw_batched(X, 2_000, generator=generator())[:, 0]
        around = simulate_around(posterior, Copy(), theta, rows=2_000, generator=generator(1))
        found.append((posterior.lowered(X).times, check_here(posterior, X, around, generator=generator(2))[0]))
    assert found[0][0].max() < 1.1 < found[1][0].min()
    assert "far out, where no simulation lies, network and likelihood disagree on the sd of a" in found[1][1].words
    assert "disagree" not in found[0][1].words
    assert found[1][1].level in ("caution", "alarm")


@pytest.mark.parametrize("is_flow", [False, True])
def test_a_stray_that_no_answer_takes_is_no_disagreement(is_flow, monkeypatch):
    """Right answers had that caution, for draws that answers leave out. The planted fault is False."""
    heard = (fit(Heard(0.0, 1.0)), 1.0)
    posterior = Refined(fit(Straying(0.0, 1.0)), MIXTURE, LAW, X, frozenset(), likelihood=heard)
    monkeypatch.setattr(posterior, "is_flow", is_flow)
    assert (posterior.lowered(X).times.max() < 1.05) == is_flow


@pytest.mark.parametrize(("power", "believed"), [(0.85, True), (0.4, False)])
def test_a_likelihood_that_is_better_by_far_takes_strays_away(power, believed):
    """It leaves nearly nothing of a few draws far out; one that is hardly better than the network is not believed."""
    posterior = Refined(fit(Straying(0.0, 1.0)), MIXTURE, LAW, X, frozenset(), likelihood=(fit(Heard(0.0, 1.0)), power))
    found = posterior.lowered(X)
    assert found.times.max() > 1.1
    assert found.believed == believed


@pytest.mark.parametrize(
    ("believed", "moved", "kind"), [(True, 0.05, Kind.RIGHT), (False, 0.05, Kind.HINTED), (True, 0.14, Kind.HINTED)]
)
def test_what_it_took_away_is_no_hint_where_all_else_is_right(believed, moved, kind):
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    local = Local(none, 0.02 * one, one, 0.02 * one, none, one, 2_000, one)
    found = local_finding(local, ("a",), error=(moved, 0.0), lowered=Lowered(1.3 * one, believed))
    assert found.kind == kind


@pytest.mark.parametrize("off", [1.0, -1.0])
def test_weights_of_few_draws_make_no_exact_answer_wrong(off):
    """A network one sd off in both parameters, a seventh of whose draws carries the weight; widths were told 1.14."""
    found = Refined(fit(Network(off, 1.0)), MIXTURE, LAW, X, frozenset(), likelihood=(fit(Heard(0.0, 1.0)), 1.0))
    theta = found.draw_batched(X, 2_000, generator=generator())[:, 0]
    _, log_w = found.weighted_batched(X, 5_000, theta[:1], generator=generator())
    share = 1 / float(log_w[1:, 0].softmax(0).square().sum()) / 5_000
    assert 0.08 < share < 0.2
    levels = []
    for seed in range(3):
        around = simulate_around(found, Copy(), theta, rows=2_000, generator=generator(seed))
        levels.append(check_here(found, X, around, generator=generator(seed + 10))[0].level)
    assert "alarm" not in levels


def test_few_held_out_rows_do_not_speak_for_a_likelihood(rows):
    """Two, by chance likelier under a likelihood .8 sds off than under the right network: they alone say 1."""
    assert best_power(weighted(likelihood=(-0.8, 1.0)), rows, 1e-4, X) <= 0.5


def test_no_likelihood_counts_where_the_network_draws_nothing_near(rows):
    """An observation whose draws all lie outside the last law."""
    far = {"x": torch.tensor([[9.0, 9.0]])}
    assert best_power(weighted(network=(0.5, 1.2)), rows, 0.2, far) == 0.0


class Under(Given):
    """The posterior under a mixture of laws, by rejection from the normal law of the likelihood alone."""

    def __init__(self, mixture):
        super().__init__(0.0, 1.0)
        self.mixture = mixture

    def condition(self, x):
        return Mixed(self.mixture, x["x"].double())


class Mixed(Density):
    """The normal mixture that a normal likelihood makes of a mixture of normal laws (batch, 2)."""

    def __init__(self, mixture, x):
        weights, means, sds = [], [], []
        for weight, law in mixture.parts:
            sd = float(law.factor[0, 0])
            precision = 1 / NOISE**2 + 1 / sd**2
            means.append((x / NOISE**2 + law.centre / sd**2) / precision)
            sds.append(precision**-0.5)
            weights.append(math.log(weight) + td.Normal(law.centre, (NOISE**2 + sd**2) ** 0.5).log_prob(x).sum(-1))
        self.chance, self.means = torch.stack(weights).softmax(0).T, torch.stack(means, dim=1)
        self.sds = torch.tensor(sds, dtype=torch.float64)

    def sample(self, n, *, generator):
        which = torch.multinomial(self.chance, n, replacement=True, generator=generator).T
        noise = torch.randn(n, len(self.chance), 2, generator=generator, dtype=torch.float64)
        means = self.means.gather(1, which.T[..., None].expand(-1, -1, 2)).transpose(0, 1)
        return (means + noise * self.sds[which][..., None]).float()

    def log_prob(self, theta):
        each = td.Normal(self.means, self.sds[:, None]).log_prob(theta.double()[:, :, None]).sum(-1)
        return (each + self.chance.log()).logsumexp(-1)


def test_the_likelihood_counts_no_more_than_leaves_draws_at_the_observation(rows):
    """Of a network 2 sds off in both parameters: a fifth of its draws carry weights that tilt it by .9 sds."""
    power = best_power(weighted(network=(2.0, 1.0)), rows, 0.2, X)
    assert 0.4 <= power <= 0.5
    theta = weighted(network=(2.0, 1.0), power=power).draw_batched(X, 20_000, generator=generator())[:, 0].double()
    mean, sd = exact(X["x"], WIDE)
    assert ((theta.mean(0) - mean[0]) / sd).tolist() == pytest.approx([2 - 2 * power] * 2, abs=0.1)


def test_parameters_outside_the_support_have_no_weight():
    prior = Prior(a=td.Uniform(0.0, 1.0), b=td.Uniform(0.0, 1.0))
    found = weighted()
    found.prior = prior
    found.law = Mixture(prior, [(1.0, LAW)], {})
    theta = torch.tensor([[[0.5, 0.5]], [[1.5, 0.5]]])
    log = found.log_weight(theta, X)[:, 0]
    assert math.isfinite(float(log[0]))
    assert float(log[1]) == -math.inf
