"""What a solve costs, against fields with known errors and rates; and a learned field that training makes cheap."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchdiffeq import odeint

from sciinf.networks.ode import rk4
from sciinf.networks.solver_cost import error_sum, local_error, stiffness, stiffness_sum


@pytest.mark.parametrize("rate", [0.3, 7.0])
def test_the_stiffness_of_a_linear_field_is_its_rate(rate):
    """Whatever time adds to it: both places are looked at at one time."""
    y = torch.tensor([[1.0, -2.0], [0.1, 5.0]], dtype=torch.float64)
    found = stiffness(lambda t, y: -rate * y + 50.0 * t, 0.0, y, 0.1)
    torch.testing.assert_close(found, torch.full((2,), rate, dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_a_field_that_is_the_same_everywhere_is_not_stiff():
    y = torch.tensor([[1.0, -2.0]], requires_grad=True)
    found = stiffness(lambda t, y: 3.0 + 0.0 * y, 0.0, y, 0.1)
    assert float(found.detach()) < 1e-6
    assert torch.equal(torch.autograd.grad(found.sum(), y)[0], torch.zeros(1, 2))


def test_steps_count_by_their_length():
    """Of y' = -3 y, S is 3 whatever the steps; local errors differ, and times may be given for each row."""
    y = torch.ones(2, 1, dtype=torch.float64)

    def rate(t, y):
        return -3.0 * y

    times, states = [0.0, 0.1, 0.4], [y, 0.7 * y]
    assert float(stiffness_sum(rate, times, states)) == pytest.approx(3.0)
    first, second = (
        float(local_error(rate, 0.0, state, h).abs()[0]) for state, h in zip(states, (0.1, 0.3), strict=True)
    )
    assert second > 2 * first
    assert float(error_sum(rate, times, states)) == pytest.approx((0.1 * first + 0.3 * second) / 0.4, rel=1e-4)
    each = [torch.full((2, 1), t, dtype=torch.float64) for t in times]
    torch.testing.assert_close(error_sum(rate, each, states), error_sum(rate, times, states))
    backwards = [-t for t in times]
    torch.testing.assert_close(stiffness_sum(rate, backwards, states), stiffness_sum(rate, times, states))


def test_the_local_error_is_of_third_order():
    y = torch.tensor([[1.0]], dtype=torch.float64)
    errors = [float(local_error(lambda t, y: torch.sin(y) + t, 0.2, y, h).abs()) for h in (0.002, 0.001)]
    assert errors[0] / errors[1] == pytest.approx(8.0, rel=0.05)


def test_sums_over_a_solution_send_slopes_through_it():
    """Of y' = a sin y later states depend on a; states that are held constant lose that part of the slope."""
    times = [0.0, 0.5, 1.0, 1.5]

    def cost(a, held):
        a = a.clone().requires_grad_()
        states = rk4(lambda t, y: a * y.sin(), torch.ones(1, 1, dtype=torch.float64), times, steps_per_interval=1)
        states = states.detach() if held else states
        total = stiffness_sum(lambda t, y: a * y.sin(), times, states.unbind())
        return total.detach(), torch.autograd.grad(total, a)[0]

    at = torch.tensor(1.7, dtype=torch.float64)
    numeric = (cost(at + 1e-5, False)[0] - cost(at - 1e-5, False)[0]) / 2e-5
    torch.testing.assert_close(cost(at, False)[1], numeric, rtol=1e-5, atol=1e-9)
    assert abs(float(cost(at, True)[1] / numeric - 1)) > 0.05


@pytest.mark.slow
def test_a_learned_equation_is_cheaper_and_fits_nearly_as_well():
    """A neural ODE carries points to where they are wanted; with a penalty an adaptive solver asks it less often.

    Fixed seeds: no false alarms. Without the penalty 68 evaluations, with them 44 and 62.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(100, 2, generator=generator)
    wanted = torch.stack([start[:, 0] + start[:, 1].sin(), start[:, 1] - 0.5 * start[:, 0].tanh()], 1)
    times, asked, missed = [0.0, 1 / 3, 2 / 3, 1.0], [], []
    for cost, weight in ((None, 0.0), (error_sum, 200.0), (stiffness_sum, 0.1)):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))

        def field(t, y, net=net):
            return net(torch.cat([y, torch.as_tensor(t, dtype=y.dtype).expand(len(y), 1)], 1))

        with torch.no_grad():
            net[0].weight *= 6  # a field that bends fast, as those learned from data may
        steps = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(80):
            states = rk4(field, start, times, steps_per_interval=1)
            loss = (states[-1] - wanted).square().mean()
            if cost is not None:
                loss = loss + weight * cost(field, times, states)
            steps.zero_grad()
            loss.backward()
            steps.step()
        calls = []
        net.double().register_forward_hook(lambda *_, calls=calls: calls.append(1))
        with torch.no_grad():
            ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
            end = odeint(field, start.double(), ends, method="dopri5", rtol=1e-8, atol=1e-8)[-1]
        asked.append(len(calls))
        missed.append(float((end - wanted).square().mean()))
    assert asked[1] < 0.75 * asked[0]
    assert asked[2] < 0.95 * asked[0]
    assert max(missed) < 0.06 * float((start - wanted).square().mean())
