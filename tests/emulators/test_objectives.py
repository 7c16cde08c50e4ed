"""Objectives of codes against a linear-Gaussian model of which all is known: x ~ N(W z, sigma^2 I), z ~ N(0, I)."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf.emulators.field_code import collapsed, expected_nats
from sciinf.emulators.objectives import (
    KL,
    SCALES,
    Coded,
    Importance,
    Mmd,
    Plain,
    Reconstruction,
    Unscented,
    evidence,
    mmd,
)

SIZES = (2.0, 1.0, 0.5)  # of the columns of W, which are orthogonal: the posterior has no correlations
NOISE, NUMBERS, ROWS = 0.5, 6, 4_000
BOUNDS = (KL(), Importance(8), Importance(4, 3), Importance(8, mix=0.5), Importance(4, 3, apart=True))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def model(sizes=SIZES, rows=ROWS, noise=NOISE):
    """W and rows, float64."""
    basis = torch.linalg.qr(torch.randn(NUMBERS, len(sizes), generator=generator(109), dtype=torch.float64))[0]
    w = basis * torch.tensor(sizes, dtype=torch.float64)
    z = torch.randn(rows, len(sizes), generator=generator(101), dtype=torch.float64)
    error = torch.randn(rows, NUMBERS, generator=generator(102), dtype=torch.float64)
    return w, z @ w.mT + noise * error


def decoded(w, x, noise=NOISE):
    return Reconstruction(x, lambda z: z @ w.mT, torch.tensor(noise, dtype=torch.float64))


def posterior(w, x, noise=NOISE):
    """The exact one, for orthogonal columns."""
    precision = 1 + w.square().sum(0) / noise**2
    return Coded(x @ w / noise**2 / precision, (-precision.log() / 2).expand(len(x), -1))


def log_evidence(w, x, noise=NOISE):
    law = torch.distributions.MultivariateNormal(
        torch.zeros(len(w), dtype=w.dtype), w @ w.mT + noise**2 * torch.eye(len(w), dtype=w.dtype)
    )
    return law.log_prob(x)


def off(coded, shift=0.3, wider=1.6):
    """A law that is wrong by known amounts."""
    sd = coded.log_sd.exp()
    return Coded(coded.mean + shift * sd, coded.log_sd + math.log(wider))


def divergence(coded, exact):
    """KL of two laws without correlations."""
    ratio = coded.log_sd - exact.log_sd
    away = ((coded.mean - exact.mean) * (-exact.log_sd).exp()).square()
    return (((2 * ratio).exp() + away - 1) / 2 - ratio).sum(-1)


@pytest.mark.parametrize("objective", BOUNDS[1:])
def test_weights_of_the_exact_posterior_are_the_evidence(objective):
    w, x = model(rows=50)
    loss = objective.loss(decoded(w, x), posterior(w, x), generator=generator())
    assert torch.allclose(loss, -log_evidence(w, x), atol=1e-10)


def test_the_gap_of_one_draw_is_the_divergence_from_the_posterior():
    w, x = model()
    exact, rows = posterior(w, x), decoded(w, x)
    wrong = off(exact)
    gap = KL(draws=64).loss(rows, wrong, generator=generator()) + log_evidence(w, x)
    assert float(gap.mean()) == pytest.approx(float(divergence(wrong, exact).mean()), abs=0.02)
    beta = KL(3.0, draws=64).loss(rows, wrong, generator=generator()) - gap + log_evidence(w, x)
    assert torch.allclose(beta, 2 * wrong.kl().sum(-1))


def test_bounds_rise_with_draws_to_the_evidence_and_averages_outside_the_logarithm_do_not():
    w, x = model(rows=1_000)
    rows, wrong, true = decoded(w, x), off(posterior(w, x)), log_evidence(w, x)
    gaps = {k: float((true - evidence(rows, wrong, k, generator=generator(k))).mean()) for k in (1, 3, 10, 30, 1_000)}
    found = list(gaps.values())
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.5, gaps
    assert abs(found[-1]) < 0.05, gaps
    one = Importance(200).loss(rows, wrong, generator=generator()) + true
    outside = Importance(1, 200).loss(rows, wrong, generator=generator()) + true  # the fault, and MIWAE's other end
    assert float(one.mean()) < 0.05
    assert float(outside.mean()) > 0.5
    assert float(Importance(200, mix=0.5).loss(rows, wrong, generator=generator()).mean()) == pytest.approx(
        float((one + outside).mean() / 2 - true.mean())
    )


def gradients(objective, w, exact, x):
    """Of the mean loss, for the encoder's sds and means, and for the decoder."""
    w, wrong = w.clone().requires_grad_(), off(exact)
    leaves = [value.clone().requires_grad_() for value in (wrong.mean, wrong.log_sd)]
    loss = objective.loss(decoded(w, x), Coded(*leaves), generator=generator(5)).mean()
    return torch.autograd.grad(loss, [*leaves, w]), float(loss.detach())


