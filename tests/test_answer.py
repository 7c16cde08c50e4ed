"""An answer carries units, level, weights and verdicts, survives the disk, and is not made twice."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sciinf import Flow, Recipe, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.campaigns import Store
from sciinf.core import Calibration, Fit, Observable, Outcome, Simulator, Status, X
from sciinf.core.answer import answers_table
from sciinf.core.files import read_json, write_json
from sciinf.core.findings import Cause
from sciinf.diagnostics.calibration import load_calibration
from sciinf.interfaces.answer import load_answer, save_answer
from sciinf.interfaces.run_answers import answer_folders

X_O = [2.0, 4.0, 3.5, 1.0, -2.0]
ONE = "answers/observation"


@pytest.fixture(scope="module")
def simulator(root: Path) -> Simulator:
    return load_simulator(root / "simulators" / "linear_gaussian.py")


@pytest.fixture(scope="module")
def store(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return simulate(simulator, tmp_path_factory.mktemp("answer") / "trained_on", 2_000, progress=False)


@pytest.fixture(scope="module")
def fit(simulator: Simulator, store: Store) -> Fit:
    return train(Flow(simulator.prior, simulator.observables), store, store.path / "fit", recipe=Recipe(epochs=5))


@pytest.fixture(scope="module")
def calibration(simulator: Simulator, fit: Fit, store: Store) -> Calibration:
    fresh = simulate(simulator, store.path / "fresh", 1_000, seed=1, progress=False)
    return calibrate(build_posterior(fit), fresh)


def test_corrected_answers_are_exact(simulator: Simulator, fit: Fit, calibration: Calibration) -> None:
    answer = query(build_posterior(fit, simulator, ess=4_000), {"x": X_O}, calibration, simulator=simulator)
    mean, covariance = simulator.exact(torch.tensor(X_O))  # type: ignore[attr-defined]
    assert answer.draws.ess >= 4_000
    z = {0.05: -1.6449, 0.5: 0.0, 0.95: 1.6449}
    for d, (name, estimate) in enumerate(answer.parameters.items()):
        sd = float(covariance[d, d].sqrt())
        # 4,000 effective draws: mean within 1.6 % of sd, sd within 1.1 %, 5 % quantiles within 3.3 %; five times that.
        assert estimate.mean == pytest.approx(float(mean[d]), abs=0.08 * sd)
        assert estimate.median == pytest.approx(float(mean[d]), abs=0.1 * sd)
        assert estimate.sd == pytest.approx(sd, rel=0.06)
        assert estimate.interval[0] == pytest.approx(float(mean[d]) + z[0.05] * sd, abs=0.17 * sd)
        assert estimate.interval[1] == pytest.approx(float(mean[d]) + z[0.95] * sd, abs=0.17 * sd)
        assert estimate.unit == simulator.prior.units[d]
        assert estimate.level == 0.9
        assert name == simulator.prior.names[d]
    evidence = torch.distributions.MultivariateNormal(*_marginal(simulator)).log_prob(torch.tensor(X_O).double())
    assert answer.draws.log_evidence == pytest.approx(float(evidence), abs=5 * (answer.draws.log_evidence_error or 0))
    assert set(answer.amortised) == set(answer.parameters)
    assert answer.predictive["x"].shape == (400, 5)
    assert [check.level for check in answer.checks if check.name == "likelihood"] == ["good"]
    assert [check.level for check in answer.checks if check.name == "residuals"] == ["good"]
    # The predictive law: mean A m and variance diag(A C A^T) + s^2; 400 draws, 5 sd.
    a = torch.tensor([[1.0, t, t**2 / 2] for t in (0.2, 0.6, 1.0, 1.4, 1.8)], dtype=torch.float64)
    expected, spread = a @ mean, ((a @ covariance @ a.T).diagonal() + 0.25).sqrt()
    assert float(((torch.tensor(answer.predictive["x"]).mean(0) - expected) / spread).abs().max()) < 5 / math.sqrt(400)
    assert answer.predicted_from.shape == (400, len(answer.parameters))
    assert {*map(tuple, answer.predicted_from.tolist())} <= {*map(tuple, answer.draws.theta.tolist())}
    # Row by row they belong together: what is left beside A theta is noise of sd 0.5 alone (2,000 numbers, 5 sd).
    left = torch.tensor(answer.predictive["x"]) - torch.tensor(answer.predicted_from).double() @ a.T
    assert float(left.std()) == pytest.approx(0.5, rel=5 / math.sqrt(2 * 2_000))


@pytest.mark.slow
def test_a_derived_quantity_of_weighted_draws_is_exact(
    simulator: Simulator, fit: Fit, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A difference, from what the likelihood corrected; and it is asked anew where the quantity is another."""
    first, second = simulator.prior.names[:2]
    monkeypatch.setattr(simulator, "labels", {"apart": "how far apart"})

    posterior = build_posterior(fit, simulator, ess=4_000)
    mean, covariance = simulator.exact(torch.tensor(X_O))  # type: ignore[attr-defined]
    for sign in (-1.0, -1.0, 1.0):
        apart = {"apart": (lambda theta, sign=sign: theta[first] + sign * theta[second], "m")}
        monkeypatch.setattr(simulator, "derived", apart | {"steep": lambda theta: np.exp(30 * theta[first])})
        answer = query(posterior, {"x": X_O}, calibration, simulator=simulator, out=tmp_path)
        sd = float((covariance[0, 0] + covariance[1, 1] + 2 * sign * covariance[0, 1]).sqrt())
        found = answer.parameters["apart"]
        assert (found.unit, found.label, found.derived, found.corrected) == ("m", "how far apart", True, None)
        assert found.mean == pytest.approx(float(mean[0] + sign * mean[1]), abs=0.08 * sd)  # as above: five sds
        assert found.sd == pytest.approx(sd, rel=0.06)
    assert answer.amortised["apart"].derived
    assert any(check.name == "stray draws" and "variance of steep" in check.words for check in answer.checks)
    back = load_answer(tmp_path, calibration)
    assert back.table() == answer.table()
    assert "apart (derived)  how far apart  m " in back.table()
    assert "of the parameters, from whose draws derived quantities follow: " in back.table()


