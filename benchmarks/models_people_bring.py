"""Standard models of several fields at the default of `sciinf infer`: are answers right, or told not to be relied on?

    python benchmarks/models_people_bring.py [--quick] [--only NAME ...] [--out runs/brought]

sciinf was developed with the answers of the first six models at hand (`EARLIER`). The other six were added later
(`LATER`), from ecology, seismology, astronomy, biophysics, medicine and biochemistry. Among them are catalogues of
variable length, a limit in flux, censored times and a path that jumps. Of their twelve answers, at least nine must be
right with the verdict `rely`. No answer of any model may be wrong with that verdict.

Two models have discrete parameters (`DISCRETE`), and are asked with four times as many simulations. Their answers are
right where the total variation of each discrete parameter is .1 or less, too. `brought_sets` has three models of sets
of independent observations.

Each model has two observations: one of parameters in the middle of the prior, and one of parameters at its quantiles of
15 and 85 %, in turn. An answer is right if every mean is within .15 exact sds and every ratio of an sd to the exact one
between .9 and 1.1. The exact posterior is known by the model's likelihood, which sciinf is not given
(`adaptive_references`). What is made stays in the folder, and a second call grades it again.

The first row of a model has three costs of its run: the CPU seconds until the first answers were written, the CPU
seconds of the whole run, and the largest resident memory. They include the processes that the run waited for. A run
that an earlier version of this benchmark made has the CPU seconds of the whole run alone.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import brought_sets
import numpy as np
import torch
from adaptive_references import reference
from brought_sets import TASKS
from reporting import Rows, arguments, check, finish, table

from sciinf import Simulator, load_answer, load_simulator
from sciinf.core import Outcome
from sciinf.core.files import read_json, write_json
from sciinf.core.probabilities import Probabilities

FOLDER = Path(__file__).with_name("brought_simulators")
EARLIER = ("drift_diffusion", "g_and_k", "decades", "cauchy", "counts", "volatility")
LATER = ("n_mixture", "aftershocks", "galaxies", "motor_steps", "clinical_trial", "enzyme")
DISCRETE: dict[str, dict[str, list[float]]] = {
    "change_point": {"typical": [1, 3.0, 20, 1.5], "outer": [1, 2.0, 28, 4.5]},
    "overdispersed": {"typical": [1, 5.0, 4.0], "outer": [0, 8.0, math.nan]},
}
"""Model with discrete parameters -> observation -> the parameters that it is simulated from."""
MODELS = (*EARLIER, *LATER, *DISCRETE, *TASKS)
QUICK = ("decades", "cauchy")
PLACES = {"typical": (0.5, 0.5), "outer": (0.15, 0.85)}
"""Observation -> quantiles of the prior at which its parameters stand, in turn."""
MEAN_ERROR, SD_RATIOS, VARIATION = 0.15, (0.9, 1.1), 0.1
TIMES = 4
"""Simulations of models with discrete parameters, in those of the others."""
FAILING = 0.25
"""Share of the answers of `LATER` that may be anything else than right with the verdict `rely`."""
_GROUPS = {"earlier": EARLIER, "later": LATER, "discrete": tuple(DISCRETE), "sets": tuple(TASKS)}
_LOOKING = 0.25  # seconds between two looks at whether the first answers are written


def observations(simulator: Simulator, folder: Path, seed: int) -> dict[str, Path]:
    """Files of the observations, made where they are not there."""
    found, generator = dict[str, Path](), torch.Generator().manual_seed(100 + seed)
    for name, quantiles in PLACES.items():
        levels = torch.tensor([quantiles[k % 2] for k in range(len(simulator.prior))], dtype=torch.float64)
        if simulator.name in DISCRETE:
            theta = torch.tensor([DISCRETE[simulator.name][name]])
        else:
            theta = torch.stack([law.icdf(levels[k, None]) for k, law in enumerate(simulator.prior.laws)], 1)
        simulated = simulator(theta.float(), generator=generator)
        x = simulated.x if isinstance(simulated, Outcome) else simulated
        found[name] = folder / f"{name}.npz"
        if not found[name].is_file():
            values: dict[str, Any] = {key: value[0].numpy() for key, value in x.items()}
            np.savez(found[name], **values)
    return found


def exact(simulator: Simulator, folder: Path, files: dict[str, Path], seed: int) -> dict[str, dict[str, Any]]:
    """The exact posteriors, computed once: `Moments` as JSON values, and probabilities of discrete parameters."""
    known = read_json(folder / "exact.json")["exact"] if (folder / "exact.json").is_file() else {}
    for name in files.keys() - known.keys():
        x = {key: torch.as_tensor(value)[None] for key, value in simulator.observe(files[name]).items()}
        if simulator.prior.mixed:
            probabilities, moments = simulator.exact(x)  # type: ignore[attr-defined]
            mean, sd = ({p: both[k] for p, both in moments.items()} for k in range(2))
            told = {p: one.tolist() for p, one in probabilities.items()}
            known[name] = {"mean": mean, "sd": sd, "effective": math.inf, "probabilities": told}
        else:
            known[name] = asdict(reference(simulator.prior, simulator.log_density, x, seed))  # type: ignore[attr-defined]
        write_json(folder / "exact.json", {"exact": known})
    return known


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
        with (folder / "infer.log").open("w") as log:
            usage = run(words, log, [folder / "run" / "answers" / one / "answer.json" for one in files])
        write_json(made, {**usage, "n": n})
    rows, moments = Rows(), exact(simulator, folder, files, seed)
    for one in files:
        for kind, answer in (("first", load_answer(folder / "run" / "answers" / one)), ("last", _last(folder, one))):
            draws, truth = answer.draws.of_parameters(), moments[one]
            mean, sd = (dict(zip(draws.names, part.tolist(), strict=True)) for part in (draws.mean(), draws.sd()))
            off = [(mean[p] - truth["mean"][p]) / truth["sd"][p] for p in truth["mean"]]
            ratios = [sd[p] / truth["sd"][p] for p in truth["mean"]]
            right = max(map(abs, off)) <= MEAN_ERROR and SD_RATIOS[0] <= min(ratios) <= max(ratios) <= SD_RATIOS[1]
            apart = {p: variation(draws.probabilities(p), q) for p, q in truth.get("probabilities", {}).items()}
            right = right and max(apart.values(), default=0.0) <= VARIATION
            row: dict[str, Any] = {"model": name, "observation": one, "answer": kind, "right": right}
            row |= {f"TV {p}": value for p, value in apart.items()}
            row |= {"off": max(off, key=abs), "least ratio": min(ratios), "largest ratio": max(ratios)}
            rows.append(row | {"verdict": answer.verdict.word, "sentence": answer.verdict.sentence[:160]})
    usage = read_json(made)
    named = {"first CPU s": "first_cpu_seconds", "CPU s": "cpu_seconds", "peak MB": "peak_megabytes"}
    rows[0] |= {column: usage[key] for column, key in named.items() if usage.get(key) is not None}
    return rows


def run(words: Sequence[str], log: IO[str], first: Sequence[Path]) -> dict[str, float | None]:
    """Run a command and measure what it uses.

    Args:
        words: The command.
        log: Where its output goes.
        first: Files of the first answers; when all are there, the CPU seconds so far are read.

    Returns:
        `first_cpu_seconds`, None on a system without /proc or if the first answers were not seen while it ran;
        `cpu_seconds`; and `peak_megabytes`, the largest resident memory of one process, in units of 2^20 bytes.

    Raises:
        CalledProcessError: If the command fails.
    """
    process, early = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT), None
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        if early is None and all(file.is_file() for file in first):
            early = _cpu_seconds(process.pid)
        time.sleep(_LOOKING)
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    spent, unit = ended[2], 2**20 if sys.platform == "darwin" else 2**10
    cpu = spent.ru_utime + spent.ru_stime
    return {"first_cpu_seconds": early, "cpu_seconds": cpu, "peak_megabytes": spent.ru_maxrss / unit}


def _cpu_seconds(pid: int) -> float | None:
    """CPU seconds so far of a process and the processes that it waited for; None on a system without /proc."""
    file = Path(f"/proc/{pid}/stat")
    if not file.is_file():
        return None
    spent = file.read_text().rpartition(")")[2].split()[11:15]  # user and system, of the process and of its children
    return sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")


def variation(told: Probabilities, exact: Sequence[float]) -> float:
    """Total variation of a discrete parameter from the exact one, given that it exists."""
    return sum(abs(one - other) for one, other in zip(told.probability, exact, strict=True)) / 2


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
        if name in TASKS:
            rows += brought_sets.graded(name, out, 2 * n, options.seed)
        else:
            rows += graded(name, out, TIMES * n if name in DISCRETE else n, options.seed)
        print(table([row for row in rows if row["model"] == name]), "\n", flush=True)
    print(f"{time.monotonic() - started:.0f} s\n")
    finish(rows, checks(rows), options.json)


def checks(rows: Rows) -> Rows:
    """The checks of each group, as far as its models are among the rows."""
    found = Rows()
    for group, models in _GROUPS.items():
        last = [row for row in rows if row["answer"] == "last" and row["model"] in models]
        relied = [row["right"] for row in last if row["verdict"] == "rely"]
        if last:
            print(f"{group} models: {sum(row['right'] for row in last)} of {len(last)} answers right, ", end="")
            print(f"{sum(relied)} of them with the verdict rely")
            silent = len(relied) - sum(relied)
            found.append(check(f"{group} models: answers that are wrong with the verdict rely", silent, 0))
        if last and group == "sets":
            told = sum(not row["right"] and row["verdict"] != "do not rely" for row in last)
            found.append(check("sets: answers that are wrong without the verdict do not rely", told, 0))
        if last and group == "later":
            failing = len(last) - sum(relied)
            most = FAILING * len(last)
            found.append(check("later models: answers that are not right with the verdict rely", failing, most))
    return found


if __name__ == "__main__":
    main()
