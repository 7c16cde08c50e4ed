"""A fit that was exchanged for that of another run is refused; one that is alone, or of the run's own, is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from command_line import call

from sciinf import load_fit, load_posterior
from sciinf.core.fit import save_fit

WORDS = "is not that of this run"


def exchanged(run: Path, **store: object) -> None:
    """Put another network in the place of the run's, trained on simulations of which the keywords are true."""
    fit = load_fit(run / "fit")
    with torch.no_grad():
        next(fit.learned.parameters()).add_(1e-3)
    record = {**fit.record, "store": {**fit.record["store"], **store}}
    save_fit(run / "fit", fit.learned, simulator=fit.simulator, record=record)


def test_a_fit_of_another_store_is_refused_wherever_it_is_opened(line: Path) -> None:
    run = line / "run"
    exchanged(run, seed=7, digest="0" * 64)
    with pytest.raises(ValueError, match=WORDS):
        load_posterior(run)
    asked = call("query", run, "--observation", line / "seen.csv", "--simulator", line / "line.py")
    assert WORDS in asked.error
    assert "simulations of 'track'" in asked.error
    call("report", run)
    assert WORDS in (run / "report.html").read_text()


def test_without_the_simulations_provenance_tells(line: Path) -> None:
    run = line / "run"
    exchanged(run, seed=7, digest="0" * 64)
    shutil.rmtree(run / "simulations")
    with pytest.raises(ValueError, match=f"{WORDS}.* provenance.json names another fit"):
        load_posterior(run)
    (run / "provenance.json").unlink()
    load_posterior(run)  # a fit by itself may be of any simulations


def test_a_fit_of_the_same_simulations_is_the_run_s_own(line: Path) -> None:
    exchanged(line / "run", digest="0" * 64)  # of fewer of them, say
    load_posterior(line / "run")


def test_a_fit_that_a_command_put_there_is_the_run_s_own(line: Path, tmp_path: Path) -> None:
    fit, run = load_fit(line / "run" / "fit"), tmp_path / "run"
    shutil.copytree(line / "run", run)
    record = {**fit.record, "store": {**fit.record["store"], "seed": 7}}
    save_fit(run / "fit", fit.learned, simulator=fit.simulator, record=record)
    load_posterior(run)  # provenance.json has its digest
