r"""Posterior estimation by scores along a diffusion with auxiliary variables, fixed or learned (MDM).

The best linear estimate N(m(x), S) of z given x (`_linear`) is subtracted first: r = S^{-1/2} (z - m(x)) has
mean 0 and covariance I over all rows. The diffusion adds noise to r. The inputs of the network are u = (data,
auxiliaries) and features of x, and its output gives D = E[r | u_t, x] (`lab.hybrid`). Network and diffusion
are trained by the same loss, the bound on

    -log q(z | x) = -log q(r | x) + log det S / 2

in nats (`lab.bound`). A `LinearDiffusion` is not changed by training; a `LearnedDiffusion` is learned as
well.

**Draws** start at the stationary distribution and follow the learned diffusion by a solver of
`lab.joint_solver`.

**Densities.** The density of draws would need integrals over the auxiliaries, which are intractable, so
`log_prob` raises an error. `AuxiliaryDensity.bound` estimates a lower bound on the log density of draws that
a stochastic solver makes (`JointAncestral`, in the limit of many steps). Draws of the deterministic solver
(`JointExponential`) have the same distribution only if D is exact.

References:
    | Where to Diffuse, How to Diffuse, and How to Get Back: Automated Learning for Multivariate Diffusions
      (Singhal et al., 2023), https://arxiv.org/abs/2302.07261
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Density, DensityUnavailable, Learns, Observable, Prior, X
from sciinf.core.checks import check_whole
from sciinf.core.component import rebuilt
from sciinf.core.prior import global_seed
from sciinf.core.summary import Summary
from sciinf.lab.auxiliary import LinearDiffusion
from sciinf.lab.bound import Noising, log_bound
from sciinf.lab.hybrid import denoised
from sciinf.lab.joint_solver import JointExponential, JointSolver
from sciinf.lab.learned import FreeDiffusion, LearnedDiffusion
from sciinf.networks.diffusion.schedule import NoiseLevel, NoiseSchedule
from sciinf.networks.diffusion.solver import noise_like
from sciinf.networks.modulated import Modulated
from sciinf.training.estimators._embedded import Embedded
from sciinf.training.estimators._linear import LinearGuess
from sciinf.training.estimators._standardised import check_part, in_chunks

_LOOKS = 8  # Held-out rows have several levels each, because their loss decides when training stops.


class AuxiliaryScore(Embedded):
    """Amortized posterior estimator by scores of data and auxiliary variables, with draws but no density.

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator, by name.
        summary: One summary network for every observable, or one per name. Chosen automatically by default.
        process: The diffusion. By default, one that is learned.
        path: Lowest and highest noise level, in units of the residual sd of the linear estimate. By default
            from 1e-3 to 20.
        solver: Solver that makes the draws, by default `JointExponential(steps=30)`. Its diffusion is
            replaced by that of the estimator.
        hidden: Width of the network.
        blocks: Number of residual blocks of the network.
        together: Whether observables that are columns of one table share a summary network
            (`networks.summaries.columns`).
        seed: Seed of the initial weights.

    Attributes:
        solver: Solver that makes the draws. Another one may be assigned to a trained estimator.

    Raises:
        TypeError: If a part is no object of its type, for example a class or a name.
        ValueError: If a number is out of range, or the diffusion does not reach the path's levels or has no
            stationary distribution.

    Examples:
        >>> import torch
        >>> from sciinf import Normal
        >>> score = AuxiliaryScore(Prior(mu=Normal(0.0, 1.0)), {"x": Observable((3,))})
        >>> score.condition({"x": torch.zeros(2, 3)}).sample(5, generator=torch.Generator()).shape
        torch.Size([5, 2, 1])
    """

    learns: Learns = "noise"

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        summary: Summary | Mapping[str, Summary] | None = None,
        process: LearnedDiffusion | LinearDiffusion | None = None,
        path: NoiseSchedule | None = None,
        solver: JointSolver | None = None,
        hidden: int = 128,
        blocks: int = 3,
        together: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, summary, seed, together=together)
        if process is not None and not isinstance(process, LearnedDiffusion):
            check_part("process", process, LinearDiffusion, "LearnedDiffusion()")
        check_part("path", path, NoiseSchedule, "Level(1e-3, 20.0)")
        check_part("solver", solver, JointSolver, "JointExponential(steps=30)")
        check_whole("hidden", hidden, 1)
        check_whole("blocks", blocks, 1)
        self.path, self.solver = path or NoiseLevel(1e-3, 20.0), solver or JointExponential(steps=30)
        self.guess = LinearGuess(prior.bijection.size, self.observables)
        self.noising: Noising
        if isinstance(process, LinearDiffusion):
            process.rest()
            process.time(torch.tensor([self.path.least, self.path.most]))
            self.noising = process
        else:
            self.noising = (process or LearnedDiffusion()).build(self.path)
        with global_seed(torch.Generator().manual_seed(seed)):
            width, dim = self.build_summaries(), prior.bijection.size
            self.network = Modulated(self.noising.size * dim, dim, width, hidden, blocks)

    @property
    def process(self) -> LinearDiffusion:
        """The diffusion with its numbers as learned so far."""
        return self.noising.fixed() if isinstance(self.noising, FreeDiffusion) else self.noising

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.standardise_both(batches)
        self.guess.fit(lambda: ((self.to_z(batch.theta), self.standardise_x(batch.x)) for batch in batches()))

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        z, values = self.to_z(batch.theta), self.standardise_x(batch.x)
        prepared, off = self.network.prepare(self.summarise(values, batch.x)), z - self.guess(values)
        if self.training:
            return -self.bound(off, prepared, self.noising, generator)
        return -self.bound(off.expand(_LOOKS, *off.shape), prepared, self.noising, generator).mean(0)

    def bound(
        self, off: Float[Tensor, "*n batch dim"], prepared: Tensor, noising: Noising, generator: torch.Generator
    ) -> Float[Tensor, "*n batch"]:
        """An estimate of the lower bound on log q(z | x), from one noise level for each row.

        Args:
            off: Residuals z - m(x) of the linear estimate.
            prepared: Features of x, prepared by the network.
            noising: The diffusion.
            generator: Source of noise and levels.
        """
        spread = self.guess.spread()
        data = spread.whitened(off, off.new_zeros(()))
        found = log_bound(lambda v, log: self.network(v, log, prepared), data, noising, self.path, generator=generator)
        return found - 0.5 * spread.variance.log().sum()

    def condition(self, x: X) -> AuxiliaryDensity:
        with torch.no_grad():
            data = {name: value.to(self.z_mean.device) for name, value in x.items()}
            values = self.standardise_x(data)
            return AuxiliaryDensity(self, self.guess(values), self.network.prepare(self.summarise(values, data)))


@final
class AuxiliaryDensity(Density):
    """The posteriors of a batch of observations, whose features are computed once.

    Args:
        estimator: The trained estimator.
        mean: Means m(x) of the linear estimate, (batch, D).
        prepared: Features of the observations, prepared by the network.
    """

    def __init__(self, estimator: AuxiliaryScore, mean: Tensor, prepared: Tensor) -> None:
        self.estimator, self.mean, self.process = estimator, mean, estimator.process
        self._prepared = prepared

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        owner, parts = self.estimator, [self.mean.new_empty(0, *self.mean.shape)]
        for first, last in in_chunks(n, len(self.mean), self.mean.device):
            parts.append(self.mean + owner.guess.spread().noisy(self._draw(last - first, generator), 0.0))
        return owner.to_theta(torch.cat(parts))

    def _draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "n batch dim"]:
        """Draw residuals r given the observations."""
        owner, process = self.estimator, self.process
        solver = rebuilt(owner.solver, process=process)
        times = process.time(solver.grid.levels(owner.path, solver.steps))
        blank = self.mean.new_empty(n, len(self.mean), process.size, self.mean.shape[-1])
        u = torch.linalg.cholesky(process.rest()).to(self.mean) @ noise_like(blank, generator)

        def denoise(u: Tensor, time: Tensor) -> Tensor:
            return denoised(lambda v, log: owner.network(v, log, self._prepared), u, process.kernel(time))

        u = solver.walk(denoise, u, times, generator=generator)
        return process.kernel(times[-1]).project(u)

    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """Raise an error, because the density is not tractable.

        Raises:
            DensityUnavailable: Always.
        """
        raise DensityUnavailable(
            "scores with auxiliary variables have no tractable density of parameters; `bound` estimates a "
            "lower bound on the log density, and the estimators Score and Flow have a density"
        )

    @torch.no_grad()
    def bound(
        self, theta: Float[Tensor, "*n batch theta"], *, generator: torch.Generator, levels: int = 32
    ) -> Float[Tensor, "*n batch"]:
        """An unbiased estimate of a lower bound on the log density of draws, in the parameters' own units.

        **The bound is no log density.** The distance to the log density is not known. The bound holds for draws of
        a stochastic solver; see the module's description. It is -inf outside the prior's support.

        Args:
            theta: Parameters.
            generator: Source of noise and levels.
            levels: Number of noise levels that are drawn for each row.

        Raises:
            ValueError: If levels is no int of at least 1, or theta does not have the shape (*n, batch, D).
        """
        check_whole("levels", levels, 1)
        owner = self.estimator

        def found(z: Tensor) -> Tensor:
            off = (z - self.mean).expand(levels, *z.shape)
            return owner.bound(off, self._prepared, self.process, generator).mean(0)

        return owner.log_density(theta, len(self.mean), found)


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> AuxiliaryScore:
    """The estimator with its defaults."""
    return AuxiliaryScore(prior, observables, seed=seed)
