"""Observations in arrays and in files: their units, their shapes, and rows that are no numbers."""

from __future__ import annotations

from contextlib import ExitStack

import h5py
import numpy as np
import pytest
import torch
from astropy import units
from astropy.table import QTable

from sciinf import Observable
from sciinf.interfaces.surveys.rows import REFUSED, OfArrays, observations_of


@pytest.fixture(scope="module")
def data(ball):
    return ball.store.load().x["x"][:6].numpy()


def written(kind, data, path):
    """Data in metres, written in centimetres where the kind of file has units."""
    file = path / f"data.{kind}"
    if kind == "npz":
        np.savez(file, x=data)
    elif kind == "npy":
        np.save(file, data)
    elif kind == "h5":
        with h5py.File(file, "w") as opened:
            opened["x"] = 100 * data
            opened["x"].attrs["unit"] = "cm"
    elif kind == "fits":
        QTable({"x": 100 * data * units.cm}).write(file)
    else:
        header = ",".join(f"x_{k} [cm]" for k in range(5))
        np.savetxt(file, 100 * data, "%.9g", ",", header=header, comments="")
    return file


@pytest.mark.parametrize("kind", ["npz", "npy", "h5", "fits", "csv"])
def test_files_with_a_row_for_each_observation(ball, data, tmp_path, kind) -> None:
    rows = observations_of(written(kind, data, tmp_path), ball.posterior)
    assert rows.rows == 6
    assert not rows.known
    seen = rows.read(2, 5)
    assert np.allclose(seen.x["x"], data[2:5], rtol=1e-5)
    assert seen.status.tolist() == [0, 0, 0]
    assert seen.theta is None


def test_the_digest_is_of_the_numbers(ball, data, tmp_path) -> None:
    one = observations_of({"x": data}, ball.posterior).digest
    other = data.copy()
    other[3, 2] += 1e-3
    assert observations_of({"x": torch.from_numpy(data)}, ball.posterior).digest == one
    assert observations_of({"x": other}, ball.posterior).digest != one
    assert observations_of({"x": data * units.m}, ball.posterior).digest != one  # said to be metres, not taken for them


def test_rows_that_are_no_numbers_keep_their_place(ball, data) -> None:
    data = data.copy()
    data[1, 0], data[4, 3] = np.nan, np.inf
    seen = observations_of({"x": data}, ball.posterior).read(0, 6)
    assert seen.status.tolist() == [0, 1, 0, 0, 1, 0]
    assert np.allclose(seen.x["x"][[0, 2, 3, 5]], data[[0, 2, 3, 5]])


def test_rows_that_the_observables_do_not_take_keep_their_place(ball, data) -> None:
    data = data.astype(float)
    data[1, 0], data[2, 2], data[4, 3] = np.nan, 1e300, -1e300
    seen = observations_of({"x": data}, ball.posterior).read(0, 6)
    assert seen.status.tolist() == [0, 1, REFUSED, 0, REFUSED, 0]
    assert set(seen.messages) == {2, 4}
    assert seen.messages[2].startswith("no answer: observable 'x'")
    assert np.allclose(seen.x["x"][[0, 3, 5]], data[[0, 3, 5]])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((0, 5))}, "holds no row"),
        (
            {"x": np.zeros(5)},
            r"'x' has shape \(5,\), expected \(rows, 5\), one row for each observation: bring it",
        ),
        ({"x": np.zeros((5, 9))}, r"'x' has shape \(5, 9\), expected \(rows, 5\).*its transpose has this shape"),
        ({"x": np.zeros((3, 5)), "more": np.zeros(3)}, r"has \['more', 'x'\].*leave out others"),
        ({"x": np.zeros((3, 5)) * units.s}, "^the observations: observable 'x' is in 's'.*correct the unit"),
    ],
)
def test_arrays_that_do_not_fit(ball, arrays, words) -> None:
    with pytest.raises(ValueError, match=words):
        observations_of(arrays, ball.posterior)


def test_units_that_do_not_convert(ball, data, tmp_path) -> None:
    QTable({"x": data * units.s}).write(tmp_path / "data.fits")
    with pytest.raises(ValueError, match="does not convert to the simulator's 'm'"):
        observations_of(tmp_path / "data.fits", ball.posterior)


