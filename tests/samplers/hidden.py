"""State-space models whose likelihood and path are known, for the filters."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sciinf.simulators.dynamics.finite_states import FiniteStates
from sciinf.simulators.dynamics.linear_states import Affine, LinearStates
from sciinf.simulators.dynamics.state_space import StateSpace, Theta, Time, duration

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Track(LinearStates):
    """A place and its velocity, a random walk; seen: the place, and a pair of both with correlated noise."""

    latent = {"place": "m", "velocity": "m/s"}

    def start(self, theta: Theta) -> tuple[Tensor, Tensor]:
        return torch.tensor([[0.5, -0.2]]), torch.tensor([[[2.0, 0.3], [0.3, 1.0]]])

    def step(self, theta: Theta, start: Time, stop: Time) -> Affine:
        t, q = torch.broadcast_tensors(duration(start, stop, theta["q"]), theta["q"])
        one, none = torch.ones_like(t), torch.zeros_like(t)
        matrix = torch.stack([torch.stack([one, t], -1), torch.stack([none, 0.9 * one], -1)], -2)
        noise = torch.stack([torch.stack([t**3 / 3, t**2 / 2], -1), torch.stack([t**2 / 2, t], -1)], -2)
        return Affine(matrix, torch.stack([0.1 * t, none], -1), q[:, None, None] ** 2 * noise)

    def view(self, theta: Theta) -> Mapping[str, Affine]:
        r = theta["r"][:, None, None] ** 2
        both = torch.tensor([[1.0, 0.4], [0.4, 2.0]]).to(r) * r
        return {
            "y": Affine(torch.tensor([[[1.0, 0.0]]]).to(r), 0.0, r),
            "pair": Affine(torch.tensor([[[0.0, 1.0], [1.0, 1.0]]]).to(r), torch.tensor([[0.3, -1.0]]).to(r), both),
        }


class OU(LinearStates):
    """dz = -k z dt + s dW from its stationary law; y = z + r e."""

    latent = {"z": "mV"}

    def start(self, theta: Theta) -> tuple[Tensor, Tensor]:
        variance = theta["s"].square() / (2 * theta["k"])
        return torch.zeros_like(variance)[:, None], variance[:, None, None]

    def step(self, theta: Theta, start: Time, stop: Time) -> Affine:
        left = torch.exp(-theta["k"] * duration(start, stop, theta["k"]))
        variance = theta["s"].square() / (2 * theta["k"]) * (1 - left.square())
        return Affine(left[:, None, None], 0.0, variance[:, None, None])

    def view(self, theta: Theta) -> Mapping[str, Affine]:
        r = theta["r"][:, None, None]
        return {"y": Affine(torch.ones_like(r), 0.0, r.square())}


class Level(StateSpace):
    """A random walk seen with noise, of which only what a particle filter needs is said."""

    latent = {"level": "1e8 m3"}

    def initial(self, theta: Theta, rows: int, *, generator: torch.Generator) -> Tensor:
        return 1000.0 + 300.0 * torch.randn(rows, 1, generator=generator)

    def advance(self, theta: Theta, state: Tensor, start: Time, stop: Time, *, generator: torch.Generator) -> Tensor:
        scale = theta["sd_level"] * duration(start, stop, state).sqrt()
        return state + scale[:, None] * torch.randn(state.shape, generator=generator)

    def observe(self, theta: Theta, state: Tensor, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"volume": state[:, 0] + theta["sd_noise"] * torch.randn(len(state), generator=generator)}

    def log_observe(self, theta: Theta, state: Tensor, x: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        z = (x["volume"] - state[:, 0]) / theta["sd_noise"]
        return {"volume": -0.5 * z.square() - theta["sd_noise"].log() - HALF_LOG_2PI}

    def log_advance(self, theta: Theta, state: Tensor, later: Tensor, start: Time, stop: Time) -> Tensor:
        scale = theta["sd_level"] * duration(start, stop, state).sqrt()
        return -0.5 * ((later - state)[:, 0] / scale).square() - scale.log() - HALF_LOG_2PI


class Channel(FiniteStates):
    """Closed, open, inactive: seen as a current with noise."""

    states = ("closed", "open", "inactive")
    latent = {"channel": ""}

    def __init__(self, noise: float = 0.4) -> None:
        self.noise = noise

    def start(self, theta: Theta) -> Tensor:
        return torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)

    def rates(self, theta: Theta) -> Tensor:
        a, b = theta["a"], theta["b"]
        none = torch.zeros_like(a)
        rows = [[none, a, none], [b, none, 0.5 * a], [0.2 * b, none, none]]
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    def observe(self, theta: Theta, state: Tensor, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        noise = torch.randn(len(state), generator=generator, dtype=state.dtype)
        return {"current": _current(state) + self.noise * noise}

    def log_observe(self, theta: Theta, state: Tensor, x: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        z = (x["current"] - _current(state)) / self.noise
        return {"current": -0.5 * z.square() - math.log(self.noise) - HALF_LOG_2PI}


def _current(state: Tensor) -> Tensor:
    return torch.tensor([0.0, 1.0, 0.3], dtype=state.dtype)[state[:, 0].long()]
