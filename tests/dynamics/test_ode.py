"""The integrator against closed forms, its order, gradients and independence of rows."""

from __future__ import annotations

import functools
import itertools
import math
import shutil
import warnings

import pytest
import torch

from sciinf.core.simulator import load_module
from sciinf.networks import ode
from sciinf.networks.ode import rk4


def rotate(_, state):
    return torch.stack([state[1], -state[0]])


def euler(field, state, times, *, steps_per_interval):
    """The planted fault: first order where fourth is promised."""
    states = [state]
    for begin, end in itertools.pairwise(times):
        h = (end - begin) / steps_per_interval
        for step in range(steps_per_interval):
            state = state + h * field(begin + step * h, state)
        states.append(state)
    return torch.stack(states)


def observed_order(solve):
    """Slope of log error against log step on a rotation by three radians."""
    start = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    truth = torch.tensor([math.sin(3.0), math.cos(3.0)], dtype=torch.float64)
    errors = [
        float((solve(rotate, start, [0.0, 3.0], steps_per_interval=n)[-1, :, 0] - truth).norm()) for n in (20, 40)
    ]
    return math.log2(errors[0] / errors[1])


def test_order_is_four_and_a_first_order_method_is_told_apart():
    assert observed_order(rk4) == pytest.approx(4.0, abs=0.1)
    assert observed_order(euler) == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-9)])
def test_a_field_that_depends_on_time(dtype, tolerance):
    # dy/dt = -2 t y has the solution exp(-t^2)
    times = [0.0, 0.5, 0.7, 2.0]
    solved = rk4(lambda t, y: -2 * t * y, torch.ones(3, dtype=dtype), times, steps_per_interval=200)
    truth = torch.exp(-(torch.tensor(times, dtype=dtype) ** 2))[:, None].expand(4, 3)
    assert solved.dtype == dtype
    assert torch.allclose(solved, truth, atol=tolerance, rtol=0)


def test_times_given_as_a_tensor_are_the_same_bits_and_backwards_returns_to_the_start():
    start = torch.tensor([[0.0, 0.3], [1.0, -2.0]], dtype=torch.float64)
    forward = rk4(rotate, start, torch.arange(4), steps_per_interval=50)
    assert torch.equal(forward, rk4(rotate, start, range(4), steps_per_interval=50))
    back = rk4(rotate, forward[-1], [3.0, 0.0], steps_per_interval=150)
    assert torch.allclose(back[-1], start, atol=1e-7)


def test_rows_do_not_touch_each_other_and_one_may_blow_up():
    start = torch.tensor([0.5, 1e30, -1.0])
    together = rk4(lambda t, y: y**2, start, [0.0, 0.5, 1.0], steps_per_interval=10)
    assert not together[-1, 1].isfinite()
    alone = rk4(lambda t, y: y**2, start[[0, 2]], [0.0, 0.5, 1.0], steps_per_interval=10)
    assert torch.equal(together[:, [0, 2]], alone)


def test_gradients_flow_to_the_parameters_and_nothing_is_changed_in_place():
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    start = torch.ones(1, dtype=torch.float64)
    final = rk4(lambda t, y: -rate * y, start, [0.0, 2.0], steps_per_interval=50)[-1, 0]
    (gradient,) = torch.autograd.grad(final, rate)
    assert float(gradient) == pytest.approx(-2 * math.exp(-1.4), rel=1e-6)
    assert torch.equal(start, torch.ones(1, dtype=torch.float64))


def test_wrong_calls_say_what_is_wrong():
    with pytest.raises(TypeError, match="floating point"):
        rk4(rotate, torch.tensor([[0], [1]]), [0.0, 1.0], steps_per_interval=1)
    with pytest.raises(ValueError, match="steps_per_interval is 0"):
        rk4(rotate, torch.zeros(2, 1), [0.0, 1.0], steps_per_interval=0)
    for times in ([], [1.0], [0.0, 1.0, 1.0], [0.0, 2.0, 1.0]):
        with pytest.raises(ValueError, match="increasing"):
            rk4(rotate, torch.zeros(2, 1), times, steps_per_interval=1)


