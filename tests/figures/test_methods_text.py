"""The methods paragraph says what was done, and nothing that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sciinf.figures.methods_text import methods_text
from sciinf.figures.run_folder import Run


def text_of(**answer: Any) -> str:
    return methods_text(Run(Path("run"), answer, None, (), None, {}, {}, {}, {}, {}))[0]


@pytest.mark.parametrize("posterior", ["amortised", "ensemble of 3", "not reweighted"])
def test_only_an_answer_with_a_correction_was_corrected(posterior):
    """What tells is the estimates before it, not the posterior's name."""
    plain = text_of(draws=1000, ess=1000.0, posterior=posterior)
    assert "rests on 1,000 draws of the trained posterior" in plain
    assert "likelihood" not in plain
    corrected = text_of(draws=1000, ess=400.0, posterior=posterior, amortised={"a": {"mean": 0.0}})
    assert "weighted by the simulator's likelihood: 1,000 draws with an effective sample size of 400" in corrected
