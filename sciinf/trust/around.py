r"""Data simulated around an answer, on which the checks at one observation rest.

With z the unbounded parameters, m and C mean and covariance of the answer, k = 2,

    z_i ~ r(z) ~ N(z; m, k^2 C) N(z; 0, I)^(1 - 1/k^2),   x_i ~ p(x | z_i),

the second factor only where the prior of z is N(0, I): r is then wider than the answer, but not than the prior. They
are simulated once, and `trust.here` and `trust.residuals` look at them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sciinf.core import Posterior, Simulator, X
from sciinf.engine.block import simulate_from
from sciinf.inference.local import Sequential
from sciinf.inference.truncated import TruncatedPrior
from sciinf.storage.selection import row_bytes

ROWS = 2_000
LEAST = 500
BUDGET = 30.0  # seconds
_WIDER = 2.0
_BYTES = 2**27


@dataclass(frozen=True)
class Around:
    """Simulations around an answer, of n rows.

    Args:
        z: Unbounded parameters, (n, D), float64.
        theta: The same in the prior's units, (n, D).
        data: Name -> (n, *event).
        law: Mean of r, (D,), and Cholesky factor of its covariance, (D, D).
    """

    z: Tensor
    theta: Tensor
    data: X
    law: tuple[Tensor, Tensor]


def around_answer(
    posterior: Posterior, simulator: Simulator, theta: Tensor, *, seconds: float, generator: torch.Generator
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
    """
    if any(simulator.observables.get(name) != spec for name, spec in posterior.observables.items()):
        return None
    size = row_bytes(posterior.prior, posterior.observables)
    few = (ROWS, ROWS // 2, LEAST)  # sizes, so that results repeat although times differ
    sizes = [n for n in few if seconds * n <= BUDGET and n * size <= _BYTES]
    if not sizes:
        return f"{LEAST} simulations around the answer would take {LEAST * seconds:,.0f} s"
    within = posterior.truncation if isinstance(posterior, Sequential) else None
    found = simulate_around(posterior, simulator, theta, rows=sizes[0], generator=generator, within=within)
    return "too few simulations around the answer succeed" if found is None else found


def simulate_around(
    posterior: Posterior,
    simulator: Simulator,
    theta: Tensor,
    *,
    rows: int,
    generator: torch.Generator,
    within: TruncatedPrior | None = None,
) -> Around | None:
    """The simulations; None where the draws do not vary, or fewer than `LEAST` succeed.

    Args:
        posterior: Whose answer it is.
        simulator: What to simulate with.
        theta: Draws of the answer, (n, D), without weights.
        rows: Simulations to make.
        generator: Source of randomness.
        within: Where the posterior was learned, and is zero outside.
    """
    bijection = posterior.prior.bijection
    law = _law(bijection.forward(theta.double()), bijection.normal)
    if law is None:
        return None
    centre, factor = law
    z = centre + torch.randn(rows, len(centre), generator=generator, dtype=torch.float64) @ factor.T
    given = bijection.inverse(z.to(posterior.prior.dtype))
    given = given if within is None else given[within.contains(given)]
    if len(given) < LEAST:
        return None
    data, good = simulate_from(simulator, given, generator=generator)
    z, given = bijection.forward(given[good].double()), given[good]
    return None if len(z) < LEAST else Around(z, given, data, law)


def _law(z: Tensor, normal: bool) -> tuple[Tensor, Tensor] | None:
    """Mean of r and Cholesky factor of its covariance; None where the draws do not vary or are not finite."""
    mean, size = z.mean(0), z.shape[1]
    covariance = torch.cov(z.T).reshape(size, size)
    covariance = covariance + 1e-9 * covariance.diagonal().mean() * torch.eye(size, dtype=z.dtype)
    factor, fault = torch.linalg.cholesky_ex(covariance)
    if int(fault) or not bool(factor.isfinite().all() and (factor.diagonal() > 0).all()):
        return None
    precision = torch.cholesky_inverse(factor) / _WIDER**2
    whole = precision + (1 - _WIDER**-2) * torch.eye(size, dtype=z.dtype) if normal else precision
    wide = torch.linalg.inv(whole)
    return wide @ precision @ mean, torch.linalg.cholesky((wide + wide.T) / 2)
