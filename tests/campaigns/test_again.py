"""Simulations of another state of a simulator are found, whatever has changed, and nothing is blamed falsely."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch import distributions as td

from sciinf.campaigns.again import MOST, SECONDS, affordable, look_again
from sciinf.campaigns.conditions import conditions, differing
from sciinf.campaigns.new_process import problem_of
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store
from sciinf.core import Observable, Outcome, Prior, Simulator
from sciinf.wrappers import numpy as wrapped


class Noisy(Simulator):
    """A number and a count; `change(x, theta)` may alter the data."""

    name = "noisy"
    prior = Prior(a=td.Uniform(0.0, 1.0))
    observables = {"x": Observable((3,)), "n": Observable((), dtype="int64")}
    block = 16

    def __init__(self, change=None):
        self.change, self.rows = change, []

    def __call__(self, theta, *, generator):
        self.rows.append(len(theta))
        x = {"x": theta + torch.randn(len(theta), 3, generator=generator), "n": (9 * theta[:, 0]).floor()}
        return x if self.change is None else self.change(x, theta)


def scaled(by):
    return lambda x, theta: {**x, "x": x["x"] * by}


def one_more(x, theta):
    return {**x, "n": x["n"] + (theta[:, 0] > 0.9)}


def failing(x, theta):
    return Outcome(x, (theta[:, 0] > 0.5).to(torch.uint8), {})


@pytest.fixture
def store(tmp_path):
    return simulate(Noisy(), tmp_path / "s", 40, progress=False)


def rewritten(store, **conditions_) -> Store:
    """The store as if it had been made under other conditions, or by a version that did not write them down."""
    for journal in store.path.glob("journal/*.jsonl"):
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        for line in lines:
            line.pop("sha256_of_the_rest", None)
            line["conditions"] = {**line["conditions"], **conditions_} if conditions_ else {}
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Store(store.path)


def test_the_same_simulator_gives_the_same_bits_in_one_block(store):
    simulator = Noisy()
    assert look_again(store, simulator).verdict == "same"
    assert simulator.rows in ([16], [8]), "the last block is the smallest, if not the fastest"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (scaled(1 + 1e-6), r"'x' of row \d+ was .*, is .*; \d+ of \d+ rows differ"),
        (one_more, r"'n' of row \d+ was 8, is 9"),
        (failing, r"row \d+ was ok, is non finite"),
    ],
)
def test_other_data_are_found_to_the_last_bit_failures_too(tmp_path, change, says):
    store = simulate(Noisy(), tmp_path, 200, block=200, progress=False)
    look = look_again(store, Noisy(change))
    assert look.verdict == "other"
    with pytest.raises(ValueError, match=f"another state of the simulator 'noisy': .* other data now: {says}"):
        simulate(Noisy(change), tmp_path, 400, progress=False)
    assert len(Store(tmp_path)) == 200, "nothing is lost, and nothing added"


def test_a_first_call_that_differs_from_the_next_is_no_chance(store):
    calls = iter([2.0])
    assert look_again(store, Noisy(lambda x, theta: scaled(next(calls, 1.0))(x, theta))).verdict == "other"
    calls = iter([2.0, 3.0])
    assert look_again(store, Noisy(lambda x, theta: scaled(next(calls, 1.0))(x, theta))).verdict == "unsure"


def test_a_first_call_that_differs_by_rounding_is_no_other_simulator(store):
    """A compiler may round its first call in another way."""
    calls = []

    def first_rounded(x, theta):
        calls.append(1)
        return scaled(1 + 2.4e-7)(x, theta) if len(calls) == 1 else x

    assert look_again(store, Noisy(first_rounded)).verdict == "unsure"


def test_rounding_in_a_new_process_is_no_problem(store):
    assert problem_of(look_again(store, Noisy(scaled(1 + 1e-3)))).startswith("in a new process the same parameters")
    assert problem_of(look_again(store, Noisy(scaled(1 + 1e-6)))) == ""


def test_what_is_accepted_is_told_once_and_written_down(store):
    with pytest.warns(UserWarning, match="give other data now"):
        simulate(Noisy(scaled(2.0)), store.path, 40, progress=False, accept_changes=True)
    with pytest.warns(UserWarning, match="give other data now"):
        simulate(Noisy(scaled(2.0)), store.path, 40, progress=False)
    other = Noisy()
    other.name = "other"
    with pytest.raises(ValueError, match="only changes of a simulator's files can be accepted; here name was noisy"):
        simulate(other, store.path, 40, progress=False, accept_changes=True)


def test_other_conditions_are_told_and_refuse_nothing(store):
    store = rewritten(store, torch="1.0")
    assert look_again(store, Noisy()).verdict == "same"
    look = look_again(store, Noisy(scaled(1 + 1e-6)))
    assert look.verdict == "rounding"
    assert "torch 1.0 -> " in look.words
    look = look_again(store, Noisy(scaled(1.01)))
    assert look.verdict == "unsure"
    assert "only the conditions have changed: torch 1.0 -> " in look.words
    with pytest.warns(UserWarning, match="torch 1.0 -> "):
        simulate(Noisy(scaled(1.01)), store.path, 40, progress=False)
    look = look_again(rewritten(store), Noisy(scaled(2.0)))
    assert (look.verdict, "earlier version" in look.words) == ("unsure", True)
    assert look_again(rewritten(store), Noisy()).verdict == "same"


def test_blocks_of_this_machine_are_preferred(tmp_path):
    store = rewritten(simulate(Noisy(), tmp_path, 32, progress=False), processor="another")
    store = simulate(Noisy(), tmp_path, 48, progress=False)
    assert look_again(store, Noisy(scaled(1.01))).verdict == "other", "the third block was made here"


def test_random_numbers_of_another_device_are_not_compared(store):
    look = look_again(rewritten(store, device="cuda NVIDIA"), Noisy(scaled(2.0)))
    assert (look.verdict, "made on cuda" in look.words) == ("skipped", True)


def test_a_simulator_that_never_gives_the_same_data_is_not_blamed(store):
    look = look_again(store, Noisy(lambda x, theta: {**x, "x": torch.rand(len(theta), 3)}))
    assert look.verdict == "unsure"
    assert "gives other data each time" in look.words


def test_what_would_cost_too_much_is_said_and_left_out(store):
    simulator = Noisy()
    look = look_again(store, simulator, seconds=1e-9)
    assert (look.verdict, simulator.rows) == ("skipped", [])
    assert "would take about" in look.words
    assert affordable(store) == SECONDS < MOST


def test_a_few_rows_are_enough_where_each_has_its_own_random_numbers(tmp_path):
    def noise(a, rng):
        calls.append(a)
        return a + factor * rng.normal(size=2)

    calls, factor = [], 1.0
    simulator = wrapped(noise, Noisy.prior, {"x": (2,)})
    store = simulate(simulator, tmp_path, 100, progress=False)
    calls.clear()
    assert look_again(store, simulator).verdict == "same"
    assert 1 <= len(calls) <= 8
    factor = 10.0
    assert look_again(store, simulator).verdict == "other"


def test_simulations_that_hung_or_all_raised_are_left_alone(tmp_path):
    def raising(x, theta):
        raise RuntimeError("no")

    store = simulate(Noisy(), tmp_path, 16, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="refused above"):
            simulate(Noisy(raising), tmp_path / "raised", 16, progress=False)
    assert look_again(Store(tmp_path / "raised"), Noisy()).verdict == "skipped"
    assert look_again(store, Noisy(raising)).verdict == "other", "the fault: an error is no answer"


def test_conditions_name_what_the_files_import(tmp_path):
    (tmp_path / "sim.py").write_text("import scipy, os\nfrom helper import A\n")
    (tmp_path / "helper.py").write_text("A = 1\n\ndef later():\n    import yaml\n")
    simulator = Noisy()
    simulator.source = tmp_path / "sim.py"
    found = conditions(simulator, "cpu")
    assert {"python", "torch", "numpy", "scipy", "processor", "device"} <= set(found)
    assert not {"os", "helper"} & set(found)
    assert found["yaml"]
    assert differing(found, found) == ""
    assert differing(found, {**found, "scipy": "9"}) == f"scipy {found['scipy']} -> 9"


def test_what_is_done_once_in_a_process_is_part_of_the_cost(tmp_path):
    store = simulate(Noisy(), tmp_path, 48, progress=False)
    for journal in store.path.glob("journal/*.jsonl"):
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        for line in lines:
            line.pop("sha256_of_the_rest", None)
            line["seconds"] = 30.0 if line["block"] == 0 else 0.1  # compiled with the first block
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    look = look_again(Store(tmp_path), Noisy(), seconds=5.0)
    assert (look.verdict, "about 30 s" in look.words) == ("skipped", True)
    assert look_again(Store(tmp_path), Noisy(), seconds=31.0).verdict == "same"
