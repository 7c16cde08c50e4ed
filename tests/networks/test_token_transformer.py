"""The transformer of tokens: places, conditions and slopes."""

from __future__ import annotations

import pytest
import torch

from sciinf.emulators.token_transformer import TokenTransformer


def built(*, edges=False, seed=0, places=None, coordinates=False):
    places = torch.arange(8)[:, None] / 8 if places is None else places
    return TokenTransformer(16, 2, heads=2, coordinates=coordinates).build((3, 5, 4), places, edges=edges, seed=seed)


def shown(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(6, 8, 3, generator=draw), torch.randn(6, 1, 4, generator=draw)


def test_on_a_ring_it_answers_moved_fields_moved_unless_it_has_edges_or_coordinates():
    tokens, condition = shown()
    for edges, coordinates in ((False, False), (True, False), (False, True)):
        network = built(edges=edges, coordinates=coordinates)
        found, moved = network(tokens, condition), network(tokens.roll(3, 1), condition)
        assert found.shape == (6, 8, 5)
        assert torch.allclose(moved, found.roll(3, 1), atol=1e-6) == (not edges and not coordinates)


def test_it_knows_how_places_lie_to_each_other():
    tokens, condition = shown()
    turned = torch.tensor([0, 3, 6, 1, 4, 7, 2, 5])
    network = built()
    assert not torch.allclose(network(tokens[:, turned], condition), network(tokens, condition)[:, turned], atol=1e-4)
    placed = built(places=(torch.arange(8)[:, None] / 8)[turned])  # the same, places and tokens in another order
    assert torch.allclose(placed(tokens[:, turned], condition), network(tokens, condition)[:, turned], atol=1e-6)


def test_conditions_are_of_all_tokens_or_of_each():
    tokens, condition = shown()
    network = built()
    found = network(tokens, condition)
    assert torch.allclose(network(tokens, condition.expand(-1, 8, -1)), found, atol=1e-6)
    assert not torch.allclose(network(tokens, condition.flip(0)), found, atol=1e-4)


def test_rows_do_not_see_each_other_and_every_weight_is_used():
    tokens, condition = shown()
    network = built(edges=True)
    found = network(tokens, condition)
    assert torch.allclose(network(tokens[2:3], condition[2:3]), found[2:3], atol=1e-6)
    found.square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in network.parameters())
    assert torch.equal(built(edges=True)(tokens, condition), found)
    assert not torch.equal(built(edges=True, seed=1)(tokens, condition), found)


def test_what_does_not_go_is_refused():
    with pytest.raises(ValueError, match="no multiple of 3 heads"):
        TokenTransformer(16, heads=3)
    with pytest.raises(ValueError, match="layers"):
        TokenTransformer(16, 0)
