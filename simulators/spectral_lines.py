r"""An X-ray spectrum of counts: how many emission lines are there, at which energies, and how strong?

60 channels of 0.1 keV from 2 to 8 keV hold a flat background and up to four lines, each number equally likely. The
detector blurs a line to a Gaussian of sd s = 0.15 keV, so that lines near each other blend:

    counts_j ~ Poisson(background + sum_{i=1}^{lines} strength_i (G_i(e_{j+1}) - G_i(e_j))),
    G_i(e) = Phi((e - energy_i) / s),     energy_i ~ Uniform(2, 8) keV, in order,
    strength_i ~ LogUniform(10, 200),     background ~ LogUniform(2, 20) a channel,

with the edges e_j of channels. A weak line hides in the background, and two may look like one, so that the number is
rarely sure.

References:
    | Bayesian Methods for Analysis of Line Emission in Poisson Spectra (van Dyk et al., 2001),
      https://doi.org/10.1086/318656
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Counts, Each, LogUniform, Observable, Prior, Simulator, X

CHANNELS, LOW, HIGH = 60, 2.0, 8.0  # keV
BLUR = 0.15  # keV
MOST = 4  # lines


class SpectralLines(Simulator):
    """Counts in the channels of a spectrum."""

    name = "spectral_lines"
    prior = Prior(
        lines=Counts(0, MOST),
        background=(LogUniform(2.0, 20.0), "ct"),
        energy=Each("lines", td.Uniform(LOW, HIGH), "keV", increasing=True),
        strength=Each("lines", LogUniform(10.0, 200.0), "ct"),
    )
    observables: Mapping[str, Observable] = {
        "counts": Observable(
            (CHANNELS,),
            "ct",
            ("energy",),
            "int64",
            coords={"energy": [round(LOW + 0.05 + 0.1 * j, 2) for j in range(CHANNELS)]},
            coord_units={"energy": "keV"},
        )
    }
    block = 8192

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return {"counts": torch.poisson(expected(theta), generator=generator).long()}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        mean, counts = expected(theta.double()), x["counts"].double()
        return (torch.xlogy(counts, mean) - mean - torch.lgamma(counts + 1)).sum(-1)


def expected(theta: Tensor) -> Tensor:
    """Counts expected in each channel, (batch, 60), of theta (batch, 10): lines, background, energies, strengths."""
    energy, strength = theta[:, 2 : 2 + MOST], theta[:, 2 + MOST :]
    edges = torch.linspace(LOW, HIGH, CHANNELS + 1, dtype=theta.dtype, device=theta.device)
    shares = torch.special.ndtr((edges - energy[..., None]) / BLUR).diff(dim=-1)
    return theta[:, 1:2] + (strength[..., None] * shares).nan_to_num(0.0).sum(1)  # NaN: there is no such line


simulator = SpectralLines()
