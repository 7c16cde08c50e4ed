"""The residual flow: contractions, inverses, exact determinants, and an estimate of them that has no bias."""

from __future__ import annotations

import math

import pytest
import torch
from flows import architectures
from flows.architectures import CONTEXT, log_normal, normal, seeded
from flows.two_modes import excess, fitted

from sciinf.networks.flows import residual
from sciinf.networks.flows.residual import Residual

SMALL = {"blocks": 2, "hidden": (12,), "network": 8}


def build(dim, *, spread=0.5, dtype=torch.float64, **settings):
    """A flow whose matrices all stand at their bound and whose affine maps are no identities."""
    flow = architectures.build(Residual(**{**SMALL, **settings}), dim, spread=spread, dtype=dtype, seed=5)
    with torch.no_grad():
        for weight in flow.weights:
            weight.mul_(10)
    return flow


# --- the map and its inverse --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(12,), (9, 7), (8, 7, 6)])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_log_prob_is_that_of_the_whole_jacobian(dim, hidden):
    flow, context = build(dim, hidden=hidden), normal(1, CONTEXT)
    for seed in range(4):
        z = normal(dim, seed=seed)
        jacobian = torch.autograd.functional.jacobian(lambda z: flow.encode(z[None, None], context)[0][0, 0], z)
        with torch.no_grad():
            expected = log_normal(flow.encode(z[None, None], context)[0]) + torch.linalg.slogdet(jacobian).logabsdet
            torch.testing.assert_close(flow.log_prob(z[None, None], context), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
@pytest.mark.parametrize(("dim", "lipschitz", "steeper"), [(1, 0.9, 1), (2, 0.9, 1), (6, 0.9, 1), (3, 0.97, 100)])
def test_decoding_inverts_encoding(dim, lipschitz, steeper, dtype, tolerance):
    flow = build(dim, lipschitz=lipschitz, continuation=0.96, dtype=dtype)
    noise, context = normal(200, 4, dim, dtype=dtype), normal(4, CONTEXT, dtype=dtype)
    with torch.no_grad():
        flow.log_betas.add_(math.log(steeper))  # near kinks Newton's steps miss
        z = flow.push(noise, context)
        again, log_det = flow.encode(z, context)
        assert float((z - noise).abs().max()) > 0.1
        assert float(log_det.std()) > 0.1
        torch.testing.assert_close(again, noise, atol=tolerance, rtol=tolerance)


def test_the_inverse_needs_few_evaluations(monkeypatch):
    flow, calls, given = build(3, dtype=torch.float32), [], residual._residual
    monkeypatch.setattr(residual, "_residual", lambda *arguments: (calls.append(1), given(*arguments))[1])
    with torch.no_grad():
        flow.push(normal(500, 4, 3).float(), normal(4, CONTEXT).float())
    assert len(calls) / SMALL["blocks"] < 20  # a fixed-point iteration of kappa = 0.9 may need 150


def test_gradients_of_draws_are_those_of_the_inverse():
    flow, noise, context = build(2), normal(1, 3, 2).requires_grad_(), normal(3, CONTEXT).requires_grad_()
    assert torch.autograd.gradcheck(flow.push, (noise, context), atol=1e-6)
    flow.push(noise, context).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in flow.parameters())


@pytest.mark.parametrize(("dim", "hidden"), [(1, (12,)), (2, (12,)), (2, (9, 7))])
def test_density_integrates_to_one(dim, hidden):
    # smooth and with Gaussian tails, so the trapezoidal rule converges faster than any power of the step
    flow, context = build(dim, hidden=hidden, spread=0.3), normal(1, CONTEXT)
    axis = torch.linspace(-14, 14, 561, dtype=torch.float64)
    grid = axis[:, None] if dim == 1 else torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = flow.log_prob(grid[:, None], context).exp().sum() * (axis[1] - axis[0]) ** dim
    assert float(mass) == pytest.approx(1.0, abs=1e-5)


# --- the contraction ----------------------------------------------------------------------------------------------


