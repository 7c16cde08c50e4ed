"""Small whole numbers in as few bits as their frequencies allow: range asymmetric numeral systems, in many lanes.

A symbol s of frequency f_s out of M = 2^14, with c_s the sum of the frequencies before it, changes a state x to

    x' = M (x div f_s) + c_s + (x mod f_s),

which adds log2(M / f_s) bits; states stay in [2^16, 2^32), and what is above is written as words of 16 bits. Decoding
finds s from x' mod M and undoes it, last symbol first, so encoding goes from the last to the first. Each symbol has a
context, which both sides know before it is decoded, and each context its own frequencies. Symbols are dealt to `lanes`
with a state each, so that numpy does a step of all lanes at once. There is no arithmetic here but that of integers.

References:
    | Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression rate of arithmetic
      coding (Duda, 2013), https://arxiv.org/abs/1311.2540
    | Interleaved entropy coders (Giesen, 2014), https://arxiv.org/abs/1402.3392
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SYMBOLS = 256
_BITS = 14
_WHOLE = 1 << _BITS
_WORD = 16
_LEAST = 1 << _WORD  # of a state
_TO_A_LANE = 8192  # symbols: a lane costs two bytes
_MOST_LANES = 2048


def lanes_for(count: int) -> int:
    """How many lanes suit so many symbols."""
    return min(_MOST_LANES, max(1, count // _TO_A_LANE))


def frequencies(symbols: Sequence[np.ndarray], contexts: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Frequencies of symbols in their contexts, uint16 (count, 256), rows summing to 2^14, or 0 where nothing is."""
    told = np.zeros((count, SYMBOLS), dtype=np.int64)
    for some, where in zip(symbols, contexts, strict=True):
        told += np.bincount(where.astype(np.int64) * SYMBOLS + some, minlength=count * SYMBOLS).reshape(told.shape)
    found = np.zeros_like(told)
    for row, counts in zip(found, told, strict=True):
        if total := int(counts.sum()):
            row[:] = np.where(counts > 0, np.maximum(1, counts * _WHOLE // total), 0)
            while excess := int(row.sum()) - _WHOLE:  # what rounding left goes to the most frequent
                most = int(row.argmax())
                row[most] -= min(excess, int(row[most]) // 2)
    return found.astype(np.uint16)


def encode(symbols: Sequence[np.ndarray], contexts: Sequence[np.ndarray], tables: np.ndarray, lanes: int) -> bytes:
    """Groups of symbols, uint8 (n,), with their contexts (n,), to be decoded group by group.

    Args:
        symbols: The groups.
        contexts: Of each symbol, a row of `tables`.
        tables: From `frequencies` of the same.
        lanes: How many symbols to take together.
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
    """What `encode` wrote, group by group.

    Args:
        data: Its bytes.
        tables: Those it was given.
        lanes: Those it was given.
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
        """The next group of symbols, uint8 (n,), in contexts (n,)."""
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
    """Frequencies and the sums before them, uint64 (contexts * 256,)."""
    size = tables.astype(np.uint64)
    return size.ravel(), (np.cumsum(size, axis=1, dtype=np.uint64) - size).ravel()