def _marginal(simulator: Simulator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of x over the prior, by many simulations of nothing: A m and A D A^T + s^2."""
    t = torch.tensor([0.2, 0.6, 1.0, 1.4, 1.8], dtype=torch.float64)
    a = torch.stack([torch.ones_like(t), t, t**2 / 2], dim=-1)
    loc, scale = torch.tensor([1.5, 8.0, -9.0]).double(), torch.tensor([0.5, 3.0, 3.0]).double()
    return a @ loc, a @ torch.diag(scale**2) @ a.T + 0.25 * torch.eye(5).double()


def test_the_level_is_the_level(fit: Fit) -> None:
    posterior = build_posterior(fit)
    for level in (0.5, 0.95):
        answer = query(posterior, {"x": X_O}, level=level, draws=4_000)
        low, high = np.transpose([e.interval for e in answer.parameters.values()])
        theta = answer.draws.theta.numpy()
        inside = ((theta > low) & (theta < high)).mean(0)
        assert np.allclose(inside, level, atol=2e-3)
        below = (theta <= low).mean(0)
        assert np.allclose(below, (1 - level) / 2, atol=2e-3)  # central
        assert {e.level for e in answer.parameters.values()} == {level}


def test_what_lies_on_disk(simulator: Simulator, fit: Fit, calibration: Calibration, tmp_path: Path) -> None:
    posterior = build_posterior(fit, simulator)
    answer = query(posterior, {"x": X_O}, calibration, simulator=simulator, out=tmp_path)
    data = json.loads((tmp_path / ONE / "answer.json").read_text())
    assert list(data["parameters"]) == list(simulator.prior.names)
    for name, estimate in data["parameters"].items():
        assert set(estimate) == {"mean", "sd", "median", "interval", "level", "unit"}
        assert estimate["interval"][0] < estimate["median"] < estimate["interval"][1]
        assert estimate["mean"] == answer.parameters[name].mean
    assert data["draws"] == len(answer.draws)
    assert data["ess"] == pytest.approx(answer.draws.ess)
    assert data["log_evidence"] == answer.draws.log_evidence
    known = ("state", "passed", "cautious", "tails_alone", "of", "fit", "simulations", "rows")
    said = {name: getattr(calibration, name) for name in known}
    assert data["calibration"] == {**said, "reasons": list(calibration.reasons)}
    assert {"verdict": data["verdict"], "sentence": data["sentence"]} == answer.verdict.to_json()
    trust = answer.trust
    assert data["trust"] == {"p_value": trust.p_value, "verdict": trust.words, "level": trust.level}
    with h5py.File(tmp_path / ONE / "draws.h5") as opened:
        file: Any = opened
        assert set(file) == {*simulator.prior.names, "log_weight"}
        for name, unit in zip(simulator.prior.names, simulator.prior.units, strict=True):
            assert file[name].attrs["unit"] == unit
            assert file[name].shape == (len(answer.draws),)
        weights = torch.softmax(torch.from_numpy(file["log_weight"][()]), 0)
        mean = float(weights @ torch.from_numpy(file["velocity"][()]).double())
        assert mean == pytest.approx(data["parameters"]["velocity"]["mean"], rel=1e-6)
    with h5py.File(tmp_path / ONE / "predictive.h5") as opened:
        file: Any = opened
        assert np.array_equal(file["observation/x"][()], np.array(X_O, np.float32))
        assert dict(file["predictive/x"].attrs) == {"unit": "m", "dims": "time", "scale": "linear"}

    back = load_answer(tmp_path, calibration)
    assert back.parameters == answer.parameters
    assert back.trust == answer.trust
    assert back.checks == answer.checks
    assert back.verdict.level == answer.verdict.level
    assert back.amortised == answer.amortised
    assert torch.equal(back.draws.theta, answer.draws.theta)
    assert torch.equal(back.draws.log_weight, answer.draws.log_weight)
    assert np.array_equal(back.predictive["x"], answer.predictive["x"])
    assert np.array_equal(back.predicted_from, answer.predicted_from)
    assert back.table() == answer.table()


def test_an_amortised_answer_has_no_evidence_and_says_that_it_was_never_checked(fit: Fit, tmp_path: Path) -> None:
    answer = query(build_posterior(fit), {"x": X_O}, out=tmp_path, draws=500)
    data = json.loads((tmp_path / ONE / "answer.json").read_text())
    assert data["log_evidence"] is None
    assert data["ess"] == pytest.approx(500)
    assert data["draws"] == 500
    assert data["calibration"]["state"] == "not checked"
    assert data["calibration"]["reasons"] == ["never checked on fresh simulations"]
    assert data["trust"]["p_value"] is None
    assert answer.trust.level == answer.verdict.level == "unknown"
    assert answer.verdict.causes == (Cause.FRESH, Cause.AROUND)
    lines = answer.table().splitlines()
    assert lines[:2] == [answer.verdict.sentence, ""]
    assert "calibration  UNKNOWN: never checked on fresh simulations" in lines


def test_the_same_question_is_read_back_and_another_is_not(fit: Fit, calibration: Calibration, tmp_path: Path) -> None:
    def ask(x: list[float], **options: float) -> int:
        answer = query(build_posterior(fit), {"x": x}, calibration, out=tmp_path, **{"draws": 200, **options})  # type: ignore[arg-type]
        return (tmp_path / "answers" / answer.name / "answer.json").stat().st_mtime_ns

    first = ask(X_O)
    assert ask(X_O) == first
    other = ask([*X_O[:4], -2.1])
    assert ask(X_O) == first  # the answer of another observation did not replace it
    stamps = [first, other, ask(X_O, level=0.5), ask(X_O, seed=1), ask(X_O, draws=300)]
    assert len(set(stamps)) == len(stamps)
    assert len(answer_folders(tmp_path)) == 2
    with pytest.raises(ValueError, match="several answers; give the name of one: observation, observation-"):
        load_answer(tmp_path)
    assert load_answer(tmp_path, calibration, name="observation").observation["x"].tolist() == X_O
    for name in answer_folders(tmp_path):
        one, two = load_answer(tmp_path, name), load_answer(tmp_path, name=name)
        assert one.name == two.name == name
        assert one.observation["x"].tolist() == two.observation["x"].tolist()
    with pytest.raises(FileNotFoundError, match="no answer called 'other'; it has observation, observation-"):
        load_answer(tmp_path, "other")
    with pytest.raises(TypeError, match="two names"):
        load_answer(tmp_path, "observation", name="other")


def test_an_answer_from_before_a_check_is_made_anew(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older answers lack what is checked today, and would pass without it."""
    posterior, file = build_posterior(fit), tmp_path / "answers/observation/answer.json"
    query(posterior, {"x": X_O}, out=tmp_path, draws=50)
    before = read_json(file)["inputs"]
    query(posterior, {"x": X_O}, out=tmp_path, draws=50)
    assert read_json(file)["inputs"] == before
    monkeypatch.setattr("sciinf.interfaces.answer.CHECKS", 1_000)
    query(posterior, {"x": X_O}, out=tmp_path, draws=50)
    assert read_json(file)["inputs"] != before


def test_an_answer_of_an_earlier_version_beside_the_fit_is_read(fit: Fit, tmp_path: Path) -> None:
    made = query(build_posterior(fit), {"x": X_O}, out=tmp_path, draws=100)
    for file in (tmp_path / ONE).iterdir():
        file.rename(tmp_path / file.name)
    assert load_answer(tmp_path).parameters == made.parameters
    query(build_posterior(fit), {"x": X_O}, out=tmp_path, draws=100)
    assert list(answer_folders(tmp_path)) == ["answer", "observation"]


def test_the_warning_is_given_again_when_the_answer_is_read_back(
    fit: Fit, calibration: Calibration, tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.warns(UserWarning, match="unlike the simulations"):
            query(build_posterior(fit), {"x": [900.0] * 5}, calibration, out=tmp_path, draws=100)


@pytest.mark.parametrize("name", ["draws.h5", "predictive.h5", "answer.json"])
def test_damage_is_refused_and_mended_by_asking_again(fit: Fit, tmp_path: Path, name: str) -> None:
    made = query(build_posterior(fit), {"x": X_O}, out=tmp_path, draws=100)
    for change in ("flip", "remove"):
        if change == "flip":
            data = bytearray((tmp_path / ONE / name).read_bytes())
            data[len(data) // 2] ^= 255
            (tmp_path / ONE / name).write_bytes(bytes(data))
        else:
            (tmp_path / ONE / name).unlink()
        with pytest.raises((ValueError, FileNotFoundError), match=f"{name}|no answer"):
            load_answer(tmp_path)
        query(build_posterior(fit), {"x": X_O}, out=tmp_path, draws=100)
        assert torch.equal(load_answer(tmp_path).draws.theta, made.draws.theta)


def test_draws_of_one_question_are_never_taken_for_those_of_another(fit: Fit, tmp_path: Path) -> None:
    """As after a crash between the files: draws.h5 is of the newer question, answer.json of the older."""
    query(build_posterior(fit), {"x": X_O}, out=tmp_path, draws=100)
    older = json.loads((tmp_path / ONE / "answer.json").read_text())
    query(build_posterior(fit), {"x": X_O}, out=tmp_path, draws=100, seed=1)
    write_json(tmp_path / ONE / "answer.json", older)
    with pytest.raises(ValueError, match="not of the answer"):
        load_answer(tmp_path)


def test_a_calibration_of_another_fit_is_refused(
    simulator: Simulator, fit: Fit, calibration: Calibration, store: Store, tmp_path: Path
) -> None:
    flow = Flow(simulator.prior, simulator.observables, seed=9)
    other = train(flow, store, tmp_path / "fit", recipe=Recipe(epochs=1))
    for given in (None, simulator):
        with pytest.raises(ValueError, match="another fit"):
            query(build_posterior(other, given), {"x": X_O}, calibration)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ({"x": [1.0, 2.0]}, {}, r"shape \(2,\)"),
        ({"x": [math.nan] * 5}, {}, "NaN"),
        ({"y": X_O}, {}, "missing: \\['x'\\]"),
        ({"x": X_O}, {"level": 1.0}, "level"),
        ({"x": X_O}, {"level": 90}, "level"),
        ({"x": X_O}, {"draws": 0}, "draws=0"),
    ],
)
def test_questions_that_make_no_sense(fit: Fit, tmp_path: Path, x: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        query(build_posterior(fit), x, out=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_units_are_converted(fit: Fit) -> None:
    from astropy import units

    plain = query(build_posterior(fit), {"x": X_O}, draws=50)
    other = query(build_posterior(fit), {"x": 100 * np.array(X_O) * units.cm}, draws=50)
    assert np.allclose(other.draws.theta, plain.draws.theta, rtol=1e-4, atol=1e-4)


class Fragile(Simulator):
    """The same data, but a third of the rows fail and one kind of parameter raises."""

    name = "fragile"

    def __init__(self, other: Simulator) -> None:
        self.other, self.prior, self.observables = other, other.prior, other.observables

    def __call__(self, theta: torch.Tensor, *, generator: torch.Generator) -> Outcome | X:
        if len(theta) > 1:
            raise RuntimeError("one at a time, please")
        x = self.other(theta, generator=generator)
        failed = torch.rand(len(theta), generator=generator) < 1 / 3
        return Outcome(x, failed.to(torch.uint8) * int(Status.RAISED))  # type: ignore[arg-type]


def test_data_that_no_parameter_explains_are_less_likely_than_their_posterior_says(
    simulator: Simulator, fit: Fit
) -> None:
    """A zigzag of 4 noise sds about the same parabola, which its parameters cannot follow."""
    zigzag = [x + 2.0 * (-1) ** k for k, x in enumerate(X_O)]
    answer = query(build_posterior(fit), {"x": zigzag}, simulator=simulator, draws=1_000)
    (check,) = [check for check in answer.checks if check.name == "likelihood"]
    assert check.level == "alarm"
    assert "less likely" in check.words


@pytest.mark.slow
def test_predictive_simulations_that_fail_are_left_out_with_a_warning(simulator: Simulator, fit: Fit) -> None:
    with pytest.warns(UserWarning, match="of 400 simulations from the posterior failed"):
        answer = query(build_posterior(fit), {"x": X_O}, simulator=Fragile(simulator), draws=500)
    assert 200 < len(answer.predictive["x"]) < 330  # 267 +- 9.4
    assert np.isfinite(answer.predictive["x"]).all()
    (check,) = [check for check in answer.checks if check.name == "predictions"]
    assert check.level == "caution"
    assert f"{400 - len(answer.predictive['x'])} of 400" in check.words


def test_draws_depend_on_the_seed_alone(fit: Fit) -> None:
    state = torch.get_rng_state()
    a, b, c = (query(build_posterior(fit), {"x": X_O}, draws=50, seed=s).draws.theta for s in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())


def test_an_answer_comes_back_from_its_run_as_the_command_printed_it(line: Path) -> None:
    run = line / "run"
    answer = load_answer(run)
    assert answer.calibration is not None
    assert (
        answer.table() == load_answer(run / "answers/seen").table() == load_answer(run, load_calibration(run)).table()
    )
    assert answer.to_json()["calibration"] == read_json(run / "answers/seen/answer.json")["calibration"]
    said = read_json(run / "calibration.json")
    write_json(run / "calibration.json", {**said, "simulations": "others"})
    with pytest.raises(ValueError, match="was calibrated anew since the answer in .*seen was given; ask again"):
        load_answer(run)
    (run / "calibration.json").unlink()
    with pytest.warns(UserWarning, match="has no calibration.json, so the answer"):
        assert load_answer(run).calibration is None


def test_a_folder_without_an_answer_says_what_it_holds(line: Path, tmp_path: Path) -> None:
    shutil.rmtree(line / "run/answers")
    for folder, words in (
        (line / "run", "run holds no answer: it holds simulations, a fit, a calibration; ask with"),
        (line, "it is no run folder, for it holds none of simulations, fit, calibration and answers"),
        (tmp_path / "nowhere", "there is no folder .*nowhere"),
    ):
        with pytest.raises(FileNotFoundError, match=words):
            load_answer(folder)


def test_an_answer_of_data_with_coordinates_is_read_back(fit: Fit, tmp_path: Path) -> None:
    answer = query(build_posterior(fit), {"x": X_O}, draws=100)
    (name,) = answer.observation
    size = len(answer.observation[name])
    spec = Observable((size,), dims=("time",), coords={"time": list(range(1900, 1900 + size))})
    save_answer(replace(answer, observables={name: spec}), tmp_path)
    read = load_answer(tmp_path)
    assert read.observables[name].coords == spec.coords
    assert str(read.prior) == str(fit.estimator.prior)
    assert np.array_equal(read.observation[name], answer.observation[name])


def test_a_table_of_several_names_whose_calibration_it_tells(line: Path) -> None:
    answer = load_answer(line / "run")
    one = answers_table({"a": answer, "b": answer}).splitlines()
    two = answers_table({"a": answer, "b": replace(answer, calibration=None)}).splitlines()
    assert sum(row.startswith("calibration") for row in one) == 1
    assert [row.partition("  ")[0] for row in two if row.startswith("calibration")] == [
        "calibration of a",
        "calibration of b",
    ]


def test_other_data_of_the_same_name_are_said_to_have_another_folder(fit, tmp_path):
    """A file that was mended in place: whoever reads the answer by its name reads that of the old data."""
    posterior = build_posterior(fit)
    query(posterior, {"x": X_O}, out=tmp_path, draws=100)
    with pytest.warns(UserWarning, match=r"answers/observation is the answer to other data; that to these lies in"):
        other = query(posterior, {"x": [value + 0.01 for value in X_O]}, out=tmp_path, draws=100)
    assert (tmp_path / "answers" / other.name / "answer.json").is_file()
