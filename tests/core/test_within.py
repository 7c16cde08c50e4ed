"""Files of blocks that lead out of themselves, or promise more than they can hold, are refused."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sciinf.campaigns.storage.folder import LocalFolder
from sciinf.campaigns.storage.place import FileRange
from sciinf.campaigns.storage.selection import Batch, Part, layouts, read_rows
from sciinf.campaigns.storage.shard import read_shard
from sciinf.core.draws import Draws
from sciinf.core.observable import Observable
from sciinf.core.paths import HiddenPaths
from sciinf.core.within import own_dataset
from sciinf.interfaces.draws_file import read_draws_h5, write_draws_h5
from sciinf.interfaces.paths_file import read_paths, write_paths
from sciinf.interfaces.predictive_file import Predicted, read_predictive, write_predictive
from sciinf.interfaces.surveys.block import read_block


def image_of(fault, path):
    """A file in whose dataset `theta` there is a fault."""
    (path / "secret.bin").write_bytes(np.arange(5.0).tobytes())
    with h5py.File(path / "other.h5", "w") as other:
        other["theta"] = np.arange(5.0)
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs.update({"schema": 1, "block": 0, "survey": "s"})
        file["status"], file["messages/row"] = np.zeros(5, np.uint8), np.zeros(0, np.int64)
        file["messages/text"] = np.array([], dtype=h5py.string_dtype())
        if fault == "external":
            file.create_dataset("theta", (5,), "f8", external=[(str(path / "secret.bin"), 0, 40)])
        elif fault == "linked":
            file["theta"] = h5py.ExternalLink(str(path / "other.h5"), "/theta")
        elif fault == "virtual":
            layout = h5py.VirtualLayout((5,), "f8")
            layout[:] = h5py.VirtualSource(str(path / "other.h5"), "theta", (5,))
            file.create_virtual_dataset("theta", layout)
        elif fault == "huge":
            file.create_dataset("theta", (2**36,), "f8", chunks=(2**10,), compression="gzip")
        elif fault == "empty":
            file["theta"] = h5py.Empty("f8")
        else:
            file.create_dataset("theta", data=np.zeros(10**6), compression="gzip")
    return image.getvalue()


FAULTS = {
    "external": "lie in other files",
    "linked": "a link to another place or file",
    "virtual": "lie in other files",
    "huge": "promises more numbers",
    "empty": "is no array",
}


@pytest.mark.parametrize(("fault", "words"), FAULTS.items())
def test_what_leads_out_of_a_file_is_refused(tmp_path, fault, words) -> None:
    data = image_of(fault, tmp_path)
    with pytest.raises(OSError, match=words):
        read_shard(data, {})
    (tmp_path / "block.h5").write_bytes(data)
    place = FileRange(LocalFolder(tmp_path), "block.h5")
    batch = Batch(torch.zeros(5, 1, dtype=torch.float64), {})
    for found in (layouts, lambda place, batch: read_rows(place, {}, Part(0, 0, 5, None, 5), batch, 0)):
        with pytest.raises(OSError, match=words):
            found(place, batch)
    sealed = data + hashlib.sha256(data).digest()
    if fault == "linked":  # which HDF5 does not list
        assert "theta" not in read_block(sealed, 0, "s").columns
        return
    with pytest.raises(ValueError, match=words):
        read_block(sealed, 0, "s")


def test_what_packs_well_is_read(tmp_path) -> None:
    data = image_of("", tmp_path)
    assert len(data) < 8 * 10**6 / 200
    with h5py.File(io.BytesIO(data), "r") as file:
        assert own_dataset(file, "theta").shape == (10**6,)
        with pytest.raises(KeyError, match="there is no 'x/y'"):
            own_dataset(file, "x/y")


@pytest.mark.parametrize("fault", ["external", "linked", "virtual"])
def test_files_of_answers_that_lead_out_of_themselves_are_refused(tmp_path, fault) -> None:
    """Draws, paths and predictions: each dataset in turn lies elsewhere, and what is there is not read."""
    paths = HiddenPaths(("level",), np.zeros((2, 5, 1), np.float32), np.arange(5.0), ("",), "s")
    predicted = {"v": np.ones(5)}, {"v": np.ones((2, 5))}, {"v": Observable((5,), dims=("t",), coords={"t": [1.0] * 5})}
    write_paths(tmp_path / "paths.h5", paths)
    write_predictive(tmp_path / "predictive.h5", Predicted(*predicted, theta=np.ones((2, 1))))
    write_draws_h5(Draws(("a",), ("",), torch.zeros(5, 1), torch.zeros(5)), tmp_path / "draws.h5")
    readers = {"paths": read_paths, "predictive": read_predictive, "draws": read_draws_h5}
    for what, read in readers.items():
        file = tmp_path / f"{what}.h5"
        whole = file.read_bytes()
        read(file)
        for name in datasets_of(file):
            file.write_bytes(whole)
            moved_out(file, name, fault, tmp_path)
            with pytest.raises((OSError, ValueError), match=FAULTS[fault]):
                read(file)


def test_a_group_that_is_a_link_is_refused(tmp_path) -> None:
    file = tmp_path / "predictive.h5"
    write_predictive(file, Predicted({"v": np.ones(5)}, {}, {"v": Observable((5,))}))
    with h5py.File(tmp_path / "other.h5", "w") as other, h5py.File(file, "r+") as own:
        own.copy("observation", other)
        del own["observation"]
        own["observation"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/observation")
    with pytest.raises(OSError, match="'observation' is a link to another place or file"):
        read_predictive(file)


def datasets_of(path):
    found = list[str]()
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    assert found
    return found


def moved_out(path, name, fault, folder):
    """Put a dataset's numbers, its attributes kept, into another file."""
    with h5py.File(path, "r+") as opened, h5py.File(folder / "elsewhere.h5", "w") as other:
        file: Any = opened
        file.copy(name, other, "values")
        values, attributes = file[name][()], dict(file[name].attrs)
        del file[name]
        if fault == "linked":
            file[name] = h5py.ExternalLink(str(folder / "elsewhere.h5"), "/values")
            return
        if fault == "external":
            (folder / "elsewhere.bin").write_bytes(values.tobytes())
            outside = [(str(folder / "elsewhere.bin"), 0, values.nbytes)]
            file.create_dataset(name, values.shape, values.dtype, external=outside)
        else:
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[:] = h5py.VirtualSource(str(folder / "elsewhere.h5"), "values", values.shape)
            file.create_virtual_dataset(name, layout)
        file[name].attrs.update(attributes)
