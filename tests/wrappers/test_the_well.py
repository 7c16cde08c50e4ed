"""The Well's files: written in its format with axes of different lengths and numbers that all differ, and read back.

Nothing here is a statistical test, but for the warning about parameters: its false-alarm rate is 1e-6, its seed fixed.
"""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import h5py
import numpy as np
import pytest
from torch.distributions import Uniform

from sciinf import Unknown, wrappers
from sciinf.campaigns import stored_fields
from sciinf.core import Prior, Status

PRIOR = Prior(alpha=Uniform(0.0, 10.0))
ROWS, STEPS, SPACE = 7, 4, (5, 6)
FIELDS = {  # name -> order, own for each trajectory, changing in time, changing along x and y
    "pressure": (0, True, True, (True, True)),
    "height": (0, True, True, (True, False)),
    "velocity": (1, True, True, (True, True)),
    "drift": (1, False, True, (True, True)),
    "stress": (2, True, True, (True, True)),
    "density": (0, True, False, (True, True)),
    "mask": (0, False, False, (False, True)),
    "wind": (1, True, False, (True, True)),
}
CHANNELS = ["pressure", "height", "velocity_x", "velocity_y", "drift_x", "drift_y"]
CHANNELS += ["stress_xx", "stress_xy", "stress_yx", "stress_yy"]


def array(name, rows, offset):
    """Numbers that all differ, also between fields, and that single precision holds."""
    order, own, timed, varies = FIELDS[name]
    space = [n for n, flag in zip(SPACE, varies, strict=True) if flag]
    shape = (*([rows] if own else []), *([STEPS] if timed else []), *space, *[2] * order)
    start = offset + 20_000 * list(FIELDS).index(name)
    return (start + np.arange(np.prod(shape))).reshape(shape).astype("f4")


def flags(dataset, **values):
    for key, value in values.items():
        dataset.attrs[key] = value


def write(path, rows=ROWS, offset=0.0, alpha=None, times=None):
    """A file as its specification says; alpha is a number for all trajectories, or one for each."""
    alpha = np.linspace(1.0, 8.0, rows) if alpha is None else np.asarray(alpha)
    with h5py.File(path, "w") as file:
        flags(file, dataset_name="example", grid_type="cartesian", n_spatial_dims=2, n_trajectories=rows)
        flags(file, simulation_parameters=["alpha", "gamma"], alpha=-1.0, gamma=2.5)
        dims = file.create_group("dimensions")
        dims.attrs["spatial_dims"] = ["x", "y"]
        times = np.linspace(0.0, 3.0, STEPS, dtype="f4") if times is None else times
        dims["time"] = times
        flags(dims["time"], sample_varying=times.ndim == 2)
        for axis, size in zip("xy", SPACE, strict=True):
            dims[axis] = np.linspace(0.0, 1.0, size, dtype="f4")
            flags(dims[axis], sample_varying=False, time_varying=False)
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = ["alpha", "heat"]
        scalars["alpha"] = alpha.astype("f4") if alpha.ndim else np.array([alpha], dtype="f4")
        flags(scalars["alpha"], sample_varying=bool(alpha.ndim), time_varying=False)
        scalars["heat"] = np.zeros(STEPS, dtype="f4")
        flags(scalars["heat"], sample_varying=False, time_varying=True)
        for order in range(3):
            group = file.create_group(f"t{order}_fields")
            names = [name for name in FIELDS if FIELDS[name][0] == order]
            group.attrs["field_names"] = names
            for name in names:
                _, own, timed, varies = FIELDS[name]
                group[name] = array(name, rows, offset)
                flags(group[name], sample_varying=own, time_varying=timed, dim_varying=list(varies))
        edge = file.create_group("boundary_conditions").create_group("x_periodic")
        flags(edge, associated_dims=["x"], associated_fields=[], bc_type="PERIODIC")
        flags(edge, sample_varying=False, time_varying=False)
        edge["mask"] = np.zeros(SPACE[0], dtype=bool)
    return path


def changed(path, change):
    with h5py.File(path, "a") as file:
        change(file)
    return path


def values(name, rows=ROWS, offset=0.0):
    """(rows, [time,] x, y, components), as an index at a time says it."""
    order, own, timed, varies = FIELDS[name]
    stored = array(name, rows, offset)
    found = np.empty((rows, STEPS if timed else 1, *SPACE, 2**order), dtype="f4")
    for b, t, x, y in np.ndindex(*found.shape[:4]):
        index = (
            *([b] if own else []),
            *([t] if timed else []),
            *([x] if varies[0] else []),
            *([y] if varies[1] else []),
        )
        found[b, t, x, y] = stored[index].reshape(-1)
    return found


