r"""Is the observation where the simulations are?

Fresh simulations and the observation are seen through two views: the learned summaries s(x), where the posterior gets
its information from, and the standardised data itself, where a network may have stopped looking. In each view

    d(x)^2 = sum_k u_k(x)^2 + r(x)^2,

with u the whitened coordinates along the leading principal axes and r the length, in its own root mean square, of
what they leave out. A third view asks whether any single number lies beyond the range of the simulations: d(x) is the
largest |x_i - middle_i| / half range_i. Axes and ranges come from the first third of the simulations and everything
below from the rest, for which they are as strange as for the observation. With F the distribution function of d among
those, the statistic is the largest of the three values F(d(x)), and its rank among the simulations' own gives the
p-value: uniform for an observation of the model, small for one unlike anything simulated.

References:
    | Detecting model misspecification in amortized Bayesian inference with neural networks (Schmitt et al., 2022),
      https://arxiv.org/abs/2112.08866
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sciinf.core import Posterior, Trust, X
from sciinf.store import Store
from sciinf.summaries.standardise import Standardise

_AXES = 32
_ROWS = 20_000
_CHUNK = 4096
_NUMBERS = 40_000_000  # in the rows that the axes of a view come from
_VIEWS = ("learned", "data", "range")
_ALARM, _UNUSUAL = 0.01, 0.05


def make_reference(posterior: Posterior, store: Store) -> dict[str, Tensor]:
    """What fresh simulations look like, for `check_observation`.

    Args:
        posterior: Whose learned summaries to look through.
        store: Fresh simulations, not those trained on.

    Returns:
        Plain tensors: standardisation, the axes of both views, and the simulations' sorted distances.

    Raises:
        ValueError: If there are too few simulations.
    """
    count = min(len(store), _ROWS)
    first, rest = slice(0, count // 3), slice(count // 3, count)
    standard = Standardise(store.observables)
    standard.fit(lambda: store.batches(_CHUNK, rows=first))
    data = _first_rows(store, first, lambda x: _flat(standard(x)))
    axes = {"learned": _axes(_first_rows(store, first, posterior.features)), "data": _axes(data), "range": _range(data)}
    distances: dict[str, list[Tensor]] = {view: [] for view in _VIEWS}
    for batch in store.batches(_CHUNK, rows=rest):
        for view, values in _seen(posterior, standard, batch.x).items():
            distances[view].append(_distance(axes[view], values))
    reference: dict[str, Tensor] = {f"standardise/{k}": v for k, v in standard.state_dict().items()}
    ranks = []
    for view in _VIEWS:
        distance = torch.cat(distances[view])
        ordered = distance.sort().values
        ranks.append((torch.searchsorted(ordered, distance) + 0.5) / len(ordered))
        reference |= {f"{view}/{k}": v for k, v in axes[view].items()}
        reference[f"{view}/distance"] = ordered
    reference["statistic"] = torch.stack(ranks).amax(dim=0).sort().values
    return {k: v.contiguous() for k, v in reference.items()}


def p_values(reference: Mapping[str, Tensor], posterior: Posterior, x: X) -> Tensor:
    """p-values of a batch of observations, name -> (batch, *event): (batch,)."""
    standard = Standardise(posterior.observables)
    standard.load_state_dict(_part(reference, "standardise/"))
    ranks = []
    for view, values in _seen(posterior, standard, x).items():
        part = _part(reference, f"{view}/")
        distance = _distance(part, values).nan_to_num(nan=math.inf)
        ranks.append(torch.searchsorted(part["distance"], distance, right=True) / len(part["distance"]))
    statistic = reference["statistic"]
    above = len(statistic) - torch.searchsorted(statistic, torch.stack(ranks).amax(dim=0))
    return (1 + above).double() / (1 + len(statistic))


def check_observation(reference: Mapping[str, Tensor], posterior: Posterior, x: X) -> Trust:
    """The verdict on one observation, name -> (1, *event)."""
    if not reference:
        words = "there are no fresh simulations to compare the observation with; run `sciinf calibrate`"
        return Trust(None, words, "unknown")
    p = float(p_values(reference, posterior, x)[0])
    rows = len(reference["statistic"])
    smallest = 1 / (1 + rows)
    if smallest >= _ALARM and p <= 1.5 * smallest:
        words = (
            f"too few fresh simulations ({rows:,}) to tell: the observation is more unusual than all of them "
            f"(p = {p:.2g}, the smallest they allow); calibrate on more"
        )
        return Trust(p, words, "unknown")
    if p < _ALARM:
        words = (
            f"the observation is unlike the simulations (p = {p:.2g} among {rows:,}); the network has seen nothing "
            "like it, so do not believe the answer: check the data, their units, the simulator and its prior"
        )
        return Trust(p, words, "alarm")
    if p < _UNUSUAL:
        words = f"only {p:.1%} of {rows:,} fresh simulations are as unusual as the observation (p = {p:.2g})"
        return Trust(p, words, "unusual")
    return Trust(p, f"the observation looks like the simulations (p = {p:.2g} among {rows:,})", "good")


def _seen(posterior: Posterior, standard: Standardise, x: X) -> dict[str, Tensor]:
    """Observations through each view, (batch, K), float64."""
    data = _flat(standard(x))
    return dict(zip(_VIEWS, (posterior.features(x).double(), data, data), strict=True))


def _flat(values: X) -> Tensor:
    return torch.cat([v.reshape(len(v), -1) for v in values.values()], dim=1).double()


def _first_rows(store: Store, rows: slice, look: Callable[[X], Tensor]) -> Tensor:
    """As many rows of a view as fit in memory, (rows, K), float64."""
    found: list[Tensor] = []
    for batch in store.batches(_CHUNK, rows=rows):
        found.append(look(batch.x).double())
        if sum(len(v) for v in found) * found[0].shape[1] >= _NUMBERS:
            break
    values = torch.cat(found)
    return values[: max(200, _NUMBERS // values.shape[1])]


def _axes(values: Tensor) -> dict[str, Tensor]:
    """Principal axes with their scale, and the scale of what they leave out."""
    mean = values.mean(dim=0)
    scale = values.std(dim=0)
    # What does not vary still differs by rounding from one size of batch to the next; that is not strange.
    scale = scale.clamp_min(1e-5 * float(values.abs().mean()) + 1e-12)
    unit = (values - mean) / scale
    if unit.shape[1] <= len(unit):
        squares, vectors = torch.linalg.eigh(unit.T @ unit)
    else:
        squares, left = torch.linalg.eigh(unit @ unit.T)
        vectors = unit.T @ left / squares.clamp_min(1e-12).sqrt()
    # Each axis is estimated from what varies along it: fewer rows tell fewer axes.
    count = max(1, min(_AXES, unit.shape[1], len(unit) // 10))
    spread, vectors = squares.flip(0)[:count] / len(unit), vectors.flip(1)[:, :count]
    keep = spread > 1e-6 * spread[0].clamp_min(1e-12)
    spread, vectors = spread[keep], vectors[:, keep]
    rest = (unit.square().sum(1) - (unit @ vectors).square().sum(1)).clamp_min(0).sqrt()
    # A residual that is only rounding is measured against a floor, so that a real departure stands out.
    floor = rest.square().mean().sqrt().clamp_min(1e-3)
    return {"mean": mean, "scale": scale, "vectors": vectors.contiguous(), "sd": spread.sqrt(), "rest": floor}


def _range(values: Tensor) -> dict[str, Tensor]:
    """Middle and half width of what each number takes."""
    low, high = values.amin(dim=0), values.amax(dim=0)
    return {"middle": (low + high) / 2, "half": ((high - low) / 2).clamp_min(1e-5 * float(values.abs().mean()) + 1e-12)}


def _distance(axes: Mapping[str, Tensor], values: Tensor) -> Tensor:
    if "half" in axes:
        return ((values - axes["middle"]) / axes["half"]).abs().amax(dim=1)
    unit = (values - axes["mean"]) / axes["scale"]
    along = unit @ axes["vectors"]
    rest = (unit.square().sum(1) - along.square().sum(1)).clamp_min(0).sqrt()
    return ((along / axes["sd"]).square().sum(1) + (rest / axes["rest"]).square()).sqrt()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
