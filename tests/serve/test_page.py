"""The page in a browser, on a real service and a small run: what a file becomes, and what stays when the service goes.

Every test fails, too, where anything is asked of another place, or the browser's console has an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brief import briefly_trained
from browser import CHROMIUM

from sciinf import (
    Flow,
    build_posterior,
    calibrate,
    load_answer,
    load_simulator,
    query,
    simulate,
    train,
)
from sciinf.core import Draws
from sciinf.figures.page import number
from sciinf.figures.style import pretty_unit
from sciinf.serve.page import page, static_file
from sciinf.storage.run_events import line_of

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the test extra")
for _name in ("starlette", "uvicorn"):
    pytest.importorskip(_name, reason="needs sciinf[serve]")
if CHROMIUM is None:
    pytest.skip("needs Chromium", allow_module_level=True)

X_SEEN = {"x": [0.2, 1.4, 1.9, 3.2, 3.8]}
SEEN = "x [m]\n0.2\n1.4\n1.9\n3.2\n3.8\n"
OTHER = "x [m]\n2.2\n1.1\n1.0\n-0.1\n-0.9\n"
EVIL = '<b title="x">\'&'
SIMULATOR = f"""
import numpy as np
from torch.distributions import Normal

from sciinf import Observable, Prior, wrappers

prior = Prior(slope=(Normal(0.0, 1.0), "m/s"), offset=(Normal(0.0, 1.0), "m"))


def track(slope, offset, rng):
    return offset[:, None] + slope[:, None] * np.arange(5.0) + rng.normal(size=(len(slope), 5))


simulator = wrappers.numpy(track, prior, {{"x": Observable((5,), "m", dims=("time",))}}, vectorised=True)
simulator.labels = {{"slope": {EVIL!r}}}
"""
AXE = Path(__file__).parent / "axe.min.js"
TIMES = ("look first", "simulate", "train")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was answered, and one that trains."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "line.py").write_text(SIMULATOR)
    (folder / "seen.csv").write_text(SEEN)
    simulator, run = load_simulator(folder / "line.py"), folder / "line"
    store = simulate(simulator, run / "simulations", 1_000, seed=0)
    with briefly_trained(6):
        posterior = build_posterior(train(Flow(simulator.prior, simulator.observables), store, out=run / "fit"))
    found = calibrate(posterior, simulate(simulator, run / "calibration_simulations", 1_000, seed=1), out=run)
    query(posterior, X_SEEN, found, simulator=simulator, out=run, name="seen")
    (folder / "young").mkdir()
    events = [{"event": "run", "at": 0.0, "title": EVIL, "command": "sciinf infer"}]
    events += [{"event": "stage", "at": float(k), "stage": stage} for k, stage in enumerate(TIMES)]
    events += [{"event": "loss", "at": 3.0, "epoch": e, "train_loss": -e, "validation_loss": None} for e in range(9)]
    events.append({"event": "reached", "at": 3.0, "done": 9, "total": 30, "unit": "epochs", "left": 21.0})
    (folder / "young" / "events.jsonl").write_text("".join(map(line_of, events)))
    return folder


@pytest.fixture(scope="module")
def service(runs: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """`sciinf serve` of both, at a port that is free: its address, and its process."""
    words = [sys.executable, "-m", "sciinf.cli", "serve", "line", "young", "--simulator", "line.py", "--port", "0"]
    running = subprocess.Popen(words, cwd=runs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        said = running.stdout.readline()
        assert " at http" in said, said + (running.stderr.read() if running.stderr else "")
        yield said.split(" at ")[1].strip(), running
    finally:
        running.terminate()
        running.communicate(timeout=20)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests."""
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, service: tuple[str, subprocess.Popen]) -> Iterator[Callable[..., Any]]:
    """Opens the page; at the end it looks at what was asked of whom, and at the console."""
    address, errors, asked, contexts = service[0], [], [], []

    def opened(hash_: str = "", width: int = 1280, *, dark: bool = False, script: str = "") -> Any:
        look = {"viewport": {"width": width, "height": 900}, "color_scheme": "dark" if dark else "light"}
        context = chromium.new_context(**look)
        contexts.append(context)
        context.set_default_timeout(60_000)
        if script:
            context.add_init_script(script)
        shown = context.new_page()
        shown.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        shown.on("pageerror", lambda error: errors.append(str(error)))
        context.on("request", lambda request: asked.append(request.url))
        shown.goto(f"{address}/{hash_}")
        return shown

    opened.errors = errors  # type: ignore[attr-defined]
    yield opened
    for context in contexts:
        context.close()
    assert errors == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:" + address))] == []


def drop(shown: Any, name: str, text: str) -> None:
    """Drop a file in the middle of the page."""
    shown.wait_for_selector("#drop", state="visible")
    script = (
        "([name, text]) => { const held = new DataTransfer(); held.items.add(new File([text], name)); return held; }"
    )
    held = shown.evaluate_handle(script, [name, text])
    shown.dispatch_event("footer", "drop", {"dataTransfer": held})


