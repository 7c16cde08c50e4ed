"""Ways back from noise, on mixtures whose denoiser is exact: they arrive, and at the order they state."""

from __future__ import annotations

import math

import pytest
import torch
from diffusion.mixtures import LINE, PLANE

from sciinf.lab.stochastic import (
    AdaptiveEuler,
    Ancestral,
    ExtendedReverse,
    PredictorCorrector,
    ReverseEulerMaruyama,
)
from sciinf.networks.diffusion.grid import Clock, Geometric, Power
from sciinf.networks.diffusion.schedule import NoiseLevel, Straight, VariancePreserving
from sciinf.networks.diffusion.solver import Exponential, Heun, ProbabilityFlow

PATH = NoiseLevel(1e-2, 20.0)
DRAWS = 40_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def start(rows, dim=1, path=PATH):
    noise = torch.randn(rows, dim, generator=seeded(1), dtype=torch.float64)
    return math.sqrt(path.most**2 + 1) * noise


def distance(draws, path=PATH):
    """Wasserstein-1 between draws and the line's law at the path's lowest level."""
    x = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    sd = (LINE.sd[:, 0] ** 2 + path.least**2).sqrt()
    exact = (LINE.weight * torch.special.ndtr((x[:, None] - LINE.mean[:, 0]) / sd)).sum(-1)
    found = torch.searchsorted(draws[:, 0].sort().values, x) / len(draws)
    return float((found - exact).abs().mean() * 8)


def counted(solver, y, path=PATH, mixture=LINE):
    calls = [0]

    def denoise(value, level):
        calls[0] += 1
        return mixture.denoise(value, level)

    return solver.solve(denoise, y, path, generator=seeded(2)), calls[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "order"),
    [
        (lambda steps: Exponential(steps, 1), 1),
        (lambda steps: Exponential(steps, 2), 2),
        (lambda steps: Exponential(steps, 3), 3),
        (lambda steps: Heun(steps, grid=Geometric()), 2),
        (lambda steps: Heun(steps), 2),
    ],
    ids=["exponential-1", "exponential-2", "exponential-3", "heun", "heun-power"],
)
def test_deterministic_solvers_converge_at_their_order(make, order):
    y = start(500)
    exact = ProbabilityFlow(1e-10).solve(LINE.denoise, y, PATH, generator=seeded())
    errors = []
    for steps in (40, 80):
        found, calls = counted(make(steps), y)
        assert calls == make(steps).evaluations()
        errors.append(float((found - exact).abs().mean()))
    assert make(1).order == order
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "order", "counts"),
    [
        (Ancestral, 1, (10, 40)),
        (ReverseEulerMaruyama, 1, (20, 80)),
        (PredictorCorrector, 1, (10, 40)),
        (lambda steps: ExtendedReverse(steps, 1), 1, (10, 40)),
        (lambda steps: ExtendedReverse(steps, 2), 2, (6, 12)),
        (lambda steps: ExtendedReverse(steps, 3), 3, (6, 12)),
    ],
    ids=["ancestral", "euler", "corrected", "extended-1", "extended-2", "extended-3"],
)
def test_stochastic_solvers_converge_at_their_order(make, order, counts):
    """Counts are chosen so that errors stand well above what 40,000 draws can tell, 0.005."""
    errors = []
    for steps in counts:
        found, calls = counted(make(steps), start(DRAWS))
        assert calls == make(steps).evaluations()
        errors.append(distance(found))
    assert errors[1] > 0.01 or order > 1
    assert make(20).order == order
    slope = math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0])
    assert order - 0.6 < slope < order + 0.6


