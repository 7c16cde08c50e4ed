"""What `check` says that each observable is learned as."""

from __future__ import annotations

import pytest
import torch

from sciinf.core import Observable
from sciinf.networks.summaries.described import described

ROWS = 400


@pytest.mark.parametrize(
    ("observables", "words"),
    [
        ({"x": Observable((200,), "", ("item",))}, "x: a set of 200 items"),
        ({"x": Observable((200, 3), "", ("item", "band"))}, "x: a set of 200 items"),
        ({"x": Observable((50,), "", ("time",))}, "x: a series of 50 times"),
        ({"x": Observable((8, 9), "", ("y", "x"))}, "x: an image of 8 x 9"),
        ({"x": Observable(())}, "x: one number"),
        ({"x": Observable((4,))}, "x: 4 numbers, as they are"),
        ({"x": Observable((40,))}, "x: 40 numbers; if its axis is one of items or times, say so: "),
        (
            {"x": Observable((40,), "", ("item",)), "choice": Observable((40,), "", ("item",))},
            "x, choice: a set of 40 items, with 2 columns",
        ),
        (
            {"x": Observable((40,), "", ("item",)), "x_mask": Observable((40,), "", ("item",), dtype="bool")},
            "x: a set of 40 items, some of them missing (mask)",
        ),
    ],
)
def test_what_each_observable_is_learned_as(observables, words):
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(ROWS, *spec.shape, generator=generator) for name, spec in observables.items()}
    x |= {name: value > 0 for name, value in x.items() if name.endswith("_mask")}
    (said,) = described(observables, x)
    assert said.startswith(words)
    assert "arcsinh" not in said
    (heavy,) = described(observables, {**x, "x": (4 * x["x"]).exp()})
    assert "scaled by arcsinh, for heavy tails: x" in heavy


def test_a_parameter_that_counts_the_steps_of_a_series_is_named():
    x = torch.randn(ROWS, 50, generator=torch.Generator().manual_seed(0))
    series = {"x": Observable((50,), "", ("time",))}
    (said,) = described(series, {"x": x}, {"x": "place"})
    assert said == "x: a series of 50 times, its steps counted by place (or else: Mixed(places=False))"
