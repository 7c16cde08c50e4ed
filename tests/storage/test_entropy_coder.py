"""Symbols come back as they were, in as many bytes as their frequencies say."""

from __future__ import annotations

import numpy as np
import pytest

from sciinf.campaigns.storage.bounded import SYMBOLS, Symbols, encode, frequencies, lanes_for

COUNTS = (0, 1, 3, 500, 20_000, 7)
CONTEXTS = 5


def groups(seed=0):
    """Symbols whose spread depends on their context, and contexts."""
    draw = np.random.default_rng(seed)
    contexts = [draw.integers(0, CONTEXTS, n) for n in COUNTS]
    return [np.minimum(draw.geometric(1 / (1 + 3 * c)) - 1, SYMBOLS - 1).astype(np.uint8) for c in contexts], contexts


@pytest.mark.parametrize("lanes", [1, 3, 64])
def test_groups_come_back_one_by_one(lanes):
    symbols, contexts = groups()
    tables = frequencies(symbols, contexts, CONTEXTS + 2)  # two contexts do not occur
    decoder = Symbols(encode(symbols, contexts, tables, lanes), tables, lanes)
    for some, where in zip(symbols, contexts, strict=True):
        assert (decoder.take(where) == some).all()


def test_bytes_are_those_of_the_entropy():
    symbols, contexts = groups()
    tables = frequencies(symbols, contexts, CONTEXTS)
    every, where = np.concatenate(symbols), np.concatenate(contexts)
    bits = 0.0
    for context in range(CONTEXTS):
        shares = np.bincount(every[where == context]) / (where == context).sum()
        bits -= (where == context).sum() * sum(p * np.log2(p) for p in shares if p)
    size = len(encode(symbols, contexts, tables, 2))
    assert bits / 8 < size < 1.01 * bits / 8 + 16
    mixed = [np.zeros_like(c) for c in contexts]  # the fault: all in one context
    assert len(encode(symbols, mixed, frequencies(symbols, mixed, 1), 2)) > 1.1 * size


def test_what_is_certain_costs_nothing():
    symbols, contexts = [np.full(100_000, 7, dtype=np.uint8)], [np.zeros(100_000, dtype=np.int64)]
    tables = frequencies(symbols, contexts, 1)
    data = encode(symbols, contexts, tables, lanes_for(100_000))
    assert len(data) == 4 * lanes_for(100_000)
    assert (Symbols(data, tables, lanes_for(100_000)).take(contexts[0]) == 7).all()


def test_every_symbol_that_occurs_has_a_frequency():
    often = np.zeros(200_000, dtype=np.uint8)
    symbols = [often, np.arange(SYMBOLS, dtype=np.uint8)]
    contexts = [np.zeros(len(some), dtype=np.int64) for some in symbols]
    tables = frequencies(symbols, contexts, 1)
    assert tables.min() == 1
    assert tables.sum() == 2**14
    decoder = Symbols(encode(symbols, contexts, tables, 64), tables, 64)
    assert all((decoder.take(where) == some).all() for some, where in zip(symbols, contexts, strict=True))


def test_a_changed_word_is_not_passed_over():
    symbols, contexts = groups()
    tables = frequencies(symbols, contexts, CONTEXTS)
    data = bytearray(encode(symbols, contexts, tables, 2))
    data[10] ^= 1
    decoder = Symbols(bytes(data) + bytes(1000), tables, 2)
    assert any((decoder.take(where) != some).any() for some, where in zip(symbols, contexts, strict=True))
