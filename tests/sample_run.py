"""A complete run folder of a made-up simulator, and what a reader and a browser meet on its report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import distributions as td

from sciinf.campaigns.store import Store
from sciinf.core import Answer, Calibration, Draws, Trust
from sciinf.core.estimates import estimates
from sciinf.core.files import write_json
from sciinf.core.observable import Observable, Outcome, Status, X
from sciinf.core.prior import Prior
from sciinf.core.simulator import Simulator
from sciinf.interfaces.draws_file import write_draws_h5

EVIL = "<script>alert(1)</script>"
TIMES = tuple(0.1 * k for k in range(40))


class Decay(Simulator):
    """A decaying voltage with one trace, one pair of counts and one small picture."""

    name = "decay"
    observables = {
        "v": Observable((40,), "mV", ("time",), coords={"time": TIMES}, coord_units={"time": "h"}),
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


class Counts(Simulator):
    """Counts of two species along years, on a logarithmic scale."""

    name = "counts"
    observables = {
        "counts": Observable(
            (21, 2),
            dims=("time", "species"),
            scale="log",
            coords={"time": range(1900, 1921), "species": ("hare", "lynx")},
            coord_units={"time": "yr"},
        )
    }

    def __init__(self, names: tuple[str, ...], units: tuple[str, ...]) -> None:
        self.prior = Prior(**{n: (td.LogNormal(0.0, 0.5), u) for n, u in zip(names, units, strict=True)})

    def __call__(self, theta: torch.Tensor, *, generator: torch.Generator) -> X:
        phase = torch.arange(21.0)[:, None] / 1.7 + torch.tensor([0.0, 1.0])
        noise = 0.2 * torch.randn(len(theta), 21, 2, generator=generator)
        return {"counts": (theta[:, :1, None] * torch.sin(phase) + 3.0 + noise).exp()}


class Bands(Simulator):
    """A curve along time, a spectrum over three decades of frequency, and a value in each of four bands."""

    name = "bands"
    observables = {
        "curve": Observable((40,), "mJy", ("time",), coords={"time": TIMES}, coord_units={"time": "h"}),
        "spectrum": Observable(
            (24,),
            "mJy",
            ("frequency",),
            scale="log",
            coords={"frequency": tuple(10 ** (k / 8) for k in range(24))},
            coord_units={"frequency": "GHz"},
        ),
        "bands": Observable((4,), "mJy", ("band",), coords={"band": ("g", "r", "i", "z")}),
    }

    def __init__(self, names: tuple[str, ...], units: tuple[str, ...]) -> None:
        self.prior = Prior(**{n: (td.LogNormal(0.0, 0.5), u) for n, u in zip(names, units, strict=True)})

    def __call__(self, theta: torch.Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), 40, generator=generator)
        curve = theta[:, :1] * (10 + torch.sin(torch.arange(40.0) / 3)) + noise
        spectrum = (6 - torch.arange(24.0) / 4 + 0.2 * noise[:, :24]).exp()
        return {"curve": curve, "spectrum": spectrum, "bands": theta[:, :1] * torch.arange(1.0, 5.0) + noise[:, :4]}


@dataclass(frozen=True)
class Sample:
    """What goes into a sample run folder."""

    names: tuple[str, ...] = ("amplitude", "rate")
    units: tuple[str, ...] = ("mV", "1/h")
    kind: type[Decay] | type[Counts] | type[Bands] = Decay
    labels: Mapping[str, str] = field(default_factory=dict)


def make_run(folder: Path, sample: Sample | None = None) -> Path:
    """Write a complete and valid run folder."""
    sample = sample or Sample()
    generator = torch.Generator().manual_seed(3)
    simulator = sample.kind(sample.names, sample.units)
    for name, rows, seed in (("simulations", 600, 0), ("calibration_simulations", 300, 1)):
        make_store(folder / name, simulator, rows, seed)
    count = len(sample.names)
    theta = torch.exp(
        0.1 * torch.randn(3000, count, generator=generator) + 0.3 * torch.randn(3000, 1, generator=generator)
    )
    draws = Draws(
        sample.names,
        sample.units,
        theta,
        -theta[:, 0].double(),
        log_evidence=-12.5,
        log_evidence_error=0.03,
        pareto_k=0.21,
        labels=sample.labels,
    )
    found = estimates(draws, 0.9)
    calibration = make_calibration(sample, generator)
    answer = Answer(
        found,
        draws,
        calibration,
        Trust(0.4, "the observation looks like the simulations", "good"),
        amortised=found,
    )
    write_draws_h5(draws, folder / "draws.h5")
    write_predictive(folder / "predictive.h5", simulator, theta[:200], generator)
    write_json(folder / "calibration.json", calibration.to_json())
    posterior = "amortised, reweighted by the likelihood"
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
    u = torch.rand(rows, count, generator=generator)
    levels = np.linspace(0.05, 0.95, 19)
    return Calibration(
        names=sample.names,
        ranks=(u * (draws + 1)).long().clamp(max=draws).numpy(),
        draws=draws,
        levels=levels,
        coverage=levels,
        tarp=levels + 0.005,
        p_values={f"rank of {n}": 0.3 for n in sample.names} | {"coverage": 0.5, "TARP": 3e-6},
        gaps={f"rank of {n}": 0.012 for n in sample.names} | {"coverage": 0.0, "TARP": 0.005},
        of="amortised",
        fit="f" * 64,
        simulations="5" * 64,
        failed_rows=3,
        state="passed",
        reasons=("ranks, coverage and TARP agree with 1,000 fresh simulations",),
    )


def write_predictive(path: Path, simulator: Simulator, theta: torch.Tensor, generator: torch.Generator) -> None:
    simulated, observed = simulator(theta, generator=generator), simulator(theta[:1], generator=generator)
    with h5py.File(path, "w") as file:
        for name, spec in simulator.observables.items():
            for group, value in (("observation", observed[name][0]), ("predictive", simulated[name])):
                item = file.create_dataset(f"{group}/{name}", data=value.numpy())
                item.attrs.update(unit=spec.unit, dims=",".join(spec.dims), scale=spec.scale)
            for place, (axis, values) in enumerate(spec.coords.items()):
                kind = h5py.string_dtype() if isinstance(values[0], str) else float
                item = file.create_dataset(f"coords/{name}/{place}", data=np.array(values, dtype=kind))
                item.attrs["unit"] = spec.coord_units.get(axis, "")
        file.create_dataset("predicted_from/theta", data=theta.numpy())


def write_fit(folder: Path, simulator: Simulator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {"prior": {"$prior": simulator.prior.to_json()}, "flow": None}
    epochs = np.arange(60)
    validation = 6 * np.exp(-epochs / 8) - 1.2 + 0.003 * epochs
    rows = [f"{e},{v - 0.1:.6g},{v:.6g},0.001,0.9" for e, v in zip(epochs, validation, strict=True)]
    (folder / "history.csv").write_text(
        "\n".join(["epoch,train_loss,validation_loss,learning_rate,seconds", *rows]) + "\n"
    )
    record = {
        "digest": "f" * 64,
        "estimator": {"$class": "sciinf.estimators.flow.Flow", "arguments": arguments},
        "simulator": {"name": simulator.name, "source": ""},
        "seed": 0,
        "history": [{"epoch": int(e)} for e in epochs],
        "store": {"digest": "0123abcd" * 8, "rows": 600, "used": 597},
        "recipe": {"batch": 50},
        "seconds": 61.3,
        "versions": {"sciinf": "0.1.0"},
    }
    write_json(folder / "fit.json", record)


class Page(HTMLParser):
    """Collects what a reader and a browser would meet."""

    void = frozenset({"meta", "br", "img", "input", "link", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))
