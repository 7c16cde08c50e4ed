"""Laws by the names of the field: what they are, in which precision, and what is said of wrong numbers."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from astropy import units
from scipy import stats
from torch import distributions as td

from sciinf import (
    Beta,
    Cauchy,
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    Laplace,
    LogNormal,
    LogUniform,
    Normal,
    Prior,
    StudentT,
    Truncated,
    Uniform,
)
from sciinf.core import named_laws
from sciinf.core.law_json import law_from_json, law_to_json

# law, the same of scipy, the same of torch from plain numbers
LAWS = {
    "Normal": (Normal(mean=3.0, sd=0.5), stats.norm(3.0, 0.5), td.Normal(3.0, 0.5)),
    "Uniform": (Uniform(low=-1.0, high=2.0), stats.uniform(-1.0, 3.0), td.Uniform(-1.0, 2.0)),
    "LogNormal": (LogNormal(mean_log=1.0, sd_log=0.7), stats.lognorm(0.7, scale=math.e), td.LogNormal(1.0, 0.7)),
    "HalfNormal": (HalfNormal(scale=2.0), stats.halfnorm(scale=2.0), td.HalfNormal(2.0)),
    "HalfCauchy": (HalfCauchy(scale=1.5), stats.halfcauchy(scale=1.5), td.HalfCauchy(1.5)),
    "Exponential": (Exponential(rate=0.3), stats.expon(scale=1 / 0.3), td.Exponential(0.3)),
    "Gamma": (Gamma(shape=2.0, rate=3.0), stats.gamma(2.0, scale=1 / 3.0), td.Gamma(2.0, 3.0)),
    "Beta": (Beta(a=2.0, b=3.0), stats.beta(2.0, 3.0), td.Beta(2.0, 3.0)),
    "Cauchy": (Cauchy(loc=1.0, scale=2.0), stats.cauchy(1.0, 2.0), td.Cauchy(1.0, 2.0)),
    "Laplace": (Laplace(loc=1.0, scale=2.0), stats.laplace(1.0, 2.0), td.Laplace(1.0, 2.0)),
    "StudentT": (StudentT(df=4.0, loc=1.0, scale=2.0), stats.t(4.0, 1.0, 2.0), td.StudentT(4.0, 1.0, 2.0)),
    "LogUniform": (LogUniform(low=0.01, high=10.0), stats.loguniform(0.01, 10.0), None),
}


def test_every_name_is_tested():
    assert set(LAWS) == set(named_laws.__all__)


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_what_its_name_says(name):
    law, scipys, _ = LAWS[name]
    values = scipys.ppf(np.linspace(0.001, 0.999, 101))
    np.testing.assert_allclose(law.log_prob(torch.tensor(values)).numpy(), scipys.logpdf(values), rtol=1e-9, atol=1e-9)
    prior = Prior(a=law)
    column = torch.tensor(values)[:, None]
    np.testing.assert_allclose(prior.log_prob(column).numpy(), scipys.logpdf(values), rtol=1e-9, atol=1e-9)
    # the distances of Kolmogorov and Smirnov of 1,000 draws pass 0.065 once in 2,000 seeds; this one is fixed
    draws = prior.sample(1000, generator=torch.Generator().manual_seed(0))
    assert stats.kstest(draws[:, 0].numpy(), scipys.cdf).statistic < 0.065


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_torchs_own_in_float64_and_is_written_like_it(name):
    law, _, torchs = LAWS[name]
    written = json.loads(json.dumps(law_to_json(law)))
    again = law_from_json(written)
    assert type(again) is type(law)
    assert law_to_json(again) == written
    at = torch.tensor(0.3, dtype=torch.float64)
    assert torch.equal(again.log_prob(at), law.log_prob(at))
    assert Prior.from_json(Prior(a=law).to_json()).to_json() == Prior(a=law).to_json()
    if torchs is None:
        assert written == {"law": "LogUniform", "low": 0.01, "high": 10.0}
        return
    plain = law_to_json(torchs)
    assert type(law) is type(torchs)
    assert set(written) == {*plain, "dtype"}
    assert written["dtype"] == "float64"
    assert written["arguments"] == pytest.approx(plain["arguments"], rel=1e-7)


def test_no_digit_is_lost():
    """Laws of float32 are refused here: they have steps of 128 s and a quarter of a day."""
    assert Prior(t=(Normal(1126259462.4, 0.1), "s")).dtype == torch.float64
    assert Prior(t=(Uniform(2459000.5, 2459001.5), "d")).dtype == torch.float64
    assert Prior(t=(LogUniform(2459000.5, 2459001.5), "d")).dtype == torch.float64
    assert Prior(t=(Truncated(Normal(2459000.5, 0.1), low=2459000.5), "d")).dtype == torch.float64
    assert float(Normal(0.1, 1).loc) == 0.1
    assert Prior(a=Normal(0.1, 1)).dtype == torch.float32, "where float32 will do, parameters are float32"
    with pytest.raises(ValueError, match=r"from sciinf import Normal"):
        Prior(t=td.Normal(1126259462.4, 0.1))


@pytest.mark.parametrize("one", [1, np.float32(1), np.int64(1), np.array(1.0), torch.tensor(1), Fraction(1)])
def test_any_number_is_taken(one):
    assert law_to_json(Normal(one, one)) == law_to_json(Normal(1.0, 1.0))


@pytest.mark.parametrize(
    ("law", "arguments", "words"),
    [
        (Normal, (0.0, -1.0), r"Normal\(mean, sd\): sd = -1 must be above 0"),
        (Normal, (0.0, 0), r"Normal\(mean, sd\): sd = 0 must be above 0"),
        (Normal, (math.nan, 1.0), r"Normal\(mean, sd\): mean = nan must be finite"),
        (Normal, (10**400, 1.0), r"mean = 10+ must be finite"),
        (Uniform, (2.0, 1.0), r"Uniform\(low, high\): low = 2 must be below high = 1. Did you swap"),
        (Uniform, (1.0, 1.0), r"low = 1 must be below high = 1. .* into the simulator"),
        (Uniform, (0.0, math.inf), r"Uniform\(low, high\): high = inf must be finite"),
        (LogNormal, (0.0, -0.5), r"LogNormal\(mean_log, sd_log\): sd_log = -0.5"),
        (HalfNormal, (-1.0,), r"HalfNormal\(scale\): scale = -1"),
        (HalfCauchy, (0.0,), r"HalfCauchy\(scale\): scale = 0"),
        (Exponential, (-2.0,), r"Exponential\(rate\): rate = -2"),
        (Gamma, (-1.0, 1.0), r"Gamma\(shape, rate\): shape = -1"),
        (Gamma, (1.0, -1.0), r"Gamma\(shape, rate\): rate = -1"),
        (Beta, (0.0, 1.0), r"Beta\(a, b\): a = 0"),
        (Beta, (1.0, -3.0), r"Beta\(a, b\): b = -3"),
        (Cauchy, (0.0, -1.0), r"Cauchy\(loc, scale\): scale = -1"),
        (Laplace, (0.0, -1.0), r"Laplace\(loc, scale\): scale = -1"),
        (StudentT, (0.0,), r"StudentT\(df, loc, scale\): df = 0"),
        (StudentT, (4.0, 0.0, -1.0), r"StudentT\(df, loc, scale\): scale = -1"),
        (LogUniform, (0.0, 1.0), r"LogUniform\(low, high\): low = 0 must be above 0"),
        (LogUniform, (2.0, 1.0), r"LogUniform\(low, high\): low = 2 must be below high = 1"),
        (LogUniform, (1e-200, 1e200), r"LogUniform\(low, high\): high / low"),
    ],
)
def test_wrong_numbers_are_named(law, arguments, words):
    with pytest.raises(ValueError, match=words):
        law(*arguments)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(3), r"Normal\(mean, sd\): mean has shape \(3,\) and must be one number"),
        (torch.zeros(1, 2), r"mean has shape \(1, 2\)"),
        (2.0 * units.km, r"mean = <Quantity 2. km> has a unit. .* Prior\(name=\(law, 'km'\)\)"),
        (True, r"mean = True must be one number"),
    ],
)
def test_what_is_no_number_is_refused(value, words):
    with pytest.raises(TypeError, match=words):
        Normal(value, 1.0)


def test_laws_are_checked_where_torch_has_been_told_not_to():
    before = td.Distribution._validate_args
    td.Distribution.set_default_validate_args(False)  # as sbi does for the whole process
    try:
        with pytest.raises(ValueError, match="sd = -1"):
            Normal(0.0, -1.0)
    finally:
        td.Distribution.set_default_validate_args(before)


def test_decades_end_at_their_bounds():
    law, outside = LogUniform(1.0, 10.0), torch.tensor([0.5, 11.0, -1.0], dtype=torch.float64)
    assert law.log_prob(outside).tolist() == [-math.inf] * 3
    assert law.cdf(outside).tolist() == [0.0, 1.0, 0.0]
    far = torch.tensor([[-40.0], [40.0]])
    theta = Prior(a=law).bijection.inverse(far)
    assert theta.flatten().tolist() == pytest.approx([1.0, 10.0], rel=1e-6)
    assert bool(((theta > 1) & (theta < 10)).all())
