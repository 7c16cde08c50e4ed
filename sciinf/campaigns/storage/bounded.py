r"""Compress arrays of whole numbers with a bound T on each error, in few bits. Decoding uses integers alone.

Numbers U are visited from coarse to fine. Each number is predicted from known numbers *as they will be read back*, R.
The encoder stores how many bins of width 2 T + 1 a number is away from its prediction P,

    n = floor((U - P + T) / (2 T + 1)),     R = P + (2 T + 1) n,     |U - R| <= T.

**Order.** Frame 0 comes first, then every 2^k-th frame, ..., then every second frame. In a frame the grid of spacing 2
s is refined to the grid of spacing s, s = ..., 4, 2, 1. The points come first that are between known points along one
axis, then those along two.

**Prediction.** Along an axis a point lies between its neighbours a and b, beyond which are a' and b'. The base is the
cubic through them, B = (9 (a + b) - (a' + b')) / 16. B is averaged over the axes along which the point lies between
known points. A linear combination of differences is added to B. This combination is fitted by least squares, and its
coefficients are stored. The differences are: cubic from linear prediction; one axis from another axis; and three for
each known neighbouring frame. These three are the same differences in that frame, the base there from the base here,
and the truth there from its base.

**Contexts.** A second fit estimates how far off P may be, from the sizes of these differences and of the neighbouring
n. Numbers of one context have frequencies of their own in the entropy coder.

The decoder never uses floats, so its numbers are the same on every machine. The fits are also the same on every machine
(see below). So the encoded bytes are the same too, except for the parts that zlib compresses.

**Entropy coder.** Small whole numbers are stored in as few bits as their frequencies allow, by range asymmetric numeral
systems in many lanes. A symbol s has frequency f_s out of M = 2^14, and c_s is the sum of the frequencies before it.
The symbol changes a state x to

    x' = M (x div f_s) + c_s + (x mod f_s),

which adds log2(M / f_s) bits. States stay in [2^16, 2^32), and higher bits are written as words of 16 bits. The decoder
finds s from x' mod M and undoes the steps, last step first. So the encoder goes from the last symbol to the first.
Each symbol has a context, which both sides know before the symbol is decoded. Each context has its own frequencies.
Symbols are dealt to `lanes`, each with a state of its own, so that numpy computes a step of all lanes at once. The
coder uses only arithmetic of integers.

**Exact fits.** Least squares of whole numbers give the same result to the last bit on every machine. Sums of products
are exact: numbers are cut to 16 bits, and 2^20 products of 2^32 fit in the 53 bits of a float64. So the order of
addition does not matter. The normal equations are solved one operation at a time in plain Python, whose floats follow
IEEE 754 everywhere.

References:
    | Optimizing Error-Bounded Lossy Compression for Scientific Data by Dynamic Spline Interpolation (Zhao et al.,
      2021), https://doi.org/10.1109/ICDE51399.2021.00145
    | High-performance Effective Scientific Error-bounded Lossy Compression with Auto-tuned Multi-component
      Interpolation (Liu et al., 2023), https://arxiv.org/abs/2311.12133
    | Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression rate of arithmetic
      coding (Duda, 2013), https://arxiv.org/abs/1311.2540
    | Interleaved entropy coders (Giesen, 2014), https://arxiv.org/abs/1402.3392
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

LARGEST = 2**31
"""What the numbers may span: beyond it sums of products could leave 64 bits."""
_FRACTION = 20  # Most fractional bits of a coefficient.
_COARSE = 6  # Fractional bits of the sizes that contexts distinguish.
_FEW = 16  # Fewest points per coefficient for a fit.
_HEAD = struct.Struct("<qBI4Q")


@dataclass(frozen=True)
class _Grid:
    """Shape of the numbers, (batch, frame, *space), and for each axis of space whether it is periodic."""

    shape: tuple[int, ...]
    wraps: tuple[bool, ...]

    @property
    def space(self) -> tuple[int, ...]:
        return self.shape[2:]


@dataclass(frozen=True)
class _Pass:
    """Points that are predicted together: points of some frames that lie between known points along the axes `odd`."""

    frames: range
    beside: tuple[int, ...]  # Distances to the known frames beside these frames.
    step: int
    odd: tuple[int, ...]
    axes: int

    def at(self, shift: int = 0, even: int | None = None) -> tuple[slice, ...]:
        """Index of the points of the pass, in frames shifted by `shift`.

        With `even`, the index of the neighbours of these points along this axis of `odd`.
        """
        first = self.frames.start + shift
        frames = slice(first, first + len(self.frames) * self.frames.step, self.frames.step)
        starts = [self.step if axis in self.odd and axis != even else 0 for axis in range(self.axes)]
        return (slice(None), frames, *(slice(start, None, 2 * self.step) for start in starts))


def encoded(values: np.ndarray, bound: int) -> bytes:
    """Encode an array of whole numbers so that each decoded number is within a bound of the original.

    Args:
        values: Numbers, int64 (batch, frame, *space).
        bound: Largest error of a number, an integer of at least 1.

    Raises:
        ValueError: If the range of the numbers is larger than `LARGEST`.
    """
    if not values.size:
        return b""
    low, high = int(values.min()), int(values.max())
    if high - low > LARGEST:
        raise ValueError(f"the numbers span {high - low:,}, at most {LARGEST:,} can be kept")
    centre = (low + high) // 2
    numbers = values - centre
    grid, told = _Grid(values.shape, _wraps(numbers)), _Telling(numbers, bound)
    _visit(grid, bound, told)
    return told.written(centre, grid)


def decoded(data: bytes, shape: Sequence[int], bound: int) -> np.ndarray:
    """Decode what `encoded` wrote, an int64 array of the given shape. Shape and bound must be those of the encoder."""
    if not data:
        return np.zeros(tuple(shape), dtype=np.int64)
    told = _Told(data, bound)
    return _visit(_Grid(tuple(shape), told.wraps[: len(shape) - 2]), bound, told) + told.centre


def _wraps(values: np.ndarray) -> tuple[bool, ...]:
    """Whether each axis of space looks periodic: its last point is about as near its first as neighbours are."""
    found = []
    for axis in range(2, values.ndim):
        numbers, points = np.moveaxis(values, axis, 0), values.shape[axis]
        inside = sum(float(np.abs(b - a).sum()) for a, b in itertools.pairwise(numbers)) if points > 3 else 0.0
        across = float(np.abs(numbers[-1] - numbers[0]).sum())
        found.append(points > 3 and across * (points - 1) <= 2 * inside)
    return tuple(found)


def _visit(grid: _Grid, bound: int, told: _Numbers) -> np.ndarray:
    """Visit all points pass by pass; return the numbers as they will be read back."""
    known = np.zeros(grid.shape, dtype=np.int64)
    sizes = np.zeros(grid.shape, dtype=np.int64)  # Sizes of n, for the contexts of later points.
    width = 2 * bound + 1
    for step in _passes(grid):
        where = step.at()
        if known[where].size:
            base, features, marks = _look(known, sizes, grid, step, bound)
            predicted, n = told.bins(where, base, features, marks)
            known[where] = predicted + width * n
            sizes[where] = np.abs(n) * width
    return known


def _passes(grid: _Grid) -> Iterator[_Pass]:
    _, count, *space = grid.shape
    axes, top = len(space), 1
    while top < max(space, default=1):
        top *= 2
    for frames, beside in _frames(count):
        yield _Pass(frames, beside, top, (), axes)
        step = top // 2
        while step:
            for many in range(1, axes + 1):
                for odd in itertools.combinations(range(axes), many):
                    yield _Pass(frames, beside, step, odd, axes)
            step //= 2


def _frames(count: int) -> Iterator[tuple[range, tuple[int, ...]]]:
    """Yield frames that are predicted together, and the distances to known frames beside them."""
    yield range(min(1, count)), ()
    step = 1
    while 2 * step < count:
        step *= 2
    while step and count > 1:
        frames = range(step, count, 2 * step)
        between = range(step, max(step, count - step), 2 * step)
        if between:
            yield between, (-step, step)
        if len(frames) > len(between):
            yield frames[len(between) :], (-step,)
        step //= 2


def _look(
    known: np.ndarray, sizes: np.ndarray, grid: _Grid, step: _Pass, bound: int
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Base of the points of a pass, the differences that correct the base, and the sizes that choose the contexts."""
    here = known[step.at()]
    base, near, features = _between(known, grid, step, 0)
    marks, weighed = [], list(features)
    for axis in step.odd:
        left, right = _sides(sizes, grid, step, 0, axis, kept=True)[1:3]
        marks.append(left + right)
    marks += [np.abs(one - near[0]) for one in near[1:]]
    for shift in step.beside:
        (there, _, more), truth = _between(known, grid, step, shift), known[step.at(shift)]
        features += [truth - there, there - base, *more] if step.odd else [truth]
        weighed += [truth - there, there - base] if step.odd else [truth]
        marks.append(sizes[step.at(shift)])
    marks = [np.abs(one) for one in weighed] + marks
    marks.append(np.full(here.shape, bound, dtype=np.int64))
    return base, features, marks


