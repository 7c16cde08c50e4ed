"""Files of blocks that lead out of themselves, or promise more than they can hold, are refused."""

from __future__ import annotations

import hashlib
import io

import h5py
import numpy as np
import pytest
import torch

from sciinf.storage.folder import Local
from sciinf.storage.place import Place
from sciinf.storage.selection import Batch, Part, layouts, read_rows
from sciinf.storage.shard import read_shard
from sciinf.storage.within import own_dataset
from sciinf.surveys.block import read_block


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
    place = Place(Local(tmp_path), "block.h5")
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
