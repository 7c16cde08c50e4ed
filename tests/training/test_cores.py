"""Compiled loops shared by cores: the same training on any number."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import nullcontext

import pytest
import torch
from torch import distributions as td
from torch import nn

from sciinf import Flow, Observable, Prior, Recipe, Simulator, simulate, train
from sciinf.core import Batch
from sciinf.core.summary import Summary, SummaryNetwork
from sciinf.networks.flows import couplings
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.networks.kernels import lanes as loops
from sciinf.networks.kernels.lanes import lanes, shared, together
from sciinf.networks.kernels.library import without_loops
from sciinf.networks.summaries.vector import MLP
from sciinf.training import step as steps
from sciinf.training import train_ensemble
from sciinf.training.learner import Single, Stacked
from sciinf.training.step import Step, step_settings

SMALL = SplineCoupling(transforms=2, hidden=8, bins=4, blocks=1)
compiled = pytest.mark.skipif(couplings._loops() is None, reason="there is no compiler here, so nothing is shared")


class Line(Simulator):
    """x = theta + noise."""

    name = "line"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Uniform(-1.0, 1.0))
    observables = {"x": Observable((3,))}

    def __call__(self, theta, *, generator):
        return {"x": theta[:, [0, 1, 0]] + 0.5 * torch.randn(len(theta), 3, generator=generator)}


def flow(seed=0):
    return Flow(Line.prior, Line.observables, summary=MLP(features=5, hidden=(9,)), flow=SMALL, seed=seed)


def batch(rows=1_700):
    theta = Line.prior.sample(rows, generator=torch.Generator().manual_seed(3))
    return Batch(theta, Line()(theta, generator=torch.Generator().manual_seed(4)))


def learner(members=1):
    made = [flow(seed) for seed in range(members)]
    for one in made:
        one.standardise(lambda: iter([batch()]))
    return Single(made[0]) if members == 1 else Stacked(made)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(Line(), tmp_path_factory.mktemp("cores") / "s", 4_000, seed=0, progress=False)


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


def test_a_training_goes_on_with_another_number_of_cores(store, on_one, tmp_path, monkeypatch):
    from sciinf.training.loop import Loop

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


@compiled
@pytest.mark.parametrize("members", [1, 2])
def test_losses_and_slopes_of_lanes_are_those_of_the_whole(members, monkeypatch):
    """Of a batch that cannot be cut evenly; a lane's own slopes differ by far more than is allowed here."""
    rows, made, found = batch(1_703), learner(members), []
    for least in (10_000, 250):
        monkeypatch.setattr("sciinf.networks.kernels.lanes._LEAST", least)
        with shared(2) as sharing:
            made.slopes.zero_()
            losses = made.loss(rows, torch.Generator())
            losses.mean(-1).sum().backward()
        found.append((losses.detach().clone(), made.slopes.clone()))
    assert sharing.most > 1
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0.0, atol=0.0)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-5)
    made.slopes.zero_()
    made.loss(rows.rows(slice(0, lanes(1_703, 1_703)[0][1])), torch.Generator()).mean(-1).sum().backward()
    assert float((made.slopes - found[0][1]).abs().max()) > 1e-2


@compiled
def test_members_are_worked_on_side_by_side():
    made = learner(3)
    with shared(2) as sharing:
        made.loss(batch(100), torch.Generator())
    assert sharing.most > 1


@compiled
def test_draws_and_densities_of_lanes_are_those_of_the_whole(monkeypatch):
    """With more lanes than rows have blocks, and several draws for each."""
    made, found = flow(), []
    made.standardise(lambda: iter([batch()]))
    for least in (10_000, 40):
        monkeypatch.setattr("sciinf.networks.kernels.lanes._LEAST", least)
        density = made.condition(batch(37).x)
        with shared(2) as sharing:
            draws = density.sample(11, generator=torch.Generator().manual_seed(0))
            found.append((draws, density.log_prob(draws)))
    assert sharing.most > 1
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@compiled
def test_steps_and_validation_are_shared_and_other_threads_are_not(monkeypatch):
    seen = []

    def watched(function, arguments):
        now = loops._now.get()
        seen.append((len(arguments), 1 if now is None else now.cores))
        return side_by_side(function, arguments)

    side_by_side = loops.side_by_side
    monkeypatch.setattr(couplings, "side_by_side", watched)
    step = Step(learner(), step_settings(Recipe(processes=3).resolved(1_000)), torch.Generator())
    step(batch(1_000), 0.0)
    assert seen == [(4, 3), (4, 3)]
    step.losses_of_rows([(0, batch(800))], lambda k: torch.Generator())
    assert seen[2:] == [(3, 3)]
    flow().condition(batch(800).x).sample(1, generator=torch.Generator())
    assert seen[3:] == [(3, 1)]


