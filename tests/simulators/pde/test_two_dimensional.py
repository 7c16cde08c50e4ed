"""Equations of two directions against exact solutions, what they conserve, and the order of their steps and grids."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import pytest
import torch
from simulators.test_contract import FOLDER, generator, loaded

from sciinf.simulators.dynamics.grid import BoxGrid


def equation(name, **arguments) -> Any:
    return type(loaded(FOLDER / "pde" / f"{name}.py"))(**arguments)


def module(name) -> Any:
    """What the file of an equation defines besides it."""
    return sys.modules[type(loaded(FOLDER / "pde" / f"{name}.py")).__module__]


def rows(*values):
    """theta, a row each."""
    return torch.tensor(values, dtype=torch.float64)


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def smooth(grid, channels=1, count=2, waves=3):
    """Random fields of a few waves, of mean 0 and about 1, the same functions on every grid."""
    noise = torch.randn(2, count, channels, 2 * waves + 1, waves + 1, generator=generator(), dtype=torch.float64)
    y, x = (2 * math.pi * c / length for c, length in zip(grid.coordinates, grid.lengths, strict=True))
    total = torch.zeros(count, channels, *grid.shape, dtype=torch.float64)
    for j in range(-waves, waves + 1):
        for k in range(waves + 1):
            if (j, k) != (0, 0):
                a, b = (part[..., j + waves, k, None, None] / (1 + j * j + k * k) for part in noise)
                total += a * torch.cos(j * y + k * x) + b * torch.sin(j * y + k * x)
    return total / total.std()


def order(make, theta, given, longest):
    """How fast what is wrong with the last frame falls with the length of steps."""
    last = [make(longest=longest / 2**k).solve(theta, given)[:, -1] for k in range(3)]
    return math.log2(float((last[0] - last[1]).norm() / (last[1] - last[2]).norm()))


# --- Navier-Stokes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_vortices_of_taylor_and_green_fade(dtype, within):
    flow = equation("navier_stokes", points=24, times=(0.0, 0.5, 2.0), length=2.0, drag=0.05, dtype=dtype)
    theta, (y, x) = rows([0.01, 0.0], [0.03, 0.0]), math.pi * flow.grid.coordinates
    start = (torch.cos(2 * x) * torch.cos(y)).expand(2, 1, -1, -1)
    t, nu = torch.tensor(flow.times, dtype=torch.float64), theta[:, :1]
    fading = torch.exp(-(5 * math.pi**2 * nu + 0.05) * t)[:, :, None, None, None]
    assert relative(flow.solve(theta, {"initial": start}), fading * start[:, None]) < within


def test_kolmogorov_flow_without_eddies_is_what_force_and_friction_balance():
    flow = module("navier_stokes").kolmogorov(points=24, times=(0.0, 3.0), dtype=torch.float64)
    theta, still = rows([0.05, 0.7]), torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    fade = 0.05 * 4**2 + 0.1
    expected = -0.7 * 4 * torch.cos(4 * flow.grid.coordinates[0]) * (1 - math.exp(-3 * fade)) / fade
    assert relative(flow.solve(theta, {"initial": still})[0, 1, 0], expected) < 1e-12


def carried_along(grid, vorticity, sign=1):
    """u·∇ω as it is written, of fields whose products the grid resolves."""
    modes = grid.transformed(vorticity)
    u, v = (grid.back(modes * part) for part in module("navier_stokes").velocity(grid, torch.float64, "cpu"))
    assert relative(grid.derivative(v, -1) - grid.derivative(u, -2), vorticity) < 1e-12
    assert float((grid.derivative(u, -1) + grid.derivative(v, -2)).norm()) < 1e-9 * float(vorticity.norm())
    return sign * (u * grid.derivative(vorticity, -1) + v * grid.derivative(vorticity, -2))


def test_fluxes_of_momentum_carry_vorticity_with_the_flow():
    grid = BoxGrid((24, 20), (2.0, 1.0))
    vorticity = smooth(grid)
    modes = module("navier_stokes").transport(grid, torch.float64, "cpu")(grid.transformed(vorticity))
    assert relative(grid.back(modes), carried_along(grid, vorticity)) < 1e-12
    assert relative(grid.back(modes), carried_along(grid, vorticity, -1)) > 1  # against the flow


def budget(flow, theta, given):
    """Mean energy and enstrophy of frames (batch, frame), and how fast viscosity should take each."""
    modes = flow.grid.transformed(flow.solve(theta, given))
    u_of, v_of = module("navier_stokes").velocity(flow.grid, torch.float64, "cpu")
    u, v, w = flow.grid.back(modes * u_of), flow.grid.back(modes * v_of), flow.grid.back(modes)

    def mean(*fields):
        return torch.stack(fields).square().sum(0).mean((-3, -2, -1)) / 2

    nu = theta[:, :1]
    slopes = [flow.grid.derivative(w, axis) for axis in (-1, -2)]
    return mean(u, v), mean(w), 2 * nu * mean(w), 2 * nu * mean(*slopes)


def test_energy_and_enstrophy_change_by_friction_alone():
    times = tuple(0.0625 * k for k in range(17))
    flow = equation("navier_stokes", points=32, times=times, longest=0.0125, dtype=torch.float64)
    start = smooth(flow.grid)
    energy, enstrophy, _, _ = budget(flow, rows([0.0, 0.0], [0.0, 0.0]), {"initial": start})
    for kept in (energy, enstrophy):
        assert float((kept / kept[:, :1] - 1).abs().max()) < 1e-8
    energy, enstrophy, *taken = budget(flow, rows([0.002, 0.0], [0.005, 0.0]), {"initial": start})
    simpson = torch.tensor([1.0, *[4.0, 2.0] * 7, 4.0, 1.0]).double() * 0.0625 / 3
    for left, lost in zip((energy, enstrophy), taken, strict=True):
        assert torch.allclose(left[:, 0] - left[:, -1], lost @ simpson, rtol=1e-5)
        assert bool((left[:, -1] < 0.99 * left[:, 0]).all())


def test_vorticity_has_no_mean_and_steps_are_of_order_four():
    flow = equation("navier_stokes", points=24, times=(0.0, 1.0), dtype=torch.float64)
    theta, given = rows([0.001, 0.1], [0.003, 0.2]), {"initial": smooth(flow.grid)}
    assert float(flow.solve(theta, given).mean((-2, -1)).abs().max()) < 1e-15
    drawn = flow.start(theta, generator=generator())["initial"]
    assert float(drawn.mean((-2, -1)).abs().max()) < 1e-15

    def make(longest):
        return equation("navier_stokes", points=24, times=(0.0, 1.0), longest=longest, dtype=torch.float64)

    assert order(make, theta, given, 0.1) == pytest.approx(4, abs=0.2)


# --- Gray-Scott -----------------------------------------------------------------------------------------------------


def stirred(theta, z, time, steps=1_000):
    """u and v, (batch, 2), where they are the same everywhere, by the classical Runge-Kutta method."""
    feed, kill = theta.T

    def rate(z):
        eaten = z[0] * z[1] ** 2
        return torch.stack([feed * (1 - z[0]) - eaten, eaten - (feed + kill) * z[1]])

    z, h = z.T, time / steps
    for _ in range(steps):
        a = rate(z)
        b = rate(z + h / 2 * a)
        c = rate(z + h / 2 * b)
        z = z + h / 6 * (a + 2 * b + 2 * c + rate(z + h * c))
    return z.T


def test_a_stirred_reaction():
    reaction = equation("gray_scott", points=4, times=(0.0, 40.0), longest=0.125)
    theta, begun = rows([0.04, 0.06], [0.03, 0.058]), rows([0.6, 0.3], [0.9, 0.4])
    start = begun[:, :, None, None].expand(-1, -1, 4, 4)
    found = reaction.solve(theta, {"initial": start})[:, 1]
    expected = stirred(theta, begun, 40.0)
    assert relative(found, expected[:, :, None, None].expand_as(found)) < 1e-7
    assert relative(stirred(theta.flip(1), begun, 40.0), expected) > 0.01  # feed and kill exchanged


def test_what_is_fed_alone_spreads_and_comes_back_to_one():
    reaction = equation("gray_scott", points=16, times=(0.0, 30.0, 100.0), diffusion=(1e-4, 1e-5), length=0.5)
    theta, (y, x) = rows([0.03, 0.06], [0.05, 0.06]), 4 * math.pi * reaction.grid.coordinates
    wave = (torch.cos(x + 2 * y) - 0.2).expand(2, 1, -1, -1)
    start = torch.cat([1 + wave, 0 * wave], dim=1)
    t, feed = torch.tensor(reaction.times, dtype=torch.float64), theta[:, :1]
    fade = torch.exp(-feed * t)[:, :, None, None]
    spread = torch.exp(-1e-4 * 5 * (4 * math.pi) ** 2 * t)[:, None, None]
    expected = 1 + fade * (spread * torch.cos(x + 2 * y) - 0.2)
    found = reaction.solve(theta, {"initial": start})
    assert relative(found[:, :, 0], expected) < 1e-12
    assert float(found[:, :, 1].abs().max()) == 0


def test_steps_of_a_reaction_are_of_order_four():
    def make(longest):
        return equation("gray_scott", points=16, times=(0.0, 40.0), length=0.16, longest=longest)

    theta = rows([0.04, 0.06], [0.05, 0.062])
    given = {"initial": torch.cat([0.7 + 0.1 * smooth(make(1.0).grid), 0.3 + 0.05 * smooth(make(1.0).grid)], dim=1)}
    assert order(make, theta, given, 2.0) == pytest.approx(4, abs=0.3)


# --- shallow water --------------------------------------------------------------------------------------------------


def wave(grid, theta, times, height):
    """A wave along (2, 1), (batch, time, 3, y, x): exact where the square of its height does not matter."""
    g, f = (part[:, None, None, None] for part in theta.T)
    j, k = 2 * math.pi, 4 * math.pi
    y, x = grid.coordinates
    frequency = (f.square() + g * (j * j + k * k)).sqrt()
    phase = j * y + k * x - frequency * torch.tensor(times, dtype=torch.float64)[:, None, None]
    scale = height / (j * j + k * k)
    u = scale * (frequency * k * phase.cos() - f * j * phase.sin())
    v = scale * (frequency * j * phase.cos() + f * k * phase.sin())
    return torch.stack([1 + height * phase.cos(), u, v], dim=2)


def test_small_waves_travel_at_the_speed_that_gravity_and_rotation_give_them():
    times = (0.0, 0.3, 1.0)
    water = equation("shallow_water", points=16, times=times, damping=0.0, longest=0.05, dtype=torch.float64)
    theta, still = rows([0.5, 0.0], [1.5, 3.0], [1.0, 10.0]), torch.tensor([1.0, 0, 0]).double().reshape(3, 1, 1)
    expected = wave(water.grid, theta, times, 1e-7)
    found = water.solve(theta, {"initial": expected[:, 0]})
    assert relative(found - still, expected - still) < 1e-6
    slower = wave(water.grid, 0.98 * theta, times, 1e-7)
    assert relative(found - still, slower - still) > 0.01


def conserved(water, theta, found):
    """Mean mass and energy of frames, (batch, frame)."""
    h, u, v = found.unbind(2)
    energy = h * (u.square() + v.square()) / 2 + theta[:, :1, None, None] * (h - 1).square() / 2
    return h.mean((-2, -1)), energy.mean((-2, -1))


def test_water_keeps_its_mass_and_energy():
    theta = rows([0.5, 0.0], [1.5, 10.0])
    for damping, drift in ((0.0, 1e-6), (1.0, 1e-3)):
        water = equation("shallow_water", points=32, damping=damping, dtype=torch.float64)
        given = water.start(theta, generator=generator())
        mass, energy = conserved(water, theta, water.solve(theta, given))
        assert float((mass - 1).abs().max()) < 1e-14
        assert float((energy / energy[:, :1] - 1).abs().max()) < drift


def vorticity_of(grid, fields, theta):
    """(ζ + f) / h."""
    h, u, v = fields.unbind(-3)
    return (grid.derivative(v, -1) - grid.derivative(u, -2) + theta[:, 1:, None]) / h


def test_potential_vorticity_goes_with_the_water():
    water = equation("shallow_water", points=48, damping=0.0, dtype=torch.float64)
    theta = rows([0.8, 4.0], [1.2, 0.0])
    fields = torch.tensor([1.0, 0, 0]).double().reshape(3, 1, 1) + 0.05 * smooth(water.grid, 3, waves=2)
    moved = 1e-6 * water.rate(fields, theta)
    change = (vorticity_of(water.grid, fields + moved, theta) - vorticity_of(water.grid, fields - moved, theta)) / 2e-6
    q, (_, u, v) = vorticity_of(water.grid, fields, theta), fields.unbind(-3)
    carried = u * water.grid.derivative(q, -1) + v * water.grid.derivative(q, -2)
    assert relative(change, -carried) < 1e-5


def test_steps_of_water_are_of_order_four():
    def make(longest):
        return equation("shallow_water", points=16, times=(0.0, 0.5), longest=longest, dtype=torch.float64)

    still = torch.tensor([1.0, 0, 0]).double().reshape(3, 1, 1)
    given = {"initial": still + 0.02 * smooth(make(1.0).grid, 3, waves=1)}
    assert order(make, rows([0.5, 0.0], [1.5, 5.0]), given, 0.025) == pytest.approx(4, abs=0.3)


# --- Darcy ----------------------------------------------------------------------------------------------------------


def square(points):
    """y and x of the unit square's points, and the distance between them."""
    return *BoxGrid((points, points), (1.0, 1.0), periodic=False).coordinates, 1 / (points - 1)


