"""Draws come back bit for bit, in order, with their units, and damage is told from data."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from sciinf.core.draws import Draws
from sciinf.interfaces.draws_file import read_draws_h5, write_draws_h5


def some_draws(dtype: torch.dtype = torch.float32, **extra: float) -> Draws:
    generator = torch.Generator().manual_seed(1)
    theta = torch.randn(50, 3, generator=generator, dtype=dtype)
    log_weight = torch.randn(50, generator=generator, dtype=torch.float64)
    log_weight[3] = -torch.inf
    return Draws(("zeta", "alpha", "scope/mu"), ("1/h", "", "km s-1 Mpc-1"), theta, log_weight, **extra)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extra", [{}, {"log_evidence": -3.25, "log_evidence_error": 0.01, "pareto_k": 0.31}])
def test_round_trip_is_exact(tmp_path, dtype, extra):
    draws = some_draws(dtype, **extra)
    back = read_draws_h5(write_draws_h5(draws, tmp_path / "draws.h5"))
    assert (back.names, back.units) == (draws.names, draws.units)
    assert back.theta.dtype == dtype
    assert torch.equal(back.theta, draws.theta)
    assert torch.equal(back.log_weight, draws.log_weight)
    for name in ("log_evidence", "log_evidence_error", "pareto_k"):
        assert getattr(back, name) == extra.get(name)


def test_the_same_draws_give_the_same_bytes(tmp_path):
    one = write_draws_h5(some_draws(), tmp_path / "one.h5").read_bytes()
    two = write_draws_h5(some_draws(), tmp_path / "two.h5").read_bytes()
    assert one == two


def test_plain_h5py_reads_a_parameter_with_its_unit(tmp_path):
    draws = some_draws()
    with h5py.File(write_draws_h5(draws, tmp_path / "draws.h5")) as file:
        assert file["zeta"].attrs["unit"] == "1/h"
        np.testing.assert_array_equal(file["scope/mu"][()], draws.theta[:, 2].numpy())


def test_a_name_that_cannot_stand_beside_the_others_is_refused_and_leaves_nothing(tmp_path):
    for names in [("log_weight",), ("a", "a/b")]:
        draws = Draws(names, ("",) * len(names), torch.zeros(4, len(names)), torch.zeros(4))
        with pytest.raises(ValueError, match="rename it in the prior"):
            write_draws_h5(draws, tmp_path / "draws.h5")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_draws_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no draws at"):
        read_draws_h5(tmp_path / "none.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = 1.0
    with pytest.raises(ValueError, match="holds no draws"):
        read_draws_h5(tmp_path / "other.h5")
    path = write_draws_h5(some_draws(), tmp_path / "newer.h5")
    with h5py.File(path, "a") as file:
        file.attrs["schema"] = 99
    with pytest.raises(ValueError, match="update sciinf"):
        read_draws_h5(path)


def test_a_changed_draw_unit_or_evidence_is_refused(tmp_path):
    for name, change in (
        ("draw", lambda file: file["zeta"].__setitem__(7, 0.5)),
        ("weight", lambda file: file["log_weight"].__setitem__(0, 0.5)),
        ("unit", lambda file: file["zeta"].attrs.__setitem__("unit", "h")),
        ("evidence", lambda file: file.attrs.__setitem__("log_evidence", -3.0)),
        ("order", lambda file: file.attrs.__setitem__("names", ["alpha", "zeta", "scope/mu"])),
    ):
        path = write_draws_h5(some_draws(log_evidence=-3.25), tmp_path / f"{name}.h5")
        with h5py.File(path, "a") as file:
            change(file)
        with pytest.raises(ValueError, match=rf"{name}\.h5 is damaged: its draws do not have the hash"):
            read_draws_h5(path)


def test_draws_of_older_versions_are_read_and_said_to_be_unchecked(tmp_path):
    path = write_draws_h5(some_draws(), tmp_path / "draws.h5")
    with h5py.File(path, "a") as file:
        del file.attrs["content"]
    with pytest.warns(UserWarning, match=r"draws\.h5 carries no hash"):
        assert torch.equal(read_draws_h5(path).theta, some_draws().theta)


def test_damage_is_reported(tmp_path):
    path = write_draws_h5(some_draws(), tmp_path / "draws.h5")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        read_draws_h5(path)
    path.write_bytes(whole)
    with h5py.File(path, "a") as file:
        del file["alpha"]
    with pytest.raises(ValueError, match="damaged"):
        read_draws_h5(path)
