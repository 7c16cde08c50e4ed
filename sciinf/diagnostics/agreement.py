r"""Tests of a posterior's coverage, and the decision whether the fresh simulations suffice to see an error.

For each fresh simulation, each test gives one number u that is uniform when the posterior is exact. It is observed
as a count c of draws in 0..L, so u lies in [c, c + 1] / (L + 1). With F the distribution function of u, a region of
level l holds

    one-sided (ranks, below a quantile; HPD; TARP):   F(l)
    central (an interval of one parameter):           F((1 + l) / 2) - F((1 - l) / 2)

of the truths. The gap of a test is the largest |found - l| over the levels. A width that is wrong by a factor
changes the central intervals twice as much as the one-sided bounds, so both kinds are tested.

Posteriors averaged over the data are the distribution of the parameters itself (the prior, in most cases):

    E_x q(theta | x) = E_x p(theta | x) = p(theta).

Ranks cannot test this. Consider a posterior whose middle is drawn towards that of the prior, or is scattered about
its right place. If its width grows by as much as its error, its ranks are uniform, but its average is too narrow or
too wide. Let u and u_j be the levels of the truth and of the draws of a row among the draws of all rows. Let f(u) be
2u - 1 or 6 (u - 1/2)^2 - 1/2. Then the row's mean of f(u_j), less f(u), has mean 0 where the average is right.
Student's t tests this mean for each f. For these tests, found(l) is the fraction of truths below the averaged
posterior's quantile l.

Probabilities of discrete parameters have a test of their own (`calibration.reliability`). Its gap is their
calibration error, less the mean error that correct probabilities show by chance. Two points of this gap are
tolerated.

Tails are tested beyond these levels (`tails`), with a tolerance of their own: a 99.9 % interval that holds less than
99.7 % of the truths is an error. A smaller significant error is reported and tolerated. The p-values of tails are
corrected for their own number, at 0.003, so that the other tests lose no power.

There are three results. With n simulations, the coverage of a region is estimated with an sd of at most
1 / (2 sqrt(n)).

- *not passed*: an error was seen. A test's Kolmogorov-Smirnov p-value, Holm-corrected, is below 0.01, and its gap is
  above three points. With many rows, the p-value alone would condemn errors too small to matter.
- *passed*: no error was seen, and for every region gap + 2.33 sd is below the stated gap (five points by default). A
  posterior with a true gap of that size at any level passes with a probability below 0.01, because each test by
  itself would have to miss the error (an intersection-union test needs no correction).
- *cannot tell*: neither of these. More fresh simulations decide.

References:
    | Multiparameter hypothesis testing and acceptance sampling (Berger, 1982), the intersection-union test,
      https://doi.org/10.2307/1267823
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Calibration

LEVELS = np.linspace(0.05, 0.95, 19)
STATED_GAP = 0.05
State = Literal["passed", "not passed", "cannot tell"]
Kind = Literal["rank", "interval", "region", "average", "tail", "probability"]
_SIGNIFICANT, _TOLERANCE = 0.01, 0.03
# Tolerated mean error of probabilities; `_TOLERANCE` is larger, because it is for the largest of several errors.
_PROBABILITY = 0.02
TAIL, _TAIL_SIGNIFICANT, _TAIL_TOLERANCE = 0.999, 0.003, 0.002
_CURE = "more simulations, or a flow with heavier tails, `flow=StudentT(SplineCoupling())`, mend that"
_Z = 2.326  # 99 % quantile of a normal distribution, for a one-sided bound.


@dataclass(frozen=True)
class Agreement:
    """Result of one test of the posterior's coverage.

    Args:
        kind: Kind of the test: "rank" (one-sided), "interval" (central, of one parameter), "region" (of all
            parameters), "average" (one-sided, of the posteriors of one parameter averaged over the data), "tail"
            (central, of `TAIL`) or "probability" (of the values of a discrete parameter).
        p_value: Uncorrected p-value of uniformity.
        found: Fraction of truths in the region of each of `LEVELS`, (19,), or of `TAIL`, (1,). For probabilities,
            their gap, (1,).
        rows: Number of fresh simulations in which the parameter exists.
        note: Further words on a tail, or on probabilities.
        spread: Standard deviation that the gap of probabilities has where they are right.
    """

    kind: Kind
    p_value: float
    found: np.ndarray
    rows: int
    note: str = ""
    spread: float = 0.0

    @property
    def levels(self) -> np.ndarray:
        return np.array({"tail": [TAIL], "probability": [0.0]}.get(self.kind, LEVELS))

    @property
    def significant(self) -> float:
        """Threshold that the corrected p-value must be below for an error to count as seen."""
        return _TAIL_SIGNIFICANT if self.kind == "tail" else _SIGNIFICANT

    @property
    def large(self) -> bool:
        """Whether the gap is larger than the tolerance of this kind of test."""
        return self.gap > {"tail": _TAIL_TOLERANCE, "probability": _PROBABILITY}.get(self.kind, _TOLERANCE)

    @property
    def gap(self) -> float:
        """Largest distance between the coverage found and the nominal level."""
        return float(np.abs(self.found - self.levels).max())

    @property
    def bound(self) -> float:
        """Upper bound on the largest true gap, with a confidence of 99 % at each level."""
        if self.kind == "probability":
            return self.gap + _Z * self.spread
        rows = max(self.rows, 1)
        spread = np.sqrt(np.maximum(self.found * (1 - self.found), self.levels * (1 - self.levels)) / rows)
        return float((np.abs(self.found - self.levels) + _Z * spread).max())

    @property
    def moved(self) -> bool:
        """Whether a rank test errs in the same direction at both ends, as a shift of the posterior does.

        A wrong width makes the two ends err in opposite directions.
        """
        error = self.found - LEVELS
        return self.kind == "rank" and np.abs(error + error[::-1]).max() >= np.abs(error - error[::-1]).max()

    @property
    def wide(self) -> bool:
        """Whether the regions of this test hold more truths than they should, which is the cautious side."""
        level, found = self._worst
        if self.kind == "rank":
            return not self.moved and (found < level) == (level < 0.5)
        return found > level and self.kind != "probability"

    @property
    def _worst(self) -> tuple[float, float]:
        index = int(np.abs(self.found - self.levels).argmax())
        return float(self.levels[index]), float(self.found[index])

    def words(self) -> str:
        """The error of this test in words, with its size."""
        if self.kind == "probability":
            return f"off by {100 * self.gap:.1f} points on average, beyond chance: {self.note}"
        if self.kind == "average":
            return self._average
        level, found = self._worst
        if self.kind == "tail":
            return f"too light: {self.note or 'its'} {level:.1%} interval holds {found:.2%}"
        way = "too wide" if self.wide else "too narrow"
        if self.kind == "rank":
            way = f"too {'high' if found > level else 'low'}" if self.moved else way
            return f"{way}: {found:.0%} of the truths lie below its {level:.0%} quantile"
        what = "a" if self.kind == "region" else "its"
        return f"{way}: {what} {level:.0%} {self.kind} holds {found:.0%}"

    @property
    def _average(self) -> str:
        """Sentence on the error of an averaged posterior, by a line through the normal scores of `found`."""
        from scipy.special import ndtri

        width, high = np.polyfit(ndtri(LEVELS), ndtri(np.clip(self.found, 1e-3, 1 - 1e-3)), 1)
        if abs(high) > 0.6 * abs(width - 1):  # Report the term that changes the levels found more.
            return (
                f"off: posteriors averaged over data lie {abs(high):.2g} prior sds too {'high' if high > 0 else 'low'}"
            )
        way = "narrower than the prior: they are" if width < 1 else "wider than the prior: they scatter, or are"
        ends = "drawn to its middle" if width < 1 else "too far out"
        return f"off: posteriors averaged over data are {abs(width - 1):.0%} {way} {ends}"


def agreements(
    counts: Mapping[str, Tensor],
    names: tuple[str, ...],
    draws: int,
    generator: torch.Generator,
    averaged: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Agreement]:
    """Run all tests of coverage; return test name -> result.

    Args:
        counts: Counts of draws, each in 0..draws: "ranks" (rows, D); "hpd" (rows,), where there is a density; "tarp"
            (rows,). A rank is -1 in rows in which the true parameter does not exist.
        names: Names of the D parameters.
        draws: Number of draws per row, L.
        generator: Source of the random numbers that spread each count uniformly over its cell.
        averaged: Truths (rows, D), and k draws of each row (k, rows, D), to be averaged over the rows.
    """
    found = {}
    for d, name in enumerate(names):
        found[f"rank of {name}"] = _agreement("rank", counts["ranks"][:, d], draws, generator)
        found[f"interval of {name}"] = _agreement("interval", counts["ranks"][:, d], draws, generator)
    for key, name in (("hpd", "coverage"), ("tarp", "TARP")):
        if key in counts:
            found[name] = _agreement("region", counts[key], draws, generator)
    if averaged is not None:
        found |= {
            f"average of {name}": _average(averaged[0][:, d], averaged[1][..., d]) for d, name in enumerate(names)
        }
    return found


def _average(truth: Tensor, draws: Tensor) -> Agreement:
    """Test one parameter's averaged posterior, from truths (rows,) and draws (k, rows)."""
    from scipy.stats import t

    ordered, rows = draws.flatten().sort().values, len(truth)
    u, each = (
        (torch.searchsorted(ordered, v) + torch.searchsorted(ordered, v, right=True)).double() / (2 * len(ordered))
        for v in (truth.contiguous(), draws.contiguous())
    )
    p_values = []
    for f in (lambda v: 2 * v - 1, lambda v: 6 * (v - 0.5).square() - 0.5):
        apart = f(each).mean(0) - f(u)
        ratio = float(apart.mean() / apart.std().clamp_min(1e-12)) * math.sqrt(rows)
        p_values.append(2 * float(t.sf(abs(ratio), rows - 1)))
    found = (u[None] < torch.as_tensor(LEVELS)[:, None]).double().mean(1).numpy()
    return Agreement("average", min(1.0, 2 * min(p_values)), found, rows)


