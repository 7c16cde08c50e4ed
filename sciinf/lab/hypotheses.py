r"""What weighted draws of expressions say: which functions, and whether a hypothesis holds.

With statements h that follow from an expression f, and data D,

    p(h | D) = p(D, h) / p(D),

both evidences that weights give (`Reweighted`): of draws that a network made knowing h, which h does not contradict,
and of draws that it made without. So a hypothesis that is false is not obeyed in silence: it costs evidence. It may
also be read off the draws without h, as the weight of those of which h is true; the better of both is taken, by its
error. A hypothesis that no draw of either shows has an upper bound alone, of 95 %: 3 over the effective draws.

An error that is computed from the draws is 0 where the heaviest of them says all there is, even if it is the only one
that weighs: so it is 1 / ess at least, of log p, and fewer than 20 effective draws tell nothing.

Trees that are one function are told as one (`Expressions.same`), by the shortest of them.

References:
    | Controllable Neural Symbolic Regression (Bendinelli, Biggio & Kamienny, 2023), https://arxiv.org/abs/2304.10336
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinf.core import Draws
from sciinf.core.tables import aligned
from sciinf.lab.expression_points import PointExpressions
from sciinf.posteriors.reweighted import Reweighted

_GRID = 41  # values by which functions are told apart
_FALSE = math.log(0.05)
_UNLIKELY = math.log(0.5)
_FEW = 20  # effective draws, below which nothing is told
_LOOSE = 0.5  # error of log p from which on a probability below the bound is told as the bound
_K = 0.7  # of Pareto, above which weights cannot be relied on


class HypothesisEvidence(NamedTuple):
    """log p(h | D) in one of two ways.

    Args:
        log_p: It, or its upper bound where the error is infinite.
        error: Standard error.
        ess: Effective draws that it rests on.
        k: Pareto's k of their weights.
    """

    log_p: float
    error: float
    ess: float
    k: float


@dataclass(frozen=True)
class FoundFunction:
    """One function that data may come from.

    Args:
        text: The shortest expression of it that was drawn.
        probability: By the weights of all expressions that are it.
        size: Symbols of that expression.
        theta: That expression.
    """

    text: str
    probability: float
    size: int
    theta: Tensor


@dataclass(frozen=True)
class Supposed:
    """What was found with and without hypotheses.

    Args:
        hypotheses: Statement -> what was supposed of it.
        log_probability: log p(hypotheses | data), under the grammar; an upper bound (95 %) where `error` is infinite.
        error: Its standard error.
        prior: log p(hypotheses) before the data, of draws of the prior.
        functions: Which functions the data and the hypotheses leave, the most probable first; none where none was seen.
        without: The same without hypotheses.
        ess: Effective draws that `log_probability` rests on; fewer than 20 tell nothing.
        pareto_k: Of their weights; above 0.7 they cannot be relied on.
    """

    hypotheses: Mapping[str, bool]
    log_probability: float
    error: float
    prior: float
    functions: tuple[FoundFunction, ...]
    without: tuple[FoundFunction, ...]
    ess: float
    pareto_k: float

    @property
    def verdict(self) -> str:
        """Whether the data speak against what was supposed, in words."""
        what = ", ".join(f"{'' if value else 'not '}{name}" for name, value in self.hypotheses.items()) or "nothing"
        p = math.exp(min(self.log_probability, 0.0))
        bound = math.isinf(self.error)
        about = f"p < {p:.2g}" if bound else f"p = {p:.2g} +- {p * self.error:.1g}"
        against = f"{about} given the data, {math.exp(self.prior):.2g} before them"
        by = f"; Pareto k = {self.pareto_k:.2f} > {_K}: the weights cannot be relied on" if self.pareto_k > _K else ""
        if self.ess < _FEW:
            more = f"{_FEW} are needed; raise the budget, or train on more simulations"
            return f"cannot tell ({what}): there are {self.ess:.1f} effective draws, and {more}"
        if self.log_probability + (0.0 if bound else 2 * self.error) < _FALSE:
            words = f"the data contradict the hypothesis ({what}: {against}): what is found under it is not to be used"
            return words + by
        if bound:
            return f"cannot tell: none of {self.ess:.0f} effective draws fits ({what}: {against}); take more draws{by}"
        if self.log_probability < max(_FALSE, min(_UNLIKELY, self.prior)):
            return f"the data speak against the hypothesis ({what}: {against}){by}"
        return f"the data agree with the hypothesis ({what}: {against}){by}"

    def table(self, most: int = 5) -> str:
        """The verdict, and functions with and without the hypotheses, as lines of text."""
        rows = [["function", "probability", "symbols"]]
        rows += [[f.text, f"{f.probability:.3f}", str(f.size)] for f in self.functions[:most]]
        plain = [["without the hypothesis", "probability", "symbols"]]
        plain += [[f.text, f"{f.probability:.3f}", str(f.size)] for f in self.without[:most]]
        return "\n".join([self.verdict, *aligned(rows), *(aligned(plain) if self.hypotheses else [])])


def suppose(
    posterior: Reweighted,
    simulator: PointExpressions,
    points: Any,
    hypotheses: Mapping[str, bool] | None = None,
    *,
    draws: int = 4_000,
    seed: int = 0,
) -> Supposed:
    """Ask which expression points come from, with and without hypotheses.

    Args:
        posterior: Of `simulator`, weighted by its likelihood: `build_posterior(fit, simulator)`.
        simulator: What `wrappers.expressions` made.
        points: (points, variables + 1), y last.
        hypotheses: Statement -> whether it is supposed to be true.
        draws: At least, of each question.
        seed: Seeds the draws.

    Raises:
        TypeError: If the posterior has no weights.
        ValueError: If there is no such statement, or no draw without hypotheses has a likelihood.

    Warns:
        UserWarning: As `Reweighted.draw`.
    """
    if not isinstance(posterior, Reweighted):
        raise TypeError("hypotheses are judged by evidence: take build_posterior(fit, simulator), which has weights")
    generator, told = torch.Generator().manual_seed(seed), dict(hypotheses or {})
    plain = _draws(posterior, simulator, points, {}, draws, generator)
    without = functions(plain, simulator)
    if not told:
        return Supposed(told, 0.0, 0.0, 0.0, without, without, plain.ess, _k(plain))
    columns = torch.tensor([simulator.statements.index(name) for name in told])
    wanted = torch.tensor(list(told.values()))

    def agree(theta: Tensor) -> Tensor:
        return (simulator.true(theta)[:, columns] == wanted).all(1)

    before = agree(simulator.prior.sample(draws, generator=generator)).double().mean().clamp_min(1 / draws)
    judged, under = [_by_draws(plain, agree(plain.theta))], None
    try:
        under = _draws(posterior, simulator, points, told, draws, generator)
        judged.append(_by_evidence(under, plain))
    except ValueError:  # no draw of either is possible: there is a bound alone
        pass
    best = min(judged, key=lambda one: (one.ess < _FEW, one.error))
    found = functions(under, simulator) if under else ()
    return Supposed(told, best.log_p, best.error, float(before.log()), found, without, best.ess, best.k)


def functions(draws: Draws, simulator: PointExpressions) -> tuple[FoundFunction, ...]:
    """The functions among weighted draws of expressions, the most probable first."""
    grammar, (low, high) = simulator.grammar, simulator.bounds
    nodes = draws.theta[:, : grammar.nodes]
    rows = (draws.weights > 0).nonzero().flatten()
    distinct, which = nodes[rows].nan_to_num(-1.0).unique(dim=0, return_inverse=True)
    weights = torch.zeros(len(distinct), dtype=torch.float64).index_add(0, which, draws.weights[rows])
    trees = torch.where(distinct < 0, torch.nan, distinct)
    variables, source = len(grammar.variables), torch.Generator().manual_seed(0)
    grid = low + (high - low) * torch.rand(_GRID, variables, generator=source, dtype=torch.float64)
    if variables == 1:
        grid = torch.linspace(low, high, _GRID, dtype=torch.float64)[:, None]
    size, held = grammar.size(trees).tolist(), dict[int, list[int]]()
    for row, first in enumerate(grammar.same(trees, grid)):
        held.setdefault(first, []).append(row)
    found = []
    for members in held.values():
        best = min(members, key=lambda k: (size[k], k))
        p = float(weights[members].sum())
        found.append(FoundFunction(grammar.text(trees[best : best + 1])[0], p, size[best], trees[best]))
    return tuple(sorted(found, key=lambda f: -f.probability))


def _draws(
    posterior: Reweighted,
    simulator: PointExpressions,
    points: Any,
    told: Mapping[str, bool],
    n: int,
    generator: torch.Generator,
) -> Draws:
    x = {name: value[None] for name, value in simulator.record(points, told).items()}
    return posterior.draw(x, n, generator=generator)


def _by_draws(draws: Draws, fits: Tensor) -> HypothesisEvidence:
    """By the weight of those draws that fit."""
    p, least = float(draws.weights[fits].sum()), 3.0 / draws.ess
    error = float(((draws.weights**2) * (fits.double() - p) ** 2).sum().sqrt()) / p if p > 0 else math.inf
    if p < least and error > _LOOSE:
        return HypothesisEvidence(min(0.0, math.log(least)), math.inf, draws.ess, _k(draws))
    return HypothesisEvidence(min(0.0, math.log(p)), max(error, 1 / draws.ess), draws.ess, _k(draws))


def _by_evidence(under: Draws, plain: Draws) -> HypothesisEvidence:
    """By the evidence of draws that know of it."""
    (one, one_error), (other, other_error) = _evidence(under), _evidence(plain)
    ess = min(under.ess, plain.ess)
    error = max(math.hypot(one_error, other_error), 1 / ess)
    return HypothesisEvidence(min(0.0, one - other), error, ess, max(_k(under), _k(plain)))


def _k(draws: Draws) -> float:
    return draws.pareto_k or 0.0


def _evidence(draws: Draws) -> tuple[float, float]:
    return draws.log_evidence or 0.0, draws.log_evidence_error or 0.0
