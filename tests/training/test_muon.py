"""Muon against its formulas by singular values, against AdamW where there is no matrix, and with planted faults."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf.training.muon import LEAST, QUINTIC, STEPS, Muon, Span, orthogonal, spans

RATE, DECAY, BETA = 0.02, 0.1, 0.9
SHAPES = ((3,), (2, 20, 16), (7, 40), (16, 31))  # two matrices, a map of few inputs, one matrix


def by_singular_values(matrices, steps=STEPS):
    """The quintic on the singular values alone, in float64: what it does to a matrix by definition."""
    u, s, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    a, p, q = QUINTIC
    for _ in range(steps):
        s = a * s + p * s**3 + q * s**5
    return u * s[..., None, :] @ v


def slopes_of(weights, k):
    """Gradients that depend on where and when."""
    wiggle = torch.sin(1.3 * k + torch.arange(weights.numel(), dtype=torch.float32)).view_as(weights)
    return weights.detach() - 1.0 + wiggle


def moved(steps, *, matrices, members=1):
    """Weights after some steps of Muon."""
    start = torch.randn(members, sum(math.prod(shape) for shape in SHAPES), generator=torch.Generator().manual_seed(0))
    weights = torch.nn.Parameter(start.clone())
    made = Muon(weights, matrices, lr=RATE, weight_decay=DECAY)
    for k in range(steps):
        weights.grad = slopes_of(weights, k)
        made.step()
    return start, weights.detach()


def by_hand(start, steps, *, ahead=BETA):
    """The matrices' part of the formulas, one matrix after the other."""
    weights, parts = start.clone()[0], []
    first = spans(SHAPES)
    for span in first:
        size = span.rows * span.columns
        parts += [slice(at, at + size) for at in range(span.start, span.stop, size)]
    shape = {part.start: (span.rows, span.columns) for span in first for part in parts if span.start <= part.start}
    momentum = torch.zeros_like(weights)
    others = torch.nn.Parameter(weights.clone()[None])
    adam = torch.optim.AdamW([others], lr=RATE, weight_decay=DECAY)
    for k in range(steps):
        slopes = slopes_of(weights[None], k)[0]
        momentum = BETA * momentum + (1 - BETA) * slopes
        others.grad = slopes[None]
        adam.step()
        new = others.detach()[0].clone()
        for part in parts:
            rows, columns = shape[part.start]
            move = by_singular_values((ahead * momentum + (1 - ahead) * slopes)[part].view(rows, columns)).float()
            size = RATE * 0.2 * math.sqrt(max(rows, columns))
            new[part] = weights[part] * (1 - RATE * DECAY) - size * move.flatten()
        weights = new
        others.data.copy_(new[None])
    return weights


def test_matrices_are_found_among_the_tensors():
    first, second = 3, 3 + 2 * 20 * 16 + 7 * 40
    assert spans(SHAPES) == [Span(first, first + 640, 20, 16), Span(second, second + 496, 16, 31)]
    assert spans([(LEAST, LEAST - 1), (LEAST,), ()]) == []


@pytest.mark.parametrize("shape", [(5, 20, 16), (3, 16, 40), (2, 30, 30)])
def test_the_quintic_acts_on_singular_values(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * torch.tensor(1e3)
    for steps in (1, STEPS, 5):
        expected = by_singular_values(matrices, steps).float()
        assert torch.allclose(orthogonal(matrices, steps), expected, atol=2e-4)
    values = torch.linalg.svdvals(orthogonal(matrices, 5))
    shares = torch.linalg.svdvals(matrices) / torch.linalg.matrix_norm(matrices)[:, None]
    assert bool(((values > 0.65) & (values < 1.25))[shares > 0.01].all())


def test_a_matrix_of_zeros_stays():
    assert bool((orthogonal(torch.zeros(2, 20, 20)) == 0).all())


@pytest.mark.parametrize("steps", [1, 12])
def test_matrices_move_by_the_formulas_and_the_rest_as_with_adamw(steps):
    start, ends = moved(steps, matrices=spans(SHAPES))
    assert torch.allclose(ends[0], by_hand(start, steps), atol=2e-4)


def test_momentum_without_looking_ahead_is_told_apart():
    # planted fault: the momentum itself in place of Nesterov's
    start, ends = moved(12, matrices=spans(SHAPES))
    assert not torch.allclose(ends[0], by_hand(start, 12, ahead=1.0), atol=1e-2)


def test_two_matrices_taken_for_one_are_told_apart():
    # planted fault: (2, 20, 16) made orthogonal as if it were (40, 16)
    right, wrong = spans(SHAPES), [Span(3, 643, 40, 16), spans(SHAPES)[1]]
    assert not torch.allclose(moved(2, matrices=right)[1], moved(2, matrices=wrong)[1], atol=1e-2)


def test_an_ill_conditioned_least_squares_is_solved_sooner_than_by_adamw():
    # the case the method is for: singular values over three orders of magnitude, all needed
    g = torch.Generator().manual_seed(2)
    inputs = (
        torch.randn(400, 32, generator=g) @ torch.diag(torch.logspace(0, -3, 32)) @ torch.randn(32, 32, generator=g)
    )
    aim = inputs @ torch.linalg.pinv(inputs) @ torch.randn(400, 32, generator=g)
    losses = {}
    for name in ("muon", "adamw"):
        weights = torch.nn.Parameter(torch.zeros(1, 1024))
        where = spans([(32, 32)]) if name == "muon" else []
        made = Muon(weights, where, lr=0.05)
        for k in range(300):
            made.param_groups[0]["lr"] = 0.05 * (1 - k / 300)
            loss = (inputs @ weights.view(32, 32) - aim).square().mean()
            (weights.grad,) = torch.autograd.grad(loss, [weights])
            made.step()
        losses[name] = float(loss.detach())
    assert losses["muon"] < losses["adamw"]


@pytest.mark.parametrize("settings", [{"lr": -1.0}, {"weight_decay": -0.1}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="at least 0"):
        Muon(torch.nn.Parameter(torch.zeros(1, 4)), [], **settings)
