r"""Whether the rows of a survey, all together, are as those of the prior: what no single row can tell.

A truth outside the prior may have the data of one within. Its row is like the simulations, and its answer is wrong.
Many such rows show, for they are too many in one place. Where theta is drawn from the prior and x simulated, one draw
t_i of the posterior of each row is, over the rows, a draw of the prior, t_i ~ E_x p(theta | x) = p(theta), and p-values
are as those of simulations. With D the largest distance of the distribution functions of n rows and of m draws of the
prior (or simulations), for each of K samples, the parameters and the p-values, the finding is that one differs where

    D > g + sqrt(log(2 K / a) / 2) sqrt(1 / n + 1 / m),        a = 0.01.

Where each true distance is at most g, as far as averages of a posterior that passed its calibration may be off, that is
so by chance in at most a share a of surveys (Kolmogorov and Smirnov, for large n and m); far more rarely where there
is none. Rows that are outside, and such simulations, are left out: they tell of themselves.

Posteriors that are as wide as the prior hide whose rows they are. Their average is no farther from the prior than they
are on average themselves, so that a parameter shows nothing where mean_i D(p(theta | x_i), p(theta)) is not above the
same bound. That is estimated by the quantiles q_l of each row, as max_l |F(q_l) - l| with F of the prior, less what
the draws behind them add at most, 0.87 / sqrt(effective draws), the mean of Kolmogorov's law.

References:
    | Validating Bayesian inference algorithms with simulation-based calibration (Talts et al., 2018),
      https://arxiv.org/abs/1804.06788: posteriors averaged over data are the prior
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch

from sciinf.core import Finding, Level
from sciinf.diagnostics.agreement import STATED_GAP
from sciinf.diagnostics.failures import Failures
from sciinf.diagnostics.ood import REFERENCE
from sciinf.diagnostics.views import Ranked
from sciinf.interfaces.surveys.answers import Answers
from sciinf.interfaces.surveys.drawing import RowAnswers, row_seed
from sciinf.interfaces.surveys.rows import Observations
from sciinf.posteriors.amortised import pushed

NAME, _P = "population", "p-values"
_OF_DRAWS = 0.87
LEAST, _MOST, _PRIOR = 300, 2_000, 20_000  # rows at least and at most, draws of the prior
_BY_CHANCE, _OUTSIDE = 0.01, 0.01  # false alarms; p-values below are outside (`diagnostics.ood`)
_MEANS = (
    "That alone is no fault. But a calibration holds on average over the prior, and does not speak for these rows. And "
    "truths outside it, with data of others within, show like this, as does a network that did not pass its calibration"
)


def population(answers: Answers, answering: RowAnswers, of: Observations, p: np.ndarray, inside: np.ndarray) -> Finding:
    """What all rows say together.

    Args:
        answers: The answers, complete.
        answering: What answered.
        of: The observations.
        p: The p-value of each row, (rows,); NaN where it was compared with nothing.
        inside: Whether each has an answer, and is not outside, (rows,).
    """
    rows, prior = np.flatnonzero(inside), answering.prior
    if len(rows) < LEAST:
        return Finding(
            NAME, Level.UNKNOWN, f"{len(rows):,} rows are too few to compare with the prior: at least {LEAST}"
        )
    generator = torch.Generator().manual_seed(row_seed(answering.wanted.seed, answers.rows))  # of no row
    rows = rows[torch.randperm(len(rows), generator=generator)[:_MOST].sort().values.numpy()]
    reference = said.reference if (said := answering.judge.calibration) else {}
    pairs, failures, lacks = dict[str, tuple[np.ndarray, np.ndarray]](), Failures.from_tensors(reference), ""
    most = dict[str, float]()
    if prior.mixed:
        lacks = "some are discrete, or do not always exist"
    elif answering.posterior.under is not None:
        lacks = "the network was learned under a proposal"
    elif failures is not None and failures.depend:
        lacks = "whether simulations fail depends on them"
    elif (drawn := _one_of_each(answers, answering, of, rows, generator)) is None:
        lacks = "no draws are kept (--draws 1; kept=1 in Python)"
    else:
        theta = prior.sample(_PRIOR, generator=generator).double().numpy()
        pairs = {name: (drawn[:, d], theta[:, d]) for d, name in enumerate(prior.names)}
        most = _told(answers, rows, theta)
    if (far := reference.get(REFERENCE)) is not None:
        pairs[_P] = (p[rows], p_values_of(far))
    return judged(pairs, lacks, most=most)


def judged(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    lacks: str = "",
    gap: float = STATED_GAP,
    most: Mapping[str, float] = MappingProxyType({}),
) -> Finding:
    """The finding on samples.

    Args:
        pairs: Name -> sample of the rows, and sample of what they are compared with.
        lacks: Why others are not there.
        gap: The distance that is forgiven besides chance.
        most: Name -> how far the two can be apart at most, whoever the rows are; without bound where it is left out.
    """
    more = f"; parameters were not compared: {lacks}" if lacks else ""
    if not pairs:
        return Finding(NAME, Level.UNKNOWN, f"nobody can tell whether the rows are as those of the prior{more}")
    factor = math.sqrt(math.log(2 * len(pairs) / _BY_CHANCE) / 2)
    bounds = {name: gap + factor * math.sqrt(1 / len(a) + 1 / len(b)) for name, (a, b) in pairs.items()}
    found = {name: distance(*pair) for name, pair in pairs.items()}
    name = max(found, key=lambda one: found[one] - bounds[one])
    size = f"distribution functions are {found[name]:.2g} apart, {bounds[name]:.2g} are forgiven"
    rows, other = pairs[name]
    blind = [one for one in pairs if most.get(one, math.inf) <= bounds[one]]
    hidden = f"the data say too little of {', '.join(blind)} for any rows to differ from the prior there"
    if found[name] <= bounds[name] and len(blind) == len(pairs):
        return Finding(NAME, Level.UNKNOWN, f"nobody can tell whether the rows are as those of the prior: {hidden}")
    if found[name] <= bounds[name]:
        more += f"; {hidden}" if blind else ""
        words = f"{len(rows):,} rows together are as the prior has them (farthest: {name}, whose {size}){more}"
        return Finding(
            NAME, Level.GOOD, f"{words}. This tells of no single row, nor of truths outside that are spread so"
        )
    what, whose = ("p-values", "simulations") if name == _P else (f"draws of {name}", "the prior")
    half = f"{np.mean(rows > np.median(other)):.0%} of the {what} of {len(rows):,} rows are above the middle of {whose}"
    return Finding(NAME, Level.CAUTION, f"the rows together are unlike the prior: {half} ({size}){more}. {_MEANS}")


def p_values_of(far: torch.Tensor) -> np.ndarray:
    """p-values of simulations that are not outside, (m,), of their distances (n, view).

    They are among those that they are ranked by, and so larger by 1 / (n + 1) than those of others. That is left: equal
    data then have equal p-values, in a survey as here, where a difference in the last digit would part the two laws.
    """
    own = Ranked(far).p_values(far[-_MOST:]).numpy()
    return own[own >= _OUTSIDE]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest distance of the distribution functions of two samples, (n,) and (m,)."""
    one, other = (np.searchsorted(np.sort(x), np.concatenate([a, b]), side="right") / len(x) for x in (a, b))
    return float(np.abs(one - other).max())


