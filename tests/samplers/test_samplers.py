"""Every sampler on targets whose law is known, and faults that the same statistics must find."""

from __future__ import annotations

import math

import pytest
import torch
from samplers.targets import (
    BEND,
    DRAW,
    Gaussians,
    banana_cdf,
    bananas,
    is_standard_normal,
    normal,
    p_value,
    seeded,
    worth,
    z_scores,
)
from scipy import stats

import sciinf.simulators.samplers
from sciinf.core.component import from_json, to_json
from sciinf.simulators.samplers import Hamiltonian, Langevin, Slice, chains, hamiltonian, langevin, slice

samplers = pytest.mark.parametrize("name", DRAW)
KINDS = ["hamiltonian", "langevin", "langevin, score", "slice"]
kinds = pytest.mark.parametrize("name", KINDS)
densities = pytest.mark.parametrize("name", ["hamiltonian", "langevin", "slice"])


def drawn(name, log_density, start, *, share=1.0, seed=1, **rest):
    draw, n = DRAW[name]
    return draw(log_density, start, int(share * n), generator=seeded(seed), **rest)


# --- targets that are known -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dim"), [(n, 2) for n in DRAW] + [(n, d) for n in KINDS for d in (1, 10)])
def test_correlated_gaussians_of_different_scales(name, dim):
    # fixed seeds, so no false alarms between runs; with others, fewer than 2e-4 (see is_standard_normal)
    target = Gaussians(dim)
    found = drawn(name, target, target.start(32))
    assert found.draws.shape == (DRAW[name][1], 32, 3, dim)
    assert float(found.r_hat().max()) < 1.1
    assert float(found.ess().min()) > 150
    assert is_standard_normal(target.whitened(found.draws.flatten(0, 1)).unflatten(0, found.draws.shape[:2]))


@pytest.mark.slow
@samplers
def test_bananas_against_quadrature(name):
    # false alarms, had the seeds not been fixed: 1e-6 for each of four marginals
    found = drawn(name, bananas, normal(48, 2, 2))
    assert float(found.r_hat().max()) < 1.1
    for b in range(2):
        assert p_value(found.draws[:, :, b, 0], stats.norm.cdf) > 1e-6
        assert p_value(found.draws[:, :, b, 1], banana_cdf(b)) > 1e-6
    curve = found.draws[..., 1] - BEND * (found.draws[..., 0].square() - 1)
    assert float(z_scores(curve[..., None], 0.0).abs().max()) < 5


def two_modes(distance):
    """Two unit Gaussians in D = 2 at x_0 = -distance and +distance, the second three times as heavy."""

    def log_density(x):
        near = -0.5 * ((x[..., 0] + distance).square() + x[..., 1].square())
        far = -0.5 * ((x[..., 0] - distance).square() + x[..., 1].square())
        return torch.logaddexp(near, far + math.log(3.0))

    return log_density


@pytest.mark.slow
@kinds
def test_modes_within_reach_have_their_weights(name):
    # three quarters of the mass are right; false alarm 6e-7, with another seed
    start = normal(48, 1, 2) + torch.tensor([1.5, 0.0]) * torch.tensor([-1.0, 1.0]).repeat(24)[:, None, None]
    found = drawn(name, two_modes(1.5), start)
    assert float(found.r_hat().max()) < 1.1
    exact = float(0.25 * stats.norm.sf(1.5) + 0.75 * stats.norm.cdf(1.5))
    assert float(z_scores((found.draws[..., :1] > 0).double(), exact).abs()) < 5


@pytest.mark.slow
@kinds
def test_modes_out_of_reach_are_reported_and_each_is_right(name):
    start = normal(16, 1, 2) + torch.tensor([10.0, 0.0]) * torch.tensor([-1.0, 1.0]).repeat(8)[:, None, None]
    found = drawn(name, two_modes(10.0), start)
    if "slice" in name:  # may step over the gap, once its widths are those of both modes
        assert set(found.draws[..., 0].sign().unique().tolist()) == {-1.0, 1.0}
    else:
        assert float(found.r_hat()[0, 0]) > 1.5
    assert p_value((found.draws[:, :, 0, 0].abs() - 10), stats.norm.cdf) > 1e-6


