"""Data of a model that is not listed: told although the probabilities of the listed ones are sure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from nested import Exact, Nested

from sciinf import calibrate, query, simulate
from sciinf.core import Answer, Case, Finding, Level, Normal, Prior, Trust
from sciinf.diagnostics import around, ood
from sciinf.diagnostics.listed import ListedModels, listed_p


@pytest.fixture(scope="module", autouse=True)
def without_scores() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ood, "_ENOUGH", math.inf)
        yield


@pytest.fixture(scope="module")
def simulator() -> Nested:
    return Nested(20, 0.5)


def asked(simulator: Nested, x: torch.Tensor, folder: Path) -> Answer:
    fresh = simulate(simulator, folder / "fresh", 1_000, seed=1, progress=False)
    posterior = Exact(simulator)
    found = calibrate(posterior, fresh, rows=500, progress=False)
    return query(posterior, {"x": x}, calibration=found, simulator=simulator, draws=2_000)


def level(answer: Answer, name: str) -> str:
    return next(check.level for check in answer.checks if check.name == name)


def test_two_statistics_are_worth_one() -> None:
    assert listed_p(0.2, 0.004) == 0.008
    assert listed_p(None, 0.3) == 0.3
    assert listed_p(0.9, 0.8) == 1.0
    assert listed_p(None, None) is None


def check_listed(prior: Prior, unlike: float | None, residual: float | None) -> tuple[Finding, ...]:
    posterior, draws = cast(Any, SimpleNamespace(prior=prior)), cast(Any, None)
    found = [] if residual is None else [Finding("residuals", Level.GOOD, "", figures={"p": residual})]
    return ListedModels()(Case(posterior, draws, 0.9, trust=Trust(unlike, "", Level.GOOD), found=found))


def test_words(simulator: Nested) -> None:
    told = {p: check_listed(simulator.prior, 0.5, p)[0] for p in (0.9, 0.02, 0.001)}
    assert [one.level for one in told.values()] == ["good", "caution", "alarm"]
    assert all("model (flat, line)" in one.words for one in told.values())
    assert "may come from none" in told[0.02].words
    assert check_listed(simulator.prior, None, None)[0].level == "unknown"
    assert check_listed(Prior(a=Normal(0, 1)), 0.5, 0.001) == ()


def test_data_of_another_model_are_told(simulator: Nested, tmp_path: Path) -> None:
    wave = 1.5 * torch.sin(3 * torch.pi * simulator.t).float()  # as large as 3 sds of the noise, and no line
    answer = asked(simulator, 0.3 + wave + 0.5 * torch.randn(20, generator=torch.Generator().manual_seed(1)), tmp_path)
    assert level(answer, "listed models") == "alarm"
    assert level(answer, "residuals") == "alarm"


def test_data_of_a_listed_model_are_not(simulator: Nested, tmp_path: Path) -> None:
    theta = torch.tensor([[1.0, 0.5, 1.2]])
    answer = asked(simulator, simulator(theta, generator=torch.Generator().manual_seed(3))["x"][0], tmp_path)
    assert level(answer, "listed models") == "good"  # false alarms: 5e-2, the seed is fixed
    assert "model = line" in next(check.words for check in answer.checks if check.name == "residuals")
    assert level(answer, "local check") in ("good", "unknown")


def test_simulations_around_an_answer_keep_its_most_probable_values(simulator: Nested) -> None:
    posterior, generator = Exact(simulator), torch.Generator().manual_seed(4)
    flat = simulator(torch.tensor([[0.0, 0.5, math.nan]]), generator=generator)
    theta = posterior.draw(flat, 2_000, generator=generator).theta
    found = around.simulate_around(posterior, simulator, theta, rows=1_000, generator=generator)
    assert found is not None
    assert found.z.shape == (1_000, 1)  # the level alone
    assert bool((found.theta[:, 0] == 0).all())
    assert bool(found.theta[:, 2].isnan().all())
    assert found.given.startswith("model = flat (")
