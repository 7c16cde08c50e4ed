r"""Answers the rows of a survey pass by pass: makes the draws of a pass together, and checks each row.

Row k of a survey with seed s takes its noise from a generator with seed s_k, the first number of SeedSequence(s,
spawn_key = (k,)). So its draws are those of `query(posterior, x_k, draws=n, seed=s_k)` except for rounding, whatever
else is asked. If a network makes draws by transforming noise, the noise of the whole pass is transformed at once. Any
other posterior is asked row by row, as `query` asks it. Passes begin at fixed positions, because a network's rounding
of one row depends on the other rows of the pass.

For n draws without weights, the q-quantile is theta_(i), with the smallest i for which (i - 1/2) / n is at least q, as
in `Draws`. Its standard error, in posterior sds, is sqrt(q (1 - q) / n) / f, with f the density at the quantile. For a
normal distribution and n = 2,000, it is .047 sds at 5 %, .034 at 16 % and .028 at the median.

**Findings** are those of `query`, but only rows that may have findings are checked. A full check takes longer than the
draws of a fast network. So a pass is screened first, by necessary conditions. An answer can lie at the edge of a prior
only if a part of its draws does. An answer can rest on a few draws only if these draws carry its variance. Only the
rows that the screen selects are checked in full. The screen selects every row if other kinds of findings are possible:
if parameters bound each other, or if failures of simulations depend on the parameters.

Findings that are the same for all rows are made once, for the whole survey.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Draws, Finding, Level, Trust, X
from sciinf.core.categories import categories_of
from sciinf.core.doubts import noting, summed_up
from sciinf.core.observable import Status
from sciinf.diagnostics.bounds import LAST, LEANS, Bounds
from sciinf.diagnostics.discovery import ORDER, diagnose, every_diagnostic
from sciinf.diagnostics.failures import Failures, Reading
from sciinf.diagnostics.judge import Judge
from sciinf.diagnostics.stray import AT_LEAST, FEWEST, ONE_IN, SHARE
from sciinf.interfaces.surveys.block import Block
from sciinf.interfaces.surveys.rows import REFUSED, Seen
from sciinf.interfaces.surveys.verdicts import LEVELS
from sciinf.posteriors.amortised import pushed
from sciinf.posteriors.finite import finite, left_out
from sciinf.posteriors.marginal import known_categories
from sciinf.training.step import reason

# The screen uses a larger part of the prior, and a smaller share of draws, than `diagnostics.bounds`.
_OUTER, _PART = 1.25 * LAST, 0.975 * LEANS
_CARRIED = 0.96 * SHARE  # This limit is below that of `diagnostics.stray`, because of rounding.


@final
class RowChecks:
    """Makes the findings about answers of one posterior.

    Args:
        judge: The posterior, with its calibration.
        failures: Meaning of failed simulations (`diagnostics.failures`).
        level: Credible level of the intervals.
        draws: Number of draws behind each answer.
    """

    def __init__(self, judge: Judge, failures: Reading, level: float, draws: int) -> None:
        self.judge, self.level, self.draws = judge, level, draws
        self.failures: Reading = failures

    @cached_property
    def of_all(self) -> tuple[Finding, ...]:
        """Findings that are the same for all rows, as long as weights do not reduce the effective sample size."""
        prior = self.judge.posterior.prior
        zeros = torch.zeros(self.draws, dtype=torch.float64)
        some = Draws(prior.names, prior.units, torch.zeros(self.draws, len(prior)), zeros)
        same = {"few draws", "tails", "predictive", "surrogate"} | (set() if self._by_row else {"failures"})
        case = self.judge.case(some, self.level, self.failures)
        return tuple(one for each in every_diagnostic() if each.name in same for one in each.findings(case))

    def of(self, draws: Draws, more: Iterable[Finding], trust: Trust | None = None) -> tuple[Level, str]:
        """Worst level and text of the findings about one answer, without good findings and those shared by all rows."""
        case = replace(self.judge.case(draws, self.level, self.failures), trust=trust, found=[*more])
        bad = [one for one in diagnose(case) if one.level != Level.GOOD and one not in self.of_all]
        return max((one.level for one in bad), default=Level.GOOD), "; ".join(f"{one.name}: {one.line}" for one in bad)

    def suspicious(self, each: np.ndarray, wide: np.ndarray) -> Sequence[int]:
        """Indices of the rows that must be checked in full.

        Args:
            each: Draws of the rows, (rows, D, n).
            wide: The same draws in float64.
        """
        if self._by_row or self._tied or any(one.name not in ORDER for one in every_diagnostic()):
            return range(len(each))
        low, high = self._outer
        beyond = np.maximum((each < low[:, None]).mean(-1), (each > high[:, None]).mean(-1)) >= _PART
        return np.flatnonzero(beyond.any(1) | self._carried(wide).any(1)).tolist()

    def _carried(self, wide: np.ndarray) -> np.ndarray:
        """Whether a few draws carry the variance of a parameter, for each row and parameter, (rows, D)."""
        n = wide.shape[-1]
        if n < FEWEST:
            return np.zeros(wide.shape[:-1], dtype=bool)
        parts = np.square(wide - wide.mean(-1, keepdims=True))
        few = max(AT_LEAST, n // ONE_IN)
        most = np.partition(parts, n - few, axis=-1)[..., n - few :].sum(-1)
        return most > _CARRIED * parts.sum(-1)

    @cached_property
    def _by_row(self) -> bool:
        """Whether the effect of failed simulations must be reported for each row."""
        calibration = self.judge.calibration
        found = Failures.from_tensors(calibration.reference) if calibration else None
        return found is not None and found.depend and self.failures != "outcome"

    @cached_property
    def _tied(self) -> bool:
        """Whether some parameters share a joint prior, so that they may bound each other."""
        return any(place.stop - place.start > 1 for _, place in self.judge.posterior.prior.places())

    @cached_property
    def _outer(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the lower and of the upper outer part of each parameter's prior, (D,) each."""
        drawn = Bounds(self.judge.posterior.prior).drawn
        ends = torch.quantile(drawn, torch.tensor([_OUTER, 1 - _OUTER], dtype=drawn.dtype), dim=1).numpy()
        return ends[0], ends[1]


