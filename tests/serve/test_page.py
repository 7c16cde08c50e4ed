"""The page in a browser, on a real service and a small run: what a file becomes, and what stays when the service goes.

Every test fails, too, where anything is asked of another place, or the browser's console has an error.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from visits import EVIL, OTHER, SEEN, STAGES, answered, drop, ends, rows, set_level

from sciinf import load_answer
from sciinf.interfaces.figures.page import number
from sciinf.interfaces.run_events import line_of

pytestmark = pytest.mark.slow

AXE = Path(__file__).parent / "axe.min.js"


@pytest.mark.slow
def test_a_dropped_file_becomes_intervals_with_units_and_a_verdict(visit: Any, runs: Path) -> None:
    """In one action, and those that the run's own answer to these data has."""
    shown = visit()
    drop(shown, "seen.csv", SEEN)
    answered(shown)
    answer = load_answer(runs / "line", name="seen")
    offset = answer.parameters["offset"]
    found = {row[0]: row[1:] for row in rows(shown)}
    width = min(offset.median - offset.interval[0], offset.interval[1] - offset.median)
    assert found["offset"][:2] == [f"{number(offset.median, width)} m", ends(offset.interval, offset.median, "m")]
    assert found[f"{EVIL} slope"][1].endswith("m s⁻¹")
    assert shown.locator("#verdicts .headline").inner_text() == answer.verdict.sentence
    assert shown.locator("#verdicts .lights li").count() >= 4
    assert shown.locator("#cards details").count() >= 1
    assert shown.locator("#curves canvas").count() == 1
    assert shown.locator("#marginals canvas").count() == 2
    assert shown.locator("#corner canvas").count() == 1


def test_before_the_checks_by_simulation_it_says_that_they_are_to_be_made(visit: Any) -> None:
    """And the verdict says so; where they cannot be made, they can be asked for again."""
    shown, asked = visit(), []

    def refuse_the_second(route: Any) -> None:
        asked.append(route)
        route.abort() if len(asked) == 2 else route.continue_()

    shown.route("**/answer", refuse_the_second)
    drop(shown, "other.csv", OTHER)
    button = "#verdicts .next button:has-text('Check at this observation')"
    shown.wait_for_selector(button)
    words = shown.locator("#verdicts .next").inner_text()
    assert "Checks by simulation were not made" in words
    assert "does not answer" in words
    assert "green" not in (shown.locator("#verdicts .verdict").get_attribute("class") or "")
    before = shown.locator("#verdicts .lights").inner_text()
    assert "local check" not in before
    shown.click(button)
    shown.wait_for_selector("#verdicts .next", state="detached")
    assert "local check" in shown.locator("#verdicts .lights").inner_text()
    visit.errors[:] = [error for error in visit.errors if "ERR_FAILED" not in error]


@pytest.mark.slow
def test_a_second_file_lies_over_the_first(visit: Any) -> None:
    """With the shift of each parameter in sds and the overlap; and it can be taken away."""
    shown = visit()
    drop(shown, "seen.csv", SEEN)
    answered(shown)
    drop(shown, "other.csv", OTHER)
    answered(shown, 2)
    compared = {row[0]: row[1:] for row in rows(shown, "#tables .scroll:last-child")}
    shift, overlap = compared["offset"]
    assert shift.startswith("+")
    assert shift.endswith(" sd")
    assert 0 <= int(overlap.rstrip("%")) < 100
    assert len(rows(shown)) == 4
    shown.click("#verdicts .verdict:first-child .close")
    assert shown.locator("#verdicts .whose b").all_inner_texts() == ["other"]
    assert len(rows(shown)) == 2


@pytest.mark.slow
def test_two_answers_of_one_name_are_told_apart(visit: Any) -> None:
    shown = visit()
    for count, text in enumerate((SEEN, OTHER), 1):
        drop(shown, "seen.csv", text)
        answered(shown, count)
    assert shown.locator("#verdicts .whose b").all_inner_texts() == ["seen", "seen (2)"]


