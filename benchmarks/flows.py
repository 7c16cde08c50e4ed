"""Every flow on densities that are known exactly: how many nats it stays away from them, and how fast it is.

    python benchmarks/flows.py                                    every flow on every density
    python benchmarks/flows.py --flows Continuous --densities ring moons
    python benchmarks/flows.py --quick                            a few steps each, and integrals only

z is drawn from a density of `densities.py` and x from N(0, 1); theta = z + x s, s = (0.5, -0.5, 0.5, ...), so that
q(theta | x) is to be p(theta - x s), whose entropy is that of p. `sciinf.train` trains all flows on the same rows.

gap: mean of log p - log q over fresh rows, the Kullback-Leibler divergence in nats, with its standard error. NLL less
entropy is the same but for the noise in the mean of -log p, which both share. The Gaussian that has the mean and the
covariance of p, as a row, says what there is to gain.
integral: of q(theta | x = 0.7) over a grid, in two dimensions.
s: of the training; rows/s (densities, one x per row) and draws/s (one x for all) are of the same seconds: CPU seconds,
or wall seconds on a GPU.

`Perturbed` is judged against p as it is. The noise that stays in it, 1e-3 sds, adds half its variance times the Fisher
information of p to the entropy (de Bruijn), which is below 1e-4 nats here.

References:
    | Some inequalities satisfied by the quantities of information of Fisher and Shannon (Stam, 1959),
      https://doi.org/10.1016/S0019-9958(59)90348-1
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from densities import KnownDensity, known_densities
from reporting import arguments, check, clock, finish
from torch import Tensor
from torch import distributions as td

from sciinf import Flow, Observable, Prior, Recipe, Simulator, train
from sciinf.campaigns import Store
from sciinf.core import Density, Outcome
from sciinf.networks.flows.conditional import Architecture
from sciinf.networks.flows.continuous import Continuous
from sciinf.networks.flows.heavy_tails import StudentT
from sciinf.networks.flows.nflows_flows import CouplingNSF
from sciinf.networks.flows.perturbed import Perturbed
from sciinf.networks.flows.residual import Residual
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.networks.flows.spline_autoregressive import SplineAutoregressive
from sciinf.networks.flows.transformer import TransformerAutoregressive
from sciinf.networks.flows.zuko_flows import MAF, NSF, Coupling

ROWS = 20_000  # to train on, for each dimension; a quarter of them with --quick
FRESH = 20_000
QUICK = 60  # steps with --quick
GRID = 300  # points along each axis
MARGIN = 0.3  # on each side, as a share of the range of many draws
AT = 0.7  # the x of draws and of integrals
GAP, MASS = 0.05, 0.01  # what is asked for: nats, and |integral - 1|


@dataclass(frozen=True)
class Entry:
    """A flow, how it is trained, and whether its gap is checked.

    Args:
        build: Makes the architecture.
        steps: Training steps in two dimensions; twice as many in more.
        rate: Peak of the learning rate.
        batch: Rows per step.
        judged: Whether its gap has a bound; the others are there to be compared with.
    """

    build: Callable[[], Architecture]
    steps: int = 450
    rate: float = 5e-3
    batch: int = 500
    judged: bool = True

    def recipe(self, dim: int, *, quick: bool) -> Recipe:
        steps = QUICK if quick else self.steps if dim == 2 else 2 * self.steps
        epochs = max(1, round(steps * self.batch / (0.95 * rows_for(dim, quick=quick))))
        return Recipe(
            epochs=epochs, patience=epochs, batch=self.batch, learning_rate=self.rate, validation_fraction=0.05
        )


def rows_for(dim: int, *, quick: bool) -> int:
    """How many rows there are to train on."""
    return ROWS * dim // (4 if quick else 1)


FLOWS = {
    "SplineCoupling": Entry(SplineCoupling),
    "SplineAutoregressive": Entry(SplineAutoregressive),
    "StudentT": Entry(lambda: StudentT(SplineCoupling())),
    "Perturbed": Entry(lambda: Perturbed(SplineCoupling())),
    "Continuous": Entry(lambda: Continuous(hidden=(48, 48), penalty=2.0), rate=1e-2),
    "Residual": Entry(Residual, steps=700, rate=1e-2),
    "TransformerAutoregressive": Entry(lambda: TransformerAutoregressive(blocks=2, width=32), rate=1e-2),
    "NSF": Entry(lambda: NSF(transforms=3), judged=False),
    "Coupling": Entry(lambda: Coupling(transforms=4), judged=False),
    "MAF": Entry(MAF, judged=False),
    "CouplingNSF": Entry(CouplingNSF, judged=False),
}


class Shifted(Simulator):
    """Where theta = z + x s comes from: names and shapes, for its rows are drawn by `draw`."""

    def __init__(self, name: str, dim: int) -> None:
        self.name, self.observables = f"shifted_{name}", {"x": Observable((1,))}
        self.prior = Prior(**{f"theta_{d}": td.Normal(0.0, 10.0) for d in range(dim)})

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Outcome:
        raise NotImplementedError("x is drawn before theta here")


def main() -> None:
    """Train and judge."""
    known = known_densities()
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--flows", nargs="+", choices=list(FLOWS), default=list(FLOWS))
    parser.add_argument("--densities", nargs="+", choices=list(known), default=list(known))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, checks = [], []
    for name in options.densities:
        entropy, error = known[name].entropy()
        print(f"{name}: entropy {entropy:.4f}, standard error {error:.4f}", flush=True)
        made = [gaussian(name, known[name], entropy, options.seed)]
        made += compare(name, known[name], entropy, options)
        rows += made
        checks += [item for row in made[1:] for item in _checks(row, quick=options.quick)]
    finish(rows, checks, options.json)


def compare(name: str, density: KnownDensity, entropy: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each flow, trained on the same rows."""
    made, quick, seed, device = [], options.quick, options.seed, options.device
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        simulator = Shifted(name.replace(" ", "_").replace("-", "_"), density.dim)
        n = rows_for(density.dim, quick=quick)
        store = Store.create(folder / "rows", simulator, seed=seed, block=n, rows=n)
        theta, x, _ = draw(density, n, seed)
        store.commit(0, theta, Outcome({"x": x}), seconds=0.0)
        for flow in options.flows:
            recipe = replace(FLOWS[flow].recipe(density.dim, quick=quick), device=device)
            estimator = Flow(simulator.prior, simulator.observables, flow=FLOWS[flow].build(), seed=seed)
            started = clock(device)
            fit = train(estimator, store, folder / flow, recipe=recipe, seed=seed)
            spent = clock(device) - started
            judged = judge(fit.estimator.density, density, seed, device)
            first = {"density": name, "flow": flow, "NLL": judged["NLL"], "entropy": entropy, "gap": judged["gap"]}
            made.append(first | judged | {"s": spent})
            print(json.dumps(made[-1]), flush=True)
    return made


