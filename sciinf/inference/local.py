r"""Posteriors that do not hold for every observation: what sequential rounds learn, and what they answer with.

The last round learned q(theta | x) from the prior truncated to S. For an observation x simulated from there, `Local` is

    q_S(theta | x) = q(theta | x) 1[theta in S] / Q(S | x),     Q(S | x) = integral over S of q(theta | x).

For the one observation x_o that the rounds were for, `Sequential` is q_S(theta | x_o), with Q(S | x_o) estimated from
draws: the posterior under the prior, up to its mass outside S.

Shapes: theta (n, batch, D), x name -> (batch, *event).

References:
    | Truncated proposals for scalable and hassle-free simulation-based inference (Deistler, Goncalves & Macke, 2022),
      https://arxiv.org/abs/2210.04815
"""

from __future__ import annotations

import hashlib
import json
import math

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Draws, Fit, Posterior, X
from sciinf.engine.block import generator_for
from sciinf.inference.amortised import Amortised
from sciinf.inference.truncated import TruncatedPrior, restricted

_DRAWS = 65_536  # that the learned density's mass within the region is estimated from
_STREAM = 2**31 + 3  # no campaign has this many blocks, so none shares these random numbers


class Local(Posterior):
    """What the last round learned: the posterior under the truncated prior, for observations simulated from it.

    Unlike the posterior for one observation it can be calibrated, on fresh simulations of the same proposal.

    Args:
        fit: The last round's.
        truncation: What that round was simulated from; None for the prior.
        trained_on: Digests and campaigns of the stores of all rounds.
    """

    def __init__(self, fit: Fit, truncation: TruncatedPrior | None, trained_on: frozenset[str]) -> None:
        self.name = "local sequential"
        self.scope = "not amortised: it holds for simulations of its proposal alone" if truncation else ""
        self.learned, self.truncation, self.trained_on = Amortised(fit), truncation, trained_on
        self.prior, self.observables = self.learned.prior, self.learned.observables
        self.under = truncation.to_json() if truncation else None
        self.digest = hashlib.sha256(f"{fit.digest} {json.dumps(self.under, sort_keys=True)}".encode()).hexdigest()

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n, dtype=torch.float64))

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        return restricted(self.learned.estimator.condition(x), self.truncation, n, generator)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """log q(theta | x), -inf outside the region; not divided by q's mass in the region, a constant for each x."""
        log_q = self.learned.log_prob_batched(theta, x)
        if self.truncation is None:
            return log_q
        inside = self.truncation.contains(theta.reshape(-1, theta.shape[-1])).reshape(log_q.shape)
        return torch.where(inside, log_q, -math.inf)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.learned.features(x)


class Sequential(Posterior):
    """The posterior of one observation. It is not amortised: any other observation is refused.

    Args:
        local: What the last round learned.
        x: The observation, name -> (1, *event).
        rounds: How many rounds there were.
    """

    def __init__(self, local: Local, x: X, rounds: int) -> None:
        self.local, self.x, self.rounds = local, dict(x), rounds
        self.name = "sequential"
        what = f"{rounds} rounds" if rounds > 1 else "one round"
        self.scope = f"not amortised: it was learned in {what} for this observation and holds for no other"
        self.digest, self.trained_on, self.under = local.digest, local.trained_on, local.under
        self.prior, self.observables = local.prior, local.observables
        self.mass = 1.0  # of the learned density, within the region
        if local.truncation is not None:
            draws = local.learned.draw_batched(self.x, _DRAWS, generator=generator_for(0, _STREAM))[:, 0]
            self.mass = float(local.truncation.contains(draws).double().mean())

    @property
    def truncation(self) -> TruncatedPrior | None:
        """What the last round was simulated from; None for the prior."""
        return self.local.truncation

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """Unweighted draws.

        Raises:
            ValueError: If x is not the observation.
        """
        self._check(x)
        return self.local.draw(x, n, generator=generator)

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """The same for a batch, in which every observation must be the one.

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
        return self.local.log_prob_batched(theta, x) - math.log(self.mass)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.local.features(x)

    def _check(self, x: X) -> None:
        for name, own in self.x.items():
            value = x[name].to(own)
            if not torch.equal(value, own.expand_as(value)):
                raise ValueError(
                    f"this posterior is sequential, for one observation, and not amortised; {name!r} differs from it. "
                    "Run infer_sequentially for the other observation, or train an amortised posterior; what is "
                    "calibrated is this posterior's `local`"
                )
