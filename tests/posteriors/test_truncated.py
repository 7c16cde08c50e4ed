"""The truncated prior against what is known of it: its region, its draws, and that regions are nested."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest
from torch import distributions as td

from sciinf.core import Density, Estimator, Fit, Observable, Prior
from sciinf.posteriors import truncated
from sciinf.posteriors.truncated import OutsideRegion, truncate

SQUARE = Prior(a=td.Uniform(-1.0, 1.0), b=td.Uniform(-1.0, 1.0))
X = {"x": torch.tensor([[0.6, -0.4]])}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Gaussian(Density):
    """N(mean, sd^2) in each of two parameters, whatever was observed."""

    def __init__(self, mean, sd):
        self.law = td.Normal(torch.tensor(mean).double(), torch.tensor(sd).double())

    def sample(self, n, *, generator):
        noise = torch.randn(n, 1, len(self.law.loc), generator=generator, dtype=torch.float64)
        return (self.law.loc + self.law.scale * noise).float()

    def log_prob(self, theta):
        return self.law.log_prob(theta.double()).sum(-1)


class Written(Estimator):
    """An estimator whose posterior is written down, to stand where a trained one does."""

    def __init__(self, mean, sd):
        super().__init__()
        self.prior, self.observables, self.law = SQUARE, {"x": Observable((2,))}, Gaussian(mean, sd)

    def standardise(self, batches):
        return None

    def loss(self, batch, *, generator):
        return -self.law.log_prob(batch.theta)

    def condition(self, x):
        return self.law

    def features(self, x):
        return x["x"]


def written(tmp_path, mean=(0.1, -0.2), sd=(0.2, 0.1)):
    return Fit(Written(mean, sd), f"{mean} {sd}", {}, {}, tmp_path)


def lost(truncation, density, n=200_000):
    """Mass of a density that the regions cut off."""
    theta = density.sample(n, generator=generator(5))[:, 0]
    return float((~truncation.contains(theta)).double().mean())


def test_the_region_keeps_all_mass_but_epsilon(tmp_path):
    """The threshold rests on ten draws: the mass lost is epsilon Gamma(10) / 10, outside [1/5, 3] once in 20,000."""
    fit, epsilon = written(tmp_path), 1e-3
    truncation = truncate(fit, X, epsilon=epsilon)
    assert epsilon / 5 < lost(truncation, fit.estimator.law) < 3 * epsilon
    # planted fault: a threshold at the median
    assert not lost(truncate(fit, X, epsilon=0.5), fit.estimator.law) < 10 * epsilon


@pytest.mark.parametrize("sd", [(0.2, 0.1), (0.01, 0.005)])
def test_draws_are_of_the_prior_within_the_region(tmp_path, sd):
    """A uniform prior within an ellipse: squared radius and angle are uniform, and the acceptance is its area."""
    fit = written(tmp_path, sd=sd)
    truncation = truncate(fit, X, epsilon=1e-3)
    square = 2 * (float(fit.estimator.law.log_prob(torch.tensor([0.1, -0.2]))) - truncation.regions[0].threshold)
    area = math.pi * square * sd[0] * sd[1]
    assert truncation.method == (
        "rejection from the prior" if area / 4 > 1 / 256 else "rejection from what was learned"
    )
    # five standard errors of 65,536 candidates: their weights, between 0 and a bound (nearly), have a variance below
    # that of zeros and bounds with the same mean
    error = area / 4 * math.sqrt(truncation.candidates / 65_536)
    assert abs(truncation.acceptance - area / 4) < 5 * error

    def p_values(theta):
        u = (theta - torch.tensor([0.1, -0.2])) / torch.tensor(sd)
        angle = torch.atan2(u[:, 1], u[:, 0]) / (2 * math.pi) + 0.5
        return kstest(u.square().sum(1) / square, "uniform").pvalue, kstest(angle, "uniform").pvalue

    theta = truncation.sample(1_000, generator=generator(1))
    assert theta.shape == (1_000, 2)
    assert theta.dtype == torch.float32
    assert bool(truncation.contains(theta).all())
    assert min(p_values(theta)) > 1e-4  # the false-alarm rate
    assert torch.equal(theta, truncation.sample(1_000, generator=generator(1)))
    # planted fault: draws of what was learned instead
    assert min(p_values(fit.estimator.law.sample(2_000, generator=generator(1))[:, 0])) < 1e-4


def test_draws_follow_a_prior_that_is_not_flat(tmp_path):
    """Draws of a normal prior in a small region, against rejection by hand (KS, false alarm 1e-4 each)."""
    prior = Prior(a=td.Normal(0.4, 0.02), b=td.Normal(0.0, 1.0))
    fit = written(tmp_path, mean=(0.42, 0.0), sd=(0.01, 0.0005))
    fit.estimator.prior = prior
    truncation = truncate(fit, X, epsilon=1e-3)
    assert truncation.method == "rejection from what was learned"
    wide = torch.rand(400_000, 2, generator=generator(2)) - 0.5
    by_hand = torch.stack([0.4 + 0.02 * torch.randn(len(wide), generator=generator(3)), 0.005 * wide[:, 1]], 1)
    by_hand = by_hand[truncation.contains(by_hand)]
    assert len(by_hand) > 10_000
    theta = truncation.sample(1_000, generator=generator(4))
    assert all(kstest(theta[:, d], by_hand[:, d].numpy()).pvalue > 1e-4 for d in range(2))


class TwoModes(Density):
    """Half N(-1/2, sd^2 I), half N(1/2, sd^2 I), whatever was observed."""

    def __init__(self, dim, sd=0.005):
        self.dim, self.sd = dim, sd

    def sample(self, n, *, generator):
        side = torch.randint(2, (n, 1, 1), generator=generator) - 0.5
        return (side + self.sd * torch.randn(n, 1, self.dim, generator=generator, dtype=torch.float64)).float()

    def square(self, theta):
        """Squared distance from the nearer mode, in standard deviations."""
        return ((theta.double().abs() - 0.5) / self.sd).square().sum(-1)

    def log_prob(self, theta):
        sides = torch.stack([td.Normal(m, self.sd).log_prob(theta.double()).sum(-1) for m in (-0.5, 0.5)])
        return sides.logsumexp(0) - math.log(2)


def two_modes(tmp_path, dim):
    prior = Prior(**{f"p{d}": td.Uniform(-1.0, 1.0) for d in range(dim)})
    estimator = Written((0.0,), (1.0,))
    estimator.prior, estimator.law = prior, TwoModes(dim)
    return Fit(estimator, f"two modes in {dim}", {}, {}, tmp_path)


def radial(truncation, theta):
    """KS distance of (radius / largest radius)^D, which is uniform within two balls."""
    density, dim = truncation.regions[-1].density, theta.shape[1]
    peak = float(density.log_prob(torch.full((dim,), 0.5)))
    u = density.square(theta) / (2 * (peak - truncation.regions[-1].threshold))
    return float(kstest(u ** (dim / 2), "uniform").statistic)


def of_256(truncation, n):
    """Planted fault: of 256 candidates one is taken, with a probability in proportion to its weight."""
    law = truncation._fitted(generator(2))
    theta, log_weight = truncation._candidates(law, 256 * n, generator(3))
    groups = torch.softmax(log_weight.reshape(n, 256), dim=1)
    chosen = torch.multinomial(groups, 1, generator=generator(4))
    return theta.reshape(n, 256, -1)[torch.arange(n), chosen[:, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("dim", [3, 5])
def test_draws_reach_the_edge_of_a_region_of_two_parts(tmp_path, dim):
    """The law is off by at most 0.02, said in `error`, and 1,000 draws by 0.07 once in 10,000."""
    truncation = truncate(two_modes(tmp_path, dim), X)
    assert truncation.method == "rejection from what was learned"
    assert truncation.error <= 0.02
    bound = truncation.error + 0.0705
    assert radial(truncation, truncation.sample(1_000, generator=generator(1))) < bound
    assert radial(truncation, of_256(truncation, 1_000)) > bound


def test_the_first_draws_are_as_good_as_the_last(tmp_path):
    """Draws that are cut off after the first n are draws of p_S, too (KS of the same 1,000; false alarm 1e-4)."""
    truncation = truncate(written(tmp_path, sd=(0.01, 0.005)), X)
    theta = torch.cat([truncation.sample(5, generator=generator(seed)) for seed in range(200)])
    u = (theta - torch.tensor([0.1, -0.2])) / torch.tensor((0.01, 0.005))
    peak = float(truncation.regions[0].density.log_prob(torch.tensor([0.1, -0.2])))
    square = u.square().sum(1) / (2 * (peak - truncation.regions[0].threshold))
    assert kstest(square, "uniform").pvalue > 1e-4


def test_a_law_that_is_not_reached_is_told(tmp_path, monkeypatch):
    """As many candidates as a draw may take are too few here: the warning and `to_json` have what it costs."""
    monkeypatch.setattr(truncated, "CANDIDATES", 32)
    monkeypatch.setattr(truncated, "_REJECTED", 32)
    with pytest.warns(UserWarning, match=r"off by up to \d+% of its mass at \d+ candidates.* raise epsilon"):
        truncation = truncate(two_modes(tmp_path, 3), X)
    assert truncation.candidates <= 32
    assert truncation.to_json()["error"] == truncation.error > truncated.ERROR
    # the distance is no larger than is said, but for 1,000 draws' own
    assert 0.0705 < radial(truncation, truncation.sample(1_000, generator=generator(1))) < truncation.error + 0.0705


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 1.0, 1e-9, math.nan])
def test_an_epsilon_that_is_no_mass_is_refused(tmp_path, epsilon):
    with pytest.raises(ValueError, match="epsilon, the mass cut off"):
        truncate(written(tmp_path), X, epsilon=epsilon)


def test_regions_are_nested_and_newer_ones_smaller(tmp_path):
    first = truncate(written(tmp_path), X, epsilon=1e-3)
    second = truncate(written(tmp_path, mean=(0.3, -0.2)), X, first, epsilon=1e-3)
    theta = second.sample(3_000, generator=generator())
    assert bool(first.contains(theta).all())
    assert second.acceptance < first.acceptance
    assert [r["fit"] for r in second.to_json()["regions"]] == [r.fit for r in second.regions]
    with pytest.raises(OutsideRegion, match="not where the rounds were"):
        truncate(written(tmp_path, mean=(-0.9, 0.9), sd=(0.001, 0.001)), X, first, epsilon=1e-3)
