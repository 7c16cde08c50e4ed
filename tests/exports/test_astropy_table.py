"""Units and values are exact on read back, whatever the kind of table."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy import units
from astropy.table import QTable, Table

from sciinf.core import Draws, Finding, Trust
from sciinf.interfaces.exports import to_table, write_table

READERS = {
    ".ecsv": lambda path: QTable.read(path, format="ascii.ecsv"),
    ".fits": lambda path: QTable.read(path, format="fits"),
    ".h5": lambda path: QTable.read(path, format="hdf5", path="draws"),
}


def test_table_has_quantities(draws):
    table = to_table(draws)
    assert table.colnames == [*draws.names, "log_weight"]
    assert table["rate"].unit == units.Unit("1/h")
    assert table["mass_1"].to(units.kg)[0].value == pytest.approx(float(draws.theta[0, 1]) * 1.98841e30, rel=1e-4)
    assert getattr(table["offset"], "unit", None) is None


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_units_are_exact_on_read_back(tmp_path, draws, suffix, dtype):
    theta = draws.theta.to(dtype) / 3
    given = Draws(draws.names, draws.units, theta, draws.log_weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = READERS[suffix](write_table(given, tmp_path / f"draws{suffix}"))
    assert back.colnames == [*draws.names, "log_weight"]
    for column, (name, unit) in enumerate(zip(draws.names, draws.units, strict=True)):
        found = back[name]
        assert (getattr(found, "unit", None) or units.dimensionless_unscaled) == units.Unit(unit)
        values = np.asarray(getattr(found, "value", found))
        assert values.dtype.itemsize == theta.element_size()
        np.testing.assert_array_equal(values, theta[:, column].numpy())
    np.testing.assert_array_equal(np.asarray(back["log_weight"]), draws.log_weight.numpy())


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("unit", ["mag", "percent", "dex(cm / s2)", "10 km", "arcsec2", "1 / yr", "Ohm"])
def test_odd_units_survive(tmp_path, suffix, unit):
    draws = Draws(("a",), (unit,), torch.arange(3.0)[:, None], torch.zeros(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy says that other FITS readers will not see some of these units
        back = READERS[suffix](write_table(draws, tmp_path / f"odd{suffix}"))
    assert back["a"].unit == units.Unit(unit)


@pytest.mark.parametrize("suffix", READERS)
def test_verdicts_travel_with_the_draws(tmp_path, answer, suffix):
    meta = READERS[suffix](write_table(answer, tmp_path / f"answer{suffix}")).meta
    key = {".fits": ("TRUST", "CALPASS", "LOGEVID")}.get(suffix, ("trust", "calibration_passed", "log_evidence"))
    assert [meta[k] for k in key] == ["looks like the simulations", True, -12.5]
    key = ("VERDICT", "SENTENCE") if suffix == ".fits" else ("verdict", "sentence")
    assert {"verdict": meta[key[0]], "sentence": meta[key[1]]} == answer.verdict.to_json()


@pytest.mark.parametrize("suffix", READERS)
def test_findings_that_are_not_good_travel_with_the_draws(tmp_path, answer, suffix):
    checks = (Finding("noise", "good", "as the model has it"), Finding("prior bounds", "alarm", "at the edge"))
    meta = READERS[suffix](write_table(replace(answer, checks=checks), tmp_path / f"answer{suffix}")).meta
    key = ("VERDICT", "FINDINGS") if suffix == ".fits" else ("verdict", "findings")
    assert [meta[k] for k in key] == ["alarm", "prior bounds: WARNING: at the edge"]


def test_a_verdict_in_any_words_fits_a_fits_header(tmp_path, answer):
    odd = replace(answer, trust=Trust(0.3, "within ±1 µm,\n" + "and so on, " * 20, "good"))
    found = READERS[".fits"](write_table(odd, tmp_path / "odd.fits")).meta["TRUST"]
    assert found.startswith("within ?1 ?m, and so on,")
    assert len(found) > 200


def test_csv_says_its_units_in_the_header_and_keeps_every_digit(tmp_path, draws):
    path = write_table(draws, tmp_path / "draws.csv")
    assert path.read_text().splitlines()[0] == "rate [1/h],mass_1 [solMass],offset,depth [km / (s Mpc)],log_weight"
    table = Table.read(path, format="ascii.csv")
    np.testing.assert_array_equal(np.asarray(table["rate [1/h]"]).astype(np.float32), draws.theta[:, 0].numpy())
    np.testing.assert_array_equal(np.asarray(table["log_weight"]), draws.log_weight.numpy())


def test_units_vanish_from_hdf5_without_serialised_meta(tmp_path, draws):
    """The planted fault: what `write_table` guards against is still there to be guarded against."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        to_table(draws).write(tmp_path / "bare.h5", format="hdf5", path="draws", serialize_meta=False)
    assert getattr(READERS[".h5"](tmp_path / "bare.h5")["rate"], "unit", None) is None


def test_a_failed_write_leaves_the_old_file(tmp_path, draws):
    path = tmp_path / "draws.ecsv"
    path.write_text("old")
    bad = Draws(("a",), ("no such unit",), torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(ValueError):
        write_table(bad, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_requests_are_refused(tmp_path, draws):
    with pytest.raises(ValueError, match=r"expected one of .*\.ecsv"):
        write_table(draws, tmp_path / "draws.xlsx")
    clash = Draws(("log_weight",), ("",), torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(ValueError, match="rename it in the prior"):
        to_table(clash)
