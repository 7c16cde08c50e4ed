"""Zuko's flows with weights for which their density is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from flows.architectures import CONTEXT, log_normal, name_of, normal

from sciinf.networks.flows.zuko_flows import MAF, NSF, Coupling


@pytest.mark.parametrize("architecture", [NSF(), Coupling(), MAF()], ids=name_of)
@pytest.mark.parametrize("dim", [1, 3])
def test_flow_of_zero_weights_is_the_standard_normal(architecture, dim):
    flow, z, context = architecture.build(dim, CONTEXT), 2 * normal(30, 4, dim).float(), normal(4, CONTEXT).float()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
        torch.testing.assert_close(flow.log_prob(z, context), log_normal(z), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(flow.push(z, context), z, atol=1e-4, rtol=1e-5)


def test_maf_with_set_biases_is_the_gaussian_they_say():
    flow = MAF(transforms=1).build(2, CONTEXT).double()
    shift, raw = [0.4, -1.1], [0.7, -0.3]
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
        output = list(flow.parameters())[-1]
        output.copy_(torch.tensor([shift[0], raw[0], shift[1], raw[1]]))
    # e = exp(a) z + b with zuko's a = raw / (1 + |raw / log 1e-3|)
    log_scale = torch.tensor([r / (1 + abs(r / math.log(1e-3))) for r in raw], dtype=torch.float64)
    sd = torch.exp(-log_scale)
    expected = torch.distributions.Normal(-torch.tensor(shift, dtype=torch.float64) * sd, sd)
    z, context = normal(10, 3, 2), normal(3, CONTEXT)
    torch.testing.assert_close(flow.log_prob(z, context), expected.log_prob(z).sum(-1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda: NSF(transforms=0), lambda: Coupling(bins=1), lambda: MAF(hidden=())])
def test_wrong_settings_are_refused(make):
    with pytest.raises(ValueError, match=r"transforms >= 1, bins >= 2 and positive hidden widths; got"):
        make()
