"""How far ways back from noise are off, against how often they ask the network.

    python benchmarks/solvers.py             400,000 draws a cell
    python benchmarks/solvers.py --quick     50,000 draws a cell

The denoiser is exact, that of two Gaussians on a line, from level 20 to 0.01; so all error is the solver's.
"W1": Wasserstein-1 distance of the draws from the mixture. As many draws of the mixture itself are off by "floor".
Evaluations of adaptive solvers are those of the slowest row.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from reporting import arguments, check, finish
from torch import Tensor

from sciinf.lab import AdaptiveEuler, Ancestral, ExtendedReverse, PredictorCorrector, ReverseEulerMaruyama
from sciinf.networks.diffusion import Exponential, Heun, NoiseLevel, ProbabilityFlow

PATH = NoiseLevel(1e-2, 20.0)
WEIGHT, MEAN, SD = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.7], [-1.1, 0.6], [0.3, 0.5]))
PLAIN = 500  # steps of Euler-Maruyama that others are held against
SOLVERS = {
    "Exponential(order=1)": lambda n: Exponential(n, 1),
    "Exponential(order=2)": lambda n: Exponential(n, 2),
    "Exponential(order=3)": lambda n: Exponential(n, 3),
    "Heun": lambda n: Heun(n // 2),
    "Ancestral": Ancestral,
    "EulerMaruyama": ReverseEulerMaruyama,
    "PredictorCorrector": lambda n: PredictorCorrector(n // 2),
    "ExtendedReverse": ExtendedReverse,
}


def main() -> None:
    """Print the table."""
    options = arguments(str(__doc__).splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    draws = 50_000 if options.quick else 400_000
    source = torch.Generator().manual_seed(options.seed)
    which = torch.multinomial(WEIGHT, draws, replacement=True, generator=source)
    floor = distance(MEAN[which] + wide()[which] * torch.randn(draws, generator=source, dtype=torch.float64))
    rows = [
        {"solver": name, "order": make(10).order, **cell(make(n), draws, options.seed)}
        for n in (10, 20, 40, 80)
        for name, make in SOLVERS.items()
    ]
    adaptive = [{"solver": type(s).__name__, "order": s.order, **cell(s, draws, options.seed)} for s in fitted()]
    plain = {"solver": "EulerMaruyama", "order": 1, **cell(ReverseEulerMaruyama(PLAIN), draws, options.seed)}
    rows += [*adaptive, plain, {"solver": "floor", "order": 0, "evaluations": 0, "W1": floor}]
    checks = []
    for row in (adaptive[0], next(r for r in rows if r["solver"] == "ExtendedReverse" and r["evaluations"] == 40)):
        checks.append(check(f"{row['solver']}: evaluations", row["evaluations"], PLAIN / 5))
        checks.append(check(f"{row['solver']}: W1 beyond {PLAIN} plain steps", row["W1"] - plain["W1"], floor))
    finish(rows, checks, options.json)


def fitted() -> list[Any]:
    """Solvers that choose their steps."""
    return [AdaptiveEuler(), ProbabilityFlow()]


def cell(solver: Any, draws: int, seed: int) -> dict[str, Any]:
    """Error and evaluations of one solver."""
    calls = [0]

    def counted(y: Tensor, level: Tensor) -> Tensor:
        calls[0] += 1
        return denoise(y, level)

    source = torch.Generator().manual_seed(seed)
    y = math.sqrt(PATH.most**2 + 1) * torch.randn(draws, 1, generator=source, dtype=torch.float64)
    found = solver.solve(counted, y, PATH, generator=source)
    return {"evaluations": calls[0], "W1": distance(found[:, 0])}


def denoise(y: Tensor, level: Tensor) -> Tensor:
    """The mixture's E[x_0 | x_0 + s e = y]."""
    variance = SD**2 + level.expand(y.shape[:-1])[..., None] ** 2
    off = y - MEAN
    share = torch.softmax(WEIGHT.log() - 0.5 * (off**2 / variance + variance.log()), dim=-1)
    return (share * (MEAN + SD**2 / variance * off)).sum(-1, keepdim=True)


def wide() -> Tensor:
    """Sds at the lowest level."""
    return (SD**2 + PATH.least**2).sqrt()


def distance(draws: Tensor) -> float:
    """Wasserstein-1 of draws from the mixture at the lowest level."""
    x = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    exact = (WEIGHT * torch.special.ndtr((x[:, None] - MEAN) / wide())).sum(-1)
    found = torch.searchsorted(draws.sort().values, x) / len(draws)
    return float((found - exact).abs().mean() * 8)


if __name__ == "__main__":
    main()