def answered(shown: Any, count: int = 1) -> None:
    """Wait until there are so many answers, with the checks by simulation."""
    shown.wait_for_selector(f"#verdicts > .verdict:nth-child({count})")
    shown.wait_for_selector("#verdicts .busy", state="detached")


def rows(shown: Any, where: str = "#tables .scroll:first-child") -> list[list[str]]:
    """The cells of a table, by row."""
    cells = "(found) => found.map((row) => [...row.children].map((one) => one.innerText.trim()))"
    return shown.locator(f"{where} tbody tr").evaluate_all(cells)


def set_level(shown: Any, level: int) -> float:
    """Move the slider of the level; milliseconds until the numbers are there."""
    script = """(level) => { const slider = document.getElementById('level'), before = performance.now();
        slider.value = level; slider.dispatchEvent(new Event('input')); return performance.now() - before; }"""
    return shown.evaluate(script, level)


def ends(interval: tuple[float, float], middle: float, unit: str) -> str:
    return f"{number(interval[0], middle - interval[0])} to {number(interval[1], interval[1] - middle)} {unit}"


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
    assert shown.locator("#verdicts .headline").inner_text()
    assert shown.locator("#verdicts .lights li").count() >= 4
    assert shown.locator("#cards details").count() >= 1
    assert shown.locator("#curves canvas").count() == 1
    assert shown.locator("#marginals canvas").count() == 2
    assert shown.locator("#corner canvas").count() == 1


def test_before_the_checks_by_simulation_it_says_that_they_are_to_be_made(visit: Any) -> None:
    """And the answer is not green then; where they cannot be made, they can be asked for again."""
    shown = visit()
    shown.wait_for_selector("#drop", state="visible")
    shown.route(
        "**/answer",
        lambda route: route.abort()
        if b'"checks":true' in (route.request.post_data_buffer or b"")
        else route.continue_(),
    )
    shown.click("#observations button")
    shown.wait_for_selector("#verdicts .next button")
    words = shown.locator("#verdicts .next").inner_text()
    assert "Checks by simulation were not made" in words
    assert "does not answer" in words
    assert "green" not in (shown.locator("#verdicts .verdict").get_attribute("class") or "")
    shown.unroute("**/answer")
    shown.click("#verdicts .next button")
    shown.wait_for_selector("#verdicts .next", state="detached")
    visit.errors[:] = [error for error in visit.errors if "ERR_FAILED" not in error]


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


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe.min.js beside this file")
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(visit: Any, *, dark: bool) -> None:
    """On the first page, with two answers and all parts open, and with a run that goes on."""
    shown = visit(dark=dark, script=AXE.read_text())

    def faults() -> list[str]:
        found = shown.evaluate("() => axe.run()")["violations"]
        return [
            f"{one['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for one in found
            for node in one["nodes"]
        ]

    shown.wait_for_selector("#priors table")
    assert faults() == []
    drop(shown, "seen.csv", SEEN)
    answered(shown)
    drop(shown, "other.csv", OTHER)
    answered(shown, 2)
    shown.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert faults() == []
    shown.select_option("#model", "young")
    shown.wait_for_selector("#live table")
    assert faults() == []


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
    assert shown.locator("#live tbody th").all_inner_texts() == list(TIMES)
    assert shown.locator("#live canvas").count() == 1
    assert shown.locator("#drop").is_hidden()
    with (runs / "young" / "events.jsonl").open("a") as opened:
        opened.write(line_of({"event": "stopped", "at": 9.0, "why": "the disk is full."}))
    shown.wait_for_selector("#live.amber")
    assert "the disk is full" in shown.locator("#live .headline").inner_text()


def test_a_light_is_never_greener_than_what_is_behind_it(visit: Any) -> None:
    """Whatever the service says in its lights, a check that is not good shows in the colour of the whole."""
    script = """async (answers) => {
        const { colourOf, cards } = await import(new URL('static/answer.js', document.baseURI));
        return answers.map((one) => [colourOf(one), cards(one)[0].className]); }"""
    light = {"name": "trust", "text": "data like simulations"}
    good: dict[str, Any] = {
        "verdict": "good",
        "lights": [{**light, "level": "good"}],
        "trust": {"level": "good", "verdict": "like"},
        "calibration": {"state": "passed", "reasons": ["held"]},
        "checks": [{"name": "predictive", "level": "good", "verdict": "fine"}],
    }
    cases = [
        (good, "green"),
        ({**good, "checks": [{"name": "weights", "level": "caution", "verdict": "few"}]}, "amber"),
        ({**good, "checks": [{"name": "weights", "level": "unknown", "verdict": "few"}]}, "amber"),
        ({**good, "checks": [{"name": "local check", "level": "alarm", "verdict": "off"}]}, "red"),
        ({**good, "checks": [{"name": "local check", "level": "of another kind", "verdict": "off"}]}, "amber"),
        ({**good, "trust": {"level": "alarm", "verdict": "unlike"}}, "red"),
        ({**good, "trust": {"level": "unknown", "verdict": "unlike"}}, "amber"),
        ({**good, "calibration": {"state": "not checked", "reasons": ["never"]}}, "amber"),
        ({**good, "verdict": "alarm"}, "red"),
        ({**good, "lights": [{**light, "level": "unknown"}]}, ""),
    ]
    shown = visit()
    found = shown.evaluate(script, [one for one, _ in cases])
    assert [colour for colour, _ in found] == [colour for _, colour in cases]
    assert [card for (_, card), (_, colour) in zip(found, cases, strict=True) if card.split()[-1] != colour] == [
        "check green",  # the verdict and the lights alone are worse than what is behind them
        "check green",
    ]


