"""The likelihood number by number: normalised, near the exact one, with the dependence that data have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td

from sciinf import LogNormal, Recipe, simulate, train
from sciinf.core import Batch, Observable, Prior, Simulator
from sciinf.core.component import from_json, to_json
from sciinf.training.estimators._elements_start import start_of
from sciinf.training.estimators.elements import LAGS, Elements, suits

ROWS, NUMBERS = 4_000, 8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def series(z, noise, *, lag, strength):
    """Numbers of which each follows the one `lag` before it, by a share that z decides."""
    share, x = strength * torch.tanh(z[:, 0] + 1), list(noise[:, :lag].T)
    for t in range(lag, noise.shape[1]):
        x.append(share * x[t - lag] + noise[:, t])
    return torch.stack(x, dim=1) + z[:, 1:2]


class Chain(Simulator):
    """An autoregression of first order about an offset, of a narrow prior, as rounds around an answer have it."""

    name = "chain"
    prior = Prior(share=td.Normal(0.5, 0.2), offset=td.Normal(0.0, 0.5))
    observables = {"x": Observable((NUMBERS,), dims=("time",))}

    def __call__(self, theta, *, generator):
        noise = torch.randn(len(theta), NUMBERS, generator=generator)
        x = [noise[:, 0]]
        for t in range(1, NUMBERS):
            x.append(theta[:, 0] * x[-1] + noise[:, t])
        return {"x": torch.stack(x, dim=1) + theta[:, 1:]}

    def exact(self, theta, x):
        """log p(x | theta) of parameters (n, 2) given one observation."""
        left = x - theta[:, 1:]
        step = torch.cat([left[:, :1], left[:, 1:] - theta[:, :1] * left[:, :-1]], dim=1)
        return td.Normal(0.0, 1.0).log_prob(step).sum(1)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("chain"), Chain()
    store = simulate(model, folder / "s", ROWS, seed=1, progress=False)
    recipe = Recipe(epochs=20, learning_rate=3e-3)
    return train(Elements(model.prior, model.observables), store, folder / "f", recipe=recipe, progress=False).estimator


def test_posteriors_are_near_exact_ones(chain):
    """Means and sds of 40 posteriors, over a lattice of the prior's draws: errors of .1 sd where noise allows .03."""
    model = Chain()
    theta = model.prior.sample(4_000, generator=generator(5))
    x = model(model.prior.sample(40, generator=generator(6)), generator=generator(7))["x"]
    off, ratio = [], []
    with torch.no_grad():
        found = chain.condition({"x": x}).log_likelihood(theta[:, None].expand(-1, 40, -1))
    for i in range(40):
        (mean, sd), (right, width) = (
            moments(theta, log) for log in (found[:, i], model.exact(theta.double(), x[i].double()))
        )
        off.append((mean - right) / width)
        ratio.append(sd / width)
    assert torch.stack(off).square().mean(0).sqrt().max() < 0.12
    assert (torch.stack(ratio) - 1).abs().mean() < 0.05


def moments(theta, log):
    weight = log.double().softmax(0)
    mean = weight @ theta.double()
    return mean, (weight @ (theta.double() - mean).square()).sqrt()


def test_the_density_is_normalised_and_follows_the_number_before(chain):
    """Of the last number given the others: the integral over it does not depend on where theta is."""
    lattice = torch.linspace(-12.0, 12.0, 2_401)
    x = torch.zeros(len(lattice), NUMBERS)
    x[:, -2], x[:, -1] = 1.5, lattice
    shorter = x[:1].clone()
    totals, middles = [], []
    for share in (0.3, 0.8):
        theta = torch.tensor([share, 0.3]).expand(len(lattice), 2)
        with torch.no_grad():
            log = chain.condition({"x": x}).log_likelihood(theta)
        total = log.exp().sum() * 0.01
        middles.append(float((lattice * log.exp()).sum() * 0.01 / total))
        first = Chain().exact(theta[:1], shorter) - td.Normal(0.0, 1.0).log_prob(x[:1, -1] - 0.3 - share * 1.2)
        totals.append(float(total.log() - first))
    assert max(map(abs, totals)) < 0.3  # nats, of a density of seven numbers that was learned
    assert middles == pytest.approx([0.3 + 0.3 * 1.2, 0.3 + 0.8 * 1.2], abs=0.15)


