"""The report says what the run folder holds, says what it lacks, and never takes markup from data."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf.core.draws_file import write_draws_h5
from sciinf.core.files import write_json
from sciinf.core.prior import Prior
from sciinf.core.results import Answer, Calibration, Draws, Estimate, Trust
from sciinf.core.simulator import Observable, Outcome, Simulator, Status, X
from sciinf.report import write_report
from sciinf.store import Store

EVIL = "<script>alert(1)</script>"


class Decay(Simulator):
    """A decaying voltage with one trace, one pair of counts and one small picture."""

    name = "decay"
    observables = {
        "v": Observable((40,), "mV", ("time",)),
        "peak": Observable((3,), "uV"),
        "picture": Observable((8, 10), "Jy", ("y", "x"), scale="log"),
    }

    def __init__(self, names: tuple[str, ...], units: tuple[str, ...]) -> None:
        self.prior = Prior(**{n: (td.LogNormal(0.0, 0.5), u) for n, u in zip(names, units, strict=True)})

    def __call__(self, theta: torch.Tensor, *, generator: torch.Generator) -> X:
        n, t = len(theta), torch.linspace(0, 4, 40)
        noise = torch.randn(n, 40, generator=generator)
        v = theta[:, :1] * torch.exp(-t * theta[:, -1:]) + 0.05 * noise
        peak = theta[:, :1] * torch.tensor([1.0, 1.1, 1.2]) + 0.1 * noise[:, :3]
        return {"v": v, "peak": peak, "picture": (0.3 * torch.randn(n, 8, 10, generator=generator)).exp()}


@dataclass(frozen=True)
class Sample:
    """What goes into a sample run folder."""

    names: tuple[str, ...] = ("amplitude", "rate")
    units: tuple[str, ...] = ("mV", "1/h")
    passed: bool = True
    p_value: float | None = 0.4
    corrected: bool = True


def make_run(folder: Path, sample: Sample | None = None) -> Path:
    """Write a complete and valid run folder."""
    sample = sample or Sample()
    generator = torch.Generator().manual_seed(3)
    simulator = Decay(sample.names, sample.units)
    for name, rows, seed in (("simulations", 600, 0), ("calibration_simulations", 300, 1)):
        make_store(folder / name, simulator, rows, seed)
    count = len(sample.names)
    theta = torch.exp(0.1 * torch.randn(3000, count, generator=generator) + 0.3 * torch.randn(3000, 1, generator=generator))
    draws = Draws(
        sample.names, sample.units, theta, -theta[:, 0].double(), log_evidence=-12.5, log_evidence_error=0.03, pareto_k=0.21
    )
    if not sample.corrected:
        draws = replace(draws, log_weight=torch.zeros(3000), log_evidence=None, log_evidence_error=None, pareto_k=None)
    estimates = {
        n: Estimate(1.234567, 0.0321, 1.23, (1.18, 1.29), 0.9, u) for n, u in zip(sample.names, sample.units, strict=True)
    }
    calibration = make_calibration(sample, generator)
    answer = Answer(
        estimates, draws, calibration, Trust(sample.p_value, "good: the observation looks like the simulations"),
        amortised=estimates if sample.corrected else {},
    )
    write_draws_h5(draws, folder / "draws.h5")
    write_predictive(folder / "predictive.h5", simulator, theta[:200], generator)
    write_json(folder / "calibration.json", calibration.to_json())
    posterior = "amortised, reweighted by the likelihood" if sample.corrected else "amortised"
    write_json(folder / "answer.json", {**answer.to_json(), "posterior": posterior, "seconds": 2.0})
    write_fit(folder / "fit", simulator)
    about = {
        "versions": {"python": "3.11.9", "sciinf": "0.1.0"},
        "command": "sciinf infer decay.py --observation 'cell 7.csv'",
        "started": "2025-11-25T10:00:00+00:00",
        "seed": 0,
        "seeds": {"simulations": 0, "calibration_simulations": 1},
        "digests": {"simulations": "0123abcd" * 8},
        "seconds": {"simulations": 1.2, "fit": 61.3, "calibration": 9.0, "answer": None, "total": 4000.0},
    }
    write_json(folder / "provenance.json", about)
    return folder


def make_store(path: Path, simulator: Simulator, rows: int, seed: int) -> None:
    store = Store.create(path, simulator, seed=seed, block=rows, rows=rows)
    generator = torch.Generator().manual_seed(seed)
    theta = simulator.prior.sample(rows, generator=generator)
    x = simulator(theta, generator=generator)
    assert not isinstance(x, Outcome)
    status = torch.zeros(rows, dtype=torch.uint8)
    status[4], status[7], status[9] = Status.RAISED, Status.RAISED, Status.TIMED_OUT
    messages = {4: f"ValueError: {EVIL}", 7: f"ValueError: {EVIL}", 9: "ran longer than 60 s"}
    store.commit(0, theta, Outcome(x, status, messages), seconds=1.25)


def make_calibration(sample: Sample, generator: torch.Generator, rows: int = 1000, draws: int = 127) -> Calibration:
    count = len(sample.names)
    u = torch.rand(rows, count, generator=generator) ** (1.0 if sample.passed else 0.5)
    levels = np.linspace(0.05, 0.95, 19)
    off = 0.0 if sample.passed else 0.1
    return Calibration(
        names=sample.names,
        ranks=(u * (draws + 1)).long().clamp(max=draws).numpy(),
        draws=draws,
        levels=levels,
        coverage=levels - off * levels * (1 - levels) * 4,
        tarp=levels + 0.005,
        p_values={f"rank of {n}": 0.3 for n in sample.names} | {"coverage": 0.5, "TARP": 3e-6},
        gaps={f"rank of {n}": 0.012 for n in sample.names} | {"coverage": off, "TARP": 0.005},
        of="amortised",
        fit="f" * 64,
        simulations="5" * 64,
        failed_rows=3,
        passed=sample.passed,
        reasons=("ranks, coverage and TARP agree with 1,000 fresh simulations",) if sample.passed else ("coverage is off by 10%",),
    )


def write_predictive(path: Path, simulator: Decay, theta: torch.Tensor, generator: torch.Generator) -> None:
    simulated, observed = simulator(theta, generator=generator), simulator(theta[:1], generator=generator)
    with h5py.File(path, "w") as file:
        for name, spec in simulator.observables.items():
            for group, value in (("observation", observed[name][0]), ("predictive", simulated[name])):
                item = file.create_dataset(f"{group}/{name}", data=value.numpy())
                item.attrs.update(unit=spec.unit, dims=",".join(spec.dims), scale=spec.scale)


def write_fit(folder: Path, simulator: Simulator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {"prior": {"$prior": simulator.prior.to_json()}, "flow": None}
    epochs = np.arange(60)
    validation = 6 * np.exp(-epochs / 8) - 1.2 + 0.003 * epochs
    rows = [f"{e},{v - 0.1:.6g},{v:.6g},0.001,0.9" for e, v in zip(epochs, validation, strict=True)]
    (folder / "history.csv").write_text("\n".join(["epoch,train_loss,validation_loss,learning_rate,seconds", *rows]) + "\n")
    record = {
        "digest": "f" * 64,
        "estimator": {"$class": "sciinf.estimators.flow.Flow", "arguments": arguments},
        "simulator": {"name": "decay", "source": ""},
        "seed": 0,
        "history": [{"epoch": int(e)} for e in epochs],
        "store": {"digest": "0123abcd" * 8, "rows": 600, "used": 597},
        "recipe": {"batch": 50},
        "seconds": 61.3,
        "versions": {"sciinf": "0.1.0"},
    }
    write_json(folder / "fit.json", record)
