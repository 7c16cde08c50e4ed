"""State-space models: what their matrices say is what is simulated, and what is missing is left out."""

from __future__ import annotations

import math

import pytest
import torch
from samplers.hidden import Level, Track

from sciinf.simulators.dynamics.state_space import Record, duration, log_seen, repeated

THETA = {"q": torch.tensor([0.5, 1.3], dtype=torch.float64), "r": torch.tensor([0.7, 0.2], dtype=torch.float64)}
N = 40_000


def many() -> dict[str, torch.Tensor]:
    return {name: value[:1].expand(N) for name, value in THETA.items()}


def agrees(drawn: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> bool:
    """Means and covariances within 5 standard errors: false alarms 1e-5."""
    sd = covariance.diagonal().sqrt()
    error = (torch.outer(sd, sd).square() + covariance.square()).sqrt() / math.sqrt(N)
    near = float(((drawn.mean(0) - mean) / sd).abs().max()) < 5 / math.sqrt(N)
    return near and float(((torch.cov(drawn.T) - covariance) / error).abs().max()) < 5


def test_a_linear_model_simulates_what_its_matrices_say() -> None:
    model, generator = Track(), torch.Generator().manual_seed(1)
    one = {name: value[:1] for name, value in THETA.items()}
    begun = model.initial(many(), N, generator=generator)
    mean, covariance = (part[0].double() for part in model.start(one))
    assert agrees(begun.double(), mean, covariance)
    at = torch.tensor([0.4, -1.0], dtype=torch.float64)
    law = model.step(one, 1.0, 1.8)
    later = model.advance(many(), at.expand(N, -1), 1.0, 1.8, generator=generator)
    assert agrees(later, law.matrix[0] @ at + law.offset[0], law.covariance[0])
    assert not agrees(later, law.matrix[0] @ at + law.offset[0], model.step(one, 1.0, 2.0).covariance[0])
    seen, views = model.observe(many(), at.expand(N, -1), generator=generator), model.view(one)
    offset = torch.as_tensor(views["pair"].offset)[0]
    assert agrees(seen["pair"], views["pair"].matrix[0] @ at + offset, views["pair"].covariance[0])


def test_densities_are_those_of_the_matrices() -> None:
    model, normal = Track(), torch.distributions.MultivariateNormal
    state = torch.randn(2, 2, generator=torch.Generator().manual_seed(2)).double()
    later = torch.randn(2, 2, generator=torch.Generator().manual_seed(3)).double()
    law = model.step(THETA, 0.5, 1.2)
    mean = (law.matrix @ state[..., None])[..., 0] + law.offset
    exact = normal(mean, law.covariance).log_prob(later)
    torch.testing.assert_close(model.log_advance(THETA, state, later, 0.5, 1.2), exact)
    found = model.log_observe(THETA, state, {"y": later[:, 0], "pair": later})
    view = model.view(THETA)["pair"]
    exact = normal((view.matrix @ state[..., None])[..., 0] + view.offset, view.covariance).log_prob(later)
    torch.testing.assert_close(found["pair"], exact)
    exact = torch.distributions.Normal(state[:, 0], THETA["r"]).log_prob(later[:, 0])
    torch.testing.assert_close(found["y"], exact)


def test_missing_values_are_left_out_and_never_half_of_what_belongs_together() -> None:
    times, state = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    x = {"y": torch.tensor([[1.0], [1.0]]).double(), "pair": torch.ones(2, 1, 2).double()}
    whole = log_seen(Track(), THETA, state, Record(times, x, {}), 0)
    each = Track().log_observe(THETA, state, {name: value[:, 0] for name, value in x.items()})
    torch.testing.assert_close(whole, each["y"] + each["pair"])
    gone = {"y": torch.tensor([[False], [True]]), "pair": torch.tensor([[[True, True]], [[False, False]]])}
    found = log_seen(Track(), THETA, state, Record(times, x, gone), 0)
    torch.testing.assert_close(found, torch.stack([each["pair"][0], each["y"][1]]))
    half = {"pair": torch.tensor([[[True, False]], [[True, True]]])}
    with pytest.raises(ValueError, match="some numbers of 'pair' are missing .* give that of each number"):
        log_seen(Track(), THETA, state, Record(times, x, half), 0)


def test_numbers_may_be_missing_one_by_one_where_their_densities_are_told_so() -> None:
    class Pair(Level):
        def log_observe(self, theta, state, x):
            return {"volume": -0.5 * x["volume"].square()}

    x = {"volume": torch.tensor([[[1.0, 2.0]]])}
    there = {"volume": torch.tensor([[[True, False]]])}
    record = Record(torch.zeros(1, 1).double(), x, there)
    assert log_seen(Pair(), {}, torch.zeros(3, 1), record, 0).tolist() == [-0.5] * 3  # three copies of one row


def test_times_and_copies() -> None:
    like = torch.zeros(2)
    assert duration(1.0, 3.5, like).tolist() == [2.5]
    large = torch.tensor([1.4e9, 1.4e9], dtype=torch.float64)  # seconds: differences are taken before rounding
    assert duration(large, large + 0.25, like).tolist() == [0.25, 0.25]
    assert repeated({"a": torch.tensor([1.0, 2.0])}, 2)["a"].tolist() == [1.0, 1.0, 2.0, 2.0]
    own = Record(torch.tensor([[0.0, 1.0], [0.5, 2.0]]).double(), {"y": torch.zeros(2, 2)}, {})
    assert [t.tolist() for t in own.step(1)] == [[0.0, 0.5], [1.0, 2.0]]
    assert own.some(slice(1, 2)).step(1) == (0.5, 2.0)