@pytest.mark.parametrize(("lag", "strength", "found"), [(1, 0.5, 1), (3, 0.5, 3), (1, 0.0, 0)])
def test_how_many_numbers_before_count_is_read_off_the_rows(lag, strength, found):
    z = torch.randn(6_000, 2, generator=generator(1))
    y = series(z, torch.randn(6_000, 20, generator=generator(2)), lag=lag, strength=strength)
    start = start_of(z, y, LAGS)
    assert start.lags == found
    if strength:  # alike for all numbers that have one so far before them
        before = (start.before.common[:, None] + start.before.share * start.before.own)[lag - 1, lag:]
        assert (before - strength * torch.tanh(z[:, 0] + 1).mean()).abs().max() < 0.05


def test_numbers_of_one_law_do_not_learn_it_each_for_itself():
    """Forty items of one mean and sd in 800 rows: .27 nats are lost at the start, and .53 where none is shared."""
    prior = Prior(mu=td.Normal(0.0, 1.0), log_sd=td.Normal(0.0, 0.3))
    theta = prior.sample(1_800, generator=generator())
    x = theta[:, :1] + theta[:, 1:].exp() * torch.randn(1_800, 40, generator=generator(1))
    model = Elements(prior, {"x": Observable((40,), dims=("item",))})
    model.standardise(lambda: iter([Batch(theta[:800], {"x": x[:800]})]))
    with torch.no_grad():
        found = model.condition({"x": x[800:]}).log_likelihood(theta[800:])
    exact = td.Normal(theta[800:, :1], theta[800:, 1:].exp()).log_prob(x[800:]).sum(1)
    assert (exact - found).mean() < 0.31


def test_numbers_of_their_own_laws_keep_them():
    """Twelve numbers with slopes, levels and sds that differ: none is drawn to the others' mean."""
    z, level = torch.randn(2_000, 2, generator=generator()), torch.linspace(-2.0, 2.0, 12)
    slope, sd = torch.randn(2, 12, generator=generator(1)), torch.linspace(0.2, 1.5, 12)
    y = level + z @ slope + sd * torch.randn(2_000, 12, generator=generator(2))
    found = start_of(z, y, LAGS)
    assert found.middle.share[:3].mean() > 0.9
    assert found.log_sd.share.mean() > 0.9
    middles = found.middle.common[:, None] + found.middle.share * found.middle.own
    assert (middles[:3] - torch.cat([level[None], slope])).abs().max() < 0.2
    assert found.middle.share[3:].max() < 0.5  # of squares and products, of which there are none


@pytest.mark.parametrize("first", ["fixed", "parameter", "twice fixed"])
def test_a_number_without_noise_does_not_spoil_the_start_of_the_others(first):
    """A series from a fixed value, or from one that is a parameter: millions of nats were lost at the start."""
    prior = Prior(start=td.Normal(0.0, 1.0), share=td.Uniform(0.3, 0.8))
    theta = prior.sample(2_500, generator=generator())
    x = [theta[:, 0] if first == "parameter" else torch.zeros(2_500)]
    for k, noise in enumerate(torch.randn(19, 2_500, generator=generator(1))):
        x.append(0 * noise if k == 9 and first == "twice fixed" else theta[:, 1] * x[-1] + noise)
    x = torch.stack(x, dim=1)
    noisy = x[:, 1:].std(0) > 0
    model = Elements(prior, {"x": Observable((20,), dims=("time",))})
    model.standardise(lambda: iter([Batch(theta[:1_500], {"x": x[:1_500]})]))
    with torch.no_grad():
        y, z = model._flat({"x": x[1_500:]}), model.to_z(theta[1_500:])
        found = model._log_probs(z, y, None)[:, 1:].sum(1) - x[:1_500, 1:].std(0).clamp_min(1e-30).log()[noisy].sum()
    exact = td.Normal(theta[1_500:, 1:] * x[1_500:, :-1], 1.0).log_prob(x[1_500:, 1:])[:, noisy].sum(1)
    assert (exact - found).mean() < 2.0  # 4.2 where numbers that do not vary are asked how others depend on them
    if first != "parameter":
        assert not model.own[:, 2].any(), "the others still share how they follow the one before"


