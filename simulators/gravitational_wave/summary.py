r"""Summary networks for a whitened strain and for the curve of its noise.

Whitened waveforms lie near a space of much fewer dimensions than they have frequencies. Of a bank of them with masses
and spins from the prior, noise curves from the family and times of coalescence within 3 ms of 0, each divided by its
norm, u_1 ... u_k are the leading left singular vectors, complex: they span waveforms in any phase. Of the coefficients
c = (u_1^H x, ..., u_k^H x), of which the noise is N(0, 1) in each real and imaginary part, the network sees

    c / sqrt(k + |c|^2),    log(1 + |c|^2 / k),

the shape and the loudness apart, for loudness varies twentyfold. x comes from the bank's region where the data have
been moved to the time of coalescence, or nearly.

References:
    | Real-time gravitational wave science with neural posterior estimation, supplement (Dax et al., 2021), for
      reduction by a basis, https://arxiv.org/abs/2106.12594
    | Finding structure with randomness (Halko, Martinsson & Tropp, 2011), for the algorithm,
      https://arxiv.org/abs/0909.4061
"""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core import Observable
from sciinf.core.summary import Summary, SummaryNetwork, check_positive
from sciinf.networks.summaries.perceptron import Perceptron

from .noise import HIGH, LOW, draw_curves, frequencies, seconds_of, whiten
from .waveform import phenom_d

BANDS = 24  # over which a curve is averaged
SPARE, ROUNDS = 20, 2  # columns and power iterations of the randomised decomposition


class Reduced(Summary):
    """Coefficients of a whitened strain in a basis of waveforms, then a residual network.

    Args:
        size: k, vectors of the basis.
        features: Width of the output.
        width: Width of the residual blocks.
        blocks: How many there are.
        bank: Waveforms that the basis is made from.
        jitter: Seconds around 0 in which they coalesce.
        chirp_mass: Bounds of their chirp masses, solar masses.

    Raises:
        ValueError: If a size is below 1, or the bank has fewer waveforms than the basis vectors.
    """

    def __init__(
        self,
        size: int = 100,
        features: int = 64,
        width: int = 128,
        blocks: int = 3,
        bank: int = 2000,
        jitter: float = 0.003,
        chirp_mass: tuple[float, float] = (20.0, 45.0),
    ) -> None:
        check_positive(size=size, features=features, width=width, blocks=blocks)
        if bank < size + SPARE:
            raise ValueError(f"{size} vectors need a bank of {size + SPARE} waveforms or more, got {bank}")
        self.size, self.features, self.width, self.blocks = size, features, width, blocks
        self.bank, self.jitter, self.chirp_mass = bank, jitter, (float(chirp_mass[0]), float(chirp_mass[1]))

    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        _check(spec, masked, ("frequency", "part"))
        return _Reduced(self, spec.shape[0], masked)


class Bands(Summary):
    """Means of a noise curve over 24 logarithmic bands, then a layer.

    Args:
        features: Width of the output.
    """

    def __init__(self, features: int = 16) -> None:
        check_positive(features=features)
        self.features = features

    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        _check(spec, masked, ("frequency",))
        return _Bands(self, spec.shape[0], masked)


class _Reduced(SummaryNetwork):
    matrix: Tensor

    def __init__(self, plan: Reduced, count: int, masked: bool) -> None:
        super().__init__((count, 2), masked)
        v = basis(plan.size, plan.bank, plan.jitter, plan.chirp_mass, count)
        # x V of complex numbers as one real product: (re, im) of each bin by (re, im) of each vector
        rows = torch.stack([torch.view_as_real(v), torch.view_as_real(1j * v)], dim=1)
        self.register_buffer("matrix", rows.flatten(2).flatten(0, 1).contiguous())
        self.size, self.features = plan.size, plan.features
        self.enter = nn.Linear(2 * plan.size + 1, plan.width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(plan.width), *Perceptron([plan.width, 2 * plan.width, plan.width]))
            for _ in range(plan.blocks)
        )
        self.leave = nn.Linear(plan.width, plan.features)

    def summarise(
        self, x: Float[Tensor, "batch frequency 2"], mask: Bool[Tensor, "batch frequency 2"]
    ) -> Float[Tensor, "batch feature"]:
        c = x.flatten(1) @ self.matrix.to(x.dtype)
        square = c.square().sum(-1, keepdim=True) / self.size
        h = self.enter(torch.cat([c / (self.size * (1 + square)).sqrt(), square.log1p()], dim=-1))
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h)


