r"""IMRPhenomD: inspiral, merger and ringdown of two black holes with aligned spins, a batch at a time.

With G = c = 1, M the total mass, x = f M, eta = m_1 m_2 / M^2 and v = (pi x)^{1/3}, the dominant mode is, face on,

    h(f) = A(f) exp(-i phi(f)),    A = sqrt(5 eta / 24) pi^{-2/3} (M^2 / D) x^{-7/6} a(x),    phi = p(x) / eta,

where the reduced amplitude a and phase p have three pieces each:

    inspiral      a = sum_k A_k v^k + rho_1 x^{7/3} + rho_2 x^{8/3} + rho_3 x^3                            x < 0.014
                  p = 3/128 sum_k (phi_k + psi_k log v) v^{k-5}
                      + sigma_1 x + 3/4 sigma_2 x^{4/3} + 3/5 sigma_3 x^{5/3} + 1/2 sigma_4 x^2            x < 0.018
    intermediate  a = the quartic with the values and slopes of its neighbours, and v_2 half way           x < x_peak
                  p = beta_1 x + beta_2 log x - beta_3 / 3 x^{-3}                                          x < x_R / 2
    ringdown      a = gamma_1 w exp(-gamma_2 (x - x_R) / w) / ((x - x_R)^2 + w^2),    w = gamma_3 x_D
                  p = alpha_1 x - alpha_2 / x + 4/3 alpha_3 x^{3/4} + alpha_4 atan((x - alpha_5 x_R) / x_D)

and a = 0 beyond x = 0.2. x_R and x_D are the frequency and the damping rate of the remnant's (2, 2) mode; A_k, phi_k
and psi_k are post-Newtonian. Each of the 19 others is a polynomial of eta and the spin chi_PN (`phenom_d.csv`). p is
continuous with its slope. x_peak is where the ringdown's amplitude is largest: there phi and its slope are set to 0, by
which the waves are strongest at t = 0.

Convention: h(f) is the integral of h(t) exp(-2 pi i f t) dt, so that waves that come later by t have phi larger by
2 pi f t, and those of frequency f arrive at phi'(f) / (2 pi). Spins: chi_1 is that of the heavier.

References:
    | Frequency-domain gravitational waves from nonprecessing black-hole binaries. II (Khan et al., 2016),
      https://arxiv.org/abs/1508.07253
    | The same. I (Husa et al., 2016), https://arxiv.org/abs/1508.07250
    | On gravitational-wave spectroscopy of massive black holes (Berti, Cardoso & Will, 2006), whose tabulated modes the
      polynomials of `ringdown` follow, https://arxiv.org/abs/gr-qc/0512160
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

SUN = 4.925490947641267e-6  # G Msun / c^3 in s
MEGAPARSEC = 3.085677581491367e22 / 299_792_458.0  # s
EULER = 0.5772156649015329
END, AMPLITUDE_JOINT, PHASE_JOINT = 0.2, 0.014, 0.018
# of u = ((1 - a)^{1/3} - 0.7) / 0.6, a the remnant's spin: to 4e-5 and 4e-4 of the tables for -1 <= a <= 0.999
MODE = (
    *(0.081913948, -0.054873955, 0.021900028, -0.0025008844, -0.0040491203, 0.003037677, -0.00076507582),
    *(0.00064976982, -0.00055352092),
)
DAMPING = (
    *(0.013090999, 0.0042608893, -0.0057195466, 0.0035285174, -0.00065535517, -0.0018050052, 0.00154311),
    *(0.00034106529, -0.00081851817, -0.00020131841, 0.00035985224),
)
QUARTIC = ((1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (-11, -4, 16, -5, 1), (18, 5, -32, 14, -3), (-8, -2, 16, -8, 2))


def phenom_d(
    frequency: Float[Tensor, " frequency"],
    chirp_mass: Float[Tensor, " batch"],
    mass_ratio: Float[Tensor, " batch"],
    chi_1: Float[Tensor, " batch"],
    chi_2: Float[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch frequency"], Float[Tensor, "batch frequency"]]:
    """Amplitude and phase of the plus polarisation, face on, at 1 Mpc.

    Args:
        frequency: f, (F,), Hz.
        chirp_mass: In the detector's frame, (B,), solar masses.
        mass_ratio: Lighter over heavier, (B,), in (0, 1].
        chi_1: Spin of the heavier along the orbital angular momentum, (B,), in [-1, 1].
        chi_2: That of the lighter.

    Returns:
        A in 1/Hz and phi in radians, (B, F) each, float64: h = A exp(-i phi).

    Raises:
        ValueError: If a frequency, a chirp mass or a mass ratio is not above 0, or a mass ratio or a spin is beyond 1.

    Example:
        >>> values = torch.tensor([[30.0], [0.8], [0.1], [0.1]])
        >>> amplitude, phase = phenom_d(torch.tensor([100.0]), *values)
        >>> f"{float(amplitude):.2e}"
        '4.92e-21'
    """
    f, mass, q, chi_1, chi_2 = (v.double() for v in (frequency, chirp_mass, mass_ratio, chi_1, chi_2))
    _check(f, mass, q, torch.stack([chi_1, chi_2]))
    pair = Pair.of(mass * SUN, q, chi_1, chi_2)
    x = pair.total[:, None] * f
    scale = (5 / 24 * pair.eta).sqrt() * math.pi ** (-2 / 3) * pair.total ** (5 / 6) / MEGAPARSEC
    amplitude = scale[:, None] * f ** (-7 / 6) * _amplitude(pair, f, x)
    return amplitude, _phase(pair, f, x)


def _check(frequency: Tensor, chirp_mass: Tensor, mass_ratio: Tensor, chi: Tensor) -> None:
    for name, values in (("frequency", frequency), ("chirp mass", chirp_mass), ("mass ratio", mass_ratio)):
        if not bool((values > 0).all()):
            raise ValueError(f"each {name} must be above 0, got {float(values.min())}; masses are in solar masses")
    if not bool((mass_ratio <= 1).all()):
        raise ValueError(f"a mass ratio is lighter over heavier, at most 1, got {float(mass_ratio.max())}; invert it")
    if not bool((chi.abs() <= 1).all()):
        raise ValueError(f"spins are dimensionless, within [-1, 1], got {float(chi.abs().max())} in size")


@dataclass(frozen=True)
class Pair:
    """Two black holes and what they leave; every field (B,), float64, frequencies times M.

    Attributes:
        total: M, seconds.
        eta: Symmetric mass ratio.
        heavy: m_1 / M.
        light: m_2 / M.
        chi_1: Spin of the heavier.
        chi_2: Spin of the lighter.
        mode: x_R.
        damping: x_D.
        fitted: Name -> coefficient, the 19 of the model.
    """

    total: Tensor
    eta: Tensor
    heavy: Tensor
    light: Tensor
    chi_1: Tensor
    chi_2: Tensor
    mode: Tensor
    damping: Tensor
    fitted: dict[str, Tensor]

    @classmethod
    def of(cls, chirp_mass: Tensor, mass_ratio: Tensor, chi_1: Tensor, chi_2: Tensor) -> Pair:
        """That of a chirp mass in seconds."""
        heavy = 1 / (1 + mass_ratio)
        light = mass_ratio * heavy
        eta = heavy * light
        mode, damping = ringdown(heavy, light, chi_1, chi_2)
        chi = heavy * chi_1 + light * chi_2 - 38 / 113 * eta * (chi_1 + chi_2) - 1  # chi_PN - 1
        one = torch.ones_like(eta)
        powers = [one, eta, *(chi**k * eta**j for k in (1, 2, 3) for j in (0, 1, 2))]
        values = torch.stack(powers, dim=-1) @ torch.tensor(list(TABLE.values()), dtype=eta.dtype, device=eta.device).mT
        fitted = dict(zip(TABLE, values.unbind(-1), strict=True))
        return cls(chirp_mass * eta**-0.6, eta, heavy, light, chi_1, chi_2, mode, damping, fitted)

    @property
    def delta(self) -> Tensor:
        return self.heavy - self.light

    @property
    def peak(self) -> Tensor:
        """x_peak."""
        g2, g3 = self.fitted["gamma_2"], self.fitted["gamma_3"]
        root = (1 - g2.clamp_max(1.0) ** 2).sqrt() - 1
        return (self.mode + self.damping * g3 * root / g2).abs()


def ringdown(heavy: Tensor, light: Tensor, chi_1: Tensor, chi_2: Tensor) -> tuple[Tensor, Tensor]:
    """x_R and x_D, (B,): of a hole with the spin and the mass that fits to numerical relativity give."""
    eta = heavy * light
    s = heavy**2 * chi_1 + light**2 * chi_2
    spin = (
        eta * (12**0.5 - 4.399247300629289 * eta + 9.397292189321194 * eta**2 - 13.180949901606242 * eta**3)
        + s * (1 - 0.0850917821418767 * eta - 5.837029316602263 * eta**2)
        + s**2 * eta * (0.1014665242971878 - 2.0967746996832157 * eta)
        + s**3 * eta * (-1.3546806617824356 + 4.108962025369336 * eta)
        + s**4 * eta * (-0.8676969352555539 + 2.064046835273906 * eta)
    )
    s = s / (1 - 2 * eta)
    still = eta * (0.055974469826360077 + 0.5809510763115132 * eta - 0.9606726679372312 * eta**2)
    still = still + 3.352411249771192 * eta**4
    above = 1 + (-0.0030302335878845507 - 2.0066110851351073 * eta + 7.7050567802399215 * eta**2) * s
    below = 1 + (-0.6714403054720589 - 1.4756929437702908 * eta + 7.304676214885011 * eta**2) * s
    left = 1 - still * above / below
    u = ((1 - spin.clamp(-1.0, 0.999)) ** (1 / 3) - 0.7) / 0.6
    return _polynomial(MODE, u) / left, _polynomial(DAMPING, u) / left


def _polynomial(coefficients: Sequence[float], u: Tensor) -> Tensor:
    value = torch.zeros_like(u)
    for c in reversed(coefficients):
        value = value * u + c
    return value


@dataclass(frozen=True)
class Series:
    """A sum of (c + l log x) x^e.

    Attributes:
        terms: Exponent e -> c, (B,) or a number.
        logs: Exponent e -> l.
    """

    terms: dict[float, Tensor]
    logs: dict[float, Tensor]

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope at x (B,)."""
        value, slope = torch.zeros_like(x), torch.zeros_like(x)
        for e, c in self.terms.items():
            value, slope = value + c * x**e, slope + c * e * x ** (e - 1)
        for e, c in self.logs.items():
            value, slope = value + c * x**e * x.log(), slope + c * x ** (e - 1) * (1 + e * x.log())
        return value, slope

    def plus(self, constant: Tensor, slope: Tensor) -> Series:
        """With a line added."""
        more = {0.0: constant, 1.0: slope}
        return Series(self.terms | {e: self.terms.get(e, 0.0) + c for e, c in more.items()}, self.logs)

    def over(self, frequency: Tensor, total: Tensor) -> Tensor:
        """Values (B, F) at x = f M: powers of a product are products, so that a matrix product does it."""
        rows = [c * total**e for e, c in self.terms.items()]
        columns = [frequency**e for e in self.terms]
        for e, c in self.logs.items():
            rows += [c * total**e * total.log(), c * total**e]
            columns += [frequency**e, frequency**e * frequency.log()]
        return torch.stack(rows, dim=-1) @ torch.stack(columns)


