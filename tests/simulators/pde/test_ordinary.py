"""Ordinary differential equations: fixed points, conservation and contraction laws, order four, SciPy's solver.

Seeds are fixed and nothing here is a statistical test: bounds are on numerical errors.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from sciinf.core import load_simulator
from sciinf.simulators.dynamics.frames import frames
from sciinf.simulators.dynamics.random_field import Waves

FOLDER = Path(__file__).parents[3] / "simulators" / "pde"
NAMES = ("lorenz_63", "lorenz_96", "fitzhugh_nagumo")
CLASSIC = {"lorenz_63": (10.0, 28.0, 8 / 3), "lorenz_96": (8.0,), "fitzhugh_nagumo": (0.7, 0.8, 12.5, 0.5)}
SHORT = {"lorenz_63": 0.5, "lorenz_96": 0.5, "fitzhugh_nagumo": 10.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=NAMES)
def simulator(request):
    return load_simulator(FOLDER / f"{request.param}.py")


def named(name) -> Any:
    return load_simulator(FOLDER / f"{name}.py")


def classic(name, rows=1):
    return torch.tensor(CLASSIC[name], dtype=torch.float64).expand(rows, -1)


def begun(simulator, rows, seed=0):
    """Draws of the prior, in double precision, and what their solutions start from."""
    theta = simulator.prior.sample(rows, generator=generator(seed)).double()
    return theta, simulator.start(theta, generator=generator(seed + 1))


# the equations once more, as their papers print them, for SciPy


def lorenz_63(t, y, sigma, rho, beta):
    return [sigma * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - beta * y[2]]


def lorenz_96(t, x, force):
    k = len(x)
    return [(x[(i + 1) % k] - x[i - 2]) * x[i - 1] - x[i] + force for i in range(k)]


def fitzhugh_nagumo(t, y, a, b, tau, current):
    return [y[0] - y[0] ** 3 / 3 - y[1] + current, (y[0] + a - b * y[1]) / tau]


PRINTED = {"lorenz_63": lorenz_63, "lorenz_96": lorenz_96, "fitzhugh_nagumo": fitzhugh_nagumo}


def test_solutions_are_those_of_scipy(simulator):
    theta, given = begun(simulator, 2)
    times = tuple(SHORT[simulator.name] * k / 4 for k in range(5))
    fine = type(simulator)(times=times, longest=SHORT[simulator.name] / 1500)
    found = fine.solve(theta, given).flatten(2)
    for row in range(2):
        wanted = solve_ivp(
            PRINTED[simulator.name],
            (0.0, times[-1]),
            given["initial"][row].flatten().numpy(),
            method="DOP853",
            t_eval=times,
            args=tuple(theta[row].tolist()),
            rtol=1e-12,
            atol=1e-12,
        )
        np.testing.assert_allclose(found[row].numpy(), wanted.y.T, rtol=0, atol=1e-8)


def order(solve, coarse):
    """How fast errors fall when steps are halved, from three solutions of one problem."""
    one, two, four = (solve(coarse / k) for k in (1, 2, 4))
    return math.log2(float((one - two).norm() / (two - four).norm()))


def test_halved_steps_leave_a_sixteenth_of_the_error(simulator):
    theta, given = begun(simulator, 4)
    end = SHORT[simulator.name]

    def ours(longest):
        return type(simulator)(times=(end,), longest=longest).solve(theta, given)

    def planted(longest):  # Euler's method
        state = given["initial"]
        for _ in range(round(end / longest)):
            state = state + longest * simulator.rate(state[:, None], theta)[:, 0]
        return state

    assert abs(order(ours, end / 50) - 4) < 0.2
    assert abs(order(planted, end / 1000) - 1) < 0.2


def test_the_longest_step_holds_for_unequal_frames(simulator):
    theta, given = begun(simulator, 2)
    end = SHORT[simulator.name]
    some = type(simulator)(times=(0.1 * end, 0.37 * end, end)).solve(theta, given)
    all_of_them = type(simulator)(times=(0.0, 0.1 * end, 0.2 * end, 0.37 * end, end)).solve(theta, given)
    assert torch.equal(all_of_them[:, 0], given["initial"])
    torch.testing.assert_close(some, all_of_them[:, [1, 3, 4]], rtol=0, atol=1e-4)
    assert torch.equal(type(simulator)(times=(0.0,)).solve(theta, given)[:, 0], given["initial"])


def test_residuals_fall_with_the_square_of_the_frames_distance(simulator):
    theta, given = begun(simulator, 2)
    sizes = []
    for count in (100, 200):
        times = tuple(SHORT[simulator.name] * k / count for k in range(count + 1))
        equation = type(simulator)(times=times, longest=SHORT[simulator.name] / 400)
        solution = equation.solve(theta, given)
        sizes.append(float(equation.residual(solution, theta, given).norm() / math.sqrt(count)))
    assert abs(sizes[0] / sizes[1] - 4) < 0.3
    wrong = theta * 1.05
    assert float(equation.residual(solution, wrong, given).norm() / math.sqrt(count)) > 20 * sizes[1]


def test_parameters_have_gradients(simulator):
    theta, given = begun(simulator, 1)
    equation = type(simulator)(times=(SHORT[simulator.name] / 10,))
    theta.requires_grad_()
    slope = torch.autograd.grad(equation.solve(theta, given).square().sum(), theta)[0]
    for k in range(theta.shape[1]):
        step = torch.zeros_like(theta)
        step[0, k] = 1e-5
        with torch.no_grad():
            ends = [equation.solve(theta + sign * step, given).square().sum() for sign in (1, -1)]
        assert float(slope[0, k]) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("name", ["lorenz_63", "fitzhugh_nagumo"])
def test_one_state_to_start_from(name):
    kind = type(named(name))
    state = (0.5, -1.0, 2.0)[: 3 if name == "lorenz_63" else 2]
    simulator = kind(initial=state)
    theta = simulator.prior.sample(3, generator=generator())
    x = simulator(theta, generator=generator(1))
    assert not simulator.random
    assert x["initial"].tolist() == [list(state)] * 3
    assert torch.equal(x["u"], simulator(theta, generator=generator(2))["u"])
    with pytest.raises(ValueError, match="numbers, "):
        kind(initial=(1.0,))


def test_fields_to_start_the_ring_from():
    kind = type(named("lorenz_96"))
    assert kind().random
    simulator = kind(sites=12, initial=Waves((2.0,)))
    assert not simulator.random
    x = simulator(torch.tensor([[8.0]]), generator=generator())
    wave = 2 * torch.sin(2 * math.pi * torch.arange(12) / 12)
    torch.testing.assert_close(x["initial"][0, 0], wave, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="3 sites"):
        kind(sites=3)


# --- Lorenz, 1963 ---------------------------------------------------------------------------------------------------


def check_contraction(rate, theta):
    """The trace of the Jacobian is -(sigma + 1 + beta) everywhere."""
    for point in torch.randn(5, 3, generator=generator(4), dtype=torch.float64) * 10:
        jacobian = torch.func.jacrev(lambda y: rate(y[None, None], theta)[0, 0])(point)
        assert float(jacobian.trace()) == pytest.approx(-float(theta[0, 0] + 1 + theta[0, 2]), rel=1e-12)


def test_volumes_shrink_at_one_rate_in_lorenz_63():
    simulator, theta = named("lorenz_63"), classic("lorenz_63")
    check_contraction(simulator.rate, theta)
    wrong = theta * torch.tensor([1.0, 1.0, -1.0])  # the sign of beta z
    with pytest.raises(AssertionError):
        check_contraction(lambda y, _: simulator.rate(y, wrong), theta)
    moved = type(simulator)(times=(0.3,), longest=0.002)
    state = torch.tensor([1.0, 2.0, 20.0], dtype=torch.float64)
    flow = torch.func.jacrev(lambda y: moved.solve(theta, {"initial": y[None]})[0, 0])(state)
    volume = math.exp(-0.3 * (10.0 + 1 + 8 / 3))  # Liouville
    assert float(torch.linalg.det(flow)) == pytest.approx(volume, rel=1e-6)


@pytest.mark.slow
def test_fixed_points_of_lorenz_63():
    kind = type(named("lorenz_63"))
    sigma, rho, beta = 10.0, 20.0, 8 / 3  # below 24.74, so that C+- are stable
    theta = torch.tensor([[sigma, rho, beta]], dtype=torch.float64)
    away = math.sqrt(beta * (rho - 1))
    fixed = torch.tensor([[away, away, rho - 1], [-away, -away, rho - 1], [0, 0, 0]], dtype=torch.float64)
    simulator = kind(times=(0.0, 50.0), longest=0.02)
    assert float(simulator.rate(fixed[:, None], theta.expand(3, -1)).abs().max()) < 1e-12
    near = simulator.solve(theta.expand(2, -1), {"initial": fixed[:2] * 1.02})
    assert float((near[:, -1] - fixed[:2]).abs().max()) < 1e-3 < 0.05 < float((near[:, 0] - fixed[:2]).abs().max())
    resting = torch.tensor([[sigma, 0.5, beta]], dtype=torch.float64)  # rho < 1: everything ends at the origin
    ends = simulator.solve(resting, {"initial": torch.tensor([[3.0, -5.0, 20.0]], dtype=torch.float64)})[:, -1]
    assert float(ends.abs().max()) < 1e-8


def test_lorenz_63_turns_either_way():
    simulator, theta = named("lorenz_63"), classic("lorenz_63")
    state = torch.tensor([[1.0, 2.0, 20.0]], dtype=torch.float64)
    mirror = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    there, back = (simulator.solve(theta, {"initial": s}) for s in (state, state * mirror))
    torch.testing.assert_close(there, back * mirror, rtol=0, atol=1e-9)


# --- Lorenz, 1996 ---------------------------------------------------------------------------------------------------


def check_energy(rate, theta):
    """dE/dt = -2 E + F sum_k x_k."""
    x = 4 * torch.randn(3, 1, 1, 40, generator=generator(5), dtype=torch.float64)
    budget = -x.square().sum(-1) + theta[:, :1, None] * x.sum(-1)
    torch.testing.assert_close((x * rate(x, theta)).sum(-1), budget, rtol=1e-12, atol=1e-10)


def test_energy_of_lorenz_96():
    simulator, theta = named("lorenz_96"), classic("lorenz_96", 3)
    check_energy(simulator.rate, theta)

    def planted(x, theta):  # two neighbours swapped
        return (x.roll(-1, -1) - x.roll(1, -1)) * x.roll(2, -1) - x + theta[:, :, None, None]

    with pytest.raises(AssertionError):
        check_energy(planted, theta)


def check_waves(rate, force, m):
    """A weak wave about x = F is turned and stretched by F (e^{i phi} - e^{-2 i phi}) - 1."""
    phi, weak = 2 * math.pi * m / 40, 1e-6
    wave = torch.exp(1j * phi * torch.arange(40, dtype=torch.float64))
    theta = torch.tensor([[force]], dtype=torch.float64)
    slope = (rate((force + weak * wave.real)[None, None, None], theta)[0, 0, 0]) / weak
    grown = (force * (np.exp(1j * phi) - np.exp(-2j * phi)) - 1) * wave
    torch.testing.assert_close(slope, grown.real, rtol=0, atol=1e-4)


def test_waves_about_the_uniform_state_of_lorenz_96():
    simulator = named("lorenz_96")
    uniform = torch.full((1, 1, 40), 8.0, dtype=torch.float64)
    assert torch.equal(simulator.solve(classic("lorenz_96"), {"initial": uniform})[:, -1], uniform)
    for m in (1, 3, 8, 19):
        check_waves(simulator.rate, 8.0, m)
    with pytest.raises(AssertionError):  # the ring run the other way round, which keeps the energy's budget
        check_waves(lambda x, theta: simulator.rate(x.flip(-1), theta).flip(-1), 8.0, 3)


def test_a_weakly_driven_ring_comes_to_rest():
    simulator = type(named("lorenz_96"))(times=(60.0,), longest=0.1)
    theta = torch.tensor([[0.5]], dtype=torch.float64)
    start = torch.randn(1, 1, 40, generator=generator(6), dtype=torch.float64)
    assert float((simulator.solve(theta, {"initial": start}) - 0.5).abs().max()) < 1e-8


# --- FitzHugh and Nagumo --------------------------------------------------------------------------------------------


def rest(a, b, tau, current):
    """The one fixed point, and the Jacobian's eigenvalues there."""
    roots = np.roots([-1 / 3, 0.0, 1 - 1 / b, current - a / b])
    v = float(roots[np.abs(roots.imag) < 1e-9].real[0])
    return (v, (v + a) / b), np.linalg.eigvals([[1 - v**2, -1.0], [1 / tau, -b / tau]])


