"""Systems whose hidden paths `dynamics_latent.py` learns, and a posterior that reads whole series, to compare with."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sciinf import Observable, Prior, Simulator
from sciinf.core.prior import global_seed
from sciinf.emulators.processes import (
    Latent,
    LearnedProcess,
    Linear,
    LinearGaussian,
    Process,
    Series,
    SeriesReader,
    Sizes,
)
from sciinf.emulators.processes.linear_gaussian import LearnedChain
from sciinf.simulators.dynamics.linear_states import Affine, LinearStates
from sciinf.simulators.dynamics.state_space import Record, Theta, Time
from sciinf.simulators.samplers import kalman

SPEED, DAMPING = 0.5, 0.05
MODULI, ANGLES = (0.98, 0.96), (0.4, 1.1)


class States(LinearStates):
    """A damped oscillator that noise drives."""

    latent = {"a": "", "b": ""}

    def start(self, theta: Theta) -> tuple[Tensor, Tensor]:
        """Near (1, 0)."""
        return torch.tensor([[1.0, 0.0]]), 0.5 * torch.eye(2)[None]

    def step(self, theta: Theta, start: Time, stop: Time) -> Affine:
        """Turned and damped; the long run's covariance is I."""
        time = torch.as_tensor(stop).double().reshape(-1) - torch.as_tensor(start).double().reshape(-1)
        turn, keep = SPEED * time, (-DAMPING * time).exp()
        rows = [torch.stack([turn.cos(), -turn.sin()], -1), torch.stack([turn.sin(), turn.cos()], -1)]
        noise = (1 - keep.square())[:, None, None] * torch.eye(2, dtype=torch.float64)
        return Affine(keep[:, None, None] * torch.stack(rows, -2), 0.0, noise)

    def view(self, theta: Theta) -> Mapping[str, Affine]:
        """One number."""
        return {"x": Affine(torch.tensor([[2.0, 0.5]]), torch.tensor([[3.0]]), torch.tensor([[[0.25]]]))}


class Oscillator(Simulator):
    """At times of each row's own; 30 % are missing."""

    name, length = "oscillator", 40

    def __init__(self) -> None:
        self.prior = Prior.none()
        self.observables = {
            "x": Observable((self.length, 1), dims=("time", "channel")),
            "x_mask": Observable((self.length,), dtype="bool", dims=("time",)),
            "x_times": Observable((self.length,), dtype="float64", dims=("time",)),
        }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        rows, model = len(theta), States()
        times = (0.3 + 1.4 * torch.rand(rows, self.length, generator=generator, dtype=torch.float64)).cumsum(1)
        state, found = model.initial({}, rows, generator=generator).double(), []
        for k in range(self.length):
            if k:
                state = model.advance({}, state, times[:, k - 1], times[:, k], generator=generator)
            found.append(model.observe({}, state.float(), generator=generator)["x"])
        return {"x": torch.stack(found, 1), "x_mask": shown(theta, self.length, 0.3, generator), "x_times": times}

    @staticmethod
    def filtered(x: Mapping[str, Tensor]) -> kalman.Filtered:
        """The exact likelihood."""
        return kalman.filtered(States(), {}, Record(x["x_times"], {"x": x["x"]}, {"x": x["x_mask"]}))


class Pendulum(Simulator):
    """Six sensors around a noisy pendulum, each of which sees it when it is near; half of the times are missing."""

    name, length, sensors = "pendulum", 40, 6

    def __init__(self) -> None:
        self.prior = Prior.none()
        self.observables = {
            "x": Observable((self.length, self.sensors), dims=("time", "sensor")),
            "x_mask": Observable((self.length,), dtype="bool", dims=("time",)),
        }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        rows, small = len(theta), 0.03
        angle = 1.5 * torch.randn(rows, generator=generator).clamp(-1.8, 1.8)
        speed, found = 0.5 * torch.randn(rows, generator=generator), []
        places = torch.arange(self.sensors) * 2 * math.pi / self.sensors
        for _ in range(self.length):
            found.append((2 * ((angle[:, None] - places).cos() - 1)).exp())
            for _ in range(10):
                speed = speed - small * angle.sin() + 0.003 * torch.randn(rows, generator=generator)
                angle = angle + small * speed
        x = torch.stack(found, 1)
        x = x + 0.05 * torch.randn(x.shape, generator=generator)
        return {"x": x, "x_mask": shown(theta, self.length, 0.5, generator)}


