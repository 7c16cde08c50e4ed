r"""Does the network identify the parameters of fresh simulations better than the likelihood that corrects it?

Simulations (theta_k, x_k) from around the answer are put into groups of m. Before x_k is seen, each of the m
parameters of its group is as probable as the others. Given x_k, likelihood and network give the right parameter the
probabilities

    l_k = p(x_k | theta_k) / sum_j p(x_k | theta_j),
    q_k = r_k / sum_j r_j,     r_j = q(theta_j | x_k) / p(theta_j).

The logarithmic score is proper: nothing that is computed from x_k and the group has a larger mean log score than the
right likelihood. So if log q_k - log l_k is above zero on average, log_likelihood is not the simulator's. Factors of
the data alone cancel. Given all parameters the rows are independent, and E[q_k / l_k] is 1 on average over a group.
So for any network

    E[prod_k q_k / l_k] <= 1,     P(sum_k (log q_k - log l_k) > 15) < exp(-15) = 3e-7.

The check detects a likelihood that leaves out data, or has noise of another distribution, even where its posterior
is calibrated and only too wide. A network that is worse than the likelihood shows nothing. The network's
probabilities are mixed with 1 / m, so that one simulation cannot decide.

Reference:
    | Strictly Proper Scoring Rules, Prediction, and Estimation (Gneiting & Raftery, 2007), section 4,
      https://doi.org/10.1198/016214506000001437
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.campaigns.normalisation import unused, unused_numbers, unused_words
from sciinf.core import Case, Cause, DensityUnavailable, Diagnostic, Finding, Level, Need, Posterior, Simulator, X
from sciinf.diagnostics.around import Around
from sciinf.posteriors.tilted import judged_by_simulator, layers

_GROUP, _LEAST = 20, 400  # Group size m; least number of simulations.
_CHUNK, _BUDGET = 500, 15.0  # Simulations in one pass, and seconds after which no further pass begins.
_MIXED, _LOWEST = 0.05, -50.0  # Share of 1 / m in the network's probabilities; least log score of the likelihood.
_SURE = 15.0  # Total gain in nats from which on it is no coincidence.
_SMALL, _LARGE = 0.02, 0.1  # Gain in nats per simulation: a smaller one is not reported; a larger one is an alarm.


def score_gain(
    network: Posterior, simulator: Simulator, theta: Float[Tensor, "n theta"], x: X
) -> Float[Tensor, " rows"] | None:
    """log q_k - log l_k of each simulation, or of the first ones if all take too long; None without a density.

    Args:
        network: The posterior network, without the likelihood that corrects it.
        simulator: Simulator with the likelihood.
        theta: Parameters.
        x: Data simulated from each row of `theta`, name -> (n, *event).
    """
    found, began = [], time.monotonic()
    for start in range(0, len(theta) // _GROUP * _GROUP, _CHUNK):
        rows = slice(start, min(start + _CHUNK, len(theta) // _GROUP * _GROUP))
        try:
            found.append(_gain(network, simulator, theta[rows], {name: value[rows] for name, value in x.items()}))
        except DensityUnavailable:
            return None
        if time.monotonic() - began > _BUDGET:
            break
    return torch.cat(found) if found else None


@torch.no_grad()
def _gain(network: Posterior, simulator: Simulator, theta: Tensor, x: X) -> Tensor:
    members = torch.arange(len(theta)).view(-1, _GROUP).repeat_interleave(_GROUP, 0).T  # The shape is (m, n).
    own, others = (torch.arange(len(theta)) % _GROUP)[None], theta[members]
    log_prior = torch.stack([network.prior.log_prob(one) for one in others]).double()
    log_q = network.log_prob_batched(others, x).double() - log_prior
    likelihood: Any = simulator.log_likelihood
    log_l = torch.stack([likelihood(one, x) for one in others]).double()
    of_network, of_likelihood = (
        value.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf).log_softmax(0).gather(0, own)[0]
        for value in (log_q, log_l)
    )
    mixed = ((1 - _MIXED) * of_network.nan_to_num(nan=-math.inf).exp() + _MIXED / _GROUP).log()
    return mixed - of_likelihood.nan_to_num(nan=-math.log(_GROUP)).clamp_min(_LOWEST)


@final
class LikelihoodScore(Diagnostic):
    """Does the likelihood identify the parameters of simulations as well as the network? Shown only if not."""

    name, cause, needs = "likelihood score", Cause.LIKELIHOOD, frozenset({Need.AROUND})

    def __call__(self, case: Case) -> Sequence[Finding]:
        simulator, around, theta, x = case.simulator, case.around, case.theta, case.predicted
        if simulator.random_likelihood or not judged_by_simulator(case.posterior):
            return ()
        # With a mixed prior, all these simulations have the same discrete values.
        if isinstance(around, Around) and not simulator.prior.mixed:
            theta, x = around.theta, around.data
        gain = score_gain(layers(case.posterior)[-1], simulator, theta, x) if len(theta) >= _LEAST else None
        left_out = {} if isinstance(around, str) else unused_numbers(simulator, unused(simulator, case.seed))
        without = f"log_likelihood does not use {unused_words(left_out)}"
        mean = 0.0 if gain is None else float(gain.mean())
        if gain is not None and mean > _SMALL and float(gain.sum()) > _SURE:
            other = "log_likelihood leaves out what data tell of the parameters, or has noise of another distribution"
            words = f"{without}, which tell of the parameters" if left_out else other
            words += f"; the network tells those of {len(gain):,} simulations better, by {mean:.2g} nats each, so the"
            words += " correction makes the answer worse"
            level = Level.ALARM if mean > _LARGE else Level.CAUTION
            return (Finding(self.name, level, words, "worse", {"gain": mean}),)
        if not left_out:
            return ()
        as_good = gain is not None and abs(mean) <= _SMALL  # A network that is worse cannot tell.
        told = "the network, which has them, tells parameters no better" if as_good else "they may matter"
        level = Level.GOOD if as_good else Level.CAUTION
        return (Finding(self.name, level, f"{without}: other values there do not change it; {told}", "unused"),)
