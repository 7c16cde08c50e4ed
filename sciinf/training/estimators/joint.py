r"""One model of parameters and data, which answers for any of them given any others.

v = (z(theta), y(x)), N = D + E standardised numbers. Each number has its own noise level: zero if it is given, the
level of its error if it is given with one (`noisy`), infinity if it is left out, and s if it is asked for. The network
learns

    E[v_i | v_given, v_asked + s e],    i asked for,

over questions drawn anew at each step: the posterior, the likelihood, the posterior given some of the data, some names
given some others, some numbers given some others. Draws and densities of any conditional are then queries of one
network (`posteriors.conditional`): posterior, likelihood, posterior with missing data, some parameters given others and
data. `condition` gives the posterior given all data.

For each question the network starts from the conditional of a Gaussian of all N numbers (`_gaussian`), and learns the
rest. If theta and x are jointly Gaussian it has nothing to learn.

References:
    | All-in-one simulation-based inference (Gloeckler et al., 2024), https://arxiv.org/abs/2404.09636
    | A Versatile Diffusion Transformer with Mixture of Noise Levels for Audiovisual Generation (Kim et al., 2024),
      https://arxiv.org/abs/2405.13762
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Batch, Density, Learns, Observable, Prior, X
from sciinf.core.checks import check_from_zero, check_positive
from sciinf.core.component import called_without
from sciinf.core.existence import check_free
from sciinf.core.prior import global_seed
from sciinf.networks.diffusion.likelihood import log_density
from sciinf.networks.diffusion.objective import Diffusion, NormalLogs
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Exponential, Solver, noise_like
from sciinf.networks.modulated import Modulated
from sciinf.networks.summaries.standardise import squash, unsquashed
from sciinf.training.estimators._gaussian import JointGaussian, Regression, check_beside
from sciinf.training.estimators._numbers import count, flat, middle, spread
from sciinf.training.estimators._standardised import Standardised, check_part, in_chunks
from sciinf.training.memory import retain_freed

MOST = 64  # Largest number of numbers in an observation.
LEAST, LARGEST = 0.02, 20.0  # Range of the sds of errors in training, in sds of the numbers.
_QUESTIONS = 16  # A batch has at least this many questions.


class Joint(Standardised):
    """Amortized estimation of every conditional of (theta, x) with one network.

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator: complete data of at most 64 numbers, none of them bool.
        diffusion: Diffusion path, and the distribution of noise levels.
        solver: Solver by which draws are made.
        hidden: Width of the network.
        blocks: Residual blocks of the network.
        noisy: Share of the given data that have their own errors in training, so that `Conditional` accepts error bars;
            for example 0.3.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If a part has the wrong type, for example a class or a name instead of an object.
        ValueError: If an observable has a mask or is bool, an observation has more than 64 numbers, parameters are
            parts of a whole (Dirichlet), a parameter has the name of an observable, a number is out of range, or the
            diffusion has a parameterisation or weighting that is not the default.

    Examples:
        >>> from sciinf import Normal
        >>> joint = Joint(Prior(mu=Normal(0.0, 1.0)), {"x": Observable((3,))})
        >>> joint.condition({"x": torch.zeros(2, 3)}).sample(5, generator=torch.Generator()).shape
        torch.Size([5, 2, 1])
    """

    learns: Learns = "noise"

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        diffusion: Diffusion | None = None,
        solver: Solver | None = None,
        hidden: int = 192,
        blocks: int = 3,
        noisy: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, seed)
        check_free(prior, "a Joint")
        check_part("diffusion", diffusion, Diffusion, "Diffusion(Level())")
        check_part("solver", solver, Solver, "Exponential(20)")
        check_positive(hidden=hidden, blocks=blocks)
        check_from_zero("noisy", noisy, 1)
        if set(prior.names) & set(observables):
            raise ValueError(f"{sorted(set(prior.names) & set(observables))} name a parameter and an observable too")
        numbers = prior.bijection.size + count(observables, MOST, "Joint")
        self.diffusion = diffusion or Diffusion(NoiseLevel(1e-3, 5.0), levels=NormalLogs(-0.7, 1.8))
        check_beside(self.diffusion, "leave both out")
        self.solver = solver or Exponential(20, 2)
        self.places = _places(prior, observables)
        self.noisy, self.gaussian = noisy, JointGaussian(numbers)
        if not noisy:
            called_without(self, "noisy")
        with global_seed(torch.Generator().manual_seed(seed)):
            self.network = Modulated(2 * numbers, numbers, (5 if noisy else 4) * numbers, hidden, blocks)

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.standardise_both(lambda: (Batch(batch.theta, middle(batch.x)) for batch in batches()))
        self.gaussian.fit(lambda: (self._joined(batch.theta, middle(batch.x)) for batch in batches()))

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        """y, which leaves out nothing of the data."""
        return flat(self.standardise_x, middle(x))

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        v = self._joined(batch.theta, spread(batch.x, generator))
        asked, given = self._questions(min(max(_QUESTIONS, len(v) // 16), len(v)), generator)
        index = torch.arange(len(v)) % len(asked)
        errors = self._errors(given, generator).to(v) if self.noisy else None
        known = self.gaussian.given(asked.to(v.device), given.to(v.device), errors).rows(index)
        asked, given = asked[index].to(v), given[index].to(v)
        seen = v
        if errors is not None:
            errors = errors[index]
            seen = with_errors(v, errors, noise_like(v, generator))
        noise, level, _ = self.diffusion.noise(v, generator)
        level = known.spread.levels(level, generator).clamp(self.diffusion.schedule.least, self.diffusion.schedule.most)
        mean, y = known.mean(seen), asked * (v + level[:, None] * noise)
        prepared = self.prepare(seen, asked, given, mean, errors)
        left = self.left(known, y, level, mean, prepared)
        return known.spread.loss(left, y - mean, asked * v - mean, level)

    def condition(self, x: X) -> JointDensity:
        retain_freed()
        with torch.no_grad():
            data = {name: value.to(self.z_mean.device) for name, value in x.items()}
            y = self.features(data)
        return JointDensity(self, y)

    def prepare(
        self, v: Tensor, asked: Tensor, given: Tensor, mean: Tensor, errors: Tensor | None = None
    ) -> Float[Tensor, "batch hidden"]:
        """Network features of a question and of the given numbers.

        v, asked, given, mean and errors (0 if None) are (batch, N).
        """
        told = [given * v, given, asked, mean]
        if self.noisy:
            errors = torch.zeros_like(v) if errors is None else errors
            told = [given * v / (1 + errors**2).sqrt(), *told[1:], given * errors / (1 + errors**2).sqrt()]
        return self.network.prepare(torch.cat(told, dim=-1))

    def _errors(self, given: Tensor, generator: torch.Generator) -> Float[Tensor, "size number"]:
        """Random sds of errors of given data in training questions, in sds of each number; 0 without an error."""
        shape = (2, *given.shape)
        share, size = torch.rand(shape, generator=generator, device=generator.device).cpu().unbind()
        level = torch.exp(math.log(LEAST) + size * math.log(LARGEST / LEAST))
        data = torch.arange(given.shape[-1]) >= self.prior.bijection.size
        return torch.where(given & data & (share < self.noisy), level, 0.0)

    def left(self, known: Regression, y: Tensor, level: Tensor, mean: Tensor, prepared: Tensor) -> Tensor:
        """F at y (*n, batch, N), which is 0 where not asked for, and a level of shape () or (*n, batch)."""
        shown = [known.spread.whitened(y - mean, level), y / (1 + level[..., None] ** 2).sqrt()]
        return self.network(torch.cat(shown, dim=-1), level.log(), prepared)

    def _joined(self, theta: Tensor, x: X) -> Float[Tensor, "batch number"]:
        """v, the standardised parameters and data side by side; x must be floats."""
        return torch.cat([self.to_z(theta), flat(self.standardise_x, x)], dim=-1)

    def _questions(
        self, size: int, generator: torch.Generator
    ) -> tuple[Bool[Tensor, "size n"], Bool[Tensor, "size n"]]:
        """Random questions: which numbers are asked for and which are given. Each question asks for something."""
        numbers, dim = len(self.gaussian.mean), self.prior.bijection.size
        parameter = (torch.arange(numbers) < dim).expand(size, -1)
        draw = torch.rand(4, size, numbers, generator=generator, device=generator.device).cpu()
        kind, share = draw[0, :, :1], draw[1, :, :1]
        by_name = torch.empty(size, numbers)
        for place in self.places.values():
            by_name[:, place] = draw[2, :, place][:, :1]
        # The rest of the questions are by name, or by single numbers.
        one = torch.where(kind < 0.85, by_name, draw[3])
        asked, given = one < share, one > 1 - draw[1, :, 1:2] * (1 - share)
        # These questions are the posterior given some of the data.
        asked = torch.where(kind < 0.7, parameter, asked)
        given = torch.where(kind < 0.7, ~parameter & (draw[3] < share), given)
        whole = kind < 0.5  # These questions are the posterior and the likelihood.
        posterior = kind < 0.25
        asked = torch.where(whole, torch.where(posterior, parameter, ~parameter), asked)
        given = torch.where(whole, ~asked, given & ~asked)
        none = ~asked.any(-1, keepdim=True)
        return torch.where(none, parameter, asked), torch.where(none, ~parameter, given)


class Conditioned:
    """Conditional distribution of some numbers given others, for each of a batch of rows.

    Args:
        joint: The model.
        v: All numbers, (batch, N), read only where given.
        asked: Which numbers are asked for, (N,).
        given: Which numbers are given, (N,). All other numbers are left out.
        errors: Sds of their errors in sds of the numbers, (N,). Default: no errors.
    """

    def __init__(
        self,
        joint: Joint,
        v: Float[Tensor, "batch number"],
        asked: Bool[Tensor, " number"],
        given: Bool[Tensor, " number"],
        errors: Float[Tensor, " number"] | None = None,
    ) -> None:
        self.joint, self.asked, self.rows = joint, asked, len(v)
        with torch.no_grad():
            self.known = joint.gaussian.given(asked, given, errors)
            v = torch.where(given, v if errors is None else with_errors(v, errors), 0.0)
            self.mean = self.known.mean(v)
            told = None if errors is None else errors.to(v).expand_as(v)
            self.prepared = joint.prepare(v, asked.to(v).expand_as(v), given.to(v).expand_as(v), self.mean, told)

    def denoise(self, y: Float[Tensor, "*n batch number"], level: Tensor) -> Float[Tensor, "*n batch number"]:
        """E[v | v + s e = y, given], 0 where not asked for, at a level of shape () or (*n, batch)."""
        left = self.joint.left(self.known, y, level, self.mean, self.prepared)
        return self.mean + self.known.spread.denoised(left, y - self.mean, level)

    @torch.no_grad()
    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "n batch number"]:
        """Draws of v, 0 where not asked for."""
        path, start = self.joint.diffusion.schedule, self._start()
        parts = [self.mean.new_empty(0, *self.mean.shape)]
        for first, last in in_chunks(n, self.rows, self.mean.device):
            noise = noise_like(self.mean.expand(last - first, *self.mean.shape), generator)
            y = start + self.known.spread.noisy(noise, path.most)
            parts.append(self.joint.solver.solve(self.denoise, y, path, generator=generator))
        return torch.cat(parts)

    @torch.no_grad()
    def _start(self) -> Float[Tensor, "batch number"]:
        """The conditional mean at the highest noise level."""
        return self.denoise(self.mean, self.mean.new_tensor(self.joint.diffusion.schedule.most))

    def log_density(self, v: Float[Tensor, "*n batch number"]) -> Float[Tensor, "*n batch"]:
        """log q of the numbers asked for, by the probability flow with its exact trace."""
        places = self.asked.nonzero()[:, 0]
        path, put_in = self.joint.diffusion.schedule, torch.eye(v.shape[-1], device=v.device)[places]

        def put(part: Tensor) -> Tensor:
            return part @ put_in

        def denoise(part: Tensor, level: Tensor) -> Tensor:
            return self.denoise(put(part), level)[..., places]

        start = self._start()

        def ending(part: Tensor) -> Tensor:
            return self.known.spread.log_prob(put(part) - start, path.most)

        rows = v[..., places].reshape(-1, self.rows, len(places))
        parts = [rows.new_empty(0, self.rows)]
        for first, last in in_chunks(len(rows), self.rows, rows.device):
            parts.append(log_density(denoise, rows[first:last], path, ending=ending, exact=v.shape[-1]))
        return torch.cat(parts).reshape(v.shape[:-1])


class JointDensity(Density):
    """The posterior of each of a batch of observations, y (batch, E)."""

    def __init__(self, joint: Joint, y: Tensor) -> None:
        self.joint, self.rows, dim = joint, len(y), len(joint.prior)
        v = torch.cat([y.new_zeros(len(y), dim), y], dim=-1)
        parameter = torch.arange(v.shape[-1], device=v.device) < dim
        self._law, self._others = Conditioned(joint, v, parameter, ~parameter), y.shape[-1]

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        return self.joint.to_theta(self._law.draw(n, generator)[..., : len(self.joint.prior)])

    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """Log density by the probability flow, with its exact trace."""
        return self.joint.log_density(theta, self.rows, self._log_density)

    def _log_density(self, z: Tensor) -> Tensor:
        return self._law.log_density(torch.cat([z, z.new_zeros(*z.shape[:-1], self._others)], dim=-1))


def with_errors(v: Tensor, errors: Tensor, noise: Tensor | None = None) -> Tensor:
    """Standardised numbers (batch, N) with errors of the given sds, (batch, N) or (N,), where these are not 0.

    Numbers are squashed beyond 5 sds of number and error together. With `noise`, errors of these sds are added.
    Without, the numbers were already measured with errors.
    """
    wide = (1 + errors**2).sqrt()
    plain = unsquashed(v) if noise is None else unsquashed(v) + errors * noise
    return torch.where(errors > 0, wide * squash(plain / wide), v)


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Joint:
    """Joint estimator with its default settings."""
    return Joint(prior, observables, seed=seed)


def _places(prior: Prior, observables: Mapping[str, Observable]) -> dict[str, slice]:
    """Places of the numbers of each parameter and observable."""
    places = {name: slice(i, i + 1) for i, name in enumerate(prior.names)}
    start = len(places)
    for name, spec in observables.items():
        places[name] = slice(start, start + math.prod(spec.shape))
        start = places[name].stop
    return places
