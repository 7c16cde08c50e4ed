r"""Is the posterior right at this observation? Fresh simulations from around its answer tell.

Calibration over the prior is an average: it can pass while the answer to the one question that was asked is wrong. So
parameters are drawn from a law r around the answer, data are simulated from them, and the network is asked about
these. With z the unbounded parameters,

    z_i ~ r = N(m, k^2 C),   x_i ~ p(x | z_i),   u_i = P_{q_r(z | x_i)}(z < z_i),   q_r(z | x) ~ q(z | x) r(z) / p(z),

m and C mean and covariance of the answer and k = 2. Where q(. | x) is the posterior, q_r(. | x) is the posterior under
r, for any r, and each u is uniform **and independent of the data**. The draws of q take the weights r / p.

e = Phi^{-1}(u) is then regressed on the learned summary and on plain statistics of the data (`trust.plain`), centred at
the observation:

    e_i = a + b . (s(x_i) - s(x)) + noise.

a is how far the posterior's middle is off *here*, in its sds; the mean of e^2 there, less a^2, is its width: above 1 it
is too narrow. And b must be zero: what s explains of e is information that the posterior left unused. A network whose
summary has lost something is calibrated on average, by construction, but its e depends on what it lost.

References:
    | On the calibration of simulation-based posteriors at one observation: Diagnosing model misspecification and local
      coverage by regression of PIT values (Zhao, Dalmasso, Izbicki & Lee, 2021), https://arxiv.org/abs/2102.10473
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from sciinf.core import Check, Posterior, Simulator, X
from sciinf.engine.block import Attempt, one_thread
from sciinf.inference.local import Sequential
from sciinf.inference.truncated import OutsideRegion, TruncatedPrior
from sciinf.storage.outcome import join, status_of
from sciinf.trust.plain import plain_statistics

NAME = "local check"
ROWS = 2_000
BUDGET = 30.0  # seconds for simulating, and as many for drawing
_DRAWS = 64
_WIDER = 2.0
_SHIFT, _WIDTH = 0.1, 0.075  # the least that is told, where it is significant: of the middle in sds, of the width
_BLIND = 0.3, 0.2  # what may be hidden at most where it is called right
_SURE = 0.01  # chance of a fault being named in an exact posterior
_UNUSED, _MUCH = 0.02, 0.05  # shares of the variance of e: a caution, an alarm
_LEAST = 500
_FEW = 6  # statistics along which the width is looked for
_FAR = 9.0  # largest square
_FIRST, _CHUNK = 20, 250  # simulations asked about at once, to begin with and then


@dataclass(frozen=True)
class Local:
    """What was found at one observation.

    Args:
        shift: By how many of its sds the posterior's middle is too low, of each parameter, (D,).
        shift_error: Its standard error.
        width: By what the posterior's sd must be multiplied to be right, (D,).
        width_error: Its standard error.
        unused: Share of the variance of e that statistics of the data explain, (D,).
        p: Of their explaining as much by chance, (D,).
        rows: Simulations behind it.
    """

    shift: Tensor
    shift_error: Tensor
    width: Tensor
    width_error: Tensor
    unused: Tensor
    p: Tensor
    rows: int


def check_here(
    posterior: Posterior, simulator: Simulator, x: X, theta: Tensor, *, seconds: float, generator: torch.Generator
) -> tuple[Check, ...]:
    """The finding about one observation.

    Args:
        posterior: What was learned, for any observation, or in rounds for this one, whose network is then asked about
            data from within the last round's region. Of others that do not hold for any nothing is found.
        simulator: What to simulate with.
        x: The observation, name -> (1, *event).
        theta: Draws of the posterior at x, (n, D), without weights.
        seconds: What a simulation costs.
        generator: Source of randomness.
    """
    within = posterior.truncation if isinstance(posterior, Sequential) else None
    if isinstance(posterior, Sequential):
        posterior = posterior.local
    elif posterior.observation is not None or posterior.under is not None:
        return ()
    if dict(posterior.observables) != dict(simulator.observables):  # of sets of observations
        return ()
    rows = next((n for n in (ROWS, ROWS // 2, _LEAST) if seconds * n <= BUDGET), 0)  # few sizes: results then repeat
    if not rows:
        cost = f"{_LEAST} simulations around the answer would take {_LEAST * seconds:,.0f} s"
        return (Check(NAME, "unknown", f"not checked whether the posterior is right at this observation: {cost}"),)
    try:
        local = look_here(posterior, simulator, x, theta, rows=rows, generator=generator, within=within)
    except OutsideRegion:  # data from the edge of a region of rounds, of which the network puts nothing inside
        local = None
    if local is None:
        words = (
            "not checked whether the posterior is right at this observation: too few succeed there, or draws are slow"
        )
        return (Check(NAME, "unknown", words),)
    return (verdict(local, posterior.prior.names),)


def look_here(
    posterior: Posterior,
    simulator: Simulator,
    x: X,
    theta: Tensor,
    *,
    rows: int,
    generator: torch.Generator,
    within: TruncatedPrior | None = None,
) -> Local | None:
    """The local calibration; None where too few simulations around the answer succeed, or drawing takes too long.

    Args:
        posterior: What was learned, for any observation.
        simulator: What to simulate with.
        x: The observation, name -> (1, *event).
        theta: Its draws at x, (n, D), without weights.
        rows: Simulations to make.
        generator: Source of randomness.
        within: Where the posterior was learned, and is zero outside.
    """
    bijection = posterior.prior.bijection
    around = bijection.forward(theta.double())
    centre, factor = around.mean(0), _WIDER * torch.linalg.cholesky(_covariance(around))
    z = centre + torch.randn(rows, len(centre), generator=generator, dtype=torch.float64) @ factor.T
    given = bijection.inverse(z.to(posterior.prior.dtype))
    given = given if within is None else given[within.contains(given)]
    if len(given) < _LEAST:
        return None
    data, good = _simulated(simulator, given, generator)
    z, given = bijection.forward(given[good].double()), given[good]
    if len(z) < _LEAST:
        return None
    e = _scores(posterior, data, (z, given), (centre, factor), generator)
    if len(e) < _LEAST:
        return None
    data = {name: value[: len(e)] for name, value in data.items()}
    learned = torch.cat([posterior.features(data), posterior.features(x)]).double()
    return _regressed(e, _design(plain_statistics(dict(posterior.observables), data, x), learned))


def verdict(local: Local, names: tuple[str, ...]) -> Check:
    """Right here, not right, or too few simulations to tell; of exact posteriors one in a hundred is not right."""
    level = _SURE / (3 * len(names))
    sure = -float(torch.special.ndtri(torch.tensor(level / 2, dtype=torch.float64)))
    faults, hints = [], []
    for d, name in enumerate(names):
        off, wide, unused = float(local.shift[d]), float(local.width[d]), float(local.unused[d])
        if abs(off) > max(sure * float(local.shift_error[d]), _SHIFT):
            faults.append(f"{name} is too {'low' if off > 0 else 'high'} by {abs(off):.2g} of its sds")
        if abs(wide - 1) > max(sure * float(local.width_error[d]), _WIDTH):
            faults.append(f"the sd of {name} should be {wide:.2g} times as large")
        if local.p[d] < level and unused > _UNUSED:
            told = f"the data tell more of {name} than the network uses ({unused:.0%} of its error)"
            (faults if unused > _MUCH else hints).append(told)
    among = f"{local.rows:,} simulations around it"
    if faults:
        words = (
            f"not right at this observation: {', '.join(faults + hints)} ({among}). Train on more simulations, on some "
            "around it (infer --refine auto), or with a summary that keeps more of the data"
        )
        return Check(NAME, "alarm", words)
    if hints:
        return Check(NAME, "caution", f"it may be off at this observation: {', '.join(hints)} ({among})")
    middle = float((local.shift.abs() + 2 * local.shift_error).max())
    width = float(((local.width - 1).abs() + 2 * local.width_error).max())
    if middle > _BLIND[0] or width > _BLIND[1]:
        return Check(NAME, "unknown", f"too few simulations to tell whether it is right at this observation ({among})")
    words = f"right at this observation: middles to {middle:.2g} sds, widths to {width:.0%} ({among})"
    return Check(NAME, "good", words)


def _covariance(z: Tensor) -> Tensor:
    covariance = torch.cov(z.T).reshape(z.shape[1], z.shape[1])
    return covariance + 1e-9 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=z.dtype)


def _simulated(simulator: Simulator, theta: Tensor, generator: torch.Generator) -> tuple[X, Tensor]:
    """Data of the rows that did not fail, and which these are."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with one_thread():
        parts = [
            Attempt(simulator, part, seed, i, torch.device("cpu")).outcome()
            for i, part in enumerate(theta.split(simulator.block))
        ]
    outcome = join(parts)
    good = status_of(outcome) == 0
    return {name: outcome.x[name][good] for name in simulator.observables}, good


