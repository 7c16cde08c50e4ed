"""Laws of fields: draws of a generator against exact laws, against solvers, and posteriors through it.

    python benchmarks/generators.py                           all parts
    python benchmarks/generators.py --parts linear forced     some
    python benchmarks/generators.py --quick                   smaller, in minutes; its checks are wider

Parts. "linear": an equation with random forcing whose law is known; squared distances of draws in all its directions, 1
for the exact law. "forced": Burgers' equation with random forcing, 2,000 solutions; CRPS and spread over that of the
solver's own draws, for every order and law, and beside surrogates that predict one solution and its error. "turns": the
same by laws that draw the tokens of a frame in turns. "one chance": the same laws where one chance number moves all
points, and the law is known. "forecasts": the weather of Lorenz (1996) from two members of an ensemble, beside those
two, 31 of them, and a wrong model's. "inference": viscosity and forcing from sensors, by a flow that is trained on a
generator's draws, against the exact posterior on a grid, and under the solver's data. "rare": how probable events are
by a generator, against the solver's own runs: a high wave, Lorenz's three numbers on one side of their attractor, a
nerve cell that fires. "measured": draws given measurements, against exact posteriors, beside azula. "sensors": fields
given what sensors see, by a law that has learned that and by particles. "bridge": viscosity and amplitude of Burgers'
equation through a generator. "objectives": what codes are trained for, on a linear model whose evidence and posterior
are known, beside pythae. "codes": codes that are learned against modes. "coded": laws in such codes. "words": flows
from a first frame and from captions, beside an `Operator` and the solver. "archive": bytes of solutions kept within a
tolerance, against zfp. Peers are no dependencies: `python -m pip install --target peers --no-deps zfpy pythae azula
einops`, and PYTHONPATH=peers. Seconds are CPU seconds of one thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from archive import archive
from bridge import drawn_bridge
from coded import coded
from codes import codes
from drawn import SHOWN, asked_of, beside_solver, drawn_by, fitted, laws_beside_solver, spread_checks, trained
from forced_inference import inference
from forecasts import forecasts
from measured import measured
from objectives import objectives
from rare import rare
from reporting import SIMULATORS, check, in_parts
from rollouts import chaos, forced_reaction
from sensed import sensors
from torch import Tensor
from turns import one_chance, turns
from words import words

from sciinf import load_simulator, simulate
from sciinf.emulators import Operator, Stepwise
from sciinf.emulators.tokens import AtOnce, Frames, JointTokens, MixtureTokens, Order, TokenLaw, four_steps

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def main() -> None:
    """Print the tables."""
    in_parts(str(__doc__), PARTS)


def equation_of(steepening: float) -> Any:
    """The forced equation."""
    make: Any = type(load_simulator(SIMULATORS / "pde" / "forced_burgers.py"))
    return make(steepening=steepening)


def linear(options: Any, out: Path) -> Found:
    """Against the law that is known."""
    equation = equation_of(0.0)
    store = simulate(equation, out / "store", 600 if options.quick else 2_000, seed=options.seed)
    theta = equation.prior.sample(40, generator=torch.Generator().manual_seed(options.seed + 7))
    x = equation.start(theta, generator=torch.Generator().manual_seed(options.seed + 8))
    rows, checks = [], []
    for name, law in (("Joint", JointTokens()), ("Mixture", MixtureTokens())):
        learned, spent = trained(options, equation, store, out / name, order=Frames(1), law=law)
        drawn, each = drawn_by(learned, theta, x, 50)
        row: dict[str, Any] = {"law": name, "training s": spent, "ms a draw": each}
        for frame in SHOWN:
            found = row[f"frame {frame}"] = distance(equation, drawn[:, :, frame], theta, x["initial"], frame)
            bound = 0.5 if options.quick else 0.25
            checks.append(check(f"linear, {name}, frame {frame}: distance off 1 by", abs(found - 1), bound))
        rows.append(row)
    return rows, checks


def distance(equation: Any, drawn: Tensor, theta: Tensor, initial: Tensor, frame: int) -> float:
    """(u - mean)^T C^-1 (u - mean) over the directions that are driven, on average."""
    mean, covariance = equation.law(theta, initial, equation.times[frame])
    values, vectors = torch.linalg.eigh(covariance)
    z = torch.einsum("nbi,bij->nbj", drawn[:, :, 0].double() - mean[:, 0], vectors[..., 1:]) / values[:, 1:].sqrt()
    return float(z.square().mean())


def forced(options: Any, out: Path) -> Found:
    """Beside the solver's own draws."""
    equation = equation_of(1.0)
    store = simulate(equation, out / "store", 600 if options.quick else 2_000, seed=options.seed)
    laws: dict[str, tuple[Order, TokenLaw]] = {
        "Frames, Joint": (Frames(1), JointTokens()),
        "two frames, four steps": (Frames(2), four_steps()),
        "AtOnce, Joint": (AtOnce(), JointTokens()),
        "Frames, Mixture": (Frames(1), MixtureTokens()),
    }
    asked = asked_of(options, equation)
    rows = laws_beside_solver(options, equation, store, asked, laws, out)
    for kind in (Operator, Stepwise):
        learned, spent = fitted(options, kind(equation.prior, equation.observables), store, out / kind.__name__)
        rows.append({"draws of": kind.__name__, "training s": spent, **beside_solver(learned, asked)})
    slack = 2.0 if options.quick else 1.0
    checks = spread_checks("forced", rows, 0.1 * slack)
    for frame in SHOWN:
        first, faster = float(rows[1][f"CRPS {frame}"]), float(rows[2][f"CRPS {frame}"])
        checks.append(
            check(f"forced, Frames, Joint, frame {frame}: CRPS over the solver's - 1", first - 1, 0.05 * slack)
        )
        checks.append(
            check(f"forced, a fifth of the passes, frame {frame}: CRPS over all's - 1", faster / first - 1, 0.05)
        )
    return rows, checks


PARTS = {
    "linear": linear,
    "forced": forced,
    "forced reaction": forced_reaction,
    "turns": turns,
    "one chance": one_chance,
    "chaos": chaos,
    "forecasts": forecasts,
    "inference": inference,
    "rare": rare,
    "measured": measured,
    "sensors": sensors,
    "bridge": drawn_bridge,
    "objectives": objectives,
    "codes": codes,
    "coded": coded,
    "words": words,
    "archive": archive,
}

if __name__ == "__main__":
    main()
