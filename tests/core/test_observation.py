"""Real data from every kind of file, units converted, everything wrong with them refused."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from astropy import units
from astropy.io import fits
from astropy.table import QTable, Table

from sciinf.core import Observable, as_observation, read_observation

V = np.array([1.0, 2.5, 4.0])
VOLTAGE = {"v": Observable((3,), "mV", ("time",))}
BOTH = {"v": Observable((3,), "mV"), "n": Observable((3, 2), dtype="int64")}
COUNTS = np.arange(6).reshape(3, 2)


def write(folder, suffix: str, unit: str = "V"):
    """The same three voltages, 1 mV, 2.5 mV, 4 mV, in `unit`, as a file of each kind."""
    path = folder / f"cell{suffix}"
    values = (V * units.mV).to_value(unit)
    if suffix == ".csv":
        path.write_text(f"v [{unit}],note\n" + "".join(f"{v},x\n" for v in values))
    elif suffix == ".ecsv":
        QTable({"v": values * units.Unit(unit)}).write(path, format="ascii.ecsv")
    elif suffix in (".h5", ".hdf5"):
        with h5py.File(path, "w") as file:
            file["v"] = values
            file["v"].attrs["unit"] = unit
    elif suffix == ".fits":
        QTable({"v": values * units.Unit(unit)}).write(path, format="fits")
    elif suffix == ".json":
        path.write_text(json.dumps({"v": {"value": list(values), "unit": unit}, "comment": "cell 7"}))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".ecsv", ".h5", ".hdf5", ".fits", ".json"])
@pytest.mark.parametrize("unit", ["mV", "V", "uV"])
def test_units_are_converted_from_every_kind_of_file(tmp_path, suffix, unit):
    x = read_observation(VOLTAGE, write(tmp_path, suffix, unit))
    assert list(x) == ["v"]
    assert x["v"].dtype == torch.float32
    np.testing.assert_allclose(x["v"], V, rtol=1e-6)


def test_a_unit_ignored_would_be_seen(tmp_path):
    """The planted fault: volts taken for millivolts."""
    x = read_observation({"v": Observable((3,), "V")}, write(tmp_path, ".csv", "mV"))
    assert not np.allclose(x["v"], V)


@pytest.mark.parametrize("suffix", [".csv", ".ecsv", ".h5", ".fits", ".json"])
def test_an_inconvertible_unit_is_refused(tmp_path, suffix):
    with pytest.raises(ValueError, match="does not convert to the simulator's 'kg'"):
        read_observation({"v": Observable((3,), "kg")}, write(tmp_path, suffix, "V"))


def test_an_unknown_unit_is_refused(tmp_path):
    path = tmp_path / "cell.json"
    path.write_text(json.dumps({"v": {"value": list(V), "unit": "florps"}}))
    with pytest.raises(ValueError, match="'florps', which does not convert"):
        read_observation(VOLTAGE, path)


def test_values_without_a_unit_are_in_the_simulators(tmp_path):
    np.savez(tmp_path / "cell.npz", v=V)
    (tmp_path / "cell.csv").write_text("v\n1.0\n2.5\n4.0\n")
    for name in ("cell.npz", "cell.csv"):
        np.testing.assert_allclose(read_observation(VOLTAGE, tmp_path / name)["v"], V)


def test_fixed_length_unit_strings_of_other_programs_are_read(tmp_path):
    with h5py.File(tmp_path / "cell.h5", "w") as file:
        file["v"] = V / 1000
        file["v"].attrs["unit"] = np.bytes_("V")
    np.testing.assert_allclose(read_observation(VOLTAGE, tmp_path / "cell.h5")["v"], V, rtol=1e-6)


def test_several_files_make_one_observation(tmp_path):
    np.savez(tmp_path / "n.npz", n=COUNTS)
    x = read_observation(BOTH, write(tmp_path, ".ecsv"), tmp_path / "n.npz")
    np.testing.assert_array_equal(x["n"], COUNTS)
    assert x["n"].dtype == torch.int64
    np.savez(tmp_path / "again.npz", n=COUNTS, v=V)
    with pytest.raises(ValueError, match=r"again\.npz holds \['n'\], which an earlier file holds too"):
        read_observation(BOTH, tmp_path / "n.npz", tmp_path / "again.npz")


def test_columns_are_put_side_by_side(tmp_path):
    spec = {"counts": Observable((3, 2), "", ("time", "species"))}
    for header in ("counts_hare,counts_lynx", "counts_0,counts_1", "counts[0],counts[1]", "counts.a,counts.b"):
        (tmp_path / "pelts.csv").write_text(f"year,{header}\n" + "".join(f"{i},{i},{10 * i}\n" for i in range(3)))
        np.testing.assert_array_equal(
            read_observation(spec, tmp_path / "pelts.csv")["counts"], [[0, 0], [1, 10], [2, 20]]
        )
    (tmp_path / "scalars.json").write_text(json.dumps({"s_mean": 1.5, "s_sd": 0.5}))
    np.testing.assert_array_equal(read_observation({"s": Observable((2,))}, tmp_path / "scalars.json")["s"], [1.5, 0.5])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("suffix", [".h5", ".csv", ".npz", ".ecsv"])
def test_numbered_columns_are_put_in_the_order_of_their_numbers(tmp_path, suffix, first):
    """HDF5 lists x_10 before x_2, and other files list what they were given; neither is the order meant."""
    path = tmp_path / f"cell{suffix}"
    columns = {f"x_{i + first}": np.array([float(i)]) for i in [3, 0, 11, *range(4, 11), 2, 1]}
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            for key, value in columns.items():
                file[key] = value
    elif suffix == ".npz":
        np.savez(path, **columns)  # pyright: ignore[reportArgumentType]
    else:
        Table(columns).write(path, format=f"ascii.{suffix.removeprefix('.')}")
    np.testing.assert_array_equal(read_observation({"x": Observable((12,))}, path)["x"], np.arange(12.0))
    row = ",".join(str(value.item()) for value in columns.values())
    (tmp_path / "wide.csv").write_text("\n".join([",".join(columns), *[row] * 5]))
    wide = read_observation({"x": Observable((5, 12))}, tmp_path / "wide.csv")["x"]
    np.testing.assert_array_equal(wide, np.tile(np.arange(12.0), (5, 1)))


@pytest.mark.parametrize("header", ["x_0,x_2", "x_2,x_3", "x_0,x_1,x_2", "x_1,x[1]", "x_0", "x_01,x_1"])
def test_numbers_with_gaps_are_refused(tmp_path, header):
    (tmp_path / "cell.csv").write_text(f"{header}\n{','.join('7' for _ in header.split(','))}\n")
    with pytest.raises(ValueError, match=r"needs the columns x_0 \.\.\. x_1 \(or x_1 \.\.\. x_2\), the file has"):
        read_observation({"x": Observable((2,))}, tmp_path / "cell.csv")


def test_columns_beside_the_numbered_ones_do_no_harm(tmp_path):
    spec = {"x": Observable((2,)), "x_mask": Observable((2,), dtype="bool")}
    (tmp_path / "cell.csv").write_text("x_1,x_0,x_mask_1,x_mask_0,x_error\n1,0,True,False,9\n")
    x = read_observation(spec, tmp_path / "cell.csv")
    assert (x["x"].tolist(), x["x_mask"].tolist()) == ([0.0, 1.0], [False, True])


def test_images_and_numbers(tmp_path):
    image = np.arange(12.0).reshape(3, 4)
    hdu = fits.ImageHDU(image.astype(">f4"), name="SKY")
    hdu.header["BUNIT"] = "V"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "sky.fits")
    x = read_observation({"sky": Observable((3, 4), "mV")}, tmp_path / "sky.fits")
    np.testing.assert_allclose(x["sky"], 1000 * image, rtol=1e-6)
    (tmp_path / "one.csv").write_text("total\n3.5\n")
    assert read_observation({"total": Observable(())}, tmp_path / "one.csv")["total"].item() == 3.5


@pytest.mark.parametrize("scaling", [{}, {"bzero": 32768}, {"bscale": 0.5, "bzero": 1.0}])
def test_the_fits_code_for_a_missing_number_is_no_number(tmp_path, scaling):
    for name, stored in (("gap", [1, -99, 4]), ("full", [1, 3, 4])):
        column = fits.Column("n", "I", array=np.array(stored, dtype=np.int16), null=-99)
        hdu = fits.BinTableHDU.from_columns([column])
        for key, value in scaling.items():  # stored values stay as they are
            hdu.header[{"bzero": "TZERO1", "bscale": "TSCAL1"}[key]] = value
        hdu.writeto(tmp_path / f"{name}.fits")
    spec = {"n": Observable((3,), dtype="float32")}
    with pytest.raises(ValueError, match="'n' has 1 values that are NaN.*'n_mask'"):
        read_observation(spec, tmp_path / "gap.fits")
    expected = np.array([1.0, 3.0, 4.0]) * scaling.get("bscale", 1) + scaling.get("bzero", 0)
    np.testing.assert_allclose(read_observation(spec, tmp_path / "full.fits")["n"], expected)


def test_the_same_code_in_a_fits_table_of_text(tmp_path):
    column = fits.Column("n", "I5", array=np.array([1, 7777, 3]), null="---")
    fits.TableHDU.from_columns([column]).writeto(tmp_path / "text.fits")
    assert read_observation({"n": Observable((3,), dtype="int64")}, tmp_path / "text.fits")["n"].tolist() == [
        1,
        7777,
        3,
    ]
    content = (tmp_path / "text.fits").read_bytes()
    assert content.count(b" 7777") == 1
    (tmp_path / "text.fits").write_bytes(content.replace(b" 7777", b"  ---"))
    with pytest.raises(ValueError, match="'n' has 1 values that are NaN"):
        read_observation({"n": Observable((3,), dtype="int64")}, tmp_path / "text.fits")


@pytest.mark.parametrize("word", ["NA", "NaN", "null", "-", "", "n/a"])
def test_a_missing_value_in_a_table_is_told_with_its_line_and_column(tmp_path, word):
    """It was told as values of kind <U3."""
    (tmp_path / "cell.csv").write_text(f"t [h],v [mV]\n0,1.0\n\n1,{word}\n2,{word}\n")
    way_out = "mask observable 'v_mask' that marks missing values"
    with pytest.raises(ValueError, match=rf"cell\.csv: 'v' has 2 values .* first in line 4 \('{word}'\).*{way_out}"):
        read_observation(VOLTAGE, tmp_path / "cell.csv")
    (tmp_path / "cell.csv").write_text(f"v_0,v_1,v_2\n1,2,{word}\n")
    with pytest.raises(ValueError, match=r"'v_2' has 1 values .* in line 2 .*'v_mask'"):
        read_observation(VOLTAGE, tmp_path / "cell.csv")


def test_a_missing_value_in_a_table_with_a_head_is_told_too(tmp_path):
    Table({"t": [1, 2], "v": np.ma.array([1.0, 2.0], mask=[False, True])}).write(tmp_path / "cell.ecsv")
    line = (tmp_path / "cell.ecsv").read_text().count("\n")
    with pytest.raises(ValueError, match=rf"'v' has 1 values .* first in line {line} \(''\)"):
        read_observation({"v": Observable((2,))}, tmp_path / "cell.ecsv")


def test_text_beside_the_data_does_no_harm(tmp_path):
    (tmp_path / "cell.csv").write_text("v,remark\n1.0,fine\n2.5,\n4.0,odd\n")
    np.testing.assert_allclose(read_observation(VOLTAGE, tmp_path / "cell.csv")["v"], V)


def test_whole_numbers_and_masks_keep_their_kind(tmp_path):
    spec = {"n": Observable((3,), dtype="int64"), "n_mask": Observable((3,), dtype="bool")}
    (tmp_path / "n.csv").write_text("n,n_mask\n16777217,True\n2,False\n3,True\n")
    x = read_observation(spec, tmp_path / "n.csv")
    assert x["n"].tolist() == [16777217, 2, 3]
    assert x["n_mask"].tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("v\n1.0\n\n4.0\n", r"shape \(2,\), the simulator produces \(3,\)"),
        ("v,w\n1.0,1\n,1\n4.0,1\n", "1 values that are NaN or infinite.*'v_mask'"),
        ("v\n1.0\nnan\ninf\n", "2 values that are NaN"),
        ("v\n1.0\n2.5\n4.0\n5.0\n", r"shape \(4,\), the simulator produces \(3,\)"),
        ("w\n1.0\n2.5\n4.0\n", r"no column 'v' in .*cell\.csv: found \['w'\]"),
        ("v\n1.0\nhello\n4.0\n", r"cell\.csv, line 3: 'v' is 'hello'; expected numbers$"),
        ("v\n1.0\n<0.5\n4.0\n", r"line 3: 'v' is '<0\.5'; expected numbers\. For a value beyond a limit .* write the"),
        ("", "cell.csv is empty"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, content, words):
    (tmp_path / "cell.csv").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_observation(VOLTAGE, tmp_path / "cell.csv")


@pytest.mark.parametrize("suffix", [".ecsv", ".npz", ".h5", ".fits", ".json", ".csv"])
def test_files_that_are_not_what_they_say_are_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"cell{suffix}"
    path.write_bytes(b"\x00\xff\xfe not a file of any kind\n")
    with pytest.raises(ValueError, match="cell"):
        read_observation(VOLTAGE, path)


def test_missing_and_unknown_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no observation file"):
        read_observation(VOLTAGE, tmp_path / "none.csv")
    (tmp_path / "cell.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected one of \.csv, \.ecsv, \.fits, \.h5, \.hdf5, \.json, \.nc, \.npy, "):
        read_observation(VOLTAGE, tmp_path / "cell.xlsx")
    with pytest.raises(ValueError, match="no observation files"):
        read_observation(VOLTAGE)


def test_pickled_arrays_are_not_opened(tmp_path):
    np.savez(tmp_path / "cell.npz", v=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="plain arrays"):
        read_observation(VOLTAGE, tmp_path / "cell.npz")


def test_json_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "cell.json").write_text("[1, 2, 3]")
    with pytest.raises(ValueError, match="object of named arrays"):
        read_observation(VOLTAGE, tmp_path / "cell.json")


# --- arrays ---------------------------------------------------------------------------------------------------


def test_arrays_of_every_kind_become_one_observation():
    for value in (V, list(V), torch.tensor(V), V[None], V * units.mV, (V * units.mV).to("V"), Table({"v": V})["v"]):
        x = as_observation(VOLTAGE, {"v": value})
        assert x["v"].shape == (1, 3)
        torch.testing.assert_close(x["v"], torch.tensor(V, dtype=torch.float32)[None])
    assert as_observation(VOLTAGE, V)["v"].shape == (1, 3), "a bare array is accepted where there is one observable"


def test_batches_keep_their_length():
    x = as_observation(BOTH, {"v": np.zeros((5, 3)), "n": np.zeros((5, 3, 2))}, batched=True)
    assert (x["v"].shape, x["n"].shape) == ((5, 3), (5, 3, 2))
    with pytest.raises(ValueError, match="different batch sizes"):
        as_observation(BOTH, {"v": np.zeros((5, 3)), "n": np.zeros((4, 3, 2))}, batched=True)
    with pytest.raises(ValueError, match=r"produces \('batch', 3\)"):
        as_observation(VOLTAGE, V, batched=True)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (None, "no observation was given: pass x="),
        ({}, r"missing: \['n', 'v'\]"),
        ({"v": V}, r"missing: \['n'\]"),
        ({"v": V, "n": COUNTS, "w": V}, r"unknown: \['w'\]"),
        ({"v": V[:2], "n": COUNTS}, r"'v' has shape \(2,\), the simulator produces \(3,\)"),
        ({"v": np.zeros((2, 3)), "n": COUNTS}, r"'v' has shape \(2, 3\)"),
        ({"v": np.float64(1.0), "n": COUNTS}, r"'v' has shape \(\)"),
        ({"v": [1.0, np.nan, 2.0], "n": COUNTS}, "'v' has 1 values that are NaN"),
        ({"v": np.array(["a", "b", "c"]), "n": COUNTS}, "expected numbers"),
        ({"v": V + 1j, "n": COUNTS}, "expected numbers"),
        ({"v": V * 1e300, "n": COUNTS}, "1e.300 that its dtype float32 cannot hold"),
        ({"v": V, "n": COUNTS + 0.5}, "0.5 that its dtype int64 cannot hold"),
        ({"v": V * units.kg, "n": COUNTS}, "does not convert"),
        ({"v": V * units.dimensionless_unscaled, "n": COUNTS}, "is in 'no unit', which does not convert"),
    ],
)
def test_wrong_arrays_are_refused(x, words):
    with pytest.raises(ValueError, match=words):
        as_observation(BOTH, x)
