"""Equations of one direction against their exact solutions, what they conserve, and the order of their steps."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from simulators.test_contract import FOLDER, loaded

from sciinf.simulators.dynamics import spectral
from sciinf.simulators.dynamics.random_field import Waves


def equation(name, **arguments) -> Any:
    return type(loaded(FOLDER / "pde" / f"{name}.py"))(**arguments)


def rows(*values):
    """theta, a row each."""
    return torch.tensor(values, dtype=torch.float64)


def started(equation, fields):
    """Given fields (batch, x)."""
    return {"initial": fields.expand(-1, equation.grid.shape[0])[:, None]}


def x_of(equation):
    return equation.grid.coordinates[0]


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def begun(equation, count=8, seed=0):
    """theta and fields to start from."""
    generator = torch.Generator().manual_seed(seed)
    theta = equation.prior.sample(count, generator=generator).double()
    return theta, equation.start(theta, generator=generator)


# --- exact solutions ------------------------------------------------------------------------------------------------


def test_advection_carries_waves_along_and_fades_them():
    waves = equation("advection", length=2.0, times=(0.0, 0.3, 1.7), initial=Waves((1.0, 0.0, 0.5), (0.1,)))
    theta = rows([0.7, 0.01, 1.0], [-1.3, 0.002, 0.6])
    found = waves.solve(theta, waves.start(theta, generator=torch.Generator()))[:, :, 0]
    c, spread, amplitude = (part[:, None, None] for part in theta.T)
    t, x = torch.tensor(waves.times, dtype=torch.float64)[:, None], x_of(waves)
    expected = torch.zeros_like(found)
    for strength, phase, k in ((1.0, 0.1, math.pi), (0.5, 0.0, 3 * math.pi)):
        wave = (k * (x - c * t) + 2 * math.pi * phase).sin()
        expected += amplitude * strength * (-spread * k**2 * t).exp() * wave
    assert relative(found, expected) < 1e-12


def hopf_cole(x, t, nu, amplitude):
    """Burgers' u from A sin(2 pi x): -2 nu d(log phi)/dx, phi the solution of the heat equation from phi0.

    phi0 = exp(A cos(2 pi x) / (4 pi nu)) up to a factor; its coefficients by the trapezoidal rule, which converges
    exponentially for periodic functions.
    """
    y, k = torch.arange(4096, dtype=torch.float64) / 4096, 2 * math.pi * torch.arange(200, dtype=torch.float64)
    phi0 = (amplitude / (4 * math.pi * nu) * ((2 * math.pi * y).cos() - 1)).exp()
    coefficients = (phi0 * (k[:, None] * y).cos()).mean(1) * (-nu * k**2 * t).exp()
    coefficients[1:] *= 2
    phi, slope = (k[:, None] * x).cos(), -k[:, None] * (k[:, None] * x).sin()
    return -2 * nu * (coefficients @ slope) / (coefficients @ phi)


def test_burgers_solves_many_rows_part_by_part_as_it_does_each_alone():
    burgers = equation("burgers", times=(0.0, 0.02))
    count = 128 * torch.get_num_threads() + 3
    theta = burgers.prior.sample(count, generator=torch.Generator().manual_seed(0)).double()
    given = burgers.start(theta, generator=torch.Generator().manual_seed(1))
    found, last = burgers.solve(theta, given), {name: value[-3:] for name, value in given.items()}
    torch.testing.assert_close(found[-3:], burgers.solve(theta[-3:], last), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("nu", "amplitude", "tolerance"), [(0.05, 1.0, 1e-7), (0.01, 0.8, 1e-6)])
def test_burgers_is_hopf_and_coles(nu, amplitude, tolerance):
    burgers = equation("burgers", initial=Waves())
    found = burgers.solve(rows([nu, amplitude]), burgers.start(rows([nu, amplitude]), generator=torch.Generator()))
    for k, t in enumerate(burgers.times):
        expected = hopf_cole(x_of(burgers), t, nu, amplitude)
        assert relative(found[0, k, 0], expected) < tolerance, t
    assert relative(found[0, -1, 0], hopf_cole(x_of(burgers), 1.0, 1.1 * nu, amplitude)) > 0.01


def two_solitons(x, t, delta, speeds, shifts):
    """u = 2 delta^2 d^2(log tau)/dx^2, tau = 1 + e1 + e2 + ((p1 - p2) / (p1 + p2))^2 e1 e2, of Hirota."""
    p1, p2 = (math.sqrt(c) / delta for c in speeds)
    e1, e2 = ((p * (x - c * t - shift)).exp() for p, c, shift in zip((p1, p2), speeds, shifts, strict=True))
    both = ((p1 - p2) / (p1 + p2)) ** 2 * e1 * e2
    tau, slope = 1 + e1 + e2 + both, p1 * e1 + p2 * e2 + (p1 + p2) * both
    bend = p1**2 * e1 + p2**2 * e2 + (p1 + p2) ** 2 * both
    return 2 * delta**2 * (bend / tau - (slope / tau) ** 2)


def test_solitons_overtake_each_other():
    """The taller starts behind, and ends ahead further than it would alone."""
    kdv = equation("korteweg_de_vries", points=256, length=40.0, times=(0.0, 2.5, 5.0), longest=0.0025)
    delta, x = 0.8, x_of(kdv)
    exact = [two_solitons(x, t, delta, (4.0, 1.0), (10.0, 17.0)) for t in kdv.times]
    found = kdv.solve(rows([delta, 1.0]), started(kdv, exact[0][None]))[0, :, 0]
    for k in (1, 2):
        assert relative(found[k], exact[k]) < 1e-5
    alone = two_solitons(x, 5.0, delta, (4.0, 1.0), (10.0, 1e3))
    assert relative(found[2], alone) > 0.1
    assert x[found[2].argmax()] > x[alone.argmax()]


@pytest.mark.slow
def test_a_soliton_goes_around_the_ring():
    kdv = equation("korteweg_de_vries", times=(0.0, 3.0, 8.0))
    x, c, delta = x_of(kdv), torch.tensor([[1.5], [2.5]]).double(), 0.9
    ways = [(x - c * t) % 20.0 - 10.0 for t in kdv.times]
    wave = [c / 2 / (c.sqrt() * way / (2 * delta)).cosh().square() for way in ways]
    found = kdv.solve(rows([delta, 1.0], [delta, 1.0]), started(kdv, wave[0]))[:, :, 0]
    assert relative(found, torch.stack(wave, 1)) < 1e-4


def test_flat_fields_grow_logistically():
    fisher = equation("reaction_diffusion")
    theta, begun = rows([0.003, 1.0], [0.01, 5.0], [0.003, 3.0]), rows([0.1], [0.02], [1.0])
    found = fisher.solve(theta, started(fisher, begun))[:, :, 0]
    t = torch.tensor(fisher.times, dtype=torch.float64)
    expected = 1 / (1 + (1 / begun - 1) * (-theta[:, 1:] * t).exp())
    assert torch.allclose(found, expected[..., None].expand_as(found), rtol=0, atol=1e-5)


def test_fisher_waves_run():
    """Ablowitz and Zeppetella's u = (1 + e^{z / sqrt 6})^-2, z = sqrt(r / D) (x - c t), c = 5 sqrt(r D / 6), twice."""
    fisher = equation("reaction_diffusion", points=512, length=100.0, times=(0.0, 1.0, 2.0), longest=0.02)
    spread, growth = 0.5, 2.0
    away, speed = (x_of(fisher) - 50.0).abs() - 15.0, 5 * math.sqrt(growth * spread / 6)
    wave = [(1 + (math.sqrt(growth / spread / 6) * (away - speed * t)).exp()) ** -2 for t in fisher.times]
    found = fisher.solve(rows([spread, growth]), started(fisher, wave[0][None]))[0, :, 0]
    for k in (1, 2):
        assert float((found[k] - wave[k]).abs().max()) < 1e-5
        assert float((found[k] - wave[k - 1]).abs().max()) > 0.3


