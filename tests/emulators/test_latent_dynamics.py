"""Latent dynamics: what a fit says of series, and what it must not look at."""

from __future__ import annotations

import pytest
import torch
from processes.kinds import Drifting, Still
from processes.oscillator import Oscillator, filtered, known

from sciinf import Recipe, load_fit, simulate, train
from sciinf.core import Batch, Observable, Prior
from sciinf.emulators import Bernoulli, Categorical, Gaussian, LatentDynamics, Poisson
from sciinf.emulators.processes import LinearGaussian

pytestmark = pytest.mark.slow

SIMULATOR = Drifting()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows_of(rows=6, seed=3):
    theta = SIMULATOR.prior.sample(rows, generator=generator(seed))
    return Batch(theta, SIMULATOR(theta, generator=generator(seed + 1)))


def built(process=None, *, observables=None, prior=None, **told):
    told = {"given": ("u",), "width": 8, **told}
    prior = SIMULATOR.prior if prior is None else prior
    return LatentDynamics(prior, observables or SIMULATOR.observables, process or Still(), **told)


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    store = simulate(SIMULATOR, folder / "store", 400, seed=0, progress=False)
    recipe = Recipe(epochs=8, batch=32)
    return train(built(LinearGaussian(2), width=0), store, folder / "fit", recipe=recipe, progress=False)


def test_it_fills_gaps_better_than_one_that_knows_no_neighbours(fit):
    rows = rows_of(200, 11)
    learned, there = fit.surrogate, rows.x["x_mask"]
    gone = there & (torch.rand(there.shape, generator=generator()) < 0.3)
    x = {**rows.x, "x_mask": there & ~gone}
    draws = torch.stack([learned.complete(rows.theta, x, generator=generator(k)) for k in range(16)])
    off = (draws.mean(0) - rows.x["x"])[gone].square().mean().sqrt()
    assert float(off) < 0.9 * float(rows.x["x"][gone].std())  # neighbours tell of it
    nothing = {**rows.x, "x_mask": torch.zeros_like(there)}
    blind = torch.stack([learned.complete(rows.theta, nothing, generator=generator(k)) for k in range(16)])
    assert float((blind.mean(0) - rows.x["x"])[gone].square().mean().sqrt()) > 1.05 * float(off)  # the fault
    assert torch.equal(draws[0][x["x_mask"]], rows.x["x"][x["x_mask"]])
    anew = learned.complete(rows.theta, x, generator=generator(), keep=False)
    assert not torch.allclose(anew[x["x_mask"]], rows.x["x"][x["x_mask"]], atol=1e-2)
    assert 0.7 < fit.record["spread_skill_of_gaps"] < 1.4
    assert 0.7 < fit.record["spread_skill_of_series"] < 1.4


def test_emulating_does_not_look_at_the_target(fit):
    rows, learned = rows_of(), fit.surrogate
    other = {**rows.x, "x": rows.x["x"] + 100, "x_mask": ~rows.x["x_mask"]}
    assert torch.equal(*(learned.draw(rows.theta, x, generator=generator()) for x in (rows.x, other)))
    assert torch.equal(*(learned.predict(rows.theta, x) for x in (rows.x, other)))
    without = {name: rows.x[name] for name in learned.given}
    assert learned.draw(rows.theta, without, generator=generator()).shape == (6, 8, 2)
    assert learned.spread(rows.theta).shape == (6,)
    error = learned.error(rows.theta, rows.x, generator=generator())
    expected = learned.draw(rows.theta, rows.x, generator=generator()) - learned.predict(rows.theta, rows.x)
    assert torch.allclose(error, expected, atol=1e-5)


def test_controls_and_parameters_are_seen(fit):
    rows, learned = rows_of(400), fit.surrogate
    up = {**rows.x, "u": torch.full_like(rows.x["u"], 2.0)}
    down = {**rows.x, "u": torch.full_like(rows.x["u"], -2.0)}
    high, low = (learned.draw(rows.theta, x, generator=generator()).mean() for x in (up, down))
    assert float(high - low) > 1.0  # the law pulls towards u
    fast = learned.bound(rows.theta, rows.x, generator=generator()).mean()
    swapped = learned.bound(rows.theta.flip(0), rows.x, generator=generator()).mean()
    assert torch.isfinite(fast)
    assert not torch.equal(fast, swapped)


