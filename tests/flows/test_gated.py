"""The gated residual network against its formula written with torch's layers, alone and for members of an ensemble."""

from __future__ import annotations

import pytest
import torch
from flows.architectures import normal
from torch.nn import functional as F

from sciinf.networks.flows.gated import gated

INPUTS, FEATURES, HIDDEN, OUTPUTS, N, BATCH = 2, 3, 5, 4, 3, 7


def parts(blocks, *members):
    """v, c, weights and biases, each with a leading axis of members where there are any."""
    shapes = [(HIDDEN * (1 + blocks), FEATURES), (HIDDEN, INPUTS), *[(HIDDEN, HIDDEN)] * 2 * blocks, (OUTPUTS, HIDDEN)]
    weights = [normal(*members, *shape, seed=k) for k, shape in enumerate(shapes)]
    biases = [normal(*members, shape[0], 1, seed=100 + k) for k, shape in enumerate(shapes) if k != 1]
    return normal(*members, INPUTS, N, BATCH, seed=50), normal(*members, FEATURES, BATCH, seed=51), weights, biases


def formula(value, context, weights, biases):
    """The same with the batch first and one draw after the other."""
    flat = [bias[:, 0] for bias in biases]
    first, *gates = F.linear(context.T, weights[0], flat[0]).split(HIDDEN, dim=1)
    draws = []
    for v in value.unbind(1):
        h = F.linear(v.T, weights[1]) + first
        for k, gate in enumerate(gates):
            inner = F.linear(h.relu(), weights[2 + 2 * k], flat[1 + 2 * k])
            h = h + gate.sigmoid() * F.linear(inner.relu(), weights[3 + 2 * k], flat[2 + 2 * k])
        draws.append(F.linear(h, weights[-1], flat[-1]).T)
    return torch.cat(draws, dim=1)


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_is_its_formula(blocks):
    given = parts(blocks)
    torch.testing.assert_close(gated(*given), formula(*given))


@pytest.mark.parametrize("shared", [(), (0,), (1,)], ids=["nothing", "inputs", "context"])
def test_members_mapped_at_once_are_the_members_one_by_one(shared):
    members = 4
    given = list(parts(2, members))
    for index in shared:
        given[index] = given[index][0]
    leaves = [leaf.requires_grad_() for leaf in (*given[:2], *given[2], *given[3])]

    together = torch.func.vmap(gated, in_dims=tuple(None if i in shared else 0 for i in range(4)))(*given)
    alone = torch.stack([
        formula(
            *(value if i in shared else value[member] for i, value in enumerate(given[:2])),
            [weight[member] for weight in given[2]],
            [bias[member] for bias in given[3]],
        )
        for member in range(members)
    ])  # fmt: skip
    torch.testing.assert_close(together, alone)
    for a, b in zip(*(torch.autograd.grad(out.sin().sum(), leaves) for out in (together, alone)), strict=True):
        torch.testing.assert_close(a, b)


def test_rounds_to_half_precision_where_asked():
    given = [[part.float() for part in value] if isinstance(value, list) else value.float() for value in parts(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = gated(*given)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), gated(*given), atol=0.3, rtol=0.05)
