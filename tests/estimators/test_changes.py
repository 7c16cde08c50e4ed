"""Changes of a series in a chain: normalised, drawn as the density says, sharp, and refused where they are none."""

from __future__ import annotations

import pytest
import torch

from sciinf.core import Batch, Choice, Counts, Each, Exponential, Normal, Observable, Prior, Uniform
from sciinf.core.component import from_json, to_json
from sciinf.networks.summaries import MLP
from sciinf.training.estimators._changes import Changes
from sciinf.training.estimators.mixed import Mixed

AT = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
PRIOR = Prior(
    kind=Choice("a", "b"),
    free=Normal(0, 1),
    n=Counts(0, 2),
    tau=Each("n", Uniform(0.5, 7.0), increasing=True),
    rate=Each("n", Exponential(0.5), more=1),
)
SEEN = {"y": Observable((6,), dims=("time",))}
CHANGES = Changes("y", "tau", AT, values="rate", laws=7)


def data(theta, generator):
    tau, rate = theta[:, 3:5].nan_to_num(torch.inf), theta[:, 5:].nan_to_num(1.0)
    after = (tau[:, None] <= torch.tensor(AT)[:, None]).sum(-1)
    return torch.poisson(rate.gather(1, after), generator=generator)


def made(seed: int = 0) -> Mixed:
    """Untrained, but standardised, with links that tell something."""
    generator = torch.Generator().manual_seed(7)
    theta = PRIOR.sample(2000, generator=generator)
    estimator = Mixed(PRIOR, SEEN, summary=MLP(), hidden=8, changes=CHANGES, seed=seed)
    estimator.standardise(lambda: iter([Batch(theta, {"y": data(theta, generator)})]))
    with torch.no_grad():
        estimator.splines.weight.mul_(5)
    return estimator.eval()


def density():
    return made().condition({"y": torch.tensor([[0.0, 1, 0, 6, 7, 5], [2.0, 3, 2, 3, 1, 2]])})


@pytest.mark.slow
def test_the_density_integrates_to_one():
    """Mean of q / p under the prior, within 4.5 standard errors; false alarms: 1 in 100,000 for each observation."""
    theta = PRIOR.sample(60_000, generator=torch.Generator().manual_seed(2))
    ratio = (density().log_prob(theta[:, None].expand(-1, 2, -1)) - PRIOR.log_prob(theta)[:, None]).exp()
    error = ratio.std(0) / len(theta) ** 0.5
    assert (error < 0.05).all()
    assert ((ratio.mean(0) - 1).abs() < 4.5 * error).all()


@pytest.mark.slow
def test_draws_are_from_the_density():
    """Sharing the prior's mass by p / q of draws, as above, for each number of changes; false alarms as above."""
    found = density()
    theta = found.sample(40_000, generator=torch.Generator().manual_seed(3))
    ratio = (PRIOR.log_prob(theta) - found.log_prob(theta)).exp()
    for n in range(3):
        for late in (False, True):
            here = (theta[..., 2] == n) & ((theta[..., 3].nan_to_num(0.0) > 3.7) == late)
            inside = PRIOR.sample(200_000, generator=torch.Generator().manual_seed(4))
            share = ((inside[:, 2] == n) & ((inside[:, 3].nan_to_num(0.0) > 3.7) == late)).double().mean()
            part = torch.where(here, ratio, 0.0)
            error = part.std(0) / len(theta) ** 0.5 + (share / 200_000) ** 0.5
            assert ((part.mean(0) - share).abs() < 4.5 * error + 1e-9).all()


def test_probabilities_of_how_many_are_those_of_draws():
    """Within 4.5 standard errors; false alarms: 1 in 100,000 for each."""
    found = density()
    theta = found.sample(20_000, generator=torch.Generator().manual_seed(5))
    p = found.log_probabilities("n").exp()
    for n in range(3):
        seen = (theta[..., 2] == n).double().mean(0)
        assert ((seen - p[:, n]).abs() < 4.5 * (p[:, n] * (1 - p[:, n]) / 20_000).sqrt() + 1e-6).all()


def test_a_change_is_where_the_data_change_before_any_training():
    theta = density().sample(4000, generator=torch.Generator().manual_seed(6))[:, 0]
    one = theta[theta[:, 2] == 1][:, 3]
    assert ((one > 3) & (one <= 4)).double().mean() > 0.8


def test_how_many_changes_there_are_follows_from_the_data_before_any_training():
    changed, even = density().log_probabilities("n").exp()
    assert changed[0] < 0.1 * even[0]


def test_links_of_values_see_their_own_segment_alone():
    estimator, y = made(), torch.tensor([[0.0, 1, 0, 6, 7, 5]])
    theta = torch.tensor([[0.0, 0.0, 1.0, 3.5, torch.nan, 0.4, 6.0, torch.nan]])
    seen = [estimator.given({"y": x})[1].seen for x in (y, y + torch.tensor([0.0, 0, 0, 0, 3, 0]))]
    first, second = (estimator.changes.looks(estimator.changes.edges(theta), one) for one in seen)
    torch.testing.assert_close(first[0], second[0])
    assert (first[1] - second[1]).abs().max() > 1e-3


def test_steps_at_the_time_of_a_change_are_after_it():
    edges = made().changes.edges(torch.tensor([[0, 0, 2.0, 3.0, 3.1, 1, 1, 1], [0, 0, 0.0, *[torch.nan] * 2, 1, 1, 1]]))
    assert edges.tolist() == [[0, 2, 3, 6], [0, 6, 6, 6]]


def test_what_is_missing_is_not_seen():
    spec = {**SEEN, "y_mask": Observable((6,), dtype="bool", dims=("time",))}
    estimator = Mixed(PRIOR, spec, summary=MLP(), hidden=8, changes=CHANGES).eval()
    mask = torch.tensor([[True, True, False, True, True, True]])
    y = torch.tensor([[0.0, 1, 0, 6, 7, 5]])
    found = [
        estimator.condition({"y": x, "y_mask": mask}).log_probabilities("n")
        for x in (y, y + torch.tensor([0.0, 0, 40, 0, 0, 0]))
    ]
    torch.testing.assert_close(*found)


def test_the_estimator_is_rebuilt_from_its_description():
    estimator = made(3)
    again = from_json(to_json(estimator))
    again.load_state_dict(estimator.state_dict())
    x = {"y": torch.tensor([[0.0, 1, 0, 6, 7, 5]])}
    theta = PRIOR.sample(50, generator=torch.Generator().manual_seed(1))[:, None]
    torch.testing.assert_close(again.eval().condition(x).log_prob(theta), estimator.condition(x).log_prob(theta))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (Changes("y", "rate", AT), "increasing order"),
        (Changes("y", "free", AT), "increasing order"),
        (Changes("z", "tau", AT), "no observable"),
        (Changes("y", "tau", AT[:-1]), "6 steps"),
        (Changes("y", "tau", AT, values="tau"), "one more"),
    ],
)
def test_what_are_no_changes_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        Mixed(PRIOR, SEEN, summary=MLP(), changes=changes)


def test_times_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="increase"):
        Changes("y", "tau", [1.0, 1.0])
    with pytest.raises(TypeError, match="changes must be an object"):
        Mixed(PRIOR, SEEN, changes="tau")


def test_a_series_with_times_of_its_own_is_refused() -> None:
    seen = {**SEEN, "y_times": Observable((6,), dims=("time",), dtype="float64")}
    with pytest.raises(ValueError, match="'y' has times of its own, and changes are found at times that stay"):
        Mixed(PRIOR, seen, changes=CHANGES)