def test_any_row_alone_is_that_row_in_a_batch(fit):
    rows, learned = rows_of(), fit.surrogate
    others = rows_of(6, 20)
    mixed = {name: torch.cat([value[:1], others.x[name][1:]]) for name, value in rows.x.items()}
    theta = torch.cat([rows.theta[:1], others.theta[1:]])
    one = learned.complete(rows.theta, rows.x, generator=generator())
    two = learned.complete(theta, mixed, generator=generator())
    assert torch.allclose(one[:1], two[:1], atol=1e-4)
    bounds = [learned.bound(t, x, generator=generator())[:1] for t, x in ((rows.theta, rows.x), (theta, mixed))]
    assert torch.allclose(*bounds, atol=1e-3)


def test_a_fit_is_read_back_and_more_draws_tighten_the_bound(fit):
    rows = rows_of(100)
    again = load_fit(fit.folder).surrogate
    assert isinstance(again, LatentDynamics)
    for each in ("draw", "complete", "latent"):
        found = [getattr(s, each)(rows.theta, rows.x, generator=generator()) for s in (fit.surrogate, again)]
        assert torch.equal(*found)
    with torch.no_grad():
        bounds = [again.bound(rows.theta, rows.x, generator=generator(), draws=k).mean() for k in (1, 10)]
    assert float(bounds[1]) > float(bounds[0]) - 0.05
    assert fit.record["bound"] == pytest.approx(float(bounds[0]), abs=2.0)  # of other rows: sd of a row some 4 nats


def test_later_values_that_are_missing_are_forecast():
    """Of an oscillator that is known: the truth 10 steps on has any rank among 39 draws as often as any other.

    150 rows, ranks 2 to 37 of 0 to 39: false alarms beyond 4 sd of a binomial, below 1 in 10,000.
    """
    learned, simulator = known(), Oscillator()
    x = simulator(torch.empty(150, 0), generator=generator(8))
    there = x["x_mask"].clone()
    there[:, 30:] = False
    seen = {**x, "x_mask": there}
    draws = torch.stack([learned.complete(torch.empty(150, 0), seen, generator=generator(k)) for k in range(39)])
    at = x["x_mask"][:, 39]  # where the truth is not blotted out

    def within(truth):
        rank = (draws[:, at, 39, 0] < truth[at, 39, 0]).sum(0)
        return float(((rank >= 2) & (rank <= 37)).float().mean())

    assert abs(within(x["x"]) - 0.9) < 4 * (0.09 / int(at.sum())) ** 0.5
    assert within(5 * (x["x"] - 3) + 3) < 0.7  # the fault: truths five times as wide


def test_hidden_values_are_scored_and_not_read():
    """With all of them hidden the encoder has no slope, and the loss scores all that was seen."""
    rows, read = rows_of(4), []
    for hide in (0.0, 0.9999):
        learned = built(hide=hide)
        loss = learned.loss(rows, generator=generator()).mean()
        slopes = torch.autograd.grad(loss, list(learned.encoder.parameters()), retain_graph=True)
        read.append(max(float(slope.abs().max()) for slope in slopes))
        assert any(float(slope.abs().max()) > 0 for slope in torch.autograd.grad(loss, [*learned.decoder.parameters()]))
    assert read[0] > 0 == read[1]


def test_what_rows_share_is_counted_once():
    learned, rows = built(), rows_of()
    with torch.no_grad():
        before = learned.loss(rows, generator=generator())
        learned.inputs.rows.fill_(50.0)
        learned.process.shared = lambda: torch.tensor(100.0)  # in place of the weights' KL
        assert torch.allclose(learned.loss(rows, generator=generator()), before + 2.0, atol=1e-4)


