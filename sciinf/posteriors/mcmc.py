r"""The posterior of a learned likelihood or ratio, sampled by Markov chains.

A fit whose estimator gives a `Potential` knows l(theta; x) = log p(x | theta) + c(x). With the prior p(theta) and one
observation x, or a set x_1..x_n of independent observations of the same theta,

    log p(theta | x_1..x_n) = log p(theta) + sum_i l(theta; x_i) + const.

The chains live in R^D, where z(theta) is the prior's bijection and no chain can leave the support:

    log p(z | x_1..x_n) = log p(theta(z)) - log |det dz / dtheta| + sum_i l(theta(z); x_i) + const,

whose first two terms are log N(z; 0, I) if every part of the prior has a distribution function. Another width of the
prior, another n or another observation needs no new training.

**Starts.** Among `candidates` draws of the prior each chain takes one, with probabilities proportional to

    w(theta) = exp(beta sum_i l(theta; x_i)),

beta in (0, 1] the largest for which the effective number of candidates, (sum w)^2 / sum w^2, is at least that of the
chains. If the prior's draws allow it, this is importance resampling. If not, it takes the best draws, still spread out.
Shapes: theta, z (chains, batch, D); l (chains, batch).

References:
    | Sequential neural likelihood: fast likelihood-free inference with autoregressive flows (Papamakarios, Sterratt &
      Murray, 2019), https://arxiv.org/abs/1805.07226
    | Likelihood-free MCMC with amortized approximate ratio estimators (Hermans, Begy & Louppe, 2020),
      https://arxiv.org/abs/1903.04057
    | Rank-normalization, folding, and localization: an improved R-hat (Vehtari et al., 2021),
      https://arxiv.org/abs/1903.08008
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import DensityUnavailable, Fit, Observable, Potential, Prior, X
from sciinf.core.checks import check_whole
from sciinf.core.component import to_json
from sciinf.core.doubts import doubt
from sciinf.core.existence import check_continuous
from sciinf.core.fit import failed_of, trained_on
from sciinf.core.given import plain_bijection
from sciinf.networks.flows.conditional import log_normal
from sciinf.posteriors.learned import LearnedPosterior, generator_on
from sciinf.simulators.samplers.chains import Chains, Sampler
from sciinf.simulators.samplers.hamiltonian import Hamiltonian

PAIRS = {"cpu": 16_384, "cuda": 1_048_576}  # Pairs (theta, x) in one pass through the network.
_LEAST = 100  # R-hat and the effective sample size need at least this many draws of each chain.
_R_HAT, _ESS = 1.05, 100
_HALVINGS = 30


class MCMC(LearnedPosterior):
    """Draws of Markov chains, which run for all observations at once.

    Args:
        fit: Fit of an estimator such as `Ratio` or `Likelihood`, from `train` or `load_fit`.
        sampler: Sampler that moves the chains. Default: `samplers.Hamiltonian` with 200 steps of warm-up.
        chains: Number of chains for each observation.
        items: n, if x holds sets of n independent observations of the same theta: name -> (batch, n, *event). Default:
            x is one observation.
        candidates: Number of prior draws that the starts are chosen from.

    Raises:
        TypeError: If the fit's estimator gives a density, or `sampler` is no sampler.
        ValueError: If chains, items or candidates is no int of at least 1.
    """

    def __init__(
        self,
        fit: Fit,
        sampler: Sampler | None = None,
        *,
        chains: int = 20,
        items: int | None = None,
        candidates: int = 1_000,
    ) -> None:
        estimator = fit.estimator
        check_continuous(estimator.prior, "sampling by Markov chains")
        if estimator.normalised:
            raise TypeError(
                f"{type(estimator).__name__} gives draws and densities by itself, with no need of chains; use "
                "build_posterior(fit)"
            )
        if sampler is not None and not isinstance(sampler, Sampler):
            got = f"the class {sampler.__name__}; call it" if isinstance(sampler, type) else repr(sampler)
            raise TypeError(f"the sampler must be an object such as Hamiltonian(), got {got}")
        for name, value in (("chains", chains), ("items", 1 if items is None else items), ("candidates", candidates)):
            check_whole(name, value, 1)
        self.estimator, self.sampler = estimator, sampler or Hamiltonian(warmup=200)
        self.chains, self.items, self.candidates = chains, items, candidates
        self.name = "MCMC" if items is None else f"MCMC (sets of {items})"
        how = json.dumps([to_json(self.sampler), chains, items, candidates], sort_keys=True)
        self.digest = hashlib.sha256(f"{fit.digest} {how}".encode()).hexdigest()
        store = fit.record["store"]
        self.only = self.scope = (
            "learned from simulations of a proposal, it holds where those reach" if store.get("proposal") else ""
        )
        self.trained_on, self.failed = trained_on(fit), failed_of(fit)
        self.prior = estimator.prior
        specs = dict(estimator.observables)
        self.observables = specs if items is None else {name: spec.in_sets(items) for name, spec in specs.items()}

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """n draws for each observation or set, in the prior's dtype, thinned from longer chains if n is small.

        Raises:
            ValueError: If x has other shapes than this posterior is for, or no prior draw has a finite likelihood.

        Warns:
            UserWarning: If R-hat of a parameter is above 1.05, or its effective sample size below 100.
        """
        device = next(self.estimator.buffers()).device
        source = generator_on(device, generator)
        batch = _length(x, self.observables)
        size = max(1, PAIRS.get(device.type, PAIRS["cpu"]) // (self.chains * (self.items or 1)))
        parts, faults = [torch.empty(n, 0, len(self.prior))], []
        for start in range(0, batch, size):
            some = {name: value[start : start + size] for name, value in x.items()}
            chains, thin = self._run(some, n, source)
            faults += self._faults(chains, start)
            kept = chains.draws[thin - 1 :: thin].flatten(0, 1)[:n]
            parts.append(self.prior.bijection.inverse(kept.float()).cpu())
        if faults:
            _warn(faults, batch)
        return torch.cat(parts, dim=1)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """Raise, because the posterior's density is known only up to a constant.

        Raises:
            DensityUnavailable: Always.
        """
        raise DensityUnavailable(
            "the posterior of a learned likelihood is known up to a constant only: compare values of "
            "`unnormalised(theta, x)` for the same x, estimate what you need from draws, or train a Flow"
        )

    @torch.no_grad()
    def unnormalised(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """log p(theta) + sum_i l(theta; x_i), the log density up to a function of x; -inf outside the support."""
        log_likelihood = self._log_likelihood(x)
        log_prior = self.prior.log_prob(theta)
        within = torch.isfinite(log_prior)
        safe = torch.where(within[..., None], theta, self.prior.bijection.inverse(torch.zeros_like(theta[:1, :1])))
        return torch.where(within, log_prior + log_likelihood(safe).cpu().double(), -math.inf)

    @torch.no_grad()
    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        """The learned summary, or its mean over the items of a set."""
        device = next(self.estimator.buffers()).device
        found = self.estimator.features({name: value.to(device) for name, value in self._rows(x).items()})
        return found.unflatten(0, (-1, self.items or 1)).mean(1).cpu()

    def _run(self, x: X, n: int, generator: torch.Generator) -> tuple[Chains, int]:
        """Chains for each observation, and the step by which their draws are thinned."""
        log_likelihood, law = self._log_likelihood(x), PriorInZ(self.prior)

        def log_density(z: Tensor) -> Tensor:
            theta = self.prior.bijection.inverse(z)
            return law.log_prob(z, theta) + log_likelihood(theta)

        each = -(-n // self.chains)
        thin = -(-_LEAST // max(each, 1))
        start = self._starts(log_likelihood, len(next(iter(x.values()))), generator)
        return self.sampler.draw(log_density, start, max(each, 1) * thin, generator=generator), thin

    @torch.no_grad()
    def _starts(self, log_likelihood: Callable[[Tensor], Tensor], batch: int, generator: torch.Generator) -> Tensor:
        """First positions z of the chains, float64, (chains, batch, D)."""
        device = generator.device
        z = self._candidates(generator)
        size = max(1, PAIRS.get(device.type, PAIRS["cpu"]) // (batch * (self.items or 1)))
        pieces = [self.prior.bijection.inverse(z[i : i + size, None]) for i in range(0, len(z), size)]
        found = torch.cat([log_likelihood(theta.expand(-1, batch, -1)) for theta in pieces]).double()
        log_weight = tempered(found.nan_to_num(nan=-math.inf, posinf=-math.inf), min(self.chains, len(z) / 2))
        chosen = torch.multinomial(log_weight.T.exp(), self.chains, replacement=True, generator=generator)
        return z[chosen.T]

    def _candidates(self, generator: torch.Generator) -> Tensor:
        """Prior draws in R^D, float64, (candidates, D)."""
        on_cpu = generator if generator.device.type == "cpu" else generator_on(torch.device("cpu"), generator)
        theta = self.prior.sample(self.candidates, generator=on_cpu)
        return self.prior.bijection.forward(theta.double()).to(generator.device)

    def _log_likelihood(self, x: X) -> Callable[[Tensor], Tensor]:
        """Function from theta (m, batch, D) to the log likelihood, summed over items, (m, batch)."""
        items = self.items or 1
        potential = self.estimator.condition(self._rows(x))
        if not isinstance(potential, Potential):
            raise TypeError(f"{type(self.estimator).__name__} says that it gives no density, but it does")

        def log_likelihood(theta: Tensor) -> Tensor:
            if self.items is None:
                return potential.log_likelihood(theta)
            each = potential.log_likelihood(theta.repeat_interleave(items, dim=-2))
            return each.unflatten(-1, (-1, items)).double().sum(-1)

        return log_likelihood

    def _rows(self, x: X) -> dict[str, Tensor]:
        """Single observations, with those of sets one below the other: name -> (batch * items, *event)."""
        _length(x, self.observables)
        return {name: x[name] if self.items is None else x[name].flatten(0, 1) for name in self.observables}

    def _faults(self, chains: Chains, first: int) -> list[tuple[float, float, int, str]]:
        """R-hat, effective sample size, observation and parameter where these fail the limits, worst first."""
        r_hat, ess = chains.r_hat().cpu(), chains.ess().cpu()
        bad = ~(r_hat <= _R_HAT) | ~(ess >= _ESS)
        spots = zip(self.prior.bijection.places, self.prior.bijection.spots, strict=True)
        names = [self.prior.names[at.start + k] for at, spot in spots for k in range(spot.stop - spot.start)]
        found = [(float(r_hat[i, d]), float(ess[i, d]), first + i, names[d]) for i, d in bad.nonzero().tolist()]
        return sorted(found, key=lambda fault: -fault[0] if math.isfinite(fault[0]) else -math.inf)


class PriorInZ:
    """The prior's log density in R^D, log p(theta) - log |det dz / dtheta|, differentiable in z.

    Args:
        prior: Prior of the parameters.
    """

    def __init__(self, prior: Prior) -> None:
        self.bijection = plain_bijection(prior, "what chains walk in")

    def log_prob(self, z: Float[Tensor, "*n theta"], theta: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Log density at z, where theta is the inverse bijection of z."""
        if self.bijection.normal:
            return log_normal(z)
        total = z.new_zeros(z.shape[:-1])
        bijection = self.bijection
        pairs = zip(bijection.z_parts(z), bijection.parts(theta), bijection.transforms, strict=True)
        for (law, mine), (_, value), transform in pairs:
            if transform is None:
                part = -0.5 * (mine.square() + math.log(2 * math.pi))
                part = part.sum(-1) if law.event_shape else part
            else:
                jacobian = transform.log_abs_det_jacobian(mine, value)
                part = law.log_prob(value) + (jacobian.sum(-1) if jacobian.ndim > total.ndim else jacobian)
            total = total + part.to(z.device)
        return total


