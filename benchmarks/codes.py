"""Codes of fields that are learned, against modes of as many numbers: a part of `generators.py`.

"front": a hat with soft edges, somewhere on a ring and of some length, is carried along and fades; 128 points.
"Burgers": viscosity 1e-3 and 512 points, from long waves; "rough" from all waves; "viscous": 0.03, 128 points.
"vorticity": of Navier and Stokes' equation, and "Kolmogorov": the same sheared, 32 x 32 points. 2,000 solutions (1,500
of 512 points), their frames coded each by itself. Errors are |u - f| / |u|, on average over frames of fresh solutions.
"POD": as many modes; from some random points by least squares with the modes' variances. "all modes": as many of them
as can be, no code of few numbers. "interpolation": linear, between the same points (and their triangles). "twice the
grid": the code decoded on twice as many points, against solutions on these, or in two directions against the waves that
go through the field. "alive": numbers that say something; "linear": those that would of a linear code. "in encoder":
parameters of it. Rows "kept": so many of the coarsest wavelets, which are means over cells of the grid, and so many
modes, from the grid.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check, clock
from torch import Tensor
from torch import distributions as td

from sciinf import Recipe, load_simulator, simulate, train
from sciinf.emulators import FieldCode, Graph, Origin
from sciinf.emulators.decoders import Query
from sciinf.emulators.encoders import Encoder, GridEncoder, Perceiver, places
from sciinf.emulators.field_code import collapsed, expected_nats
from sciinf.emulators.tokens import Haar, Pod
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField, Start
from sciinf.simulators.dynamics.spectral import refined

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]
Modes = tuple[Tensor, Tensor, Tensor]
FRESH, DRAWS = 100, 4  # solutions that codes are judged by, and draws of points
KEPT = 256  # wavelets, and modes, at most


class Hats(Start):
    """A hat on a ring: where it is, and how long, is drawn."""

    random = True

    def draw(self, count: int, channels: int, grid: BoxGrid, *, generator: torch.Generator) -> Tensor:
        at, length = (torch.rand(count, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2))
        away = (grid.coordinates[0] / grid.lengths[0] - at + 0.5) % 1 - 0.5
        return torch.sigmoid(((0.1 + 0.3 * length) / 2 - away.abs()) / 0.008).expand(count, channels, -1)


@dataclass(frozen=True)
class Case:
    """A code that is trained.

    Args:
        field: Which of `equations`.
        numbers: Of the code.
        points: That the encoder sees, if not the grid.
        encoder: The encoder, if not `GridEncoder()`.
        noise: Of the decoder, in sds.
    """

    field: str
    numbers: int
    points: int | None = None
    encoder: Encoder | None = None
    noise: float = 0.02

    @property
    def named(self) -> str:
        """The encoder's name."""
        if isinstance(self.encoder, Origin) and not self.encoder.solved:
            return "Origin, bare slope"
        return type(self.encoder or GridEncoder()).__name__


CASES = (
    Case("front", 4),
    Case("front", 8),
    Case("front", 8, 16),
    Case("front", 8, 16, Perceiver()),
    Case("front", 8, 16, Graph()),
    Case("front", 8, 16, Origin()),
    Case("front", 8, 16, Origin(solved=False)),
    Case("front", 8, None, Origin()),
    Case("Burgers", 8),
    Case("Burgers", 8, 64),
    Case("Burgers", 8, 64, Perceiver()),
    Case("Burgers", 8, 64, Graph()),
    Case("Burgers, rough", 8),
    Case("Burgers, viscous", 16),
    Case("front", 8, noise=2.0),
    Case("Kolmogorov", 8),
    Case("Kolmogorov", 16),
    Case("Kolmogorov", 32),
    Case("Kolmogorov", 16, 300),
    Case("Kolmogorov", 16, 64),
    Case("Kolmogorov", 16, 64, Perceiver()),
    Case("Kolmogorov", 16, 64, Graph()),
    Case("Kolmogorov", 16, 64, Origin()),
    Case("vorticity", 8),
    Case("vorticity", 32),
    Case("vorticity", 32, 64),
)