class Two(Simulator):
    """Two noisy oscillators, seen in three mixtures with noise.

    Args:
        dropped: The share of times that is missing.
    """

    length = 40

    def __init__(self, dropped: float) -> None:
        self.prior, self.dropped, self.name = Prior.none(), dropped, f"two_oscillators_without_{dropped:g}"
        self.observables = {
            "x": Observable((self.length, 3), dims=("time", "channel")),
            "x_mask": Observable((self.length,), dtype="bool", dims=("time",)),
        }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        state, found, matrix = torch.randn(len(theta), 4, generator=generator), [], torch.zeros(4, 4)
        for i, (modulus, angle) in enumerate(zip(MODULI, ANGLES, strict=True)):
            c, s, here = modulus * math.cos(angle), modulus * math.sin(angle), slice(2 * i, 2 * i + 2)
            matrix[here, here] = torch.tensor([[c, -s], [s, c]])
        noise = (torch.eye(4) - matrix @ matrix.T).diagonal().sqrt()
        view = torch.tensor([[1.0, 0.0, 0.6, 0.0], [0.0, 0.8, 0.0, 0.7], [0.5, 0.5, -0.5, 0.3]])
        for _ in range(self.length):
            found.append(state @ view.T + 0.2 * torch.randn(len(theta), 3, generator=generator))
            state = state @ matrix.T + noise * torch.randn(state.shape, generator=generator)
        return {"x": torch.stack(found, 1), "x_mask": shown(theta, self.length, self.dropped, generator)}


def shown(theta: Tensor, length: int, missing: float, generator: torch.Generator) -> Tensor:
    """Which times are seen."""
    return torch.rand(len(theta), length, generator=generator) >= missing


class Recurrent(Process):
    """The prior of `LinearGaussian`; a posterior whose times are independent given what two recurrent cells read."""

    def __init__(self, states: int = 4, width: int = 32) -> None:
        self.states, self.width = states, width

    def build(self, sizes: Sizes, *, seed: int) -> LearnedProcess:
        """The process."""
        chain = LinearGaussian(self.states).build(sizes, seed=seed)
        with global_seed(torch.Generator().manual_seed(seed)):
            return _Recurrent(sizes, chain, self.width)


class _Recurrent(LearnedProcess):
    def __init__(self, sizes: Sizes, chain: LearnedProcess, width: int) -> None:
        super().__init__()
        assert isinstance(chain, LearnedChain)
        self.states, self.linear = chain.states, chain
        chain.evidence = nn.Identity()  # type: ignore[assignment]  # of no use here
        self.reader = SeriesReader(sizes, width)
        self.head = Linear(self.reader.outputs, 2 * self.states, scale=0.5)

    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        mean, log_sd = self.head(self.reader(series)).chunk(2, -1)
        log_sd = log_sd.clamp(-6, 3) - 1
        noise = torch.randn(mean.shape, generator=generator)
        z = mean + log_sd.exp() * noise
        chain, path = self.linear.chain(series), z.double()
        log_p = _log_normal(path[:, 0] - chain.mean, chain.covariance)
        moved = (chain.matrix @ path[:, :-1, :, None])[..., 0] + chain.shift
        log_p = log_p + _log_normal(path[:, 1:] - moved, chain.noise).sum(1)
        ratio = (-0.5 * noise.square() - log_sd).sum((1, 2)) - log_p.float()
        return Latent(z, ratio, ratio)  # constants of both densities cancel

    def prior(self, series: Series, *, generator: torch.Generator) -> Tensor:
        return self.linear.prior(series, generator=generator)

    def shared(self) -> Tensor:
        return torch.zeros(())


def _log_normal(off: Tensor, covariance: Tensor) -> Tensor:
    """Without the constant."""
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, off[..., None], upper=False)[..., 0]
    return -0.5 * white.square().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
