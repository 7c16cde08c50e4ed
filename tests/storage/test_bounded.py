"""Whole numbers within a bound: how far off, and how small."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciinf.campaigns.storage import bounded
from sciinf.campaigns.storage.bounded import LARGEST, decoded, encoded, nearest, not_negative, relative

KINDS = {
    "zeros": lambda draw, shape: np.zeros(shape, np.int64),
    "constant": lambda draw, shape: np.full(shape, 2**60),
    "small": lambda draw, shape: draw.integers(-5, 6, shape),
    "all": lambda draw, shape: draw.integers(-LARGEST // 2, LARGEST // 2, shape),
    "smooth": lambda draw, shape: np.rint(2e5 * np.sin(np.arange(math.prod(shape)) / 9))
    .astype(np.int64)
    .reshape(shape),
    "rare": lambda draw, shape: np.where(draw.random(shape) < 0.02, LARGEST, 0),
    "heavy": lambda draw, shape: np.clip(50 * draw.standard_t(1, shape), -(2.0**30), 2.0**30).astype(np.int64),
}


def off(values, bound):
    """The largest error."""
    again = decoded(encoded(values, bound), values.shape, bound)
    return int(np.abs(again - values).max()) if values.size else 0


def waves(*shape, seed=0, scale=3000.0):
    """Periodic, of few waves, that move from frame to frame where the second axis is longer than 1."""
    draw = np.random.default_rng(seed)
    batch, frames, *space = shape
    places = np.stack(np.meshgrid(*(2 * np.pi * np.arange(n) / n for n in space), indexing="ij"))
    found = np.zeros(shape)
    for _ in range(6):
        k, phase, speed = draw.integers(-3, 4, len(space)), draw.random((batch, 1)), draw.normal()
        turn = 2 * np.pi * phase + 0.3 * speed * np.arange(frames)
        found += np.cos(np.tensordot(k, places, 1) + turn[(..., *[None] * len(space))])
    return np.rint(scale * found).astype(np.int64)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    kind=st.sampled_from(sorted(KINDS)),
    bound=st.sampled_from([1, 2, 8, 128, 5000]),
    seed=st.integers(0, 1000),
)
def test_no_number_is_further_off_than_the_bound(shape, kind, bound, seed):
    assert off(KINDS[kind](np.random.default_rng(seed), tuple(shape)), bound) <= bound


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 5, 65), (2, 6, 16, 12), (40, 1), (1, 3, 17, 4, 9), (0, 3, 4), (2, 4, 0)])
def test_shapes_that_are_and_are_not_powers_of_two(shape):
    for kind in KINDS.values():
        assert off(kind(np.random.default_rng(1), shape), 128) <= 128


def test_the_same_numbers_give_the_same_bytes():
    values = waves(3, 5, 32, 32)
    assert encoded(values, 128) == encoded(values.copy(), 128)


def test_numbers_that_span_too_much_are_refused():
    with pytest.raises(ValueError, match="span 2,147,483,649, at most 2,147,483,648"):
        encoded(np.array([[0], [LARGEST + 1]]), 8)


def test_errors_that_are_not_fed_back_are_found(monkeypatch):
    right = bounded._Telling.bins

    def from_true_numbers(self, where, base, features, marks):
        n = right(self, where, base, features, marks)[1]
        return self.values[where] - (2 * self.bound + 1) * n, n

    values = waves(2, 3, 32, 32)
    assert off(values, 128) <= 128
    monkeypatch.setattr(bounded._Telling, "bins", from_true_numbers)
    with pytest.raises((AssertionError, ValueError)):  # the decoder may run out of words
        assert off(values, 128) <= 128


def test_a_file_of_the_first_version_is_read():
    # 12 numbers 1000 k^2 - 50 k, (2, 1, 6), bound 20: as they were written when the format was made
    wanted = np.array([1000 * k * k - 50 * k for k in range(12)]).reshape(2, 1, 6)
    found = decoded(bytes.fromhex(FIRST), (2, 1, 6), 20)
    assert np.abs(found - wanted).max() <= 20
    assert found.ravel().tolist() == READ


READ = [-4, 965, 3912, 8857, 15781, 24750, 35707, 48653, 63587, 80551, 99503, 120454]
FIRST = (
    "41eb000000000000000100000008000000000000005d000000000000000900000000000000100000000000000078da030000"
    "00000178daedd6b10d002008044096b0b7760a96704a97b4710613e52e61814f1e8800000000003e95220000000000000000"
    "0078548aa0b47e06ec9772d6984d0a1a4ae1fbef03000000000000000000000000000000000000b86603317a02c015020e1e"
    "95d74e892078daabe4660083d52c101a000db90134d6ea6800"
)


# --- how small ------------------------------------------------------------------------------------------------------


def test_cubics_cost_little():
    x, roots = np.arange(257) / 256, np.random.default_rng(0).random((32, 3, 1))
    cubics = np.rint(1.5e9 * np.prod(x - roots, axis=1)).astype(np.int64)[:, None]
    assert 8 * len(encoded(cubics, 128)) < 7 * cubics.size  # 13 by straight lines, 9 without what is fitted


def test_frames_that_do_not_change_cost_hardly_anything():
    one = np.rint(3000 * np.random.default_rng(0).normal(size=(4, 1, 48, 48))).astype(np.int64)
    assert len(encoded(np.repeat(one, 5, axis=1), 128)) < 1.3 * len(encoded(one, 128))


def test_what_meets_itself_at_the_edges_costs_less(monkeypatch):
    values = waves(8, 1, 32, 32)
    assert bounded._wraps(values) == (True, True)
    ramp = values + 3000 * np.arange(32)
    assert bounded._wraps(ramp) == (True, False)
    small = len(encoded(values, 128))
    monkeypatch.setattr(bounded, "_wraps", lambda values: (False, False))
    assert small < 0.9 * len(encoded(values, 128))


def test_bits_are_spent_where_the_numbers_need_them():
    values = 257 * np.random.default_rng(0).integers(-20, 21, (1, 1, 128, 256))
    noisy = len(encoded(values[..., :128], 128))
    values[..., 128:] = 0
    assert len(encoded(values, 128)) < 1.1 * noisy
    numbers = -(-(values + 128) // 257)
    _, counts = np.unique(numbers, return_counts=True)
    mixed = -(counts * np.log2(counts / numbers.size)).sum() / 8  # bytes, where no part is told from another
    assert noisy < mixed


def test_waves_cost_less_than_by_a_plain_compressor():
    values = waves(8, 5, 32, 32)
    plain = np.rint(values / 257).astype(np.int16)
    assert len(encoded(values, 128)) < 0.4 * len(zlib.compress(plain.tobytes(), 9))


# --- the fits -------------------------------------------------------------------------------------------------------


def test_fits_find_the_coefficients():
    draw = np.random.default_rng(0)
    features = [draw.integers(-(2**30), 2**30, 4000) for _ in range(3)]
    wanted = (0.5 * features[0] - 1.25 * features[1]).astype(np.int64)
    np.testing.assert_allclose(nearest(features, wanted), [0.5, -1.25, 0.0], atol=1e-3)
    found = not_negative(features, wanted)
    assert found[0] == pytest.approx(0.5, abs=0.1)
    assert found[1] == 0
    assert min(found) >= 0


def test_fits_in_proportion_are_not_ruled_by_the_largest():
    draw = np.random.default_rng(0)
    quiet, ones = np.repeat([1, 0], 4000) * draw.integers(50, 150, 8000), np.full(8000, 10)
    loud = np.repeat([0, 1], 4000) * draw.integers(50_000, 150_000, 8000)
    wanted = 3 * quiet + loud * np.repeat([0, 1], 4000) + 100_000 * np.repeat([0, 1], 4000)
    plain, found = not_negative([quiet, loud, ones], wanted), relative([quiet, loud, ones], wanted, 10)
    assert abs(found[0] - 3) < 0.3
    assert abs(plain[0] - 3) > 1  # the fault


def test_fits_do_not_depend_on_the_order_of_adding():
    draw = np.random.default_rng(0)
    features = [draw.integers(-(2**33), 2**33, 300_000) for _ in range(4)]
    wanted, order = draw.integers(-(2**33), 2**33, 300_000), draw.permutation(300_000)
    assert nearest(features, wanted) == nearest([one[order] for one in features], wanted[order])
    plain = [float((one * 1.0) @ wanted) for one in features]  # the fault: sums of floats
    assert plain != [float((one[order] * 1.0) @ wanted[order]) for one in features]
