"""Black holes in H1 and L1: waveforms, likelihood, detectors and summaries against what they must be."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from sciinf.core.component import from_json, to_json

GW150914 = 1126259462.4
AT = (25.0, 50.0, 100.0, 180.0, 300.0)
# chirp mass, mass ratio, spins -> amplitudes at these frequencies, 1/Hz at 1 Mpc, and phases at the middle three less a
# line through those at the first and the last, by SimIMRPhenomDGenerateFD of LALSimulation 6.2.1
LAL = {
    (30.0, 0.8, 0.3, -0.2): (
        (2.785003e-20, 1.121791e-20, 4.888264e-21, 3.25603e-21, 5.968533e-22),
        (-19.206227, -20.867252, -14.624128),
    ),
    (21.0, 0.3, -0.7, 0.5): (
        (1.916025e-20, 6.629462e-21, 2.638225e-21, 1.775636e-21, 1.553504e-22),
        (-21.947915, -22.047639, -14.676297),
    ),
    (43.0, 1.0, 0.75, 0.75): (
        (4.00519e-20, 1.786936e-20, 8.902511e-21, 5.7984e-21, 7.331078e-23),
        (-16.220424, -19.700508, -15.026091),
    ),
    (35.0, 0.5, -0.4, -0.4): (
        (2.769366e-20, 1.014308e-20, 5.37467e-21, 2.651422e-21, 2.029397e-23),
        (-9.561342, -10.919957, -7.108847),
    ),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(*rows):
    return torch.tensor(rows, dtype=torch.float64).T


# --- waveform ---------------------------------------------------------------------------------------------------


def bent(phase):
    """Phases at the middle frequencies less a line through the first and the last: no time, no constant."""
    f = torch.tensor(AT, dtype=torch.float64)
    line = phase[:, :1] + (phase[:, -1:] - phase[:, :1]) * (f - f[0]) / (f[-1] - f[0])
    return (phase - line)[:, 1:-1]


def test_waveforms_are_those_of_another_implementation(module):
    parameters, f = batch(*LAL), torch.tensor(AT)
    amplitude, phase = module.phenom_d(f, *parameters)
    assert torch.allclose(amplitude, batch(*(a for a, _ in LAL.values())).T, rtol=2e-4)
    exact = batch(*(p for _, p in LAL.values())).T
    assert torch.allclose(bent(phase), exact, atol=3e-4)
    # the planted fault: the spins exchanged
    other = module.phenom_d(f, *parameters[[0, 1, 3, 2]])[1]
    assert float((bent(other) - exact)[:2].abs().min()) > 0.01


def test_low_frequencies_are_newtonian(module):
    mass, f = 30.0, torch.tensor([0.1, 0.1001], dtype=torch.float64)
    amplitude, phase = module.phenom_d(f, *batch((mass, 0.7, 0.0, 0.0)))
    seconds = mass * 4.925490947641267e-6
    distance = 3.0856775814913673e22 / 299_792_458.0
    exact = math.sqrt(5 / 24) * math.pi ** (-2 / 3) * seconds ** (5 / 6) / distance * 0.1 ** (-7 / 6)
    assert float(amplitude[0, 0]) == pytest.approx(exact, rel=0.01)
    arrives = float(phase[0, 1] - phase[0, 0]) / (2 * math.pi * 1e-4)  # at phi' / 2 pi: before the coalescence
    assert arrives == pytest.approx(-5 / 256 * seconds ** (-5 / 3) * (math.pi * 0.1) ** (-8 / 3), rel=0.03)


def test_waves_are_strongest_at_time_zero_and_come_before(module):
    rate, seconds = 4096, 8
    f = torch.arange(1, rate * seconds // 2 + 1, dtype=torch.float64) / seconds
    amplitude, phase = module.phenom_d(f, *batch((30.0, 0.8, 0.2, 0.2), (25.0, 0.4, -0.5, 0.3)))
    h = torch.where(f > 15, torch.polar(amplitude, -phase), 0.0)
    h = torch.fft.irfft(torch.cat([torch.zeros(2, 1), h], dim=1), rate * seconds)
    peak = h.abs().argmax(1)
    late = torch.where(peak > rate * seconds // 2, peak - rate * seconds, peak) / rate
    assert float(late.abs().max()) < 0.006  # a period of 170 Hz
    before, after = h[:, -rate // 2 :].square().sum(1), h[:, : rate // 2].square().sum(1)
    assert bool((before > 4 * after).all())


def test_pieces_join_with_their_slopes(module, parts):
    for mass, ratio, chi in ((30.0, 0.8, 0.3), (24.0, 0.3, -0.7)):
        pair = parts("waveform").Pair.of(*batch((mass * 4.925490947641267e-6, ratio, chi, chi)))
        joints = torch.tensor([0.014, 0.018, float(pair.mode) / 2, float(pair.peak)]).double() / pair.total
        step = 1e-3
        f = (joints[:, None] + step * torch.arange(-3.0, 3.0).double()[None] + step / 2).flatten()
        a, p = (v.view(4, 6) for v in module.phenom_d(f, *batch((mass, ratio, chi, chi))))
        for value in (a / a.mean(), p):
            jumps = value[:, 3] - value[:, 2] - (value[:, 2] - value[:, 1] + value[:, 4] - value[:, 3]) / 2
            assert float(jumps.abs().max()) < 1e-6
        assert float((p[3, 3] - p[3, 2]).abs()) < 1e-6  # phase and slope are 0 at the peak
        assert float(p[3].abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((30.0, 1.2, 0.0, 0.0), "invert it"),
        ((30.0, 0.8, 1.1, 0.0), "within"),
        ((-1.0, 0.8, 0.0, 0.0), "chirp mass"),
        ((30.0, math.nan, 0.0, 0.0), "mass ratio"),
    ],
)
def test_impossible_pairs_are_refused(module, row, message):
    with pytest.raises(ValueError, match=message):
        module.phenom_d(torch.tensor([30.0]), *batch(row))


# --- simulator and likelihood -----------------------------------------------------------------------------------


def simulated(simulator, n, seed=0):
    theta = simulator.prior.sample(n, generator=generator(seed))
    return theta, simulator(theta, generator=generator(seed + 1))


def test_distances_are_uniform_in_their_logarithm(simulator):
    distance = torch.logspace(math.log10(201.0), math.log10(3999.0), 50)
    density = simulator.prior.laws[5].log_prob(distance) + distance.log()
    assert torch.allclose(density, torch.full_like(density, -math.log(math.log(20.0))), atol=2e-4)


def test_likelihood_is_the_integral_over_both_phases(simulator, module):
    theta, x = simulated(simulator, 6)
    theta = theta.double()
    theta[:, 5:] = 1500.0
    off = torch.stack([x["noise_h1"], x["noise_l1"]], dim=1).double()
    h = module.templates(theta, off)
    data = torch.view_as_complex(torch.stack([x["strain_h1"], x["strain_l1"]], dim=1).double())
    turn = torch.exp(1j * torch.arange(256) * 2 * math.pi / 256).to(torch.complex128)
    residual = (data[None] - turn[:, None, None, None] * h).abs().square().sum(-1)
    exact = (-residual / 2 - 1968 * math.log(2 * math.pi)).logsumexp(0) - math.log(256)
    assert torch.allclose(simulator.log_likelihood(theta, x), exact.sum(-1), atol=1e-6)


def test_a_loud_signal_does_not_overflow(simulator):
    theta = torch.tensor([[30.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]])
    x = simulator(theta, generator=generator())
    assert bool(simulator.log_likelihood(theta, x).isfinite().all())


def test_rows_without_a_waveform_have_likelihood_zero(simulator):
    theta, x = simulated(simulator, 3)
    theta[0, 1], theta[1, 5] = 1.01, -1.0
    assert simulator.log_likelihood(theta, x).isfinite().tolist() == [False, False, True]
    with pytest.raises(ValueError, match="one observation"):
        simulator.log_likelihood(theta[:2], x)


def test_what_is_left_of_the_data_is_noise(simulator):
    """Data less the best phase's waveform: chi squared of 2 F - 1 degrees each, five sds."""
    theta, x = simulated(simulator, 20)
    best = simulator.projected(theta, x)
    for name in ("strain_h1", "strain_l1"):
        left = (x[name] - best[name]).square().sum((1, 2))
        degrees = 20 * (2 * 1968 - 1)
        assert float(left.sum()) == pytest.approx(degrees, abs=5 * math.sqrt(2 * degrees))


