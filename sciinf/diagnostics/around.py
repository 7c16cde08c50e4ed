"""Data simulated around an answer, on which the checks at one observation rest.

Parameters come from a normal law of z, twice as wide as the answer (`posteriors.around`). They are simulated once, and
`diagnostics.here`, `diagnostics.residuals` and `diagnostics.localise` look at them.

Where parameters are discrete, they keep their most probable values, all together, and the law is that of z of what is
continuous and exists then, from the draws that have these values. What the checks find is of the model with these
values, which explains the data best. The local check needs simulations in which they vary as well (`spread`).
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
MANY = (8_000, 4_000)  # where these cannot tell
BUDGET = 30.0  # seconds
_WIDER = 2.0
_NINETY, _WITHIN = 3.2897, 0.7895  # of a normal law of sd 1: its 90 % interval, and the sd of what lies within that
_BYTES = 2**27
_PER = 10  # draws for each parameter


@dataclass(frozen=True)
class Around:
    """Simulations around an answer, of n rows.

    Args:
        z: Unbounded parameters, (n, D), float64; of a mixed prior those that are continuous and exist, or, where the
            simulations are spread, all of them with the codes of discrete ones.
        theta: All parameters in the prior's units, (n, len(prior)).
        data: Name -> (n, *event).
        law: What z was drawn from.
        heavy: The sd of the answer's z over that of a normal law with its 90 % interval, (D,).
        given: The values of the discrete parameters, in words; "" where there are none.
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
    """Simulations around an answer, as many as time allows; or in words why there are none.

    None is for a simulator of data of another form than the observation's, such as one item of a set.

    Args:
        posterior: Whose answer it is. Of one that was learned in rounds, simulations lie within the last round's
            region.
        simulator: What to simulate with.
        theta: Draws of the answer, (n, D), without weights.
        seconds: What a simulation costs.
        generator: Source of randomness.
        sizes: How many, the first that time allows; 2,000, 1,000 or 500 where left out.
        spread: Whether discrete parameters vary, too.
    """
    if any(simulator.observables.get(name) != spec for name, spec in posterior.observables.items()):
        return None
    size = row_bytes(posterior.prior, posterior.observables)
    few = (ROWS, ROWS // 2, LEAST) if sizes is None else sizes  # few, so that results repeat although times differ
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
    """The simulations; None where the draws do not vary, or fewer than `LEAST` succeed.

    Args:
        posterior: Whose answer it is.
        simulator: What to simulate with.
        theta: Draws of the answer, (n, D), without weights.
        rows: Simulations to make.
        generator: Source of randomness.
        within: Where the posterior was learned, and is zero outside.
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
    """The same with the most probable discrete values, of draws that have them."""
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
    """`heaviness` of each parameter in the draws in which it exists; 0 of discrete ones, and of those of few draws."""
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
    """By how much draws far out make the sd of draws larger than their 90 % interval tells.

    It is the sd over that of a normal law with this interval, or over that of a normal law with their sd within it,
    whichever is less: 1.1 for Student's t of 4 degrees, 0.8 for two narrow modes, of which no draw lies far out.
    """
    low, high = torch.quantile(z, torch.tensor([0.05, 0.95], dtype=z.dtype), dim=0)
    inside = (z >= low) & (z <= high)
    middle = (z * inside).sum(0) / inside.sum(0)
    within = ((z - middle).square() * inside).sum(0) / inside.sum(0)
    least = torch.maximum((high - low) / _NINETY, within.sqrt() / _WITHIN)
    return z.std(0) / least.clamp_min(1e-300)
