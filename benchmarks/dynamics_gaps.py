"""Gaps in series filled in by sparse Gaussian processes: a part of `dynamics_series.py`.

Two Gaussian processes of known lengths, mixed linearly into three channels with noise, have exact laws of what is
missing. Where the mixing is no line, the same network with independent latents, whose posterior reads the whole series,
is the baseline.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, final

import torch
from reporting import check, clock
from torch import Tensor, nn

from sciinf import Observable, Prior, Recipe, Simulator, simulate, train
from sciinf.core.prior import global_seed
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import Latent, LearnedProcess, Linear, Process, Series, SeriesReader, Sizes
from sciinf.emulators.processes.sparse_gp import SparseGP

Rows = list[dict[str, Any]]
LENGTH, LENGTHS, NOISE = 40, (4.0, 10.0), {False: 0.3, True: 0.1}
MIXING = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-0.5, 1.0]], dtype=torch.float64)
DRAWS, ROWS = 100, 200


class Mixed(Simulator):
    """Two Gaussian processes in three channels: mixed linearly, or the first along a spiral."""

    def __init__(self, bent: bool) -> None:
        self.name, self.bent = "spiral" if bent else "mixed", bent
        self.prior = Prior.none()
        self.observables = {"x": Observable((LENGTH, 3), dims=("time", "channel"))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(len(theta), 2, LENGTH, 1, generator=generator, dtype=torch.float64)
        z = (torch.linalg.cholesky(covariances()) @ noise)[..., 0]
        if self.bent:
            turned = 2.0 * z[:, 1]
            seen = torch.stack([turned.cos(), turned.sin(), 0.3 * turned], -1)
        else:
            seen = z.mT @ MIXING.T
        return {"x": (seen + NOISE[self.bent] * torch.randn(seen.shape, generator=generator)).float()}


def covariances() -> Tensor:
    """Of the processes, Matern's of smoothness 1.5, float64 (process, time, time)."""
    place = torch.arange(LENGTH, dtype=torch.float64)
    far = math.sqrt(3) * (place[:, None] - place).abs() / torch.tensor(LENGTHS, dtype=torch.float64)[:, None, None]
    return (1 + far) * torch.exp(-far) + 1e-9 * torch.eye(LENGTH, dtype=torch.float64)


def there(rows: int, generator: torch.Generator) -> Tensor:
    """Masks with a gap of 8 times and others here and there, bool (row, time)."""
    start = torch.randint(LENGTH - 8, (rows, 1), generator=generator)
    place = torch.arange(LENGTH)
    return ((place < start) | (place >= start + 8)) & (torch.rand(rows, LENGTH, generator=generator) < 0.8)


