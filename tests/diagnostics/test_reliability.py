"""Probabilities of discrete parameters: right ones are off by chance alone, however few the draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciinf.core.records import Reliability
from sciinf.diagnostics import calibration as module
from sciinf.diagnostics.calibration import reliability

ROWS = 2_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(seed: int, *, spread: float = 1.0, values: int = 3, count: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (rows, values), and labels drawn from them."""
    p = (spread * torch.randn(count, values, generator=seeded(seed), dtype=torch.float64)).softmax(1)
    return p, torch.multinomial(p, 1, generator=seeded(seed + 1000))[:, 0]


def drawn(p: torch.Tensor, draws: int, seed: int) -> torch.Tensor:
    return torch.multinomial(p, draws, replacement=True, generator=seeded(seed + 2000)).T


NAMES = ("a", "b", "c")


@pytest.mark.slow
def test_right_probabilities_are_off_by_chance_alone() -> None:
    for seed in range(5):  # p-values are uniform: ten above 1e-3 each, false alarms 1e-2
        p, truth = rows(seed)
        for given in ({"exact": p}, {"drawn": drawn(p, 31, seed)}):
            test, shown = reliability(truth, NAMES, seeded(seed), **given)
            assert test.p_value > 1e-3
            assert test.gap < 0.02
            assert shown.chance > 0.005  # it is not 0
            assert shown.predicted.shape == shown.found.shape == (3, 10)
            assert shown.rows.sum() == ROWS
            assert np.mean((shown.found >= shown.low) & (shown.found <= shown.high)) > 0.9  # 99 % by chance


@pytest.mark.slow
def test_few_draws_do_not_make_right_probabilities_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    # Data tell little: what scatters is the draws. Labels drawn from these would be farther from them than truths are.
    found = []
    for seed in range(20):
        p, truth = rows(seed, spread=0.1, count=1_000)
        found.append(reliability(truth, NAMES, seeded(seed), drawn=drawn(p, 15, seed))[0].p_value)
    assert min(found) > 1e-4  # false alarms: 2e-3
    assert np.mean(np.array(found) < 0.2) < 0.55  # 20 of probability 0.2: false alarms 1e-3
    # without taking the label out of the draws, right probabilities fail
    p, truth = rows(0, spread=0.1, count=4_000)
    shares = torch.stack([(drawn(p, 15, 0) == k).double().mean(0) for k in range(3)], dim=1)
    assert reliability(truth, NAMES, seeded(), exact=shares)[0].p_value < 1e-6


@pytest.mark.parametrize("known", [True, False])
def test_wrong_probabilities_are_seen(known: bool) -> None:
    p, truth = rows(3)
    for wrong in (p.square(), p.sqrt(), p * torch.tensor([1.8, 1.0, 1.0])):
        q = wrong / wrong.sum(1, keepdim=True)
        given = {"exact": q} if known else {"drawn": drawn(q, 127, 3)}
        test, shown = reliability(truth, NAMES, seeded(), **given)
        assert test.p_value < 1e-4
        assert test.gap > 0.02
        assert test.gap == pytest.approx(shown.error - shown.chance)
        assert "is given" in test.words()
        assert "simulations and is true in" in test.words()
        assert not test.wide


def test_it_is_the_ece_of_two_values() -> None:
    p, truth = rows(5, values=2)
    _, shown = reliability(truth, ("a", "b"), seeded(), exact=p)
    order = p[:, 0].argsort()
    apart = [abs(float((p[i, 0] - (truth[i] == 0).double()).sum())) for i in order.tensor_split(10)]
    assert shown.error == pytest.approx(sum(apart) / ROWS, abs=1e-9)


def test_it_is_written_down_and_read() -> None:
    p, truth = rows(6)
    _, shown = reliability(truth, NAMES, seeded(), exact=p)
    again = Reliability.from_json(shown.to_json())
    assert again.values == NAMES
    assert np.array_equal(again.found, shown.found)
    assert again.error == shown.error


def test_it_needs_draws_or_probabilities() -> None:
    with pytest.raises(ValueError, match="draws, or the probabilities"):
        reliability(torch.zeros(3, dtype=torch.long), NAMES, seeded())


def test_p_values_beyond_all_repetitions_are_small() -> None:
    errors = torch.randn(200, generator=seeded(), dtype=torch.float64)
    assert module._p_value(errors, 10.0) < 1e-6
    assert 0.3 < module._p_value(errors, 0.0) < 0.7
