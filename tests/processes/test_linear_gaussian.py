"""Linear Gaussian paths where everything is known, and Koopman's."""

from __future__ import annotations

import cmath

import pytest
import torch
from processes.oscillator import DAMPING, SPEED, Oscillator, filtered, known

from sciinf.emulators.processes import Koopman, LinearGaussian, Series, Sizes, UnitCircle
from sciinf.simulators.samplers import kalman


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def nobody(rows):
    return torch.empty(rows, 0)


@pytest.fixture(scope="module")
def rows():
    return Oscillator()(nobody(20), generator=generator(3))


@torch.no_grad()
def test_of_linear_gaussian_data_the_bound_is_the_likelihood_and_the_path_that_of_the_smoother(rows):
    learned, exact = known(), filtered(rows)
    bound = learned.bound(nobody(20), rows, generator=generator(), draws=2)
    assert torch.allclose(bound.double(), exact.log_likelihood, atol=2e-3)
    found = learned.process.smoothed(learned.series(nobody(20), rows), generator=generator())
    mean, covariance = kalman.smoothed(exact)
    assert torch.allclose(found.mean, mean, atol=1e-4)
    assert torch.allclose(found.covariance, covariance, atol=1e-4)
    single = learned.bound(nobody(20), rows, generator=generator())
    assert float((single - bound).mean()) == pytest.approx(0.0, abs=3.0)  # one draw: right on average
    learned.process.evidence.direct.weight.mul_(0.5)  # the fault: evidence that is not the likelihood's
    less = learned.bound(nobody(20), rows, generator=generator(), draws=2)
    assert bool((less < exact.log_likelihood - 0.1).all())


@torch.no_grad()
def test_eigenvalues_are_those_of_a_step():
    true = cmath.exp(complex(-DAMPING, SPEED))
    found = known().process.eigenvalues()
    assert found[found.imag > 0].tolist() == pytest.approx([true], abs=1e-4)


def series_of(length=3, controls=None):
    times = torch.tensor([[0.0, 0.7, 2.0]])
    return Series(torch.zeros(1, length, 1), torch.zeros(1, length, dtype=torch.bool), nobody(1), times, controls)


@torch.no_grad()
@pytest.mark.parametrize("process", [LinearGaussian(3), Koopman(3)])
def test_noise_of_a_step_is_that_of_many_small_ones(process):
    learned = process.build(Sizes(1, 0, 0), seed=2)
    for parameter in learned.motion.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(1)))
    chain, field = learned.chain(series_of()), learned.motion.field(nobody(1))[0]
    small, step = torch.linalg.matrix_exp(0.002 * field), torch.tensor([[0.002]], dtype=torch.float64)
    each = learned.motion.noise(field[None], step, small[None, None])[0, 0]
    matrix, noise = torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for k in range(1_000):
        matrix, noise = small @ matrix, small @ noise @ small.mT + each
        if k == 349:
            assert torch.allclose(chain.matrix[0, 0], matrix, atol=1e-6)
            assert torch.allclose(chain.noise[0, 0], noise, atol=1e-4)
    assert not torch.allclose(chain.noise[0, 1], noise, atol=1e-2)  # the fault: another step, of 1.3


@torch.no_grad()
def test_a_stationary_process_keeps_its_covariance_whatever_its_weights():
    learned = LinearGaussian(4).build(Sizes(1, 0, 0), seed=0)
    learned.motion.base.add_(2 * torch.randn(len(learned.motion.base), generator=generator(4)))
    chain = learned.chain(series_of())
    for matrix, noise in zip(chain.matrix[0], chain.noise[0], strict=True):
        assert torch.allclose(matrix @ matrix.mT + noise, torch.eye(4, dtype=torch.float64), atol=1e-6)
        assert float(torch.linalg.eigvalsh(noise).min()) > 0


@torch.no_grad()
def test_controls_act_from_their_time_on():
    learned = LinearGaussian(2).build(Sizes(1, 0, 1), seed=0)
    field = learned.motion.field(nobody(1))[0]
    mean = learned.chain(series_of(controls=torch.tensor([[[1.0], [-2.0], [5.0]]]))).path(3)[0]
    state, pushed = torch.zeros(2, dtype=torch.float64), learned.push.weight[:, 0].double()
    for k in range(2_000):
        state = state + 0.001 * (field @ state + pushed * (1.0 if k < 700 else -2.0))
        if k == 699:
            assert torch.allclose(mean[1], state, atol=2e-3)
    assert torch.allclose(mean[2], state, atol=2e-3)  # so the last control has done nothing yet


def test_moduli_are_held_near_1():
    learned = Koopman(2, eigenvalues=UnitCircle(0.02)).build(Sizes(1, 0, 0), seed=0)
    with torch.no_grad():
        learned.motion.entries.copy_((0.9 * torch.eye(2)).log().nan_to_num(neginf=0.0).flatten())
    assert learned.shared().item() == pytest.approx(2 * 0.1**2 / (2 * 0.02**2), rel=1e-4)
    optimiser = torch.optim.Adam(learned.motion.parameters(), lr=0.01)
    for _ in range(100):
        optimiser.zero_grad()
        learned.shared().backward()
        optimiser.step()
    assert learned.eigenvalues().abs().tolist() == pytest.approx([1.0, 1.0], abs=0.01)
    assert float(Koopman(2).build(Sizes(1, 0, 0), seed=0).shared()) == 0.0


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="states must be an integer of at least 1"):
        LinearGaussian(0)
    with pytest.raises(ValueError, match="sd is how far moduli may be from 1"):
        UnitCircle(0.0)
