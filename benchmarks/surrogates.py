"""Solvers of differential equations and what stands in for them: accuracy, speed, and posteriors through both.

    python benchmarks/surrogates.py                            all parts (long)
    python benchmarks/surrogates.py --parts solvers burgers    some
    python benchmarks/surrogates.py --quick                    smaller, in minutes; its checks are wider

Parts. "solvers": simulations per second of every equation, and how much halving its step changes them. "burgers": an
`Operator` from u(0) to u(1), 1,000 pairs. "darcy": from coefficient to pressure, beside the FNO of the neuraloperator
package (extra "operators") on the same data, as many epochs, by the same training loop; medians of three seeds.
"navier_stokes": `Stepwise` over 20 time units, and its solver as in "speed". "stability": a thousand steps of
turbulence at viscosity 1e-4, by a plain operator that sees all waves and by a bounded one that is trained with noise,
three seeds. "bridge": viscosity and amplitude of a wave of Burgers' equation from ten sensors, through the solver and
through a surrogate, well and badly trained, against a grid. "speed": surrogates and solvers coarsened until they are no
more accurate. Errors are relative, in the mean square; seconds are CPU seconds of one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bridge import bridge
from coarsening import Coarse, raced, relative
from reporting import SIMULATORS, check, clock, in_parts
from stability import stability
from torch import distributions as td

from sciinf import Recipe, load_simulator, simulate, train
from sciinf.core import Surrogate, predicted
from sciinf.emulators import Operator, Stepwise
from sciinf.networks.packaged_operators import FNO
from sciinf.networks.spectral import Fourier
from sciinf.simulators.dynamics.field_equation import FieldEquation
from sciinf.simulators.dynamics.random_field import RandomField

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]
PDE = SIMULATORS / "pde"
SD = 0.592  # of the Gaussian fields with covariance 625 (25 - d^2/dx^2)^-2, without their mean


def main() -> None:
    """Print the tables."""
    in_parts(str(__doc__), PARTS)


def solvers(options: Any, out: Path) -> Found:
    """How fast and how accurate every solver is."""
    rows, checks = [], []
    for file in sorted(PDE.glob("*.py")):
        equation: Any = load_simulator(file)
        if not isinstance(equation, FieldEquation):
            continue
        count = min(equation.block, 16 if options.quick else 64)
        theta = equation.prior.sample(count, generator=torch.Generator().manual_seed(options.seed))
        started = clock("cpu")
        x = equation(theta, generator=torch.Generator().manual_seed(options.seed))
        spent = clock("cpu") - started
        row = {
            "equation": equation.name,
            "frames": str(tuple(equation.observables["u"].shape)),
            "sims/s": count / spent,
            "step halved": "-",
        }
        longest = getattr(equation, "longest", None)
        if longest:
            few = theta[:4].double(), {name: value[:4] for name, value in x.items()}
            coarse = equation.solve(*few)
            make: Any = type(equation)
            fine = make(longest=longest / 2).solve(*few)
            change = row["step halved"] = float(relative(coarse, fine).max())
            checks.append(check(f"{equation.name}: change when steps are halved", change, 1e-3))
        rows.append(row)
    return rows, checks


def burgers(options: Any, out: Path) -> Found:
    """From the beginning to t = 1, at two viscosities."""
    rows, checks = [], []
    for nu, bound in ((0.1, 0.004), (0.01, 0.007)):
        equation = unit_burgers(nu)
        epochs = 10 if options.quick else 100
        _, error, spent = fitted(equation, Fourier(32, 16), out / str(nu), options.seed, epochs=epochs)
        rows.append({"equation": "burgers", "viscosity": nu, "error": error, "s": spent})
        bound = 0.1 if options.quick else bound
        checks.append(check(f"burgers, viscosity {nu:g}: error", error, bound))
    return rows, checks


def darcy(options: Any, out: Path) -> Found:
    """Beside the package's operator."""
    equation: Any = load_simulator(PDE / "darcy.py")
    epochs, seeds = (3, 1) if options.quick else (20, 3)
    nets = {"Fourier": Fourier(24, 12, padding=0.1, coordinates=True, hidden=64), "FNO": FNO((16, 16), 24)}
    rows = []
    for seed in range(options.seed, options.seed + seeds):
        for name, net in nets.items():
            _, error, spent = fitted(equation, net, out, seed, epochs=epochs, data=options.seed)
            rows.append({"equation": "darcy", "network": name, "seed": seed, "error": error, "s": spent})
    middle = {
        (name, key): float(torch.tensor([row[key] for row in rows if row["network"] == name]).median())
        for name in nets
        for key in ("error", "s")
    }
    slack = 2.0 if options.quick else 1.05
    ratio = middle["Fourier", "error"] / middle["FNO", "error"]
    return rows, [
        check("darcy: median error / the package's", ratio, slack),
        check("darcy: median seconds / the package's", middle["Fourier", "s"] / middle["FNO", "s"], 1.0),
    ]