def test_small_waves_of_kuramoto_and_sivashinsky_grow_at_their_rates():
    ks = equation("kuramoto_sivashinsky", times=(0.0, 2.0, 4.0), initial=Waves((1e-10,) * 8))
    theta = rows([1.0, 1.0], [0.6, 1.0])
    modes = ks.grid.transformed(ks.solve(theta, ks.start(theta, generator=torch.Generator())))[:, :, 0, 1:9]
    k = ks.grid.wave_numbers[0][1:9]
    rates = k**2 - theta[:, :1] * k**4
    assert bool((rates[0] > 0).any() and (rates[0] < 0).any())
    found = (modes[:, 1:] / modes[:, :1]).abs().log() / torch.tensor([[2.0], [4.0]])
    assert torch.allclose(found, rates[:, None].expand_as(found), rtol=0, atol=1e-4)


# --- conserved ------------------------------------------------------------------------------------------------------


def mass_drift(found):
    """By how much the mean moves, in the worst row."""
    means = found.mean((2, 3))
    return float((means - means[:, :1]).abs().max())


def momentum_drift(found):
    """By which part of itself the mean square moves, in the worst row."""
    squares = found.square().mean((2, 3))
    return float((squares / squares[:, :1] - 1).abs().max())


@pytest.mark.parametrize("name", ["advection", "burgers", "korteweg_de_vries", "kuramoto_sivashinsky"])
def test_mass_stays(name):
    one = equation(name, times=(0.0, 1.0, 2.0))
    theta, given = begun(one)
    found = one.solve(theta, {"initial": given["initial"] + 0.3})
    assert mass_drift(found) < 1e-12