def _agreement(
    kind: Literal["rank", "interval", "region"], count: Tensor, draws: int, generator: torch.Generator
) -> Agreement:
    from scipy.stats import kstest

    count = count[count >= 0]
    # A count has draws + 1 possible values. Spread uniformly over its cell, it is uniform on [0, 1].
    u = (count.double() + torch.rand(len(count), generator=generator, dtype=torch.float64)) / (draws + 1)
    if kind == "interval":
        u = (2 * u - 1).abs()
        held = coverage(count, draws, (1 + LEVELS) / 2) - coverage(count, draws, (1 - LEVELS) / 2)
    else:
        held = coverage(count, draws, LEVELS)
    p_value = float(kstest(u.numpy(), "uniform").pvalue) if len(count) else 1.0
    return Agreement(kind, p_value, held, len(count))


def coverage(count: Tensor, draws: int, levels: np.ndarray = LEVELS) -> np.ndarray:
    """Fraction of rows whose truth lies within the region of each level: the expectation over u in its cell.

    Only rows with a truth count; their count is not negative. Without such a row, the levels themselves are
    returned.
    """
    count = count[count >= 0]
    if not len(count):
        return np.array(levels)
    return np.clip(levels[:, None] * (draws + 1) - count.double().numpy(), 0.0, 1.0).mean(axis=1)


