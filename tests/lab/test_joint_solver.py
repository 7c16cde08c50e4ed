"""Ways back through auxiliaries, on mixtures whose joint scores are exact: they arrive, and at the order they state."""

from __future__ import annotations

import json
import math

import pytest
import torch
from diffusion.mixtures import LINE, PLANE
from diffusion.training import distance_to_line
from lab.linear import DAMPED, FLIPPED, NOISY, PROCESSES
from torchdiffeq import odeint

from sciinf.core.component import from_json, to_json
from sciinf.lab.joint_solver import JointAncestral, JointExponential
from sciinf.networks.diffusion.grid import Geometric, Power
from sciinf.networks.diffusion.schedule import NoiseLevel, VariancePreserving
from sciinf.networks.diffusion.solver import Exponential

PATH = NoiseLevel(1e-2, 20.0)
RESTING = {name: PROCESSES[name] for name in ("preserving", "damped", "both", "three")}
resting = pytest.mark.parametrize("process", RESTING.values(), ids=RESTING)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def start(rows, dim=1, path=PATH):
    noise = torch.randn(rows, dim, generator=seeded(1), dtype=torch.float64)
    return math.sqrt(path.most**2 + 1) * noise


def walked(solver, rows=300):
    """u at the end, from the same u at the start whatever the solver, and its calls."""
    calls, times = [0], solver.process.time(solver.grid.levels(PATH, solver.steps))
    u = solver.process.kernel(times[0]).lift(start(rows), seeded(2))
    inner = solver.process.joint(LINE.denoise)

    def denoise(value, time):
        calls[0] += 1
        return inner(value, time)

    return solver.walk(denoise, u, times, generator=seeded(3)), calls[0]


@pytest.fixture(scope="module", params=["damped", "both"])
def exactly(request):
    """A process and where its probability flow ends, by a general solver and the joint score."""
    process = PROCESSES[request.param]
    first, last = process.time(Geometric().levels(PATH, 1))
    gain, joint = process.noise @ process.noise.T, process.joint(LINE.denoise)

    def slope(log_time, u):
        time = log_time.exp()
        score = process.kernel(time).score(u, joint(u, time))
        return time * (process.drift @ u - 0.5 * gain @ score)

    u = process.kernel(first).lift(start(300), seeded(2))
    span = torch.stack([first.log(), last.log()])
    return process, odeint(slope, u, span, method="dopri5", rtol=1e-7, atol=1e-7)[-1]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_deterministic_way_converges_at_its_order(exactly, order):
    process, exact = exactly
    errors = []
    for steps in (50, 100):
        solver = JointExponential(process, steps, order)
        found, calls = walked(solver)
        assert calls == solver.evaluations() == steps
        errors.append(float((found - exact).abs().mean()))
    assert solver.order == order
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.3


@pytest.mark.parametrize("order", [1, 2, 3])
def test_without_auxiliaries_it_is_the_exponential_integrator(order):
    y = start(100)
    solver = JointExponential(PROCESSES["preserving"], 15, order)
    found = solver.solve(LINE.denoise, y, PATH, generator=seeded())
    expected = Exponential(15, order).solve(LINE.denoise, y, PATH, generator=seeded())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("process", [RESTING["damped"], RESTING["three"]], ids=["damped", "three"])
def test_the_random_way_converges_at_its_order(process):
    """Errors stand well above what 20,000 draws can tell, 0.007."""
    errors = []
    for steps in (10, 30):
        solver = JointAncestral(process, steps)
        errors.append(distance_to_line(solver.solve(LINE.denoise, start(20_000), PATH, generator=seeded()), PATH.least))
    assert solver.order == 1
    assert solver.evaluations() == 30
    assert 0.6 < math.log(errors[0] / errors[1]) / math.log(3) < 1.6


@pytest.mark.slow
@resting
@pytest.mark.parametrize("make", [JointExponential, JointAncestral], ids=["exponential", "ancestral"])
@pytest.mark.parametrize("path", [VariancePreserving(least=1e-2), PATH], ids=["preserving", "level"])
def test_every_mode_of_a_plane_gets_its_share(process, make, path):
    """Means and second moments of 4,000 draws: 5 numbers at 5 standard errors each; false alarms below 1e-5."""
    steps = 60 if make is JointExponential else 160
    draws = make(process, steps).solve(PLANE.denoise, start(4_000, 2, path), path, generator=seeded())
    exact = PLANE.sample(20_000, seeded(3))
    for of in (lambda x: x, lambda x: torch.stack([x[:, 0] ** 2, x[:, 1] ** 2, x[:, 0] * x[:, 1]], dim=1)):
        a, b = of(draws), of(exact)
        error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 5 * error + 0.02).all()


@pytest.mark.parametrize("solver", [JointExponential(DAMPED, 80), JointAncestral(DAMPED, 150)], ids=["flow", "random"])
def test_draws_have_the_right_quantiles_and_planted_faults_would_be_seen(solver):
    """Faults: the walk couples data and auxiliary with the wrong sign, or puts noise on the data as well."""
    u, times = walked(solver, 20_000)[0], solver.process.time(solver.grid.levels(PATH, solver.steps))
    assert distance_to_line(DAMPED.kernel(times[-1]).project(u), PATH.least) < 0.025
    first = DAMPED.kernel(times[0]).lift(start(4_000), seeded(2))
    for fault in (FLIPPED, NOISY):
        wrong = type(solver)(fault, solver.steps)
        drawn = wrong.walk(DAMPED.joint(LINE.denoise), first, times, generator=seeded(3))
        assert distance_to_line(DAMPED.kernel(times[-1]).project(drawn), PATH.least) > 0.06


@pytest.mark.parametrize("solver", [JointExponential(), JointAncestral()], ids=["flow", "random"])
def test_same_generator_same_draws_in_float32_too(solver):
    first, second = (solver.solve(PLANE.denoise, start(30, 2), PATH, generator=seeded()) for _ in range(2))
    assert torch.equal(first, second)
    single = solver.solve(
        lambda y, s: PLANE.denoise(y.double(), s.double()).float(), start(30, 2).float(), PATH, generator=seeded()
    )
    assert single.dtype == torch.float32
    assert single.isfinite().all()


def test_rows_keep_their_shape():
    y = start(24, 2).reshape(4, 6, 2)
    for solver in (JointExponential(steps=5), JointAncestral(steps=5)):
        assert solver.solve(PLANE.denoise, y, PATH, generator=seeded()).shape == y.shape


def test_a_solver_is_saved_with_its_diffusion():
    solver = JointExponential(DAMPED, 7, 1, Power())
    again = from_json(json.loads(json.dumps(to_json(solver))))
    y = start(5)
    first, second = (one.solve(LINE.denoise, y, PATH, generator=seeded()) for one in (solver, again))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: JointExponential(steps=0), "steps"),
        (lambda: JointExponential(order=4), "order"),
        (lambda: JointAncestral(steps=True), "steps"),
    ],
    ids=["no steps", "order", "boolean"],
)
def test_wrong_settings_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        wrong()
