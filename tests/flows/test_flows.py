"""Every flow against the change of variables, against densities known in closed form, and against sbi's own network."""

from __future__ import annotations

import json
import math

import pytest
import torch

from sciinf.core import Batch, Observable, Prior
from sciinf.core.component import from_json, to_json
from sciinf.estimators.flow import Flow
from sciinf.flows.conditional import Architecture, ExactFlow
from sciinf.flows.nflows_flows import CouplingNSF
from sciinf.flows.spline import SplineCoupling
from sciinf.flows.spline_autoregressive import SplineAutoregressive
from sciinf.flows.zuko_flows import MAF, NSF, Coupling

SMALL = [
    NSF(transforms=2, hidden=(16,), bins=4),
    Coupling(transforms=3, hidden=(16, 16), bins=4),
    MAF(transforms=2, hidden=(16,)),
    CouplingNSF(transforms=3, hidden=12, bins=5),
    SplineCoupling(transforms=3, hidden=12, bins=5),
    SplineAutoregressive(transforms=2, hidden=12, bins=5),
]
DEFAULTS = [NSF(), Coupling(), MAF(), CouplingNSF(), SplineCoupling(), SplineAutoregressive()]
CONTEXT = 3


def name_of(value):
    return type(value).__name__ if isinstance(value, Architecture) else str(value)


