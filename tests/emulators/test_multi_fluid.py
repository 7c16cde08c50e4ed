"""One network for flows of several fields in a plane: channels, symbols, errors of each family, and what is refused."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
import torch
from simulators.test_contract import FOLDER, generator, loaded

from sciinf import Recipe, load_fit, simulate, train
from sciinf.core import Batch, Observable
from sciinf.emulators import Emulator, MultiFluid
from sciinf.emulators.multi_operator import SymbolsAndFrames, patches
from sciinf.simulators.dynamics.systems import Systems
from sciinf.training import train_ensemble

SMALL = SymbolsAndFrames(32, heads=2, patch=4, fusion=1, decoder=1)
RECIPE = Recipe(batch=32, optimiser="muon", learning_rate=1e-2, epochs=24)
RANGES = {
    "vorticity": {
        "nu": (0.001, 0.002),
        "beta": (-120.0, 120.0),
    },  # waves go to either side, and a frame tells not whither
    "shallow_water": {"g": (0.03, 0.1), "f": (-8.0, 8.0)},
    "gray_scott": {"feed": (1.0, 4.0), "kill": (2.0, 2.8)},
}


def small() -> Any:
    """Few points, and one frame, which tells no coefficient."""
    found: Any = type(loaded(FOLDER / "pde" / "mixed_fluids.py"))
    equations = sys.modules[found.__module__].EQUATIONS
    return found(points=8, times=(0.125, 0.25), gap=None, systems=Systems(equations, RANGES))


def built(simulator, **told) -> Any:
    return MultiFluid(simulator.prior, simulator.observables, simulator.systems, SMALL, **told)


def rows_of(simulator, n=24, seed=3):
    theta = simulator.prior.sample(n, generator=generator(seed))
    return Batch(theta, simulator(theta, generator=generator(seed + 1)))


def relative(surrogate, rows, theta=None):
    """Of each row, in units of the sd of each channel that is there."""
    theta = rows.theta if theta is None else theta
    frames, true = rows.x["frames"], rows.x["u"]
    sd, mean = torch.std_mean(frames.unflatten(1, (-1, 3)), (1, 3, 4), keepdim=True)
    there = surrogate.systems.there(rows.theta)[:, None, :, None, None]
    with torch.no_grad():
        off = (surrogate.predict(theta, rows.x) - true) / sd.clamp_min(1e-6) * there
    return off.flatten(2).norm(dim=2).div(((true - mean) / sd.clamp_min(1e-6) * there).flatten(2).norm(dim=2)).mean(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(small(), tmp_path_factory.mktemp("rows") / "store", 480, seed=0, progress=False)


@pytest.fixture(scope="module")
def fit(store, tmp_path_factory):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is off by")
        return train(built(small()), store, tmp_path_factory.mktemp("fits") / "fit", recipe=RECIPE, progress=False)


def test_pieces_of_a_torus():
    field = torch.arange(64.0).reshape(1, 1, 8, 8)
    found = patches(field, 4)
    assert found.shape == (1, 4, 64)
    wide = field.roll((2, 2), (-2, -1))[0, 0]
    assert torch.equal(found[0, 0].reshape(8, 8), wide)
    assert torch.equal(found[0, 1].reshape(8, 8), field.roll((2, -2), (-2, -1))[0, 0])  # along x first


def test_shapes_seed_batch_and_slopes():
    simulator = small()
    rows, surrogate = rows_of(simulator), built(small())
    loss = surrogate.loss(rows, generator=generator())
    assert loss.shape == (24,)
    assert torch.equal(loss, built(simulator).loss(rows, generator=generator()))
    assert not torch.equal(loss, built(simulator, seed=1).loss(rows, generator=generator()))
    loss.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in surrogate.parameters())
    whole = surrogate.predict(rows.theta, rows.x)
    assert whole.shape == (24, 2, 3, 8, 8)
    alone = surrogate.predict(rows.theta[3:4], {k: v[3:4] for k, v in rows.x.items()})
    assert torch.allclose(whole[3:4], alone, atol=1e-5)


def test_turned_by_patches_it_predicts_the_same_turned():
    rows, surrogate = rows_of(small()), built(small())
    found = surrogate.predict(rows.theta, rows.x)
    for by in ((4, 0), (0, 4), (4, 4)):
        turned_rows = {"frames": rows.x["frames"].roll(by, (-2, -1))}
        assert torch.allclose(surrogate.predict(rows.theta, turned_rows), found.roll(by, (-2, -1)), atol=1e-4)
    assert not torch.allclose(found.roll((4, 0), (-2, -1)), found, atol=1e-2)


def test_channels_that_a_family_has_not_change_nothing():
    rows, surrogate = rows_of(small()), built(small())
    surrogate.eval()
    there = surrogate.systems.there(rows.theta)
    assert not bool(there.all())
    with torch.no_grad():
        found, loss = surrogate.predict(rows.theta, rows.x), surrogate.loss(rows, generator=generator())
    assert float(found[~there[:, None].expand(-1, 2, -1)].abs().max()) == 0
    noise = torch.randn(rows.x["frames"].shape, generator=generator())
    frames = torch.where(there[:, :, None, None], rows.x["frames"], noise)
    later = torch.where(there[:, None, :, None, None], rows.x["u"], noise[:, None])
    other = Batch(rows.theta, {"frames": frames, "u": later})
    assert torch.equal(surrogate.predict(rows.theta, other.x), found)
    assert torch.equal(surrogate.loss(other, generator=generator()), loss)
    seen = Batch(rows.theta, {"frames": rows.x["frames"] + 0.1 * noise, "u": rows.x["u"]})  # the fault, in all channels
    assert not torch.allclose(surrogate.loss(seen, generator=generator()), loss)


@pytest.mark.slow
def test_symbols_help_and_wrong_ones_harm(fit, store, tmp_path):
    """Errors of fixed seeds: nothing here is left to chance."""
    simulator, surrogate = small(), fit.surrogate
    rows = rows_of(simulator, 240, seed=11)
    error = float(relative(surrogate, rows).mean())
    wrong = rows.theta.clone()
    wrong[:, 1:] = 1 - wrong[:, 1:]  # the fault: coefficients from the other end of their range
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is off by")
        deaf: Any = train(
            built(simulator, symbols=False), store, tmp_path / "deaf", recipe=RECIPE, progress=False
        ).surrogate
    found = {
        "told": error,
        "wrong": float(relative(surrogate, rows, wrong).mean()),
        "deaf": float(relative(deaf, rows).mean()),
    }
    print(found)
    assert found["told"] < 0.9 * found["deaf"]
    assert found["wrong"] > 1.3 * found["told"]
    assert fit.record["relative_error"] == pytest.approx(error, rel=0.3)
    assert torch.equal(deaf.predict(wrong, rows.x), deaf.predict(rows.theta, rows.x))


@pytest.mark.slow
def test_errors_are_drawn_as_those_of_the_same_family(fit):
    surrogate, rows = fit.surrogate, rows_of(small(), 300, seed=21)
    off = surrogate.error(rows.theta, rows.x, generator=generator(5))
    true = rows.x["u"] - surrogate.predict(rows.theta, rows.x)
    number = surrogate.systems.number(rows.theta)
    for k in range(3):
        drawn, known = (float(value[number == k].square().mean().sqrt()) for value in (off, true))
        assert 0.5 < drawn / known < 2.0
        assert float(surrogate.spread(rows.theta[number == k])[0]) == pytest.approx(known, rel=0.6)
    there = surrogate.systems.there(rows.theta)
    assert float(off[~there[:, None].expand(-1, 2, -1)].abs().max()) == 0  # no error where there is no field


def test_of_a_family_without_held_out_rows_no_error_is_known():
    """Nor is one that was known before, by other rows, taken for none at all."""
    rows, surrogate = rows_of(small()), built(small())
    number = surrogate.systems.number(rows.theta)
    some = Batch(rows.theta[number == 0], {name: value[number == 0] for name, value in rows.x.items()})
    surrogate.adjust(lambda: iter([rows]))
    assert bool((surrogate.spread(rows.theta) > 0).all())
    surrogate.adjust(lambda: iter([some]))
    assert bool((surrogate.spread(some.theta) > 0).all())
    with pytest.raises(ValueError, match="no solution of shallow_water, gray_scott has checked"):
        surrogate.draw(rows.theta, rows.x, generator=generator())


@pytest.mark.slow
def test_a_fit_is_read_back_and_stands_in_for_the_simulator(fit):
    rows, again = rows_of(small()), load_fit(fit.folder)
    found = [one.surrogate.predict(rows.theta, rows.x) for one in (fit, again)]
    assert torch.equal(*found)
    drawn = [one.surrogate.draw(rows.theta, rows.x, generator=generator(2)) for one in (fit, again)]
    assert torch.equal(*drawn)
    emulated = Emulator(again, small(), error=False)(rows.theta, generator=generator(4))
    assert torch.allclose(emulated["frames"], rows.x["frames"])
    assert torch.allclose(emulated["u"], found[0], atol=1e-5)


@pytest.mark.slow
def test_an_ensemble_is_trained_at_once(store, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*is off by")  # one epoch
        recipe = Recipe(epochs=1, batch=60)
        fits = train_ensemble([built(small(), seed=k) for k in range(2)], store, tmp_path, recipe=recipe)
    assert len(fits) == 2


def test_what_does_not_fit_is_refused():
    simulator = small()
    rows = rows_of(simulator)
    prior, fields, systems = simulator.prior, simulator.observables, simulator.systems
    beyond = torch.eye(len(prior))[1]
    one = Systems({"a": "dt u1 * d lap u1"}, {"a": {"d": (0.0, 1.0)}})
    for make, says in (
        (lambda: MultiFluid(prior, fields, one), "the systems' parameters are"),
        (lambda: MultiFluid(prior, fields, systems, SymbolsAndFrames(patch=3)), "whole patches of 3"),
        (lambda: MultiFluid(prior, {**fields, "u": Observable((2, 2, 8, 8))}, systems), "have 3 and 2 channels"),
        (lambda: built(simulator).spread(prior.sample(9, generator=generator())), "no solution of vorticity"),
        (lambda: built(simulator).predict(rows.theta + 3.0, rows.x), "'family' is from 0 to 3, got"),
        (lambda: built(simulator).predict(rows.theta.clamp_max(3.0) + beyond, rows.x), "outside the range"),
        (lambda: built(simulator).predict(rows.theta, {"frames": rows.x["frames"][:, :2]}), "of all channels, got"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
