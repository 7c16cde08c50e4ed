"""Every export carries derived quantities and labels, and tells them from parameters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.table import QTable

from sciinf import Prior, Simulator, wrappers
from sciinf.core import Draws, Observable
from sciinf.core.derived import with_derived
from sciinf.interfaces.exports import read_draws, to_datatree, write_bilby, write_draws, write_getdist, write_netcdf


@pytest.fixture(scope="module")
def simulator(prior: Prior) -> Simulator:
    made = wrappers.numpy(lambda rate, mass_1, offset, depth: rate, prior, {"x": Observable()})
    made.derived = {"twice": (lambda theta: 2 * theta["rate"], "1/h")}
    made.labels = {"rate": "rate of 50 % decay", "twice": "double"}
    return made


@pytest.fixture(scope="module", params=["plain", "weighted"])
def found(request: pytest.FixtureRequest, draws: Draws, plain_draws: Draws, simulator: Simulator) -> Draws:
    return with_derived(plain_draws if request.param == "plain" else draws, simulator)


def test_arviz_and_netcdf(found: Draws, tmp_path: Path) -> None:
    import xarray

    posterior = to_datatree(found)["posterior"]
    assert posterior["twice"].attrs == {"units": "1/h", "derived": 1, "long_name": "double"}
    assert posterior["mass_1"].attrs == {"units": "solMass"}
    np.testing.assert_allclose(posterior["twice"], 2 * posterior["rate"])
    with xarray.open_datatree(write_netcdf(found, tmp_path / "a.nc"), engine="h5netcdf") as back:
        assert back["posterior"]["twice"].attrs["derived"] == 1


@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".h5"])
def test_tables(found: Draws, tmp_path: Path, suffix: str) -> None:
    path = write_draws(found, tmp_path / f"a{suffix}")
    if suffix == ".h5":
        back = read_draws(path)
        assert (back.derived, back.labels) == (found.derived, found.labels)
        return
    table = QTable.read(path)
    assert table["twice"].unit == "1 / h"
    assert table["twice"].info.description == "double (derived)"
    assert table["rate"].info.description == "rate of 50 % decay"
    assert not table["offset"].info.description


def test_bilby(found: Draws, prior: Prior, tmp_path: Path) -> None:
    said = json.loads(write_bilby(found, tmp_path / "a_result.json", prior=prior).read_text())
    assert said["search_parameter_keys"] == list(prior.names)
    assert set(said["posterior"]["content"]) == {*prior.names, "twice", "log_prior"}
    assert said["meta_data"]["sciinf"]["derived"] == ["twice"]
    assert list(said["priors"])[3:] == list(prior.names)


def test_getdist(found: Draws, prior: Prior, tmp_path: Path) -> None:
    getdist = pytest.importorskip("getdist")
    samples = getdist.loadMCSamples(str(write_getdist(found, tmp_path / "chain", prior=prior)), no_cache=True)
    names = samples.getParamNames()
    assert (names.list(), [p.name for p in names.names if p.isDerived]) == (list(found.names), ["twice"])
    assert samples.parLabel("rate").startswith(r"\mathrm{rate\ of\ 50\ \%\ decay}\,[")
    assert samples.ranges.getLower("mass_1") == 5.0
    assert samples.ranges.getLower("twice") is None
    assert samples.mean("twice") == pytest.approx(float(2 * found.mean()[0]), rel=1e-6)


def test_labels_draw_as_math(tmp_path: Path) -> None:
    """Matplotlib's reader of formulas takes every letter of a label."""
    from matplotlib.mathtext import MathTextParser

    label = r'a_b #1 50% & $x^2 {y} \z ~ "q" `r` s'
    draws = Draws(("a",), ("",), torch.zeros(3, 1), torch.zeros(3), labels={"a": label})
    write_getdist(draws, tmp_path / "chain")
    text = (tmp_path / "chain.paramnames").read_text().split("\t")[1].strip()
    MathTextParser("path").parse(f"${text}$")
