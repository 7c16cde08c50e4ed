r"""Is the posterior right at this observation? Fresh simulations from around its answer test it.

Calibration over the prior is an average. It can pass while the answer to this one observation is wrong. So
parameters are drawn from a distribution r around the answer, data are simulated from them, and the network answers
for these data. With z the unbounded parameters,

    z_i ~ r(z),   x_i ~ p(x | z_i),   u_i = Q_r(z < z_i | x_i),   q_r(z | x) ~ q(z | x) r(z) / p(z),

r is up to twice as wide as the answer (`diagnostics.around`). Where q(. | x) is the posterior, q_r(. | x) is the
posterior under r, for any r, and each u is uniform **and independent of the data**. The draws of q get the weights r
/ p, and so does the truth, which counts as one of them. If the truth has most of the weight, as with many
parameters, u shows nothing. A refined answer q is a network g with weights. Then draws come from g, and all of them,
with the truth, get the weights (r / p)(q / g).

e = Phi^{-1}(u) is regressed on the learned summary and on plain statistics of the data (`diagnostics.plain`),
centred at the observation:

    e_i = a + b . (s(x_i) - s(x)) + noise,     b ~ N(0, t^2), averaged over t by the marginal likelihood.

a is the error of the posterior's middle *here*, in sds of q_r. w, the mean square of the noise here, shows how much
too narrow q_r is. With G = (sd of q / sd of q_r)^2 they correspond to a sqrt(G) sds of q, and to a factor (G / w - G
+ 1)^(-1/2) for its sd. And b must be zero: the part of e that s explains is information that the posterior left
unused. A network whose summary has lost information is calibrated on average, by construction, but its e depends on
the lost information.

No simulations lie far out, so the weights leave little of q there. The check therefore reports where tails make the
sd of q's z much larger than its 90 % interval suggests. A network may put a hundredth of its draws anywhere at a
cost of a hundredth of a nat, and this can make its sd half as large again.

For a discrete parameter, u is a random number between Q_r(d < d_i | x_i) and Q_r(d <= d_i | x_i), with d the codes
of its values in their order. It is uniform where the probabilities are right. For a parameter that exists in some
rows only, u is taken among draws in which it exists, and e is known in these rows. A parameter that exists in less
than a twentieth of the rows is left out. Where parameters are parts of a whole, there is no such distribution, and
the check finds nothing.

All this is about z: for a parameter with a LogNormal prior, about its logarithm.

References:
    | Diagnostics for Conditional Density Models and Bayesian Inference Algorithms (Zhao, Dalmasso, Izbicki & Lee,
      2021), https://arxiv.org/abs/2102.10473
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from sciinf.campaigns.block import one_thread
from sciinf.core import Case, Cause, Diagnostic, Finding, Level, Need, Posterior, X
from sciinf.core.verdict import by_chance
from sciinf.diagnostics.around import BUDGET, LEAST, ROWS, Around
from sciinf.diagnostics.plain import leading, plain_statistics, told
from sciinf.diagnostics.right import NAME, Kind, local_check, words_of
from sciinf.posteriors.around import log_prior
from sciinf.posteriors.around_one import AroundOne, Lowered
from sciinf.posteriors.changes import SHIFT, WIDTH, agree, beyond
from sciinf.posteriors.local import Sequential
from sciinf.posteriors.mcmc import MCMC
from sciinf.posteriors.tilted import layers
from sciinf.posteriors.truncated import OutsideRegion

_DRAWS = 64  # Draws for each simulation without weights; more draws detect more.
_SURE = 0.01  # Probability of reporting a fault of an exact posterior.
_HEAVY = 1.12  # Largest ratio of sds that does not count as a heavy tail.
# Shares of the variance of e: the first gives a caution, because it shifts answers by .15 sds, the second an alarm.
_UNUSED, _MUCH = 0.15**2, 0.05
_OWN = 0.3  # Largest share of the weight that the truth itself may have.
_ALONE, _BESIDE = 2.0, 1.0  # Standard errors that must not hide an error, without and with the evidence of rounds.
_MOST = 2.0  # Largest width factor that is measured; beyond it, squares are cut off and a width is a lower bound.
_EXPLAINED = [0.0, *torch.logspace(-4, 0, 25).tolist()]  # Variances that lines may explain, relative to the rest.
_SOMETIMES = 0.05  # A parameter that exists in a smaller share of the rows is left out.
_TINY = 1e-12  # Least variance.
_FAR = 9.0  # Largest square.
_WAY_ON = (
    "Train on more simulations, on some around it (infer --refine auto), or with a summary that keeps more of the data"
)
_MORE = (
    "Simulate more in each round (infer with a larger -n), or give the network a summary that keeps more of the data"
)
_OF_DATA = ("predictions", "noise", "predictive", "likelihood", "density", "intervals", "limits", "residuals")
_FIRST, _CHUNK = 2, 250  # Simulations that the network answers for at once, at first and later.
# Largest CPU time of a first check that has a second, in seconds; it does not depend on how busy the machine is.
_QUICK = 15.0
# Rows that measure the cost better; factor by which the cost from two rows may exceed the budget.
_SECOND, _DEARER = 20, 4


@dataclass(frozen=True)
class Local:
    """Result of the local check at one observation.

    Args:
        shift: Shift that the posterior's middle needs, in its sds, for each parameter; positive if it is too low,
            (D,).
        shift_error: Standard error of `shift`, (D,).
        width: Factor by which the posterior's sd must be multiplied to be right, (D,).
        width_error: Standard error of `width`, (D,).
        unused: Share of the variance of e that statistics of the data explain, (D,).
        p: p-value of the statistics explaining as much by chance, (D,).
        rows: Number of simulations.
        heavy: Ratio of the answer's sd to the sd that its 90 % interval suggests, (D,).
    """

    shift: Tensor
    shift_error: Tensor
    width: Tensor
    width_error: Tensor
    unused: Tensor
    p: Tensor
    rows: int
    heavy: Tensor


def doubted(check: Finding) -> bool:
    """Whether a local check says that an answer is or may be wrong, or that more simulations could tell."""
    untold = check.kind in (Kind.UNTOLD, Kind.UNSETTLED)
    return check.name == NAME and (untold or check.level in (Level.ALARM, Level.CAUTION))


def check_here(
    posterior: Posterior,
    x: X,
    around: Around | str | None,
    more: Callable[[], Around | str | None] | None = None,
    *,
    alike: bool = True,
    generator: torch.Generator,
) -> tuple[Finding, ...]:
    """Return the finding of the local check about one observation.

    Args:
        posterior: Posterior that was learned for any observation, or in rounds for this one. After rounds, its
            network answers for data from within the last round's region. There is no finding for any other posterior
            that does not hold for every observation, for chains, and for composed scores.
        x: The observation, name -> (1, *event).
        around: Simulations around the answer (`around_answer`), or the reason why there are none.
        more: Function that makes more of them. It is called for a second check, if the first had too few simulations
            to call the posterior right or wrong and took the network little time.
        alike: Whether the observation looks like these simulations; the check holds only for such data.
        generator: Source of randomness.
    """
    began = time.process_time()
    found, asked = _looked(posterior, x, around, alike, generator)
    untold = found and found[0].kind == Kind.UNTOLD
    if more is None or not untold or time.process_time() - began > _QUICK:
        return found
    again, more_asked = _looked(posterior, x, more(), alike, generator)
    return again if more_asked > asked else found


def _looked(
    posterior: Posterior, x: X, around: Around | str | None, alike: bool, generator: torch.Generator
) -> tuple[tuple[Finding, ...], int]:
    """Finding of one check, and the number of simulations that the network answered for."""
    if isinstance(posterior, Sequential):
        posterior = posterior.local
    elif posterior.observation is not None or posterior.under is not None:
        return (), 0
    if around is None or isinstance(posterior, MCMC):
        return (), 0
    prior = posterior.prior
    if prior.bijection.size != len(prior):
        words = "the local check does not know parameters that are parts of a whole, and rounds cannot refine them"
        return (local_check(Kind.UNCHECKED, words),), 0
    try:
        local = around if isinstance(around, str) else look_here(posterior, x, around, generator=generator)
    except OutsideRegion:  # These are data from the edge of a region of rounds, and the network puts no mass inside.
        local = "the observation lies at the edge of the region that was learned"
    if isinstance(local, str):
        return (local_check(Kind.UNCHECKED, local),), 0
    discrete = prior.discrete()
    if isinstance(posterior, AroundOne):
        about: dict[str, Any] = {"error": posterior.error, "asked": posterior.is_around(x)}
        found = local_finding(local, prior.names, discrete=discrete, lowered=posterior.lowered(x), **about)
    else:
        found = local_finding(local, prior.names, discrete=discrete)
    if found.level != Level.ALARM and not alike:
        more = f"for data of the model: {found.words}" if found.level != Level.UNKNOWN else "nor for data of the model"
        found = local_check(Kind.UNLIKE, more, level=Level.CAUTION if found.level == Level.CAUTION else None)
    return (found,), local.rows


def look_here(posterior: Posterior, x: X, around: Around, *, generator: torch.Generator) -> Local | str:
    """Compute the local calibration, or return the reason why there is none, in words.

    The reasons are that drawing takes too long, or that u shows nothing.

    Args:
        posterior: Posterior that was learned for any observation.
        x: The observation, name -> (1, *event).
        around: Simulations around its answer.
        generator: Source of randomness.
    """
    with one_thread():  # Networks this small gain nothing from more threads, and lose much on a busy machine.
        e, grown, own = _scores(posterior, around, generator)
    if len(e) < LEAST:
        return f"drawing from it for {LEAST} simulations would take more than {BUDGET:.0f} s"
    if own > _OWN:
        return f"with {e.shape[1]} parameters, the draws for a simulation hardly reach where its truth lies"
    data = {name: value[: len(e)] for name, value in around.data.items()}
    learned = torch.cat([posterior.features(data), posterior.features(x)]).double()
    specs = dict(posterior.observables)
    parameters = told(specs, data, x, around.z[: len(e)])
    design = torch.cat([leading(plain_statistics(specs, data, x), learned), parameters - parameters[-1:]], dim=1)
    return _of_rows(e, design[:-1], grown, around.heavy) if design.shape[1] else "its data have no numbers that vary"


def local_finding(
    local: Local,
    names: tuple[str, ...],
    *,
    discrete: Container[str] = (),
    error: tuple[float, float] | None = None,
    asked: bool = True,
    lowered: Lowered | None = None,
) -> Finding:
    """Finding from the local calibration: right, no error seen, not right, or too few simulations to tell.

    An exact posterior is found not right in one of a hundred cases.

    Args:
        local: The local calibration.
        names: Names of the parameters.
        discrete: Names of the discrete parameters.
        error: Error of a refined answer (`Refined.error`), which no statistic of the data shows. None for an answer
            that is not refined: no other network has measured its error, so it is not called right.
        asked: Whether the observation is the one at which `error` is known.
        lowered: Factors by which a likelihood lowers the answer's sds where no simulation lies (`Refined.lowered`).
            They are no hint of a fault where the likelihood is believed, and all else says that the answer is right.
    """
    way_on, (moved, wider) = (_WAY_ON, (0.0, 0.0)) if error is None else (_MORE, error)
    cause = None if error is None else Cause.SIMULATIONS
    level = _SURE / (3 * len(names))
    sure = -float(torch.special.ndtri(torch.tensor(level / 2, dtype=torch.float64)))
    faults, hints, lost, unused_much = [], [], [], []
    errors = _ALONE if error is None else _BESIDE
    middle = max(moved, float((local.shift.abs() + errors * local.shift_error).max()))
    width = max(math.expm1(wider), float(((local.width - 1).abs() + errors * local.width_error).max()))
    settled = agree((moved, wider)) and middle <= SHIFT and width <= WIDTH
    for d, name in enumerate(names):
        off, wide, unused = float(local.shift[d]), float(local.width[d]), float(local.unused[d])
        shifted = abs(off) > max(sure * float(local.shift_error[d]), SHIFT)
        scaled = abs(wide - 1) > max(sure * float(local.width_error[d]), WIDTH)
        if name in discrete and (shifted or scaled):
            fault = "off" if shifted else "too sure" if wide > 1 else "not sure enough"
            faults.append(f"the probabilities of {name} are {fault}")
            continue
        if shifted:
            faults.append(f"{name} is too {'low' if off > 0 else 'high'} by {abs(off):.2g} posterior sds")
        if scaled:
            faults.append(f"the sd of {name} should be {wide:.2g} times as large{' or more' if wide > _MOST else ''}")
        if local.p[d] < level and unused > _UNUSED:
            told = f"the network leaves part of the data on {name} unused ({unused:.0%} of its error variance)"
            (faults if unused > _MUCH else lost).append(told)
            unused_much += [told] if unused > _MUCH else []
        if local.heavy[d] > _HEAVY:
            told = f"draws far out, where no simulation lies, make the sd of {name}"
            hints.append(f"{told} {local.heavy[d] - 1:.0%} larger than its 90% interval tells")
        if lowered and lowered.times[d] > 1 + WIDTH and not (lowered.believed and settled):
            hints.append(f"far out, where no simulation lies, network and likelihood disagree on the sd of {name}")
    among = f"{local.rows:,} simulations around it"
    hints, alone = hints + lost, bool(lost) and not hints
    if faults:
        cause = Cause.SUMMARY if all(told in unused_much for told in faults) else cause
        return local_check(Kind.WRONG, f"{', '.join(faults + hints)} ({among})", cause=cause, way_on=way_on)
    if hints:
        return local_check(Kind.LOST if alone else Kind.HINTED, f"{', '.join(hints)} ({among})", cause=cause)
    if not agree((moved, wider)):
        last = f"its chance error, by how far the last round moved it, is large: {words_of((moved, wider))}"
        far = beyond((moved, wider))
        return local_check(Kind.UNSETTLED, f"{last} ({among})", cause=cause, far=far, way_on=way_on)
    details = f"centres within {middle:.2g} sds, widths within {width:.0%} ({among})"
    if middle > SHIFT or width > WIDTH:
        return local_check(Kind.UNTOLD, details, cause=cause)
    if error is not None and asked:
        return local_check(Kind.RIGHT, f"{details}; its last round hardly moved it")
    return local_check(Kind.UNSEEN, details)


def _scores(posterior: Posterior, around: Around, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Scores e, (n, D), ratio of the sd of q to that of q_r, (D,), and the truth's share of the weight.

    The ratio and the share are medians over the rows. Where drawing takes long, only the first rows are used.
    """
    z, theta, data = around.z, around.theta, around.data
    prior, discrete = (
        posterior.prior,
        torch.tensor([name in posterior.prior.discrete() for name in posterior.prior.names]),
    )
    found, grown, own, began, size = [], [], [], time.monotonic(), _FIRST
    pauses = LEAST, ROWS // 2, ROWS, 2 * ROWS
    while (start := sum(map(len, found))) < len(z):
        spent = time.monotonic() - began
        needed = spent / start * LEAST if start else 0.0
        late = start in pauses and spent > BUDGET / 2
        if late or needed > (_DEARER if start < _SECOND else 1) * BUDGET:
            break
        size = _SECOND if start == _FIRST and needed > BUDGET else size
        stop = min(n for n in (start + size, *pauses, len(z)) if n > start)
        some = {name: value[start:stop] for name, value in data.items()}
        drawn, own_weight = _drawn(posterior, some, theta[start:stop], generator)
        at = torch.cat([z[None, start:stop], prior.bijection.forward(drawn[1:].double())])
        log_weight = around.law.log_prob(at) - log_prior(prior, at, drawn.double()) + own_weight
        weight = log_weight.nan_to_num(nan=-math.inf, posinf=-math.inf).softmax(0)
        there = prior.present(drawn)
        each = weight[..., None] * there
        each = each / each.sum(0).clamp_min(1e-300)
        below, tied = (each * (at < at[0])).sum(0), (each * (at == at[0])).sum(0)
        u = below + tied * torch.rand(below.shape, generator=generator, dtype=torch.float64)
        found.append(torch.where(there[0], u, math.nan))
        own.append(weight[0])
        narrow, wide = _sd(at[1:], weight[1:], there[1:]), _sd(at[1:], own_weight[1:].softmax(0), there[1:])
        ratio = wide / narrow.clamp_min(1e-300)
        sure = discrete & (narrow < _TINY)  # All draws have the same value of this parameter.
        grown.append(torch.where(sure, 1.0, torch.where(discrete, ratio.clamp(1 / _MOST, _MOST), ratio)))
        size = _CHUNK
    e = torch.special.ndtri(torch.cat(found).clamp(1e-4, 1 - 1e-4))
    return e, torch.cat(grown).nanmedian(0).values.nan_to_num(nan=1.0), float(torch.cat(own).median())


