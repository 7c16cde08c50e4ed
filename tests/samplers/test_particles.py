"""The particle filter against Kalman's: unbiased, with paths of the right law; and what it says when it fails."""

from __future__ import annotations

import math

import pytest
import torch
from samplers.hidden import OU, Channel, Level
from torch import Tensor

from sciinf.simulators.dynamics.state_space import Record, Theta
from sciinf.simulators.samplers import particles
from sciinf.simulators.samplers.kalman import filtered, smoothed
from sciinf.simulators.samplers.particles import (
    Particles,
    ancestral_paths,
    backward_paths,
    chosen_particles,
    particle_filter,
    systematic,
)

TIMES = torch.tensor([[0.0, 0.4, 1.0, 1.1, 2.0, 4.0, 4.5, 5.0]], dtype=torch.float64)
ONE = {"k": torch.tensor([0.8]), "s": torch.tensor([1.0]), "r": torch.tensor([0.5])}


def seen(rows: int, *, own_times: bool = False) -> Record:
    y = torch.tensor([[0.3, -0.5, 1.4, 0.9, 0.0, -1.2, -0.4, 2.0]])
    there = torch.tensor([[True, True, False, True, True, True, False, True]])
    times = TIMES.expand(rows, -1) if own_times else TIMES
    return Record(times, {"y": y.expand(rows, -1)}, {"y": there.expand(rows, -1)}, -1.0)


def many(rows: int) -> Theta:
    return {name: value.expand(rows) for name, value in ONE.items()}


@pytest.mark.parametrize(("count", "own"), [(8, False), (64, True)])
def test_the_estimate_of_the_likelihood_is_unbiased(count: int, own: bool) -> None:
    """Mean of 4,000 estimates / exact, within 4 standard errors of 1: false alarms 1e-4."""
    rows = 4_000
    exact = filtered(OU(), ONE, seen(1)).log_likelihood
    found = particle_filter(
        OU(), many(rows), seen(rows, own_times=own), count, generator=torch.Generator().manual_seed(1)
    )
    ratio = (found.log_likelihood - exact).exp()
    error = float(ratio.std()) / math.sqrt(rows)
    assert error < 0.05
    assert abs(float(ratio.mean()) - 1) < 4 * error


def test_the_logarithm_of_the_estimate_is_biased() -> None:
    """That is why it is no density: 8 particles are off by many standard errors."""
    rows = 4_000
    exact = filtered(OU(), ONE, seen(1)).log_likelihood
    found = particle_filter(OU(), many(rows), seen(rows), 8, generator=torch.Generator().manual_seed(1)).log_likelihood
    assert float(found.mean() - exact) < -8 * float(found.std()) / math.sqrt(rows)


@pytest.mark.parametrize("way", ["ancestral", "backward", "unweighted"])
def test_paths_weighted_by_their_own_run_have_the_exact_law(way: str) -> None:
    """Eight particles are few; weighted by the estimate of the same run, ancestral paths are exact all the same.

    Of 20,000 runs the weighted mean and square at each time within 5 standard errors: false alarms 1e-5. Without the
    weights the same statistic must fail, as must paths of half the particles' number drawn backwards.
    """
    rows, model = 20_000, OU()
    mean, covariance = smoothed(filtered(model, ONE, seen(1)))
    mean, sd = mean[0, :, 0], covariance[0, :, 0, 0].sqrt()
    generator = torch.Generator().manual_seed(5)
    found = particle_filter(model, many(rows), seen(rows), 4, generator=generator, keep=True)
    if way == "backward":
        path = backward_paths(model, many(rows), seen(rows), found, generator=generator)
    else:
        path = ancestral_paths(found, generator=generator)
    weight = (found.log_likelihood - found.log_likelihood.max()).exp()
    weight = (torch.ones_like(weight) if way == "unweighted" else weight)[:, None]
    z = (path[..., 0] - mean) / sd
    worst = max(float(off(z, 0.0, weight)), float(off(z.square(), 1.0, weight)))
    assert worst > 5 if way == "unweighted" else worst < 5


def off(value: Tensor, expected: float, weight: Tensor) -> Tensor:
    """Largest distance of weighted means from what is expected, in standard errors."""
    share = weight / weight.sum()
    mean = (share * value).sum(0)
    error = (share.square() * (value - mean).square()).sum(0).sqrt()
    return ((mean - expected) / error).abs().max()


