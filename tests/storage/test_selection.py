"""Rows read past HDF5: where arrays lie in a file, and what is left to HDF5."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf.campaigns.storage.folder import LocalFolder
from sciinf.campaigns.storage.place import FileRange
from sciinf.campaigns.storage.selection import Part, empty, layouts, read_rows
from sciinf.campaigns.storage.shard import write_shard
from sciinf.core import Observable, Outcome, Prior

ROWS = 2_500  # three chunks
PRIOR = Prior(a=td.Normal(0.0, 1.0))
OBSERVABLES = {"v": Observable((3, 2)), "scalar": Observable(dtype="float64"), "n": Observable((2,), dtype="int64")}


@pytest.fixture(params=[0, 1536])
def file(tmp_path, request):
    """A file of its own, or one that begins somewhere in another."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(ROWS, 1, generator=generator)
    x = {
        "v": torch.randn(ROWS, 3, 2, generator=generator),
        "scalar": torch.randn(ROWS, generator=generator, dtype=torch.float64),
        "n": torch.randint(100, (ROWS, 2), generator=generator),
    }
    image, _ = write_shard(PRIOR, OBSERVABLES, "campaign", 0, theta, Outcome(x))
    (tmp_path / "shard.h5").write_bytes(bytes(request.param) + image + b"beyond" * bool(request.param))
    start, size = request.param, len(image) if request.param else None
    return FileRange(LocalFolder(tmp_path), "shard.h5", start, size), theta, x


def test_floats_lie_in_the_file_as_in_memory(file):
    place, theta, x = file
    found = layouts(place, empty(0, PRIOR, OBSERVABLES))
    assert set(found) == {"theta", "x/v", "x/scalar"}  # integers are compressed
    data = place.data()
    for name, value in (("theta", theta), ("x/v", x["v"]), ("x/scalar", x["scalar"])):
        assert (found[name].total, found[name].chunk, len(found[name].offsets)) == (ROWS, 1024, 3)
        for offset, chunk in zip(found[name].offsets, value.split(1024), strict=True):
            raw = chunk.numpy().tobytes()
            assert data[offset : offset + len(raw)] == raw


@pytest.mark.parametrize(("start", "stop"), [(0, ROWS), (1_023, 1_025), (2_047, 2_500), (7, 8)])
def test_what_the_file_cannot_tell_is_read_by_hdf5(file, start, stop):
    place, theta, x = file
    into, part = empty(stop - start + 1, PRIOR, OBSERVABLES), Part(0, start, stop, None, stop - start)
    for found in (layouts(place, into), {}):
        read_rows(place, found, part, into, 1)
        assert torch.equal(into.theta[1:], theta[start:stop])
        assert all(torch.equal(into.x[name][1:], value[start:stop]) for name, value in x.items())


def test_a_short_file_is_noticed(file):
    place, _, _ = file
    into = empty(ROWS, PRIOR, OBSERVABLES)
    found = layouts(place, into)
    size = place.start + found["x/v"].offsets[-1] + 100
    place.path.write_bytes(place.path.read_bytes()[:size])  # the planted fault
    with pytest.raises(ValueError, match="it ends before row 2500"):
        read_rows(place, {name: found[name] for name in ("theta", "x/v")}, Part(0, 0, ROWS, None, ROWS), into, 0)
