r"""A trained score posterior whose draws take a few evaluations.

From level s_k to s_{k+1} of a short grid the teacher goes in M small steps, y_k to y_{k+1}. The student makes the same
way in one step of DDIM, y_{k+1} = r y_k + (1 - r) D, r = s_{k+1} / s_k, so what it is to give is

    D*_k = (y_{k+1} - r y_k) / (1 - r),

and it minimises, over draws of (theta, x), k and noise e, with y_k = z + s_k e and N(m, S) the linear guess,

    (1 - r)^2 | (S + s_{k+1}^2 I)^{-1/2} (D(y_k, s_k; x) - D*_k) |^2 / D,

the error of y_{k+1} at its own scale. The student has the teacher's network and begins with its weights. Densities
remain the teacher's.

This is progressive distillation with all halvings at once: the teacher is asked M times per row. With `stages` it is
the paper's: in each training the student learns to make one step of two steps of DDIM, at the levels where its teacher
stops, and is the teacher of the next. L stages begin at `steps` 2^L steps of the first teacher.

References:
    | Progressive Distillation for Fast Sampling of Diffusion Models (Salimans & Ho, 2022),
      https://arxiv.org/abs/2202.00512
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Density, Estimator, Fit, Learns, X
from sciinf.core.checks import check_whole
from sciinf.core.component import called_without
from sciinf.core.simulator import Simulator
from sciinf.diffusion.grid import Grid, Power
from sciinf.diffusion.schedule import Level
from sciinf.diffusion.solver import Exponential, noise_like
from sciinf.engine.recipe import Recipe
from sciinf.estimators._denoising import DenoisedDensity, Denoising
from sciinf.store import Store
from sciinf.training import train


class FewSteps(Estimator):
    """The student, teacher included.

    Args:
        teacher: Trained; a copy is kept as it is.
        of: Digest of the teacher's fit, which tells students apart.
        steps: Evaluations of a draw.
        small: M, steps of the teacher for one of the student.
        grid: Where the student stops.
        before: The student of the stage before, whose M steps are of DDIM; the teacher itself, by steps of second
            order, where left out.

    Raises:
        TypeError: If the teacher does not denoise.
        ValueError: If a number is no int of at least 1.
    """

    learns: ClassVar[Learns] = "noise"

    def __init__(
        self,
        teacher: Denoising,
        of: str = "",
        *,
        steps: int = 4,
        small: int = 5,
        grid: Grid | None = None,
        before: Denoising | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(teacher, Denoising):
            raise TypeError(f"{type(teacher).__name__} has no steps to save; distil a Score or a Matching")
        check_whole("steps", steps, 1)
        check_whole("small", small, 1)
        self.prior, self.observables, self.of = teacher.prior, teacher.observables, of
        self.teacher, self.student = copy.deepcopy(teacher), copy.deepcopy(before or teacher)
        self.before = None if before is None else copy.deepcopy(before).requires_grad_(False)
        self.teacher.requires_grad_(False)
        self.student.requires_grad_(True)
        self.student.solver = Exponential(steps, 1, grid or Power(3.0))
        self.steps, self.small = steps, small
        if before is None:
            called_without(self, "before")

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Nothing: all standardisation is the teacher's."""

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        shift = int(torch.randint(self.steps, (1,), generator=generator, device=generator.device))
        sizes = [len(batch) // self.steps + (k < len(batch) % self.steps) for k in range(self.steps)]
        losses, start = [], 0
        for k, size in enumerate(sizes):
            if size:
                part = batch.rows(slice(start, start + size))
                losses.append(self._step(part, (k + shift) % self.steps, generator))
            start += size
        return torch.cat(losses)

    def _step(self, batch: Batch, k: int, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """The loss of rows at step k."""
        path = self.student.diffusion.schedule
        before, after = self.levels()[k : k + 2]
        with torch.no_grad():
            z = self.teacher.to_z(batch.theta)
            y = z + before * noise_like(z, generator)
            if self.before is None:
                asked = self.teacher.condition(batch.x).denoise
                there = Exponential(self.small, 2).solve(asked, y, Level(after, before), generator=generator)
            else:
                asked, there = self.before.condition(batch.x).denoise, y
                finer = self.levels(self.small)[k * self.small : (k + 1) * self.small + 1]
                for high, low in itertools.pairwise(finer):
                    there = low / high * there + (1 - low / high) * asked(there, y.new_tensor(max(high, path.least)))
        ratio = after / before
        student = self.student
        values = student.standardise_x(batch.x)
        prepared = student.network.prepare(student.told(values, batch.x))
        found = student.denoise(y, y.new_tensor(max(before, path.least)), student.guess(values), prepared)
        off = (1 - ratio) * found - there + ratio * y
        return student.guess.spread().whitened(off, y.new_tensor(after)).square().mean(-1)

    def levels(self, finer: int = 1) -> list[float]:
        """s_0 > ... > s_steps, or those of as many times as many steps, among which they are."""
        solver = self.student.solver
        if not isinstance(solver, Exponential):
            raise TypeError("the student's steps are those of Exponential(steps, 1)")
        return solver.grid.levels(self.student.diffusion.schedule, finer * self.steps).tolist()

    def condition(self, x: X) -> FewStepDensity:
        return FewStepDensity(self.student.condition(x), self.teacher.condition(x))

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.teacher.features(x)


class FewStepDensity(Density):
    """The student's draws and the teacher's densities."""

    def __init__(self, student: DenoisedDensity, teacher: DenoisedDensity) -> None:
        self.student, self.teacher = student, teacher

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        return self.student.sample(n, generator=generator)

    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        return self.teacher.log_prob(theta)


def distil(
    fit: Fit,
    rows: Store | Simulator,
    out: str | Path,
    *,
    steps: int = 4,
    stages: int = 0,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> Fit:
    """Train a student whose draws take `steps` evaluations.

    Args:
        fit: Of a `Score` or a `Matching`.
        rows: Simulations, those of the fit or others.
        out: Folder of the new fit.
        steps: Evaluations of a draw.
        stages: How many times the number of steps is halved, each time by a training; at once where 0. The students
            before the last are kept in folders `stage_<steps>` of `out`.
        recipe: How to train, each time; on stored rows twice as long as other estimators that denoise where left out.
        seed: Seeds the training.

    Returns:
        A fit as `train` gives it.

    Raises:
        TypeError, ValueError: As `FewSteps` and `train`.
    """
    if not isinstance(fit.estimator, Denoising):
        raise TypeError(f"{type(fit.estimator).__name__} has no steps to save; distil a Score or a Matching")
    if recipe is None and isinstance(rows, Store):
        usual = Recipe().resolved(len(rows), learns="noise").epochs
        recipe = Recipe(epochs=2 * usual) if usual else None
    check_whole("stages", stages, 0)
    if not stages:
        return train(FewSteps(fit.estimator, fit.digest, steps=steps), rows, out, recipe=recipe, seed=seed)
    found, before = fit, fit.estimator
    for many in [steps * 2**left for left in reversed(range(stages))]:
        student = FewSteps(fit.estimator, fit.digest, steps=many, small=2, before=before)
        found = train(student, rows, out if many == steps else Path(out) / f"stage_{many}", recipe=recipe, seed=seed)
        before = cast(FewSteps, found.estimator).student
    return found
