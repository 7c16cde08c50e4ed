"""Arrays of other programs as observations, and columns under other names."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sciinf.core import Observable, read_observation

V = np.array([1.0, 2.5, 4.0])
IMAGE = np.arange(6.0).reshape(3, 2)
ONE = {"v": Observable((3,), "mV", ("time",))}
WIDE = {"image": Observable((3, 2))}
MASKED = {"v": Observable((3,), "mV"), "v_mask": Observable((3,), dtype="bool")}
PRESENT = np.array([True, False, True])


def save(path: Path, arrays: dict[str, np.ndarray] | np.ndarray) -> Path:
    """Arrays with names, or one without, in a file of the kind that the path's ending says."""
    tensors: Any = arrays if isinstance(arrays, np.ndarray) else {k: torch.from_numpy(a) for k, a in arrays.items()}
    if path.suffix == ".npy":
        np.save(path, arrays if isinstance(arrays, np.ndarray) else next(iter(arrays.values())))
    elif path.suffix == ".txt":
        np.savetxt(path, arrays if isinstance(arrays, np.ndarray) else np.column_stack([*arrays.values()]))
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(tensors) if isinstance(tensors, np.ndarray) else tensors, path)
    elif isinstance(arrays, dict):
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array.astype("i1") if array.dtype == bool else array
    return path


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".pt"])
def test_an_array_without_a_name_is_the_one_observable(tmp_path: Path, suffix: str) -> None:
    x = read_observation(ONE, save(tmp_path / f"cell{suffix}", V))
    assert x["v"].tolist() == V.tolist()
    assert x.read == ("v: 3 values, no unit: taken as mV",)
    wide = read_observation(WIDE, save(tmp_path / f"picture{suffix}", IMAGE))
    assert wide["image"].tolist() == IMAGE.tolist()
    with pytest.raises(ValueError, match=r"'image' has shape \(3,\), the simulator produces \(3, 2\)"):
        read_observation(WIDE, tmp_path / f"cell{suffix}")


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".pt"])
def test_where_there_are_several_a_file_is_called_like_its_observable(tmp_path: Path, suffix: str) -> None:
    mask = save(tmp_path / f"v_mask{suffix}", PRESENT.astype(int) if suffix == ".txt" else PRESENT)
    x = read_observation(MASKED, save(tmp_path / f"v{suffix}", V), mask)
    assert x["v"].tolist() == V.tolist()
    assert x["v_mask"].tolist() == PRESENT.tolist()
    with pytest.raises(ValueError, match=r"no column 'v' in .*cell.*: found \['cell', 'v_mask'\]"):
        read_observation(MASKED, save(tmp_path / f"cell{suffix}", V), mask)


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".pt", ".nc"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, suffix: str) -> None:
    holes = np.array([1.0, np.nan, 4.0])
    file = save(tmp_path / f"cell{suffix}", {"v": holes} if suffix == ".nc" else holes)
    with pytest.raises(ValueError, match="1 values that are NaN .*'v_mask' that marks missing values"):
        read_observation(ONE, file)


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_fields_may_have_any_name(tmp_path: Path) -> None:
    rows = np.array([(1.0, 0), (2.5, 1), (4.0, 2)], dtype=[("σ", "f8"), ("n", "i4")])
    x = read_observation({"σ": Observable((3,))}, save(tmp_path / "cell.npy", rows))
    assert x["σ"].tolist() == [1.0, 2.5, 4.0]


@pytest.mark.parametrize("suffix", [".pt", ".nc"])
def test_named_arrays(tmp_path: Path, suffix: str) -> None:
    x = read_observation(MASKED, save(tmp_path / f"cell{suffix}", {"v": V, "v_mask": PRESENT, "t": V}))
    assert x["v"].tolist() == V.tolist()
    assert x["v_mask"].tolist() == PRESENT.tolist()
    assert x.read[-1] == "not used: t"
    with pytest.raises(ValueError, match=r"no column 'v' in .*: found \['V', 't'\].*--column v=V"):
        read_observation(ONE, save(tmp_path / f"other{suffix}", {"V": V, "t": V}))


def test_fields_and_the_order_of_bytes_of_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.array([(0.0, 1), (1.0, 2), (2.0, 3)], dtype=[("t", ">f8"), ("v", ">i2")]))
    assert read_observation(ONE, tmp_path / "table.npy")["v"].tolist() == [1, 2, 3]
    for kind in (">f4", "f2", np.longdouble):
        np.save(tmp_path / "any.npy", V.astype(kind))
        assert read_observation(ONE, tmp_path / "any.npy")["v"].tolist() == V.tolist()
    for kind in ("u1", "u2", ">u4", "u8", "i1"):
        np.save(tmp_path / "any.npy", np.array([3, 0, 7], kind))
        assert read_observation(ONE, tmp_path / "any.npy")["v"].tolist() == [3, 0, 7]