def draw(density: KnownDensity, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """theta (n, D) and x (n, 1) in single precision; log p(theta | x) of theta as rounded, (n,)."""
    generator = torch.Generator().manual_seed(seed)
    z = density.sample(n, generator=generator)
    x = torch.randn(n, 1, generator=generator)
    theta = (z + shift(x, density.dim)).float()
    return theta, x, density.log_prob(theta.double() - shift(x, density.dim))


def shift(x: Tensor, dim: int) -> Tensor:
    """x s, (n, D), float64."""
    return x.double() * 0.5 * (-1.0) ** torch.arange(dim)


def gaussian(name: str, density: KnownDensity, entropy: float, seed: int) -> dict[str, Any]:
    """The row of the Gaussian that has the mean and the covariance of p."""
    z = density.sample(100_000, generator=torch.Generator().manual_seed(seed))
    nll = 0.5 * float(torch.logdet(2 * math.pi * math.e * z.T.cov()))
    rest = dict.fromkeys(("standard error", "integral", "rows/s", "draws/s", "s"))
    return {"density": name, "flow": "(Gaussian)", "NLL": nll, "entropy": entropy, "gap": nll - entropy} | rest


def judge(
    condition: Callable[[dict[str, Tensor]], Density], density: KnownDensity, seed: int, device: str
) -> dict[str, Any]:
    """A trained flow's figures."""
    theta, x, log_p = draw(density, FRESH, seed + 1_000)
    started = clock(device)
    log_q = condition({"x": x}).log_prob(theta[None])[0].double().cpu()
    rows = FRESH / (clock(device) - started)
    gap = log_p - log_q
    at = condition({"x": torch.full((1, 1), AT)})
    started = clock(device)
    at.sample(FRESH, generator=torch.Generator().manual_seed(seed))
    draws = FRESH / (clock(device) - started)
    return {
        "NLL": -float(log_q.mean()),
        "gap": float(gap.mean()),
        "standard error": float(gap.std()) / math.sqrt(FRESH),
        "integral": integral(at, density, seed) if density.dim == 2 else None,
        "rows/s": round(rows),
        "draws/s": round(draws),
    }


def integral(density: Density, known: KnownDensity, seed: int) -> float:
    """Of the density given x = AT over the box of 100,000 draws of p with a margin, by the midpoint rule."""
    z = known.sample(100_000, generator=torch.Generator().manual_seed(seed)) + shift(torch.full((1, 1), AT), 2)
    low, high = z.amin(0), z.amax(0)
    step = (1 + 2 * MARGIN) * (high - low) / GRID
    low = low - MARGIN * (high - low)
    axes = [low[d] + step[d] * (torch.arange(GRID) + 0.5) for d in range(2)]
    log_q = density.log_prob(torch.cartesian_prod(*axes).float()[:, None])
    return float(log_q.double().exp().sum() * step.prod())


def _checks(row: dict[str, Any], *, quick: bool) -> list[dict[str, Any]]:
    where, checks = f"{row['flow']} on {row['density']}", []
    if row["integral"] is not None:
        checks.append(check(f"{where}: |integral - 1|", abs(row["integral"] - 1), MASS))
    if not quick and FLOWS[row["flow"]].judged:
        checks.append(check(f"{where}: |gap| in nats", abs(row["gap"]), GAP))
    return checks


if __name__ == "__main__":
    main()
