"""The likelihood of independent items: near exact ones, with items in any order, and with a number that varies."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf import Recipe, simulate, train
from sciinf.core import Batch, Observable, Prior, Simulator
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.refined import load_refined, refine_around
from sciinf.training.estimators import _items
from sciinf.training.estimators._items import Items, are_items
from sciinf.training.estimators.flow import Flow

ITEMS, ROWS = 150, 1_500


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Catalogue(Simulator):
    """A Poisson number of sources; each has a magnitude of N(mu, .5^2), and a colour that follows it by a slope."""

    name = "catalogue"
    prior = Prior(mu=td.Normal(0.0, 0.15), slope=td.Normal(0.6, 0.15), number=td.LogNormal(4.4, 0.2))
    observables = {
        "magnitude": Observable((ITEMS,), dims=("item",)),
        "magnitude_mask": Observable((ITEMS,), dims=("item",), dtype="bool"),
        "colour": Observable((ITEMS,), dims=("item",)),
        "colour_mask": Observable((ITEMS,), dims=("item",), dtype="bool"),
    }

    def __call__(self, theta, *, generator):
        mu, slope, number = theta[:, :, None].unbind(1)
        noise = torch.randn(2, len(theta), ITEMS, generator=generator)
        present = torch.arange(ITEMS) < torch.poisson(number, generator=generator)
        magnitude = mu + 0.5 * noise[0]
        values = {"magnitude": magnitude, "colour": slope * magnitude + 0.5 * noise[1]}
        values = {name: torch.where(present, value, 0.0) for name, value in values.items()}
        return values | {f"{name}_mask": present for name in values}

    def log_density(self, theta, x):
        """log p(x | theta) of parameters (n, 3) and one observation, a batch of one."""
        present = x["magnitude_mask"][0]
        mu, slope, number = theta.double()[:, :, None].unbind(1)
        magnitude, colour = (x[name][0, present].double() for name in ("magnitude", "colour"))
        found = td.Normal(mu, 0.5).log_prob(magnitude) + td.Normal(slope * magnitude, 0.5).log_prob(colour)
        return found.sum(1) + td.Poisson(number[:, 0]).log_prob(present.sum())


CATALOGUE = Catalogue()


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    store = simulate(CATALOGUE, folder / "store", ROWS, seed=1, progress=False)
    items = Items(CATALOGUE.prior, CATALOGUE.observables, statistics=8, hidden=32, bank=4_096, seed=1)
    return train(items, store, folder / "fit", recipe=Recipe(epochs=12, learning_rate=3e-3), progress=False)


def errors(estimator):
    """Errors of means in exact sds, and ratios of sds, of the posteriors of 30 observations, over 4,000 prior draws."""
    theta, source = CATALOGUE.prior.sample(4_000, generator=generator(5)), generator(6)
    off, ratio = list[torch.Tensor](), list[torch.Tensor]()
    for truth in CATALOGUE.prior.sample(30, generator=source):
        x = CATALOGUE(truth[None], generator=source)
        with torch.no_grad():
            found = estimator.condition(x).log_likelihood(theta[:, None])[:, 0]
        (mean, sd), (right, width) = (moments(theta, log) for log in (found, CATALOGUE.log_density(theta, x)))
        off.append((mean - right) / width)
        ratio.append(sd / width)
    return torch.stack(off), torch.stack(ratio)


def moments(theta, log):
    weight = log.double().softmax(0)
    mean = weight @ theta.double()
    return mean, (weight @ (theta.double() - mean).square()).sqrt()


def test_posteriors_are_near_exact_ones(fit):
    """The same run gives the same numbers, so that there is no false alarm on one kind of processor."""
    off, ratio = errors(fit.estimator)
    assert off.square().mean(0).sqrt().max() < 0.2
    assert off.mean(0).abs().max() < 0.1
    assert (ratio.mean(0) - 1).abs().max() < 0.06


def test_newton_steps_end_at_the_largest_likelihood(fit):
    """A second call gains nothing, and it undoes a planted error of the coefficients."""
    estimator, source = fit.estimator, generator(1)
    theta = CATALOGUE.prior.sample(ROWS, generator=source)
    rows = Batch(theta, CATALOGUE(theta, generator=source))

    def batches():
        return iter([rows])

    assert fit.record["newton_gain"] > 0.01
    estimator.adjust(batches)
    kept = estimator.sets[0].quadratic.weight.detach().clone()
    assert estimator.adjust(batches)["newton_gain"] < 0.01
    with torch.no_grad():
        estimator.sets[0].quadratic.weight += 0.05 * torch.randn(kept.shape, generator=generator(2))
    assert estimator.adjust(batches)["newton_gain"] > 0.1
    some = rows.rows(slice(0, 20))
    after = estimator.condition(some.x).log_likelihood(some.theta)
    with torch.no_grad():
        estimator.sets[0].quadratic.weight.copy_(kept)
    torch.testing.assert_close(estimator.condition(some.x).log_likelihood(some.theta), after, atol=0.2, rtol=0)


def test_the_order_of_items_and_what_a_mask_hides_change_nothing(fit):
    theta = CATALOGUE.prior.sample(5, generator=generator(1))
    x = CATALOGUE(theta, generator=generator(2))
    before = fit.estimator.condition(x).log_likelihood(theta)
    order = torch.randperm(ITEMS, generator=generator(3))
    moved = {name: value[:, order] for name, value in x.items()}
    torch.testing.assert_close(fit.estimator.condition(moved).log_likelihood(theta), before, atol=1e-3, rtol=0)
    apart = {**moved, "colour": x["colour"], "colour_mask": x["colour_mask"]}  # a colour of another source
    assert (fit.estimator.condition(apart).log_likelihood(theta) - before).abs().max() > 1.0


def test_each_row_adds_the_items_of_the_other_rows_to_its_bank():
    """By hand, for three rows of one table: a row's own items are no sample of all items."""
    prior = Prior(mu=td.Normal(0.0, 1.0))
    estimator = Items(prior, {"x": Observable((2,), dims=("item",))}, bank=5)
    theta, x = torch.tensor([[-1.0], [0.0], [1.0]]), torch.randn(3, 2, generator=generator())
    estimator.standardise(lambda: iter([Batch(theta, {"x": x})]))
    found = -estimator.loss(Batch(theta, {"x": x}), generator=generator(1))
    one, bank = estimator.sets[0], estimator.get_buffer("bank_0")
    items = estimator.standardise_x({"x": x})["x"]
    natural = one.natural(estimator.to_z(theta))
    for k in range(3):
        others = torch.cat([bank[:, 0], *(items[j] for j in range(3) if j != k)])[:, None]
        log_normaliser = (one.phi(others) @ natural[k]).exp().mean().log()
        expected = (one.phi(items[k][:, None]) @ natural[k]).sum() - 2 * log_normaliser
        torch.testing.assert_close(found[k], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_rounds_learn_the_likelihood_item_by_item(fit, tmp_path):
    """The network is trained far too briefly, so that held-out rows speak for the likelihood."""
    store, briefly = simulate(CATALOGUE, tmp_path / "s", 600, progress=False), Recipe(epochs=4)
    first = Amortised(train(Flow(CATALOGUE.prior, CATALOGUE.observables), store, tmp_path / "f", recipe=briefly))
    truth = torch.tensor([[0.1, 0.5, 70.0]])
    x = CATALOGUE(truth, generator=generator(8))
    plain = {name: value[0] for name, value in x.items()}
    asked = {"rounds": 1, "simulations": 1_500, "recipe": Recipe(epochs=8), "progress": False}
    refined = refine_around(CATALOGUE, plain, tmp_path / "rounds", first, **asked)
    assert refined.likelihood is not None
    assert (refined.likelihood[0].folder.name, refined.likelihood[1] > 0.5) == ("likelihood_items", True)
    assert refined.scope.endswith("weighted by a likelihood that was learned item by item")
    again = load_refined(tmp_path / "rounds")
    draws, same = (one.draw_batched(x, 4_000, generator=generator(9))[:, 0] for one in (refined, again))
    assert torch.equal(draws, same)
    theta = CATALOGUE.prior.sample(40_000, generator=generator(5))
    mean, sd = moments(theta, CATALOGUE.log_density(theta, x))
    assert ((draws.double().mean(0) - mean) / sd).abs().max() < 0.35
    assert (draws.double().std(0) / sd - 1).abs().max() < 0.2


def test_a_large_batch_is_computed_in_parts(monkeypatch):
    """A validation batch of 4,096 rows would take gigabytes at once."""
    monkeypatch.setattr(_items, "_TOGETHER", 2)
    estimator = Items(Prior(mu=td.Normal(0.0, 1.0)), {"x": Observable((3,), dims=("item",))}, bank=5)
    rows = Batch(torch.randn(5, 1, generator=generator()), {"x": torch.randn(5, 3, generator=generator(1))})
    estimator.standardise(lambda: iter([rows]))
    found = estimator.loss(rows, generator=generator())
    parts = [estimator.loss(rows.rows(slice(k, k + 2)), generator=generator()) for k in (0, 2, 4)]
    torch.testing.assert_close(found, torch.cat(parts))


def test_what_sets_of_items_are():
    item, series = Observable((3,), dims=("item",)), Observable((3,), dims=("time",))
    assert are_items({"x": item, "x_mask": Observable((3,), dims=("item",), dtype="bool")})
    assert not are_items({"x": item, "y": series})
    assert not are_items({"x": Observable((2, 3), dims=("visit", "item"))})
    spectra = Observable((3, 4), dims=("item", "time"))
    both = Items(
        Prior(mu=td.Normal(0.0, 1.0)), {"spectrum": spectra, "class": item, "other": Observable((7,), dims=("item",))}
    )
    assert both.columns == [["spectrum", "class"], ["other"]], "a row of one table is an item"
    assert not are_items({"x": item, "dose": Observable((3,), dims=("item",), control=True)})
    with pytest.raises(ValueError, match="first axis is called 'item', without controls, got 'y' \\(3,\\); use Ratio"):
        Items(Prior(mu=td.Normal(0.0, 1.0)), {"y": series})
