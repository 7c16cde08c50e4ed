"""Simulations around an answer, the input of the checks at one observation.

Parameters come from a normal distribution of z that is twice as wide as the answer (`posteriors.around`). They are
simulated once, and `diagnostics.here`, `diagnostics.residuals` and `diagnostics.localise` use the result.

Discrete parameters keep their most probable combination of values. Then the distribution is that of z of the
continuous parameters which exist with these values, estimated from the draws with these values. The checks thus
test the model with these values, which explains the data best. The local check also needs simulations in which the
discrete parameters vary (`spread`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.campaigns.block import simulate_from
from sciinf.campaigns.storage.selection import row_bytes
from sciinf.core import Posterior, Prior, Simulator, X
from sciinf.core.mixed_bijection import MixedBijection
from sciinf.posteriors.around import Law, LawOfZ, law_around
from sciinf.posteriors.local import Sequential
from sciinf.posteriors.truncated import TruncatedPrior

ROWS = 2_000
LEAST = 500
MANY = (8_000, 4_000)  # Sizes for the case that `ROWS` simulations cannot tell.
BUDGET = 30.0  # Longest time for these simulations, in seconds.
_WIDER = 2.0
# For a normal distribution of sd 1: width of its central 90 % interval, and sd of the part within.
_NINETY, _WITHIN = 3.2897, 0.7895
_BYTES = 2**27
_PER = 10  # More draws than this are needed for each parameter.


@dataclass(frozen=True)
class Around:
    """Simulations around an answer, n rows.

    Args:
        z: Unbounded parameters, (n, D), float64. For a mixed prior, the continuous parameters that exist; where the
            simulations are spread, all parameters, with codes for the discrete ones.
        theta: All parameters in the prior's units, (n, len(prior)).
        data: Simulated data, name -> (n, *event).
        law: Distribution that z was drawn from.
        heavy: Ratio of the sd of the answer's z to that of a normal distribution with its 90 % interval, (D,); see
            `heaviness`.
        given: Values of the discrete parameters, in words; "" where there are none.
    """

    z: Tensor
    theta: Tensor
    data: X
    law: LawOfZ
    heavy: Tensor
    given: str = ""


def around_answer(
    posterior: Posterior,
    simulator: Simulator,
    theta: Tensor,
    *,
    seconds: float,
    generator: torch.Generator,
    sizes: Sequence[int] | None = None,
    spread: bool = False,
) -> Around | str | None:
    """Simulate around an answer, with as many rows as time allows; return a sentence that says why where none can be
    made.

    The result is None for a simulator whose data have another form than the observation, such as one item of a set.

    Args:
        posterior: Posterior that gave the answer. If it was learned in rounds, simulations lie within the last
            round's region.
        simulator: Simulator to run.
        theta: Draws of the answer, (n, D), without weights.
        seconds: Time that one simulation takes, in seconds.
        generator: Source of randomness.
        sizes: Numbers of rows to try; the first that time allows is used. By default 2,000, 1,000 or 500.
        spread: Whether discrete parameters vary, too.
    """
    if any(simulator.observables.get(name) != spec for name, spec in posterior.observables.items()):
        return None
    size = row_bytes(posterior.prior, posterior.observables)
    # Few sizes are tried, so that results repeat although times differ.
    few = (ROWS, ROWS // 2, LEAST) if sizes is None else sizes
    sizes = [n for n in few if seconds * n <= BUDGET and n * size <= _BYTES]
    if not sizes:
        return f"{LEAST} simulations around the answer would take {LEAST * seconds:,.0f} s"
    within = posterior.truncation if isinstance(posterior, Sequential) else None
    how: dict[str, Any] = {"rows": sizes[0], "generator": generator, "within": within, "spread": spread}
    found = simulate_around(posterior, simulator, theta, **how)
    return "too few simulations around the answer succeed" if found is None else found


def simulate_around(
    posterior: Posterior,
    simulator: Simulator,
    theta: Tensor,
    *,
    rows: int,
    generator: torch.Generator,
    within: TruncatedPrior | None = None,
    spread: bool = False,
) -> Around | None:
    """Simulate around an answer; return None where the draws do not vary, or fewer than `LEAST` simulations succeed.

    Args:
        posterior: Posterior that gave the answer.
        simulator: Simulator to run.
        theta: Draws of the answer, (n, D), without weights.
        rows: Number of simulations.
        generator: Source of randomness.
        within: Region in which the posterior was learned; the posterior is zero outside.
        spread: Whether discrete parameters vary, too.
    """
    prior, bijection = posterior.prior, posterior.prior.bijection
    if isinstance(bijection, MixedBijection) and not spread:
        return _around_values(prior, bijection, simulator, theta, rows, generator)
    law = law_around(prior, theta, _WIDER)
    if law is None:
        return None
    given = bijection.inverse(law.sample(rows, generator=generator).to(prior.dtype))
    given = given if within is None else given[within.contains(given)]
    if len(given) < LEAST:
        return None
    data, good = simulate_from(simulator, given, generator=generator)
    z, given = bijection.forward(given[good].double()), given[good]
    return None if len(z) < LEAST else Around(z, given, data, law, _heaviness(prior, theta))


def _around_values(
    prior: Prior, bijection: MixedBijection, simulator: Simulator, theta: Tensor, rows: int, generator: torch.Generator
) -> Around | None:
    """Simulate around the draws that have the most probable discrete values, which stay fixed."""
    z, present = bijection.split(theta.double())
    _, which = z[:, bijection.discrete_in_z].unique(dim=0, return_inverse=True)
    mine = which == which.bincount().argmax()
    first = int(mine.nonzero()[0])
    spots = bijection.in_z[present[first, bijection.in_z]]
    answer = z[mine][:, spots]
    law = Law(answer.new_zeros(0), answer.new_zeros(0, 0))
    if len(spots):
        found = Law.around(answer, _WIDER, normal=bijection.inner.normal) if len(answer) > _PER * len(spots) else None
        if found is None:
            return None
        law = found
    full = z[first].repeat(rows, 1)
    full[:, spots] = law.sample(rows, generator=generator)
    given = bijection.inverse(full.to(prior.dtype))
    data, good = simulate_from(simulator, given, generator=generator)
    kept, given = bijection.forward(given[good].double())[:, spots], given[good]
    if len(kept) < LEAST:
        return None
    values = theta[first]
    words = [
        f"{name} = {one.labels[code]}"
        for name, one in prior.discrete().items()
        if (code := int(one.codes(values[prior.names.index(name)]))) >= 0
    ]
    heavy = heaviness(answer) if len(spots) else answer.new_zeros(0)
    return Around(kept, given, data, law, heavy, f"{', '.join(words)} ({float(mine.double().mean()):.0%} of the draws)")


def _heaviness(prior: Prior, theta: Float[Tensor, "n theta"]) -> Float[Tensor, " theta"]:
    """`heaviness` of each parameter, from the draws in which it exists.

    It is 0 for a discrete parameter, and for one that exists in few draws.
    """
    theta = theta[(theta.isfinite() | ~prior.present(theta)).all(1)]
    if not prior.mixed:
        return heaviness(prior.bijection.forward(theta.double()))
    z, found = prior.split(theta.double()).z, torch.zeros(len(prior), dtype=torch.float64)
    there, discrete = prior.present(theta), prior.discrete()
    for k, name in enumerate(prior.names):
        if name not in discrete and int(there[:, k].sum()) >= LEAST:
            found[k] = heaviness(z[there[:, k], k, None])[0]
    return found


def heaviness(z: Float[Tensor, "n theta"]) -> Float[Tensor, " theta"]:
    """Factor by which draws far out make the sd larger than the 90 % interval suggests, for each parameter.

    It is the smaller of two ratios: the sd over that of a normal distribution with the same 90 % interval, and the
    sd over that of a normal distribution with the same sd within the interval. Student's t of 4 degrees has 1.1. Two
    narrow modes, of which no draw lies far out, have 0.8.
    """
    low, high = torch.quantile(z, torch.tensor([0.05, 0.95], dtype=z.dtype), dim=0)
    inside = (z >= low) & (z <= high)
    middle = (z * inside).sum(0) / inside.sum(0)
    within = ((z - middle).square() * inside).sum(0) / inside.sum(0)
    least = torch.maximum((high - low) / _NINETY, within.sqrt() / _WITHIN)
    return z.std(0) / least.clamp_min(1e-300)
