"""Figures stand in a page without clashing, follow its colours, and fetch nothing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from sciinf.interfaces.figures.style import BLUE, INK, look
from sciinf.interfaces.figures.svg import places, to_svg


def drawing() -> Figure:
    with look():
        figure = Figure(figsize=(3, 2))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1.23456789], "o-", color=BLUE)
        axes.fill_between([0, 1], [0, 0], [1, 1], color=BLUE, alpha=0.2)
        axes.imshow([[0, 1], [2, 3]], extent=(0, 1, 0, 1))
        axes.set_title("a title", color=INK)
    return figure


def test_is_well_formed_with_a_text_alternative():
    root = ElementTree.fromstring(to_svg(drawing(), 'curve < band & "text"', "a"))
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'curve < band & "text"'


def test_text_stays_text_in_the_pages_type():
    svg = to_svg(drawing(), "alt", "a")
    assert ">a title</text>" in svg
    assert "font-family" not in svg


def test_colours_follow_the_page():
    svg = to_svg(drawing(), "alt", "a")
    assert "var(--blue)" in svg
    assert "var(--ink)" in svg
    assert BLUE not in svg


def test_identifiers_of_two_figures_never_meet_and_all_references_hold():
    seen: set[str] = set()
    for key in ("a", "b"):
        svg = to_svg(drawing(), "alt", key)
        names = re.findall(r' id="([^"]+)"', svg)
        assert names
        assert len(names) == len(set(names))
        assert not seen & set(names)
        seen |= set(names)
        wanted = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
        assert wanted
        assert set(wanted) <= set(names)


def test_fetches_nothing_and_styles_nothing_else():
    svg = to_svg(drawing(), "alt", "a")
    assert "http" not in svg
    assert "<style" not in svg
    assert "data:image/png;base64" in svg


def test_the_same_figure_gives_the_same_bytes():
    assert to_svg(drawing(), "alt", "a") == to_svg(drawing(), "alt", "a")


def test_nothing_that_is_written_is_beyond_the_drawing_and_its_axes_are_found_again():
    figure = drawing()
    figure.axes[0].set_ylabel("a label\non several\nlines\nthat is\nfar too\nhigh")
    root = ElementTree.fromstring(to_svg(figure, "alt", "a"))
    assert float(root.attrib["viewBox"].split()[2]) > 3 * 72
    (found,) = places(figure, figure.axes)
    frame = next(e for e in root.iter("clipPath"))[0]
    assert [float(frame.attrib[k]) for k in ("x", "y", "width", "height")] == pytest.approx(found[:4], abs=0.06)
