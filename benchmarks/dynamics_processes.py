"""Jumps, stochastic equations, fractional noise and events: a part of `dynamics.py`.

Against laws in closed form; against torchsde where it is installed (`pip install --no-deps torchsde trampoline`).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dynamics_hurst import posteriors
from reporting import Rows, check, clock, seconds
from torch import Tensor

from sciinf.simulators.dynamics.noise import MarkovFractional, fractional
from sciinf.simulators.dynamics.points import Hawkes
from sciinf.simulators.dynamics.reactions import Reactions
from sciinf.simulators.dynamics.sde import SDE, EulerMaruyama, Milstein, Scheme, StochasticHeun

BOYS, RATES = 763, {"beta": 1.8, "gamma": 0.5}
P = 0.01  # of tests of a law; each raises a false alarm with this probability
MU, SIGMA = 0.5, 0.8  # of geometric Brownian motion


def processes(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Each kind by itself."""
    rows: Rows = []
    checks: Rows = []
    for part in (jumps, leaps, equations, against_torchsde, noise, roughness, events):
        found = part(options)
        rows += found[0]
        checks += found[1]
    return rows, checks


def jumps(options: Any) -> tuple[Rows, Rows]:
    """Births and deaths in the long run, and how long epidemics take."""
    from scipy import stats

    rows = 5_000 if options.quick else 20_000
    theta = _rows(rows, birth=6.0, death=1.5)
    births = Reactions(
        {"birth": [1], "death": [-1]}, lambda theta, n: torch.stack([theta["birth"], theta["death"] * n[:, 0]], -1)
    )
    found = births.exact(theta, torch.zeros(rows, 1), 0.0, 12.0, generator=_generator(options))[:, 0]
    law: Any = stats.poisson(4.0)
    expected = [*(law.pmf(k) for k in range(11)), law.sf(10)]
    seen = [*(int((found == k).sum()) for k in range(11)), int((found > 10).sum())]
    p = float(stats.chisquare(seen, [rows * e for e in expected]).pvalue)
    school, start = epidemic(10_000)
    spent = seconds(
        lambda: school.exact(_rows(10_000, **RATES), start, 0.0, 1e4, generator=_generator(options)), "cpu", rounds=1
    )
    return [{"jumps": "birth and death", "p": p, "10,000 epidemics, CPU s": spent}], [
        check("birth and death: 0.01 / p of the stationary law", P / p, 1.0),
        check("10,000 SIR epidemics of 763, CPU s", spent, 5.0),
    ]


def leaps(options: Any) -> tuple[Rows, Rows]:
    """The epidemic on day 4, by leaps: infectious on average, beside exact paths."""
    rows = 50_000 if options.quick else 200_000
    school, start = epidemic(rows)
    theta = _rows(rows, **RATES)
    exact, spent = _timed(lambda: school.exact(theta, start, 0.0, 4.0, generator=_generator(options))[:, 1])
    table: Rows = [_leapt("exact", exact, exact, spent / rows)]
    for length in (0.5, 0.25, 0.125, 0.0625, 0.03125):
        found, spent = _timed(
            lambda h=length: school.leap(theta, start, 0.0, 4.0, leap=h, generator=_generator(options))[:, 1]
        )
        table.append(_leapt(f"{length} d", found, exact, spent / rows))
    order = math.log2(table[-2]["error"] / table[-1]["error"])
    return table, [
        check("leaps: weak order off 1, from 1/16 to 1/32 day", abs(order - 1), 0.15),
        check("leaps: 0.1 / relative error of 1/4 day (a planted fault)", 0.1 / abs(table[2]["relative"]), 1.0),
    ]


def _leapt(name: str, found: Tensor, exact: Tensor, spent: float) -> dict[str, Any]:
    error, mean = float(found.mean() - exact.mean()), float(exact.mean())
    noise = math.sqrt(float(found.var() + exact.var()) / len(found))
    seen = {"infectious, day 4": float(found.mean()), "error": error, "its sd": noise, "relative": error / mean}
    return {"leap": name, **seen, "us a row": 1e6 * spent}


def equations(options: Any) -> tuple[Rows, Rows]:
    """Strong orders on geometric Brownian motion, with each sense of the noise."""
    table, checks = [], []
    for scheme, order in ((EulerMaruyama(), 0.5), (Milstein(), 1.0), (StochasticHeun(), 1.0)):
        name = type(scheme).__name__
        errors, spent = _strong_errors(options, scheme, ito=name != "Heun")
        slope = math.log2(errors[0] / errors[-1]) / (len(errors) - 1)
        table.append(
            {
                "scheme": name,
                "strong order": slope,
                "error, 16 steps": errors[0],
                "128 steps": errors[-1],
                "us a step and 1,000 rows": spent,
            }
        )
        checks.append(check(f"{name}: strong order off {order}", abs(slope - order), 0.1))
    wrong, _ = _strong_errors(options, StochasticHeun(), ito=True)
    slope = math.log2(wrong[0] / wrong[-1]) / (len(wrong) - 1)
    table.append({**dict.fromkeys(table[0], "-"), "scheme": "Heun, read in Ito's sense", "strong order": slope})
    return table, [*checks, check("Heun read in Ito's sense: strong order (a planted fault)", slope, 0.1)]


