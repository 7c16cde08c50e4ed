"""Objectives of codes against a linear-Gaussian model, of which all is known: a part of `generators.py`.

x ~ N(W z, I) of 8 numbers, z ~ N(0, I) of 4. Encoder and decoder are linear, and learned by 1,500 steps of 256 rows.
"free" encoders have an sd for each number and can be exact; "one sd" ones have one for all, and cannot: there
objectives differ. "evidence": log p of held-out rows by the true model less that by the learned one, nats of a row.
"q": divergence of the encoder from the learned model's exact posterior. "gap k": what the bound of k draws lacks of the
learned model's evidence; "se": its standard error at 1,000. UAE is no bound, and has no best W, which grows as long as
it is trained (equation (7) of `sciinf.emulators.objectives`).

"laws": of all codes together, and of what is decoded from draws of the prior. "codes p": of the energy distance between
1,000 codes and as many draws of the prior, by 500 permutations. "f(z)" and "f(z) + noise": sliced Wasserstein distance
of 20,000 such draws from fresh rows, over that of other rows of the model. "error": of what is decoded from the mean.
"Quantised": levels in use, of a code that has 8 for each number, and its nats at most and as found.

The package pythae trains the same nets on the same batches, where it has the objective (its noise is 1, too):
`pip install --no-deps --target FOLDER pythae` and FOLDER in PYTHONPATH. Without it those rows are left out.
In its version 0.1.2 the logarithm of MIWAE and PIWAE is over the sets, not the draws in one: its "MIWAE 64 x 1" is our
IWAE 64. And the encoder of its PIWAE has the gradients of both losses.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pythae_peer import Nets, peers
from reporting import check, clock
from torch import Tensor, nn

from sciinf.core.prior import global_seed
from sciinf.diagnostics.distances import sliced_wasserstein
from sciinf.emulators import Adversarial, Quantised
from sciinf.emulators.adversarial import Discriminator
from sciinf.emulators.field_code import collapsed, expected_nats
from sciinf.emulators.objectives import (
    KL,
    Coded,
    Importance,
    Mmd,
    Objective,
    Reconstruction,
    Unscented,
    evidence,
)
from sciinf.emulators.quantised import rounded

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]
NUMBERS, LATENTS, SIZES = 8, 4, (3.0, 2.0, 1.5, 1.0)
DRAWS = (1, 10, 100, 1_000)
OBJECTIVES: dict[str, Objective] = {
    "KL": KL(),
    "IWAE 64": Importance(64),
    "MIWAE 8 x 8": Importance(8, 8),
    "MIWAE 64 x 1": Importance(1, 64),
    "PIWAE 8 x 8": Importance(8, 8, apart=True),
    "CIWAE 64": Importance(64, mix=0.5),
    "InfoVAE": Mmd(10.0, 0.5),
    "UAE": Unscented(),
}

LAWS: dict[str, Objective] = {
    "VAE": KL(),
    "InfoVAE": Mmd(10.0, 0.5),
    "WAE": Mmd(10.0),
    "WAE-GAN": Adversarial(10.0),
    "Quantised": Quantised(8),
}


def true_model() -> Tensor:
    """W, (number, latent)."""
    draw = torch.Generator().manual_seed(7)
    basis = torch.linalg.qr(torch.randn(NUMBERS, LATENTS, generator=draw))[0]
    turn = torch.linalg.qr(torch.randn(LATENTS, LATENTS, generator=draw))[0]
    return basis @ torch.diag(torch.tensor(SIZES)) @ turn


def rows_of(w: Tensor, count: int, seed: int) -> Tensor:
    """Rows of the model."""
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(count, w.shape[1], generator=draw)
    return z @ w.mT + torch.randn(count, len(w), generator=draw)


def log_evidence(w: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """log p(x), exact."""
    w, off = w.double(), x.double() - bias.double()
    covariance = w @ w.mT + torch.eye(len(w), dtype=w.dtype)
    found = torch.linalg.solve(covariance, off.mT).mT
    return -(off * found).sum(1) / 2 - torch.logdet(covariance) / 2 - len(w) * math.log(2 * math.pi) / 2


def divergence(coded: Coded, w: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """KL of the encoder's law from the exact posterior, in nats."""
    w, off = w.double(), x.double() - bias.double()
    precision = torch.eye(w.shape[1], dtype=w.dtype) + w.mT @ w
    mean = torch.linalg.solve(precision, (off @ w).mT).mT
    away, sd = coded.mean.double() - mean, coded.log_sd.double().exp()
    inside = (away @ precision * away).sum(1) + (precision.diagonal() * sd.square()).sum(1) - w.shape[1]
    return inside / 2 - torch.logdet(precision) / 2 - coded.log_sd.double().sum(1)