def _amplitude(pair: Pair, frequency: Tensor, x: Tensor) -> Tensor:
    """a, (B, F)."""
    early = _early_amplitude(pair)
    first, last = torch.full_like(pair.eta, AMPLITUDE_JOINT), pair.peak
    width = last - first
    value, slope = early.at(first)
    value_peak, slope_peak = (v[:, 0] for v in _late_amplitude(pair, last[:, None]))
    ends = torch.stack([value, slope * width, pair.fitted["v_2"], value_peak, slope_peak * width], dim=-1)
    quartic = ends @ torch.tensor(QUARTIC, dtype=ends.dtype, device=ends.device).mT
    u = (x - AMPLITUDE_JOINT) / width[:, None]
    middle = quartic[:, 4:] * u
    for k in (3, 2, 1):
        middle = (middle + quartic[:, k : k + 1]) * u
    middle = middle + quartic[:, :1]
    late = torch.where(x < END, _late_amplitude(pair, x)[0], 0.0)
    return torch.where(x < AMPLITUDE_JOINT, early.over(frequency, pair.total), torch.where(u < 1, middle, late))


def _late_amplitude(pair: Pair, x: Tensor) -> tuple[Tensor, Tensor]:
    """The ringdown's a and its slope at x (B, F)."""
    g1, g2, w = (v[:, None] for v in (pair.fitted["gamma_1"], pair.fitted["gamma_2"], _width(pair)))
    off = x - pair.mode[:, None]
    peak = off**2 + w**2
    value = g1 * w * (off * (-g2 / w)).exp() / peak
    return value, -value * (g2 / w + 2 * off / peak)