def equations() -> dict[str, Any]:
    """Makers of each equation for a number of points in a direction, and that number."""
    advection: Any = type(load_simulator(SIMULATORS / "pde" / "advection.py"))
    burgers: Any = type(load_simulator(SIMULATORS / "pde" / "burgers.py"))
    fluid: Any = load_simulator(SIMULATORS / "pde" / "navier_stokes.py")
    times, thin = tuple(k / 10 for k in range(11)), td.LogNormal(math.log(1e-3), 0.1)
    told = {"times": times[:6], "longest": 1e-3, "viscosity": thin}
    return {
        "front": (lambda n: advection(n, times=times, initial=Hats(), diffusivity=td.LogNormal(-9.0, 0.5)), 128),
        "Burgers": (lambda n: burgers(n, initial=RandomField(1.0, tau=2.0, alpha=4.0), **told), 512),
        "Burgers, rough": (lambda n: burgers(n, **told), 512),
        "Burgers, viscous": (burgers, 128),
        "vorticity": (type(fluid), 32),
        "Kolmogorov": (sys.modules[type(fluid).__module__].kolmogorov, 32),
    }


def codes(options: Any, out: Path) -> Found:
    """All cases."""
    rows, checks, kept = [], [], {}
    for number, case in enumerate(CASES[:1] + CASES[2:3] if options.quick else CASES):
        make, points = equations()[case.field]
        if case.field not in kept:
            kept[case.field] = made(options, make, points, out / case.field)
        store, fresh, finer, pod = kept[case.field]
        row, learned = trained(options, case, make(points), store, out / f"{number}")
        rows.append(row | judged(learned, case.points, fresh, finer, pod))
        checks += checked(rows[-1], options)
    for field, (store, fresh, _, _) in kept.items():
        rows += wavelets(field, store.load().x["u"].flatten(0, 1), fresh)
    return rows, checks + wins(rows) + origins(rows) + graphs(rows)


def trained(options: Any, case: Case, equation: Any, store: Any, out: Path) -> tuple[dict[str, Any], Any]:
    """A code, and the beginning of its row."""
    started, points, plane = clock("cpu"), equation.grid.shape[0], len(equation.grid.shape) == 2
    code = FieldCode(
        equation.prior,
        equation.observables,
        case.encoder or GridEncoder(),
        Query(features=8) if plane else Query(5 if points > 128 else 4),
        numbers=case.numbers,
        noise=case.noise,
        points=case.points,
        frames=2 if plane else 4,
        asked=256 if plane else points // 4 if points > 128 else None,
        seed=options.seed,
    )
    recipe = Recipe(epochs=8 if options.quick else 10 if plane else 12)
    learned: Any = train(code, store, out, recipe=recipe, seed=options.seed).learned
    row = {"field": case.field, "numbers": case.numbers, "points": case.points or points ** len(equation.grid.shape)}
    row |= {"noise": case.noise, "encoder": case.named, "CPU s": clock("cpu") - started}
    return row, learned


def made(options: Any, make: Any, points: int, out: Path) -> tuple[Any, Tensor, Tensor, Modes]:
    """Solutions to learn from, fresh frames on the grid and on twice as many points, and the modes of the first."""
    equation, finer = make(points), make(2 * points)
    count = 600 if options.quick else 1_500 if points > 128 else 2_000
    store = simulate(equation, out, count, seed=options.seed)
    draw = torch.Generator().manual_seed(options.seed + 7)
    theta = equation.prior.sample(FRESH, generator=draw)
    initial = equation.start(theta, generator=draw)["initial"]
    frames = equation.solve(theta, {"initial": initial})
    if len(equation.grid.shape) == 1:
        fine = finer.solve(theta, {"initial": twice(initial, 1)})
    else:
        fine = twice(frames, 2)
    whole = frames.flatten(1).isfinite().all(1) & fine.flatten(1).isfinite().all(1)
    pod = modes_of(store.load().x["u"].flatten(0, 1), draw)
    return store, frames[whole].flatten(0, 1).float(), fine[whole].flatten(0, 1).float(), pod


