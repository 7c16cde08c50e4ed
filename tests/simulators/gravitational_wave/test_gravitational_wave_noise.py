"""Black holes in H1 and L1: noise, its curves, and the files of public data, against what they must be."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest
import torch

GW150914 = 1126259462.4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- noise ------------------------------------------------------------------------------------------------------


def strain_of(parts, values, rate=4096, start=1000.0):
    return parts("noise").Strain("H1", start, rate, np.asarray(values, dtype=float))


def test_density_of_white_noise_and_without_the_event(parts):
    noise, rate = parts("noise"), 4096
    values = np.random.default_rng(0).normal(0.0, 3.0, 64 * rate)
    density, segments = noise.welch(strain_of(parts, values), 4.0, 0.2)
    assert segments == 61
    assert density[80:2048].mean() == pytest.approx(2 * 9 / rate, rel=0.02)  # one-sided
    event = slice(20 * rate, 24 * rate)
    loud = values.copy()
    loud[event] += 1e3 * np.sin(np.arange(4 * rate))
    bounds = (event.start, event.stop)
    quiet, _ = noise.welch(strain_of(parts, values), 4.0, 0.2, without=bounds)
    assert np.array_equal(noise.welch(strain_of(parts, loud), 4.0, 0.2, without=bounds)[0], quiet)


def test_whitened_noise_has_unit_variance(parts):
    """Of noise with a known density, 16,000 numbers: five sds."""
    noise, rate, n = parts("noise"), 4096, 4 * 4096
    log_density = noise.draw_curves(1, noise.frequencies(4.0), generator())[0]
    full = torch.zeros(n // 2 + 1, dtype=torch.float64)
    full[noise.bins(4.0)] = log_density.exp()
    shaped = []
    for seed in range(8):
        white = torch.randn(n, generator=generator(seed), dtype=torch.float64) * math.sqrt(rate / 2)  # S = 1
        shaped.append(torch.fft.irfft(torch.fft.rfft(white) * full))
    data = torch.fft.rfft(torch.stack(shaped))[:, noise.bins(4.0)] / rate
    z = torch.view_as_real(noise.whiten(data, log_density, 4.0))
    assert float(z.square().mean()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / z.numel()))
    for part in (z[..., 0], z[..., 1]):
        assert float(part.std()) == pytest.approx(1.0, abs=0.03)


def test_a_pulse_after_the_trigger_has_the_phase_of_its_time(parts):
    """Also where the trigger lies between two samples."""
    noise, rate, gps = parts("noise"), 4096, 1016.40003
    values = np.zeros(32 * rate)
    at = round(16.43 * rate)
    values[at] = 1.0
    late = 1000.0 + at / rate - gps
    found = noise.spectrum(strain_of(parts, values), gps, 4.0, 0.2)[noise.bins(4.0)] * rate
    exact = np.exp(-2j * math.pi * noise.frequencies(4.0).numpy() * late)
    assert np.abs(found - exact).max() < 1e-6
    assert np.abs(found - exact.conj()).max() > 1.0  # the planted fault


def test_curves_are_a_family_around_the_centre(parts):
    noise = parts("noise")
    off = noise.draw_curves(400, noise.frequencies(4.0), generator()) - noise.central(noise.frequencies(4.0))
    assert torch.equal(
        off[:2] + noise.central(noise.frequencies(4.0)), noise.draw_curves(400, noise.frequencies(4.0), generator())[:2]
    )
    quiet = off[:, (noise.frequencies(4.0) > 65) & (noise.frequencies(4.0) < 110)]
    assert float(quiet.median()) == pytest.approx(0.0, abs=0.1)
    assert float(quiet.median(1).values.std()) == pytest.approx(math.hypot(0.25, 0.3), abs=0.1)
    assert float(off[:, (noise.frequencies(4.0) > 496)].amax(1).median()) > 3  # violin modes


def test_measured_curves_lie_within_the_family(parts, event):
    noise = parts("noise")
    drawn = noise.draw_curves(400, noise.frequencies(4.0), generator()) - noise.central(noise.frequencies(4.0))
    low, high = drawn.quantile(torch.tensor([0.005, 0.995]).double(), dim=0)
    for name in ("noise_h1", "noise_l1"):
        inside = (event[name][0] > low) & (event[name][0] < high)
        assert float(inside.double().mean()) > 0.97
        outside = event[name][0] + 1.5  # the planted fault: noise 4.5 times as loud
        assert float(((outside > low) & (outside < high)).double().mean()) < 0.8


# --- files ------------------------------------------------------------------------------------------------------


def write(path, seconds=32, rate=4096, detector=b"H1", start=1000, values=None):
    values = np.random.default_rng(1).normal(size=seconds * rate) if values is None else values
    with h5py.File(path, "w") as file:
        file["strain/Strain"] = values
        file["strain/Strain"].attrs["Xspacing"] = 1 / rate
        file["meta/GPSstart"], file["meta/Detector"] = start, detector
    return path


def test_a_file_is_read_as_it_was_written(parts, tmp_path):
    for rate in (4096, 16384):
        strain = parts("noise").read_losc(write(tmp_path / "h.hdf5", seconds=2, rate=rate), "H1")
        assert (strain.detector, strain.start, strain.rate, strain.stop) == ("H1", 1000.0, rate, 1002.0)


def test_both_rates_give_the_same_observation(simulator, tmp_path):
    """Of a tone, the same samples four times as dense."""
    t = np.arange(32 * 16384) / 16384
    values = np.random.default_rng(0).normal(size=32 * 2048)  # noise below 1024 Hz
    dense = np.fft.irfft(np.fft.rfft(values), 32 * 16384) * 8 + np.sin(2 * math.pi * 100.3 * t)
    seen = []
    for name, part in (("dense", dense), ("thin", dense[::4])):
        rate = len(part) // 32
        paths = [write(tmp_path / f"{name}{d}", rate=rate, detector=d.encode(), values=part) for d in ("H1", "L1")]
        seen.append(simulator.observe(*paths, gps=1016.0))
    for name in simulator.observables:
        assert seen[0][name].shape == simulator.observables[name].shape
        assert torch.allclose(seen[0][name], seen[1][name], atol=0.01)


def test_files_that_do_not_serve_are_refused(simulator, tmp_path):
    good = [write(tmp_path / d, detector=d.encode()) for d in ("H1", "L1")]
    gap = np.ones(32 * 4096)
    gap[5] = np.nan
    plain = tmp_path / "plain"
    plain.write_text("strain")
    with h5py.File(tmp_path / "other", "w") as file:
        file["data"] = np.zeros(3)
    bad = {
        "NaN": write(tmp_path / "gap", values=gap),
        "2048 samples": write(tmp_path / "slow", rate=2048),
        "no strain file": plain,
        "strain/Strain": tmp_path / "other",
        "is of L1, expected H1": good[1],
        "16 s or more with the event in its middle": write(tmp_path / "short", seconds=6, start=1013),
        "goes on": write(tmp_path / "ends", seconds=17),
        "constant": write(tmp_path / "off", values=np.zeros(32 * 4096)),
    }
    for message, path in bad.items():
        with pytest.raises(ValueError, match=message) as caught:
            simulator.observe(path, good[1], gps=1016.0)
        assert path.name in str(caught.value)
    with pytest.raises(ValueError, match=r"GPS 1000 to 1032, which 900.00 is not in"):
        simulator.observe(*good, gps=900.0)
    with pytest.raises(ValueError, match=r"gps=1126259462.4.*--gps 1126259462.4"):
        simulator.observe(*good)
    with pytest.raises(ValueError, match="two files"):
        simulator.observe(good[0], gps=1016.0)


def test_masses_too_low_for_the_segment_are_refused(module, simulator):
    with pytest.raises(ValueError, match="a chirp mass of 9 solar masses.*raise the bound, or take 16 s"):
        module.GravitationalWave(chirp_mass=(9.0, 15.0))
    with pytest.raises(ValueError, match="a whole number of seconds, such as 4, 8 or 16, got 4.5"):
        module.GravitationalWave(seconds=4.5)


def test_longer_data_are_of_the_same_model(module, parts):
    """Templates have half the size, in sds of the noise, at each of four times as many frequencies."""
    long = module.GravitationalWave(seconds=16.0)
    theta = long.prior.sample(8, generator=generator())
    x = long(theta, generator=generator())
    assert {name: value.shape[1:] for name, value in x.items()} == {k: o.shape for k, o in long.observables.items()}
    off = x["noise_h1"][:, None].double().expand(-1, 2, -1)
    assert torch.allclose(module.templates(theta, off)[..., ::4], 0.5 * module.templates(theta, off[..., ::4]))
    better = long.log_likelihood(theta, x) > long.log_likelihood(long.prior.sample(8, generator=generator()).flip(0), x)
    assert bool(better.all())
    assert float(heavy := module.heavier(np.array([28.0]), np.array([0.8]))[0]) == pytest.approx(36.1, abs=0.1)
    assert (0.8 * heavy * heavy) ** 0.6 / (1.8 * heavy) ** 0.2 == pytest.approx(28.0)
