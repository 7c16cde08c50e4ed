r"""A Markov jump process: a hidden state that is one of K, and jumps at learned rates.

    z(t_1) ~ p_0(c),     z jumps from i to j at the rate r_ij(c),

c is the context of a row. The posterior is a jump process as well, with rates r^q_ij(t) that depend on time. Its
distribution solves the master equation

    dq_j / dt = sum_i q_i r^q_ij - q_j sum_i r^q_ji.

Its KL to the prior is always part of the bound,

    KL = KL(q_0 || p_0) + int sum_i q_i sum_{j != i} [r^q_ij log(r^q_ij / r_ij) - r^q_ij + r_ij] dt.

**The rates.** Let b_i(t) be the probability of all later values, given state i at time t. The exact posterior has the
rates r^q_ij = r_ij b_j(t) / b_i(t), and starts from q_0 ~ p_0 b(t_1). The posterior here has the same form. Between
values b solves the backward equation, b(t_k) = exp(R (t_{k+1} - t_k)) b(t_{k+1}), where R is the matrix of the r_ij. At
a value b is multiplied by exp(phi(h_k)), where the network phi reads the encoder's features of that value. With these
rates the master equation and the integral have closed forms: with P = exp(R (t_{k+1} - t_k)),

    q(z_{k+1} = j | z_k = i) = P_ij b_j / sum_l P_il b_l =: Q_ij,
    KL = KL_0 + sum_k sum_ij q_i(t_k) Q_ij log(Q_ij / P_ij),

whatever phi is. No integration step has to be chosen. Where phi is the log likelihood of the value in each state, up to
a constant, the posterior is exact. In the paper a network gives the rates themselves, from the whole series. Here the
rates have the exact posterior's form, so the network only learns the information of one value, and nothing about time.

The state is a one-hot vector of K numbers z_j. No gradients go through draws. So `Latent.marginals` holds q(z_k = j),
through which gradients go, and the expectation over states is exact. Learning this process pays for many series or many
parameters. For one series with known rates, `simulators.samplers.forward` gives the exact answer without training.

References:
    | Neural Markov jump processes (Seifner, Sanchez, 2023), https://arxiv.org/abs/2305.19744
    | Markov chains (Norris, 1997), chapter 2, https://doi.org/10.1017/CBO9780511810633
"""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.core.prior import global_seed
from sciinf.emulators.processes.process import Latent, LearnedProcess, Linear, Process, Series, Sizes

_LEAST = 1e-30  # Smallest probability whose logarithm is taken.
_FIRST = 0.3  # Initial total rate of leaving a state, in 1 / mean step.


@final
class MarkovJump(Process):
    """A Markov jump process with K states.

    Args:
        states: K, the number of states.
        hidden: Width of the networks' hidden layers, beside a linear part; 0 for linear networks.

    Raises:
        ValueError: If there are not at least 2 states.

    Examples:
        >>> process = MarkovJump(3).build(Sizes(4, 1, 0), seed=0)
        >>> series = Series(torch.ones(5, 8, 4), torch.ones(5, 8, dtype=torch.bool), torch.zeros(5, 1))
        >>> process.posterior(series, generator=torch.Generator()).z.sum(-1).unique()
        tensor([1.])
    """

    def __init__(self, states: int = 3, *, hidden: int = 32) -> None:
        check_whole("states", states, 2)
        check_whole("hidden", hidden, 0)
        self.states, self.hidden = states, hidden

    def build(self, sizes: Sizes, *, seed: int) -> LearnedProcess:
        with global_seed(torch.Generator().manual_seed(seed)):
            return LearnedJump(self, sizes)


