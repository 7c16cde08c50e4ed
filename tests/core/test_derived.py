"""Derived quantities follow each draw, with units and weights; what makes no sense is refused with the way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy import units

from sciinf import Answer, Normal, Observable, Prior, Simulator, load_simulator, wrappers
from sciinf.core import Draws, Trust
from sciinf.core.code import mark, only_code
from sciinf.core.derived import check_derived, with_derived
from sciinf.core.estimates import disagreement, estimates
from sciinf.interfaces.draws_file import content_hash, read_draws_h5, write_draws_h5

PRIOR = Prior(a=(Normal(0.0, 1.0), "km"), b=(Normal(5.0, 1.0), "km"))


def simulator(derived: Mapping[str, Any], labels: Mapping[str, Any] | None = None) -> Simulator:
    made = wrappers.numpy(lambda a, b, rng: a + b + rng.normal(), PRIOR, {"x": Observable()})
    made.derived, made.labels = derived, labels or {}
    return made


def draws(n: int = 200) -> Draws:
    generator = torch.Generator().manual_seed(0)
    return Draws(PRIOR.names, PRIOR.units, PRIOR.sample(n, generator=generator), torch.randn(n, generator=generator))


def one(function: Any, unit: str | None = None) -> Draws:
    return with_derived(draws(), simulator({"q": function if unit is None else (function, unit)}))


def test_a_sum_follows_each_draw_and_its_weight() -> None:
    plain = draws()
    found = with_derived(plain, simulator({"total": (lambda theta: theta["a"] + theta["b"], "km")}))
    assert (found.names, found.units, found.derived) == (("a", "b", "total"), ("km",) * 3, ("total",))
    assert torch.equal(found.theta[:, :2], plain.theta)
    assert torch.allclose(found.theta[:, 2], plain.theta.sum(1))
    assert float(found.mean()[2]) == pytest.approx(float(plain.mean().sum()), rel=1e-6)
    assert torch.equal(found.log_weight, plain.log_weight)
    assert content_hash(found.of_parameters()) == content_hash(plain)
    assert with_derived(plain, simulator({})) is plain
    assert with_derived(plain, None) is plain


def test_units_are_those_of_quantities_or_what_was_said() -> None:
    def length(theta: Mapping[str, np.ndarray]) -> Any:
        return theta["b"] * units.km

    for found, unit, scale in ((one(length), "km", 1.0), (one(length, "m"), "m", 1e3)):
        assert found.units[2] == unit
        assert torch.allclose(found.theta[:, 2], scale * found.theta[:, 1])
    assert one(lambda theta: theta["a"]).units[2] == ""
    assert one(lambda theta: theta["a"] * units.km / (theta["b"] * units.m)).units[2] == "km / m"
    with pytest.raises(ValueError, match="'q' is in km, which does not convert to 's'; correct the function, or"):
        one(length, "s")
    with pytest.raises(ValueError, match="the unit 'kmm' of the derived quantity 'q' is not one astropy knows"):
        one(length, "kmm")


def test_digits_that_float32_has_not_are_kept() -> None:
    found = one(lambda theta: 1126259462.4 + 0.01 * theta["a"])
    assert found.theta.dtype == torch.float64
    assert float(found.sd()[2]) == pytest.approx(0.01 * float(found.sd()[0]), rel=1e-3)
    assert one(lambda theta: 1e300 + 0 * theta["a"]).theta.isfinite().all()
    assert one(lambda theta: theta["a"]).theta.dtype == torch.float32


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a number": (
        lambda theta: 1.0,
        r"'q' gives float64 of shape \(\) for 200 draws; expected numbers of shape \(200,\)",
    ),
    "two columns": (lambda theta: np.stack([theta["a"], theta["b"]], 1), r"shape \(200, 2\)"),
    "texts": (lambda theta: np.array(["x"] * len(theta["a"])), "expected numbers"),
    "not finite": (
        lambda theta: np.log(theta["a"]),
        r"'q' is not finite for \d+ of 200 draws, first at a = .*numpy.where",
    ),
    "an error": (lambda theta: theta["c"], "'q' fails: KeyError: 'c'. Its function gets a mapping of a, b to arrays"),
    "written to": (lambda theta: theta["a"].sort(), "read-only"),
    "a mean": (lambda theta: theta["a"] - theta["a"].mean(), "'q' of a draw is .* computed alone; it must depend only"),
    "noise": (lambda theta: theta["a"] + np.random.default_rng().normal(), "without random numbers"),
}


@pytest.mark.parametrize(("function", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_quantity_is_refused(function: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        one(function)


def test_names_and_labels_are_checked() -> None:
    for name, words in (("a", "'a' of a derived quantity is a parameter's"), ("log_weight", "the weights of draws")):
        with pytest.raises(ValueError, match=words):
            with_derived(draws(), simulator({name: lambda theta: theta["a"]}))
    with pytest.raises(ValueError, match="named '=x'"):
        with_derived(draws(), simulator({"=x": lambda theta: theta["a"]}))
    with pytest.raises(
        TypeError, match=r"'q' is 'a \+ b'; expected a function of the parameters, alone or with a unit"
    ):
        with_derived(draws(), simulator({"q": "a + b"}))
    with pytest.raises(ValueError, match="'noise' is of 'total_', which is no parameter.* did you mean 'total'"):
        with_derived(draws(), simulator({"total": lambda theta: theta["a"]}, {"total_": "noise"}))
    for label in ("", "two\nlines", 3):
        with pytest.raises(ValueError, match="expected one line of text"):
            with_derived(draws(), simulator({}, {"a": label}))


def test_faults_are_found_before_anything_is_simulated() -> None:
    with pytest.raises(ValueError, match="not finite"):
        check_derived(simulator({"q": lambda theta: np.sqrt(theta["a"])}))
    check_derived(simulator({"q": lambda theta: theta["a"] ** 2}, {"q": "square"}))


def test_they_survive_the_disk_and_containers(tmp_path: Path) -> None:
    made = simulator({"total": (lambda theta: theta["a"] + theta["b"], "km")}, {"a": "height", "total": "sum"})
    found = with_derived(draws(), made)
    file = write_draws_h5(found, tmp_path / "draws.h5")
    back = read_draws_h5(file)
    assert (back.derived, back.labels, back.units) == (("total",), {"a": "height", "total": "sum"}, ("km",) * 3)
    assert content_hash(back) == content_hash(found) != content_hash(with_derived(draws(), simulator(made.derived)))
    assert repr(found).startswith("200 draws of (a [km], b [km], total (derived) [km])")
    told = found.to_dict()
    assert (list(told["parameters"]), list(told["derived"])) == (["a", "b"], ["total"])
    frame, dataset = found.to_dataframe(), found.to_xarray()
    assert list(frame.columns) == ["a", "b", "total", "log_weight"]
    assert (frame.attrs["derived"], frame.attrs["labels"]["a"]) == (["total"], "height")
    assert dataset["total"].attrs == {"units": "km", "derived": 1, "long_name": "sum"}
    assert dataset["b"].attrs == {"units": "km"}


def test_an_answer_tells_them_from_parameters() -> None:
    made = simulator({"total": (lambda theta: theta["a"] + theta["b"], "km")}, {"total": "sum"})
    found = with_derived(draws(), made)
    answer = Answer(estimates(found, 0.9), found, None, Trust(0.5, "fine", "good"))
    frame = answer.to_dataframe()
    assert (frame["derived"].tolist(), frame["label"].tolist()) == ([False, False, True], ["", "", "sum"])
    passed_off = {**answer.parameters, "total": replace(answer.parameters["total"], derived=False)}
    assert disagreement(answer.parameters, found) == ""
    assert disagreement(passed_off, found) == "'total' is a parameter in it and not of them"
    with pytest.raises(KeyError, match="'totl' is none of a, b, total; did you mean 'total'"):
        answer.parameters["totl"]
    assert answer.parameters.get("totl") is None


CODE = """from sciinf import Normal, Observable, Prior, wrappers
simulator = wrappers.numpy(lambda a, rng: a + rng.normal(), Prior(a=Normal(0.0, 1.0)), {"x": Observable()})
"""


def test_they_are_no_change_of_the_simulators_file(tmp_path: Path) -> None:
    file = tmp_path / "sim.py"
    file.write_text(CODE)
    before = only_code(mark(file))
    file.write_text(CODE + 'simulator.derived = {"q": lambda theta: theta["a"]}\nsimulator.labels = {"a": "height"}\n')
    assert only_code(mark(file)) == before
    assert list(load_simulator(file).derived) == ["q"]
    for other in ("other.derived = simulator\n", "simulator.block = 5\n", "simulator.labels = simulator.block = {}\n"):
        file.write_text(CODE + "other = simulator\n")
        before = only_code(mark(file))
        file.write_text(CODE + "other = simulator\n" + other)
        assert only_code(mark(file)) != before
