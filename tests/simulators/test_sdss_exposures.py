"""Exposures of a star: rendering, measurement, noise and calibration errors against what they must be."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.table import Column, Table
from scipy import stats

from sciinf.core import identity, load_simulator

FILE = Path(__file__).parents[2] / "simulators" / "sdss_exposures.py"


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FILE)


@pytest.fixture(scope="module")
def module(simulator):
    return next(m for m in list(sys.modules.values()) if getattr(m, "simulator", None) is simulator)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def places(simulator):
    n = len(simulator.exposures.sky)
    return 3 * torch.rand(2, n, generator=generator(), dtype=torch.float64) - 1.5


def test_the_light_of_a_star_is_one_and_its_derivatives_are_those(simulator, module):
    psf, (x, y) = simulator.exposures.psf, places(simulator)
    light, along, across = module.point(psf, x, y, 101)
    assert torch.allclose(light.sum((1, 2)), psf[:, :3].sum(1), rtol=1e-3)
    assert torch.allclose(psf[:, :3].sum(1), torch.ones(len(psf)).double(), atol=0.06)  # as the survey has them
    step = 1e-4
    right, left = (module.point(psf, x + s, y, 19)[0] for s in (step, -step))
    upper, lower = (module.point(psf, x, y + s, 19)[0] for s in (step, -step))
    near = slice(41, 60)
    assert torch.allclose((right - left) / (2 * step), along[:, near, near], atol=1e-7)
    assert torch.allclose((upper - lower) / (2 * step), across[:, near, near], atol=1e-7)


def test_a_star_without_noise_is_measured_exactly(simulator, module):
    seen, (x, y) = simulator.exposures, places(simulator)
    flux = 10 ** ((22.5 - 17.3) / 2.5)
    clean = replace(seen, pixels=(flux * module.point(seen.psf, x, y, 19)[0] + 0.01) * seen.seen)
    found = module.measure(clean)
    assert torch.allclose(found[:, 0], torch.tensor(17.3).double(), atol=1e-5)
    assert torch.allclose(found[:, 1], x, atol=1e-5)
    assert torch.allclose(found[:, 2], y, atol=1e-5)
    # the planted fault: a point spread function of another exposure
    other = module.measure(replace(clean, psf=clean.psf.roll(1, 0)))
    assert not torch.allclose(other[:, 0], torch.tensor(17.3).double(), atol=1e-3)


@pytest.mark.slow
def test_calibration_errors_have_students_law(simulator):
    theta = simulator.prior.sample(4_000, generator=generator())
    x = simulator(theta, generator=generator(1))
    for k, (value, scale) in enumerate(zip(x.values(), (0.02, 0.09, 0.09), strict=True)):
        off = ((value - theta[:, k]) / scale).abs().sort().values.double()
        for share in (0.25, 0.5, 0.75, 0.95):  # the noise of pixels adds some percent
            exact = stats.t(5).ppf(0.5 + share / 2)
            assert float(off[int(share * len(off))]) == pytest.approx(exact, rel=0.09)


def test_magnitudes_of_the_noise_of_pixels(simulator, module):
    """Chi squared of noise alone, of as many pixels: five sds."""
    theta = torch.tensor([[17.0, 0.0, 0.0]]).expand(200, 3)
    made = simulator.render(theta, generator=generator())
    magnitude, x, y = module.measure(made).unbind(-1)
    light = (10 ** ((22.5 - magnitude) / 2.5))[:, None, None] * module.point(made.psf, x, y, 19)[0]
    off = made.pixels - light
    off = off - off.median(-1).values.median(-1).values[:, None, None]
    spread = made.sky[:, None, None] + made.electron[:, None, None] * light
    assert float((off.square() / spread).mean()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / off.numel()) + 0.02)


def test_the_file_holds_the_survey_s_exposures(simulator, reference_data):
    from astropy.io import fits

    with fits.open(reference_data / "images" / "multi-r-7.2215--0.0267.fits") as opened:
        hdus = list(opened)
        images = [np.array(hdu.data) for hdu in hdus[::2]]
        weights = [np.array(hdu.data) for hdu in hdus[1::2]]
        psfs = [[hdu.header[f"PSF_P{k}"] for k in range(18)] for hdu in hdus[::2]]
    kept = [i for i, w in enumerate(weights) if (w[23:28, 23:28] > 0).sum() > 15]
    exposures = simulator.exposures
    assert kept == [i for i in range(25) if i != 23]
    for row, i in enumerate(kept):
        inside = slice(16, 35)
        there = weights[i][inside, inside] > 0
        assert np.array_equal(exposures.seen[row].numpy() > 0, there)
        assert np.allclose(exposures.pixels[row].numpy(), np.where(there, images[i][inside, inside], 0), atol=1e-6)
        assert np.allclose(exposures.psf[row].numpy(), psfs[i])


def test_noise_of_the_sky_on_the_star_s_scale(simulator, module, reference_data):
    from astropy.io import fits

    with fits.open(reference_data / "images" / "multi-r-7.2215--0.0267.fits") as opened:
        arrays = [np.array(hdu.data, dtype=float) for hdu in list(opened)]
    kept = [i for i in range(25) if i != 23]
    stamps, seen = (torch.from_numpy(np.stack([arrays[2 * i + k] for i in kept])) for k in (0, 1))
    exposures = simulator.exposures
    ratio = module.sky_noise(stamps, (seen > 0).double(), exposures.psf, exposures.sky)
    assert 0.9 < float(ratio.mean()) < 1.1
    assert 0.7 < float(ratio.min()) < float(ratio.max()) < 1.3


def test_noise_of_the_sky_of_independent_and_of_smooth_noise(simulator, module):
    exposures = simulator.exposures
    noise = torch.randn(len(exposures.sky), 81, 81, generator=generator(), dtype=torch.float64)
    noise = noise * exposures.sky.sqrt()[:, None, None]
    ones = torch.ones_like(noise)
    assert float(module.sky_noise(noise, ones, exposures.psf, exposures.sky).mean()) == pytest.approx(1.0, abs=0.05)
    smooth = torch.nn.functional.avg_pool2d(noise[:, None], 3, 1, 1)[:, 0] * 3  # the planted fault
    assert float(module.sky_noise(smooth, ones, exposures.psf, exposures.sky).mean()) > 1.8


@pytest.mark.long
def test_nuts_finds_a_star_it_was_given(simulator):
    """Over 20 sets of 24 simulated exposures, truths within their posteriors: chi squared of 60, 99.99 %."""
    total = 0.0
    for seed in range(20):
        theta = simulator.prior.sample(1, generator=generator(seed))
        made = simulator.render(theta.expand(24, 3), generator=generator(100 + seed))
        draws = simulator.posterior(made, 500, seed=seed, warmup=300)
        total += float(((theta[0] - draws.mean(0)) / draws.std(0)).square().sum())
    assert 28 < total < 112


@pytest.fixture
def table(simulator, module):
    """Eight exposures of a star of 18 mag at (0.5, -0.3), without noise, in microjansky."""
    seen, n = simulator.exposures, 8
    x, y = torch.full((n,), 0.5).double(), torch.full((n,), -0.3).double()
    psf = seen.psf[:n]
    pixels = 10 ** ((22.5 - 18.0) / 2.5) * module.point(psf, x, y, 19)[0]
    columns = {"seen": torch.ones_like(pixels), "psf": psf, "pixels": 3.631 * pixels}
    columns |= {"sky": 3.631**2 * seen.sky[:n], "electron": 3.631 * seen.electron[:n]}
    return Table({name: value.numpy() for name, value in columns.items()})


@pytest.mark.parametrize("unit", ["uJy", ""])
def test_exposures_of_a_user_are_read_in_their_unit(simulator, table, unit, tmp_path):
    if not unit:
        table["pixels"].unit = "uJy"
    table.write(tmp_path / "mine.fits")
    mine = type(simulator)(tmp_path / "mine.fits", unit or "nmgy", (18.0, 0.5), 2.0)
    seen = mine.observed()
    for name, value in {"magnitude_seen": 18.0, "x_seen": 0.5, "y_seen": -0.3}.items():
        assert torch.allclose(seen[name], torch.tensor(value), atol=1e-4)
    assert torch.allclose(mine.exposures.sky, simulator.exposures.sky[:8], rtol=1e-5)
    assert [float(law.stddev) for law in mine.prior.laws] == pytest.approx([0.5, 2.0, 2.0])
    assert identity(mine) != identity(simulator)
    x = mine(mine.prior.sample(50, generator=generator()), generator=generator(1))
    assert all(bool(value.isfinite().all()) for value in x.values())


@pytest.mark.parametrize(
    ("change", "unit", "words"),
    [
        (lambda t: t.remove_column("psf"), "nmgy", r"lacks \['psf'\]"),
        (lambda t: t.replace_column("psf", Column(t["psf"][:, :6])), "nmgy", r"'psf' has \(6,\) in each row; it must"),
        (lambda t: t["sky"].fill(math.nan), "nmgy", "'sky' has .* finite"),
        (lambda t: None, "mV", "its pixels are in 'mV', which does not convert to nanomaggies"),
    ],
)
def test_exposures_that_are_none_are_named(module, table, change, unit, words, tmp_path):
    change(table)
    table.write(tmp_path / "mine.ecsv", serialize_method="data_mask")
    with pytest.raises(ValueError, match=words):
        module.read(tmp_path / "mine.ecsv", unit)