@pytest.mark.parametrize(
    ("text", "values", "read"),
    [
        ("# t [h]  v [V]\n0 0.001\n1 0.0025\n\n2 0.004\n", [1, 2.5, 4], "v: 3 values, V -> mV"),
        ("t v\n0 1\n1 2.5\n2 4\n", [1, 2.5, 4], "v: 3 values, no unit: taken as mV"),
        ("# made by a program\nv[uV]\t t\n1e3\t0\n2e3\t1\n3e3\t2", [1, 2, 3], "v: 3 values, uV -> mV"),
        ("# a remark of four words\n1\n2\n3\n", [1, 2, 3], "v: 3 values, no unit: taken as mV"),
        ("1 2 3\n", [1, 2, 3], "v: 3 values, no unit: taken as mV"),
        ("# measured\n1\n2\n3\n# the end\n", [1, 2, 3], "v: 3 values, no unit: taken as mV"),
        ("# t v\n0 1\n1 2.5\n2 4\n# v t\n", [1, 2.5, 4], "v: 3 values, no unit: taken as mV"),
    ],
)
def test_text(tmp_path: Path, text: str, values: list[float], read: str) -> None:
    (tmp_path / "cell.txt").write_text(text)
    x = read_observation(ONE, tmp_path / "cell.txt")
    assert x["v"].tolist() == pytest.approx(values)
    assert x.read[0] == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\nblue\n", "line 3: expected numbers, got 'blue'"),
        ("1,5\n2,5\n3,5\n", "line 1: expected numbers, got '1,5'; write numbers with points"),
        ("1 2\n2 3\n3\n", "line 3: 1 values where other lines have 2"),
        ("# nothing\n", "holds no numbers"),
        ("", "is empty"),
        ("v v\n1 2\n2 3\n3 4\n", "holds 'v' more than once"),
        ("1 2\n2 3\n3 4\n", r"'v' has shape \(3, 2\).*--column v=1"),
        ("t u\n1 2\n2 3\n3 4\n", r"found \['t', 'u'\]"),
        ("# v (V)\n1\n2\n3\n", "2 names .v, .* stand above 1 columns"),
        ("v (V)\n1\n2\n3\n", "2 names .v, .* stand above 1 columns; write one for each, units in brackets"),
    ],
)
def test_wrong_text(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cell.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_observation(ONE, tmp_path / "cell.txt")


class Planted:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code of a file was run')",)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):  # the plant works
        pickle.loads(pickle.dumps(Planted()))
    torch.save({"v": Planted()}, tmp_path / "cell.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Planted()))
    np.save(tmp_path / "cell.npy", np.array([Planted()] * 3))
    for name, message in (
        ("cell.pt", "holds more than tensors, and its code is never run; save plain tensors"),
        ("old.pt", "is not what torch.save writes"),
        ("cell.npy", "holds Python objects"),
    ):
        with pytest.raises(ValueError, match=message):
            read_observation(ONE, tmp_path / name)


@pytest.mark.parametrize("version", [2, 3])
def test_a_head_of_an_array_that_claims_gigabytes_is_not_read(tmp_path: Path, version: int) -> None:
    """It would be unpacked from a few bytes of zeros."""
    with zipfile.ZipFile(tmp_path / "cell.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v.npy", b"\x93NUMPY" + bytes([version, 0]) + (2**26).to_bytes(4, "little") + b" " * 2**20)
    with pytest.raises(ValueError, match="claims to be 67,108,864 bytes long"):
        read_observation(ONE, tmp_path / "cell.npz")


def test_a_file_that_promises_more_than_it_holds(tmp_path: Path) -> None:
    torch.save({"v": torch.zeros(1).expand(10**12)}, tmp_path / "cell.pt")  # 2 kB
    with pytest.raises(ValueError, match=r"has shape \(1000000000000,\), the simulator produces \(3,\)"):
        read_observation(ONE, tmp_path / "cell.pt")
    save(tmp_path / "good.pt", V)
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "packed.pt", "w", 8) as packed:
        for info in good.infolist():
            packed.writestr(info.filename, good.read(info))
    with pytest.raises(ValueError, match="is compressed, which torch.save does not do"):
        read_observation(ONE, tmp_path / "packed.pt")
    changed = (tmp_path / "good.pt").read_bytes().replace(V.tobytes(), (V + 1).tobytes())
    (tmp_path / "changed.pt").write_bytes(changed)
    with pytest.raises(ValueError, match="is damaged: the checksum of .* is wrong"):
        read_observation(ONE, tmp_path / "changed.pt")
    (tmp_path / "half.npy").write_bytes(_image(np.zeros(3))[:-9])
    with pytest.raises(ValueError, match=r"half.npy is not a readable .npy"):
        read_observation(ONE, tmp_path / "half.npy")


def _image(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_tensors_of_every_kind(tmp_path: Path) -> None:
    for tensor in (torch.tensor(V).bfloat16(), torch.tensor(V, requires_grad=True), torch.tensor(V)[None]):
        torch.save(tensor, tmp_path / "cell.pt")
        assert read_observation(ONE, tmp_path / "cell.pt")["v"].tolist() == V.tolist()
    torch.save({"v": torch.tensor(V).to_sparse()}, tmp_path / "cell.pt")
    with pytest.raises(ValueError, match="is a torch.sparse_coo tensor, expected a plain tensor"):
        read_observation(ONE, tmp_path / "cell.pt")
    torch.save({"v": [1.0, 2.0, 3.0]}, tmp_path / "cell.pt")
    with pytest.raises(ValueError, match="'v' is a list, expected a plain tensor"):
        read_observation(ONE, tmp_path / "cell.pt")


def test_netcdf_is_unpacked_as_its_conventions_say(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "cell.nc", "w") as opened:
        file: Any = opened
        file["v"] = np.array([100, 250, 400], "i2")
        file["v"].attrs.update({"units": "V", "scale_factor": [1e-5], "_FillValue": np.array([-1], "i2")})
        file["t"] = V
        file["t"].make_scale("t")
        file["v"].dims[0].attach_scale(file["t"])
    x = read_observation(ONE, tmp_path / "cell.nc")
    assert x["v"].tolist() == pytest.approx([1, 2.5, 4])
    assert x.read[0] == "v: 3 values, V -> mV"
    with h5py.File(tmp_path / "cell.nc", "a") as opened:
        file = opened
        file["v"][1] = -1
    with pytest.raises(ValueError, match=r"cell.nc: 'v' has 1 values that are NaN .* missing; the first at \[1\]"):
        read_observation(ONE, tmp_path / "cell.nc")
    (tmp_path / "classic.nc").write_bytes(b"CDF\x01" + bytes(60))
    with pytest.raises(ValueError, match="classic format, which is not read; convert it: nccopy -k nc4"):
        read_observation(ONE, tmp_path / "classic.nc")


@pytest.mark.parametrize("name", ["cell.csv", "cell.txt", "cell.pt"])
def test_an_observable_in_a_column_of_another_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name == "cell.pt":
        save(file, {"v": V + 1, "SAP_FLUX": V})
    else:
        rows = [f"{v + 1} {v}" for v in V]
        file.write_text("\n".join(["v SAP_FLUX", *rows]).replace(" ", "," if name == "cell.csv" else " "))
    x = read_observation(ONE, file, columns={"v": "SAP_FLUX"})
    assert x["v"].tolist() == V.tolist()
    assert x.read == ("v: 3 values of SAP_FLUX, no unit: taken as mV", "not used: v")
    assert read_observation(ONE, file)["v"].tolist() == (V + 1).tolist()


def test_columns_by_number_and_side_by_side(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "cell.txt", np.c_[V + 1, V])
    assert read_observation(ONE, tmp_path / "cell.txt", columns={"v": "2"})["v"].tolist() == V.tolist()
    (tmp_path / "two.csv").write_text("pixel_0,pixel_1\n0,1\n2,3\n4,5\n")
    assert read_observation(WIDE, tmp_path / "two.csv", columns={"image": "pixel"})["image"].tolist() == IMAGE.tolist()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"w": "a"}, r"there is no observable 'w' to give a column; there is 'v' \(3,\) \[mV\], 'v_mask'"),
        ({"v": "v_mask"}, "the column 'v_mask' is to be two observables"),
        ({"v": "gone"}, "no column 'gone'"),
    ],
)
def test_wrong_names_of_columns(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    (tmp_path / "cell.csv").write_text("v,v_mask\n1,1\n2,0\n3,1\n")
    with pytest.raises(ValueError, match=message):
        read_observation(MASKED, tmp_path / "cell.csv", columns=columns)


def test_netcdf_numbers_that_are_marked_as_unsigned_are_refused(tmp_path: Path) -> None:
    """200 is kept as -56."""
    with h5py.File(tmp_path / "cell.nc", "w") as file:
        file.create_dataset("v", data=np.array([-56, 1, 2], "i1")).attrs["_Unsigned"] = "true"
    with pytest.raises(ValueError, match="'v' is marked _Unsigned, which is not read"):
        read_observation(ONE, tmp_path / "cell.nc")
