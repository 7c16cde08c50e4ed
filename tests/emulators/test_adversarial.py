"""The objective with a judge, on the linear model whose codes have another law than the prior unless they are told."""

from __future__ import annotations

import math

import pytest
import torch
from emulators.test_field_code import Front, built, frames
from emulators.test_objectives import NUMBERS, decoded, generator, model, posterior
from scipy import stats
from torch.nn import functional as F

from sciinf.core import Batch
from sciinf.core.prior import global_seed
from sciinf.emulators import Adversarial, Mmd, Plain
from sciinf.emulators.adversarial import Discriminator
from sciinf.emulators.objectives import Coded, Objective, mmd

FRESH = 1_000


def judged(width=32):
    with global_seed(generator(1)):
        return Discriminator(3, width).double()


class Flattered(Objective):
    """The fault: the encoder follows the judge's own loss, and helps it to tell codes from the prior."""

    def loss(self, rows, coded, *, generator):
        z = coded.draw(1, generator=generator)
        prior = torch.randn(z[0].shape, generator=generator, dtype=z.dtype)
        return 50 * (F.softplus(coded.judge(z[0])) + F.softplus(-coded.judge(prior))) - rows.log_prob(z)[0]


def codes_by(objective, steps=300):
    """Draws of q(z) after training, from least squares of means that are off by 1; a row's own sd."""
    w, x = model()
    judge, draw = judged(), generator(3)
    slope = torch.linalg.pinv(w).mT.clone()
    leaves = [slope, torch.ones(3, dtype=w.dtype), torch.full((3,), -1.0, dtype=w.dtype)]
    slope, shift, log_sd = (leaf.requires_grad_() for leaf in leaves)
    optimiser = torch.optim.Adam([*leaves, *judge.parameters()], lr=0.01, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = x[torch.randint(len(x), (256,), generator=draw)]
        coded = Coded(rows @ slope + shift, log_sd.expand(len(rows), -1), judge)
        optimiser.zero_grad()
        objective.loss(decoded(w, rows), coded, generator=draw).mean().backward()
        optimiser.step()
        schedule.step()
    _, x = model(rows=FRESH + 4_000)
    x = x[-FRESH:]
    noise = torch.randn(FRESH, 3, generator=generator(9), dtype=w.dtype)
    return (x @ slope + shift + log_sd.exp() * noise).detach(), log_sd.detach().exp()


@pytest.fixture(scope="module")
def found():
    good = {"judge": codes_by(Adversarial(50.0, width=32)), "kernel": codes_by(Mmd(50.0))}
    return good | {"none": codes_by(Plain(), 50), "fault": codes_by(Flattered(), 50)}


@pytest.mark.slow
def test_codes_of_all_rows_come_to_follow_the_prior(found):
    """By Kolmogorov and Smirnov's p of three numbers: the least is below .003 once in 110 for the prior itself."""
    prior = torch.randn(FRESH, 3, generator=generator(8), dtype=torch.float64)
    off = {name: float(mmd(z, prior).mean()) for name, (z, _) in found.items()}
    least = {
        name: min(stats.kstest(z[:, k].numpy(), "norm").pvalue for k in range(3)) for name, (z, _) in found.items()
    }
    for name in ("judge", "kernel"):
        assert least[name] > 0.003, least
        assert off[name] < 0.01, off
        assert float((found[name][0].mT.cov() - torch.eye(3)).abs().max()) < 0.15  # sds of the prior's: 0.03 and 0.045
        assert bool((found[name][1] < 0.3).all())  # rows keep codes of their own, unlike those of a divergence by row
    for name in ("none", "fault"):
        assert least[name] < 1e-6, least
        assert off[name] > 0.03, off


def test_one_loss_pulls_encoder_and_judge_apart():
    w, x = model(rows=400)
    exact, judge = posterior(w, x), judged()
    leaves = [(exact.mean + 1.0).requires_grad_(), exact.log_sd.clone().requires_grad_()]
    parts = {}
    for name, weight in (("all", 3.0), ("error", 0.0)):
        loss = Adversarial(weight, width=32).loss(decoded(w, x), Coded(*leaves, judge), generator=generator(5))
        parts[name] = torch.autograd.grad(loss.sum(), [*leaves, *judge.parameters()]), loss.detach()
    error = -decoded(w, x).log_prob(Coded(*leaves).draw(1, generator=generator(5)))
    for k, part in enumerate(torch.autograd.grad(error.sum(), leaves)):
        assert torch.allclose(parts["error"][0][k], part, atol=1e-8)  # nor has it a slope for the encoder
    draw = generator(5)
    z = Coded(*leaves).draw(1, generator=draw)[0]
    prior = torch.randn(z.shape, generator=draw, dtype=z.dtype)
    taken = F.softplus(-judge(z))
    own = F.softplus(judge(z.detach())) + F.softplus(-judge(prior))
    assert torch.allclose(parts["all"][1] - parts["error"][1], 3 * mmd(z, prior).detach())  # the judge has no value
    for k, part in enumerate(torch.autograd.grad(taken.sum(), leaves)):
        assert torch.allclose(parts["all"][0][k] - parts["error"][0][k], 3 * part, atol=1e-8)
    for k, part in enumerate(torch.autograd.grad(own.sum(), list(judge.parameters()))):
        assert torch.allclose(parts["all"][0][2 + k], part, atol=1e-8)


@pytest.mark.slow
def test_the_best_judge_of_codes_that_follow_the_prior_cannot_tell():
    """And of others it is the logarithm of the ratio of their laws, at 0: N(0, 1) and N(1.5, 0.5^2) in each number."""
    for shift, sd, ratio in ((0.0, 1.0, 0.0), (1.5, 0.5, 3 * (math.log(0.5) + 1.5**2 / 2 / 0.5**2))):
        judge, draw = judged(), generator(2)
        optimiser = torch.optim.Adam(judge.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)
        rows = decoded(torch.zeros(NUMBERS, 3, dtype=torch.float64), torch.zeros(512, NUMBERS, dtype=torch.float64))
        coded = Coded(*(torch.full((512, 3), v, dtype=torch.float64) for v in (shift, math.log(sd))), judge)
        for _ in range(300):
            optimiser.zero_grad()
            Adversarial(width=32).loss(rows, coded, generator=draw).mean().backward()
            optimiser.step()
            schedule.step()
        told = float(judge(torch.zeros(1, 3, dtype=torch.float64)).detach())
        assert told == pytest.approx(ratio, abs=0.3 if not ratio else 0.35 * ratio)


def test_the_record_says_how_far_codes_are_from_the_prior():
    """By other draws of 300 codes, whose estimates of MMD^2 differ by 0.01."""
    code = built(objective=Adversarial(5.0, width=16))
    true = frames(Front(), 100)
    batch = Batch(torch.ones(100, 1), {"u": true.unflatten(0, (100, 3))})
    code.standardise(lambda: iter([batch]))
    with torch.no_grad():
        z = code.coded(true).draw(1, generator=generator(4))[0]
    known = float(mmd(z, torch.randn(z.shape, generator=generator(5))).mean())
    assert code.adjust(lambda: iter([batch]))["codes_off_prior"] == pytest.approx(known, abs=0.05)
    assert known > 0.2


def test_a_field_code_learns_its_judge_and_keeps_it():
    code = built(objective=Adversarial(5.0, width=16))
    batch = Batch(torch.ones(40, 1), {"u": frames(Front(), 40).unflatten(0, (40, 3))})
    code.standardise(lambda: iter([batch]))
    code.loss(batch, generator=generator(1)).mean().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in code.judge.parameters())
    assert {name for name in code.state_dict() if name.startswith("judge.")}
    assert built().judge is None


def test_codes_without_a_judge_are_refused():
    w, x = model(rows=5)
    with pytest.raises(ValueError, match="without a judge"):
        Adversarial().loss(decoded(w, x), posterior(w, x), generator=generator())
    for make, says in ((lambda: Adversarial(-1.0), "weight"), (lambda: Adversarial(width=0), "width")):
        with pytest.raises(ValueError, match=says):
            make()
