"""Phenobarbital in one newborn: run in short, beside a grid's answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from brief import briefly_trained

from sciinf.core.simulator import load_module

PIPELINE = Path(__file__).parent.parent.parent / "pipelines" / "phenobarbital.py"
KNOWN = {"clearance": (0.00639, 0.0011), "volume": (1.151, 0.14), "noise": (3.66, 0.9)}
"""Mean and sd by a grid, `benchmarks/dynamics.py --parts pheno`."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained(4)
def test_phenobarbital_in_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # weights do not need a good network
    answer = load_module(PIPELINE).run(tmp_path, seed=1, simulations=1_000, fresh=200)
    for name, (mean, sd) in KNOWN.items():
        assert answer.parameters[name].mean == pytest.approx(mean, abs=0.25 * sd)
    assert answer.parameters["half_life"].unit == "h"
    assert answer.draws.log_evidence == pytest.approx(-12.23, abs=0.2)
    assert "at 389.8 h, measured 6.7" in capsys.readouterr().out
    # what is predicted, is predicted under this infant's doses, and only where it has samples
    assert (answer.predictive["dose"] == answer.observation["dose"]).all()
    assert (answer.predictive["sample_mask"] == answer.observation["sample_mask"]).all()
    assert (tmp_path / "phenobarbital.png").is_file()


def test_an_infant_without_a_sample_to_hold_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="infant 60 is none of 1 to 59"):
        load_module(PIPELINE).run(tmp_path, infant=60)
