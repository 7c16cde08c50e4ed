"""Simulations from existing files: every format gives the same store, units are converted, faults are named."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest
import torch
from torch.distributions import Dirichlet, MultivariateNormal, Normal, Uniform

from sciinf import Flow, Likelihood, Matching, Ratio, Recipe, Unknown, build_posterior, train, wrappers
from sciinf.campaigns import table_columns, tables_file
from sciinf.campaigns.store import Store
from sciinf.core import Counts, Observable, Prior, Status

PRIOR = Prior(rate=(Uniform(0.0, 2.0), "1/h"), offset=Normal(0.0, 1.0))
OBSERVABLES = {"v": ((3,), "mV"), "n": Observable((), dtype="int64")}
ROWS = 50


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    rate, offset = rng.uniform(0, 2, ROWS).astype("f4"), rng.normal(size=ROWS).astype("f4")
    return {"rate": rate, "offset": offset, "v": rng.normal(size=(ROWS, 3)).astype("f4"), "n": rng.poisson(4, ROWS)}


def write_csv(path, data, titles=("rate", "offset", "v_0", "v_1", "v_2", "n")):
    columns = [data["rate"], data["offset"], *data["v"].T, data["n"]]
    lines = [",".join(titles)] + [",".join(str(c[i]) for c in columns) for i in range(len(data["n"]))]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_h5(path, data, units=None):
    with h5py.File(path, "w") as file:
        for name, value in data.items():
            file[name] = value
            if units and name in units:
                file[name].attrs["unit"] = units[name]
    return path


def read(*paths, out, prior=PRIOR, observables=None, rows=None):
    return wrappers.tables(*paths, prior=prior, observables=observables or OBSERVABLES, out=out, rows=rows)


def assert_holds(store, data):
    batch = store.load()
    np.testing.assert_allclose(batch.theta[:, 0], data["rate"], rtol=1e-6)
    np.testing.assert_allclose(batch.theta[:, 1], data["offset"], rtol=1e-6)
    np.testing.assert_allclose(batch.x["v"], data["v"], rtol=1e-6)
    assert (batch.x["n"].numpy() == data["n"]).all()
    assert batch.x["n"].dtype == torch.int64


def test_every_format_gives_the_same_store(tmp_path, data):
    from astropy.table import Table

    np.savez(tmp_path / "a.npz", **data)
    np.savez(tmp_path / "matrix.npz", theta=np.stack([data["rate"], data["offset"]], 1), v=data["v"], n=data["n"])
    columns = {"rate": data["rate"], "offset": data["offset"], **{f"v[{i}]": data["v"][:, i] for i in range(3)}}
    Table({**columns, "n": data["n"]}, units={"v[1]": "mV"}).write(tmp_path / "a.ecsv", format="ascii.ecsv")
    files = [
        write_csv(tmp_path / "a.csv", data),
        write_h5(tmp_path / "a.h5", data),
        tmp_path / "a.npz",
        tmp_path / "matrix.npz",
        tmp_path / "a.ecsv",
    ]
    stores = [read(file, out=tmp_path / f"store{i}") for i, file in enumerate(files)]
    for store in stores:
        assert len(store) == ROWS
        assert_holds(store, data)
    assert len({store.digest for store in stores}) == 1


def test_units_in_headers_and_attributes_are_converted(tmp_path, data):
    raw = {**data, "rate": data["rate"].astype(float) / 3600, "v": data["v"].astype(float) / 1000}
    units = {"rate": "1/s", "v": "V"}
    titles = ("rate [1/s]", "offset", "v[0] [V]", "v[1] [V]", "v[2] [V]", "n")
    assert_holds(read(write_csv(tmp_path / "a.csv", raw, titles), out=tmp_path / "one"), data)
    assert_holds(read(write_h5(tmp_path / "a.h5", raw, units), out=tmp_path / "two"), data)
    with pytest.raises(ValueError, match=r"parameter 'rate' in b.h5 is in 'km', which does not convert to '1/h'"):
        read(write_h5(tmp_path / "b.h5", raw, {"rate": "km"}), out=tmp_path / "three")


def test_the_same_files_give_the_same_store_and_others_are_refused(tmp_path, data):
    path = write_csv(tmp_path / "a.csv", data)
    first = read(path, out=tmp_path / "store")
    assert read(path, out=tmp_path / "store").digest == first.digest
    assert first.simulator["source"]
    other = write_csv(tmp_path / "b.csv", {**data, "n": data["n"] + 1})
    with pytest.raises(ValueError, match="store of other files"):
        read(other, out=tmp_path / "store")
    with pytest.raises(ValueError):
        read(path, out=tmp_path / "store", observables={"n": OBSERVABLES["n"]})
    assert Store(tmp_path / "store").digest == first.digest


def test_a_deleted_or_damaged_block_is_read_again(tmp_path, data, monkeypatch):
    monkeypatch.setattr(tables_file, "BLOCK", 20)
    path = write_h5(tmp_path / "a.h5", data)
    store = read(path, out=tmp_path / "store")
    assert store.blocks == 3
    assert_holds(store, data)
    store.file(0).write_bytes(store.file(0).read_bytes()[:-100])
    store.file(2).unlink()
    again = read(path, out=tmp_path / "store")
    assert again.damaged() == []
    assert_holds(again, data)


def test_files_one_after_another_and_side_by_side(tmp_path, data, monkeypatch):
    monkeypatch.setattr(tables_file, "BLOCK", 16)
    head, tail = ({k: v[s] for k, v in data.items()} for s in (slice(0, 21), slice(21, None)))
    files = write_csv(tmp_path / "head.csv", head), write_h5(tmp_path / "tail.h5", tail)
    assert_holds(read(*files, out=tmp_path / "after"), data)
    theta = write_h5(tmp_path / "theta.h5", {k: data[k] for k in ("rate", "offset")})
    x = write_h5(tmp_path / "x.h5", {k: data[k] for k in ("v", "n")})
    assert_holds(read(theta, x, out=tmp_path / "beside"), data)
    with pytest.raises(ValueError, match="different numbers of rows"):
        read(theta, write_h5(tmp_path / "y.h5", {k: data[k][:9] for k in ("v", "n")}), out=tmp_path / "c")
    with pytest.raises(ValueError, match=r"observable 'v' is in no file; found the columns.*theta.h5"):
        read(theta, out=tmp_path / "d")


def test_rows_may_be_fewer_and_grow(tmp_path, data):
    path = write_h5(tmp_path / "a.h5", data)
    assert len(read(path, out=tmp_path / "store", rows=10)) == 10
    assert_holds(read(path, out=tmp_path / "store"), data)
    with pytest.raises(ValueError, match="rows=51 asked for, the files hold 50"):
        read(path, out=tmp_path / "store", rows=51)


def test_rows_without_data_are_failures(tmp_path, data):
    v = data["v"].copy()
    v[4, 1] = np.nan
    n = data["n"].astype(float)
    n[7] = np.inf
    store = read(write_h5(tmp_path / "a.h5", {**data, "v": v, "n": n}), out=tmp_path / "store")
    assert store.counts[Status.NON_FINITE] == 2
    assert [f.row for f in store.failures()] == [4, 7]
    assert len(store.load()) == ROWS - 2
    text = write_csv(tmp_path / "a.csv", data).read_text().splitlines()
    text[3] = ",".join([*text[3].split(",")[:-2], "", text[3].split(",")[-1]])
    (tmp_path / "a.csv").write_text("# made by hand\n" + "\n".join(text))
    assert [f.row for f in read(tmp_path / "a.csv", out=tmp_path / "csv").failures()] == [2]


def test_parameters_outside_the_prior_are_named_before_anything_is_written(tmp_path, data):
    for value, shown in ((2.5, "2.5"), (np.nan, "nan")):
        rate = data["rate"].copy()
        rate[45] = value
        with pytest.raises(ValueError, match=rf"'rate' is {shown} in row 45 .* support \(0, 2\)"):
            read(write_h5(tmp_path / "a.h5", {**data, "rate": rate}), out=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_values_on_the_edge_are_moved_inside_by_rounding_only(tmp_path, data):
    rate = data["rate"].astype(float)
    rate[:2] = 0.0, 2.0
    store = read(write_h5(tmp_path / "a.h5", {**data, "rate": rate}), out=tmp_path / "store")
    theta = store.load().theta
    assert torch.isfinite(store.prior.log_prob(theta)).all()
    assert torch.isfinite(store.prior.bijection.forward(theta)).all()
    assert 0 < float(theta[0, 0]) < 1e-30
    assert 2 - 1e-6 < float(theta[1, 0]) < 2


def test_a_table_that_was_drawn_from_another_law_is_warned_about(tmp_path, data):
    rng = np.random.default_rng(1)
    many = {"rate": rng.uniform(0, 2, 500), "offset": rng.normal(size=500), "n": rng.poisson(4, 500)}
    only = {"n": OBSERVABLES["n"]}
    with warnings.catch_warnings():  # false-alarm rate 1e-6 per parameter; the seed is fixed
        warnings.simplefilter("error")
        read(write_h5(tmp_path / "a.h5", many), out=tmp_path / "good", observables=only)
    narrow = {**many, "rate": rng.uniform(0.5, 1.5, 500)}
    with pytest.warns(UserWarning, match="'rate' do not look drawn from its prior"):
        read(write_h5(tmp_path / "b.h5", narrow), out=tmp_path / "bad", observables=only)


def test_a_joint_prior(tmp_path, data):
    prior = Prior.joint(("rate", "offset"), MultivariateNormal(torch.zeros(2), torch.eye(2)))
    assert_holds(read(write_h5(tmp_path / "a.h5", data), out=tmp_path / "store", prior=prior), data)


def test_parts_of_a_whole_before_another_parameter(tmp_path):
    """The other one is judged by its own numbers: false-alarm rate 1e-6, the seed is fixed."""
    prior = Prior.joint(("a", "b", "c"), Dirichlet(torch.ones(3).double())) + Prior(rate=Uniform(0, 2))
    theta = prior.sample(500, generator=torch.Generator().manual_seed(0))
    rows = {name: theta[:, k].numpy() for k, name in enumerate(prior.names)} | {"n": np.arange(500)}
    only = {"n": OBSERVABLES["n"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(write_h5(tmp_path / "a.h5", rows), out=tmp_path / "good", prior=prior, observables=only)
    rows["rate"] = 0.5 + 0.5 * rows["rate"]
    with pytest.warns(UserWarning, match="'rate' do not look drawn from its prior"):
        read(write_h5(tmp_path / "b.h5", rows), out=tmp_path / "bad", prior=prior, observables=only)


def test_discrete_parameters_are_refused(tmp_path, data):
    prior = Prior(rate=Counts(0, 3), offset=Uniform(-9, 9))
    with pytest.raises(ValueError, match="a store of rows that were simulated elsewhere needs parameters"):
        read(write_h5(tmp_path / "a.h5", data), out=tmp_path / "store", prior=prior)


@pytest.mark.parametrize(
    ("titles", "message"),
    [
        (("rate", "offset", "v_0", "v_1", "v_3", "n"), "needs the columns v_0 ... v_2 in a.csv; 'v_2' is missing"),
        (("rate", "rate", "v_0", "v_1", "v_2", "n"), "two columns have the same name"),
        (("rate", "offse", "v_0", "v_1", "v_2", "n"), "parameter 'offset' is in no file"),
    ],
)
def test_wrong_columns_are_named(tmp_path, data, titles, message):
    with pytest.raises(ValueError, match=message):
        read(write_csv(tmp_path / "a.csv", data, titles), out=tmp_path / "store")


def test_what_cannot_be_read_is_named(tmp_path, data):
    with pytest.raises(ValueError, match=r"'v' in a.h5 has shape \(rows, 2\), expected \(rows, 3\)"):
        read(write_h5(tmp_path / "a.h5", {**data, "v": data["v"][:, :2]}), out=tmp_path / "store")
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
        read(tmp_path / "nothing.csv", out=tmp_path / "store")
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(ValueError, match="unknown kind of file"):
        read(tmp_path / "a.txt", out=tmp_path / "store")
    (tmp_path / "bad.h5").write_text("no HDF5")
    with pytest.raises(ValueError, match="not a readable HDF5"):
        read(tmp_path / "bad.h5", out=tmp_path / "store")
    lines = write_csv(tmp_path / "words.csv", data).read_text().splitlines()
    lines[2] = "failed," + lines[2].split(",", 1)[1]
    (tmp_path / "words.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"column 'rate' of .*words.csv holds 'failed' in row 1"):
        read(tmp_path / "words.csv", out=tmp_path / "store")


def test_it_refuses_to_simulate_anew():
    simulator = tables_file.Tabulated(PRIOR, {"n": Observable()}, "runs")
    with pytest.raises(RuntimeError, match="cannot make new ones"):
        simulator(torch.ones(1, 2), generator=torch.Generator())


def test_headers():
    assert table_columns._header(" rate [1/h] ") == ("rate", "1/h")
    assert table_columns._header("v[0]") == ("v[0]", "")
    assert table_columns._header("v[0] [mV]") == ("v[0]", "mV")
    assert table_columns._header("v_0") == ("v_0", "")


def test_simulations_whose_law_nobody_knows_are_learned_from_and_have_no_posterior(tmp_path, data):
    raw = {**data, "rate": (data["rate"] + 40.0).astype(float) / 3600}
    prior, file = Prior(rate=(Unknown(), "1/h"), offset=Unknown()), write_h5(tmp_path / "a.h5", raw, {"rate": "1/s"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there is no law that they could be unlike
        store = read(file, prior=prior, out=tmp_path / "store")
    np.testing.assert_allclose(store.load().theta[:, 0], data["rate"] + 40.0, rtol=1e-6)
    estimator = Likelihood(store.prior, store.observables)
    fit = train(estimator, store, tmp_path / "fit", recipe=Recipe(epochs=1, batch=10), progress=False)
    with pytest.raises(ValueError, match=r"the distribution of rate, offset is unknown \(Unknown\(\)\)"):
        build_posterior(fit)
    for kind in (Flow, Ratio, Matching):
        with pytest.raises(ValueError, match="the distribution of rate, offset is unknown"):
            kind(store.prior, store.observables)  # and not after it was trained


def test_simulations_without_parameters(tmp_path, data):
    store = read(write_csv(tmp_path / "a.csv", data), prior=Prior.none(), out=tmp_path / "store")
    assert store.load().theta.shape == (ROWS, 0)
    np.testing.assert_allclose(store.load().x["v"], data["v"], rtol=1e-6)
