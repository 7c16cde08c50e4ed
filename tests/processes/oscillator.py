"""A noisy damped oscillator seen linearly, of which everything is known."""

from __future__ import annotations

import math

import torch

from sciinf.core import Observable, Prior, Simulator
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import LinearGaussian
from sciinf.simulators.dynamics.linear_states import Affine, LinearStates
from sciinf.simulators.dynamics.state_space import Record
from sciinf.simulators.samplers import kalman

SPEED, DAMPING, NOISE = 0.5, 0.05, 0.5
VIEW, LEVEL = torch.tensor([[2.0, 0.5]]), 3.0


class States(LinearStates):
    """dz = F z dt + sqrt(2 d) dW, of covariance I in the long run."""

    latent = {"a": "", "b": ""}

    def start(self, theta):
        return torch.tensor([[1.0, 0.0]]), 0.5 * torch.eye(2)[None]

    def step(self, theta, start, stop):
        time = torch.as_tensor(stop).double().reshape(-1) - torch.as_tensor(start).double().reshape(-1)
        turn, keep = SPEED * time, (-DAMPING * time).exp()
        rows = [torch.stack([turn.cos(), -turn.sin()], -1), torch.stack([turn.sin(), turn.cos()], -1)]
        noise = (1 - keep.square())[:, None, None] * torch.eye(2, dtype=torch.float64)
        return Affine(keep[:, None, None] * torch.stack(rows, -2), 0.0, noise)

    def view(self, theta):
        return {"x": Affine(VIEW, torch.tensor([[LEVEL]]), torch.tensor([[[NOISE**2]]]))}


class Oscillator(Simulator):
    """Seen at times of each row's own; 30 % of the values are missing."""

    name = "oscillator"

    def __init__(self, length=40):
        self.prior, self.length = Prior.none(), length
        self.observables = {
            "x": Observable((length, 1), dims=("time", "channel")),
            "x_mask": Observable((length,), dtype="bool", dims=("time",)),
            "x_times": Observable((length,), dtype="float64", dims=("time",)),
        }

    def __call__(self, theta, *, generator):
        rows, model = len(theta), States()
        times = (0.3 + 1.4 * torch.rand(rows, self.length, generator=generator, dtype=torch.float64)).cumsum(1)
        state, found = model.initial({}, rows, generator=generator).double(), []
        for k in range(self.length):
            if k:
                state = model.advance({}, state, times[:, k - 1], times[:, k], generator=generator)
            found.append(model.observe({}, state.float(), generator=generator)["x"])
        there = torch.rand(rows, self.length, generator=generator) < 0.7
        x = torch.where(there[..., None], torch.stack(found, 1), 0.0)
        return {"x": x, "x_mask": there, "x_times": times}


def filtered(x):
    """The exact answer."""
    return kalman.filtered(States(), {}, Record(x["x_times"], {"x": x["x"]}, {"x": x["x_mask"]}))


@torch.no_grad()
def known(length=40):
    """Latent dynamics whose weights are those of the oscillator."""
    simulator = Oscillator(length)
    learned = LatentDynamics(simulator.prior, simulator.observables, LinearGaussian(2), width=0)
    process, zero = learned.process, torch.zeros(())
    for layer in (learned.encoder, process.evidence, learned.decoder):
        layer.direct.weight.mul_(zero)
        layer.direct.bias.mul_(zero)
    learned.encoder.direct.weight.copy_(torch.eye(2))  # sees the mask, and the value
    process.evidence.direct.weight[:2, 1] = VIEW[0] / NOISE**2
    process.evidence.direct.bias[:2] = -LEVEL * VIEW[0] / NOISE**2
    process.evidence.direct.bias[2:] = torch.tensor([VIEW[0, 0], VIEW[0, 1], 0.0]) / NOISE  # L, by rows
    learned.decoder.direct.weight.copy_(VIEW)
    learned.decoder.direct.bias.fill_(LEVEL)
    learned.emission.log_sd.fill_(math.log(NOISE))
    spread = (2 * DAMPING - 1e-4) ** 0.5
    process.motion.base.copy_(torch.tensor([SPEED, spread, 0.0, spread]))
    process.first.copy_(torch.tensor([1.0, 0.0]))
    process.start.copy_(0.5**0.5 * torch.tensor([1.0, 0.0, 1.0]))
    return learned
