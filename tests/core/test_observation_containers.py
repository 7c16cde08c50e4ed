"""Arrays of other libraries: what they carry beside numbers is not lost."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units
from astropy.utils.masked import Masked

from sciinf.core import Observable, as_observation

xarray = pytest.importorskip("xarray", reason="xarray comes with the extra for exports")

TIMES = np.arange(4.0)
SPEC = {"y": Observable((4,), "km", dims=("time",), coords={"time": TIMES}, coord_units={"time": "h"})}
VALUES = np.array([1.0, 2.0, 4.0, 8.0])


def seen(value, spec=SPEC):
    return as_observation(spec, {"y": value})["y"][0].tolist()


@pytest.mark.parametrize(
    "masked", [np.ma.array(VALUES, mask=[0, 1, 0, 0]), Masked(VALUES * units.km, mask=VALUES == 2)]
)
def test_masked_values_are_refused(masked):
    with pytest.raises(ValueError, match="'y' has 1 masked values"):
        seen(masked)
    assert seen(np.ma.array(VALUES)) == VALUES.tolist()


def test_the_unit_of_an_array_of_xarray_is_converted():
    value = xarray.DataArray(VALUES, dims=("time",), attrs={"units": "m"})
    assert seen(value) == pytest.approx(VALUES / 1_000)
    with pytest.raises(ValueError, match="does not convert"):
        seen(value.assign_attrs(units="s"))


def test_data_at_other_coordinates_are_refused():
    value = xarray.DataArray(VALUES, dims=("time",), coords={"time": TIMES})
    assert seen(value) == VALUES.tolist()
    minutes = value.assign_coords(time=("time", 60 * TIMES, {"units": "min"}))
    assert seen(minutes) == VALUES.tolist()
    for other in (value[::-1], value.assign_coords(time=TIMES + 0.5), value.assign_coords(time=60 * TIMES)):
        with pytest.raises(ValueError, match="stands at other values of 'time'"):
            seen(other)


def test_axes_are_put_in_order_by_their_names():
    spec = {"y": Observable((2, 2), dims=("sensor", "time"))}
    value = xarray.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("time", "sensor"))
    assert seen(value, spec) == [[1.0, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize("name", ["time", "MJD", None])
def test_an_index_of_pandas_is_the_first_axis(name):
    pandas = pytest.importorskip("pandas", reason="pandas comes with the extra for exports")
    places = TIMES + 0.5
    spec = {"y": Observable((4,), "km", dims=("time",), coords={"time": places})}
    value = pandas.Series(VALUES, index=pandas.Index(places, name=name))
    assert seen(value, spec) == VALUES.tolist()
    with pytest.raises(ValueError, match="stands at other values of 'time'"):
        seen(value[::-1], spec)
    elsewhere = pandas.Series(VALUES, index=pandas.Index(places + 1, name=name))
    if name == "time":
        with pytest.raises(ValueError, match="stands at other values of 'time'"):
            seen(elsewhere, spec)
    else:
        assert seen(elsewhere, spec) == VALUES.tolist(), "rows that were selected keep their numbers"
    sorted_by_hand = pandas.Series(VALUES, index=[3, 1, 0, 2])
    assert seen(sorted_by_hand) == VALUES.tolist(), "numbers of rows are no coordinates"


def test_other_indices_are_no_coordinates():
    """A coordinate of xarray that is called "index", and an index of texts and numbers."""
    pandas = pytest.importorskip("pandas", reason="pandas comes with the extra for exports")
    value = xarray.DataArray(VALUES, dims=("time",), coords={"time": TIMES, "index": 3})
    assert seen(value) == VALUES.tolist()
    spec = {"y": Observable((3,), "km", dims=("site",), coords={"site": ("a", "b", "c")})}
    assert seen(pandas.Series([1.0, 2.0, 3.0], index=["a", None, "c"]), spec) == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="stands at other values of 'site'"):
        seen(pandas.Series([1.0, 2.0, 3.0], index=["c", "b", "a"]), spec)