def test_likelihood_prefers_the_truth(simulator):
    """Over its neighbours in nine of ten; the planted fault is a time of the wrong sign."""
    theta, _ = simulated(simulator, 30)
    theta[:, 3:5] = torch.tensor([0.02, -0.03])
    theta[:, 5:] = 600.0
    x = simulator(theta, generator=generator(3))
    there = simulator.log_likelihood(theta, x)
    for column, step in ((0, 2.0), (3, 0.003), (6, 300.0)):  # mass, time, distance
        other = theta.clone()
        other[:, column] += step
        assert float((there > simulator.log_likelihood(other, x)).double().mean()) > 0.9
    wrong = theta.clone()
    wrong[:, 3:5] *= -1
    assert bool((there > simulator.log_likelihood(wrong, x)).all())


def test_times_of_arrival_turn_phases(simulator, module, parts):
    """A simulation moved later by hand is that of a later time."""
    theta = torch.tensor([[30.0, 0.8, 0.1, 0.0, 0.0, 500.0, 500.0]]).double()
    later = theta.clone()
    later[:, 3] = 0.01
    off = torch.zeros(1, 2, 1968).double()
    turn = torch.exp(-2j * math.pi * parts("noise").frequencies(4.0) * 0.01)
    h = module.templates(theta, off)
    assert torch.allclose(module.templates(later, off)[:, 0], h[:, 0] * turn, atol=1e-9)
    assert torch.equal(module.templates(later, off)[:, 1], h[:, 1])


