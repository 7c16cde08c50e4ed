r"""Posteriors that do not hold for every observation: what sequential rounds learn, and what they answer with.

The last round learned q(theta | x) from the prior truncated to S. For an observation x simulated from there,
`LocalPosterior` is

    q_S(theta | x) = q(theta | x) 1[theta in S] / Q(S | x),     Q(S | x) = integral over S of q(theta | x).

For the one observation x_o that the rounds were for, `Sequential` is q_S(theta | x_o): the posterior under the prior,
up to its mass outside S. Q(S | x) is estimated as the share of draws of q that lie in S, with a fixed seed: of 65,536
draws for x_o, and of 4,096 for each x of a batch, which leaves an error of log Q of sqrt((1 / Q - 1) / 4096), below
0.016 where Q > 1/2.

Shapes: theta (n, batch, D), x name -> (batch, *event).

References:
    | Truncated proposals for scalable and hassle-free simulation-based inference (Deistler, Goncalves & Macke, 2022),
      https://arxiv.org/abs/2210.04815
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.campaigns.block import generator_for
from sciinf.core import Fit, X
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.learned import LearnedPosterior
from sciinf.posteriors.truncated import ERROR, OutsideRegion, TruncatedPrior, restricted

_DRAWS = 65_536  # that the learned density's mass within the region is estimated from, for x_o
_EACH = 4_096  # the same for any other x
_MOST_MASS = 0.9  # of what was learned of x_o, below which it is warned that so little lies within the region
# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
_STREAM = 2**31 + 3


class LocalPosterior(LearnedPosterior):
    """What the last round learned: the posterior under the truncated prior, for observations simulated from it.

    Unlike the posterior for one observation it can be calibrated, on fresh simulations of the same proposal.

    Args:
        fit: The last round's.
        truncation: What that round was simulated from; None for the prior.
        trained_on: Digests and campaigns of the stores of all rounds.
    """

    def __init__(self, fit: Fit, truncation: TruncatedPrior | None, trained_on: frozenset[str]) -> None:
        self.name = "local sequential"
        self.only = self.scope = "not amortised: it holds for simulations of its proposal alone" if truncation else ""
        self.whole = truncation is None
        self.learned, self.truncation, self.trained_on = Amortised(fit), truncation, trained_on
        self.prior, self.observables = self.learned.prior, self.learned.observables
        self.under = truncation.to_json() if truncation else None
        self.digest = hashlib.sha256(f"{fit.digest} {json.dumps(self.under, sort_keys=True)}".encode()).hexdigest()

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        return restricted(self.learned.estimator.density(x), self.truncation, n, generator)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """Normalised within the region, -inf outside.

        Raises:
            OutsideRegion: If nothing of what was learned of an observation lies within the region.
        """
        log_q = self.unnormalised(theta, x)
        if self.truncation is None:
            return log_q
        ones = ({name: value[i : i + 1] for name, value in x.items()} for i in range(log_q.shape[-1]))
        return log_q - torch.tensor([self.mass(one, _EACH) for one in ones], dtype=torch.float64).log()

    def unnormalised(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """log q(theta | x), -inf outside the region."""
        log_q = self.learned.log_prob_batched(theta, x)
        if self.truncation is None:
            return log_q
        inside = self.truncation.contains(theta.reshape(-1, theta.shape[-1])).reshape(log_q.shape)
        return torch.where(inside, log_q, -math.inf)

    def mass(self, x: X, draws: int) -> float:
        """Q(S | x), from so many draws for an observation, name -> (1, *event); the same each time.

        Raises:
            OutsideRegion: If it is zero.
        """
        if self.truncation is None:
            return 1.0
        theta = self.learned.draw_batched(x, draws, generator=generator_for(0, _STREAM))[:, 0]
        mass = float(self.truncation.contains(theta).double().mean())
        if mass == 0.0:
            raise OutsideRegion(
                f"none of {draws:,} draws of what was learned of the observation lies within the region of the rounds; "
                "give more simulations per round, or begin anew; an observation that was not simulated from the region "
                "needs rounds of its own"
            )
        return mass

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.learned.features(x)


class Sequential(LearnedPosterior):
    """The posterior of one observation. It is not amortised: any other observation is refused.

    Args:
        local: What the last round learned.
        x: The observation, name -> (1, *event).
        truncations: What each round but the first was simulated from, in order.

    Raises:
        OutsideRegion: If nothing of what was learned lies within the last round's region.

    Warns:
        UserWarning: If less than nine tenths of it do.
    """

    observation: X

    def __init__(self, local: LocalPosterior, x: X, truncations: Sequence[TruncatedPrior]) -> None:
        self.local, self.observation = local, dict(x)
        self.name = "sequential"
        self.digest, self.trained_on, self.under = local.digest, local.trained_on, local.under
        self.prior, self.observables, self.whole = local.prior, local.observables, local.whole
        self.mass = local.mass(x, _DRAWS)  # of the learned density, within the region
        rounds = len(truncations) + 1
        self.only = f"not amortised: it was learned in {rounds} rounds for this observation and holds for no other"
        self.only = "restricted to this observation" if rounds == 1 else self.only
        parts = [self.only]
        if self.mass < _MOST_MASS:
            parts.append(
                f"only {self.mass:.1%} of what was learned lies where its simulations were; the rest is cut off"
            )
            warnings.warn(
                f"{parts[-1]}: the last round did not learn its region; give more simulations per round, or reweight "
                "by the likelihood where there is one",
                stacklevel=3,
            )
        error = max((truncation.error for truncation in truncations), default=0.0)
        if error > ERROR:
            parts.append(f"its simulations were off the law they should follow by up to {error:.0%}")
        self.scope = "; ".join(parts)

    @property
    def truncation(self) -> TruncatedPrior | None:
        """What the last round was simulated from; None for the prior."""
        return self.local.truncation

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """Unweighted draws for a batch of observations, each of which must be the one.

        Raises:
            ValueError: If an x is not the observation.
        """
        self._check(x)
        return self.local.draw_batched(x, n, generator=generator)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """Normalised within the region, -inf outside.

        Raises:
            ValueError: If an x is not the observation.
        """
        self._check(x)
        return self.local.unnormalised(theta, x) - math.log(self.mass)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.local.features(x)

    def _check(self, x: X) -> None:
        for name, own in self.observation.items():
            value = x[name].to(own)
            if not torch.equal(value, own.expand_as(value)):
                raise ValueError(
                    f"this posterior is sequential, for one observation, and not amortised; {name!r} differs from it. "
                    "Run infer_sequentially for the other observation, or train an amortised posterior; what is "
                    "calibrated is this posterior's `local`"
                )
