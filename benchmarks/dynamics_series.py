"""Hidden paths drawn in parallel, by sparse Gaussian processes, or refined when asked: a part of `dynamics.py`.

An autoregression of order 2 has an exact likelihood, by the Gaussian law of all its values. What is drawn in parallel
is timed against the same network step by step, which makes the same path of the same noise.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from dynamics_automaton import automaton
from dynamics_gaps import gaps
from reporting import check, clock
from torch import Tensor

from sciinf import Observable, Prior, Recipe, Simulator, simulate, train
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import Series, Sizes
from sciinf.emulators.processes.parallel import LearnedParallel, Parallel

Rows = list[dict[str, Any]]
PHI = (1.2, -0.6)
LENGTH, LONG = 64, 4_096


class Autoregression(Simulator):
    """x_t = 1.2 x_{t-1} - 0.6 x_{t-2} + e_t, e_t ~ N(0, 1), stationary from its start."""

    name = "autoregression"

    def __init__(self) -> None:
        self.prior = Prior.none()
        self.observables = {"x": Observable((LENGTH, 1), dims=("time", "channel"))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(len(theta), LENGTH, generator=generator, dtype=torch.float64)
        return {"x": (noise @ torch.linalg.cholesky(covariance(LENGTH)).T).float()[..., None]}


def covariance(count: int) -> Tensor:
    """Of so many values of the autoregression, float64 (time, time)."""
    one, two = PHI
    found = [(1 - two) / ((1 + two) * ((1 - two) ** 2 - one**2))]
    found.append(one * found[0] / (1 - two))
    for _ in range(2, count):
        found.append(one * found[-1] + two * found[-2])
    place = torch.arange(count)
    return torch.tensor(found, dtype=torch.float64)[(place[:, None] - place).abs()]


def in_parallel(options: Any, out: Path) -> tuple[Rows, Rows]:
    """The gap to the exact likelihood, seconds of a long path, and paths that go on from where others ended."""
    simulator, epochs = Autoregression(), 12 if options.quick else 40
    store = simulate(simulator, out / "store", 2_400, seed=options.seed, progress=False)
    held = simulator(torch.zeros(400, 0), generator=torch.Generator().manual_seed(options.seed + 1))["x"]
    exact = gaussian(held[..., 0].double(), covariance(LENGTH))
    rows: Rows = []
    fits: dict[bool, Any] = {}
    for correlated in (True, False):
        process = Parallel(2, noise=1, width=16, recurrences=8, layers=1, longest=16, correlated=correlated)
        surrogate = LatentDynamics(simulator.prior, simulator.observables, process, width=0, seed=options.seed)
        started = clock("cpu")
        fits[correlated] = fitted(surrogate, store, out / f"fit_{correlated}", epochs, options.seed)
        spent = clock("cpu") - started
        gap = exact - bound_of(fits[correlated], held, options.seed)
        rows.append({"posterior": "correlated" if correlated else "independent", "nats a step below": gap / LENGTH,
                     "CPU s": spent})  # fmt: skip
    checks = [check("parallel: nats a step below the exact likelihood", rows[0]["nats a step below"],
                    0.15 if options.quick else 0.05)]  # fmt: skip
    process = fits[True].process
    told, found = resumed(process, 500 if options.quick else 2_000, options.seed)
    rows, checks = rows + told, checks + found
    timed = seconds(options.seed)
    checks.append(check("parallel: seconds of one path, of those step by step", timed[0]["s"] / timed[0]["s by step"],
                        1 / 20))  # fmt: skip
    return rows + timed, checks


def gaussian(x: Tensor, matrix: Tensor) -> float:
    """The mean log density of rows of N(0, matrix)."""
    law = torch.distributions.MultivariateNormal(x.new_zeros(len(matrix)), matrix)
    return float(law.log_prob(x).mean())


def fitted(surrogate: LatentDynamics, store: Any, out: Path, epochs: int, seed: int) -> Any:
    """The trained surrogate."""
    recipe = Recipe(epochs=epochs, batch=64, learning_rate=8e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(surrogate, store, out, recipe=recipe, seed=seed, progress=False).surrogate


@torch.no_grad()
def bound_of(surrogate: Any, x: Tensor, seed: int) -> float:
    """Nats of a row, on average."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.zeros(len(x), 0)
    return float(torch.stack([surrogate.bound(theta, {"x": x}, generator=generator) for _ in range(8)]).mean())


