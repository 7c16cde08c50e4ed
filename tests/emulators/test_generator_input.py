"""What is given to a generator in a layout that does not fit."""

from __future__ import annotations

import pytest
from emulators.test_generator import built, generator, ready, rows_of, world

from sciinf.core import Batch


def test_layouts_that_do_not_fit_are_told():
    rows = rows_of(world())
    law = ready(built(world()), rows)
    for theta, x, says in (
        (rows.theta[:, :1], rows.x, r"theta has shape \(24, 1\): \(batch, 2\) is needed, a column for each of"),
        (rows.theta[0], rows.x, r"theta has shape \(2,\)"),
        (rows.theta, {}, "'initial' is missing: the generator needs the fields initial"),
        (rows.theta, {"initial": rows.x["initial"][..., :8]}, r"'initial' has shape \(24, 1, 8\): \(batch, 1, 16\)"),
    ):
        with pytest.raises(ValueError, match=says):
            law.draw(theta, x, generator=generator())
    other = Batch(rows.theta, {**rows.x, "initial": rows.x["initial"] + 1})
    with pytest.raises(ValueError, match=r"first frame of 'u' is not 'initial', .* give Frame\(-1\)"):
        ready(built(world()), other)
