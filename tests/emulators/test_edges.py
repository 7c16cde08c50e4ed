"""Whether fields have edges is told from the fields, and what follows from it is what the fit remembers."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from emulators.fields import Decay

from sciinf import Recipe, load_fit, load_simulator, simulate, train
from sciinf.core import Batch
from sciinf.emulators import Operator, Stepwise
from sciinf.emulators._fields import edged
from sciinf.networks.spectral import Fourier
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField

PDE = Path(__file__).parents[2] / "simulators" / "pde"
ONCE = Recipe(epochs=1, batch=16)


def waves(shape, *, tau=5.0, rows=40):
    field = RandomField(1.0, tau=tau, alpha=2.5)
    return field.draw(rows, 2, BoxGrid(shape, (1.0,) * len(shape)), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(32,), (16, 24)])
def test_waves_on_a_ring_or_torus_have_no_edges_and_parts_of_them_have(shape):
    whole = waves(shape)
    assert not edged(whole)
    assert not edged(whole[:18])
    assert not edged(torch.cat([whole, torch.zeros_like(whole)], 1))  # a channel of nothing
    assert edged(whole[..., : shape[-1] // 2])
    assert edged(torch.cat([whole, whole[..., : shape[-1] // 2].repeat_interleave(2, -1)], 1))  # one channel is enough


@pytest.mark.parametrize("points", [16, 17])
def test_fields_that_are_held_at_their_ends_have_edges(points):
    x = torch.linspace(0, 1, 17)[:points]  # with both ends, or one left out
    size = torch.rand(40, 1, 1, generator=torch.Generator().manual_seed(0))
    assert edged(size * (torch.pi * x).sin())
    assert not edged(size + (2 * torch.pi * torch.arange(16) / 16).sin())  # steady waves that all move at once


@pytest.mark.parametrize("name", ["burgers", "navier_stokes", "shallow_water", "darcy"])
def test_equations_are_told_as_their_grids_say(name):
    equation = load_simulator(PDE / f"{name}.py")
    source = torch.Generator().manual_seed(0)
    start = equation.start(equation.prior.sample(64, generator=source), generator=source)
    assert any(edged(value) for value in start.values()) != equation.grid.periodic


@pytest.fixture(scope="module")
def darcy(tmp_path_factory):
    equation = type(load_simulator(PDE / "darcy.py"))(points=12)
    return equation, simulate(equation, tmp_path_factory.mktemp("darcy") / "store", 80, seed=0, progress=False)


@pytest.mark.filterwarnings("ignore:the surrogate's")
def test_a_network_that_was_left_open_is_chosen_once_and_comes_back(darcy, tmp_path):
    equation, store = darcy
    fit = train(Operator(equation.prior, equation.observables, Fourier(6, 3, layers=1)), store, tmp_path, recipe=ONCE)
    assert fit.record["relative_error"] > 0.1
    again = load_fit(tmp_path)
    assert again.digest == fit.digest
    chosen = again.surrogate.network
    assert (chosen.coordinates, chosen.padding) == (True, 0.1)
    rows = store.load()
    assert torch.equal(fit.surrogate.predict(rows.theta, rows.x), again.surrogate.predict(rows.theta, rows.x))
    known = train(Operator(equation.prior, equation.observables, Fourier(6, 3, layers=1)), store, tmp_path, recipe=ONCE)
    assert known.digest == fit.digest  # read back


def test_what_was_said_stays_and_fields_without_edges_choose_nothing(darcy):
    equation, store = darcy
    rows = store.load()
    said = Operator(equation.prior, equation.observables, Fourier(6, 3, layers=1, coordinates=False, padding=0.0))
    said.standardise(lambda: iter([rows]))
    assert (said.network.coordinates, said.network.padding) == (False, 0.0)
    ring, source = Decay(), torch.Generator().manual_seed(0)
    theta = ring.prior.sample(40, generator=source)
    batch = Batch(theta, ring(theta, generator=source))
    for kind in (Operator, Stepwise):
        surrogate = kind(ring.prior, ring.observables, Fourier(6, 3, layers=1))
        weights = [value.clone() for value in surrogate.parameters()]
        surrogate.standardise(lambda: iter([batch]))
        assert (surrogate.network.coordinates, surrogate.network.padding) == (False, 0.0)
        assert all(torch.equal(a, b) for a, b in zip(weights, surrogate.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "advised"),
    [
        ({}, "a network of more width, of more modes for fronts and jumps"),  # edges have set both options
        ({"coordinates": False}, "fronts and jumps, with coordinates=True where fields have edges"),
        ({"coordinates": False, "padding": 0.0}, "with coordinates=True and padding=0.1 where fields have edges"),
        ({"modes": 40}, "a network of more width"),
    ],
)
def test_no_option_is_advised_that_is_on(options, advised, darcy, tmp_path):
    equation, store = darcy
    network = Fourier(**{"width": 2, "modes": 3, "layers": 1, "hidden": 4, **options})
    with pytest.warns(UserWarning, match=rf"Try more solutions; .*{advised}$"):
        train(Operator(equation.prior, equation.observables, network), store, tmp_path, recipe=ONCE, progress=False)


@pytest.mark.slow
def test_the_error_of_held_out_fields_is_printed_and_a_large_one_warned_of(darcy, tmp_path, capsys):
    equation, store = darcy
    with pytest.warns(UserWarning, match=r"'u' is off by \d+% for held-out simulations.*Try more solutions"):
        fit = train(Operator(equation.prior, equation.observables, Fourier(6, 3)), store, tmp_path, recipe=ONCE)
    printed = f"held-out fields: 'u' is off by {fit.record['relative_error']:.1%}"
    assert printed in capsys.readouterr().err
    assert f"held-out fields off by {fit.record['relative_error']:.1%}" in repr(fit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ring = Decay((0.0, 0.001))
        near = simulate(ring, tmp_path / "near", 400, progress=False)
        built = Operator(ring.prior, ring.observables, Fourier(8, 6, layers=2, hidden=32))
        fit = train(built, near, tmp_path / "fit", recipe=Recipe(epochs=15, batch=20))
    assert fit.record["relative_error"] < 0.1