def _between(
    known: np.ndarray, grid: _Grid, step: _Pass, shift: int
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Base of the points in shifted frames, sums of their two neighbours along each axis, and differences as features.

    The features are differences of the cubic from the linear prediction, and of axes from each other.
    """
    near, features = [], []
    total = np.zeros_like(known[step.at(shift)])
    for axis in step.odd:
        before, left, right, after = _sides(known, grid, step, shift, axis)
        near.append(left + right)
        far = before + after
        features.append(far - near[-1])
        total += 9 * near[-1] - far
    features += [one - near[0] for one in near[1:]]
    many = 16 * max(1, len(near))
    return (total + many // 2) // many, near, features


def _sides(
    array: np.ndarray, grid: _Grid, step: _Pass, shift: int, axis: int, *, kept: bool = False
) -> tuple[np.ndarray, ...]:
    """Values at the four known points nearest to each point of a pass along an axis, two on either side.

    A point lies between `left` and `right`. `before` lies beyond `left`, and `after` beyond `right`. Beyond
    an edge, values are extrapolated linearly; with `kept`, the last value is repeated. A periodic axis
    continues at its other end, if the spacing of the known points divides it evenly.

    Returns:
        Values before, left, right and after.
    """
    points = np.moveaxis(array[step.at(shift, even=axis)], 2 + axis, 0)
    count, total = len(points), grid.space[axis]
    wanted = len(range(step.step, total, 2 * step.step))
    if grid.wraps[axis] and total % (2 * step.step) == 0:
        padded = np.concatenate([points[-1:], points, points[:1], points[1 % count :][:1]])
    else:
        first, last = points[:1], points[-1:]
        up, down = (0, 0) if kept or count == 1 else (first - points[1:2], last - points[-2:-1])
        padded = np.concatenate([first + up, points, last + down, last + 2 * down])
    return tuple(np.moveaxis(padded[k : k + wanted], 0, 2 + axis) for k in range(4))


class _Numbers(ABC):
    """Encoder or decoder, which share the passes and differ in how they get the numbers of a pass."""

    @abstractmethod
    def bins(
        self, where: tuple[slice, ...], base: np.ndarray, features: Sequence[np.ndarray], marks: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predictions of the points of a pass, and the number of bins between each point and its prediction."""


class _Telling(_Numbers):
    """Encoder: chooses coefficients, contexts and symbols pass by pass, and collects them."""

    def __init__(self, values: np.ndarray, bound: int) -> None:
        self.values, self.bound, self.edges = values, bound, _edges(bound)
        self.coefficients: list[bytes] = []
        self.symbols: list[np.ndarray] = []
        self.contexts: list[np.ndarray] = []
        self.low: list[np.ndarray] = []
        self.escaped: list[np.ndarray] = []

    def bins(
        self, where: tuple[slice, ...], base: np.ndarray, features: Sequence[np.ndarray], marks: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        true = self.values[where]
        predicted = base + self._combined(features, true - base)
        n = (true - predicted + self.bound) // (2 * self.bound + 1)
        context = self._context(marks, np.abs(true - predicted))
        zigzag = np.where(n < 0, -2 * n - 1, 2 * n).ravel()
        shift = _shifts(self.edges, self.bound)[context]
        quotient = zigzag >> shift
        self.escaped.append(quotient[quotient >= SYMBOLS - 1])
        self.symbols.append(np.minimum(quotient, SYMBOLS - 1).astype(np.uint8))
        self.contexts.append(context)
        for bits in np.unique(shift[shift > 0]).tolist():
            some = zigzag[shift == bits]
            self.low.append((some[:, None] >> np.arange(bits) & 1).astype(np.uint8).ravel())
        return predicted, n

    def _combined(self, features: Sequence[np.ndarray], wanted: np.ndarray) -> np.ndarray | int:
        """The linear combination of features that is nearest to the wanted values."""
        if not _fitted(features, wanted.size):
            return 0
        largest = max(int(np.abs(one).max()) for one in features)
        bits = min(_FRACTION, max(4, largest.bit_length() - self.bound.bit_length() + 4))
        whole = [round(max(-8.0, min(8.0, one)) * 2**bits) for one in nearest(features, wanted)]
        self.coefficients.append(struct.pack(f"<B{len(whole)}i", bits, *whole))
        return _combination(features, whole, bits)

    def _context(self, marks: Sequence[np.ndarray], sizes: np.ndarray) -> np.ndarray:
        """Context of each point of a pass, which says how far off its prediction may be."""
        if not _fitted(marks, sizes.size):
            return _contexts(marks, _COARSE, [1 << _COARSE] * len(marks), self.edges)
        *found, rest = relative(marks, sizes, self.bound)
        bits = next(k for k in range(_COARSE + 10, -1, -1) if max(found, default=0.0) * 2**k < 255 or not k)
        whole = [*(min(255, round(one * 2**bits)) for one in found), min(LARGEST, round(rest * 2**bits))]
        self.coefficients.append(struct.pack(f"<B{len(found)}BI", bits, *whole))
        return _contexts(marks, bits, whole, self.edges)

    def written(self, centre: int, grid: _Grid) -> bytes:
        """All collected parts as bytes."""
        lanes = lanes_for(sum(map(len, self.symbols)))
        tables = frequencies(self.symbols, self.contexts, len(self.edges) + 1)
        parts = [
            zlib.compress(b"".join(self.coefficients), 9),
            zlib.compress(tables.astype("<u2").tobytes(), 9),
            np.packbits(np.concatenate([np.zeros(0, np.uint8), *self.low])).tobytes(),
            zlib.compress(np.concatenate([np.zeros(0, np.int64), *self.escaped]).astype("<i8").tobytes(), 9),
        ]
        wraps = sum(wrap << axis for axis, wrap in enumerate(grid.wraps))
        head = _HEAD.pack(centre, wraps, lanes, *map(len, parts))
        return b"".join([head, *parts, encode(self.symbols, self.contexts, tables, lanes)])


class _Told(_Numbers):
    """Decoder: reads the numbers that `_Telling` has written, pass by pass."""

    def __init__(self, data: bytes, bound: int) -> None:
        self.bound, self.edges = bound, _edges(bound)
        self.centre, wraps, lanes, *lengths = _HEAD.unpack_from(data)
        self.wraps = tuple(bool(wraps >> axis & 1) for axis in range(8))
        ends = list(itertools.accumulate(lengths, initial=_HEAD.size))
        told, tables, low, escaped = (data[a:b] for a, b in itertools.pairwise(ends))
        self.coefficients, self.at = zlib.decompress(told), 0
        self.low, self.low_at = np.unpackbits(np.frombuffer(low, np.uint8)), 0
        self.escaped, self.escaped_at = np.frombuffer(zlib.decompress(escaped), "<i8"), 0
        counts = np.frombuffer(zlib.decompress(tables), "<u2").reshape(len(self.edges) + 1, SYMBOLS)
        self.coder = Symbols(data[ends[-1] :], counts, lanes)

    def bins(
        self, where: tuple[slice, ...], base: np.ndarray, features: Sequence[np.ndarray], marks: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        del where  # The decoder reads in order and needs no positions.
        predicted, bits, whole = base, _COARSE, [1 << _COARSE] * len(marks)
        if _fitted(features, base.size):
            fraction, *times = self._next(f"<B{len(features)}i")
            predicted = base + _combination(features, times, fraction)
        if _fitted(marks, base.size):
            bits, *whole = self._next(f"<B{len(marks) - 1}BI")
        context = _contexts(marks, bits, whole, self.edges)
        quotient = self.coder.take(context).astype(np.int64)
        large = np.flatnonzero(quotient == SYMBOLS - 1)
        quotient[large] = self.escaped[self.escaped_at : self.escaped_at + len(large)]
        self.escaped_at += len(large)
        shift = _shifts(self.edges, self.bound)[context]
        zigzag = quotient << shift
        for bits in np.unique(shift[shift > 0]).tolist():
            some = np.flatnonzero(shift == bits)
            read = self.low[self.low_at : self.low_at + bits * len(some)].reshape(-1, bits).astype(np.int64)
            self.low_at += read.size
            zigzag[some] |= (read << np.arange(bits)).sum(1)
        return predicted, np.where(zigzag & 1, -(zigzag + 1 >> 1), zigzag >> 1).reshape(base.shape)

    def _next(self, form: str) -> tuple[int, ...]:
        found = struct.unpack_from(form, self.coefficients, self.at)
        self.at += struct.calcsize(form)
        return found


def _fitted(features: Sequence[np.ndarray], points: int) -> bool:
    return bool(features) and points >= _FEW * len(features)


def _combination(features: Sequence[np.ndarray], whole: Sequence[int], bits: int) -> np.ndarray:
    total = np.full(features[0].shape, 1 << bits - 1, dtype=np.int64)
    for feature, coefficient in zip(features, whole, strict=True):
        if coefficient:
            total += coefficient * feature
    return total >> bits


def _edges(bound: int) -> np.ndarray:
    """Limits between contexts: sizes from bound / 16 on, two limits per doubling, times 2^6."""
    count = 2 * (40 - bound.bit_length())
    return np.array([(bound << 2 + k // 2) * (1448 if k % 2 else 1024) >> 10 for k in range(count)], dtype=np.int64)


def _shifts(edges: np.ndarray, bound: int) -> np.ndarray:
    """Number of low bits of a symbol that are stored unchanged, for each context."""
    sizes = [0, *(edges // ((2 * bound + 1) << _COARSE)).tolist()]
    return np.array([max(0, size.bit_length() - 4) for size in sizes], dtype=np.int64)


def _contexts(marks: Sequence[np.ndarray], bits: int, whole: Sequence[int], edges: np.ndarray) -> np.ndarray:
    total = np.zeros(marks[0].shape, dtype=np.int64)
    for mark, coefficient in zip(marks, whole, strict=True):
        if coefficient:
            total += coefficient * mark
    return np.searchsorted(edges, (total << _COARSE >> bits).ravel(), side="right")


SYMBOLS = 256
_BITS = 14
_WHOLE = 1 << _BITS
_WORD = 16
_LEAST = 1 << _WORD  # Smallest state of the coder.
_TO_A_LANE = 8192  # Symbols per lane, because each lane costs two bytes.
_MOST_LANES = 2048


def lanes_for(count: int) -> int:
    """Number of lanes that suits a number of symbols."""
    return min(_MOST_LANES, max(1, count // _TO_A_LANE))


def frequencies(symbols: Sequence[np.ndarray], contexts: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Frequencies of symbols in each context, uint16 (count, 256). Each row sums to 2^14, or to 0 if it is empty."""
    told = np.zeros((count, SYMBOLS), dtype=np.int64)
    for some, where in zip(symbols, contexts, strict=True):
        told += np.bincount(where.astype(np.int64) * SYMBOLS + some, minlength=count * SYMBOLS).reshape(told.shape)
    found = np.zeros_like(told)
    for row, counts in zip(found, told, strict=True):
        if total := int(counts.sum()):
            row[:] = np.where(counts > 0, np.maximum(1, counts * _WHOLE // total), 0)
            while excess := int(row.sum()) - _WHOLE:  # The most frequent symbol takes up the rounding.
                most = int(row.argmax())
                row[most] -= min(excess, int(row[most]) // 2)
    return found.astype(np.uint16)


def encode(symbols: Sequence[np.ndarray], contexts: Sequence[np.ndarray], tables: np.ndarray, lanes: int) -> bytes:
    """Encode groups of symbols, uint8 (n,), with their contexts (n,), so that they can be decoded group by group.

    Args:
        symbols: Groups of symbols.
        contexts: Context of each symbol, a row number of `tables`, in the same groups.
        tables: Result of `frequencies` for the same groups.
        lanes: Number of symbols that are encoded together.
    """
    size, starts = _flat(tables)
    state = np.full(lanes, _LEAST, dtype=np.uint64)
    words: list[np.ndarray] = []
    for some, where in zip(reversed(symbols), reversed(contexts), strict=True):
        place = where.astype(np.int64) * SYMBOLS + some
        f, c = size[place], starts[place]
        for first in reversed(range(0, len(some), lanes)):
            part = slice(first, first + lanes)
            frequency = f[part]
            x = state[: len(frequency)]
            over = x >= frequency << np.uint64(2 * _WORD - _BITS)
            words.append((x[over] & np.uint64(_LEAST - 1)).astype("<u2"))
            x = np.where(over, x >> np.uint64(_WORD), x)
            state[: len(frequency)] = (x // frequency << np.uint64(_BITS)) + x % frequency + c[part]
    return b"".join([state.astype("<u4").tobytes(), *(some.tobytes() for some in reversed(words))])


class Symbols:
    """Decoder of the symbols that `encode` wrote, group by group.

    Args:
        data: Bytes that `encode` returned.
        tables: Tables that were given to `encode`.
        lanes: Number of lanes that was given to `encode`.
    """

    def __init__(self, data: bytes, tables: np.ndarray, lanes: int) -> None:
        self.size, self.starts = _flat(tables)
        self.symbols = np.zeros((len(tables), _WHOLE), dtype=np.uint8)
        for row, counts in zip(self.symbols, tables, strict=True):
            if counts.any():
                row[:] = np.repeat(np.arange(SYMBOLS, dtype=np.uint8), counts)
        self.symbols = self.symbols.ravel()
        self.state = np.frombuffer(data, "<u4", lanes).astype(np.uint64)
        self.words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.uint64)
        self.at = 0

    def take(self, contexts: np.ndarray) -> np.ndarray:
        """Decode the next group of symbols, uint8 (n,), in contexts (n,)."""
        lanes, found = len(self.state), np.empty(len(contexts), dtype=np.uint8)
        context = contexts.astype(np.int64)
        for first in range(0, len(contexts), lanes):
            where = context[first : first + lanes]
            x = self.state[: len(where)]
            low = x & np.uint64(_WHOLE - 1)
            symbol = self.symbols[where * _WHOLE + low.astype(np.int64)]
            place = where * SYMBOLS + symbol
            x = self.size[place] * (x >> np.uint64(_BITS)) + low - self.starts[place]
            short = np.flatnonzero(x < _LEAST)
            x[short] = x[short] << np.uint64(_WORD) | self.words[self.at : self.at + len(short)]
            self.at += len(short)
            self.state[: len(where)] = x
            found[first : first + lanes] = symbol
        return found


def _flat(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of all contexts, and the sums of the frequencies before each symbol, uint64 (contexts * 256,)."""
    size = tables.astype(np.uint64)
    return size.ravel(), (np.cumsum(size, axis=1, dtype=np.uint64) - size).ravel()


_SAMPLE = 2**20  # Most numbers that a fit uses.


def nearest(features: Sequence[np.ndarray], wanted: np.ndarray) -> list[float]:
    """Least-squares coefficients of features, int64 arrays of one shape, for an array of wanted values."""
    return _solved(*_products(features, wanted))


def not_negative(features: Sequence[np.ndarray], wanted: np.ndarray) -> list[float]:
    """Non-negative least-squares coefficients: features with negative coefficients are dropped until none is left."""
    square, right = _products(features, wanted)
    kept = list(range(len(right)))
    while True:
        found = _solved([[square[i][j] for j in kept] for i in kept], [right[i] for i in kept])
        if not kept or min(found) >= 0:
            told = dict(zip(kept, found, strict=True))
            return [told.get(k, 0.0) for k in range(len(right))]
        kept = [k for k, one in zip(kept, found, strict=True) if one > 0]


def relative(features: Sequence[np.ndarray], wanted: np.ndarray, least: int) -> list[float]:
    """Non-negative coefficients that fit relative errors: relative to a first fit plus `least`.

    All features and wanted values must be non-negative.
    """
    about = np.full(wanted.shape, least << 10, dtype=np.int64)
    for one, feature in zip(not_negative(features, wanted), features, strict=True):
        about += min(round(one * 2**10), 2**58 // max(1, int(feature.max()))) * feature  # All below 2^63.
    about >>= 10
    return not_negative([(one << 10) // about for one in features], (wanted << 10) // about)


def _products(features: Sequence[np.ndarray], wanted: np.ndarray) -> tuple[list[list[float]], list[float]]:
    """Sums of products of features with each other, and of features with the wanted values."""
    every = -(-wanted.size // _SAMPLE)
    rough = np.stack([_cut(one.ravel()[::every]) for one in (*features, wanted)])
    found = (rough @ rough.T).tolist()
    return [row[:-1] for row in found[:-1]], [row[-1] for row in found[:-1]]


def _cut(numbers: np.ndarray) -> np.ndarray:
    """Numbers as float64, without the bits below the leading 16 bits of the largest number."""
    over = max(0, int(np.abs(numbers).max()).bit_length() - 16)
    return (numbers >> over).astype(np.float64) * 2.0**over


def _solved(square: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Solution x of (A + a small diagonal) x = b for a positive semidefinite A, with a fixed order of operations."""
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