def exact(x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Means and sds of what is missing of linearly mixed rows, given what was seen, (row, time, channel)."""
    joint = torch.einsum("ck,dk,kst->sctd", MIXING, MIXING, covariances()).reshape(3 * LENGTH, 3 * LENGTH)
    joint = joint + NOISE[False] ** 2 * torch.eye(3 * LENGTH, dtype=torch.float64)
    means, sds = [], []
    for row, known in zip(x.double().flatten(1), seen[..., None].expand(-1, -1, 3).flatten(1), strict=True):
        gain = torch.linalg.solve(joint[known][:, known], joint[known]).T
        means.append(gain @ row[known])
        sds.append((joint.diagonal() - (gain * joint[:, known]).sum(1)).clamp_min(0).sqrt())
    return torch.stack(means).reshape(x.shape), torch.stack(sds).reshape(x.shape)


def log_likelihood(x: Tensor) -> float:
    """The mean log density of linearly mixed rows, exactly."""
    joint = torch.einsum("ck,dk,kst->sctd", MIXING, MIXING, covariances()).reshape(3 * LENGTH, 3 * LENGTH)
    joint = joint + NOISE[False] ** 2 * torch.eye(3 * LENGTH, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(torch.zeros(3 * LENGTH, dtype=torch.float64), joint)
    return float(law.log_prob(x.double().flatten(1)).mean())


def of_draws(drawn: Tensor, x: Tensor, hidden: Tensor) -> dict[str, float]:
    """CRPS of draws (draw, row, time, channel) of what is missing, and coverage of their 90 % intervals."""
    ordered = drawn[:, hidden].sort(0).values
    true, count = x[hidden], len(drawn)
    place = torch.arange(1, count + 1)[:, None, None]
    spread = (ordered * (2 * place - count - 1)).sum(0) / (count * (count - 1))  # half the mean distance of two draws
    low, high = torch.quantile(ordered, torch.tensor([0.05, 0.95]).to(ordered), dim=0)
    return {
        "CRPS": float(((ordered - true).abs().mean(0) - spread).mean()),
        "coverage": float(((true >= low) & (true <= high)).double().mean()),
    }


class Independent(Process):
    """z_k ~ N(0, I) at each time by itself, and a posterior that reads the whole series: the baseline.

    Args:
        states: Numbers at a time.
    """

    def __init__(self, states: int) -> None:
        self.states = states

    def build(self, sizes: Sizes, *, seed: int) -> LearnedProcess:
        """The baseline's weights."""
        with global_seed(torch.Generator().manual_seed(seed)):
            return LearnedIndependent(sizes, self.states)


@final
class LearnedIndependent(LearnedProcess):
    """The baseline."""

    def __init__(self, sizes: Sizes, states: int) -> None:
        super().__init__()
        self.states, self.reader = states, SeriesReader(sizes, 16)
        self.head: nn.Module = Linear(self.reader.outputs, 2 * states, scale=0.3)

    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        """Gaussian at each time."""
        mean, log_sd = self.head(self.reader(series)).chunk(2, -1)
        noise = torch.randn(mean.shape, generator=generator)
        kl = (0.5 * (mean.square() + (2 * log_sd).exp() - 1) - log_sd).sum((1, 2))
        return Latent(mean + log_sd.exp() * noise, kl)

    def prior(self, series: Series, *, generator: torch.Generator) -> Tensor:
        """White noise."""
        return torch.randn(len(series), series.length, self.states, generator=generator)

    def shared(self) -> Tensor:
        """Nothing."""
        return torch.zeros(())


def gaps(options: Any, out: Path) -> tuple[Rows, Rows]:
    """What is missing, filled in, beside the exact Gaussian process and beside independent latents."""
    rows, checks = [], []
    epochs, found = (12, 12) if options.quick else (25, 50), dict[str, dict[str, float]]()
    for bent in (False, True):
        simulator, generator = Mixed(bent), torch.Generator().manual_seed(options.seed + 1)
        store = simulate(simulator, out / f"store_{bent}", 1_500, seed=options.seed, progress=False)
        x, seen = simulator(torch.zeros(ROWS, 0), generator=generator)["x"], there(ROWS, generator)
        processes: dict[str, Process] = {"sparse GP": SparseGP(2 - bent, spacing=2.0)}
        if bent:
            processes["independent latents"] = Independent(2 - bent)
        for name, process in processes.items():
            surrogate = LatentDynamics(simulator.prior, simulator.observables, process, width=32 * bent, hide=0.3,
                                       seed=options.seed)  # fmt: skip
            started = clock("cpu")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                recipe = Recipe(epochs=epochs[bent], batch=64, learning_rate=8e-3)
                folder = out / f"{name}_{bent}"
                fit: Any = train(surrogate, store, folder, recipe=recipe, seed=options.seed, progress=False)
            spent, given = clock("cpu") - started, {"x": x, "x_mask": seen}
            drawn = [fit.surrogate.complete(torch.zeros(ROWS, 0), given, generator=generator) for _ in range(DRAWS)]
            found[f"{name}, {simulator.name}"] = {**of_draws(torch.stack(drawn), x, ~seen), "CPU s": spent}
            if not bent:
                with torch.no_grad():
                    bound = fit.surrogate.bound(torch.zeros(ROWS, 0), {"x": x}, generator=generator)
                found[f"{name}, {simulator.name}"]["nats a time below"] = (
                    log_likelihood(x) - float(bound.mean())
                ) / LENGTH
                told = fit.surrogate.process.log_length.detach().exp().tolist()
                print(f"lengths: {', '.join(f'{one:.2f}' for one in told)} for {LENGTHS}", flush=True)
        if not bent:
            mean, sd = exact(x, seen)
            draws = mean + sd * torch.randn(DRAWS, *x.shape, generator=generator, dtype=torch.float64)
            found["exact, mixed"] = of_draws(draws, x.double(), ~seen) | {"CPU s": 0.0}
    rows = [{"filled in by": name, **values} for name, values in found.items()]
    linear, ratio = found["sparse GP, mixed"], found["sparse GP, spiral"]["CRPS"]
    ratio = ratio / found["independent latents, spiral"]["CRPS"]
    loose = 2.0 if options.quick else 1.0
    checks = [
        check("gaps: CRPS over the exact", linear["CRPS"] / found["exact, mixed"]["CRPS"], 1 + 0.1 * loose),
        check("gaps: coverage of 90 % off", abs(linear["coverage"] - 0.9), 0.03 * loose),
        check("gaps: CRPS over that of independent latents", ratio, 0.9),
    ]
    return rows, checks


if __name__ == "__main__":
    from reporting import in_parts

    in_parts(str(__doc__), {"gaps": gaps})