LOW = torch.tensor([[0.0, -2.0], [100.0, -1e-3]], dtype=torch.float64)
HIGH = torch.tensor([[1.0, 5.0], [101.0, 1e-3]], dtype=torch.float64)


def boxes(x):
    return torch.where(((x > LOW) & (x < HIGH)).all(dim=-1), 0.0, -math.inf)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DRAW if "slice" in name])
def test_uniform_densities_are_filled_to_their_edges(name):
    # false alarms, with other seeds: 1e-6 for each of four marginals
    start = LOW + (HIGH - LOW) * torch.rand(48, 2, 2, generator=seeded(), dtype=torch.float64)
    found = drawn(name, boxes, start)
    share = (found.draws - LOW) / (HIGH - LOW)
    assert bool(((share > 0) & (share < 1)).all())
    for b in range(2):
        for d in range(2):
            assert p_value(share[:, :, b, d], stats.uniform.cdf) > 1e-6
    independent = float(worth(share).min())
    assert float(share.amin()) < 20 / independent  # with probability 1 - e^-20
    assert float(share.amax()) > 1 - 20 / independent


def exponentials(x):
    """Rates 1 and 50."""
    return torch.where(x[..., 0] >= 0, -RATE * x[..., 0], -math.inf)


@pytest.mark.parametrize("name", [name for name in DRAW if "slice" in name])
def test_exponential_densities_end_where_they_end(name):
    # false alarm, with another seed: 1e-6 for each of two marginals
    start = torch.rand(32, 2, 1, generator=seeded(), dtype=torch.float64)
    found = drawn(name, exponentials, start)
    assert bool((found.draws >= 0).all())
    for b in range(2):
        assert p_value(found.draws[:, :, b, 0] * RATE[b], stats.expon.cdf) > 1e-6


RATE = torch.tensor([1.0, 50.0], dtype=torch.float64)


def gammas(x):
    """x^2 exp(-rate x) for rates 1 and 50; NaN, not -inf, below zero."""
    return 2 * x[..., 0].log() - RATE * x[..., 0]


@densities
def test_nan_counts_as_no_density(name):
    # false alarm, with another seed: 1e-6 for each of two marginals
    start = (torch.rand(32, 2, 1, generator=seeded(), dtype=torch.float64) + 1) / RATE[:, None]
    found = drawn(name, gammas, start)
    assert bool((found.draws > 0).all())
    for b in range(2):
        assert p_value(found.draws[:, :, b, 0] * RATE[b], stats.gamma(3).cdf) > 1e-6


@pytest.mark.slow
@kinds
def test_starts_of_another_scale_than_the_target(name):
    target = Gaussians(2)
    # all in one place, so that nothing tells the scales
    found = drawn(name, target, target.mean.expand(16, 3, 2))
    assert float(found.r_hat().max()) < 1.1
    assert is_standard_normal(target.whitened(found.draws))


@pytest.mark.slow
@kinds
def test_one_chain_is_enough(name):
    target = Gaussians(2)
    draw, n = (Slice(60).draw, 60) if name == "slice" else DRAW[name]  # one chain learns its covariance slowly
    found = draw(target, target.start(1), 4 * n, generator=seeded(1))
    assert float(found.r_hat().max()) < 1.1
    assert is_standard_normal(target.whitened(found.draws))


# --- planted faults that the statistics of the first test must find ---------------------------------------------------


def gaussian_is_right(name, dim=2):
    target = Gaussians(dim)
    return is_standard_normal(target.whitened(drawn(name, target, target.start(32)).draws))


