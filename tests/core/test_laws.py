"""Laws of one parameter: the map to the normal, truncation, JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.special import ndtri
from scipy.stats import kstest
from torch import distributions as td

from sciinf.core import LogUniform
from sciinf.core.law_json import law_from_json, law_to_json
from sciinf.core.laws import (
    Truncated,
    bounds,
    from_normal,
    inside,
    is_normalisable,
    support,
    to_normal,
)

NORMALISABLE = {
    "normal": td.Normal(3.0, 0.5),
    "uniform": td.Uniform(-1.0, 2.0),
    "lognormal": td.LogNormal(1.0, 0.7),
    "halfnormal": td.HalfNormal(2.0),
    "exponential": td.Exponential(0.3),
    "laplace": td.Laplace(1.0, 2.0),
    "cauchy": td.Cauchy(0.0, 1.5),
    "halfcauchy": td.HalfCauchy(1.5),
    "gumbel": td.Gumbel(1.0, 2.0),
    "weibull": td.Weibull(1.5, 2.0),
    "pareto": td.Pareto(1.0, 3.0),
    "kumaraswamy": td.Kumaraswamy(2.0, 3.0),
    "above": Truncated(td.Normal(1.0, 0.5), low=0.0),
    "below": Truncated(td.Normal(1.0, 0.5), high=0.2),
    "between": Truncated(td.LogNormal(0.0, 1.0), low=0.5, high=2.0),
    "upper tail": Truncated(td.Normal(0.0, 1.0), low=10.0),
    "lower tail": Truncated(td.Normal(0.0, 1.0), high=-10.0),
    "twice": Truncated(Truncated(td.Normal(0.0, 1.0), low=-1.0), high=0.5),
    "wide": Truncated(td.Cauchy(0.0, 1.0), low=-1.0, high=1e6),
    "decades": LogUniform(1e-3, 1e4),
    "double": td.Normal(torch.tensor(0.1, dtype=torch.float64), torch.tensor(1 / 3, dtype=torch.float64)),
}
OTHERS = {
    "gamma": td.Gamma(2.0, 3.0),
    "beta": td.Beta(2.0, 3.0),
    "student": td.StudentT(4.0, 1.0, 2.0),
    "chi2": td.Chi2(3.0),
    "inverse gamma": td.InverseGamma(3.0, 2.0),
    "von mises": td.VonMises(1.0, 2.0),
    "mixture": td.MixtureSameFamily(
        td.Categorical(torch.tensor([0.3, 0.7])), td.Normal(torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 1.0]))
    ),
}
LAWS = NORMALISABLE | OTHERS


def points(law: td.Distribution, n: int = 2000) -> torch.Tensor:
    """Quantiles of a normalisable law, from far below to far above."""
    return from_normal(law, torch.linspace(-6.0, 6.0, n, dtype=torch.float64))


@pytest.mark.parametrize("name", NORMALISABLE)
def test_normal_and_back(name):
    law = NORMALISABLE[name]
    z = torch.linspace(-4.0, 4.0, 801, dtype=torch.float64)
    theta = from_normal(law, z)
    assert is_normalisable(law)
    assert bool((theta.diff() > 0).all())
    torch.testing.assert_close(to_normal(law, theta), z, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(from_normal(law, to_normal(law, theta)), theta, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["normal", "uniform", "lognormal", "halfnormal", "exponential", "above", "between", "decades"]
)
def test_the_map_keeps_its_digits_to_seven_sigma(name):
    """1e-3 covers what is left of 1 - F where the law's values themselves have float64 spacing at the edge."""
    z = torch.tensor([-7.0, -6.0, -5.0, 5.0, 6.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(to_normal(LAWS[name], from_normal(LAWS[name], z)), z, atol=1e-3, rtol=0.0)


def test_tails_are_scipys():
    """torch's own `ndtr` is 0 at -10, where the tail is 7.6e-24."""
    law = Truncated(td.Normal(0.0, 1.0), low=10.0)
    exact = stats.truncnorm(10.0, np.inf)
    p = np.array([1e-6, 0.1, 0.5, 0.9, 0.999999])
    np.testing.assert_allclose(from_normal(law, torch.tensor(ndtri(p))).numpy(), exact.ppf(p), rtol=1e-9)
    theta = torch.tensor([10.0, 10.1, 11.0, 12.0], dtype=torch.float64)
    np.testing.assert_allclose(law.log_prob(theta).numpy(), exact.logpdf(theta.numpy()), rtol=1e-9)
    np.testing.assert_allclose(law.cdf(theta).numpy(), exact.cdf(theta.numpy()), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(law.sf(theta).numpy(), exact.sf(theta.numpy()), rtol=1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_densities_integrate_to_one(name):
    law = LAWS[name]
    low, high = bounds(law)
    edges = [-math.inf if low is None else low, math.inf if high is None else high]
    if name == "wide":
        edges[1] = 1000.0  # the rest is the tail of Cauchy(0, 1) beyond, over the mass kept

    def density(value: float) -> float:
        return float(law.log_prob(torch.tensor(value, dtype=torch.float64)).exp())

    with np.errstate(over="ignore"):
        total = sum(
            quad(density, a, b, limit=200)[0]
            for a, b in zip([edges[0], *cuts(law, edges)], [*cuts(law, edges), edges[1]], strict=True)
        )
    expected = 1.0 if name != "wide" else float(law.cdf(torch.tensor(1000.0, dtype=torch.float64)))
    assert total == pytest.approx(expected, abs=2e-5)


def cuts(law: td.Distribution, edges: list[float]) -> list[float]:
    """Points where most of the mass lies, to lead the quadrature there."""
    if is_normalisable(law):
        return [float(from_normal(law, torch.tensor(z))) for z in (-3.0, 0.0, 3.0)]
    return [0.5 * (edges[0] + edges[1])] if all(map(math.isfinite, edges)) else [max(edges[0], 0.0) + 1.0]


@pytest.mark.parametrize("name", NORMALISABLE)
def test_the_jacobian_is_the_density_over_the_normals(name):
    """dz/dtheta = p(theta) / N(z), by central differences, z within 3 sigma."""
    law = NORMALISABLE[name]
    z = torch.linspace(-3.0, 3.0, 31, dtype=torch.float64)
    slope = (from_normal(law, z + 1e-5) - from_normal(law, z - 1e-5)) / 2e-5
    expected = td.Normal(0.0, 1.0).log_prob(z).exp() / law.log_prob(from_normal(law, z)).exp()
    torch.testing.assert_close(slope, expected, rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("name", ["above", "between", "lower tail", "upper tail", "wide"])
def test_truncated_samples_follow_their_distribution_function(name):
    """KS against the base restricted, false-alarm rate 1e-3 each; fixed seed."""
    law = NORMALISABLE[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = law.sample(torch.Size([4000])).double()
    assert bool(support(law).check(draws).all())
    u = torch.special.ndtr(to_normal(law, draws))
    assert kstest(u.numpy(), "uniform").pvalue > 1e-3


def test_a_law_not_truncated_fails_the_same_test():
    """The planted fault: draws of the base, clipped, instead of the truncated law."""
    law = Truncated(td.Normal(0.0, 1.0), low=-0.5)
    draws = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp_min(-0.5)
    assert kstest(torch.special.ndtr(to_normal(law, draws)).numpy(), "uniform").pvalue < 1e-3


def test_truncated_is_zero_outside_and_right_to_the_edge():
    law = Truncated(td.Normal(0.0, 1.0), low=0.0, high=1.0)
    mass = stats.norm.cdf(1) - 0.5
    inner = torch.tensor([0.0, 1e-12, 1 - 1e-12], dtype=torch.float64)
    np.testing.assert_allclose(law.log_prob(inner).exp(), stats.norm.pdf(inner.numpy()) / mass, rtol=1e-7)
    outer = torch.tensor([-1e-12, 1 + 1e-9, math.nan, -math.inf, math.inf], dtype=torch.float64)
    assert law.log_prob(outer).tolist() == [-math.inf] * 5
    assert law.cdf(torch.tensor([-5.0, 0.0, 1.0, 5.0], dtype=torch.float64)).tolist() == [0.0, 0.0, 1.0, 1.0]


@settings(max_examples=60, deadline=None)
@given(st.floats(-50, 50), st.floats(0.01, 100), st.floats(-3, 3), st.floats(0.01, 3), st.floats(-4, 4))
def test_any_truncated_normal_goes_there_and_back(mean, sd, start, width, z):
    law = Truncated(td.Normal(mean, sd), low=mean + start * sd, high=mean + (start + width) * sd)
    theta = from_normal(law, torch.tensor([z], dtype=torch.float64))
    assert law.low is not None
    assert law.high is not None
    assert law.low <= float(theta) <= law.high
    torch.testing.assert_close(from_normal(law, to_normal(law, theta)), theta, atol=1e-6 * sd, rtol=1e-6)


def test_infinite_bounds_are_no_bounds():
    law = Truncated(td.Normal(0.0, 1.0), low=-math.inf, high=2.0)
    assert (law.low, law.high) == (None, 2.0)
    json.dumps(law_to_json(law), allow_nan=False)


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (td.Normal(0.0, 1.0), (None, None)),
        (td.HalfNormal(1.0), (0.0, None)),
        (td.Uniform(1.0, 2.0), (1.0, 2.0)),
        (Truncated(td.LogNormal(0.0, 1.0), high=3.0), (0.0, 3.0)),
        (LAWS["twice"], (-1.0, 0.5)),
        (td.VonMises(0.0, 1.0), (-math.pi, math.pi)),
        (LAWS["mixture"], (None, None)),
    ],
)
def test_bounds(law, expected):
    assert bounds(law) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("edges", [(0.0, 1.0), (0.1, 0.7), (1e9, 2e9), (-3e7, -1e-30)])
def test_inside_moves_values_strictly_inside(edges, dtype):
    law = td.Uniform(*(torch.tensor(e, dtype=torch.float64) for e in edges))
    theta = inside(law, torch.tensor([edges[0] - 1, edges[0], edges[1], edges[1] + 1], dtype=dtype))
    assert theta.dtype == dtype
    assert bool((theta.double() > edges[0]).all())
    assert bool((theta.double() < edges[1]).all())


@pytest.mark.parametrize("name", LAWS)
def test_json_round_trip_is_exact(name):
    law = LAWS[name]
    back = law_from_json(json.loads(json.dumps(law_to_json(law), allow_nan=False)))
    if name == "von mises" or not is_normalisable(law):
        theta = torch.linspace(0.05, 0.95, 50, dtype=torch.float64)
    else:
        theta = points(law, 50)
    assert type(back) is type(law)
    assert torch.equal(back.log_prob(theta), law.log_prob(theta))


def test_a_joint_law_round_trip_is_exact():
    law = td.Independent(td.Normal(torch.tensor([0.1, 0.2]), torch.tensor([1.0, 3.0])), 1)
    back = law_from_json(json.loads(json.dumps(law_to_json(law))))
    assert torch.equal(back.log_prob(torch.ones(2)), law.log_prob(torch.ones(2)))
    normal = td.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.3], [0.3, 1.0]]))
    back = law_from_json(json.loads(json.dumps(law_to_json(normal))))
    assert torch.equal(back.log_prob(torch.ones(2)), normal.log_prob(torch.ones(2)))