def test_encoder_and_decoder_may_follow_objectives_of_their_own():
    w, x = model(rows=100)
    exact = posterior(w, x)
    apart, value = gradients(Importance(4, 6, apart=True), w, exact, x)
    few, _ = gradients(Importance(4, 6), w, exact, x)
    many, whole = gradients(Importance(24), w, exact, x)
    assert value == pytest.approx(whole)
    for k in (0, 1):
        assert torch.allclose(apart[k], few[k])
        assert not torch.allclose(apart[k], many[k], rtol=0.1)
    assert torch.allclose(apart[2], many[2])
    assert not torch.allclose(apart[2], few[2], rtol=0.1)
    with torch.no_grad():
        loss = Importance(4, 6, apart=True).loss(decoded(w, x), off(exact), generator=generator(5))
    assert float(loss.mean()) == pytest.approx(value)


def optimum(objective, w, x):
    """Means m = A x and sds of the best encoder for a decoder."""
    slope = torch.zeros(len(w), w.shape[1], dtype=w.dtype).requires_grad_()
    log_sd = torch.full((w.shape[1],), -1.0, dtype=w.dtype).requires_grad_()
    noisy = not isinstance(objective, Unscented | Plain)
    draw, leaves = generator(3), [slope, log_sd]
    steps = 300 if noisy else 30
    optimiser = torch.optim.Adam(leaves, lr=0.03) if noisy else torch.optim.LBFGS(leaves, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        coded = Coded(x @ slope, log_sd.expand(len(x), -1))
        value = objective.loss(decoded(w, x), coded, generator=draw).mean()
        value.backward()
        return value

    for step in range(steps):
        optimiser.step(loss)
        if noisy:
            optimiser.param_groups[0]["lr"] = 0.03 * (1 - step / steps)
    return Coded((x @ slope).detach(), log_sd.detach().expand(len(x), -1))


class WithoutRoot(Unscented):  # the fault: sigma points at s, not at sqrt(d) s
    def points(self, coded, *, generator):
        del generator
        away = torch.diag_embed(coded.log_sd.exp()).movedim(1, 0)
        return torch.cat([coded.mean + away, coded.mean - away])


@pytest.mark.slow
def test_every_objective_finds_the_encoder_that_it_should():
    w, x = model(rows=400)
    exact, ratio = posterior(w, x), torch.tensor(SIZES, dtype=torch.float64).square() / NOISE**2
    usual, sharper = (1 + ratio).rsqrt(), 1 / (1 + ratio)
    rooms = {"exact": 1e-4, "drawn": 0.03}
    for objective, sd, room in (
        (KL(), usual, "drawn"),
        (Importance(4), usual, "drawn"),
        (Importance(2, 2, apart=True), usual, "drawn"),
        (Unscented(), sharper, "exact"),
    ):
        found = optimum(objective, w, x)
        assert torch.allclose(found.log_sd[0].exp(), sd, rtol=rooms[room]), objective
        assert float((found.mean - exact.mean).square().mean().sqrt()) < rooms[room], objective
    fault = optimum(WithoutRoot(), w, x)
    assert not torch.allclose(fault.log_sd[0].exp(), sharper, rtol=0.2)
    plain = optimum(Plain(), w, x)  # least squares, no shrinkage
    assert torch.allclose(plain.mean, x @ torch.linalg.pinv(w).mT, atol=1e-3)
    joined = optimum(Unscented(together=True), w, x)
    assert torch.allclose(joined.log_sd[0].exp(), torch.ones(3, dtype=torch.float64), atol=1e-3)


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_sigma_points_alone_give_a_decoder_no_best_size(weight):
    """Loss by size of W for its best encoder: (lambda + v) / (2 weight + v), all or nothing."""
    w, x = model((1.0,), rows=2_000)
    along, losses = float((x @ w).square().mean()) / NOISE**2, []
    for size in (0.5, 2.0, 8.0):
        v = size**2 / NOISE**2
        s = 2 * weight / (2 * weight + v)
        coded = Coded(x @ w * size / NOISE**2 / (2 * weight + v), torch.full((len(x), 1), math.log(s), dtype=w.dtype))
        loss = float(Unscented(weight).loss(decoded(size * w, x), coded, generator=generator()).mean())
        losses.append(loss - weight * (along + v) / (2 * weight + v))
    assert losses == pytest.approx([losses[0]] * 3)
    assert (along > 2 * weight) == (weight == 0.5)


def test_sigma_points_have_less_noise_than_draws():
    """Sds of gradients for s, of 2 decodings; all 2 d have none."""
    w, x = model(rows=1)
    many, exact = x.expand(4_000, -1), posterior(w, x)
    noise = {}
    for name, objective in (("draws", KL(draws=2)), ("pair", Unscented(pairs=1)), ("all", Unscented())):
        leaves = [value.expand(4_000, -1).clone().requires_grad_() for value in (exact.mean, exact.log_sd)]
        loss = objective.loss(decoded(w, many), Coded(*leaves), generator=generator(4)).sum()
        noise[name] = [float(g.var(0).sum()) for g in torch.autograd.grad(loss, leaves)]
    assert noise["pair"][0] < 1e-20 < noise["draws"][0]
    assert sum(noise["pair"]) < 0.5 * sum(noise["draws"])
    assert sum(noise["all"]) < 1e-20


def exact_mmd(mean, sd):
    """MMD^2 of N(mean, sd^2 I) and N(0, I). The kernel is a mixture of Gaussian ones, C / (C + r) = E exp(-t r / C)."""
    t = torch.linspace(0, 40, 80_001, dtype=torch.float64)[:, None]
    total = torch.zeros((), dtype=torch.float64)
    for c in SCALES:
        width = 2.0 * len(mean) * c

        def kernel(shift, variance, width=width):
            at = 1 + 2 * t * variance / width
            value = (at.rsqrt() * (-t * shift.square() / width / at).exp()).prod(1) * (-t[:, 0]).exp()
            return torch.trapezoid(value, t[:, 0])

        own, theirs = kernel(0 * mean, 2 * sd.square()), kernel(0 * mean, torch.full_like(sd, 2.0))
        total = total + own + theirs - 2 * kernel(mean, 1 + sd.square())
    return float(total)


@pytest.mark.slow
def test_mmd_is_that_of_the_two_laws():
    mean, sd = torch.tensor([0.5, 0.0]).double(), torch.tensor([0.6, 1.0]).double()
    draw = generator(7)
    z, prior, other = (torch.randn(20_000, 2, generator=draw, dtype=torch.float64) for _ in range(3))
    found = mmd(mean + sd * z, prior)
    assert found.shape == (20_000,)
    assert float(found.mean()) == pytest.approx(exact_mmd(mean, sd), rel=0.1)
    assert exact_mmd(mean, sd) > 0.1
    assert abs(float(mmd(other, prior).mean())) < 0.005
    assert abs(float(mmd(prior, prior.flip(0)).mean())) < 0.02  # the fault: the prior with itself says nothing of z
    w, x = model(rows=500)
    far = Coded(posterior(w, x).mean + 2.0, posterior(w, x).log_sd)
    penalties = [
        float(
            (Mmd(10.0, keep).loss(decoded(w, x), far, generator=generator(1))).mean()
            - Mmd(0.0).loss(decoded(w, x), far, generator=generator(1)).mean()
        )
        for keep in (0.0, 0.5)
    ]
    sds = (far.mean.var(0, correction=0) + far.log_sd[0].mul(2).exp()).sqrt()
    assert penalties[0] == pytest.approx(10 * exact_mmd(far.mean.mean(0), sds), rel=0.1)
    assert penalties[1] - penalties[0] == pytest.approx(0.5 * float(far.kl().sum(-1).mean()))


def trained(x, beta, latents=4, steps=700):
    """A linear code that is learned from scratch: its encoder's laws."""
    draw = generator(11)
    a, w = (0.3 * torch.randn(NUMBERS, latents, generator=draw, dtype=torch.float64) for _ in range(2))
    log_sd = torch.full((latents,), -1.0, dtype=torch.float64)
    leaves = [value.requires_grad_() for value in (a, w, log_sd)]
    optimiser = torch.optim.Adam(leaves, lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        KL(beta).loss(decoded(w, x), Coded(x @ a, log_sd.expand(len(x), -1)), generator=draw).mean().backward()
        optimiser.step()
    return Coded((x @ a).detach(), log_sd.detach().expand(len(x), -1))


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.5, 4.0, 40.0])
def test_numbers_die_where_they_are_bound_to(beta):
    """Eigenvalues 4.25, 1.25, 0.5 and thrice 0.25: thresholds of beta 17, 5, 2 and 1."""
    _, x = model()
    nats = expected_nats(x, 4, NOISE, beta)
    found = collapsed(trained(x[:1_000], beta))
    eigenvalues = torch.linalg.eigvalsh(x.mT.cov(correction=0)).flip(0)[:4]
    sure = ((eigenvalues / (beta * NOISE**2)).log().abs() > 0.1).tolist()
    alive = found.alive[found.kl.argsort(descending=True)].tolist()
    for k in range(4):
        assert not sure[k] or alive[k] == bool(nats[k] > 0), (k, found, nats)
    assert float(found.kl.sum()) == pytest.approx(float(nats.sum()), abs=0.15)
    assert str(found).startswith(f"{sum(alive)} of 4 numbers say something")


def test_what_is_wrong_is_refused():
    for make, says in (
        (lambda: KL(-1.0), "beta"),
        (lambda: KL(draws=0), "draws"),
        (lambda: Mmd(math.inf), "weight"),
        (lambda: Mmd(scales=(0.0,)), "scales"),
        (lambda: Importance(0), "k must be"),
        (lambda: Importance(2, mix=0.5, apart=True), "mix"),
        (lambda: Unscented(pairs=0), "pairs"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
