"""Turns: every token has one, and sets are what they say."""

from __future__ import annotations

import math

import pytest

from sciinf.core.component import from_json, to_json
from sciinf.emulators.tokens import AtOnce, Frames, MixtureTokens, Patches, Pod, Raster, Scales, Shuffled


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 16, 64])
@pytest.mark.parametrize("turns", [Raster(), Raster(3), Shuffled(1), Shuffled(2), Shuffled(8), Shuffled(100), Scales()])
def test_every_token_has_a_turn_and_none_is_left_out(turns, tokens):
    plan = turns.plan(tokens, tuple(range(tokens)))
    assert len(plan) == tokens
    assert list(plan) == sorted(plan)
    assert set(plan) == set(range(max(plan) + 1))


def test_random_sets_grow_as_the_cosine_says():
    plan = Shuffled(4).plan(100, ())
    known = [sum(turn <= k for turn in plan) for k in range(4)]
    assert known == [100 - math.floor(100 * math.cos(0.5 * math.pi * k / 4) + 1e-9) for k in range(1, 5)]
    assert Shuffled(1).plan(5, ()) == (0,) * 5
    assert Shuffled(9).plan(5, ()) == Raster().plan(5, ()) == (0, 1, 2, 3, 4)


def test_scales_go_from_coarse_to_fine_whatever_the_order_of_tokens():
    assert Scales().plan(5, (2, 0, 4, 2, 0)) == (1, 0, 2, 1, 0)
    code = Pod(8, width=2).build(1, (16,))
    assert Scales().plan(len(code.places), code.scales) == (0, 1, 2, 3)


def test_what_is_there_without_turns_is_saved_as_before():
    assert to_json(Frames(2))["arguments"] == {"block": 2, "context": 1}
    assert to_json(AtOnce())["arguments"] == {"args": [], "kwargs": {}}
    assert to_json(MixtureTokens(3))["arguments"] == {"components": 3}
    for order in (AtOnce(), AtOnce(Shuffled(3)), Frames(1), Frames(2, turns=Raster(2))):
        again = from_json(to_json(order))
        assert (type(again), to_json(again), to_json(again.turns)) == (
            type(order),
            to_json(order),
            to_json(order.turns),
        )


def test_what_does_not_suit_is_refused():
    for make, says in (
        (lambda: Raster(0), "step"),
        (lambda: Shuffled(0), "steps"),
        (lambda: Scales().plan(4, Patches(4).build(1, (16,)).scales), r"have no scales: take a code that has, as Pod"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    for order in (AtOnce, Frames):
        with pytest.raises(
            TypeError, match=r"Raster\(\), Shuffled\(\) or Scales\(\) of sciinf.emulators.tokens, and got 8"
        ):
            order(turns=8)
