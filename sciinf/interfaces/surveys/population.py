r"""Compares all rows of a survey together with the prior, and so finds differences that no single row can show.

A truth outside the prior may have the same data as a truth within. Its row then looks like the simulations, but its
answer is wrong. Many such rows can be noticed, because too many answers lie in one place. Suppose that theta is drawn
from the prior and x is simulated. Then one posterior draw t_i for each row is, over the rows, a draw from the prior,
t_i ~ E_x p(theta | x) = p(theta), and the p-values of rows are distributed like those of simulations.

K quantities are compared: the parameters and the p-value. For each, D is the largest distance between two empirical
distribution functions: that of n rows, and that of m draws from the prior (or m simulations). The rows are found to
differ if, for one of the quantities,

    D > g + sqrt(log(2 K / a) / 2) sqrt(1 / n + 1 / m),        a = 0.01.

The distance g is the error that averages of a posterior may have although it passed its calibration. If each true
distance is at most g, chance causes this finding in at most a share a of surveys (Kolmogorov and Smirnov, for large n
and m). If each true distance is zero, false alarms are far rarer. Rows and simulations that are outside are left out,
because each such row is reported by itself.

Posteriors as wide as the prior cannot show whether rows differ from the prior. Their average is no farther from the
prior than the single posteriors are on average. So a parameter shows nothing if mean_i D(p(theta | x_i), p(theta)) is
not above the same bound. This D is estimated from the quantiles q_l of each row, as max_l |F(q_l) - l|, with F the
distribution function of the prior. Subtracted is the most that sampling error of the quantiles adds on average,
0.87 / sqrt(effective draws), the mean of Kolmogorov's distribution.

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
LEAST, _MOST, _PRIOR = 300, 2_000, 20_000  # Fewest and most rows that are compared; draws from the prior.
_BY_CHANCE, _OUTSIDE = 0.01, 0.01  # Share of false alarms; p-value below which a row is outside (`diagnostics.ood`).
_MEANS = (
    "That alone is no fault. But a calibration holds on average over the prior, and does not speak for these rows. And "
    "truths outside it, with data of others within, show like this, as does a network that did not pass its calibration"
)


def population(answers: Answers, answering: RowAnswers, of: Observations, p: np.ndarray, inside: np.ndarray) -> Finding:
    """Compare all rows of a survey together with the prior, and return the finding.

    Args:
        answers: The answers to all observations; none may be missing.
        answering: The object that answered the rows.
        of: The observations.
        p: The p-value of each row's observation, (rows,); NaN if the observation was compared with nothing.
        inside: Whether each row has an answer, and is not outside, (rows,).
    """
    rows, prior = np.flatnonzero(inside), answering.prior
    if len(rows) < LEAST:
        return Finding(
            NAME, Level.UNKNOWN, f"{len(rows):,} rows are too few to compare with the prior: at least {LEAST}"
        )
    generator = torch.Generator().manual_seed(row_seed(answering.wanted.seed, answers.rows))  # No row uses it.
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
    """The finding on pairs of samples, of the rows and of the prior or simulations.

    Args:
        pairs: Name of a quantity -> (sample of the rows, sample of the prior or of simulations).
        lacks: Reason why parameters were not compared; "" if they were.
        gap: Distance between distribution functions that is tolerated besides chance.
        most: Name of a quantity -> largest distance that any rows could have; no limit for a name left out.
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
    """p-values of simulations that are not outside, (m,), computed from the distances of all simulations (n, view).

    Each simulation is ranked among all, itself included, so its p-value is larger by 1 / (n + 1) than that of other
    data. This is not corrected, so that equal data have equal p-values in a survey and here. A difference in the last
    digit would separate the two distributions.
    """
    own = Ranked(far).p_values(far[-_MOST:]).numpy()
    return own[own >= _OUTSIDE]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest distance between the empirical distribution functions of two samples, (n,) and (m,)."""
    one, other = (np.searchsorted(np.sort(x), np.concatenate([a, b]), side="right") / len(x) for x in (a, b))
    return float(np.abs(one - other).max())


def _one_of_each(
    answers: Answers, answering: RowAnswers, of: Observations, rows: np.ndarray, generator: torch.Generator
) -> np.ndarray | None:
    """One posterior draw for each of some rows, (rows, D), kept or new; None if the posterior is asked row by row.

    New draws that are not finite are left out.
    """
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
    """Mean distance of the rows' posteriors from the prior, for each parameter; theta (m, D) are prior draws."""
    said = _columns(answers, rows, "quantiles", "ess")
    noise, found = float(np.nanmean(_OF_DRAWS / np.sqrt(said["ess"]))), dict[str, float]()
    for d, name in enumerate(answers.prior.names):
        share = np.searchsorted(np.sort(theta[:, d]), said["quantiles"][:, d], side="right") / len(theta)
        found[name] = float(np.abs(share - np.asarray(answers.levels)).max(-1).mean()) - noise
    return found


def _columns(answers: Answers, rows: np.ndarray, *names: str) -> dict[str, np.ndarray]:
    """Datasets of some rows, in order; each block is read once."""
    size, parts = int(answers.about["block"]), list[dict[str, np.ndarray]]()
    for index in np.unique(rows // size):
        columns, at = answers.block(int(index), frozenset(names)).columns, rows[rows // size == index] - index * size
        parts.append({name: columns[name][at] for name in names})
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
