"""Columns that say where values stand: data at other places, or in another order, are not taken for the simulator's."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy import units
from astropy.table import QTable, Table

from sciinf.core import Observable, read_observation

YEARS = tuple(range(1900, 1906))
SERIES = {"v": Observable((6,), "m", ("time",), coords={"time": YEARS}, coord_units={"time": "yr"})}
COUNTS = {
    "counts": Observable(
        (6, 2),
        dims=("time", "species"),
        coords={"time": YEARS, "species": ("hare", "lynx")},
        coord_units={"time": "yr"},
    )
}
VALUES = np.arange(6.0)


def table(path: Path, time: object, name: str = "time", values: object = VALUES) -> Path:
    Table({name: time, "v": values}).write(path, overwrite=True)
    return path


@pytest.mark.parametrize("time", [YEARS, [float(y) + 0.004 for y in YEARS]])
def test_a_column_that_agrees_is_told(tmp_path, time):
    found = read_observation(SERIES, table(tmp_path / "seen.csv", time))
    assert found["v"].tolist() == VALUES.tolist()
    assert found.read == ("v: 6 values, no unit: taken as m", "time: as the simulator has it")


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ([0, 1, 2, 3, 4, 5], r"column 'time' has 0, 1, 2, ..., 5 yr, .* stand at 1900, 1901, 1902, ..., 1905 yr"),
        ([1900, 1901, 1902, 1903, 1904, 1905.5], "leave 'time' out of the file"),
        ([1900, 1901, 1902, 1904, 1903, 1905], "in another order along 'time'"),
        ([1900, 1901, float("nan"), 1903, 1904, 1905], "has 1900, 1901, nan"),
    ],
)
def test_data_that_stand_elsewhere_are_refused(tmp_path, time, words):
    with pytest.raises(ValueError, match=words):
        read_observation(SERIES, table(tmp_path / "seen.csv", time))


@pytest.mark.parametrize("suffix", ["csv", "ecsv", "h5"])
def test_units_of_the_axis_are_converted(tmp_path, suffix):
    path = tmp_path / f"seen.{suffix}"
    days = np.asarray(YEARS) * 365.25
    if suffix == "csv":
        table(path, days, "time [d]")
    elif suffix == "ecsv":
        QTable({"time": units.Quantity(days, "d"), "v": VALUES}).write(path)
    else:
        with h5py.File(path, "w") as file:
            file["time"], file["v"] = days, VALUES
            file["time"].attrs["units"] = "d"
    assert read_observation(SERIES, path).read[-1] == "time: as the simulator has it"


def test_columns_that_cannot_be_compared_are_not_used(tmp_path):
    path = tmp_path / "seen.h5"
    with h5py.File(path, "w") as file:
        file["time"], file["v"] = np.arange(6), VALUES
        file["time"].attrs["units"] = "days since 1900-01-01"
    assert read_observation(SERIES, path).read[-1] == "not used: time"
    named = table(tmp_path / "named.csv", ["a", "b", "c", "d", "e", "f"])
    assert read_observation(SERIES, named).read[-1] == "not used: time"


@pytest.mark.parametrize("name", ["time", "Time", "TIME"])
def test_the_name_is_the_axis_in_any_letters(tmp_path, name):
    with pytest.raises(ValueError, match="in another order along 'time'"):
        read_observation(SERIES, table(tmp_path / "seen.csv", YEARS[::-1], name))


def test_a_unit_that_does_not_convert_is_refused(tmp_path):
    with pytest.raises(ValueError, match="column 'time' has a unit that does not convert"):
        read_observation(SERIES, table(tmp_path / "seen.csv", YEARS, "time [m]"))


def test_a_unit_that_the_simulator_does_not_name_is_no_matter(tmp_path):
    bare = {"v": Observable((6,), "m", ("time",), coords={"time": YEARS})}
    assert read_observation(bare, table(tmp_path / "seen.csv", YEARS, "time [yr]")).read[-1].startswith("time: as")


def test_one_of_several_observables_is_enough(tmp_path):
    both = {**SERIES, "w": Observable((2,), "", ("time",), coords={"time": (1, 2)})}
    with h5py.File(tmp_path / "seen.h5", "w") as file:
        file["time"], file["v"], file["w"] = np.asarray(YEARS), VALUES, np.zeros(2)
    assert read_observation(both, tmp_path / "seen.h5").read[-1] == "time: as the simulator has it"


def test_an_axis_called_like_an_observable_is_the_observable(tmp_path):
    own = {"time": Observable((6,), "s", ("time",), coords={"time": YEARS})}
    with h5py.File(tmp_path / "seen.h5", "w") as file:
        file["time"] = VALUES
    assert read_observation(own, tmp_path / "seen.h5")["time"].tolist() == VALUES.tolist()


@pytest.mark.parametrize("order", [("hare", "lynx"), ("lynx", "hare"), ("Lynx", "Hare")])
def test_labelled_columns_are_put_in_the_order_of_the_axis(tmp_path, order):
    path = tmp_path / "seen.csv"
    Table({f"counts_{one}": np.full(6, float(one.lower() == "lynx")) for one in order}).write(path)
    assert read_observation(COUNTS, path)["counts"][0].tolist() == [0.0, 1.0]


def test_labels_of_rows_in_another_order_are_refused(tmp_path):
    per = {"mass": Observable((2,), "", ("species",), coords={"species": ("hare", "lynx")})}
    path = tmp_path / "seen.csv"
    Table({"species": ["lynx", "hare"], "mass": [1.0, 2.0]}).write(path)
    with pytest.raises(ValueError, match="in another order along 'species'"):
        read_observation(per, path)
