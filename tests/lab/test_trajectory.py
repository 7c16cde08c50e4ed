"""Grids found on trajectories: the best by their costs, and better than those by rule."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from diffusion.mixtures import LINE, PLANE, Mixture, double

from sciinf.core.component import from_json, to_json
from sciinf.lab.trajectory import Listed, cheapest, costs, fit_grid, solve_finely
from sciinf.networks.diffusion.grid import Geometric, Power
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Exponential, Heun, ProbabilityFlow

PATH = NoiseLevel(1e-2, 20.0)
NARROW = Mixture(
    double([0.4, 0.35, 0.25]),
    double([[-1.2, 0.5], [0.9, 0.9], [0.4, -1.3]]),
    double([[0.05, 0.15], [0.15, 0.05], [0.1, 0.1]]),
)
SOLVERS = {1: lambda steps, grid: Exponential(steps, 1, grid), 2: lambda steps, grid: Heun(steps, grid=grid)}


def start(rows, dim, seed):
    noise = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return math.sqrt(PATH.most**2 + 1) * noise


def random_costs(levels, seed):
    """Steps cost the more the longer they are, as those of a solver do, each by a factor of its own."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(levels, generator=generator, dtype=torch.float64).cumsum(0)
    factor = torch.randn(levels, levels, generator=generator, dtype=torch.float64).exp()
    return (place[None, :] - place[:, None]).abs() ** 2 * factor


def total(cost, way):
    return sum(float(cost[i, j]) for i, j in itertools.pairwise(way))


def greedy(cost, steps):
    """From each level the step that is cheapest for its length, leaving enough levels for the steps to come."""
    way, last = [0], len(cost) - 1
    for left in range(steps - 1, 0, -1):
        here = way[-1]
        way.append(min(range(here + 1, last - left + 1), key=lambda j: float(cost[here, j]) / (j - here)))
    return [*way, last]


@pytest.mark.parametrize("steps", range(1, 9))
def test_the_way_found_is_the_best_of_all(steps):
    for seed in range(5):
        cost = random_costs(9, seed)
        ways = [[0, *inner, 8] for inner in itertools.combinations(range(1, 8), steps - 1)]
        best = min(ways, key=lambda way: total(cost, way))
        assert cheapest(cost, steps) == best


def test_a_greedy_way_would_be_seen():
    """The planted fault: costs more than the best way on nearly all random costs."""
    worse = [
        total(cost, greedy(cost, 4)) > 1.05 * total(cost, cheapest(cost, 4))
        for cost in (random_costs(9, seed) for seed in range(20))
    ]
    assert sum(worse) > 15


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("carried", [False, True])
def test_costs_are_what_one_step_of_the_solver_misses(order, carried):
    levels = Geometric().levels(PATH, 8)
    path = solve_finely(PLANE.denoise, start(12, 2, 0), levels)
    found = costs(PLANE.denoise, path, levels, order=order, carried=carried)
    assert bool(found.tril().isinf().logical_or(torch.ones(9, 9).triu(1) > 0).all())
    for i, j in ((0, 1), (0, 8), (2, 5), (6, 8)):
        step = NoiseLevel(float(levels[j]), float(levels[i]))
        y = SOLVERS[order](1, Power()).solve(PLANE.denoise, path[i], step, generator=torch.Generator())
        if carried:
            for before, after in itertools.pairwise(levels[j:].tolist()):
                y = Heun(1).solve(PLANE.denoise, y, NoiseLevel(after, before), generator=torch.Generator())
        missed = (y - path[8 if carried else j]).norm(dim=-1).mean()
        torch.testing.assert_close(found[i, j], missed, rtol=1e-9, atol=1e-12)


def test_the_fine_solution_is_the_probability_flow():
    levels, y = Geometric().levels(PATH, 32), start(50, 2, 1)
    exact = ProbabilityFlow(1e-9).solve(PLANE.denoise, y, PATH, generator=torch.Generator())
    assert (solve_finely(PLANE.denoise, y, levels)[-1] - exact).norm(dim=-1).mean() < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("mixture", [LINE, PLANE, NARROW], ids=["line", "plane", "narrow"])
def test_few_steps_go_further_on_a_fitted_grid(mixture, order):
    """Found on 16 draws, judged on 1,000 others: at most 0.85 of the error of the better rule."""
    dim = mixture.mean.shape[1]
    y, few = start(1_000, dim, 2), start(16, dim, 3)
    exact = ProbabilityFlow(1e-8).solve(mixture.denoise, y, PATH, generator=torch.Generator())

    def error(steps, grid):
        drawn = SOLVERS[order](steps, grid).solve(mixture.denoise, y, PATH, generator=torch.Generator())
        return float((drawn - exact).norm(dim=-1).mean())

    for steps in (4, 6, 8):
        fitted = fit_grid(mixture.denoise, few, PATH, steps, order=order)
        assert error(steps, fitted) < 0.85 * min(error(steps, Power()), error(steps, Geometric()))


def test_errors_carried_to_the_end_choose_better_where_modes_are_narrow():
    y, few = start(1_000, 2, 2), start(16, 2, 3)
    exact = ProbabilityFlow(1e-8).solve(NARROW.denoise, y, PATH, generator=torch.Generator())
    errors = []
    for carried in (True, False):
        grid = fit_grid(NARROW.denoise, few, PATH, 8, carried=carried)
        drawn = Exponential(8, 1, grid).solve(NARROW.denoise, y, PATH, generator=torch.Generator())
        errors.append(float((drawn - exact).norm(dim=-1).mean()))
    assert errors[0] < 0.8 * errors[1]


def test_a_batch_of_observations_shares_a_grid():
    flat = start(12, 2, 4)
    one = fit_grid(PLANE.denoise, flat, PATH, 5, fine=12)
    batched = fit_grid(PLANE.denoise, flat.reshape(4, 3, 2), PATH, 5, fine=12)
    assert batched.values == one.values


def test_a_listed_grid_is_saved_with_its_solver():
    grid = fit_grid(LINE.denoise, start(4, 1, 0), PATH, 3, fine=8)
    again = from_json(json.loads(json.dumps(to_json(Exponential(3, 1, grid)))))
    assert torch.equal(again.grid.levels(PATH, 3), grid.levels(PATH, 3))
    assert grid.levels(PATH, 3)[[0, -1]].tolist() == [20.0, 0.01]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Listed([1.0]), "two or more"),
        (lambda: Listed([1.0, 2.0]), "fall"),
        (lambda: Listed([1.0, 0.0]), "above 0"),
        (lambda: Listed([math.inf, 1.0]), "finite"),
        (lambda: Listed([20.0, 1.0, 0.01]).levels(PATH, 3), "listed for 2 steps"),
        (lambda: Listed([80.0, 1.0, 0.01]).levels(PATH, 2), "fit_grid"),
        (lambda: cheapest(torch.zeros(4, 4), 4), "1 to 3 steps"),
        (lambda: fit_grid(LINE.denoise, start(4, 1, 0), PATH, 3, order=3), "order"),
        (lambda: fit_grid(LINE.denoise, start(4, 1, 0), PATH, 5, fine=4), "fine"),
        (lambda: fit_grid(LINE.denoise, torch.zeros(0, 1), PATH, 3), "at least one draw"),
    ],
    ids=["one level", "rising", "zero", "infinite", "steps", "path", "too few levels", "order", "fine", "no draws"],
)
def test_wrong_settings_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        wrong()
