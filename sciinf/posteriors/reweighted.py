r"""The posterior corrected by the true likelihood: importance sampling from a learned posterior.

Draws theta ~ r(theta) get the weight

    w = p(x | theta) p(theta) / r(theta),

so that weighted means converge to the exact posterior's, and mean(w) to the evidence p(x), for any r that is above zero
wherever the posterior is. A pilot of draws from the learned density q(theta | x) shows how well q fits. In two cases
the other draws come from

    r = q / 2 + t / 2,

t a Student-t distribution in the prior's unbounded space with the pilot's weighted mean and covariance. The first case
is a bad fit (heavy tails). The second is a q that is zero in parts of the prior's support, because it is restricted to
a region: no draw of q, and so neither the evidence nor k-hat, would reveal mass outside. The half that is q
keeps every region that q covers, so that r is never worse than q by more than a factor two. The pilot's draws are not
used again, so that r is fixed before the draws that count. Drawing stops when the effective sample size is reached,
which leaves a bias of the evidence far below its error.

If parameters are discrete, or exist only sometimes, there is no Student-t distribution of them. The draws then come
from the learned density with a floor under the probability of each discrete value (`Floored`, below).

The likelihood may be an unbiased estimate, such as a particle filter's (`Simulator.random_likelihood`). Its noise is
one more variable that weights sum over, so that draws and evidence are as exact as before (Tran et al.), and it counts
in the effective size. A density is then not available, because the logarithm of an estimate is biased.

k-hat, the shape of a generalised Pareto distribution fitted to the largest weights, says whether to believe them (below
0.7).

**The floor.** Weights cannot bring back parameters that were never drawn. A network that is sure of the wrong model
gives no draw of the right one. The weights of all others are as even as ever, and neither the effective size nor k-hat
reveals it. So draws come from a distribution r that gives each value of a discrete parameter at least a tenth of its
prior probability, whatever the parameters before it are. If the learned density knows such probabilities (`Marginals`),
r is that density with the floor,

    r(d_i | d_<i, x) = (1 - f) q(d_i | d_<i, x) + f p(d_i | d_<i),      f = 1/10.

If it does not, or is zero in parts of the prior, a tenth of the draws come from the prior: r = (1 - f) q + f p. The
floor costs at most a tenth of the effective size if q was right, and nowhere log (1 / f) of the evidence, because the
weights are p(theta) p(x | theta) / r(theta) for any r.

References:
    | Weighted average importance sampling and defensive mixture distributions (Hesterberg, 1995),
      https://doi.org/10.1080/00401706.1995.10484303
    | Neural importance sampling for rapid and reliable gravitational-wave inference (Dax et al., 2023),
      https://arxiv.org/abs/2210.05686
    | Adaptive multiple importance sampling (Cornuet et al., 2012), https://arxiv.org/abs/0907.1254
    | Importance sampling squared for Bayesian inference in latent variable models (Tran, Scharth, Pitt, Kohn, 2013),
      https://arxiv.org/abs/1309.3339
    | Pareto smoothed importance sampling (Vehtari et al., 2024), https://arxiv.org/abs/1507.02646
    | A new and efficient estimation method for the generalized Pareto distribution (Zhang & Stephens, 2009)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Density, DensityUnavailable, Draws, Posterior, Prior, Simulator, X, identity
from sciinf.core.categories import categories_of
from sciinf.core.doubts import doubt
from sciinf.core.estimator import Marginals
from sciinf.posteriors.amortised import Amortised, draw_to_weigh, log_prob_to_weigh
from sciinf.posteriors.ensemble import Ensemble
from sciinf.posteriors.learned import covers, holds_for
from sciinf.posteriors.multivariate_t import MultivariateT, effective_size

FLOOR = 0.1


@final
class Floored:
    """The proposal r for one observation: a learned density with a floor under each discrete value.

    Args:
        posterior: Learned posterior that has a density.
        x: The observation, name -> (1, *event).
    """

    def __init__(self, posterior: Posterior, x: X) -> None:
        self.posterior, self.prior, self.x = posterior, posterior.prior, x
        self._parts = _with_floor(posterior, x)
        self._defensive = FLOOR if self._parts is None or not covers(posterior) else 0.0

    def sample(self, n: int, *, generator: torch.Generator) -> tuple[Float[Tensor, "n theta"], Float[Tensor, " n"]]:
        """n draws, and log r of each, float64."""
        theta = self._learned(n, generator)
        if self._defensive:
            other = torch.rand(n, generator=generator) < self._defensive
            theta[other] = self.prior.sample(int(other.sum()), generator=generator).to(theta)
        return theta, self.log_prob(theta)

    def log_prob(self, theta: Float[Tensor, "n theta"]) -> Float[Tensor, " n"]:
        """log r of parameters, float64."""
        if self._parts is None:
            log_q = self.posterior.log_prob_batched(theta[:, None], self.x)[:, 0].double()
        else:
            each = [part.log_prob(theta[:, None])[:, 0].cpu().double() for part in self._parts]
            log_q = torch.stack(each).logsumexp(0) - math.log(len(each))
        if not self._defensive:
            return log_q
        log_p = self.prior.log_prob(theta) + math.log(self._defensive)
        return torch.logaddexp(log_q + math.log1p(-self._defensive), log_p)

    def _learned(self, n: int, generator: torch.Generator) -> Tensor:
        if self._parts is None:
            return self.posterior.draw_batched(self.x, n, generator=generator)[:, 0]
        which = torch.randint(len(self._parts), (n,), generator=generator)
        counts = torch.bincount(which, minlength=len(self._parts)).tolist()
        drawn = [p.sample(c, generator=generator)[:, 0].cpu() for p, c in zip(self._parts, counts, strict=True) if c]
        return torch.cat(drawn)


def _with_floor(posterior: Posterior, x: X) -> Sequence[Density] | None:
    """The learned density with its floor, for each member of an ensemble; None if it knows no probabilities."""
    members = posterior.members if isinstance(posterior, Ensemble) else (posterior,)
    found = []
    for member in members:
        density = member.estimator.density(x) if isinstance(member, Amortised) else None
        if not isinstance(density, Marginals):
            return None
        found.append(density.with_floor(FLOOR))
    return found


_PILOT = 20_000
_CHUNK = 50_000
_LEAST, _FEW = 5, 20  # A discrete value with fewer draws, or fewer effective draws, is reported.
# A value is reported only above these probabilities: prior (no draws), posterior (few effective), posterior (tail).
_RARE, _MATTERS, _TAIL = 1e-3, 0.02, 0.05
_HOPELESS = 50_000  # After this many draws with an estimated likelihood, it is checked whether the budget can suffice.
_ENOUGH = 100  # k-hat needs at least this many draws.
_K = 0.7
_GOOD = 0.2  # The learned density is kept as proposal if the pilot's efficiency is above this.


class Reweighted(Posterior):
    """A learned posterior as proposal, whose draws are weighted by the simulator's likelihood.

    Args:
        proposal: The learned posterior.
        simulator: A simulator with a tractable `log_likelihood`.
        ess: Effective sample size to reach.
        budget: Largest number of draws, pilot included. When it is spent, the draws so far are returned with a warning.

    Raises:
        TypeError: If the simulator has no tractable likelihood.
        ValueError: If the simulator has another prior than the proposal, or ess or budget is not positive.
    """

    def __init__(
        self, proposal: Posterior, simulator: Simulator, *, ess: float | int = 2_000, budget: int = 1_000_000
    ) -> None:
        if simulator.log_likelihood is None:
            raise TypeError(
                f"the simulator {simulator.name!r} has no log_likelihood, so its posterior cannot be reweighted; "
                "define log_likelihood(theta, x), or use the amortised posterior"
            )
        if simulator.prior.to_json() != proposal.prior.to_json():
            raise ValueError(
                f"the simulator {simulator.name!r} has {simulator.prior}, the learned posterior is of "
                f"{proposal.prior}; reweight by the simulator it was trained on"
            )
        if not ess > 0 or budget < 1:
            raise ValueError(f"ess and budget must be positive, got ess={ess} and budget={budget}")
        self.emulated_by = simulator.emulated_by
        self.log_likelihood, self.random_likelihood = simulator.log_likelihood, simulator.random_likelihood
        self.proposal, self.target_ess, self.budget = proposal, ess, budget
        self.name = f"{proposal.name}, reweighted by the likelihood"
        said = f"{proposal.digest} reweighted {identity(simulator)} {ess} {budget}"
        self.digest = hashlib.sha256(said.encode()).hexdigest()
        self.trained_on, self.scope = proposal.trained_on, holds_for(proposal)
        self.observation = proposal.observation
        self.prior, self.observables = proposal.prior, proposal.observables

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """Weighted draws: at least n, with the effective sample size asked for. All draws made are returned.

        Raises:
            ValueError: If no draw has a finite likelihood.

        Warns:
            UserWarning: If the budget was spent before the effective sample size was reached, or k-hat says not to rely
                on the weights.
        """
        pilot = min(_PILOT, max(1_000, self.budget // 4), self.budget)
        if self.prior.mixed:
            floored = Floored(self.proposal, x)
            parts = self._until(x, max(n, pilot), [], [], lambda size: floored.sample(size, generator=generator))
            found = self._finish(*parts)
            doubt_values(self.prior, *parts, stacklevel=3)
            return found
        theta, log_r = draw_to_weigh(self.proposal, x, pilot, generator=generator)
        log_weight = self._log_weight(theta, log_r, x)
        law = None
        thetas, log_weights = [theta], [log_weight]
        fits = covers(self.proposal) and effective_size(log_weight) >= _GOOD * pilot
        if not fits and pilot < self.budget:
            law = MultivariateT.fit(self.prior.bijection.forward(theta.double()), _some(log_weight))
            thetas, log_weights = [], []
        parts = self._until(x, n, thetas, log_weights, lambda size: self._mixture(x, law, size, generator), pilot)
        return self._finish(*parts)

    def _until(
        self,
        x: X,
        n: int,
        thetas: list[Tensor],
        log_weights: list[Tensor],
        draw: Callable[[int], tuple[Tensor, Tensor]],
        spent: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Add draws and their log weights until n have the effective sample size asked for, or the budget is spent.

        Args:
            x: The observation.
            n: Smallest number of draws.
            thetas: Draws so far; new ones are appended.
            log_weights: Log weights so far; new ones are appended.
            draw: Function from a number to so many draws and the log density by which each is weighted.
            spent: Part of the budget that is already spent.
        """
        while spent < self.budget:
            done = sum(map(len, thetas))
            ess = effective_size(torch.cat(log_weights)) if done else 0.0
            if done >= n and ess >= self.target_ess:
                break
            if self.random_likelihood and done >= _HOPELESS and ess / done * self.budget < self.target_ess:
                break  # An estimate takes milliseconds, and even the whole budget would not suffice.
            # The number of draws doubles each time, so at most twice as many as needed are made.
            size = min(_CHUNK, self.budget - spent, max(n - done, math.ceil(self.target_ess), done))
            theta, log_r = draw(size)
            thetas.append(theta)
            log_weights.append(self._log_weight(theta, log_r, x))
            spent += size
        return torch.cat(thetas), torch.cat(log_weights)

    def _finish(self, theta: Tensor, log_weight: Tensor) -> Draws:
        shift = _some(log_weight).max()
        weight = (log_weight - shift).exp()
        mean = float(weight.mean())
        error = float(weight.std(correction=0)) / math.sqrt(len(weight)) / mean
        k = pareto_k(log_weight)
        ess = effective_size(log_weight)
        if ess < self.target_ess:
            why = "the learned posterior is too far from the true one; train on more simulations or raise the budget"
            if self.random_likelihood:
                why += ". Or the likelihood's estimate scatters too much: give it more particles"
            words = f"effective sample size {ess:.0f} after {len(theta):,} draws, {self.target_ess:.0f} were asked for"
            doubt(f"{words}: {why}", alarm=False, stacklevel=3)
        if k > _K:
            doubt(f"Pareto k = {k:.2f} > {_K}: the importance weights cannot be relied on", alarm=True, stacklevel=3)
        names, units = self.prior.names, self.prior.units
        evidence = float(shift) + math.log(mean)
        categories = categories_of(self.prior)
        return Draws(names, units, theta, log_weight - shift, evidence, error, k, categories=categories)

    def _log_weight(self, theta: Tensor, log_r: Tensor, x: X) -> Tensor:
        target = self._log_target(theta, x)
        # If the target is zero the weight is zero, even if rounding made the proposal's density zero as well.
        return torch.where(target == -math.inf, target, target - log_r)

    def _log_target(self, theta: Tensor, x: X) -> Tensor:
        log_prior = self.prior.log_prob(theta)
        log_likelihood = self.log_likelihood(theta, x).double()
        log_likelihood = torch.where(log_likelihood.isnan(), -math.inf, log_likelihood)
        return torch.where(torch.isfinite(log_prior), log_prior + log_likelihood, -math.inf)

    def _mixture(self, x: X, law: MultivariateT | None, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws of r, and their log density."""
        if law is None:
            return draw_to_weigh(self.proposal, x, n, generator=generator)
        learned = torch.rand(n, generator=generator) < 0.5
        theta = self.prior.bijection.inverse(law.sample(n, generator=generator).float())
        log_q = torch.empty(n, dtype=torch.float64)
        if bool(learned.any()):
            count = int(learned.sum())
            theta[learned], log_q[learned] = draw_to_weigh(self.proposal, x, count, generator=generator)
        log_q[~learned] = log_prob_to_weigh(self.proposal, theta[~learned], x, generator=generator)
        z = self.prior.bijection.forward(theta.double())
        log_t = law.log_prob(z) + self.prior.bijection.log_abs_det_jacobian(theta)
        return theta, torch.logaddexp(log_q, log_t) - math.log(2)

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """n resampled draws for each observation, one observation after the other, as each has its own weights."""
        each = []
        for i in range(len(next(iter(x.values())))):
            one = {name: value[i : i + 1] for name, value in x.items()}
            each.append(self.draw(one, n, generator=generator).resample(n, generator=generator))
        return torch.stack(each, dim=1)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """log p(theta | x) with the evidence estimated by importance sampling (a fixed seed: the same each time).

        Raises:
            DensityUnavailable: If the likelihood is an estimate.
        """
        if self.random_likelihood:
            raise DensityUnavailable(
                "the simulator's likelihood is estimated by particles: its draws are exact, but the logarithm of an "
                "estimate is biased and no density. Take draws, or the density of what was learned "
                "(build_posterior(fit))"
            )
        columns = []
        for i in range(theta.shape[1]):
            one = {name: value[i : i + 1] for name, value in x.items()}
            evidence = self.draw(one, 1, generator=torch.Generator().manual_seed(0)).log_evidence or 0.0
            columns.append(self._log_target(theta[:, i], one) - evidence)
        return torch.stack(columns, dim=1)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.proposal.features(x)


def pareto_k(log_weight: Float[Tensor, " n"]) -> float:
    """Shape of the generalised Pareto distribution fitted to the largest weights (Vehtari et al., section 3; Zhang &
    Stephens).

    Args:
        log_weight: Log importance weights, known up to a constant.

    Returns:
        k-hat; infinite if there are too few weights to tell.
    """
    n = len(log_weight)
    tail = math.ceil(min(n / 5, 3 * math.sqrt(n)))
    if tail < 5:
        return math.inf
    largest = log_weight.double().sort(descending=True).values[: tail + 1]
    weight = (largest - largest[0]).exp()
    excess = (weight[:-1] - weight[-1]).flip(0)
    if float(excess[-1]) <= 0.0:
        return -math.inf  # All weights are equal, so there is no tail.
    excess = excess.clamp_min(1e-300)
    count = 30 + int(math.sqrt(tail))
    i = torch.arange(1, count + 1, dtype=torch.float64)
    quartile = excess[max(0, int(tail / 4 + 0.5) - 1)]
    b = 1 / excess[-1] + (1 - (count / (i - 0.5)).sqrt()) / (3 * quartile)
    k = torch.log1p(-b[:, None] * excess).mean(dim=1)
    profile = tail * ((-b / k).log() - k - 1)
    weights = torch.softmax(profile, dim=0)
    shape = float(torch.log1p(-(weights @ b) * excess).mean())
    return (shape * tail + 0.5 * 10) / (tail + 10)  # As in PSIS, there is a weak prior towards 1/2.


def doubt_values(
    prior: Prior, theta: Float[Tensor, "n theta"], log_weight: Float[Tensor, " n"], *, stacklevel: int
) -> None:
    """Report the values of discrete parameters about which the weighted draws say little.

    Such a value has hardly any draws. Or it matters, and has too few effective draws or a long tail of weights.

    Args:
        prior: Prior of the parameters.
        theta: The draws.
        log_weight: Log weights, up to a constant.
        stacklevel: As of `warnings.warn`, from the caller.
    """
    weight = torch.softmax(log_weight.double(), dim=0)
    for name, law in prior.discrete().items():
        codes = law.codes(theta[:, prior.names.index(name)])
        for k, label in enumerate(law.labels):
            has = codes == k
            mine, count = weight[has], int(has.sum())
            p, size = float(mine.sum()), float(mine.sum().square() / mine.square().sum().clamp_min(1e-300))
            if count < _LEAST and float(law.log_probs[k].exp()) >= _RARE:
                words = f"only {count} of {len(theta):,} draws have {name} = {label}, so they do not tell how probable"
                doubt(f"{words} it is; raise the budget", alarm=False, stacklevel=stacklevel + 1)
            elif p >= _MATTERS and size < _FEW:
                words = f"{name} = {label} has a probability of {p:.2g} by {size:.0f} effective draws of {count:,}: it"
                words += " and what is known given it are uncertain; train on more simulations or raise the budget"
                doubt(words, alarm=False, stacklevel=stacklevel + 1)
            elif p >= _TAIL and count >= _ENOUGH and (k_hat := pareto_k(log_weight[has])) > _K:
                words = f"Pareto k = {k_hat:.2f} > {_K} of the draws with {name} = {label}: their weights cannot be"
                doubt(f"{words} relied on", alarm=True, stacklevel=stacklevel + 1)


def _some(log_weight: Tensor) -> Tensor:
    """The log weights, if at least one of them is finite.

    Raises:
        ValueError: If none is finite.
    """
    if not bool(torch.isfinite(log_weight.max())):
        raise ValueError(
            f"none of {len(log_weight):,} draws of the learned posterior has a finite likelihood: the observation "
            "contradicts the fit; train on more simulations, or look at the observation"
        )
    return log_weight
