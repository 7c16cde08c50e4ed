r"""One star in exposures of the Sloan Digital Sky Survey, each with its own sky, point spread function and calibration.

A star of r magnitude m lies at (x, y) pixels of 0.396 arcsec from the middle of a stamp. An exposure i sees it at

    m_i = m + 0.02 t,    x_i = x + 0.09 t',    y_i = y + 0.09 t'',    t, t', t'' of Student's law with 5 degrees,

for its photometric zero point, with the error of its point spread function, is known to about 2 %, and its astrometry
to about 45 mas; heavy tails are for nights of bad seeing. With f = 10^{(22.5 - m_i) / 2.5} nanomaggies, P_i the sum of
three Gaussians that the survey fitted and b_i ~ N(0, 0.01^2) what is left of the sky, pixel k has

    d_k ~ N(f P_i(k) + b_i, s_i^2 + g_i f P_i(k)),

s_i^2 the variance of the sky before resampling and g_i nanomaggies per electron. What is simulated is what a
photometric pipeline makes of it: magnitude and position by weighted least squares, the point spread function known.
Which exposure is simulated is drawn from those observed (`sdss_exposures.fits`): 24 of 25, for one shows half a star.

**Correlated noise.** All exposures were resampled to one grid, which takes variance from single pixels and gives it to
products of neighbours: blank sky has 0.66 to 0.95 of s_i^2, and correlations of 0.1 to 0.3 with the next pixel. The
model has independent pixels of variance s_i^2. Sums over areas of the size of the star, which is what measures it, then
have the right noise to some ten percent (`sky_noise`), and single pixels too much. It does not matter much here: the
noise of an exposure's pixels moves its position by 0.005 pixels and its magnitude by 0.004, the calibration by 0.1 and
0.026.

References: The eighth data release of the Sloan Digital Sky Survey (Aihara et al., 2011),
https://arxiv.org/abs/1101.1559; the exposures are from HIPS/DESI-MCMC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Prior, Simulator, X

ZERO_POINT = 22.5  # magnitude of a nanomaggy
ZERO_FLUX = 3631.0  # of a maggy, in Jy
FREEDOM, PHOTOMETRIC, ASTROMETRIC, SKY = 5.0, 0.02, 0.09, 0.01
FILE = Path(__file__).with_suffix(".fits")
_ROUNDS = 5  # of least squares


@dataclass(frozen=True)
class Exposures:
    """Conditions and pixels of n exposures, float64.

    Attributes:
        pixels: (n, S, S) in nanomaggies, 0 where missing.
        seen: (n, S, S), 1 where there is a pixel.
        sky: s_i^2, (n,), nanomaggies squared.
        electron: g_i, (n,), nanomaggies.
        psf: (n, 18): three amplitudes, three pairs of means, three triples of variances along x and y and covariance,
            in pixels.
    """

    pixels: Tensor
    seen: Tensor
    sky: Tensor
    electron: Tensor
    psf: Tensor


def read(file: str | Path = FILE, unit: str = "nmgy") -> Exposures:
    """The exposures observed, one in each row of a table.

    Args:
        file: A FITS or ECSV table with the columns pixels (S, S), seen (S, S), sky, electron and psf (18,) of
            `Exposures`, S an odd number.
        unit: Of the pixels, where the table has none: nanomaggies, or one that these convert to, such as "uJy". The
            columns sky and electron are in its square and in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, has another shape or a number that is not finite, or the unit does not
            convert.
    """
    from astropy import units
    from astropy.table import Table

    table: Any = Table.read(file)
    if missing := [name for name in Exposures.__dataclass_fields__ if name not in table.colnames]:
        raise ValueError(f"{file} has the columns {table.colnames}, and lacks {missing}: a row for each exposure")
    found = {name: np.asarray(table[name], dtype=float) for name in Exposures.__dataclass_fields__}
    size = found["pixels"].shape[-1]
    for name, shape in {"pixels": (size, size), "seen": (size, size), "sky": (), "electron": (), "psf": (18,)}.items():
        if found[name].shape[1:] != shape or size % 2 == 0 or not np.isfinite(found[name]).all():
            got = f"{found[name].shape[1:]} in each row"
            raise ValueError(f"{file}: {name!r} has {got}; it must have {shape}, S odd, of finite numbers")
    own = table["pixels"].unit or unit
    try:
        factor = units.Unit(own).to(units.Unit("nmgy"), equivalencies=units.zero_point_flux(ZERO_FLUX * units.Jy))
    except (units.UnitConversionError, ValueError) as error:
        raise ValueError(f"{file}: its pixels are in {str(own)!r}, which does not convert to nanomaggies") from error
    for name, power in (("pixels", 1), ("sky", 2), ("electron", 1)):
        found[name] = found[name] * factor**power
    return Exposures(**{name: torch.from_numpy(value) for name, value in found.items()})


def point(psf: Any, x: Any, y: Any, size: int, xp: Any = torch) -> tuple[Any, Any, Any]:
    """P and its derivatives by x and y, (n, size, size), of stars at x and y (n,) from the middle.

    Args:
        psf: (n, 18).
        x: Columns.
        y: Rows.
        size: S.
        xp: torch or jax.numpy.
    """
    grid = xp.arange(size) - size // 2 if xp is not torch else torch.arange(size, device=x.device) - size // 2
    total = along = across = 0.0
    for k in range(3):
        amplitude, dx, dy, vx, vy, c = (
            psf[:, i, None, None] for i in (k, 3 + 2 * k, 4 + 2 * k, 9 + 3 * k, 10 + 3 * k, 11 + 3 * k)
        )
        u, v = grid[None, None, :] - x[:, None, None] - dx, grid[None, :, None] - y[:, None, None] - dy
        d = vx * vy - c**2
        part = amplitude * xp.exp(-0.5 * (vy * u**2 - 2 * c * u * v + vx * v**2) / d) / (2 * math.pi * xp.sqrt(d))
        total, along, across = total + part, along + part * (vy * u - c * v) / d, across + part * (vx * v - c * u) / d
    return total, along, across


def measure(exposures: Exposures) -> Tensor:
    """Magnitude, x and y by weighted least squares, with flux and sky linear, from the brightest pixel on: (n, 3)."""
    pixels, seen = exposures.pixels, exposures.seen
    size, n = pixels.shape[-1], len(pixels)
    peak = (pixels * seen).reshape(n, -1).argmax(-1)
    x, y = (peak % size - size // 2).to(pixels), (peak // size - size // 2).to(pixels)
    flux = torch.zeros_like(x)
    model = torch.zeros_like(pixels)
    for turn in range(_ROUNDS):
        p, along, across = point(exposures.psf, x, y, size)
        weight = seen / (exposures.sky[:, None, None] + exposures.electron[:, None, None] * model.clamp_min(0.0))
        slopes = [p, torch.ones_like(p)] + ([flux[:, None, None] * s for s in (along, across)] if turn else [])
        a = torch.stack(slopes, dim=-1).reshape(n, size * size, -1)
        aw = a * weight.reshape(n, -1, 1)
        normal = aw.mT @ a + 1e-9 * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        found = torch.linalg.solve(normal, (aw * pixels.reshape(n, -1, 1)).sum(1)[..., None])[..., 0]
        flux = found[:, 0].clamp_min(1e-3)
        if turn:
            x, y = x + found[:, 2].clamp(-1.0, 1.0), y + found[:, 3].clamp(-1.0, 1.0)
        model = flux[:, None, None] * p + found[:, 1, None, None]
    return torch.stack([ZERO_POINT - 2.5 * flux.log10(), x, y], dim=-1)


class SdssExposures(Simulator):
    """Magnitude and position of one star as a single exposure has them.

    Args:
        file: The exposures (`read`).
        unit: Of their pixels, where the file has none.
        magnitude: Mean and sd of the prior of the magnitude.
        position: Sd of that of the position, in pixels from the middle.
    """

    name = "sdss_exposures"
    observables: Mapping[str, Observable] = {
        "magnitude_seen": Observable((), "mag"),
        "x_seen": Observable((), "pix"),
        "y_seen": Observable((), "pix"),
    }
    block = 2048

    def __init__(
        self,
        file: str | Path = FILE,
        unit: str = "nmgy",
        magnitude: tuple[float, float] = (17.0, 0.3),
        position: float = 1.0,
    ) -> None:
        self.exposures, self.unit = read(file, unit), unit
        self.files = () if Path(file) == FILE else (Path(file),)
        place = td.Normal(0.0, position)
        self.prior = Prior(magnitude=(td.Normal(*magnitude), "mag"), x=(place, "pix"), y=(place, "pix"))

    def settings(self) -> Mapping[str, str]:
        """The unit of a file's pixels; nothing of the survey's own."""
        return {} if self.unit == "nmgy" else {"unit": self.unit}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return _named(measure(self.render(theta, generator=generator)))

    def render(self, theta: Tensor, *, generator: torch.Generator) -> Exposures:
        """One exposure of a star of each row of theta, under conditions drawn from those observed."""
        seen, n, device = self.exposures, len(theta), theta.device
        like = {"generator": generator, "device": device, "dtype": torch.float64}
        index = torch.randint(len(seen.sky), (n,), generator=generator, device=device)
        psf, sky, electron = (value.to(device)[index] for value in (seen.psf, seen.sky, seen.electron))
        normal = torch.randn(n, 4, **like)
        # Student's t: a normal number over the root of a mean of five squares
        mean = torch.randn(n, 3, int(FREEDOM), **like).square().mean(-1)
        off = normal[:, :3] / mean.sqrt() * normal.new_tensor([PHOTOMETRIC, ASTROMETRIC, ASTROMETRIC])
        magnitude, x, y = (theta.double() + off).unbind(-1)
        flux, size = 10 ** ((ZERO_POINT - magnitude) / 2.5), seen.pixels.shape[-1]
        light = flux[:, None, None] * point(psf, x, y, size)[0]
        noise = torch.randn(light.shape, **like)
        spread = sky[:, None, None] + electron[:, None, None] * light
        pixels = light + SKY * normal[:, 3, None, None] + spread.sqrt() * noise
        return Exposures(pixels, torch.ones_like(pixels), sky, electron, psf)

    def observed(self) -> X:
        """What the exposures observed measure: each observable (n,)."""
        return _named(measure(self.exposures))

    def posterior(self, exposures: Exposures, n: int, *, seed: int = 0, warmup: int = 500) -> Tensor:
        """Draws given the pixels of all exposures, by NUTS over the star and each one's calibration and sky: (n, 3)."""
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        size = exposures.pixels.shape[-1]
        psf, pixels, seen = (jnp.asarray(v.numpy()) for v in (exposures.psf, exposures.pixels, exposures.seen > 0))
        sky, electron = (jnp.asarray(v.numpy())[:, None, None] for v in (exposures.sky, exposures.electron))

        def model() -> None:
            star = [
                numpyro.sample(name, dist.Normal(float(law.loc), float(law.scale)))
                for name, law in zip(self.prior.names, self.prior.laws, strict=True)
                if isinstance(law, td.Normal)
            ]
            with numpyro.plate("exposures", len(psf)):
                magnitude, x, y = (
                    jnp.asarray(numpyro.sample(name, dist.StudentT(FREEDOM, centre, scale)))
                    for name, centre, scale in zip(
                        ("m_i", "x_i", "y_i"), star, (PHOTOMETRIC, ASTROMETRIC, ASTROMETRIC), strict=True
                    )
                )
                rest = jnp.asarray(numpyro.sample("b_i", dist.Normal(0.0, SKY)))
            light = 10 ** ((ZERO_POINT - magnitude) / 2.5)[:, None, None] * point(psf, x, y, size, jnp)[0]
            law = dist.Normal(light + rest[:, None, None], jnp.sqrt(sky + electron * light)).mask(seen)
            numpyro.sample("pixels", law, obs=pixels)

        start = dict(zip(("m_i", "x_i", "y_i"), jnp.asarray(measure(exposures).numpy().T), strict=True))
        start |= dict(zip(self.prior.names, (v.mean() for v in list(start.values())), strict=True))
        kernel = numpyro.infer.NUTS(model, init_strategy=numpyro.infer.init_to_value(values=start))
        chains = numpyro.infer.MCMC(kernel, num_warmup=warmup, num_samples=n, progress_bar=False)
        chains.run(jax.random.PRNGKey(seed))
        draws = chains.get_samples()
        return torch.from_numpy(np.stack([np.asarray(draws[name]) for name in self.prior.names], axis=-1)).float()


