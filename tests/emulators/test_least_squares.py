"""Least squares against what linear algebra says."""

from __future__ import annotations

import torch

from sciinf.emulators.spectral_refiner import gauss_newton


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def matrices(rows=3, seed=0):
    return torch.randn(rows, 12, 5, dtype=torch.float64, generator=generator(seed))


def test_a_linear_problem_takes_no_more_steps_than_unknowns():
    a, b = matrices(), torch.randn(3, 12, dtype=torch.float64, generator=generator(1))

    def residual(z):
        return (a @ z[..., None])[..., 0] - b

    least = residual(torch.linalg.lstsq(a, b[..., None]).solution[..., 0]).norm(dim=1)
    for steps, within in ((5, 1e-4), (10, 1e-4), (1, None)):
        found, taken = gauss_newton(residual, torch.zeros(3, 5).double(), steps)
        assert taken <= steps
        close = (residual(found).norm(dim=1) / least - 1).abs() < (within or 1e-2)
        assert bool(close.all()) == (within is not None)  # the fault: a single step


def test_a_curved_problem_is_solved_and_never_made_worse():
    # 1 + z^3 = 0 from where the first move goes far beyond; a row that is at its least stays there
    def residual(z):
        return 1 + z**3

    start = torch.tensor([[0.2], [-1.0], [2.0]]).double()
    sizes = [residual(gauss_newton(residual, start, n)[0]).abs() for n in (1, 2, 40)]
    assert bool((sizes[0] <= residual(start).abs()).all())
    assert bool((sizes[1] <= sizes[0]).all())
    assert float(sizes[2].max()) < 1e-6
