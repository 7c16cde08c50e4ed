"""Space-time operators, and what the equation alone makes of their predictions."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from emulators.fields import Decay

from sciinf import Recipe, load_fit, load_simulator, simulate, train
from sciinf.core import Batch, Observable
from sciinf.emulators import Operator
from sciinf.emulators.spectral_refiner import FourierPath, SpectralRefiner, correct, refine, residual_norm
from sciinf.networks.spectral import Fourier
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField

FRAMES = (0.0, 0.25, 0.5, 0.75, 1.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def built(equation, **told):
    return SpectralRefiner(equation.prior, equation.observables, width=8, modes=6, modes_time=3, layers=2, **told)


def rows_of(equation, n=6, seed=3):
    theta = equation.prior.sample(n, generator=generator(seed))
    return Batch(theta, equation(theta, generator=generator(seed + 1)))


def relative(found, true):
    return (found.detach() - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)


def flow(root, points, end, frames, **told) -> Any:
    told = {"initial": RandomField(0.262, tau=7.0, alpha=4.0), "dtype": torch.float64} | told
    kind: Any = type(load_simulator(root / "simulators/pde/navier_stokes.py"))
    return kind(points, tuple(torch.linspace(0.0, end, frames).double().tolist()), **told)


def fitted(true, times, waves, period):
    """The series nearest to a trajectory."""
    each = torch.eye(2 * waves).double().reshape(2 * waves, 2, waves, 1, 1)
    basis = FourierPath(torch.zeros(2 * waves, 1, 1).double(), each, period).at(times)[..., 0, 0].mT
    change = (true - true[:, :1]).transpose(0, 1).flatten(1)
    found = torch.linalg.lstsq(basis, change, rcond=1e-10, driver="gelsd").solution
    found = found.unflatten(1, (len(true), *true.shape[2:])).transpose(0, 1).unflatten(1, (2, waves))
    return FourierPath(true[:, 0], found, period)


@pytest.fixture(scope="module")
def world(root):
    """Two flows of 24 x 24 points: the equation, theta, solutions, and series that are nearly these and 3 % off."""
    equation = flow(root, 24, 2.0, 5)
    theta = torch.tensor([[2e-3, 0.1], [4e-3, 0.15]]).double()
    given = equation.start(theta, generator=generator(1))
    times = torch.linspace(0.0, 2.0, 49).double()
    dense = flow(root, 24, 2.0, 49).solve(theta, given)
    near = fitted(dense, times, 8, 4.0)
    noise = RandomField(1.0, tau=7.0, alpha=3.0).draw(2 * 4, 1, equation.grid, generator=generator(2))
    push = FourierPath(torch.zeros_like(near.start), noise.reshape(2, 2, 2, 1, 24, 24), 4.0)
    size = 0.03 * dense.flatten(1).norm(dim=1) / push.at(times).flatten(1).norm(dim=1)
    waves = near.waves.clone()
    waves[:, :, :2] += size.reshape(-1, 1, 1, 1, 1, 1) * push.waves
    return equation, theta, given, dense[:, ::12], near, replace(near, waves=waves)


def test_the_residual_is_measured_exactly():
    # u = (3 + sin w t) cos(2 pi m x): du/dt - nu d^2u/dx^2 is known, its H^-1 norm that of one wave
    equation, theta, m, period = Decay(points=16), torch.tensor([[0.01, 1.0], [0.03, 1.0]]).double(), 3, 2.0
    wave = (2 * math.pi * m * equation.grid.coordinates[0]).cos().expand(2, 1, 16)
    waves = torch.stack([torch.zeros_like(wave), wave], 1)[:, :, None]
    path, times = FourierPath(3 * wave, waves, period), torch.linspace(0.0, 1.0, 7).double()
    w, stiff = 2 * math.pi / period, theta[:, :1] * (2 * math.pi * m) ** 2
    left = w * (w * times).cos() + stiff * (3 + (w * times).sin())
    expected = (left.square().mean(1) * 0.5 / (1 + m**2)).sqrt()
    assert torch.allclose(residual_norm(path, equation, theta, times), expected, rtol=1e-12)
    plain = (left.square().mean(1) * 0.5).sqrt()  # the fault: the norm of order 0
    assert not torch.allclose(residual_norm(path, equation, theta, times), plain, rtol=0.5)


def test_slopes_of_a_path_are_its_derivatives():
    waves = torch.randn(2, 2, 3, 1, 4, dtype=torch.float64, generator=generator())
    path, h = FourierPath(torch.randn(2, 1, 4, dtype=torch.float64, generator=generator(1)), waves, 1.7), 1e-5
    times = torch.tensor([0.0, 0.3, 1.1]).double()
    assert torch.equal(path.at(times)[:, 0], path.start)
    assert torch.allclose(path.slope(times), (path.at(times + h) - path.at(times - h)) / (2 * h), atol=1e-7)


@pytest.mark.parametrize(("layers", "frames", "waves"), [(1, 5, 3), (3, 5, 3), (1, 6, 5), (1, 7, 5)])
def test_a_path_is_the_prediction_at_any_time(layers, frames, waves):
    times = tuple(torch.linspace(0.0, 1.0, frames).tolist())
    equation, told = Decay(times=times), {"width": 8, "modes": 6, "modes_time": waves, "layers": layers}
    surrogate = SpectralRefiner(equation.prior, equation.observables, **told)
    rows = rows_of(equation)
    path = surrogate.double().path(rows.theta, rows.x, 1 / (frames - 1))
    found = surrogate.predict(rows.theta, rows.x)
    assert torch.allclose(path.at(torch.tensor(times)), found, atol=1e-6)
    assert torch.allclose(found[:, 0], rows.x["initial"].double())
    assert path.at(torch.linspace(0.0, 1.0, 33)).shape == (6, 33, 1, 16)


def test_a_solution_has_hardly_a_residual(world):
    equation, theta, _, true, near, off = world
    times = torch.linspace(0.01, 1.99, 30).double()
    assert float(relative(near.at(torch.tensor(equation.times).double()), true).max()) < 1e-5
    small, large = (residual_norm(path, equation, theta, times) for path in (near, off))
    wrong = residual_norm(near, equation, theta * torch.tensor([1.1, 1.0]), times)  # the fault: a wrong viscosity
    assert bool((small < 2e-3 * large).all())
    assert bool((wrong > 20 * small).all())


@pytest.mark.slow
def test_refinement_finds_the_solution(world):
    equation, theta, _, true, _, off = world
    before = relative(off.at(torch.tensor(equation.times).double()), true)
    found = correct(off, equation, theta, waves=8)
    assert found.steps <= 50
    assert bool((found.after < found.before / 100).all())
    assert bool((relative(found.solution, true) < before / 100).all())
    # the fault: of another viscosity the residual falls as well, towards another solution
    wrong = correct(off, equation, theta * torch.tensor([1.5, 1.0]), waves=8)
    assert bool((wrong.after < wrong.before / 100).all())
    assert bool((relative(wrong.solution, true) > before).all())


@pytest.mark.slow
def test_more_steps_leave_less(world):
    equation, theta, _, _, _, off = world
    left = torch.stack([correct(off, equation, theta, waves=8, steps=n).after for n in (2, 5, 20)])
    assert bool((left.diff(dim=0) < 0).all())


@pytest.mark.slow
def test_rows_are_refined_as_if_alone(world):
    equation, theta, _, true, _, off = world
    both = correct(off, equation, theta, waves=8, steps=20)
    one = FourierPath(off.start[1:], off.waves[1:], off.period)
    alone = correct(one, equation, theta[1:], waves=8, steps=20)
    assert torch.allclose(both.after[1:], alone.after, rtol=1e-2)
    assert float(relative(both.solution[1:], alone.solution)) < 1e-3 * float(relative(true[1:], true[:1]))


def test_shapes_seed_batch_and_slopes():
    equation = Decay(times=FRAMES)
    rows, surrogate = rows_of(equation, 12), built(equation)
    loss = surrogate.loss(rows, generator=generator())
    assert loss.shape == (12,)
    assert torch.equal(loss, built(equation).loss(rows, generator=generator()))
    assert not torch.equal(loss, built(equation, seed=1).loss(rows, generator=generator()))
    loss.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in surrogate.parameters())
    alone = surrogate.predict(rows.theta[3:4], {k: v[3:4] for k, v in rows.x.items()})
    assert torch.allclose(surrogate.predict(rows.theta, rows.x)[3:4], alone, atol=1e-5)


def test_without_coordinates_it_moves_with_the_field():
    equation = Decay(times=FRAMES)
    rows = rows_of(equation)
    moved = {"initial": rows.x["initial"].roll(5, -1)}
    for coordinates in (False, True):
        surrogate = built(equation, coordinates=coordinates)
        found = surrogate.predict(rows.theta, rows.x).roll(5, -1)
        assert torch.allclose(surrogate.predict(rows.theta, moved), found, atol=1e-5) != coordinates


@pytest.mark.slow
def test_a_short_training_is_refined(tmp_path):
    equation = Decay(times=FRAMES)
    store = simulate(equation, tmp_path / "store", 200, seed=0)
    fit = train(built(equation, coordinates=False), store, tmp_path / "fit", recipe=Recipe(epochs=5))
    rows, again = rows_of(equation, 8, seed=11), load_fit(fit.folder).surrogate
    predicted = again.predict(rows.theta, rows.x)
    assert torch.equal(predicted, fit.surrogate.predict(rows.theta, rows.x))
    weights = [p.clone() for p in again.parameters()]
    true = equation.solve(rows.theta, rows.x)
    found = refine(again, equation, rows.theta, rows.x)
    assert float(relative(predicted.double(), true).mean()) < 0.5
    assert bool((relative(found.solution, true) < 0.1 * relative(predicted.double(), true)).all())
    assert all(torch.equal(a, b) for a, b in zip(weights, again.parameters(), strict=True))
    assert all(p.dtype == torch.float32 for p in again.parameters())


def test_what_does_not_fit_is_refused():
    equation = Decay(times=FRAMES)
    prior, fields = equation.prior, equation.observables
    ends = Decay(times=FRAMES)
    ends.grid = BoxGrid((16,), (1.0,), periodic=False)
    rows, surrogate = rows_of(equation), built(equation)
    for make, says in (
        (lambda: built(equation, padding=0.0), "time is not periodic"),
        (lambda: SpectralRefiner(prior, fields, modes_time=1), "modes_time must be"),
        (lambda: SpectralRefiner(prior, {**fields, "initial": Observable((2, 16))}), "has 2 channels"),
        (lambda: SpectralRefiner(prior, {**fields, "u": Observable((1, 1, 16))}), "a trajectory of fields"),
        (lambda: refine(surrogate, Decay(times=(0.0, 1.0)), rows.theta, rows.x), "expected 5"),
        (lambda: refine(surrogate, Decay(times=(0.0, 0.1, 0.5, 0.7, 1.0)), rows.theta, rows.x), "evenly spaced"),
        (lambda: refine(surrogate, Decay(times=FRAMES, points=32), rows.theta, rows.x), "the equation's fields"),
        (lambda: refine(surrogate, ends, rows.theta, rows.x), "not periodic"),
        (lambda: refine(surrogate, equation, rows.theta, rows.x, waves=1), "waves must be"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    other = Operator(prior, fields, Fourier(4, 3, layers=1, hidden=8))
    with pytest.raises(TypeError, match="got Operator"):
        refine(other, equation, rows.theta, rows.x)


@pytest.mark.long
def test_flows_are_refined_after_ten_epochs(root, tmp_path):
    # Four flows that training has not seen; five CPU minutes.
    equation = flow(root, 64, 8.0, 13)
    store = simulate(equation, tmp_path / "store", 200, seed=0)
    surrogate = SpectralRefiner(equation.prior, equation.observables, width=12)
    started = time.process_time()
    fit = train(surrogate, store, tmp_path / "fit", recipe=Recipe(epochs=10))
    epoch = (time.process_time() - started) / 10
    theta = equation.prior.sample(4, generator=generator(77)).double()
    given = equation.start(theta, generator=generator(78))
    true, predicted = equation.solve(theta, given), fit.surrogate.predict(theta, given).double()
    started = time.process_time()
    found = refine(fit.surrogate, equation, theta, given)
    assert (time.process_time() - started) / 4 < epoch
    assert found.steps <= 50
    assert bool((found.after < found.before / 100).all())
    assert bool((relative(found.solution, true) < 0.6 * relative(predicted, true)).all())