def test_an_error_is_the_service_s_sentence_and_the_answer_stays(visit: Any) -> None:
    shown = visit()
    drop(shown, "seen.csv", SEEN)
    answered(shown)
    before = rows(shown)
    drop(shown, "bad.csv", "x\n1\n2\n")
    shown.wait_for_selector("#error", state="visible")
    assert "shape (2,)" in shown.locator("#error").inner_text()
    assert rows(shown) == before
    drop(shown, "seen.csv", SEEN)
    shown.wait_for_selector("#error", state="hidden")
    assert all("422" in error for error in visit.errors)
    visit.errors.clear()


def test_names_do_not_become_markup(visit: Any) -> None:
    """Of files, parameters and runs: from the service, and from the reader's own disk."""
    shown = visit()
    drop(shown, f"{EVIL}.csv", SEEN)
    answered(shown)
    assert "title" in shown.locator("#verdicts .whose b").inner_text()
    drop(shown, "<img src=x onerror=alert(1)>.bad", "x")
    shown.wait_for_selector("#error", state="visible")
    assert shown.locator("b[title], img").count() == 0
    visit.errors.clear()  # of the file that was refused


@pytest.mark.slow
@pytest.mark.skipif(not AXE.is_file(), reason="needs axe.min.js beside this file")
def test_axe_finds_nothing(visit: Any) -> None:
    """On the first page, with two answers and all parts open, also in the dark, and with a run that goes on."""
    shown = visit(script=AXE.read_text())

    def faults(rules: str = "") -> list[str]:
        found = shown.evaluate("(rules) => axe.run(rules ? { runOnly: [rules] } : {})", rules)["violations"]
        return [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]

    shown.wait_for_selector("#priors table")
    assert faults() == []
    drop(shown, "seen.csv", SEEN)
    answered(shown)
    drop(shown, "other.csv", OTHER)
    answered(shown, 2)
    shown.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert faults() == []
    shown.emulate_media(color_scheme="dark")
    assert faults("color-contrast") == []
    shown.select_option("#model", "young")
    shown.wait_for_selector("#live table")
    assert faults() == []


@pytest.mark.slow
def test_a_phone_need_not_scroll_to_the_side(visit: Any) -> None:
    shown = visit(width=390)
    wide = "() => document.documentElement.scrollWidth"
    shown.wait_for_selector("#drop", state="visible")
    assert shown.evaluate(wide) <= 390
    drop(shown, "seen.csv", SEEN)
    answered(shown)
    drop(shown, "a_name_as_long_as_instruments_like_to_give_2026-11-30T02-15-52.csv", OTHER)
    answered(shown, 2)
    shown.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert shown.evaluate(wide) <= 390


def test_all_is_done_by_keys(visit: Any) -> None:
    """The file, the run's own observation, the level, the sliders of what-if; and what has the focus is seen."""
    shown = visit()
    shown.wait_for_selector("#observations button")
    reached = []
    for _ in range(6):
        shown.keyboard.press("Tab")
        reached.append(shown.evaluate("() => document.activeElement.id || document.activeElement.textContent"))
    assert reached[:3] == ["model", "file", "seen"]
    shown.focus("#observations button")
    shown.keyboard.press("Enter")
    answered(shown)
    shown.focus("#level")
    shown.keyboard.press("ArrowLeft")
    assert shown.locator("#percent").inner_text() == "89%"
    assert "89%" in shown.locator("#tables thead").inner_text()
    shown.focus("#whatif summary")
    shown.keyboard.press("Enter")
    shown.keyboard.press("Tab")
    before = shown.evaluate("() => document.querySelector('#curves canvas').toDataURL()")
    shown.keyboard.press("PageUp")
    shown.wait_for_selector("#simulated", state="visible")
    assert "one simulation" in shown.locator("#whatif .caption").inner_text()
    assert shown.evaluate("() => document.querySelector('#curves canvas').toDataURL()") != before
    assert shown.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_link_shows_the_same_again(visit: Any) -> None:
    first = visit()
    drop(first, "seen.csv", SEEN)
    answered(first)
    hash_ = first.evaluate("() => location.hash")
    assert hash_.startswith("#/line/")
    second = visit(hash_)
    second.wait_for_selector("#verdicts .verdict")
    assert rows(second) == rows(first)
    assert second.locator("#verdicts .headline").inner_text() == first.locator("#verdicts .headline").inner_text()


