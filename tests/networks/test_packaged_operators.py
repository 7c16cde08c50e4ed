"""The package's operators behind our adapters: the same numbers as alone, trained and saved like ours."""

from __future__ import annotations

import copy

import pytest
import torch

from sciinf.networks.packaged_operators import FNO, GINO, UNO, beside

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
    ours = (FNO((6, 6), 8) if kind == "FNO" else UNO(8, SHAPES)).build((1, 2), (16, 16), 3)
    assert torch.equal(ours(fields, theta), alone(beside(fields, theta)))
    torch.manual_seed(1)  # the fault: other weights give other numbers
    assert not torch.allclose(own(kind)(beside(fields, theta)), ours(fields, theta), atol=1e-4)


def test_numbers_of_a_cloud_are_the_package_s_own():
    from neuralop.models import GINO as Model

    fields, theta = data()
    torch.manual_seed(0)
    ours = GINO(6, 0.3).build((1, 2), (16, 16), 3)
    torch.manual_seed(0)
    told = {"fno_in_channels": 4, "fno_n_modes": (8, 8), "fno_hidden_channels": 32, "gno_coord_dim": 2}
    told |= {"in_gno_radius": 0.3, "out_gno_radius": 0.3, "gno_use_open3d": False, "gno_use_torch_scatter": False}
    alone = Model(4, 2, **told)
    point, inner = (torch.cartesian_prod(*[torch.linspace(0, 1, n)] * 2) for n in (16, 6))
    cloud = beside(fields, theta).flatten(2).transpose(1, 2)
    found = alone(point[None], inner.reshape(1, 6, 6, 2), point[None], cloud).transpose(1, 2).reshape(2, 2, 16, 16)
    assert torch.equal(ours(fields, theta), found)
    turned = ours(fields.transpose(2, 3), theta).transpose(2, 3)  # the fault: points in another order than values
    assert not torch.allclose(turned, found, atol=1e-4)


@pytest.mark.parametrize("architecture", [FNO((6, 6), 8), UNO(8, SHAPES), GINO(6, 0.3)], ids=["FNO", "UNO", "GINO"])
def test_all_weights_are_real_and_learn(architecture):
    fields, theta = data()
    net = architecture.build((1, 1), (16, 16), 3)
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
