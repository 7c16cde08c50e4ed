r"""The current through one ion channel that a drug blocks: three states, two of which look the same.

    closed <-> open <-> blocked

The channel opens and closes, and a molecule of the drug plugs it while it is open, and leaves it. With the rates a
(opening), b (closing), p (blocking, which grows with the concentration of the drug) and q (unblocking), in 1/ms,

    P(closed) : P(open) : P(blocked) = 1 : a / b : (a / b) (p / q)

long after the drug was given, which is how a record begins. What is measured is a current of `amplitude` while the
channel is open, 0 while it is closed or blocked, and Gaussian noise. So only how long the current is off tells a
blocked channel from a closed one: the prior has blocks that are short, and closures that are long. With both the same,
they could change names.

The record is of four sweeps of 50 values, 0.1 ms apart, with gaps of 3, 1 and 7 ms between them in which nothing was
recorded, but the channel moved on. The likelihood is exact: a sum over all paths (`simulators.samplers.forward`).
`state` is 0 for closed, 1 for open and 2 for blocked. What happens between two values is not seen, and the current is
that of the
moment: the filter of an amplifier is not in this model.

Reference:
    | On the stochastic properties of bursts of single ion channel openings and of clusters of bursts (Colquhoun,
      Hawkes, 1982), https://doi.org/10.1098/rstb.1982.0156
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sciinf import HalfNormal, LogNormal, Observable, Prior, wrappers
from sciinf.simulators.dynamics.finite_states import FiniteStates
from sciinf.simulators.dynamics.state_space import Theta

SWEEP, STEP, GAPS = 50, 0.1, (3.0, 1.0, 7.0)  # values of a sweep; ms


class Channel(FiniteStates):
    """Closed, open or blocked, and a current while it is open."""

    states = ("closed", "open", "blocked")

    def start(self, theta: Theta) -> Tensor:
        opened = theta["opening"].double() / theta["closing"].double()
        weight = torch.stack([torch.ones_like(opened), opened, opened * theta["blocking"] / theta["unblocking"]], -1)
        return weight / weight.sum(-1, keepdim=True)

    def rates(self, theta: Theta) -> Tensor:
        none = torch.zeros_like(theta["opening"])
        from_closed = torch.stack([none, theta["opening"], none], -1)
        from_open = torch.stack([theta["closing"], none, theta["blocking"]], -1)
        from_blocked = torch.stack([none, theta["unblocking"], none], -1)
        return torch.stack([from_closed, from_open, from_blocked], -2)

    def observe(self, theta: Theta, state: Tensor, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        noise = torch.randn(len(state), generator=generator, dtype=state.dtype)
        return {"current": _current(theta, state) + theta["noise"] * noise}

    def log_observe(self, theta: Theta, state: Tensor, x: Mapping[str, Tensor]) -> Mapping[str, Tensor]:  # type: ignore[override]
        z = (x["current"] - _current(theta, state)) / theta["noise"]
        return {"current": -0.5 * z.square() - theta["noise"].log() - 0.5 * math.log(2 * math.pi)}


def _current(theta: Theta, state: Tensor) -> Tensor:
    return theta["amplitude"] * (state[:, 0] == 1)


def _times() -> list[float]:
    """Of all values, in ms, from the first on."""
    starts = [0.0]
    for gap in GAPS:
        starts.append(starts[-1] + (SWEEP - 1) * STEP + gap)
    return [round(start + k * STEP, 6) for start in starts for k in range(SWEEP)]


times = _times()
prior = Prior(
    opening=(LogNormal(math.log(0.3), 0.5), "1/ms"),
    closing=(LogNormal(math.log(0.3), 0.5), "1/ms"),
    blocking=(LogNormal(math.log(1.0), 0.5), "1/ms"),
    unblocking=(LogNormal(math.log(3.0), 0.5), "1/ms"),
    amplitude=(LogNormal(math.log(4.0), 0.3), "pA"),
    noise=(HalfNormal(1.0), "pA"),
)
current = Observable((len(times),), "pA", ("time",), coords={"time": times}, coord_units={"time": "ms"})
simulator = wrappers.state_space(Channel(), prior, times, {"current": current}, name="ion_channel")
