"""The verdict at the observation: exact posteriors pass, wrong ones and lossy summaries do not."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import distributions as td

from sciinf.core import Case, Draws, Finding, Level, Observable, Posterior, Prior, Simulator
from sciinf.core.verdict import COMBINED
from sciinf.diagnostics import around, here
from sciinf.diagnostics.around import around_answer, heaviness, simulate_around
from sciinf.diagnostics.here import LocalCheck, check_here, doubted, local_finding, look_here
from sciinf.diagnostics.right import Kind
from sciinf.diagnostics.second import undecided
from sciinf.interfaces.answer import query

NUMBERS, ROWS = 20, 1_000


class Linear(Simulator):
    """x = A theta + noise, theta ~ N(0, I)."""

    name = "linear"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0))
    observables = {"x": Observable((NUMBERS,), "", dims=("time",))}

    def __init__(self):
        self.design = 0.4 * torch.randn(NUMBERS, 2, generator=torch.Generator().manual_seed(5))

    def __call__(self, theta, *, generator):
        noise = torch.randn(len(theta), NUMBERS, generator=generator)
        return {"x": theta @ self.design.T + noise}


class Gaussian(Posterior):
    """The posterior given the first numbers of x alone: exact with all, calibrated on average with fewer.

    Args:
        simulator: Its model.
        used: How many numbers it looks at.
        shift: By how many sds its middle is wrong.
        width: By what factor its sd is.
    """

    def __init__(self, simulator, used=NUMBERS, shift=0.0, width=1.0):
        self.prior, self.observables = simulator.prior, simulator.observables
        self.used, self.shift, self.width = used, shift, width
        self.name, self.digest, self.trained_on = "gaussian", f"{used} {shift} {width}", frozenset()
        design = simulator.design[:used]
        self.covariance = torch.linalg.inv(torch.eye(2) + design.T @ design)
        self.gain = self.covariance @ design.T

    def features(self, x):
        return x["x"][:, : self.used] @ self.gain.T

    def draw_batched(self, x, n, *, generator):
        middle = self.features(x) + self.shift * self.covariance.diagonal().sqrt()
        noise = torch.randn(n, *middle.shape, generator=generator)
        return middle + self.width * noise @ torch.linalg.cholesky(self.covariance).T

    def draw(self, x, n, *, generator):
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n, dtype=torch.float64))

    def log_prob_batched(self, theta, x):
        raise NotImplementedError


def levels(times: int, simulator=None, rows=ROWS, **faults) -> list[str]:
    """The levels of findings on that many observations."""
    simulator = simulator or Linear()
    posterior, found = Gaussian(simulator, **faults), []
    for seed in range(times):
        x, theta, generator = asked(simulator, posterior, seed)
        around = simulate_around(posterior, simulator, theta, rows=rows, generator=generator)
        found.append(check_here(posterior, x, around, generator=generator)[0].level)
    return found


def asked(simulator, posterior, seed=0, draws=500):
    """An observation from the prior, draws of its answer, and the source of both."""
    generator = torch.Generator().manual_seed(seed)
    x = simulator(simulator.prior.sample(1, generator=generator), generator=generator)
    return x, posterior.draw_batched(x, draws, generator=generator)[:, 0], generator


def looked(posterior, simulator, x, theta, generator):
    around = simulate_around(posterior, simulator, theta, rows=ROWS, generator=generator)
    return look_here(posterior, x, around, generator=generator)


def checked(posterior, simulator, x, theta, seconds, generator):
    around = around_answer(posterior, simulator, theta, seconds=seconds, generator=generator)
    return check_here(posterior, x, around, generator=generator)


@pytest.mark.slow
def test_an_exact_posterior_is_hardly_ever_blamed():
    """One in a hundred is expected; more than 4 of 60 in one of 3,000 runs. What 1,000 rows leave open, 4,000 tell."""
    assert levels(60).count("alarm") <= 4
    found = levels(30, rows=4_000)
    assert found.count("alarm") <= 3
    assert found.count("good") >= 22


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"used": 6}, {"used": 14}, {"shift": 0.4}, {"width": 0.7}, {"width": 1.35}])
def test_what_is_wrong_here_is_seen(fault):
    """With `used`, the posterior is calibrated over the prior: only plain statistics of the data tell."""
    assert levels(8, **fault).count("alarm") >= 7


@pytest.mark.parametrize(
    ("shift", "shift_error", "width_error", "level", "words"),
    [
        (0.1, 0.02, 0.03, "good", "centres within 0.14 sds, widths within 6%"),
        (0.1, 0.1, 0.03, "unknown", "centres within 0.3 sds, widths within 6%"),
        (0.1, 0.02, 0.07, "unknown", "centres within 0.14 sds, widths within 14%"),
    ],
)
def test_what_is_not_known_to_be_right_is_not_called_right(shift, shift_error, width_error, level, words):
    """A middle may be off by more than .15 sd, or a width by more than a tenth, though neither is certain."""
    one = torch.ones(1, dtype=torch.float64)
    local = here.Local(shift * one, shift_error * one, one, width_error * one, 0 * one, one, 900, one)
    check = local_finding(local, ("a",))
    assert (check.level, doubted(check)) == (level, level == "unknown")
    assert f": {words} (900 simulations around it)" in check.words


def looked_twice(seed, rows=500, most=4_000, alike=True, **fault):
    """The finding, and how many simulations were asked about, the second time none where there was none."""
    simulator, sizes = Linear(), []
    posterior = Gaussian(simulator, **fault)
    x, theta, generator = asked(simulator, posterior, seed)

    def made(rows):
        sizes.append(rows)
        return simulate_around(posterior, simulator, theta, rows=rows, generator=generator) if rows else "too slow"

    (check,) = check_here(posterior, x, made(rows), lambda: made(most), alike=alike, generator=generator)
    return check, sizes


@pytest.mark.slow
def test_where_few_simulations_leave_errors_open_more_are_asked_about():
    """Five hundred cannot tell an exact answer from one .85 times as wide, four thousand can."""
    found = [looked_twice(seed) for seed in range(6)]
    assert all(sizes == [500, 4_000] for _, sizes in found)
    assert sum(check.level == "good" for check, _ in found) >= 5
    assert all("(4,000 simulations" in check.words for check, _ in found)
    wrong = [looked_twice(seed, width=0.85)[0] for seed in range(6)]
    assert sum(check.level == "alarm" for check in wrong) >= 5
    clear, sizes = looked_twice(0, rows=2_000, shift=0.6)
    assert (clear.level, sizes) == ("alarm", [2_000])


def test_a_second_look_is_left_out_where_it_takes_long_or_cannot_be_had(monkeypatch):
    check, sizes = looked_twice(0, most=0)
    assert sizes == [500, 0]
    assert "(500 simulations" in check.words
    assert doubted(check)
    check, sizes = looked_twice(0, rows=800, most=500)
    assert sizes == [800, 500]
    assert "(800 simulations" in check.words, "the others are fewer"
    assert looked_twice(0, alike=False)[1] == [500], "nothing could be told"
    monkeypatch.setattr(here, "_QUICK", -1.0)
    assert looked_twice(0)[1] == [500]


def test_an_answer_has_the_second_look(monkeypatch):
    monkeypatch.setattr("sciinf.interfaces.question.MANY", (4_000,))
    monkeypatch.setattr(around, "ROWS", 600)
    simulator = Linear()
    posterior = Gaussian(simulator)
    x, _, _ = asked(simulator, posterior, draws=10)
    answer = query(posterior, {"x": x["x"][0]}, simulator=simulator, draws=2_000)
    (check,) = [check for check in answer.checks if check.name == here.NAME]
    assert "(4,000 simulations" in check.words


class Hidden(Linear):
    """Ninety numbers tell of the parameters, each a little; ninety others vary together, and tell nothing."""

    observables = {"x": Observable((180,), "", dims=("channel",))}

    def __init__(self):
        generator = torch.Generator().manual_seed(5)
        design = 0.2 * torch.randn(90, 2, generator=generator)
        self.design = torch.cat([design - design.mean(0), torch.zeros(90, 2)])
        self.shared = torch.cat([torch.zeros(90, 12), 2 * torch.randn(90, 12, generator=generator)])

    def __call__(self, theta, *, generator):
        noise, shared = (torch.randn(len(theta), k, generator=generator) for k in (180, 12))
        return {"x": theta @ self.design.T + shared @ self.shared.T + noise}


@pytest.mark.slow
def test_what_many_numbers_tell_together_is_not_missed(monkeypatch):
    """Along the first axes of the data nothing of what was left unused can be seen."""
    wrong = [level in ("alarm", "caution") for level in levels(8, Hidden(), 2_000, used=70)]
    assert sum(wrong) >= 7
    monkeypatch.setattr(here, "told", lambda specs, data, x, z: z.new_zeros(len(z) + 1, 0))
    assert sum(level in ("alarm", "caution") for level in levels(8, Hidden(), 2_000, used=70)) <= 4


@pytest.mark.slow
def test_a_row_is_not_told_of_by_a_line_that_was_fitted_to_it():
    """Of an exact posterior, 180 numbers: lines fitted to the rows themselves blamed four of four."""
    assert levels(4, Hidden(), 2_000, used=180).count("alarm") <= 1


def test_the_words_name_parameter_direction_and_way_out():
    simulator, generator = Linear(), torch.Generator().manual_seed(0)
    posterior = Gaussian(simulator, shift=0.6)
    x = simulator(torch.zeros(1, 2), generator=generator)
    theta = posterior.draw_batched(x, 500, generator=generator)[:, 0]
    (check,) = checked(posterior, simulator, x, theta, 1e-4, generator)
    assert "a is too high by 0." in check.words
    assert "Train on more simulations" in check.words


def test_of_an_observation_that_the_model_does_not_reproduce_nothing_is_told(monkeypatch):
    """Networks answer such data as they will: off by .6 sds for correlated residuals, though right for the model's."""
    simulator, generator = Linear(), torch.Generator().manual_seed(0)
    posterior, x = Gaussian(simulator), simulator(torch.zeros(1, 2), generator=generator)
    theta = posterior.draw_batched(x, 500, generator=generator)[:, 0]
    around = simulate_around(posterior, simulator, theta, rows=2_000, generator=generator)
    (good,) = check_here(posterior, x, around, generator=generator)
    (check,) = check_here(posterior, x, around, alike=False, generator=generator)
    assert (good.level, check.level) == ("good", "unknown")
    assert (good.kind, check.kind) == (Kind.UNSEEN, Kind.UNLIKE)
    assert "for data of the model: no error seen at this observation" in check.words
    monkeypatch.setattr(here, "_HEAVY", 0.0)
    (check,) = check_here(posterior, x, around, alike=False, generator=generator)
    assert (check.kind, check.level) == (Kind.UNLIKE, "caution")
    assert (doubted(check), undecided(check)) == (True, False)
    assert "for data of the model: it may be off" in check.words


