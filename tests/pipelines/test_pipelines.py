"""Every file in pipelines/ keeps the contract; four are run whole and compared with what is known."""

from __future__ import annotations

import inspect
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.table import Table
from brief import briefly_trained

from sciinf.core import Answer, Draws, load_fit, load_simulator
from sciinf.core.simulator import load_module
from sciinf.posteriors.posterior import build_posterior

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "pipelines").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_contract(file: Path) -> None:
    run: Any = load_module(file).run
    out, *rest = inspect.signature(run).parameters.values()
    assert out.name == "out"
    assert out.default is out.empty
    assert rest
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in rest)
    assert {p.name: p for p in rest}["seed"].default == 0
    assert all(type(p.default) in (int, float, bool, str) for p in rest)  # what the command line can give
    assert (
        inspect.signature(run, eval_str=True, globals={**run.__globals__, "Answer": Answer}).return_annotation is Answer
    )
    for p in inspect.signature(run).parameters:
        assert f"{p}:" in (run.__doc__ or ""), f"{p} is not documented"
    page = inspect.getdoc(load_module(file)) or ""
    assert f"sciinf run pipelines/{file.name} --out" in page


def test_the_contract_finds_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def run(out, seed=0):\n    return None\n")
    with pytest.raises(AssertionError):
        test_contract(file)


def test_too_few_injections_are_refused_before_hours_of_training(tmp_path: Path) -> None:
    run: Any = load_module(ROOT / "pipelines" / "gravitational_wave.py").run
    with pytest.raises(ValueError, match="injections must be an integer of at least 100, got 40"):
        run(tmp_path, h1="h1.hdf5", l1="l1.hdf5", injections=40)


@pytest.mark.slow
@briefly_trained()
def test_linear_gaussian_end_to_end(tmp_path: Path) -> None:
    answer = load_module(ROOT / "pipelines/linear_gaussian.py").run(tmp_path, seed=1, simulations=1_000, fresh=600)
    simulator: Any = load_simulator(ROOT / "simulators/linear_gaussian.py")
    mean, covariance = simulator.exact(torch.from_numpy(answer.observation["x"]))
    for d, estimate in enumerate(answer.parameters.values()):
        sd = float(covariance[d, d].sqrt())
        # An amortised network of 1,000 simulations: stated error 0.4 sd of the mean, 30 % of the sd.
        assert estimate.mean == pytest.approx(float(mean[d]), abs=0.4 * sd)
        assert estimate.sd == pytest.approx(sd, rel=0.3)
    assert answer.calibration is not None
    assert answer.calibration.rows == 600
    assert max(answer.calibration.gaps.values()) < 0.1  # of 600 simulations; chance alone is 0.055
    assert answer.trust.p_value is not None
    assert answer.predictive["x"].shape == (400, 5)
    parts = {p.name for p in tmp_path.iterdir()}
    wanted = {"simulations", "calibration_simulations", "fit", "calibration.json", "answers"}
    assert wanted <= parts
    assert json.loads((tmp_path / "answers/observation/answer.json").read_text())["parameters"]["height"]["unit"] == "m"


