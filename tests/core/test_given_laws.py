"""What is said of a parameter that was given something else than a law: its name, what it was, what to write."""

from __future__ import annotations

import re

import numpy as np
import numpyro.distributions as numpyros
import pytest
import torch
from astropy import units
from torch import distributions as td

from sciinf import LogUniform, Normal, Prior, Truncated, Uniform

LAW = Normal(0.0, 1.0)
HINTS = {
    "pair": ((-1, 1), "'a' is (-1, 1); .*Did you mean a=Uniform(-1, 1)?"),
    "list": ([0.25, 1e6], "Did you mean a=Uniform(0.25, 1000000)?"),
    "numpy": (np.array([-1.0, 1.0]), "Did you mean a=Uniform(-1, 1)?"),
    "torch": (torch.tensor([-1.0, 1.0]), "Did you mean a=Uniform(-1, 1)?"),
    "numpy's numbers": ((np.float32(0.5), np.int64(2)), "Did you mean a=Uniform(0.5, 2)?"),
    "pair and unit": (((-1, 1), "km"), "Did you mean a=(Uniform(-1, 1), 'km')?"),
    "three": ((-1, 1, "km"), "Did you mean a=(Uniform(-1, 1), 'km')?"),
    "three with astropy's unit": ((-1, 1, units.km), "Did you mean a=(Uniform(-1, 1), 'km')?"),
    "quantity": ([0.0, 5.0] * units.km, "Did you mean a=(Uniform(0, 5), 'km')?"),
    "falling": ((5, 2), "Did you mean a=Uniform(low, high), or a=Normal(mean, sd)?"),
    "number": (0.5, "'a' is 0.5; .*goes into the simulator, as a constant.* a=Normal(0.5, sd)"),
    "number and unit": ((3, "km"), "goes into the simulator.* a=(Normal(3, sd), 'km')"),
    "one quantity": (5.0 * units.km, "goes into the simulator.* a=(Normal(5, sd), 'km')"),
    "one of torch": (torch.tensor(2.0), "goes into the simulator"),
    "many": (np.zeros(1000), "1000 numbers are no law"),
    "not called": (Normal, "Normal has no numbers yet: write a=Normal(mean, sd)"),
    "not called, with a unit": ((Uniform, "km"), "write a=(Uniform(low, high), 'km')"),
    "class": (LogUniform, "write a=LogUniform(low, high)"),
    "class of torch": (td.Normal, "write a=Normal(mean, sd)"),
    "class of torch without a name here": (td.Pareto, "write a=Pareto(...)"),
    "class of numpyro": (numpyros.Normal, "write a=Normal(mean, sd)"),
    "numpyro": (numpyros.Normal(0, 1), "law of numpyro: write a=Normal(mean, sd) .*sciinf.wrappers.numpyro"),
    "numpyro without a name here": (numpyros.Weibull(1.0, 1.0), "law of numpyro: Take a law of sciinf"),
    "square brackets": ([LAW, "km"], "in round brackets, the law first: a=(law, 'km')"),
    "unit first": (("km", LAW), "in round brackets, the law first: a=(law, 'km')"),
    "alone in brackets": ((LAW,), "in round brackets, the law first: a=law, or"),
    "number as unit": ((LAW, 2), "has the unit 2, a number"),
    "text": ("Normal(0, 1)", "A law is no text"),
    "nothing": (None, "'a' is None; .*Take a law of sciinf (Beta, .*, Truncated), of torch.distributions or of scipy"),
    "dictionary": ({"low": 0}, "Take a law of sciinf"),
    "batch": (
        td.Normal(torch.zeros(3), 1.0),
        "'a' has a distribution of shape (3,), .*Prior.joint(.*Independent(law, 1)",
    ),
}


@pytest.mark.parametrize("case", HINTS)
def test_what_was_meant_is_said(case):
    value, words = HINTS[case]
    pattern = ".*".join(re.escape(part) for part in words.split(".*"))
    with pytest.raises(TypeError, match=pattern) as caught:
        Prior(a=value)
    assert "parameter 'a'" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("unit", [units.km, units.km / units.s, units.mag, units.dex(units.cm), units.percent])
def test_units_of_astropy_are_taken_and_can_be_read_again(unit):
    prior = Prior(a=(LAW, unit))
    assert units.Unit(prior.units[0]) == unit
    assert Prior.from_json(prior.to_json()).units == prior.units


def test_a_unit_that_is_none_is_no_unit():
    assert Prior(a=(LAW, units.dimensionless_unscaled)).units == ("",)


def test_bounds_in_two_units_are_converted():
    with pytest.raises(TypeError, match=r"Did you mean a=\(Uniform\(1, 1.5\), 'km'\)"):
        Prior(a=(1 * units.km, 1500 * units.m))
    with pytest.raises(TypeError, match=r"Take a law of sciinf"):
        Prior(a=(1 * units.km, 2 * units.s))


def test_what_is_counted_has_no_unit():
    for unit, way_out in {
        "ind/km2": "write '1/km2'",
        "ind km-2": "write 'km-2'",
        "cells": "leave the unit out",
    }.items():
        with pytest.raises(
            ValueError, match=f"parameter 'a'.*What is counted has no unit: if .* counts things, {way_out}"
        ):
            Prior(a=(Normal(0.0, 1.0), unit))
    with pytest.raises(ValueError, match="Units are written like 'km'"):
        Prior(a=(Normal(0.0, 1.0), "km//h"))


def test_other_laws_that_are_needed_are_asked_for():
    with pytest.raises(TypeError, match=r"Truncated takes a univariate distribution, like Normal\(1.0, 0.5\)"):
        Truncated(Normal, low=0.0)
    with pytest.raises(TypeError, match="'b'.*array.* expected one of torch.distributions"):
        Prior.joint(["a", "b"], np.zeros(2))
