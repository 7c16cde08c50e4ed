"""Least squares of whole numbers, the same to the last bit on every machine.

Sums of products are exact: numbers are cut to 16 bits, and 2^20 products of 2^32 fit in the 53 bits of a float64, so
that no order of adding them matters. The normal equations are solved one operation at a time, in plain Python, whose
floats are those of IEEE 754 everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_SAMPLE = 2**20  # numbers that a fit sees


def nearest(features: Sequence[np.ndarray], wanted: np.ndarray) -> list[float]:
    """Coefficients of the combination of features, int64 arrays of one shape, that is nearest to what is wanted."""
    return _solved(*_products(features, wanted))


def not_negative(features: Sequence[np.ndarray], wanted: np.ndarray) -> list[float]:
    """The same without features whose coefficients come out negative, until none does."""
    square, right = _products(features, wanted)
    kept = list(range(len(right)))
    while True:
        found = _solved([[square[i][j] for j in kept] for i in kept], [right[i] for i in kept])
        if not kept or min(found) >= 0:
            told = dict(zip(kept, found, strict=True))
            return [told.get(k, 0.0) for k in range(len(right))]
        kept = [k for k, one in zip(kept, found, strict=True) if one > 0]


def relative(features: Sequence[np.ndarray], wanted: np.ndarray, least: int) -> list[float]:
    """As `not_negative`, of errors in proportion to what a first fit says, plus `least`; nothing may be negative."""
    about = np.full(wanted.shape, least << 10, dtype=np.int64)
    for one, feature in zip(not_negative(features, wanted), features, strict=True):
        about += min(round(one * 2**10), 2**58 // max(1, int(feature.max()))) * feature  # below 2^63 in all
    about >>= 10
    return not_negative([(one << 10) // about for one in features], (wanted << 10) // about)


def _products(features: Sequence[np.ndarray], wanted: np.ndarray) -> tuple[list[list[float]], list[float]]:
    """Sums of products, of features with each other and with what is wanted."""
    every = -(-wanted.size // _SAMPLE)
    rough = np.stack([_cut(one.ravel()[::every]) for one in (*features, wanted)])
    found = (rough @ rough.T).tolist()
    return [row[:-1] for row in found[:-1]], [row[-1] for row in found[:-1]]


def _cut(numbers: np.ndarray) -> np.ndarray:
    """Their leading 16 bits."""
    over = max(0, int(np.abs(numbers).max()).bit_length() - 16)
    return (numbers >> over).astype(np.float64) * 2.0**over


def _solved(square: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """x of (A + a little) x = b for a symmetric A that is not negative, in an order of operations that is fixed."""
    n = len(right)
    rows = [[*square[i], right[i]] for i in range(n)]
    for k in range(n):
        rows[k][k] += 1e-3 + 1e-7 * rows[k][k]
    for k in range(n):
        for i in range(k + 1, n):
            times = rows[i][k] / rows[k][k]
            rows[i] = [a - times * b for a, b in zip(rows[i], rows[k], strict=True)]
    found = [0.0] * n
    for k in reversed(range(n)):
        found[k] = (rows[k][n] - math.fsum(rows[k][j] * found[j] for j in range(k + 1, n))) / rows[k][k]
    return found
