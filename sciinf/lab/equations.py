r"""Posterior of expressions given points and hypotheses, where each hypothesis may be stated or left out.

An expression is a tree whose nodes are discrete parameters of a prior that is a grammar
(`simulators.dynamics.expressions`). Let d_1, d_2, ... be the symbols in the order of the nodes, z the
continuous parameters such as the noise, and D the points. T is the set of hypotheses that are stated, and h_T
says what is stated of each of them. Then

    q(d, z | D, h_T) = prod_i q(d_i | d_<i, s(D), r(h_T, T))  prod_j q(z_j | d, z_<j, s(D), r(h_T, T)),

where the products run over the nodes that exist. Expressions that the grammar does not allow have probability
0. s is a network for sets. r is a network whose inputs are h_T and T. The factors are those of `Mixed`, whose
chain is the decoder: it follows the levels of the tree, and each symbol is conditional on all symbols above
it. In a comparison, a decoder with the same weights at all nodes learned about as much from the same
simulations.

The loss is -E log q over simulations in which T is random and independent of the expression. Its minimum over
q is the posterior given any stated hypotheses. In each training step, some stated hypotheses are hidden at
random. The smaller set

    T' = {t in T: u_t < c},      u_t ~ U(0, 1),      c = 1 for half of the rows, c ~ U(0, 1) for others

takes the place of T. The result is a valid simulation, because T' is independent of the expression, too. The
networks thus see the same points with more or fewer hypotheses. `hide=False` leaves T as it is.

The network takes stated hypotheses for true, even if the points contradict them. Its answer may then consist
of expressions of low likelihood. Weights by the likelihood (`build_posterior(fit, simulator)`) are exact, and
`lab.hypotheses` gives log p(h | D).

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
_SEEN = 0.5  # Share of rows in which no further hypothesis is hidden.


class Equations(Estimator):
    """Amortised posterior estimator of expressions, given points and optional hypotheses.

    Any other prior is possible, too. The estimator is then a `Mixed` with a wider network for sets.

    Args:
        prior: Prior of the parameters, such as that of a simulator from `lab.expressions`.
        observables: Observables of the simulator, by name.
        summary: Summary networks, as for `Mixed`. By default `DeepSet(64, 128)` for sets.
        hidden: Width of the networks of the chain.
        blocks: Number of residual blocks of each network.
        bins: Number of pieces of the splines for continuous parameters.
        hide: Whether some stated hypotheses are hidden at random in each training step.
        seed: Seed of the initial weights.

    Raises:
        TypeError: If `summary` has another type.
        ValueError: If a summary is for no observable, or a number is no int of at least 1 (seed: at least 0).

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
        """The data, where some stated hypotheses are hidden at random."""
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
