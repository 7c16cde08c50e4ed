r"""How probable values are by the network, beside what they are by the likelihood: two ways to compare models.

Where models share data and their likelihood is known, the weights of draws give the evidence of each value a,
p(x | a) = Z P_w(a) / P(a), and with it the Bayes factor of two; the network gives another by its probabilities alone.
The answer is by the weights. How far the network is from it tells what it is worth where there are none.

With P_w of n weighted draws, the error of log P_w(a) is sqrt(sum w_i^2 ([d_i = a] - P_w)^2) / P_w; those of two values
are added.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinf.core import Check, Draws, Posterior, X
from sciinf.inference.marginal import exact_probabilities

NAME = "model comparison"
_FAR, _SURE = 1.0, 3.0  # nats, and standard errors, by which a network is off
_LEAST = 1e-12


def check_compared(learned: Posterior, x: X, plain: Draws, weighted: Draws) -> tuple[Check, ...]:
    """The two most probable values of each discrete parameter that always exists, by both; nothing of other priors.

    Args:
        learned: What the weights correct.
        x: The observation, name -> (1, *event).
        plain: Its draws.
        weighted: The draws of the answer.
    """
    prior, found = learned.prior, []
    for name, law in prior.discrete().items():
        place = prior.names.index(name)
        codes = law.codes(weighted.theta[:, place])
        if bool((codes < 0).any()):
            continue
        p, error = _shares(codes, weighted.weights, len(law.values))
        exact = exact_probabilities(learned, x, name)
        q = _shares(law.codes(plain.theta[:, place]), plain.weights, len(law.values))[0] if exact is None else exact[0]
        a, b = p.argsort(descending=True, stable=True)[:2].tolist()
        less = float(law.log_probs[a] - law.log_probs[b])
        by_weights, by_network = (float(one[a].log() - one[b].clamp_min(_LEAST).log()) - less for one in (p, q))
        off = float((error[[a, b]] / p[[a, b]].clamp_min(_LEAST)).sum())
        found.append((f"{name} = {law.labels[a]} : {law.labels[b]}", by_weights, off, by_network))
    if not found:
        return ()
    far = any(abs(mine - net) > max(_FAR, _SURE * off) for _, mine, off, net in found if math.isfinite(mine - net))
    each = "; ".join(
        f"{what} is {_number(mine, off)} by the likelihood and {net:.2f} by the network"
        for what, mine, off, net in found
    )
    words = f"log Bayes factor of {each}; the answer is by the likelihood"
    more = ". By itself the network is not to be relied on: train on more simulations" if far else ""
    return (Check(NAME, "good", words + more),)  # the answer is right where its weights are, which `draws` tells


def _shares(codes: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Probability of each value, and its standard error, (K,) each, float64."""
    has = torch.nn.functional.one_hot(codes.clamp_min(0), count).double() * (codes >= 0)[:, None]
    p = weights.double() @ has
    return p, (weights.double().square() @ (has - p).square()).sqrt()


def _number(value: float, error: float) -> str:
    return f"more than {-math.log(_LEAST):.0f}" if value > -0.9 * math.log(_LEAST) else f"{value:.2f} +- {error:.2f}"
