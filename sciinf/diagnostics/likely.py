r"""Are the data as likely, given draws of their posterior, as data simulated from the same draws?

Where the likelihood is known, it judges noise and signal together, number by number:

    theta_i ~ p(theta | x),   x~_i ~ p(x~ | theta_i),   p = P(log p(x~_i | theta_i) <= log p(x | theta_i)).

A small p says that the data contain more than the model explains: a signal outside the prior, a wrong noise model,
or a wrong posterior. A p near 1 says that the data scatter less than the model's noise. Both count: the p-value is 2
min(p, 1 - p). Where values are missing, each pair is compared in the values that both have. For the model's own data
and their exact posterior, p stays near the middle. For d parameters and n numbers, it does so more closely for
larger d / n.

An estimated likelihood (`Simulator.random_likelihood`) serves as well. Both sides are then estimates with
independent noise from one distribution. So p keeps its distribution, and only its power is lower.

Reference:
    | Posterior predictive assessment of model fitness via realized discrepancies (Gelman, Meng, Stern, 1996, eq. 8),
      https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sciinf.campaigns.densities import density_of_draws
from sciinf.core import Case, Cause, Diagnostic, Finding, Level, Need, Simulator, X

NAME = "likelihood"
_ALARM, _UNUSUAL = 0.01, 0.05
_LEAST = 200  # Least number of pairs.


def check_likelihood(simulator: Simulator | None, x: X, theta: Tensor, simulated: X) -> tuple[Finding, ...]:
    """Return the finding about one observation; empty where the likelihood is unknown, or too little was simulated.

    Args:
        simulator: Simulator with the likelihood.
        x: The observation, name -> (1, *event).
        theta: Draws of the posterior, (m, D), with equal weights (resampled).
        simulated: Data simulated from each draw, name -> (m, *event).
    """
    if simulator is None or simulator.log_likelihood is None or len(theta) < _LEAST:
        return ()
    theta, x, simulated = _shared(theta, x, simulated)
    if len(theta) < _LEAST:
        return ()
    own, seen = simulator.log_likelihood(theta, simulated).double(), simulator.log_likelihood(theta, x).double()
    known = own.isfinite() & ~seen.isnan()
    count = int(known.sum())
    if count < _LEAST:
        return ()
    own, seen = own[known], seen[known]
    below = (float((own < seen).sum()) + 0.5 * float((own == seen).sum()) + 0.5) / (count + 1)
    p = 2 * min(below, 1 - below)
    if p >= _UNUSUAL:
        words = f"the data are as likely as data simulated from their posterior (p = {p:.2g} among {count})"
        return (Finding(NAME, Level.GOOD, words, figures={"p": p}),)
    gap = abs(float((own - seen).median()))
    if below < 0.5:
        words = (
            f"the data are less likely than data simulated from their posterior, by exp({gap:.3g}) (p = {p:.2g} among "
            f"{count}): they hold what no parameter explains. The truth may lie outside the prior, the noise may have "
            "another law, or the posterior may be off"
        )
    else:
        words = (
            f"the data are more likely than data simulated from their posterior, by exp({gap:.3g}) (p = {p:.2g} among "
            f"{count}): they scatter less than the simulator's noise. Check its size and the data's units"
        )
    return (Finding(NAME, Level.ALARM if p < _ALARM else Level.CAUTION, words, figures={"p": p}),)


def _shared(theta: Tensor, x: X, simulated: X) -> tuple[Tensor, X, X]:
    """Pairs of observed and simulated data, restricted to the numbers that both have.

    Densities of more and of fewer numbers cannot be compared. The half of the pairs with fewest numbers in common
    would show little, and is left out.
    """
    masks = [name for name in x if name.endswith("_mask") and name.removesuffix("_mask") in x]
    both = {name: simulated[name] & x[name] for name in masks}
    if all(bool((both[name] == x[name]).all() and (both[name] == simulated[name]).all()) for name in masks):
        return theta, x, simulated
    count = torch.stack([both[name].flatten(1).sum(1) for name in masks]).sum(0)
    some = (count > 0) & (count >= count.median())
    wide = {name: value.expand(len(theta), *value.shape[1:]) for name, value in x.items()}
    seen, drawn = {**wide, **both}, {**simulated, **both}
    return theta[some], {n: value[some] for n, value in seen.items()}, {n: value[some] for n, value in drawn.items()}


@final
class Likely(Diagnostic):
    """Are the data as likely as data simulated from the posterior? Shown only with a likelihood."""

    name, cause, needs = NAME, Cause.NOISE, frozenset({Need.PREDICTIONS})

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        return check_likelihood(case.simulator, case.x, case.theta, case.predicted)


@final
class LikelihoodDensity(Diagnostic):
    """Is the likelihood the density of the data simulated around the answer? Shown only if not."""

    name, cause, needs = "density", Cause.LIKELIHOOD, frozenset({Need.PREDICTIONS})

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        found = density_of_draws(case.simulator, case.theta, case.predicted, 0)
        return (Finding(self.name, Level.ALARM, found),) if found else ()
