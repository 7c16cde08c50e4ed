"""The page's own numbers and colours, without a service: they are the library's."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sciinf.core import Draws
from sciinf.interfaces.figures.page import number
from sciinf.interfaces.figures.style import pretty_unit
from sciinf.interfaces.serve.page import page, static_file


@pytest.fixture
def shown(chromium: Any) -> Iterator[Any]:
    """A page of the service's scripts alone."""

    def serve(route: Any) -> None:
        found = static_file(route.request.url.rpartition("/")[2])
        route.fulfill(body=found[0], content_type=found[1]) if found else route.fulfill(
            body="", content_type="text/html"
        )

    made = chromium.new_page()
    made.route("http://page.test/**", serve)
    made.goto("http://page.test/")
    yield made
    made.close()


def test_the_page_takes_its_colours_from_the_verdict_and_the_findings(shown: Any) -> None:
    """The gravest finding comes first; weaker evidence after what counts; a level that it does not know is no good."""
    script = """async (answers) => {
        const { colourOf, cards } = await import(new URL('static/answer.js', document.baseURI));
        return answers.map((one) => [colourOf(one), ...cards(one).map((card) => card.className.split(' ').pop())]); }"""
    good, alarm = ({"name": "weights", "level": one, "text": "few", "verdict": "few"} for one in ("good", "alarm"))
    caution, unknown, odd = ({**good, "level": one} for one in ("caution", "unknown", "of another kind"))
    cases = [
        ("good", [good, good], ["green", "green"]),
        ("caution", [good, caution], ["amber", "amber", "green"]),
        ("unknown", [unknown], ["amber", "amber"]),
        ("alarm", [caution, alarm, good], ["red", "red", "amber", "green"]),
        ("good", [{**alarm, "weaker": True}, good], ["green", "grey", "green"]),
        ("caution", [{**alarm, "weaker": True}, caution], ["amber", "amber", "grey"]),
        ("of another kind", [odd, good], ["amber", "amber", "green"]),
    ]
    found = shown.evaluate(script, [{"verdict": verdict, "findings": findings} for verdict, findings, _ in cases])
    assert found == [colours for *_, colours in cases]


def test_numbers_of_draws_are_the_library_s(shown: Any) -> None:
    """Weighted quantiles and moments; and how numbers and units are printed."""
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
    found = shown.evaluate(script, [sent, levels, numbers, units])
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
