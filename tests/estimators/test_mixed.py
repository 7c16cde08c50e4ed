"""The chain of discrete and continuous parameters: normalised, exact, and right on problems with an answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciinf import Flow, Score, build_posterior, load_fit, query, simulate, wrappers
from sciinf.core import (
    Batch,
    Choice,
    Counts,
    Each,
    Marginals,
    Normal,
    Observable,
    Only,
    Prior,
    Uniform,
)
from sciinf.core.posterior import Posterior
from sciinf.interfaces.commands import steps
from sciinf.posteriors import infer_sequentially
from sciinf.posteriors.compositional import Compositional
from sciinf.posteriors.truncated import TruncatedPrior
from sciinf.training import train
from sciinf.training.estimators.mixed import Mixed
from sciinf.training.recipe import Recipe

T = torch.arange(6) - 2.5
NESTED = Prior(model=Choice("flat", "steep"), a=Normal(0, 2), b=Only(Normal(0, 0.5), model="steep"))
MANY = Prior(
    m=Choice("a", "b"),
    e=Only(Normal(0, 1), m="b"),
    n=Only(Counts(0, 2), m="b"),
    line=Each("n", Uniform(0, 1), increasing=True),
    free=Normal(0, 1),
    last=Choice("x", "y", "z"),
)
SEEN = {"y": Observable((6,))}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nested_data(theta: Tensor, generator: torch.Generator) -> Tensor:
    slope = theta[:, 2].nan_to_num(0.0)
    return theta[:, 1, None] + slope[:, None] * T + torch.randn(len(theta), 6, generator=generator)


def exact(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """P(steep | y), and mean and sd of b given steep, each (batch,): y is normal under both models."""
    one = torch.ones(6, dtype=torch.float64)
    covariances = [torch.eye(6).double() + 4 * torch.outer(one, one)]
    covariances.append(covariances[0] + 0.25 * torch.outer(T, T).double())
    log_p = torch.stack(
        [torch.distributions.MultivariateNormal(torch.zeros(6).double(), c).log_prob(y.double()) for c in covariances]
    )
    precision = 4 + float((T**2).sum())  # ones and T are orthogonal
    mean = (y.double() @ T.double()) / precision
    return log_p.softmax(0)[1], mean, torch.full_like(mean, precision**-0.5)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A short training on 20,000 rows of the nested models."""

    def data(model, a, b, rng):
        return a + (0.0 if b is None else b) * T.numpy() + rng.normal(size=6)

    simulator = wrappers.numpy(data, NESTED, SEEN)
    folder = tmp_path_factory.mktemp("mixed")
    store = simulate(simulator, folder / "store", 20_000, progress=False)
    recipe = Recipe(epochs=12)
    return train(Mixed(NESTED, SEEN, seed=1), store, folder / "fit", recipe=recipe, progress=False), simulator


def wild(prior: Prior, seed: int = 0) -> Mixed:
    """An estimator whose density differs from the prior."""
    estimator = Mixed(prior, SEEN, hidden=24, bins=5).eval()
    with torch.no_grad():
        for weight in estimator.parameters():
            weight.add_(0.07 * torch.randn(weight.shape, generator=seeded(seed)))
    return estimator


def rows(n: int, seed: int = 0) -> dict[str, Tensor]:
    return {"y": torch.randn(n, 6, generator=seeded(seed))}


def test_it_is_normalised_over_all_dimensions_together():
    """E_prior[q / p] = 1 within 4 standard errors, false alarm 6e-5 for each observation."""
    density = wild(MANY).condition(rows(2))
    theta = MANY.sample(60_000, generator=seeded(1))
    weight = (density.log_prob(theta[:, None].expand(-1, 2, -1)) - MANY.log_prob(theta)[:, None]).exp()
    error = weight.std(0) / math.sqrt(len(weight))
    assert bool(((weight.mean(0) - 1).abs() < 4 * error).all())
    assert float(error.max()) < 0.03


def test_draws_follow_the_density_and_exist_as_the_prior_says():
    density = wild(MANY).condition(rows(2))
    theta = density.sample(20_000, generator=seeded(2))
    assert theta.shape == (20_000, 2, len(MANY))
    assert torch.equal(MANY.present(theta), ~theta.isnan())
    assert bool(density.log_prob(theta).isfinite().all())
    back = (MANY.log_prob(theta) - density.log_prob(theta)).exp()  # E_q[p / q] = 1
    assert bool(((back.mean(0) - 1).abs() < 4 * back.std(0) / math.sqrt(len(back))).all())


