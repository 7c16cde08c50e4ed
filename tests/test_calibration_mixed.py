"""Calibrations of posteriors with discrete parameters, of which one exists in half of the simulations only.

How often verdicts are wrong is counted in `benchmarks/discrete_truth.py`; here seeds do not change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from nested import Exact, Nested

from sciinf import calibrate, query, simulate
from sciinf.campaigns import Store
from sciinf.core import Calibration
from sciinf.diagnostics import ood
from sciinf.diagnostics.agreement import least_share
from sciinf.diagnostics.calibration import load_calibration
from sciinf.diagnostics.recalibrate import recalibration
from sciinf.interfaces.figures.calibration import rank_curves

ROWS = 4_000


@pytest.fixture(scope="module", autouse=True)
def without_scores() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ood, "_ENOUGH", math.inf)
        yield


@pytest.fixture(scope="module")
def simulator() -> Nested:
    return Nested()


@pytest.fixture(scope="module")
def fresh(simulator: Nested, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return simulate(simulator, tmp_path_factory.mktemp("fresh") / "store", ROWS, seed=5, progress=False)


@pytest.fixture(scope="module")
def judged(simulator: Nested, fresh: Store) -> Callable[..., Calibration]:
    return lambda **fault: calibrate(Exact(simulator, **fault), fresh, progress=False)


@pytest.fixture(scope="module")
def right(judged: Callable[..., Calibration]) -> Calibration:
    return judged()


def test_the_exact_posterior_is_not_condemned(right: Calibration) -> None:
    assert right.state != "not passed"  # false alarms: see the benchmark
    names = {f"{kind} of {n}" for kind in ("rank", "interval", "average") for n in ("model", "level", "slope")}
    tails = {f"tail of {n}" for n in ("level", "slope", "all parameters")}
    assert set(right.p_values) == names | tails | {"coverage", "TARP", "probabilities of model"}
    assert min(right.p_values.values()) > 1e-4  # fifteen tests: false alarms 1.5e-3
    assert 0.4 < np.mean(right.ranks[:, 2] >= 0) < 0.6
    assert least_share(right) == pytest.approx(np.mean(right.ranks[:, 2] >= 0))
    assert right.reliability["model"].values == ("flat", "line")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"odds": 0.5}, "probabilities of model"),
        ({"sure": 2.0}, "probabilities of model"),
        ({"shift": 0.3}, "rank of slope"),
        ({"width": 0.7}, "interval of slope"),
    ],
)
def test_planted_faults_fail(judged: Callable[..., Calibration], fault: dict[str, float], told: str) -> None:
    found = judged(**fault)
    assert found.state == "not passed"
    assert any(reason.startswith(told) for reason in found.reasons)


def test_words_have_the_rows_that_tell(judged: Callable[..., Calibration]) -> None:
    found = judged(shift=0.3)
    rows = int((found.ranks[:, 2] >= 0).sum())
    assert any(f"on {rows:,} simulations" in reason for reason in found.reasons)


def test_it_is_kept_and_read(right: Calibration, simulator: Nested, fresh: Store, tmp_path: Path) -> None:
    calibrate(Exact(simulator), fresh, tmp_path, progress=False)
    again = load_calibration(tmp_path)
    assert again.reliability["model"].error == right.reliability["model"].error
    data = json.loads((tmp_path / "calibration.json").read_text())
    del data["reliability"]  # of a version that knew none
    assert Calibration.from_json(data).reliability == {}


@pytest.mark.slow
def test_curves_of_ranks_are_of_rows_that_have_them(right: Calibration) -> None:
    curves = rank_curves(right.ranks, right.draws)
    assert all(curve.inside for curve in curves)  # each of probability 0.99: false alarms 3e-2, the seed is fixed
    wide, narrow = (float((curves[d].high - curves[d].low).mean()) for d in (2, 1))
    assert 1.2 < wide / narrow < 1.7  # half as many rows


@pytest.mark.slow
def test_intervals_of_what_exists_are_corrected_by_rows_that_have_it(judged: Callable[..., Calibration]) -> None:
    found = recalibration(judged(shift=0.3))
    assert found.told(0.9) == [True] * 3
    assert found.told(0.96) == [True, True, False]  # 50 simulations beyond each end take 2,500
    low, high = found.levels(0.9)[0, 2].tolist()
    assert low < 0.04  # the posterior is too high: its lower quantiles are right
    assert high < 0.94
    assert found.chance(0.9)[0, 1, 2] > found.chance(0.9)[0, 1, 1]


def test_an_answer_has_no_corrected_interval_of_a_label(right: Calibration, simulator: Nested) -> None:
    found = query(Exact(simulator), {"x": torch.zeros(6)}, calibration=right, draws=500)
    assert found.parameters["model"].corrected is None
    assert found.parameters["level"].corrected is not None
