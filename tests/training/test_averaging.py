"""Averages of the weights against quadrature, a direct sum, and the average tracked along the way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from sciinf.training import averaging
from sciinf.training.averaging import LENGTHS, TRACKS, ExponentialAverage, PostHoc, coefficients, exponent, overlaps


def profile(sigma: float, end: float):
    g = exponent(sigma)
    return lambda s: np.where(s <= end, (g + 1) * np.minimum(s, end) ** g / end ** (g + 1), 0.0)


def walk(steps: int, seed: int = 0) -> torch.Tensor:
    """A trajectory like a training's, (steps, 1, 4): a decay to where it goes, and noise that diffuses."""
    noise = 0.02 * torch.randn(steps, 1, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    time = torch.arange(steps, dtype=torch.float64)[:, None, None]
    return (torch.exp(-time / (0.2 * steps)) + noise.cumsum(0) / 10 + noise).float()


def direct(weights: torch.Tensor, sigma: float) -> torch.Tensor:
    """The average as a sum with the exact weights of each step, ((s/t)^(g+1) - ((s-1)/t)^(g+1))."""
    edges = (np.arange(len(weights) + 1) / len(weights)) ** (exponent(sigma) + 1)
    return torch.einsum("s,skp->kp", torch.from_numpy(np.diff(edges)), weights.double())


# --- formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [*LENGTHS, 0.28])
def test_width_of_the_profile_by_quadrature(sigma):
    p = profile(sigma, 1.0)
    mass, mean, square = (integrate.quad(lambda s, k=k: p(s) * s**k, 0, 1, epsabs=1e-12)[0] for k in range(3))
    assert mass == pytest.approx(1.0, rel=1e-8)
    assert math.sqrt(square - mean**2) == pytest.approx(sigma, rel=1e-6)


def test_known_exponents():
    assert exponent(12**-0.5) == pytest.approx(0.0, abs=1e-6)  # the plain mean
    # the paper's table: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94
    assert exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.005)
    for bad in (0.0, -0.1, 0.3):
        with pytest.raises(ValueError, match="relative width"):
            exponent(bad)


def check_overlaps(rule):
    ones, others = [(0.05, 700.0), (0.10, 1_000.0)], [(0.05, 400.0), (0.15, 1_000.0), (0.20, 850.0)]
    found = rule(ones, others)
    for i, (a, t) in enumerate(ones):
        for j, (b, u) in enumerate(others):
            p, q = profile(a, t / 1_000), profile(b, u / 1_000)
            exact = integrate.quad(lambda s, p=p, q=q: p(s) * q(s), 0, min(t, u) / 1_000, epsabs=1e-12)[0]
            assert found[i, j] == pytest.approx(exact, rel=1e-8)


def up_to_the_later(ones, others):
    """The planted fault: the integral goes up to the later of both ends, not the earlier."""
    g, h = (np.array([exponent(sigma) for sigma, _ in pairs]) for pairs in (ones, others))
    t, u = (np.array([end / 1_000 for _, end in pairs]) for pairs in (ones, others))
    g, t = g[:, None], t[:, None]
    return (g + 1) * (h + 1) / (g + h + 1) * np.maximum(t, u) ** (g + h + 1) / (t ** (g + 1) * u ** (h + 1))


def test_overlaps_by_quadrature():
    check_overlaps(overlaps)
    with pytest.raises(AssertionError):
        check_overlaps(up_to_the_later)
    equal = [(0.05, 1_000.0), (0.10, 1_000.0)]  # where ends agree there is nothing to tell apart
    assert up_to_the_later(equal, equal) == pytest.approx(overlaps(equal, equal))


def test_an_average_that_was_kept_is_found_again():
    bases = [(sigma, t) for t in range(100, 1_100, 100) for sigma in TRACKS]
    found = coefficients(bases, [bases[7], bases[18]])
    assert found[:, 0] == pytest.approx(np.eye(20)[7], abs=1e-6)
    assert found[:, 1] == pytest.approx(np.eye(20)[18], abs=1e-6)
    assert coefficients(bases, [(0.2, 1_000)]).sum() == pytest.approx(1.0, abs=1e-9)


# --- along a trajectory -----------------------------------------------------------------------------------------------


def test_tracks_are_the_direct_sum(tmp_path):
    weights = walk(400)
    average = PostHoc(weights[0], tmp_path)
    for step, w in enumerate(weights, 1):
        average.update(w, step)
    for sigma, track in zip(TRACKS, average.tracks, strict=True):
        assert torch.allclose(track.double(), direct(weights, sigma), atol=1e-5)


