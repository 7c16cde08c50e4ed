"""Laws of fields by what they are coded with: a part of `generators.py`.

The front of `codes.py`: a hat on a ring that is carried along and fades, ten frames from the first one, speed,
diffusivity and amplitude, 2,000 solutions. A `Generator` of the same network and steps draws them in the numbers of a
learned code, of as many modes, of pieces of the grid, or of wavelets. "CRPS": of 16 draws, over the sd of the fields,
on average over frames and points of 100 fresh solutions. The solution is one, so that it would be 0 for the right law.
"code's own": mean absolute error of the true frames, coded and decoded, in the same units: about what is left in that
code for a law that knows the rest. "ms" is of a draw, "training s" the generator's, "code s" the code's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from codes import Case, equations, made, trained
from reporting import check, clock
from torch import Tensor

from sciinf import Recipe, train
from sciinf.diagnostics.distances import crps
from sciinf.emulators import Frame, Generator, LearnedCode
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import Haar, Patches, Pod
from sciinf.emulators.tokens.code import Code

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]
NUMBERS, MEMBERS, FRESH = 8, 16, 100


def coded(options: Any, out: Path) -> Found:
    """Each code."""
    make, points = equations()["front"]
    equation, rows = make(points), []
    store = made(options, make, points, out / "store")[0]
    row, learned = trained(options, Case("front", NUMBERS), equation, store, out / "code")
    draw = torch.Generator().manual_seed(options.seed + 11)
    theta = equation.prior.sample(FRESH, generator=draw)
    x = equation(theta, generator=draw)
    kinds: dict[str, tuple[Code, float]] = {
        "LearnedCode": (LearnedCode(learned, width=NUMBERS), row["CPU s"]),
        "Pod": (Pod(NUMBERS, width=NUMBERS), 0.0),
        "Patches": (Patches(8), 0.0),
        "Haar": (Haar(2, size=8), 0.0),
    }
    for name, (code, spent) in kinds.items():
        rows.append({"code": name, **judged(options, equation, store, out / name, code, theta, x), "code s": spent})
    crps_of = {row["code"]: row["CRPS"] for row in rows}
    share = crps_of["LearnedCode"] / min(crps for name, crps in crps_of.items() if name != "LearnedCode")
    return rows, [
        check("coded: CRPS in a learned code over the best of the others", share, 1.2 if options.quick else 1.0)
    ]


def judged(options: Any, equation: Any, store: Any, out: Path, code: Code, *x: Any) -> dict[str, Any]:
    """A generator that is trained in a code, and what it draws."""
    theta, fields = x
    network = TokenTransformer(64, 2, heads=4)
    made = Generator(equation.prior, equation.observables, code, given=[Frame(0)], network=network, seed=options.seed)
    started = clock("cpu")
    recipe = Recipe(epochs=4 if options.quick else 12)
    law: Any = train(made, store, out, recipe=recipe, seed=options.seed).surrogate
    spent, started, draw = clock("cpu") - started, clock("cpu"), torch.Generator().manual_seed(5)
    drawn = torch.stack([law.draw(theta, fields, generator=draw) for _ in range(MEMBERS)])
    each, true = 1000 * (clock("cpu") - started) / (MEMBERS * len(theta)), fields["u"].to(drawn)
    sd = true[:, 1:].std()
    return {
        "tokens": len(law.code.places),
        "CRPS": float(crps(drawn[:, :, 1:], true[:, 1:]).mean() / sd),
        "code's own": float((kept(law, true[:, 1:]) - true[:, 1:]).abs().mean() / sd),
        "ms": each,
        "training s": spent,
    }


@torch.no_grad()
def kept(law: Any, fields: Tensor) -> Tensor:
    """Fields, coded and decoded."""
    mean, sd = law.level()
    return mean + sd * law.code.decode(law.code.encode((fields - mean) / sd))