def objectives(options: Any, out: Path) -> Found:
    """All tables."""
    del out
    rows, checks = learned(options)
    for part in (laws, slopes, noise, collapse):
        found = part(options)
        rows, checks = rows + found[0], checks + found[1]
    return rows, checks


def learned(options: Any) -> Found:
    """What each objective makes of encoder and decoder."""
    w, rows = true_model(), []
    x, held = rows_of(w, 20_000, options.seed + 1), rows_of(w, 1_000 if options.quick else 4_000, options.seed + 2)
    steps = 600 if options.quick else 1_500
    for one_sd in (False, True):
        for name, objective in OBJECTIVES.items():
            nets, started = Nets(NUMBERS, LATENTS, one_sd, options.seed), clock("cpu")
            train(nets, objective, x, steps, options.seed)
            rows.append(judged(nets, held, w, name, "sciinf", clock("cpu") - started))
        for name, make in peers(NUMBERS, LATENTS).items():
            nets, started = Nets(NUMBERS, LATENTS, one_sd, options.seed), clock("cpu")
            make(nets, x, steps, options.seed)
            rows.append(judged(nets, held, w, name, "pythae", clock("cpu") - started))
    return rows, checked(rows, options)


def train(nets: Nets, objective: Objective, x: Tensor, steps: int, seed: int) -> None:
    """By Adam, whose rate falls to 0."""
    draw = torch.Generator().manual_seed(seed)
    with global_seed(torch.Generator().manual_seed(seed + 1)):
        judge = Discriminator(nets.latents, objective.judged) if objective.judged else nn.Module()
    optimiser, schedule = nets.optimiser([*nets.parameters(), *judge.parameters()], steps)
    for batch in nets.batches(x, steps, seed):
        optimiser.zero_grad()
        coded = Coded(*nets.encoded(batch), judge, objective.levels)
        objective.loss(Reconstruction(batch, nets.decoder, torch.ones(())), coded, generator=draw).mean().backward()
        optimiser.step()
        schedule.step()


@torch.no_grad()
def judged(nets: Nets, x: Tensor, w: Tensor, name: str, by: str, spent: float) -> dict[str, Any]:
    """A row of the table."""
    own, bias = nets.decoder.weight, nets.decoder.bias
    coded, true = Coded(*nets.encoded(x)), log_evidence(own, bias, x)
    best = log_evidence(w, torch.zeros(len(w)), x)
    row: dict[str, Any] = {
        "encoder": "one sd" if nets.one_sd else "free",
        "objective": name,
        "by": by,
        "evidence": float((best - true).mean()),
        "q": float(divergence(coded, own, bias, x).mean()),
        "|W|^2": float(own.square().sum()),
    }
    at, draw = Reconstruction(x, nets.decoder, torch.ones(())), torch.Generator().manual_seed(3)
    for k in DRAWS:
        gap = true - evidence(at, coded, k, generator=draw)
        row[f"gap {k}"], row["se"] = float(gap.mean()), float(gap.std() / len(gap) ** 0.5)
    return row | {"s": spent}


def checked(rows: list[dict[str, Any]], options: Any) -> list[dict[str, Any]]:
    """What is to be."""
    slack, found = (2.0 if options.quick else 1.0), []
    ours = {(row["encoder"], row["objective"]): row for row in rows if row["by"] == "sciinf"}
    for (encoder, name), row in ours.items():
        where = f"objectives, {encoder}, {name}"
        rise = max(row[f"gap {b}"] - row[f"gap {a}"] for a, b in pairwise(DRAWS))
        found.append(check(f"{where}: most that the bound falls with more draws", rise, 0.01 + 3 * row["se"]))
        if name != "UAE":  # whose sds are too small for weights, and whose W has no best size
            found.append(check(f"{where}: gap of 1,000 draws", abs(row["gap 1000"]), 0.05 + 2 * row["se"]))
        if encoder == "free" and name not in ("UAE", "InfoVAE"):
            found.append(check(f"{where}: evidence", row["evidence"], 0.02 * slack))
        if encoder == "free" and name in ("KL", "MIWAE 64 x 1"):
            found.append(check(f"{where}: divergence of the encoder", row["q"], 0.02 * slack))
    one = {name: row for (encoder, name), row in ours.items() if encoder == "one sd"}
    for name in ("IWAE 64", "PIWAE 8 x 8"):
        share = one[name]["evidence"] / one["KL"]["evidence"]
        found.append(check(f"objectives, one sd, {name}: evidence lost, share of KL's", share, 0.5))
    better = one["PIWAE 8 x 8"]["q"] / one["IWAE 64"]["q"]
    found.append(check("objectives, one sd: divergence of the encoder, PIWAE over IWAE", better, 0.8))
    return found


