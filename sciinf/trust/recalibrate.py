r"""Intervals that hold what they say on fresh simulations: which quantiles of the draws to give.

The calibration knows, for fresh simulations, how many of L draws lie below the truth: a count c, the truth's level u in
[c, c + 1] / (L + 1). Where the posterior is exact u is uniform. Where it is not, the interval of level l goes from that
quantile of the draws below which (1 - l) / 2 of the truths lie to that below which (1 + l) / 2 lie (conformal
quantiles). The two ends move by themselves, so that a posterior that is shifted is moved back and not widened. With

    w = Phi^-1(u) = m(x) + s(x) e,

e has the distribution that the rows give it, without a form, and its quantiles e_(1 -+ l)/2 make the levels
Phi(m(x) + s(x) e), which hold on average over the prior for any m and s. These are constants, or depend on the
observation where that is seen to be better (`local_levels`): then a posterior that is right on average and wrong here
is corrected for here. What the data tell and the network does not use moves the ends as well.

An exact posterior's ends move by chance: as far as binomial counts of as many rows do in 99 of 100 calibrations, over
all ends. Regions of all parameters by density: the level of the draws' region that holds l of the truths, likewise.

A parameter that exists only sometimes has the rows in which it does, and levels that are the same for all data.

References:
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
from sciinf.trust.local_levels import constants, edges_of, fit_local, histogram_of, predict
from sciinf.trust.views import Views

HIGHER = "recalibrate/higher"  # in a calibration's reference: draws of higher density than the truth, (rows,)
_LOCAL = "recalibrate/local/"
_BEYOND = 50  # fresh simulations beyond each end of an interval, at least
_CHANCE = 0.01
_LEVELS = 32  # of which the ends are kept


@dataclass(frozen=True)
class Recalibration:
    """What a calibration says of intervals.

    Args:
        counts: Draws below the truth, (rows, D), each in 0..draws; -1 where the true parameter does not exist.
        draws: Draws per row.
        higher: Draws of higher density than the truth, (rows,); None where there is no density, or it was not kept.
        local: What `fit_local` gave; empty where levels are the same for all observations.
    """

    counts: Int[Tensor, "rows theta"]
    draws: int
    higher: Tensor | None
    local: Mapping[str, Tensor]
    _known: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def enough(self, level: float) -> bool:
        """Whether there are 50 rows beyond each end of an interval, of one parameter at least."""
        return any(self.told(level))

    def told(self, level: float) -> list[bool]:
        """Whether there are as many, of each parameter."""
        return (self._rows * (1 - level) / 2 >= _BEYOND - 1e-9).tolist()

    @property
    def _rows(self) -> Float[Tensor, " theta"]:
        """In which each parameter exists."""
        return (self.counts >= 0).sum(0).double()

    def levels(self, level: float, seen: Tensor | None = None) -> Float[Tensor, "rows theta 2"]:
        """Quantiles of the draws where the intervals end, for each row of `seen` (batch, F), or for all data."""
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
        """Where the intervals end whatever the data are, in w; the same each time, and so kept."""
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
        """The lowest and highest quantile that each end is, for 99 of 100 calibrations of an exact posterior."""
        z = -float(torch.special.ndtri(torch.tensor(_CHANCE / (4 * self.counts.shape[1]), dtype=torch.float64)))
        ends = torch.tensor([[(1 - level) / 2], [(1 + level) / 2]], dtype=torch.float64)
        off = z * (ends * (1 - ends) / self._rows.clamp_min(1)).sqrt()
        return torch.stack([ends - off, ends + off], dim=1).clamp(0, 1)

    def region(self, level: float) -> tuple[float, float] | None:
        """Level of the draws' highest-density region that holds `level` of the truths; how far from it by chance."""
        if self.higher is None:
            return None
        histogram = histogram_of(self.higher[:, None], self.draws)[:, 0]
        edges = torch.linspace(0, 1, self.draws + 2, dtype=torch.float64)
        cumulative = torch.cat([torch.zeros(1).double(), histogram.cumsum(0) / histogram.sum()])
        z = -float(torch.special.ndtri(torch.tensor(_CHANCE / 2, dtype=torch.float64)))
        chance = z * math.sqrt(level * (1 - level) / len(self.higher))
        return float(np.interp(level, cumulative.numpy(), edges.numpy())), chance


def _keep(known: dict[Any, Any], key: Any, value: Any) -> None:
    """Keep a value, of the last few keys."""
    while len(known) >= _LEVELS:
        known.pop(next(iter(known)), None)
    known[key] = value


def keep(counts: Mapping[str, Tensor], draws: int, seen: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """What a reference is to have of a calibration's counts ("ranks", "hpd") and its data (`Views.coordinates`)."""
    higher = {HIGHER: counts["hpd"].int()} if "hpd" in counts else {}
    always = bool((counts["ranks"] >= 0).all())
    local = fit_local(counts["ranks"], draws, seen, generator) if always else {}
    return higher | {_LOCAL + name: value for name, value in local.items()}


def recalibration(calibration: Calibration) -> Recalibration:
    """The correction that a calibration allows."""
    reference = calibration.reference
    local = {k.removeprefix(_LOCAL): v for k, v in reference.items() if k.startswith(_LOCAL)}
    return Recalibration(torch.as_tensor(calibration.ranks), calibration.draws, reference.get(HIGHER), local)


def seen_by(
    found: Recalibration, posterior: Posterior, reference: Mapping[str, Tensor], x: X
) -> Float[Tensor, "batch feature"] | None:
    """A batch of observations as the correction sees data; None where it is the same for all of them.

    Args:
        found: The correction.
        posterior: What answers.
        reference: Of its calibration.
        x: The observations, name -> (batch, *event).
    """
    return Views(posterior, reference).coordinates(x) if found.local else None


def corrected(found: Recalibration, draws: Draws, level: float, seen: Tensor | None) -> dict[str, Corrected]:
    """The corrected interval of each parameter of which there are enough simulations.

    Args:
        found: Of the posterior that the draws come from.
        draws: Its draws for one observation.
        level: Of the intervals.
        seen: That observation as `fit_local` saw data, (1, F).
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
    """Quantiles of e, whose histogram is over cells of these edges and which is normal within each."""
    cumulative = histogram.cumsum(0) / histogram.sum()
    cell = torch.searchsorted(cumulative, ends - 1e-12).clamp(max=len(histogram) - 1)
    share = histogram[cell] / histogram.sum()
    part = ((ends - (cumulative[cell] - share)) / share).clamp(0, 1)
    a, b = torch.special.ndtr(edges[cell]), torch.special.ndtr(edges[cell + 1])
    return torch.special.ndtri((a + part * (b - a)).clamp(1e-12, 1 - 1e-12))
