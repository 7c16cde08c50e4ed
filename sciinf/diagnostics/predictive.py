r"""Does the posterior predict the observation that it was made from?

`ood` compares an observation with data from everywhere in the prior. These vary far more than noise does, so an
observation that no parameter explains may look normal among them. Here the observation is compared with data x~
simulated from its own posterior,

    theta ~ p(theta | x),   x~ ~ p(x~ | theta),   p = P(T(x~) >= T(x)),

in three views: the learned summaries, the standardised data, and the number that is farthest off. In the first two

    d(x)^2 = sum_k u_k(x)^2 + n r(x)^2,

with u the coordinates along the leading principal axes in their sds, r the length of the remainder in its root mean
square, and n = 2 / Var(r^2) the effective number of remaining numbers. T is the largest mid-rank of the three
(`views`). The first rows give the centre and the axes, so these describe this posterior. The other rows are ranked
with the observation.

The posterior has seen x and has moved towards it, so for the model's own data p is not uniform but stays near the
middle. For normal data, x - E[x~] varies less than x~ does in every direction, and P(p <= a) <= a. In general the
bound is 2 a, for a T that does not depend on x (Meng). So a p that is not small is weak evidence for the model. A
small p is evidence against the model, its prior, or this posterior.

References:
    | Posterior predictive p-values (Meng, 1994), https://doi.org/10.1214/aos/1176325622
    | Posterior predictive assessment of model fitness via realized discrepancies (Gelman, Meng, Stern, 1996),
      https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Batch, Case, Cause, Diagnostic, Finding, Level, Need, Posterior, X
from sciinf.core.verdict import UNCHECKED
from sciinf.diagnostics.views import conformal_p
from sciinf.networks.summaries.standardise import Standardise
from sciinf.networks.summaries.timed import seen_only
from sciinf.posteriors.tilted import by_likelihood

NAME = "predictive"
_ALARM, _UNUSUAL = 0.01, 0.05
# Rows that give the axes. Three times 1 / (1 + the rest of 400), one for each view, is below an alarm's p.
_FITTED = 80
_LEAST = 200  # Least number of rows; with fewer, alarms in two views at once could hardly be told from chance.
_NOT_COMPARED = Finding(
    NAME,
    Level.UNKNOWN,
    "the observation was not compared with data simulated from its posterior; ask with the simulator",
    UNCHECKED,
    cause=Cause.AROUND,
)
"""Of answers by a likelihood: their weights are right for the model, and no other check says that it may be wrong."""


def check_predictive(posterior: Posterior, x: X, simulated: Mapping[str, np.ndarray | Tensor]) -> tuple[Finding, ...]:
    """Return the finding about one observation; empty where nothing was simulated from its posterior.

    Args:
        posterior: Posterior whose learned summaries give one of the views.
        x: The observation, name -> (1, *event).
        simulated: Data simulated from the posterior given x, name -> (m, *event), with equal weights (resampled).
    """
    if any(name not in simulated for name in posterior.observables):
        return ()
    rows = {name: torch.as_tensor(simulated[name]) for name in posterior.observables}
    count = len(next(iter(rows.values())))
    if count < _LEAST:
        words = f"too few data simulated from the posterior ({count}) to tell; {_LEAST} are needed"
        return (Finding(NAME, Level.UNKNOWN, words),)
    p, most = predictive_p(posterior, x, rows)
    if p >= _UNUSUAL:
        words = f"the observation looks like data simulated from its posterior (p = {p:.2g} among {count})"
        return (Finding(NAME, Level.GOOD, words, figures={"p": p}),)
    level = Level.ALARM if p < _ALARM else Level.CAUTION
    words = (
        f"the observation is unlike data simulated from its own posterior (p = {p:.2g} among {count}), {most}: the "
        "truth may lie outside the prior, the simulator may lack something, or the network may be wrong. Check the "
        "data and their units, widen the prior, or correct the answer by a likelihood"
    )
    return (Finding(NAME, level, words, figures={"p": p}),)


def predictive_p(posterior: Posterior, x: X, rows: X) -> tuple[float, str]:
    """The p-value, and a sentence on where the observation differs most.

    Args:
        posterior: Posterior whose learned summaries give one of the views.
        x: The observation, name -> (1, *event).
        rows: Data simulated from the observation's posterior, name -> (m, *event).
    """
    batch = Batch(torch.empty(len(next(iter(rows.values()))), 0), rows)
    standard = Standardise(seen_only(posterior.observables))
    standard.fit(lambda: iter((batch.rows(slice(_FITTED)),)))
    z, seen = standard(rows), standard(x)
    learned = _distances(posterior.features(rows).double(), posterior.features(x).double(), 1e-3)
    data = _distances(_flat(z), _flat(seen), 1e-5)
    sds = {name: _sds(z[name].reshape(len(z[name]), -1).double(), seen[name].reshape(1, -1).double()) for name in z}
    farthest = torch.stack([value.amax(1) for value in sds.values()]).amax(0)
    far = torch.stack([learned, data, farthest], dim=1).nan_to_num(nan=math.inf, posinf=math.inf)
    p = float(conformal_p(far[_FITTED:-1], far[-1:])[0])
    most = max(sds, key=lambda name: float(sds[name][-1].max()))
    return p, f"{most!r} most, by up to {float(sds[most][-1].max()):.3g} of its predictive sds"


def _flat(z: X) -> Tensor:
    return torch.cat([value.reshape(len(value), -1) for value in z.values()], dim=1).double()


def _sds(rows: Tensor, seen: Tensor) -> Tensor:
    """Distance of each number from its mean, in its sds, for the rows and for the observation after them."""
    fitted = rows[:_FITTED]
    return (torch.cat([rows, seen]) - fitted.mean(0)).abs() / fitted.std(0).clamp_min(1e-5)


def _distances(rows: Tensor, seen: Tensor, least: float) -> Tensor:
    """Distance d of the rows, and of the observation after them, (m + 1,)."""
    fitted = rows[:_FITTED]
    # Constant numbers still differ by rounding from one batch size to the next; this is not strange.
    scale = fitted.std(0).clamp_min(least * float(fitted.abs().mean()) + 1e-12)
    unit = (torch.cat([rows, seen]) - fitted.mean(0)) / scale
    _, spread, axes = torch.linalg.svd(unit[:_FITTED], full_matrices=False)
    keep = (spread > 1e-3 * spread[0].clamp_min(1e-6)) & (torch.arange(len(spread)) < _FITTED // 10)
    along = unit @ axes[keep].T
    near = (along / (spread[keep] / math.sqrt(_FITTED))).square().sum(1)
    rest = (unit.square().sum(1) - along.square().sum(1)).clamp_min(0)
    rest = rest / rest[:_FITTED].mean().clamp_min(1e-6)
    numbers = (2 / rest[:_FITTED].var().clamp_min(1e-12)).clamp(1, unit.shape[1])
    return (near + numbers * rest).sqrt()


@final
class Predictive(Diagnostic):
    """Do the data look like data simulated from the posterior?"""

    name, cause = NAME, Cause.SCALE

    def __call__(self, case: Case) -> Sequence[Finding]:
        if Need.PREDICTIONS in case.has:
            return check_predictive(case.posterior, case.x, case.predicted)
        return (_NOT_COMPARED,) if by_likelihood(case.posterior) else ()