def _scores(
    posterior: Posterior, data: X, truth: tuple[Tensor, Tensor], law: tuple[Tensor, Tensor], generator: torch.Generator
) -> Tensor:
    """e of every row and parameter, (n, D): normal scores of the truth among weighted draws, itself one of them."""
    z, theta = truth
    found, began, size = [], time.monotonic(), _FIRST
    while (start := sum(map(len, found))) < len(z):
        if start and (time.monotonic() - began) / start * _LEAST > BUDGET:
            return torch.cat(found)  # too few, by which the caller knows
        if start >= _LEAST and time.monotonic() - began > BUDGET:
            break
        some = {name: value[start : start + size] for name, value in data.items()}
        drawn = posterior.draw_batched(some, _DRAWS, generator=generator)
        mine = torch.cat([theta[None, start : start + size], drawn])
        at = torch.cat([z[None, start : start + size], posterior.prior.bijection.forward(drawn.double())])
        weight = (_log_normal(at, law) - _log_prior(posterior, mine)).nan_to_num(nan=-math.inf).softmax(0)
        below = (weight[..., None] * (at < at[0])).sum(0)
        tied = (weight[..., None] * (at == at[0])).sum(0)
        size = _CHUNK
        found.append(below + tied * torch.rand(below.shape, generator=generator, dtype=torch.float64))
    return torch.special.ndtri(torch.cat(found).clamp(1e-4, 1 - 1e-4))


