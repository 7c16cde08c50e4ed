"""Parts of a batch side by side: the same training on any number of cores."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import distributions as td
from torch import nn

from sciinf import Flow, Observable, Prior, Recipe, Simulator, simulate, train
from sciinf.core import Batch
from sciinf.engine import parts
from sciinf.engine.learner import Single, Stacked, apart
from sciinf.engine.parts import Parts, count_of, cut
from sciinf.engine.step import Step, step_settings
from sciinf.estimators.score import Score
from sciinf.flows.spline import SplineCoupling
from sciinf.summaries.summary import Summary, SummaryNetwork
from sciinf.training import train_ensemble

SMALL = SplineCoupling(transforms=2, hidden=8, bins=4, blocks=1)


class Line(Simulator):
    """x = theta + noise."""

    name = "line"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Uniform(-1.0, 1.0))
    observables = {"x": Observable((3,))}

    def __call__(self, theta, *, generator):
        return {"x": theta[:, [0, 1, 0]] + 0.5 * torch.randn(len(theta), 3, generator=generator)}


def flow(seed=0):
    return Flow(Line.prior, Line.observables, flow=SMALL, seed=seed)


def batch(rows=1_700):
    theta = Line.prior.sample(rows, generator=torch.Generator().manual_seed(3))
    return Batch(theta, Line()(theta, generator=torch.Generator().manual_seed(4)))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(Line(), tmp_path_factory.mktemp("parts") / "s", 4_000, seed=0, progress=False)


def weights(fit):
    return torch.cat([value.flatten() for value in fit.learned.state_dict().values()])


RECIPE = Recipe(batch=1_200, epochs=3)


@pytest.fixture(scope="module")
def on_one(store, tmp_path_factory):
    return train(flow(), store, tmp_path_factory.mktemp("one"), recipe=RECIPE, processes=1, progress=False)


@pytest.mark.parametrize("processes", [2, 3, "auto"])
def test_the_result_is_the_same_on_any_number_of_cores(processes, store, on_one, tmp_path):
    fit = train(flow(), store, tmp_path, recipe=RECIPE, processes=processes, progress=False)
    assert torch.equal(weights(fit), weights(on_one))
    assert fit.record["inputs"] == on_one.record["inputs"]


@pytest.mark.parametrize("memory", [Recipe.memory, 0])
def test_many_batches_of_validation_rows_are_the_same_on_any_number_of_cores(
    memory, store, on_one, tmp_path, monkeypatch
):
    """In memory and streamed; 400 validation rows in batches of 90."""
    monkeypatch.setattr("sciinf.engine.loop.VALIDATION", 90)
    recipe = replace(RECIPE, memory=memory)
    fits = [train(flow(), store, tmp_path / str(k), recipe=recipe, processes=k, progress=False) for k in (1, 2)]
    assert torch.equal(*map(weights, fits))
    one, two, whole = ([row["validation_loss"] for row in fit.record["history"]] for fit in (*fits, on_one))
    assert one == two
    if memory:
        assert one == pytest.approx(whole, rel=1e-5)


def test_a_training_goes_on_with_another_number_of_cores(store, on_one, tmp_path, monkeypatch):
    from sciinf.engine.loop import Loop

    def stop(loop, *_):
        if loop.epochs == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_show", stop)
        with pytest.raises(KeyboardInterrupt):
            train(flow(), store, tmp_path, recipe=RECIPE, processes=2, progress=False)
    fit = train(flow(), store, tmp_path, recipe=RECIPE, processes=1, progress=False)
    assert torch.equal(weights(fit), weights(on_one))


def test_members_of_an_ensemble_are_the_same_on_any_number_of_cores(store, tmp_path):
    made = [flow(0), flow(1)]
    one, two = (
        train_ensemble(made, store, tmp_path / str(k), recipe=RECIPE, processes=k, progress=False) for k in (1, 2)
    )
    assert all(torch.equal(weights(a), weights(b)) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("members", [1, 2])
def test_slopes_of_parts_are_those_of_the_batch(members):
    """Of a batch that cannot be cut evenly; the parts' own slopes differ by far more than is allowed here."""
    rows, made = batch(), [flow(seed) for seed in range(members)]
    for one in made:
        one.standardise(lambda: iter([rows]))
    learner = Single(made[0]) if members == 1 else Stacked(made)
    whole = learner.loss(rows, torch.Generator()).mean(-1)
    expected = learner.slopes_of(whole.sum())
    learner.slopes.fill_(7.0)
    found = Parts(learner, lambda b, g: learner.loss(b, g).mean(-1), 2, shown=False)(rows, torch.Generator())
    torch.testing.assert_close(found, whole.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(learner.slopes, expected, rtol=1e-3, atol=1e-5)
    part = learner.slopes_of(learner.loss(cut(rows, count_of(rows))[0], torch.Generator()).mean(-1).sum())
    assert float((part - expected).abs().max()) > 1e-2


def test_batches_of_validation_rows_are_worked_on_side_by_side():
    """In their order, without slopes, two at a time, and as one after the other gives them."""
    made, batches = flow(), [batch(rows) for rows in (600, 500, 700)]
    made.standardise(lambda: iter(batches))
    step = Step(Single(made), step_settings(Recipe(processes=2).resolved(1_000)), torch.Generator())
    ahead = []

    def read():
        for k, one in enumerate(batches):
            ahead.append(k)
            yield one

    def noise(number):
        if threading.current_thread() is not threading.main_thread() and number < 2:
            meeting.wait()  # breaks where the first two are not worked on at once
        together.append((number, len(ahead), threading.current_thread() is threading.main_thread()))
        return torch.Generator().manual_seed(number)

    together, meeting = list[tuple[int, int, bool]](), threading.Barrier(2, timeout=60)
    alone = step.losses_of_rows(batches, noise)
    assert [(number, main) for number, _, main in together] == [(0, True), (1, True), (2, True)]
    step(batch(1_000), 0.0)
    together.clear()
    found = step.losses_of_rows(read(), noise)
    assert sorted(together) == [(0, 2, False), (1, 2, False), (2, 3, False)]
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(alone, found, strict=True))


