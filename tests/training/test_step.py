"""A step on a problem solved by hand; clipping; what the ways to run it have in common."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from torch import distributions as td
from torch import nn

from sciinf.core import Batch, Estimator, Observable, Prior
from sciinf.training.learner import Single, stream
from sciinf.training.recipe import Recipe
from sciinf.training.step import Step, clip, reason, step_settings


class Linear(Estimator):
    """Squared distance of theta from a linear map of x, plus noise that the loss draws."""

    def __init__(self, noise=0.0, slow=False):
        super().__init__()
        self.prior, self.observables = Prior(a=td.Normal(0.0, 1.0)), {"x": Observable((2,))}
        self.map = nn.Linear(2, 1, bias=False)
        self.noise, self.slow = noise, slow
        with torch.no_grad():
            self.map.weight.copy_(torch.tensor([[1.0, -2.0]]))

    def standardise(self, batches): ...

    def loss(self, batch, *, generator):
        z = torch.randn(batch.theta.shape, generator=generator, device=generator.device)
        loss = (self.map(batch.x["x"]) - batch.theta + self.noise * z).square().sum(-1)
        return loss * loss.sum().item() if self.slow else loss

    def condition(self, x): ...

    def features(self, x): ...


def batch(rows=6, device="cpu"):
    g = torch.Generator().manual_seed(rows)
    return Batch(torch.randn(rows, 1, generator=g), {"x": torch.randn(rows, 2, generator=g)}).to(device)


def test_one_step_by_hand():
    # the first step of AdamW is its rate in each direction, whatever the gradient's size: m = g, sqrt(v) = |g|
    learner = Single(Linear())
    step = Step(learner, step_settings(Recipe(weight_decay=0.1)), stream(0, 0, "cpu"))
    b = batch()
    w = torch.tensor([1.0, -2.0])
    residual = b.x["x"] @ w - b.theta[:, 0]
    gradient = 2 * (residual[:, None] * b.x["x"]).mean(0)
    step(b, 0.01)
    expected = w * (1 - 0.01 * 0.1) - 0.01 * gradient.sign()
    assert torch.allclose(learner.weights.detach()[0], expected, atol=1e-6)
    assert float(step.total) == pytest.approx(float(residual.square().mean()), rel=1e-6)
    assert torch.equal(learner.estimator.map.weight.detach().flatten(), learner.weights.detach()[0])


class Faint(Linear):
    """Its slopes are numbers that single precision has only some digits of."""

    def loss(self, batch, *, generator):
        return 1e-40 * super().loss(batch, generator=generator)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors are as fast with them")
def test_slopes_too_small_for_their_digits_are_0_in_a_step_alone():
    """A training of 50,000 steps was fifteen times slower with them."""
    learner = Single(Faint())
    step, before = Step(learner, step_settings(Recipe(weight_decay=0.0)), stream(0, 0, "cpu")), learner.weights.clone()
    learner.loss(batch(), stream(0, 0, "cpu")).mean().backward()
    assert bool((learner.slopes != 0).any()), "there are some"
    step(batch(), 0.01)
    assert bool((learner.slopes == 0).all())
    assert torch.equal(learner.weights, before)
    assert sys.float_info.min / 2 > 0, "and afterwards it is as before"
    assert float(torch.tensor(1e-40) * 1) > 0


class Small(Linear):
    """Its data are as small, and it learns from them in units of theirs."""

    def loss(self, batch, *, generator):
        return super().loss(Batch(batch.theta, {"x": batch.x["x"] / 1e-40}), generator=generator)


def test_data_too_small_for_their_digits_are_seen_in_a_step():
    found = []
    for model, size in ((Linear(), 1.0), (Small(), 1e-40)):
        learner, b = Single(model), batch()
        step = Step(learner, step_settings(Recipe(weight_decay=0.0)), stream(0, 0, "cpu"))
        step(Batch(b.theta, {"x": size * b.x["x"]}), 0.01)
        found.append((learner.weights.detach().clone(), float(step.total)))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)


THREADS = """
import sys
import torch
from sciinf.training.step import flushed
torch.set_num_threads(2)
with flushed() if sys.argv[1] == "flushed" else torch.no_grad():
    if sys.argv[1] == "planted":
        torch.set_flush_denormal(True)
    torch.ones(1_000_000).add_(1)
    torch.set_flush_denormal(False)
print(int((torch.full((1_000_000,), 1e-40) * 1 == 0).sum()))
"""


@pytest.mark.slow
@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="threads inherit it there")
def test_threads_that_torch_starts_in_a_step_keep_small_numbers_afterwards():
    def lost(how):
        done = subprocess.run([sys.executable, "-c", THREADS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert lost("flushed") == 0
    assert lost("planted") > 0, "the fault: half of the numbers of whoever computes next are 0"


def check_clipping(rule):
    slopes = torch.tensor([[3.0, 4.0], [0.3, 0.4], [30.0, 40.0]])
    rule(slopes, 2.5)
    assert torch.allclose(slopes, torch.tensor([[1.5, 2.0], [0.3, 0.4], [1.5, 2.0]]), atol=1e-5)
    one = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    parameter = nn.Parameter(torch.zeros(50))
    parameter.grad = one[0].clone()
    nn.utils.clip_grad_norm_([parameter], 0.7)
    rule(one, 0.7)
    assert torch.allclose(one[0], parameter.grad, atol=1e-6)


def test_clipping_is_by_the_norm_of_each_row():
    check_clipping(clip)
    with pytest.raises(AssertionError):  # the planted fault: one norm for all rows
        check_clipping(lambda slopes, largest: slopes.mul_((largest / slopes.norm()).clamp(max=1.0)))


def test_a_loss_that_is_not_finite_spoils_the_sum():
    step = Step(Single(Linear()), step_settings(Recipe()), stream(0, 0, "cpu"))
    step(Batch(torch.full((3, 1), torch.nan), {"x": torch.ones(3, 2)}), 0.1)
    step(batch(), 0.1)
    assert torch.isnan(step.total).all()


def test_reasons_are_one_line():
    assert reason(ValueError("first\nsecond\nthird")) == "first second"
    assert reason(KeyError()) == "KeyError"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["adamw", "amsgrad", "adan", "muon"])
def test_a_captured_step_is_the_step(name):
    ends = []
    for graph in (False, True):
        generator = torch.Generator("cuda")
        learner = Single(Linear(noise=0.1).cuda())
        step = Step(learner, step_settings(Recipe(optimiser=name, graph=graph)), generator)
        for epoch in range(3):
            generator.manual_seed(epoch)
            for rows in range(5):
                b = batch(64, "cuda")
                step(Batch(b.theta + rows, b.x), 0.01 / (1 + rows))
        assert (step._graph is not None) == graph
        ends.append((learner.weights.detach().clone(), step.total.clone()))
    for one, other in zip(*ends, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_that_cannot_be_captured_runs_eagerly_and_says_so():
    ends = []
    for graph in (False, True):
        learner = Single(Linear(slow=True).cuda())
        step = Step(learner, step_settings(Recipe(graph=graph)), torch.Generator("cuda"))
        for _ in range(4):
            step(batch(64, "cuda"), 0.01)
        if graph:
            with pytest.warns(UserWarning, match="cannot be captured as a CUDA graph, so it runs eagerly"):
                step(batch(64, "cuda"), 0.01)
        else:
            step(batch(64, "cuda"), 0.01)
        ends.append(learner.weights.detach().clone())
    assert torch.allclose(*ends)
