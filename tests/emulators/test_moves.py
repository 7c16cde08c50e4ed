"""Solutions that training moves on their grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Uniform

from sciinf import Observable, Prior, Recipe, load_simulator, simulate, train
from sciinf.core import Batch, predicted
from sciinf.emulators import Field, Frame, Generator, Operator, Stepwise
from sciinf.emulators._fields import moved, rolled
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.networks.spectral import Fourier

PDE = Path(__file__).parents[2] / "simulators" / "pde"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_row_moves_by_its_own_steps():
    fields = torch.randn(3, 2, 4, 6, generator=seeded())
    found = rolled(fields, torch.tensor([[0, 0], [1, -2], [5, 3]]))
    for k, by in enumerate([(0, 0), (1, -2), (5, 3)]):
        assert torch.equal(found[k], fields[k].roll(by, (-2, -1)))


def test_all_fields_of_a_row_move_together_and_reach_every_place():
    x = torch.arange(8.0).expand(200, 1, 8)
    batch = Batch(torch.zeros(200, 1), {"initial": x, "u": x[:, None].expand(-1, 3, -1, -1), "other": x})
    found = moved(batch, ("initial", "u"), ((1,),), generator=seeded())
    assert torch.equal(found.x["other"], x)
    assert torch.equal(found.x["u"], found.x["initial"][:, None].expand(-1, 3, -1, -1))
    assert set(found.x["initial"][:, 0, 0].tolist()) == set(range(8))


@pytest.mark.parametrize(("step", "same"), [((1, -1), True), ((1, 0), False)])
def test_flow_under_diagonal_forcing_moves_along_it_alone(step, same):
    make: Any = type(load_simulator(PDE / "navier_stokes.py"))
    flow = make(16, (0.0, 1.0, 2.0))
    theta = flow.prior.sample(2, generator=seeded())
    start = flow.start(theta, generator=seeded())
    by = torch.tensor([step, step]) * 5
    here = flow.solve(theta, {"initial": rolled(start["initial"], by)})
    there = rolled(flow.solve(theta, start), by)
    assert (float((here - there).abs().max() / there.std()) < 1e-6) == same


class Bumps:
    """Starts at one place of a ring, and their solutions at any."""

    def __init__(self) -> None:
        make: Any = type(load_simulator(PDE / "advection.py"))
        self.equation = make(32, times=(0.0, 0.5))
        self.prior, self.observables = self.equation.prior, self.equation.observables

    def rows(self, place: float, count: int) -> Batch:
        theta = self.prior.sample(count, generator=seeded(3))
        x = torch.arange(32) / 32
        width = torch.linspace(0.05, 0.1, count)[:, None]
        apart = (x - place + 0.5) % 1 - 0.5
        start = (-apart.square() / (2 * width.square())).exp()[:, None]
        return Batch(theta, {"initial": start.float(), "u": self.equation.solve(theta, {"initial": start}).float()})


def learned(moves: Any) -> tuple[Any, Bumps]:
    bumps = Bumps()
    rows = bumps.rows(0.25, 64)
    found = Operator(bumps.prior, bumps.observables, Fourier(16, 8, coordinates=True), moves=moves)
    found.standardise(lambda: iter([rows]))
    chosen, draw = torch.optim.AdamW(found.parameters(), 5e-3), seeded(1)
    found.train()
    for _ in range(100):
        chosen.zero_grad()
        found.loss(rows, generator=draw).mean().backward()
        chosen.step()
    return found.eval(), bumps


@pytest.mark.slow
def test_what_is_seen_at_one_place_is_known_at_others():
    off = []
    for moves in (((1,),), ()):
        found, bumps = learned(moves)
        rows = bumps.rows(0.75, 32)
        off.append(float((predicted(found, rows) - rows.x["u"]).norm() / rows.x["u"].norm()))
    assert off[0] < 0.5 * off[1], off


PRIOR = Prior(viscosity=Uniform(0.01, 0.1))
FIELDS = {"initial": Observable((1, 16)), "ground": Observable((1, 16)), "u": Observable((3, 1, 16))}


def surrogates(moves: Any) -> list[Any]:
    return [
        Operator(PRIOR, FIELDS, Fourier(4, 2), moves=moves),
        Stepwise(PRIOR, FIELDS, Fourier(4, 2), stays=["ground"], moves=moves),
        Generator(PRIOR, FIELDS, given=[Frame(0), Field("ground")], network=TokenTransformer(16, 1), moves=moves),
    ]


@pytest.mark.parametrize("kind", range(3))
def test_training_alone_moves(kind):
    own = surrogates([(1,)])[kind]
    draw = torch.Generator().manual_seed(2)
    rows = Batch(
        PRIOR.sample(8, generator=draw),
        {name: torch.randn(8, *spec.shape, generator=draw) for name, spec in FIELDS.items()},
    )
    own.train()
    shown = own.shown(rows, generator=seeded())
    assert not torch.equal(shown.x["u"], rows.x["u"])
    assert not torch.equal(own.loss(rows, generator=seeded(5)), surrogates(())[kind].loss(rows, generator=seeded(5)))
    own.eval()
    assert torch.equal(own.loss(rows, generator=seeded(5)), surrogates(())[kind].eval().loss(rows, generator=seeded(5)))


@pytest.mark.parametrize("moves", [[(1, 1)], [(0,)], [(0.5,)], [()]])
@pytest.mark.parametrize("kind", range(3))
def test_what_is_no_step_is_refused(moves, kind):
    with pytest.raises(ValueError, match="a whole number of points for each of 1 directions"):
        surrogates(moves)[kind]


def test_fields_with_edges_are_not_moved(tmp_path):
    make: Any = type(load_simulator(PDE / "darcy.py"))
    darcy = make(16)
    store = simulate(darcy, tmp_path / "store", 60, seed=0, progress=False)
    with pytest.raises(ValueError, match="leave out moves="):
        train(
            Operator(darcy.prior, darcy.observables, Fourier(4, 2), moves=[(1, 0)]),
            store,
            tmp_path / "fit",
            recipe=Recipe(epochs=1),
            progress=False,
        )


def test_moves_are_kept_in_a_fit(tmp_path):
    from sciinf import load_fit

    bumps = Bumps()
    store = simulate(bumps.equation, tmp_path / "store", 60, seed=0, progress=False)
    made = Operator(bumps.prior, bumps.observables, Fourier(4, 2), moves=[(1,)])
    train(made, store, tmp_path / "fit", recipe=Recipe(epochs=1), progress=False)
    assert load_fit(tmp_path / "fit").surrogate.moves == ((1,),)