def read(*paths, out, prior: Any = PRIOR, **options: Any):
    return wrappers.the_well(*paths, prior=prior, out=out, **options)


def assert_holds(store, rows=ROWS, offset=0.0):
    x = {name: value.numpy() for name, value in store.load().x.items()}
    at = 0
    for name, (order, _, timed, _) in FIELDS.items():
        wanted = values(name, rows, offset)
        for b, t, i, j, c in np.ndindex(*wanted.shape):
            found = x["u"][b, t, at + c, i, j] if timed else x[name][b, c, i, j]
            assert found == wanted[b, t, i, j, c]
        at += 2**order if timed else 0
    assert x["u"].shape[2] == at
    assert (x["initial"] == x["u"][:, 0]).all()


def test_every_number_comes_to_its_place(tmp_path):
    store = read(write(tmp_path / "a.hdf5"), out=tmp_path / "store")
    assert set(store.observables) == {"u", "initial", "density", "mask", "wind"}
    assert store.observables["u"].shape == (STEPS, len(CHANNELS), *SPACE)
    assert store.observables["u"].dims == ("time", "channel", "x", "y")
    assert store.observables["wind"].dims == ("channel", "x", "y")
    np.testing.assert_allclose(store.load().theta[:, 0], np.linspace(1.0, 8.0, ROWS), rtol=1e-6)
    assert_holds(store)
    facts = json.loads((tmp_path / "store" / "fields.json").read_text())
    assert facts["channels"] == CHANNELS
    assert facts["constant"] == {"density": ["density"], "mask": ["mask"], "wind": ["wind_x", "wind_y"]}
    assert facts["times"] == [0.0, 1.0, 2.0, 3.0]
    assert len(facts["coordinates"]["y"]) == SPACE[1]


def test_a_transposed_file_is_noticed(tmp_path):
    path = changed(write(tmp_path / "a.hdf5"), swap_components)
    with pytest.raises(AssertionError):
        assert_holds(read(path, out=tmp_path / "store"))


def swap_components(file):
    file["t2_fields"]["stress"][...] = np.swapaxes(file["t2_fields"]["stress"][...], -1, -2)


def test_tensors_may_be_flattened(tmp_path):
    def flatten(file):
        group = file["t2_fields"]
        kept, stored = dict(group["stress"].attrs), group["stress"][...]
        del group["stress"]
        group["stress"] = stored.reshape(*stored.shape[:-2], 4)
        flags(group["stress"], **kept)

    assert_holds(read(changed(write(tmp_path / "a.hdf5"), flatten), out=tmp_path / "store"))


def test_some_fields_and_frames(tmp_path):
    path = write(tmp_path / "a.hdf5")
    store = read(path, out=tmp_path / "store", fields=("velocity", "density"), frames=slice(1, None, 2))
    batch, wanted = store.load(), np.moveaxis(values("velocity"), -1, 2)[:, [1, 3]]
    assert set(batch.x) == {"u", "initial", "density"}
    assert (batch.x["u"].numpy() == wanted).all()
    assert (batch.x["initial"].numpy() == wanted[:, 0]).all()
    last = read(path, out=tmp_path / "last", fields=["pressure"], frames=slice(-1, None))
    assert set(last.observables) == {"u"}
    assert (last.load().x["u"].numpy() == np.moveaxis(values("pressure"), -1, 2)[:, 3:]).all()
    for options, message in (
        ({"fields": ["pressur"]}, "has no field 'pressur' .did you mean 'pressure'"),
        ({"fields": ["density"]}, r"no field that changes in time among \['density'\]"),
        ({"frames": slice(4, None)}, "leaves none of a.hdf5's 4 frames"),
        ({"frames": slice(None, None, -1)}, "runs backwards"),
    ):
        with pytest.raises(ValueError, match=message):
            read(path, out=tmp_path / "none", **options)
    with pytest.raises(ValueError, match="something else than these fields"):  # the same shapes of another field
        read(path, out=tmp_path / "last", fields=["height"], frames=slice(-1, None))