_PAIRS, _MOST = 65_536, 512  # Largest numbers of (row, draw) pairs and of rows in a pass.
_OF_THE_MACHINE = (OSError, MemoryError, ImportError, torch.OutOfMemoryError)  # No row causes these errors.
_WORDS = ("DefaultCPUAllocator", "CUDA error", "CUDA out of memory")


@dataclass(frozen=True)
class SurveyOptions:
    """Options of a survey, which are the same for each row.

    Args:
        levels: Probabilities of the quantiles, in increasing order.
        level: Credible level, which some checks depend on.
        draws: Number of posterior draws behind each answer.
        kept: Number of these draws that are kept.
        seed: Seed of the survey.
        failures: Meaning of failed simulations (`diagnostics.failures`).
    """

    levels: tuple[float, ...]
    level: float = 0.9
    draws: int = 2_000
    kept: int = 0
    seed: int = 0
    failures: Reading = "exclude"

    @property
    def rows(self) -> int:
        """Number of rows in a pass."""
        return max(1, min(_MOST, _PAIRS // self.draws))


def row_seed(seed: int, row: int) -> int:
    """The seed of a row's draws, as `query` takes it."""
    return int(np.random.SeedSequence(seed, spawn_key=(row,)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@final
class RowAnswers:
    """Answers rows of a survey.

    Args:
        judge: The posterior under the chosen meaning of failures, with its calibration.
        wanted: Options of the survey.
    """

    def __init__(self, judge: Judge, wanted: SurveyOptions) -> None:
        self.judge, self.wanted, self.posterior = judge, wanted, judge.posterior
        self.prior = judge.posterior.prior
        self.checks = RowChecks(judge, wanted.failures, wanted.level, wanted.draws)
        weights = torch.full((wanted.draws,), 1 / wanted.draws, dtype=torch.float64)
        middle = weights.cumsum(0) - 0.5 * weights
        places = torch.searchsorted(middle, torch.tensor(wanted.levels, dtype=torch.float64))
        self._places = places.clamp(max=wanted.draws - 1).numpy()

    def expected(self) -> list[float]:
        """Expected share of true values below each quantile if all is right: i / (n + 1) for the i-th of n draws."""
        return [(int(place) + 1) / (self.wanted.draws + 1) for place in self._places]

    def block(self, seen: Seen, start: int) -> Block:
        """Answer the rows of one block.

        Args:
            seen: The rows.
            start: Position of the first row, a multiple of the rows of a pass.
        """
        columns, messages = self._blank(seen), dict(seen.messages)
        for first in range(0, len(seen.status), self.wanted.rows):
            last = min(first + self.wanted.rows, len(seen.status))
            good = first + np.flatnonzero(seen.status[first:last].numpy() == int(Status.OK))
            if len(good):
                x = {name: value[good] for name, value in seen.x.items()}
                messages |= self._pass(columns, good, x, [row_seed(self.wanted.seed, start + int(k)) for k in good])
        return Block(columns, messages)

    def _blank(self, seen: Seen) -> dict[str, np.ndarray]:
        """Columns of a block in which no row is answered yet."""
        rows, size, kind = len(seen.status), len(self.prior), np.dtype(str(self.prior.dtype).removeprefix("torch."))
        shapes: dict[str, tuple[int, ...]] = {"mean": (size,), "sd": (size,), "quantiles": (size, len(self._places))}
        shapes |= {"draws": (self.wanted.kept, size)} if self.wanted.kept else {}
        columns = {name: np.full((rows, *shape), np.nan, dtype=kind) for name, shape in shapes.items()}
        columns |= {name: np.full(rows, np.nan, dtype=np.float32) for name in ("p_value", "ess", "pareto_k")}
        columns |= {"status": seen.status.numpy().astype(np.uint8), "trust": np.full(rows, LEVELS.index("none"), "u1")}
        columns["checks"] = np.full(rows, LEVELS.index("none"), dtype=np.uint8)
        if seen.theta is not None:
            columns["truth"] = seen.theta.numpy().astype(kind)
        if self.prior.mixed:
            columns["exists"] = np.full((rows, size), np.nan, dtype=np.float32)
            for name, known in categories_of(self.prior).items():
                columns[f"probability/{name}"] = np.full((rows, len(known.values)), np.nan, dtype=np.float32)
        return columns

    def _pass(self, columns: dict[str, np.ndarray], at: np.ndarray, x: X, seeds: Sequence[int]) -> dict[int, str]:
        """Answer the rows of one pass: fill in their columns, and return row -> message."""
        try:
            trusts = self.judge.trusts(x)
            theta = self._moved(x, seeds)
        except Exception as error:
            check_row(error)
            if len(at) > 1:  # Some row is at fault, so take one by one.
                each = ({name: value[k : k + 1] for name, value in x.items()} for k in range(len(at)))
                rows = zip(np.split(at, len(at)), each, seeds, strict=True)
                return {
                    k: words for row, one, seed in rows for k, words in self._pass(columns, row, one, [seed]).items()
                }
            return self._refused(columns, int(at[0]), error)
        for row, trust in zip(at, trusts, strict=True):
            columns["trust"][row] = LEVELS.index(trust.level)
            columns["p_value"][row] = np.nan if trust.p_value is None else trust.p_value
        whole = np.zeros(len(at), dtype=bool) if theta is None else theta.isfinite().all(-1).all(0).numpy()
        messages = {}
        if theta is not None and whole.any():
            messages |= self._fill(columns, at[whole], theta[:, torch.from_numpy(whole)])
        for k in np.flatnonzero(~whole).tolist():
            one = {name: value[k : k + 1] for name, value in x.items()}
            try:
                messages |= self._alone(columns, int(at[k]), one, seeds[k], trusts[k])
            except Exception as error:
                check_row(error)
                messages |= self._refused(columns, int(at[k]), error)
        return messages

    def _refused(self, columns: dict[str, np.ndarray], row: int, error: Exception) -> dict[int, str]:
        """Record in the columns that a row has no answer, and return row -> reason."""
        for name in columns.keys() - {"status", "trust", "checks", "p_value", "truth"}:
            columns[name][row] = np.nan
        columns["status"][row], columns["checks"][row] = REFUSED, LEVELS.index("none")
        odd = columns["trust"][row] == LEVELS.index("alarm")
        why = "the observation is unlike all simulations, look at it and its unit first; " if odd else ""
        return {row: f"no answer: {why}{reason(error)}"}

    def _moved(self, x: X, seeds: Sequence[int]) -> Tensor | None:
        """Make the draws of all rows at once, (n, rows, D); None if the posterior must be asked row by row."""
        density = None if self.prior.mixed else pushed(self.posterior, x)
        if density is None:
            return None
        n = self.wanted.draws
        own = (
            one.noise(n, generator=torch.Generator().manual_seed(seed))
            for one, seed in zip(density.each(), seeds, strict=True)
        )
        noise = torch.cat(list(own), dim=1)
        return density.within(n, density.push(noise), noise).cpu()

    def _fill(self, columns: dict[str, np.ndarray], at: np.ndarray, theta: Tensor) -> dict[int, str]:
        """Fill in the columns of rows whose draws theta (n, rows, D) are all finite and of equal weight."""
        each = np.ascontiguousarray(theta.permute(1, 2, 0).numpy())
        wide = each.astype(np.float64)
        columns["mean"][at], columns["sd"][at] = wide.mean(-1), wide.std(-1)
        columns["checks"][at] = LEVELS.index("good")
        ordered = np.partition(each, np.unique(self._places), axis=-1)
        columns["quantiles"][at] = ordered[..., self._places]
        columns["ess"][at] = self.wanted.draws
        if self.wanted.kept:
            columns["draws"][at] = theta[: self.wanted.kept].transpose(0, 1).numpy()
        messages = {}
        for k in self.checks.suspicious(each, wide):
            draws = Draws(self.prior.names, self.prior.units, theta[:, k], torch.zeros(len(theta), dtype=torch.float64))
            try:
                level, words = self.checks.of(draws, ())
            except Exception as error:
                check_row(error)
                messages |= self._refused(columns, int(at[k]), error)
                continue
            columns["checks"][at[k]] = LEVELS.index(level)
            messages |= {int(at[k]): words} if words else {}
        return messages

    def _alone(self, columns: dict[str, np.ndarray], row: int, x: X, seed: int, trust: Trust) -> dict[int, str]:
        """Answer one row by itself, as `query` does."""
        generator = torch.Generator().manual_seed(seed)
        with noting() as noted, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Findings are written into the row.
            drawn = self.posterior.draw(x, self.wanted.draws, generator=generator)
        found = finite(drawn, self.prior)
        categories = known_categories(self.posterior, x)
        found = replace(found, categories=categories)
        columns["mean"][row], columns["sd"][row] = found.mean().numpy(), found.sd().numpy()
        columns["quantiles"][row] = found.quantiles(self.wanted.levels).T.numpy()
        columns["ess"][row] = found.ess
        columns["pareto_k"][row] = np.nan if found.pareto_k is None else found.pareto_k
        if self.prior.mixed:
            columns["exists"][row] = [found.exists(name) for name in found.names]
            for name in categories:
                columns[f"probability/{name}"][row] = found.probabilities(name).probability
        if self.wanted.kept:
            own = torch.Generator().manual_seed(seed)
            columns["draws"][row] = found.resample(self.wanted.kept, generator=own).numpy()
        level, words = self.checks.of(found, (*summed_up(noted), *left_out(drawn, found)), trust)
        columns["checks"][row] = LEVELS.index(level)
        return {row: words} if words else {}


def check_row(error: Exception) -> None:
    """Raise an error again if no row caused it: such an error may come with any row, or not come again at all."""
    if isinstance(error, _OF_THE_MACHINE) or any(words in str(error) for words in _WORDS):
        raise error
