"""Signals end a campaign, also those that Python drops."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch import distributions as td

from sciinf.campaigns.interrupts import interruptible
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store
from sciinf.core import Observable, Prior, Simulator

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as Unix has them")


class Held:
    """Something that can be referred to weakly."""


def lose(kind: signal.Signals) -> None:
    """Send a signal whose exception Python drops, for it is raised while an object dies."""
    held = Held()
    reference = weakref.ref(held, lambda _: os.kill(os.getpid(), kind))
    del held
    assert reference() is None


class Interrupted(Simulator):
    """Is interrupted in its third block, and does not hear of it."""

    name = "interrupted"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"v": Observable((2,))}
    block = 5

    def __init__(self, kind: signal.Signals) -> None:
        self.kind, self.calls = kind, 0

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == 3:
            lose(self.kind)
        return {"v": theta + torch.randn(len(theta), 2, generator=generator)}


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """As in a terminal, whoever runs the tests."""
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_python_drops_ends_a_campaign_after_its_block(tmp_path, kind):
    simulator = Interrupted(kind)
    with pytest.raises(KeyboardInterrupt):
        simulate(simulator, tmp_path / "s", 100, progress=False)
    assert simulator.calls == 3
    assert len(Store(tmp_path / "s")) == 15
    assert len(simulate(simulator, tmp_path / "s", 100, progress=False)) == 100


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_dropped_in_the_last_block_is_raised_on_the_way_out():
    with pytest.raises(KeyboardInterrupt), interruptible():
        lose(signal.SIGINT)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_raised_where_it_falls_and_handlers_come_back(kind):
    before, reached = signal.getsignal(kind), []

    def campaign() -> None:
        with interruptible():
            os.kill(os.getpid(), kind)
            reached.append("further")

    with pytest.raises(KeyboardInterrupt):
        campaign()
    assert not reached
    assert signal.getsignal(kind) is before


def test_handlers_of_others_stay_and_other_threads_set_none():
    def theirs(*_: object) -> None:
        pass

    signal.signal(signal.SIGINT, theirs)
    with interruptible() as interrupts:
        assert signal.getsignal(signal.SIGINT) is theirs
        interrupts.check()
    raised = []

    def elsewhere() -> None:
        try:
            with interruptible():
                raised.append(signal.getsignal(signal.SIGTERM))
        except ValueError as error:  # what `signal` raises in a thread
            raised.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert raised == [signal.SIG_DFL]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_campaign_within_another_hears_of_its_signals():
    reached = []

    def outer() -> None:
        with interruptible(), interruptible() as inner:
            lose(signal.SIGINT)
            inner.check()
            reached.append("further")

    with pytest.raises(KeyboardInterrupt):
        outer()
    assert not reached
