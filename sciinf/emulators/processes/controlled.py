r"""A path driven by controls (treatments), with an equation whose weights differ from row to row and may change.

    z(t_1) = m(c) + s(c) b,     dz = f_w(z, c) dX,     X = (t, controls),

    f_w = (W_0 + sum_d w_d W_d) (z, tanh(A z + C c + a), 1),

    dw = -r w dt + sqrt(2 r) dB   (prior),     dw = (-r w + sqrt(2 r) v) dt + sqrt(2 r) dB   (posterior),

    KL = KL_1 + 1/2 E int |v|^2 dt,     b ~ N(0, I),   w(t_1) ~ N(0, I).

c is the context of a row. The few weights w of each row say how the equation of this row differs from the others': how
fast a patient clears a drug, how strongly the drug acts. With r near 0 a row keeps its w (`wander=False`: r is 0); with
a large r the row forgets w. Given w and b, the path is deterministic. Without observations, w is stationary. W_0, W_d,
m, s and r are the same for all rows.

**Controls** come in two kinds. A control that is in force from its time on (a rate, a temperature) has dX = u dt. A
control that is given at once (a dose: `impulses`) has dX = u at its time, before the rest of the step. A dose of 0
changes nothing. A step follows Heun's rule, with w at the two ends of the step. v acts by Bayes' rule (`bayes_steps`).
So the KL is exact for the discrete steps, and becomes Girsanov's KL for short steps.

**Controls may have been chosen after a look at the values**: a dose after a look at the last value, for instance. This
module takes three precautions. A control acts on later times of the path alone. The decoder does not see controls,
because the dose of a time would reveal the value of that time. And times and controls after the last value have no
effect on the posterior. So after the last value the posterior is the prior, driven by the controls that you supply
there.

**What it does not do.** "What if another dose had been given?" is answered by this model's own equation. The answer is
what would happen only if controls were chosen by chance, by recorded values and by the context of the row (c), and by
nothing else. A hidden cause of both doses and values is not corrected for, and nothing here can detect such a cause.
Missing values are such a cause, if those who chose the controls had seen them. Controls unlike those of the training
rows are answered as well, by networks that saw none like them; those far beyond cause a warning.

**It is an approximation.** In the paper the weights of one network have a posterior, which represents the uncertainty
from limited data. Here each row has its own w, and W_0, W_d, m, s and r are point estimates. With few rows, intervals
are too narrow, because they ignore the uncertainty of these estimates. q comes from a network.

References:
    | Bayesian neural controlled differential equations for treatment effect estimation (Hess et al., 2023),
      https://arxiv.org/abs/2310.17463
    | Neural controlled differential equations for irregular time series (Kidger et al., 2020),
      https://arxiv.org/abs/2005.08926
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_positive, check_whole
from sciinf.core.prior import global_seed
from sciinf.emulators.processes.bayes_steps import Heard, LaterValues, Told
from sciinf.emulators.processes.process import Latent, LearnedProcess, Linear, Process, Series, Sizes

_SLOW = 0.01  # Initial r, per mean step.
_LEAST = 1e-12  # Variance of a step of length 0, so that the gradient of its sd is finite.


class Controlled(Process):
    """A path driven by controls, with an equation whose weights differ from row to row.

    Args:
        states: S, the number of components of the path at a time.
        weights: Number of weights of a row, which say how its equation differs from the others'. With 0, rows differ by
            their first state alone, and the path is deterministic from there.
        wander: Whether these weights change over time. If False, a row keeps its weights.
        impulses: Controls that are amounts given at once, by their positions among all controls. The other controls are
            in force from their time on.
        steps: Integration steps between one time and the next.
        hidden: Width of the equation's hidden layer.
        width: Width of the posterior's networks.

    Raises:
        ValueError: If a number is out of its range; when it is built, if a control in `impulses` does not exist.

    Examples:
        >>> process = Controlled(2, impulses=(0,)).build(Sizes(features=3, context=0, controls=1), seed=0)
        >>> seen, dose = torch.ones(5, 8, 3), torch.ones(5, 8, 1)
        >>> series = Series(seen, seen[..., 0] > 0, torch.zeros(5, 0), controls=dose)
        >>> process.posterior(series, generator=torch.Generator()).z.shape
        torch.Size([5, 8, 2])
    """

    def __init__(
        self,
        states: int = 4,
        *,
        weights: int = 3,
        wander: bool = True,
        impulses: Sequence[int] = (),
        steps: int = 1,
        hidden: int = 16,
        width: int = 32,
    ) -> None:
        check_positive(states=states, steps=steps, hidden=hidden, width=width)
        check_whole("weights", weights, 0)
        for each in impulses:
            check_whole("impulses", each, 0)
        self.states, self.weights, self.wander, self.impulses = states, weights, wander, tuple(impulses)
        self.steps, self.hidden, self.width = steps, hidden, width

    def build(self, sizes: Sizes, *, seed: int) -> LearnedProcess:
        if unknown := [each for each in self.impulses if each >= sizes.controls]:
            raise ValueError(
                f"impulses names {unknown}, and there are {sizes.controls} controls, numbered from 0: these are the "
                "series in LatentDynamics(given=...), in that order"
            )
        with global_seed(torch.Generator().manual_seed(seed)):
            return LearnedControlled(self, sizes)


@final
class LearnedControlled(LearnedProcess):
    """The controlled equation and its posterior with their weights.

    Args:
        made: The recipe of the process.
        sizes: Sizes of the process's inputs.
    """

    decodes_controls: ClassVar[bool] = False
    at_once: Tensor

    def __init__(self, made: Controlled, sizes: Sizes) -> None:
        super().__init__()
        self.states, self.weights, self.steps = made.states, made.weights, made.steps
        self.register_buffer("at_once", torch.tensor([float(k in made.impulses) for k in range(sizes.controls)]))
        self.bend = nn.Linear(made.states + sizes.context, made.hidden)
        inputs, outputs = made.states + made.hidden, made.states * (1 + sizes.controls)
        self.field = nn.Linear(inputs, (1 + made.weights) * outputs)
        nn.init.normal_(self.field.weight, std=0.1 / inputs**0.5)
        nn.init.normal_(self.field.bias, std=0.03)
        self.start = Linear(sizes.context, 2 * made.states, scale=0.0)
        self.log_rate: nn.Parameter | None = None
        if made.weights and made.wander:
            self.log_rate = nn.Parameter(torch.full((made.weights,), math.log(_SLOW)))
        chance = made.states + made.weights
        self.later = LaterValues(sizes, chance, made.width, memory=made.states, ends=True)

    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        return self._path(series, self.later.read_of(series), generator)

    def prior(self, series: Series, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        return self._path(series, None, generator).z

    def rates(self) -> Float[Tensor, " weight"]:
        """r of each weight, the rate at which rows forget it, per mean step; 0 where rows keep their weights."""
        return self.field.bias.new_zeros(self.weights) if self.log_rate is None else self.log_rate.exp()

    def speed(
        self, z: Float[Tensor, "row state"], w: Float[Tensor, "row weight"], context: Float[Tensor, "row context"]
    ) -> Float[Tensor, "row state path"]:
        """f_w at states: the rate of change of z per unit of time, and per unit of each control."""
        read = torch.cat([z, torch.tanh(self.bend(torch.cat([z, context], -1)))], -1)
        each = self.field(read).unflatten(-1, (1 + self.weights, self.states, -1))
        return (torch.cat([torch.ones_like(z[:, :1]), w], -1)[..., None, None] * each).sum(1)

    def _path(self, series: Series, later: Heard | None, generator: torch.Generator) -> Latent:
        rows, clock, gaps = len(series), series.clock(), series.steps()
        shape = (1 + (series.length - 1) * self.steps, rows, self.states + self.weights)
        noise = iter(torch.randn(shape, generator=generator, device=generator.device).to(clock))
        mean, log_sd = self.start(series.context).chunk(2, -1)
        white = next(noise)
        new = self.later.noise(
            torch.zeros_like(white), torch.ones_like(white), white, mean, self._told(later, 0, clock[:, 0])
        )
        first, w = new.e.split([self.states, self.weights], -1)
        z, kl, ratio = mean + log_sd.exp() * first, new.kl, new.ratio
        states, still = [z], torch.zeros_like(first)
        for k in range(series.length - 1):
            given = self._amounts(series, k)
            z = self._heun(z, (w, w), series.context, torch.cat([given.new_zeros(rows, 1), given * self.at_once], -1))
            h = (gaps[:, k] / self.steps)[:, None].expand(rows, 1)
            moved = torch.cat([h, h * given * (1 - self.at_once)], -1)
            for i in range(self.steps):
                white, old = next(noise), w
                if self.log_rate is not None:
                    keep = torch.exp(-self.rates() * h)
                    told = self._told(later, k + 1, clock[:, k] + (i + 1) * h[:, 0])
                    ahead, sd = torch.cat([first, keep * w], -1), torch.cat([still, self._spread(h)], -1)
                    new = self.later.noise(ahead, sd, white, z, told)
                    w = keep * w + sd[:, self.states :] * new.e[:, self.states :]
                    kl, ratio = kl + new.kl, ratio + new.ratio
                z = self._heun(z, (old, w), series.context, moved)
            states.append(z)
        return Latent(torch.stack(states, 1), kl, ratio)

    def _heun(self, z: Tensor, w: tuple[Tensor, Tensor], context: Tensor, moved: Tensor) -> Float[Tensor, "row state"]:
        """z after a linear change of time and controls by `moved`, by Heun's rule."""
        first = (self.speed(z, w[0], context) * moved[:, None]).sum(-1)
        second = (self.speed(z + first, w[1], context) * moved[:, None]).sum(-1)
        return z + 0.5 * (first + second)

    def _amounts(self, series: Series, k: int) -> Float[Tensor, "row control"]:
        """Controls that act from the k-th time on, shifted so that 0 means 0 in their own units."""
        if series.controls is None:
            return self.at_once.expand(len(series), -1) * 0.0
        return series.controls[:, k] if series.nought is None else series.controls[:, k] - series.nought

    def _spread(self, length: Float[Tensor, "row one"]) -> Float[Tensor, "row weight"]:
        """Sd of the noise that w gains in a length of time."""
        return (-torch.expm1(-2 * self.rates() * length) + _LEAST).sqrt()

    def _told(self, later: Heard | None, k: int, time: Tensor) -> Told | None:
        """Information of later values for a time after the (k-1)-th and up to the k-th; None for the prior."""
        if later is None:
            return None
        left = (later.next[:, k] - time).clamp_min(0.0)[:, None]
        wide = torch.cat([left.new_zeros(len(left), self.states), self._spread(left)], -1)
        return Told(later.read[k], left, wide, later.any[:, k])