def test_small_batches_are_not_cut():
    assert [count_of(batch(rows)) for rows in (10, 500, 999, 1_000, 1_700)] == [1, 1, 1, 2, 3]


class Mixing(Summary):
    """A network that looks at other rows of the batch."""

    def __init__(self, kind="norm"):
        self.kind = kind

    def build(self, spec, *, masked):
        layers = {"norm": nn.BatchNorm1d(3), "dropout": nn.Dropout(), "plain": nn.Linear(3, 3)}
        return _Mixing((3,), masked, layers[self.kind])


class _Mixing(SummaryNetwork):
    features = 3

    def __init__(self, event, masked, layer):
        super().__init__(event, masked)
        self.layer = layer

    def summarise(self, x, mask):
        return self.layer(x)


@pytest.mark.parametrize("kind", ["norm", "dropout", "plain"])
def test_what_may_look_at_other_rows_or_is_not_known_is_left_whole(kind):
    """A network of somebody else's, such as these, may do what it likes in its forward pass."""
    assert apart(flow())
    assert not apart(Flow(Line.prior, Line.observables, summary=Mixing(kind)))
    assert not apart(Score(Line.prior, Line.observables))


def test_more_cores_are_taken_where_they_are_faster_and_it_says_so(monkeypatch, capsys):
    rows, made = batch(), flow()
    made.standardise(lambda: iter([rows]))
    learner = Single(made)
    monkeypatch.setattr(parts, "cores_here", lambda: 2)
    for factor, chosen in ((0.5, 2), (2.0, 1)):
        asked = Parts(learner, lambda b, g: learner.loss(b, g).mean(-1), "auto", shown=True)
        monkeypatch.setattr(asked, "_timed", lambda b, s, pool, f=factor: f if pool else 1.0)
        asked(rows, torch.Generator())
        assert asked._cores == chosen
        assert f"training on {chosen} core" in capsys.readouterr().err


@pytest.mark.parametrize("processes", [0, -1, 1.5, "all", True])
def test_a_number_of_cores_that_is_none_is_refused(processes, store, tmp_path):
    with pytest.raises(ValueError, match="processes"):
        train(flow(), store, tmp_path, processes=processes)