def test_momentum_of_korteweg_and_de_vries_stays():
    kdv = equation("korteweg_de_vries", times=(0.0, 1.0, 2.0))
    assert momentum_drift(kdv.solve(*begun(kdv))) < 1e-6


def test_what_is_not_conserved_is_seen():
    fisher, burgers = equation("reaction_diffusion"), equation("burgers")
    assert mass_drift(fisher.solve(*begun(fisher))) > 0.1
    assert momentum_drift(burgers.solve(*begun(burgers))) > 0.1


def test_fisher_stays_between_nothing_and_all():
    fisher = equation("reaction_diffusion")
    found = fisher.solve(*begun(fisher, 100))
    assert 0 < float(found.min()) < 0.1
    assert 0.9 < float(found.max()) < 1


# --- order of the steps ---------------------------------------------------------------------------------------------


def order(name, theta, initial, end, longest):
    """log2 of how much smaller the error is for steps half as long, twice; against steps 4 times shorter still."""
    found = []
    for part in (1, 2, 4, 16):
        one = equation(name, times=(end,), longest=longest / part, initial=initial)
        found.append(one.solve(theta, one.start(theta, generator=torch.Generator())))
    off = [relative(f, found[-1]) for f in found[:-1]]
    return [math.log2(before / after) for before, after in itertools.pairwise(off)]


CASES = [
    ("burgers", rows([0.02, 1.0]), Waves((1.0, 0.5), (0.0, 0.2)), 0.5, 0.025),
    ("korteweg_de_vries", rows([1.0, 1.0]), Waves((0.5, 0.25)), 1.0, 0.02),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
def test_steps_are_of_order_four(case):
    found = order(*case)
    assert all(3.7 < value < 4.7 for value in found), found


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
def test_steps_of_lower_order_are_seen(case, monkeypatch):
    right = spectral.ExponentialStep.of

    def wrong(linear, length):
        step = right(linear, length)
        return dataclasses.replace(step, first=step.last, last=step.first)

    monkeypatch.setattr(spectral.ExponentialStep, "of", wrong)
    assert max(order(*case)) < 3, order(*case)
