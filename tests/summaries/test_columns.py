"""Observables that are columns of one table: which are, what a network sees of them, and what fits before them have."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf import Normal, Prior
from sciinf.core import Batch, Observable
from sciinf.core.component import from_json, to_json
from sciinf.networks.summaries import MLP
from sciinf.networks.summaries.columns import row_by_row, seen_together, side_by_side, tables
from sciinf.networks.summaries.statistics import columns
from sciinf.training.estimators.elements import Elements
from sciinf.training.estimators.flow import Flow
from sciinf.training.estimators.mixed import Mixed
from sciinf.training.estimators.score import Score

ITEMS = 20
PRIOR = Prior(rho=Normal(0.0, 1.0))
TRIALS = {"time": Observable((ITEMS,), "s", ("item",)), "choice": Observable((ITEMS,), "", ("item",))}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {"time": ("choice",)}),
        ({"spectrum": Observable((ITEMS, 5), "", ("item", "wavelength"))}, {"time": ("choice", "spectrum")}),
        ({"other": Observable((ITEMS + 1,), "", ("item",))}, {"time": ("choice",)}),
        ({"dose": Observable((ITEMS,), "", ("item",), control=True)}, {"time": ("choice",)}),
        ({"time_mask": Observable((ITEMS,), "", ("item",), dtype="bool")}, {"time": ("choice",)}),
        ({"image": Observable((ITEMS, 4, 4), "", ("item", "y", "x"))}, {"time": ("choice",)}),
        ({"unnamed": Observable((ITEMS,))}, {"time": ("choice",)}),
        ({"series": Observable((ITEMS,), "", ("time",))}, {"time": ("choice",)}),
        (
            {"u": Observable((4, 3), "", ("y", "x")), "v": Observable((4, 3, 2), "", ("y", "x", "band"))},
            {"time": ("choice",), "u": ("v",)},
        ),
        (
            {"flux": Observable((ITEMS,), "", ("item",)), "flux_times": Observable((ITEMS,), "s", dtype="float64")},
            {"time": ("choice",)},
        ),
    ],
)
def test_which_are_columns(more, expected):
    assert tables({**TRIALS, **more}) == expected


def test_columns_stand_side_by_side():
    specs = [Observable((4, 3), "", ("y", "x")), Observable((4, 3, 2), "", ("y", "x", "band"))]
    assert seen_together(specs) == Observable((4, 3, 3), "", ("y", "x", "channel"))
    first, second = torch.zeros(5, 4, 3), torch.ones(5, 4, 3, 2)
    assert side_by_side([first, second], specs)[0, 0, 0].tolist() == [0, 1, 1]


def correlated(rows: int, seed: int = 0) -> Batch:
    """Items of two columns whose correlation is tanh of rho, and nothing else tells it."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(rows, 1, generator=generator)
    noise = torch.randn(2, rows, ITEMS, generator=generator)
    r = theta.tanh()
    return Batch(theta, {"time": noise[0], "choice": r * noise[0] + (1 - r**2).sqrt() * noise[1]})


def test_plain_statistics_tell_what_goes_with_what():
    """The correlation of columns is a number of the summary; apart, no number is."""
    batch = correlated(4_000)
    told = {}
    for together in (True, False):
        flow = Flow(PRIOR, TRIALS, together=together)
        flow.standardise(lambda: iter([batch]))
        assert flow.regressed is not None
        first = flow.features(batch.x)[:, -flow.regressed.features].double()  # h, least squares of rho
        told[together] = float(torch.corrcoef(torch.stack([first.detach(), batch.theta[:, 0].double()]))[0, 1])
    assert told[True] > 0.8
    assert abs(told[False]) < 0.3


@pytest.mark.parametrize("kind", [Flow, Mixed, Score])
def test_a_fit_before_there_were_tables_is_built_as_it_was(kind):
    made = to_json(kind(PRIOR, TRIALS))
    assert made["arguments"]["together"] is True
    assert len(from_json(made).summaries) == 1
    before = {**made, "arguments": {name: value for name, value in made["arguments"].items() if name != "together"}}
    again = from_json(before)
    assert len(again.summaries) == 2
    assert len(from_json(to_json(again)).summaries) == 2, "and stays so, when it is saved again"
    alone = to_json(kind(PRIOR, {"time": TRIALS["time"]}))
    assert "together" not in alone["arguments"], "where nothing changed, a run that was stopped goes on"


def test_a_summary_by_name_keeps_its_observable_apart():
    flow = Flow(PRIOR, TRIALS, summary={"choice": MLP()})
    assert (flow.tables, len(flow.summaries)) == ({}, 2)


