r"""Posterior of expressions given points, and given what is supposed of them: hypotheses that may be told or not.

An expression is a tree whose nodes are discrete parameters of a prior that is a grammar
(`simulators.dynamics.expressions`). With d_1, d_2, ... the symbols in the order of the nodes, z the numbers (noise,
say), D the points and h_T the hypotheses that are told,

    q(d, z | D, h_T) = prod_i q(d_i | d_<i, s(D), r(h_T, T))  prod_j q(z_j | d, z_<j, s(D), r(h_T, T)),

over the nodes that exist: what the grammar does not allow has no factor, and no probability. s is a network of a set,
r one of statements and of which are told. The factors are those of `Mixed`, whose chain is the decoder: in the order of
a tree's levels each symbol sees all that stand above it. One decoder with the weights of all nodes shared learned no
more from as many simulations (2.09 nats of the prior's entropy beside 2.03, of 40,000).

The loss is -E log q over simulations in which statements are told at random, T by itself: its minimum over q is the
posterior given whatever is told. In each step some that a simulation tells are hidden anew,

    T' = those t in T with u_t < c,      c = 1 for half of the rows, uniform for others,

which is as good a simulation, as T' depends on f no more than T does. So networks see the same points with more or
less said of them. `hide=False` leaves T as it is.

A network follows a hypothesis, true or false; what it says of a false one is no posterior of anything likely. Weights
by the likelihood (`build_posterior(fit, simulator)`) are exact, and `lab.hypotheses` gives log p(h | D).

References:
    | Controllable Neural Symbolic Regression (Bendinelli, Biggio & Kamienny, 2023), https://arxiv.org/abs/2304.10336
    | Deep Sets (Zaheer et al., 2017), https://arxiv.org/abs/1703.06114
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Estimator, Observable, Prior, X
from sciinf.core.summary import Summary
from sciinf.networks.summaries.exchangeable import DeepSet
from sciinf.training.estimators.mixed import Mixed, MixedDensity

STATEMENT = "statement"
"""Name of the axis of an observable of hypotheses, which has a mask."""
_SEEN = 0.5  # of rows, in which nothing more is hidden


class Equations(Estimator):
    """Amortised posterior of expressions, with hypotheses as data that may be left out.

    Any other prior is fine, too: then it is a `Mixed` with a wider network for sets.

    Args:
        prior: The prior, as `wrappers.expressions` has it.
        observables: What the simulator produces.
        summary: As for `Mixed`; `DeepSet(64, 128)` for sets where left out.
        hidden: Width of the networks of the chain.
        blocks: Residual blocks of each.
        bins: Pieces of the splines of numbers.
        hide: Whether hypotheses that a simulation tells are hidden anew at random in each step.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If `summary` is something else.
        ValueError: If a summary is for no observable, or a number is no int of at least 1 (the seed: 0).

    Examples:
        >>> from sciinf import LogUniform
        >>> from sciinf.simulators.dynamics.expressions import Expressions
        >>> from sciinf.lab import expressions
        >>> grammar = Expressions(["x"], ["+", "sin"], [2.0], depth=2)
        >>> simulator = expressions(grammar, (-2.0, 2.0), noise=LogUniform(0.01, 0.3), points=20)
        >>> estimator = Equations(simulator.prior, simulator.observables)
        >>> one = simulator.record(torch.zeros(20, 2), {"odd": True})
        >>> density = estimator.condition({name: value[None] for name, value in one.items()})
        >>> density.sample(5, generator=torch.Generator()).shape
        torch.Size([5, 1, 8])
    """

    mixed: ClassVar[bool] = True

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        summary: Summary | Mapping[str, Summary] | None = None,
        hidden: int = 64,
        blocks: int = 2,
        bins: int = 8,
        hide: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.prior, self.observables, self.hide = prior, dict(observables), hide
        sets = {name: DeepSet(64, 128) for name, spec in observables.items() if "item" in spec.dims[:1]}
        data = {name: found for name, found in sets.items() if not name.endswith("_mask")}
        self.chain = Mixed(
            prior,
            observables,
            summary=data if summary is None else summary,
            hidden=hidden,
            blocks=blocks,
            bins=bins,
            seed=seed,
        )
        self.told = tuple(
            name for name, spec in observables.items() if STATEMENT in spec.dims and f"{name}_mask" in observables
        )

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.chain.standardise(batches)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        if self.training and self.hide and self.told:
            batch = replace(batch, x=self.hidden_anew(batch.x, generator))
        return self.chain.loss(batch, generator=generator)

    def hidden_anew(self, x: X, generator: torch.Generator) -> dict[str, Tensor]:
        """Data with some of the hypotheses that are told hidden at random."""
        found = dict(x)
        for name in self.told:
            mask = x[f"{name}_mask"]
            u = torch.rand(2, len(mask), 1, generator=generator, device=generator.device).to(mask.device)
            each = torch.rand(mask.shape, generator=generator, device=generator.device).to(mask.device)
            found[f"{name}_mask"] = mask & (each < torch.where(u[0] < _SEEN, 1.0, u[1]))
        return found

    def condition(self, x: X) -> MixedDensity:
        return self.chain.condition(x)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.chain.features(x)


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Equations:
    """The estimator with its defaults."""
    return Equations(prior, observables, seed=seed)