def test_files_of_a_folder_are_taken_in_turn(tmp_path, monkeypatch):
    (tmp_path / "train").mkdir()
    counts, offsets = (5, 2, 3), (0.0, 300_000.0, 600_000.0)
    for k in range(3):
        write(tmp_path / "train" / f"{k}.hdf5", counts[k], offsets[k], alpha=k + 1.0)
    kept: dict[str, Any] = {"fields": ["pressure", "density", "mask"]}
    store = read(tmp_path / "train", out=tmp_path / "whole", **kept)
    batch = store.load()
    alpha = batch.theta[:, 0].numpy()
    for k in range(3):
        mine = batch.x["u"].numpy()[alpha == k + 1]
        assert (mine == np.moveaxis(values("pressure", counts[k], offsets[k]), -1, 2)).all()
        assert (batch.x["mask"].numpy()[alpha == k + 1] == values("mask", 1, offsets[k])[:, 0, ..., 0][:, None]).all()
    assert {*alpha[:5]} == {*alpha[5:]} == {1.0, 2.0, 3.0}
    monkeypatch.setattr(stored_fields, "BLOCK_BYTES", 1)  # a block a row
    rows = read(tmp_path / "train", out=tmp_path / "rows", **kept)
    assert rows.blocks == 10
    assert (rows.load().x["u"] == batch.x["u"]).all()
    few = read(tmp_path / "train", out=tmp_path / "rows", rows=6, **kept)
    assert few.digest == rows.digest
    assert (read(tmp_path / "train", out=tmp_path / "few", rows=6, **kept).load().x["u"] == batch.x["u"][:6]).all()
    with pytest.raises(ValueError, match="rows=11 asked for, the files hold 10"):
        read(tmp_path / "train", out=tmp_path / "more", rows=11)


def test_the_same_files_give_the_same_store_and_lost_blocks_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_fields, "BLOCK_BYTES", 20_000)
    path = write(tmp_path / "a.hdf5")
    first = read(path, out=tmp_path / "store")
    assert first.blocks > 2
    first.file(1).unlink()
    assert read(path, out=tmp_path / "store").digest == first.digest
    with pytest.raises(ValueError, match="something else"):
        read(write(tmp_path / "b.hdf5", offset=1.0), out=tmp_path / "store")


def test_trajectories_with_numbers_missing_are_failures(tmp_path):
    def spoil(file):
        file["t1_fields"]["velocity"][2, 3, 4, 5, 1] = np.nan
        file["t0_fields"]["density"][4, 0, 0] = np.inf

    store = read(changed(write(tmp_path / "a.hdf5"), spoil), out=tmp_path / "store")
    assert store.counts[Status.NON_FINITE] == 2
    assert [failure.row for failure in store.failures()] == [2, 4]
    assert "'u'" in store.failures()[0].message
    assert len(store.load()) == ROWS - 2


def test_parameters(tmp_path):
    path = write(tmp_path / "a.hdf5", alpha=3.0)
    both = Prior(gamma=Uniform(0.0, 5.0), alpha=Uniform(0.0, 10.0))  # gamma is an attribute alone
    assert read(path, out=tmp_path / "both", prior=both).load().theta.tolist() == [[2.5, 3.0]] * ROWS
    for name, message in (
        ("alpa", "no scalar or simulation parameter 'alpa' .did you mean 'alpha'"),
        ("heat", "heat changes in time, so it is no parameter"),
    ):
        with pytest.raises(ValueError, match=message):
            read(path, out=tmp_path / "none", prior=Prior(**{name: Uniform(0.0, 1.0)}))
    with pytest.raises(ValueError, match=r"a.hdf5: parameter 'alpha' is 3.0 in row 0 .* support \(0, 1\)"):
        read(path, out=tmp_path / "none", prior=Prior(alpha=Uniform(0.0, 1.0)))
    assert not (tmp_path / "none").exists()


def test_parameters_that_were_not_drawn_from_the_prior_are_warned_about(tmp_path):
    path = write(tmp_path / "a.hdf5", rows=60, alpha=np.linspace(4.9, 5.1, 60))
    with pytest.warns(UserWarning, match="'alpha', 60 of them different, do not look drawn from its prior") as caught:
        read(path, out=tmp_path / "store", fields=["pressure"])
    assert caught[0].filename == __file__


def test_times_of_their_own_are_data(tmp_path):
    times = (np.arange(ROWS * STEPS, dtype="f4") ** 2).reshape(ROWS, STEPS)
    store = read(write(tmp_path / "a.hdf5", times=times), out=tmp_path / "store", frames=slice(1, None))
    assert (store.load().x["times"].numpy() == times[:, 1:]).all()
    assert json.loads((tmp_path / "store" / "fields.json").read_text())["times"] is None