def test_each_column_has_its_mask():
    masked = {**TRIALS, "choice_mask": Observable((ITEMS,), "", ("item",), dtype="bool")}
    flow = Flow(PRIOR, masked)
    batch = correlated(50)
    x = {**batch.x, "choice_mask": torch.rand(50, ITEMS, generator=torch.Generator().manual_seed(1)) < 0.7}
    flow.standardise(lambda: iter([Batch(batch.theta, x)]))
    told = flow.features(x)
    hidden = {**x, "choice": torch.where(x["choice_mask"], x["choice"], math.nan)}
    assert torch.allclose(flow.features(hidden), told), "what is not there is not seen"
    other = {**x, "time": torch.where(x["choice_mask"], x["time"], 3.0)}
    assert not torch.allclose(flow.features(other), told), "the column beside it is seen"
    middle = {**x, "choice": torch.full_like(x["choice"], float(flow.standardise_x.get_buffer("choice_mean")))}
    whole = {**middle, "choice_mask": torch.ones_like(x["choice_mask"])}
    seen = [flow.features(each)[:, : flow.summaries[0].features] for each in (middle, whole)]
    assert not torch.allclose(*seen, atol=1e-4), "a gap is no value in the middle"


def test_numbers_of_a_row_stand_together():
    observables = {
        "a": Observable((3,), "", ("item",)),
        "mean": Observable(()),
        "b": Observable((3, 2), "", ("item", "k")),
    }
    assert row_by_row(observables).tolist() == [0, 4, 5, 1, 6, 7, 2, 8, 9, 3]
    del observables["b"]
    assert row_by_row(observables).tolist() == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_likelihood_knows_what_stands_beside_a_number():
    """A table of two columns has the exact likelihood of its correlation; apart, it tells nothing of it."""
    batch, found = correlated(3_000), {}
    x = {name: value[:1] for name, value in correlated(1, seed=3).x.items()}
    for together in (True, False):
        model = Elements(PRIOR, TRIALS, together=together)
        model.standardise(lambda: iter([batch]))
        optimiser, generator = torch.optim.Adam(model.parameters(), 5e-3), torch.Generator()
        for _ in range(150):
            optimiser.zero_grad()
            model.loss(batch.rows(slice(0, 1_000)), generator=generator).mean().backward()
            optimiser.step()
        theta = torch.linspace(-1.5, 1.5, 31)[:, None, None]
        found[together] = model.condition(x).log_likelihood(theta)[:, 0].detach()
    r = theta[:, 0].double().tanh()
    time, choice = x["time"].double(), x["choice"].double()
    exact = (-0.5 * (choice - r * time) ** 2 / (1 - r**2) - 0.5 * (1 - r**2).log()).sum(1)
    assert float(torch.corrcoef(torch.stack([exact, found[True]]))[0, 1]) > 0.9
    assert float(found[False].max() - found[False].min()) < 0.3 * float(exact.max() - exact.min())
    again = from_json(to_json(model))
    assert torch.equal(again.order, torch.arange(2 * ITEMS))


def test_columns_tell_of_each_other():
    """How long items take that end one way, and how long the others do: exact by hand."""
    value = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [5.0, 1.0], [6.0, 1.0]]])
    found = columns(value, None, Observable((4, 2), "", ("item", "channel")))[0]
    u = (value[0, :, 0] - 3.5) / value[0, :, 0].std(correction=0)
    above, below = found[:5], found[5:10]
    assert above[[0, 3, 4]].tolist() == pytest.approx([float(u[2:].mean()), float(u[2]), float(u[3])], abs=1e-5)
    assert below[[0, 3, 4]].tolist() == pytest.approx([float(u[:2].mean()), float(u[0]), float(u[1])], abs=1e-5)
    same = columns(torch.ones(1, 4, 2), None, Observable((4, 2), "", ("item", "channel")))
    assert bool(same.isfinite().all())
    nearly = torch.ones(1, 4, 2) + torch.tensor([[[0, 1e-7]], [[0, -1e-7]]]).reshape(2, 1, 2)
    one, other = columns(nearly, None, Observable((4, 2), "", ("item", "channel")))
    assert torch.equal(one, other), "rounding is no difference"


def test_a_control_stands_beside_a_table_whichever_column_is_first():
    """A first column of booleans has no controls of its own; those of the others are the table's."""
    columns_of = {"choice": Observable((ITEMS,), "", ("item",), dtype="bool"), "time": TRIALS["time"]}
    flow = Flow(PRIOR, {**columns_of, "dose": Observable((ITEMS,), "", ("item",), control=True)})
    assert (flow.tables, flow.controlled) == ({"choice": ("time",)}, {"choice": ("dose",)})
    x = {**correlated(50).x, "dose": torch.rand(50, ITEMS, generator=torch.Generator().manual_seed(1))}
    x["choice"] = x["choice"] > 0
    flow.standardise(lambda: iter([Batch(torch.zeros(50, 1), x)]))
    assert not torch.allclose(flow.features({**x, "dose": x["dose"] + 1}), flow.features(x))


def test_statistics_of_columns_stand_among_the_features():
    wide = {name: Flow(PRIOR, TRIALS, together=name == "together").regressed for name in ("together", "apart")}
    told = {name: regressed.features for name, regressed in wide.items() if regressed is not None}
    assert told["together"] - told["apart"] > 10, "five of each half, for either column"
