"""Columns that say where values stand: data at other places, or in another order, are not taken for the simulator's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy import units
from astropy.table import QTable, Table

from sciinf.core import Observable, read_observation
from sciinf.core.findings import Cause

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
    found = read_observation(SERIES, path)
    assert found.read[-1] == "not used: time"
    assert "cannot be compared with the coordinates of 'v'" in found.findings[0].words
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


def test_columns_that_are_known_by_their_labels_are_in_no_order_of_rows(tmp_path):
    genes = {"v": Observable((2,), "", ("gene",), coords={"gene": ("a", "b")})}
    (tmp_path / "seen.csv").write_text("v_b,v_a\n1,2\n")
    found = read_observation(genes, tmp_path / "seen.csv")
    assert found["v"].tolist() == [2.0, 1.0]
    assert not any("in their order" in line for line in found.read)


def test_an_image_has_no_columns_to_be_compared(tmp_path):
    image = {"y": Observable((2, 3), "", ("row", "column"), coords={"row": (0.0, 0.5), "column": (0.0, 0.5, 1.0)})}
    np.save(tmp_path / "y.npy", np.zeros((2, 3)))
    assert read_observation(image, tmp_path / "y.npy").read == ("y: 2 x 3 values, no unit",)


def test_labels_of_rows_in_another_order_are_refused(tmp_path):
    per = {"mass": Observable((2,), "", ("species",), coords={"species": ("hare", "lynx")})}
    path = tmp_path / "seen.csv"
    Table({"species": ["lynx", "hare"], "mass": [1.0, 2.0]}).write(path)
    with pytest.raises(ValueError, match="in another order along 'species'"):
        read_observation(per, path)


BARE = {"v": Observable((6,), "m", ("time",), scale="log")}


@pytest.mark.parametrize("name", ["time", "Times", "t"])
@pytest.mark.parametrize("spec", [BARE["v"], Observable((6,), "m")])
def test_times_that_nothing_declares_are_said_not_to_be_compared(tmp_path, name, spec):
    found = read_observation({"v": spec}, table(tmp_path / "seen.csv", np.arange(6) + 0.5, f"{name} [h]"))
    (finding,) = found.findings
    assert (finding.name, finding.level, finding.cause) == ("coordinates", "unknown", Cause.COORDINATES)
    assert f"column '{name}' (0.5, 1.5, 2.5, ..., 5.5 h) was compared with nothing" in finding.words
    assert found.read[-1] == f"not used: {name}"


@pytest.mark.parametrize("name", ["time", "t", "times", "time_h", "Time (h)", "elapsed", "elapsed time"])
def test_times_by_another_name_are_compared(tmp_path, name):
    hours = {"v": replace(BARE["v"], coords={"time": np.arange(6)}, coord_units={"time": "h"})}
    minutes = table(tmp_path / "minutes.csv", 60 * np.arange(6), f"{name} [min]")
    assert read_observation(hours, minutes).read[-1] == f"{name}: as the simulator has it"
    for path in (
        table(tmp_path / "shifted.csv", np.arange(6) + 0.5, name),
        table(tmp_path / "minutes.csv", 60 * np.arange(6), name),
    ):
        with pytest.raises(ValueError, match=re.escape(f"its column '{name}' has")):
            read_observation(hours, path)


@pytest.mark.parametrize(
    ("times", "name", "words"),
    [
        (np.linspace(0, 5, 6), "t [h]", 'coords={"time": np.linspace(0, 5, 6)}, coord_units={"time": "h"}'),
        ([0.0, 0.1, 0.5, 1, 2, 7], "t", 'coords={"time": [0, 0.1, 0.5, 1, 2, 7]}'),
        (["a", "b", "c", "d", "e", "f"], "time", 'coords={"time": ["a", "b", "c", "d", "e", "f"]}'),
        (YEARS, "year", 'coords={"time": np.linspace(1900, 1905, 6)}, coord_units={"time": "year"}'),
    ],
)
def test_the_line_that_it_writes_declares_what_the_file_has(tmp_path, times, name, words):
    (finding,) = read_observation(BARE, table(tmp_path / "seen.csv", times, name)).findings
    assert finding.figures["declare"] == f'"v": Observable((6,), "m", dims=("time",), scale="log", {words})'


def test_a_control_stays_one_in_the_line(tmp_path):
    dose = {"v": replace(BARE["v"], control=True)}
    (finding,) = read_observation(dose, table(tmp_path / "seen.csv", np.arange(6), "t")).findings
    assert "control=True" in finding.figures["declare"]


def test_what_is_no_time_of_these_data_is_left_alone(tmp_path):
    temperature = table(tmp_path / "seen.csv", VALUES, "T")
    assert not read_observation(BARE, temperature).findings
    both = tmp_path / "both.csv"
    Table({"time": YEARS, "t": VALUES, "v": VALUES}).write(both)
    assert read_observation(SERIES, both).read[-2:] == ("time: as the simulator has it", "not used: t")
    timed = {**BARE, "v_times": Observable((6,), "h", ("time",), "float64")}
    Table({"time": YEARS, "v_times": VALUES, "v": VALUES}).write(both, overwrite=True)
    assert not read_observation(timed, both).findings
    items = {"v": Observable((6,), "m", ("item",))}
    assert not read_observation(items, table(tmp_path / "seen.csv", VALUES, "item")).findings
    with h5py.File(tmp_path / "seen.h5", "w") as file:
        file["time"], file["v"] = 1.5, VALUES
    assert not read_observation(BARE, tmp_path / "seen.h5").findings


def test_each_file_has_times_of_its_own_data(tmp_path):
    both = {**SERIES, "w": Observable((3,), "", ("time",), coords={"time": (1, 2, 3)})}
    first, second = table(tmp_path / "v.csv", YEARS), tmp_path / "w.csv"
    Table({"time": [1, 2, 3], "w": [0.0, 0.0, 0.0]}).write(second)
    assert "time: as the simulator has it" in read_observation(both, first, second).read
    Table({"time": [1, 2, 4], "w": [0.0, 0.0, 0.0]}).write(second, overwrite=True)
    with pytest.raises(ValueError, match="w.csv: its column 'time' has 1, 2, 4"):
        read_observation(both, first, second)


def test_a_column_of_times_that_cannot_be_read_is_no_error_and_no_agreement(tmp_path):
    path = tmp_path / "seen.json"
    path.write_text('{"v": [0, 1, 2, 3, 4, 5], "time": {"from": 1900}}')
    for observables in (SERIES, BARE):
        found = read_observation(observables, path)
        assert [one.level for one in found.findings] == ["unknown"]
        assert found["v"].tolist() == VALUES.tolist()


def test_years_and_days_are_times_that_may_be_counted_from_elsewhere(tmp_path):
    path = tmp_path / "seen.csv"
    Table({"year": YEARS, "day": np.arange(6), "v": VALUES}).write(path)
    found = read_observation(SERIES, path)
    assert found.read[-2:] == ("year: as the simulator has it", "not used: day")
    assert not found.findings
    (bare,) = read_observation(BARE, table(tmp_path / "bare.csv", YEARS, "Year")).findings
    assert "compared with nothing" in bare.words
    (shifted,) = read_observation(SERIES, table(tmp_path / "shifted.csv", np.arange(6), "years")).findings
    assert "column 'years' has 0, 1, 2, ..., 5 yr, and the simulator's data stand at 1900" in shifted.words
    hours = {"v": Observable((6,), "m", ("time",), coords={"time": np.arange(6) / 60}, coord_units={"time": "h"})}
    assert (
        read_observation(hours, table(tmp_path / "minutes.csv", np.arange(6), "minute")).read[-1].startswith("minute:")
    )
    with pytest.raises(ValueError, match="in another order along 'time'"):
        read_observation(SERIES, table(tmp_path / "back.csv", YEARS[::-1], "year"))


NOT_COMPARED = "rows are taken in their order: no column is named 'time', to compare"


@pytest.mark.parametrize("suffix", ["csv", "fits", "h5"])
def test_rows_in_another_order_are_seen_by_a_column_of_any_name(tmp_path, suffix):
    years = np.asarray(YEARS)
    wrong, right = tmp_path / f"wrong.{suffix}", tmp_path / f"right.{suffix}"
    for path, order in ((right, slice(None)), (wrong, slice(None, None, -1))):
        if suffix == "h5":
            with h5py.File(path, "w") as file:
                file["MJD"], file["v"] = years[order], VALUES
        else:
            table(path, years[order], "MJD")
    assert any("as the simulator has it" in line for line in read_observation(SERIES, right).read)
    with pytest.raises(ValueError, match="in another order along 'time'"):
        read_observation(SERIES, wrong)
    ranks = {"v": replace(SERIES["v"], coords={"time": tuple(range(6))})}
    found = read_observation(ranks, table(tmp_path / "ranks.csv", [5, 4, 3, 2, 1, 0], "rank"))
    assert found.read[-2:] == ("not used: rank", NOT_COMPARED)


def test_values_without_a_column_of_their_places_are_said_to_be_taken_in_their_order(tmp_path):
    (tmp_path / "v.csv").write_text("v\n" + "\n".join(map(str, VALUES)) + "\n")
    assert read_observation(SERIES, tmp_path / "v.csv").read[-1] == NOT_COMPARED
    assert NOT_COMPARED not in read_observation(SERIES, table(tmp_path / "right.csv", YEARS, "time")).read


@pytest.mark.parametrize("named", ["scales", "labels"])
def test_axes_of_an_array_in_a_file_are_put_in_order_by_their_names(tmp_path, named):
    spec = {"y": Observable((2, 2), dims=("sensor", "time"))}
    with h5py.File(tmp_path / "seen.nc", "w") as file:
        file["y"] = [[1.0, 2.0], [3.0, 4.0]]
        for place, name in enumerate(("time", "sensor")):
            if named == "labels":
                file["y"].dims[place].label = name
            else:
                file[name] = [0.0, 1.0]
                file[name].make_scale(name)
                file["y"].dims[place].attach_scale(file[name])
    assert read_observation(spec, tmp_path / "seen.nc")["y"].tolist() == [[1.0, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize(
    ("column", "read"),
    [
        ("y (m)", 0.004),
        ("y (mi)", 6.437376),
        ("y [m]", 0.004),
        ("y (km)", 4.0),
        ("y_seen", 4.0),
        ("y_km", 4.0),
        ("y (raw)", 4.0),
    ],
)
def test_a_unit_in_brackets_behind_a_name_is_taken(tmp_path, column, read):
    Table({column: [4.0]}).write(tmp_path / "seen.csv")
    name = "y" if "[" in column else column
    found = read_observation({"v": Observable((), "km")}, tmp_path / "seen.csv", columns={"v": name})
    assert found["v"].item() == pytest.approx(read)


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_name_that_ends_in_another_unit_is_refused(tmp_path, suffix):
    path = tmp_path / f"seen.{suffix}"
    path.write_text("y_mi\n4\n" if suffix == "csv" else '{"y_mi": 4}')
    with pytest.raises(ValueError, match=r"seems to be in 'mi'.*: y \[mi\], or y \[km\]"):
        read_observation({"v": Observable((), "km")}, path, columns={"v": "y_mi"})


def test_a_column_that_agrees_decides_over_one_in_another_order(tmp_path):
    Table({"left": YEARS[::-1], "since": YEARS, "v": VALUES}).write(tmp_path / "seen.csv")
    assert "since: as the simulator has it" in read_observation(SERIES, tmp_path / "seen.csv").read
    Table({"left": YEARS[::-1], "v": VALUES}).write(tmp_path / "wrong.csv")
    with pytest.raises(ValueError, match="by its column 'left', its rows are in another order"):
        read_observation(SERIES, tmp_path / "wrong.csv")


@pytest.mark.parametrize("column", ["y_m", "t_min", "x (s)", "y (band)"])
def test_labels_behind_a_name_are_no_units(tmp_path, column):
    Table({column: [4.0]}).write(tmp_path / "seen.csv")
    unit = "s" if column == "t_min" else "km"
    assert read_observation({"v": Observable((), unit)}, tmp_path / "seen.csv", columns={"v": column})["v"] == 4.0


def test_degrees_celsius_and_columns_by_number_are_explained(tmp_path):
    Table({"v [deg_C]": [4.0]}).write(tmp_path / "seen.csv")
    with pytest.raises(ValueError, match=r"add 273\.15 to have kelvins"):
        read_observation({"v": Observable((), "K")}, tmp_path / "seen.csv")
    (tmp_path / "seen.txt").write_text("1 2\n3 4\n")
    found = read_observation({"v": Observable((2,), "K")}, tmp_path / "seen.txt", columns={"v": "2"})
    assert found.read[0].startswith("v: 2 values of column 2 (the first is 1)")
