r"""A network's draws weighted by a learned likelihood, as far as it describes held-out rows better.

Let q(theta | x) be a network that was trained on rows of a distribution r, and l(x | theta) a likelihood that was
trained on the same rows. The posterior under r is approximated by q, and also by r l / Z. Both have their own errors. A
logarithmic pool of the two,

    p_r(theta | x) = q^(1 - a) (r l)^a / Z(x),     Z(x) = E_q[(r l / q)^a],

has smaller errors of either kind. Draws come from q, taken with probabilities proportional to (r l / q)^a. The power a,
from 0 to 1, is the one under which rows that neither was fitted to are likeliest. Their log likelihood is a concave
function of a, and a prior exp(-a^2 / (2 s^2)) guards against few rows. The power is no larger than leaves enough
effective draws at the observation.

A likelihood does not depend on the distribution of its rows, so l is learned only from the rows near the answer: inside
the last round's distribution, where |u|^2 in its sds, of mean D, is below D + 4 sqrt(2 D). Rows far out would do more
harm than good, because some of them may behave quite differently. Outside, q stays as it is, or is lowered:

    p_r(theta | x) = q(theta | x) min(1, (r l / q)^a / Z(x)) outside,     Z(x) = E_q[(r l / q)^a | inside],

because l may be wrong there, and q is not constrained there. For a Ricker map, four draws in 10,000 lay outside, held a
hundredth of the refined answer, and made its sd 1.15 times too large.

Shapes: theta (n, batch, D), x name -> (batch, *event).

References:
    | Sequential neural likelihood (Papamakarios, Sterratt & Murray, 2019), https://arxiv.org/abs/1805.07226
    | Combining probability distributions: a critique and an annotated bibliography (Genest & Zidek, 1986),
      https://doi.org/10.1214/ss/1177013825: logarithmic pools
    | Strictly proper scoring rules, prediction, and estimation (Gneiting & Raftery, 2007)
    | Improved particle filter for nonlinear problems (Carpenter, Clifford & Fearnhead, 1999),
      https://doi.org/10.1049/ip-rsn:19990255: systematic resampling
"""

from __future__ import annotations

import hashlib
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.campaigns.block import generator_for
from sciinf.campaigns.store import Store
from sciinf.core import Fit, Potential, Prior, X
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.around import LawOfZ, Mixture
from sciinf.posteriors.learned import LearnedPosterior
from sciinf.training.rows import FEWEST_VALIDATION

_OVER = 4  # For each draw that is kept, this many draws of the network are made.
_DRAWS, _EACH = 16_384, 256  # Z is estimated from so many draws, for one observation and for each of several.
_ROWS, _PIECE = 800, 100  # At most so many held-out rows are compared, and so many at once.
_EFFECTIVE = 0.2  # Least effective share of the network's draws at the observation.
_EDGE = 4.0  # The likelihood's rows lie within D plus this many sds of |u|^2.
_POWERS, _SPREAD = torch.linspace(0.0, 1.0, 21, dtype=torch.float64), 0.5  # These are the values of a, and s.
_LEAST = 100  # At the observation, at least this many draws must lie inside the last distribution.
# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
_STREAM = 2**31 + 7