def test_counts_of_one_law_share_it():
    """Forty of mean one, and their slopes, in 2,000 rows."""
    z = torch.randn(2_000, 1, generator=generator())
    n = torch.poisson((0.5 * z).exp().expand(-1, 40).contiguous(), generator=generator(1))
    found = start_of(z, (n + 0.5).log(), LAGS, torch.ones(40, dtype=torch.bool))
    assert found.middle.share.max() == 0.0
    assert found.middle.common[:2].tolist() == pytest.approx([0.0, 0.5], abs=0.03)


@pytest.mark.slow
def test_versions_are_what_numbers_do_not_share():
    """Sds that rise with the parameter for some numbers and fall for others: seen with versions, not without."""
    prior = Prior(a=td.Normal(0.0, 1.0))
    theta = prior.sample(2_000, generator=generator())
    signs = torch.tensor([1.0, -1.0]).repeat(8)
    x = (0.7 * theta * signs).exp() * torch.randn(2_000, 16, generator=generator(1))
    batch, loss = Batch(theta, {"x": x}), {}
    for versions in (0, 6):
        model = Elements(prior, {"x": Observable((16,))}, versions=versions)
        model.standardise(lambda: iter([batch]))
        steps = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(100):
            steps.zero_grad()
            model.loss(batch, generator=generator()).mean().backward()
            steps.step()
        loss[versions] = float(model.loss(batch, generator=generator()).detach().mean())
    exact = -td.Normal(0.0, (0.7 * theta * signs).exp()).log_prob(x).sum(1).mean() - x.std(0).log().sum()
    assert loss[6] < float(exact) + 0.4  # rounding of a processor moves it by 0.1
    assert loss[0] > float(exact) + 1.0
    with pytest.raises(ValueError, match="versions"):
        Elements(prior, {"x": Observable((6,))}, versions=-1)


def test_few_rows_do_not_make_numbers_depend_on_each_other():
    """Eight independent numbers of long tails in 300 rows: of 12 such sets chance makes 10 seem to depend."""
    found = []
    for seed in range(12):
        z, noise = (torch.randn(300, k, generator=generator(k + seed)) for k in (2, 8))
        found.append(start_of(z, noise * noise.abs(), LAGS).lags)
    assert sum(lags > 0 for lags in found) <= 2


def test_weights_that_are_loaded_bring_their_lags(chain):
    """Into an estimator that was asked before, of data without dependence."""
    other = Elements(Chain.prior, Chain.observables)
    theta = Chain.prior.sample(2_000, generator=generator())
    x = torch.randn(2_000, NUMBERS, generator=generator(1))
    other.standardise(lambda: iter([Batch(theta, {"x": x})]))
    batch = Batch(theta[:5], {"x": x[:5]})
    other.loss(batch, generator=generator())
    assert not other.lags.any()
    other.load_state_dict(chain.state_dict())
    found, right = (model.loss(batch, generator=generator()) for model in (other, chain))
    torch.testing.assert_close(found, right)


