"""Standard models of several fields at the default of `sciinf infer`: are answers right, or told not to be relied on?

    python benchmarks/models_people_bring.py [--quick] [--only NAME ...] [--out runs/brought]

Each model has two observations: one of parameters in the middle of the prior, and one of parameters at its quantiles of
15 and 85 %, in turn. An answer is right if every mean is within .15 exact sds and every ratio of an sd to the exact one
between .9 and 1.1. The exact posterior is known by the model's likelihood, which sciinf is not given
(`adaptive_references`). What is made stays in the folder, and a second call grades it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adaptive_references import Moments, reference
from reporting import Rows, arguments, check, finish, table

from sciinf import Outcome, Simulator, load_answer, load_simulator
from sciinf.core.files import read_json, write_json

FOLDER = Path(__file__).with_name("brought_simulators")
MODELS = ("drift_diffusion", "g_and_k", "decades", "cauchy", "counts", "volatility")
QUICK = ("decades", "cauchy")
PLACES = {"typical": (0.5, 0.5), "outer": (0.15, 0.85)}
"""Observation -> quantiles of the prior at which its parameters stand, in turn."""
MEAN_ERROR, SD_RATIOS = 0.15, (0.9, 1.1)


def observations(simulator: Simulator, folder: Path, seed: int) -> dict[str, Path]:
    """Files of the observations, made where they are not there."""
    found, generator = dict[str, Path](), torch.Generator().manual_seed(100 + seed)
    for name, quantiles in PLACES.items():
        levels = torch.tensor([quantiles[k % 2] for k in range(len(simulator.prior))], dtype=torch.float64)
        z = torch.special.ndtri(levels)[None]
        theta = torch.stack([law.icdf(torch.special.ndtr(z[:, k])) for k, law in enumerate(simulator.prior.laws)], 1)
        simulated = simulator(theta.float(), generator=generator)
        x = simulated.x if isinstance(simulated, Outcome) else simulated
        found[name] = folder / f"{name}.npz"
        if not found[name].is_file():
            values: dict[str, Any] = {key: value[0].numpy() for key, value in x.items()}
            np.savez(found[name], **values)
    return found


def exact(simulator: Simulator, folder: Path, files: dict[str, Path], seed: int) -> dict[str, Moments]:
    """The exact posteriors, computed once."""
    known = read_json(folder / "exact.json")["exact"] if (folder / "exact.json").is_file() else {}
    for name in files.keys() - known.keys():
        x = {key: torch.as_tensor(value)[None] for key, value in simulator.observe(files[name]).items()}
        known[name] = asdict(reference(simulator.prior, simulator.log_density, x, seed))  # type: ignore[attr-defined]
        write_json(folder / "exact.json", {"exact": known})
    return {name: Moments(**one) for name, one in known.items()}


def graded(name: str, out: Path, n: int, seed: int) -> Rows:
    """Make what is missing of a model's answers, and a row for each observation."""
    folder, file = out / name, FOLDER / f"{name}.py"
    folder.mkdir(parents=True, exist_ok=True)
    simulator = load_simulator(file)
    files = observations(simulator, folder, seed)
    made = folder / "made.json"
    if not made.is_file():
        words = [sys.executable, "-m", "sciinf.cli", "infer", str(file), "--out", str(folder / "run"), "-n", str(n)]
        words += [word for one in files.values() for word in ("--observation", str(one))]
        started = os.times()
        with (folder / "infer.log").open("w") as log:
            subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=True)
        ended = os.times()
        spent = ended.children_user - started.children_user + ended.children_system - started.children_system
        write_json(made, {"cpu_seconds": spent, "n": n})
    rows, moments = Rows(), exact(simulator, folder, files, seed)
    for one in files:
        for kind, answer in (("first", load_answer(folder / "run" / "answers" / one)), ("last", _last(folder, one))):
            draws = answer.draws.of_parameters()
            off = [
                (float(draws.mean()[k]) - moments[one].mean[p]) / moments[one].sd[p] for k, p in enumerate(draws.names)
            ]
            ratios = [float(draws.sd()[k]) / moments[one].sd[p] for k, p in enumerate(draws.names)]
            right = max(map(abs, off)) <= MEAN_ERROR and SD_RATIOS[0] <= min(ratios) <= max(ratios) <= SD_RATIOS[1]
            row: dict[str, Any] = {"model": name, "observation": one, "answer": kind, "right": right}
            row |= {"off": max(off, key=abs), "least ratio": min(ratios), "largest ratio": max(ratios)}
            rows.append(row | {"verdict": answer.verdict.word, "sentence": answer.verdict.sentence[:160]})
        rows[-1]["CPU s"] = read_json(made)["cpu_seconds"]
    return rows


def _last(folder: Path, name: str) -> Any:
    """The newest answer: the refined one, where there is one."""
    return load_answer(folder / "run", name=name)


def main() -> None:
    """Make what is missing, grade, and print."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=MODELS, default=None, metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--out", type=Path, default=None, help="where runs stay; runs/brought, or runs/brought_quick")
    parser.add_argument("-n", type=int, default=None, help="simulations to train on; 10,000, or 2,000 with --quick")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    out = (options.out or Path("runs/brought_quick" if options.quick else "runs/brought")).resolve()
    n, started, rows = options.n or (2_000 if options.quick else 10_000), time.monotonic(), Rows()
    for name in options.only or (QUICK if options.quick else MODELS):
        rows += graded(name, out, n, options.seed)
        print(table([row for row in rows if row["model"] == name]), "\n", flush=True)
    last = [row for row in rows if row["answer"] == "last"]
    silent = sum(not row["right"] and row["verdict"] == "rely" for row in last)
    print(f"{time.monotonic() - started:.0f} s; right: {sum(row['right'] for row in last)} of {len(last)}\n")
    finish(rows, [check("answers that are wrong and told to be relied on", silent, 0)], options.json)


if __name__ == "__main__":
    main()
