r"""Four seconds of a kinesin that walks along a microtubule and pulls a bead: 100 positions of the bead.

The motor steps at random times, forwards or backwards, from one tubulin dimer to the next, s = 8.2 nm away. The stage
drifts, and the position of the bead has Brownian noise:

    N(t) = F(t) - B(t),     F and B Poisson processes of the rates `forward` and `backward`, from t = 0 on,
    x_k ~ N(s N(t_k) + drift t_k, noise^2),     t_k = 0.04 s k,     k = 1 ... 100.

The likelihood is the sum over the paths of N, by the forward algorithm. Between two positions it counts up to 8 steps
in each direction, and N lies within 12 steps (98 nm) of what a position shows.

References:
    | Direct observation of kinesin stepping by optical trapping interferometry (Svoboda, Schmidt, Schnapp & Block,
      1993), https://doi.org/10.1038/365721a0
    | Kinesin moves by an asymmetric hand-over-hand mechanism (Asbury, Fehr & Block, 2003),
      https://doi.org/10.1126/science.1092985
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import distributions as td
from torch.nn.functional import pad

from sciinf import LogNormal, Normal, Observable, Prior, Simulator
from sciinf.core import X

FRAMES, INTERVAL = 100, 0.04  # s
STEP = 8.2  # nm
AT_ONCE, NEAR = 8, 12  # what the likelihood counts: steps between two positions, and steps from where the bead is seen
TIMES = [round(INTERVAL * k, 6) for k in range(1, FRAMES + 1)]


class MotorSteps(Simulator):
    """Positions of the bead along the microtubule, from where it was at the time 0."""

    name = "motor_steps"
    prior = Prior(
        forward=(LogNormal(math.log(6.0), 0.35), "1/s"),
        backward=(LogNormal(math.log(1.0), 0.5), "1/s"),
        drift=(Normal(0.0, 0.5), "nm/s"),
        noise=(LogNormal(math.log(3.0), 0.4), "nm"),
    )
    observables = {
        "position": Observable((FRAMES,), "nm", ("time",), coords={"time": TIMES}, coord_units={"time": "s"})
    }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        rates, drift, noise = theta[:, :2].double(), theta[:, 2:3].double(), theta[:, 3:].double()
        steps = torch.poisson(rates[..., None].expand(-1, -1, FRAMES) * INTERVAL, generator=generator).cumsum(2)
        normal = torch.randn(len(theta), FRAMES, generator=generator, dtype=torch.float64)
        mean = STEP * (steps[:, 0] - steps[:, 1]) + drift * torch.tensor(TIMES, dtype=torch.float64)
        return {"position": (mean + noise * normal).to(theta.dtype)}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 4), float64."""
        drift, noise = theta[:, 2:3].double(), theta[:, 3:].double()
        moves, window = probabilities(theta), torch.arange(-NEAR, NEAR + 1, dtype=torch.float64)
        share, before = (window == 0).double().expand(len(theta), -1), 0  # at the time 0, N is 0
        log = torch.zeros(len(theta), dtype=torch.float64)
        for time, position in zip(TIMES, x["position"][0].double(), strict=True):
            middle = round(float(position) / STEP)
            room = AT_ONCE + abs(middle - before)
            padded, moved = pad(share, (room, room)), torch.zeros_like(share)
            for k in range(-AT_ONCE, AT_ONCE + 1):
                first = room + middle - before - k
                moved = moved + moves[:, k + AT_ONCE, None] * padded[:, first : first + len(window)]
            mean = STEP * (middle + window) + drift * time
            joint = moved.clamp_min(1e-300).log() + td.Normal(mean, noise).log_prob(position)
            total = joint.logsumexp(1, keepdim=True)
            share, log, before = (joint - total).exp(), log + total[:, 0], middle
        return log


def probabilities(theta: Tensor) -> Tensor:
    """Probabilities of -AT_ONCE ... AT_ONCE steps between two positions, (n, 17), float64."""
    counts = torch.arange(AT_ONCE + 1, dtype=torch.float64)
    forward, backward = (td.Poisson(INTERVAL * theta[:, k : k + 1].double()).log_prob(counts).exp() for k in (0, 1))
    found = forward.new_zeros(len(theta), 2 * AT_ONCE + 1)
    for k in range(AT_ONCE + 1):
        found[:, AT_ONCE - k : 2 * AT_ONCE + 1 - k] += backward[:, k : k + 1] * forward
    return found


simulator = MotorSteps()