class LikelihoodWeighted(LearnedPosterior):
    """The pool p_r(theta | x) of a network and a learned likelihood.

    Args:
        network: Network q.
        likelihood: Fit of the likelihood l, by an estimator that gives a `Potential`.
        law: r, the distribution of the rows.
        last: The last round's distribution, inside which the likelihood was learned.
        power: Power a of the likelihood.
    """

    def __init__(self, network: Amortised, likelihood: Fit, law: Mixture, last: LawOfZ, power: float = 1.0) -> None:
        self.network, self.likelihood, self.law, self.last = network, likelihood.estimator, law, last
        self.power = power
        self.name, self.under, self.scope, self.failed = network.name, network.under, network.scope, network.failed
        self.whole, self.trained_on = network.whole, network.trained_on
        self.prior, self.observables = network.prior, network.observables
        self.digest = hashlib.sha256(f"{network.digest} {likelihood.digest} {power}".encode()).hexdigest()

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        theta = self.network.draw_batched(x, _OVER * n, generator=generator)
        return resampled(theta, self.log_weight(theta, x), n, generator)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """Log density, normalised by Z. log Z has an error of sqrt((1 / e - 1) / n), e the effective share of draws."""
        ones = len(next(iter(x.values())))
        drawn = self.network.draw_batched(x, _DRAWS if ones == 1 else _EACH, generator=generator_for(0, _STREAM))
        log_z = _log_mean(self.log_ratio(drawn, x))
        network = self.network.log_prob_batched(theta, x).double()
        joint = self.power * self._log_joint(theta, x) + ((1 - self.power) * network if self.power < 1 else 0.0) - log_z
        found = torch.where(self._within(theta), joint, torch.minimum(joint, network))
        return torch.where(log_z.isfinite(), found, network)

    def log_weight(
        self, theta: Float[Tensor, "n batch theta"], x: X, log_q: Float[Tensor, "n batch"] | None = None
    ) -> Float[Tensor, "n batch"]:
        """log of p_r / q of draws of the network, up to a constant for each observation, float64.

        It is -inf where the network gives no density. Draws outside have the mean weight of those inside, or less.

        Args:
            theta: The draws.
            x: The observations, name -> (batch, *event).
            log_q: Their density under the network, if it is known.
        """
        return self.log_weights(theta, x, log_q)[0]

    @torch.no_grad()
    def log_weights(self, theta: Tensor, x: X, log_q: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`log_weight`, and its values if the likelihood did not count outside."""
        log_w, within = self._log_ratio(theta, x, log_q), self._within(theta)
        mean = _log_mean(torch.where(within, log_w, math.nan))
        outside = (torch.where(mean.isfinite(), least, 0.0) for least in (torch.minimum(log_w, mean), mean))
        lowered, left = (torch.where(within, log_w, value) for value in outside)
        return lowered, left

    def log_ratio(self, theta: Tensor, x: X, log_q: Tensor | None = None) -> Tensor:
        """log (r l / q)^a inside, -inf where the network gives no density, NaN outside."""
        return torch.where(self._within(theta), self._log_ratio(theta, x, log_q), math.nan)

    @torch.no_grad()
    def _log_ratio(self, theta: Tensor, x: X, log_q: Tensor | None = None) -> Tensor:
        """log (r l / q)^a, inside and outside."""
        log_q = self.network.log_prob_batched(theta, x) if log_q is None else log_q
        log_w = self.power * (self._log_joint(theta, x) - log_q.double())
        return log_w.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)

    def _within(self, theta: Tensor) -> Tensor:
        """Which parameters the likelihood counts for: those inside, and those outside the support, which have none."""
        return inside(self.prior, self.last, theta) | ~self.prior.log_prob(theta.detach()).isfinite()

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.network.features(x)

    def _log_joint(self, theta: Tensor, x: X) -> Tensor:
        """log (r l), with its gradient if theta requires one, as a search for the mode needs."""
        potential = self.likelihood.condition(x)
        if not isinstance(potential, Potential):
            raise TypeError(f"{type(self.likelihood).__name__} learns no likelihood")
        with torch.set_grad_enabled(theta.requires_grad and torch.is_grad_enabled()):
            log_r = self.prior.log_prob(theta).double() - self.law.log_ratio(theta)
            within = log_r.isfinite()
            centre = self.prior.bijection.inverse(torch.zeros_like(theta[:1, :1]))
            found = potential.log_likelihood(torch.where(within[..., None], theta, centre)).cpu() + log_r
            return torch.where(within, found, -math.inf)


def _log_mean(log_w: Float[Tensor, "n batch"]) -> Float[Tensor, " batch"]:
    """log of the mean of the weights that are not NaN; -inf if all are NaN."""
    there = ~log_w.isnan()
    return torch.where(there, log_w, -math.inf).logsumexp(0) - there.double().sum(0).log()


@torch.no_grad()
def inside(prior: Prior, law: LawOfZ, theta: Float[Tensor, "*n theta"]) -> Bool[Tensor, "*n"]:
    """Which parameters lie in the region where a likelihood is learned, near the middle of a round's distribution."""
    size = len(prior) - len(prior.discrete())
    return law.squares(prior.bijection.forward(theta.double())) <= size + _EDGE * math.sqrt(2 * size)


def resampled(theta: Tensor, log_w: Tensor, n: int, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
    """Resample n draws of each observation by their weights up to a factor; equal weights if no weight is finite.

    Systematic resampling: a draw is repeated only if its weight is more than 1 / n.
    """
    log_w = torch.where(log_w.isfinite().any(0), log_w, 0.0)
    total = log_w.double().softmax(0).T.cumsum(1)
    start = torch.rand(len(total), 1, generator=generator, dtype=torch.float64)
    steps = (start + torch.arange(n, dtype=torch.float64)) / n * total[:, -1:]
    picked = torch.searchsorted(total.contiguous(), steps).clamp_max(total.shape[1] - 1).T
    return theta.gather(0, picked[..., None].expand(*picked.shape, theta.shape[-1]))


def best_power(found: LikelihoodWeighted, rows: Store, held_out: float, x: X) -> float:
    """The power a under which held-out rows are likeliest, or the largest below it that leaves enough effective draws.

    Args:
        found: The weighted network, with a power of 1.
        rows: Rows that the likelihood was trained on, in the order in which the network was.
        held_out: Share of these rows, at the end, that the likelihood and the network were not fitted to.
        x: The observation, name -> (1, *event).
    """
    count, generator = min(_ROWS, max(FEWEST_VALIDATION, int(held_out * len(rows)))), generator_for(2, _STREAM)
    gain = -_POWERS.square() / (2 * _SPREAD**2)
    for start in range(len(rows) - count, len(rows), _PIECE):
        batch = rows.load(slice(start, min(start + _PIECE, len(rows))))
        truth = found.log_ratio(batch.theta[None], batch.x)[0]
        drawn = found.log_ratio(found.network.draw_batched(batch.x, _EACH, generator=generator), batch.x)
        for k, power in enumerate(_POWERS[1:].tolist(), 1):
            gain[k] += (power * truth - _log_mean(power * drawn)).nan_to_num(nan=0.0).sum()
    drawn = found.network.draw_batched(x, _DRAWS, generator=generator_for(1, _STREAM))
    log_w = found.log_ratio(drawn, x)[:, 0]
    log_w = log_w[~log_w.isnan()]
    if len(log_w) < _LEAST:
        return 0.0
    for power in _POWERS[1 : int(gain.argmax()) + 1].flip(0).tolist():
        weight = (power * log_w).softmax(0)
        if 1 / float(weight.square().sum()) >= _EFFECTIVE * len(weight):
            return power
    return 0.0
