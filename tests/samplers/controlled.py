"""Models with controls whose likelihood is known: a tank that is filled and warmed, a channel that a pulse opens."""

from __future__ import annotations

import torch

from sciinf import LogUniform, Observable, Prior, wrappers
from sciinf.simulators.dynamics.finite_states import FiniteStates
from sciinf.simulators.dynamics.linear_states import Affine, LinearStates
from sciinf.simulators.dynamics.state_space import StateSpace, duration
from sciinf.simulators.wrappers.hidden_plans import Plan

PRIOR = Prior(k=LogUniform(0.1, 1.0), s=LogUniform(0.2, 1.0), r=LogUniform(0.1, 0.5))
TIMES = (0.0, 0.0, 0.5, 0.5, 2.0, 5.0)
FILL = (3.0, 0.0, 0.0, 2.0, 0.0, 1.0)  # twice at times that come twice: what is seen at 0.5 is seen before it
WARMTH = ((0.0, 1.0), (0.5, 1.0), (1.0, 0.0), (-1.0, 2.0), (2.0, 0.0), (0.0, 0.3))


class Tank(LinearStates):
    """dz = (2 w_1 - k z) dt + s dW, z + fill at the beginning of a step; y = z + 0.5 w_2 + r e."""

    latent = {"level": "m"}
    controls = {"fill": "m", "warmth": "K"}
    impulses = ("fill",)

    def start(self, theta):
        none = torch.zeros_like(theta["k"])
        return none[:, None], none[:, None, None] + 0.04

    def step(self, theta, start, stop):
        k = theta["k"]
        left = torch.exp(-k * duration(start, stop, k))
        moved = left * theta["fill"] + 2.0 * theta["warmth"][:, 0] * (1 - left) / k
        noise = theta["s"].square() * (1 - left.square()) / (2 * k)
        return Affine(left[:, None, None], moved[:, None], noise[:, None, None])

    def view(self, theta):
        r = theta["r"][:, None, None]
        return {"y": Affine(torch.ones_like(r), 0.5 * theta["warmth"][:, 1:], r.square())}


class TankByParticles(StateSpace):
    """The same, of which a filter may only know how to move and to weigh it."""

    latent, controls, impulses = Tank.latent, Tank.controls, Tank.impulses

    def initial(self, theta, rows, *, generator):
        return Tank().initial(theta, rows, generator=generator)

    def advance(self, theta, state, start, stop, *, generator):
        return Tank().advance(theta, state, start, stop, generator=generator)

    def observe(self, theta, state, *, generator):
        return {"y": Tank().observe(theta, state, generator=generator)["y"][:, 0]}

    def log_observe(self, theta, state, x):
        return {"y": Tank().log_observe(theta, state, {"y": x["y"][:, None]})["y"][:, 0]}

    def log_advance(self, theta, state, later, start, stop):
        return Tank().log_advance(theta, state, later, start, stop)


class Gate(FiniteStates):
    """Closed or open: a pulse opens it, and it closes by itself; its current is seen with noise."""

    states = ("closed", "open")
    controls = {"pulse": "mV"}

    def start(self, theta):
        return torch.tensor([[0.7, 0.3]], dtype=torch.float64)

    def rates(self, theta):
        none, opening = torch.zeros_like(theta["k"]), theta["s"] * theta["pulse"].exp()
        return torch.stack([torch.stack([none, opening], -1), torch.stack([theta["k"], none], -1)], -2)

    def observe(self, theta, state, *, generator):
        return {"y": state[:, 0] + theta["r"] * torch.randn(len(state), generator=generator, dtype=state.dtype)}

    def log_observe(self, theta, state, x):
        return {"y": torch.distributions.Normal(state[:, 0], theta["r"]).log_prob(x["y"])}


def tank(*, by_particles=False, fill=FILL, warmth=WARMTH, times=TIMES, **options):
    """One with controls that are the same in all records."""
    model = TankByParticles() if by_particles else Tank()
    y = Observable((len(times),), "m", ("time",))
    return wrappers.state_space(model, PRIOR, times, {"y": y}, controls={"fill": fill, "warmth": warmth}, **options)


def plans(rows: int, generator: torch.Generator) -> Plan:
    """Six times of each record, with other fillings and warmth, and a third of them without a value."""
    times = (5 * torch.rand(rows, 6, generator=generator)).sort(-1).values
    fill = 3 * torch.rand(rows, 6, generator=generator) * (torch.rand(rows, 6, generator=generator) < 0.4)
    warmth = torch.randn(rows, 6, 2, generator=generator)
    return Plan(times, {"fill": fill, "warmth": warmth}, torch.rand(rows, 6, generator=generator) < 0.67)


def planned_tank(*, by_particles=False, **options):
    """One whose records differ in their plans."""
    model = TankByParticles() if by_particles else Tank()
    y = Observable((6,), "m", ("time",))
    return wrappers.state_space(model, PRIOR, plans, {"y": y}, time_unit="h", **options)
