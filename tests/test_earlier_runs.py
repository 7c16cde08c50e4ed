"""Runs, fits, rounds and surveys made by earlier code are read, and answer as they did.

`earlier_runs.tar.xz` was written by the code before the package was divided into floors. It has a small run of each
kind, and `told.json` with what each answered then.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sciinf import build_posterior, load_answer, load_answers, load_fit, load_posterior, load_simulator
from sciinf.campaigns import Store
from sciinf.posteriors import load_refined

X = {"y": torch.linspace(0.2, 1.1, 6)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(Path(__file__).with_name("earlier_runs.tar.xz")) as packed:
        packed.extractall(folder, filter="data")
    return folder / "runs"


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def draws(runs: Path, name: str) -> torch.Tensor:
    return build_posterior(load_fit(runs / name)).sample(8, X, generator=seeded())


def log_likelihood(runs: Path) -> torch.Tensor:
    fit = load_fit(runs / "likelihood")
    theta = load_simulator(runs / "line.py").prior.sample(5, generator=seeded())[:, None]
    return fit.estimator.condition({"y": X["y"][None]}).log_likelihood(theta).flatten().detach()


def auxiliary(runs: Path) -> torch.Tensor:
    density = load_fit(runs / "auxiliary").estimator.condition({"y": X["y"][None]})
    return density.sample(8, generator=seeded()).flatten(0, 1)


def surrogate(runs: Path) -> torch.Tensor:
    start = Store(runs / "fields").load(slice(0, 1)).x["start"]
    return load_fit(runs / "surrogate").surrogate.predict(torch.tensor([[0.7]]), {"start": start}).flatten()


def survey(runs: Path) -> torch.Tensor:
    return torch.tensor([float(value) for value in load_answers(runs / "survey").column("slope_q50")])


def refined(runs: Path) -> torch.Tensor:
    return load_refined(runs / "refined").sample(8, X, generator=seeded())


KINDS: dict[str, Callable[[Path], torch.Tensor]] = {
    "flow": lambda runs: load_posterior(runs / "flow").sample(8, X, generator=seeded()),
    "score": lambda runs: draws(runs, "score"),
    "mixed": lambda runs: draws(runs, "mixed"),
    "likelihood": log_likelihood,
    "auxiliary": auxiliary,
    "refined": refined,
    "survey": survey,
    "surrogate": surrogate,
}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_then(kind: str, runs: Path) -> None:
    then = torch.tensor(json.loads((runs / "told.json").read_text())[kind], dtype=torch.float64)
    assert torch.allclose(KINDS[kind](runs).detach().double(), then, rtol=1e-4, atol=1e-5)


def test_an_answer_has_its_medians_and_its_verdict(runs: Path) -> None:
    then = json.loads((runs / "told.json").read_text())["answer"]
    answer = load_answer(runs / "flow")
    assert {name: float(one.median) for name, one in answer.parameters.items()} == pytest.approx(then["medians"])
    assert str(answer.verdict.level) == then["verdict"]


def test_a_name_that_nobody_has_is_told(runs: Path, tmp_path: Path) -> None:
    """The planted fault: a class that moved, with no note of where to."""
    folder = tmp_path / "fit"
    folder.mkdir()
    for file in (runs / "score").glob("*"):
        text = file.read_bytes()
        (folder / file.name).write_bytes(text.replace(b"sciinf.estimators.score.Score", b"sciinf.elsewhere.Score"))
    with pytest.raises(ValueError, match=r"fit\.json|elsewhere"):
        load_fit(folder)
