"""Draws that are numbers: what a posterior that went astray gives is no answer.

Where a parameter does not exist in a draw, NaN is what stands there, and anything else is astray.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from sciinf.core import Draws, Finding, Level, Prior

MOST = 0.01  # of the draws may be left out


def finite(draws: Draws, prior: Prior | None = None) -> Draws:
    """The draws without those that are not finite where their parameters exist, and NaN where they do not.

    Args:
        draws: Of the prior's parameters.
        prior: Says which parameters exist; all do where left out.

    Raises:
        ValueError: If more than one in a hundred is not finite, or none has a weight.
    """
    numbers = draws.theta.isfinite()
    if prior is not None and prior.mixed:
        numbers = torch.where(prior.present(draws.theta), numbers, draws.theta.isnan())
    good = numbers.all(-1) & (draws.log_weight < torch.inf)  # a NaN is below nothing
    lost = int((~good).sum())
    if lost > MOST * len(draws):
        raise ValueError(
            f"{lost:,} of {len(draws):,} posterior draws are not finite, so there is no answer: the network's training "
            "went astray, or a weight is not a number; look at history.csv of the fit, and train again with the "
            "estimator's default settings, a lower learning rate or more simulations"
        )
    if not bool((draws.log_weight[good] > -torch.inf).any()):
        raise ValueError(
            f"all {len(draws):,} posterior draws have weight 0, so there is no answer: the likelihood of the "
            "observation is 0 at every one of them; check its units, and the simulator with `sciinf check`"
        )
    return replace(draws, theta=draws.theta[good], log_weight=draws.log_weight[good]) if lost else draws


def left_out(drawn: Draws, kept: Draws) -> tuple[Finding, ...]:
    """What the answer says of draws that `finite` left out, if there are any."""
    lost = len(drawn) - len(kept)
    if not lost:
        return ()
    verdict = f"{lost:,} of {len(drawn):,} draws are not finite and are left out; more training or simulations may help"
    return (Finding("draws", Level.CAUTION, verdict),)
