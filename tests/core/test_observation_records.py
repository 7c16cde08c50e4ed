"""Records at their own length: padded and masked as the simulator has them, or refused with the way out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy import units
from astropy.table import Column

from sciinf import Observable
from sciinf.core.observation import as_observation, read_observation

TIMES = {"t": Observable((6,), "s", ("event",)), "t_mask": Observable((6,), dims=("event",), dtype="bool")}
SOURCES = {
    "flux": Observable((5,), "mJy", ("item",)),
    "flux_mask": Observable((5,), dims=("item",), dtype="bool"),
    "place": Observable((5, 2), "", ("item", "axis")),
    "place_mask": Observable((5,), dims=("item",), dtype="bool"),
}


@pytest.mark.parametrize("given", [[1.0, 2.0, 4.0], np.array([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 4.0])])
def test_an_array_of_its_own_length_is_padded_and_masked(given):
    x = as_observation(TIMES, {"t": given})
    assert x["t"].tolist() == [[1.0, 2.0, 4.0, 0.0, 0.0, 0.0]]
    assert x["t_mask"].tolist() == [[True] * 3 + [False] * 3]
    assert x["t"].dtype == torch.float32


def test_its_unit_is_converted():
    assert as_observation(TIMES, {"t": np.array([1.0, 2.0]) * units.min})["t"][0, :2].tolist() == [60.0, 120.0]


def test_the_unit_of_a_column_is_converted():
    column = Column([1.0, 2.0], unit="min")
    assert as_observation(TIMES, {"t": column})["t"][0, :3].tolist() == [60.0, 120.0, 0.0]


def test_columns_side_by_side_and_an_axis_beside_them(tmp_path):
    file = tmp_path / "sources.csv"
    file.write_text("flux [Jy],place_0,place_1\n0.001,1,2\n0.002,3,4\n")
    x = read_observation(SOURCES, file)
    assert x["place"].tolist()[:2] == [[1.0, 2.0], [3.0, 4.0]]
    assert torch.equal(x["place_mask"], x["flux_mask"])
    file.write_text("event,t\n0,1.5\n1,2.5\n")
    assert read_observation(TIMES, file)["t"].tolist()[:2] == [1.5, 2.5]


def test_columns_of_one_record_have_one_length():
    with pytest.raises(ValueError, match="'flux' has 2 values along 'item', but 'place' has 3"):
        as_observation(SOURCES, {"flux": [1.0, 2.0], "place": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})


def test_nothing_at_all_and_a_leading_axis():
    assert not as_observation(TIMES, {"t": []})["t_mask"].any()
    assert as_observation(TIMES, {"t": [[1.0, 2.0]]})["t"][0, :2].tolist() == [1.0, 2.0]


def test_columns_of_a_table_are_padded_alike(tmp_path):
    file = tmp_path / "sources.csv"
    file.write_text("flux [Jy],place_0,place_1\n0.001,1,2\n0.002,3,4\n")
    x = read_observation({k: v for k, v in SOURCES.items() if k.startswith("flux")}, file)
    assert x["flux"].tolist() == [1.0, 2.0, 0.0, 0.0, 0.0]
    assert x["flux_mask"].tolist() == [True, True, False, False, False]
    assert x.read[0] == "flux: 2 values, room for 5, Jy -> mJy"
    whole = as_observation(SOURCES, {"flux": [1.0, 2.0], "place": [[1.0, 2.0], [3.0, 4.0]]})
    assert whole["place"][0, :2].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert torch.equal(whole["place_mask"], whole["flux_mask"])


@pytest.mark.parametrize("suffix", ["npz", "csv", "npy"])
def test_files_of_a_record(tmp_path, suffix):
    file = tmp_path / f"record.{suffix}"
    if suffix == "npz":
        np.savez(file, t=np.array([1.0, 2.0]))
    elif suffix == "npy":
        np.save(file, np.array([1.0, 2.0]))
    else:
        file.write_text("t\n1\n2\n")
    x = read_observation(TIMES, file)
    assert x["t"].tolist() == [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    assert int(x["t_mask"].sum()) == 2


def test_beside_a_file_of_the_mask_that_of_the_data_has_its_name(tmp_path):
    for name in ("t", "cell"):
        np.save(tmp_path / f"{name}.npy", np.arange(6.0))
    np.save(tmp_path / "t_mask.npy", np.arange(6) < 4)
    assert int(read_observation(TIMES, tmp_path / "t.npy", tmp_path / "t_mask.npy")["t_mask"].sum()) == 4
    with pytest.raises(ValueError, match=r"no column 't' in .*found \['cell', 't_mask'\]"):
        read_observation(TIMES, tmp_path / "cell.npy", tmp_path / "t_mask.npy")


def test_a_mask_that_is_given_decides():
    mask = np.array([True, False, True, False, False, False])
    assert as_observation(TIMES, {"t": np.arange(6.0), "t_mask": mask})["t_mask"].tolist() == [mask.tolist()]
    with pytest.raises(ValueError, match=r"missing: \['t_mask'\]"):  # nobody said that all of them are there
        as_observation(TIMES, {"t": np.arange(6.0)})


def test_what_cannot_be_padded_names_masks(tmp_path):
    with pytest.raises(ValueError, match="make room for the longest"):
        as_observation(TIMES, {"t": np.arange(9.0), "t_mask": np.ones(9, bool)})
    with pytest.raises(ValueError, match=r"an observable NAME_mask \(bool\)"):
        as_observation({"t": Observable((6,))}, {"t": np.arange(4.0)})
    channels = {name: replace(spec, dims=("frequency",)) for name, spec in TIMES.items()}
    with pytest.raises(ValueError, match="missing"):  # and which of the frequencies
        as_observation(channels, {"t": np.arange(4.0)})
    series = {"v": Observable((6,), dims=("time",)), "v_mask": Observable((6,), dims=("time",), dtype="bool")}
    with pytest.raises(ValueError, match="missing"):  # which of the six times are missing matters
        as_observation(series, {"v": np.arange(4.0)})