def test_numbers_of_draws_are_the_library_s(visit: Any) -> None:
    """Weighted quantiles and moments; and how numbers and units are printed."""
    import base64

    generator = torch.Generator().manual_seed(1)
    theta, logs = torch.randn(501, 2, generator=generator), 3 * torch.randn(501, generator=generator)
    draws = Draws(("a", "b"), ("m", ""), theta, logs.double())
    floats = [base64.b64encode(one.numpy().astype("<f4").tobytes()).decode() for one in (theta, logs)]
    sent = {"names": ["a", "b"], "units": ["m", ""], "count": 501, "float32": floats[0], "log_weights": floats[1]}
    numbers = [
        (3.14159, 0.01),
        (-0.0001, 1.0),
        (1234567.8, 900.0),
        (2e-9, 1e-10),
        (5e11, 3e9),
        (0.0, 0.0),
        (99.96, 0.05),
    ]
    units = ["1/h", "km / (s Mpc)", "mV", "", "m s-1", "erg / (cm2 s)", "solMass", "mag", "m/s"]
    script = """async ([sent, levels, numbers, units]) => {
        const lib = await import(new URL('static/draws.js', document.baseURI)), draws = lib.decode(sent);
        const flat = { ...sent, log_weights: null }, plain = lib.decode(flat);
        return { q: levels.map((q) => lib.quantile(draws, 1, q)), plain: levels.map((q) => lib.quantile(plain, 1, q)),
            ess: draws.ess, mass: lib.density(draws, 0, [-9, 9]).y.reduce((a, b) => a + b) * 18 / 512,
            same: lib.compared(draws, 0, draws, 0), apart: lib.compared(draws, 0, plain, 1),
            numbers: numbers.map(([a, b]) => lib.number(a, b)), units: units.map(lib.unit) }; }"""
    levels = [0.005, 0.05, 0.3, 0.5, 0.95, 0.995]
    found = visit().evaluate(script, [sent, levels, numbers, units])
    assert found["q"] == pytest.approx([float(draws.quantile(q)[1]) for q in levels])
    even = Draws(draws.names, draws.units, theta, torch.zeros(501).double())
    assert found["plain"] == pytest.approx([float(even.quantile(q)[1]) for q in levels])
    assert found["ess"] == pytest.approx(draws.ess, rel=1e-4)
    assert found["mass"] == pytest.approx(1.0, abs=1e-6)
    assert found["same"]["overlap"] == pytest.approx(1.0, abs=2e-3)
    assert found["same"]["shift"] == 0
    shift = (even.mean()[1] - draws.mean()[0]) / np.hypot(even.sd()[1], draws.sd()[0])
    assert found["apart"]["shift"] == pytest.approx(float(shift), rel=1e-4)
    assert found["numbers"] == [number(*one) for one in numbers]
    words = [sorted(one.split()) for one in found["units"]]
    assert words == [sorted(unit.split() if unit == "solMass" else pretty_unit(unit).split()) for unit in units]


def test_the_page_has_no_script_or_style_of_its_own_and_names_no_other_place() -> None:
    html = page()
    assert " style=" not in html
    assert "<style" not in html
    assert "onclick" not in html
    assert html.count("<script") == 1
    assert "http" not in html
    assert static_file("../page.py") is None
    assert static_file("page.html") is None
    assert static_file("report.css") is not None
    for name in ("page.js", "page.css", "uPlot.esm.js"):
        found = static_file(name)
        assert found is not None
        assert found[0]


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
    assert "moved intervals at 90%" in shown.locator("#tables").inner_text() or not any(
        e.corrected and e.corrected.seen for e in answer.parameters.values()
    )
    before = rows(shown)
    drop(shown, "other.csv", OTHER)
    shown.wait_for_selector("#error", state="visible")
    assert "does not answer" in shown.locator("#error").inner_text()
    assert rows(shown) == before
    visit.errors.clear()
