"""The run folders of `verdicts`: observations of each model, answers to them, and their exact posteriors.

Below the folder that `verdicts` is given stands one folder for each model. It holds the observations `a.npz` to
`e.npz`, the run folder `run`, what `sciinf infer` said (`infer.log`), the exact posteriors `exact.json`, and
`made.json`, with which the answers are complete.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import verdict_models
from verdict_models import FOLDER, Exact, Model, exact_posterior

from sciinf import Simulator, load_posterior, load_simulator, query
from sciinf.core import Outcome
from sciinf.core.files import read_json, write_json
from sciinf.core.observable import X
from sciinf.diagnostics.calibration import load_calibration

INFERRED, PLAIN = ("a", "b", "c"), ("d", "e")
"""Observations that `sciinf infer` is given, and those that are asked by `query` alone."""


def make_answers(model: Model, folder: Path, n: int, seed: int) -> float:
    """Make the observations, the run folder and all answers of a model, as far as they are not there yet.

    Args:
        model: The model.
        folder: Its folder.
        n: Simulations to train on.
        seed: Seeds the observations.

    Returns:
        Wall seconds that the answers took when they were made.

    Raises:
        RuntimeError: If `sciinf infer` fails. The message holds the end of what it said.
    """
    made = folder / "made.json"
    known = read_json(made) if made.is_file() else {}
    if known.get("n") == n:
        return float(known["seconds"])
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    true, file = model.true(), model.file(folder)
    files = _observation_files(true, folder, seed)
    _infer(file, [files[name] for name in INFERRED], folder, n)
    simulator, run = load_simulator(file), folder / "run"
    posterior, calibration = load_posterior(run), load_calibration(run)
    for name in PLAIN:
        x = simulator.observe(files[name])
        query(posterior, x, calibration, simulator=simulator, out=run, name=name, files=(files[name],))
    seconds = time.monotonic() - started
    write_json(made, {"seconds": seconds, "n": n})
    return seconds


def _observation_files(true: Simulator, folder: Path, seed: int) -> dict[str, Path]:
    """Draw the observations from the prior predictive distribution of the true model, and write a file of each."""
    found, generator = dict[str, Path](), torch.Generator().manual_seed(1_000 + seed)
    for name in (*INFERRED, *PLAIN):
        simulated = true(true.prior.sample(1, generator=generator), generator=generator)
        x = simulated.x if isinstance(simulated, Outcome) else simulated
        found[name] = folder / f"{name}.npz"
        values: dict[str, Any] = {observable: value[0].numpy() for observable, value in x.items()}
        np.savez(found[name], **values)
    return found


def _infer(file: Path, observations: list[Path], folder: Path, n: int) -> None:
    """Run `sciinf infer` with its defaults."""
    words = [sys.executable, "-m", "sciinf.cli", "infer", str(file), "--out", str(folder / "run"), "-n", str(n)]
    words += [word for one in observations for word in ("--observation", str(one))]
    with (folder / "infer.log").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    if ended.returncode:
        end = (folder / "infer.log").read_text()[-2_000:]
        raise RuntimeError(f"{' '.join(words)} ended with {ended.returncode}:\n{end}")


def exact_posteriors(model: Model, folder: Path) -> dict[str, Exact]:
    """The exact posterior of each observation; those of an earlier call are read back while no file has changed."""
    digest, file = hashlib.sha256(), folder / "exact.json"
    for source in (Path(verdict_models.__file__), FOLDER / f"{model.name}.py", *sorted(folder.glob("?.npz"))):
        digest.update(source.read_bytes())
    known = read_json(file) if file.is_file() else {}
    if known.get("sha256") != digest.hexdigest():
        true = model.true()
        found = {name: asdict(exact_posterior(true, _values(true, folder, name))) for name in (*INFERRED, *PLAIN)}
        known = {"sha256": digest.hexdigest(), "exact": found}
        write_json(file, known)
    return {name: Exact(**one) for name, one in known["exact"].items()}


def _values(simulator: Simulator, folder: Path, name: str) -> X:
    """An observation as a batch of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {key: torch.as_tensor(value)[None] for key, value in simulator.observe(folder / f"{name}.npz").items()}