def test_probabilities_are_exact_without_draws():
    """Shares among 20,000 draws lie within 4.5 standard errors of them, false alarm 2e-4 for all 16."""
    density = wild(MANY).condition(rows(2))
    assert isinstance(density, Marginals)
    theta = density.sample(20_000, generator=seeded(3))
    for name, law in MANY.discrete().items():
        found = density.log_probabilities(name).exp()
        column = theta[..., MANY.names.index(name)]
        counted = torch.stack([(column == value).double().mean(0) for value in law.values], dim=-1)
        error = (counted * (1 - counted) / len(theta)).sqrt() + 1e-4
        assert bool(((found - counted).abs() < 4.5 * error).all()), name
        exists = (~column.isnan()).double().mean(0)
        torch.testing.assert_close(found.double().sum(-1), exists, atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="no discrete parameter 'free'; there is m, n, last"):
        density.log_probabilities("free")


def test_a_floor_lies_under_every_discrete_value():
    estimator = wild(NESTED)
    with torch.no_grad():
        estimator.logits.layers[0].bias.copy_(torch.tensor([15.0, -15.0]))  # as sure as can be
    density = estimator.condition(rows(3))
    assert float(density.log_probabilities("model").exp()[:, 1].max()) < 1e-6
    floored = density.with_floor(0.1)
    probabilities = floored.log_probabilities("model").exp()
    torch.testing.assert_close(probabilities[:, 1], torch.full((3,), 0.05), atol=1e-5, rtol=0)
    theta = floored.sample(20_000, generator=seeded(4))
    assert float((theta[..., 0] == 1).double().mean()) == pytest.approx(0.05, abs=0.004)
    weight = (floored.log_prob(theta) - density.log_prob(theta)).exp()[theta[..., 0] == 0]
    torch.testing.assert_close(weight, torch.full_like(weight, 0.95), atol=1e-3, rtol=0)
    assert torch.equal(density.with_floor(0.0).log_prob(theta[:5]), density.log_prob(theta[:5]))
    with pytest.raises(ValueError, match="from 0 to 1"):
        density.with_floor(1.5)