def judged(tests: Mapping[str, Agreement], stated: float = STATED_GAP) -> tuple[State, bool, tuple[str, ...]]:
    """Return the verdict, whether all errors are on the cautious side, and the reasons in words.

    Errors of averages are left out when caution is judged; without any other error, the flag is False.
    """
    p_values = _corrected(tests)
    rows = max(test.rows for test in tests.values())
    tails = too_light(tests)
    bad = [name for name, test in tests.items() if p_values[name] < test.significant and test.large]
    worst = max(tests, key=lambda name: tests[name].gap)
    largest = f"largest gap {tests[worst].gap:.1%} ({worst})"
    if bad:
        cautious = {name for name in bad if tests[name].wide and tests[name].kind != "average"}
        bad.sort(key=lambda name: (name in cautious, -tests[name].gap))  # The verdict quotes the first of these.
        on = {n: rows if tests[n].kind == "tail" else tests[n].rows for n in bad}
        reasons = tuple(f"{n} {_error(tests[n])} (p = {p_values[n]:.1g} on {on[n]:,} simulations)" for n in bad)
        reasons += tuple(words for name, words in tails.items() if name not in bad)
        reasons += (_CURE,) if all(tests[name].kind == "tail" for name in bad) else ()
        holding = [tests[name] for name in bad if tests[name].kind != "average"]
        return "not passed", bool(holding) and all(test.wide for test in holding), reasons
    told = (*tails.values(), _CURE) if tails else ()
    also = "probabilities, " if any(test.kind == "probability" for test in tests.values()) else ""
    if max(test.bound for test in tests.values()) <= stated:
        return (
            "passed",
            False,
            (
                f"ranks, intervals, averages, {also}coverage and TARP agree with {rows:,} fresh simulations; {largest}",
                *told,
            ),
        )
    least = max(1, min(test.rows for test in tests.values() if test.kind != "tail"))
    more = rows_needed(len(tests), rows, stated, share=least / rows)
    words = f"{rows:,} fresh simulations are too few to see every gap of {stated:.0%}; {largest}"
    return "cannot tell", False, (f"{words}; {more:,} would tell", *told)


