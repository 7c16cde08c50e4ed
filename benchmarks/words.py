"""Flows from a first frame and from words: a part of `generators.py`.

Vorticity by Navier and Stokes' equation, 32 x 32 points, the first frame and eight others at t = 1, ..., 8; 1,000 runs,
whose frames after the first are read at 300 random points, others for each run, and put back on the grid by a Gaussian
kernel. The forcing stands along x + y, so that all networks are shown runs moved along x - y at random (`MOVES`). All
is learned from those, and compared with 40 fresh solutions, which start from frames that are given. CRPS is of 16
draws, over the sd of the fields. "off": of the mean of draws, |u - f| / |u|, on average over frames.

First "code": errors of frames by as many numbers as the generators' modes: learned from the points, the modes
themselves (of the whole grid, and told by the points), and interpolation between the points. Then draws of a generator
that is given parameters, beside an `Operator` that learned from the same, for as long. Last, captions that tell of both
parameters by levels or by numbers, in a phrasing of the grammar and in one that is not: draws of the generator given
these, and given parameters from the prior within the caption, predictions by the `Operator`, and the solver's
solutions, at such parameters.
"viscosity off": of the mean logarithm of what a regression reads in draws, to that of the parameters within, on average
over captions. The regression learned from the runs, by energies of waves; what it is off by on fresh solutions is told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from coded import kept
from codes import Case, judged, modes_of, trained, twice
from codes import off as frames_off
from drawn import fitted
from jaxtyping import Float
from reporting import SIMULATORS, check
from torch import Tensor, nn

from sciinf import Recipe, load_simulator, simulate
from sciinf.core import Batch, X, predicted
from sciinf.core.prior import global_seed
from sciinf.diagnostics.distances import crps, spread_skill
from sciinf.emulators import Frame, Generator, Operator
from sciinf.emulators.encoders import places
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import Frames, Pod
from sciinf.lab import Grammar, Words
from sciinf.lab.writing import Writer
from sciinf.networks.spectral import Fourier
from sciinf.simulators.dynamics.field_equation import Equation

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]
POINTS, TIMES, READ, MODES, MEMBERS, FRESH = 32, tuple(float(t) for t in range(9)), 300, 64, 16, 40
PHRASINGS = {
    "levels": ("{level} {name}", "{name} {level}"),
    "numbers": ("{name} of {number}", "{number} {name}"),
}  # the second is none of the grammar's: it is a network that reads it
GRAMMAR = Grammar({"viscosity": ["thickness"], "strength": ["forcing"]}, "flow")
MOVES = ((1, -1),)  # along which the forcing is the same
RINGS = 5  # of waves, whose energies tell the viscosity


class AtPoints(Equation):
    """A flow whose frames after the first are read at some random points, and put on the grid again.

    Of values v at points p, f(x) = K(x, p) (K(p, p) + 1e-4)^-1 v, K(a, b) = exp(-|a - b|^2 / (2 h^2)), h = 0.1.
    """

    name, block, random = "navier_stokes_at_points", 16, True

    def __init__(self, flow: Any) -> None:
        self._flow, self.grid, self.times = flow, flow.grid, flow.times
        self.prior, self.given, self.observables = flow.prior, flow.given, flow.observables

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        return self._flow.start(theta, generator=generator)

    def solution(self, theta: Tensor, given: X, *, generator: torch.Generator) -> Tensor:
        frames, grid = self._flow.solve(theta, given), places(self.grid.shape, edges=False)
        for run in frames[:, 1:, 0].flatten(2):
            which = torch.randperm(len(grid), generator=generator)[:READ]
            known = kernel(grid[which], grid[which]) + 1e-4 * torch.eye(READ, dtype=torch.float64)
            run.copy_((kernel(grid, grid[which]) @ torch.linalg.solve(known, run[:, which].mT)).mT)
        return frames


def kernel(one: Tensor, other: Tensor) -> Float[Tensor, "point other"]:
    """On a torus."""
    apart = (one.double()[:, None] - other.double() + 0.5) % 1 - 0.5
    return (-apart.square().sum(-1) / (2 * 0.1**2)).exp()


class Given(NamedTuple):
    """What a flow goes on from, and its true solutions."""

    flow: Any
    theta: Float[Tensor, "start theta"]
    x: dict[str, Tensor]

    @property
    def true(self) -> Float[Tensor, "start time channel y x"]:
        """Solutions."""
        return self.x["u"].float()


def words(options: Any, out: Path) -> Found:
    """All tables."""
    make: Any = type(load_simulator(SIMULATORS / "pde" / "navier_stokes.py"))
    flow = make(POINTS, TIMES)
    store = simulate(AtPoints(flow), out / "store", 300 if options.quick else 1_000, seed=options.seed)
    draw = torch.Generator().manual_seed(options.seed + 7)
    theta = flow.prior.sample(16 if options.quick else FRESH, generator=draw)
    fresh = Given(flow, theta, flow(theta, generator=draw))
    first, twins = first_frame(options, fresh, store, out)
    said, checks = spoken(options, fresh, store, twins)
    return [code(options, fresh, store, out / "code"), *first, *said], [
        check("words: error of the mean of draws over the Operator's", first[1]["off"] / first[0]["off"], 1.5),
        *checks,
    ]


def code(options: Any, fresh: Given, store: Any, out: Path) -> dict[str, Any]:
    """Errors of frames in numbers."""
    frames = store.load().x["u"].flatten(0, 1)
    pod = modes_of(frames, torch.Generator().manual_seed(options.seed))
    row, learned = trained(options, Case("vorticity", MODES, READ), AtPoints(fresh.flow), store, out)
    true = fresh.true[:, 1:].flatten(0, 1)
    whole, some = (judged(learned, count, true, twice(true, 2), pod) for count in (None, READ))
    told = {"POD, grid": whole["POD"], "POD, points": some["POD"], "interpolation": some["interpolation"]}
    return {"code of": MODES, "points": READ, "learned": some["learned"], **told, "training s": row["CPU s"]}


def first_frame(options: Any, fresh: Given, store: Any, out: Path) -> tuple[list[dict[str, Any]], tuple[Any, Any]]:
    """One prediction, and draws given parameters; and the generator and the operator that these are of."""
    prior, fields = fresh.flow.prior, fresh.flow.observables
    operator = Operator(prior, fields, Fourier(16, 8, coordinates=True), moves=MOVES, seed=options.seed)
    one, spent = fitted(
        options, operator, store, out / "operator", Recipe(epochs=20 if options.quick else 60, batch=16)
    )
    found = predicted(one, Batch(fresh.theta, fresh.x))
    rows: list[dict[str, Any]] = [{"from a first frame": "Operator", "off": off(found, fresh.true), "CRPS": "-"}]
    rows[0] |= {"spread": "-", "one draw off": "-", "modes off": "-", "training s": spent}
    law, spent = fitted(
        options, generator(options, fresh), store, out / "law", Recipe(epochs=8 if options.quick else 150)
    )
    drawn, modes = drawn_by(law, fresh.theta.expand(MEMBERS, -1, -1), fresh.x), kept(law, fresh.true)
    rows.append({"from a first frame": "Generator", "off": off(drawn.mean(0), fresh.true), **scores(drawn, fresh)})
    rows[1] |= {"one draw off": off(drawn[0], fresh.true), "modes off": off(modes, fresh.true), "training s": spent}
    return rows, (law, one)


def generator(options: Any, fresh: Given) -> Generator:
    """Frame by frame, in modes."""
    return Generator(
        fresh.flow.prior,
        fresh.flow.observables,
        Pod(MODES, width=16),
        order=Frames(1),
        given=[Frame(0), Words(GRAMMAR)],
        network=TokenTransformer(128, 3),
        moves=MOVES,
        seed=options.seed,
    )


def drawn_by(law: Any, theta: Float[Tensor, "member start theta"], given: X) -> Tensor:
    """Draws (member, start, ...), each member at parameters of its own."""
    draw = torch.Generator().manual_seed(5)
    return torch.stack([law.draw(some, given, generator=draw) for some in theta])


def off(found: Tensor, true: Tensor) -> float:
    """Of frames after the first."""
    return frames_off(found[:, 1:].flatten(0, 1), true[:, 1:].flatten(0, 1))


def scores(drawn: Tensor, fresh: Given) -> dict[str, Any]:
    """CRPS over the sd of fields, and the spread of draws over the error of their mean."""
    true = fresh.true[:, 1:]
    found = crps(drawn[:, :, 1:], true).mean() / true.std()
    return {"CRPS": float(found), "spread": spread_skill(drawn[:, :, 1:], true)}


def spoken(
    options: Any, fresh: Given, store: Any, twins: tuple[Any, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draws for captions, of three."""
    law, operator = twins
    read, missed = regression(store, fresh)
    rows, checks = [], [check("words: regression's error of log viscosity", missed, 0.1)]
    for name, templates in PHRASINGS.items():
        kinds, found = dict[str, Tensor](), dict[str, dict[str, Any]]()
        for kind, template in zip(("words", "words, unseen"), templates, strict=True):
            draw = torch.Generator().manual_seed(options.seed + 9)
            plain = Grammar(GRAMMAR.phrases, "flow", templates=[template], left_out=0.0).build(fresh.flow.prior)
            texts = plain.text(Writer(plain).anew(fresh.theta, generator=draw).ids)
            within = torch.stack([plain.drawn(text, MEMBERS, generator=draw) for text in texts], 1)
            kinds[kind] = drawn_by(law, within, {**fresh.x, "words": law.reader.captions.encode(texts)})
        kinds["parameters"] = drawn_by(law, within, fresh.x)
        kinds["parameters, Operator"] = torch.stack([predicted(operator, Batch(some, fresh.x)) for some in within])
        kinds["solver"] = torch.stack([fresh.flow.solve(some, fresh.x).float() for some in within])
        for kind, drawn in kinds.items():
            due = within[..., 0].log().mean(0)
            away = read(drawn.flatten(0, 1)).unflatten(0, (MEMBERS, -1)).mean(0) - due
            found[kind] = {**scores(drawn, fresh), "viscosity off": float(away.abs().mean())}
            rows.append({"captions": name, "draws given": kind, **found[kind]})
        checks += compared(name, found)
    return rows, checks