@final
class LearnedJump(LearnedProcess):
    """The jump process with its networks.

    Args:
        made: The recipe of the process.
        sizes: Sizes of the process's inputs.
    """

    def __init__(self, made: MarkovJump, sizes: Sizes) -> None:
        super().__init__()
        count = self.states = made.states
        self.start = Linear(sizes.context, count, made.hidden, scale=0.0)
        self.rate = Linear(sizes.context + sizes.controls, count * count, made.hidden, scale=0.0)
        self.told = Linear(sizes.features + sizes.context, count, made.hidden)

    def rates(
        self, context: Float[Tensor, "*batch context"], controls: Float[Tensor, "*batch control"] | None = None
    ) -> Float[Tensor, "*batch state state"]:
        """r_ij, the rate of jumps from i to j, in 1 / mean step, float64; 0 on the diagonal.

        Args:
            context: Conditioning values of rows.
            controls: Conditioning values along time, if there are any.
        """
        found = self.rate(context if controls is None else torch.cat([context, controls], -1))
        log = found.double().unflatten(-1, (self.states, self.states)) + math.log(_FIRST / (self.states - 1))
        return log.exp() * (1 - torch.eye(self.states, dtype=log.dtype, device=log.device))

    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        known = series.context[:, None].expand(-1, series.length, -1)
        said = self.told(torch.cat([series.read, known], -1)) * series.there[..., None]
        start, steps = self._prior(series)
        later, shifted = said[:, -1].double(), []
        for k in range(series.length - 2, -1, -1):
            each = steps[:, k] + later[:, None]
            total = each.logsumexp(-1)
            shifted.append(each - total[..., None])
            later = said[:, k].double() + total
        first = (start + later).log_softmax(-1)
        return self._drawn(first, torch.stack(shifted[::-1], 1), start, steps, generator)

    def prior(self, series: Series, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        start, steps = self._prior(series)
        return self._drawn(start, steps, start, steps, generator).z

    def _prior(self, series: Series) -> tuple[Float[Tensor, "row state"], Float[Tensor, "row step state state"]]:
        """Log probabilities of the first state, and of the transitions over every step; float64."""
        known = series.context[:, None].expand(-1, series.length - 1, -1)
        rates = self.rates(known, None if series.controls is None else series.controls[:, :-1])
        matrix = rates - torch.diag_embed(rates.sum(-1))
        steps = torch.linalg.matrix_exp(matrix * series.steps().double()[..., None, None])
        return self.start(series.context).double().log_softmax(-1), steps.clamp_min(_LEAST).log()

    def _drawn(
        self, first: Tensor, steps: Tensor, prior: Tensor, prior_steps: Tensor, generator: torch.Generator
    ) -> Latent:
        """A path, its KL and its log ratio, from log probabilities of the posterior and of the prior."""
        shape = (prior_steps.shape[1] + 1, len(first), 1)
        at = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device).to(first.device)
        law, state = first.exp(), _picked(first.exp(), at[0])
        kl, ratio = (law * (first - prior)).sum(-1), (state * (first - prior)).sum(-1)
        laws, states = [law], [state]
        for k, (step, known) in enumerate(zip(steps.unbind(1), prior_steps.unbind(1), strict=True)):
            chances, apart = step.exp(), step - known
            kl = kl + (law[..., None] * chances * apart).sum((1, 2))
            law = (law[:, None] @ chances)[:, 0]
            after = _picked((state[:, None] @ chances)[:, 0], at[k + 1])
            ratio = ratio + (state[..., None] * apart * after[:, None]).sum((1, 2))
            state = after
            laws.append(law)
            states.append(state)
        return Latent(torch.stack(states, 1).float(), kl.float(), ratio.float(), torch.stack(laws, 1).float())


def _picked(law: Float[Tensor, "row state"], at: Float[Tensor, "row one"]) -> Float[Tensor, "row state"]:
    """One state of each row, drawn from `law` by a uniform number, as a one-hot vector."""
    upper = law.detach().cumsum(-1)
    reached = (at * upper[:, -1:] >= upper).sum(-1, keepdim=True).clamp_max(law.shape[-1] - 1)
    return (torch.arange(law.shape[-1], device=law.device) == reached).to(law)