def lipschitz_constants(flow):
    """The largest |J|_2 of each step over many points, and the largest |g(u) - g(v)| / |u - v|."""
    dtype = next(flow.parameters()).dtype
    u, context = 2 * normal(300, 5, flow.dim, dtype=dtype), normal(5, flow.context, seed=1, dtype=dtype)
    v, found = u + 0.3 * normal(300, 5, flow.dim, seed=2, dtype=dtype), []
    with torch.no_grad():
        for step in flow._steps(context):
            (g, slopes), (h, _) = step.value(u), step.value(v)
            jacobian = step.jacobian(slopes) - torch.eye(flow.dim, dtype=dtype)
            found.append(float(torch.linalg.matrix_norm(jacobian, ord=2).max()))
            found.append(float(((g - h).norm(dim=-1) / (u - v).norm(dim=-1)).max()))
            found.append(math.prod(float(torch.linalg.matrix_norm(weight, ord=2)) for weight in step.weights))
    return found


@pytest.mark.parametrize("kappa", [0.5, 0.9])
@pytest.mark.parametrize("hidden", [(12,), (9, 7)])
def test_every_step_is_a_contraction(hidden, kappa):
    found = lipschitz_constants(build(3, hidden=hidden, lipschitz=kappa))
    assert 0.5 * kappa < max(found) < kappa * (1 + 1e-12)


def power_iteration(weights, bound):
    """A norm from one power iteration, which is too small: what a contraction must not rest on."""
    v = torch.ones(len(weights), weights.shape[2], 1, dtype=weights.dtype)
    u = weights @ (v / v.norm(dim=1, keepdim=True))
    return weights / (u.norm(dim=1, keepdim=True) / bound).clamp_min(1)


def test_planted_fault_norms_that_have_not_converged_break_the_contraction(monkeypatch):
    monkeypatch.setattr(residual, "_bounded", power_iteration)
    assert max(lipschitz_constants(build(3))) > 1


def test_small_matrices_stay_as_they_are():
    weights = normal(4, 6, 3)
    norms = torch.linalg.matrix_norm(weights, ord=2, keepdim=True)
    torch.testing.assert_close(residual._bounded(0.3 * weights / norms, 0.5), 0.3 * weights / norms)
    torch.testing.assert_close(residual._bounded(weights, 0.5), 0.5 * weights / norms)


def test_slope_of_lipswish_is_at_most_one():
    one = torch.ones(1, 1, dtype=torch.float64)
    step = residual._Step(one, one, [one, one], one[0], [0 * one])  # g = phi
    u = torch.linspace(-20, 20, 40_001, dtype=torch.float64)[:, None].requires_grad_()
    g, slopes = step.value(u)
    (slope,) = torch.autograd.grad(g.sum(), u)
    torch.testing.assert_close(slopes[0], slope)
    assert 0.9998 < float(slope.abs().max()) < 1


# --- the estimate of the determinant ------------------------------------------------------------------------------


def steep(sign, **settings):
    """A flow of four dimensions, J = sign times a symmetric matrix whose eigenvalues are close to 0.9."""
    flow = build(4, blocks=1, **settings)
    with torch.no_grad():
        matrix = torch.linalg.qr(normal(12, 4))[0]
        flow.weights[0].copy_(matrix)
        flow.weights[1].copy_(sign * matrix.T)
        last = flow.given[-1]
        last.weight.mul_(0.1)
        last.bias[:12] = normal(12) / 3 + 1.5
    return flow


def bias_of_the_log_det(sign, *, terms, going_on, draws=20_000):
    """(mean estimate - exact) / standard error, over many draws at one point."""
    flow, z, context = steep(sign), normal(1, 1, 4), normal(1, CONTEXT)
    with torch.no_grad():
        (step,) = flow._steps(context)
        _, slopes = step.value(z)
        many = [slope[0].expand(draws, -1) for slope in slopes]
        found = residual._roulette_log_det(step, many, terms, going_on, seeded(3))
        exact = residual._exact_log_det(step, slopes)
    return float((found.mean() - exact) / (found.std() / draws**0.5))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("terms", "going_on"), [(1, 0.85), (4, 0.85), (2, 0.95)])
def test_roulette_has_no_bias(terms, going_on, sign):
    # z within 5: false-alarm rate 6e-7 each; the seed is fixed
    assert abs(bias_of_the_log_det(sign, terms=terms, going_on=going_on)) < 5


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("terms", [1, 2, 4])
def test_planted_fault_a_truncated_series_is_found(terms, sign):
    # a chance of going on that is never taken: the invertible residual network's series, cut after `terms`
    assert abs(bias_of_the_log_det(sign, terms=terms, going_on=1e-300)) > 10


