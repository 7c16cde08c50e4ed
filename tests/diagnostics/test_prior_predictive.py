"""Whether an observation lies within what the prior predicts: false alarms at their rate, and what must be seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciinf.core import Observable
from sciinf.diagnostics.prior_predictive import LEAST, check_prior_predictive

TIME = torch.linspace(0, 5, 50)
SEEN = {"v": Observable((50,), "mV", dims=("time",), coords={"time": TIME}, coord_units={"time": "h"})}


def decays(rows, seed, *, scale=1.0):
    """amplitude exp(-rate t) + noise, with draws of both from log-normal priors."""
    generator = torch.Generator().manual_seed(seed)
    rate, amplitude = (torch.randn(2, rows, 1, generator=generator) * torch.tensor([0.5, 0.3])[:, None, None]).exp()
    return scale * (2.7 * amplitude * (-rate * TIME).exp() + 0.1 * torch.randn(rows, 50, generator=generator))


def judged(x, rows, spec=SEEN):
    (check,) = check_prior_predictive(spec, {"v": x}, {"v": rows})
    return check


@pytest.mark.slow
def test_what_the_model_makes_alarms_once_in_a_hundred_at_most():
    levels = [judged(x, decays(300, seed)).level for seed, x in enumerate(decays(300, 1_000))]
    assert levels.count("alarm") <= 9, "more than 3 + 3 sds"
    assert levels.count("alarm") + levels.count("caution") <= 27, "more than 15 + 3 sds"
    counts = torch.poisson(torch.ones(400, 8), generator=torch.Generator().manual_seed(0))
    assert judged(counts[0], counts[1:], {"v": Observable((8,), dtype="int64")}).level == "good", "ties"


@pytest.mark.parametrize("scale", [1e3, 1e-3, 20.0])
def test_a_wrong_unit_is_seen_in_either_direction(scale):
    found = judged(scale * decays(1, 7)[0], decays(400, 1))
    assert found.level == "alarm"
    assert "OUTSIDE what the prior predicts" in found.words
    assert "Check the data and their units" in found.words
    assert "farthest at time " in found.words
    assert " mV, simulated " in found.words


def test_one_number_far_out_is_seen_and_named():
    x = decays(1, 7)[0]
    x[10] = 40.0
    found = judged(x, decays(400, 1))
    assert found.level == "alarm"
    assert "49 of 50 numbers lie between the smallest and the largest of 400 simulations" in found.words
    assert "farthest at time 1.02 h" in found.words


def test_one_number_that_is_lost_among_larger_ones_is_seen():
    x = decays(1, 7)[0]
    x[45] = 1.8
    assert judged(x, decays(400, 1)).level == "alarm"


def test_many_numbers_at_the_edge_are_seen_though_none_is_far_out():
    """Twice the noise about a large level."""
    rows = 100 + torch.randn(400, 50, generator=torch.Generator().manual_seed(0))
    x = 100 + 2.0 * (-1) ** torch.arange(50)
    found = judged(x, rows)
    assert found.level == "alarm"
    assert "50 of 50 numbers lie between" in found.words


def test_what_lies_within_is_told_so():
    found = judged(decays(1, 7)[0], decays(400, 1))
    assert found.level == "good"
    assert found.words.startswith("the observation lies within what the prior predicts: 50 of 50 numbers lie between")


def test_too_few_simulations_say_nothing():
    found = judged(1e3 * decays(1, 7)[0], decays(LEAST - 1, 1))
    assert found.level == "unknown"
    assert f"too few simulations ({LEAST - 1})" in found.words


def test_missing_numbers_do_not_count_and_masks_are_no_data():
    spec = {**SEEN, "v_mask": Observable((50,), dtype="bool")}
    x, rows = decays(1, 7)[0], decays(400, 1)
    x[10] = 1e6
    here = torch.ones(50, dtype=torch.bool)
    for there, level in ((True, "alarm"), (False, "good")):
        here[10] = there
        data = {"v": rows, "v_mask": torch.ones(400, 50, dtype=torch.bool)}
        (found,) = check_prior_predictive(spec, {"v": x, "v_mask": here}, data)
        assert (found.name, found.level) == ("v", level)
    assert "49 of 49 numbers" in found.words


def test_a_single_number_on_a_log_scale_and_one_without_names():
    generator = np.random.default_rng(0)
    rows = torch.tensor(generator.lognormal(size=400))
    spec = {"v": Observable((), scale="log")}
    assert judged(torch.tensor(1e-9), rows, spec).level == "alarm"
    assert (
        "it lies beyond all 400 simulations; farthest: 1e-09, simulated" in judged(torch.tensor(1e-9), rows, spec).words
    )
    assert judged(torch.tensor(1.0), rows, spec).level == "good"
    pair = {"v": Observable((2,))}
    assert (
        "farthest at [1]: 9"
        in judged(torch.tensor([0.0, 9.0]), torch.randn(400, 2, generator=torch.Generator().manual_seed(0)), pair).words
    )
