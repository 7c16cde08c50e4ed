"""Exact posteriors over sets of terms, against sums over all sets and over a grid of the noise."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from torch.distributions import MultivariateNormal

from sciinf import (
    HalfNormal,
    LogUniform,
    Mixed,
    Normal,
    Observable,
    Prior,
    Recipe,
    build_posterior,
    query,
    simulate,
    train,
    wrappers,
)
from sciinf.core.doubts import Doubt
from sciinf.networks.summaries.vector import MLP
from sciinf.posteriors import equations as module
from sciinf.posteriors import equations as term_sums
from sciinf.posteriors.equations import EquationPosterior
from sciinf.simulators.dynamics.term_library import Library, polynomials

STATES = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64)[:, None]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(include: float = 0.3, degree: int = 2):
    library = polynomials({"x": "m"}, degree, time="s")
    return wrappers.equations(
        library, wrappers.Rates(STATES), sd=1.3, noise={"x": HalfNormal(0.5)}, include=include, name="small"
    )


def theta_of(simulator, true, sigma):
    theta = torch.full((1, len(simulator.prior)), math.nan, dtype=torch.float64)
    theta[:, simulator.has.flatten()], theta[:, simulator.sigma] = 0.0, sigma
    for state, terms in enumerate(true):
        for name, value in terms.items():
            at = simulator.library.names.index(name)
            theta[0, simulator.has[state, at]], theta[0, simulator.coefficient[state, at]] = 1.0, value
    return theta


def lotka(step: float, noise: float = 0.0, seed: int = 0):
    library = polynomials({"prey": "", "predator": ""}, 2)
    start = 0.5 + torch.rand(10, 2, generator=generator(seed))
    record = wrappers.Paths(start, torch.arange(0.0, 10.01, step), substeps=max(1, round(step / 0.01)))
    law = {"prey": HalfNormal(1.0), "predator": HalfNormal(1.0)}
    grows = {"prey": "prey", "predator": "predator"}
    simulator = wrappers.equations(library, record, sd=1.0, noise=law, include=0.2, grows=grows)
    theta = theta_of(simulator, [{"prey": 1.0, "prey*predator": -1.0}, {"predator": -1.0, "prey*predator": 1.0}], 0.1)
    path = simulator(theta, generator=generator(seed))["record"]
    path = path + noise * torch.randn(path.shape, generator=generator(seed + 1))
    return simulator, theta, {"record": path}


@pytest.fixture(scope="module")
def asked():
    simulator = small()
    x = simulator(theta_of(simulator, [{"1": 0.4, "x^2": 0.9}], 0.3), generator=generator(1))
    return simulator, x


def brute(simulator, x):
    """log p(y), and the probability of each set, by multivariate normal laws on a grid of sigma."""
    y, a = x["record"][0, :, 1], simulator.library(STATES)
    log_sigma = torch.linspace(math.log(1e-4), math.log(4.0), 800, dtype=torch.float64)
    found = {}
    for chosen in itertools.product([False, True], repeat=a.shape[1]):
        b = a * torch.tensor(chosen) * 1.3
        covariance = b @ b.T + (2 * log_sigma).exp()[:, None, None] * torch.eye(len(y))
        log_p = MultivariateNormal(torch.zeros(len(y), dtype=torch.float64), covariance).log_prob(y)
        log_p = log_p + simulator.prior.laws[-1].log_prob(log_sigma.exp()) + log_sigma
        log_p = log_p.logsumexp(0) + math.log(float(log_sigma[1] - log_sigma[0]))
        found[chosen] = log_p + sum(math.log(0.3 if one else 0.7) for one in chosen)
    total = torch.stack(list(found.values())).logsumexp(0)
    return float(total), {chosen: float((log_p - total).exp()) for chosen, log_p in found.items()}


def test_evidence_and_probabilities_are_those_of_all_sets(asked) -> None:
    simulator, x = asked
    evidence, sets = brute(simulator, x)
    posterior = EquationPosterior(simulator)
    (table,) = posterior.tables(x)
    assert table.log_evidence == pytest.approx(evidence, abs=1e-3)
    found = dict(zip(map(tuple, table.sets.tolist()), table.log_weight.logsumexp(1).exp().tolist(), strict=True))
    assert all(found[chosen] == pytest.approx(p, abs=1e-4) for chosen, p in sets.items())
    included = sum(p for chosen, p in sets.items() if chosen[2])
    assert float(posterior.probabilities(x, "d(x) has x^2")[0, 1]) == pytest.approx(included, abs=1e-4)


def test_draws_are_of_the_posterior(asked) -> None:
    """Frequencies within 4.5 standard errors, and so are moments (false alarm below 1e-4 in all)."""
    simulator, x = asked
    posterior, n = EquationPosterior(simulator), 20_000
    draws = posterior.draw(x, n, generator=generator(3))
    p = posterior.inclusion(x)[0, 0]
    often = (draws.theta[:, simulator.has[0]] == 1).double().mean(0)
    assert bool(((often - p).abs() < 4.5 * (p * (1 - p) / n).sqrt() + 1e-6).all())
    mean, square, log_sigma = moments(simulator, x)
    theta = torch.cat([draws.theta[:, simulator.coefficient[0]], draws.theta[:, -1:].log()], 1)
    for column, m, s in zip(theta.T, (*mean, log_sigma[0]), (*square, log_sigma[1]), strict=True):
        value, sd = column[~column.isnan()].double(), math.sqrt(s - m**2)
        assert abs(float(value.mean()) - m) < 4.5 * sd / math.sqrt(len(value))
        assert float(value.std()) / sd == pytest.approx(1.0, abs=4.5 / math.sqrt(len(value)))


def moments(simulator, x):
    """Mean and mean square of each coefficient where it is in, and of log sigma, by sums over sets and a grid."""
    y, a, k = x["record"][0, :, 1], simulator.library(STATES), 3
    grid = torch.linspace(math.log(0.02), math.log(3.0), 300, dtype=torch.float64)
    weights, means, squares, sets = [], [], [], []
    for chosen in itertools.product([False, True], repeat=k):
        b, inside = a * torch.tensor(chosen) * 1.3, torch.tensor(chosen)
        variance = (2 * grid).exp()[:, None, None]
        law = MultivariateNormal(torch.zeros(len(y), dtype=torch.float64), b @ b.T + variance * torch.eye(len(y)))
        weights.append(law.log_prob(y) + simulator.prior.laws[-1].log_prob(grid.exp()) + grid)
        weights[-1] += sum(math.log(0.3 if one else 0.7) for one in chosen)
        covariance = torch.linalg.inv(b.T @ b / variance + torch.eye(k, dtype=torch.float64))
        mean = (covariance @ (b.T @ y) / variance[..., 0]) * 1.3
        means.append(mean)
        squares.append(mean**2 + covariance.diagonal(dim1=1, dim2=2) * 1.69)
        sets.append(inside.expand(len(grid), k))
    weight = torch.cat(weights).softmax(0)[:, None]
    inside, sigma = torch.cat(sets), grid.repeat(2**k)
    share = (weight * inside).sum(0)
    mean, square = ((weight * inside * torch.cat(part)).sum(0) / share for part in (means, squares))
    of_sigma = (float(weight[:, 0] @ sigma), float(weight[:, 0] @ sigma**2))
    return mean.tolist(), square.tolist(), of_sigma


def test_the_density_is_normalised(asked) -> None:
    """The mean of q / p over draws of the prior p is 1, within 5 standard errors."""
    simulator, x = asked
    posterior = EquationPosterior(simulator)
    theta = simulator.prior.sample(100_000, generator=generator(5))
    ratio = (posterior.log_prob_batched(theta[:, None], x)[:, 0] - simulator.prior.log_prob(theta)).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(len(ratio))


def one_path(times, sigma=0.5):
    library = polynomials({"x": "m"}, 1, time="s")
    record = wrappers.Paths(torch.tensor([[1.0]]), times)
    return wrappers.equations(library, record, sd=0.7, noise={"x": LogUniform(0.999 * sigma, 1.001 * sigma)})


def test_the_density_of_a_path_integrates_to_one() -> None:
    """Whatever the step, and so the unit of time, is: p(x(h) | x(0)) is a density of x."""
    values = torch.linspace(-9.0, 11.0, 20_001, dtype=torch.float64)
    x = torch.stack([torch.ones_like(values), values], 1)[:, None, :, None]
    for step in (0.01, 1.0, 3.0):
        simulator = one_path([0.0, step])
        theta = theta_of(simulator, [{"x": 0.3}], 0.5).expand(len(values), -1)
        total = torch.trapezoid(simulator.log_p(theta, {"record": x}).exp(), values)
        assert float(total) == pytest.approx(1.0, abs=1e-3)


def test_evidence_of_a_path_is_that_of_its_increments() -> None:
    """Of two steps of unlike lengths, against normal laws of x(t) - x(0), summed over the four sets of terms."""
    simulator, steps = one_path([0.0, 0.01, 0.21]), torch.tensor([0.01, 0.2], dtype=torch.float64)
    x = torch.tensor([1.0, 1.04, 0.9], dtype=torch.float64)
    a = torch.stack([torch.ones(2), x[:2]], 1) * steps[:, None]
    total = []
    for chosen in itertools.product([False, True], repeat=2):
        b = 0.7 * a * torch.tensor(chosen)
        law = MultivariateNormal(torch.zeros(2, dtype=torch.float64), b @ b.T + 0.25 * steps.diag())
        total.append(law.log_prob(x.diff()) + 2 * math.log(0.5))
    (table,) = EquationPosterior(simulator).tables({"record": x[None, None, :, None]})
    assert table.log_evidence == pytest.approx(float(torch.stack(total).logsumexp(0)), abs=2e-3)


@pytest.mark.parametrize(("low", "high", "true"), [(0.1, 1.0, 0.02), (1e-3, 0.02, 0.1), (0.0995, 0.1005, 0.1)])
def test_sigma_may_lean_on_a_bound_of_its_prior(low, high, true) -> None:
    """Evidence, mean and sd of log sigma against a fine grid; moments of draws within 4.5 standard errors."""
    states = torch.linspace(-1.0, 1.0, 1_000, dtype=torch.float64)[:, None]
    simulator = wrappers.equations(
        polynomials({"x": ""}, 1), wrappers.Rates(states), sd=1.0, noise={"x": LogUniform(low, high)}
    )
    noise = true * torch.randn(1_000, 1, generator=generator(2), dtype=torch.float64)
    x = {"record": torch.cat([states, 0.5 * states + noise], 1)[None]}
    posterior = EquationPosterior(simulator)
    (table,) = posterior.tables(x)
    bottom, top = math.log(low), math.log(high)
    edges = (bottom, min(top, bottom + 0.05)) if true < low else (max(bottom, top - 0.02), top)
    fine = torch.linspace(*edges, 4_001, dtype=torch.float64)
    spectra = term_sums.spectra(table.sums, table.sets)
    log_p = term_sums.log_evidence(table.sums, *spectra, fine).logsumexp(0) + 2 * math.log(0.5) - math.log(top - bottom)
    wanted = log_p.max() + torch.trapezoid((log_p - log_p.max()).exp(), fine).log()
    assert table.log_evidence == pytest.approx(float(wanted), abs=0.01)
    weight, n = log_p.softmax(0), 4_000
    mean = float(weight @ fine)
    sd = math.sqrt(float(weight @ (fine - mean) ** 2))
    sets, drawn = module._sets_drawn(table, n, generator(4))
    assert abs(float(drawn.mean()) - mean) < 4.5 * sd / math.sqrt(n)
    assert float(drawn.std()) / sd == pytest.approx(1.0, abs=0.15)  # 4.5 standard errors, of an exponential law
    assert len(sets) == n


def test_units_are_those_of_rates_over_terms() -> None:
    prior = small().prior
    units = dict(zip(prior.names, prior.units, strict=True))
    assert [units[f"d(x) {term}"] for term in ("1", "x", "x^2", "noise")] == ["m / s", "1 / s", "1 / (m s)", "m / s"]
    assert polynomials({"x": "m"}, 1, time="s").unit("x", "x", 0.5) == "1 / s(1/2)"


@pytest.mark.slow
def test_an_answer_says_which_terms(asked) -> None:
    """Probabilities are the exact ones, with no error of drawing."""
    simulator, x = asked
    posterior = EquationPosterior(simulator)
    answer = query(posterior, {"record": x["record"][0]}, simulator=simulator, draws=500)
    found = answer.parameters["d(x) has x^2"]
    assert found["yes"] == pytest.approx(float(posterior.inclusion(x)[0, 0, 2]), abs=1e-9)
    assert found.error == (0.0, 0.0)
    assert answer.draws.log_evidence == pytest.approx(posterior.tables(x)[0].log_evidence)
    assert "d(x) has x^2" in answer.table()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_network_with_weights_agrees(asked, tmp_path) -> None:
    """`Mixed`, weighted by the likelihood, is another way to the same; within 4.5 standard errors."""
    simulator, x = asked
    store = simulate(simulator, tmp_path / "store", 2_000, seed=0, progress=False)
    estimator = Mixed(simulator.prior, simulator.observables, summary=MLP(16, (32,)), hidden=16, bins=4)
    fit = train(estimator, store, tmp_path / "fit", recipe=Recipe(epochs=4, batch=100), progress=False)
    draws = build_posterior(fit, simulator, ess=1_000, budget=30_000).draw(x, 1_000, generator=generator())
    exact = EquationPosterior(simulator)
    assert abs(draws.log_evidence - exact.tables(x)[0].log_evidence) < 4.5 * draws.log_evidence_error + 1e-3
    for name in simulator.prior.discrete():
        found = draws.probabilities(name)
        assert abs(found["yes"] - float(exact.probabilities(x, name)[0, 1])) < 4.5 * found.error[1] + 1e-3


@pytest.mark.slow
def test_ranks_are_uniform() -> None:
    """Inclusion is as probable as said: sum of (truth - p) within 4 sds over 100 records (false alarm 6e-5)."""
    simulator = small(0.5)
    posterior, theta = EquationPosterior(simulator), simulator.prior.sample(100, generator=generator(6))
    p = posterior.inclusion(simulator(theta, generator=generator(7)))[:, 0]
    true = theta[:, simulator.has[0]].double()
    z = (true - p).sum() / (p * (1 - p)).sum().sqrt()
    assert abs(float(z)) < 4
    planted = (true - p.flip(0)).square().sum() / (p * (1 - p)).sum()  # of other records
    assert float((true - p).square().sum() / (p * (1 - p)).sum()) < 1.3 < float(planted)


def test_a_wide_prior_speaks_against_a_term(asked) -> None:
    _, x = asked
    wide = wrappers.equations(
        polynomials({"x": "m"}, 2, time="s"), wrappers.Rates(STATES), sd={"1": 1.3, "x": 130.0, "x^2": 1.3},
        noise={"x": HalfNormal(0.5)}, include=0.3,
    )  # fmt: skip
    before, after = (EquationPosterior(s).inclusion(x)[0, 0, 1] for s in (small(), wide))
    assert float(after) < 0.2 * float(before)


def test_lotka_and_volterra() -> None:
    simulator, theta, x = lotka(0.02)
    posterior = EquationPosterior(simulator)
    p, true = posterior.inclusion(x)[0], theta[0, simulator.has] > 0
    assert float(p[true].min()) > 0.9
    assert float(p[~true].max()) < 0.1
    assert all(bias < 0.5 and abs(follow) < 3.5 for bias, follow in posterior.doubts(x).values())
    with warnings.catch_warnings():
        warnings.simplefilter("error", Doubt)
        draws = posterior.draw(x, 1_000, generator=generator())
    for column in (*simulator.sigma.tolist(), *simulator.coefficient[theta[:1, simulator.has][0] > 0].tolist()):
        values = draws.theta[:, column].double()
        values = values[~values.isnan()]
        assert abs(float(values.mean() - theta[0, column])) < 4.5 * float(values.std())  # chance: below 1e-4 in all


def test_steps_that_are_too_long_are_said() -> None:
    simulator, _, x = lotka(0.25)
    with pytest.warns(Doubt, match="steps between times are long for the equation of prey"):
        EquationPosterior(simulator).draw(x, 10, generator=generator())


def short(times: int, series: int = 300):
    """Series of dx = (x - x^3) dt + .3 dW, seen at steps of .6, which are too long."""
    start = 1.5 * torch.randn(series, 1, generator=generator(3))
    record = wrappers.Paths(start, 0.6 * torch.arange(times), substeps=60)
    library = polynomials({"x": "m"}, 3, time="s")
    simulator = wrappers.equations(library, record, sd=1.0, noise={"x": HalfNormal(1.0)}, include=0.3)
    theta = theta_of(simulator, [{"x": 1.0, "x^3": -1.0}], 0.3)
    return EquationPosterior(simulator), simulator(theta, generator=generator(4))


def test_steps_of_three_times_are_judged() -> None:
    posterior, x = short(3)
    with pytest.warns(Doubt, match="steps between times are long for the equation of x"):
        posterior.draw(x, 10, generator=generator())


def test_steps_of_two_times_are_not_called_short() -> None:
    posterior, x = short(2)
    assert all(math.isnan(value) for value in posterior.doubts(x)["x"])
    with pytest.warns(Doubt, match="of two times nothing tells whether steps are too long for the equation of x"):
        answer = query(posterior, x["record"][0], draws=100)
    assert "of two times nothing tells" in answer.table()


def test_rates_that_were_differences_are_said() -> None:
    """Central differences of noisy states: every second error goes along. Of others nothing is said (chance: .001)."""
    library = polynomials({"x": "m"}, 3, time="s")
    z = (0.05 * torch.arange(200, dtype=torch.float64)).cos()
    z = z + 0.02 * torch.randn(200, generator=generator(5), dtype=torch.float64)
    states = z[1:-1, None]
    for noise, said in (
        (z[2:, None] / 0.1 - z[:-2, None] / 0.1, True),
        (0.3 * torch.randn(198, 1, generator=generator(6)).double(), False),
    ):
        simulator = wrappers.equations(library, wrappers.Rates(states), sd=1.0, noise={"x": HalfNormal(1.0)})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            answer = query(EquationPosterior(simulator), torch.cat([states, noise], 1), draws=100)
        assert any("as that of differences has" in str(one.message) for one in caught) is said
        assert "errors of rates are taken as independent, and states as free of errors" in answer.table()


def test_noise_of_states_is_said() -> None:
    simulator, _, x = lotka(0.02, noise=0.01)
    with pytest.warns(Doubt, match="as noise of the states makes them"):
        EquationPosterior(simulator).draw(x, 10, generator=generator())


def test_data_without_noise_are_refused() -> None:
    simulator = small()
    x = {"record": torch.cat([STATES, 0.5 * STATES], 1)[None]}
    with pytest.raises(ValueError, match="to within rounding"):
        EquationPosterior(simulator).inclusion(x)
    bounded = wrappers.equations(
        simulator.library, wrappers.Rates(STATES), sd=1.3, noise={"x": LogUniform(1e-2, 1.0)}, include=0.3
    )
    assert float(EquationPosterior(bounded).inclusion(x)[0, 0, 1]) > 0.99


def test_what_is_refused() -> None:
    plain = wrappers.numpy(lambda a, rng: a, Prior(a=HalfNormal(1.0)), {"y": Observable(())})
    with pytest.raises(TypeError, match="what wrappers.equations makes"):
        EquationPosterior(plain)
    many = Library({"x": ""}, {f"t{k}": lambda s: s["x"] for k in range(module.MOST + 1)})
    simulator = wrappers.equations(many, wrappers.Rates(STATES), sd=1.0, noise={"x": HalfNormal(1.0)})
    with pytest.raises(ValueError, match="leave some out"):
        EquationPosterior(simulator)
    library = polynomials({"x": ""}, 1)
    with pytest.raises(ValueError, match="no noise is given for"):
        wrappers.equations(library, wrappers.Rates(STATES), sd=1.0, noise={})
    with pytest.raises(ValueError, match="above 0 and below 1"):
        wrappers.equations(library, wrappers.Rates(STATES), sd=1.0, noise={"x": HalfNormal(1.0)}, include=1.0)
    with pytest.raises(ValueError, match="there are \\['1', 'x'\\]"):
        wrappers.equations(library, wrappers.Rates(STATES), sd={"y": 1.0}, noise={"x": HalfNormal(1.0)})
    with pytest.raises(ValueError, match="'d\\(x\\) noise' may be negative by its law Normal"):
        wrappers.equations(library, wrappers.Rates(STATES), sd=1.0, noise={"x": Normal(0.0, 1.0)})
    with pytest.raises(ValueError, match="two terms would be called 'x\\^2'"):
        polynomials({"x": "m", "x^2": "s"}, 2)
    with pytest.raises(ValueError, match="two terms would be called '1'"):
        polynomials({"1": ""}, 1)
    with pytest.raises(ValueError, match="increase"):
        wrappers.Paths(torch.zeros(1, 1), [0.0, 1.0, 1.0])
    grows = wrappers.equations(
        library, wrappers.Rates(torch.zeros(5, 1)), sd=1.0, noise={"x": HalfNormal(1.0)}, grows={"x": "x"}
    )
    with pytest.raises(ValueError, match="no noise"):
        EquationPosterior(grows).inclusion({"record": torch.zeros(1, 5, 2)})