def test_hdf5_is_closed_by_the_stack(ball, data, tmp_path) -> None:
    file = written("h5", data, tmp_path)
    with ExitStack() as stack:
        rows = observations_of(file, ball.posterior, stack)
        assert rows.read(0, 2).status.tolist() == [0, 0]
    with h5py.File(file, "r+") as opened:  # which HDF5 refuses while it is open for reading
        del opened["x"]


def test_columns_of_hdf5(ball, data, tmp_path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as opened:
        for k in range(5):
            opened[f"x_{k}"] = 100 * data[:, k]
            opened[f"x_{k}"].attrs["unit"] = "cm"
        opened.create_group("x")
    rows = observations_of(tmp_path / "data.h5", ball.posterior)
    assert np.allclose(rows.read(1, 4).x["x"], data[1:4], rtol=1e-5)


def test_a_file_with_too_few_columns(ball, data, tmp_path) -> None:
    file = tmp_path / "data.csv"
    np.savetxt(file, data[:, :3], "%.9g", ",", header="x_0,x_1,x_2", comments="")
    said = r"no 'x' with one row for each observation; it has x_0, x_1, x_2.*of shape \(rows, 5\), or columns x_0 to"
    with pytest.raises(ValueError, match=said):
        observations_of(file, ball.posterior)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (["cm", "m", "m", "m", "m"], "have different units, x_0 cm and x_1 m; expected is one unit for all"),
        (["", "m", "m", "m", "m"], "have different units, x_0 none and x_1 m"),
        (["parsnip"] * 5, "data.csv: 'x' is in 'parsnip', which is no unit that astropy knows; write it as"),
        (["s"] * 5, "data.csv: observable 'x' is in 's', which does not convert to the simulator's 'm'"),
    ],
)
def test_units_of_columns_that_do_not_fit(ball, data, tmp_path, named, words) -> None:
    head = ",".join(f"x_{k} [{unit}]" if unit else f"x_{k}" for k, unit in enumerate(named))
    np.savetxt(tmp_path / "data.csv", data, "%.9g", ",", header=head, comments="")
    with pytest.raises(ValueError, match=words):
        observations_of(tmp_path / "data.csv", ball.posterior)


def test_text_with_a_unit_is_called_no_number(ball, tmp_path) -> None:
    head, row = ",".join(f"x_{k} [m]" for k in range(5)), ",".join(["low"] * 5)
    (tmp_path / "data.csv").write_text(f"{head}\n{row}\n{row}\n")
    with pytest.raises(ValueError, match="number") as found:
        observations_of(tmp_path / "data.csv", ball.posterior)
    assert "no unit that astropy knows" not in str(found.value)


def test_columns_of_different_lengths(ball, tmp_path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as opened:
        for k in range(5):
            opened[f"x_{k}"] = np.zeros(6 + (k == 3))
    with pytest.raises(ValueError, match=r"different shapes, x_0 \(6,\) and x_3 \(7,\); expected is one shape"):
        observations_of(tmp_path / "data.h5", ball.posterior)


def test_observables_of_different_numbers_of_rows() -> None:
    both = {"x": Observable((5,), "m"), "y": Observable((), "s")}
    with pytest.raises(ValueError, match=r"different numbers of rows \('x' 3, 'y' 4\).*leave out rows"):
        OfArrays("the data", {"x": np.zeros((3, 5)), "y": np.zeros(4)}, both)
    with pytest.raises(ValueError, match=r"'y' has shape \(3, 1\), expected \(rows,\), one row"):
        OfArrays("the data", {"x": np.zeros((3, 5)), "y": np.zeros((3, 1))}, both)


def test_rows_of_a_store_reach_over_its_blocks(ball) -> None:
    rows = observations_of(ball.store, ball.posterior)
    theta = torch.cat([ball.store.read(k)[0] for k in range(5)])
    seen = rows.read(60, 150)
    assert seen.theta is not None
    assert torch.equal(seen.theta, theta[60:150])
    assert seen.status.nonzero().flatten().tolist() == [13, 15, 83, 85]