def test_a_query_asks_residuals_whether_the_check_can_tell(monkeypatch):
    simulator, told = Linear(), []
    monkeypatch.setattr(here, "check_here", lambda *_, alike, generator: told.append(alike) or ())
    x = simulator(torch.zeros(1, 2), generator=torch.Generator().manual_seed(0))["x"][0]
    for size in (0.0, 8.0):
        query(Gaussian(simulator), {"x": x + size * (torch.arange(NUMBERS) == 11)}, simulator=simulator, draws=2_000)
    assert told == [True, False]


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        ({"residuals": 0.009, "strange data": 0.3}, True),
        ({"residuals": 0.001, "strange data": 0.3}, False),
        ({"predictive": 0.009, "strange data": 0.3}, False),
    ],
)
def test_an_alarm_by_chance_is_no_reason_not_to_tell(found, asked, monkeypatch):
    told: list[bool] = []
    monkeypatch.setattr(here, "check_here", lambda *_, alike, generator: told.append(alike) or ())
    findings = [
        Finding(name, Level.ALARM if p < 0.01 else Level.GOOD, "", figures={"p": p, COMBINED: name != "predictive"})
        for name, p in found.items()
    ]
    posterior = Gaussian(Linear())
    none: Any = None
    LocalCheck()(Case(posterior, none, 0.9, found=findings))
    assert told == [asked]


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("BUDGET", 0.0, "drawing from it for 500 simulations would take more than 0 s"),
        ("_OWN", 0.0, "with 2 parameters, the draws for a simulation hardly reach where its truth lies"),
    ],
)
def test_what_keeps_it_from_telling_is_said(limit, value, why, monkeypatch):
    """Slow draws, or many parameters: which of them it is."""
    monkeypatch.setattr(f"sciinf.diagnostics.here.{limit}", value)
    simulator, generator = Linear(), torch.Generator().manual_seed(0)
    posterior, x = Gaussian(simulator), simulator(torch.zeros(1, 2), generator=generator)
    theta = posterior.draw_batched(x, 500, generator=generator)[:, 0]
    around = simulate_around(posterior, simulator, theta, rows=500, generator=generator)
    (check,) = check_here(posterior, x, around, generator=generator)
    assert (check.level, check.words.endswith(why)) == ("unknown", True)


