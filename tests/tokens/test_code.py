"""Codes of fields: nothing is lost that need not be, and pieces lie where they say."""

from __future__ import annotations

import pytest
import torch

from sciinf.emulators.tokens import Patches, Pod


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("size", "channels", "space"), [(4, 2, (16,)), (2, 3, (8, 4)), (2, 1, (4, 2, 6)), (4, 3, ())])
def test_pieces_lose_nothing_and_lie_where_they_say(size, channels, space):
    code = Patches(size).build(channels, space)
    fields = torch.randn(5, 3, channels, *space, generator=generator())
    tokens = code.encode(fields)
    assert tokens.shape == (5, 3, len(code.places), code.width)
    assert torch.equal(code.decode(tokens), fields)
    assert float(tokens.square().sum()) == pytest.approx(float(fields.square().sum()))
    for axis, points in enumerate(space):  # a field that is its own coordinate has tokens of that mean
        at = (torch.arange(points) + 0.5) / points
        field = at.reshape(-1, *[1] * (len(space) - 1 - axis)).expand(channels, *space)
        assert torch.allclose(code.encode(field).mean(-1), code.places[:, axis], atol=1e-6)


def test_a_field_that_is_moved_by_a_piece_has_its_tokens_moved():
    code = Patches(4).build(2, (16, 8))
    fields = torch.randn(3, 2, 16, 8, generator=generator())
    moved = code.encode(fields.roll(4, 2)).unflatten(1, (4, 2))
    assert torch.equal(moved, code.encode(fields).unflatten(1, (4, 2)).roll(1, 1))


def test_modes_lose_the_least():
    """Of all linear codes of as many numbers: half of what as many points of the field would lose, and less."""
    directions = torch.linalg.qr(torch.randn(32, 32, generator=generator()))[0]
    fields = (torch.randn(500, 32, generator=generator(1)) * 0.8 ** torch.arange(32)) @ directions.mT + 3.0
    code = Pod(8, width=4).build(2, (16,))
    code.look(lambda: iter(fields.unflatten(1, (2, 16)).split(100)))
    again = code.decode(code.encode(fields.unflatten(1, (2, 16)))).flatten(1)
    lost = (again - fields).square().sum(1).mean()
    exact = ((0.8 ** torch.arange(32)) ** 2)[8:].sum()
    assert float(lost) == pytest.approx(float(exact), rel=0.1)
    any_eight = fields - fields.mean(0)
    assert float(lost) < 0.5 * float(any_eight[:, 8:].square().sum(1).mean())


def test_modes_have_scales_from_strong_to_weak_and_pieces_have_none():
    assert Pod(8, width=4).build(2, (16,)).scales == (0, 1)
    assert Patches(4).build(2, (16,)).scales == ()


def test_what_does_not_suit_is_refused():
    for make, says in (
        (lambda: Patches(0), "size"),
        (lambda: Patches(4).build(1, (18,)), r"pieces of 4 points do not divide a grid of \(18,\)"),
        (lambda: Pod(10, width=4), "no whole number of tokens"),
        (lambda: Pod(64).build(1, (32,)), "have 32 numbers, and no 64 modes"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
