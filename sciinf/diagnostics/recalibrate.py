r"""Corrected intervals: the quantiles of the draws that make intervals hold their stated share of the truths.

The rows of a calibration are fresh simulations. Of L posterior draws for a row, c lie below the true
parameter. The truth's level u is the posterior probability of smaller values. It is assigned to the cell from
c / (L + 1) to (c + 1) / (L + 1). If the posterior is exact, u is uniform. If it is not, the interval of level
l is corrected (conformal quantiles). Its lower end becomes the quantile of the draws below which (1 - l) / 2
of the truths lie. Its upper end becomes the quantile below which (1 + l) / 2 of the truths lie. The two ends
move independently, so a shifted posterior is shifted back, not widened. Let

    w = Phi^-1(u) = m(x) + s(x) e,

with Phi the normal distribution function, m(x) a shift and s(x) a scale. The distribution of e is that of the
rows. It has no assumed form. Let e_p be its p-quantile. The corrected ends are the quantiles of the draws at
the levels

    Phi(m(x) + s(x) e_p),    p = (1 - l) / 2 and p = (1 + l) / 2.

Such intervals hold the share l of the truths on average over the prior, for any m and s. By default m and s
are constants. They depend on the observation if this predicts held-out rows significantly better (see the
last section). Then intervals are also corrected if the posterior is right on average, but wrong for this
observation. Because m and s read the data too, they can use information in the data that the posterior's
network ignores.

Even for an exact posterior, the ends move by chance. The range of this chance follows from binomial counts
for the same number of rows. With a probability of 99 %, it holds for both ends of all parameters together.
Regions of all parameters are corrected likewise. For a stated level l, the highest-density region of the
draws is used that holds the share l of the truths.

Some parameters may exist in some rows only. Their levels are computed from these rows. If there is such a
parameter, the levels of all parameters are the same for all data.

**Levels that depend on the observation** are learned by small networks from the counts c of the calibration.
To learn m and s, e ~ N(0, 1) is assumed. The networks maximise the probability of the cell of each row,

    Phi^-1(c / (L + 1)) <= w <= Phi^-1((c + 1) / (L + 1)),    w = m(x) + s(x) e.

The inputs of m and s are the coordinates of the observation along the leading axes of the network's summary
and of the data. The rows are divided into five parts. For each part, six networks are trained on the other
four parts, starting at the constants. A fifth of the rows of these four parts is not used for gradients, but
decides when training stops. The mean of the six networks is tested on the part that they have not seen. A
parameter gets levels that depend on the observation if these means make unseen rows more likely than the
constants do. The significance is 1e-3 over all parameters. The mean of all thirty networks is then used. It
has a little less error than means of six networks, from which the quantiles of e are computed. So the
corrected intervals are slightly too wide.

References:
    | Calibrated predictive distributions via diagnostics for conditional coverage (Dey et al., 2022),
      https://arxiv.org/abs/2205.14568
    | Conformalized quantile regression (Romano, Patterson, Candes, 2019), https://arxiv.org/abs/1905.03222
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core import Calibration, Corrected, Draws, Posterior, X
from sciinf.diagnostics.views import Views

_LEAST = 2_000  # Least number of rows.
_PARTS, _EACH = 5, 6  # Parts of the rows, and networks for each part.
_SURE = 1e-3
_HIDDEN, _EDGE = 32, 3.0
_EPOCHS, _PATIENCE, _BATCH, _RATE, _DECAY = 200, 15, 256, 1e-2, 0.3
_FAR = 12.0  # Value of w that stands for infinity.
_MOST = 1.5  # Bound on |log s| and |m| / 2 of a network.


def fit_local(
    counts: Int[Tensor, "rows theta"], draws: int, seen: Float[Tensor, "rows feature"], generator: torch.Generator
) -> dict[str, Tensor]:
    """Learn how levels depend on the data, as tensors for a reference; empty where no such dependence is seen.

    Args:
        counts: Number of draws below the truth, each in 0..draws.
        draws: Draws per row.
        seen: Data of each row (`Views.coordinates`), in units of their sds.
        generator: Source of randomness.
    """
    rows, size = len(counts) // _PARTS * _PARTS, counts.shape[1]
    if rows < _LEAST or not seen.shape[1]:
        return {}
    part = torch.randperm(len(counts), generator=generator)[:rows].reshape(_PARTS, -1)
    others = torch.stack([torch.cat([p for j, p in enumerate(part) if j != k]) for k in range(_PARTS)])
    mine = others.repeat_interleave(_EACH, dim=0)
    mine = mine.gather(1, torch.rand(mine.shape, generator=generator).argsort(1))
    edges, seen = edges_of(draws), seen.clamp(-_EDGE, _EDGE).float()
    low, high = edges[:-1][counts], edges[1:][counts]
    middle, scale = constants(histogram_of(counts, draws))
    net = _fit(seen, (low.float(), high.float()), (middle, scale.log()), mine, generator)
    left_out = _forward(net, seen[part].repeat_interleave(_EACH, dim=0))
    m, log_s = (v.double().reshape(_PARTS, _EACH, -1, size).mean(1).flatten(0, 1) for v in left_out)
    low, high = low[part.flatten()], high[part.flatten()]
    gain = _cost(middle, scale.log(), low, high) - _cost(m, log_s, low, high)
    sure = -float(torch.special.ndtri(torch.tensor(_SURE / size, dtype=torch.float64)))
    which = (gain.mean(0) / gain.std(0).clamp_min(1e-12) * math.sqrt(rows) > sure).nonzero()[:, 0]
    if not len(which):
        return {}
    m, s = m[:, which], log_s[:, which].exp()
    first, last = (torch.special.ndtr((v[:, which] - m) / s) for v in (low, high))
    within = first + (last - first) * torch.rand(first.shape, generator=generator, dtype=torch.float64)
    residual = torch.special.ndtri(within.clamp(1e-12, 1 - 1e-12)).sort(0).values
    kept = {**{str(i): w for i, w in enumerate(net)}, "which": which, "residual": residual}
    return {name: value.contiguous() for name, value in kept.items()}


def edges_of(draws: int) -> Tensor:
    """Bounds of the L + 1 cells in w, (L + 2,); the outermost bounds are far out."""
    return torch.special.ndtri(torch.linspace(0, 1, draws + 2, dtype=torch.float64)).clamp(-_FAR, _FAR)


def histogram_of(counts: Tensor, draws: int) -> Tensor:
    """Number of rows with each count, (L + 1, D), float64; negative counts stand for no truth and are left out."""
    return torch.stack([torch.bincount(c[c >= 0], minlength=draws + 1) for c in counts.long().T], dim=1).double()


def _cost(m: Tensor, log_s: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Negative log probability that m + s e, e ~ N(0, 1), lies in its cell."""
    a, b = (low - m) / log_s.exp(), (high - m) / log_s.exp()
    flip = a + b > 0  # The lower tail is used, where differences keep their digits.
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    return -(torch.special.ndtr(b) - torch.special.ndtr(a)).clamp_min(1e-30).log()