def _drawn(posterior: Posterior, x: X, truth: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The truth and draws for each data set, (1 + n, batch, D), and the logarithms of q / g, (1 + n, batch)."""
    if isinstance(posterior, AroundOne):
        return posterior.weighted_batched(x, posterior.check_draws, truth, generator=generator)
    drawn = torch.cat([truth[None], posterior.draw_batched(x, _DRAWS, generator=generator)])
    return drawn, drawn.new_zeros(drawn.shape[:2], dtype=torch.float64)


def _sd(z: Tensor, weight: Tensor, there: Tensor) -> Tensor:
    """Standard deviation of each parameter, (batch, D), of the weighted draws in which it exists.

    It is NaN where the parameter exists in one draw or none.
    """
    weight = weight[..., None] * there
    total = weight.sum(0)
    weight = weight / total.clamp_min(1e-300)
    middle = (weight * z).sum(0)
    free = 1 - weight.square().sum(0)
    some = (total > 0) & ((there.sum(0) > 1) | there.all(0))
    return torch.where(some, ((weight * (z - middle).square()).sum(0) / free.clamp_min(1e-3)).sqrt(), math.nan)


def _of_rows(e: Tensor, design: Tensor, grown: Tensor, heavy: Tensor) -> Local:
    """Compute the local calibration of each parameter from the rows in which it exists."""
    known = ~e.isnan()
    if bool(known.all()):
        return _regressed(e, design, grown, heavy)
    parts = []
    for d in range(e.shape[1]):
        rows = known[:, d]
        seldom = bool(rows.double().mean() < _SOMETIMES)
        if seldom or int(rows.sum()) <= 2 * (design.shape[1] + 1):
            nothing, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
            # With too few rows, nothing can be told.
            unknown = nothing if seldom else torch.full_like(nothing, math.inf)
            parts.append(Local(nothing, unknown, one, nothing, nothing, one, int(rows.sum()), nothing))
        else:
            parts.append(_regressed(e[rows, d, None], design[rows], grown[d, None], heavy[d, None]))
    names = ("shift", "shift_error", "width", "width_error", "unused", "p", "heavy")
    return Local(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names}, rows=len(e))


def _regressed(e: Tensor, design: Tensor, grown: Tensor, heavy: Tensor) -> Local:
    left, free = _least_squares(e, design)
    explained = 1 - left.square().sum(0) / (e - e.mean(0)).square().sum(0)
    used = len(e) - free - 1
    ratio = explained / max(used, 1) / ((1 - explained) / free)
    p = torch.tensor([_beyond(float(value), max(used, 1), free) for value in ratio])
    adjusted = (1 - (1 - explained) * (len(e) - 1) / free).clamp_min(0)
    squares = (left.square() * len(e) / free).clamp(max=_FAR)  # These measure how wide e is about its middle.
    found, errors = _at_observation(torch.cat([e, squares], dim=1), design)
    (shift, level), (shift_error, error) = found.chunk(2), errors.chunk(2)
    w, more = level.clamp_min(0.01), grown.square().clamp_min(1.0)
    width = (more / w - more + 1).clamp_min((2 * _MOST) ** -2).rsqrt()
    width_error = 0.5 * width**3 * more / w.square() * error
    return Local(shift * grown, shift_error * grown, width, width_error, adjusted, p, len(e), heavy)


def _at_observation(y: Tensor, design: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each y at the observation, where the design is 0, and its standard error, (D,).

    The models are lines in all statistics, or in one of them, whose slopes have a normal prior (ridge regression).
    The result averages over the models, and over how much of y they explain, by marginal likelihood. If they explain
    nothing, it is the mean of y.
    """
    spread = design.std(0).clamp_min(1e-12)
    centred, left = (design - design.mean(0)) / spread, y - y.mean(0)
    scale, axes = torch.linalg.eigh(centred.T @ centred)
    place, along = -design.mean(0) / spread, centred.T @ left
    together = _lines(y, scale.clamp_min(0.0)[None], (axes.T @ along)[None], (place @ axes)[None])
    alone = _lines(y, centred.square().sum(0)[:, None], along[:, None], place[:, None])
    logs, means, squares = (torch.cat(both, dim=1).flatten(0, 1) for both in zip(together, alone, strict=True))
    weight = logs.softmax(0)
    found = (weight * means).sum(0)
    return found, (weight * (squares + (means - found).square())).sum(0).sqrt()


def _lines(y: Tensor, scale: Tensor, along: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log marginal likelihood, and mean and variance at the observation, each (shares, B, D).

    There is one value for each explained share and each of the B models.

    Args:
        y: Values to explain, (n, D).
        scale: Squared lengths of a model's M orthogonal statistics, (B, M).
        along: Their products with y, (B, M, D).
        place: Where the observation lies along them, (B, M).
    """
    total, free, models = (y - y.mean(0)).square().sum(0), len(y) - 1, len(scale)
    logs, means, squares = [], [], []
    for explained in _EXPLAINED:
        prior = explained / scale.shape[1]  # The ratio of a slope's prior variance to that of the noise.
        gain = (prior / (1 + prior * scale))[..., None]
        noise = ((total - (gain * along.square()).sum(1)) / free).clamp_min(_TINY)
        logs.append(-0.5 * free * noise.log() - 0.5 * (1 + prior * scale).log().sum(1)[:, None] - math.log(models))
        means.append(y.mean(0) + (gain * place[..., None] * along).sum(1))
        squares.append(noise * (1 / len(y) + (gain * place[..., None].square()).sum(1)))
    return torch.stack(logs), torch.stack(means), torch.stack(squares)


def _least_squares(y: Tensor, design: Tensor) -> tuple[Tensor, int]:
    """Residuals of y after a linear fit, and their degrees of freedom."""
    matrix = torch.cat([torch.ones(len(y), 1, dtype=torch.float64), design], dim=1)
    slope = torch.linalg.pinv(matrix.T @ matrix, hermitian=True) @ matrix.T @ y
    return y - matrix @ slope, len(y) - int(torch.linalg.matrix_rank(matrix))


def _beyond(ratio: float, first: int, second: int) -> float:
    from scipy import stats

    return float(stats.f.sf(ratio, first, second))


@final
class LocalCheck(Diagnostic):
    """Is the network right at this observation?"""

    name, cause, needs = NAME, Cause.SIMULATIONS, frozenset({Need.AROUND})

    def __call__(self, case: Case) -> Sequence[Finding]:
        if len(layers(case.posterior)) > 1:  # The weights are right here, or report that they are not.
            return ()
        alarms = [one for one in case.found if one.name in _OF_DATA and one.level == Level.ALARM]
        alike, around, more = all(one in by_chance(case.found) for one in alarms), case.around, case.more_around
        prior = case.posterior.prior
        if prior.mixed and prior.bijection.size == len(prior) and around is not None:
            around, more = more(sizes=None, spread=True), partial(more, spread=True)
        return check_here(case.posterior, case.x, around, more, alike=alike, generator=case.generator)