def test_rows_do_not_depend_on_rows_beside_them():
    estimator = wild(MANY)
    x, theta = rows(5), MANY.sample(5, generator=seeded(5))
    together = estimator.condition(x).log_prob(theta)
    alone = [estimator.condition({"y": x["y"][i : i + 1]}).log_prob(theta[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=1e-5)
    loss = estimator.loss(Batch(theta, x), generator=seeded())
    each = [estimator.loss(Batch(theta[i : i + 1], {"y": x["y"][i : i + 1]}), generator=seeded()) for i in range(5)]
    torch.testing.assert_close(torch.cat(each), loss, atol=1e-5, rtol=1e-5)


def test_what_does_not_exist_gives_no_loss_and_no_gradient():
    estimator = wild(NESTED)
    theta = torch.tensor([[0.0, 0.3, math.nan]])
    loss = estimator.loss(Batch(theta, rows(1)), generator=seeded())
    loss.sum().backward()
    assert bool(loss.isfinite().all())
    gradient = estimator.splines.weight.grad
    assert gradient is not None
    assert float(gradient[1].abs().max()) == 0.0  # of b
    assert float(gradient[0].abs().max()) > 0.0


def test_a_link_sees_nothing_behind_it():
    """The planted fault: with its mask open, probabilities of all there is add up to something else than 1."""
    prior = Prior(one=Choice("a", "b"), two=Choice("x", "y", "z"), k=Only(Counts(0, 1), two=("x", "z")))
    estimator = wild(prior)
    with torch.no_grad():
        estimator.chain.enter.mul_(5.0)
        for layer, beside in zip(estimator.logits.layers, estimator.logits.beside, strict=True):
            layer.weight.mul_(5.0)
            beside.weight.zero_()
    pairs = [(one, two, k) for one in range(2) for two in range(3) for k in ((0, 1) if two != 1 else (math.nan,))]
    theta = torch.tensor(pairs)[:, None]

    def total() -> float:
        return float(estimator.condition(rows(1)).log_prob(theta).exp().sum())

    assert total() == pytest.approx(1.0, abs=1e-5)
    estimator.chain.mask.fill_(1.0)
    assert abs(total() - 1) > 0.02


@pytest.mark.slow
def test_it_finds_the_probabilities_of_nested_models(learned):
    fit, _ = learned
    theta = NESTED.sample(400, generator=seeded(11))
    y = nested_data(theta, seeded(12))
    steep, mean, sd = exact(y)
    density = fit.estimator.condition({"y": y})
    found = density.log_probabilities("model").exp()[:, 1].double()
    assert float((found - steep).abs().mean()) < 0.02
    assert float((found - steep).abs().max()) < 0.15
    draws = density.sample(2_000, generator=seeded(13))[..., 2].double()
    few = draws.isnan().double().mean(0) < 0.9
    off = (draws.nanmean(0) - mean) / sd
    assert float(off[few].abs().mean()) < 0.15
    spread = (draws - draws.nanmean(0)).square().nanmean(0).sqrt() / sd
    assert float(spread[few].mean()) == pytest.approx(1.0, abs=0.08)


def test_a_fit_comes_back_and_an_answer_is_made(learned):
    fit, simulator = learned
    again = load_fit(fit.folder)
    assert again.digest == fit.digest
    x, theta = rows(3), NESTED.sample(3, generator=seeded(7))
    assert torch.equal(again.estimator.density(x).log_prob(theta), fit.estimator.density(x).log_prob(theta))
    posterior = build_posterior(again)
    assert isinstance(posterior, Posterior)
    answer = query(posterior, {"y": torch.zeros(6)}, simulator=simulator, draws=500)
    assert answer.draws.theta.shape == (500, 3)
    assert torch.equal(NESTED.present(answer.draws.theta), ~answer.draws.theta.isnan())
    with pytest.raises(ValueError, match="shape"):
        query(posterior, {"y": torch.zeros(7)})


def test_the_same_seed_gives_the_same_draws():
    density = wild(MANY).condition(rows(2))
    a, b, c = (density.sample(50, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.nan_to_num(-9.0), b.nan_to_num(-9.0))
    assert not torch.equal(a.nan_to_num(-9.0), c.nan_to_num(-9.0))
    weights = [Mixed(MANY, SEEN, seed=seed).chain.enter for seed in (3, 3, 4)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_impossible_rows_have_no_density():
    density = wild(NESTED).condition(rows(1))
    possible, gone, there = [[0.0, 0.3, math.nan]], [[1.0, 0.3, math.nan]], [[0.0, 0.3, 0.2]]
    assert float(density.log_prob(torch.tensor(possible))) > -math.inf
    assert float(density.log_prob(torch.tensor(gone))) == -math.inf
    assert float(density.log_prob(torch.tensor(there))) == -math.inf


def test_it_is_chosen_where_parameters_are_discrete():
    def data(model, a, b, rng):
        return rng.normal(size=6)

    mixed = wrappers.numpy(data, NESTED, SEEN)
    plain = wrappers.numpy(lambda a, rng: rng.normal(size=6), Prior(a=Normal(0, 1)), SEEN)
    assert isinstance(steps.build("flow", mixed, 0), Mixed)
    assert isinstance(steps.build("flow", plain, 0), Flow)
    with pytest.raises(ValueError, match="a Score needs parameters that are continuous"):
        steps.build("score", mixed, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda sim, fit, out: Flow(NESTED, SEEN),
        lambda sim, fit, out: Score(NESTED, SEEN),
        lambda sim, fit, out: infer_sequentially(sim, {"y": torch.zeros(6)}, out),
        lambda sim, fit, out: Compositional(fit, 3),
        lambda sim, fit, out: TruncatedPrior(NESTED, [], {}),
    ],
)
def test_what_needs_continuous_parameters_refuses_with_the_way_out(make, learned, tmp_path):
    fit, simulator = learned
    with pytest.raises(ValueError, match=r"model is discrete\. Train Mixed\(prior, observables\)"):
        make(simulator, fit, tmp_path)


def test_bad_settings_are_clear_errors():
    for wrong in ({"hidden": 0}, {"bins": 1}, {"blocks": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be an integer"):
            Mixed(NESTED, SEEN, **wrong)


@pytest.mark.parametrize("kind", [Flow, Score, Mixed])
def test_parts_of_a_whole_are_learned_in_a_dimension_less(kind):
    prior = Prior.joint(("iron", "nickel", "rock"), torch.distributions.Dirichlet(torch.ones(3)))
    estimator = kind(prior, SEEN)
    theta = prior.sample(64, generator=seeded())
    estimator.standardise(lambda: iter([Batch(theta, rows(64))]))
    loss = estimator.loss(Batch(theta, rows(64)), generator=seeded())
    assert loss.shape == (64,)
    assert bool(loss.isfinite().all())
    density = estimator.eval().density(rows(2))
    drawn = density.sample(20, generator=seeded())
    assert drawn.shape == (20, 2, 3)
    torch.testing.assert_close(drawn.sum(-1), torch.ones(20, 2), atol=1e-5, rtol=0)
    assert bool(density.log_prob(drawn).isfinite().all())