def test_a_slow_simulator_is_not_run_and_that_is_said():
    simulator, generator = Linear(), torch.Generator().manual_seed(0)
    posterior = Gaussian(simulator)
    x = simulator(torch.zeros(1, 2), generator=generator)
    (check,) = checked(posterior, simulator, x, torch.zeros(500, 2), 1.0, generator)
    assert (check.level, check.words.endswith("would take 500 s")) == ("unknown", True)
    posterior.observation = x
    assert checked(posterior, simulator, x, torch.zeros(500, 2), 1e-4, generator) == ()


class Many(Simulator):
    """x = theta + noise / 10, forty parameters."""

    name = "many"
    prior = Prior.joint([f"p{i}" for i in range(40)], td.Independent(td.Normal(torch.zeros(40), torch.ones(40)), 1))
    observables = {"x": Observable((40,), "", dims=("channel",))}

    def __call__(self, theta, *, generator):
        return {"x": theta + 0.1 * torch.randn(theta.shape, generator=generator)}


class Shifted(Gaussian):
    """Its posterior, every mean .15 sd off."""

    def __init__(self, simulator):
        self.prior, self.observables = simulator.prior, simulator.observables

    def features(self, x):
        return x["x"]

    def draw_batched(self, x, n, *, generator):
        return x["x"] / 1.01 + 0.015 + 0.0995 * torch.randn(n, *x["x"].shape, generator=generator)