def test_gw150914(simulator, module, event):
    """Maximum likelihood, by line searches from a plain start."""
    start = torch.tensor([30.0, 0.8, 0.0, 0.0, 0.0, 800.0, 800.0]).double()
    times = torch.linspace(-0.05, 0.05, 201).double()
    rows = start.repeat(201, 1)
    for column, other in ((3, 4), (4, 3)):
        rows[:, column], rows[:, other] = times, 0.0
        start[column] = times[simulator.log_likelihood(rows, event).argmax()]
    scale = torch.tensor([1.0, 0.1, 0.1, 1e-3, 1e-3, 100.0, 100.0]).double()
    step = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([step], max_iter=40, line_search_fn="strong_wolfe")

    def at():
        found = start + scale * step
        return torch.cat([found[:1], found[1:2].clamp(0.25, 1.0), found[2:]])[None]

    def loss():
        search.zero_grad()
        value = -simulator.log_likelihood(at(), event)[0]
        value.backward()
        return value

    search.step(loss)
    best = at().detach()
    mass, _, chi, h1, l1, *_ = best[0].tolist()
    assert 29.5 < mass < 32.0
    assert abs(chi) < 0.2
    assert l1 - h1 == pytest.approx(-0.007, abs=0.0007)
    heard = simulator.projected(best, event)
    loudness = [float(heard[name].square().sum().sqrt()) for name in ("strain_h1", "strain_l1")]
    assert loudness == pytest.approx([18.6, 13.1], abs=1.5)
    for name in ("strain_h1", "strain_l1"):
        assert float((event[name] - heard[name]).square().mean()) == pytest.approx(1.0, abs=0.1)
    wrong = best.clone()  # the planted fault
    wrong[:, 3:5] *= -1
    assert float(simulator.log_likelihood(best, event) - simulator.log_likelihood(wrong, event)) > 200


# --- detectors --------------------------------------------------------------------------------------------------


# over right ascension, declination and polarisation -> F_+, F_x and the delay in s from the Earth's centre of H1 and of
# L1 at GW150914, by LAL 7.7.1, which takes places of the year 2000 for those of the day: a fifth of a degree
RESPONSES = {
    (1.95, -1.27, 0.82): ((0.578742, -0.450949, 0.0146854), (-0.527433, 0.205210, 0.0077010)),
    (0.3, 0.5, 0.1): ((-0.023251, 0.950098, -0.0202087), (0.157603, -0.868617, -0.0186837)),
    (4.0, -0.2, 2.0): ((0.769056, -0.071224, 0.0157732), (-0.920891, 0.216296, 0.0201048)),
}


@pytest.mark.parametrize("place", RESPONSES)
def test_responses_are_those_of_another_implementation(module, place):
    for detector, (plus, cross, delay) in zip(("H1", "L1"), RESPONSES[place], strict=True):
        found = module.antenna(*place, GW150914, detector)
        assert (found.plus, found.cross) == pytest.approx((plus, cross), abs=0.006)
        assert found.delay == pytest.approx(delay, abs=5e-5)
        turned = module.antenna(place[0], place[1], place[2] + math.pi / 4, GW150914, detector)
        assert (turned.plus, turned.cross) == pytest.approx((found.cross, -found.plus), abs=1e-9)
        later = module.antenna(*place, GW150914 + 6 * 3600, detector)  # the planted fault: an Earth that stands
        assert abs(later.delay - delay) > 5e-4


def test_detectors_are_where_they_were_built(parts):
    h1, l1 = (parts("detectors").DETECTORS[name] for name in ("H1", "L1"))
    away = np.subtract(h1.place, l1.place)
    assert np.linalg.norm(away) / 299_792_458.0 == pytest.approx(0.010013, abs=1e-6)
    for site in (h1, l1):
        assert np.linalg.norm(site.place) == pytest.approx(6.371e6, rel=0.002)
        assert np.linalg.norm(site.first) == pytest.approx(1.0, abs=1e-6)
        assert np.dot(site.first, site.second) == pytest.approx(0.0, abs=1e-6)
        assert abs(np.dot(site.first, site.place) / np.linalg.norm(site.place)) < 0.005  # level


