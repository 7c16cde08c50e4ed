"""What stands along the axes of an observable: kept, shown, and of no weight where it is not given."""

from __future__ import annotations

import json
import pickle
from datetime import date
from typing import Any

import h5py
import numpy as np
import pandas
import pytest
import torch

from sciinf import Flow, Normal, Observable, Prior, Recipe, build_posterior, query, simulate, train, wrappers
from sciinf.campaigns import Store
from sciinf.diagnostics.boxes import Box, box_words

PELTS = Observable(
    (3, 2),
    dims=("time", "species"),
    coords={"time": np.array([1900, 1901, 1902]), "species": ("hare", "lynx")},
    coord_units={"time": "yr"},
)
BARE = Observable((3, 2), dims=("time", "species"))


def test_they_are_written_only_where_they_are_given():
    assert set(BARE.to_json()) == {"shape", "unit", "dims", "dtype", "scale"}, "the digests of old stores"
    written = json.loads(json.dumps(PELTS.to_json()))
    assert written["coords"] == {"time": [1900, 1901, 1902], "species": ["hare", "lynx"]}
    assert written["coord_units"] == {"time": "yr"}
    again = Observable.from_json(written)
    assert again.to_json() == PELTS.to_json()
    assert Observable.from_json(BARE.to_json()).to_json() == BARE.to_json()
    assert pickle.loads(pickle.dumps(PELTS)).coords == PELTS.coords


def test_a_network_fits_data_whatever_their_coordinates():
    assert PELTS == BARE
    assert hash(PELTS) == hash(BARE)


def test_sets_keep_them():
    assert PELTS.in_sets(4).coords == PELTS.coords
    assert PELTS.in_sets(4).at("time", 2) == "1902 yr"


def test_words_say_what_stands_there():
    assert PELTS.at("species", 1) == "lynx"
    assert BARE.at("species", 1) == ""
    assert Observable((2,), dims=("depth",), coords={"depth": torch.tensor([0.5, 1.0])}).at("depth", 0) == "0.5"
    assert box_words(Box("counts", (1, 0), (2, 1)), PELTS) == "'counts' at time 1901 yr, species hare"
    assert box_words(Box("counts", (1, 0), (3, 2)), PELTS) == "'counts' at time 1901 yr to 1902 yr"
    assert box_words(Box("counts", (1, 0), (3, 1)), BARE) == "'counts' at time 1 to 2, species 0"


@pytest.mark.parametrize(
    ("coords", "units", "error", "words"),
    [
        ({"year": [1, 2, 3]}, {}, ValueError, "axis 'year', but dims are"),
        ({"time": [1, 2]}, {}, ValueError, "2 values along 'time', expected 3"),
        ({"time": [1, 2, "c"]}, {}, TypeError, "all numbers or all text"),
        ({"time": [1.0, 2.0, np.nan]}, {}, ValueError, "finite"),
        ({"species": ["a", "b"]}, {"species": "yr"}, ValueError, "unit for 'species'"),
        ({"time": np.ones((3, 2))}, {}, ValueError, r"have shape \(3, 2\); give a list"),
        ({"time": [[1], [2], [3]]}, {}, TypeError, "all numbers or all text"),
        ({"time": "abc"}, {}, TypeError, "a list of numbers, text or dates, got the text 'abc'"),
        ({"time": np.array(["1900", "NaT", "1902"], "M8[Y]")}, {}, ValueError, "a missing date"),
        ({"time": np.array(["1900", "1901", "1902"], "M8[Y]")}, {"time": "yr"}, ValueError, "unit for 'time'"),
        ({}, {"time": "yr"}, ValueError, "unit for 'time'"),
        ({"time": [1, 2, 3]}, {"time": "florps"}, ValueError, "'florps' of the axis 'time'"),
    ],
)
def test_wrong_ones_are_refused(coords, units, error, words):
    with pytest.raises(error, match=words):
        Observable((3, 2), dims=("time", "species"), coords=coords, coord_units=units)


@pytest.mark.parametrize(
    "days",
    [
        np.array(["1900-01-31", "1900-02-28", "1900-03-31"], "M8[ns]"),
        pandas.to_datetime(["1900-01-31", "1900-02-28", "1900-03-31"]),
        [date(1900, 1, 31), date(1900, 2, 28), date(1900, 3, 31)],
        np.array(["1900-01-31", "1900-02-28", "1900-03-31"]),
    ],
)
def test_dates_are_shown_as_such(days):
    """Nanoseconds since 1970 stood there."""
    spec = Observable((3,), dims=("time",), coords={"time": days})
    assert spec.coords == {"time": ("1900-01-31", "1900-02-28", "1900-03-31")}
    assert Observable.from_json(json.loads(json.dumps(spec.to_json()))).at("time", 1) == "1900-02-28"


@pytest.mark.slow
def test_a_network_trained_without_them_is_read_back_and_its_answers_have_them(tmp_path):
    prior, said = Prior(a=Normal(0.0, 1.0)), []
    for spec in (BARE, PELTS):
        simulator = wrappers.numpy(lambda a, rng: a + rng.normal(size=(3, 2)), prior, {"counts": spec})
        simulate(simulator, tmp_path / "store", 60, seed=1, progress=False, accept_changes=True)
        flow = Flow(prior, simulator.observables)
        fit = train(flow, Store(tmp_path / "store"), tmp_path / "fit", recipe=Recipe(epochs=1), progress=False)
        said.append(fit.digest)
        query(build_posterior(fit), {"counts": np.ones((3, 2))}, simulator=simulator, draws=100, out=tmp_path)
    assert said[0] == said[1]
    with h5py.File(tmp_path / "answers/observation/predictive.h5") as file:
        opened: Any = file
        assert opened["coords/counts/0"][()].tolist() == [1900, 1901, 1902]


def test_a_store_begun_without_them_is_gone_on_with(tmp_path):
    prior = Prior(a=Normal(0.0, 1.0))

    def made(spec):
        return wrappers.numpy(lambda a, rng: a + rng.normal(size=(3, 2)), prior, {"counts": spec})

    def campaign(spec, rows):
        return simulate(made(spec), tmp_path / "store", rows, block=10, seed=1, progress=False, accept_changes=True)

    digest = campaign(BARE, 20).digest
    again = campaign(PELTS, 20)
    assert again.digest == digest
    assert len(campaign(PELTS, 40)) == 40
    with pytest.raises(ValueError, match="observables"):
        campaign(Observable((3, 2), "mV", ("time", "species")), 40)


@pytest.mark.parametrize(
    ("values", "index", "words"),
    [
        ([5 * i / 49 for i in range(50)], 24, "2.449 h"),
        ([1900 + i / 2 for i in range(50)], 3, "1901.5 h"),
        ([59000.12345, 59000.12346, 59001.0], 0, "59000.1234 h"),
    ],
)
def test_a_coordinate_has_the_digits_that_tell_it_from_its_neighbours(values, index, words):
    spec = Observable((len(values),), dims=("time",), coords={"time": values}, coord_units={"time": "h"})
    assert spec.at("time", index) == words
