"""Forecasts of Lorenz's weather of 1996 from two members of an ensemble: a part of `generators.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check, clock
from torch import Tensor

from sciinf import Observable, Prior, Recipe, Simulator, load_simulator, simulate, train
from sciinf.diagnostics.distances import crps, rank_histogram, spread_skill
from sciinf.emulators import Generator, Members
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import JointTokens, MixtureTokens, Patches

SITES, FEW, MANY = 40, 2, 31
ANALYSIS = 0.5  # sd of what is not known of the state now
LEAD = 0.6
FORCING = 8.0


class Forecasts(Simulator):
    """A truth and an ensemble that start equally far from an analysis, after a lead time.

    Args:
        forcing: Of the model that the members follow; the truth's is `FORCING`.
    """

    name = "lorenz_96_forecasts"
    block = 512

    def __init__(self, forcing: float = FORCING) -> None:
        self.prior, self.forcing = Prior.none(), forcing
        self.observables = {
            "few": Observable((FEW, SITES), "", ("channel", "x")),
            "many": Observable((MANY, SITES), "", ("channel", "x")),
            "u": Observable((1, 1, SITES), "", ("time", "channel", "x")),
        }

    def settings(self) -> dict[str, str]:
        """What tells it apart."""
        return {"forcing": str(self.forcing)}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        make: Any = type(load_simulator(SIMULATORS / "pde" / "lorenz_96.py"))
        weather = make(times=(LEAD,))
        rows, count = len(theta), 1 + FEW + MANY
        true = torch.full((rows, 1), FORCING, dtype=torch.float64)
        middle = weather.start(true, generator=generator)["initial"]
        noise = torch.randn(rows, count, SITES, generator=generator, dtype=torch.float64)
        states = (middle + ANALYSIS * noise).reshape(-1, 1, SITES)
        forcing = torch.full((rows, count), self.forcing, dtype=torch.float64)
        forcing[:, 0] = FORCING
        found = weather.solve(forcing.reshape(-1, 1), {"initial": states})[:, 0, 0].unflatten(0, (rows, count)).float()
        return {"u": found[:, None, :1], "few": found[:, 1 : 1 + FEW], "many": found[:, 1 + FEW :]}


def forecasts(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of plain CRPS, spread and ranks, and what they are to be."""
    rows, checks = [], []
    count, tested, members = (1_500, 300, 31) if options.quick else (6_000, 1_000, 31)
    for model, forcing in (("right", FORCING), ("wrong", FORCING - 1)):
        world = Forecasts(forcing)
        store = simulate(world, out / model, count, seed=options.seed)
        test = simulate(world, out / f"{model} test", tested, seed=options.seed + 1).load()
        true, found = test.x["u"][:, 0, 0], {}
        found["two members"] = test.x["few"].transpose(0, 1), 0.0
        found["31 members"] = test.x["many"].transpose(0, 1), 0.0
        for name, law in (("Mixture", MixtureTokens()), ("Joint", JointTokens())):
            made = Generator(
                world.prior,
                world.observables,
                Patches(1),
                given=[Members("few")],
                law=law,
                network=TokenTransformer(48, 3, heads=4),
                seed=options.seed,
            )
            started = clock("cpu")
            recipe = Recipe(epochs=15, batch=64) if options.quick else Recipe(epochs=40, batch=64)
            fit = train(made, store, out / f"{model} {name}", recipe=recipe, seed=options.seed)
            spent, draw = clock("cpu") - started, torch.Generator().manual_seed(options.seed)
            drawn = [fit.surrogate.draw(test.theta, test.x, generator=draw)[:, 0, 0] for _ in range(members)]
            found[name] = torch.stack(drawn), spent
        for name, (drawn, spent) in found.items():
            row = {"model": model, "draws of": name, "training s": spent, "spread": spread_skill(drawn, true)}
            row |= {"CRPS": float(crps(drawn, true, fair=False).mean()), "p of ranks": even(drawn, true)}
            rows.append(row)
        of = {row["draws of"]: row for row in rows if row["model"] == model}
        slack = 0.05 if options.quick else 0.0
        best = min(of["Mixture"]["CRPS"], of["Joint"]["CRPS"])
        if model == "right":
            checks.append(check("forecasts: CRPS over two members'", best / of["two members"]["CRPS"], 0.85 + slack))
            checks.append(check("forecasts: CRPS over 31 members'", best / of["31 members"]["CRPS"], 1.2 + slack))
        else:
            checks.append(
                check("forecasts, wrong model: CRPS over 31 members'", best / of["31 members"]["CRPS"], 1.05 + slack)
            )
            p = max(of["Mixture"]["p of ranks"], of["Joint"]["p of ranks"])
            checks.append(check("forecasts, wrong model: 0.01 / p of ranks", 0.01 / max(p, 1e-12), 1.0))
            checks.append(check("forecasts, wrong model: p of 31 members' ranks", of["31 members"]["p of ranks"], 0.01))
    return rows, checks


def even(drawn: Tensor, true: Tensor) -> float:
    """p of the chi-squared test that ranks are even, of one site of each case, for neighbours go together."""
    from scipy.stats import chisquare

    site = torch.arange(len(true)) % true.shape[1]
    some, rows = drawn[:, torch.arange(len(true)), site], true[torch.arange(len(true)), site]
    return float(chisquare(rank_histogram(some, rows)).pvalue)
