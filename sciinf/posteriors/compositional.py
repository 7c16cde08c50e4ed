r"""The posterior of a set of observations, from an estimator that was trained on single observations.

For x_1..x_n independent given theta, p(theta | x_1..x_n) ~ p(theta)^{1-n} prod_j p(theta | x_j).
`networks.diffusion.composition` makes one denoiser from those of the factors. It takes draws from noise to the
posterior, as for a single observation (GAUSS with centred covariances). Everything happens in z = b(theta), in which
priors that have a distribution function are N(0, I). So their score at every noise level is known, and bounds cause no
problem.

**Correction.** If factors are not Gaussian the path is not exact at high noise, but its end is: the composed score
at the lowest level is the sum of the factors' scores. From the draws, Metropolis-adjusted Langevin steps remove the
remaining error. They use only this score, and are preconditioned by the composed covariance.

**Factors of several.** An estimator of masked sets of up to m observations (`sciinf.wrappers.sets`) takes them m at a
time: n / m factors whose errors add up, at m simulations per row of training (PF-NPSE).

**How many.** An error of a single score that is the same for all observations adds up to n times itself, while the
posterior's sd falls as n^{-1/2}. For the exact posterior and every z

    e(z) = E_{x | z}[ grad log p(z | x) ] - grad log p(z) = 0,

because the mean of the likelihood's score is 0 at the truth. `reliable` estimates e of the network on held-out
simulations, by regression on 1, z_i and z_i^2 in two halves. So the mean over z of e_1^T I^{-1} e_2 / D = t^2 has no
bias, I the mean square of the likelihood's score (Fisher's information). n observations shift the composed posterior by
about t sqrt(n) of its sd in each parameter, which reaches a half at n = 1 / (4 t^2). If the rows tell that t is not 0,
by two of the chance errors c of t^2, already a shift of a third of an sd counts, at n = 1 / (9 (t^2 - 2 c)): an answer
that is off by more is wrong.

References:
    | Compositional Score Modeling for Simulation-Based Inference (Geffner et al., 2023),
      https://arxiv.org/abs/2209.14249
    | Diffusion posterior sampling for simulation-based inference in tall data settings (Linhart et al., 2024),
      https://arxiv.org/abs/2404.07593
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributions as td

from sciinf.campaigns.store import Store
from sciinf.core import Batch, DensityUnavailable, Fit, Observable, X
from sciinf.core.checks import check_whole
from sciinf.core.component import to_json
from sciinf.core.existence import check_continuous
from sciinf.core.fit import trained_on
from sciinf.networks.diffusion.composition import Composition, MultivariateNormals, remainder_of, shrunk
from sciinf.networks.diffusion.joined import Gauss, JoinedParts, Method
from sciinf.posteriors.learned import LearnedPosterior, generator_on
from sciinf.simulators.samplers.langevin import LEAST_WARMUP, Langevin
from sciinf.training.estimators._denoising import Denoising

# Largest shift by errors, in sds: if the rows can hardly detect errors, and if they do detect them.
_HALF, WRONG = 1 / 2, 1 / 3
ERRORS = 2.0  # Rows detect an error if t^2 exceeds this many of its chance errors.
_FINE = 0.03  # Lowest noise level, in units of the composed posterior's smallest sd.


class Compositional(LearnedPosterior):
    """Draws from the posterior of sets of observations.

    Args:
        fit: Fit of a `Score` or `Matching`, from `train` or `load_fit`.
        items: n, the number of observations in a set: x is name -> (batch, n, *event), without masks.
        method: Method by which scores are joined. Default: `Gauss()` (`networks.diffusion.joined`).
        correction: Number of Langevin steps at the end, as warm-up, before one more: 20 or more; 0 for no correction.
        some: Number of observations whose networks are evaluated at each step, drawn anew each time. Default: all. With
            `some` there is no correction.
        held_out: Fresh simulations of single observations, which tell up to which n the answer can be trusted.

    Attributes:
        factors: Number of scores that are added up.
        shift: Expected shift of the posterior by errors of these scores, in sds, and the smallest shift that held-out
            simulations can detect. None and 0 without held-out simulations.

    Raises:
        TypeError: If the fit's estimator has no scores that can be composed.
        ValueError: If a number is out of range, the prior is not Gaussian in z, or the held-out simulations are of the
            campaign that the network was trained on.

    Warns:
        UserWarning: If held-out simulations show that n is too large. Or if there are none, for an estimator without
            the linear guess, whose errors are larger.
    """

    def __init__(
        self,
        fit: Fit,
        items: int,
        *,
        method: Method | None = None,
        correction: int = 20,
        some: int | None = None,
        held_out: Store | None = None,
    ) -> None:
        estimator = fit.estimator
        check_continuous(estimator.prior, "a Compositional")
        if not isinstance(estimator, Denoising):
            raise TypeError(
                f"{type(estimator).__name__} has no scores to compose; train a Score, or a summary network for sets"
            )
        for name, value in (("items", items), ("some", items if some is None else some)):
            check_whole(name, value, 1)
        check_whole("correction", correction, LEAST_WARMUP if correction else 0)
        self.estimator, self.items, self.some = estimator, items, some
        self.method, self.correction = method or Gauss(), 0 if some else correction
        self.name = f"compositional ({items})"
        how = json.dumps([to_json(self.method), items, correction, some], sort_keys=True)
        self.digest = hashlib.sha256(f"{fit.digest} {how}".encode()).hexdigest()
        store = fit.record["store"]
        self.under = store.get("proposal")
        self.trained_on = trained_on(fit)
        self.prior = estimator.prior
        self._most = largest_set(estimator.observables)
        self.factors = -(-items // self._most)
        self.observables: Mapping[str, Observable] = {
            name: (_item(spec) if self._most > 1 else spec).in_sets(items)
            for name, spec in estimator.observables.items()
            if self._most == 1 or spec.dtype != "bool"
        }
        self._prior = _prior_of(estimator)
        self.reliable = math.inf
        self.shift: tuple[float | None, float] = (None, 0.0)
        if held_out is not None:
            if held_out.campaign & self.trained_on:
                raise ValueError(
                    f"{held_out.folder.name} is of the campaign (seed {held_out.seed}) that the network was trained "
                    "on, where its errors do not show: pass held_out= simulations with another seed"
                )
            square, chance = _squares(estimator, held_out.load())
            self.reliable = _most(square, chance)
            self.shift = math.sqrt(max(square, 0.0) * self.factors), math.sqrt(chance * self.factors)
        far = f"beyond {self.reliable * self._most:.0f} observations, and it is asked of {items}"
        if self.reliable < self.factors:
            self.only = self.scope = (
                f"errors of single scores are expected to shift it by a third of an sd or more {far}"
            )
            warnings.warn(f"{self.name}: {self.scope}; train on more simulations", stacklevel=2)
        elif held_out is None and not estimator.linear and self.factors > 1:
            self.only = self.scope = "nothing tells how errors of scores learned with linear=False add up in it"
            words = "pass held_out=, simulations that it was not trained on, or train with linear=True"
            warnings.warn(f"{self.name}: {self.scope}; {words}", stacklevel=2)

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        device = next(self.estimator.buffers()).device
        generator, parts = generator_on(device, generator), [torch.empty(n, 0, len(self.prior))]
        for index in range(_length(x)):
            one = {name: value[index].to(device) for name, value in x.items()}
            parts.append(self.estimator.to_theta(self._draw(one, n, generator)).cpu()[:, None])
        return torch.cat(parts, dim=1)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """Raise, because composed scores have no normalised density.

        Raises:
            DensityUnavailable: Always.
        """
        raise DensityUnavailable("composed scores have no normalised density; use draws, or a Flow trained on sets")

    @torch.no_grad()
    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        """Mean over each set of the single observations' summaries."""
        device = next(self.estimator.buffers()).device
        parts = [self._folded({name: value[k].to(device) for name, value in x.items()}) for k in range(_length(x))]
        return torch.stack([self.estimator.features(part).mean(0) for part in parts]).cpu()

    @torch.no_grad()
    def _draw(self, x: X, n: int, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """Draws of z for one set, name -> (items, *event)."""
        density = self.estimator.condition(self._folded(x))
        single = shrunk(density.draw(draws_of(self.factors, len(self.prior)), generator))
        composition = Composition(single, self._prior, remainder_of(density.score, single))
        smallest = float(torch.linalg.eigvalsh(composition.moments().covariance)[0]) ** 0.5
        most = self.estimator.diffusion.schedule.most
        least = min(_FINE * smallest, 0.5 * most)
        parts = JoinedParts(density.score, single, self._prior, least, most, self.some, density.mean)
        z = self.method.draw(parts, n, generator)
        return self._corrected(z, composition, least, generator) if self.correction else z

    def _folded(self, x: X) -> X:
        """One set, name -> (items, *event), in the form of the training data: single observations, or sets."""
        if self._most == 1:
            return x
        folded: dict[str, Tensor] = {}
        shape = (self.factors, self._most)
        for name, value in x.items():
            padded = value.new_zeros(self.factors * self._most, *value.shape[1:])
            padded[: self.items] = value
            folded[name] = padded.unflatten(0, shape)
            folded[f"{name}_mask"] = (torch.arange(len(padded), device=value.device) < self.items).view(shape)
        return folded

    def _corrected(
        self, z: Tensor, composition: Composition, level: float, generator: torch.Generator
    ) -> Float[Tensor, "n theta"]:
        lowest = z.new_tensor(level)
        chains = Langevin(warmup=self.correction).draw_from_score(
            lambda value: composition.score(value, lowest),
            z[:, None],
            1,
            generator=generator,
            covariance=composition.moments().covariance.to(z)[None],
        )
        return chains.draws[-1, :, 0]


def largest_set(observables: Mapping[str, Observable]) -> int:
    """Size of the largest set that an estimator of masked sets takes; 1 for an estimator of single observations.

    Raises:
        ValueError: If some observables are sets with a mask and others are not.
    """
    names = [name for name, spec in observables.items() if spec.dtype != "bool"]
    sizes = {
        observables[name].shape[0] if observables[name].dims[:1] == ("item",) and f"{name}_mask" in observables else 1
        for name in names
    }
    if len(sizes) > 1:
        raise ValueError(
            f"the observables {names} are sets of different sizes, {sorted(sizes)}; see sciinf.wrappers.sets"
        )
    return sizes.pop()


def reliable(estimator: Denoising, held_out: Batch) -> float:
    """Largest number of observations for which errors of single scores should not make the composed posterior wrong.

    At this number the expected shift is half of the posterior's sd, or a third if the rows detect the error.

    Args:
        estimator: Trained estimator.
        held_out: Simulations that it was not trained on; a thousand or more.

    Returns:
        1 / (4 t^2), with t^2 at least what N rows can tell from 0, about c = sqrt(2 + 1 / D) / (N / 2). That is some 90
        observations for 1,000 rows and some 900 for 10,000. The result is at most 1 / (9 (t^2 - 2 c)).

    Raises:
        ValueError: If there are fewer than 100 rows.
    """
    return _most(*_squares(estimator, held_out))


def _most(square: float, chance: float) -> float:
    """Largest number of observations for which errors of scores, from t^2 and its chance error, are harmless."""
    return min(_HALF**2 / max(square, chance), WRONG**2 / max(square - ERRORS * chance, 1e-12))


def _squares(estimator: Denoising, held_out: Batch) -> tuple[float, float]:
    """t^2 of the formulas above, and its chance error."""
    if len(held_out) < 100:
        raise ValueError(
            f"errors of scores cannot be told from {len(held_out)} held-out simulations; take 1,000 or more"
        )
    batch = held_out.to(estimator.z_mean.device)
    with torch.no_grad():
        density, z = estimator.condition(batch.x), estimator.to_z(batch.theta)
        posterior = density.score(z, z.new_tensor(estimator.diffusion.schedule.least))
    pull, precision = _prior_of(estimator).natural()
    score = posterior.double().cpu() - (pull - z.double().cpu() @ precision)
    z = z.double().cpu()
    known = torch.cat([torch.ones_like(z[:, :1]), z, z * z], dim=1)
    halves = [slice(0, len(z), 2), slice(1, len(z), 2)]
    first, second = (known @ torch.linalg.lstsq(known[half], score[half]).solution for half in halves)
    information = score.mT @ score / len(score)
    square = float((first * torch.linalg.solve(information, second.mT).mT).sum(1).mean()) / z.shape[1]
    return square, math.sqrt(known.shape[1] / z.shape[1]) / (len(z) / 2)


def _item(spec: Observable) -> Observable:
    """Specification of one item of a set."""
    dims = () if len(spec.shape) == 1 else spec.dims[1:]
    return Observable(spec.shape[1:], spec.unit, dims, spec.dtype, spec.scale)


def _length(x: X) -> int:
    return len(next(iter(x.values())))


def draws_of(items: int, dim: int) -> int:
    """Draws of each single posterior for its covariance: 10,000 together, 100 (or 5 per parameter) to 1,000 each."""
    return max(5 * dim, min(1_000, max(100, 10_000 // items)))


def _prior_of(estimator: Denoising) -> MultivariateNormals:
    """Mean and covariance of the prior in z.

    Raises:
        ValueError: If the prior is not Gaussian in z.
    """
    mean, sd = estimator.z_mean.double().cpu(), estimator.z_sd.double().cpu()
    means, blocks = [], []
    bijection = estimator.prior.bijection
    for law, transform in zip(bijection.laws, bijection.transforms, strict=True):
        if isinstance(law, td.MultivariateNormal) and transform is not None:
            centre = law.mean.double()
            start = transform(torch.zeros_like(centre))
            scale = transform(torch.ones_like(centre)) - start
            means.append((centre - start) / scale)
            blocks.append(law.covariance_matrix.double() / scale[:, None] / scale)
        elif transform is None:
            means.append(torch.zeros(1, dtype=torch.float64))
            blocks.append(torch.ones(1, 1, dtype=torch.float64))
        else:
            raise ValueError(
                f"the prior's law {law} has no Gaussian form, whose score at every noise level composition needs; use "
                "one with a distribution function, or a multivariate normal"
            )
    return MultivariateNormals((torch.cat(means) - mean) / sd, torch.block_diag(*blocks) / sd[:, None] / sd)