def test_where_many_parameters_hide_an_error_it_is_not_called_right():
    simulator, generator = Many(), torch.Generator().manual_seed(0)
    posterior = Shifted(simulator)
    x = simulator(torch.zeros(1, 40), generator=generator)
    theta = posterior.draw_batched(x, 1_000, generator=generator)[:, 0]
    (check,) = checked(posterior, simulator, x, theta, 1e-5, generator)
    assert "with 40 parameters, the draws for a simulation hardly reach" in check.words


class SlowAtFirst(Gaussian):
    """Exact, and its first draws take as long as a library does to be loaded."""

    slept = False

    def draw_batched(self, x, n, *, generator):
        if not self.slept:
            time.sleep(0.05)
            self.slept = True
        return super().draw_batched(x, n, generator=generator)


def test_a_posterior_that_is_slow_at_first_is_looked_at_again(monkeypatch):
    """Two rows alone would tell of 12 s for 500, of which there are 5; twenty tell of less."""
    simulator = Linear()
    posterior = SlowAtFirst(simulator)
    x, theta, generator = asked(simulator, posterior, draws=1_000)
    around = simulate_around(posterior, simulator, theta, rows=1_000, generator=generator)
    posterior.slept = False
    monkeypatch.setattr(here, "BUDGET", 5.0)
    (check,) = check_here(posterior, x, around, generator=generator)
    assert "would take more than" not in check.words


