"""PDEBench's files: written in its formats, with axes of different lengths and numbers that all differ, and read back.

Nothing here is a statistical test.
"""

from __future__ import annotations

import json
import tracemalloc

import h5py
import numpy as np
import pytest
from torch.distributions import LogNormal, Uniform

from sciinf import wrappers
from sciinf.campaigns import stored_fields
from sciinf.core import Prior, Status

# a file has one value of a parameter, which does not look drawn from its prior
pytestmark = pytest.mark.filterwarnings("ignore:.*do not look drawn from its prior:UserWarning")

NU = Prior(Nu=LogNormal(-3.0, 2.0))
ROWS, STEPS, X, Y, Z = 6, 5, 7, 3, 4


def unlike(*shape, start=0):
    """Numbers that all differ, and that single precision holds."""
    return (start + np.arange(np.prod(shape))).reshape(shape).astype("f4")


def points(file, t=STEPS, **axes):
    """Coordinates; t has one entry more than there are frames, as in the files of PDEBench."""
    file["t-coordinate"] = 0.05 * np.arange(t + 1, dtype="f4")
    for axis, size in axes.items():
        file[f"{axis}-coordinate"] = (np.arange(size, dtype="f4") + 0.5) / size


def burgers(path, start=0, rows=ROWS, attribute=None):
    with h5py.File(path, "w") as file:
        file["tensor"] = unlike(rows, STEPS, X, start=start)
        points(file, x=X)
        if attribute is not None:
            file.attrs["Nu"] = attribute
    return path


def darcy(path):
    with h5py.File(path, "w") as file:
        file["tensor"], file["nu"] = unlike(ROWS, 1, X, Y), unlike(ROWS, X, Y, start=50_000)
        points(file, t=9, x=X, y=Y)  # ten times for the one frame, as there
        file.attrs["beta"] = 0.1
    return path


def fluid(path, *space):
    with h5py.File(path, "w") as file:
        for k, key in enumerate(("density", "pressure", "Vx", "Vy", "Vz")[: 2 + len(space)]):
            file[key] = unlike(ROWS, STEPS, *space, start=100_000 * k)
        points(file, **dict(zip("xyz", space, strict=False)))
        file.attrs["eta"], file.attrs["zeta"] = 0.01, 0.02
    return path


def samples(path, configured=True, rows=ROWS):
    with h5py.File(path, "w") as file:
        for k in range(rows):
            group = file.create_group(str(k).zfill(4))
            group["data"] = unlike(STEPS, X, Y, 2, start=10_000 * k)
            group["grid/t"], group["grid/x"], group["grid/y"] = np.arange(STEPS), np.arange(X), np.arange(Y)
            if configured:
                group.attrs["config"] = f"name: swe\nsim:\n  gravity: 1.0\n  dam_radius: 0.{3 + k}\n  T_end: 1.0\n"
    return path


def incompressible(path):
    with h5py.File(path, "w") as file:
        file["velocity"], file["particles"] = unlike(2, STEPS, X, Y, 2), unlike(2, STEPS, X, Y, 1, start=50_000)
        file["force"], file["t"] = unlike(2, X, Y, 2, start=90_000), np.tile(np.arange(STEPS), (2, 1))
        file.attrs["config"] = "NU: 0.01\nscale: 10.0\n"
    return path


def changed(path, change):
    with h5py.File(path, "a") as file:
        change(file)
    return path


def read(*paths, out, prior=NU, **options):
    return wrappers.pdebench(*paths, prior=prior, out=out, **options)


def loaded(store):
    batch = store.load()
    return batch.theta.numpy(), {name: value.numpy() for name, value in batch.x.items()}


def facts(folder):
    return json.loads((folder / "fields.json").read_text())


def test_one_equation_in_one_dimension(tmp_path):
    store = read(burgers(tmp_path / "1D_Burgers_Sols_Nu0.01.hdf5"), out=tmp_path / "store")
    theta, x = loaded(store)
    np.testing.assert_allclose(theta, 0.01, rtol=1e-6)
    assert store.observables["u"].dims == ("time", "channel", "x")
    assert (x["u"] == unlike(ROWS, STEPS, X)[:, :, None]).all()
    assert (x["initial"] == unlike(ROWS, STEPS, X)[:, :1]).all()
    found = facts(tmp_path / "store")
    assert found["times"] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert found["channels"] == ["tensor"]
    assert len(found["coordinates"]["x"]) == X


def check_darcy(store):
    theta, x = loaded(store)
    assert set(x) == {"u", "nu"}
    for b, i, j in np.ndindex(ROWS, X, Y):
        assert x["u"][b, 0, 0, i, j] == (b * X + i) * Y + j
        assert x["nu"][b, 0, i, j] == 50_000 + (b * X + i) * Y + j
    np.testing.assert_allclose(theta, 0.1, rtol=1e-6)


