"""Derivatives that are carried forwards are those that are differentiated."""

from __future__ import annotations

import pytest
import torch

from sciinf.lab import jets
from sciinf.lab.jets import JetNetwork


def differences(network: JetNetwork, at: torch.Tensor, others: torch.Tensor) -> float:
    """How far slopes and bends are from those by automatic differentiation."""
    at = at.clone().requires_grad_()
    value, found, worst = network(at, others), network.jet(at, others), 0.0
    worst = float((value - found.value).detach().abs().max())
    for channel in range(value.shape[1]):
        slope = torch.autograd.grad(value[:, channel].sum(), at, create_graph=True)[0]
        worst = max(worst, float((slope - found.slope[:, channel]).detach().abs().max()))
        for k in range(at.shape[1]):
            bend = torch.autograd.grad(slope[:, k].sum(), at, retain_graph=True)[0][:, k]
            worst = max(worst, float((bend - found.bend[:, channel, k]).detach().abs().max()))
    return worst


@pytest.mark.parametrize("periodic", [(False, False), (False, True), (True, True)])
def test_slopes_and_bends_are_exact(periodic, monkeypatch):
    torch.manual_seed(0)
    network = JetNetwork((2.0, 0.5), periodic, 1, 2, width=9, layers=3).double()
    at, others = torch.rand(20, 2).double() * torch.tensor([2.0, 0.5]), torch.randn(20, 1).double()
    assert differences(network, at, others) < 1e-9
    plain = network._entered
    monkeypatch.setattr(jets.JetNetwork, "_entered", lambda self, x: (*plain(x)[:2], plain(x)[2] + 1e-3))
    assert differences(network, at, others) > 1e-4  # the fault: a bend of the first layer that is off


def test_a_ring_is_closed():
    torch.manual_seed(0)
    network = JetNetwork((2.0, 0.5), (False, True), 0, 1, width=9, layers=2).double()
    ends = torch.tensor([[1.0, 0.0], [1.0, 0.5]]).double()
    jet = network.jet(ends, torch.zeros(2, 0).double())
    for part in (jet.value, jet.slope, jet.bend):
        assert torch.allclose(part[0], part[1], atol=1e-12)