class Strays(Gaussian):
    """Its exact posterior, but for a hundredth of the draws, ten sds out: the sd is 1.4 times too large."""

    def draw_batched(self, x, n, *, generator):
        theta = super().draw_batched(x, n, generator=generator)
        far = torch.rand(*theta.shape[:-1], 1, generator=generator) < 0.01
        return torch.where(far, theta.mean(0) + 10 * (theta - theta.mean(0)), theta)


@pytest.mark.slow
def test_an_sd_of_draws_where_no_simulation_lies_is_not_called_right():
    """Neither ranks nor their squares see them: of eight, not one is called good, and without the strays most are."""
    simulator, found = Linear(), []
    for kind in (Strays, Gaussian):
        for seed in range(8):
            generator, posterior = torch.Generator().manual_seed(seed), kind(simulator)
            x = simulator(simulator.prior.sample(1, generator=generator), generator=generator)
            theta = posterior.draw_batched(x, 4_000, generator=generator)[:, 0]
            found.append(local_finding(looked(posterior, simulator, x, theta, generator), posterior.prior.names))
    assert all(check.level != "good" and "draws far out" in check.words for check in found[:8])
    assert not any("draws far out" in check.words for check in found[8:])


def test_the_sd_of_light_tails_is_what_their_interval_tells():
    draws = torch.randn(100_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws[:, 1] = draws[:, 1].sign() * draws[:, 1].square()  # quartic tails in the exponent's root
    draws[:, 2] = torch.where(torch.arange(100_000) < 1_000, 10 * draws[:, 2], draws[:, 2])
    draws[:, 3] = 0.1 * draws[:, 3] + 6 * (torch.arange(100_000) < 50_000)  # two narrow modes
    normal, heavy, strays, modes = heaviness(draws).tolist()
    assert normal == pytest.approx(1.0, abs=0.01)
    assert heavy == pytest.approx(3**0.5 / 1.6449, abs=0.03)  # E z^4 = 3, and 1.645^2 is the square's quantile
    assert strays == pytest.approx((0.99 + 1.0) ** 0.5, abs=0.08)
    assert modes == pytest.approx(0.7895, abs=0.01), "no draw lies far out"


def test_a_width_is_given_in_sds_of_the_posterior():
    """A posterior .7 times as wide as it should be needs its sd 1.43 times as large, within .15 on average."""
    simulator = Linear()
    posterior, found = Gaussian(simulator, width=0.7), []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        x = simulator(simulator.prior.sample(1, generator=generator), generator=generator)
        theta = posterior.draw_batched(x, 500, generator=generator)[:, 0]
        found.append(looked(posterior, simulator, x, theta, generator).width)
    assert abs(float(torch.stack(found).mean()) - 1.43) < 0.15


def test_data_that_do_not_vary_around_the_answer_tell_nothing():
    simulator, generator = Linear(), torch.Generator().manual_seed(0)
    posterior = Gaussian(simulator)
    x = {"x": torch.zeros(1, NUMBERS)}

    class Silent(Linear):
        def __call__(self, theta, *, generator):
            return {"x": torch.zeros(len(theta), NUMBERS)}

    theta = posterior.draw_batched(x, 500, generator=generator)[:, 0]
    (check,) = checked(posterior, Silent(), x, theta, 1e-5, generator)
    assert check.level == "unknown"
    (check,) = checked(posterior, simulator, x, torch.zeros(500, 2), 1e-5, generator)
    assert check.level == "unknown"


@pytest.mark.parametrize(("unused", "level"), [(0.02, "good"), (0.03, "caution"), (0.06, "alarm")])
def test_what_is_unused_counts_from_where_it_shifts_answers_by_what_is_right(unused: float, level: str) -> None:
    """A middle that is off by .15 sds at random makes .0225 of the variance."""
    one, none = torch.ones(1), torch.zeros(1)
    local = here.Local(none, 0.01 * one, one, 0.01 * one, unused * one, 1e-9 * one, 900, one)
    assert local_finding(local, ("a",), error=(0.0, 0.0)).level == level