@pytest.mark.parametrize("name", ["langevin", "langevin, score"])
def test_planted_fault_proposals_always_accepted(name, monkeypatch):
    monkeypatch.setattr(langevin, "acceptance_probability", lambda rise, noise, back: torch.ones_like(rise))
    assert not gaussian_is_right(name)


@pytest.mark.parametrize("name", ["langevin", "langevin, score"])
def test_planted_fault_the_way_back_is_taken_for_as_likely_as_the_way_there(name, monkeypatch):
    given = langevin.acceptance_probability
    monkeypatch.setattr(langevin, "acceptance_probability", lambda rise, noise, back: given(rise, noise, noise))
    assert not gaussian_is_right(name)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [False, True])
def test_planted_fault_the_last_half_step_is_missing(fault, monkeypatch):
    given, target = hamiltonian.leapfrog, Gaussians(1)

    def unfinished(target, point, velocity, tuning, steps):
        end, last = given(target, point, velocity, tuning, steps)
        return end, last - 0.5 * tuning.step[:, None] * tuning.metric.pull(end.gradient)

    if fault:
        monkeypatch.setattr(hamiltonian, "leapfrog", unfinished)
    found = Hamiltonian(200).draw(target, target.start(150), 100, generator=seeded(1))
    assert is_standard_normal(target.whitened(found.draws)) is not fault


def test_planted_fault_levels_are_not_random(monkeypatch):
    given = slice._SliceState._uniform

    def half_random(self, count):
        u = given(self, count)
        return torch.cat([torch.full_like(u[:1], 0.5), u[1:]]) if count == 3 else u

    monkeypatch.setattr(slice._SliceState, "_uniform", half_random)
    assert not gaussian_is_right("slice")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [False, True])
def test_planted_fault_intervals_that_soon_stop_growing_are_not_laid_at_random(fault, monkeypatch):
    given, target = slice._SliceState._uniform, Gaussians(2)

    def half_random(self, count):
        u = given(self, count)
        return torch.cat([u[:1], 0.2 * torch.ones_like(u[1:])]) if count == 3 else u

    if fault:
        monkeypatch.setattr(slice._SliceState, "_uniform", half_random)
    found = Slice(20, most=4).draw(target, target.start(32), 60, generator=seeded(1))
    assert is_standard_normal(target.whitened(found.draws)) is not fault


# --- what all samplers keep to --------------------------------------------------------------------------------------


@pytest.mark.slow
@kinds
def test_same_seed_same_bits_and_the_global_generator_is_left_alone(name):
    target, before = Gaussians(2), torch.get_rng_state()
    first, again = (drawn(name, target, target.start(4), share=0.1) for _ in range(2))
    other = drawn(name, target, target.start(4), share=0.1, seed=2)
    assert torch.equal(first.draws, again.draws)
    assert torch.equal(first.acceptance, again.acceptance)
    assert not torch.equal(first.draws, other.draws)
    assert torch.equal(torch.get_rng_state(), before)


@kinds
def test_evaluations_are_those_made_and_start_is_left_alone(name):
    target, asked = Gaussians(2), []
    start = target.start(3)
    given = start.clone()

    def counted(x):
        asked.append(x.shape[0] * x.shape[1])
        return target(x)

    found = drawn(name, counted, start, share=0.1)
    assert found.evaluations == sum(asked)
    assert torch.equal(start, given)
    assert bool(((found.acceptance > 0.1) & (found.acceptance <= 1)).all())
    assert found.flat().shape == (3 * len(found.draws), 3, 2)
    assert torch.equal(found.flat()[:3], found.draws[0])


