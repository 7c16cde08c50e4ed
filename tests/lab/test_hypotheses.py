"""Expressions with hypotheses, against the sum over all trees of a small grammar; one fit for all."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import replace

import pytest
import torch

from sciinf import LogUniform, Normal, Recipe, build_posterior, load_fit, simulate, train
from sciinf.lab import Equations, expressions
from sciinf.lab.hypotheses import Supposed, suppose
from sciinf.simulators.dynamics.expressions import Expressions

pytestmark = pytest.mark.slow

GRAMMAR = Expressions(["x"], ["+", "sin"], [2.0], depth=2)
SIMULATOR = expressions(GRAMMAR, (-2.0, 2.0), noise=LogUniform(0.2, 0.6), points=12, parts=[("+", "x", "x")])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trees(depth: int) -> list[list[str]]:
    """All expressions, in prefix notation."""
    if not depth:
        return [["x"], ["2"]]
    below = trees(depth - 1)
    pairs = [["+", *a, *b] for a, b in itertools.product(below, below)]
    return [["x"], ["2"], *(["sin", *a] for a in below), *pairs]


def points(symbols: list[str], sd: float, seed: int) -> torch.Tensor:
    theta = torch.cat([GRAMMAR.read(symbols), torch.tensor([sd])])[None]
    return SIMULATOR(theta, generator=generator(seed))["points"][0]


@pytest.fixture(scope="module")
def exact():
    """Log weights of all trees, the noise summed over a grid, as a function of points."""
    every = torch.stack([GRAMMAR.read(tree) for tree in trees(2)])
    sd = torch.linspace(math.log(0.2), math.log(0.6), 60).exp()
    theta = torch.cat([every.repeat_interleave(len(sd), 0), sd.repeat(len(every))[:, None]], 1)
    log_prior = GRAMMAR.prior.log_prob(every)
    assert float(log_prior.exp().sum()) == pytest.approx(1.0, abs=1e-5)  # no other tree has a probability

    def weights(data: torch.Tensor) -> torch.Tensor:
        x = {name: value[None] for name, value in SIMULATOR.record(data).items()}
        found = SIMULATOR.log_likelihood(theta, x).view(len(every), len(sd))
        return (found - math.log(len(sd))).logsumexp(1) + log_prior

    return every, weights


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("expressions")
    store = simulate(SIMULATOR, folder / "store", 4_000, seed=0, progress=False)
    estimator = Equations(SIMULATOR.prior, SIMULATOR.observables, hidden=24)
    train(estimator, store, folder / "fit", recipe=Recipe(epochs=3, batch=100), progress=False)
    return load_fit(folder / "fit")


@pytest.fixture(scope="module")
def posterior(fit):
    return build_posterior(fit, SIMULATOR, ess=1_000, budget=8_000)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sciinf.core.doubts.Doubt")
@pytest.mark.parametrize(("statement", "value"), [("odd", True), ("odd", False), ("has + x x", True)])
def test_the_probability_of_a_hypothesis_is_that_of_all_trees(exact, posterior, statement, value) -> None:
    """Within 4.5 standard errors, and .02 of the grid over the noise: by chance in less than 1 of 10,000."""
    every, weights = exact
    data = points(["+", "x", "sin", "x"], 0.3, 3)
    p = weights(data).softmax(0)
    true = SIMULATOR.true(every)[:, SIMULATOR.statements.index(statement)] == value
    found = suppose(posterior, SIMULATOR, data, {statement: value}, draws=2_000)
    wanted = float(p[true].sum())
    assert abs(found.log_probability - math.log(wanted)) < 4.5 * found.error + 0.02
    best = found.without[0]
    same = [k for k, first in enumerate(GRAMMAR.same(torch.cat([best.theta[None], every]), GRID)) if k and not first]
    assert best.probability == pytest.approx(float(p[[k - 1 for k in same]].sum()), abs=0.06)


GRID = torch.linspace(-2.0, 2.0, 41, dtype=torch.float64)[:, None]


@pytest.mark.filterwarnings("ignore::sciinf.core.doubts.Doubt")
def test_a_false_hypothesis_is_not_obeyed_in_silence(exact, posterior) -> None:
    every, weights = exact
    data = points(["+", "x", "x"], 0.2, 5)
    false = suppose(posterior, SIMULATOR, data, {"odd": False})
    assert "the data contradict the hypothesis (not odd" in false.verdict
    assert false.verdict in false.table()
    odd = SIMULATOR.true(every)[:, 1]
    assert math.log(float(weights(data).softmax(0)[~odd].sum())) < -4
    true = suppose(posterior, SIMULATOR, data, {"odd": True})
    assert true.verdict.startswith("the data agree")
    assert true.functions[0].text == "x + x"
    impossible = suppose(posterior, SIMULATOR, data, {"at most 3 symbols": True, "has sin": True, "has + x x": True})
    assert not impossible.functions
    assert "contradict" in impossible.verdict


@pytest.mark.filterwarnings("ignore::sciinf.core.doubts.Doubt")
def test_an_upper_bound_is_no_agreement(posterior) -> None:
    """Where none of 44 effective draws fits, p may be .068; of some 250 it is below .05, which contradicts."""
    impossible = {"even": True, "odd": True}
    found = suppose(posterior, SIMULATOR, points(["+", "x", "x"], 0.3, 5), impossible, draws=1_000)
    assert math.isinf(found.error)
    assert found.log_probability == pytest.approx(math.log(3 / found.ess))
    assert found.verdict.startswith("the data contradict the hypothesis (even, odd: p < 0.0")
    few = replace(found, log_probability=math.log(3 / 44), ess=44.0)
    assert few.verdict.startswith("cannot tell: none of 44 effective draws fits (even, odd: p < 0.068 given")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_effective_draw_tells_nothing(fit) -> None:
    """y = exp(2 x) is none of the grammar: one draw is nearest, has all the weight, and is odd or is not."""
    x = torch.linspace(-2.0, 2.0, 12)
    data = torch.stack([x, (2 * x).exp()], 1)
    few = build_posterior(fit, SIMULATOR, ess=100, budget=1_000)
    for value in (True, False):
        found = suppose(few, SIMULATOR, data, {"odd": value}, draws=500)
        assert found.ess < 20
        assert found.error >= 1 / found.ess
        assert found.verdict.startswith(f"cannot tell ({'' if value else 'not '}odd): there are ")
    assert found.verdict in found.table()


def test_what_is_near_a_threshold_is_not_sure() -> None:
    """Errors of log p are told, and p < .05 within its error alone is no contradiction; a k above 0.7 is said."""
    made = {"prior": math.log(0.01), "functions": (), "without": (), "ess": 100.0, "pareto_k": 0.1}
    near = Supposed({"odd": True}, math.log(0.04), 0.3, **made)
    assert near.verdict.startswith("the data speak against the hypothesis (odd: p = 0.04 +- 0.01 given")
    assert Supposed({"odd": True}, math.log(0.02), 0.3, **made).verdict.startswith("the data contradict")
    heavy = Supposed({"odd": True}, math.log(0.9), 0.1, **(made | {"pareto_k": 0.9}))
    assert heavy.verdict.endswith("Pareto k = 0.90 > 0.7: the weights cannot be relied on")


def test_the_likelihood_is_zero_where_a_statement_is_false() -> None:
    """Planted fault: were hypotheses left out of it, a false one would be obeyed."""
    theta = torch.cat([GRAMMAR.read(["sin", "x"]), torch.tensor([0.3])])[None]
    data = points(["sin", "x"], 0.3, 1)
    for told, possible in (({}, True), ({"odd": True}, True), ({"odd": False}, False), ({"has 2": True}, False)):
        x = {name: value[None] for name, value in SIMULATOR.record(data, told).items()}
        assert bool(SIMULATOR.log_likelihood(theta, x).isfinite()) is possible


def test_statements_are_told_or_hidden() -> None:
    theta = SIMULATOR.prior.sample(4_000, generator=generator(1))
    x = SIMULATOR(theta, generator=generator(2))
    told = x["hypotheses_mask"]
    assert 0.5 < float((~told.any(1)).float().mean()) < 0.65  # half, and others by chance
    assert bool(((x["hypotheses"] > 0.5) == SIMULATOR.true(theta))[told].all())
    assert not bool((x["hypotheses"] > 0.5)[~told].any())


def test_a_step_hides_more_but_tells_nothing_new(fit) -> None:
    x = SIMULATOR(SIMULATOR.prior.sample(2_000, generator=generator(1)), generator=generator(2))
    anew = fit.estimator.hidden_anew(x, generator(3))["hypotheses_mask"]
    before = x["hypotheses_mask"]
    assert not bool((anew & ~before).any())
    assert 0.4 < float(anew.sum() / before.sum()) < 0.9


def test_the_network_hears_what_is_told(fit) -> None:
    """Draws of a network that is told a statement meet it more often than those of one that is not."""
    theta = SIMULATOR.prior.sample(100, generator=generator(1))
    x, true, met = SIMULATOR(theta, generator=generator(2)), SIMULATOR.true(theta), []
    for told in (torch.zeros_like(true), torch.ones_like(true)):
        heard = {**x, "hypotheses": (true & told).float(), "hypotheses_mask": told}
        drawn = fit.estimator.condition(heard).sample(50, generator=generator())
        met.append(float((SIMULATOR.true(drawn.flatten(0, 1)).view(50, 100, -1) == true).all(-1).float().mean()))
    assert met[1] > met[0] + 0.05


def test_what_is_refused(fit) -> None:
    with pytest.raises(ValueError, match="there is no statement 'round'"):
        SIMULATOR.record(torch.zeros(12, 2), {"round": True})
    with pytest.raises(ValueError, match="points are \\(points, 2\\), of \\['x', 'y'\\], got shape \\(12, 3\\)"):
        SIMULATOR.record(torch.zeros(12, 3))
    with pytest.raises(ValueError, match="points are finite"):
        SIMULATOR.record(torch.full((12, 2), math.nan))
    with pytest.raises(TypeError, match="judged by evidence"):
        suppose(build_posterior(fit), SIMULATOR, torch.zeros(12, 2))
    with pytest.raises(ValueError, match="no symbol"):
        expressions(GRAMMAR, (0.0, 1.0), noise=LogUniform(0.2, 0.6), parts=[("cos",)])
    with pytest.raises(ValueError, match="the noise may be negative by its prior Normal"):
        expressions(GRAMMAR, (-1.0, 1.0), noise=Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="bounds are"):
        expressions(GRAMMAR, (1.0, 0.0), noise=LogUniform(0.2, 0.6))


def test_without_hypotheses_there_is_no_verdict_against(posterior) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = suppose(posterior, SIMULATOR, points(["sin", "x"], 0.3, 4))
    assert found.log_probability == 0.0
    assert "sin(x)" in found.table()
    assert sum(f.probability for f in found.functions) == pytest.approx(1.0)
