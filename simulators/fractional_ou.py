r"""A place that is drawn back to 0 and driven by noise with a memory: a fractional Ornstein-Uhlenbeck process.

    dx = -k x dt + s dB_H(t),    x(0) = 0,    seen(t_i) = x(t_i) + N(0, noise^2),

as of a bead in a trap within a fluid that remembers. B_H is Riemann and Liouville's motion of Hurst index H, with time
in s, so that s has the unit of x: for H > 1/2 its steps go on in their direction, for H < 1/2 they turn back, H = 1/2
is Brownian motion. `simulators.dynamics.noise.MarkovFractional` takes it as a sum of six processes driven by one and
the same W,

    B_H ~ sum_j w_j Y_j,    dY_j = -gamma_j Y_j dt + dW.

With V one more of them, of speed k, the equation is solved by

    x = sum_j c_j Y_j + c V,    c_j = s w_j gamma_j / (gamma_j - k),    c = -s sum_j w_j k / (gamma_j - k),

so that (Y_1 ... Y_6, x) moves linearly, exactly over any time:

    x(t + h) = e^{-kh} x(t) + sum_j c_j (e^{-gamma_j h} - e^{-kh}) Y_j(t) + noise,

and Kalman's filter has the likelihood of H, k, s and noise. It is exact for the sum; `MarkovFractional.error` says how
much of the variance of B_H the sum lacks: a part in 1,700 for H = 0.3, less above, more below. Where k is within a part
in 1,000 of a gamma_j, c_j has no digits left, and k is taken that part away from it: far less than data can tell.

References:
    | Fractional Ornstein-Uhlenbeck processes (Cheridito, Kawaguchi, Maejima, 2003),
      https://doi.org/10.1214/EJP.v8-125
    | Variational inference for SDEs driven by fractional noise (Daems et al., 2024), https://arxiv.org/abs/2310.12975
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sciinf import HalfNormal, LogNormal, Observable, Prior, Uniform, wrappers
from sciinf.simulators.dynamics.linear_states import Affine, LinearStates
from sciinf.simulators.dynamics.noise import MarkovFractional
from sciinf.simulators.dynamics.state_space import Theta, Time, duration

COUNT, HORIZON = 50, 10.0  # values; s
TERMS = 6
NEAREST = 1e-3  # of k to a speed, relative
BEGIN = 1e-12  # variance of each Y at 0: with none, paths cannot be drawn; the log-likelihood changes by 1e-10 or less


class Trapped(LinearStates):
    """Six processes that make up the noise, and the place."""

    latent: Mapping[str, str] = {**{f"y{j}": "" for j in range(1, TERMS + 1)}, "x": "um"}

    def start(self, theta: Theta) -> tuple[Tensor, Tensor]:
        like = theta["k"].double()
        variance = torch.diag(torch.cat([like.new_full((TERMS,), BEGIN), like.new_zeros(1)]))
        return like.new_zeros(1, TERMS + 1), variance[None]

    def step(self, theta: Theta, start: Time, stop: Time) -> Affine:
        motion = MarkovFractional(theta["hurst"].double(), HORIZON, terms=TERMS)
        k, s = apart(theta["k"].double(), motion.speeds), theta["s"].double()
        ratio = motion.weights / (motion.speeds - k[:, None])
        of_y, of_v = s[:, None] * ratio * motion.speeds, -s * k * ratio.sum(-1)
        speeds = torch.cat([motion.speeds.expand(len(k), -1), k[:, None]], -1)  # of Y_1 ... Y_6, V
        time = duration(start, stop, k)[:, None]
        kept, total = torch.exp(-speeds * time), speeds[:, :, None] + speeds[:, None]
        covariance = -torch.expm1(-total * time[..., None]) / total
        matrix = torch.diag_embed(kept)
        matrix[:, -1, :-1] = of_y * (kept[:, :-1] - kept[:, -1:])
        to_x = torch.eye(TERMS + 1, dtype=k.dtype, device=k.device).repeat(len(k), 1, 1)
        to_x[:, -1] = torch.cat([of_y, of_v[:, None]], -1)
        return Affine(matrix, 0.0, to_x @ covariance @ to_x.mT)

    def view(self, theta: Theta) -> Mapping[str, Affine]:
        noise = theta["noise"].double()
        matrix = torch.zeros(1, 1, TERMS + 1, dtype=noise.dtype, device=noise.device)
        matrix[..., -1] = 1.0
        return {"seen": Affine(matrix, 0.0, noise.square()[:, None, None])}


def apart(k: Tensor, speeds: Tensor) -> Tensor:
    """k, at least a part in 1,000 away from each speed, (row,)."""
    gap = k[:, None] / speeds - 1
    side = torch.where(gap < 0, -1.0, 1.0)
    moved = speeds * (1 + side * NEAREST)
    return torch.where(gap.abs() < NEAREST, moved, k[:, None]).gather(1, gap.abs().argmin(1, keepdim=True))[:, 0]


prior = Prior(
    hurst=Uniform(0.2, 0.9),
    k=(LogNormal(0.0, 0.7), "1/s"),
    s=(LogNormal(0.0, 0.5), "um"),
    noise=(HalfNormal(0.1), "um"),
)
times = [round(HORIZON * (i + 1) / COUNT, 6) for i in range(COUNT)]
seen = Observable((COUNT,), "um", ("time",), coords={"time": times}, coord_units={"time": "s"})
simulator = wrappers.state_space(Trapped(), prior, times, {"seen": seen}, begin=0.0, name="fractional_ou")
