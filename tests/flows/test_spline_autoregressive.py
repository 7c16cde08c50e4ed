"""The masks of the autoregressive spline flow: who sees whom."""

from __future__ import annotations

import pytest
import torch
from flows.architectures import CONTEXT, build, normal

from sciinf.networks.flows.spline_autoregressive import SplineAutoregressive, _SplineAutoregressive


def plan(hidden=11):
    return SplineAutoregressive(transforms=1, hidden=hidden, gaussian=False)


def reach(flow):
    """(D, D + 1), whether noise i moves with z j, and (last) with the context."""
    z, context = normal(1, 1, flow.dim), normal(1, CONTEXT)
    by_z, by_context = torch.autograd.functional.jacobian(lambda *given: flow.encode(*given)[0], (z, context))
    return torch.cat([by_z.reshape(flow.dim, flow.dim) != 0, (by_context.reshape(flow.dim, -1) != 0).any(1, True)], 1)


def full(dim):
    """A dimension sees itself, those before it and the context; a step turns the order round."""
    return torch.cat([torch.ones(dim, dim, dtype=torch.bool).tril(), torch.ones(dim, 1, dtype=torch.bool)], 1).flip(0)


@pytest.mark.parametrize(("dim", "hidden"), [(1, 1), (4, 11), (4, 4), (8, 8), (8, 12)])
def test_a_dimension_sees_those_before_it_and_no_other(dim, hidden):
    flow = build(plan(hidden), dim, spread=0.3, dtype=torch.float64)
    assert torch.equal(reach(flow), full(dim))


def test_planted_fault_a_mask_off_by_one_is_noticed():
    flow = build(plan(), 4, spread=0.3, dtype=torch.float64)
    flow.steps[0].last_mask.fill_(1.0)
    assert not torch.equal(reach(flow), full(4))


class Unchecked:
    """Builds the flow whatever its width."""

    def __init__(self, plan):
        self.plan = plan

    def build(self, dim, context):
        return _SplineAutoregressive(self.plan, dim, context)


@pytest.mark.parametrize(("dim", "hidden"), [(8, 4), (8, 7), (2, 1)])
def test_too_few_units_for_the_dimensions_are_refused(dim, hidden):
    flow = build(Unchecked(plan(hidden)), dim, spread=0.3, dtype=torch.float64)
    assert not torch.equal(reach(flow), full(dim))  # even with one too few, the last does not see the one before it
    with pytest.raises(ValueError, match=rf"hidden={hidden}\) .* {dim} dimensions.*take hidden >= {dim}, or Spline"):
        plan(hidden).build(dim, CONTEXT)