def test_draws_are_saved_as_files(visit: Any) -> None:
    shown = visit()
    shown.wait_for_selector("#observations button")
    shown.click("#observations button")
    answered(shown)
    with shown.expect_download() as saved:
        shown.click("#files button:has-text('CSV')")
    assert saved.value.suggested_filename == "seen_draws.csv"
    assert len(Path(saved.value.path()).read_text().splitlines()) > 9_000


def test_a_run_that_goes_on_is_shown_in_place_of_the_question(visit: Any, runs: Path) -> None:
    os.utime(runs / "young" / "events.jsonl")
    shown = visit("#/young")
    shown.wait_for_selector("#live progress")
    assert "train, 9 of 30 epochs, about 21 s left" in shown.locator("#live .headline").inner_text()
    assert shown.locator("#live tbody th").all_inner_texts() == list(STAGES)
    assert shown.locator("#live canvas").count() == 1
    assert shown.locator("#drop").is_hidden()
    with (runs / "young" / "events.jsonl").open("a") as opened:
        opened.write(line_of({"event": "stopped", "at": 9.0, "why": "the disk is full."}))
    shown.wait_for_selector("#live.amber")
    assert "the disk is full" in shown.locator("#live .headline").inner_text()


def test_a_run_turns_to_the_question_when_it_is_ready(visit: Any, runs: Path) -> None:
    """Not before it has its first answers; the simulator that the service was given checks them."""
    events = runs / "young" / "events.jsonl"
    events.write_text(line_of({"event": "run", "at": 0.0, "title": "young", "command": ""}))
    shown = visit("#/young")
    for name in ("fit", "calibration.json", "reference.safetensors", "answers"):
        copy = shutil.copytree if (runs / "line" / name).is_dir() else shutil.copy2
        copy(runs / "line" / name, runs / "young" / name)
    with events.open("a") as opened:
        opened.write(line_of({"event": "stage", "at": 1.0, "stage": "calibrate"}))
    shown.wait_for_selector("#live tbody")
    assert shown.locator("#drop").is_hidden()
    with events.open("a") as opened:
        opened.write(line_of({"event": "done", "at": 2.0}))
    drop(shown, "seen.csv", SEEN)
    shown.wait_for_selector("#verdicts .headline")
    answered(shown)
    assert "no simulator" not in shown.locator("#verdicts").inner_text()
    assert shown.locator("#live").is_hidden()


@pytest.mark.slow
def test_the_level_works_when_the_service_is_gone(visit: Any, service: Any, runs: Path) -> None:
    """From the draws in the browser; a new question then says that nobody answers. It is the last test."""
    shown = visit()
    shown.wait_for_selector("#observations button")
    shown.click("#observations button")
    answered(shown)
    service[1].terminate()
    service[1].wait(timeout=20)
    answer = load_answer(runs / "line", name="seen")
    took = [set_level(shown, level) for level in (50, 70, 99, 68)]
    at = answer.draws.names.index("offset")
    interval = tuple(float(answer.draws.quantile(q)[at]) for q in (0.16, 0.84))
    found = {row[0]: row[1:] for row in rows(shown)}
    assert found["offset"][1] == ends(interval, answer.parameters["offset"].median, "m")
    assert sorted(took)[1] < 50
    assert "taken from 10,000 draws" in shown.locator("#tables .moved").first.inner_text()
    off = any(e.corrected and e.corrected.seen for e in answer.parameters.values())
    words = "moved intervals at 90%" if off else "is known when you ask again"
    assert words in shown.locator("#tables").inner_text()
    before = rows(shown)
    drop(shown, "other.csv", OTHER)
    shown.wait_for_selector("#error", state="visible")
    assert "does not answer" in shown.locator("#error").inner_text()
    assert rows(shown) == before
    visit.errors.clear()
