r"""A second network around an answer: does it give the same one?

The local check (`here`) finds what is wrong everywhere around an observation, which is about a third of a network's
error at one observation. The rest is that network's own, and another one errs in another way. So where no error is
seen, one round is simulated around the answer and a network is trained on it alone (`inference.refined`). With medians
and central intervals of two sds of the unbounded parameters, and means and sds of the parameters, the answers agree if

    |middle_1 - middle_2| <= 2/3 of .15 sd,    width_1 / width_2 within 2/3 of a tenth,

which leaves a third of what a right answer may be off by for the second network's own error. A network from around an
answer has far less to learn, so that of the two it is hardly ever the one that is wrong.
"""

from __future__ import annotations

import math

import torch

from sciinf.core import Check, Posterior, X
from sciinf.inference.changes import changes
from sciinf.trust.here import NAME, SHIFT, UNSEEN, WIDTH

RIGHT = "right at this observation"
_SHARE = 2 / 3  # of what a right answer may be off by
_DRAWS = 10_000


def words_of(differs: tuple[float, float]) -> str:
    """A `difference` in words."""
    return f"middles by up to {differs[0]:.2g} sds, widths by up to {math.expm1(differs[1]):.0%}"


def limits() -> str:
    """What answers that agree may differ by, in words."""
    return f"{_SHARE * SHIFT:.2g} sds, {_SHARE * WIDTH:.0%}"


def unconfirmed(check: Check) -> bool:
    """Whether it saw no error, and no second network has told whether there is one."""
    return check.name == NAME and check.level == "good" and check.verdict.startswith(UNSEEN)


def difference(first: Posterior, second: Posterior, x: X) -> tuple[float, float]:
    """By how much two answers differ: middles in sds, and the logarithms of the widths, each the largest.

    Args:
        first: One posterior.
        second: Another, whose sds count.
        x: The observation, name -> (1, *event).
    """
    found = []
    for posterior in (first, second):
        theta = posterior.draw(x, _DRAWS, generator=torch.Generator().manual_seed(0)).theta.double()
        theta = theta[theta.isfinite().all(1)]
        found.append((theta.mean(0), theta.std(0)))
    (mean, sd), (other, wide) = found
    moved, wider = changes(first, second, x)
    middles = torch.cat([((mean - other) / wide).abs(), mean.new_tensor([moved])])
    widths = torch.cat([(sd / wide).log().abs(), mean.new_tensor([wider])])
    return float(middles.max()), float(widths.max())


def compared(check: Check, differs: tuple[float, float], simulations: int) -> Check:
    """What a check that saw no error becomes when a second network has answered.

    Args:
        check: The check.
        differs: The `difference`; where it is no number, the answers do not agree.
        simulations: That the second network was trained on.
    """
    moved, wider = differs[0], math.expm1(differs[1])
    by = words_of(differs)
    other = f"a second network, trained on {simulations:,} simulations around it, differs"
    if moved <= _SHARE * SHIFT and wider <= _SHARE * WIDTH:
        return Check(NAME, "good", f"{RIGHT}{check.verdict.removeprefix(UNSEEN)}; {other} by little: {by}")
    way_on = "Refine it (infer --refine auto), or train on more simulations"
    return Check(NAME, "caution", f"it may be off at this observation: {other}: {by}. {way_on}")
