r"""A recurrent network with random inputs at each time, whose posterior is conditional on the observations.

    d_t = cell(d_{t-1}; z_t),     z_t ~ N(mu(d_{t-1}), sigma(d_{t-1})^2)   (prior),
                                  z_t ~ N(mu(d_{t-1}, a_t), sigma(d_{t-1}, a_t)^2)   (posterior),

where d_t in R^S is the path, z_t its random inputs, and a_t a vector of this row and time with the
observations from t on. The observations do not enter the network directly: they act on z_t through a_t alone.
The training objective is

    L = E_q log p(x | d) - w KL(q(z | d, a) || p(z | d)).

With w = 1 it is a lower bound of log p(x). With a small w the network learns random dynamics. With a large w
the network imitates randomness by deterministic chaos. **Only w = 1 is a bound.** w thus changes the
gradients but not the reported numbers: the loss, `bound` and the fit's record are those of w = 1, for any w.
A network that was trained with another w does not maximise them.

In the paper each training row has its own vectors a_t, found by gradients. Here a cell that reads the series
backwards computes them. Given d_{t-1}, earlier values carry no further information on z_t, so that q can be
exact. For a row that is asked about, gradients can improve the vectors (`emulators.refinement.refined`, the
paper's "error regression", which works for every process). After the last observed value q equals the prior,
so that a forecast follows the prior from there.

References:
    | A novel predictive-coding-inspired variational RNN model for online prediction and recognition (Ahmadi, Tani,
      2019), https://arxiv.org/abs/1811.01339
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_whole
from sciinf.core.prior import global_seed
from sciinf.emulators.processes.process import Latent, LearnedProcess, Linear, Process, Series, Sizes

_WIDEST = 4.0  # Largest |log sigma|.


class PredictiveCoding(Process):
    """The settings of a recurrent network with random inputs (PV-RNN).

    Args:
        states: Width S of the cell, whose state is the input of the decoder.
        noise: Number of random inputs z at each time.
        width: Width of the cell that reads backwards, and of the hidden layers of prior and posterior.
        weight: Weight w of the KL term. Only 1 trains a lower bound of the likelihood.

    Raises:
        ValueError: If a number is below 1, or the weight is not above 0.
    """

    def __init__(self, states: int = 16, *, noise: int = 2, width: int = 16, weight: float = 1.0) -> None:
        for name, value in (("states", states), ("noise", noise), ("width", width)):
            check_whole(name, value, 1)
        if not 0 < weight < float("inf"):
            raise ValueError(f"weight is {weight!r}, expected a number above 0; only 1 trains a lower bound")
        self.states, self.noise, self.width, self.weight = states, noise, width, float(weight)

    def build(self, sizes: Sizes, *, seed: int) -> LearnedPredictiveCoding:
        with global_seed(torch.Generator().manual_seed(seed)):
            return LearnedPredictiveCoding(self, sizes)


@final
class LearnedPredictiveCoding(LearnedProcess):
    """The recurrent network, with its learned weights.

    Args:
        plan: Settings of the network.
        sizes: Sizes of features, context and controls.
    """

    def __init__(self, plan: PredictiveCoding, sizes: Sizes) -> None:
        super().__init__()
        self.states, self.noise, self.weight = plan.states, plan.noise, plan.weight
        known = sizes.context + sizes.controls + 1
        self.cell = nn.GRUCell(plan.noise + known, plan.states)
        self.reader = nn.GRUCell(sizes.features + 1 + known, plan.width)
        self.start = nn.Parameter(torch.zeros(plan.states))
        self.expected = Linear(plan.states + known, 2 * plan.noise, plan.width, scale=0.3)
        self.adapted = nn.Linear(plan.width + sizes.features, plan.width)
        self.moved = Linear(plan.states + plan.width, 2 * plan.noise, plan.width, scale=0.1)

    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        known, ahead = self._known(series), _ahead(series.there)
        vectors = self._vectors(series, known)
        noise = torch.randn(len(series), series.length, self.noise, generator=generator, device=generator.device)
        d, path, kl, ratio = self._begun(series), [], [], []
        for k, e in enumerate(noise.to(d).unbind(1)):
            mean, log_sd = self._law(self.expected(torch.cat([d, known[:, k]], -1)))
            more, wider = self.moved(torch.cat([d, vectors[:, k]], -1)).chunk(2, -1)
            more, wider = (
                torch.where(ahead[:, k, None], part, 0.0) for part in (more, _WIDEST * (wider / _WIDEST).tanh())
            )
            off, z = more + wider.exp() * e, mean + log_sd.exp() * (more + wider.exp() * e)
            kl.append((0.5 * (more.square() + (2 * wider).exp() - 1) - wider).sum(-1))
            ratio.append((0.5 * (off.square() - e.square()) - wider).sum(-1))
            d = self.cell(torch.cat([z, known[:, k]], -1), d)
            path.append(d)
        nats = torch.stack(kl, 1).sum(1)
        if self.weight != 1.0:
            nats = (
                self.weight * nats + (1 - self.weight) * nats.detach()
            )  # This is the value for w = 1, with the gradient for w.
        return Latent(torch.stack(path, 1), nats, torch.stack(ratio, 1).sum(1))

    def prior(self, series: Series, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        known = self._known(series)
        noise = torch.randn(len(series), series.length, self.noise, generator=generator, device=generator.device)
        d, path = self._begun(series), []
        for k, e in enumerate(noise.to(known).unbind(1)):
            mean, log_sd = self._law(self.expected(torch.cat([d, known[:, k]], -1)))
            d = self.cell(torch.cat([mean + log_sd.exp() * e, known[:, k]], -1), d)
            path.append(d)
        return torch.stack(path, 1)

    def _law(self, found: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sd = found.chunk(2, -1)
        return mean, _WIDEST * (log_sd / _WIDEST).tanh()

    def _begun(self, series: Series) -> Tensor:
        return self.start.tanh().expand(len(series), -1)

    def _known(self, series: Series) -> Tensor:
        """The conditioning values of each time: log of 1 + time since the last one, context, controls."""
        gaps = torch.cat([series.seen.new_ones(1, 1).expand(len(series), 1), series.steps().expand(len(series), -1)], 1)
        parts = [gaps.log1p()[..., None], series.context[:, None].expand(-1, series.length, -1)]
        return torch.cat(parts if series.controls is None else [*parts, series.controls], -1)

    def _vectors(self, series: Series, known: Tensor) -> Tensor:
        """The vectors a_t, which depend on the observations from each time on."""
        read, state = series.read, series.seen.new_zeros(1, self.reader.hidden_size).expand(len(series), -1)
        inputs, found = torch.cat([read, series.there[..., None].to(read), known], -1), []
        for each in inputs.unbind(1)[::-1]:
            state = self.reader(each, state)
            found.append(state)
        return self.adapted(torch.cat([torch.stack(found[::-1], 1), read], -1)).tanh()


def _ahead(there: Tensor) -> Tensor:
    """Whether any value was observed at a time or later, (row, T)."""
    return there.flip(1).cumsum(1).flip(1) > 0
