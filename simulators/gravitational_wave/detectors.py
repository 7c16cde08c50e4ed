r"""The detectors' places and what they hear of a wave from a direction.

With r a detector's place, x and y the unit vectors along its arms and n the unit vector to the source, all fixed to the
Earth, a wave reaches the detector -n r / c after the Earth's centre, and moves it by h = F_+ h_+ + F_x h_x,

    F_+ = p D p - q D q,    F_x = p D q + q D p,    D = (x x^T - y y^T) / 2,
    p = -cos(psi) east + sin(psi) north,    q = sin(psi) east + cos(psi) north,

with east and north at the source's place in the sky.

References:
    | An excess power statistic for detection of burst sources of gravitational radiation, appendix B (Anderson et al.,
      2001), https://arxiv.org/abs/gr-qc/0008066
    | LIGO-T980044: Determination of the as-built LIGO global coordinates (Althouse et al., 2001),
      https://dcc.ligo.org/LIGO-T980044/public
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

LIGHT = 299_792_458.0  # m/s


@dataclass(frozen=True)
class Detector:
    """An interferometer.

    Attributes:
        place: r, m from the Earth's centre: towards longitude 0 and 90 degrees on the equator, and the north pole.
        first: x.
        second: y.
    """

    place: tuple[float, float, float]
    first: tuple[float, float, float]
    second: tuple[float, float, float]


@dataclass(frozen=True)
class Response:
    """What a detector hears of a wave.

    Attributes:
        plus: F_+.
        cross: F_x.
        delay: Seconds from the Earth's centre to the detector, negative where the wave meets the detector first.
    """

    plus: float
    cross: float
    delay: float


DETECTORS = {
    "H1": Detector(
        (-2161414.92636, -3834695.17889, 4600350.22664),
        (-0.22389266154, 0.79983062746, 0.55690487831),
        (-0.91397818574, 0.02609403989, -0.40492342125),
    ),
    "L1": Detector(
        (-74276.0447238, -5496283.71971, 3224257.01744),
        (-0.95457412153, -0.14158077340, -0.26218911324),
        (0.29774156894, -0.48791033647, -0.82054461286),
    ),
}


def antenna(right_ascension: float, declination: float, polarisation: float, gps: float, detector: str) -> Response:
    """What a detector hears of a wave from a direction.

    The Earth's rotation is that of UTC, which is off by less than 0.9 s: a delay is off by less than 2 microseconds.

    Args:
        right_ascension: Radians, ICRS.
        declination: Radians, ICRS.
        polarisation: psi, radians.
        gps: GPS time, s.
        detector: "H1" or "L1".

    Raises:
        ValueError: If there is no such detector.
    """
    if detector not in DETECTORS:
        raise ValueError(f"there is no detector {detector!r}; choose from {', '.join(DETECTORS)}")
    site = DETECTORS[detector]
    place, first, second = (np.array(v) for v in (site.place, site.first, site.second))
    longitude, latitude = _below(right_ascension, declination, gps)
    east = np.array([-math.sin(longitude), math.cos(longitude), 0.0])
    to_source = np.array(
        [math.cos(longitude) * math.cos(latitude), math.sin(longitude) * math.cos(latitude), math.sin(latitude)]
    )
    north = np.cross(to_source, east)
    p = -math.cos(polarisation) * east + math.sin(polarisation) * north
    q = math.sin(polarisation) * east + math.cos(polarisation) * north
    tensor = (np.outer(first, first) - np.outer(second, second)) / 2
    return Response(
        float(p @ tensor @ p - q @ tensor @ q), float(2 * p @ tensor @ q), float(-(to_source @ place) / LIGHT)
    )


def arrival_difference(right_ascension: float, declination: float, gps: float) -> float:
    """Seconds by which a wave from a direction reaches L1 after H1; negative where L1 is first.

    Args:
        right_ascension: Radians, ICRS.
        declination: Radians, ICRS.
        gps: GPS time, s.
    """
    h1, l1 = (antenna(right_ascension, declination, 0.0, gps, name).delay for name in ("H1", "L1"))
    return l1 - h1


def _below(right_ascension: float, declination: float, gps: float) -> tuple[float, float]:
    """Longitude and latitude, radians, from where a place in the sky is overhead of the Earth's centre."""
    from astropy import units
    from astropy.coordinates import PrecessedGeocentric, SkyCoord
    from astropy.time import Time

    time: Any = Time(gps, format="gps").utc
    time.delta_ut1_utc = 0.0
    sky = SkyCoord(right_ascension * units.rad, declination * units.rad, frame="icrs")
    now: Any = sky.transform_to(PrecessedGeocentric(equinox=time, obstime=time))
    turned = time.sidereal_time("mean", "greenwich").rad
    return float(now.ra.rad) - float(turned), float(now.dec.rad)