@pytest.mark.parametrize(("size", "rows"), [(10, 200), (30, 600)])
def test_a_start_from_few_rows_holds_for_others(size, rows):
    """Of 65 and 495 coefficients: of fresh rows, y = A z + e is as likely as it can be but for a nat."""
    prior = Prior(**{f"p{i}": td.Normal(0.0, 1.0) for i in range(size)})
    theta, noise = prior.sample(rows + 500, generator=generator()), torch.randn(rows + 500, 20, generator=generator(1))
    x = theta @ torch.randn(size, 20, generator=generator(4)) / size**0.5 + noise
    model = Elements(prior, {"x": Observable((20,))})
    model.standardise(lambda: iter([Batch(theta[:rows], {"x": x[:rows]})]))
    fresh = Batch(theta[rows:], {"x": x[rows:]})
    with torch.no_grad():
        found = model.condition(fresh.x).log_likelihood(fresh.theta).mean()
    assert found > td.Normal(0.0, 1.0).log_prob(noise[rows:]).sum(1).mean() - 1


def test_middles_that_no_quadratic_fits_are_not_taken_for_dependence():
    """Fifty yes-or-no answers, independent of each other: what is left of their middles is alike at all distances."""
    z = torch.randn(6_000, 3, generator=generator(3))
    logit = 3 * z @ torch.randn(3, 50, generator=generator(4))
    y = (torch.rand(logit.shape, generator=generator(5)) < logit.sigmoid()).float()
    assert start_of(z, y, LAGS).lags == 0


@pytest.mark.parametrize("dtype", ["int64", "float32"])
@pytest.mark.parametrize(("scale", "shift"), [("linear", 0), ("log", 0), ("linear", -1)])
def test_whole_numbers_have_probabilities_that_add_up(dtype, scale, shift):
    """Of floats that are whole as of ints, counts and others, over all that were seen; before any training."""
    prior = Prior(rate=td.LogNormal(1.0, 0.3))
    model = Elements(prior, {"k": Observable((1,), dtype=dtype, scale=scale)})
    theta = prior.sample(2_000, generator=generator())
    k = torch.poisson(theta, generator=generator(1)).to(getattr(torch, dtype)) + shift
    model.standardise(lambda: iter([Batch(theta, {"k": k})]))
    assert model.whole.all()
    assert model.counts.all() == (shift == 0)
    values = torch.arange(int(k.min()), int(k.max()) + 1)
    rates = torch.full((len(values), 1), 3.0)
    with torch.no_grad():
        log = model.condition({"k": values[:, None].to(k.dtype)}).log_likelihood(rates)
    assert float(log.exp().sum()) == pytest.approx(1.0, abs=2e-3)
    assert (log.exp() - td.Poisson(3.0).log_prob((values - shift).double()).exp()).abs().max() < 0.12
    far = model.condition({"k": values[-1:, None].to(k.dtype) * 50}).log_likelihood(rates[:1])
    assert math.isfinite(float(far.detach()))


@pytest.mark.parametrize("more", [0.0, 6.0])
def test_counts_begin_near_their_likelihood(more):
    """Of 20 counts whose means a curve in time multiplies, small and large: of fresh rows within .15 nats."""
    theta, log_mean = curves(4_000)
    log_mean = log_mean + more
    n = torch.poisson(log_mean.exp(), generator=generator(1))
    model = Elements(CURVES, {"n": Observable((20,))})
    model.standardise(lambda: iter([Batch(theta[:2_000], {"n": n[:2_000]})]))
    with torch.no_grad():
        found = model.condition({"n": n[2_000:]}).log_likelihood(theta[2_000:])
    exact = td.Poisson(log_mean[2_000:].double().exp()).log_prob(n[2_000:].double()).sum(1)
    assert 0 < (exact - found).mean() < 0.15
    assert (exact - found).std() < 0.6


CURVES = Prior(level=td.Normal(1.0, 0.5), slope=td.Normal(0.0, 0.5))


