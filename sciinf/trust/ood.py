r"""Is the observation where the simulations are?

Fresh simulations and the observation are seen through two views: the learned summaries s(x), where the posterior gets its
information from, and the standardised data itself, where a network may have stopped looking. In each view

    d(x)^2 = sum_k u_k(x)^2 + r(x)^2,

with u the whitened coordinates along the leading principal axes and r the length, in its own standard deviation, of
what they leave out. With F the distribution function of d among the simulations, the statistic is the larger of
the two values F(d(x)), and its rank among the simulations' own gives the p-value: uniform for an observation of the model,
small for one unlike anything simulated.

References:
    | Detecting model misspecification in amortized Bayesian inference with neural networks (Schmitt et al., 2022),
      https://arxiv.org/abs/2112.08866
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sciinf.core import Posterior, Trust, X
from sciinf.store import Store
from sciinf.summaries.standardise import Standardise

_AXES = 32
_ROWS = 20_000
_CHUNK = 4096


def make_reference(posterior: Posterior, store: Store) -> dict[str, Tensor]:
    """What fresh simulations look like, for `check_observation`.

    Args:
        posterior: Whose learned summaries to look through.
        store: Fresh simulations, not those trained on.

    Returns:
        Plain tensors: standardisation, the axes of both views, and the simulations' sorted distances.
    """
    rows = slice(0, min(len(store), _ROWS))
    standard = Standardise(store.observables)
    standard.fit(lambda: store.batches(_CHUNK, rows=rows))
    learned, data = [], []
    for batch in store.batches(_CHUNK, rows=rows):
        learned.append(posterior.features(batch.x).double())
        data.append(_flat(standard(batch.x)))
    reference: dict[str, Tensor] = {f"standardise/{k}": v for k, v in standard.state_dict().items()}
    ranks = []
    for view, values in (("learned", torch.cat(learned)), ("data", torch.cat(data))):
        axes = _axes(values)
        distance = _distance(axes, values)
        ordered = distance.sort().values
        ranks.append((torch.searchsorted(ordered, distance) + 0.5) / len(ordered))
        reference |= {f"{view}/{k}": v for k, v in axes.items()}
        reference[f"{view}/distance"] = ordered
    reference["statistic"] = torch.maximum(*ranks).sort().values
    return {k: v.contiguous() for k, v in reference.items()}


def p_values(reference: Mapping[str, Tensor], posterior: Posterior, x: X) -> Tensor:
    """p-values of a batch of observations, name -> (batch, *event): (batch,)."""
    standard = Standardise(posterior.observables)
    standard.load_state_dict(_part(reference, "standardise/"))
    ranks = []
    for view, values in (("learned", posterior.features(x).double()), ("data", _flat(standard(x)))):
        part = _part(reference, f"{view}/")
        distance = _distance(part, values).nan_to_num(nan=math.inf)
        ranks.append(torch.searchsorted(part["distance"], distance, right=True) / len(part["distance"]))
    statistic = reference["statistic"]
    above = len(statistic) - torch.searchsorted(statistic, torch.maximum(*ranks))
    return (1 + above).double() / (1 + len(statistic))


def check_observation(reference: Mapping[str, Tensor], posterior: Posterior, x: X) -> Trust:
    """The verdict on one observation, name -> (1, *event)."""
    if not reference:
        return Trust(None, "UNKNOWN: there are no fresh simulations to compare the observation with; run `sciinf calibrate`")
    p = float(p_values(reference, posterior, x)[0])
    rows = len(reference["statistic"])
    if p < 0.01:
        return Trust(
            p,
            f"WARNING: the observation is unlike the simulations (p = {p:.2g} among {rows:,}); the network has seen "
            "nothing like it, so do not believe the answer: check the data, their units, the simulator and its prior",
        )
    if p < 0.05:
        return Trust(p, f"unusual: only {p:.1%} of {rows:,} fresh simulations are as unusual as the observation (p = {p:.2g})")
    return Trust(p, f"good: the observation looks like the simulations (p = {p:.2g} among {rows:,})")


def _flat(values: X) -> Tensor:
    return torch.cat([v.reshape(len(v), -1) for v in values.values()], dim=1).double()


def _axes(values: Tensor) -> dict[str, Tensor]:
    """Principal axes with their scale, and the scale of what they leave out."""
    mean = values.mean(dim=0)
    scale = values.std(dim=0).clamp_min(1e-12)
    unit = (values - mean) / scale
    count = min(_AXES, values.shape[1])
    covariance = unit.T @ unit / len(unit)
    spread, vectors = torch.linalg.eigh(covariance)
    spread, vectors = spread.flip(0)[:count], vectors.flip(1)[:, :count]
    keep = spread > 1e-6 * spread[0].clamp_min(1e-12)
    spread, vectors = spread[keep], vectors[:, keep]
    rest = (unit.square().sum(1) - (unit @ vectors).square().sum(1)).clamp_min(0).sqrt()
    # A residual that is only rounding is measured against a floor, so that a real departure stands out.
    floor = rest.square().mean().sqrt().clamp_min(1e-3)
    return {"mean": mean, "scale": scale, "vectors": vectors.contiguous(), "sd": spread.sqrt(), "rest": floor}


def _distance(axes: Mapping[str, Tensor], values: Tensor) -> Tensor:
    unit = (values - axes["mean"]) / axes["scale"]
    along = unit @ axes["vectors"]
    rest = (unit.square().sum(1) - along.square().sum(1)).clamp_min(0).sqrt()
    return ((along / axes["sd"]).square().sum(1) + (rest / axes["rest"]).square()).sqrt()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