def _log_normal(z: Tensor, law: tuple[Tensor, Tensor]) -> Tensor:
    centre, factor = law
    u = torch.linalg.solve_triangular(factor, (z - centre).reshape(-1, len(centre)).T, upper=False)
    return -0.5 * u.square().sum(0).reshape(z.shape[:-1])


def _log_prior(posterior: Posterior, theta: Tensor) -> Tensor:
    """Of z, up to a constant."""
    return posterior.prior.log_prob(theta) - posterior.prior.bijection.log_abs_det_jacobian(theta)


def _design(plain: Tensor, learned: Tensor) -> Tensor:
    """Statistics centred at the observation, which comes last, without what repeats others: (n, K)."""
    spread = learned[:-1].std(0)
    learned = learned[:, spread > 1e-6 * spread.max().clamp_min(1e-12)]
    learned = ((learned - learned[:-1].mean(0)) / learned[:-1].std(0)).clamp(-3, 3)
    both = torch.cat([plain, learned], dim=1)
    _, scale, axes = torch.linalg.svd(both[:-1] - both[:-1].mean(0), full_matrices=False)
    most = min(int((scale > 0.03 * scale[0]).sum()), max(4, (len(both) - 1) // 25))
    seen = both @ axes[:most].T
    seen = torch.cat([seen, seen.square()[:, : most // 3]], dim=1)
    return seen[:-1] - seen[-1]


def _regressed(e: Tensor, design: Tensor) -> Local:
    slope, inverse, left, free = _least_squares(e, design)
    shift, shift_error = slope[0], (inverse[0, 0] * left.square().sum(0) / free).sqrt()
    explained = 1 - left.square().sum(0) / (e - e.mean(0)).square().sum(0)
    ratio = explained / design.shape[1] / ((1 - explained) / free)
    p = torch.tensor([_beyond(float(value), design.shape[1], free) for value in ratio])
    adjusted = (1 - (1 - explained) * (len(e) - 1) / free).clamp_min(0)
    # where the data explain nothing of e, the leading statistics are enough, and tell more
    less, inverse, rest, fewer = _least_squares(e, design[:, :_FEW])
    steady = p > _SURE
    shift = torch.where(steady, less[0], shift)
    shift_error = torch.where(steady, (inverse[0, 0] * rest.square().sum(0) / fewer).sqrt(), shift_error)
    # how wide e is about its middle, at the observation: squares along the few leading statistics
    squares = (left.square() * len(e) / free).clamp(max=_FAR)
    level, inverse, rest, free = _least_squares(squares, design[:, :_FEW])
    width = level[0].clamp_min(0.04).sqrt()
    width_error = (inverse[0, 0] * rest.square().sum(0) / free).sqrt() / (2 * width)
    grown = math.sqrt(1 + _WIDER**-2)  # e is in sds under r, which are smaller
    return Local(shift * grown, shift_error * grown, width, width_error, adjusted, p, len(e))


def _least_squares(y: Tensor, design: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Coefficients, the intercept first; (X^T X)^-1; what is left; degrees of freedom."""
    matrix = torch.cat([torch.ones(len(y), 1, dtype=torch.float64), design], dim=1)
    inverse = torch.linalg.pinv(matrix.T @ matrix, hermitian=True)
    slope = inverse @ matrix.T @ y
    return slope, inverse, y - matrix @ slope, len(y) - matrix.shape[1]


def _beyond(ratio: float, first: int, second: int) -> float:
    from scipy import stats

    return float(stats.f.sf(ratio, first, second))
