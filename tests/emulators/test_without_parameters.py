"""Fields that differ by their start alone: simulated, stored, learned and predicted."""

from __future__ import annotations

import pytest
import torch
from emulators.fields import Decay

from sciinf import Recipe, load_fit, simulate, train
from sciinf.core import Prior
from sciinf.emulators import Emulator, Operator, Stepwise
from sciinf.networks.spectral import Fourier


class Fading(Decay):
    """du/dt = 0.02 d^2u/dx^2."""

    name = "fading"

    def __init__(self):
        super().__init__()
        self.prior = Prior.none()

    def start(self, theta, *, generator):
        return {"initial": self.initial.draw(len(theta), 1, self.grid, generator=generator)}

    def solve(self, theta, given):
        modes = self.grid.transformed(given["initial"].double())
        return torch.stack([self.grid.back(modes * (-0.02 * self.grid.squared * t).exp()) for t in self.times], 1)

    def rate(self, field, theta):
        return 0.02 * self.grid.derivative(field, -1, 2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(Fading(), tmp_path_factory.mktemp("rows") / "store", 200, seed=0, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Operator, Stepwise])
def test_fields_without_parameters_are_learned_and_stand_in_for_the_simulator(kind, store, tmp_path):
    equation = Fading()
    assert store.load().theta.shape == (200, 0)
    surrogate = kind(equation.prior, equation.observables, Fourier(12, 6, layers=2, hidden=32))
    fit = train(surrogate, store, tmp_path / "fit", recipe=Recipe(epochs=10, batch=20), progress=False)
    assert fit.record["relative_error"] < 0.1
    emulator = Emulator(load_fit(tmp_path / "fit"), equation)
    found = emulator(torch.empty(5, 0), generator=torch.Generator().manual_seed(1))
    exact = equation.solve(torch.empty(5, 0), {"initial": found["initial"]})
    assert float((found["u"] - exact).norm() / exact.norm()) < 0.2
    assert float((found["u"] - exact.flip(0)).norm() / exact.norm()) > 0.5  # the fault: those of other starts