@pytest.mark.slow
def test_adaptive_and_extended_need_a_fifth_of_the_evaluations_of_500_plain_steps():
    plain = distance(counted(ReverseEulerMaruyama(500), start(DRAWS // 2))[0])
    for solver in (AdaptiveEuler(), ExtendedReverse(40)):
        found, calls = counted(solver, start(DRAWS // 2))
        assert calls <= 100
        assert distance(found) <= plain + 0.003  # less than the noise of 20,000 draws


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [
        Exponential(40, 3),
        Heun(30),
        Heun(60, churn=20.0),
        ProbabilityFlow(),
        PredictorCorrector(120),
        ExtendedReverse(60),
    ],
    ids=lambda solver: type(solver).__name__,
)
@pytest.mark.parametrize("path", [VariancePreserving(least=1e-2), Straight(1e-2, 50.0)], ids=["preserving", "straight"])
def test_every_mode_of_a_plane_gets_its_share(solver, path):
    """Mean and covariance of 8,000 draws: with 5 numbers at 5 standard errors each, false alarms below 1e-5."""
    draws, _ = counted(solver, start(8_000, 2, path), path, PLANE)
    exact = PLANE.sample(20_000, seeded(3))
    for of in (lambda x: x, lambda x: torch.stack([x[:, 0] ** 2, x[:, 1] ** 2, x[:, 0] * x[:, 1]], dim=1)):
        a, b = of(draws), of(exact)
        error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 5 * error + 0.02).all()


def test_a_rejecting_adaptive_solver_would_be_seen():
    """The planted fault: noise scaled by 0.9, as rejecting steps with much noise does."""
    shrunk = counted(ExtendedReverse(40), start(DRAWS))[0]
    assert distance(shrunk) < 0.015
    assert distance(shrunk.mean() + 0.9 * (shrunk - shrunk.mean())) > 0.04


def test_rows_of_the_adaptive_solver_go_at_their_own_pace_and_end_together():
    y = torch.cat([start(50), torch.zeros(1, 1, dtype=torch.float64)])
    levels = []

    def denoise(value, level):
        levels.append(level)
        return LINE.denoise(value, level)

    draws = AdaptiveEuler().solve(denoise, y, PATH, generator=seeded(2))
    assert draws.isfinite().all()
    assert any(len(level.unique()) > 1 for level in levels)
    torch.testing.assert_close(levels[-1], torch.full_like(levels[-1], PATH.least), rtol=0.5, atol=0)


@pytest.mark.parametrize("solver", [Exponential(), Heun(churn=5.0), Ancestral(), ExtendedReverse(), AdaptiveEuler()])
def test_same_generator_same_draws(solver):
    first, second = (counted(solver, start(30, 2), mixture=PLANE)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("grid", [Power(), Geometric(), Clock()])
def test_any_grid_arrives(grid):
    path = VariancePreserving(least=1e-2)
    found, _ = counted(Exponential(60, 2, grid), start(DRAWS, path=path), path)
    assert distance(found, path) < 0.02


def test_too_few_plain_steps_are_refused_rather_than_diverging():
    with pytest.raises(ValueError, match="too long to be stable"):
        counted(ReverseEulerMaruyama(5), start(10))


def test_too_many_adaptive_steps_are_refused():
    with pytest.raises(ValueError, match="did not reach level"):
        counted(AdaptiveEuler(most=3), start(10))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Exponential(0),
        lambda: Exponential(10, 4),
        lambda: Heun(True),
        lambda: Heun(10, churn=-1.0),
        lambda: PredictorCorrector(10, ratio=1.0),
        lambda: ExtendedReverse(10, 0),
        lambda: AdaptiveEuler(relative=0.0),
        lambda: ProbabilityFlow(0.0),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        wrong()


def test_extended_reverse_lets_in_the_noise_of_its_authors():
    """Where D is 0 a step is y' = R y + (s'^2 - R^2 s^2)^{1/2} e, R = phi(s') / phi(s), phi(s) = s (exp(s^0.3) + 10).

    With phi(s) = s^2, the reverse process, R would be 0.06 in place of 0.23 and the variance 0.23 in place of 0.04.
    """
    path = NoiseLevel(0.5, 2.0)
    low, high = (s * (math.exp(s**0.3) + 10) for s in (path.least, path.most))
    ratio = low / high
    y = torch.tensor([[-3.0], [5.0]]).double().repeat(20_000, 1)
    found = ExtendedReverse(1).solve(lambda value, level: torch.zeros_like(value), y, path, generator=seeded())
    noise = (found - ratio * y).reshape(-1, 2)
    variance = path.least**2 - ratio**2 * path.most**2
    # five standard errors of a mean and of a variance over 20,000 draws: false alarms 2e-6
    assert float(noise.mean(0).abs().max()) < 5 * (variance / 20_000) ** 0.5
    assert float((noise.var(0) / variance - 1).abs().max()) < 5 * (2 / 20_000) ** 0.5


def test_churn_puts_noise_in_and_keeps_the_law():
    """Without it draws follow from where they start alone; 0.02 is twice the distance of 40,000 draws by chance."""
    y = start(DRAWS)
    for churn, moves in ((0.0, False), (6.0, True)):
        solver = Heun(40, churn)
        one, few, other = (
            solver.solve(LINE.denoise, y[:n], PATH, generator=seeded(seed)) for seed, n in ((2, DRAWS), (2, 9), (3, 9))
        )
        assert (not torch.equal(few, other)) == moves
        assert distance(one) < 0.02
