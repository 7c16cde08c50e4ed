"""The package's operators behind our adapters: the same numbers as alone, trained and saved like ours."""

from __future__ import annotations

import copy

import pytest
import torch

from sciinf.nets.packaged_operators import FNO, GINO, UNO, beside

pytest.importorskip("neuralop", reason="needs the extra 'operators'", exc_type=ImportError)

SHAPES = {"uno_out_channels": [8, 16, 8], "uno_n_modes": [[4, 4], [2, 2], [4, 4]]}
SHAPES["uno_scalings"] = [[1.0, 1.0], [0.5, 0.5], [2.0, 2.0]]


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 16, 16, generator=generator), torch.randn(2, 3, generator=generator)


def own(kind):
    from neuralop import models

    if kind == "FNO":
        return models.FNO((6, 6), 4, 2, 8)
    return models.UNO(4, 2, 8, channel_mlp_skip="linear", n_layers=3, **SHAPES)


@pytest.mark.parametrize("kind", ["FNO", "UNO"])
def test_numbers_are_the_package_s_own(kind):
    fields, theta = data()
    torch.manual_seed(0)
    alone = own(kind)
    torch.manual_seed(0)
    ours = (FNO((6, 6), 8) if kind == "FNO" else UNO(8, SHAPES)).build((1, 2), 2, 3)
    assert torch.equal(ours(fields, theta), alone(beside(fields, theta)))
    torch.manual_seed(1)  # the fault: other weights give other numbers
    assert not torch.allclose(own(kind)(beside(fields, theta)), ours(fields, theta), atol=1e-4)


@pytest.mark.parametrize("architecture", [FNO((6, 6), 8), UNO(8, SHAPES), GINO(6, 0.3)], ids=["FNO", "UNO", "GINO"])
def test_all_weights_are_real_and_learn(architecture):
    fields, theta = data()
    net = architecture.build((1, 1), 2, 3)
    found = net(fields, theta)
    assert found.shape == (2, 1, 16, 16)
    found.square().mean().backward()
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(p.grad is not None for p in net.parameters())
    state = net.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    other.load_state_dict(state)
    assert torch.equal(other(fields, theta), found)