def made_up(points):
    """A smooth a, f for which u is known, and u, each (1, y, x)."""
    y, x, _ = square(points)
    a, u = 2 + torch.sin(3 * x + y), torch.sin(math.pi * x) * torch.sin(2 * math.pi * y)
    slope = torch.cos(3 * x + y)
    u_x = math.pi * torch.cos(math.pi * x) * torch.sin(2 * math.pi * y)
    u_y = 2 * math.pi * torch.sin(math.pi * x) * torch.cos(2 * math.pi * y)
    return a[None], (5 * math.pi**2 * a * u - 3 * slope * u_x - slope * u_y)[None], u[None]


def test_pressure_in_smooth_ground_is_of_order_two():
    wrong = []
    for points in (17, 33, 65):
        a, f, u = made_up(points)
        wrong.append(float((module("darcy").pressure(a, f) - u).abs().max()))
    assert wrong[-1] < 2e-3
    assert all(3.8 < before / after < 4.2 for before, after in itertools.pairwise(wrong))


def layered(points, low=1.0, high=10.0):
    """a of two layers along x that meet halfway between points near 0.4, f = sin(pi y), and u, each (1, y, x).

    u = sin(pi y) w(x), w = 1 / (pi^2 a) + A cosh(pi x) + B sinh(pi x) in either, w and a dw/dx continuous.
    """
    y, x, h = square(points)
    edge = (math.floor(0.4 / h) + 0.5) * h
    c, s = math.cosh(math.pi * edge), math.sinh(math.pi * edge)
    end_c, end_s = math.cosh(math.pi), math.sinh(math.pi)
    unknowns = rows([1, 0, 0, 0], [0, 0, end_c, end_s], [c, s, -c, -s], [low * s, low * c, -high * s, -high * c])
    one, other = 1 / (math.pi**2 * low), 1 / (math.pi**2 * high)
    a1, b1, a2, b2 = torch.linalg.solve(unknowns, rows(-one, -other, other - one, 0.0)).tolist()
    left = one + a1 * torch.cosh(math.pi * x) + b1 * torch.sinh(math.pi * x)
    right = other + a2 * torch.cosh(math.pi * x) + b2 * torch.sinh(math.pi * x)
    inside = x < edge
    f = torch.sin(math.pi * y)
    return torch.where(inside, low, high)[None].double(), f[None], (f * torch.where(inside, left, right))[None]


