"""The report says what the run folder holds, says what it lacks, and never takes markup from data."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf.core import Answer, Calibration, Draws, Estimate, Trust
from sciinf.core.draws_file import write_draws_h5
from sciinf.core.files import write_json
from sciinf.core.prior import Prior
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


def make_run(folder: Path, sample: Sample | None = None) -> Path:
    """Write a complete and valid run folder."""
    sample = sample or Sample()
    generator = torch.Generator().manual_seed(3)
    simulator = Decay(sample.names, sample.units)
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
    )
    estimates = {
        n: Estimate(1.234567, 0.0321, 1.23, (1.18, 1.29), 0.9, u)
        for n, u in zip(sample.names, sample.units, strict=True)
    }
    calibration = make_calibration(sample, generator)
    answer = Answer(
        estimates,
        draws,
        calibration,
        Trust(0.4, "the observation looks like the simulations", "good"),
        amortised=estimates,
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
    (folder / "history.csv").write_text(
        "\n".join(["epoch,train_loss,validation_loss,learning_rate,seconds", *rows]) + "\n"
    )
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
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("run"))
    write_report(folder, truth={"rate": 1.0})
    return folder


def read(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def test_the_page_says_everything_in_order(complete):
    page = read(complete)
    titles = ["All checks passed", "Answer", "Posterior", "Prediction and data", "Calibration", "Training"]
    titles.append("Simulations")
    places = [page.text.index(title) for title in titles[:1]]
    for title in [*titles[1:], "Provenance", "Methods text"]:
        places.append(page.text.rindex(f" {title} "))
    assert places[0] < min(places[1:])
    for words in (
        "decay",
        "25 November 2025",
        "h⁻¹",
        "1.235",
        "1.180 to 1.290",
        "uncorrected",
        "Log evidence −12.500 ± 0.030",
        "sciinf infer decay.py --observation 'cell 7.csv'",
        "0123abcd",
        "1 min 1 s",
        "1 h 6 min",
        "neural posterior estimation",
        "https://arxiv.org/abs/1804.06788",
        "ran longer than 60 s",
    ):
        assert words in page.text, words
    assert page.tags.count("figure") == 1 + 3 + 2 + 1


def test_held_out_simulations_are_not_called_trained_on(complete, tmp_path):
    assert "60 epochs on 597 simulations, those held out included, batches of 50" in read(complete).text
    assert "in the coordinates that the network learns them in, unbounded and standardised" in read(complete).text
    shutil.copytree(complete / "fit", tmp_path / "fit")
    fit = json.loads((tmp_path / "fit" / "fit.json").read_text())
    fit["store"]["held_out"] = 60
    write_json(tmp_path / "fit" / "fit.json", fit)
    write_report(tmp_path)
    assert "60 epochs on 537 simulations, with 60 more held out, batches of 50" in read(tmp_path).text


def test_the_training_is_told_as_it_was(complete, tmp_path):
    """Validated every fourth epoch, on rows made meanwhile, with an average of the weights chosen afterwards."""
    assert "The weights of epoch 45 were kept" in read(complete).text
    shutil.copytree(complete / "fit", tmp_path / "fit")
    rows = (tmp_path / "fit" / "history.csv").read_text().splitlines()
    (tmp_path / "fit" / "history.csv").write_text("\n".join([rows[0], *rows[4::4]]) + "\n")
    fit = json.loads((tmp_path / "fit" / "fit.json").read_text())
    online = {"rows": 5010, "used": 5000, "held_out": 100, "online": True, "reuse": 3}
    chosen = {"average": "average of relative width 0.1, up to epoch 40", "best_validation_loss": -1.5}
    write_json(tmp_path / "fit" / "fit.json", {**fit, **chosen, "store": online})
    write_report(tmp_path)
    text = read(tmp_path).text
    assert "60 epochs on 4,900 simulations made meanwhile and used up to 3 times each, with 100 more held out" in text
    assert "The average of the weights of relative width 0.1, up to epoch 40 was kept: validation loss −1.500" in text
    write_json(tmp_path / "fit" / "fit.json", {**fit, "recipe": {"ema": 0.999}})
    write_report(tmp_path)
    assert "The running average of the weights at epoch 44 was kept" in read(tmp_path).text


def test_the_page_needs_no_network_and_runs_nothing(complete):
    html, page = (complete / "report.html").read_text(), read(complete)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    fetched = [v for k, v in page.attributes if k in ("src", "href", "srcset", "data", "poster") and v]
    assert all(v.startswith(("#", "data:image/png;base64,")) for v in fetched)
    assert not [k for k, _ in page.attributes if k.startswith("on")]
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html


def test_identifiers_are_unique_and_figures_have_alternatives(complete):
    page = read(complete)
    ids = [v for k, v in page.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    images = sum(1 for k, v in page.attributes if (k, v) == ("role", "img"))
    assert images == sum(1 for k, v in page.attributes if k == "aria-label" and v and v not in ("Verdict", "Contents"))


def test_the_page_is_light_and_dark_small_and_reproducible(complete):
    path = complete / "report.html"
    before = path.read_bytes()
    assert b"prefers-color-scheme:dark" in before
    assert len(before) < 1_000_000
    write_report(complete, truth={"rate": 1.0})
    assert path.read_bytes() == before


def test_strings_from_outside_are_never_markup(tmp_path):
    """The planted fault: a parameter, a failure message, a unit-free name and a command that try to be markup."""
    names = (EVIL, "a & b", "$\\frac{", '"><img src=x onerror=alert(1)>')
    make_run(tmp_path, Sample(names=names, units=("", "1/h", "", "")))
    about = json.loads((tmp_path / "provenance.json").read_text())
    write_json(tmp_path / "provenance.json", {**about, "command": EVIL, "versions": {EVIL: EVIL}, EVIL: EVIL})
    page = Page(write_report(tmp_path).read_text())
    assert not {"script", "img"} & set(page.tags)
    assert not [k for k, _ in page.attributes if k.startswith("on")]
    assert page.text.count(EVIL) > 6
    assert "$\\frac{" in page.text


def test_twelve_parameters_make_a_page_below_three_megabytes(tmp_path):
    names = tuple(f"parameter_{i}" for i in range(12))
    path = write_report(make_run(tmp_path, Sample(names=names, units=("km s-1 Mpc-1",) * 12)))
    assert path.stat().st_size < 3_000_000
    assert "km s⁻¹ Mpc⁻¹" in Page(path.read_text()).text


def test_what_is_missing_is_said_and_the_rest_is_shown(tmp_path):
    folder = make_run(tmp_path)
    sentences = {
        "draws.h5": "no posterior draws",
        "predictive.h5": "No data were simulated from the posterior",
        "calibration.json": "not in this folder",
        "fit/history.csv": "no training history",
        "simulations/store.json": "holds no training simulations",
        "provenance.json": "was not recorded",
    }
    for file in sentences:
        (folder / file).unlink()
    text = Page(write_report(folder).read_text()).text
    for sentence in sentences.values():
        assert sentence in text
    assert "1.180 to 1.290" in text
    (folder / "answer.json").unlink()
    assert "No observation has been asked about" in Page(write_report(folder).read_text()).text


def test_what_is_damaged_is_said_and_the_rest_is_shown(tmp_path):
    folder = make_run(tmp_path)
    damaged = ["draws.h5", "predictive.h5", "calibration.json", "fit/history.csv", "simulations/store.json"]
    for file in damaged:
        (folder / file).write_bytes(b"{ not what it was")
    text = Page(write_report(folder).read_text()).text
    for file in damaged:
        assert f"{file} could not be read" in text
    assert "1.180 to 1.290" in text


def test_files_of_another_answer_are_not_shown(tmp_path):
    folder = make_run(tmp_path)
    answer = json.loads((folder / "answer.json").read_text())
    write_json(folder / "answer.json", {**answer, "sha256": {"draws.h5": "0" * 64}})
    page = Page(write_report(folder).read_text())
    assert "draws.h5 could not be read: it is damaged, or not of the answer in answer.json" in page.text
    assert page.tags.count("figure") == 3 + 2 + 1


def test_simulations_alone_make_a_page(tmp_path):
    make_store(tmp_path / "simulations", Decay(("rate",), ("1/h",)), 50, 0)
    text = Page(write_report(tmp_path).read_text()).text
    assert "decay" in text
    assert "ran longer than 60 s" in text


def test_numbers_that_are_null_are_shown_as_dashes(tmp_path):
    folder = make_run(tmp_path)
    answer = json.loads((folder / "answer.json").read_text())
    answer["parameters"]["rate"] |= {"mean": None, "sd": None, "interval": [None, None]}
    write_json(folder / "answer.json", answer)
    assert "– to –" in Page(write_report(folder).read_text()).text


def test_an_answer_that_holds_for_one_observation_says_so(complete, tmp_path):
    folder = make_run(tmp_path)
    answer = json.loads((folder / "answer.json").read_text())
    write_json(folder / "answer.json", {**answer, "scope": "not amortised: it holds for no other"})
    assert "Not amortised: it holds for no other. Intervals are central" in Page(write_report(folder).read_text()).text
    assert "amortised: it holds" not in read(complete).text


def test_nothing_to_report_on_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds nothing to report on.*sciinf infer"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_truth_must_name_parameters_of_the_answer(tmp_path):
    with pytest.raises(ValueError, match=r"truth is given for \['rat'\].*'rate'"):
        write_report(make_run(tmp_path), truth={"rat": 1.0})
