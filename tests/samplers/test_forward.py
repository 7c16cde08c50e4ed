"""Forward and backward through a chain against the sum over all paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from samplers.hidden import Channel
from torch import Tensor

from sciinf.simulators.dynamics.finite_states import transitions
from sciinf.simulators.dynamics.state_space import Record
from sciinf.simulators.samplers.forward import forward, paths, smoothed

THETA = {"a": torch.tensor([0.8, 2.5], dtype=torch.float64), "b": torch.tensor([1.1, 0.2], dtype=torch.float64)}
TIMES = torch.tensor([[0.0, 0.3, 1.5, 1.6, 4.0], [0.1, 0.2, 0.9, 3.0, 3.1]], dtype=torch.float64)


def record(missing: bool = True, begin: float | None = -0.4) -> Record:
    generator = torch.Generator().manual_seed(3)
    x = {"current": torch.randn(2, 5, generator=generator).double()}
    there = torch.tensor([[True, False, True, True, True], [True, True, False, True, True]])
    return Record(TIMES, x, {"current": there} if missing else {}, begin)


def brute(seen: Record, row: int) -> tuple[float, Tensor]:
    """log p(x), and the probability of every path given x, (3,) * 5: by the matrix exponential."""
    model, one = Channel(), {name: value[row : row + 1] for name, value in THETA.items()}
    jumps = model.rates(one)[0]
    matrix = jumps - torch.diag(jumps.sum(-1))
    times = TIMES[row]
    law = model.start(one)[0].double() @ torch.matrix_exp(matrix * float(times[0] - seen.begin))  # type: ignore[operator]
    steps = [torch.matrix_exp(matrix * t) for t in times.diff()]
    current = torch.tensor([0.0, 1.0, 0.3], dtype=torch.float64)
    density = torch.distributions.Normal(current, 0.4).log_prob(seen.x["current"][row][:, None]).exp()
    if seen.there:
        density = torch.where(seen.there["current"][row][:, None], density, 1.0)
    weight = torch.zeros((3,) * 5, dtype=torch.float64)
    for path in itertools.product(range(3), repeat=5):
        p = law[path[0]] * density[0, path[0]]
        for k in range(1, 5):
            p = p * steps[k - 1][path[k - 1], path[k]] * density[k, path[k]]
        weight[path] = p
    return float(weight.sum().log()), weight / weight.sum()


@pytest.mark.parametrize("missing", [False, True])
def test_likelihood_and_smoother_are_the_sum_over_all_paths(missing: bool) -> None:
    seen = record(missing)
    found = forward(Channel(), THETA, seen)
    laws = smoothed(found)
    for row in range(2):
        log, law = brute(seen, row)
        assert abs(float(found.log_likelihood[row]) - log) < 1e-10
        for k in range(5):
            each = law.sum([j for j in range(5) if j != k])
            torch.testing.assert_close(laws[row, k], each, rtol=0, atol=1e-10)


def test_drawn_paths_have_the_law_of_the_sum() -> None:
    """Chi-square of 20,000 paths over cells of at least 5 expected ones: false alarms 1e-4."""
    from scipy.stats import chi2

    n, seen = 20_000, record()
    many = Record(TIMES[:1], {"current": seen.x["current"][:1].expand(n, -1)},
                  {"current": seen.there["current"][:1].expand(n, -1)}, seen.begin)  # fmt: skip
    found = forward(Channel(), {name: value[:1].expand(n) for name, value in THETA.items()}, many)
    drawn = paths(found, generator=torch.Generator().manual_seed(4))[..., 0].long()
    code = (drawn * 3 ** torch.arange(4, -1, -1)).sum(-1)
    expected = n * brute(seen, 0)[1].flatten()
    counts = torch.bincount(code, minlength=243).double()
    large = expected >= 5
    statistic = ((counts - expected).square() / expected)[large].sum()
    assert float(counts[~large].sum()) < float(expected[~large].sum()) + 4 * math.sqrt(float(expected[~large].sum()))
    assert float(statistic) < chi2.ppf(1 - 1e-4, int(large.sum()))


def test_transitions_are_the_matrix_exponential_for_any_time() -> None:
    generator = torch.Generator().manual_seed(1)
    rates = (
        torch.rand(4, 5, 5, generator=generator, dtype=torch.float64) * torch.tensor([0, 1, 30, 500.0])[:, None, None]
    )
    time = torch.tensor([1.0, 0.0, 0.2, 2.0], dtype=torch.float64)
    jumps = rates * (1 - torch.eye(5))
    exact = torch.matrix_exp((jumps - torch.diag_embed(jumps.sum(-1))) * time[:, None, None])
    torch.testing.assert_close(transitions(rates, time), exact, rtol=0, atol=1e-10)


def test_a_simulated_chain_has_the_law_of_its_transitions() -> None:
    """Counts of 30,000 states after .7 from each state; false alarms 1e-4 for each."""
    from scipy.stats import chi2

    n, model = 30_000, Channel()
    theta = {name: value[:1].expand(n).float() for name, value in THETA.items()}
    law = model.transition({name: value[:1] for name, value in THETA.items()}, 1.0, 1.7)[0]
    for state in range(3):
        begun = torch.full((n, 1), float(state))
        later = model.advance(theta, begun, 1.0, 1.7, generator=torch.Generator().manual_seed(state))
        counts = torch.bincount(later[:, 0].long(), minlength=3)
        assert float(((counts - n * law[state]).square() / (n * law[state])).sum()) < chi2.ppf(1 - 1e-4, 2)
        log = model.log_advance(theta, begun, later, 1.0, 1.7)
        torch.testing.assert_close(log, law[state].log()[later[:, 0].long()], rtol=1e-5, atol=0)


def test_data_that_no_state_gives_have_no_likelihood() -> None:
    class Deaf(Channel):
        def log_observe(self, theta, state, x):
            return {"current": torch.where(x["current"] > 5, -math.inf, 0.0)}

    seen = record(missing=False)
    seen.x["current"][1, 2] = 9.0
    found = forward(Deaf(), THETA, seen)
    assert float(found.log_likelihood[1]) == -math.inf
    assert abs(float(found.log_likelihood[0])) < 1e-12


def test_bad_chains_are_named() -> None:
    with pytest.raises(ValueError, match="a rate of jumps is -1"):
        transitions(-torch.ones(1, 2, 2).double(), torch.ones(1).double())
    with pytest.raises(ValueError, match="time goes back by 1"):
        transitions(torch.ones(1, 2, 2).double(), -torch.ones(1).double())

    class Wrong(Channel):
        def start(self, theta):
            return torch.tensor([[0.5, 0.2, 0.1]])

    with pytest.raises(ValueError, match="sum to 1"):
        forward(Wrong(), THETA, record())