def _width(pair: Pair) -> Tensor:
    return pair.fitted["gamma_3"] * pair.damping


def _early_amplitude(pair: Pair) -> Series:
    """The inspiral's a: post-Newtonian A_k, to the third order, and the three fitted terms."""
    eta, both = pair.eta, pair.chi_1 * pair.chi_2
    bodies = ((pair.heavy, pair.chi_1), (pair.light, pair.chi_2))
    linear = sum(chi * (27 / 8 * m - 11 / 12 * eta) for m, chi in bodies)
    square = sum((m * chi) ** 2 for m, chi in bodies)
    cubic = sum(chi * (570394 * m - 4 * (90323 + 3158 * m) * eta - 35632 * eta**2) for m, chi in bodies)
    squares = pair.chi_1**2 + pair.chi_2**2
    masses = sum(2 * m * (107414046432 * chi**2 + 11087290368 * math.pi * chi) for m, chi in bodies)
    products = sum(
        chi**2 * (202603761360 + 77287373856 * (2 * m - 1)) + 5841690624 * math.pi * chi for m, chi in bodies
    )
    sixth = (
        -336 * eta**2 * (-3248849057 + 2943675504 * squares - 3339284256 * both)
        - 324322727232 * eta**3
        - 7 * (-177520268561 + masses)
        + 12 * eta * (-545384828789 - 176491177632 * both + products + 21384760320 * math.pi**2)
    )
    fourth = -27312085 / 8128512 - 1975055 / 338688 * eta + 105271 / 24192 * eta**2
    a = {
        0: torch.ones_like(eta),
        2: -969 / 672 + 1804 / 672 * eta,
        3: linear,
        4: fourth - 81 / 32 * square - 47 / 16 * eta * both,
        5: cubic / 32256 - 85 / 64 * math.pi * (1 - 4 * eta),
        6: -sixth / 60085960704,
    }
    terms = {k / 3: torch.as_tensor(c) * math.pi ** (k / 3) for k, c in a.items()}
    return Series(terms | {(6 + k) / 3: pair.fitted[f"rho_{k}"] for k in (1, 2, 3)}, {})


