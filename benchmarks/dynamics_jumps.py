"""Jump processes that are learned, beside forward and backward through the chain with its likeliest rates.

Used by `dynamics_neural.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from dynamics_learning import trained
from reporting import check
from torch import Tensor

from sciinf import Observable, Prior, Recipe, Simulator
from sciinf.campaigns.store import Store
from sciinf.core import X
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import MarkovJump
from sciinf.simulators.dynamics.finite_states import picked

Rows = list[dict[str, Any]]
COUNT, SPAN, SERIES, STARTS = 40, 20.0, 400, 2  # values of a row, the time they are in, rows, first weights


class Chain(Simulator):
    """States 0 to K - 1, with jumps to the next and the one before, seen with noise at random times of each row's own.

    Args:
        states: K.
    """

    def __init__(self, states: int) -> None:
        self.states, self.name, self.prior = states, f"chain_{states}", Prior.none()
        self.observables = {
            "x": Observable((COUNT, 1), dims=("time", "channel")),
            "x_times": Observable((COUNT,), dtype="float64", dims=("time",)),
        }
        up = torch.linspace(0.4, 0.8, states - 1, dtype=torch.float64)
        down = torch.linspace(0.7, 0.3, states - 1, dtype=torch.float64)
        self.rates = torch.diag(up, 1) + torch.diag(down, -1)

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        rows = len(theta)
        times = (SPAN * torch.rand(rows, COUNT, generator=generator, dtype=torch.float64)).sort(1).values
        state = picked(torch.full((rows, self.states), 1 / self.states), generator)
        matrix, states = self.rates - torch.diag(self.rates.sum(-1)), [state]
        for gap in times.diff(dim=1).T:
            law = torch.linalg.matrix_exp(matrix * gap[:, None, None])
            states.append(picked(law[torch.arange(rows), states[-1]], generator))
        path = torch.stack(states, 1).float()
        return {"x": (path + 0.35 * torch.randn(path.shape, generator=generator))[..., None], "x_times": times}


def jumps(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Marginals and rates of chains of 3 and of 6 states."""
    rows, checks = [], []
    for states in (3, 6):
        simulator = Chain(states)
        tried = []
        for seed in range(1 if options.quick else STARTS):
            made = LatentDynamics(
                simulator.prior, simulator.observables, MarkovJump(states, hidden=16), width=16, seed=seed
            )
            with torch.no_grad():  # levels in an order
                made.decoder.direct.weight.copy_(torch.linspace(-1.5, 1.5, states)[None])
            law = (made.decoder, made.process.rate, made.process.start)
            for part in law:  # first what values say of these levels, then everything: else two states become one
                part.requires_grad_(False)
            first, _, before = trained(simulator, made, out / f"{states}_{seed}_first", SERIES, _recipe(80, 0.03))
            for part in (first.decoder, first.process.rate, first.process.start):
                part.requires_grad_(True)
            steps = 120 if options.quick else 160
            *found, after = trained(simulator, first, out / str(states) / str(seed), SERIES, _recipe(steps, 0.02))
            tried.append((*found, before + after))
        x = Store(out / str(states) / "0" / "rows").load().rows(slice(0, SERIES - SERIES // 10)).x
        bounds = [_bound(each[0], x) for each in tried]
        learned, fresh, _ = tried[max(range(len(tried)), key=bounds.__getitem__)]
        spent = sum(each[2] for each in tried)
        found, more = _compared(learned, x, states)
        truth = {
            "rates": simulator.rates.clamp_min(1e-9).log(),
            "start": torch.zeros(states, dtype=torch.float64),
            "means": torch.arange(states, dtype=torch.float64),
            "noise": torch.tensor(0.35, dtype=torch.float64).log(),
        }
        more["true less bound, nats a row"] = float(_exact(truth, x, states)[1].mean()) - max(bounds)
        more["worst start, nats a row"] = max(bounds) - min(bounds)
        series = learned.series(fresh.theta, fresh.x)
        with torch.no_grad():
            laws = learned.process.posterior(series, generator=torch.Generator().manual_seed(0)).marginals.double()
        exact, _ = _exact(found, fresh.x, states)
        apart = float(0.5 * (laws - exact).abs().sum(-1).mean())
        worst = float(0.5 * (laws - exact).abs().sum(-1).flatten().quantile(0.99))
        rows.append({"jumps": f"{states} states", "TV, mean": apart, "TV, 99 %": worst, **more, "CPU s": spent})
        loose = 4.0 if options.quick else 1.0
        checks.append(check(f"{states} states: marginals off forward-backward, TV", apart, 0.03 * loose))
        checks.append(
            check(f"{states} states: rates off the likeliest, in their sd, rms", more["rates off"], 0.25 * loose)
        )
    return rows, checks


def _recipe(steps: int, rate: float) -> Recipe:
    return Recipe(
        epochs=steps // 4,
        batch=90,
        learning_rate=rate,
        optimiser="adamw",
        weight_decay=0.0,
        ema=0.0,
        patience=steps,
    )


def _bound(learned: Any, x: X) -> float:
    """Nats a row."""
    with torch.no_grad():
        found = learned.bound(torch.zeros(len(x["x"]), 0), x, generator=torch.Generator().manual_seed(0))
    return float(found.mean())


def _compared(learned: Any, x: X, states: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The likeliest rates, means and noise of the training rows, from where learning ended, and how far off."""
    scale, unit = float(learned.emission.scale), float(learned.inputs.step)
    none = torch.zeros(1, 0)
    with torch.no_grad():
        decoded = learned.decoder(torch.eye(states))[:, 0].double()
        start = {
            "rates": (learned.process.rates(none)[0] / unit).clamp_min(1e-6).log(),
            "start": learned.process.start(none)[0].double(),
            "means": decoded * scale + float(learned.emission.center),
            "noise": (learned.emission.log_sd[0].exp().double() * scale).log(),
        }
    flat = {name: value.clone().requires_grad_() for name, value in start.items()}
    descent = torch.optim.LBFGS(list(flat.values()), max_iter=30, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        total = -_exact(flat, x, states)[1].sum()
        total.backward()
        return total

    before = float(loss())
    descent.step(loss)
    after = float(loss())
    best, noise = flat["rates"].detach(), {name: value.detach() for name, value in flat.items()}

    near = (best.exp() > 0.05) & (best.exp() < 5.0)  # rates that data tell: others are 0, or as good as infinite

    def slope(chosen: Tensor) -> Tensor:
        chosen = chosen.clone().requires_grad_()
        chain = {**noise, "rates": best.masked_scatter(near, chosen)}
        return torch.autograd.grad(-_exact(chain, x, states)[1].sum(), chosen)[0]

    shifts = 1e-3 * torch.eye(int(near.sum()), dtype=torch.float64)
    curvature = torch.stack([slope(best[near] + each) - slope(best[near] - each) for each in shifts]) / 2e-3
    sd = torch.linalg.inv(curvature).diagonal().sqrt()  # of the logarithm of a rate, the rest known
    off = float(((start["rates"][near] - best[near]) / sd).square().mean().sqrt())
    told = {"rates off": off, "nats lost": (before - after) / len(x["x"])}
    return noise, {**told, "sd of log rates": float(sd.square().mean().sqrt())}


def _exact(chain: dict[str, Tensor], x: X, states: int) -> tuple[Tensor, Tensor]:
    """Probabilities of states at each time, (row, T, K), and log likelihoods, by forward and backward, float64."""
    value, times = x["x"][..., 0].double(), x["x_times"]
    rates = chain["rates"].exp() * (1 - torch.eye(states, dtype=torch.float64))
    matrix = rates - torch.diag(rates.sum(-1))
    values, vectors = torch.linalg.eig(matrix)
    back_again, gaps = torch.linalg.inv(vectors), times.diff(dim=1)[..., None, None]
    steps = ((vectors * (values * gaps).exp()) @ back_again).real.clamp_min(0.0).unbind(1)
    off = (value[..., None] - chain["means"]) / chain["noise"].exp()
    seen = (-0.5 * off.square() - chain["noise"] - 0.5 * math.log(2 * math.pi)).exp().unbind(1)
    law, total, forth = chain["start"].softmax(-1).expand(len(value), -1), 0.0, []
    for k, likely in enumerate(seen):
        law = (law if k == 0 else (law[:, None] @ steps[k - 1])[:, 0]) * likely
        total = total + law.sum(-1).log()
        law = law / law.sum(-1, keepdim=True)
        forth.append(law)
    back, laws = torch.ones_like(law), [law]
    for k in range(len(seen) - 2, -1, -1):
        back = (steps[k] @ (seen[k + 1] * back)[..., None])[..., 0]
        back = back / back.sum(-1, keepdim=True)
        both = forth[k] * back
        laws.append(both / both.sum(-1, keepdim=True))
    return torch.stack(laws[::-1], 1), torch.as_tensor(total)