# --- compiled -------------------------------------------------------------------------------------------------------

COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def swinging(rate):
    """dy/dt = rate cos(t) y, in a new function each time as simulators have it: y = exp(rate sin t)."""

    def field(t, y):
        return rate * torch.cos(torch.as_tensor(t, dtype=y.dtype)) * y

    return field


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=[COMPILER, pytest.mark.long])])
def test_compiled_steps_agree_with_those_as_written_and_are_compiled_once(backend, monkeypatch):
    """With "eager" the steps are traced as ever, and the graph runs without a C++ compiler, which takes seconds."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(ode, "UNROLLED", 1)  # which is compiled the soonest
    program = torch.compile(ode._steps, fullgraph=True, backend=backend)
    monkeypatch.setattr(ode, "_program", lambda: program)
    times = [0.0, 0.4, 0.5, 1.5]  # lengths of a step that differ
    start = torch.ones(5, dtype=torch.float64)
    rate = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)
    eager = rk4(swinging(rate), start, times, steps_per_interval=6)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the steps do not compile")
        compiled = rk4(swinging(rate), start, times, steps_per_interval=6, compile=True)
        graphs = counters["stats"]["unique_graphs"]
        again = rk4(swinging(2 * rate), start, times, steps_per_interval=6, compile=True)
    assert torch.allclose(compiled, eager, rtol=1e-13, atol=0)
    assert torch.allclose(again, rk4(swinging(2 * rate), start, times, steps_per_interval=6), rtol=1e-13, atol=0)
    assert counters["stats"]["unique_graphs"] == graphs
    truth = torch.exp(rate * torch.tensor(times, dtype=torch.float64)[:, None].sin())
    assert torch.allclose(compiled, truth, rtol=1e-5)
    # the planted fault: the same steps with one length for all intervals are told apart
    assert not torch.allclose(
        rk4(swinging(rate), start, [0.0, 0.5, 1.0, 1.5], steps_per_interval=6), compiled, rtol=1e-6
    )


def test_a_field_that_does_not_compile_runs_as_written_and_says_why():
    def field(t, y):
        return -math.sin(t) * y

    with pytest.warns(UserWarning, match="the steps do not compile, so they are run as written: .+"):
        solved = rk4(field, torch.ones(3), [0.0, 1.0], steps_per_interval=7, compile=True)
    assert torch.equal(solved, rk4(field, torch.ones(3), [0.0, 1.0], steps_per_interval=7))


@COMPILER
@pytest.mark.long
def test_gradients_flow_through_compiled_steps():
    rate = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    start = torch.ones(1, dtype=torch.float64)
    final = rk4(swinging(rate), start, [0.0, 2.0], steps_per_interval=50, compile=True)[-1, 0]
    (gradient,) = torch.autograd.grad(final, rate)
    assert float(gradient) == pytest.approx(math.sin(2.0) * math.exp(0.7 * math.sin(2.0)), rel=1e-5)


@COMPILER
@pytest.mark.long
@pytest.mark.parametrize(("name", "function"), [("lotka_volterra", "log_populations"), ("sir", "log_infected")])
def test_compiled_simulators_agree_to_rounding(root, monkeypatch, name, function):
    module = load_module(root / "simulators" / "benchmarks" / f"{name}.py")
    theta = module.simulator.prior.sample(200, generator=torch.Generator().manual_seed(0)).double()
    eager = getattr(module, function)(theta)
    monkeypatch.setattr(module, "rk4", functools.partial(rk4, compile=True))
    compiled = getattr(module, function)(theta)
    assert not torch.equal(compiled, torch.zeros_like(compiled))
    assert torch.allclose(compiled, eager, rtol=1e-9, atol=1e-9)
