"""An answer that was learned through a surrogate names it, with its error; one that the true simulator weights, too."""

from __future__ import annotations

import pytest
import torch
from emulators.fields import Decay

from sciinf import Flow, Recipe, build_posterior, load_answer, load_fit, query, simulate, train
from sciinf.core import Cause, Evidence, Finding, Level, identity
from sciinf.core.simulator import SURROGATE, recorded, unlike
from sciinf.core.verdict import verdict_from
from sciinf.diagnostics.surrogate import learned_through
from sciinf.emulators import Emulator, Operator
from sciinf.interfaces.exports import to_table
from sciinf.interfaces.figures.methods_text import methods_text
from sciinf.interfaces.figures.run_folder import read_runs
from sciinf.interfaces.question import judge_of
from sciinf.interfaces.surveys.drawing import RowChecks
from sciinf.networks.spectral import Fourier
from sciinf.simulators.dynamics.random_field import Waves
from sciinf.wrappers import Sensors, observed, scattered

WORLD = Decay(initial=Waves((1.0, 0.5), (0.0, 0.2)))
SENSORS, ONCE = Sensors((0.1, 0.4, 0.7), sd=0.1), Recipe(epochs=1)
TRUTH = observed(WORLD, SENSORS)


@pytest.fixture(scope="module")
def surrogate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surrogate")
    store = simulate(WORLD, folder / "solutions", 200, progress=False)
    operator = Operator(WORLD.prior, WORLD.observables, Fourier(4, 2, layers=1, hidden=8))
    with pytest.warns(UserWarning, match="off by"):  # it is trained far too briefly
        return train(operator, store, folder / "surrogate", recipe=ONCE, progress=False)


@pytest.fixture(scope="module")
def seen(surrogate):
    return observed(Emulator(surrogate, WORLD), SENSORS)


@pytest.fixture(scope="module")
def run(seen, tmp_path_factory):
    """A run whose network learns through the surrogate."""
    folder = tmp_path_factory.mktemp("run")
    store = simulate(seen, folder / "simulations", 300, progress=False)
    train(Flow(seen.prior, seen.observables), store, folder / "fit", recipe=ONCE, progress=False)
    return folder


@pytest.fixture(scope="module")
def x():
    theta = WORLD.prior.sample(1, generator=torch.Generator().manual_seed(5))
    return {"y": TRUTH(theta, generator=torch.Generator().manual_seed(6))["y"][0]}


def name_of(surrogate):
    return f"Operator of 'decay' with held-out fields off by {surrogate.record['relative_error']:.1%}"


def of(answer):
    return next(one for one in answer.checks if one.name == "surrogate")


def test_an_answer_through_a_surrogate_names_it_wherever_it_is_read(run, seen, surrogate, x):
    answer, name = query(build_posterior(load_fit(run / "fit")), x, out=run, draws=500), name_of(surrogate)
    assert (of(answer).level, of(answer).figures) == ("good", {"surrogates": [name]})
    assert "its data carry this error" in of(answer).words
    meta = to_table(answer).meta or {}
    for text in (answer.table(), load_answer(run).table()):
        assert f"it was learned through a surrogate, {name};" in text
    assert meta["surrogate"] == name
    (read,) = read_runs(run).values()
    assert f"Its data were made by a surrogate: {name}." in methods_text(read)[0]
    assert recorded(scattered(Emulator(surrogate, WORLD), 3, sd=0.1))[SURROGATE] == name


def test_the_verdict_names_it_where_data_do_not_carry_its_error(surrogate):
    said = learned_through([name_of(surrogate)], carried=False, weighted=False)
    strong = Finding("weights", Level.GOOD, "fine", evidence=Evidence.ROUNDS)
    assert verdict_from([strong]).level == "good"
    sentence = f"Rely with care on this answer: it was learned through a surrogate, {name_of(surrogate)}."
    assert verdict_from([strong, said]).sentence == sentence


def test_only_a_simulator_that_is_none_makes_it_good(run, surrogate, x):
    fit, bare = load_fit(run / "fit"), observed(Emulator(surrogate, WORLD, error=False), SENSORS)
    true, again = (of(query(build_posterior(fit, one, ess=50, budget=4_000), x, draws=100)) for one in (TRUTH, bare))
    assert (true.level, again.level) == ("good", "caution")
    assert "true simulator" in true.words
    assert name_of(surrogate) in true.words
    assert (again.cause, "its data do not carry this error" in again.words) == (Cause.SURROGATE, True)


def test_a_survey_says_it_once_for_all_rows(run, surrogate):
    checks = RowChecks(judge_of(build_posterior(load_fit(run / "fit")), None, "exclude"), "exclude", 0.9, 500)
    assert [name_of(surrogate) in one.words for one in checks.of_all if one.name == "surrogate"] == [True]


def test_of_the_simulator_itself_nothing_is_said(x, tmp_path):
    store = simulate(TRUTH, tmp_path / "s", 300, progress=False)
    fit = train(Flow(TRUTH.prior, TRUTH.observables), store, tmp_path / "fit", recipe=ONCE, progress=False)
    assert SURROGATE not in store.simulator
    assert all(one.name != "surrogate" for one in query(build_posterior(fit), x, draws=100).checks)


def test_no_setting_of_a_user_has_its_name():
    bare = Decay(initial=Waves((1.0,), (0.0,)))
    bare.settings = lambda: {SURROGATE: "mine"}
    with pytest.raises(ValueError, match="these names are reserved; rename the settings"):
        recorded(bare)


def test_it_is_no_part_of_what_tells_simulators_apart(seen):
    before = {name: value for name, value in recorded(seen).items() if name != SURROGATE}
    assert SURROGATE in recorded(seen)
    assert SURROGATE not in identity(seen)
    assert unlike(before, seen) == ""  # of a store of an earlier version, which goes on
