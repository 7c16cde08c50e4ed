"""Labels are text and what does not exist is missing in files of draws; formats of numbers alone say what to do."""

from __future__ import annotations

import csv
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from mixed_answers import Burst, ByWeights, drawn

from sciinf import Choice, Counts, Only, Prior, Uniform
from sciinf.core import Answer, Draws, Trust
from sciinf.core.estimates import estimates
from sciinf.interfaces.exports import (
    read_draws,
    to_datatree,
    to_table,
    write_bilby,
    write_draws,
    write_getdist,
    write_table,
)


@pytest.fixture(scope="module")
def draws() -> Draws:
    return drawn(Burst.prior, 500, weighted=True, log_evidence=-3.0)


@pytest.fixture(scope="module")
def answer(draws: Draws) -> Answer:
    trust = Trust(0.3, "like the simulations", "good")
    return Answer(estimates(draws, 0.9), draws, None, trust, prior=Burst.prior)


def absent(draws: Draws, name: str) -> np.ndarray:
    return draws.theta[:, draws.names.index(name)].isnan().numpy()


def labels(draws: Draws) -> list[str]:
    return ["wave" if code else "decay" for code in draws.theta[:, 0].tolist()]


@pytest.mark.parametrize("end", ["ecsv", "fits", "h5"])
def test_astropy_tables_have_labels_and_masks(answer: Answer, draws: Draws, tmp_path, end: str):
    table_of = pytest.importorskip("astropy.table").QTable
    write_table(answer, tmp_path / f"a.{end}")
    table = table_of.read(tmp_path / f"a.{end}", **({"path": "draws"} if end == "h5" else {}))
    assert [str(value) for value in table["model"]] == labels(draws)
    for name in ("period", "time_1", "time_2"):
        np.testing.assert_array_equal(np.asarray(table[name].mask), absent(draws, name))
        assert str(table[name].unit) == "d"
        shown = ~absent(draws, name)
        values = draws.theta[:, draws.names.index(name)].numpy()
        np.testing.assert_array_equal(np.asarray(table[name].unmasked.value)[shown], values[shown])
    assert not np.any(getattr(table["height"], "mask", False))


def test_labels_that_do_not_always_exist_are_masked_too():
    pytest.importorskip("astropy")
    prior = Prior(model=Choice("a", "b"), kind=Only(Choice("x", "yy"), model="b"))
    found = drawn(prior, 50)
    table = to_table(found)
    np.testing.assert_array_equal(table["kind"].mask, absent(found, "kind"))
    assert set(table["kind"][~table["kind"].mask]) == {"x", "yy"}


