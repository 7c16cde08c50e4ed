"""Numbers are rounded by their uncertainty, and every string is escaped."""

from __future__ import annotations

import math

import pytest

from sciinf.interfaces.figures.page import data_block, details, duration, number, page, section, table

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


def test_the_page_is_escaped():
    html = page(EVIL, EVIL, "<p>content</p>" + details(EVIL, "") + section("k", EVIL, ""), {"a": EVIL}, EVIL)
    assert EVIL not in html
    assert "<p>content</p>" in html
    assert html.count("<script") == 2


def test_numbers_that_are_not_finite_are_no_data():
    with pytest.raises(ValueError, match="JSON"):
        data_block({"a": math.nan})
