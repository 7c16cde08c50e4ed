"""Doubts are warned of, and reach whoever collects them."""

from __future__ import annotations

import warnings

import pytest

from sciinf.core.doubts import Doubt, doubt, noting, summed_up


def test_doubts_are_said_and_kept() -> None:
    with pytest.warns(Doubt, match="not mixed"), noting() as outer, noting() as inner:
        doubt("the chains have not mixed", alarm=True, stacklevel=1)
    assert outer == inner
    assert [(c.name, c.level, c.words) for c in outer] == [("draws", "alarm", "the chains have not mixed")]
    with pytest.warns(Doubt):
        doubt("nobody listens", alarm=False, stacklevel=1)
    assert len(outer) == 1


def test_many_are_summed_up_by_the_worst() -> None:
    with warnings.catch_warnings(), noting() as noted:
        warnings.simplefilter("ignore")
        for k in (0, 0, 1, 2, 3):
            doubt(f"number {k}", alarm=k == 2, stacklevel=1)
    (check,) = summed_up(noted)
    assert check.level == "alarm"
    assert check.words == "number 0; number 1; number 2; and 1 more such"
    assert summed_up([]) == ()