def _figures(draws: Draws, mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of means in reference sd, and ratios of sd."""
    return (draws.mean().numpy() - mean) / sd, draws.sd().numpy() / sd


def _amortised(folder: Path, simulator: Any, data: Any, n: int = 10_000) -> Draws:
    generator = torch.Generator().manual_seed(1)
    posterior = build_posterior(load_fit(folder / "fit"))
    return posterior.draw({k: v[None] for k, v in data.items()}, n, generator=generator)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_lynx_hare_end_to_end(tmp_path: Path, reference_data: Path) -> None:
    """Against 10,000 draws of Stan's: posteriordb, hudson_lynx_hare-lotka_volterra."""
    from sbi.utils.metrics import c2st

    name = "hudson_lynx_hare-lotka_volterra.draws.json"
    with zipfile.ZipFile(reference_data / "posteriordb" / f"{name}.zip") as archive:
        chains = json.loads(archive.read(archive.namelist()[0]))
    columns = [f"theta[{i}]" for i in (1, 2, 3, 4)] + [f"{n}[{i}]" for n in ("z_init", "sigma") for i in (1, 2)]
    reference = np.stack([np.concatenate([chain[c] for chain in chains]) for c in columns], axis=1)
    mean, sd = reference.mean(0), reference.std(0)

    answer = load_module(ROOT / "pipelines/lynx_hare.py").run(tmp_path)
    simulator = load_simulator(ROOT / "simulators/lotka_volterra.py")
    data = simulator.observe(ROOT / "simulators/hudson_bay.csv")
    shift, ratio = _figures(answer.draws, mean, sd)
    generator = torch.Generator().manual_seed(0)
    ours = answer.draws.resample(len(reference), generator=generator, distinct=True)
    size = min(len(ours), len(reference))
    theirs = torch.from_numpy(reference).float()[torch.randperm(len(reference), generator=generator)[:size]]
    score = float(c2st(ours[:size], theirs, n_folds=5))
    raw = _amortised(tmp_path, simulator, data, size)
    raw_shift, raw_ratio = _figures(raw, mean, sd)
    raw_score = float(c2st(raw.theta, theirs, n_folds=5))
    print(f"\ncorrected: shift {shift.round(3)}, ratio {ratio.round(3)}, C2ST {score:.3f}, ESS {answer.draws.ess:.0f}")
    print(f"amortised: shift {raw_shift.round(3)}, ratio {raw_ratio.round(3)}, C2ST {raw_score:.3f}; {size} draws")
    print(answer.table())
    assert np.abs(shift).max() <= 0.1
    assert ratio.min() >= 0.9
    assert ratio.max() <= 1.1
    assert size >= 2_000
    assert score <= 0.55
    assert answer.draws.ess >= 2_000


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_influenza_end_to_end(tmp_path: Path) -> None:
    """Against NUTS on the same model: beta 1.737 +- 0.054, gamma 0.541 +- 0.046, phi_inv 0.139 +- 0.077."""
    mean, sd = np.array([1.737, 0.541, 0.139]), np.array([0.054, 0.046, 0.077])
    answer = load_module(ROOT / "pipelines/influenza.py").run(tmp_path)
    assert list(answer.parameters) == ["beta", "gamma", "phi_inv"]
    simulator = load_simulator(ROOT / "simulators/influenza.py")
    data = simulator.observe(ROOT / "simulators/influenza_1978.csv")
    shift, ratio = _figures(answer.draws, mean, sd)
    raw_shift, raw_ratio = _figures(_amortised(tmp_path, simulator, data), mean, sd)
    print(f"\ncorrected: shift {shift.round(3)}, ratio {ratio.round(3)}, ESS {answer.draws.ess:.0f}")
    print(f"amortised: shift {raw_shift.round(3)}, ratio {raw_ratio.round(3)}")
    print(answer.table())
    assert np.abs(shift).max() <= 0.25
    assert ratio.min() >= 0.8
    assert ratio.max() <= 1.25


@pytest.mark.slow
@briefly_trained()
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_epidemics_in_short(tmp_path: Path) -> None:
    """What few simulations teach, the likelihood corrects: P(SEIR) is 0.940 by 60,000 of them and 8,000 draws."""
    pipeline = load_module(ROOT / "pipelines/two_epidemics.py")
    answer = pipeline.run(tmp_path, seed=1, simulations=1_000, fresh=300, ess=300)
    assert list(answer.parameters) == ["model", "beta", "gamma", "phi_inv", "SEIR.sigma"]
    assert answer.parameters["model"]["SEIR"] == pytest.approx(0.94, abs=0.08)
    assert answer.parameters["SEIR.sigma"].exists == pytest.approx(answer.parameters["model"]["SEIR"], abs=1e-6)
    assert answer.given(model="SIR").draws.names == ("beta", "gamma", "phi_inv")
    assert answer.calibration is not None
    saved = json.loads((tmp_path / "answers/observation/answer.json").read_text())
    assert set(saved["parameters"]) == set(answer.parameters)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_coal_mines_end_to_end(tmp_path: Path) -> None:
    """Against the sum over all places of the changes: P(k) = 0, .128, .399, .473, log evidence -176.517."""
    answer = load_module(ROOT / "pipelines/coal_mines.py").run(tmp_path)
    found = answer.parameters["k"]
    print(answer.table())
    assert list(found.probability) == pytest.approx([0.0, 0.128, 0.399, 0.473], abs=0.02)
    assert answer.draws.log_evidence == pytest.approx(-176.517, abs=0.05)
    one = answer.given(k=1).parameters["tau_1"]
    assert one.mean == pytest.approx(1890.4, abs=0.4)
    assert one.sd == pytest.approx(2.4, rel=0.1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_epidemics_end_to_end(tmp_path: Path) -> None:
    """Against dynesty of each model: its log Bayes factor has an error of 0.1 (`benchmarks/discrete_epidemics.py`)."""
    answer = load_module(ROOT / "pipelines/two_epidemics.py").run(tmp_path)
    print(answer.table())
    factor, error = answer.parameters["model"].log_bayes_factor("SEIR", "SIR")
    assert factor == pytest.approx(2.76, abs=0.3)
    assert error < 0.1


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_sdss_exposures_end_to_end(tmp_path: Path) -> None:
    """Against NUTS on the pixels of all exposures, with each one's calibration and sky; it is in no training."""
    answer = load_module(ROOT / "pipelines/sdss_exposures.py").run(tmp_path)
    simulator: Any = load_simulator(ROOT / "simulators/sdss_exposures.py")
    reference = simulator.posterior(simulator.exposures, 4_000, seed=1).double().numpy()
    shift, ratio = _figures(answer.draws, reference.mean(0), reference.std(0))
    print(f"\ncomposed: shift {shift.round(3)}, ratio {ratio.round(3)}")
    assert np.abs(shift).max() <= 0.5
    assert ratio.min() >= 0.8
    assert ratio.max() <= 1.25
    assert (tmp_path / "exposures.png").is_file()


def test_exposures_of_a_user_have_a_file_a_unit_and_a_prior(tmp_path: Path) -> None:
    """The star of the survey, 1.5 mag fainter, in microjansky, with a prior for it; the survey's own without them."""
    pipeline: Any = load_module(ROOT / "pipelines" / "sdss_exposures.py")
    survey = pipeline.star("", "nmgy", (17.0, 0.3), 1.0)
    table = Table.read(ROOT / "simulators" / "sdss_exposures.fits")[:6]
    for name, power in {"pixels": 1, "electron": 1, "sky": 2}.items():
        table[name] = table[name] * (3.631 / 10 ** (1.5 / 2.5)) ** power
    table.write(tmp_path / "mine.fits")
    mine = pipeline.star(str(tmp_path / "mine.fits"), "uJy", (18.2, 0.5), 1.0)
    expected = survey.observed()["magnitude_seen"][:6] + 1.5
    assert torch.allclose(mine.observed()["magnitude_seen"], expected, atol=1e-3)
    assert [(float(law.mean), float(law.stddev)) for law in mine.prior.laws] == [
        (pytest.approx(18.2), 0.5),
        (0, 1),
        (0, 1),
    ]
    assert mine.source == survey.source
    with pytest.raises(ValueError, match="--unit uJy is of the pixels of your own exposures"):
        pipeline.run(tmp_path / "run", unit="uJy")
    with pytest.raises(FileNotFoundError):
        pipeline.run(tmp_path / "run", file=str(tmp_path / "none.fits"))
