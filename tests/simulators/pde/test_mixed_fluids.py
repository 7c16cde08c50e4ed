"""Flows of three families against exact solutions; the contract of equations holds their symbols against solvers."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from simulators.pde.test_two_dimensional import stirred, wave
from simulators.test_contract import FOLDER, generator, loaded

from sciinf.simulators.dynamics.systems import Systems


def module() -> Any:
    return sys.modules[type(loaded(FOLDER / "pde" / "mixed_fluids.py")).__module__]


def mixed(family=None, values=(), **arguments) -> Any:
    """Flows; where a family is named, with these values of its coefficients."""
    ranges = dict(module().RANGES)
    if family is not None:
        ranges[family] = {name: (v, v) for name, v in zip(ranges[family], values, strict=True)}
    return module().MixedFluids(systems=Systems(module().EQUATIONS, ranges), **arguments)


def theta_of(family, count=1):
    """Of a family; shares are in the middle."""
    return torch.tensor([[("vorticity", "shallow_water", "gray_scott").index(family) + 0.5, 0.5, 0.5]] * count).double()


def solved(flow, family, field):
    """Solutions (time, channel, y, x) from a field of some channels, which both frames are."""
    whole = torch.zeros(3, *field.shape[-2:], dtype=torch.float64)
    whole[: len(field)] = field
    return flow.solve(theta_of(family), {"frames": torch.cat([whole, whole])[None]})[0]


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_vortices_of_taylor_and_green_fade_and_a_wave_of_rossby_goes_west():
    flow = mixed("vorticity", (0.004, 0.0))
    y, x = 2 * math.pi * flow.grid.coordinates
    t = torch.tensor(flow.times, dtype=torch.float64)[:, None, None]
    start, fade = torch.cos(2 * x) * torch.cos(y), torch.exp(-0.004 * 5 * (2 * math.pi) ** 2 * t)
    found = solved(flow, "vorticity", 3 * start[None])
    assert relative(found[:, 0], 3 * fade * start) < 1e-6
    assert float(found[:, 1:].abs().max()) == 0
    flow = mixed("vorticity", (0.004, 40.0))
    phase = x + 2 * y
    west = 40.0 / (5 * (2 * math.pi) ** 2) * 2 * math.pi * t
    assert relative(solved(flow, "vorticity", torch.cos(phase)[None])[:, 0], fade * torch.cos(phase + west)) < 1e-6
    assert relative(fade * torch.cos(phase - west), fade * torch.cos(phase + west)) > 0.1  # eastwards


def test_small_waves_of_water_travel_at_their_speed():
    g, f = 0.3, 4.0
    flow = mixed("shallow_water", (g, f))
    expected = wave(flow.grid, torch.tensor([[g, f]]).double(), (0.0, *flow.times), 1e-6)[0]
    expected[:, 0] -= 1
    found = solved(flow, "shallow_water", expected[0])
    assert relative(found, expected[1:]) < 1e-4
    other = wave(flow.grid, torch.tensor([[f / 10, g * 10]]).double(), flow.times, 1e-6)[0]
    other[:, 0] -= 1
    assert relative(other, expected[1:]) > 0.1


def test_a_stirred_reaction_follows_its_ordinary_equation():
    unit, (feed, kill) = module().UNIT, (0.04, 0.06)
    flow = mixed("gray_scott", (feed * unit, kill * unit), longest=0.01)
    begun = torch.tensor([0.6, 0.3]).double()
    found = solved(flow, "gray_scott", begun[:, None, None].expand(-1, 16, 16))
    for k, t in enumerate(flow.times):
        expected = stirred(torch.tensor([[feed, kill]]).double(), begun[None], t * unit)[0]
        assert relative(found[k, :2], expected[:, None, None].expand(-1, 16, 16)) < 1e-6
    assert float(found[:, 2].abs().max()) == 0


@pytest.mark.slow
def test_steps_and_points_are_enough_and_frames_belong_together():
    flow = mixed()
    theta = flow.prior.sample(48, generator=generator(5)).double()
    given = flow.start(theta, generator=generator(6))
    found, number = flow.solve(theta, given), flow.systems.number(theta)
    halved = mixed(longest=flow.longest / 2).solve(theta, given)
    wide = flow.fine.back(module().widened(flow.grid.transformed(given["frames"])))
    finer = mixed(points=32).solve(theta, {"frames": wide})[..., ::2, ::2]
    assert set(number.tolist()) == {0, 1, 2}
    for k in range(3):
        moves = found[number == k] - found[number == k].mean((-2, -1), keepdim=True)
        size = moves.flatten(2).norm(dim=2)
        for other, within in ((halved, 5e-4), (finer, 2e-2)):
            off = (other - found)[number == k].flatten(2).norm(dim=2) / size
            assert float(off.max()) < within
    between = flow.later(theta, given["frames"][:, :3], (flow.gap,))[:, 0]
    assert torch.equal(between, given["frames"][:, 3:])
    assert mixed(gap=None).start(theta, generator=generator(6))["frames"].shape == (48, 3, 16, 16)
    assert torch.equal(mixed(gap=None).start(theta, generator=generator(6))["frames"], given["frames"][:, :3])


def test_what_does_not_fit_is_refused():
    for make, says in (
        (lambda: mixed(times=(0.0, 1.0)), "above 0"),
        (lambda: mixed(gap=0.0), "above 0"),
        (lambda: mixed(points=15), "even points"),
        (lambda: module().MixedFluids(systems=Systems({"a": "dt u1 u1"}, {"a": {}})), "have the equations"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
