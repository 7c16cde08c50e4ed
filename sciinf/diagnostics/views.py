r"""Comparison of data by several views: the distances in each view, and one p-value from all of them.

There are three views. The first is the learned summaries s(x), which give the posterior its information. The second
is the standardised data itself, which a network may partly ignore. The third is the range of every number. In the
first two

    d(x)^2 = sum_k u_k(x)^2 + r(x)^2,

with u the whitened coordinates along the leading principal axes and r the length of the remainder, in its own root
mean square. In the third, d(x) is the largest |x_i - middle_i| / half range_i over the numbers, and over the share
of numbers that are present. Numbers that are constant in all simulations enter this view alone, with their rounding
error as half a range.

The p-value compares one observation with n simulations, and treats all n + 1 alike. With m_v(x) the mid-rank of
d_v(x) in view v among the n + 1, so that equal distances share one rank, and T(x) = max_v m_v(x),

    p = #{rows with T at least that of the observation, itself included} / (n + 1).

If the observation has the same distribution as the simulations, P(p <= a) <= a for every a, n and distribution of
the data. p is nearly uniform where no two rows are equal. It is a conformal p-value.

References:
    | Algorithmic Learning in a Random World (Vovk, Gammerman, Shafer, 2005), https://doi.org/10.1007/b106715
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import final

import torch
from torch import Tensor

from sciinf.core import Batch, Posterior, X
from sciinf.core.summary import expand_mask
from sciinf.networks.summaries.standardise import Standardise

VIEWS = ("learned", "data", "range")
_AXES = 32
_NUMBERS = 40_000_000  # Largest count of numbers in the rows that give the axes of a view.
_ROUNDING = 8  # Steps of a number's precision by which two equal numbers may differ.
_FLOOR = {"learned": 1e-3, "data": 1e-5}  # Least scale of a coordinate, relative to the mean size of all.
# Distances nearer than these are equal: a relative and an absolute tolerance. A network in single precision rounds
# differently for one row and for many. Values that are equal except for rounding must have equal ranks.
_TIED = ((1e-3, 1e-2), (1e-6, 1e-6), (1e-6, 1e-6))  # These are for the views, in their order.
_TIED_SCORE = (1e-4, 1e-4)
_PAIRS = 4_000_000  # Largest number of (observation, simulation) pairs in one pass.


class Views:
    """Views of data, through a posterior's summaries and without them.

    Call `fit` once, then `distances` for any rows.


    Args:
        posterior: Posterior whose learned summaries give one of the views.
        tensors: Earlier result of `tensors`, to view data as before.
    """

    def __init__(self, posterior: Posterior, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.posterior = posterior
        self.standard = Standardise(posterior.observables)
        self.axes: dict[str, Tensor] = {}
        if tensors is not None:
            self.standard.load_state_dict(_part(tensors, "standardise/"))
            self.axes = {k: v for k, v in tensors.items() if k.startswith(tuple(f"{view}/" for view in VIEWS))}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """State learned from the rows, as plain tensors."""
        return {f"standardise/{k}": v.contiguous() for k, v in self.standard.state_dict().items()} | self.axes

    def fit(self, batches: Callable[[], Iterator[Batch]]) -> Views:
        """Learn the scales of each view; each call of `batches` is one pass over the same rows."""
        self.standard.fit(batches)
        kept: dict[str, list[Tensor]] = {"learned": [], "data": []}
        spans = {"range": _Span(), "raw": _Span()}
        for batch in batches():
            look = self._look(batch.x)
            for view, span in spans.items():
                span.add(look[view])
            for view, rows in kept.items():
                if sum(map(torch.numel, rows)) < _NUMBERS:
                    rows.append(look[view])
        constant, slack = spans["raw"].constant(self._precision())
        half = spans["range"].half
        count = kept["data"][0].shape[1]
        alone = slack[:count].isfinite()  # These numbers are judged by the range of their raw values.
        half[:count][alone] = math.inf
        ranges = {"middle": spans["range"].middle, "half": torch.where(half > 0, half, math.inf)}
        parts = {
            "learned": _axes(_some(kept["learned"]), _FLOOR["learned"]),
            "data": _axes(_some(kept["data"]), _FLOOR["data"], alone),
            "range": ranges | {"constant": constant, "slack": slack},
        }
        self.axes = {f"{view}/{k}": v.contiguous() for view, part in parts.items() for k, v in part.items()}
        return self

    def distances(self, x: X) -> Tensor:
        """Distance d of each row in each view, (batch, view), float64; infinite where a value is NaN."""
        look = self._look(x)
        far = [_distance(_part(self.axes, f"{view}/"), look[view]) for view in ("learned", "data")]
        ranges = _part(self.axes, "range/")
        beyond = _largest((look["range"] - ranges["middle"]).abs() / ranges["half"])
        differs = (look["raw"] - ranges["constant"]).abs() / ranges["slack"]
        far.append(torch.maximum(beyond, _largest(differs.nan_to_num(nan=0.0, posinf=math.inf))))
        return torch.stack(far, dim=1).nan_to_num(nan=math.inf, posinf=math.inf)

    def coordinates(self, x: X) -> Tensor:
        """Coordinates along the leading axes of the learned summary and of the data, (batch, K), float64.

        Each coordinate has sd 1.
        """
        look, found = self._look(x), []
        for view in ("learned", "data"):
            axes = _part(self.axes, f"{view}/")
            found.append(((look[view] - axes["mean"]) / axes["scale"]) @ axes["vectors"] / axes["sd"])
        return torch.cat(found, dim=1).nan_to_num()

    def _look(self, x: X) -> dict[str, Tensor]:
        """Rows in each view, (batch, K) each, float64.

        "raw" has NaN where a number is missing, and is followed by the masks.
        """
        z = self.standard(x)
        data = torch.cat([v.reshape(len(v), -1) for v in z.values()], dim=1).double()
        raw, masks, present = [], [], []
        for name in z:
            value = x[name].double()
            if name in self.standard.masks:
                mask = expand_mask(x[self.standard.masks[name]], value.shape)
                value = torch.where(mask, value, math.nan)
                masks.append(mask.reshape(len(mask), -1).double())
                present.append(masks[-1].mean(1, keepdim=True))
            raw.append(value.reshape(len(value), -1))
        return {
            "learned": self.posterior.features(x).double(),
            "data": data,
            "range": torch.cat([data, *present], dim=1),
            "raw": torch.cat(raw + masks, dim=1),
        }

    def _precision(self) -> Tensor:
        """Relative precision of each raw number."""
        steps, masks = [], 0
        for name, spec in self.standard.specs.items():
            size, kind = math.prod(spec.shape), spec.torch_dtype
            steps.append(torch.full((size,), torch.finfo(kind).eps if kind.is_floating_point else 0.0))
            masks += size if name in self.standard.masks else 0
        return torch.cat([*steps, torch.zeros(masks)]).double()


@final
class Ranked:
    """Distances of simulations, prepared for ranking observations among them.

    Args:
        simulated: Distances (n, view); those of scores follow those of the three views.
    """

    def __init__(self, simulated: Tensor) -> None:
        self.rows, self._sides = len(simulated), []
        for k in range(simulated.shape[1]):
            share, unit = _tied(k)
            each = simulated[:, k].contiguous()
            ordered, low, high = each.sort().values, (1 - share) * each - unit, (1 + share) * each + unit
            among = torch.searchsorted(ordered, low) + torch.searchsorted(ordered, high, right=True)
            self._sides.append((ordered, low, high, among))

    def p_values(self, observed: Tensor, views: int | None = None) -> Tensor:
        """p-values of observations, each compared alone with the simulations.

        Args:
            observed: Distances (batch, view).
            views: Number of views to use, the first ones; all by default.

        Returns:
            (batch,), at least 1 / (n + 1).
        """
        sides = []
        for k, (ordered, low, high, among) in enumerate(self._sides[:views]):
            (share, unit), at = _tied(k), observed[:, k].contiguous()
            mine = torch.searchsorted(ordered, (1 - share) * at - unit) + 1
            mine = mine + torch.searchsorted(ordered, (1 + share) * at + unit, right=True)
            sides.append((low, high, among, at, mine))
        found = torch.empty(len(observed), dtype=torch.float64)
        for rows in torch.arange(len(observed)).split(max(1, _PAIRS // self.rows)):
            # Twice the mid-rank is the number of values below, plus the number of values not above.
            each = [a + (at[rows, None] < low).int() + (at[rows, None] <= high).int() for low, high, a, at, _ in sides]
            theirs = torch.stack(each).amax(dim=0)
            own = torch.stack([mine[rows] for *_, mine in sides]).amax(dim=0)
            found[rows] = (1 + (theirs >= own[:, None]).sum(dim=1)).double() / (self.rows + 1)
        return found


def conformal_p(simulated: Tensor, observed: Tensor) -> Tensor:
    """p-values of observations (batch, view) among simulations (n, view), as in `Ranked`: (batch,)."""
    return Ranked(simulated).p_values(observed)


def _tied(view: int) -> tuple[float, float]:
    return _TIED[view] if view < len(_TIED) else _TIED_SCORE


class _Span:
    """Minimum and maximum of each number, updated batch by batch, without NaN."""

    def __init__(self) -> None:
        self.low, self.high = torch.tensor(math.inf), torch.tensor(-math.inf)

    def add(self, values: Tensor) -> None:
        missing = values.isnan()
        self.low = torch.minimum(self.low, values.masked_fill(missing, math.inf).amin(dim=0))
        self.high = torch.maximum(self.high, values.masked_fill(missing, -math.inf).amax(dim=0))

    @property
    def middle(self) -> Tensor:
        return self.low / 2 + self.high / 2

    @property
    def half(self) -> Tensor:
        return self.high / 2 - self.low / 2

    def constant(self, precision: Tensor) -> tuple[Tensor, Tensor]:
        """Value of each constant number, and its rounding error; the error is infinite for numbers that vary."""
        slack = _ROUNDING * precision * self.middle.abs()
        one = 2 * self.half.abs() <= slack
        slack = torch.where(one, slack.clamp_min(torch.finfo(torch.float64).tiny), math.inf)
        return torch.where(one, self.middle, 0.0), slack


def _axes(values: Tensor, least: float, alone: Tensor | None = None) -> dict[str, Tensor]:
    """Principal axes with their scale, and the scale of the remainder; the numbers marked in `alone` are left out."""
    mean = values.mean(dim=0)
    scale = values.std(dim=0)
    # Constant numbers still differ by rounding from one batch size to the next; this is not strange.
    scale = scale.clamp_min(least * float(values.abs().mean()) + 1e-12)
    scale = scale if alone is None else scale.masked_fill(alone, math.inf)
    unit = (values - mean) / scale
    if unit.shape[1] <= len(unit):
        squares, vectors = torch.linalg.eigh(unit.T @ unit)
    else:
        squares, left = torch.linalg.eigh(unit @ unit.T)
        vectors = unit.T @ left / squares.clamp_min(1e-12).sqrt()
    # Each axis is estimated from the rows' variation along it, so fewer rows allow fewer axes.
    count = max(1, min(_AXES, unit.shape[1], len(unit) // 10))
    spread, vectors = squares.flip(0)[:count] / len(unit), vectors.flip(1)[:, :count]
    keep = spread > 1e-6 * spread[0].clamp_min(1e-12)
    spread, vectors = spread[keep], vectors[:, keep]
    rest = (unit.square().sum(1) - (unit @ vectors).square().sum(1)).clamp_min(0).sqrt()
    # A residual that is only rounding is compared with a floor, so that a real departure stands out.
    floor = rest.square().mean().sqrt().clamp_min(1e-3)
    return {"mean": mean, "scale": scale, "vectors": vectors.contiguous(), "sd": spread.sqrt(), "rest": floor}


def _distance(axes: Mapping[str, Tensor], values: Tensor) -> Tensor:
    unit = (values - axes["mean"]) / axes["scale"]
    along = unit @ axes["vectors"]
    rest = (unit.square().sum(1) - along.square().sum(1)).clamp_min(0).sqrt()
    return ((along / axes["sd"]).square().sum(1) + (rest / axes["rest"]).square()).sqrt()


def _some(rows: list[Tensor]) -> Tensor:
    """As many rows as fit in memory."""
    values = torch.cat(rows)
    return values[: max(200, _NUMBERS // values.shape[1])]


def _largest(values: Tensor) -> Tensor:
    return values.amax(dim=1)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