def bias_of_the_gradient():
    """t statistics of the gradient's mean over 60 batches along its exact direction and along a random one."""
    flow, context = steep(-1, log_det="roulette", exact_terms=1), normal(1, CONTEXT)
    rows, z = context.expand(200, -1), normal(1, 4).expand(200, -1)
    parameters = list(flow.parameters())

    def gradient(generator):
        loss = flow.loss(z, rows, generator=generator).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    exact = gradient(seeded(0))  # in evaluation mode
    flow.train()
    generator = seeded(4)
    found = torch.stack([gradient(generator) for _ in range(60)]) - exact
    found = found @ torch.stack([exact, normal(len(exact), seed=9)], dim=1)
    return found.mean(0) / (found.std(0) / 60**0.5)


def test_gradient_of_the_estimate_has_no_bias():
    # Student's t of 59 degrees beyond 6: 1e-7, twice; the seeds are fixed
    assert float(bias_of_the_gradient().abs().max()) < 6


def test_planted_fault_a_gradient_of_the_truncated_series_is_found(monkeypatch):
    given = residual._roulette_log_det

    def cut(step, slopes, terms, going_on, generator):
        return given(step, slopes, terms, 1e-300, generator)

    monkeypatch.setattr(residual, "_roulette_log_det", cut)
    assert float(bias_of_the_gradient().abs().max()) > 12


def test_roulette_draws_from_the_generator_alone_and_only_in_training():
    flow, z, context = build(2, log_det="roulette").train(), normal(6, 2), normal(6, CONTEXT)
    before = torch.random.get_rng_state()
    one, same, other = (flow.loss(z, context, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one, same)
    assert bool((one != other).all())
    torch.testing.assert_close(flow.eval().loss(z, context, generator=seeded(1)), -flow.log_prob(z, context))


def test_the_default_is_exact_in_few_dimensions():
    assert Residual().build(residual.EXACT_UP_TO, 1).exact
    assert not Residual().build(residual.EXACT_UP_TO + 1, 1).exact
    assert Residual(log_det="exact").build(residual.EXACT_UP_TO + 1, 1).exact
    assert not Residual(log_det="roulette").build(1, 1).exact


# --- as part of the rest ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 3])
def test_many_draws_are_evaluated_in_chunks(dim, monkeypatch):
    flow, z, context = build(dim), normal(7, 5, dim), normal(5, CONTEXT)
    with torch.no_grad():
        density, draws = flow.log_prob(z, context), flow.push(z, context)
        monkeypatch.setattr(residual, "MEMORY", 2 * 5 * dim * 12)
        torch.testing.assert_close(flow.log_prob(z, context), density)
        torch.testing.assert_close(flow.push(z, context), draws)


@pytest.mark.slow
def test_learns_a_density_of_two_modes_to_within_a_tenth_of_a_nat():
    # 10,000 rows: the excess has a standard error of about 0.004; fixed seeds, so no false alarms between runs
    flow = fitted(Residual(blocks=4, hidden=(24,), network=32), steps=200)
    assert -0.02 < excess(flow) < 0.1
    assert max(lipschitz_constants(flow)) < 0.9 * (1 + 1e-5)


@pytest.mark.long
@pytest.mark.parametrize("log_det", residual.LOG_DETS)
def test_the_default_learns_a_density_of_two_modes_to_within_a_twenty_fifth_of_a_nat(log_det):
    assert -0.02 < excess(fitted(Residual(log_det=log_det), steps=400)) < 0.04


def test_values_that_are_not_finite():
    flow, noise, context = build(2), normal(3, 4, 2), normal(4, CONTEXT)
    with torch.no_grad():
        z = flow.decode(torch.where(noise > 1, torch.inf, noise), context)
        spoilt = (noise > 1).any(-1)
        assert bool(z[spoilt].isnan().all())
        torch.testing.assert_close(z[~spoilt], flow.decode(noise, context)[~spoilt])
        flow.log_betas[0] = torch.nan
        with pytest.raises(ValueError, match="draws that are not finite"):
            flow.push(noise, context)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": 0}, "blocks=0"),
        ({"hidden": ()}, r"hidden=\(\)"),
        ({"exact_terms": 0}, "exact_terms=0"),
        ({"log_det": "hutchinson"}, "'exact', 'roulette'.*got 'hutchinson'"),
        ({"lipschitz": 1.0}, "no inverse.*lipschitz=1.0"),
        ({"lipschitz": 0.95}, "no variance.*continuation=0.85"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Residual(**settings)