def test_a_csv_is_empty_where_nothing_is(answer: Answer, draws: Draws, tmp_path):
    write_draws(answer, tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == labels(draws)
    assert [row["period [d]"] == "" for row in rows] == absent(draws, "period").tolist()
    assert "nan" not in (tmp_path / "a.csv").read_text().lower()


def test_files_of_draws_say_what_is_absent(answer: Answer, draws: Draws, tmp_path):
    back = read_draws(write_draws(answer, tmp_path / "draws.h5"))
    assert back.categories == draws.categories
    with h5py.File(tmp_path / "draws.h5") as file:
        assert file["period"].attrs["absent"] == "NaN: the parameter does not exist in this draw"
        assert "absent" not in file["height"].attrs
        assert file["model"].attrs["labels"].tolist() == ["decay", "wave"]


def test_arviz_has_numbers_nan_and_attributes(answer: Answer, draws: Draws, tmp_path):
    xarray = pytest.importorskip("xarray")
    tree = to_datatree(answer, n=400)
    assert tree["posterior"]["model"].attrs["labels"] == ["decay", "wave"]
    assert tree["posterior"]["model"].attrs["flag_meanings"] == "decay wave"
    assert "does not exist" in tree["posterior"]["period"].attrs["absent"]
    assert "absent" not in tree["posterior"]["height"].attrs
    weighted = tree["weighted_posterior"]["period"].to_numpy()[0]
    np.testing.assert_array_equal(np.isnan(weighted), absent(draws, "period"))
    write_draws(answer, tmp_path / "a.nc")
    with xarray.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as back:
        assert list(back["posterior"]["model"].attrs["labels"]) == ["decay", "wave"]
        np.testing.assert_array_equal(np.isnan(back["weighted_posterior"]["period"][0]), absent(draws, "period"))


def test_frames_have_labels(draws: Draws, answer: Answer):
    pytest.importorskip("pandas")
    frame = draws.to_dataframe(weighted=True)
    assert frame["model"].tolist() == labels(draws)
    np.testing.assert_array_equal(frame["period"].isna(), absent(draws, "period"))
    rows = answer.to_dataframe()
    assert rows.loc["model", "most_probable"] == answer.parameters["model"].most_probable
    assert np.isnan(rows.loc["model", "median"])
    assert rows.loc["period", "exists"] == answer.parameters["period"].exists
    assert "exists" not in answer.given(model="wave", steps=1).to_dataframe()


@pytest.mark.parametrize(("write", "path"), [(write_bilby, "a_result.json"), (write_getdist, "a")])
def test_formats_of_numbers_alone_say_what_to_export(answer: Answer, draws: Draws, tmp_path, write, path):
    best = draws.most_probable()
    words = rf"export answer\.given\(model='{best['model']}', steps={best['steps']}\)"
    for source in (answer, draws):
        with pytest.raises(ValueError, match=words):
            write(source, tmp_path / path)
    assert list(tmp_path.iterdir()) == []


def test_given_values_an_answer_goes_everywhere(answer: Answer, tmp_path):
    plain = answer.given(model="wave", steps=2)
    for end in ("a.h5", "a.nc", "a.ecsv", "a.fits", "a.csv", "a_result.json", "a_1.txt"):
        write_draws(plain, tmp_path / end)
    assert "NaN" not in (tmp_path / "a_result.json").read_text()
    assert "nan" not in (tmp_path / "a_1.txt").read_text()
    assert (tmp_path / "a.paramnames").read_text().split("\t")[0] == "height"


def test_sbi_is_told_that_it_has_no_such_posterior():
    pytest.importorskip("sbi")
    from sciinf.interfaces.exports import to_sbi

    with pytest.raises(ValueError, match="model, steps is discrete: take draws"):
        to_sbi(ByWeights(Burst()))


def test_arrow_has_text_and_nulls(draws: Draws):
    pyarrow = pytest.importorskip("pyarrow")
    from sciinf.interfaces.serve.downloads import _arrow

    table = pyarrow.ipc.open_file(pyarrow.BufferReader(_arrow(draws))).read_all()
    assert table["model"].to_pylist() == labels(draws)
    np.testing.assert_array_equal(table["period"].is_null().to_numpy(), absent(draws, "period"))
    assert table["height"].null_count == 0
    plain = draws.given(model="wave", steps=2)
    assert pyarrow.ipc.open_file(pyarrow.BufferReader(_arrow(plain))).read_all()["period"].null_count == 0


def test_labels_of_any_text_come_through(tmp_path):
    pytest.importorskip("astropy")
    prior = Prior(source=Choice('née, "a"', "b c"), u=Only(Uniform(0.0, 1.0), source="b c"), k=Counts(2, 4))
    found = replace(drawn(prior, 30), log_weight=torch.zeros(30).double())
    with pytest.raises(ValueError, match="FITS knows ASCII alone, and there is the label 'née"):
        write_draws(found, tmp_path / "a.fits")
    write_draws(found, tmp_path / "a.csv")
    write_draws(found, tmp_path / "a.ecsv")
    with open(tmp_path / "a.csv", newline="") as file:
        assert {row["source"] for row in csv.DictReader(file)} == {'née, "a"', "b c"}
    assert read_draws(write_draws(found, tmp_path / "a.h5")).categories == found.categories
    assert set(to_table(found)["k"]) == {2.0, 3.0, 4.0}
