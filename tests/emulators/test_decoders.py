"""Decoders by themselves: what their grids of features are."""

from __future__ import annotations

import pytest
import torch

from sciinf.emulators.decoders import Query, _twice
from sciinf.emulators.encoders import places
from sciinf.simulators.dynamics.grid import BoxGrid, interpolated


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_grids_of_features_are_made_finer_by_linear_interpolation(axes, edges):
    coarse, fine = ((n,) * axes for n in (5, 10))
    fields = torch.randn(2, 3, *coarse, generator=torch.Generator().manual_seed(0))
    grid = BoxGrid(coarse, (1.0,) * axes, periodic=not edges)
    known = interpolated(grid, fields.reshape(1, 6, *coarse), places(fine, edges=edges)[None])
    assert torch.allclose(_twice(fields, edges).reshape(1, 6, -1), known, atol=1e-6)


@pytest.mark.parametrize(("space", "points"), [((128,), [8, 16, 32, 64]), ((32, 32), [8, 16, 32]), ((8, 12), [8, 16])])
def test_grids_end_with_the_first_that_has_as_many_points_as_the_longest_direction(space, points):
    network = Query().build(1, space, 4, edges=False)
    assert [grid.shape[0] for grid in network.grids] == points
    assert network(torch.randn(3, 4), places(space, edges=False)).shape == (3, 1, len(places(space, edges=False)))
