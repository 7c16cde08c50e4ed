r"""Distillation of a trained score posterior into a student network whose draws take only a few evaluations.

From level s_k to s_{k+1} of a short grid the teacher goes in M small steps, y_k to y_{k+1}. The student makes the same
way in one step of DDIM, y_{k+1} = r y_k + (1 - r) D, r = s_{k+1} / s_k. So the output that the student has to learn is

    D*_k = (y_{k+1} - r y_k) / (1 - r),

and the student minimises, over draws of (theta, x), k and noise e, with y_k = z + s_k e and N(m, S) the linear guess,

    (1 - r)^2 | (S + s_{k+1}^2 I)^{-1/2} (D(y_k, s_k; x) - D*_k) |^2 / D,

the error of y_{k+1} at its own scale. The student has the teacher's network and begins with the teacher's weights.
Densities remain those of the teacher.

This is progressive distillation with all halvings at once: the teacher is evaluated M times per row. With `stages` the
method is that of the paper. In each training after the first, the student learns to make one step out of two steps of
DDIM, at the levels where its teacher stops. It is then the teacher of the next training. L stages begin with a student
of `steps` 2^L steps, which learns from the first teacher as above. That teacher's own draws in so few steps of DDIM are
far too narrow.

**A check of the student.** For held-out x the student's draws are compared with the teacher's draws from the same
noise. For each coordinate of z the fit's record has two figures, each with its standard error. One is the student's
variance over the teacher's, a geometric mean over x. The other is the distance of their means in sds, a root mean
square over x without the part that chance adds.

References:
    | Progressive Distillation for Fast Sampling of Diffusion Models (Salimans & Ho, 2022),
      https://arxiv.org/abs/2202.00512
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.campaigns.store import Store
from sciinf.core import Adjusting, Batch, Density, Estimator, Fit, Learns, X
from sciinf.core.checks import check_whole
from sciinf.core.component import called_without
from sciinf.core.doubts import doubt
from sciinf.core.simulator import Simulator
from sciinf.networks.diffusion.grid import Grid, Power
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Exponential, noise_like
from sciinf.training import train
from sciinf.training.estimators._denoising import DenoisedDensity, Denoising
from sciinf.training.recipe import Recipe

# The check uses at most 128 held-out x, with 64 draws for each, and needs at least 16 of them.
_ROWS, _DRAWS, _FEWEST = 128, 64, 16
# Tolerances of the check: a ratio of variances (a tenth of an sd), and a distance of means in sds.
_NARROW, _OFF = 0.81, 0.15
_BY_CHANCE = 0.01  # Largest probability of doubting a student whose draws are those of its teacher.


class FewSteps(Estimator, Adjusting):
    """A student estimator that draws in a few evaluations, together with its teacher.

    Args:
        teacher: Trained estimator that denoises. The student keeps an unchanged copy of it.
        of: Digest of the teacher's fit, by which students of different teachers are told apart.
        steps: Number of network evaluations for one draw.
        small: M, the number of the teacher's steps for one step of the student.
        grid: Grid of noise levels at which the student stops.
        before: Student of the stage before, whose M steps of DDIM are the target. If left out, the target is the
            teacher's M steps, of second order.

    Raises:
        TypeError: If the teacher does not denoise.
        ValueError: If `steps` or `small` is no int of at least 1.
    """

    learns: Learns = "noise"

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
        """Do nothing, because the student uses the teacher's standardisation."""

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
        """Loss of each row at step k of the grid."""
        path = self.student.diffusion.schedule
        before, after = self.levels()[k : k + 2]
        with torch.no_grad():
            z = self.teacher.to_z(batch.theta)
            y = z + before * noise_like(z, generator)
            if self.before is None:
                asked = self.teacher.condition(batch.x).denoise
                there = Exponential(self.small, 2).solve(asked, y, NoiseLevel(after, before), generator=generator)
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

    @torch.no_grad()
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        """Compare the student's draws with the teacher's for held-out rows (see `compared`)."""
        x = {name: value[:_ROWS] for name, value in next(iter(batches())).x.items()}
        student, teacher = (
            self.teacher.to_z(one.condition(x).sample(_DRAWS, generator=torch.Generator().manual_seed(0)))
            for one in (self.student, self.teacher)
        )
        return compared(student, teacher, self.coordinates())

    def coordinates(self) -> list[str]:
        """Names of the coordinates of z: the parameters' names, or numbers if parameters are tied to each other."""
        size = self.prior.bijection.size
        return list(self.prior.names) if size == len(self.prior) else [f"coordinate {k}" for k in range(size)]

    def levels(self, finer: int = 1) -> list[float]:
        """Noise levels of the student's grid, or of a grid with `finer` times as many steps.

        The levels are s_0 > ... > s_steps. The finer grid contains the levels of the coarse one.
        """
        solver = self.student.solver
        if not isinstance(solver, Exponential):
            raise TypeError("the student's steps are those of Exponential(steps, 1)")
        return solver.grid.levels(self.student.diffusion.schedule, finer * self.steps).tolist()

    def condition(self, x: X) -> FewStepDensity:
        return FewStepDensity(self.student.condition(x), self.teacher.condition(x))

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.teacher.features(x)