class _Bands(SummaryNetwork):
    matrix: Tensor

    def __init__(self, plan: Bands, count: int, masked: bool) -> None:
        super().__init__((count,), masked)
        band = (BANDS * (frequencies(seconds_of(count)) / LOW).log() / math.log(HIGH / LOW)).long()
        inside = F.one_hot(band, BANDS).float()
        self.register_buffer("matrix", inside / inside.sum(0))
        self.features = plan.features
        self.layer = nn.Sequential(nn.Linear(BANDS, plan.features), nn.GELU())

    def summarise(
        self, x: Float[Tensor, "batch frequency"], mask: Bool[Tensor, "batch frequency"]
    ) -> Float[Tensor, "batch feature"]:
        return self.layer(x @ self.matrix.to(x.dtype))


@functools.cache
def basis(
    size: int, bank: int, jitter: float, chirp_mass: tuple[float, float], count: int
) -> Complex[Tensor, "frequency vector"]:
    """V of waveforms ~ (waveforms V) V^H, the same in each call: (F, k), complex64.

    Args:
        size: k.
        bank: How many waveforms.
        jitter: Seconds around 0 in which they coalesce.
        chirp_mass: Bounds of their chirp masses, solar masses.
        count: F.
    """
    generator = torch.Generator().manual_seed(0)
    waveforms = whitened_bank(bank, jitter, chirp_mass, generator, seconds_of(count)).to(torch.complex64)
    q = waveforms @ torch.randn(count, size + SPARE, generator=generator, dtype=torch.complex64)
    for _ in range(ROUNDS):
        q = torch.linalg.qr(waveforms.mH @ torch.linalg.qr(q).Q).Q
        q = waveforms @ q
    return torch.linalg.svd(torch.linalg.qr(q).Q.mH @ waveforms, full_matrices=False).Vh[:size].mH.contiguous()


def whitened_bank(
    n: int, jitter: float, chirp_mass: tuple[float, float], generator: torch.Generator, seconds: float
) -> Complex[Tensor, "waveform frequency"]:
    """Whitened waveforms of norm 1 with parameters and noise curves drawn at random, complex128.

    Args:
        n: How many.
        jitter: Seconds around 0 in which they coalesce.
        chirp_mass: Bounds of their chirp masses, solar masses.
        generator: The only source of randomness.
        seconds: How long the data are.
    """
    f = frequencies(seconds)
    u = torch.rand(4, n, generator=generator, dtype=torch.float64)
    mass = chirp_mass[0] + (chirp_mass[1] - chirp_mass[0]) * u[0]
    chi = 1.6 * u[2] - 0.8
    amplitude, phase = phenom_d(f, mass, 0.25 + 0.75 * u[1], chi, chi)
    phase = phase + 2 * math.pi * f * (jitter * (2 * u[3:].mT - 1))
    h = whiten(torch.polar(amplitude, -phase), draw_curves(n, f, generator), seconds)
    return h / h.abs().square().sum(-1, keepdim=True).sqrt()


def _check(spec: Observable, masked: bool, dims: tuple[str, ...]) -> None:
    if spec.dims != dims or masked:
        raise ValueError(
            f"the summary is for complete observables along {dims}, got {spec.dims or spec.shape}"
            f"{' with a mask' if masked else ''}; use it for those of simulators/gravitational_wave"
        )