@pytest.mark.parametrize(("current", "fires"), [(0.2, False), (0.4, True), (1.5, False)])
def test_the_cell_fires_where_its_rest_is_unstable(current, fires):
    values = (0.7, 0.8, 12.5, current)
    (v, w), eigenvalues = rest(*values)
    assert (eigenvalues.real.max() > 0) == fires
    simulator, theta = named("fitzhugh_nagumo"), torch.tensor([values], dtype=torch.float64)
    still = torch.tensor([[[v, w]]], dtype=torch.float64)
    assert float(simulator.rate(still, theta).abs().max()) < 1e-12
    kind = type(simulator)
    near = kind(times=tuple(300.0 + k for k in range(50)), longest=0.2).solve(theta, {"initial": still[:, 0] + 0.05})
    swing = float(near[0, :, 0].max() - near[0, :, 0].min())
    assert swing > 2 if fires else swing < 1e-3
    # close to rest, the angle by which it turns and the growth are those of the eigenvalues
    weak = 1e-7
    soon = kind(times=(5.0,), longest=0.01).solve(theta, {"initial": still[:, 0] + weak * torch.eye(2).double()[:1]})
    jacobian = torch.func.jacrev(lambda y: simulator.rate(y[None, None], theta)[0, 0])(still[0, 0])
    wanted = torch.linalg.matrix_exp(5.0 * jacobian)[:, 0]
    torch.testing.assert_close((soon[0, 0] - still[0, 0]) / weak, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(sorted(torch.linalg.eigvals(jacobian).real), sorted(eigenvalues.real), atol=1e-10)


# --- frames ---------------------------------------------------------------------------------------------------------


def test_times_that_no_solution_has_are_refused():
    for times, longest in (((0.0, 0.0), 0.1), ((-1.0, 0.0), 0.1), ((), 0.1), ((0.0, 1.0), 0.0), ((0.0, 1.0), math.nan)):
        with pytest.raises(ValueError, match="expected"):
            frames(lambda t, y: -y, torch.ones(1, 1), times, longest=longest)


def test_time_is_that_of_the_equation():
    found = frames(lambda t, y: 2 * t * torch.ones_like(y), torch.zeros(1, 1).double(), (0.5, 2.0), longest=0.3)
    torch.testing.assert_close(found[0, :, 0], torch.tensor([0.25, 4.0], dtype=torch.float64))