def laws(options: Any) -> Found:
    """What direct draws are like, by objectives that are for them."""
    w, rows, steps = true_model(), [], 600 if options.quick else 1_500
    x, fresh, others = (rows_of(w, 20_000, options.seed + k) for k in (1, 2, 3))
    apart = sliced_wasserstein(fresh, others)
    for one_sd in (False, True):
        for name, objective in LAWS.items():
            nets, started = Nets(NUMBERS, LATENTS, one_sd, options.seed), clock("cpu")
            train(nets, objective, x, steps, options.seed)
            spent, draw = clock("cpu") - started, torch.Generator().manual_seed(4)
            with torch.no_grad():
                coded = Coded(*nets.encoded(fresh), None, objective.levels)
                kept = rounded(coded.mean, objective.levels) if objective.levels else coded.mean
                row: dict[str, Any] = {"encoder of": "one sd" if one_sd else "free", "trained for": name}
                row["error"] = float((nets.decoder(kept) - fresh).norm() / fresh.norm())
                if objective.levels:
                    found = collapsed(coded)
                    row |= {"levels": str(found.in_use.tolist() if found.in_use is not None else [])}
                    row |= {"nats": float(found.kl.sum()), "at most": LATENTS * math.log(objective.levels)}
                else:
                    z = coded.draw(1, generator=draw)[0]
                    row["codes p"] = alike(z[:1_000], torch.randn(1_000, LATENTS, generator=draw), draw)
                    decoded = nets.decoder(torch.randn(20_000, LATENTS, generator=draw))
                    noisy = decoded + torch.randn(decoded.shape, generator=draw)
                    row["f(z)"] = sliced_wasserstein(decoded, fresh) / apart
                    row["f(z) + noise"] = sliced_wasserstein(noisy, fresh) / apart
            rows.append({"s": spent, **row} if objective.levels else {**row, "s": spent})
    return rows, lawful(rows)