def navier_stokes(options: Any, out: Path) -> Found:
    """Twenty steps of one time unit."""
    count, epochs = (40, 4) if options.quick else (220, 40)
    equation = unit_flow()
    net = Fourier(20, 12, coordinates=True, hidden=64)
    surrogate = Stepwise(equation.prior, equation.observables, net, seed=options.seed)
    store = simulate(equation, out / "store", count, seed=options.seed)
    started = clock("cpu")
    recipe = Recipe(epochs=epochs, batch=8, learning_rate=5e-3)
    fit = train(surrogate, store, out / "fit", recipe=recipe, seed=options.seed)
    spent = clock("cpu") - started
    test = simulate(equation, out / "test", 20, seed=options.seed + 1).load()
    found = predicted(fit.surrogate, test)
    error = [float(relative(found[:, k], test.x["u"][:, k]).mean()) for k in range(1, found.shape[1])]
    row = {"equation": "navier_stokes", "one step": error[0], "20 steps": error[-1], "mean": sum(error) / len(error)}
    bound = 2.0 if options.quick else 0.06
    coarser = [Coarse(equation, n, h) for n in (12, 16, 24, 32, 48) for h in (1.0, 0.5, 0.25, 0.1)]
    rows = [row | {"s": spent}, raced(fit.surrogate, equation, coarser, rows=32)]
    return rows, [check("navier_stokes: error after 20 steps", error[-1], bound)]


def speed(options: Any, out: Path) -> Found:
    """The operators against their solvers."""
    wave, ground = unit_burgers(0.01), load_simulator(PDE / "darcy.py")
    darcy_with: Any = type(ground)  # its iteration ends early; on fewer points its ground would be another
    operators: list[tuple[Any, Any, list[Any]]] = [
        (wave, Fourier(32, 16), [Coarse(wave, n, h) for n in (16, 32, 64, 128) for h in (0.1, 0.05, 0.02)]),
        (
            ground,
            Fourier(24, 12, padding=0.1, coordinates=True, hidden=64),
            [darcy_with(tolerance=tolerance) for tolerance in (0.3, 0.1, 0.03, 0.01, 1e-3)],
        ),
    ]
    epochs = 5 if options.quick else 40
    rows = []
    for equation, net, candidates in operators:
        surrogate, _, _ = fitted(equation, net, out / equation.name, options.seed, epochs=epochs)
        rows.append(raced(surrogate, equation, candidates, rows=128))
    return rows, []


def unit_burgers(nu: float) -> Any:
    """Burgers' equation from Gaussian fields at t = 0 to t = 1, at one viscosity."""
    make: Any = type(load_simulator(PDE / "burgers.py"))
    near, whole = td.Uniform(0.999 * nu, 1.001 * nu), td.Uniform(0.999, 1.001)
    return make(times=(1.0,), initial=RandomField(SD), viscosity=near, amplitude=whole)


def unit_flow() -> Any:
    """The flow of the literature, viscosity 1e-3, frames one time unit apart."""
    make: Any = type(load_simulator(PDE / "navier_stokes.py"))
    times = tuple(float(t) for t in range(21))
    return make(times=times, viscosity=td.Uniform(0.999e-3, 1.001e-3), strength=td.Uniform(0.0999, 0.1001))


def fitted(
    equation: Any, net: Any, out: Path, seed: int, *, epochs: int, data: int | None = None
) -> tuple[Surrogate, float, float]:
    """An `Operator` trained on 1,000 solutions, its mean error on 200 fresh ones, and the seconds it took."""
    store = simulate(equation, out / "store", 1_112, seed=seed if data is None else data)
    operator = Operator(equation.prior, equation.observables, net, seed=seed)
    folder = out / f"fit_{type(net).__name__}_{seed}"
    started = clock("cpu")
    recipe = Recipe(epochs=epochs, batch=20, validation_fraction=0.1)
    surrogate = train(operator, store, folder, recipe=recipe, seed=seed).surrogate
    spent = clock("cpu") - started
    test = simulate(equation, out / "test", 200, seed=1_000).load()
    return surrogate, float(relative(predicted(surrogate, test), test.x["u"]).mean()), spent


PARTS: dict[str, Callable[[Any, Path], Found]] = {
    "solvers": solvers,
    "burgers": burgers,
    "darcy": darcy,
    "navier_stokes": navier_stokes,
    "stability": stability,
    "bridge": bridge,
    "speed": speed,
}


if __name__ == "__main__":
    main()