def test_darcy_flow_has_a_coefficient_and_no_time(tmp_path):
    prior = Prior(beta=Uniform(0.0, 1.0))
    store = read(darcy(tmp_path / "2D_DarcyFlow_beta0.1_Train.hdf5"), out=tmp_path / "store", prior=prior)
    assert store.observables["nu"].dims == ("channel", "x", "y")
    check_darcy(store)
    assert facts(tmp_path / "store")["times"] is None

    def turn(file):  # the planted fault: x and y swapped within frames
        file["nu"][...] = file["nu"][...].transpose(0, 2, 1).reshape(ROWS, X, Y)

    with pytest.raises(AssertionError):
        check_darcy(read(changed(darcy(tmp_path / "b.hdf5"), turn), out=tmp_path / "turned", prior=prior))


@pytest.mark.parametrize("space", [(X,), (X, Y), (X, Y, Z)])
def test_compressible_flow(tmp_path, space):
    prior = Prior(eta=Uniform(0.0, 1.0), zeta=Uniform(0.0, 1.0))
    path = fluid(tmp_path / "CFD.hdf5", *space)
    theta, x = loaded(read(path, out=tmp_path / "store", prior=prior))
    np.testing.assert_allclose(theta, [[0.01, 0.02]] * ROWS, rtol=1e-6)
    assert x["u"].shape == (ROWS, STEPS, 2 + len(space), *space)
    for k in range(2 + len(space)):
        assert (x["u"][:, :, k] == unlike(ROWS, STEPS, *space, start=100_000 * k)).all()
    assert facts(tmp_path / "store")["channels"] == ["density", "pressure", "Vx", "Vy", "Vz"][: 2 + len(space)]
    for key in ("pressure", "Vx"):
        with pytest.raises(ValueError, match=f"CFD.hdf5 has no '{key}'"):
            read(changed(path, lambda file, key=key: file.__delitem__(key)), out=tmp_path / "less", prior=prior)
        fluid(path, *space)


def test_samples_in_groups_of_their_own(tmp_path):
    prior = Prior(dam_radius=Uniform(0.0, 1.0), gravity=Uniform(0.0, 2.0))
    store = read(samples(tmp_path / "2D_rdb_NA_NA.h5"), out=tmp_path / "store", prior=prior)
    theta, x = loaded(store)
    np.testing.assert_allclose(theta[:, 0], [0.3, 0.4, 0.5, 0.6, 0.7, 0.8], rtol=1e-6)
    assert (theta[:, 1] == 1).all()
    for b, t, i, j, c in np.ndindex(ROWS, STEPS, X, Y, 2):
        assert x["u"][b, t, c, i, j] == 10_000 * b + ((t * X + i) * Y + j) * 2 + c
    assert (x["initial"] == x["u"][:, 0]).all()
    assert facts(tmp_path / "store")["channels"] == ["data_0", "data_1"]
    some = read(tmp_path / "2D_rdb_NA_NA.h5", out=tmp_path / "some", prior=prior, frames=slice(1, 5, 2), rows=4)
    assert (some.load().x["u"].numpy() == x["u"][:4, 1:5:2]).all()


def test_incompressible_flow(tmp_path):
    path = incompressible(tmp_path / "ns_incom_inhom_2d_512-0.h5")
    theta, x = loaded(read(path, out=tmp_path / "store", prior=Prior(nu=Uniform(0.0, 1.0))))
    np.testing.assert_allclose(theta, [[0.01]] * 2, rtol=1e-6)
    assert (x["u"][:, :, :2] == np.moveaxis(unlike(2, STEPS, X, Y, 2), -1, 2)).all()
    assert (x["u"][:, :, 2] == unlike(2, STEPS, X, Y, start=50_000)).all()
    assert (x["force"] == np.moveaxis(unlike(2, X, Y, 2, start=90_000), -1, 1)).all()
    found = facts(tmp_path / "store")
    assert found["channels"] == ["velocity_x", "velocity_y", "particles"]
    assert found["times"] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_where_parameters_come_from(tmp_path):
    plain = burgers(tmp_path / "1D_Burgers_Sols_nu1.e-2.hdf5")
    other = burgers(tmp_path / "1D_Burgers_Sols_Nu0.5.hdf5", start=1000, attribute=0.4)
    theta, _ = loaded(read(plain, other, out=tmp_path / "store"))
    np.testing.assert_allclose(theta[:, 0], [0.01, 0.4] * ROWS, rtol=1e-6)  # the attribute before the name, in turn
    theta, x = loaded(read(plain, other, out=tmp_path / "told", parameters={"Nu": [0.2, 0.3]}))
    np.testing.assert_allclose(theta[:, 0], [0.2, 0.3] * ROWS, rtol=1e-6)
    assert (x["u"][1::2, :, 0] == unlike(ROWS, STEPS, X, start=1000)).all()
    with pytest.raises(ValueError, match="does not say its 'rho'.*Say it with parameters="):
        read(plain, out=tmp_path / "none", prior=Prior(rho=Uniform(0.0, 1.0)))
    for wrong in ({"Nu": [0.1]}, {"rho": [0.1, 0.2]}):
        with pytest.raises(ValueError, match="values, expected one for each of 2 files"):
            read(plain, other, out=tmp_path / "none", parameters=wrong)
    unsure = samples(tmp_path / "a.h5", configured=False)
    changed(unsure, lambda file: file.attrs.__setitem__("config", "k: 1.0\nsim:\n  k: 2.0\n"))
    with pytest.raises(ValueError, match="gives 'k' several values: 1.0, 2.0"):
        read(unsure, out=tmp_path / "none", prior=Prior(k=Uniform(0.0, 3.0)))
    with pytest.raises(ValueError, match=r"parameter 'Nu' is 0.4 in row 0 .* outside"):
        read(other, out=tmp_path / "none", prior=Prior(Nu=Uniform(0.0, 0.1)))
    assert not (tmp_path / "none").exists()


