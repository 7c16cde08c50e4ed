r"""Coverage of neurons: in what states the network's neurons were in simulations, and how rare those of new data are.

The states in the paper are of a classifier's neurons a, with p its classes and v the uniform law,

    s = sigmoid(c a * dKL(v || p) / da),

the value of a neuron times what it does to how sure the network is. A posterior has no classes. So a perceptron reads
its learned summary h(x), and says a normal law of the unbounded parameters, mean and sd, learned from one draw of the
posterior for each simulation. How sure it is, is the entropy H of that law, in the place of KL, and the neurons are
those of h and of the perceptron's hidden layer:

    s = sigmoid(c a * dH / da / sd(a dH / da)).

With k(s) a histogram of the states of a neuron in simulations, in shares of an even one, coverage is min(k(s), r) / r
with r = 1, and the distance is 1 less its mean over all neurons.

References:
    | Neuron activation coverage: rethinking out-of-distribution detection and generalization (Liu, Tian, Li, Ma, Li,
      2023), https://arxiv.org/abs/2306.02879
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from sciinf.core import Posterior, X
from sciinf.diagnostics.scores.perceptron import applied, descended, drawn, some
from sciinf.diagnostics.scores.score import DataScore, bent, named, part

_HIDDEN, _STEPS = 128, 600
_BINS, _ENOUGH = 50, 1.0
_STEEP = 2.0
_LEAST, _MOST = -6.0, 4.0


@dataclass(frozen=True)
class NeuronCoverage(DataScore):
    """How rare the states of the network's neurons are."""

    def fit(self, posterior: Posterior, x: X, *, generator: torch.Generator) -> dict[str, Tensor]:
        """What it learns from simulations, name -> (n, *event)."""
        h = posterior.features(x).double()
        theta = posterior.draw_batched(x, 1, generator=generator)[0]
        z = bent(posterior.prior.bijection.forward(theta.double()).nan_to_num()).float()
        learned = {"centre": torch.stack([h.mean(0), h.std(0).clamp_min(1e-6)])}
        u = _standard(learned, h)

        def loss(weights: Mapping[str, Tensor]) -> Tensor:
            i = some(len(u), generator)
            mean, log = applied(weights, u[i]).chunk(2, dim=1)
            log = log.clamp(_LEAST, _MOST)
            return (log + 0.5 * ((z[i] - mean) / log.exp()).square()).sum(1).mean()

        learned |= named(descended(drawn([h.shape[1], _HIDDEN, 2 * z.shape[1]], generator), loss, _STEPS), "network/")
        state = _signals(learned, u)
        learned["scale"] = state.std(0).clamp_min(1e-9)
        place = _places(learned, state)
        counts = torch.zeros(state.shape[1], _BINS).scatter_add_(
            1, place.T, torch.ones_like(place.T, dtype=torch.float32)
        )
        return learned | {"covered": (counts * _BINS / len(state) / _ENOUGH).clamp_max(1.0)}

    def distances(self, posterior: Posterior, learned: Mapping[str, Tensor], x: X) -> Tensor:
        """How strange each of a batch of data is, (batch,)."""
        place = _places(learned, _signals(learned, _standard(learned, posterior.features(x).double())))
        return 1 - learned["covered"].double().gather(1, place.T).mean(0)


def _standard(learned: Mapping[str, Tensor], h: Tensor) -> Tensor:
    mean, sd = learned["centre"]
    return bent((h - mean) / sd).nan_to_num().float()


def _signals(learned: Mapping[str, Tensor], u: Tensor) -> Tensor:
    """a dH / da of each neuron, those of the summary first, (batch, neurons)."""
    weights = part(learned, "network/")
    with torch.enable_grad():
        given = u.detach().clone().requires_grad_()
        hidden = silu(given @ weights["weight0"] + weights["bias0"])
        log = (hidden @ weights["weight1"] + weights["bias1"]).chunk(2, dim=1)[1]
        slopes = torch.autograd.grad(log.sum(), (given, hidden))
    return torch.cat([given * slopes[0], hidden * slopes[1]], dim=1).detach()


def _places(learned: Mapping[str, Tensor], signals: Tensor) -> Tensor:
    """In which bin the state of each neuron is, (batch, neurons)."""
    state = torch.sigmoid(_STEEP * signals / learned["scale"])
    return (state * _BINS).long().clamp(0, _BINS - 1)
