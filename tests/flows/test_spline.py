"""The fast spline flow against nflows' functions, and the closed form of its Gaussian."""

from __future__ import annotations

import math

import pytest
import torch
from flows.architectures import CONTEXT, normal
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline

from sciinf.networks.flows import rational_quadratic
from sciinf.networks.flows.nflows_flows import CouplingNSF
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.networks.flows.spline_autoregressive import SplineAutoregressive

BINS, BOUND = 6, 3.0


def splines(d=3, n=400):
    """Points, some of them beyond the bound, and the raw numbers of a spline for each."""
    return 1.6 * normal(d, n), 1.5 * normal(d * rational_quadratic.numbers(BINS), n, seed=1)


def nflows_spline(x, raw, *, inverse=False):
    d, n = x.shape
    shares, slopes = raw.split([2 * d * BINS, d * (BINS - 1)])
    widths, heights = shares.view(d, 2, BINS, n).permute(1, 0, 3, 2)
    return unconstrained_rational_quadratic_spline(
        x, widths, heights, slopes.view(d, BINS - 1, n).permute(0, 2, 1), inverse=inverse, tails="linear",
        tail_bound=BOUND,
    )  # fmt: skip


def test_spline_and_slope_are_nflows():
    x, raw = splines()
    assert (x.abs() > BOUND).any()
    y, log_slope = rational_quadratic.spline(x, raw, BINS, BOUND)
    theirs_y, theirs_slope = nflows_spline(x, raw)
    torch.testing.assert_close(y, theirs_y, atol=1e-6, rtol=0)
    torch.testing.assert_close(log_slope, theirs_slope, atol=1e-5, rtol=0)  # nflows adds 1e-6 to knots


def test_written_gradient_is_that_of_differences():
    x, raw = splines(2, 12)
    with torch.no_grad():  # differences are taken across no knot
        x = 0.9 * x
    inputs = (x.requires_grad_(), raw.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: rational_quadratic.spline(a, b, BINS, BOUND), inputs, eps=1e-7)


def test_inverse_undoes_the_spline():
    x, raw = splines()
    y, _ = rational_quadratic.spline(x, raw, BINS, BOUND)
    torch.testing.assert_close(rational_quadratic.inverse(y, raw, BINS, BOUND), x, atol=1e-10, rtol=0)


@pytest.mark.parametrize("x", [-BOUND, BOUND, 0.0])
def test_spline_is_continuous_at_its_ends(x):
    _, raw = splines(1, 1)
    points = torch.tensor([[x - 1e-9, x, x + 1e-9]], dtype=torch.float64)
    y, _ = rational_quadratic.spline(points, raw.expand(-1, 3).contiguous(), BINS, BOUND)
    assert float(y.max() - y.min()) < 1e-6


def test_members_mapped_at_once_are_the_members_one_by_one():
    def inputs():
        raw = normal(3, 2 * rational_quadratic.numbers(BINS), 50, seed=1)
        return normal(3, 2, 50).requires_grad_(), raw.requires_grad_()

    def loss(x, raw):
        y, log_slope = rational_quadratic.spline(x, raw, BINS, BOUND)
        return (y * y + log_slope).sum()

    together, alone = inputs(), inputs()
    torch.func.vmap(loss)(*together).sum().backward()
    sum(loss(x, raw) for x, raw in zip(*alone, strict=True)).backward()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_gaussian_in_front_is_the_gaussian_it_says():
    flow = SplineCoupling(transforms=1, hidden=8).build(2, CONTEXT).double()
    mean, log_scale, below = torch.tensor([0.3, -1.2]), torch.tensor([0.4, 1.1]), 0.7
    with torch.no_grad():
        for parameter in (*flow.output_weight, *flow.output_bias, *flow.gaussian.direct.parameters()):
            parameter.zero_()  # of the network, only the bias of the Gaussian is left
        for bias in flow.output_bias:
            bias[-(10 - 1) :] = rational_quadratic.EDGE
        flow.gaussian.direct.bias.copy_(torch.cat([mean, 8 * torch.atanh(log_scale / 8), torch.tensor([below])]))
        factor = log_scale.exp()[:, None] * torch.tensor([[1.0, 0.0], [below, 1.0]])
        precision = (factor.T @ factor).double()
        exact = torch.distributions.MultivariateNormal(mean.double(), precision_matrix=precision)
        z = (mean + normal(500, 2, seed=2) @ exact.scale_tril.T)[:, None]
        context = normal(1, CONTEXT)
        torch.testing.assert_close(flow.log_prob(z, context), exact.log_prob(z), atol=1e-5, rtol=0)
        noise = normal(1000, 1, 2)
        expected = torch.linalg.solve_triangular(factor.double(), noise[:, 0].T, upper=False).T + mean
        torch.testing.assert_close(flow.push(noise, context)[:, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_starts_near_the_standard_normal(dim):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = SplineCoupling().build(dim, CONTEXT)
    z, context = normal(1, 2000, dim, dtype=torch.float32), normal(2000, CONTEXT, dtype=torch.float32)
    with torch.no_grad():
        excess = -flow.log_prob(z, context).mean() - dim * 0.5 * (1 + math.log(2 * math.pi))
    assert abs(float(excess)) < 0.1 * dim + 4 * math.sqrt(dim / 2 / 2000)  # 4 standard errors: 6e-5


WRONG = [{"transforms": 0}, {"hidden": 0}, {"bins": 1}, {"bins": 501}, {"blocks": -1}, {"tail_bound": 0.0}]


@pytest.mark.parametrize("settings", WRONG, ids=str)
@pytest.mark.parametrize("kind", [SplineCoupling, SplineAutoregressive, CouplingNSF])
def test_wrong_settings_are_refused(kind, settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{kind.__name__} needs .*; got .*{name}={value}"):
        kind(**settings)
