"""Labels carry units, and drawing leaves matplotlib's settings as they were."""

from __future__ import annotations

import matplotlib
import pytest
from matplotlib.figure import Figure

from sciinf.interfaces.figures.style import BLUE, label, log_axis, look, plain, pretty_unit, styled


@pytest.mark.parametrize(
    ("unit", "shown"),
    [
        ("", ""),
        ("1/h", "h⁻¹"),
        ("km s-1 Mpc-1", "km s⁻¹ Mpc⁻¹"),
        ("mV", "mV"),
        ("m2", "m²"),
        ("no/such/unit", "no/such/unit"),
        ("yr^(-1/2)", "yr⁻¹⁄²"),
        ("m / yr(1/2)", "m yr⁻¹⁄²"),
    ],
)
def test_units_are_printed_as_scientists_write_them(unit, shown):
    assert pretty_unit(unit) == shown


@pytest.mark.parametrize(
    "unit", ["yr^(-1/2)", "km / (s Mpc)", "1e8 m3", "kg(2/3) K-1", "uV / Hz(1/2)", "deg", "Angstrom"]
)
def test_the_font_of_figures_has_every_sign_of_a_unit(unit):
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    signs = FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap()
    assert not [sign for sign in pretty_unit(unit) if ord(sign) not in signs]
    assert ord("⸍") not in signs  # the fault: what astropy writes, which is a box there


def test_labels_carry_the_unit_on_one_line_or_two():
    assert label("rate", "1/h") == "rate [h⁻¹]"
    assert label("rate", "1/h", lines=2) == "rate\n[h⁻¹]"
    assert label("rate", "") == "rate"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01, "0.01"), (20.0, "20"), (1000.0, "1,000"), (1e-7, "10⁻⁷"), (3e8, "3×10⁸"), (0.0, "0")]
)
def test_ticks_are_plain_numbers(value, shown):
    assert plain(value) == shown


def test_a_log_axis_has_labelled_ticks_even_within_a_decade():
    with look():
        axes = Figure().subplots()
        axes.plot([0, 1], [2.0, 9.0])
        log_axis(axes, axes.yaxis, 2.0, 9.0)
        axes.set_ylim(2.0, 9.0)
        shown = [t.get_text() for t in axes.get_yticklabels() if 2.0 <= float(t.get_text().replace(",", "")) <= 9.0]
    assert shown == ["2", "5"]


def test_the_users_settings_neither_matter_nor_change():
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30.0, "lines.color": "#123456"}):
        before = dict(matplotlib.rcParams)
        with look():
            assert matplotlib.rcParams["text.usetex"] is False
            assert matplotlib.rcParams["font.size"] < 10
        with pytest.raises(RuntimeError, match="halfway"):
            _fails()
        assert dict(matplotlib.rcParams) == before
    assert BLUE == "#0072b2"


@styled
def _fails() -> None:
    raise RuntimeError("halfway")
