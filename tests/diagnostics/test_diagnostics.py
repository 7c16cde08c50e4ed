"""A check is one file: it is found, asked, shown wherever an answer is read, and counts in the verdict."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from sciinf import (
    Answer,
    Flow,
    Recipe,
    build_posterior,
    load_answer,
    load_simulator,
    query,
    simulate,
    train,
    write_report,
)
from sciinf import diagnostics as package  # type: ignore[attr-defined]
from sciinf.core.diagnostic import Case
from sciinf.diagnostics.discovery import ORDER, every_diagnostic
from sciinf.interfaces.exports import to_table, write_draws
from sciinf.interfaces.figures.run_folder import read_runs
from sciinf.interfaces.figures.verdicts import verdict_of

NEWCOMER = '''
"""Is the posterior wider than anybody would want?"""

from typing import final

from sciinf.core.diagnostic import Diagnostic
from sciinf.core.findings import Cause, Finding, Level


@final
class Spread(Diagnostic):
    """Is the posterior wider than anybody would want?"""

    name, cause = "spread", Cause.SIMULATIONS

    def __call__(self, case):
        sd = float(case.draws.sd().max())
        return [Finding(self.name, Level.ALARM, f"an sd of {sd:.2g} is too much", figures={"sd": sd})]
'''


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "spread_of_draws.py").write_text(NEWCOMER)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    every_diagnostic.cache_clear()
    yield
    every_diagnostic.cache_clear()
    sys.modules.pop("sciinf.diagnostics.spread_of_draws", None)


@pytest.fixture
def answer(root: Path, tmp_path: Path) -> Answer:
    simulator = load_simulator(root / "simulators" / "linear_gaussian.py")
    store = simulate(simulator, tmp_path / "run" / "simulations", 300, progress=False)
    recipe = Recipe(epochs=1)
    fit = train(Flow(simulator.prior, simulator.observables), store, tmp_path / "run" / "fit", recipe=recipe)
    x = {"x": torch.tensor([2.0, 4.0, 3.5, 1.0, -2.0])}
    return query(build_posterior(fit), x, out=tmp_path / "run", draws=500, name="seen")


def test_each_diagnostic_has_a_name_of_its_own_and_asks_a_question() -> None:
    every = every_diagnostic()
    names = [one.name for one in every]
    assert names[: len(ORDER)] == list(ORDER)
    assert len(set(names)) == len(names)
    assert all(one.question.endswith(("?", ".")) and "?" in one.question for one in every)


def test_a_new_file_is_asked_and_shown_wherever_an_answer_is_read(
    newcomer: None, answer: Answer, tmp_path: Path
) -> None:
    assert len(NEWCOMER.splitlines()) <= 60
    (found,) = (one for one in answer.checks if one.name == "spread")
    assert (found.level, found.cause, answer.verdict.level) == ("alarm", "train on more simulations", "alarm")
    sentence = answer.verdict.sentence
    assert sentence == f"Do not rely on this answer: {found.words}."
    assert answer.table().startswith(sentence)
    assert f"WARNING: {found.words}" in answer.table()
    assert sentence in answer._repr_html_()
    page = write_report(tmp_path / "run").read_text()
    assert sentence in page
    assert "Spread" in page
    (run,) = read_runs(tmp_path / "run").values()
    assert verdict_of(run).sentence == sentence  # what the service says, too
    assert load_answer(tmp_path / "run").verdict.sentence == sentence
    table = to_table(answer)
    assert (table.meta["verdict"], table.meta["sentence"]) == ("alarm", sentence)
    assert found.words in table.meta["findings"]
    for name in ("draws.fits", "draws.nc", "draws.ecsv", "draws.h5", "draws_1.txt", "draws_result.json"):
        write_draws(answer, tmp_path / name)
    assert sentence in (tmp_path / "draws.properties.ini").read_text()
    assert every_diagnostic()[-1].question == "Is the posterior wider than anybody would want?"


def test_without_its_file_nothing_is_left_of_it(answer: Answer) -> None:
    assert all(one.name != "spread" for one in answer.checks)


def test_a_diagnostic_is_left_out_of_answers_that_lack_what_it_needs(answer: Answer) -> None:
    assert not {one.name for one in answer.checks} & {one.name for one in every_diagnostic() if one.needs}
    alone = Case(cast(Any, None), answer.draws, 0.9)
    assert alone.has == frozenset()
    assert {one.name for one in every_diagnostic() if one.needs <= alone.has} >= {"prior bounds", "stray draws"}