def test_systematic_resampling_gives_each_its_share() -> None:
    """n W_i children, up or down; and on average that, within 5 standard errors (false alarms 1e-5)."""
    weight = torch.tensor([[0.1, 0.0, 2.3, 1.6, 1.0], [0.0, 0.0, 0.0, 0.0, 5.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    rows = 20_000
    uniform = torch.rand(rows, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for law in weight:
        children = systematic(law.expand(rows, -1), uniform)
        assert bool((children.diff(dim=-1) >= 0).all())
        counts = torch.nn.functional.one_hot(children, 5).sum(1).double()
        assert bool(((counts - law).abs() < 1).all())
        assert float((counts.mean(0) - law).abs().max()) < 5 * 0.5 / math.sqrt(rows)


def test_a_finite_chain_by_particles_is_that_of_its_sums() -> None:
    """Ratio of 2,000 estimates to the exact one within 4 standard errors: false alarms 1e-4."""
    from sciinf.simulators.samplers.forward import forward

    rows = 2_000
    theta = {"a": torch.full((rows,), 0.8), "b": torch.full((rows,), 1.1)}
    x = {"current": torch.tensor([[0.1, 1.2, 0.4]]).expand(rows, -1)}
    record = Record(torch.tensor([[0.0, 0.5, 2.0]]).double(), x, {})
    exact = forward(Channel(), {n: v[:1] for n, v in theta.items()}, record.some(slice(0, 1))).log_likelihood
    found = particle_filter(Channel(), theta, record, 16, generator=torch.Generator().manual_seed(2)).log_likelihood
    ratio = (found - exact).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(rows)


def test_particles_that_die_out_are_named_by_row_and_time() -> None:
    class Narrow(Level):
        def log_observe(self, theta, state, x):
            return {"volume": torch.where((x["volume"] - state[:, 0]).abs() < 500, 0.0, -math.inf)}

    volume = torch.tensor([[1000.0, 1000.0, 1000.0], [1000.0, 1e6, 1000.0]])
    theta = {"sd_level": torch.ones(2), "sd_noise": torch.ones(2)}
    record = Record(torch.arange(3.0).double()[None], {"volume": volume}, {})
    found = particle_filter(Narrow(), theta, record, 64, generator=torch.Generator().manual_seed(1))
    assert found.died.tolist() == [-1, 1]
    assert float(found.log_likelihood[1]) == -math.inf < float(found.log_likelihood[0])


def test_number_of_particles() -> None:
    assert chosen_particles(lambda n: 0.5) == 64
    assert chosen_particles(lambda n: 16 / math.sqrt(n)) == 256
    with pytest.warns(UserWarning, match="scatters by inf .sd. even with 4,096 particles"):
        assert chosen_particles(lambda n: math.inf) == 4096


@pytest.mark.parametrize("wrong", [-math.inf, math.nan])
def test_a_density_of_steps_that_contradicts_them_is_refused(wrong: float) -> None:
    class Contradicting(Level):
        def log_advance(self, theta, state, later, start, stop):
            return torch.where(later[:, 0] > 1e9, 0.0, wrong).to(state)

    theta = {"sd_level": torch.ones(2), "sd_noise": torch.full((2,), 300.0)}
    record = Record(torch.arange(3.0).double()[None], {"volume": torch.full((2, 3), 1000.0)}, {})
    model, generator = Contradicting(), torch.Generator().manual_seed(0)
    found = particle_filter(model, theta, record, 8, generator=generator, keep=True)
    with pytest.raises(ValueError, match="of Contradicting contradicts advance: .* of row 0 at time number 1"):
        backward_paths(model, theta, record, found, generator=generator)
    dead = Particles(found.log_likelihood, torch.zeros(2).long(), found.states, found.log_weights, found.ancestors)
    assert backward_paths(model, theta, record, dead, generator=generator).shape == (2, 3, 1)


def test_pieces_hold_every_row_once() -> None:
    rows = torch.arange(1000)
    assert torch.equal(torch.cat([rows[s] for s in particles.in_pieces(1000, 3_000)]), rows)
    assert len(particles.in_pieces(3, 10**6)) == 3
    assert len(particles.in_pieces(100, 64, 10**6)) == 50  # long records, of which all particles are kept


def test_models_without_densities_are_refused() -> None:
    class Blind(Level):
        log_observe = None  # type: ignore[assignment]
        log_advance = None  # type: ignore[assignment]

    theta = {"sd_level": torch.ones(2), "sd_noise": torch.ones(2)}
    record = Record(torch.arange(3.0).double()[None], {"volume": torch.zeros(2, 3)}, {})
    with pytest.raises(TypeError, match="Blind has no log_observe"):
        particle_filter(Blind(), theta, record, 8, generator=torch.Generator())
    wrong = Record(record.times, {"volume": record.x["volume"], "flow": record.x["volume"]}, {})
    with pytest.raises(TypeError, match="log_observe gave .'volume'.; it is to give .* each of .'flow'"):
        particle_filter(Level(), theta, wrong, 8, generator=torch.Generator())
    found = particle_filter(Level(), theta, record, 8, generator=torch.Generator(), keep=True)
    with pytest.raises(TypeError, match="no log_advance; take ancestral_paths"):
        backward_paths(Blind(), theta, record, found, generator=torch.Generator())