def test_truncation_that_makes_no_sense_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'lo'"):
        Truncated(td.Normal(0, 1), lo=0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="univariate distribution"):
        Truncated(td.Normal(torch.zeros(2), 1.0), low=0.0)
    with pytest.raises(TypeError, match="univariate distribution"):
        Truncated(1.0, low=0.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no cdf/icdf"):
        Truncated(td.Gamma(2.0, 1.0), low=0.5)
    with pytest.raises(ValueError, match="low < high"):
        Truncated(td.Normal(0.0, 1.0), low=1.0, high=1.0)
    with pytest.raises(ValueError, match="low < high"):
        Truncated(td.Normal(0.0, 1.0), low=math.nan)
    with pytest.raises(ValueError, match="no mass"):
        Truncated(td.Uniform(0.0, 1.0), low=2.0)


def test_laws_that_cannot_be_written_or_read_are_refused():
    with pytest.raises(TypeError, match="cannot be written down"):
        law_to_json(td.TransformedDistribution(td.Normal(0.0, 1.0), [td.ExpTransform()]))
    with pytest.raises(TypeError, match="temperature"):
        law_to_json(td.RelaxedBernoulli(torch.tensor(0.5), probs=torch.tensor(0.3)))
    for name in ("os", "kl_divergence", "Florp"):
        with pytest.raises(ValueError, match="does not have"):
            law_from_json({"law": name, "arguments": {}})
