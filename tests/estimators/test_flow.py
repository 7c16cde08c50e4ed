"""The flow estimator's own arguments: parts and seeds that make no sense are refused by name."""

from __future__ import annotations

import pytest
from torch import distributions as td

from sciinf.core import Observable, Prior
from sciinf.networks.flows import MAF
from sciinf.networks.summaries import Conv1d
from sciinf.training.estimators.flow import Flow

PRIOR = Prior(a=td.Normal(0.0, 1.0))
OBSERVABLES = {"x": Observable((3,))}


@pytest.mark.parametrize("part", ["flow", "summary"])
@pytest.mark.parametrize(("wrong", "got"), [("nsf", "'nsf'"), (MAF, "the class MAF; call it")])
def test_a_part_that_is_no_object_is_refused(part, wrong, got):
    with pytest.raises(TypeError, match=f"{part}.* must be an object such as .*, got {got}"):
        Flow(PRIOR, OBSERVABLES, **{part: wrong})


@pytest.mark.parametrize("seed", ["a", -1, 1.5, True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
        Flow(PRIOR, OBSERVABLES, seed=seed)


def test_summaries_of_sets_are_trained_in_smaller_steps():
    prior = Prior(mean=td.Normal(0.0, 1.0))
    vector, of_items = ({"x": Observable((20,), dims=(name,))} for name in ("channel", "item"))
    assert Flow(prior, vector).learns == "densities"
    assert Flow(prior, of_items).learns == "summaries"
    assert Flow(prior, {"x": Observable((20,), dims=("time",))}, summary=Conv1d()).learns == "summaries"