def _early_phase(pair: Pair) -> Series:
    """The inspiral's p but for its constant: post-Newtonian, to the order 3.5, and the four fitted terms."""
    eta, fitted, pi = pair.eta, pair.fitted, math.pi
    bodies = ((pair.heavy, pair.chi_1), (pair.light, pair.chi_2))
    phi = {
        0: torch.ones_like(eta),
        2: 3715 / 756 + 55 / 9 * eta,
        3: -16 * pi + sum(m * (25 + 38 / 3 * m) * chi for m, chi in bodies),
        4: 15293365 / 508032
        + 27145 / 504 * eta
        + 3085 / 72 * eta**2
        - 395 / 4 * eta * pair.chi_1 * pair.chi_2
        - 405 / 8 * sum((m * chi) ** 2 for m, chi in bodies),
        6: 11583231236531 / 4694215680
        - 640 / 3 * pi**2
        - 6848 / 21 * (EULER + math.log(4))
        + (2255 / 12 * pi**2 - 15737765635 / 3048192) * eta
        + 76055 / 1728 * eta**2
        - 127825 / 1296 * eta**3
        + pi * sum(m * (1490 / 3 + 260 * m) * chi for m, chi in bodies),
        7: pi * (77096675 / 254016 + 378515 / 1512 * eta - 74045 / 756 * eta**2)
        + sum(m * chi * _seventh(m, eta) for m, chi in bodies),
    }
    fifth = sum(m * chi * (13915 / 84 - 10 / 3 * eta + m * (12760 / 81 + 170 / 9 * eta)) for m, chi in bodies)
    psi = {5: pi * (38645 / 252 - 65 / 3 * eta) - 3 * fifth, 6: torch.full_like(eta, -6848 / 21)}
    phi[6] = phi[6] + psi[6] * math.log(pi) / 3  # log v = (log pi + log x) / 3
    terms = {(k - 5) / 3: 3 / 128 * c * pi ** ((k - 5) / 3) for k, c in phi.items()}
    terms |= {(2 + k) / 3: 3 / (2 + k) * fitted[f"sigma_{k}"] for k in (1, 2, 3, 4)}
    return Series(terms, {(k - 5) / 3: c / 128 * pi ** ((k - 5) / 3) for k, c in psi.items()})