def test_lanes_cover_the_rows_and_follow_from_them_alone():
    assert [len(lanes(rows, rows)) for rows in (1, 250, 499, 500, 1_000, 10**6)] == [1, 1, 1, 2, 4, 8]
    assert len(lanes(1, 5_000)) == 1
    with shared(3):
        assert lanes(1_001, 1_001) == [(0, 250), (250, 500), (500, 750), (750, 1_001)]


def test_lanes_are_worked_on_side_by_side_in_their_order():
    meeting = threading.Barrier(2, timeout=60)

    def met(item):
        meeting.wait()  # breaks where two are not worked on at once
        return item, threading.current_thread() is threading.main_thread()

    with shared(2) as sharing:
        (first, here), (second, there) = together(met, [5, 6])
        assert (first, second) == (5, 6)
        assert here != there
        assert sharing.most > 1
    meeting = threading.Barrier(1)
    assert together(met, [5, 6]) == [(5, True), (6, True)]


def test_what_is_shared_is_not_shared_again():
    """It would wait for threads that are busy."""

    def cores(_):
        time.sleep(0.02)  # so that both threads have something to do
        now = loops._now.get()
        return 1 if now is None else now.cores

    with shared(2):
        assert together(cores, range(4)) == [1] * 4


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_in_a_lane_is_raised(bad):
    def call(item):
        time.sleep(0.02)  # so that both threads have something to do
        if item == bad:
            raise ValueError("no")
        return item

    with shared(2), pytest.raises(ValueError, match="no"):
        together(call, [0, 1, 2])
    with shared(2):
        assert together(call, [3, 4, 5]) == [3, 4, 5]


@pytest.mark.skipif(sys.platform == "win32", reason="this system does not fork")
def test_a_forked_process_has_threads_of_its_own():
    with shared(2):
        assert together(abs, [-1, -2]) == [1, 2]
        child = os.fork()
        if not child:
            try:
                os._exit(0 if together(abs, [-1, -2]) == [1, 2] else 1)
            finally:
                os._exit(2)
    timer = threading.Timer(60, os.kill, (child, signal.SIGKILL))
    timer.start()
    assert os.waitpid(child, 0) == (child, 0)
    timer.cancel()


def test_an_interrupt_waits_for_lanes_which_work_on_memory_of_the_callers():
    done = []

    def slowly(item):
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.2)
        done.append(item)

    with shared(2):
        with pytest.raises(KeyboardInterrupt):
            together(slowly, [0, 1])
        assert len(done) == 1
        assert together(abs, [-1, -2]) == [1, 2]


def test_without_threads_this_one_does_the_work(monkeypatch):
    """As when the main thread has ended, and another calibrates."""

    def none(_, __):
        raise RuntimeError("cannot schedule new futures after shutdown")

    monkeypatch.setattr(loops.ThreadPoolExecutor, "submit", none)
    with shared(2):
        assert together(abs, [-1, -2]) == [1, 2]


class Counting(Summary):
    """A network that counts its passes, and draws from torch's global state."""

    def build(self, spec, *, masked):
        return _Counting((3,), masked)


class _Counting(SummaryNetwork):
    features = 3

    def __init__(self, event, masked):
        super().__init__(event, masked)
        self.layer = nn.Linear(3, 3)
        self.register_buffer("passes", torch.zeros(()))

    def summarise(self, x, mask):
        if self.training:
            self.passes += 1
        return nn.functional.dropout(self.layer(x), 0.1, self.training)


class Noisy(Flow):
    """A flow whose loss draws noise."""

    def loss(self, batch, *, generator):
        noise = 0.1 * torch.randn(batch.theta.shape, generator=generator)
        return super().loss(Batch(batch.theta.clamp(-0.5, 0.5) + noise, batch.x), generator=generator)


