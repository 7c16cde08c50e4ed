"""Rows refined when asked: the bound rises, hidden values have no say, and nothing is kept that was not gained."""

from __future__ import annotations

import pytest
import torch
from processes.kinds import PROCESSES, Drifting
from torch import nn

from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import Latent, LearnedProcess, Process
from sciinf.emulators.refinement import refined


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(count=12):
    simulator = Drifting()
    theta = simulator.prior.sample(count, generator=generator(1))
    return theta, simulator(theta, generator=generator(2))


def surrogate(process):
    simulator = Drifting()
    return LatentDynamics(simulator.prior, simulator.observables, process, given=("u",), width=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_it_raises_the_bound_of_rows_for_any_process(name):
    """Of untrained networks, whose posteriors are far off: most rows gain, by draws that did not choose."""
    (theta, x), learned = rows(), surrogate(PROCESSES[name]())
    found = refined(learned, theta, x, steps=30, generator=generator())
    kept = found.offset.abs().amax((1, 2)) > 0
    assert float(kept.double().mean()) > 0.7
    assert float((found.gained[kept] > 0).double().mean()) > 0.9
    assert torch.equal(found.before[~kept], found.after[~kept])
    with torch.no_grad():
        again = [learned.bound(theta, x, generator=generator(k), offset=found.offset) for k in range(8)]
    assert float(torch.stack(again).mean(0).mean()) > float(found.before.mean())


def test_hidden_values_have_no_say_and_seeds_give_bits():
    (theta, x), learned = rows(), surrogate(PROCESSES["predictive_coding"]())
    other = {**x, "x": torch.where(x["x_mask"][..., None], x["x"], 77.0)}
    one, two, seen = (
        refined(learned, theta, each, steps=3, generator=generator())
        for each in (x, other, {**x, "x": x["x"] + x["x_mask"][..., None]})
    )
    assert torch.equal(one.offset, two.offset)
    assert not torch.equal(one.offset, seen.offset)


def test_what_gains_nothing_is_not_kept():
    """Steps that are far too long: rows are left as they are rather than made worse."""
    (theta, x), learned = rows(), surrogate(PROCESSES["predictive_coding"]())
    found = refined(learned, theta, x, steps=2, rate=9.0, generator=generator())
    assert float(found.gained.min()) > -1.0
    assert bool((found.offset.abs().amax((1, 2)) == 0).any())


@pytest.mark.slow
def test_a_refined_row_is_drawn_and_filled_in_by_what_was_found():
    """The same noise without and with the offset: other paths, other fillings, and what was seen stays."""
    (theta, x), learned = rows(), surrogate(PROCESSES["predictive_coding"]())
    offset = refined(learned, theta, x, steps=30, generator=generator()).offset
    assert bool(offset.abs().amax((1, 2)).gt(0).any())
    for ask in (learned.latent, learned.complete):
        plain, moved = ask(theta, x, generator=generator()), ask(theta, x, generator=generator(), offset=offset)
        kept = offset.abs().amax((1, 2)) == 0
        assert torch.equal(plain[kept], moved[kept])
        assert not torch.equal(plain, moved)
    filled = learned.complete(theta, x, generator=generator(), offset=offset)
    assert torch.equal(filled[x["x_mask"]], x["x"][x["x_mask"]])


class Deaf(Process):
    """A posterior that does not read."""

    def build(self, sizes, *, seed):
        return LearnedDeaf()


class LearnedDeaf(LearnedProcess):
    def __init__(self):
        super().__init__()
        self.states, self.level = 1, nn.Parameter(torch.zeros(()))

    def posterior(self, series, *, generator):
        return Latent(self.prior(series, generator=generator) + self.level, self.level.square().expand(len(series)))

    def prior(self, series, *, generator):
        return torch.randn(len(series), series.length, 1, generator=generator)

    def shared(self):
        return torch.zeros(())


def test_what_cannot_be_refined_is_said():
    (theta, x), learned = rows(), surrogate(Deaf())
    with pytest.raises(ValueError, match="does not read"):
        refined(learned, theta, x, steps=2, generator=generator())
    with pytest.raises(ValueError, match="rate is 0"):
        refined(learned, theta, x, rate=0, generator=generator())
    with pytest.raises(TypeError, match="LearnedDeaf"):
        refined(learned.process, theta, x, generator=generator())
