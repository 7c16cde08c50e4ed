"""Probabilities of discrete parameters, and moments of those that exist in some draws, against sums by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mixed_answers import Burst, drawn
from scipy.stats import ks_2samp
from torch.distributions import Normal as TorchNormal

from sciinf.core import Answer, Choice, Counts, Draws, Each, Normal, Only, Prior, Probabilities, Trust, Uniform
from sciinf.core.categories import Categories, categories_of
from sciinf.core.estimates import disagreement, estimate_from_json, estimates
from sciinf.core.given import prior_given
from sciinf.core.probabilities import exists_words, told
from sciinf.interfaces.draws_file import content_hash, read_draws_h5, write_draws_h5

PRIOR = Prior(model=Choice(SIR=0.7, SEIR=0.3), beta=Normal(0.0, 1.0), sigma=Only(Normal(5.0, 1.0), "1/d", model="SEIR"))
nan = math.nan


def by_hand(weights=(1.0, 2.0, 3.0, 4.0), **known) -> Draws:
    """Four draws: SIR twice, of weights 1 and 3, SEIR twice, of weights 2 and 4."""
    theta = torch.tensor([[0.0, 1.0, nan], [1.0, 2.0, 5.0], [0.0, 3.0, nan], [1.0, 4.0, 8.0]])
    log_weight = torch.tensor(weights, dtype=torch.float64).log()
    return Draws(PRIOR.names, PRIOR.units, theta, log_weight, categories=categories_of(PRIOR), **known)


def answer_of(draws: Draws, prior: Prior | None = None, **known) -> Answer:
    trust = Trust(0.3, "like the simulations", "good")
    return Answer(estimates(draws, 0.9), draws, None, trust, prior=prior, **known)


# --- numbers ---


def test_probabilities_and_their_errors_are_sums_of_weights():
    found = by_hand().probabilities("model")
    assert (found.values, found.prior) == (("SIR", "SEIR"), pytest.approx((0.7, 0.3)))
    assert found.probability == pytest.approx((0.4, 0.6))
    w = np.array([0.1, 0.2, 0.3, 0.4])
    for k, shown in enumerate((np.array([1, 0, 1, 0]), np.array([0, 1, 0, 1]))):
        assert found.error[k] == pytest.approx(math.sqrt((w**2 * (shown - found.probability[k]) ** 2).sum()))
    assert (found.exists, found["SEIR"], found.most_probable) == (1.0, found.probability[1], "SEIR")


def test_the_bayes_factor_is_the_odds_over_those_of_the_prior():
    found = by_hand().probabilities("model")
    value, error = found.log_bayes_factor("SEIR", "SIR")
    assert value == pytest.approx(math.log(0.6 / 0.4) - math.log(0.3 / 0.7))
    assert error == pytest.approx(found.error[0] / (0.4 * 0.6))  # that of log odds, exactly, where there are two
    assert found.log_bayes_factor("SIR", "SEIR")[0] == pytest.approx(-value)


def test_errors_are_as_large_as_probabilities_scatter():
    """Of 2,000 sets of 300 draws of p = 0.2, weighted by w = 1 or 3: the sd of the probability over its mean error is 1
    to within 4 sd / sqrt(2 * 2000) = 6 %; false-alarm rate below 1e-4, seeds fixed. Errors of plain draws, without
    weights, are too small by 0.9 and fail."""
    generator, found, naive = torch.Generator().manual_seed(0), [], []
    law = Prior(model=Choice(a=0.8, b=0.2))
    for _ in range(2_000):
        theta = (torch.rand(300, 1, generator=generator) < 0.2).float()
        log_weight = (1 + 2 * (torch.rand(300, generator=generator) < 0.5)).double().log()
        one = Draws(("model",), ("",), theta, log_weight, categories=categories_of(law)).probabilities("model")
        found.append((one["b"], one.error[1]))
        naive.append(math.sqrt(one["b"] * (1 - one["b"]) / 300))
    p, error = np.array(found).T
    assert abs(p.std() / error.mean() - 1) < 0.06
    assert abs(p.std() / np.mean(naive) - 1) > 0.06


def test_moments_and_quantiles_are_of_the_draws_in_which_it_exists():
    draws = by_hand()
    assert draws.exists("sigma") == pytest.approx(0.6)
    assert draws.exists("beta") == 1.0
    mean = (2 * 5 + 4 * 8) / 6
    assert float(draws.mean()[2]) == pytest.approx(mean)
    assert float(draws.sd()[2]) == pytest.approx(math.sqrt((2 * (5 - mean) ** 2 + 4 * (8 - mean) ** 2) / 6))
    assert float(draws.mean()[1]) == pytest.approx(3.0)
    assert draws.quantiles([0.0, 0.2, 0.9, 1.0])[:, 2].tolist() == [5.0, 8.0, 8.0, 8.0]


def test_quantiles_of_a_sorted_half_are_those_of_its_law():
    """10,000 draws, half of them with a uniform number: each quantile within 4 sqrt(q (1 - q) / 5000), false-alarm rate
    below 3e-4, seed fixed. Quantiles over all draws, absent ones last, are twice as large and fail."""
    prior = Prior(kind=Choice("a", "b"), u=Only(Uniform(0.0, 1.0), kind="b"))
    draws = drawn(prior, 10_000)
    for q in (0.05, 0.25, 0.5, 0.9):
        found = float(draws.quantile(q)[1])
        assert abs(found - q) < 4 * math.sqrt(q * (1 - q) / 5_000)
        assert abs(float(draws.theta[:, 1].nan_to_num(2.0).quantile(q)) - q) > 4 * math.sqrt(q * (1 - q) / 5_000)


def test_weights_of_draws_in_which_it_does_not_exist_take_no_part():
    one, other = by_hand(), by_hand(weights=(50.0, 2.0, 0.001, 4.0))
    torch.testing.assert_close(one.mean()[2], other.mean()[2])
    torch.testing.assert_close(one.quantiles([0.2, 0.7])[:, 2], other.quantiles([0.2, 0.7])[:, 2])


def test_what_exists_in_no_draw_has_no_numbers_and_is_not_called_impossible():
    draws = by_hand(weights=(1.0, 0.0, 3.0, 0.0))
    draws = replace(draws, theta=draws.theta[[0, 2]], log_weight=draws.log_weight[[0, 2]])
    assert all(math.isnan(float(each[2])) for each in (draws.mean(), draws.sd(), draws.quantile(0.5)))
    answer = answer_of(draws)
    assert "SIR: > 0.38, SEIR: < 0.62 among the listed models" in answer.table()
    line = next(line for line in answer.table().splitlines() if line.startswith("sigma"))
    assert line.split() == ["sigma", "1/d", "<", "0.62", "-", "-", "-", "-"]
    assert "nan" not in answer.table().lower()
    value, error = answer.parameters["model"].log_bayes_factor("SIR", "SEIR")
    assert math.isinf(error)
    assert math.isfinite(value)


def test_a_value_that_no_draw_shows_is_told_as_less_than_one_draw():
    prior = Prior(k=Counts(0, 3))
    theta = torch.zeros(5_000, 1)
    found = Draws(("k",), ("",), theta, torch.zeros(5_000).double(), categories=categories_of(prior)).probabilities("k")
    assert found.probability == (1.0, 0.0, 0.0, 0.0)
    assert found.error == pytest.approx((2e-4,) * 4)
    assert found.words("k").startswith("0: > 0.9998, 1: < 0.0002, 2: < 0.0002, 3: < 0.0002 among 0 to 3")
    assert "log Bayes factor of 0 against 1: above 8.5" in found.words("k")


def test_exact_probabilities_are_taken_where_they_are_known():
    known = {"model": replace(categories_of(PRIOR)["model"], exact=(0.25, 0.75))}
    found = replace(by_hand(), categories=known).probabilities("model")
    assert (found.probability, found.error) == (pytest.approx((0.25, 0.75)), (0.0, 0.0))
    assert found.words("model").startswith("SEIR: 0.75, SIR: 0.25 among")


def test_exact_probabilities_of_what_need_not_exist_are_given_that_it_does():
    prior = Prior(model=Choice("a", "b"), kind=Only(Choice("x", "y"), model="b"))
    theta = torch.tensor([[0.0, nan], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    exact = {"model": (0.2, 0.8), "kind": (0.2, 0.6)}
    draws = Draws(prior.names, prior.units, theta, torch.zeros(4).double(), categories=categories_of(prior, exact))
    found = draws.probabilities("kind")
    assert found.probability == pytest.approx((0.25, 0.75))
    assert found.exists == pytest.approx(0.8)
    plain = replace(draws, categories=categories_of(prior)).probabilities("kind")
    assert (plain.probability, plain.exists) == (pytest.approx((1 / 3, 2 / 3)), 0.75)


def test_words_of_probabilities():
    assert told(0.123456, 0.0123) == "0.123 +- 0.012"
    assert (told(0.0, 1e-4), told(1.0, 1e-4)) == ("< 0.0001", "> 0.9999")
    assert (told(0.5, 0.0), told(0.9999, 0.0), told(2.5e-4, 0.0)) == ("0.50", "0.9999", "0.00025")
    assert (told(1e-12, 0.0), told(1 - 1e-12, 0.0)) == ("< 0.000001", "> 0.999999")
    assert told(nan, nan) == "-"
    assert (exists_words(1.0), exists_words(0.0, 1e-3), exists_words(0.25)) == ("1", "< 0.001", "0.25")


def test_a_count_of_many_values_is_told_in_a_line():
    prior = Prior(k=Counts(0, 40))
    words = drawn(prior, 4_000).probabilities("k").words("k")
    assert words.count(":") == 8
    assert "33 others together 0.7" in words
    assert words.endswith("among 0 to 40")


# --- evidence ---


def test_evidence_by_model_is_that_of_the_draws_of_each():
    """Weights of a normal likelihood of two models against their integrals, by 200,000 prior draws: within 4 of the
    errors told, false-alarm rate 1e-4, seed fixed; and the errors are those of the mean of weights, within 20 %."""
    prior = Prior(model=Choice(a=0.7, b=0.3), mu=Normal(0.0, 1.0), shift=Only(Normal(0.0, 2.0), model="b"))
    draws = drawn(prior, 200_000, seed=3)
    law = TorchNormal(draws.theta[:, 1] + draws.theta[:, 2].nan_to_num(0.0), 0.5)
    log_weight = law.log_prob(torch.tensor(1.5)).double()
    log_z = float(log_weight.exp().mean().log())
    found = replace(draws, log_weight=log_weight, log_evidence=log_z, log_evidence_error=0.0).log_evidence_by("model")
    for code, (label, variance) in enumerate({"a": 1.25, "b": 5.25}.items()):
        truth = float(TorchNormal(0.0, math.sqrt(variance)).log_prob(torch.tensor(1.5)))
        value, error = found[label]
        assert abs(value - truth) < 4 * error
        own = log_weight.exp() * (draws.theta[:, 0] == code)
        assert error == pytest.approx(float(own.std() / own.mean()) / math.sqrt(len(own)), rel=0.2)


def test_evidence_needs_weights_and_a_parameter_that_always_exists():
    with pytest.raises(ValueError, match="no evidence, because they have no weights by a likelihood"):
        by_hand().log_evidence_by("model")
    with pytest.raises(ValueError, match="'beta' is no discrete parameter of these draws; there is model"):
        by_hand(log_evidence=-1.0).log_evidence_by("beta")
    prior = Prior(model=Choice("a", "b"), kind=Only(Choice("x", "y"), model="b"))
    with pytest.raises(ValueError, match="exists in some draws only"):
        drawn(prior, 100, log_evidence=-1.0).log_evidence_by("kind")


# --- what is given ---


def test_draws_given_a_model_are_plain():
    whole = by_hand(log_evidence=-2.0, log_evidence_error=0.1, pareto_k=0.2)
    draws = whole.given(model="SEIR")
    assert (draws.names, draws.units, draws.categories) == (("beta", "sigma"), ("", "1/d"), {})
    assert draws.theta.tolist() == [[2.0, 5.0], [4.0, 8.0]]
    np.testing.assert_allclose(draws.weights, [1 / 3, 2 / 3])
    assert draws.log_evidence == pytest.approx(-2.0 + math.log(0.6) - math.log(0.3))
    assert draws.pareto_k is None
    assert whole.given(model="SIR").names == ("beta",)
    assert whole.given() is whole


def test_draws_given_one_of_several_keep_the_others():
    draws = drawn(Burst.prior, 3_000)
    found = draws.given(model="wave")
    assert found.names == ("steps", "height", "period", "time_1", "time_2")
    assert list(found.categories) == ["steps"]
    two = draws.given(model="decay", steps=2)
    assert (two.names, two.categories) == (("height", "time_1", "time_2"), {})
    assert not bool(two.theta.isnan().any())
    assert torch.equal(found.given(steps="1").theta, draws.given(model="wave", steps=1).theta)


def test_exact_probabilities_are_not_kept_where_something_is_given():
    exact = {"model": (0.5, 0.5), "steps": (0.2, 0.3, 0.5)}
    draws = replace(drawn(Burst.prior, 3_000), categories=categories_of(Burst.prior, exact))
    assert draws.probabilities("steps").probability == (0.2, 0.3, 0.5)
    assert draws.given(model="wave").probabilities("steps").probability != (0.2, 0.3, 0.5)


def test_the_most_probable_values_are_those_of_all_together():
    theta = torch.tensor([[0.0, 0.0]] * 3 + [[0.0, 1.0]] * 3 + [[1.0, 2.0]] * 4)
    prior = Prior(model=Choice("a", "b"), k=Counts(0, 2))
    draws = Draws(prior.names, prior.units, theta, torch.zeros(10).double(), categories=categories_of(prior))
    assert draws.most_probable() == {"model": "b", "k": "2"}  # although a alone is more probable than b
    prior = Prior(model=Choice("a", "b"), kind=Only(Choice("x", "y"), model="b"))
    theta = torch.tensor([[0.0, nan], [0.0, nan], [1.0, 0.0]])
    draws = Draws(prior.names, prior.units, theta, torch.zeros(3).double(), categories=categories_of(prior))
    assert draws.most_probable() == {"model": "a"}
    assert by_hand().given(model="SIR").most_probable() == {}


def test_what_cannot_be_given_is_said():
    draws = by_hand(weights=(1.0, 0.0, 3.0, 0.0))
    for values, words in (
        ({"beta": 1.0}, "'beta' is no discrete parameter of these draws; there is model"),
        ({"model": "SIRS"}, "'model' is never 'SIRS'; it is one of SIR, SEIR"),
        ({"model": True}, "'model' is never True"),
        ({"model": "SEIR"}, r"no draw has model = SEIR \(probability < 0.62\); the probabilities .* are model SIR"),
    ):
        with pytest.raises(ValueError, match=words):
            draws.given(**values)
    with pytest.raises(ValueError, match="there is none"):
        drawn(Prior(a=Normal(0.0, 1.0))).given(model="a")


def test_the_prior_given_values_is_that_of_its_draws():
    """Draws of the prior that have the values, against the prior given them: Kolmogorov-Smirnov of two samples for each
    of 7 parameters, p > 1e-5, false-alarm rate below 1e-4, seeds fixed."""
    prior = Burst.prior
    for values, names in (
        ({"model": "wave", "steps": 2}, ("height", "period", "time_1", "time_2")),
        ({"model": "decay", "steps": 1}, ("height", "time_1")),
        ({"model": "decay", "steps": 0}, ("height",)),
    ):
        plain = prior_given(prior, values)
        assert (plain.names, plain.mixed) == (names, False)
        kept = drawn(prior, 60_000, seed=1).given(**values)
        assert kept.names == names
        theta = plain.sample(10_000, generator=torch.Generator().manual_seed(2))
        for one, other in zip(kept.theta.T, theta.T, strict=True):
            assert ks_2samp(one.numpy(), other.numpy()).pvalue > 1e-5
    some = prior_given(prior, {"steps": 1})
    assert (some.names, some.mixed) == (("model", "height", "period", "time_1"), True)
    theta = some.sample(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(some.present(theta)[:, 2], theta[:, 0] == 1)
    assert prior_given(prior, {}) is prior
    with pytest.raises(ValueError, match="'height' is no discrete parameter; there is model, steps"):
        prior_given(prior, {"height": 1})


def test_a_prior_whose_order_is_forgotten_is_seen():
    """The planted fault of the test above: two free times in place of two in order."""
    free = prior_given(Prior(steps=Counts(0, 2), time=Each("steps", Uniform(1.0, 12.0), "d")), {"steps": 2})
    kept = drawn(Burst.prior, 60_000, seed=1).given(model="wave", steps=2).theta[:, 2]
    theta = free.sample(10_000, generator=torch.Generator().manual_seed(2))[:, 0]
    assert ks_2samp(kept.numpy(), theta.numpy()).pvalue < 1e-5


def test_an_answer_given_a_model_is_a_plain_one():
    predicted = {"x": np.arange(8.0).reshape(4, 2)}
    whole = answer_of(by_hand(), PRIOR, predictive=predicted, predicted_from=by_hand().theta.numpy(), scope="here")
    answer = whole.given(model="SEIR")
    assert list(answer.parameters) == ["beta", "sigma"]
    assert answer.parameters["sigma"].exists == 1.0
    assert answer.scope == "here; given model = SEIR, which has probability 0.60 +- 0.26"
    assert answer.prior is not None
    assert answer.prior.names == ("beta", "sigma")
    np.testing.assert_array_equal(answer.predictive["x"], predicted["x"][[1, 3]])
    np.testing.assert_array_equal(answer.predicted_from, [[2.0, 5.0], [4.0, 8.0]])
    assert whole.given() is whole
    assert "exists" not in answer.table()


# --- as text, JSON and files ---


def test_a_table_has_probabilities_first_and_whether_each_exists():
    _, _, *lines = answer_of(by_hand()).table().splitlines()
    assert lines[0].startswith("model        SEIR: 0.60 +- 0.26, SIR: 0.40 +- 0.26 among the listed models; log Bayes")
    assert lines[2].split()[:3] == ["parameter", "unit", "exists"]
    assert [line.split()[2] for line in lines[4:6]] == ["1", "0.60"]
    assert any("numbers of sigma are of the draws in which there is one" in line for line in lines)
    html = answer_of(by_hand())._repr_html_()
    assert html.index("among the listed models") < html.index("sigma")
    assert "Bayes factors are of the network alone" in html
    assert "of the network alone" not in answer_of(replace(drawn(Burst.prior), log_evidence=1.0)).table()


def test_an_answer_of_discrete_parameters_alone_has_no_table():
    table = answer_of(drawn(Prior(k=Counts(0, 2)))).table()
    assert "parameter" not in table.splitlines()[2]
    assert "among 0 to 2" in table


def test_json_comes_back():
    for e in (
        *answer_of(by_hand()).parameters.values(),
        *answer_of(drawn(Burst.prior, weighted=True)).parameters.values(),
    ):
        back = estimate_from_json(json.loads(json.dumps(e.to_json())))
        assert back == e
    nothing = by_hand().probabilities("model")
    nothing = replace(nothing, probability=(nan, nan), exists=0.0)
    assert isinstance(estimate_from_json({**nothing.to_json(), "probability": [None, None]}), Probabilities)


def test_always_existing_numbers_have_the_json_that_they_had():
    said = answer_of(by_hand()).to_json()["parameters"]
    assert "exists" not in said["beta"]
    assert said["sigma"]["exists"] == pytest.approx(0.6)


def test_estimates_that_were_touched_disagree_with_their_draws():
    draws = drawn(Burst.prior, weighted=True)
    found = estimates(draws, 0.9)
    assert disagreement(found, draws) == ""
    model = found["model"]
    touched = {**found, "model": replace(model, probability=model.probability[::-1])}
    assert "the probability of 'model'" in disagreement(touched, draws)
    assert "other values" in disagreement({**found, "model": found["height"]}, draws)
    gone = draws.given(model="decay", steps=0)
    none = replace(gone, categories={"k": Categories((0.0, 1.0), ("0", "1"), (0.5, 0.5))}, names=("k",), units=("",))
    assert disagreement(estimates(none, 0.9), none) == ""


def test_draws_of_all_kinds_come_back_from_their_file(tmp_path):
    draws = drawn(Burst.prior, weighted=True, log_evidence=-3.0)
    exact = {"steps": (0.2, 0.3, 0.5)}
    draws = replace(draws, categories=categories_of(Burst.prior, exact))
    back = read_draws_h5(write_draws_h5(draws, tmp_path / "draws.h5"))
    assert back.categories == draws.categories
    assert torch.equal(back.theta.nan_to_num(-1), draws.theta.nan_to_num(-1))
    assert content_hash(back) == content_hash(draws)
    assert content_hash(replace(draws, categories=categories_of(Burst.prior))) != content_hash(draws)


def test_a_file_of_draws_without_discrete_parameters_has_the_hash_that_it_had():
    """A hash that was computed before there were discrete parameters: files of then are read, and none is made anew."""
    theta = torch.arange(12.0).reshape(4, 3)
    draws = Draws(("a", "b", "c"), ("", "m", "s"), theta, torch.zeros(4).double(), -1.0, 0.1, 0.3, ("c",), {"a": "A"})
    assert content_hash(draws) == "474cfe62f9d6f3f5465f40952cfffa218677365ec1e352257355ac627f41bacc"


# --- derived ---


def test_derived_quantities_exist_where_what_they_are_made_of_does():
    from sciinf.core.derived import check_derived, with_derived

    simulator = Burst()
    simulator.derived = {
        "rate": (lambda theta: 1 / theta["period"], "1/d"),
        "loud": lambda theta: np.where(theta["model"] == "wave", theta["height"], 0.0),
    }
    check_derived(simulator)
    draws = with_derived(drawn(Burst.prior), simulator)
    rate, period = draws.theta[:, draws.names.index("rate")], draws.theta[:, 3]
    assert torch.equal(rate.isnan(), period.isnan())
    assert draws.exists("rate") == draws.exists("period") < 1
    assert estimates(draws, 0.9)["rate"].exists == draws.exists("rate")
    assert bool(((draws.theta[:, -1] == 0) == (draws.theta[:, 0] == 0)).all())


def test_a_derived_quantity_that_is_nan_where_all_exists_is_refused():
    from sciinf.core.derived import with_derived

    simulator = Burst()
    simulator.derived = {"bad": lambda theta: np.where(theta["height"] > 1, np.nan, 1.0)}
    with pytest.raises(ValueError, match="'bad' is not finite for"):
        with_derived(drawn(Burst.prior).given(model="wave", steps=2), simulator)
    with pytest.raises(ValueError, match="'bad' is not finite for"):  # rows in which all exist are among them
        with_derived(drawn(Burst.prior), simulator)