def sky_noise(stamps: Tensor, seen: Tensor, psf: Tensor, sky: Tensor) -> Tensor:
    """Of each exposure, sd of sums of blank sky weighted like the star, over that of independent pixels: (n,).

    Args:
        stamps: Pixels with the star in the middle, (n, S, S), S large enough for blank sky around it.
        seen: 1 where there is a pixel, (n, S, S).
        psf: (n, 18).
        sky: Variance of a pixel, (n,).
    """
    middle = stamps.shape[-1] // 2
    blank = seen.clone()
    blank[:, middle - 12 : middle + 13, middle - 12 : middle + 13] = 0.0
    zero = torch.zeros(len(psf), dtype=psf.dtype)
    kernels = point(psf, zero, zero, 9)[0]
    found = []
    for image, there, kernel, variance in zip(stamps, blank, kernels, sky, strict=True):
        ok = there * (image.abs() < 6 * variance.sqrt())
        image = (image - image[ok > 0].median()) * ok
        sums = torch.nn.functional.conv2d(image[None, None], kernel[None, None])[0, 0]
        whole = torch.nn.functional.conv2d(ok[None, None], torch.ones_like(kernel)[None, None])[0, 0] > 80.5
        found.append(sums[whole].std() / (variance * kernel.square().sum()).sqrt())
    return torch.stack(found)


def _named(measured: Tensor) -> dict[str, Tensor]:
    names = ("magnitude_seen", "x_seen", "y_seen")
    return {name: value.float() for name, value in zip(names, measured.unbind(-1), strict=True)}


simulator = SdssExposures()
