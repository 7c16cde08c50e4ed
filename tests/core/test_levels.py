"""Laws of finitely many values: labels, counts, torch's counting laws."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import distributions as td

from sciinf.core import Choice, Counts
from sciinf.core.law_json import law_from_json, law_to_json
from sciinf.core.levels import tabulated

COUNTING = {
    "poisson": td.Poisson(torch.tensor(3.0)),
    "binomial": td.Binomial(5, torch.tensor(0.4)),
    "geometric": td.Geometric(torch.tensor(0.3)),
    "bernoulli": td.Bernoulli(torch.tensor(0.25)),
    "categorical": td.Categorical(torch.tensor([0.2, 0.3, 0.5])),
}
LAWS = {
    "labels": Choice("SIR", "SEIR", "a b"),
    "shares": Choice(SIR=0.7, SEIR=0.3),
    "counts": Counts(2, 6),
    "cut": Counts(1, 4, td.Poisson(torch.tensor(2.0))),
    **{name: tabulated(law) for name, law in COUNTING.items()},
}


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_normalised_and_inverts_its_distribution_function(name):
    law = LAWS[name]
    assert float(law.log_probs.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(law.log_prob(law.values), law.log_probs)
    torch.testing.assert_close(law.icdf(law.cdf(law.values) - 1e-12), law.values)
    outside = torch.tensor([float(law.values[0]) - 1, float(law.values[-1]) + 1, float(law.values[0]) + 0.5, math.nan])
    assert bool((law.log_prob(outside) == -math.inf).all())
    assert law.codes(outside).tolist() == [-1] * 4
    assert [law.labels[code] for code in law.codes(law.values)] == list(law.labels)


@pytest.mark.parametrize("name", LAWS)
def test_json_brings_a_law_back(name):
    law = LAWS[name]
    again = law_from_json(json.loads(json.dumps(law_to_json(law))))
    assert law_to_json(again) == law_to_json(law)
    assert torch.equal(again.log_probs, law.log_probs)
    assert again.labels == law.labels


@pytest.mark.parametrize("name", COUNTING)
def test_counting_laws_of_torch_keep_their_probabilities(name):
    law, table = COUNTING[name], tabulated(COUNTING[name])
    torch.testing.assert_close(
        table.log_probs.exp(), law.log_prob(table.values.float()).exp().double(), atol=1e-6, rtol=1e-5
    )


def test_a_poisson_law_is_cut_where_nothing_is_left():
    assert (tabulated(td.Poisson(torch.tensor(3.0))).low, tabulated(td.Poisson(torch.tensor(3.0))).high) == (0, 19)
    assert tabulated(td.Poisson(torch.tensor(1000.0))).low > 700


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Choice("a", 2), TypeError, "2 of a Choice is no text"),
        (lambda: Choice("a"), ValueError, "two different labels"),
        (lambda: Choice("a", "a"), ValueError, "two different labels"),
        (lambda: Choice("a", b=0.5), TypeError, "got both"),
        (lambda: Choice(a=0.5, b=0.4), ValueError, "add up to 1"),
        (lambda: Choice(a=1.0, b=0.0), ValueError, "above 0"),
        (lambda: Choice(*map(str, range(513))), ValueError, "513 values, at most 512"),
        (lambda: Counts(0, 512), ValueError, "513 values, at most 512"),
        (lambda: Counts(3, 3), ValueError, "below high"),
        (lambda: Counts(0.0, 3), TypeError, "low is an int"),
        (lambda: Counts(0, 9, td.Binomial(5, torch.tensor(0.5))), ValueError, "gives 6 no probability"),
        (lambda: Counts(0, 3, td.Normal(0.0, 1.0)), TypeError, "whole numbers"),
        (lambda: tabulated(td.Poisson(torch.tensor(3000.0))), ValueError, "values, at most 512"),
        (lambda: tabulated(td.Geometric(torch.tensor(1e-4))), ValueError, "more than 512"),
        (lambda: Choice("a", "b").code("c"), ValueError, "'c' is none of the labels 'a', 'b'"),
        (lambda: Choice("a", "b").code(1), TypeError, "no label"),
        (lambda: Counts(0, 3).code(4), ValueError, "4 is none of the numbers 0 to 3"),
        (lambda: Counts(0, 3).code("1"), TypeError, "give an int"),
    ],
)
def test_bad_input_is_a_clear_error(make, error, words):
    with pytest.raises(error, match=words):
        make()
