"""The likelihood number by number where numbers have limits, or take one value again and again."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf import Observable, Prior, Recipe, Simulator, simulate, train
from sciinf.training.estimators.elements import Elements, has_atoms

LOW, HIGH = -0.5, 1.5


class Clipped(Simulator):
    """Six readings of a mean with unknown noise, of which none is below or above what the instrument reads."""

    name = "clipped"
    prior = Prior(mean=td.Normal(0.0, 1.0), log_sd=td.Normal(-0.5, 0.4))
    observables = {"x": Observable((6,))}

    def __call__(self, theta, *, generator):
        noise = torch.randn(len(theta), 6, generator=generator)
        return {"x": (theta[:, :1] + theta[:, 1:].exp() * noise).clamp(LOW, HIGH)}

    def exact(self, theta, x):
        """log p(x | theta) of parameters (n, 2) given one observation."""
        law = td.Normal(theta[:, :1], theta[:, 1:].exp())
        below, above = law.cdf(torch.tensor(LOW)).log(), law.cdf(torch.tensor(HIGH)).neg().log1p()
        return torch.where(x <= LOW, below, torch.where(x >= HIGH, above, law.log_prob(x))).sum(1)


@pytest.fixture(scope="module")
def clipped(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("clipped"), Clipped()
    store = simulate(model, folder / "s", 6_000, seed=1, progress=False)
    recipe = Recipe(epochs=20, learning_rate=3e-3)
    return train(Elements(model.prior, model.observables), store, folder / "f", recipe=recipe, progress=False).estimator


def test_posteriors_of_data_at_limits_are_near_exact_ones(clipped):
    """Means and sds of 40 posteriors with none to six readings at a limit."""
    model, generator = Clipped(), torch.Generator().manual_seed(5)
    theta = model.prior.sample(4_000, generator=generator).double()
    x = model(model.prior.sample(40, generator=generator), generator=generator)["x"]
    with torch.no_grad():
        found = clipped.condition({"x": x}).log_likelihood(theta.float()[:, None].expand(-1, 40, -1))
    off, ratio = [], []
    for i in range(40):
        weights = [log.double().softmax(0) for log in (found[:, i], model.exact(theta, x[i].double()))]
        means = [weight @ theta for weight in weights]
        sds = [(w @ (theta - mean).square()).sqrt() for w, mean in zip(weights, means, strict=True)]
        off.append((means[0] - means[1]) / sds[1])
        ratio.append(sds[0] / sds[1])
    assert torch.stack(off).square().mean(0).sqrt().max() < 0.12
    assert (torch.stack(ratio) - 1).abs().mean() < 0.05


def test_no_number_with_a_limit_is_beyond_all_chance(clipped):
    """At parameters of which rows are hardly ever above the lower limit: 900 nats were lost there."""
    x = torch.tensor([[1.0] * 6])
    with torch.no_grad():
        log = clipped.condition({"x": x}).log_likelihood(torch.tensor([[-3.0, -2.0]]))
    assert -60 < float(log) < -40


def test_weights_from_before_limits_were_known_have_none(clipped):
    weights = clipped.state_dict()
    assert weights.pop("limits").all()
    other = Elements(Clipped.prior, Clipped.observables)
    other.load_state_dict(weights)
    assert not other.limits.any()


def test_a_number_at_a_limit_has_a_probability(clipped):
    """With the density between the limits they add up to one, whatever the standardisation."""
    lattice = torch.linspace(LOW, HIGH, 2_003)[1:-1]
    x = torch.zeros(len(lattice) + 2, 6)
    x[:, -1] = torch.cat([torch.tensor([LOW, HIGH]), lattice])
    theta = torch.tensor([[0.4, -0.2]]).expand(len(x), 2)
    with torch.no_grad():
        log = clipped.condition({"x": x}).log_likelihood(theta)
        rest = (
            Clipped().exact(theta[:1], torch.tensor([[0.0] * 5 + [LOW]]))
            - td.Normal(0.4, 0.819).cdf(torch.tensor(LOW)).log()
        )
    shares = (log - rest).exp()
    assert float(shares[2:].sum() * (HIGH - LOW) / 2_002 + shares[:2].sum()) == pytest.approx(1.0, abs=0.1)
    assert shares[:2].tolist() == pytest.approx([0.136, 0.090], abs=0.03)


EVEN = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
WHOLE = (9 * EVEN).round()


@pytest.mark.parametrize(
    ("values", "again"),
    [
        (EVEN, False), (EVEN.clamp_min(0.1), False), (EVEN.clamp(0.1, 0.9), False), ((20 * EVEN).round() / 20, True),
        (torch.where(EVEN < 0.1, 0.5, EVEN), True), (torch.where(EVEN < 0.005, 0.5, EVEN), False),
        (WHOLE, False), (WHOLE.long(), False), (torch.cat([WHOLE, EVEN], dim=1), True),
        (1e9 * torch.where(EVEN < 0.1, 0.5, EVEN), True), (torch.cat([EVEN, 0.3 + 0 * EVEN], dim=1), False),
    ],
)  # fmt: skip
def test_a_value_that_comes_again_and_again_is_seen(values, again):
    """Rounding and a fixed value, also beside whole numbers; no limit, nor whole numbers alone, nor one that stays."""
    dtype = "float32" if values.is_floating_point() else "int64"
    specs = {"y": Observable((3,)), "x": Observable(tuple(values.shape[1:]), dtype=dtype)}
    observed = {"y": EVEN[:1], "x": values.mean(0, keepdim=True, dtype=torch.float64)}
    assert has_atoms({"y": EVEN.square(), "x": values}, specs, observed) == again


MANY = torch.rand(5_000, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("values", "observed", "again"),
    [
        (torch.where(MANY < 0.004, 0.5, MANY), 0.5, True),
        (torch.where(MANY < 0.004, 0.5, MANY), 0.6, False),
        (torch.where(MANY < 0.0004, 0.5, MANY), 0.5, False),  # three rows at most
        (MANY.clamp_min(0.004), 0.004, False),
        ((300 * MANY).round() / 300, 0.5, False),  # 17 rows each
        (torch.cat([(300 * MANY).round(), MANY], dim=1), 150.0, False),
        (1_000 + MANY, 1_000.5, False),  # of single precision, where up to 4 of them are equal
    ],
)
def test_an_observation_that_is_a_rare_value_is_seen(values, observed, again):
    """Too few rows for a value of which a fiftieth counts, enough for the observation's own; fine grids are none."""
    assert max(values[:, 0].unique(return_counts=True)[1]) < 0.02 * len(values)
    observable, seen = {"x": Observable((values.shape[1],))}, {"x": torch.full((1, values.shape[1]), observed)}
    assert has_atoms({"x": values}, observable, seen) == again


@pytest.mark.parametrize(("middle", "sd"), [(20_000, 1), (2_450_000, 30)])
def test_equal_numbers_by_chance_are_no_limit(middle, sd):
    """Of large numbers single precision has few values, so that some rows have one that the observation has."""
    values = middle + sd * torch.randn(5_001, 100, generator=torch.Generator().manual_seed(0))
    rows, observed = values[1:], values[:1]
    assert (rows == observed).sum(0).max() > 3
    assert not has_atoms({"x": rows}, {"x": Observable((100,))}, {"x": observed})