def _seventh(m: Tensor, eta: Tensor) -> Tensor:
    """Of phi_7, what multiplies the mass and the spin of a body of mass m."""
    own = -7189233785 / 1524096 + 458555 / 3024 * eta - 5345 / 72 * eta**2
    return -170978035 / 48384 + 2876425 / 672 * eta + 4735 / 144 * eta**2 + m * own


def _phase(pair: Pair, frequency: Tensor, x: Tensor) -> Tensor:
    """phi, (B, F): the ringdown's slope is set to 0 at its peak, and what comes before is joined to what follows."""
    fitted = pair.fitted
    middle = Series({1.0: fitted["beta_1"], -3.0: -fitted["beta_3"] / 3}, {0.0: fitted["beta_2"]})
    late = Series({1.0: fitted["alpha_1"], -1.0: -fitted["alpha_2"], 0.75: 4 / 3 * fitted["alpha_3"]}, {})
    first, second = torch.full_like(pair.eta, PHASE_JOINT), pair.mode / 2
    late = late.plus(*_line(pair.peak, _added(late.at(pair.peak), _turn(pair, pair.peak[:, None])), (0.0, 0.0)))
    middle = middle.plus(*_line(second, middle.at(second), _added(late.at(second), _turn(pair, second[:, None]))))
    early = _early_phase(pair)
    early = early.plus(*_line(first, early.at(first), middle.at(first)))
    first_two = torch.where(x < PHASE_JOINT, early.over(frequency, pair.total), middle.over(frequency, pair.total))
    p = torch.where(x < second[:, None], first_two, late.over(frequency, pair.total) + _turn(pair, x)[0])
    return p / pair.eta[:, None]


def _turn(pair: Pair, x: Tensor) -> tuple[Tensor, Tensor]:
    """The arc tangent of the ringdown's p, and its slope, at x (B, F)."""
    a4, a5 = (pair.fitted[name][:, None] for name in ("alpha_4", "alpha_5"))
    t = (x - a5 * pair.mode[:, None]) / pair.damping[:, None]
    return a4 * t.atan(), a4 / pair.damping[:, None] / (1 + t**2)


def _added(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return first[0] + second[0][:, 0], first[1] + second[1][:, 0]


def _line(
    x: Tensor, found: tuple[Tensor, Tensor], wanted: tuple[Tensor | float, Tensor | float]
) -> tuple[Tensor, Tensor]:
    """Constant and slope of what gives a function the wanted value and slope at x (B,)."""
    slope = wanted[1] - found[1]
    return wanted[0] - found[0] - slope * x, slope


def _table() -> dict[str, list[float]]:
    with Path(__file__).with_name("phenom_d.csv").open(newline="") as file:
        return {name: [float(v) for v in values] for name, *values in list(csv.reader(file))[1:]}


TABLE = _table()
