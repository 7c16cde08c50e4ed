"""Exponential time differencing against exact solutions, and its order."""

from __future__ import annotations

import pytest
import torch

from sciinf.simulators.dynamics.spectral import ExponentialStep, gathered, solve


def test_without_a_rest_any_step_is_exact():
    linear = torch.tensor([0.0, -1e-9, -3.0, -200.0], dtype=torch.float64)
    start = torch.ones(2, 4, dtype=torch.complex128)
    found = solve(start, linear, torch.zeros_like, (0.0, 0.5, 2.0), longest=5.0)
    times = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)[:, None]
    assert torch.allclose(found, (linear * times).exp().to(found).expand(2, 3, 4), atol=1e-13)


def error(steps, slope):
    """Of v' = L v + v^2 at t = 1, which is Bernoulli's equation."""
    linear = torch.tensor([-2.0, -0.5, 1e-7, -40.0], dtype=torch.float64)
    start = torch.full((4,), 0.4, dtype=torch.complex128)
    found = solve(start[None], linear, slope, (1.0,), longest=1 / steps)[0, 0]
    grown = linear.exp()
    exact = 0.4 * grown / (1 - 0.4 * (grown - 1) / linear)
    return (found.real - exact).abs()


def test_the_order_is_four():
    few, more = error(16, lambda v: v**2), error(32, lambda v: v**2)
    order = (few / more).log2()[:3]
    assert float(order.min()) > 3.7
    assert float(more.max()) < 1e-6


def test_a_step_that_forgets_a_stage_has_not():
    # the fault: the middle stages at half their weight
    def step(v, linear, h):
        whole = ExponentialStep.of(linear, h)
        worse = ExponentialStep(whole.half, whole.whole, whole.inner, whole.first, whole.middle / 2, whole.last)
        return worse(v, lambda u: u**2)

    linear = torch.tensor([-2.0], dtype=torch.float64)
    v = torch.full((1,), 0.4, dtype=torch.complex128)
    for _ in range(32):
        v = step(v, linear, 1 / 32)
    grown = float(linear.exp())
    assert abs(float(v.real) - 0.4 * grown / (1 + 0.2 * (grown - 1))) > 1e-3


@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
def test_imaginary_parts_turn_modes(kind):
    linear = torch.tensor([-0.3], dtype=torch.float64) if kind == torch.float64 else torch.tensor([-0.3 + 2.0j])
    linear = linear.to(kind)
    found = solve(torch.ones(1, 1, dtype=torch.complex128), linear, torch.zeros_like, (1.5,), longest=0.5)
    assert torch.allclose(found[0, 0], (1.5 * linear).exp().to(torch.complex128))


@pytest.mark.parametrize(("times", "longest"), [((1.0, 0.5), 0.1), ((-1.0, 0.5), 0.1), ((), 0.1), ((0.5,), 0.0)])
def test_times_that_cannot_be_are_refused(times, longest):
    linear = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="expected"):
        solve(torch.ones(1, 1, dtype=torch.complex128), linear, torch.zeros_like, times, longest=longest)


def test_weights_are_those_of_the_paper_where_a_step_is_stiff():
    # the circle hides some faults from |z| < 1, where steps are short and every order is right
    z = torch.tensor([-3.0, -12.0, -80.0], dtype=torch.float64)
    step, h = ExponentialStep.of(z / 0.25, 0.25), 0.25
    p1 = torch.expm1(z) / z
    p2 = (p1 - 1) / z
    p3 = (p2 - 0.5) / z
    wanted = {"first": h * (p1 - 3 * p2 + 4 * p3), "middle": 2 * h * (p2 - 2 * p3), "last": h * (4 * p3 - p2)}
    for name, weight in {**wanted, "inner": h / 2 * torch.expm1(z / 2) / (z / 2)}.items():
        assert torch.allclose(getattr(step, name), weight, atol=1e-13), name


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_noise_that_is_gathered_in_a_step_decays_with_it(decay):
    """A decay at rate 1 in all, so much of it in L: sd of one step; the fault, noise after it."""
    length, linear = 0.2, torch.tensor([-decay], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.complex128)
    found = solve(0 * one, linear, lambda v: (decay - 1) * v, [length], longest=length, noise=lambda: one)[0, 0, 0].real
    exact = float(gathered(-torch.ones(1, dtype=torch.float64), length))
    assert abs(float(found) / exact - 1) < 0.1 * length**2
    assert abs(float(gathered(linear, length)) / exact - 1) > 0.2 * length * (1 - decay)