def compared(name: str, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What is to be of captions by levels, or by numbers."""
    own, twin, solver = (found[kind]["CRPS"] for kind in ("words", "parameters", "solver"))
    checks = [
        check(f"words, {name}: CRPS over that given parameters", own / twin, 1.1),
        check(f"words, {name}: CRPS in an unseen phrasing over that", found["words, unseen"]["CRPS"] / own, 1.1),
        check(f"words, {name}: viscosity off", found["words"]["viscosity off"], 0.1),
    ]
    if name == "levels":  # within numbers the solver's draws are nearly one
        checks.append(check(f"words, {name}: CRPS over the solver's", own / solver, 1.15))
    return checks


def energies(frames: Float[Tensor, "run time channel y x"]) -> Float[Tensor, "run number"]:
    """Their logarithms in rings of waves, of each frame after the first.

    A hundredth of all is added: a ring that holds less is mostly error in what surrogates draw.
    """
    size = torch.fft.fft2(frames[:, 1:, 0]).abs().square()
    along = torch.fft.fftfreq(POINTS, 1 / POINTS)
    ring = (along[:, None].square() + along.square()).sqrt().round()
    found = torch.stack([(size * (ring == k)).sum((-2, -1)) for k in range(1, RINGS + 1)], -1)
    return (found + 0.01 * found.sum(-1, keepdim=True)).log().flatten(1)


def regression(store: Any, fresh: Given) -> tuple[Any, float]:
    """From fields to the logarithm of viscosity, and its mean error on fresh solutions."""
    rows, draw = store.load(), torch.Generator().manual_seed(0)
    known, due = energies(rows.x["u"]), rows.theta[:, 0].log().float()
    mean, sd, middle = known.mean(0), known.std(0), due.mean()
    with global_seed(torch.Generator().manual_seed(0)):
        net = nn.Sequential(nn.Linear(known.shape[1], 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
    chosen = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    pace = torch.optim.lr_scheduler.OneCycleLR(chosen, 3e-3, total_steps=1_500)
    for _ in range(1_500):
        some = torch.randint(len(due), (128,), generator=draw)
        seen = (known[some] - mean) / sd
        found = net(seen + 0.02 * torch.randn(seen.shape, generator=draw))[:, 0]
        chosen.zero_grad()
        (found - due[some] + middle).square().mean().backward()
        chosen.step()
        pace.step()

    @torch.no_grad()
    def read(fields: Tensor) -> Tensor:
        return net((energies(fields) - mean) / sd)[:, 0] + middle

    return read, float((read(fresh.true) - fresh.theta[:, 0].log()).abs().mean())
