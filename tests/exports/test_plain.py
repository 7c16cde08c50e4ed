"""The suffix decides, and what cannot be decided is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import h5py
import pytest
import torch
import xarray
from astropy.table import QTable

from sciinf.interfaces.exports import read_draws, write_draws


def test_h5_round_trip(tmp_path, answer, draws):
    back = read_draws(write_draws(answer, tmp_path / "draws.h5"))
    assert torch.equal(back.theta, draws.theta)
    assert torch.equal(back.log_weight, draws.log_weight)
    assert (back.names, back.units, back.log_evidence) == (draws.names, draws.units, draws.log_evidence)
    with h5py.File(tmp_path / "draws.h5") as file:
        assert {name: file.attrs[name] for name in ("verdict", "sentence")} == answer.verdict.to_json()


def test_every_known_suffix_writes_its_kind(tmp_path, draws):
    assert xarray.open_datatree(write_draws(draws, tmp_path / "d.nc"), engine="h5netcdf")["posterior/rate"].size > 0
    for suffix in (".ecsv", ".fits", ".csv"):
        assert len(QTable.read(write_draws(draws, tmp_path / f"d{suffix}"))) == len(draws)


def test_bilby_and_getdist_get_the_answers_prior(tmp_path, answer, prior):
    from bilby.core.result import read_in_result
    from getdist import loadMCSamples

    answer = replace(answer, prior=prior)
    found = read_in_result(str(write_draws(answer, tmp_path / "d_result.json")))
    assert (found.label, found.priors["mass_1"].maximum) == ("d", 50.0)
    assert write_draws(answer, tmp_path / "d_1.txt") == tmp_path / "d_1.txt"
    assert loadMCSamples(str(tmp_path / "d"), no_cache=True).ranges.getUpper("mass_1") == 50.0


def test_data_keep_their_units_and_axes_where_the_observables_are_known(tmp_path, answer, observables):
    tree = xarray.open_datatree(write_draws(answer, tmp_path / "d.nc", observables), engine="h5netcdf")
    counts = tree["observed_data/counts"]
    assert counts.dims == ("counts_time",)
    assert counts.attrs["units"] == "mV"
    for suffix in (".h5", ".ecsv"):
        assert write_draws(answer, tmp_path / f"d{suffix}", observables).is_file()


def test_unknown_suffixes_are_refused(tmp_path, draws):
    with pytest.raises(ValueError, match=r"\.h5, \.hdf5, \.nc, \.ecsv, \.fits, \.csv"):
        write_draws(draws, tmp_path / "draws.pkl")
    with pytest.raises(ValueError, match=r"name it draws_1\.txt"):
        write_draws(draws, tmp_path / "draws.txt")
    with pytest.raises(ValueError, match=r"from \.h5 only"):
        read_draws(tmp_path / "draws.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_importing_exports_is_light():
    code = (
        "import sys, sciinf.interfaces.exports; heavy = {'sbi', 'astropy', 'xarray', 'pandas', 'bilby', 'arviz'};"
        "found = (heavy | {'h5netcdf'}) & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
