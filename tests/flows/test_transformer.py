"""The transformer flow: causal, exactly inverted, normalised, and a density that learns."""

from __future__ import annotations

import math

import pytest
import torch
from flows import architectures
from flows.architectures import CONTEXT, normal
from flows.two_modes import excess, fitted
from torch import distributions as td

from sciinf.core import DensityUnavailable
from sciinf.networks.flows.transformer import TransformerAutoregressive

SMALL = {"blocks": 2, "width": 16, "heads": 2, "bins": 4}


def build(dim, *, spread=0.2, **settings):
    architecture = TransformerAutoregressive(**{**SMALL, **settings})
    return architectures.build(architecture, dim, spread=spread, dtype=torch.float64, seed=3)


def seen_by(flow, dim):
    """For the first block: |d parameters of dimension i / d z_j| summed over parameters, (D, D)."""
    block, features = flow.blocks[0], flow.embed(normal(1, CONTEXT))

    def parameters(z):
        return block.describe(z[None, None], features)[0, 0]

    return torch.autograd.functional.jacobian(parameters, normal(dim, seed=1)).abs().sum(1)


def before(dim, group):
    """Which dimensions come in a group before one's own, (D, D)."""
    at = torch.arange(dim) // group
    return at[None, :] < at[:, None]


@pytest.mark.parametrize(("dim", "group"), [(1, 1), (2, 1), (5, 1), (5, 2), (6, 3)])
def test_parameters_see_the_groups_before_theirs_and_no_more(dim, group):
    seen, allowed = seen_by(build(dim, group=group, layers=2), dim), before(dim, group)
    assert bool((seen[~allowed] == 0).all())
    assert bool((seen[allowed] > 0).all())


def test_planted_fault_a_mask_that_lets_the_future_through_is_found():
    flow = build(4)
    flow.blocks[0].mask.fill_(True)
    assert bool((seen_by(flow, 4)[~before(4, 1)] > 0).any())


@pytest.mark.parametrize(("dim", "group", "bins"), [(1, 1, 4), (2, 1, 4), (5, 1, 0), (5, 2, 4), (7, 3, 4)])
def test_decoding_inverts_encoding(dim, group, bins):
    flow, noise, context = build(dim, group=group, bins=bins, layers=2), normal(30, 4, dim), normal(4, CONTEXT)
    with torch.no_grad():
        z = flow.push(noise, context)
        again, _ = flow.encode(z, context)
        assert float((z - noise).abs().max()) > 0.1
        torch.testing.assert_close(again, noise, atol=1e-8, rtol=1e-8)
        torch.testing.assert_close(flow.push(again, context), z, atol=1e-8, rtol=1e-8)


def uncached(block, e, features):
    """The inverse of a block without a cache: D whole passes, each of which makes one more group right."""
    from sciinf.networks.flows import transformer

    z = torch.zeros_like(e)
    for _ in range(block.tokens):
        z = transformer._straighten(e, block.describe(z, features), block.bins)
    return z


@pytest.mark.parametrize(("dim", "group"), [(1, 1), (6, 1), (7, 3)])
def test_cached_decoding_is_the_uncached(dim, group):
    flow, noise, context = build(dim, group=group, layers=3), normal(9, 4, dim), normal(4, CONTEXT)
    with torch.no_grad():
        features = flow.embed(context)
        for block in flow.blocks:
            torch.testing.assert_close(
                block.decode(noise, features), uncached(block, noise, features), atol=1e-9, rtol=1e-9
            )


def test_nothing_of_a_call_stays_on_the_module():
    flow, context = build(3), normal(4, CONTEXT)
    modules = [set(vars(m)) for m in flow.modules()]
    state = {k: v.clone() for k, v in flow.state_dict().items()}
    with torch.no_grad():
        first = flow.push(normal(5, 4, 3), context)
        flow.push(normal(8, 2, 3, seed=1), context[:2])
        assert torch.equal(flow.push(normal(5, 4, 3), context), first)
    assert [set(vars(m)) for m in flow.modules()] == modules
    assert all(torch.equal(v, state[k]) for k, v in flow.state_dict().items())


