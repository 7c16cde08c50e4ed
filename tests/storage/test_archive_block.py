"""Numbers of a block: within the tolerance whatever they are, in their range, in their places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sciinf.campaigns.storage.archive_block import packed, stepped, unpacked
from sciinf.core import Observable, Outcome, Prior


def through(values, spec, tolerance):
    """Numbers that were kept and read back, and how; checked against the tolerance."""
    rows, kept = len(values), {"v": stepped(tolerance, float(values.min()), float(values.max()), spec)}
    outcome = Outcome({"v": torch.from_numpy(values)}, torch.zeros(rows, dtype=torch.uint8))
    parts = packed(torch.zeros(rows, 0), outcome, {"v": spec}, kept)
    again = unpacked(b"".join(parts), list(map(len, parts)), rows, Prior.none(), {"v": spec}, kept)[1].x["v"].numpy()
    off = np.abs(values.astype(np.longdouble) - again.astype(np.longdouble)).max()
    assert off <= (kept["v"].tolerance if kept["v"].bound else 0)
    assert again.dtype == values.dtype
    assert values.min() <= again.min() <= again.max() <= values.max()
    return kept["v"], again


@settings(max_examples=80, deadline=None)
@given(
    values=st.sampled_from([np.float32, np.float64]).flatmap(
        lambda kind: arrays(
            kind,
            st.tuples(st.integers(1, 5), st.integers(1, 12)),
            elements=st.floats(allow_nan=False, allow_infinity=False, width=np.dtype(kind).itemsize * 8),
        )
    ),
    share=st.sampled_from([0.3, 1e-2, 1e-5, 1e-9, 1e-15]),
)
def test_no_number_is_off_by_more_than_the_tolerance(values, share):
    span = share * float(values.max()) - share * float(values.min())
    if span > 0:
        through(values, Observable(values.shape[1:], dtype=str(values.dtype)), span)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-38, 0.0), (3.4e38, 0.0), (1.0, 1e4), (1e-3, 1e4)])
@pytest.mark.parametrize("share", [1e-2, 1e-6])
def test_single_precision_at_its_edges(scale, offset, share):
    draw = np.random.default_rng(0)
    values = (offset + scale * np.clip(draw.normal(size=(20, 16)) / 3, -1, 1)).astype("f4")
    kept, again = through(values, Observable((16,)), share * 2 * scale)
    if not kept.bound:  # finer than rounding: 1e4 has steps of 1e-3
        assert share * 2 * scale < 4 * np.spacing(np.abs(values).max())
        assert (again == values).all()


def test_a_tolerance_finer_than_rounding_keeps_numbers_exactly():
    values = np.random.default_rng(0).normal(size=(30, 4)).astype("f4")
    assert through(values, Observable((4,)), 1e-7)[0].bound == 0
    assert through(values, Observable((4,)), 1e-5)[0].bound == 128
    assert through(values.astype("f8"), Observable((4,), dtype="float64"), 1e-7)[0].bound > 0


@pytest.mark.parametrize("steps", [0.3, 0.7, 1.0, 1.7, 5.0, 40.0])
def test_rounding_to_single_precision_is_counted(steps):
    values = (1e4 + np.random.default_rng(0).normal(size=(200, 8))).astype("f4")
    kept, _ = through(values, Observable((8,)), steps * float(np.spacing(np.float32(1e4))))
    assert bool(kept.bound) == (steps > 3)


def test_values_that_cannot_be_negative_do_not_become_so():
    values = np.random.default_rng(0).exponential(size=(50, 8)).astype("f4") ** 4
    kept, again = through(values, Observable((8,), scale="log"), 0.5)
    assert kept.bound
    assert again.min() >= values.min() > 0


def test_axes_come_back_in_their_places():
    draw = np.random.default_rng(0)
    for dims in (
        ("time", "channel", "y", "x"),
        ("x", "time", "item", "y"),
        ("item", "channel", "a", "time"),
        ("y", "x", "time", "item"),
        (),
    ):
        values = draw.normal(size=(3, 2, 5, 4, 3)).astype("f4")
        through(values, Observable((2, 5, 4, 3), dims=dims), 1e-2)
    through(draw.normal(size=(6, 7)).astype("f4"), Observable((7,), dims=("time",)), 1e-2)
    through(draw.normal(size=(6,)).astype("f4"), Observable(()), 1e-2)
    through(draw.normal(size=(2, 2, 3, 2, 3, 4)).astype("f4"), Observable((2, 3, 2, 3, 4)), 1e-2)
