r"""Too few draws: with another seed, the ends of an interval differ by more than a reader expects.

The end of a central interval at credible level c is the quantile of p = (1 - c) / 2. From n independent draws of a
normal distribution, this quantile has a standard error of

    sqrt(p (1 - p) / n) / phi(z_p)    posterior standard deviations,

where phi is the normal density and z_p its quantile. For weighted draws, n is the effective sample size. For a
parameter that exists in some draws only, n counts these draws. A parameter that hardly ever exists is left out.

Reference: Asymptotic Statistics (van der Vaart, 1998), corollary 21.5, https://doi.org/10.1017/CBO9780511802256
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import final

from sciinf.core import Case, Cause, Diagnostic, Finding, Level

_MOST = 0.25  # Largest standard error, in posterior standard deviations.
_NEVER = 0.01  # A parameter that exists with at most this probability is left out.


@final
class FewDraws(Diagnostic):
    """Are there enough draws for intervals of this level? Shown only if not."""

    name, cause = "few draws", Cause.DRAWS

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        draws, level = case.draws, case.level
        p, normal = (1 - level) / 2, NormalDist()
        one = math.sqrt(p * (1 - p)) / normal.pdf(normal.inv_cdf(p))
        exist = {name: draws.exists(name) for name in draws.names if name not in draws.categories}
        exist = {name: share for name, share in exist.items() if share > _NEVER}
        share = min(exist.values(), default=1.0)
        error = one / math.sqrt(max(float(draws.ess) * share, 1e-9))
        if error <= _MOST:
            return ()
        enough = 10 * math.ceil((one / _MOST) ** 2 / share / 10)
        rarest = min(exist, key=lambda name: exist[name], default="")
        of = "" if share == 1.0 else f" of {rarest}, which exists in {share:.2g} of them,"
        words = (
            f"an effective size of {draws.ess:,.0f} leaves the ends of {100 * level:.4g}% intervals{of} uncertain by "
            f"{error:.1g} sd: ask for more draws, {enough:,} effective ones at least"
        )
        return (Finding(self.name, Level.CAUTION, words),)
