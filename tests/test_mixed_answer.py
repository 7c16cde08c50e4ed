"""Answers about which model and how many: asked, kept, read back, given, drawn and reported."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mixed_answers import Burst, ByWeights, answer_of_burst, drawn
from sample_run import Page

from sciinf import load_answer, query
from sciinf.core import Answer, Trust
from sciinf.core.answer import answers_table
from sciinf.core.categories import categories_of
from sciinf.core.estimates import estimates
from sciinf.core.estimator import Density, Marginals
from sciinf.core.files import read_json, write_json
from sciinf.interfaces.figures.numbers import numbers_of, numbers_pictured, value
from sciinf.interfaces.figures.prior_curves import prior_marginals
from sciinf.interfaces.figures.run_folder import read_runs
from sciinf.interfaces.report import write_report
from sciinf.interfaces.serve.wire import answer_in, answer_out, pack, unpack
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.marginal import known_categories

TRUST = Trust(0.3, "like the simulations", "good")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "run"
    answer_of_burst(out=folder, name="seen")
    return folder


@pytest.fixture(scope="module")
def answer(run: Path) -> Answer:
    return load_answer(run)


def made(draws, **known) -> Answer:
    return Answer(estimates(draws, 0.9), draws, None, TRUST, prior=Burst.prior, **known)


def test_an_answer_is_asked_and_read_back(run: Path, answer: Answer) -> None:
    assert list(answer.parameters) == list(Burst.prior.names)
    assert answer.parameters["model"].most_probable == "wave"
    assert "among the listed models" in answer.table()
    again = answer_of_burst(out=run, name="seen")  # found, not made anew
    assert again.table() == answer.table()
    assert again.parameters == answer.parameters
    assert 0 < answer.parameters["time_2"].exists < 1


def test_its_draws_have_no_parameter_where_there_is_none(answer: Answer) -> None:
    theta = answer.draws.theta
    assert torch.equal(theta.isnan(), ~Burst.prior.present(theta))


def test_an_answer_whose_probabilities_were_touched_is_refused(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "answers" / "seen" / "answer.json"
    said = read_json(file)
    said["parameters"]["steps"]["probability"] = said["parameters"]["steps"]["probability"][::-1]
    write_json(file, said)
    with pytest.raises(ValueError, match="the probability of 'steps' is"):
        load_answer(tmp_path / "run")
    page = Page(write_report(tmp_path / "run").read_text()).text
    assert "answer.json is not of the draws in draws.h5: the probability of 'steps'" in page


def test_a_draw_that_has_what_does_not_exist_is_astray() -> None:
    class Astray(ByWeights.__base__):  # a posterior that gives a period to a decay
        def __init__(self, inner: ByWeights) -> None:
            self.inner = inner
            self.name, self.digest, self.prior = "amortised", "astray", inner.prior
            self.observables, self.trained_on = inner.observables, frozenset()

        def draw_batched(self, x, n, *, generator):
            theta = self.inner.draw_batched(x, n, generator=generator).clone()
            theta[..., 0] = 0.0
            return theta

        def log_prob_batched(self, theta, x):
            raise NotImplementedError

        def features(self, x):
            return self.inner.features(x)

    x = Burst()(torch.tensor([[1.0, 1.0, 1.0, 5.0, 6.0, torch.nan]]), generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="posterior draws are not finite"):
        query(Astray(ByWeights(Burst())), {"flux": x["flux"][0]}, draws=200)


def test_probabilities_without_draws_are_taken_where_an_estimator_has_them() -> None:
    class Knows(Density, Marginals):
        def sample(self, n, *, generator):
            raise NotImplementedError

        def log_prob(self, theta):
            raise NotImplementedError

        def log_probabilities(self, name):
            if name == "steps":
                raise ValueError("too many values before it")
            return torch.tensor([[0.1, 0.9]]).log()

        def with_floor(self, share):
            raise NotImplementedError

    class Estimator:
        def density(self, x):
            return Knows()

    posterior = object.__new__(Amortised)
    posterior.prior, posterior.estimator = Burst.prior, Estimator()
    found = known_categories(posterior, {})
    assert found["model"].exact == pytest.approx((0.1, 0.9))
    assert found["steps"].exact == ()  # told from draws


def test_given_values_it_is_drawn_and_told_as_a_plain_one(answer: Answer) -> None:
    plain = answer.given(model="wave", steps=1)
    assert list(plain.parameters) == ["height", "period", "time_1"]
    assert re.search(r"given model = wave and steps = 1, which has probability 0\.\d+ \+- 0\.\d+", plain.table())
    assert len(plain.predicted_from) == len(plain.predictive["flux"]) > 0
    corner = plain.figure("corner")
    assert len(corner.axes) == 6
    plain.figure("prediction")
    assert json.dumps(plain.to_json())


def test_a_corner_is_of_the_most_probable_and_says_so(answer: Answer) -> None:
    figure = answer.figure("corner", truth={"model": "wave", "period": 5.0, "time_2": 3.0})
    title = figure.legends[0].get_title().get_text()
    assert re.fullmatch(r"given model = wave and steps = 1 \(0\.\d+ ± 0\.\d+\)", title)
    assert len(figure.axes) == 6
    with pytest.raises(ValueError, match="there 'time_2' is none of height, period, time_1; draw discrete parameters"):
        answer.figure("corner", names=["height", "time_2"])
    with pytest.raises(ValueError, match="there 'model' is none of"):
        answer.figure("corner", names=["model"])
    with pytest.raises(ValueError, match="the true 'model' is 'none'; expected one of decay, wave"):
        answer.figure("corner", truth={"model": "none"})


def test_probabilities_are_bars_with_the_prior(answer: Answer) -> None:
    figure = answer.figure("probabilities")
    assert [axes.get_ylabel() for axes in figure.axes] == ["model", "steps"]
    widths = [bar.get_width() for bar in figure.axes[1].patches]
    np.testing.assert_allclose(widths, answer.parameters["steps"].probability)
    assert "among the listed models" in figure.axes[0].get_xlabel()
    assert len(answer.figure("probabilities", names=["steps"]).axes) == 1
    with pytest.raises(ValueError, match="there is no discrete parameter 'height'; there are model, steps"):
        answer.figure("probabilities", names=["height"])
    with pytest.raises(ValueError, match="has no discrete parameters"):
        answer.given(model="wave", steps=1).figure("probabilities")


def test_the_prior_of_parameters_in_order_is_drawn_as_it_is() -> None:
    """Of two times in order from 1 to 12 the first has the density 2 (1 - u) / 11 and the second 2 u / 11, of one the
    density 1 / 11: within 8 % of its largest, from 200,000 draws. The law of each by itself, 1 / 11, fails."""
    curves = prior_marginals(Burst.prior, ["time_1", "time_2"], [(1.0, 12.0), (1.0, 12.0)])
    u = (curves["time_2"][0] - 1) / 11
    inside = (u > 0.05) & (u < 0.95)
    largest = 2 / 11
    assert np.abs(curves["time_2"][1] - largest * u)[inside].max() < 0.08 * largest
    mixed = 0.5 * (1 / 11 + largest * (1 - u))  # one step, or the first of two
    assert np.abs(curves["time_1"][1] - mixed)[inside].max() < 0.08 * largest
    assert np.abs(1 / 11 - largest * u)[inside].max() > 0.08 * largest


def test_several_answers_are_told_together(answer: Answer) -> None:
    table = answers_table({"one": answer, "two": answer.given(model="wave")})
    assert "one: model: wave: > 0.9995" in table
    assert "two: steps:" in table
    assert table.splitlines()[:3] == [f"one: {answer.verdict}", f"two: {answer.given(model='wave').verdict}", ""]
    assert "exists" in next(row for row in table.splitlines() if row.startswith("observation"))


def test_a_report_has_bars_exists_and_a_corner_that_says_what_it_is_of(run: Path) -> None:
    html = write_report(run, truth={"model": "wave", "period": 5.0}).read_text()
    page = Page(html).text
    assert "Probability of each value among the listed models" in page
    assert re.search(
        r"Drawn where model = wave and steps = 1, which is most probable together: probability 0\.\d", page
    )
    assert re.search(r"time_2 0\.\d\d ", page)
    assert "Numbers of time_1, time_2 are of the draws in which there is one" in page
    assert "Log Bayes factor of 1 against 0" in page
    assert "Bayes factors are of the network alone" in page
    assert not re.search(r"\bnan\b", page.lower())
    assert "NaN" not in html
    data = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.S)[1])
    one = data["answers"][0]
    assert one["names"] == ["height", "period", "time_1"]
    assert "draws with model = wave and steps = 1, of 2000" in one["of"]
    assert "$P$(model = wave)" in one["latex"][0]
    assert "predicted" not in one  # whose draws are not all among those that are pictured


def test_numbers_above_the_corner_are_of_the_draws_in_it(run: Path, answer: Answer) -> None:
    """Those of the whole answer stand in the table; the planted fault is that they stand above the corner, too."""
    html, found = write_report(run).read_text(), read_runs(run)["seen"]
    pictured, whole = numbers_pictured(found), numbers_of(found)
    above = value(pictured, pictured.names.index("time_1"))
    assert above != value(whole, whole.names.index("time_1"))
    assert f'<span class="name">time_1</span> {above}' in html
    middle = answer.given(model="wave", steps=1).parameters["time_1"].median
    assert pictured.medians[pictured.names.index("time_1")] == pytest.approx(middle)


def test_reports_of_answers_about_several_models(tmp_path: Path) -> None:
    simulator, folder = Burst(), tmp_path / "run"
    posterior = ByWeights(simulator)
    for name, row in (("a", [1.0, 1.0, 1.0, 5.0, 6.0, torch.nan]), ("b", [0.0, 0.0, 1.0] + [torch.nan] * 3)):
        x = simulator(torch.tensor([row]), generator=torch.Generator().manual_seed(1))
        query(posterior, {"flux": x["flux"][0]}, out=folder, name=name, draws=1_000)
    html = write_report(folder).read_text()
    page = Page(html).text
    assert "Of model, steps the most probable value, with its probability" in page
    assert "wave (> 0.999)" in page
    assert "decay (> 0.99" in page
    numbers = re.findall(r'<section[^>]*class="numbers".*?</section>', html, re.S)
    assert len(numbers) == 2
    assert not any(re.search(r"\bnan\b", part.lower()) for part in numbers)


def test_an_answer_goes_through_a_message(answer: Answer) -> None:
    head, arrays = answer_out(answer)
    back = answer_in(*unpack(pack(head, arrays)), None)
    assert back.parameters == answer.parameters
    assert back.draws.categories == answer.draws.categories
    assert back.table() == answer.table()


def test_an_answer_corrected_by_weights_tells_both() -> None:
    draws = drawn(Burst.prior, weighted=True, log_evidence=-3.0, log_evidence_error=0.1)
    plain = replace(draws, log_weight=torch.zeros(len(draws)).double())
    answer = made(draws, amortised=estimates(plain, 0.9))
    first, empty, *lines = answer.table().splitlines()
    assert (first, empty) == (answer.verdict.sentence, "")
    for line, name in zip(lines, ("model", "steps", "uncorrected model", "uncorrected steps"), strict=False):
        assert line.startswith(f"{name} ")
    assert lines[5].split()[:4] == ["parameter", "unit", "exists", "median"]
    assert "uncorrected_most_probable" in answer.to_dataframe()


def test_a_figure_of_a_thousand_values_stays_legible() -> None:
    from sciinf import Choice, Prior
    from sciinf.core import Draws

    labels = tuple(f"source {k}" for k in range(300))
    prior = Prior(source=Choice(*labels))
    theta = prior.sample(4_000, generator=torch.Generator().manual_seed(0))
    draws = Draws(("source",), ("",), theta, torch.zeros(4_000).double(), categories=categories_of(prior))
    figure = made(draws).figure("probabilities")
    assert len(figure.axes[0].patches) == 16
    assert "284 others are not drawn" in figure.axes[0].get_xlabel()


def test_what_is_given_says_that_it_was_not_checked(answer: Answer) -> None:
    plain = answer.given(model="wave")
    (check,) = plain.checks
    assert check.name == "given"
    assert check.level != "good"
    assert "checks are of the whole answer" in check.words
    assert f"size of {plain.draws.ess:,.0f} draws" in check.words
