"""A million questions: `query_all` killed ten times beside one that was not, its memory, and rows per second.

python benchmarks/scale.py --parts surveys            10^6 observations, 20 draws of each, so that it ends
python benchmarks/scale.py --parts surveys --quick    20,000
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, Rows, check
from torch import Tensor

from sciinf import (
    Flow,
    Observable,
    Prior,
    Recipe,
    Uniform,
    build_posterior,
    calibrate,
    load_answers,
    load_posterior,
    load_simulator,
    query_all,
    simulate,
    train,
)
from sciinf.core import Simulator, X
from sciinf.diagnostics.calibration import load_calibration

_MEMORY = 1.5e9  # bytes
_KILLS = 10
_ASK = """
import sys
import torch
from sciinf import load_posterior, query_all
from sciinf.diagnostics.calibration import load_calibration
torch.set_num_threads(1)
run, store, out, draws = sys.argv[1:]
query_all(load_posterior(run), store, out, load_calibration(run), draws=int(draws), progress=False)
"""


class Line(Simulator):
    """A linear map of `size` parameters to 20 numbers with noise."""

    block = 16384

    def __init__(self, size: int) -> None:
        self.name, self.observables = f"line_{size}", {"x": Observable((20,))}
        self.prior = Prior(**{f"p{k}": Uniform(-1.0, 1.0) for k in range(size)})
        self.mix = torch.randn(size, 20, generator=torch.Generator().manual_seed(0)) / size**0.5

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return {"x": theta @ self.mix + 0.3 * torch.randn(len(theta), 20, generator=generator)}


def surveys(options: Any, folder: Path) -> tuple[Rows, Rows]:
    """Kills, two processes at once, memory, and speed by the number of parameters."""
    rows, draws, fresh = (20_000, 200, 6_000) if options.quick else (1_000_000, 20, 900)
    simulator = load_simulator(SIMULATORS / "linear_gaussian.py")
    run, store = _run(simulator, folder / "run", fresh), folder / "observations"
    simulate(simulator, store, rows, seed=3, progress=False)
    asked = [str(run), str(store)]
    whole, seconds, memory = _undisturbed([*asked, str(folder / "whole"), str(draws)])
    found = {"observations": rows, "draws": draws, "CPU s": seconds, "rows per CPU s": rows / seconds}
    found["GB resident"] = memory / 1e9
    print(found, whole, file=sys.stderr, flush=True)
    broken = _killed([*asked, str(folder / "killed"), str(draws)], rows, random.Random(options.seed))
    print(f"killed {_KILLS} times: {broken}", file=sys.stderr, flush=True)
    both = _together([*asked, str(folder / "both"), str(draws)])
    memory = max(memory, 1024.0 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    checks = [
        check("surveys: the digest after ten kills differs", float(broken != whole), 0),
        check("surveys: the digest of two processes at once differs", float(both != whole), 0),
        check("surveys: resident bytes", memory, _MEMORY),
    ]
    speeds = [_speed(size, folder / f"of {size}", 300 if options.quick else 2_000) for size in (2, 4, 8)]
    return [found, *speeds], checks


def _run(simulator: Simulator, folder: Path, fresh: int = 6_000) -> Path:
    """A run: a fit of few epochs, and its calibration."""
    store = simulate(simulator, folder / "simulations", 4_000, seed=1, progress=False)
    estimator = Flow(simulator.prior, simulator.observables)
    fit = train(estimator, store, folder / "fit", recipe=Recipe(epochs=5, processes=1), progress=False)
    checked = simulate(simulator, folder / "fresh", fresh, seed=2, progress=False)
    calibrate(build_posterior(fit), checked, folder, rows=min(1_000, fresh), progress=False)
    return folder


def _start(words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", _ASK, *words])


def _undisturbed(words: list[str]) -> tuple[str, float, float]:
    """The digest, CPU seconds, and the most memory that a process had resident, in bytes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if _start(words).wait():
        raise RuntimeError("the survey failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return load_answers(words[2]).digest, after.ru_utime - before.ru_utime, 1024.0 * after.ru_maxrss


def _killed(words: list[str], rows: int, chance: random.Random) -> str:
    """The digest of one that was killed at random moments, and ended by itself."""
    out, step = Path(words[2]), rows // (_KILLS + 2)
    for kill in range(_KILLS):
        process, until = _start(words), step * kill
        while process.poll() is None and _there(out) < until + chance.random() * step:
            time.sleep(0.05)
        time.sleep(chance.random())
        process.kill()
        process.wait()
    if _start(words).wait():
        raise RuntimeError("the survey failed after kills")
    return load_answers(out).digest


def _there(out: Path) -> int:
    """Rows so far, about: of whole blocks."""
    return 2_048 * sum(1 for _ in out.glob("blocks/*/*.h5"))


def _together(words: list[str]) -> str:
    """The digest of what two processes made in one folder."""
    both = [_start(words), _start(words)]
    codes = [process.wait() for process in both]
    if any(codes):
        raise RuntimeError("one of two surveys failed")
    return load_answers(words[2]).digest


def _speed(size: int, folder: Path, rows: int) -> dict[str, Any]:
    """Rows per CPU second with the usual number of draws."""
    simulator = Line(size)
    run = _run(simulator, folder)
    posterior, calibration = load_posterior(run), load_calibration(run)
    x = simulate(simulator, folder / "asked", rows, seed=4, progress=False).load().x
    started = time.process_time()
    query_all(posterior, x, folder / "answers", calibration, progress=False)
    seconds = time.process_time() - started
    return {
        "parameters": size,
        "observations": rows,
        "draws": 2_000,
        "CPU s": seconds,
        "rows per CPU s": rows / seconds,
    }
