"""Interacting nodes: steps of any length, what an edge costs, probabilities, and a chain told from its ends."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf.emulators.processes import Series, Sizes
from sciinf.lab import Interacting
from sciinf.lab.interacting import LearnedInteracting, _moved

pytestmark = pytest.mark.slow

CHAIN = torch.tensor([[-0.7, 0.0, 0.0], [1.5, -0.7, 0.0], [0.0, 1.5, -0.7]], dtype=torch.float64)
ROWS, STEPS, NOISE, EPOCHS = 40, 15, 0.1, 80


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def built(nodes=3, **told) -> LearnedInteracting:
    made = Interacting(nodes, **told).build(Sizes(2, 0, 0), seed=0)
    assert isinstance(made, LearnedInteracting)
    return made


def steady(field):
    """Covariance in the long run, F V + V F^T + I = 0."""
    eye = torch.eye(len(field), dtype=torch.float64)
    both = torch.kron(field, eye) + torch.kron(eye, field)
    return torch.linalg.solve(both, -eye.flatten()).unflatten(0, (len(field), -1))


def series_of_the_chain():
    """0 pushes 1, 1 pushes 2, noise of sd 1; 40 series seen one mean step apart."""
    g, matrix, long = generator(0), torch.linalg.matrix_exp(CHAIN), steady(CHAIN)
    root = torch.linalg.cholesky(long - matrix @ long @ matrix.mT)
    state, found = torch.randn(ROWS, 3, generator=g).double() @ torch.linalg.cholesky(long).mT, []
    for _ in range(STEPS):
        found.append(state + NOISE * torch.randn(ROWS, 3, generator=g))
        state = state @ matrix.mT + torch.randn(ROWS, 3, generator=g).double() @ root.mT
    return torch.stack(found, 1)


@pytest.fixture(scope="module")
def learned():
    """Graph, effects and noise of the chain by the bound, what values say of states being known."""
    x = series_of_the_chain()
    process = Interacting(3).build(Sizes(3, 0, 0), seed=0)
    assert isinstance(process, LearnedInteracting)
    with torch.no_grad():
        process.evidence.weight.copy_(torch.cat([torch.eye(3) / NOISE**2, torch.zeros(6, 3)]))
        process.evidence.bias.copy_(torch.tensor([0, 0, 0, 1, 0, 1, 0, 0, 1]) / NOISE)
        process.log_gain.zero_()
    process.evidence.requires_grad_(False)
    process.log_gain.requires_grad_(False)
    series = Series(x.float(), torch.ones(ROWS, STEPS, dtype=torch.bool), torch.zeros(ROWS, 0))
    descent, g = torch.optim.Adam([p for p in process.parameters() if p.requires_grad], 0.1), generator(1)
    for k in range(EPOCHS):
        descent.param_groups[0]["lr"] = 0.1 * (1 - k / EPOCHS)
        found = process.posterior(series, generator=g)
        off = 0.5 * ((found.z - x) / NOISE).square().sum()
        descent.zero_grad()
        (off + found.kl.sum() + process.shared()).backward()
        torch.nn.utils.clip_grad_norm_(process.parameters(), 5.0)
        descent.step()
    return process, x


def test_a_chain_is_told_from_an_edge_between_its_ends(learned):
    """One seed. The fault: a regression of change on value, which takes a step for one of Euler's."""
    process, x = learned
    found = process.edges()
    p = found.probability
    assert min(p[1, 0], p[2, 1]) > 0.9
    assert max(p[2, 0], p[0, 1], p[0, 2], p[1, 2]) < 0.3
    assert abs(float(found.effect[1, 0]) - 1.5) < 0.3
    before, change = x[:, :-1].flatten(0, 1), x.diff(dim=1).flatten(0, 1)
    fitted = torch.linalg.lstsq(before, change)
    left = (change - before @ fitted.solution).var(0)
    error = (torch.linalg.inv(before.mT @ before).diagonal()[0] * left[2]).sqrt()
    assert float((fitted.solution[0, 2] / error).abs()) > 4  # Euler's says that 0 pushes 2


def test_edges_say_what_they_are_conditional_on(learned):
    found = learned[0].edges()
    assert torch.equal(found.probability.diagonal(), torch.ones(3))
    assert found.effect.shape == found.sd.shape == (3, 3)
    for words in ("linearly", "no hidden common cause", "0.3 before data", "independent of each other"):
        assert words in found.given


@pytest.mark.parametrize("step", [0.0, 0.3, 1.0, 40.0])
def test_steps_of_any_length_are_exact(step):
    spread, push = torch.tensor([0.5, 1.0, 2.0]).double(), torch.tensor([1.0, -1.0, 0.5]).double()
    length = torch.full((1, 1), step).double()
    matrix, shift, noise = (each[0, 0] for each in _moved(CHAIN[None], push[None, None], spread, length))
    times, weights = _gauss(400, step)
    flows = torch.linalg.matrix_exp(CHAIN * times[:, None, None])
    true = torch.linalg.matrix_exp(CHAIN * step)
    assert torch.allclose(matrix, true, atol=1e-10)
    assert torch.allclose(shift, (weights[:, None] * (flows @ push)).sum(0), atol=1e-8)
    exact = (weights[:, None, None] * (flows @ torch.diag(spread) @ flows.mT)).sum(0)
    assert torch.allclose(noise, exact, atol=2e-8)
    if step == 1.0:  # the fault: one step of Euler's
        assert not torch.allclose(torch.eye(3).double() + CHAIN * step, true, atol=0.1)