@pytest.mark.parametrize(("dim", "group", "bins"), [(1, 1, 4), (2, 1, 4), (3, 1, 0), (5, 2, 4)])
def test_change_of_variables_by_the_whole_jacobian(dim, group, bins):
    flow, context = build(dim, group=group, bins=bins), normal(1, CONTEXT)
    for seed in range(5):
        noise = normal(dim, seed=seed)
        jacobian = torch.autograd.functional.jacobian(lambda e: flow.push(e[None, None], context)[0, 0], noise)
        log_normal = -0.5 * (noise.square().sum() + dim * math.log(2 * math.pi))
        with torch.no_grad():
            found = flow.log_prob(flow.push(noise[None, None], context), context)[0, 0]
        torch.testing.assert_close(found, log_normal - torch.linalg.slogdet(jacobian).logabsdet, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("bins", [0, 4])
def test_density_of_two_dimensions_integrates_to_one(bins):
    axis = torch.linspace(-9, 9, 241, dtype=torch.float64)
    grid, flow = torch.cartesian_prod(axis, axis), build(2, bins=bins, spread=0.15)
    with torch.no_grad():
        mass = flow.log_prob(grid[:, None], normal(1, CONTEXT)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("dim", [1, 3])
def test_many_draws_are_evaluated_in_chunks(dim, monkeypatch):
    from sciinf.networks.flows import transformer

    flow, z, context = build(dim), normal(7, 5, dim), normal(5, CONTEXT)
    with torch.no_grad():
        density, draws = flow.log_prob(z, context), flow.push(z, context)
        monkeypatch.setattr(transformer, "CHUNK", 2 * 5 * dim)
        torch.testing.assert_close(flow.log_prob(z, context), density)
        torch.testing.assert_close(flow.push(z, context), draws)


def gaussian(dim, sd, **settings):
    """The flow whose density is N(0, sd^2 I) exactly: one block whose output is a bias alone."""
    flow = build(dim, spread=0.0, **{"blocks": 1, "bins": 0, **settings})
    with torch.no_grad():
        flow.blocks[0].head.bias.view(-1, 2)[:, 1] = 7 * math.atanh(math.log(sd) / 7)
    return flow


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_denoising_moves_draws_of_a_gaussian_to_the_conditional_mean(share):
    # z ~ N(0, s^2), y = z + sigma eps: E[z | y] = y s^2 / (s^2 + sigma^2), here 0.8 y; half the way, 0.9 y
    s, sigma = 0.6, 0.3
    total = math.hypot(s, sigma)
    plain, denoised = (gaussian(2, total, noise=sigma, denoise=k) for k in (0.0, share))
    noise, context = normal(50, 4, 2), normal(4, CONTEXT)
    noisy = plain.push(noise, context)
    torch.testing.assert_close(noisy, total * noise.flip(-1))  # a block's noise comes in the order of the next block
    with torch.no_grad():
        torch.testing.assert_close(denoised.push(noise, context), noisy * (1 - 0.2 * share), atol=1e-9, rtol=1e-9)
    # variance of the draws in closed form, as the module states it
    r = sigma**2 / s**2
    stated = {0.5: s**2 * (1 + r**2 / (4 * (1 + r))), 1.0: s**2 / (1 + r)}[share]
    assert (total * (1 - 0.2 * share)) ** 2 == pytest.approx(stated)


def test_denoised_draws_have_no_density_and_noisy_ones_do():
    flow, plain = build(2, noise=0.1, denoise=1.0), build(2, noise=0.1)
    z, context = normal(6, 4, 2), normal(4, CONTEXT)
    with pytest.raises(DensityUnavailable, match="denoise=0"):
        flow.log_prob(z, context)
    source = torch.Generator().manual_seed(5)
    loss = plain.loss(z[0], context, generator=source)
    moved = z[0] + 0.1 * normal(4, 2, seed=5)
    torch.testing.assert_close(loss, -plain.log_prob(moved, context))
    torch.testing.assert_close(flow.loss(z[0], context, generator=torch.Generator().manual_seed(5)), loss)


def test_gradients_pass_through_denoised_draws():
    flow, context = build(2, noise=0.1, denoise=1.0), normal(2, CONTEXT)
    noise = normal(1, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: flow.push(e, context), noise)


SIGMA = 0.4


def law(extra=0.0):
    """Draws of z | c: two round Gaussians of sd 0.4, wider by noise of sd `extra`, moved by c; c; and log p(z | c)."""
    sd = math.hypot(0.4, extra)
    parts = td.Independent(td.Normal(torch.tensor([[1.0, 0.5], [-1.0, -0.5]]), sd), 1)

    def draw(n, generator):
        c = torch.randn(n, CONTEXT, generator=generator)
        centre = torch.tensor([1.0, 0.5]) * (2.0 * torch.randint(2, (n, 1), generator=generator) - 1.0)
        z = centre + sd * torch.randn(n, 2, generator=generator)
        return z + c[:, :2], c, parts.log_prob(z[:, None]).logsumexp(-1) - math.log(2)

    return draw


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, SIGMA])
def test_learns_the_density_it_is_shown_noise_included(sigma):
    # fixed seeds, so no false alarms between runs; a flow that took p for p_sigma would be at 0.1 or more
    flow = fitted(TransformerAutoregressive(**{**SMALL, "width": 32, "noise": sigma}), law(), steps=200)
    assert -0.02 < excess(flow, law(sigma)) < 0.05
    assert excess(flow, law(SIGMA - sigma)) > 0.1


@pytest.mark.parametrize(
    "settings",
    [{"blocks": 0}, {"heads": 3}, {"bins": 1}, {"group": 0}, {"noise": -0.1}, {"noise": math.inf}, {"denoise": 0.5}],
    ids=str,
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="TransformerAutoregressive needs .*got"):
        TransformerAutoregressive(**settings)


def test_groups_as_large_as_everything_are_refused():
    with pytest.raises(ValueError, match="choose a group below 3"):
        TransformerAutoregressive(group=3).build(3, CONTEXT)
    assert TransformerAutoregressive(group=3).build(1, CONTEXT).dim == 1
