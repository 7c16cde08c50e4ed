r"""Coverage of neurons: how rare the states of the network's neurons are for new data, among those in simulations.

The states in the paper are of a classifier's neurons a, with p its class probabilities and v the uniform
distribution,

    s = sigmoid(c a * dKL(v || p) / da),

the value of a neuron times its effect on how certain the network is. A posterior has no classes. So a perceptron
reads its learned summary h(x), and gives a normal distribution of the unbounded parameters, as mean and sd. It
learns from one draw of the posterior for each simulation. The entropy H of that distribution measures certainty, in
place of KL. The neurons are those of h and of the perceptron's hidden layer:

    s = sigmoid(c a * dH / da / sd(a dH / da)).

Let k(s) be a histogram of the states of a neuron in simulations, relative to a uniform histogram. Then coverage is
min(k(s), r) / r with r = 1, and the distance is 1 minus the mean of the coverage over all neurons.

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
    """Data score: how rare the states of the network's neurons are."""

    def fit(self, posterior: Posterior, x: X, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Learn from simulations, name -> (n, *event); return the learned tensors."""
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
        """Strangeness of each data set of a batch, (batch,)."""
        place = _places(learned, _signals(learned, _standard(learned, posterior.features(x).double())))
        return 1 - learned["covered"].double().gather(1, place.T).mean(0)


def _standard(learned: Mapping[str, Tensor], h: Tensor) -> Tensor:
    mean, sd = learned["centre"]
    return bent((h - mean) / sd).nan_to_num().float()


def _signals(learned: Mapping[str, Tensor], u: Tensor) -> Tensor:
    """Product a dH / da of each neuron, those of the summary first, (batch, neurons)."""
    weights = part(learned, "network/")
    with torch.enable_grad():
        given = u.detach().clone().requires_grad_()
        hidden = silu(given @ weights["weight0"] + weights["bias0"])
        log = (hidden @ weights["weight1"] + weights["bias1"]).chunk(2, dim=1)[1]
        slopes = torch.autograd.grad(log.sum(), (given, hidden))
    return torch.cat([given * slopes[0], hidden * slopes[1]], dim=1).detach()


def _places(learned: Mapping[str, Tensor], signals: Tensor) -> Tensor:
    """Bin of the state of each neuron, (batch, neurons)."""
    state = torch.sigmoid(_STEEP * signals / learned["scale"])
    return (state * _BINS).long().clamp(0, _BINS - 1)