def lawful(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What laws are to be."""
    found, checks = {(row["encoder of"], row["trained for"]): row for row in rows}, []
    for encoder in ("free", "one sd"):
        usual = found[encoder, "VAE"]["f(z)"]
        for name in ("WAE", "WAE-GAN"):
            row, where = found[encoder, name], f"objectives, {encoder}, {name}"
            checks.append(check(f"{where}: 0.05 over p of codes and prior", 0.05 / row["codes p"], 1.0))
            checks.append(check(f"{where}: distance of draws without noise, over the VAE's", row["f(z)"] / usual, 0.8))
    return checks


def alike(a: Tensor, b: Tensor, draw: torch.Generator, turns: int = 500) -> float:
    """How often two laws as alike as can be would be found as far apart: p of the energy distance."""
    both = torch.cat([a, b])
    near, signs = -torch.cdist(both, both), torch.ones(len(both))
    signs[len(a) :] = -1.0
    turned = torch.stack([signs, *(signs[torch.randperm(len(both), generator=draw)] for _ in range(turns))], 1)
    found = (turned * (near @ turned)).sum(0)
    return float((found[1:] >= found[0]).sum() + 1) / (turns + 1)


def off_the_best(rows: int, away: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W, the encoder's A and log s near the best for it, all off by numbers of sd `away`; rows; in float64."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.linalg.qr(torch.randn(NUMBERS, LATENTS, generator=draw, dtype=torch.float64))[0] * torch.tensor(SIZES)
    precision = 1 + w.square().sum(0)
    a, log_sd = w / precision, -precision.log() / 2
    w, a, log_sd = (v + away * torch.randn(v.shape, generator=draw, dtype=v.dtype) for v in (w, a, log_sd))
    return w, a, log_sd, rows_of(w.float(), rows, seed + 1).double()


def gradients(objective: Objective, copies: int, away: float, seed: int) -> tuple[Tensor, Tensor]:
    """Of the loss of 8 rows for encoder and decoder, each copy with its own draws, (copy, parameter)."""
    w, a, log_sd, x = off_the_best(8, away, seed)
    draw = torch.Generator().manual_seed(seed + 2)
    found: list[list[Tensor]] = [[], []]
    most = max(1, 200_000 // (8 * objective_draws(objective)))
    for start in range(0, copies, most):
        count = min(most, copies - start)
        leaves = [v.expand(count, *v.shape).clone().requires_grad_() for v in (a, log_sd, w)]
        many = x.repeat(count, 1)
        mean = torch.einsum("bn,cnl->cbl", x, leaves[0]).flatten(0, 1)
        coded = Coded(mean, leaves[1].repeat_interleave(8, 0))

        def decode(z: Tensor, w: Tensor = leaves[2]) -> Tensor:
            return torch.einsum("kcbl,cnl->kcbn", z.unflatten(1, (-1, 8)), w).flatten(1, 2)

        at = Reconstruction(many, decode, torch.ones((), dtype=x.dtype))
        loss = objective.loss(at, coded, generator=draw).sum() / 8
        each = torch.autograd.grad(loss, leaves)
        found[0].append(torch.cat([g.flatten(1) for g in each[:2]], 1))
        found[1].append(each[2].flatten(1))
    return torch.cat(found[0]), torch.cat(found[1])


def objective_draws(objective: Objective) -> int:
    """Decodings of a row."""
    if isinstance(objective, Importance):
        return objective.k * objective.sets
    return objective.draws if isinstance(objective, KL) else 2 * LATENTS


def ratio(each: Tensor) -> float:
    """|mean| over the root of the total variance, the mean's own noise taken off."""
    variance = each.var(0).sum()
    return float((each.mean(0).square().sum() - variance / len(each)).clamp_min(1e-30).sqrt() / variance.sqrt())


def slopes(options: Any) -> Found:
    """How signal over noise of gradients goes with draws; the law is for weights that are nearly alike."""
    rows, checks, copies = [], [], 5_000 if options.quick else 20_000
    counts = (1, 2, 4, 8, 16, 32, 64)
    x = torch.tensor(counts).double().log()
    for away in (0.01, 0.05):
        found = [tuple(map(ratio, gradients(Importance(k), copies, away, options.seed + 5))) for k in counts]
        rows += [
            {"off the best by": away, "k": k, "encoder": e, "decoder": d}
            for k, (e, d) in zip(counts, found, strict=True)
        ]
        y = torch.tensor(found).double().log()
        slope = ((x - x.mean()) @ (y - y.mean(0))) / (x - x.mean()).square().sum()
        rows.append({"off the best by": away, "k": "slope", "encoder": float(slope[0]), "decoder": float(slope[1])})
        if away == 0.01:
            for name, at, due in (("encoder", 0, -0.5), ("decoder", 1, 0.5)):
                off = abs(float(slope[at]) - due)
                checks.append(check(f"objectives: slope of the {name}'s signal over noise off {due} by", off, 0.1))
    return rows, checks


def noise(options: Any) -> Found:
    """Variance of gradients by sigma points and by draws, at as many decodings."""
    rows, checks, copies = [], [], 2_000 if options.quick else 10_000
    for decodings in (2, 4, 2 * LATENTS):
        by = [
            [float(g.var(0).sum()) for g in gradients(objective, copies, 0.1, options.seed + 5)]
            for objective in (KL(draws=decodings), Unscented(pairs=decodings // 2))
        ]
        row = {"decodings": decodings, "draws, encoder": by[0][0], "draws, decoder": by[0][1]}
        rows.append(row | {"sigma points, encoder": by[1][0], "sigma points, decoder": by[1][1]})
        share = (by[1][0] + by[1][1]) / (by[0][0] + by[0][1])
        checks.append(check(f"objectives, {decodings} decodings: variance, sigma points over draws", share, 0.5))
    return rows, checks


def collapse(options: Any) -> Found:
    """Numbers that die against those that are bound to."""
    w, rows, wrong, sure = true_model(), [], 0, 0
    x = rows_of(w, 20_000, options.seed + 1)
    values = torch.linalg.eigvalsh(x.mT.cov().double()).flip(0)[:LATENTS]
    for beta in (0.5, 1.5, 2.5, 4.0, 6.0, 9.0, 13.0):
        nets = Nets(NUMBERS, LATENTS, False, options.seed)
        train(nets, KL(beta), x, 1_000 if options.quick else 3_000, options.seed)
        with torch.no_grad():
            found = collapsed(Coded(*nets.encoded(x)))
        nats, alive = expected_nats(x, LATENTS, 1.0, beta), found.alive[found.kl.argsort(descending=True)]
        clear = (values / beta).log().abs() > 0.1
        sure, wrong = sure + int(clear.sum()), wrong + int(((nats > 0) != alive)[clear].sum())
        row = {"beta": beta, "alive": int(alive.sum()), "expected alive": int((nats > 0).sum())}
        rows.append(row | {"nats": float(found.kl.sum()), "expected nats": float(nats.sum())})
    return rows, [check(f"objectives: numbers dead or alive against expectation, of {sure}", float(wrong), 0.0)]