def constants(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """m and s of each parameter by maximum likelihood from its counts, (D,) each."""
    edges = edges_of(len(histogram) - 1)
    low, high = edges[:-1, None], edges[1:, None]
    share = histogram / histogram.sum(0)
    at = torch.zeros(2, histogram.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([at], max_iter=100, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        optimiser.zero_grad()
        total = (share * _cost(at[0], at[1].clamp(-3, 3), low, high)).sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(cost)
    m, log_s = at.detach()
    good = m.isfinite() & log_s.isfinite()
    return torch.where(good, m, 0.0), torch.where(good, log_s.clamp(-3, 3), 0.0).exp()


def predict(local: Mapping[str, Tensor], seen: Tensor) -> tuple[Tensor, Tensor]:
    """m and log s for data (batch, F), by the mean of the networks, (batch, D) each."""
    net = [local[str(i)] for i in range(6)]
    seen = seen.clamp(-_EDGE, _EDGE).float().expand(len(net[0]), -1, -1)
    m, log_s = (v.double().mean(0) for v in _forward(net, seen))
    return m, log_s


def _forward(net: list[Tensor], seen: Tensor) -> tuple[Tensor, Tensor]:
    """m and log s of each network for data (networks, batch, F), (networks, batch, D) each."""
    first, one, second, two, last, three = net
    hidden = torch.baddbmm(two, torch.baddbmm(one, seen, first).tanh(), second).tanh()
    m, log_s = torch.baddbmm(three, hidden, last).chunk(2, dim=-1)
    return m.clamp(-2 * _MOST, 2 * _MOST), log_s.clamp(-_MOST, _MOST)


def _fit(
    seen: Tensor,
    cells: tuple[Tensor, Tensor],
    start: tuple[Tensor, Tensor],
    mine: Int[Tensor, "networks rows"],
    generator: torch.Generator,
) -> list[Tensor]:
    """Train all networks at once, starting at the constants.

    Each network trains on four fifths of its rows, until the other fifth becomes no more likely.
    """
    (low, high), number, cut = cells, len(mine), mine.shape[1] // 5
    net: list[Tensor] = []
    for width in (seen.shape[1], _HIDDEN):
        drawn = torch.randn(number, width, _HIDDEN, generator=generator) / math.sqrt(width)
        net += [drawn, torch.zeros(number, 1, _HIDDEN)]
    end = torch.cat(start).float()
    net += [torch.zeros(number, _HIDDEN, len(end)), end.repeat(number, 1, 1)]
    matrices, biases = [w.requires_grad_() for w in net[::2]], [w.requires_grad_() for w in net[1::2]]
    groups = [{"params": matrices, "weight_decay": _DECAY}, {"params": biases, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=_RATE)

    def cost(rows: Tensor) -> Tensor:
        return _cost(*_forward(net, seen[rows]), low[rows], high[rows]).sum(-1).mean(-1)

    best, since = torch.full((number,), math.inf), torch.zeros(number)
    kept = [w.detach().clone() for w in net]
    for _ in range(_EPOCHS):
        with torch.no_grad():
            now = cost(mine[:, :cut])
        better = now < best
        best, since = torch.where(better, now, best), torch.where(better, 0, since + 1)
        kept = [torch.where(better[:, None, None], w.detach(), k) for w, k in zip(net, kept, strict=True)]
        if float(since.median()) > _PATIENCE:
            break
        order = cut + torch.randperm(mine.shape[1] - cut, generator=generator)
        for batch in order.split(_BATCH):
            with torch.enable_grad():
                optimiser.zero_grad()
                cost(mine[:, batch]).sum().backward()
            optimiser.step()
    return kept


# Name in a calibration's reference of the number of draws with higher density than the truth, (rows,).
HIGHER = "recalibrate/higher"
_LOCAL = "recalibrate/local/"
_BEYOND = 50  # Least number of fresh simulations beyond each end of an interval.
_CHANCE = 0.01
_LEVELS = 32  # Number of levels whose ends are cached.


@dataclass(frozen=True)
class Recalibration:
    """Correction of intervals that a calibration allows.

    Args:
        counts: Number of draws below the truth, (rows, D), each in 0..draws; -1 where the true parameter does not
            exist.
        draws: Draws per row.
        higher: Number of draws with higher density than the truth, (rows,); None where there is no density, or it
            was not stored.
        local: Result of `fit_local`; empty where levels are the same for all observations.
    """

    counts: Int[Tensor, "rows theta"]
    draws: int
    higher: Tensor | None
    local: Mapping[str, Tensor]
    _known: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def enough(self, level: float) -> bool:
        """Whether there are 50 rows beyond each end of an interval, for at least one parameter."""
        return any(self.told(level))

    def told(self, level: float) -> list[bool]:
        """Whether there are 50 rows beyond each end of an interval, for each parameter."""
        return (self._rows * (1 - level) / 2 >= _BEYOND - 1e-9).tolist()

    @property
    def _rows(self) -> Float[Tensor, " theta"]:
        """Number of rows in which each parameter exists."""
        return (self.counts >= 0).sum(0).double()

    def levels(self, level: float, seen: Tensor | None = None) -> Float[Tensor, "rows theta 2"]:
        """Quantiles of the draws where the intervals end, for each row of `seen` (batch, F), or once for all data."""
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        z = self._for_all(level)[None]
        if self.local and seen is not None:
            which = self.local["which"]
            m, log_s = predict(self.local, seen)
            residual = torch.quantile(self.local["residual"], ends, dim=0).T
            z = z.repeat(len(seen), 1, 1)
            z[:, which] = m[:, which, None] + log_s.exp()[:, which, None] * residual
        return torch.special.ndtr(z)

    def _for_all(self, level: float) -> Float[Tensor, "theta 2"]:
        """Ends of the intervals in w that hold for all data; cached, because they are the same each time."""
        if level not in self._known:
            ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
            middle, scale = constants(histogram_of(self.counts, self.draws))
            edges = edges_of(self.draws)
            found = []
            for d in range(self.counts.shape[1]):
                if not self._rows[d]:
                    found.append(torch.special.ndtri(ends))
                    continue
                standard = (edges - middle[d]) / scale[d]
                e = _quantiles(histogram_of(self.counts[:, d : d + 1], self.draws)[:, 0], standard, ends)
                found.append(middle[d] + scale[d] * e)
            _keep(self._known, level, torch.stack(found))
        return self._known[level]

    def chance(self, level: float) -> Float[Tensor, "2 2 theta"]:
        """Lowest and highest quantile of each end, in 99 of 100 calibrations of an exact posterior."""
        z = -float(torch.special.ndtri(torch.tensor(_CHANCE / (4 * self.counts.shape[1]), dtype=torch.float64)))
        ends = torch.tensor([[(1 - level) / 2], [(1 + level) / 2]], dtype=torch.float64)
        off = z * (ends * (1 - ends) / self._rows.clamp_min(1)).sqrt()
        return torch.stack([ends - off, ends + off], dim=1).clamp(0, 1)

    def region(self, level: float) -> tuple[float, float] | None:
        """Level of the draws' highest-density region that holds `level` of the truths, and its error by chance."""
        if self.higher is None:
            return None
        histogram = histogram_of(self.higher[:, None], self.draws)[:, 0]
        edges = torch.linspace(0, 1, self.draws + 2, dtype=torch.float64)
        cumulative = torch.cat([torch.zeros(1).double(), histogram.cumsum(0) / histogram.sum()])
        z = -float(torch.special.ndtri(torch.tensor(_CHANCE / 2, dtype=torch.float64)))
        chance = z * math.sqrt(level * (1 - level) / len(self.higher))
        return float(np.interp(level, cumulative.numpy(), edges.numpy())), chance


def _keep(known: dict[Any, Any], key: Any, value: Any) -> None:
    """Cache a value, and drop the oldest keys beyond `_LEVELS`."""
    while len(known) >= _LEVELS:
        known.pop(next(iter(known)), None)
    known[key] = value


def keep(counts: Mapping[str, Tensor], draws: int, seen: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors that a reference stores, from a calibration's counts ("ranks", "hpd") and data (`Views.coordinates`)."""
    higher = {HIGHER: counts["hpd"].int()} if "hpd" in counts else {}
    always = bool((counts["ranks"] >= 0).all())
    local = fit_local(counts["ranks"], draws, seen, generator) if always else {}
    return higher | {_LOCAL + name: value for name, value in local.items()}


def recalibration(calibration: Calibration) -> Recalibration:
    """The correction of intervals that a calibration allows."""
    reference = calibration.reference
    local = {k.removeprefix(_LOCAL): v for k, v in reference.items() if k.startswith(_LOCAL)}
    return Recalibration(torch.as_tensor(calibration.ranks), calibration.draws, reference.get(HIGHER), local)


def seen_by(
    found: Recalibration, posterior: Posterior, reference: Mapping[str, Tensor], x: X
) -> Float[Tensor, "batch feature"] | None:
    """Features of a batch of observations for the correction; None where the correction is the same for all of them.

    Args:
        found: The correction.
        posterior: Posterior that answers.
        reference: Reference tensors of its calibration.
        x: The observations, name -> (batch, *event).
    """
    return Views(posterior, reference).coordinates(x) if found.local else None


def corrected(found: Recalibration, draws: Draws, level: float, seen: Tensor | None) -> dict[str, Corrected]:
    """Corrected interval of each parameter for which there are enough simulations.

    Args:
        found: Correction of the posterior that the draws come from.
        draws: The posterior's draws for one observation.
        level: Level of the intervals.
        seen: Features of that observation, as `fit_local` received them, (1, F).
    """
    at, spans, told = found.levels(level, seen)[0], found.chance(level), found.told(level)
    ends = [(1 - level) / 2, (1 + level) / 2]
    values = draws.quantiles([*ends, *at.T, *(q for span in spans for q in span)])
    raw, new, limits = values[:2], values[2:4], values[4:].view(2, -1, values.shape[1])
    width = (raw[1] - raw[0]).clamp_min(1e-300)
    moved = ((new - raw).abs() / width).amax(0)
    chance = ((limits - raw[:, None]).abs() / width).amax((0, 1))
    local = set(found.local["which"].tolist()) if found.local else set()
    each = {}
    for d, name in enumerate(draws.names):
        if not told[d]:
            continue
        interval, quantiles = (float(new[0][d]), float(new[1][d])), (float(at[d, 0]), float(at[d, 1]))
        each[name] = Corrected(interval, quantiles, float(moved[d]), float(chance[d]), d in local)
    return each


def _quantiles(histogram: Tensor, edges: Tensor, ends: Tensor) -> Tensor:
    """Quantiles of e, whose histogram has cells with these edges and which is normal within each cell."""
    cumulative = histogram.cumsum(0) / histogram.sum()
    cell = torch.searchsorted(cumulative, ends - 1e-12).clamp(max=len(histogram) - 1)
    share = histogram[cell] / histogram.sum()
    part = ((ends - (cumulative[cell] - share)) / share).clamp(0, 1)
    a, b = torch.special.ndtr(edges[cell]), torch.special.ndtr(edges[cell + 1])
    return torch.special.ndtri((a + part * (b - a)).clamp(1e-12, 1 - 1e-12))