def build(architecture, dim, *, spread=0.1, dtype=torch.float32):
    """A flow whose weights differ from their initial values, so that no layer is near the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7 + dim)
        flow = architecture.build(dim, CONTEXT)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
    return flow.to(dtype).eval()


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def log_normal(noise):
    return -0.5 * noise.square().sum(-1) - 0.5 * noise.shape[-1] * math.log(2 * math.pi)


def change_of_variables_error(flow, dim):
    """Largest |log q(z) - (log N(e) - log |det dz/de|)|, the Jacobian of `push` by central differences."""
    noise, context, step = normal(1, 20, dim, dtype=torch.float64), normal(20, CONTEXT, dtype=torch.float64), 1e-5
    with torch.no_grad():
        columns = []
        for axis in range(dim):
            shift = step * torch.eye(dim, dtype=torch.float64)[axis]
            columns.append((flow.push(noise + shift, context) - flow.push(noise - shift, context)) / (2 * step))
        log_det = torch.linalg.slogdet(torch.stack(columns, dim=-1)).logabsdet
        found = flow.log_prob(flow.push(noise, context), context)
    return float((found - (log_normal(noise) - log_det)).abs().median())


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("architecture", SMALL, ids=name_of)
def test_push_and_log_prob_obey_the_change_of_variables(architecture, dim):
    # the median, since a finite difference across a spline's knot is off
    assert change_of_variables_error(build(architecture, dim, dtype=torch.float64), dim) < 1e-6


class WrongSign(ExactFlow):
    """z = 2 e with the determinant of its inverse: a fault that the check above must find."""

    def encode(self, z, context):
        return z / 2, torch.full(z.shape[:-1], self.dim * math.log(2.0), dtype=z.dtype)

    def decode(self, noise, context):
        return 2 * noise


def test_planted_fault_a_determinant_of_the_wrong_sign_is_found():
    assert change_of_variables_error(WrongSign(2, CONTEXT), 2) > 1


@pytest.mark.parametrize("architecture", SMALL, ids=name_of)
def test_density_integrates_to_one(architecture):
    axis = torch.linspace(-9, 9, 1801, dtype=torch.float64)
    flow, context = build(architecture, 1, dtype=torch.float64), normal(2, CONTEXT, dtype=torch.float64)
    with torch.no_grad():
        mass = flow.log_prob(axis[:, None, None].expand(-1, 2, 1), context).exp().sum(0) * (axis[1] - axis[0])
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("architecture", DEFAULTS, ids=name_of)
def test_single_precision_round_trip(architecture, dim):
    flow, noise, context = build(architecture, dim, spread=0.05), normal(50, 40, dim), normal(40, CONTEXT)
    with torch.no_grad():
        z = flow.push(noise, context)
        assert z.dtype == torch.float32
        again, _ = flow.encode(z, context)
    assert float((again - noise).abs().max()) < 1e-3


@pytest.mark.parametrize("architecture", [NSF(), Coupling(), MAF()], ids=name_of)
@pytest.mark.parametrize("dim", [1, 3])
def test_zuko_flow_of_zero_weights_is_the_standard_normal(architecture, dim):
    flow, z, context = architecture.build(dim, CONTEXT), 2 * normal(30, 4, dim), normal(4, CONTEXT)
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
    z, context = normal(10, 3, 2, dtype=torch.float64), normal(3, CONTEXT, dtype=torch.float64)
    torch.testing.assert_close(flow.log_prob(z, context), expected.log_prob(z).sum(-1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_coupling_nsf_is_sbis_nsf(dim):
    from sbi.neural_nets.net_builders.flow import build_nsf

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = build_nsf(torch.randn(20, dim), torch.randn(20, CONTEXT), z_score_x="none", z_score_y="none")
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    ours = CouplingNSF(tail_bound=3.0).build(dim, CONTEXT)  # sbi's; see the module's docstring for why it is not ours
    theirs_splines = [t for t in theirs.net._transform._transforms if "Coupling" in type(t).__name__]
    theirs_linear = [t for t in theirs.net._transform._transforms if "Linear" in type(t).__name__]
    assert (len(theirs_splines), len(theirs_linear)) == (len(ours.splines), len(ours.linear))
    weights = [p for module in (*theirs_splines, *theirs_linear) for p in module.parameters()]
    mine = [*ours.splines.parameters(), *ours.linear.parameters()]
    assert [p.shape for p in mine] == [p.shape for p in weights]
    with torch.no_grad():
        for target, source in zip(mine, weights, strict=True):
            target.copy_(source)
    for mine_spline, their_spline in zip(ours.splines, theirs_splines, strict=True):
        assert torch.equal(mine_spline.transform_features, their_spline.transform_features)
        assert mine_spline.tail_bound == their_spline.tail_bound
    z, context = 1.5 * normal(6, 50, dim), normal(50, CONTEXT)
    with torch.no_grad():
        torch.testing.assert_close(ours.log_prob(z, context), theirs.log_prob(z, context), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("architecture", SMALL, ids=name_of)
def test_each_row_of_the_context_serves_its_own_draws(architecture, dim):
    flow, z, context = build(architecture, dim), normal(4, 5, dim), normal(5, CONTEXT)
    with torch.no_grad():
        together, pushed = flow.log_prob(z, context), flow.push(z, context)
        for row in range(5):
            torch.testing.assert_close(
                together[:, row], flow.log_prob(z[:, row : row + 1], context[row : row + 1])[:, 0]
            )
            torch.testing.assert_close(pushed[:, row], flow.push(z[:, row : row + 1], context[row : row + 1])[:, 0])
        torch.testing.assert_close(flow.log_prob(z[0], context), together[0])
        torch.testing.assert_close(flow.log_prob(z.reshape(2, 2, 5, dim), context), together.reshape(2, 2, 5))
        assert flow.log_prob(z[:0], context).shape == (0, 5)
        assert flow.push(z[:0], context).shape == (0, 5, dim)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("architecture", SMALL, ids=name_of)
def test_gradients_reach_every_weight_and_the_context(architecture, dim):
    flow, context = build(architecture, dim).train(), normal(40, CONTEXT).requires_grad_()
    flow.log_prob(normal(40, dim), context).sum().backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
    assert float(context.grad.abs().sum()) > 0
    flow.push(normal(2, 40, dim), context).sum().backward()


@pytest.mark.parametrize("architecture", DEFAULTS, ids=name_of)
def test_rebuilt_from_json_and_weights(architecture):
    again = from_json(json.loads(json.dumps(to_json(architecture))))
    assert to_json(again) == to_json(architecture)
    flow, other, z, context = build(architecture, 2), again.build(2, CONTEXT).eval(), normal(9, 2), normal(9, CONTEXT)
    other.load_state_dict(flow.state_dict())
    with torch.no_grad():
        assert torch.equal(other.log_prob(z, context), flow.log_prob(z, context))


@pytest.mark.parametrize("architecture", SMALL, ids=name_of)
def test_the_global_state_of_randomness_is_left_alone(architecture):
    flow = build(architecture, 2)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        flow.push(normal(3, 4, 2), normal(4, CONTEXT))
        flow.log_prob(normal(4, 2), normal(4, CONTEXT))
    assert torch.equal(before, torch.random.get_rng_state())


class Fragile(ExactFlow):
    """The identity, which in single precision fails for noise above 1, and for noise above 9 in any."""

    def encode(self, z, context):
        return z, z.new_zeros(z.shape[:-1])

    def decode(self, noise, context):
        limit = 1.0 if noise.dtype == torch.float32 else 9.0
        return torch.where(noise > limit, torch.nan, noise)


def test_draws_lost_to_rounding_are_made_again_in_double_precision():
    flow, noise, context = Fragile(2, CONTEXT), normal(30, 4, 2), normal(4, CONTEXT)
    z = flow.push(noise, context)
    assert z.dtype == torch.float32
    assert torch.equal(z, noise)
    with pytest.raises(ValueError, match="not finite"):
        flow.push(noise + 20, context)


@pytest.mark.parametrize("architecture", DEFAULTS, ids=name_of)
def test_wrong_sizes_are_refused(architecture):
    with pytest.raises(ValueError, match="at least one feature to condition on"):
        architecture.build(2, 0)
    with pytest.raises(ValueError, match="at least one dimension"):
        architecture.build(0, 2)
    flow = architecture.build(2, CONTEXT)
    with pytest.raises(ValueError, match=r"the context has shape \(4, 2\), expected \(batch, 3\)"):
        flow.log_prob(normal(4, 2), normal(4, 2))
    with pytest.raises(ValueError, match=r"z has shape \(5, 2\), expected \(..., 4, 2\)"):
        flow.log_prob(normal(5, 2), normal(4, CONTEXT))
    with pytest.raises(ValueError, match="noise has shape"):
        flow.push(normal(4, 2), normal(4, CONTEXT))


@pytest.mark.parametrize(
    "make",
    [
        lambda: NSF(transforms=0),
        lambda: Coupling(bins=1),
        lambda: MAF(hidden=()),
        lambda: CouplingNSF(tail_bound=0.0),
        lambda: CouplingNSF(bins=1000),
    ],
)
def test_wrong_settings_are_refused(make):
    with pytest.raises(ValueError, match="got"):
        make()


@pytest.mark.parametrize("architecture", SMALL, ids=name_of)
def test_learns_a_conditional_gaussian(architecture):
    # z | c ~ N((c_0, c_0 - c_1), 0.5^2 I), of entropy known in closed form; E[-log q] - entropy is the divergence
    flow, entropy = (
        build(architecture, 2, spread=0.0).train(),
        2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.5)),
    )
    optimiser, generator = torch.optim.Adam(flow.parameters(), lr=5e-3), torch.Generator().manual_seed(1)

    def draw(n):
        context = torch.randn(n, CONTEXT, generator=generator)
        mean = torch.stack([context[:, 0], context[:, 0] - context[:, 1]], dim=1)
        return mean + 0.5 * torch.randn(n, 2, generator=generator), context

    for _ in range(250):
        optimiser.zero_grad()
        (-flow.log_prob(*draw(256)).mean()).backward()
        optimiser.step()
    with torch.no_grad():
        divergence = float(-flow.log_prob(*draw(5000)).mean()) - entropy
    # the estimate's standard error is sqrt(2 * 0.5 / 5000) = 0.014; fixed seed, so no false alarms between runs
    assert -0.06 < divergence < 0.12


def spread_of_a_narrow_posterior(tail_bound, seed=0):
    """Mean sd of draws for mu ~ N(0, 1), x ~ N(mu, 0.02^2) over the exact 0.02, for five observations."""
    # one spline, since five of them are not trained far enough in a few seconds: their tails come out too wide as well
    architecture = CouplingNSF(transforms=1, hidden=32, tail_bound=tail_bound)
    flow = Flow(Prior(mu=torch.distributions.Normal(0.0, 1.0)), {"x": Observable(())}, flow=architecture)
    generator, steps = torch.Generator().manual_seed(seed), 1200
    optimiser = torch.optim.Adam(flow.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-2, total_steps=steps)
    for _ in range(steps):
        theta = torch.randn(256, 1, generator=generator)
        batch = Batch(theta, {"x": theta[:, 0] + 0.02 * torch.randn(256, generator=generator)})
        optimiser.zero_grad()
        flow.loss(batch, generator=generator).mean().backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    draws = flow.condition({"x": torch.linspace(-1, 1, 5)}).sample(10_000, generator=generator)
    return float(draws.std(0).mean()) / 0.02


def test_the_default_tail_bound_keeps_the_sd_of_a_narrow_posterior():
    # seeds are fixed, so no false alarms between runs; three seeds gave 1.02, 1.24 and 1.04
    assert 0.7 < spread_of_a_narrow_posterior(CouplingNSF().tail_bound) < 1.3


def test_planted_fault_sbis_tail_bound_ruins_the_sd_of_a_narrow_posterior():
    # noise beyond 3 is 2.7e-3 of all and comes out as it is: a variance of E[e^2; |e| > 3] = 0.029 beside 0.0004
    assert spread_of_a_narrow_posterior(3.0) > 5