def curves(rows):
    """Parameters, and logarithms of means at 20 times."""
    theta = CURVES.sample(rows, generator=generator())
    return theta, theta[:, :1] + theta[:, 1:] * torch.linspace(-2.0, 3.0, 20)


@pytest.mark.parametrize(
    ("law", "counts"),
    [
        (lambda m: torch.poisson(m.exp(), generator=generator(1)), True),
        (lambda m: torch.poisson((m + 6).exp(), generator=generator(1)), True),
        (lambda m: torch.poisson(m.exp() * torch.rand(m.shape, generator=generator(2)), generator=generator(1)), True),
        (lambda m: (10 * m.sigmoid() + 0.3 * torch.randn(m.shape, generator=generator(1))).clamp(0, 10).round(), False),
        (lambda m: (torch.rand(m.shape, generator=generator(1)) < m.sigmoid()).float(), False),
        (lambda m: torch.poisson(m.exp(), generator=generator(1)) - 1, False),
    ],
    ids=["poisson", "large", "spread", "bounded", "yes or no", "below zero"],
)
def test_the_rows_tell_whether_whole_numbers_are_counts(law, counts):
    """With another observable beside them, which has a law of its own."""
    theta, log_mean = curves(2_000)
    model = Elements(CURVES, {"n": Observable((20,)), "x": Observable((1,))})
    x = theta[:, :1] + torch.randn(2_000, 1, generator=generator(3))
    model.standardise(lambda: iter([Batch(theta, {"n": law(log_mean), "x": x})]))
    assert model.counts.tolist() == [counts] * 20 + [False]


