"""Codes of a few levels, against what so many levels can do for normal numbers."""

from __future__ import annotations

import math

import pytest
import torch
from emulators.test_field_code import SMALL, Front, frames, generator
from emulators.test_objectives import decoded, model

from sciinf import Recipe, load_fit, simulate, train
from sciinf.emulators import FieldCode, LearnedCode, Plain, Quantised, collapsed
from sciinf.emulators.encoders import GridEncoder
from sciinf.emulators.objectives import Coded
from sciinf.emulators.quantised import level_of, rounded

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:held-out simulations show")]  # its training is short


@pytest.mark.parametrize("levels", [2, 3, 4, 9])
def test_numbers_lie_on_the_levels_and_each_of_these_is_reached(levels):
    mean = torch.linspace(-6, 6, 4_001, dtype=torch.float64).requires_grad_()
    z = rounded(mean, levels)
    lattice = torch.linspace(-1, 1, levels, dtype=torch.float64)
    assert torch.allclose(z.detach().unique(), lattice, atol=1e-12)
    assert torch.allclose(lattice[level_of(mean, levels)], z)
    assert float((z - mean.tanh()).detach().abs().max()) <= 1 / (levels - 1) + 1e-12
    (slope,) = torch.autograd.grad(z.sum(), mean)
    assert torch.allclose(slope, 1 - mean.detach().tanh().square())
    assert bool((z.detach().diff() >= 0).all())


def best(levels):
    """Mean square error of the best evenly spaced levels for N(0, 1), and the law of levels: by trying steps."""
    x = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    weight = torch.distributions.Normal(0.0, 1.0).log_prob(x).exp() * (x[1] - x[0])
    found = []
    for step in torch.linspace(0.2, 2.0, 181, dtype=torch.float64):
        at = (x / step + (levels - 1) / 2).round().clamp(0, levels - 1)
        found.append(float((weight * (x - (at - (levels - 1) / 2) * step).square()).sum()))
    return min(found)


def test_what_levels_can_do_is_what_is_printed():
    assert best(2) == pytest.approx(0.3634, abs=2e-4)  # Max (1960), table II
    assert best(4) == pytest.approx(0.1188, abs=2e-4)


class Unslanted(Quantised):
    """The fault: rounding without gradients that go through it."""

    def loss(self, rows, coded, *, generator):
        return super().loss(rows, Coded(coded.mean.detach(), coded.log_sd), generator=generator)


def learned(objective, steps=400):
    """Error of a linear code of one normal number that is seen without noise, over its variance; and q."""
    w, x = model((2.0,), noise=1e-3)
    a = (0.1 * w).clone().requires_grad_()
    b = (0.1 * w.mT).clone().requires_grad_()
    optimiser = torch.optim.Adam([a, b], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        coded = Coded(x[:1_000] @ a, torch.zeros(1_000, 1, dtype=x.dtype), levels=objective.levels)
        objective.loss(decoded(b.mT, x[:1_000], 0.5), coded, generator=generator()).mean().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        coded = Coded(x @ a, torch.zeros(len(x), 1, dtype=x.dtype), levels=objective.levels)
        z = rounded(coded.mean, objective.levels) if objective.levels else coded.mean
        return float((z @ b - x).square().sum(1).mean() / x.square().sum(1).mean()), coded


@pytest.mark.slow
@pytest.mark.parametrize("levels", [3, 4])
def test_a_linear_code_is_as_good_as_its_levels_let_it(levels):
    error, coded = learned(Quantised(levels))
    assert error == pytest.approx(best(levels), rel=0.15)
    says = collapsed(coded)
    assert says.in_use.tolist() == [levels]
    assert 0.8 * math.log(levels) < float(says.kl) <= math.log(levels)
    assert f"{levels} of {levels} levels are in use" in str(says)
    assert learned(Plain())[0] < 1e-3  # what the levels cost
    assert learned(Unslanted(levels))[0] > 1.5 * best(levels)


def test_nats_are_the_entropy_of_levels_and_dead_numbers_are_told():
    mean = torch.tensor([[-9.0, 0.0, 3.0], [-9.0, 9.0, 3.0], [-9.0, 0.0, 3.0], [9.0, -9.0, 3.0]])
    says = collapsed(Coded(mean, torch.zeros(4, 3), levels=3))
    quarter = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert says.kl.tolist() == pytest.approx([quarter, 1.5 * math.log(2), 0.0])
    assert says.in_use.tolist() == [2, 3, 1]
    assert says.alive.tolist() == [True, True, False]
    assert str(says).startswith("2 of 3 numbers say something")
    assert str(says).endswith("6 of 9 levels are in use")


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    equation, root = Front(), tmp_path_factory.mktemp("quantised")
    store = simulate(equation, root / "store", 300, seed=0, progress=False)
    code = FieldCode(
        equation.prior, equation.observables, GridEncoder(8), SMALL[1], Quantised(5), numbers=4, frames=3, asked=16
    )
    return train(code, store, root / "fit", recipe=Recipe(epochs=20, batch=20), progress=False)


def test_a_field_code_of_few_levels(fit):
    """Of a front, which is one number: 625 words tell it to a hundredth of the ring at best."""
    code, true = fit.learned, frames(Front(), 100)
    with torch.no_grad():
        z = code.encode(true)
        found = code.decode(z)
    assert float((2 * z - (2 * z).round()).abs().max()) < 1e-6
    assert fit.record["levels_used"] > 0.8
    assert fit.record["numbers_alive"] == 4
    assert float((found - true).square().mean().sqrt() / true.std()) < 0.35
    says = collapsed(code.coded(true))
    assert says.levels == 5
    assert float(says.kl.sum()) > 4.0
    tokens = LearnedCode(code).build(1, (32,))
    assert torch.allclose(2 * tokens.encode(true), (2 * tokens.encode(true)).round(), atol=1e-6)
    near = tokens.encode(true) + 0.2 * torch.rand(tokens.encode(true).shape, generator=torch.Generator()) - 0.1
    assert torch.equal(tokens.decode(near), tokens.decode(tokens.encode(true)))  # draws are rounded, too
    assert torch.equal(load_fit(fit.folder).learned.encode(true), z)


def test_a_number_of_levels_is_asked_for():
    with pytest.raises(ValueError, match="levels"):
        Quantised(1)
