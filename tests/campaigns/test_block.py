"""Generators of blocks: whole states from the seed sequence, uniform, and independent of their neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sciinf.campaigns import block
from sciinf.campaigns import store as store_module
from sciinf.campaigns.block import generator_for
from sciinf.campaigns.storage.outcome import normalise
from sciinf.campaigns.store import Store
from sciinf.core import Observable, Outcome, Prior, Status
from sciinf.core.named_laws import Normal
from sciinf.wrappers import numpy


def test_generators_have_more_than_32_bits():
    one, two = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5 + 2**32)
    assert torch.equal(one.get_state()[24:], two.get_state()[24:])  # why generator_for sets the whole state
    generator = generator_for(7, 3, 1)
    number = np.random.SeedSequence(7, spawn_key=(3, 1)).generate_state(1, np.uint64)[0]
    assert generator.initial_seed() == int(number)
    again = torch.Generator().manual_seed(int(number))
    assert not torch.equal(torch.rand(4, generator=generator), torch.rand(4, generator=again))


def test_generators_are_mersenne_twisters_of_the_seed_sequence():
    words = np.random.SeedSequence(7, spawn_key=(3, 1)).generate_state(626, np.uint32)[2:]
    words[0] |= 0x80000000
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    raw = twister.random_raw(2000)
    # torch makes a 24-bit float of the low bits of each word
    expected = (raw & (2**24 - 1)).astype(np.float64) / 2**24
    assert np.array_equal(torch.rand(2000, generator=generator_for(7, 3, 1)).double().numpy(), expected)


@pytest.mark.parametrize("key", [(), (0,), (3, 1), (10**6, 1, 0, 250), (2**40, 0)])
@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**70 + 3])
def test_words_are_those_that_numpy_generates(seed, key):
    sequence = np.random.SeedSequence(seed, spawn_key=key)
    assert np.array_equal(block._generated(sequence), sequence.generate_state(626, np.uint32))


def test_a_block_is_checked_once_and_what_others_commit_is_checked_too(tmp_path, monkeypatch):
    looked = list[str]()

    def counting(result, observables, rows, *, where="the simulator"):
        looked.append(where)
        return normalise(result, observables, rows, where=where)

    simulator = numpy(lambda a, *, rng: {"v": a}, prior=Prior(a=Normal(0.0, 1.0)), observables={"v": Observable(())})
    store = Store.create(tmp_path, simulator, seed=0, block=5, rows=10)
    monkeypatch.setattr(block, "normalise", counting)
    monkeypatch.setattr(store_module, "normalise", counting)
    block.run_block(simulator, store, 0)
    assert len(looked) == 1
    store.commit(1, torch.zeros(5, 1), Outcome({"v": torch.full((5,), math.nan)}), seconds=0.0)
    assert len(looked) == 2
    assert store.counts[Status.NON_FINITE] == 5
    other = numpy(lambda a, *, rng: {"w": a}, prior=simulator.prior, observables={"w": Observable(())})
    with pytest.raises(ValueError, match="block 1 returned"):
        block.run_block(other, store, 1)


def test_streams_of_blocks_are_uniform_and_independent():
    # KS and correlation over 4,000 neighbouring blocks; false alarm 1e-4 each, the seed is fixed
    first = torch.cat([torch.rand(2, generator=generator_for(0, k, 1)) for k in range(4000)]).double().numpy()
    assert stats.kstest(first[0::2], "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(first[0::2][:-1], first[0::2][1:])[0, 1]) < 3.9 / 4000**0.5
    theta = torch.cat([torch.rand(1, generator=generator_for(0, k, 0)) for k in range(4000)]).double().numpy()
    assert abs(np.corrcoef(theta, first[0::2])[0, 1]) < 3.9 / 4000**0.5
    assert len(set(first.tolist())) > 7990
