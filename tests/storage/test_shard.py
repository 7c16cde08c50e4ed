"""The hash of a block's content: the same for the same content, another for any other."""

from __future__ import annotations

import torch

from sciinf.storage.shard import content_hash


def test_the_content_hash_tells_names_dtypes_and_shapes_apart():
    theta, status = torch.zeros(2, 1), torch.zeros(2, dtype=torch.uint8)
    hashes = {
        content_hash(theta, x, status)
        for x in (
            {"a": torch.zeros(2, 4)},
            {"a": torch.zeros(2, 2, 2)},
            {"b": torch.zeros(2, 4)},
            {"a": torch.zeros(2, 4, dtype=torch.float64)},
            {"a": torch.zeros(2, 4, dtype=torch.int64)},
        )
    }
    assert len(hashes) == 5
    both = {"a": torch.zeros(2), "b": torch.ones(2)}
    assert content_hash(theta, both, status) == content_hash(theta, dict(reversed(both.items())), status)
