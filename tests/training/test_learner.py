"""Estimators side by side do what each does alone; weights live in one matrix and leave it whole."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import distributions as td
from torch import nn

from sciinf.core import Batch, Estimator, Observable, Prior
from sciinf.networks.flows.zuko_flows import MAF
from sciinf.training.estimators.flow import Flow
from sciinf.training.learner import Single, Stacked, stream
from sciinf.training.recipe import Recipe
from sciinf.training.step import Step, step_settings

PRIOR, OBSERVABLES = Prior(a=td.Normal(0.0, 1.0), b=td.Uniform(-1.0, 1.0)), {"x": Observable((3,))}


def flows(count):
    return [Flow(PRIOR, OBSERVABLES, flow=MAF(2, (16,)), seed=seed) for seed in range(count)]


def batches(steps, rows, members=None):
    """Batches (rows, ...), or (members, rows, ...)."""
    g = torch.Generator().manual_seed(5)
    for _ in range(steps):
        theta = torch.stack([PRIOR.sample(rows, generator=g) for _ in range(members or 1)])
        x = torch.cat([theta, theta[..., :1] * theta[..., 1:]], -1)
        x = x + 0.1 * torch.randn(x.shape, generator=g)
        yield Batch(theta, {"x": x}) if members else Batch(theta[0], {"x": x[0]})


@pytest.mark.parametrize("name", ["adamw", "adan", "muon"])
def test_members_trained_at_once_are_members_trained_alone(name):
    # clip 0.5 acts in most steps: each member's own norm counts
    settings = step_settings(Recipe(optimiser=name, clip=0.5))
    together = Stacked(flows(3))
    step = Step(together, settings, stream(0, 0, "cpu"))
    alone = [Single(flow) for flow in flows(3)]
    steps = [Step(one, settings, stream(0, 0, "cpu")) for one in alone]
    for batch in batches(20, 50, members=3):
        step(batch, 5e-3)
        for k, each in enumerate(steps):
            each(Batch(batch.theta[k], {"x": batch.x["x"][k]}), 5e-3)
    assert torch.allclose(step.total, torch.cat([each.total for each in steps]), atol=1e-3)
    for k, one in enumerate(alone):
        assert torch.allclose(together.weights[k], one.weights[0], atol=1e-4)
        released, own = together.release(k).state_dict(), one.release(0).state_dict()
        assert all(torch.allclose(released[n].double(), own[n].double(), atol=1e-4) for n in own)
    assert not torch.allclose(together.weights[0], together.weights[1], atol=1e-2)


def test_a_norm_over_all_members_would_be_noticed():
    # planted fault: the members' slopes clipped together
    together, shared = Stacked(flows(3)), Stacked(flows(3))
    settings = step_settings(Recipe(clip=0.5))
    steps = [Step(one, settings, stream(0, 0, "cpu")) for one in (together, shared)]
    for batch in batches(5, 50, members=3):
        steps[0](batch, 5e-3)
        slopes = shared.weights.grad
        slopes.zero_()
        steps[1].losses(batch).sum().backward()
        slopes.mul_((0.5 / slopes.norm()).clamp(max=1.0))
        steps[1].optimiser.param_groups[0]["lr"] = 5e-3
        steps[1].optimiser.step()
    assert not torch.allclose(together.weights, shared.weights, atol=1e-4)


def test_a_shared_batch_is_scored_by_every_member():
    members = flows(3)
    together, rows = Stacked(copy.deepcopy(members)), next(batches(1, 7))
    together.mode(training=False)
    with torch.no_grad():
        losses = together.loss(rows, stream(0, 0, "cpu"))
        alone = torch.stack([one.eval().loss(rows, generator=stream(0, 0, "cpu")) for one in members])
    assert losses.shape == (3, 7)
    assert torch.allclose(losses, alone, atol=1e-5)


def test_weights_are_views_until_released():
    estimator = flows(1)[0]
    before = {name: value.clone() for name, value in estimator.state_dict().items()}
    learner = Single(estimator)
    assert all(torch.equal(value, before[name]) for name, value in estimator.state_dict().items())
    with torch.no_grad():
        learner.weights.add_(1.0)
    moved = {name: value.detach().clone() for name, value in estimator.named_parameters() if value.requires_grad}
    assert all(torch.equal(value, before[name] + 1.0) for name, value in moved.items())
    released = learner.release(0)
    with torch.no_grad():
        learner.weights.zero_()
    assert all(torch.equal(value, moved[name]) for name, value in released.named_parameters() if name in moved)
    assert len({value.untyped_storage().data_ptr() for value in moved.values()}) == len(moved)
    assert all(value.grad is None for value in released.parameters())


class Partly(Estimator):
    """A frozen direction that differs from seed to seed, and noise that the loss draws."""

    def __init__(self, seed=0, width=2, dtype=None):
        super().__init__()
        self.prior, self.observables = PRIOR, OBSERVABLES
        g = torch.Generator().manual_seed(seed)
        self.frozen = nn.Parameter(torch.randn(3, generator=g), requires_grad=False)
        self.free = nn.Parameter(torch.randn(width, generator=g))
        self.other = nn.Parameter(torch.zeros(1, dtype=dtype))
        self.register_buffer("shared", torch.ones(3))

    def standardise(self, batches): ...

    def loss(self, batch, *, generator):
        noise = torch.randn(batch.theta.shape[:1], generator=generator)
        return (batch.x["x"] @ (self.frozen * self.shared) + self.free.sum() + self.other + noise).square()

    def condition(self, x): ...

    def features(self, x): ...


def test_frozen_parameters_belong_to_their_member_and_noise_differs():
    members = [Partly(0), Partly(1), Partly(1)]
    together, rows = Stacked(copy.deepcopy(members)), next(batches(1, 40_000))
    losses = together.loss(rows, stream(0, 0, "cpu"))
    assert not torch.equal(losses[1], losses[2])  # the same member but for its noise
    # E (a + n)^2 = a^2 + 1 with a = x . frozen + sum free; the mean of 40,000 is within 5 of its standard errors
    # (false alarm 6e-7 each)
    for k, one in enumerate(members):
        a = rows.x["x"] @ one.frozen + one.free.detach().sum()
        error = (2 + 4 * a.square()).sum().sqrt() / len(a)
        assert float((losses[k].detach().mean() - (a.square() + 1).mean()).abs()) < 5 * float(error)
    with torch.no_grad():
        together.weights.zero_()
    assert torch.equal(together.release(1).frozen, members[1].frozen)
    assert set(together.buffers()) == {"frozen", "shared"}


def test_estimators_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"members 0 and 1 of the ensemble differ in \['free'\]"):
        Stacked([Partly(), Partly(width=3)])
    with pytest.raises(TypeError, match="dtypes.*float32.*float64"):
        Single(Partly(dtype=torch.float64))
    still = Partly()
    still.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        Single(still)