class FewStepDensity(Density):
    """Density that samples with the student and evaluates log densities with the teacher."""

    def __init__(self, student: DenoisedDensity, teacher: DenoisedDensity) -> None:
        self.student, self.teacher = student, teacher

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        return self.student.sample(n, generator=generator)

    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        return self.teacher.log_prob(theta)


def compared(
    student: Float[Tensor, "draw row dim"], teacher: Float[Tensor, "draw row dim"], names: Sequence[str]
) -> dict[str, float]:
    """Compare a student's draws of z with its teacher's draws.

    Args:
        student: The student's draws for each of some observations.
        teacher: The teacher's draws for the same observations.
        names: Names of the coordinates of z.

    Returns:
        For each coordinate NAME, the figures `student_variance_NAME` and `student_off_NAME` (see the module). Also
        `student_variance_error_NAME`, the standard error of the logarithm of the first, `student_off_error_NAME`, the
        standard error of the square of the second, and `student_rows`, the number of observations. Empty if fewer than
        16 observations have finite draws.
    """
    z = torch.stack([student, teacher]).double().cpu()
    z = z[:, :, z.isfinite().all(-1).all(0).all(0)]
    if (rows := z.shape[2]) < _FEWEST:
        return {}
    variance = z.var(1).clamp_min(torch.finfo(z.dtype).tiny)
    # The draws are halved, so that the product of both differences has no part that chance adds.
    first, second = (half.mean(1).diff(dim=0)[0] for half in z.chunk(2, 1))
    ratio, off = (variance[0] / variance[1]).log(), first * second / variance.mean(0)
    found = {"student_rows": float(rows)}
    for name, log, square in zip(names, ratio.T, off.T, strict=True):
        found[f"student_variance_{name}"] = float(log.mean().exp())
        found[f"student_variance_error_{name}"] = float(log.std()) / rows**0.5
        found[f"student_off_{name}"] = float(square.mean().clamp_min(0).sqrt())
        found[f"student_off_error_{name}"] = float(square.std()) / rows**0.5
    return found


def faults(found: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """Faults of a student in words, from the figures of `compared`; empty if chance alone could explain the figures.

    Of students whose draws have the teacher's distribution, at most one in a hundred has any fault.
    """
    if "student_rows" not in found:
        return []
    from scipy.stats import t

    least, words = t.isf(_BY_CHANCE / (4 * len(names)), found["student_rows"] - 1), list[str]()
    for name in names:
        variance, off = found[f"student_variance_{name}"], found[f"student_off_{name}"]
        if abs(math.log(variance)) > max(-math.log(_NARROW), least * found[f"student_variance_error_{name}"]):
            words.append(f"{variance:.2f} times the variance of {name!r}")
        if off**2 > max(_OFF**2, least * found[f"student_off_error_{name}"]):
            words.append(f"means of {name!r} that are {off:.2f} sds off")
    return words


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
        fit: Fit of a `Score` or a `Matching`, the teacher.
        rows: Simulations, those of the fit or others.
        out: Folder of the new fit.
        steps: Number of network evaluations for one draw.
        stages: How many times the number of steps is halved. Each halving is one more training, after the training of
            a student of `steps` 2^stages steps. All students but the last are kept in folders `stage_<steps>` of `out`.
        recipe: How to train, each time. If left out, training on stored rows takes twice as many epochs as for other
            estimators that denoise.
        seed: Seeds the training.

    Returns:
        A fit as `train` gives it, whose record compares the student's draws with the teacher's (`compared`).

    Raises:
        TypeError, ValueError: As `FewSteps` and `train`.

    Warns:
        Doubt: If, for held-out simulations and by more than chance, an sd of the student's draws is off by a tenth of
            the teacher's, or a mean by .15 sds.
    """
    if not isinstance(fit.estimator, Denoising):
        raise TypeError(f"{type(fit.estimator).__name__} has no steps to save; distil a Score or a Matching")
    if recipe is None and isinstance(rows, Store):
        usual = Recipe().resolved(len(rows), learns="noise").epochs
        recipe = Recipe(epochs=2 * usual) if usual else None
    check_whole("stages", stages, 0)
    found, student = fit, FewSteps(fit.estimator, fit.digest, steps=steps * 2**stages)
    for left in reversed(range(stages + 1)):
        folder = Path(out) / f"stage_{student.steps}" if left else out
        found = train(student, rows, folder, recipe=recipe, seed=seed)
        student = cast(FewSteps, found.estimator)
        if left:
            half = student.steps // 2
            student = FewSteps(fit.estimator, fit.digest, steps=half, small=2, before=student.student)
    if words := faults(found.record, student.coordinates()):
        doubt(
            f"for held-out simulations the student's draws have, beside its teacher's, {', '.join(words)}. Take more "
            "steps, train longer (recipe=), or ask the teacher itself",
            alarm=False,
            stacklevel=2,
        )
    return found