def test_files_that_do_not_go_together_are_named(tmp_path):
    one, longer = write(tmp_path / "a.hdf5"), np.linspace(0.0, 4.0, STEPS, dtype="f4")
    with pytest.raises(ValueError, match="a.hdf5 and b.hdf5 do not go together, their times differ"):
        read(one, write(tmp_path / "b.hdf5", times=longer), out=tmp_path / "store")

    def without(file):
        file["t0_fields"].attrs["field_names"] = ["pressure", "density", "mask"]

    with pytest.raises(ValueError, match="their shapes differ"):
        read(one, changed(write(tmp_path / "c.hdf5"), without), out=tmp_path / "store")


def shorten(file):
    kept = dict(file["t0_fields"]["pressure"].attrs)
    del file["t0_fields"]["pressure"]
    file["t0_fields"]["pressure"] = np.zeros((ROWS, STEPS, SPACE[1], SPACE[0]))
    flags(file["t0_fields"]["pressure"], **kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.attrs.__delitem__("n_trajectories"), "a.hdf5 has no attribute 'n_trajectories'"),
        (lambda file: file.__delitem__("dimensions"), "a.hdf5 has no 'dimensions'"),
        (lambda file: file["dimensions"].__delitem__("y"), "dimensions has no 'y'.*found .'time', 'x'."),
        (lambda file: file["t1_fields"].__delitem__("velocity"), "t1_fields has no 'velocity'"),
        (lambda file: file["t1_fields"]["wind"].attrs.__delitem__("time_varying"), "wind has no attribute 'time_vary"),
        (lambda file: file["t0_fields"]["mask"].attrs.__setitem__("dim_varying", [True]), "expected one for each of"),
        (shorten, r"pressure has shape \(7, 4, 6, 5\), expected \(7, 4, 5, 6\)"),
        (lambda file: [file.__delitem__(f"t{k}_fields") for k in range(3)], "a.hdf5 has no fields"),
    ],
)
def test_what_is_missing_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read(changed(write(tmp_path / "a.hdf5"), change), out=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_paths_that_are_none_are_named(tmp_path):
    (tmp_path / "bad.h5").write_text("no HDF5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not a readable HDF5"):
        read(tmp_path / "bad.h5", out=tmp_path / "store")
    with pytest.raises(FileNotFoundError, match="no HDF5 files in the folder"):
        read(tmp_path / "empty", out=tmp_path / "store")
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.h5"):
        read(tmp_path / "none.h5", out=tmp_path / "store")
    with pytest.raises(ValueError, match="no files"):
        read(out=tmp_path / "store")


@pytest.mark.slow
def test_a_file_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    path, rows = tmp_path / "large.hdf5", 48
    with h5py.File(path, "w") as file:
        flags(file, n_trajectories=rows, n_spatial_dims=1)
        dims = file.create_group("dimensions")
        dims.attrs["spatial_dims"] = ["x"]
        dims["time"], dims["x"] = np.arange(64.0), np.arange(1024.0)
        alpha = file.create_group("scalars").create_dataset("alpha", data=np.linspace(1.0, 9.0, rows))
        flags(alpha, sample_varying=True, time_varying=False)
        field = file.create_group("t0_fields").create_dataset("u", (rows, 64, 1024), "f4", fillvalue=1.0)
        file["t0_fields"].attrs["field_names"] = ["u"]
        flags(field, sample_varying=True, time_varying=True, dim_varying=[True])
    monkeypatch.setattr(stored_fields, "BLOCK_BYTES", 2**20)  # the field is 12 MiB
    read(write(tmp_path / "small.hdf5"), out=tmp_path / "small")  # what is imported is not counted
    tracemalloc.start()
    store = read(path, out=tmp_path / "store")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (store.blocks, len(store)) == (16, rows)
    assert peak < 8 * 2**20


def test_fields_are_read_without_parameters_or_with_those_of_an_unknown_law(tmp_path):
    write(tmp_path / "a.hdf5")
    store = wrappers.the_well(tmp_path / "a.hdf5", prior=Prior.none(), out=tmp_path / "none")
    assert store.load().theta.shape == (ROWS, 0)
    store = wrappers.the_well(tmp_path / "a.hdf5", prior=Prior(alpha=Unknown()), out=tmp_path / "unknown")
    np.testing.assert_allclose(store.load().theta[:, 0], np.linspace(1.0, 8.0, ROWS), rtol=1e-6)
