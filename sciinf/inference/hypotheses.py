r"""What weighted draws of expressions say: which functions, and whether a hypothesis holds.

With statements h that follow from an expression f, and data D,

    p(h | D) = p(D, h) / p(D),

both evidences that weights give (`Reweighted`): of draws that a network made knowing h, which h does not contradict,
and of draws that it made without. So a hypothesis that is false is not obeyed in silence: it costs evidence. It may
also be read off the draws without h, as the weight of those of which h is true; the better of both is taken, by its
error. A hypothesis that no draw of either shows has an upper bound alone.

Trees that are one function are told as one (`Expressions.same`), by the shortest of them.

References:
    | Controllable Neural Symbolic Regression (Bendinelli, Biggio & Kamienny, 2023), https://arxiv.org/abs/2304.10336
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciinf.core import Draws
from sciinf.core.tables import aligned
from sciinf.inference.reweighted import Reweighted
from sciinf.wrappers.expression_points import PointExpressions

_GRID = 41  # values by which functions are told apart
_FALSE = math.log(0.05)
_UNLIKELY = math.log(0.5)


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
        log_probability: log p(hypotheses | data), under the grammar; an upper bound where `error` is infinite.
        error: Its standard error.
        prior: log p(hypotheses) before the data, of draws of the prior.
        functions: Which functions the data and the hypotheses leave, the most probable first; none where none was seen.
        without: The same without hypotheses.
    """

    hypotheses: Mapping[str, bool]
    log_probability: float
    error: float
    prior: float
    functions: tuple[FoundFunction, ...]
    without: tuple[FoundFunction, ...]

    @property
    def verdict(self) -> str:
        """Whether the data speak against what was supposed, in words."""
        what = ", ".join(f"{'' if value else 'not '}{name}" for name, value in self.hypotheses.items()) or "nothing"
        p = math.exp(min(self.log_probability, 0.0))
        about = f"p < {p:.2g}" if math.isinf(self.error) else f"p = {p:.2g}"
        against = f"{about} given the data, {math.exp(self.prior):.2g} before them"
        if self.log_probability < _FALSE:
            return f"the data contradict the hypothesis ({what}: {against}): what is found under it is not to be used"
        if self.log_probability < min(_UNLIKELY, self.prior):
            return f"the data speak against the hypothesis ({what}: {against})"
        return f"the data agree with the hypothesis ({what}: {against})"

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
        return Supposed(told, 0.0, 0.0, 0.0, without, without)
    columns = torch.tensor([simulator.statements.index(name) for name in told])
    wanted = torch.tensor(list(told.values()))

    def agree(theta: Tensor) -> Tensor:
        return (simulator.true(theta)[:, columns] == wanted).all(1)

    before = agree(simulator.prior.sample(draws, generator=generator)).double().mean().clamp_min(1 / draws)
    fits = agree(plain.theta)
    p = float(plain.weights[fits].sum())
    error = float(((plain.weights**2) * (fits.double() - p) ** 2).sum().sqrt()) / p if p > 0 else math.inf
    log_p = math.log(p) if p > 0 else -math.log(plain.ess)
    try:
        under = _draws(posterior, simulator, points, told, draws, generator)
    except ValueError:  # no draw of either is possible: there is a bound alone
        return Supposed(told, log_p, error, float(before.log()), (), without)
    by_evidence = _evidence(under)[0] - _evidence(plain)[0]
    spread = math.hypot(_evidence(under)[1], _evidence(plain)[1])
    if spread < error:
        log_p, error = min(0.0, by_evidence), spread
    return Supposed(told, log_p, error, float(before.log()), functions(under, simulator), without)


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


def _evidence(draws: Draws) -> tuple[float, float]:
    return draws.log_evidence or 0.0, draws.log_evidence_error or 0.0