@torch.no_grad()
def resumed(process: LearnedParallel, count: int, seed: int) -> tuple[Rows, Rows]:
    """Paths of 4,096 times, whole and in two halves: 16 steps around the joint told apart by a classifier."""
    from sbi_peer import c2st

    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = {"whole": [], "halves": [], "broken": []}
    some = slice(LONG // 2 - 8, LONG // 2 + 8)
    for _ in range(count // 50):
        found["whole"].append(process.prior(blank(50, LONG), generator=generator)[:, some, 0])
        first, end = process.resumed(blank(50, LONG // 2), None, generator=generator)
        for name, carried in (("halves", end), ("broken", None)):
            second = process.resumed(blank(50, LONG // 2), carried, generator=generator)[0]
            found[name].append(torch.cat([first, second], 1)[:, some, 0])
    whole, halves, broken = (torch.cat(parts) for parts in found.values())
    fair, fault = c2st(whole, halves), c2st(whole, broken)
    rows = [{"paths": "in two halves", "C2ST": fair}, {"paths": "two paths side by side", "C2ST": fault}]
    return rows, [check("parallel: C2ST of paths in two halves", fair, 0.55),
                  check("parallel: minus C2ST of paths that do not go on", -fault, -0.6)]  # fmt: skip


def blank(rows: int, count: int) -> Series:
    """Rows of which nothing is known."""
    return Series(torch.zeros(rows, count, 1), torch.zeros(rows, count, dtype=torch.bool), torch.zeros(rows, 0))


@torch.no_grad()
def seconds(seed: int) -> Rows:
    """Of paths of 4,096 times at once, and of the same network step by step, as lean as it can be written."""
    process = Parallel(4, noise=2, width=32, recurrences=16, layers=2).build(Sizes(1, 0, 0), seed=seed)
    rows: Rows = []
    for count in (1, 8, 64):
        series, spent = blank(count, LONG), []
        for call in (lambda s, g: process.prior(s, generator=g), lambda s, g: by_step(process, s, g)):
            call(blank(count, 32), torch.Generator().manual_seed(seed))
            started = clock("cpu")
            path = call(series, torch.Generator().manual_seed(seed))
            spent.append((clock("cpu") - started, path))
        (fast, one), (slow, other) = spent
        off = float((one - other).abs().max())
        rows.append({"paths of 4,096": count, "s": fast, "s by step": slow, "times faster": slow / fast, "apart": off})
    return rows


def by_step(process: LearnedParallel, series: Series, generator: torch.Generator) -> Tensor:
    """A path of the prior, each step after the one before, of the same noise as `prior`."""
    start = torch.randn(len(series), process.width, generator=generator)
    noise = torch.randn(len(series), series.length, process.noise, generator=generator)
    layers: Any = list(process.layers)
    parts = process.begin(start).chunk(2 * len(layers), -1)
    states = [torch.complex(parts[2 * k], parts[2 * k + 1]) for k in range(len(layers))]
    rates = [layer.rates(series.context) for layer in layers]
    decays, roots = [rate.exp() for rate in rates], [(-torch.expm1(2 * rate.real)).sqrt() for rate in rates]
    inward = [torch.complex(*layer.inward.chunk(2, -1)) for layer in layers]
    found = []
    for k in range(series.length):
        x = process.enter(noise[:, k])
        for n, layer in enumerate(layers):
            states[n] = decays[n] * states[n] + roots[n] * (x.to(inward[n].dtype) @ inward[n])
            y = torch.view_as_real(states[n]).transpose(1, 2).flatten(1) @ layer.outward + layer.direct * x
            x = y + layer.mix(torch.nn.functional.gelu(layer.gate(y)))
        found.append(process.leave(x))
    return torch.stack(found, 1)


def series(options: Any, out: Path) -> tuple[Rows, Rows]:
    """All of it."""
    rows, checks = list[dict[str, Any]](), list[dict[str, Any]]()
    for name, part in PARTS.items():
        found = part(options, out / name)
        rows, checks = rows + found[0], checks + found[1]
    return rows, checks


PARTS = {"parallel": in_parallel, "automaton": automaton, "gaps": gaps}


if __name__ == "__main__":
    from reporting import in_parts

    in_parts(str(__doc__), PARTS)