def _strong_errors(options: Any, scheme: Scheme, *, ito: bool) -> tuple[list[float], float]:
    paths, fine = 4_000, 512
    noise = torch.randn(fine, paths, 1, generator=_generator(options), dtype=torch.float64) / math.sqrt(fine)
    truth = ((MU - SIGMA**2 / 2 * ito) + SIGMA * noise.sum(0)).exp()
    theta = {name: value.double() for name, value in _rows(paths, mu=MU, sigma=SIGMA).items()}
    errors, start = [], torch.ones(paths, 1, dtype=torch.float64)
    started = clock("cpu")
    for steps in (16, 32, 64, 128):
        coarse = noise.view(steps, fine // steps, paths, 1).sum(1)
        found = growth(scheme).solve(theta, start, 0.0, 1.0, steps=steps, noise=coarse)
        errors.append(float((found - truth).abs().mean()))
    return errors, (clock("cpu") - started) / (16 + 32 + 64 + 128) / paths * 1e9


def against_torchsde(options: Any) -> tuple[Rows, Rows]:
    """A double well with noise that depends on the state: laws at one time, by both."""
    if importlib.util.find_spec("torchsde") is None:
        return [{"torchsde": "is not installed"}], []
    rows, steps = 4_000 if options.quick else 10_000, 50
    table, checks = [], []
    start = torch.full((rows, 1), 0.3, dtype=torch.float64)
    kinds = (
        ("ito", "euler", EulerMaruyama()),
        ("ito", "milstein", Milstein()),
        ("stratonovich", "heun", StochasticHeun()),
    )
    for sense, method, scheme in kinds:
        peer, theirs = _timed(lambda m=method, s=sense: _by_torchsde(options, start, steps, m, s))
        well = SDE(lambda theta, z, t: _drift(z), lambda theta, z, t: _diffusion(z), scheme)
        mine, ours = _timed(lambda w=well: w.solve({}, start, 0.0, 2.0, steps=steps, generator=_generator(options)))
        p = _alike(peer, mine)
        table.append({"torchsde": method, "KS p": p, "its CPU s": theirs, "CPU s": ours})
        checks.append(check(f"torchsde, {method}: 0.01 / p that the laws are one", P / p, 1.0))
        if method == "milstein":
            other = p_of_other_sense(peer, start, steps, options)
            checks.append(check("torchsde, milstein: p of Heun's law (a planted fault)", other, P))
    return table, checks


def p_of_other_sense(peer: Tensor, start: Tensor, steps: int, options: Any) -> float:
    """KS of the same equation, read in the other sense."""
    well = SDE(lambda theta, z, t: _drift(z), lambda theta, z, t: _diffusion(z), StochasticHeun())
    return _alike(peer, well.solve({}, start, 0.0, 2.0, steps=steps, generator=_generator(options)))


def _alike(one: Tensor, other: Tensor) -> float:
    """p of a KS test that two columns of draws are of one law."""
    from scipy import stats

    found: Any = stats.ks_2samp(one[:, 0].numpy(), other[:, 0].numpy())
    return float(found.pvalue)


def _by_torchsde(options: Any, start: Tensor, steps: int, method: str, sense: str) -> Tensor:
    import torchsde  # type: ignore[import-not-found]

    class Well(torch.nn.Module):
        noise_type, sde_type = "diagonal", sense

        def f(self, t: Tensor, z: Tensor) -> Tensor:
            return _drift(z)

        def g(self, t: Tensor, z: Tensor) -> Tensor:
            return _diffusion(z)

    torch.manual_seed(options.seed)
    times = torch.tensor([0.0, 2.0], dtype=torch.float64)
    motion = torchsde.BrownianInterval(0.0, 2.0, size=start.shape, dtype=start.dtype, entropy=options.seed + 77)
    found = torchsde.sdeint(Well(), start, times, bm=motion, method=method, dt=2.0 / steps)
    return found[-1].detach()


def _drift(z: Tensor) -> Tensor:
    return z - z**3


def _diffusion(z: Tensor) -> Tensor:
    return 0.4 + 0.4 * z.square() / (1 + z.square())


def noise(options: Any) -> tuple[Rows, Rows]:
    """Covariances of fractional motions, and what Markov processes miss."""
    rows, steps = 20_000 if options.quick else 100_000, 32
    table, checks = [], []
    for hurst in (0.1, 0.3, 0.5, 0.7, 0.9):
        index, length = (
            torch.full((rows,), hurst, dtype=torch.float64),
            torch.full((rows,), 1 / steps, dtype=torch.float64),
        )
        draws, spent = _timed(lambda h=index, d=length: fractional(h, d, steps, generator=_generator(options)))
        motion = draws[..., 0].cumsum(0)
        times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        s, t = times[:, None], times
        truth = (s ** (2 * hurst) + t ** (2 * hurst) - (s - t).abs() ** (2 * hurst)) / 2
        error = ((truth.square() + truth.diagonal()[:, None] * truth.diagonal()) / rows).sqrt()
        worst = float(((motion @ motion.T / rows - truth) / error).abs().max())
        missing = float(MarkovFractional(index[:1], 1.0).error)
        table.append(
            {"H": hurst, "covariance off by, in s.e.": worst, "us a row": 1e6 * spent / rows, "Markov misses": missing}
        )
        checks.append(check(f"fractional noise, H = {hurst}: worst of 1,024 covariances, in s.e.", worst, 5.0))
    for hurst, known in ((0.3, 1.5e-3), (0.7, 1.6e-5)):
        missing = float(MarkovFractional(torch.tensor([hurst]), 1.0, terms=5, fastest=400.0).error)
        checks.append(check(f"fractional noise by 5 Markov processes, H = {hurst}: missing", missing, known))
    return table, checks


def roughness(options: Any) -> tuple[Rows, Rows]:
    """H by the filter of Markov processes, beside the exact Gaussian process; three paths for each."""
    table, checks = [], []
    for hurst in (0.3, 0.5, 0.7, 0.9, 0.1):
        for seed in range(options.seed, options.seed + 3):
            found = posteriors(hurst, seed)
            (mean, sd), (true, spread) = found["filter"], found["exact"]
            table.append(
                {
                    "H": hurst,
                    "by filter": mean,
                    "exactly": true,
                    "off, sd": (mean - true) / spread,
                    "sd ratio": sd / spread,
                }
            )
        off, ratio = (
            max(abs(row[name] - at) for row in table[-3:]) for name, at in (("off, sd", 0.0), ("sd ratio", 1.0))
        )
        if hurst > 0.1:
            checks += [
                check(f"H = {hurst}: mean off by, in sds", off, 0.1),
                check(f"H = {hurst}: sd ratio off 1", ratio, 0.07),
            ]
        else:
            checks.append(check("H = 0.1, too rough for 6 processes: 0.5 / mean off by, in sds", 0.5 / off, 1.0))
    return table, checks


def events(options: Any) -> tuple[Rows, Rows]:
    """A Hawkes process: its rescaled times, its likelihood, and those of wrong ones."""
    rows, span = 50, 100.0

    def process(base: float = 0.6, branching: float = 0.7, decay: float = 2.0, rows: int = rows) -> Hawkes:
        return Hawkes(*(torch.full((rows,), v, dtype=torch.float64) for v in (base, branching, decay)))

    times, mask = process().draw(0.0, span, generator=_generator(options))
    p = {
        name: _rescaled(made, times, mask)
        for name, made in (("as drawn", process()), ("decay halved", process(decay=1.0)))
    }
    seen = times[0][mask[0]].tolist()
    direct = sum(
        math.log(0.6 + sum(1.4 * math.exp(-2.0 * (t - s)) for s in seen[:i])) - 0.7 * (1 - math.exp(-2.0 * (span - t)))
        for i, t in enumerate(seen)
    ) - 0.6 * span  # fmt: skip
    found, spent = _timed(lambda: process().log_prob(times, mask, 0.0, span))
    off = abs(float(found[0]) - direct)
    table = [
        {"Hawkes": name, "events": int(mask.sum()), "KS p": value, "log p, us an event": 1e6 * spent / int(mask.sum())}
        for name, value in p.items()
    ]
    return table, [
        check("Hawkes: 0.01 / p of rescaled times", P / p["as drawn"], 1.0),
        check("Hawkes: p with a wrong decay (a planted fault)", p["decay halved"], P),
        check("Hawkes: log likelihood off the direct sum by", off, 1e-8),
    ]


def _rescaled(process: Hawkes, times: Tensor, mask: Tensor) -> float:
    from scipy import stats

    at = process.compensator(times, mask, 0.0)
    return float(stats.kstest(torch.diff(at, prepend=torch.zeros_like(at[:, :1]))[mask].numpy(), "expon").pvalue)


def epidemic(rows: int) -> tuple[Reactions, Tensor]:
    """SIR in a school of 763, and its start."""

    def rates(theta: Any, state: Tensor) -> Tensor:
        susceptible, infectious = state.unbind(-1)
        return torch.stack([theta["beta"] * susceptible * infectious / BOYS, theta["gamma"] * infectious], -1)

    school = Reactions({"infection": [-1, 1], "recovery": [0, -1]}, rates)
    return school, torch.tensor([[BOYS - 1.0, 1.0]]).expand(rows, 2)


def growth(scheme: Scheme) -> SDE:
    """Geometric Brownian motion."""
    return SDE(lambda theta, z, t: theta["mu"][:, None] * z, lambda theta, z, t: theta["sigma"][:, None] * z, scheme)


def _rows(rows: int, **values: float) -> dict[str, Tensor]:
    return {name: torch.full((rows,), value) for name, value in values.items()}


def _generator(options: Any) -> torch.Generator:
    return torch.Generator().manual_seed(options.seed)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = clock("cpu")
    return call(), clock("cpu") - started
