"""Systems of equations as symbols: what is written, what it means, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from simulators.test_contract import FOLDER, loaded

from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.systems import SYMBOLS, Systems, rate

TWO = Systems(
    {"spread": "dt u1 * d lap u1", "turn": "dt u1 * -w u2 dt u2 * w u1"},
    {"spread": {"d": (0.1, 0.3)}, "turn": {"w": (1.0, 2.0)}},
)


def equation(name, *values, **arguments) -> Any:
    return type(loaded(FOLDER / "pde" / f"{name}.py"))(*values, **arguments)


def test_tokens_have_the_values_of_their_row():
    theta = torch.tensor([[0.5, 0.25], [1.5, 1.0]])
    tokens, values = TWO.tokens(theta)
    spelt = [[SYMBOLS[k] for k in row] for row in tokens.tolist()]
    assert spelt[0][:6] == ["dt", "u1", "*", "number", "lap", "u1"]
    assert set(spelt[0][6:]) == {""}
    assert spelt[1] == ["dt", "u1", "*", "number", "u2", "dt", "u2", "*", "number", "u1"]
    assert values[0].tolist() == pytest.approx([0, 0, 0, 0.15, *[0] * 6])
    assert values[1].tolist() == pytest.approx([0, 0, 0, -2.0, 0, 0, 0, 0, 2.0, 0])
    assert TWO.there(theta).tolist() == [[True, False], [True, True]]
    slopes = theta.clone().requires_grad_()
    TWO.tokens(slopes)[1].sum().backward()
    assert slopes.grad is not None
    assert slopes.grad[:, 1].tolist() == pytest.approx([0.2, 0.0])  # -w and w


def test_a_rate_is_what_the_symbols_say():
    grid = BoxGrid((16, 12), (2.0, 1.0))
    y, x = (2 * math.pi * c / length for c, length in zip(grid.coordinates, grid.lengths, strict=True))
    field = torch.stack([torch.sin(x + 2 * y), torch.cos(x)]).expand(2, 1, 2, -1, -1)
    found = rate(TWO, torch.tensor([[0.5, 0.5], [1.5, 0.0]]).double(), field, grid)
    squared = (2 * math.pi) ** 2 + (2 * math.pi) ** 2  # two waves along y, in a box of 2
    assert torch.allclose(found[0, 0, 0], -0.2 * squared * field[0, 0, 0])
    assert torch.equal(found[0, 0, 1], torch.zeros_like(x))  # a field that it has not
    assert torch.allclose(found[1, 0], torch.stack([-field[1, 0, 1], field[1, 0, 0]]))
    flow = Systems({"a": "dt u1 * dx u1 dy psi u1"}, {"a": {"c": (0.0, 1.0)}})
    alone = rate(flow, torch.zeros(2, 2).double(), field[:, :, :1], grid)
    slope = 2 * math.pi * torch.cos(x + 2 * y)  # along x; along y as steep
    assert torch.allclose(alone[0, 0, 0], slope * slope / squared)


def test_symbols_of_flows_are_those_of_the_single_simulators():
    """Two waves each, whose products the grid has; the fault is a coefficient that changes its place."""
    mixed = equation("mixed_fluids")
    grid = mixed.grid
    y, x = 2 * math.pi * grid.coordinates
    field = torch.stack([torch.sin(x + 2 * y) + 0.3, 0.2 * torch.cos(x - y), 0.1 * torch.sin(2 * x)])[None, None]
    shares = torch.tensor([[0.3, 0.8]]).double()
    found = [rate(mixed.systems, torch.cat([torch.tensor([[k + 0.5]]), shares], 1), field, grid) for k in range(3)]
    nu, beta = mixed.systems.coefficients(torch.tensor([[0.5, 0.3, 0.8]]))[0].tolist()
    flow = equation("navier_stokes", 16)
    vorticity = field[:, :, :1] - 0.3
    psi_x = grid.back(grid.transformed(vorticity) * grid.slope(1) / grid.squared.clamp_min(1.0))
    expected = flow.rate(vorticity, torch.tensor([[nu, 0.0]]).double()) + beta * psi_x
    assert torch.allclose(found[0][:, :, :1], expected)
    water = equation("shallow_water", 16, damping=0.0)
    coefficients = mixed.systems.coefficients(torch.tensor([[1.5, 0.3, 0.8]]))
    one = torch.eye(3).double()[0].reshape(3, 1, 1)
    assert torch.allclose(found[1], water.rate(field + one, coefficients), atol=1e-12)
    assert not torch.allclose(found[1], water.rate(field + one, coefficients.flip(1)), atol=1e-2)
    unit = 40.0
    reaction = equation("gray_scott", 16, length=0.125)
    coefficients = mixed.systems.coefficients(torch.tensor([[2.5, 0.3, 0.8]])) / unit
    assert torch.allclose(found[2][:, :, :2], unit * reaction.rate(field[:, :, :2], coefficients), rtol=1e-4, atol=1e-4)
    assert torch.equal(found[2][:, :, 2], torch.zeros_like(found[2][:, :, 2]))


@pytest.mark.parametrize(
    ("text", "ranges", "says"),
    [
        ("", {}, "does not begin"),
        ("u1 dt u1 u1", {}, "does not begin"),
        ("dt u2 u1", {}, "does not begin"),
        ("dt u1", {}, "not one expression"),
        ("dt u1 + u1", {}, "not one expression"),
        ("dt u1 u1 u1", {}, "not one expression"),
        ("dt u1 u2", {}, "are no numbers, symbols"),
        ("dt u1 * nu u1", {"mu": (0.0, 1.0)}, "are no numbers, symbols"),
        ("dt u1 * nan u1", {}, "are no numbers, symbols"),
        ("dt u1 * --mu u1", {"mu": (0.0, 1.0)}, "are no numbers, symbols"),
        ("dt u1 * mu u1", {"mu": (1.0, 0.0)}, "a low and a high"),
        ("dt u1 * lap u1", {"lap": (0.0, 1.0)}, "give a name"),
    ],
)
def test_what_is_no_system_is_refused(text, ranges, says):
    with pytest.raises(ValueError, match=says):
        Systems({"a": text}, {"a": ranges})


def test_names_must_be_the_same():
    with pytest.raises(ValueError, match="equations and ranges"):
        Systems({"a": "dt u1 u1"}, {"b": {}})
    with pytest.raises(ValueError, match="equations and ranges"):
        Systems({}, {})