def test_samples_with_numbers_missing_are_failures(tmp_path):
    def spoil(file):
        file["0003/data"][1, 2, 0, 1] = np.nan

    path = changed(samples(tmp_path / "a.h5"), spoil)
    store = read(path, out=tmp_path / "store", prior=Prior(dam_radius=Uniform(0.0, 1.0)))
    assert store.counts[Status.NON_FINITE] == 1
    assert [failure.row for failure in store.failures()] == [3]
    kept = [0, 1, 2, 4, 5]
    assert (store.load().x["u"][:, 0, 0, 0, 0].numpy() == np.array(kept) * 10_000).all()


def test_files_that_do_not_go_together_are_named(tmp_path):
    one = burgers(tmp_path / "a_Nu0.1.hdf5")
    with pytest.raises(ValueError, match="do not go together, their shapes differ"):
        read(one, fluid(tmp_path / "b_Nu0.1.hdf5", X), out=tmp_path / "store")

    def later(file):
        file["t-coordinate"][...] *= 2

    with pytest.raises(ValueError, match="a_Nu0.1.hdf5 and c_Nu0.1.hdf5 do not go together, their times differ"):
        read(one, changed(burgers(tmp_path / "c_Nu0.1.hdf5"), later), out=tmp_path / "store")

    def elsewhere(file):
        file["x-coordinate"][...] += 0.5

    with pytest.raises(ValueError, match="their coordinates differ"):
        read(one, changed(burgers(tmp_path / "d_Nu0.1.hdf5"), elsewhere), out=tmp_path / "store")


def renamed(old, new):
    return lambda file: file.move(old, new)


def replaced(key, value):
    def change(file):
        del file[key]
        file[key] = value

    return change


@pytest.mark.parametrize(
    ("write", "change", "message"),
    [
        (burgers, renamed("tensor", "u"), "a.h5 is no file of PDEBench: .* found .'t-coordinate', 'u'"),
        (burgers, replaced("tensor", unlike(1, ROWS, STEPS, X)), r"'tensor' of a.h5 has shape .* by its coordinates"),
        (
            burgers,
            replaced("tensor", unlike(ROWS, X, STEPS)),
            r"'tensor' of a.h5 has shape \(6, 7, 5\), expected .* 7\)",
        ),
        (darcy, replaced("nu", unlike(ROWS, Y, X)), r"'nu' of a.h5 has shape \(6, 3, 7\), expected \(6, 7, 3\)"),
        (
            samples,
            replaced("0004/data", unlike(STEPS, Y, X, 2)),
            r"'0004/data' of a.h5 has shape \(5, 3, 7, 2\), '0000",
        ),
        (samples, replaced("0000/grid/y", np.arange(9)), r"grid/y' of a.h5 has 9 points, 'data' has shape \(5, 7, 3"),
        (incompressible, renamed("force", "push"), "a.h5 has no 'force'"),
    ],
)
def test_what_is_missing_or_of_another_shape_is_named(tmp_path, write, change, message):
    with pytest.raises(ValueError, match=message):
        read(changed(write(tmp_path / "a.h5"), change), out=tmp_path / "store", parameters={"Nu": [0.1]})
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("grouped", [False, True])
def test_a_file_is_never_in_memory_as_a_whole(tmp_path, monkeypatch, grouped):
    path, shape = tmp_path / "1D_Nu0.1.hdf5", (64, 1024)
    with h5py.File(path, "w") as file:
        if grouped:
            for k in range(48):
                file.create_dataset(f"{k:04d}/data", (*shape, 1), "f4", fillvalue=1.0)
        else:
            file.create_dataset("tensor", (48, *shape), "f4", fillvalue=1.0)
    monkeypatch.setattr(stored_fields, "BLOCK_BYTES", 2**20)  # the data are 12 MiB
    read(burgers(tmp_path / "small_Nu0.1.hdf5"), out=tmp_path / "small")  # what is imported is not counted
    tracemalloc.start()
    store = read(path, out=tmp_path / "store")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (store.blocks, len(store)) == (16, 48)
    assert peak < 8 * 2**20


def test_fields_are_read_without_parameters(tmp_path):
    store = wrappers.pdebench(burgers(tmp_path / "a.hdf5"), prior=Prior.none(), out=tmp_path / "store")
    assert store.load().theta.shape == (ROWS, 0)