@pytest.mark.slow
def test_response_and_delays_over_the_sky(module):
    """The mean squares of F_+ and F_x are 1/5 each; no delay is longer than light's."""
    n, golden = 150, math.pi * (3 - math.sqrt(5))
    squares, differences = [], []
    for k in range(n):
        place = (golden * k % (2 * math.pi), math.asin(2 * (k + 0.5) / n - 1))
        heard = module.antenna(*place, 0.3, GW150914, "L1")
        squares.append((heard.plus**2, heard.cross**2))
        differences.append(module.arrival_difference(*place, GW150914) if k % 5 == 0 else 0.0)
    assert np.mean(squares, axis=0) == pytest.approx([0.2, 0.2], abs=0.01)
    assert np.sum(squares) / n == pytest.approx(0.4, abs=0.001)
    assert max(np.abs(differences)) <= 0.010013
    assert max(differences) > 0.008
    assert min(differences) < -0.008


def test_an_unknown_detector_is_refused(module):
    with pytest.raises(ValueError, match="choose from H1, L1"):
        module.antenna(0.0, 0.0, 0.0, GW150914, "V1")


# --- summaries --------------------------------------------------------------------------------------------------


def left_out(waveforms, v):
    """Shares of the waveforms' squares that a basis leaves out."""
    inside = (waveforms.to(v.dtype) @ v).abs().square().sum(-1)
    return 1 - inside / waveforms.abs().square().sum(-1)


@pytest.mark.slow
def test_the_basis_holds_waveforms_in_any_phase(parts):
    """What it leaves out is what noise curves have of lines and jitter."""
    summary = parts("summary")
    v = summary.basis(100, 2000, 0.003, (20.0, 45.0), 1968)
    assert torch.allclose(v.mH @ v, torch.eye(100, dtype=v.dtype), atol=1e-4)
    bank = summary.whitened_bank(300, 0.003, (20.0, 45.0), generator(7), 4.0)
    lost = left_out(bank, v)
    assert float(lost.mean()) < 0.06
    assert torch.allclose(left_out(bank * torch.exp(torch.tensor(2.1j)), v), lost, atol=1e-5)
    late = bank * torch.exp(
        -2j * math.pi * parts("noise").frequencies(4.0) * 0.05
    )  # the planted fault: not moved in time
    assert float(left_out(late, v).mean()) > 10 * float(lost.mean())


def test_a_strain_s_summary(simulator, parts):
    _, x = simulated(simulator, 5)
    spec, plan = simulator.observables["strain_h1"], parts("summary").Reduced(size=20, features=8, bank=200)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (plan.build(spec, masked=False) for _ in range(2))
    features = first(x["strain_h1"])
    assert features.shape == (5, first.features) == (5, 8)
    v = parts("summary").basis(20, 200, 0.003, (20.0, 45.0), 1968)
    exact = torch.view_as_complex(x["strain_h1"]) @ v
    assert torch.allclose(x["strain_h1"].flatten(1) @ first.matrix, torch.view_as_real(exact).flatten(1), atol=1e-4)
    assert torch.equal(first.matrix, second.matrix)  # nothing of it is drawn from the global state
    assert not torch.equal(second(x["strain_h1"]), features)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x["strain_h1"]), features)
    assert bool(first(1e4 * x["strain_h1"]).isfinite().all())


def test_a_curve_s_summary_sees_means_over_bands(simulator, parts):
    net = parts("summary").Bands(features=6).build(simulator.observables["noise_h1"], masked=False)
    tilted = parts("noise").frequencies(4.0).float().log()[None]
    means = tilted @ net.matrix
    assert torch.allclose(means.diff(), torch.full((1, 23), math.log(25.6) / 24), atol=0.01)
    assert torch.allclose(torch.full((1, 1968), 2.5) @ net.matrix, torch.full((1, 24), 2.5))
    assert net(tilted).shape == (1, 6)


def test_summaries_are_plain_and_refuse_other_data(simulator, parts):
    summary, strain, noise = (parts("summary"), *(simulator.observables[n] for n in ("strain_h1", "noise_h1")))
    for plan in (summary.Reduced(), summary.Bands()):
        again = from_json(json.loads(json.dumps(to_json(plan))), trust=(summary.__name__,))
        assert to_json(again) == to_json(plan)
    for plan, spec, masked in ((summary.Reduced(), noise, False), (summary.Bands(), strain, False)):
        with pytest.raises(ValueError, match="complete observables along"):
            plan.build(spec, masked=masked)
    with pytest.raises(ValueError, match="with a mask"):
        summary.Bands().build(noise, masked=True)
    with pytest.raises(ValueError, match="bank of 120"):
        summary.Reduced(bank=100)