@pytest.mark.parametrize(("every", "tolerance"), [(25, 0.01), (200, 0.1)])
def test_any_length_from_snapshots_equals_the_one_tracked(tmp_path, every, tolerance):
    # Tolerances in units of how far averages of different lengths are apart: 40 calls leave 20 snapshots or more, and
    # 5 calls leave 5.
    weights = walk(1_000)
    average = PostHoc(weights[0], tmp_path)
    for step, w in enumerate(weights, 1):
        average.update(w, step)
        if step % every == 0:
            average.keep(step, last=step == 1_000)
    found = average.synthesise([(sigma, 1_000) for sigma in LENGTHS[1:]])
    exact = [direct(weights, sigma) for sigma in LENGTHS[1:]]
    apart = float((exact[0] - exact[-1]).abs().max())
    for sigma, one, other in zip(LENGTHS[1:], found, exact, strict=True):
        assert float((one.double() - other).abs().max()) < tolerance * apart, sigma
    # planted fault: the average of another length
    assert float((found[0].double() - exact[1]).abs().max()) > 2 * tolerance * apart
    average.clear()
    assert not tmp_path.exists()


def test_what_a_killed_write_left_is_removed_too(tmp_path):
    average = PostHoc(torch.zeros(1, 3), tmp_path / "averages")
    average.clear()  # nothing there yet
    average.update(torch.ones(1, 3), 1)
    average.keep(1, last=True)
    (tmp_path / "averages" / ".000000002.safetensors.host.7.tmp").write_bytes(b"half")
    average.clear()
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_move_stay(tmp_path):
    average = PostHoc(torch.zeros(1, 3), tmp_path)
    for step in range(1, 31):
        average.update(torch.full((1, 3), 7.0), step)
        if step % 10 == 0:
            average.keep(step, last=step == 30)
    for found in average.synthesise([(0.2, 30), (0.025, 30), (0.1, 20)]):
        assert torch.allclose(found, torch.full((1, 3), 7.0), atol=1e-4)


def test_snapshots_stay_few_and_evenly_spaced(tmp_path, monkeypatch):
    monkeypatch.setattr(averaging, "SNAPSHOTS", 8)
    average = PostHoc(torch.zeros(1, 2), tmp_path)
    for step in range(1, 41):
        average.update(torch.ones(1, 2), step)
        average.keep(step, last=step == 40)
    assert 4 <= len(average.steps) <= 9
    assert average.steps == list(range(average.steps[0], 41, average.steps[0]))
    assert sorted(int(f.stem) for f in tmp_path.iterdir()) == average.steps


def test_interrupted_averages_go_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(averaging, "SNAPSHOTS", 4)
    weights, found = walk(60), []
    for cut in (None, 26):
        average = PostHoc(weights[0], tmp_path / str(cut))
        for step, w in enumerate(weights, 1):
            average.update(w, step)
            if step % 4 == 0:
                average.keep(step, last=step == 60)
            if step == cut:
                state = {name: value.clone() for name, value in average.state().items()}
                for later in range(cut + 1, 41):  # what comes after the checkpoint is lost
                    average.update(weights[later], later)
                    if later % 4 == 0:
                        average.keep(later, last=False)
                average = PostHoc(weights[0], tmp_path / str(cut))
                average.load(state)
        found.append(average.synthesise([(0.15, 60)])[0])
    assert torch.equal(*found)


def test_a_damaged_snapshot_is_named(tmp_path):
    average = PostHoc(torch.zeros(1, 3), tmp_path / "averages")
    for step in (4, 8):
        average.update(torch.ones(1, 3), step)
        average.keep(step, last=step == 8)
    file = tmp_path / "averages" / "000000004.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"000000004\.safetensors.* is damaged or gone .*remove .* and train again"):
        average.synthesise([(0.1, 8)])


def test_the_exponential_average_forgets_the_start_and_then_has_its_length():
    average = ExponentialAverage(torch.full((1, 1), 50.0), 0.9)
    for step in range(1, 200):
        average.update(torch.zeros(1, 1), step)
    assert float(average.average) < 1e-6
    for step in range(200, 210):
        average.update(torch.ones(1, 1), step)
    assert float(average.average) == pytest.approx(1 - 0.9**10, rel=1e-5)
