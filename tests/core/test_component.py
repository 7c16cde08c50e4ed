"""Components are rebuilt from JSON, and nothing that is not one is built."""

from __future__ import annotations

import copy
import json
import math
import pkgutil
import sys
import types

import numpy as np
import pytest
import torch
from torch import distributions as td
from torch import nn

from sciinf.core import Component, Observable, Prior
from sciinf.core.component import from_json, to_json
from sciinf.core.written_names import _FIRST
from sciinf.lab import Interacting, LinearDiffusion, ReverseEulerMaruyama, Words
from sciinf.networks.diffusion import NoiseLevel

HERE = "a_scientists_module"


class Summary(Component):
    """A component with plain arguments."""

    def __init__(self, width: int = 8, *, activation: str | None = None) -> None:
        self.width, self.activation = width, activation


class Network(nn.Module, Component):
    """A component that is a network and is built from others."""

    def __init__(self, prior: Prior, observables: dict[str, Observable], parts: list[Component]) -> None:
        super().__init__()
        self.prior, self.observables, self.parts = prior, observables, parts
        self.linear = nn.Linear(2, 2)


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """The classes above, in a module that can be imported by its name."""
    module = types.ModuleType(HERE)
    for kind in (Summary, Network):
        monkeypatch.setattr(kind, "__module__", HERE)
        setattr(module, kind.__name__, kind)
    module.NotOne = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, HERE, module)


def a_network() -> Network:
    prior = Prior(rate=(td.LogNormal(0.0, 0.5), "1/h"))
    return Network(prior, {"v": Observable((50,), "mV", ("time",))}, [Summary(), Summary(3, activation="elu")])


def test_json_round_trip_rebuilds_everything():
    text = json.dumps(to_json(a_network()), allow_nan=False)
    back = from_json(json.loads(text), trust=(HERE,))
    assert isinstance(back, Network)
    assert back.prior.to_json() == a_network().prior.to_json()
    assert back.observables == a_network().observables
    assert [(part.width, part.activation) for part in back.parts] == [(8, None), (3, "elu")]
    assert to_json(back) == json.loads(text)


def test_defaults_are_written_down():
    assert to_json(Summary())["arguments"] == {"width": 8, "activation": None}
    assert to_json(Summary(4))["arguments"]["width"] == 4, "the planted fault would be to write defaults only"


def test_a_copy_remembers_its_call():
    network = copy.deepcopy(a_network())
    assert to_json(network) == to_json(a_network())
    assert to_json(copy.copy(Summary(5)))["arguments"]["width"] == 5


def test_a_wrong_call_is_told_what_there_is():
    with pytest.raises(TypeError, match="Summary takes no 'breadth', it takes width"):
        Summary(breadth=3)  # type: ignore[call-arg]


def test_a_class_outside_sciinf_is_built_only_when_trusted():
    data = to_json(Summary(3))
    with pytest.raises(ValueError, match=rf"trust=\('{HERE}',\)"):
        from_json(data)
    with pytest.raises(ValueError, match="outside sciinf"):
        from_json(data, trust=("another_module",))
    assert from_json(data, trust=(HERE,)).width == 3


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("os.system", "outside sciinf"),
        ("sciinfected.Thing", "outside sciinf"),
        ("builtins.eval", "outside sciinf"),
        ("sciinf.core.Prior", "not a component"),
        ("sciinf.core.component.importlib", "not a component"),
        ("sciinf.core.NoSuchThing", "not a component"),
        ("sciinf.no_such_module.Thing", "does not exist here"),
        (f"{HERE}.NotOne", "not a component"),
    ],
)
def test_what_is_no_component_is_refused(path, words):
    with pytest.raises(ValueError, match=words):
        from_json({"$class": path, "arguments": {}}, trust=(HERE,))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(2), "cannot be saved"),
        (np.int64(3), "cannot be saved"),
        (lambda x: x, "cannot be saved"),
        (math.inf, "finite numbers only"),
        (math.nan, "finite numbers only"),
        ({"deep": [nn.ReLU()]}, "cannot be saved"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_its_place(value, words):
    with pytest.raises(TypeError, match=f"in Summary: .*{words}"):
        to_json(Summary(value))


@pytest.mark.parametrize("value", [None, True, 3, 0.1, "text", [1, [2, None]], {"a": {"b": [1.5]}}])
def test_plain_values_stay_what_they_are(value):
    assert from_json(json.loads(json.dumps(to_json(value)))) == value


MOVED = [
    (LinearDiffusion([[0.1]], [[1.0]]), "sciinf.diffusion.auxiliary.LinearDiffusion"),
    (Words(), "sciinf.surrogates.conditions.Words"),
    (Interacting(2), "sciinf.processes.interacting.Interacting"),
    (NoiseLevel(), "sciinf.diffusion.schedule.Level"),
    (ReverseEulerMaruyama(), "sciinf.diffusion.stochastic.EulerMaruyama"),
]


@pytest.mark.parametrize(("component", "written"), MOVED)
def test_a_class_that_moved_is_written_and_read_by_its_first_name(component, written):
    data = to_json(component)
    assert data["$class"] == written
    assert type(from_json(data)) is type(component)
    assert to_json(from_json(data)) == data


def test_no_first_name_means_something_else_today():
    """A new module or class of the name would be built in place of the one that moved."""
    for present, first in _FIRST.items():
        assert pkgutil.resolve_name(present), f"{first} has moved to {present}, which is not there"
        with pytest.raises((ImportError, AttributeError)):
            pkgutil.resolve_name(first)
