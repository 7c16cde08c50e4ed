"""Leaning on a bound of the prior is said where the truth lies beyond, and hardly ever where it lies inside."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import truncnorm
from torch import Tensor
from torch import distributions as td

from sciinf.core import Draws, Finding, LogUniform, Ordered, Prior, Simplex, Truncated
from sciinf.diagnostics.bounds import Bounds, leaning

MASS = Prior(mass=(td.Uniform(20.0, 45.0), "Msun"))
N = 2_000


def posterior(seen: float, sd: float) -> Tensor:
    """Of a value seen with normal noise, exact, by quantiles."""
    law = truncnorm((20.0 - seen) / sd, (45.0 - seen) / sd, loc=seen, scale=sd)
    return torch.tensor(law.ppf((torch.arange(N).double() + 0.5).numpy() / N))[:, None]


def found(theta: Tensor, prior: Prior = MASS) -> Finding:
    draws = Draws(prior.names, prior.units, theta, torch.zeros(len(theta)))
    return Bounds(prior).check(draws)[0]


@pytest.mark.parametrize("sd", [0.2, 0.5, 0.8])
def test_a_truth_beyond_the_bound_is_said(sd: float) -> None:
    low, high = found(posterior(18.0, sd)), found(posterior(48.0, sd))
    assert (low.level, high.level) == ("caution", "caution")
    assert "mass" in low.words
    assert "lower bound of 20 Msun" in low.words
    assert "upper bound of 45 Msun" in high.words
    assert "Widen the prior" in low.words


@pytest.mark.parametrize("sd", [0.05, 0.5, 5.0, 500.0])
@pytest.mark.parametrize("seen", [20.0, 20.1, 30.0, 45.0])
def test_a_truth_at_the_bound_and_one_that_nothing_is_known_of_are_normal(seen: float, sd: float) -> None:
    assert found(posterior(seen, sd)).level == "good"


@pytest.mark.slow
@pytest.mark.parametrize("sd", [0.1, 1.0, 5.0])
def test_false_alarms_for_truths_drawn_from_the_prior(sd: float) -> None:
    """At most 2 * .13 sd / 25 for small sds: of 1,000 truths 10.4 for sd 1, and 24 or more in 1 of 10,000."""
    generator = torch.Generator().manual_seed(0)
    truth = MASS.sample(1_000, generator=generator)[:, 0].double()
    seen = truth + sd * torch.randn(1_000, generator=generator, dtype=torch.float64)
    near = seen[(seen < 20.0 + sd) | (seen > 45.0 - sd)]  # others neither lean nor rise
    assert sum(found(posterior(float(one), sd)).level != "good" for one in near) < 24


def test_upper_limits_stay_below_the_rate_of_markov() -> None:
    """Exponential counts: n = 0 of a rate uniform up to `most` is the worst case, 1 in `most` answers."""
    for most, level in ((10.0, "good"), (50.0, "caution")):
        prior = Prior(rate=td.Uniform(0.0, most))
        quantiles = -torch.log1p(-(torch.arange(N).double() + 0.5) / N)
        assert found(quantiles[:, None].clamp(max=0.999 * most), prior).level == level


def test_joint_laws_have_outer_bounds() -> None:
    """The heavier of two masses beyond the upper bound, the lighter beyond the lower; fractions that leave no rest."""
    masses = Prior.joint(("light", "heavy"), Ordered(td.Uniform(20.0, 45.0), 2), "Msun")
    low, middle, high = posterior(18.0, 0.5), posterior(30.0, 0.5), posterior(48.0, 0.5)
    above, below = (found(torch.cat(pair, dim=1), masses) for pair in ((middle, high), (low, middle)))
    assert found(torch.cat([middle, 1 + middle], dim=1), masses).level == "good"
    assert "of heavy lies" in above.words
    assert "upper bound of 45 Msun" in above.words
    assert "of light lies" in below.words
    assert "lower bound of 20 Msun" in below.words
    parts = Prior.joint(("a", "b"), Simplex(2))
    rest = (low - 20.0) / 25.0  # leans on 0 and rises up to it
    assert found(torch.cat([0.5 + 0 * rest, 0.5 - rest], dim=1), parts).words.count("a + b") == 1
    assert "posterior of b lies" in found(torch.cat([0.5 + 0 * rest, rest], dim=1), parts).words
    assert found(torch.cat([0.3 + rest, 0.3 + 0 * rest], dim=1), parts).level == "good"


def test_weights_count() -> None:
    theta = torch.cat([posterior(18.0, 0.5), posterior(30.0, 0.5)])
    light = torch.cat([torch.full((N,), -20.0), torch.zeros(N)])
    assert Bounds(MASS).check(Draws(("mass",), ("Msun",), theta, light))[0].level == "good"
    assert Bounds(MASS).check(Draws(("mass",), ("Msun",), theta, -light - 20.0))[0].level == "caution"


def test_unbounded_priors_are_looked_at_too() -> None:
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.VonMises(torch.tensor(0.0), torch.tensor(1.0)))
    assert found(torch.zeros(10, 2), prior).level == "good"
    assert "the median of a, 5, lies above" in found(torch.tensor([[5.0, 0.0]]).expand(10, 2), prior).words


NARROW = {
    "normal": (td.Normal(3.0, 0.1), 2.5, 3.5),
    "log-normal": (td.LogNormal(0.0, 0.1), 0.6, 1.65),
    "gamma": (td.Gamma(100.0, 100.0), 0.6, 1.65),
    "truncated": (Truncated(td.Normal(3.0, 0.1), 2.0, 4.0), 2.5, 3.5),
}


@pytest.mark.parametrize(("law", "low", "high"), NARROW.values(), ids=NARROW)
def test_a_posterior_far_out_in_its_prior_is_said(law: td.Distribution, low: float, high: float) -> None:
    """5 sds out: of no bound, for there is none near."""
    prior = Prior(rate=(law, "1/h"))
    for value, side in ((low, "below"), (high, "above")):
        check = found(value + 0.01 * torch.randn(N, 1, generator=torch.Generator().manual_seed(0)), prior)
        assert check.level == "caution"
        assert f"the median of rate, {value:.2g}" in check.words
        assert f"lies {side} the central 99.9% of its prior" in check.words
        assert "bound" not in check.words
        assert "widen the prior" in check.words
    middle = prior.sample(N, generator=torch.Generator().manual_seed(0))
    for value in (middle, middle.median() + 0.01 * (middle - middle.median())):
        assert found(value, prior).level == "good"


@pytest.mark.parametrize("law", [td.Uniform(20.0, 45.0), LogUniform(20.0, 45.0), Truncated(td.Normal(30, 9), 20, 45)])
@pytest.mark.parametrize("place", [20.0, 45.0])
def test_a_pile_at_an_edge_is_said_however_narrow(law: td.Distribution, place: float) -> None:
    """All draws in one place, as of a network that data from far outside carry to the edge."""
    prior = Prior(mass=(law, "Msun"))
    inside = torch.full((N, 1), place) + (1e-4 if place == 20.0 else -1e-4) * torch.rand(N, 1)
    assert found(inside, prior).level == "caution"
    assert found(torch.full((N, 1), 32.0) + 1e-4 * torch.rand(N, 1), prior).level == "good"


def test_false_alarms_of_medians_are_one_in_a_thousand() -> None:
    """Of 3,000 truths that data tell exactly 3 are expected, and 12 or more in 1 of 10,000."""
    prior = Prior(a=td.LogNormal(0.0, 0.3))
    truth = prior.sample(3_000, generator=torch.Generator().manual_seed(5))
    assert 0 < sum(found(one.expand(2, 1), prior).level != "good" for one in _outer(truth)) < 12


def _outer(truth: Tensor) -> Tensor:
    """The tenth that lies farthest out; of others the finding is good."""
    order = truth[:, 0].argsort()
    return truth[torch.cat([order[:30], order[-30:]])]


def test_the_figures_of_the_docstring() -> None:
    p = (torch.arange(100_000).double() + 0.5) / 100_000
    even = torch.full_like(p, 1e-5)
    for draws, expected in ((p, 1.8), (-torch.log1p(-p), 3.32), (-torch.special.ndtri(0.5 * (1 - p)), 2.44)):
        assert leaning(draws, even)[1] == pytest.approx(expected, abs=0.01)
    for sds, expected in ((0.75, 2.73), (2.8, 3.11)):
        beyond = -torch.special.ndtri((1 - p) * torch.special.ndtr(torch.tensor(-sds).double())) - sds
        assert leaning(beyond, even)[1] == pytest.approx(expected, abs=0.02)
    assert leaning(p, even)[0] == pytest.approx(0.01, abs=1e-4)


def test_a_network_that_smooths_the_bound_is_told_all_the_same() -> None:
    """The share and the ratio of a network of 1,500 simulations, with the truth 2.8 sds beyond: .68 and 2.74."""
    mass, ratio = 0.68, 2.74
    p = (torch.arange(N).double() + 0.5) / N
    power = torch.tensor(ratio).log() / torch.tensor(-torch.log1p(torch.tensor(-0.9)) / 0.6931472).log()
    shape = (-torch.log1p(-p)) ** power  # Weibull's law, which has that ratio
    scale = 0.25 / float(shape.quantile(mass))
    assert found((20.0 + scale * shape)[:, None]).level == "caution"