@kinds
def test_thinned_draws_are_every_so_manieth(name):
    target = Gaussians(2)
    kind = {"h": Hamiltonian, "l": Langevin, "s": Slice}[name[0]]
    every, third = (kind(20, thin).draw(target, target.start(3), 30 // thin, generator=seeded()) for thin in (1, 3))
    if kind is not Slice:  # its chains share the generator at their own pace: the same up to when all are done
        assert torch.equal(every.draws[2::3], third.draws)
    torch.testing.assert_close(every.draws[2:6:3], third.draws[:2])


@pytest.mark.slow
@kinds
def test_single_precision_and_gradients_switched_off(name):
    def log_density(x):
        return -0.5 * x.square().sum(-1)

    with torch.no_grad():
        found = drawn(name, log_density, normal(4, 2, 3).float())
    assert found.draws.dtype == found.acceptance.dtype == torch.float32
    assert not found.draws.requires_grad
    assert is_standard_normal(found.draws.double())


@pytest.mark.parametrize(
    "plan",
    [Hamiltonian(50, dense=False), Langevin(50, panels=2), Slice(30, thin=2)],
    ids=lambda plan: type(plan).__name__,
)
def test_a_plan_is_rebuilt_from_json(plan):
    again = from_json(to_json(plan))
    assert type(again) is type(plan)
    assert vars(again) == vars(plan)


def test_names_are_offered():
    for name in sciinf.simulators.samplers.__all__:
        assert getattr(sciinf.simulators.samplers, name) is not None
    assert chains.Sampler is sciinf.simulators.samplers.Sampler


# --- wrong input ----------------------------------------------------------------------------------------------------


def positive(x):
    return torch.where(x[..., 0] > 0, -x.square().sum(-1), -math.inf)


@densities
def test_starts_without_density_are_refused(name):
    start = normal(4, 3, 2).abs()
    start[:, 1, 0] = -1.0
    with pytest.raises(ValueError, match=r"none of the 4 chains starts where .* in target 1 \(of 3\): start from"):
        drawn(name, positive, start)
    start[1:, 1, 0] = 1.0
    start[2, 2, 0] = math.nan
    with pytest.raises(ValueError, match="2 of 12 chains start where the log density is -inf, NaN .* in target 1, 2"):
        drawn(name, lambda x: positive(x) + 0 * x[..., 0], start)


@kinds
def test_wrong_calls_are_refused(name):
    target = Gaussians(2)
    draw = DRAW[name][0]
    with pytest.raises(TypeError, match=r"dtype torch.int64, expected floating point: pass start.float"):
        draw(target, torch.zeros(2, 3, 2, dtype=torch.long), 10, generator=seeded())
    for shape in ((3, 2), (0, 3, 2)):
        with pytest.raises(ValueError, match=r"expected \(chains, batch, D\), none of them zero"):
            draw(target, torch.zeros(shape), 10, generator=seeded())
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        draw(target, target.start(2), 0, generator=seeded())


@pytest.mark.parametrize("kind", [Hamiltonian, Langevin, Slice])
def test_log_densities_of_the_wrong_shape_are_refused(kind):
    with pytest.raises(ValueError, match=r"has shape \(2, 3, 2\), expected \(2, 3\), one number for each chain"):
        kind().draw(lambda x: -x.square(), normal(2, 3, 2), 10, generator=seeded())


@pytest.mark.parametrize("kind", [Hamiltonian, Langevin])
def test_log_densities_without_gradient_are_refused(kind):
    with pytest.raises(ValueError, match=r"carries no gradient .* or use Slice"):
        kind().draw(lambda x: -x.detach().square().sum(-1), normal(2, 3, 2), 10, generator=seeded())


@pytest.mark.parametrize("kind", [Hamiltonian, Langevin, Slice])
def test_wrong_settings_are_refused(kind):
    with pytest.raises(ValueError, match="warmup must be an integer of at least"):
        kind(2)
    with pytest.raises(ValueError, match="thin must be an integer of at least 1"):
        kind(thin=0)
    if kind is not Slice:
        with pytest.raises(ValueError, match="acceptance is 1.5, expected a probability"):
            kind(acceptance=1.5)
