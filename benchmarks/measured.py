"""Draws of diffusions given measurements, against exact posteriors and beside azula: a part of `generators.py`.

Two laws in eight dimensions whose posteriors are known: a mixture of six narrow parts, and a normal law whose
variances go over two decades. Two numbers are measured with noise. 1,000 draws by 60 evaluations of the denoiser, an
exact one, and for the mixture one that is trained on 20,000 draws as well. "distance" is the sliced Wasserstein
distance to exact draws, over that between two sets of exact draws: 1 is right. "guidance" is the same guess without
weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from reporting import check
from torch import Tensor, nn

from sciinf.diagnostics.distances import sliced_wasserstein
from sciinf.networks.diffusion.inverse import Measured
from sciinf.networks.diffusion.objective import Diffusion, NormalLogs
from sciinf.networks.diffusion.particles import particles
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Exponential

PATH, DIM, PARTS, DRAWS, STEPS = NoiseLevel(0.01, 20.0), 8, 6, 1_000, 60
NARROW, NOISE = 0.3, 0.2
Denoise = Callable[[Tensor, Tensor], Tensor]


class Mixture:
    """Equal parts N(c_k, 0.09 I), of mean 0 and about unit covariance."""

    def __init__(self, draw: torch.Generator) -> None:
        centres = torch.randn(PARTS, DIM, generator=draw)
        self.centres = (centres - centres.mean(0)) / centres.std(0, correction=0) * math.sqrt(1 - NARROW**2)

    def sample(self, n: int, draw: torch.Generator) -> Tensor:
        part = torch.randint(PARTS, (n,), generator=draw)
        return self.centres[part] + NARROW * torch.randn(n, DIM, generator=draw)

    def denoise(self, y: Tensor, level: Tensor) -> Tensor:
        variance = NARROW**2 + level**2
        share = (-0.5 * (y[:, None] - self.centres).square().sum(-1) / variance).softmax(1)
        return share @ self.centres * (level**2 / variance) + y * (NARROW**2 / variance)

    def posterior(self, seen: Tensor, n: int, draw: torch.Generator) -> tuple[Tensor, float]:
        """Exact draws, and log p of what was measured."""
        sd = math.sqrt(NARROW**2 + NOISE**2)
        logs = torch.distributions.Normal(self.centres[:, :2], sd).log_prob(seen).sum(1)
        part = torch.multinomial(logs.softmax(0), n, replacement=True, generator=draw)
        noise, gain = torch.randn(n, DIM, generator=draw), NARROW**2 / sd**2
        x = self.centres[part] + NARROW * noise
        x[:, :2] = self.centres[part][:, :2] + gain * (seen - self.centres[part][:, :2])
        x[:, :2] += NOISE * math.sqrt(gain) * noise[:, :2]
        return x, float(logs.logsumexp(0)) - math.log(PARTS)


class Normal:
    """N(0, C), variances over two decades, in directions of no axis."""

    def __init__(self, draw: torch.Generator) -> None:
        turned = torch.linalg.qr(torch.randn(DIM, DIM, generator=draw)).Q
        values = torch.logspace(-1.4, 0.6, DIM)
        self.covariance = turned @ (values / values.mean())[:, None].mul(turned.mT)

    def sample(self, n: int, draw: torch.Generator) -> Tensor:
        return torch.randn(n, DIM, generator=draw) @ torch.linalg.cholesky(self.covariance).mT

    def denoise(self, y: Tensor, level: Tensor) -> Tensor:
        return y @ torch.linalg.solve(self.covariance + level**2 * torch.eye(DIM), self.covariance)

    def posterior(self, seen: Tensor, n: int, draw: torch.Generator) -> tuple[Tensor, float]:
        """Exact draws, and log p of what was measured."""
        c = self.covariance
        s = c[:2, :2] + NOISE**2 * torch.eye(2)
        gain = torch.linalg.solve(s, c[:2]).mT
        law = torch.distributions.MultivariateNormal(gain @ seen, c - gain @ c[:2] + 1e-7 * torch.eye(DIM))
        noise = torch.randn(n, DIM, generator=draw)
        x = law.loc + noise @ law.scale_tril.mT
        return x, float(torch.distributions.MultivariateNormal(torch.zeros(2), s).log_prob(seen))


def first_two(x: Tensor) -> Tensor:
    """What is measured."""
    return x[:, :2]


def measured(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of distances, and what they are to be."""
    del out
    draw = torch.Generator().manual_seed(options.seed)
    kinds: dict[str, Any] = {"mixture": Mixture(draw), "normal": Normal(draw)}
    asked: dict[str, tuple[Any, Denoise]] = {name: (law, law.denoise) for name, law in kinds.items()}
    asked["mixture, trained"] = kinds["mixture"], learned(kinds["mixture"], options.quick, draw)
    rows = list[dict[str, Any]]()
    for name, (law, denoise) in asked.items():
        found: dict[str, list[float]] = {}
        off, floors = [], []
        for _ in range(3 if options.quick else 12):
            seen = first_two(law.sample(1, draw))[0] + NOISE * torch.randn(2, generator=draw)
            true, exact = law.posterior(seen, 2 * DRAWS, draw)
            floors.append(float(sliced_wasserstein(true[:DRAWS], true[DRAWS:])))
            for how, x in _ours(denoise, seen, exact, off, draw).items() | _theirs(denoise, seen).items():
                found.setdefault(how, []).append(float(sliced_wasserstein(x, true[:DRAWS])))
        floor = sum(floors) / len(floors)
        evidence = (sum(one**2 for one in off) / len(off)) ** 0.5
        rows.append({"law": name, "floor": floor, **{how: sum(d) / len(d) / floor for how, d in sorted(found.items())}})
        rows[-1]["log evidence off, in its errors (rms)"] = evidence
    checks = []
    for row in rows:
        bound = (2.5 if "trained" in row["law"] else 1.8) * (1.3 if options.quick else 1)
        checks.append(
            check(f"measured, {row['law']}: distance by particles, order 2", row["particles, order 2"], bound)
        )
        others = [row[how] for how in row if how.startswith("azula")]
        if others and "mixture" in row["law"]:  # of a normal law any guess is right, and weights cost draws
            best = row["particles, order 2"] / min(others)
            checks.append(check(f"measured, {row['law']}: distance over that of the best of azula", best, 1.0))
        if "trained" not in row["law"]:
            evidence = row["log evidence off, in its errors (rms)"]
            checks.append(check(f"measured, {row['law']}: log evidence off, in its errors", evidence, 3.0))
    return rows, checks


