"""The boarding school as a jump process: run in short, and whole against known figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from brief import briefly_trained

from sciinf.core.simulator import load_module

PIPELINE = Path(__file__).parent.parent.parent / "pipelines" / "boarding_school.py"
KNOWN = {"beta": (1.886, 0.160), "gamma": (0.504, 0.037), "phi_inv": (0.052, 0.052)}
"""Mean and sd by 1,920 draws of a Student-t law with 96 particles each: their own error is 0.03 sd."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained()
def test_boarding_school_in_short(tmp_path: Path) -> None:
    # the weights do not need a good network: two hundred draws of the filter are near already
    answer = load_module(PIPELINE).run(tmp_path, seed=1, simulations=600, fresh=200, ess=60)
    assert answer.draws.log_evidence == pytest.approx(-65.67, abs=1.5)
    assert answer.parameters["beta"].mean == pytest.approx(1.9, abs=0.2)
    assert answer.parameters["beta"].unit == "1/day"
    assert answer.predictive["in_bed"].shape[1:] == (14,)
    # the equations' answer beside it: the same data, parameters and units, and much surer of beta
    equations = answer.beside["by equations"]
    assert (list(equations.parameters), equations.data) == ([*KNOWN], "same")
    assert equations.parameters["beta"].mean == pytest.approx(1.737, abs=0.1)
    assert equations.parameters["beta"].sd < 0.6 * answer.parameters["beta"].sd


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_boarding_school_end_to_end(tmp_path: Path) -> None:
    answer = load_module(PIPELINE).run(tmp_path)
    assert answer.draws.ess >= 2_000
    for name, (mean, sd) in KNOWN.items():
        assert answer.parameters[name].mean == pytest.approx(mean, abs=0.1 * sd)
        assert answer.parameters[name].sd == pytest.approx(sd, rel=0.1)
