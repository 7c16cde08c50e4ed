"""What functions are called with: labels, counts, several numbers, None; and several models as one simulator."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciinf import check_simulator, simulate, wrappers
from sciinf.core import Choice, Counts, Each, Normal, Observable, Only, Prior, Uniform
from sciinf.core.simulator import recorded

NAN = math.nan
CHANGES = Prior(
    k=Counts(0, 2),
    tau=Each("k", Uniform(0, 10), "yr", increasing=True),
    rate=Each("k", Uniform(1, 2), "1/yr", more=1),
    model=Choice("a", "b"),
    extra=Only(Normal(0, 1), model="b"),
)
ROWS = torch.tensor([[0, NAN, NAN, 1.5, NAN, NAN, 0, NAN], [2, 3.0, 4.0, 1.1, 1.2, 1.3, 1, 0.5]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_function_gets_labels_counts_arrays_and_none():
    calls = []

    def look(k, tau, rate, model, extra, rng):
        calls.append((k, tau, rate, model, extra))
        return rng.normal()

    simulator = wrappers.numpy(look, CHANGES, {"x": ()})
    simulator(ROWS, generator=seeded())
    (k, tau, rate, model, extra), second = calls
    assert (k, type(k), len(tau), model, extra) == (0, int, 0, "a", None)
    assert isinstance(tau, np.ndarray)
    np.testing.assert_allclose(rate, [1.5])
    assert second[0] == 2
    np.testing.assert_allclose(second[1], [3.0, 4.0])
    np.testing.assert_allclose(second[2], [1.1, 1.2, 1.3], rtol=1e-6)
    assert second[3:] == ("b", 0.5)


def test_a_vectorised_function_gets_arrays():
    calls = []

    def look(**given):
        calls.append(given)
        return np.zeros(2)

    wrappers.numpy(look, CHANGES, {"x": ()}, vectorised=True)(ROWS, generator=seeded())
    (given,) = calls
    assert given["model"].tolist() == ["a", "b"]
    assert given["k"].tolist() == [0, 2]
    assert given["k"].dtype == np.int64
    assert given["tau"].shape == (2, 2)
    assert np.isnan(given["extra"]).tolist() == [True, False]
    del given["rng"]
    assert set(given) == {"k", "tau", "rate", "model", "extra"}


def test_a_sound_simulator_passes_the_check_and_fills_a_store(tmp_path):
    def data(k, tau, rate, model, extra, rng):
        return rng.normal(size=3) + rate.sum() + (extra if model == "b" else tau.sum())

    simulator = wrappers.numpy(data, CHANGES, {"x": (3,)})
    report = check_simulator(simulator, rows=100)
    assert report.ok, report.problems
    assert len(simulate(simulator, tmp_path, 40, progress=False)) == 40
    store = simulate(simulator, tmp_path, 60, progress=False)
    batch = store.load()
    assert len(batch) == 60
    assert torch.equal(~batch.theta.isnan(), CHANGES.present(batch.theta))


def test_the_check_tells_of_a_parameter_that_is_used_where_it_does_not_exist():
    def data(k, tau, rate, model, extra, rng):
        return rng.normal(size=3) * extra

    report = check_simulator(wrappers.numpy(data, CHANGES, {"x": (3,)}), rows=64)
    words = next(problem for problem in report.problems if "where it does not exist" in problem)
    assert "'extra' does not exist in this row" in words
    assert "every row without 'extra' failed" in words

    def vectorised(k, tau, rate, model, extra, rng):
        return rng.normal(size=(len(k), 3)) * extra[:, None]

    report = check_simulator(wrappers.numpy(vectorised, CHANGES, {"x": (3,)}, vectorised=True), rows=64)
    assert any("every row without 'extra' failed" in problem for problem in report.problems)


@pytest.mark.parametrize(
    "make",
    [
        lambda: wrappers.jax(lambda **given: given["k"], CHANGES, {"x": ()}),
        lambda: wrappers.command(["echo", "{k}"], CHANGES, {"x": ()}),
    ],
)
def test_wrappers_that_pass_numbers_refuse(make):
    with pytest.raises(ValueError, match=r"call it from a function of Python, with sciinf\.wrappers\.numpy"):
        make()


# --- several models -------------------------------------------------------------------------------------------------


def flat(a, rng):
    return a + rng.normal(size=4)


def steep(a, b, s, rng):
    return a + b * np.arange(4) + s * rng.normal(size=4)


def changing(k, tau, s, rng):
    return tau.sum() + s * rng.normal(size=4)


def three():
    seen = {"y": Observable((4,), "m")}
    return {
        "flat": wrappers.numpy(flat, Prior(a=(Normal(0, 1), "m")), seen),
        "steep": wrappers.numpy(steep, Prior(a=(Normal(0, 1), "m"), b=Normal(0, 2), s=Uniform(1, 2)), seen),
        "changing": wrappers.numpy(
            changing,
            Prior(k=Counts(0, 2), tau=Each("k", Uniform(0, 1), "m", increasing=True), s=Uniform(1, 3)),
            seen,
        ),
    }


def test_models_share_what_is_the_same_and_name_what_is_not():
    prior = wrappers.models(three()).prior
    k = ("changing.k", "changing.tau_1", "changing.tau_2", "changing.s")
    assert prior.names == ("model", "a", "steep.b", "steep.s", *k)
    theta = prior.sample(2000, generator=seeded())
    present = dict(zip(prior.names, prior.present(theta).T, strict=True))
    model = theta[:, 0]
    assert torch.equal(present["a"], model < 2)
    assert torch.equal(present["steep.b"], model == 1)
    assert torch.equal(present["changing.tau_1"], (model == 2) & (theta[:, 4] >= 1))
    assert Prior.from_json(prior.to_json()).to_json() == prior.to_json()


def test_each_row_is_simulated_by_its_model():
    models = three()
    together = wrappers.models(models)
    theta = together.prior.sample(30, generator=seeded())
    theta[:, 0], theta[:, 1] = 0.0, 100.0
    theta[:, 2:] = NAN
    assert float(together(theta, generator=seeded()).x["y"].mean()) == pytest.approx(100.0, abs=1)
    drawn = together.prior.sample(400, generator=seeded(1))
    report = check_simulator(together, rows=100)
    assert report.ok, report.problems
    x = together(drawn, generator=seeded(2)).x["y"]
    assert x.shape == (400, 4)
    rows = (drawn[:, 0] == 1).nonzero().flatten()
    expected = drawn[rows, 1, None] + drawn[rows, 2, None] * torch.arange(4)
    assert float((x[rows] - expected).abs().max()) < 10


def test_a_row_that_fails_names_its_model():
    def broken(a, rng):
        raise RuntimeError("no")

    models = three() | {"flat": wrappers.numpy(broken, Prior(a=(Normal(0, 1), "m")), {"y": Observable((4,), "m")})}
    together = wrappers.models(models)
    theta = together.prior.sample(30, generator=seeded())
    outcome = together(theta, generator=seeded())
    assert outcome.status is not None
    failed = outcome.status.nonzero().flatten().tolist()
    assert failed == (theta[:, 0] == 0).nonzero().flatten().tolist()
    assert outcome.messages[failed[0]] == "flat: RuntimeError: no"


def test_what_the_models_are_is_part_of_what_the_simulator_is():
    found = recorded(wrappers.models(three()))
    assert found["models"] == "flat = flat, steep = steep, changing = changing"


def at(start: int) -> dict[str, Observable]:
    """The same data at other times."""
    return {"y": Observable((4,), "m", ("time",), coords={"time": range(start, start + 4)})}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda m: {"flat": m["flat"]}, ValueError, "two models or more"),
        (lambda m: {1: m["flat"], "b": m["steep"]}, TypeError, "called 1; give it a name of text"),
        (lambda m: {"a": m["flat"], "b": 3}, TypeError, "is int, expected a Simulator"),
        (
            lambda m: m | {"flat": wrappers.numpy(flat, Prior(a=Normal(0, 1)), {"y": (5,)})},
            ValueError,
            r"'flat' has 'y' \(5,\), 'steep' has 'y' \(4,\) \[m\]",
        ),
        (
            lambda m: {
                name: wrappers.numpy(flat, Prior(a=Normal(0, 1)), at(k)) for k, name in enumerate(("now", "then"))
            },
            ValueError,
            "'y' of 'now' and of 'then' stand at other coordinates",
        ),
        (
            lambda m: m | {"new": wrappers.numpy(lambda model: model, Prior(model=Normal(0, 1)), {"y": ((4,), "m")})},
            ValueError,
            "parameter='which'",
        ),
    ],
)
def test_models_that_do_not_fit_are_a_clear_error(change, error, words):
    with pytest.raises(error, match=words):
        wrappers.models(change(three()))


def test_probabilities_are_those_of_the_models():
    prior = wrappers.models(three(), probabilities={"flat": 0.5, "steep": 0.3, "changing": 0.2}).prior
    assert prior.discrete()["model"].log_probs.exp().tolist() == pytest.approx([0.5, 0.3, 0.2])
    with pytest.raises(ValueError, match="the models are"):
        wrappers.models(three(), probabilities={"flat": 1.0})