def _ours(denoise: Denoise, seen: Tensor, exact: float, off: list[float], draw: torch.Generator) -> dict[str, Tensor]:
    """Draws by particles and by guidance alone."""
    found, start = dict[str, Tensor](), PATH.most * torch.randn(DRAWS, DIM, generator=draw)
    for order in (1, 2):
        twist = Measured(first_two, seen, NOISE, order=order)
        run = particles(denoise, twist, DRAWS, torch.empty(DIM), PATH, generator=draw, steps=STEPS)
        found[f"particles, order {order}"] = run.resample(DRAWS, generator=draw)
        if order == 2:
            off.append((run.log_evidence - exact) / max(run.error, 1e-3))

        def guided(y: Tensor, level: Tensor, twist: Measured = twist) -> Tensor:
            _, slope, value = twist.guess(denoise, y, level)
            return value + level**2 * slope

        found[f"guidance, order {order}"] = Exponential(STEPS).solve(guided, start, PATH, generator=draw)
    return found


def _theirs(denoise: Denoise, seen: Tensor) -> dict[str, Tensor]:
    """Draws by azula, where it is installed; its random numbers are torch's own."""
    try:
        denoisers, guidance, noise, sample = (
            import_module(f"azula.{part}") for part in ("denoise", "guidance", "noise", "sample")
        )
    except ImportError:
        return {}

    class Known(denoisers.Denoiser):
        schedule = noise.VESchedule(PATH.least, PATH.most)

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            return denoisers.DiracPosterior(mean=denoise(x_t, self.schedule.sigma(t)))

    def twist(x: Tensor, level: Tensor) -> Tensor:
        variance = NOISE**2 + level**2 / (1 + level**2)
        return -0.5 * ((seen - first_two(x)).square() / variance + variance.log())

    known, told = Known(), {"steps": STEPS, "silent": True}
    samplers = {
        "azula, DPS": guidance.DPSSampler(known, seen, first_two, **told),
        "azula, TMPD": sample.DDPMSampler(guidance.TMPDenoiser(known, seen, first_two, NOISE**2), **told),
        "azula, TDS": guidance.TDSSampler(known, twist, **told),
    }
    return {name: sampler(sampler.init((DRAWS, DIM))) for name, sampler in samplers.items()}


def learned(law: Mixture, quick: bool, draw: torch.Generator) -> Denoise:
    """A denoiser trained on 20,000 draws."""
    diffusion = Diffusion(PATH, levels=NormalLogs(-0.5, 1.5))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(DIM + 9, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, DIM))

    def network(y: Tensor, log_level: Tensor) -> Tensor:
        angle = log_level[:, None] * torch.tensor([0.25, 0.5, 1.0, 2.0])
        return inner(torch.cat([y, 0.25 * log_level[:, None], angle.cos(), angle.sin()], -1))

    rows, steps = law.sample(20_000, draw), 2_000 if quick else 12_000
    optimiser = torch.optim.AdamW(inner.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (500,), generator=draw)]
        optimiser.zero_grad()
        diffusion.loss(network, batch, generator=draw).mean().backward()
        optimiser.step()
        schedule.step()
    return lambda y, level: diffusion.denoise(network, y, level.expand(len(y)))