@pytest.mark.parametrize(
    ("dtype", "centre", "spread"), [("float32", 1e30, 1e29), ("float32", 5e8, 1e8), ("float64", 1_126_259_462.4, 0.2)]
)
def test_large_numbers_with_fractions_are_not_taken_for_whole_ones(dtype, centre, spread):
    """Beyond 2^24 float32 has whole numbers alone; times of float64, rounded to it, are whole."""
    prior = Prior(a=td.Normal(0.0, 1.0))
    model = Elements(prior, {"x": Observable((2,), dtype=dtype)})
    theta = prior.sample(500, generator=generator())
    x = centre + spread * (theta.double() + torch.randn(500, 2, generator=generator(1)).double())
    model.standardise(lambda: iter([Batch(theta, {"x": x.to(getattr(torch, dtype))})]))
    assert not model.whole.any()


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_large_counts_have_probabilities_that_add_up(scale):
    """Of which an interval of one is less than float32 tells apart: a sum over every thousandth part of the spread."""
    prior, spread = Prior(a=td.Normal(0.0, 1.0)), 100_000_000
    model = Elements(prior, {"k": Observable((1,), dtype="int64", scale=scale)})
    theta = prior.sample(2_000, generator=generator())
    k = 10**9 + (spread * (theta.double() + torch.randn(2_000, 1, generator=generator(1)).double())).round().long()
    model.standardise(lambda: iter([Batch(theta, {"k": k})]))
    assert model.whole.all()
    lattice = torch.arange(int(k.min()) + 1, int(k.max()), spread // 1_000)
    with torch.no_grad():
        log = model.condition({"k": lattice[:, None]}).log_likelihood(torch.zeros(len(lattice), 1))
    assert float(log.exp().sum() * (spread // 1_000)) == pytest.approx(1.0, abs=0.02)


def test_a_number_that_never_varied_says_nothing():
    """Where an observation has it off by much or little, the posterior is that of the others."""
    model = Elements(Chain.prior, Chain.observables)
    theta = Chain.prior.sample(2_000, generator=generator())
    x = Chain()(theta, generator=generator(1))["x"]
    x[:, 3] = 2.0
    model.standardise(lambda: iter([Batch(theta, {"x": x})]))
    asked = x[:1].expand(3, -1).clone()
    asked[:, 3] = torch.tensor([2.0, 2.001, 50.0])
    with torch.no_grad():
        found = model.condition({"x": asked}).log_likelihood(theta[:50, None].expand(-1, 3, -1))
    assert found.isfinite().all()
    assert found.std(0).min() > 0.5
    torch.testing.assert_close(found, found[:, :1].expand(-1, 3))


def test_gradients_are_finite_at_the_ends_of_whole_numbers():
    prior = Prior(p=td.Normal(0.0, 1.0))
    model = Elements(prior, {"k": Observable((4,))})
    theta = prior.sample(500, generator=generator())
    k = (torch.rand(500, 4, generator=generator(1)) < theta.sigmoid()).float()
    model.standardise(lambda: iter([Batch(theta, {"k": k})]))
    model.loss(Batch(theta, {"k": k}), generator=generator()).mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("observables", "words"),
    [
        ({"x": Observable((501,))}, "501 numbers, and Elements learns a density of at most 500"),
        ({"x": Observable((3,), dtype="bool")}, "is bool"),
        ({"x": Observable((3,)), "x_mask": Observable((3,), dtype="bool")}, "marks missing values"),
    ],
)
def test_data_that_have_no_such_likelihood_are_refused(observables, words):
    with pytest.raises(ValueError, match=words):
        Elements(Chain.prior, observables)
    assert not suits(observables)
    assert suits(Chain.observables)


def test_a_likelihood_from_before_five_laws_has_three():
    written = to_json(Elements(Waiting.prior, Waiting.observables, parts=3))
    assert "parts" not in written["arguments"]
    assert from_json(written).parts == 3
    assert from_json(to_json(Elements(Waiting.prior, Waiting.observables))).parts == 5


class Waiting(Simulator):
    """Items of a Weibull law, whose logarithms have one light tail and one that falls like an exponential."""

    name = "waiting"
    prior = Prior(scale=LogNormal(0.15, 0.35), shape=LogNormal(0.25, 0.35))
    observables = {"times": Observable((25,), dims=("item",), scale="log")}

    def __call__(self, theta, *, generator):
        u = torch.rand(len(theta), 25, generator=generator, dtype=torch.float64)
        times = theta[:, :1] * (-torch.log1p(-u)).pow(1 / theta[:, 1:].double())
        return {"times": times.clamp_min(1e-12).float()}

    def log_density(self, theta, x):
        scale, shape = theta[..., :1], theta[..., 1:]
        ratio = x["times"].double() / scale
        return (shape.log() - scale.log() + (shape - 1) * ratio.log() - ratio.pow(shape)).sum(-1)


@pytest.mark.slow
def test_the_tail_of_skewed_numbers_is_followed(tmp_path):
    """Where a datum lies far in it, the shape's mean is off by .20 sds, rms over 82 sets; with three laws by .30."""
    simulator, generator = Waiting(), torch.Generator().manual_seed(7)
    store = simulate(simulator, tmp_path / "store", 4_000, seed=3, progress=False)
    theta = simulator.prior.sample(300, generator=generator)
    x = simulator(theta, generator=generator)
    extreme = x["times"].log().amin(1) < -4
    tried = simulator.prior.sample(4_000, generator=generator)[:, None]

    def mean(log):
        weight = log.double().softmax(0)
        moments = [torch.einsum("nb,nd->bd", weight, tried[:, 0].double() ** k) for k in (1, 2)]
        return moments[0], (moments[1] - moments[0] ** 2).sqrt()

    exact, sd = mean(simulator.log_density(tried.double(), x))
    elements = Elements(simulator.prior, simulator.observables)
    fit = train(elements, store, tmp_path / "fit", recipe=Recipe(learning_rate=3e-3), progress=False)
    with torch.no_grad():
        found, _ = mean(fit.estimator.condition(x).log_likelihood(tried.expand(-1, 300, -1)))
    off = ((found - exact) / sd)[extreme, 1]
    assert float(off.square().mean().sqrt()) < 0.25
