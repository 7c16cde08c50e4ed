"""Numbers are rounded by their uncertainty, and every string is escaped."""

from __future__ import annotations

import math

import pytest

from sciinf.figures.page import Card, Section, duration, interval_bar, number, page, table, verdict

EVIL = '<script>"&'


@pytest.mark.parametrize(
    ("value", "sd", "shown"),
    [
        (1.234567, 0.0321, "1.235"),
        (-12.5, 0.03, "−12.500"),
        (1234567.0, 3210.0, "1,234,600"),
        (0.0, 0.5, "0.00"),
        (-0.0001, 0.5, "0.00"),
        (3.2e-9, 1.1e-10, "3.20×10⁻⁹"),
        (2.5e12, 1e11, "2.50×10¹²"),
        (4.0, 0.0, "4.000"),
        (0.0, 0.0, "0"),
        (math.nan, 1.0, "–"),
        (None, None, "–"),
    ],
)
def test_numbers_carry_two_digits_of_their_sd(value, sd, shown):
    assert number(value, sd) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.42, "0.4 s"), (12.4, "12 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 5 min"), (None, "–")]
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown


def test_every_cell_is_escaped_and_numbers_stand_right():
    html = table([EVIL, "n"], [[EVIL, EVIL]], ["", "n"], EVIL)
    assert "<script>" not in html
    assert html.count("&lt;script&gt;&quot;&amp;") == 4
    assert '<td class="n">' in html
    assert '<th scope="row">' in html


def test_verdict_and_page_are_escaped():
    band = verdict(EVIL, [Card(EVIL, "red", EVIL, [EVIL])])
    html = page(EVIL, EVIL, band, [Section("k", EVIL, "<p>content</p>")], EVIL)
    assert "<script" not in html
    assert "<p>content</p>" in html


def test_a_verdict_is_told_in_words_not_colour_alone():
    band = verdict(
        "all", [Card("Calibration", "green", "Passed", ["fine"]), Card("Observation", "red", "Unlike", ["bad"])]
    )
    assert "✓" in band
    assert "✕" in band
    assert "Passed" in band


def test_interval_bar_stays_inside_and_needs_a_finite_prior():
    assert "width" in interval_bar((-5.0, 5.0), 0.0, (-1.0, 1.0), "alt")
    assert interval_bar((0.0, 1.0), 0.5, (0.0, math.inf), "alt") == ""
    assert interval_bar((0.0, 1.0), 0.5, (1.0, 1.0), "alt") == ""
