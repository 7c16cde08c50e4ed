"""What a recipe refuses, and what it fills in."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from sciinf.training.recipe import Recipe


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0}, {"epochs": 2.5}, {"batch": 0}, {"batch": True}, {"patience": 0}, {"threads": 0}, {"memory": -1},
        {"learning_rate": 0.0}, {"learning_rate": math.inf}, {"warm_up": 1.0}, {"warm_up": -0.1}, {"ema": -0.1},
        {"weight_decay": -1.0}, {"clip": 0.0}, {"validation_fraction": 0.0}, {"validation_fraction": 1.0},
        {"ema": 1.0}, {"precision": "float16"}, {"batch": "all"}, {"learning_rate": "best"}, {"schedule": "step"},
        {"optimiser": "sgd"}, {"ema": "ema"}, {"ema": True}, {"validate_every": 0}, {"graph": "yes"}, {"warm_up": True},
        {"graph": None}, {"compile": "no"}, {"compile": None}, {"weight_decay": True}, {"weight_decay": "1"},
        {"weight_decay": math.nan}, {"clip": None}, {"clip": "5"}, {"clip": True}, {"schedule": ["a"]}, {"ema": [0.9]},
        {"device": "gpu"}, {"device": None}, {"warm_up": False}, {"batch_scaling": 0.0}, {"batch_scaling": 10.0},
        {"batch_scaling": "auto"}, {"batch_scaling": True}, {"batch_scaling": math.nan},
    ],
)  # fmt: skip
def test_a_recipe_that_makes_no_sense_is_refused(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(ValueError, match=re.escape(f"Recipe({name}={value!r}): expected")):
        Recipe(**settings)


def test_a_device_is_refused_with_the_reason_of_torch():
    with pytest.raises(ValueError, match=r"expected a device of torch \(.*cpu, cuda.*: gpu\)"):
        Recipe(device="gpu")
    assert [Recipe(device=name).device for name in ("cpu", "cuda", "cuda:1", "mps")] == ["cpu", "cuda", "cuda:1", "mps"]
    assert (Recipe(clip=math.inf).clip, Recipe(weight_decay=0).weight_decay, Recipe(ema=0).ema) == (math.inf, 0, 0)


def test_a_recipe_fills_in_what_it_was_not_told():
    recipe = Recipe().resolved(9_000)
    assert (recipe.batch, recipe.epochs, recipe.patience) == (250, 42, 14)
    assert recipe.learning_rate == pytest.approx(8e-3)
    assert recipe.weight_decay == Recipe().resolved(900).weight_decay == pytest.approx(0.2)
    assert Recipe().resolved(72_000).weight_decay == pytest.approx(0.05)
    assert recipe.ema == pytest.approx(1 - 20 / 1512)
    assert Recipe(batch=10**6).resolved(500).batch == 500
    kept = Recipe(epochs=3, batch=7, learning_rate=0.1, patience=2, validate_every=1, ema=0.9, weight_decay=0.1)
    assert kept.resolved(9_000) == replace(kept, optimiser="adamw")
    assert replace(kept, optimiser="muon").resolved(9_000).optimiser == "muon"
    assert all(Recipe().resolved(rows).epochs >= 8 for rows in (18, 10**3, 10**6, 10**8))


def test_validation_costs_a_twentieth_at_most():
    # a third held out: 1/3 of 0.5 rows for each training row is above a twentieth
    assert Recipe(validation_fraction=1 / 3).resolved(9_000).validate_every == 4
    assert Recipe().resolved(9_000).validate_every == 1


def test_the_rate_goes_with_the_root_of_the_batch_that_is_given():
    usual = Recipe().resolved(9_000)
    assert Recipe(batch=4 * usual.batch).resolved(9_000).learning_rate == pytest.approx(2 * usual.learning_rate)
    assert Recipe().resolved(900).learning_rate == usual.learning_rate


def test_the_rule_scales_what_is_not_given():
    """k of `batch`, or as told; with the usual batch nothing changes but that k is 1."""
    usual = Recipe().resolved(9_000)
    four = Recipe(batch=4 * usual.batch, batch_scaling="rule").resolved(9_000)
    assert four.batch_scaling == pytest.approx(4)
    assert four.learning_rate == pytest.approx(2 * usual.learning_rate)
    assert four.weight_decay == pytest.approx(2 * usual.weight_decay)
    assert four.epochs == Recipe(batch=4 * usual.batch).resolved(9_000).epochs
    assert Recipe(batch_scaling="rule").resolved(9_000) == replace(usual, batch_scaling=1.0)
    told = Recipe(batch=usual.batch, batch_scaling=4.0).resolved(9_000)
    assert (told.learning_rate, told.weight_decay) == (four.learning_rate, four.weight_decay)
    given = Recipe(batch_scaling=4.0, learning_rate=1e-3, weight_decay=0.1).resolved(9_000)
    assert (given.learning_rate, given.weight_decay, given.batch_scaling) == (1e-3, 0.1, 4.0)
    assert Recipe(batch=4 * usual.batch).resolved(9_000).weight_decay == usual.weight_decay
    assert given.resolved(9_000) == given


def test_where_there_is_no_rule_none_is_taken():
    with pytest.raises(
        ValueError, match=r"2500, batch_scaling='rule'\): a batch is 10 times the usual one of 250 rows"
    ):
        Recipe(batch=2_500, batch_scaling="rule").resolved(9_000)
    with pytest.raises(ValueError, match="this training is by 'muon'"):
        Recipe(batch_scaling="rule").resolved(9_000, learns="noise")
    with pytest.raises(ValueError, match="give a batch, or leave"):
        Recipe(batch="auto", batch_scaling="rule")


def test_a_recipe_without_the_rule_says_what_it_said_before():
    assert "batch_scaling" not in Recipe().said()
    assert Recipe(batch_scaling="rule").said()["batch_scaling"] == "rule"
    assert Recipe(batch_scaling=1.0).said() != Recipe().said()


def test_many_parameters_and_few_rows_have_a_lower_rate():
    """With twenty parameters and 1,000 simulations half the rate gains 0.8 nats, with 10,000 it loses 0.3."""
    full = Recipe().resolved(9_000).learning_rate
    assert Recipe().resolved(900, parameters=20).learning_rate == full / 2
    assert Recipe().resolved(2_700, parameters=20).learning_rate == pytest.approx(full * 0.75)
    assert Recipe().resolved(9_000, parameters=20) == Recipe().resolved(9_000)
    assert Recipe().resolved(900, parameters=10) == Recipe().resolved(900)
    assert Recipe().resolved(900, parameters=20, learns="noise").learning_rate == full
    assert Recipe(learning_rate=0.1).resolved(900, parameters=20).learning_rate == 0.1


def test_many_rows_have_more_steps_and_no_larger_batches():
    """With 600,000 simulations of lynx and hares, batches of 1,000 in as many epochs lose 0.3 nats."""
    found = [Recipe().resolved(rows) for rows in (9_000, 18_000, 90_000, 540_000)]
    assert [recipe.batch for recipe in found] == [250, 500, 500, 500]
    steps = [recipe.epochs * rows / 500 for recipe, rows in zip(found[1:], (18_000, 90_000, 540_000), strict=True)]
    assert steps == pytest.approx([1_847, 4_130, 10_116], rel=0.04)
    assert Recipe().resolved(90_000, learns="noise").batch == 1_000
    summaries, densities = (Recipe().resolved(9_000, learns=each) for each in ("summaries", "densities"))
    assert summaries.batch == 0.4 * densities.batch == 100
    assert summaries.learning_rate == pytest.approx(math.sqrt(0.4) * densities.learning_rate)
    assert Recipe().resolved(900, learns="summaries") == Recipe().resolved(900)
    law = Recipe().resolved(9_000, learns="noisy fields")
    assert (law.batch, law.optimiser, law.weight_decay) == (32, "muon", 0.02)
    assert law.epochs * 9_000 // 32 == pytest.approx(4_000, rel=0.05)
    assert Recipe().resolved(90_000, learns="fields").batch == 32