def tempered(log_weight: Float[Tensor, "n batch"], least: float | int) -> Float[Tensor, "n batch"]:
    """Normalised beta log w, with the largest beta <= 1 for which (sum w^beta)^2 / sum w^(2 beta) >= `least`."""
    low, high = log_weight.new_zeros(log_weight.shape[1]), log_weight.new_ones(log_weight.shape[1])
    beta = high
    for _ in range(_HALVINGS):
        scaled = torch.where(log_weight.isfinite(), beta * log_weight, -math.inf)
        enough = 2 * scaled.logsumexp(0) - (2 * scaled).logsumexp(0) >= math.log(least)
        low, high = torch.where(enough, beta, low), torch.where(enough, high, beta)
        beta = (low + high) / 2
    scaled = torch.where(log_weight.isfinite(), low * log_weight, -math.inf)
    return torch.where(scaled.isfinite().any(0), scaled, 0.0).log_softmax(0)


def _length(x: X, observables: Mapping[str, Observable]) -> int:
    """Number of observations, or of sets of them, in x.

    Raises:
        ValueError: If an observable is missing or has another shape.
    """
    for name, spec in observables.items():
        shape = tuple(x[name].shape) if name in x else None
        if shape is None or len(shape) != len(spec.shape) + 1 or shape[1:] != spec.shape:
            raise ValueError(
                f"{name!r} has shape {shape}, expected (batch, {', '.join(map(str, spec.shape))}); MCMC(fit, items=n) "
                "is for sets of n observations"
            )
    return len(next(iter(x.values())))


def _warn(faults: list[tuple[float, float, int, str]], batch: int) -> None:
    r_hat, ess, row, name = faults[0]
    more = f", and {len(faults) - 1} more pairs of observation and parameter" if len(faults) > 1 else ""
    doubt(
        f"the chains have not mixed for observation {row} of {batch}, parameter {name!r}: R-hat {r_hat:.3f} (at most "
        f"{_R_HAT}), effective sample size {ess:.0f} (at least {_ESS}){more}; give the sampler a longer warm-up, "
        "use more chains, or ask for more draws",
        alarm=True,
        stacklevel=3,
    )