def _one_of_each(
    answers: Answers, answering: RowAnswers, of: Observations, rows: np.ndarray, generator: torch.Generator
) -> np.ndarray | None:
    """A draw of each of some rows, (rows, D): one that was kept, or a new one; None where neither is at hand."""
    if answers.about["kept"]:
        return _columns(answers, rows, "draws")["draws"][:, 0].astype(float)
    found = []
    for some in np.split(rows, range(answering.wanted.rows, len(rows), answering.wanted.rows)):
        seen = [of.read(int(row), int(row) + 1).x for row in some]
        x = {name: torch.cat([one[name] for one in seen]) for name in seen[0]}
        if pushed(answering.posterior, x) is None:
            return None
        found.append(answering.posterior.draw_batched(x, 1, generator=generator)[0])
    theta = torch.cat(found).double()
    return theta[theta.isfinite().all(1)].numpy()


def _told(answers: Answers, rows: np.ndarray, theta: np.ndarray) -> dict[str, float]:
    """Parameter -> how far posteriors of rows are from the prior, draws of which are (m, D), on average."""
    said = _columns(answers, rows, "quantiles", "ess")
    noise, found = float(np.nanmean(_OF_DRAWS / np.sqrt(said["ess"]))), dict[str, float]()
    for d, name in enumerate(answers.prior.names):
        share = np.searchsorted(np.sort(theta[:, d]), said["quantiles"][:, d], side="right") / len(theta)
        found[name] = float(np.abs(share - np.asarray(answers.levels)).max(-1).mean()) - noise
    return found


def _columns(answers: Answers, rows: np.ndarray, *names: str) -> dict[str, np.ndarray]:
    """Datasets of some rows, in order, each block read once."""
    size, parts = int(answers.about["block"]), list[dict[str, np.ndarray]]()
    for index in np.unique(rows // size):
        columns, at = answers.block(int(index), frozenset(names)).columns, rows[rows // size == index] - index * size
        parts.append({name: columns[name][at] for name in names})
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