def _error(test: Agreement) -> str:
    return f"{'are' if test.kind == 'probability' else 'is'} {test.words()}"


def too_light(tests: Mapping[str, Agreement]) -> dict[str, str]:
    """Parameters whose tails are seen to be too light, also within the tolerance: test name -> sentence."""
    p_values = _corrected(tests)
    return {
        name: f"{name} {_error(test)} (p = {p_values[name]:.1g} on {test.rows:,} simulations)"
        for name, test in tests.items()
        if test.kind == "tail" and p_values[name] < test.significant and test.found[0] < TAIL
    }


def rows_needed(tests: int, rows: int = 0, stated: float = STATED_GAP, *, share: float = 1.0) -> int:
    """Number of fresh simulations with which an exact posterior passes nine times out of ten.

    The largest of T Kolmogorov-Smirnov distances is below sqrt(log(20 T) / 2n) nine times out of ten. A parameter
    that exists only in a `share` of the simulations is tested with that share of them. `rows` is the number of
    simulations that could not tell. The result is at least twice `rows`, rounded up to a multiple of 500.
    """
    enough = ((math.sqrt(math.log(20 * tests) / 2) + _Z / 2) / stated) ** 2 / share
    return int(math.ceil(max(enough, 2 * rows) / 500) * 500)


def least_share(found: Calibration) -> float:
    """Smallest share of simulations in which a parameter exists; 1 if every parameter always exists."""
    shares = (np.asarray(found.ranks) >= 0).mean(0) if found.rows else np.ones(0)
    return max(float(shares.min(initial=1.0)), 1 / max(found.rows, 1))


def _corrected(tests: Mapping[str, Agreement]) -> dict[str, float]:
    """Holm-corrected p-values: tail tests are corrected among themselves, and so are all other tests."""
    kinds = [{n: t.p_value for n, t in tests.items() if (t.kind == "tail") == tail} for tail in (False, True)]
    return _holm(kinds[0]) | _holm(kinds[1])


def _holm(p_values: Mapping[str, float]) -> dict[str, float]:
    corrected, running = {}, 0.0
    for i, name in enumerate(sorted(p_values, key=lambda k: p_values[k])):
        running = max(running, min(1.0, (len(p_values) - i) * p_values[name]))
        corrected[name] = running
    return corrected
