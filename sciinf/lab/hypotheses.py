r"""The probabilities of functions and of hypotheses about them, from weighted draws of expressions.

With statements h that follow from an expression f, and data D,

    p(h | D) = p(D, h) / p(D).

Both evidences follow from weights (`Reweighted`). The first comes from draws that the network makes given h,
the second from draws that it makes without h. A false hypothesis thus has a small evidence, and is noticed.
p(h | D) can also be computed from the draws without h, as the weight of those of which h is true. Of the two
estimates, the one with the smaller error is used. If neither set of draws agrees with the hypothesis, only an
upper bound (95 %) is returned, which is 3 divided by the number of effective draws.

An error that is computed from the draws is 0 if one draw has all the weight, although the result is then
uncertain. The error of log p is therefore at least 1 / ess. With fewer than 20 effective draws there is no
verdict.

Trees that are the same function are counted as one (`Expressions.same`), which is shown by its shortest tree.

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

_GRID = 41  # Number of points at which functions are compared.
_FALSE = math.log(0.05)
_UNLIKELY = math.log(0.5)
_FEW = 20  # Smallest number of effective draws for a verdict.
_LOOSE = 0.5  # With a larger error of log p, a probability below the upper bound is replaced by the bound.
_K = 0.7  # Largest k of Pareto's distribution with which weights are reliable.


class HypothesisEvidence(NamedTuple):
    """An estimate of log p(h | D), the log probability of hypotheses given the data.

    Args:
        log_p: The log probability, or its upper bound if the error is infinite.
        error: Standard error of `log_p`.
        ess: Number of effective draws behind the estimate.
        k: Pareto's k of the draws' weights.
    """

    log_p: float
    error: float
    ess: float
    k: float


@dataclass(frozen=True)
class FoundFunction:
    """A function that the data may come from, with its probability.

    Args:
        text: The shortest drawn expression of the function.
        probability: Total weight of all drawn expressions of the function.
        size: Number of symbols of the shortest expression.
        theta: The shortest expression, as parameters of the prior.
    """

    text: str
    probability: float
    size: int
    theta: Tensor


@dataclass(frozen=True)
class Supposed:
    """The answer to a question with hypotheses: their probability, and the functions with and without them.

    Args:
        hypotheses: Mapping from a statement to whether it was supposed to be true.
        log_probability: log p(hypotheses | data), under the grammar. An upper bound (95 %) if `error`
            is infinite.
        error: Standard error of `log_probability`.
        prior: log p(hypotheses) before the data, from draws of the prior.
        functions: Functions given the data and the hypotheses, the most probable first. Empty if no draw
            agrees with the hypotheses.
        without: Functions given the data alone, the most probable first.
        ess: Number of effective draws behind `log_probability`. With fewer than 20 there is no verdict.
        pareto_k: Pareto's k of the draws' weights. Above 0.7 the weights are not reliable.
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
        """A sentence that says whether the data contradict the hypotheses."""
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
        """The verdict, and the functions with and without the hypotheses, as lines of text.

        Args:
            most: Largest number of functions in each of the two tables.
        """
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
    """Infer the expression behind points, with and without hypotheses, and judge the hypotheses.

    Args:
        posterior: Posterior of `simulator`, weighted by its likelihood: `build_posterior(fit, simulator)`.
        simulator: Simulator that `lab.expressions` returned.
        points: Measured points, (points, variables + 1), with y as the last column.
        hypotheses: Mapping from a statement to whether it is supposed to be true. None by default.
        draws: Smallest number of draws with, and without, the hypotheses.
        seed: Seed of the draws.

    Raises:
        TypeError: If the posterior has no weights.
        ValueError: If a statement is unknown, or all draws without hypotheses have likelihood 0.

    Warns:
        UserWarning: As `Reweighted.draw`.
    """
    if not isinstance(posterior, Reweighted):
        raise TypeError(
            "hypotheses are judged by evidence, and this posterior has none: use build_posterior(fit, "
            "simulator), whose draws have weights"
        )
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
    except ValueError:
        # No draw given the hypotheses is possible, so only the estimate without them is left.
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
    """The probability of hypotheses as the weight of the draws that agree with them.

    Args:
        draws: Weighted draws without hypotheses.
        fits: Whether each draw agrees with the hypotheses.
    """
    p, least = float(draws.weights[fits].sum()), 3.0 / draws.ess
    error = float(((draws.weights**2) * (fits.double() - p) ** 2).sum().sqrt()) / p if p > 0 else math.inf
    if p < least and error > _LOOSE:
        return HypothesisEvidence(min(0.0, math.log(least)), math.inf, draws.ess, _k(draws))
    return HypothesisEvidence(min(0.0, math.log(p)), max(error, 1 / draws.ess), draws.ess, _k(draws))


def _by_evidence(under: Draws, plain: Draws) -> HypothesisEvidence:
    """The probability of hypotheses as the evidence with them divided by the evidence without.

    Args:
        under: Weighted draws given the hypotheses.
        plain: Weighted draws without hypotheses.
    """
    (one, one_error), (other, other_error) = _evidence(under), _evidence(plain)
    ess = min(under.ess, plain.ess)
    error = max(math.hypot(one_error, other_error), 1 / ess)
    return HypothesisEvidence(min(0.0, one - other), error, ess, max(_k(under), _k(plain)))


def _k(draws: Draws) -> float:
    return draws.pareto_k or 0.0


def _evidence(draws: Draws) -> tuple[float, float]:
    return draws.log_evidence or 0.0, draws.log_evidence_error or 0.0
