"""Frozen distributions of scipy: the same densities here, and what is said of those that have no law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as td

from sciinf import LogUniform, Normal, Prior, Truncated
from sciinf.core.given_laws import ACCEPTED

FROZEN = [
    stats.beta(2.0, 3.5),
    stats.cauchy(3.0, 0.2),
    stats.chi2(3.0),
    stats.chi2(3.0, scale=0.2),
    stats.expon(scale=4.0),
    stats.gamma(2.5),
    stats.gamma(a=2.5, scale=3.0),
    stats.gumbel_r(-1.0, 2.5),
    stats.halfcauchy(scale=3.0),
    stats.halfnorm(0, 3.0),
    stats.invgamma(2.5, scale=4.0),
    stats.laplace(3.0, 0.2),
    stats.lognorm(0.7, 0, 20.0),
    stats.lognorm(s=0.7),
    stats.loguniform(1e-3, 1e2),
    stats.loguniform(1e-3, 1e2, scale=5.0),
    stats.norm(),
    stats.norm(3.0, 0.2),
    stats.norm(scale=2, loc=np.float32(1.5)),
    stats.pareto(2.5, scale=3.0),
    stats.reciprocal(0.5, 8.0),
    stats.t(4.0, 3.0, 0.2),
    stats.truncnorm(-2.0, np.inf, loc=1.0, scale=0.5),
    stats.truncnorm(-np.inf, 1.0, 3.0, 0.2),
    stats.truncnorm(a=-1, b=3, loc=3.0, scale=0.2),
    stats.uniform(-5.0, 2.0),
    stats.weibull_min(1.5, scale=2.0),
]


def described(law) -> str:
    return f"{law.dist.name} {law.args} {law.kwds}"


def test_every_accepted_distribution_is_tested():
    assert {law.dist.name for law in FROZEN} == set(ACCEPTED)


@pytest.mark.parametrize("law", FROZEN, ids=described)
def test_densities_are_scipys(law):
    prior = Prior(a=(law, "km"))
    low, high = law.ppf([0.001, 0.999])
    grid = np.concatenate(
        [law.ppf(np.linspace(0.001, 0.999, 50)), [low - 0.3 * (high - low), high + 0.3 * (high - low)]]
    )
    np.testing.assert_allclose(
        prior.log_prob(torch.tensor(grid)[:, None]).numpy(), law.logpdf(grid), rtol=1e-9, atol=1e-9
    )
    assert prior.units == ("km",)
    assert Prior.from_json(prior.to_json()).to_json() == prior.to_json(), "it is a law that can be written down"


def test_a_law_of_scipy_is_the_same_prior_as_ours():
    ours = Prior(a=Normal(3.0, 0.1), b=Truncated(Normal(1.0, 0.5), low=0.0), c=LogUniform(0.1, 10.0))
    scipys = Prior(a=stats.norm(3.0, 0.1), b=stats.truncnorm(-2.0, np.inf, 1.0, 0.5), c=stats.loguniform(0.1, 10.0))
    assert scipys.to_json() == ours.to_json()
    assert Prior(t=(stats.norm(1126259462.4, 0.1), "s")).dtype == torch.float64


@pytest.mark.parametrize(
    ("law", "error", "words"),
    [
        (
            stats.levy(),
            TypeError,
            "parameter 'a' is scipy's distribution 'levy'.*: beta, .*, weibull_min. Or take",
        ),
        (stats.norm, TypeError, r"scipy.stats.norm itself, without its numbers: write scipy.stats.norm\(...\)"),
        (stats.poisson(3.0), TypeError, "the discrete distribution 'poisson' of scipy"),
        (stats.multivariate_normal([0.0, 0.0]), TypeError, r"multivariate_normal_frozen of scipy.*Prior.joint"),
        (stats.gaussian_kde([1.0, 2.0, 4.0]), TypeError, "gaussian_kde of scipy"),
        (stats.norm(0.0, -1.0), ValueError, "parameter 'a', scipy.stats.norm: scale = -1 must be above 0"),
        (stats.norm(np.nan, 1.0), ValueError, "loc = nan must be finite"),
        (stats.norm([0.0, 1.0], 1.0), TypeError, r"loc = \[0.0, 1.0\] must be one number"),
        (stats.lognorm(-0.7), ValueError, "scipy.stats.lognorm: .*sd_log = -0.7 must be above 0"),
        (stats.expon(loc=2.0), ValueError, "loc = 2 must be 0, .* add 2 in the simulator"),
        (stats.beta(1.0, 2.0, scale=3.0), ValueError, "scale = 3 must be 1, .* multiply by 3 in the simulator"),
    ],
)
def test_others_are_refused(law, error, words):
    with pytest.raises(error, match=words):
        Prior(a=law)


class Bent(stats.rv_continuous):
    def _pdf(self, x):
        return 2 * x


def test_a_law_of_ones_own_is_not_taken_for_scipys_of_the_same_name():
    with pytest.raises(TypeError, match="is unknown here"):
        Prior(a=Bent(a=0.0, b=1.0, name="norm")(0.0, 1.0))


def test_no_law_of_torch_needs_scipy(monkeypatch):
    import sys

    for name in [n for n in sys.modules if n.partition(".")[0] == "scipy"]:
        monkeypatch.setitem(sys.modules, name, None)  # an import of it raises
    assert Prior(a=Normal(0.0, 1.0), b=td.Normal(0.0, 1.0)).names == ("a", "b")
    with pytest.raises(TypeError, match="Uniform"):
        Prior(a=(-1.0, 1.0))