def _gauss(count, step):
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(count)
    return 0.5 * step * (torch.tensor(nodes) + 1), 0.5 * step * torch.tensor(weights)


def test_what_graph_and_effects_cost_is_their_divergence():
    """200,000 draws of q. False alarms: 4.5 standard errors, below 1 in 100,000."""
    process, count, g = built(2, likely=0.2, size=0.7), 200_000, generator(1)
    with torch.no_grad():
        process.mean.copy_(torch.tensor([-0.5, 0.5, 0.1, -1.0]))
        process.log_sd.copy_(torch.tensor([-1.0, -1.5, -0.5, 0.0]))
        there = process.edges().probability[[0, 1], [1, 0]]
        edge = (torch.rand(count, 2, generator=g) < there).double()
        weight = process.mean + process.log_sd.exp() * torch.randn(count, 4, generator=g)
        normal = torch.distributions.Normal
        slab = normal(process.mean, process.log_sd.exp()).log_prob(weight) - normal(0.0, 0.7).log_prob(weight)
        ratio = slab[:, 0] + slab[:, 3] + (edge * slab[:, 1:3]).sum(1)
        ratio = ratio + (edge * (there / 0.2).log() + (1 - edge) * ((1 - there) / 0.8).log()).sum(1)
        off = (ratio.mean() - process.shared()) / (ratio.std() / math.sqrt(count))
        assert abs(float(off)) < 4.5
        free = ratio - (edge * slab[:, 1:3]).sum(1)  # the fault: effects that cost nothing
        assert abs(float((free.mean() - process.shared()) / (free.std() / math.sqrt(count)))) > 4.5


def test_probabilities_are_exact_where_the_likelihood_is_quadratic():
    """One effect w with log likelihood -H (w - a)^2 / 2: the evidence with an edge beside that without."""
    process = built(2, likely=0.2, size=0.7)
    precision, best = torch.tensor([20.0, 30.0]), torch.tensor([0.5, 0.05])
    sd = (precision + 1 / 0.7**2) ** -0.5
    with torch.no_grad():
        process.mean.copy_(torch.stack([best[0], *(sd.square() * precision * best), best[0]]))
        process.log_sd.copy_(torch.stack([sd[0], *sd, sd[0]]).log())
    normal = torch.distributions.Normal
    ratio = normal(0.0, (1 / precision + 0.7**2).sqrt()).log_prob(best) - normal(0.0, precision**-0.5).log_prob(best)
    found = process.edges().probability
    exact = torch.sigmoid(ratio + math.log(0.2 / 0.8))
    assert torch.allclose(torch.stack([found[0, 1], found[1, 0]]), exact, atol=1e-5)
    free = torch.sigmoid(0.5 * (process.mean / process.log_sd.exp()).square()[1:3] + math.log(0.2 / 0.8))
    assert not torch.allclose(free, exact, atol=0.1)  # the fault: edges that cost nothing


def test_edges_are_there_or_not():
    """Each row draws its graph; edges of 20,000 rows. False alarms: 4.5 standard errors, below 1 in 100,000."""
    process, count = built(2), 20_000
    with torch.no_grad():
        process.mean.copy_(torch.tensor([-0.5, 0.2, 0.1, -0.5]))
        process.log_sd.fill_(-2.5)
        value = process._field(count, generator=generator())[:, 0, 1]
        p = process.edges().probability[0, 1]
    share = (value != 0).double().mean()
    assert 0.05 < float(p) < 0.95
    assert abs(float(share - p)) < 4.5 * float((p * (1 - p) / count).sqrt())
    assert abs(float(value[value != 0].mean()) - 0.2) < 4.5 * math.exp(-2.5) / float(count * p) ** 0.5


def test_units_of_nodes_move_the_path():
    series = Series(torch.zeros(4, 5, 2), torch.zeros(4, 5, dtype=torch.bool), torch.zeros(4, 0))
    plain = built(2).prior(series, generator=generator())
    moved = built(2, center=(10.0, -1.0), unit=(2.0, 0.1)).prior(series, generator=generator())
    assert torch.allclose(moved, torch.tensor([10.0, -1.0]) + torch.tensor([2.0, 0.1]) * plain, atol=1e-5)
    one = Series(torch.zeros(4, 1, 2), torch.ones(4, 1, dtype=torch.bool), torch.zeros(4, 0))
    assert built(2).posterior(one, generator=generator()).z.shape == (4, 1, 2)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"nodes": 1}, "nodes"),
        ({"likely": 0.0}, "likely is a probability"),
        ({"size": -1.0}, "size is the sd of an effect"),
        ({"center": (1.0, 2.0)}, "center must be one finite number, or one for each of 3"),
        ({"unit": 0.0}, "unit must be above 0"),
    ],
)
def test_what_cannot_be_is_said(told, message):
    with pytest.raises(ValueError, match=message):
        Interacting(**{"nodes": 3} | told)
