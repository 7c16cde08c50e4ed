"""build_posterior: Fit + Simulator -> Posterior; picks from `inference/`."""

from __future__ import annotations

from collections.abc import Sequence

from sciinf.core import Fit, Posterior, Simulator
from sciinf.inference.amortised import Amortised
from sciinf.inference.ensemble import Ensemble
from sciinf.inference.reweighted import Reweighted


def build_posterior(
    fit: Fit | Sequence[Fit], simulator: Simulator | None = None, *, ess: float | int = 2_000, budget: int = 1_000_000
) -> Posterior:
    """The posterior of a fit, or of several as an ensemble.

    Args:
        fit: One fit, or several.
        simulator: If given, and if its likelihood is tractable, the posterior is corrected by it.
        ess: Effective sample size a corrected answer must reach.
        budget: Largest number of draws spent on it.

    Returns:
        `Amortised` or `Ensemble`, inside `Reweighted` where a tractable simulator was given.

    Example:
        >>> posterior = build_posterior(fit)  # doctest: +SKIP
        >>> posterior.sample((1000,), x=x_o)  # doctest: +SKIP
    """
    fits = [fit] if isinstance(fit, Fit) else list(fit)
    posterior = Amortised(fits[0]) if len(fits) == 1 else Ensemble([Amortised(f) for f in fits])
    if simulator is None or simulator.log_likelihood is None:
        return posterior
    return Reweighted(posterior, simulator, ess=ess, budget=budget)
