"""The grasshopper's spikes: run in short, and whole against draws of another law around the peak."""

from __future__ import annotations

from pathlib import Path

import pytest
from brief import briefly_trained

from sciinf.core.simulator import load_module

PIPELINE = Path(__file__).parent.parent.parent / "pipelines" / "grasshopper.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained()
def test_grasshopper_in_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = load_module(PIPELINE).run(tmp_path, seed=1, simulations=256, fresh=128, ess=4)
    assert "241 intervals end in the last 3 s" in capsys.readouterr().out
    assert (tmp_path / "held_out.png").is_file()
    assert answer.parameters["latency"].mean == pytest.approx(6.4, abs=0.5)
    assert answer.parameters["latency"].unit == "ms"
    assert "intervals" in {check.name for check in answer.checks}