def test_pressure_in_layered_ground():
    darcy, wrong = module("darcy"), []
    for points in (21, 41, 81):
        a, f, u = layered(points)
        wrong.append(float((darcy.pressure(a, f) - u).abs().max() / u.max()))
    assert wrong[-1] < 1e-3
    assert all(before / after > 3.5 for before, after in itertools.pairwise(wrong))


def test_the_arithmetic_mean_of_layers_would_be_seen(monkeypatch):
    darcy = module("darcy")

    def between(a):
        return (a[..., :-1, 1:-1] + a[..., 1:, 1:-1]) / 2, (a[..., 1:-1, :-1] + a[..., 1:-1, 1:]) / 2

    monkeypatch.setattr(darcy, "faces", between)
    a, f, u = layered(81)
    assert float((darcy.pressure(a, f) - u).abs().max() / u.max()) > 5e-3


def test_what_flows_in_flows_out_across_the_boundary():
    ground = equation("darcy", points=33, inflow=2.0)
    theta = rows([3.0, 12.0], [1.0, 100.0], [5.0, 5.0])
    given = ground.start(theta, generator=generator())
    found, h = ground.solve(theta, given), 1 / 32
    a, u = given["coefficient"][:, 0], found[:, 0, 0]
    out = torch.zeros(3, dtype=torch.float64)
    for k in range(4):
        (edge, inner), level = torch.rot90(a, k, (-2, -1))[:, :2, 1:-1].unbind(1), torch.rot90(u, k, (-2, -1))
        out += (2 * edge * inner / (edge + inner) * level[:, 1, 1:-1]).sum(-1)
    assert torch.allclose(out, torch.full_like(out, 2.0 * (1 - h) ** 2), rtol=1e-8)
    assert float(ground.residual(found, theta, given).abs().max()) < 1e-6


def test_pressure_is_that_of_a_direct_solver_or_missing():
    darcy, ground = module("darcy"), equation("darcy", points=12)
    theta = rows([4.0, 9.0], [1.0, 1000.0])
    a = ground.start(theta, generator=generator())["coefficient"][:, 0]
    units = torch.zeros(100, 1, 12, 12, dtype=torch.float64)
    units[:, 0, 1:-1, 1:-1] = torch.eye(100).reshape(100, 10, 10)
    matrix = -darcy.divergence(darcy.faces(a), units).flatten(2).permute(1, 2, 0)
    assert torch.allclose(matrix, matrix.mT)
    expected = torch.linalg.solve(matrix, torch.full((2, 100), 10.0).double())
    found = ground.solve(theta, {"coefficient": a[:, None]})[:, 0, 0, 1:-1, 1:-1]
    assert relative(found.flatten(1), expected) < 1e-9
    hasty = equation("darcy", points=12, iterations=20).solve(theta, {"coefficient": a[:, None]})
    assert hasty.isnan().any((1, 2, 3, 4)).tolist() == [False, True]
    still = equation("darcy", points=12, inflow=0.0).solve(theta, {"coefficient": a[:, None]})
    assert torch.equal(still, torch.zeros_like(still))