@compiled
def test_what_is_timed_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(steps, "cores_here", lambda: 2)
    rows, found, times, timed = batch(), [], [], Step._timed
    monkeypatch.setattr(Step, "_timed", lambda *given: times.append(given) or timed(*given))
    monkeypatch.setattr(steps, "_ASKED", (0, 2))
    for processes in (1, "auto"):
        made = Noisy(Line.prior, Line.observables, summary=Counting(), flow=SMALL)
        made.standardise(lambda: iter([rows]))
        whole = Single(made)
        torch.manual_seed(0)
        times.clear()
        step = Step(whole, step_settings(Recipe(processes=processes).resolved(1_000)), torch.Generator())
        for _ in range(3):
            step(rows, 1e-3)
        found.append((whole.weights.detach().clone(), made.summaries[0].passes.clone(), step.total.clone()))
    assert len(times) == 2 * 2 * 5
    assert found[0][1] == 3
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@compiled
@pytest.mark.parametrize(("seconds", "chosen"), [(0.5, 2), (2.0, 1)])
def test_more_cores_are_taken_where_they_are_faster_and_it_says_so(seconds, chosen, monkeypatch, capsys):
    monkeypatch.setattr(steps, "cores_here", lambda: 2)
    monkeypatch.setattr(Step, "_timed", lambda _, rows, cores: seconds if cores == 2 else 1.0)
    step = Step(learner(), step_settings(Recipe().resolved(10**5)), torch.Generator(), shown=True)
    step(batch(), 0.0)
    assert step._cores == chosen
    assert f"training on {chosen} core" in capsys.readouterr().err


@compiled
def test_another_program_is_in_the_way_for_a_while_only(monkeypatch, capsys):
    monkeypatch.setattr(steps, "cores_here", lambda: 2)
    monkeypatch.setattr(steps, "_ASKED", (0, 1, 3))
    monkeypatch.setattr(steps, "_TRIED", 1)
    monkeypatch.setattr(Step, "_timed", lambda _, rows, cores: 1.0 if cores == 1 or seconds[0] else 0.5)
    step, seconds, taken = (
        Step(learner(), step_settings(Recipe().resolved(10**5)), torch.Generator(), shown=True),
        [1],
        [],
    )
    for number in range(5):
        seconds[0] = number < 2
        step(batch(600), 0.0)
        taken.append(step._cores)
    assert taken == [1, 1, 1, 2, 2]
    assert capsys.readouterr().err.count("training on") == 2


@compiled
def test_as_many_cores_are_named_as_there_are_lanes(monkeypatch, capsys):
    monkeypatch.setattr(steps, "cores_here", lambda: 64)
    monkeypatch.setattr(Step, "_timed", lambda _, rows, cores: 1.0 / cores)
    step = Step(learner(), step_settings(Recipe().resolved(10**5)), torch.Generator(), shown=True)
    step(batch(500), 0.0)
    assert "training on 2 cores: 2 cores make a step" in capsys.readouterr().err


@pytest.mark.parametrize(("rows", "off"), [(100, False), (1_700, True)])
def test_nothing_is_timed_or_said_where_there_is_nothing_to_share(rows, off, monkeypatch, capsys):
    """Few rows, and networks of torch's operations alone."""
    monkeypatch.setattr(steps, "cores_here", lambda: 2)
    monkeypatch.setattr(Step, "_timed", None)
    step = Step(learner(), step_settings(Recipe().resolved(100)), torch.Generator(), shown=True)
    with without_loops() if off else nullcontext():
        step(batch(rows), 0.0)
    assert step._cores == 1
    assert not capsys.readouterr().err


@compiled
def test_items_of_a_set_are_rows_of_their_network(monkeypatch):
    monkeypatch.setattr(steps, "cores_here", lambda: 2)
    theta, observables = batch(100).theta, {"x": Observable((20,), dims=("item",))}
    rows = Batch(theta, {"x": torch.randn(100, 20, generator=torch.Generator().manual_seed(0))})
    made = Flow(Line.prior, observables, flow=SMALL)
    made.standardise(lambda: iter([rows]))
    monkeypatch.setattr(Step, "_timed", lambda _, rows, cores: 1.0 / cores)
    step = Step(Single(made), step_settings(Recipe().resolved(100)), torch.Generator())
    step(rows, 0.0)
    assert step._cores == 2


@pytest.mark.parametrize("processes", [0, -1, 1.5, "all", True])
def test_a_number_of_cores_that_is_none_is_refused(processes, store, tmp_path):
    with pytest.raises(ValueError, match="processes"):
        train(flow(), store, tmp_path, processes=processes)