def test_the_unit_of_time_does_not_matter():
    rows, found = rows_of(50), []
    for scale, start in ((1.0, 0.0), (3_600.0, 1e9)):
        learned, x = built(), {**rows.x, "x_times": scale * rows.x["x_times"] + start}
        learned.standardise(lambda x=x: iter([Batch(rows.theta, x)]))
        found.append(learned.series(rows.theta, x))
    assert torch.allclose(found[0].times, found[1].times, atol=1e-4)
    assert float(found[0].steps().mean()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("law", [Gaussian(), Poisson(), Bernoulli(), Categorical(3)])
def test_draws_are_of_the_law_whose_density_is_told(law):
    """The mean log density of 20,000 draws is minus the entropy that a grid gives. False alarms: 4.5 sd."""
    built_, draw = law.build(1), generator(5)
    values = torch.arange(3.0 if isinstance(law, Categorical) else 2.0 if isinstance(law, Bernoulli) else 60.0)[:, None]
    weight = 1.0
    if isinstance(law, Gaussian):
        values, weight = torch.linspace(-9, 9, 4_001)[:, None], 18 / 4_000
    elif isinstance(law, Poisson):
        built_.level.fill_(0.3)
    found = torch.randn(1, built_.outputs, generator=draw)
    with torch.no_grad():
        grid = built_.log_prob(found.expand(len(values), -1), values)
        drawn = built_.draw(found.expand(20_000, -1), generator=draw)
        log = built_.log_prob(found.expand(20_000, -1), drawn)
        assert float(grid.exp().sum() * weight) == pytest.approx(1.0, abs=1e-3)
        entropy = float((grid.exp() * grid).sum() * weight)
        assert abs(float(log.mean()) - entropy) < 4.5 * float(log.std()) / 20_000**0.5 + 1e-3
        if built_.ordered:
            mean = float((grid.exp() * values).sum() * weight)
            assert float(built_.mean(found[None])) == pytest.approx(mean, abs=1e-3)
        assert abs(float(built_.log_prob(found + 1, drawn).mean()) - entropy) > 1e-2 or built_.outputs > 1  # the fault


def test_values_take_the_law_of_their_dtype():
    for dtype, inputs in (("int64", 1), ("bool", 1), ("float32", 1)):
        observables = {"x": Observable((5,), dtype=dtype, dims=("time",))}
        learned = built(prior=Prior.none(), observables=observables, given=())
        assert learned.emission.inputs == inputs
        drawn = learned.draw(torch.empty(4, 0), {}, generator=generator())
        assert drawn.shape == (4, 5)
        assert drawn.dtype == getattr(torch, dtype)
        x = {"x": drawn, "x_mask": torch.ones(4, 5, dtype=torch.bool)}
        assert torch.equal(learned.complete(torch.empty(4, 0), x, generator=generator()), drawn)
        assert torch.isfinite(learned.error(torch.empty(4, 0), x, generator=generator())).all()


def test_what_does_not_suit_is_refused():
    rows, learned = rows_of(), built()
    with pytest.raises(ValueError, match="there is no observable 'y'"):
        built(target="y")
    with pytest.raises(ValueError, match="leave them out"):
        built(given=("x_times",))
    with pytest.raises(ValueError, match="a share of the times"):
        built(hide=1.0)
    with pytest.raises(ValueError, match="logarithmic scale"):
        built(observables={"x": Observable((5,), scale="log")}, given=())
    with pytest.raises(ValueError, match="a column for each"):
        learned.complete(rows.theta[:, :0], rows.x, generator=generator())
    with pytest.raises(ValueError, match="'u' is to be known beforehand"):
        learned.draw(rows.theta, {"x_times": rows.x["x_times"]}, generator=generator())
    with pytest.raises(ValueError, match="'x' and 'x_mask' are needed"):
        learned.complete(rows.theta, {k: v for k, v in rows.x.items() if k != "x_mask"}, generator=generator())
    back = {**rows.x, "x_times": rows.x["x_times"].flip(1)}
    with pytest.raises(ValueError, match="goes backwards"):
        learned.standardise(lambda: iter([Batch(rows.theta, back)]))
    with pytest.raises(ValueError, match="goes backwards"):
        learned.draw(rows.theta, back, generator=generator())
    wrong = {**rows.x, "x": torch.full_like(rows.x["x"], torch.nan)}  # under a mask that is True
    with pytest.raises(ValueError, match="'x' is not finite"):
        learned.complete(rows.theta, wrong, generator=generator())
    counts = Poisson().build(1)
    with pytest.raises(ValueError, match="whole numbers"):
        counts.standardise(iter([(torch.full((1, 2, 1), 0.5), torch.ones(1, 2, 1, dtype=torch.bool))]))


def test_the_oscillator_is_answered_exactly_by_the_weights_that_are_its_own():
    x = Oscillator()(torch.empty(5, 0), generator=generator(4))
    with torch.no_grad():
        bound = known().bound(torch.empty(5, 0), x, generator=generator(), draws=2)
    assert torch.allclose(bound.double(), filtered(x).log_likelihood, atol=2e-3)
