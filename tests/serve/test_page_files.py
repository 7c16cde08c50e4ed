"""Several files at once on the page: an observation each, of which two lie over each other."""

from __future__ import annotations

from typing import Any

import pytest
from visits import OTHER, SEEN, answered, rows, set_level

THIRD = "x [m]\n1.0\n1.1\n0.9\n1.0\n1.2\n"


def drop_all(shown: Any, files: list[tuple[str, str]]) -> None:
    """Drop several files at once."""
    shown.wait_for_selector("#drop", state="visible")
    script = "(all) => { const held = new DataTransfer();"
    script += "all.forEach(([name, text]) => held.items.add(new File([text], name))); return held; }"
    shown.dispatch_event("footer", "drop", {"dataTransfer": shown.evaluate_handle(script, files)})


def names(shown: Any) -> list[str]:
    return shown.locator("#verdicts .whose b").all_inner_texts()


@pytest.mark.slow
def test_two_files_of_one_observation_each_lie_over_each_other(visit: Any) -> None:
    """By their files' names, each with its checks; what is asked again is asked of one alone."""
    shown = visit()
    drop_all(shown, [("seen.csv", SEEN), ("other.csv", OTHER)])
    answered(shown, 2)
    assert shown.locator("#error").is_hidden()
    assert names(shown) == ["seen", "other"]
    assert shown.locator("#verdicts .next").count() == 0
    assert len(rows(shown)) == 4
    both = rows(shown)
    assert shown.locator("#others").is_hidden()
    alone = visit(shown.evaluate("() => location.hash"))
    answered(alone, 2)
    assert rows(alone) == both


@pytest.mark.slow
def test_of_more_files_two_are_shown_and_the_others_can_be(visit: Any) -> None:
    shown = visit()
    drop_all(shown, [("seen.csv", SEEN), ("other.csv", OTHER), ("third.csv", THIRD)])
    answered(shown, 2)
    assert names(shown) == ["seen", "other"]
    assert "3 observations came at once, and two are compared" in shown.locator("#others").inner_text()
    shown.click("#others button:has-text('third')")
    answered(shown, 2)
    assert names(shown) == ["seen", "third"]
    assert shown.locator("#others button").all_inner_texts() == ["other"]
    shown.click("#others button")
    answered(shown, 2)
    assert names(shown) == ["seen", "other"]
    assert shown.locator("#verdicts .next").count() == 0


@pytest.mark.slow
def test_many_files_at_once_have_fewer_draws_each(visit: Any) -> None:
    """Where the service gives no more in all; what is said of the draws is their number."""
    shown = visit()
    drop_all(shown, [(f"one{k}.csv", SEEN) for k in range(12)])
    answered(shown, 2)
    assert shown.locator("#others button").count() == 10
    set_level(shown, 70)
    assert "8,333 draws" in shown.locator("#tables").inner_text()
    assert all("413" in error for error in visit.errors)
    visit.errors.clear()
