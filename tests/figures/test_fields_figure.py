"""Pictures of fields: one direction as curves, two as maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sciinf.core import Batch, load_simulator
from sciinf.diagnostics.fields import conformal
from sciinf.emulators import Operator
from sciinf.interfaces.figures.fields import draw_fields
from sciinf.networks.spectral import Fourier

PDE = Path(__file__).parents[2] / "simulators" / "pde"


def drawn(name, file, modes=4):
    equation = load_simulator(PDE / f"{name}.py")
    theta = equation.prior.sample(12, generator=torch.Generator().manual_seed(0))
    rows = Batch(theta, equation(theta, generator=torch.Generator().manual_seed(1)))
    surrogate = Operator(equation.prior, equation.observables, Fourier(4, modes, layers=1))
    draw_fields(file, equation, surrogate, rows, conformal(surrogate, rows, level=0.8))
    return equation


@pytest.mark.parametrize("name", ["burgers", "darcy"])
def test_pictures_are_written(name, tmp_path):
    from matplotlib.image import imread

    file = tmp_path / "somewhere" / "fields.png"
    drawn(name, file)
    image = imread(file)
    assert image.shape[1] > 1_200
    assert float(image[..., :3].std()) > 0.03


def test_fields_without_space_are_refused(tmp_path):
    equation = load_simulator(PDE / "lorenz_63.py")
    theta = equation.prior.sample(12, generator=torch.Generator().manual_seed(0))
    rows = Batch(theta, equation(theta, generator=torch.Generator().manual_seed(1)))
    burgers = load_simulator(PDE / "burgers.py")
    surrogate = Operator(burgers.prior, burgers.observables, Fourier(4, 4, layers=1))
    with pytest.raises(ValueError, match="0 directions"):
        draw_fields(tmp_path / "fields.png", equation, surrogate, rows, band=None)
