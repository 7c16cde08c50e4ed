"""What a notebook shows: small tables with the words of the text, and nothing of a name taken for markup."""

from __future__ import annotations

import html as reader
import re
from pathlib import Path
from typing import Any

import torch

from sciinf import load_answer, load_fit, load_simulator
from sciinf.campaigns import Store
from sciinf.core import Draws
from sciinf.core.tables import digits, html


def words(text: str) -> list[str]:
    """The cells and headings of markup, as a reader sees them."""
    return [reader.unescape(cell) for cell in re.findall(r">([^<>]+)<", text)]


def shown(thing: Any) -> list[str]:
    return words(thing._repr_html_())


def test_a_notebook_shows_an_answer_with_the_words_of_its_table(line: Path) -> None:
    answer = load_answer(line / "run")
    text = " ".join(answer.table().split())
    title, verdict, *cells = shown(answer)
    assert (title, verdict, cells[0]) == ("answer for seen", "verdict", answer.verdict.sentence)
    assert [cell for cell in cells if " ".join(cell.split()) not in text] == []
    assert {"slope", "m/s", "90% interval", "trust", "calibration", "local check"} <= set(cells)


def test_a_notebook_shows_what_else_a_run_holds(line: Path) -> None:
    run, simulator = line / "run", load_simulator(line / "line.py")
    answer, fit, store = load_answer(run), load_fit(run / "fit"), Store(run / "simulations")
    assert repr(answer.draws).startswith(f"{len(answer.draws):,} draws of (slope [m/s], offset [m]), effective sample")
    assert shown(answer.draws)[:6] == [repr(answer.draws), "parameter", "unit", "median", "mean", "sd"]
    mean, sd = (float(found[0]) for found in (answer.draws.mean(), answer.draws.sd()))
    assert shown(answer.draws)[9:11] == [digits(mean, sd), digits(sd, sd)]
    assert shown(fit)[:3] == ["Flow of (slope [m/s], offset [m])", "trained on", "'track'"]
    assert {"validation loss", "simulations", "300", str(fit.folder)} <= set(shown(fit))
    assert repr(store) == f"300 simulations of 'track', in {store.path}" == shown(store)[0]
    assert {"slope [m/s], offset [m]", "'x' (5,) [m]", "seed", "0"} <= set(shown(store))
    assert repr(simulator).startswith("simulator 'track' of Prior(slope [m/s], offset [m]): 'x' (5,) [m], in ")
    assert {"parameter", "slope", "m/s", "observable", "x", "(5,)", "unknown", str(simulator.source)} <= set(
        shown(simulator)
    )
    found = answer.calibration
    assert found is not None
    assert shown(found)[0] == "calibration of the amortised posterior on 300 simulations"
    assert {*found.reasons, *found.p_values} <= set(shown(found))


def test_markup_in_names_is_shown_as_it_is_written() -> None:
    evil = "<img src=x onerror='alert(1)'>"
    draws = Draws((evil,), (evil,), torch.zeros(3, 1), torch.zeros(3))
    for text in (draws._repr_html_(), html(evil, [[evil]], [(evil, evil)]), html("", [[""], [evil]])):
        assert "<img" not in text
        assert evil in " ".join(words(text))