def modes_of(frames: Tensor, draw: torch.Generator) -> Modes:
    """Mean of some frames, modes, and their variances, the strongest first."""
    seen = frames.flatten(1).double()
    seen = seen[torch.randperm(len(seen), generator=draw)[:6_000]]
    mean = seen.mean(0)
    values, vectors = torch.linalg.eigh((seen - mean).mT @ (seen - mean) / len(seen))
    return mean, vectors.mT.flip(0), values.flip(0).clamp_min(1e-12)


def twice(fields: Tensor, axes: int) -> Tensor:
    """Periodic fields on twice as many points in each direction, by the waves that go through them."""
    for axis in range(-axes, 0):
        n, along = fields.shape[axis], fields.movedim(axis, -1)
        fields = torch.fft.irfft(refined(torch.fft.rfft(along), 2 * n, n), n=2 * n).movedim(-1, axis)
    return fields


def off(found: Tensor, true: Tensor) -> float:
    """|u - f| / |u|, on average."""
    found, true = found.flatten(1).double(), true.flatten(1).double()
    return float(((found - true).norm(dim=1) / true.norm(dim=1)).mean())


@torch.no_grad()
def judged(learned: FieldCode, count: int | None, true: Tensor, finer: Tensor, pod: Modes) -> dict[str, Any]:
    """A row of the table: errors from the grid, or from some points, by each way."""
    draw, flat, found = torch.Generator().manual_seed(11), true.flatten(2), []
    total, wide = flat.shape[2], places(finer.shape[2:], edges=False)
    some_of = slice(None, None, true.ndim - 2)  # in two directions every other frame
    for _ in range(1 if count is None else DRAWS):
        which = torch.arange(total) if count is None else torch.randperm(total, generator=draw)[:count].sort().values
        at, seen = (None, true) if count is None else (learned.grid[which], flat[..., which])
        z, values = in_pieces(lambda some, at=at: learned.encode(some, at), seen), seen[:, 0].flatten(1)
        found.append(
            {
                "learned": off(in_pieces(learned.decode, z), true),
                "POD": off(by_modes(values, which, pod, learned.numbers), true),
                "all modes": off(by_modes(values, which, pod, min(2 * len(which), total)), true),
                "interpolation": off(interpolated(values, which, true.shape[2:]), true),
                "twice the grid": off(in_pieces(lambda some: learned.decode(some, wide), z[some_of]), finer[some_of]),
            }
        )
    row: dict[str, Any] = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    nats = expected_nats(((flat - learned.level()[0]) / learned.level()[1]).flatten(1), learned.numbers, learned.noise)
    which = torch.randperm(total, generator=draw)[: count or total]
    coded = learned.coded(true) if count is None else learned.coded(flat[..., which], learned.grid[which])
    row |= {"alive": int(collapsed(coded).alive.sum()), "linear": int((nats > 0).sum())}
    parts = {"parameters": learned, "in encoder": learned.encoder}
    return row | {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def in_pieces(call: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """What a call makes of rows, some at a time."""
    return torch.cat([call(some) for some in rows.split(200)])


def checked(row: dict[str, Any], options: Any) -> list[dict[str, Any]]:
    """What is to be."""
    where = f"codes, {row['field']}, {row['numbers']} numbers from {row['points']} points by {row['encoder']}"
    if row["noise"] > 1:  # most numbers are bound to die
        return [check(f"{where}: numbers alive less those of a linear code", abs(row["alive"] - row["linear"]), 1.0)]
    found = [check(f"{where}: on twice the grid, over that on the grid", row["twice the grid"] / row["learned"], 1.3)]
    if row["field"] == "front" and row["points"] < 128 and row["encoder"] == "GridEncoder":
        bound = 1.0 if options.quick else 0.7
        found.append(check(f"{where}: over interpolation", row["learned"] / row["interpolation"], bound))
    return found


def wins(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where fronts move or vortices are carried, the best learned code's error over that of as many modes."""
    best = dict[str, float]()
    for row in rows:
        if row.get("noise", 1.0) < 1:
            best[row["field"]] = min(row["learned"] / row["POD"], best.get(row["field"], math.inf))
    smooth = ("Burgers, viscous", "vorticity")  # where modes win
    return [
        check(f"codes, {field}: least error over that of POD", share, 0.7)
        for field, share in best.items()
        if field not in smooth
    ]


def wavelets(field: str, frames: Tensor, fresh: Tensor) -> list[dict[str, Any]]:
    """Fresh frames by the coarsest wavelets, and by as many modes of other frames."""
    rows, axes = [], fresh.ndim - 2
    points, mean = fresh.shape[2], frames.mean()
    for level in range(1, points.bit_length() - 2):
        numbers = (points >> level) ** axes
        if not 8 <= numbers <= KEPT:
            continue
        row: dict[str, Any] = {"field": field, "kept": numbers}
        for name, code in (("wavelets", Haar(level, kept=0, size=1)), ("modes", Pod(numbers, width=1))):
            tokens = code.build(1, fresh.shape[2:])
            tokens.look(lambda: iter(frames[:: max(1, len(frames) // 6_000)].sub(mean).split(1_000)))
            row[name] = off(tokens.decode(tokens.encode(fresh - mean)) + mean, fresh)
        rows.append(row)
    return rows


def graphs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`Graph` beside the Perceiver, where both are in the table."""
    found = {(row["field"], row["encoder"]): row for row in rows if row.get("points") in (16, 64)}
    return [
        check(f"codes, {field}, Graph: error over the Perceiver's", row["learned"] / other["learned"], 1.0)
        for (field, encoder), row in found.items()
        if encoder == "Graph" and (other := found.get((field, "Perceiver")))
    ]


def origins(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`Origin` beside the Perceiver, where both are in the table: error, and the whole code's parameters."""
    found = {(row["field"], row["encoder"]): row for row in rows if row.get("points") in (16, 64)}
    checks = []
    for (field, encoder), row in found.items():
        if encoder == "Origin" and (other := found.get((field, "Perceiver"))):
            checks.append(
                check(f"codes, {field}, Origin: error over the Perceiver's", row["learned"] / other["learned"], 1.1)
            )
            share = row["parameters"] / other["parameters"]
            checks.append(check(f"codes, {field}, Origin: parameters over the Perceiver's", share, 0.5))
    return checks


def by_modes(seen: Tensor, which: Tensor, pod: Modes, rank: int) -> Tensor:
    """Fields by some modes: the expectation given what is seen, were fields Gaussian and the other modes noise."""
    mean, modes, variances = pod
    known, left = modes[:rank, which], variances[rank:].sum() / len(mean)
    inner = known @ known.mT + torch.diag((left + 1e-12) / variances[:rank])
    return mean + torch.linalg.solve(inner, known @ (seen.double() - mean[which]).mT).mT @ modes[:rank]


def interpolated(seen: Tensor, which: Tensor, space: Sequence[int]) -> Tensor:
    """Linear, around the ring, or in the triangles between points of a torus."""
    total = math.prod(space)
    if len(seen[0]) == total:
        return seen
    if len(space) == 2:
        return in_triangles(seen, which, space)
    at = torch.cat([which[-1:] - total, which, which[:1] + total])
    values = torch.cat([seen[:, -1:], seen, seen[:, :1]], 1)
    place = torch.arange(total)
    after = torch.searchsorted(at, place, right=True).clamp_max(len(at) - 1)
    share = (place - at[after - 1]) / (at[after] - at[after - 1])
    return values[:, after - 1] * (1 - share) + values[:, after] * share


def in_triangles(seen: Tensor, which: Tensor, space: Sequence[int]) -> Tensor:
    """Linear in each triangle of points and of their copies on all sides."""
    from scipy.interpolate import LinearNDInterpolator

    grid = places(space, edges=False).double()
    copies = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 2)
    at = (grid[which] + copies[:, None]).flatten(0, 1)
    found = LinearNDInterpolator(at.numpy(), seen.T.double().repeat(len(copies), 1).numpy())(grid.numpy())
    return torch.from_numpy(found).T
