r"""The annual volume of the Nile at Aswan, 1871-1970, as a local level that is seen with noise.

    level_1 ~ N(1000, 500^2),    level_t = level_{t-1} + N(0, sd_level^2),    volume_t = level_t + N(0, sd_noise^2),

in 1e8 m3 a year. The likelihood is exact (Kalman's filter), and so is the law of the level given the record. The level
fell about 1898, which this model follows within a few years.

`nile_1871.csv` is the record as R (`datasets::Nile`) and statsmodels (`statsmodels.datasets.nile`) have it.

References:
    | The problem of the Nile: conditional solution to a changepoint problem (Cobb, 1978),
      https://doi.org/10.1093/biomet/65.2.243
    | Time series analysis by state space methods (Durbin, Koopman, 2012), chapter 2,
      https://doi.org/10.1093/acprof:oso/9780199641178.001.0001
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sciinf import HalfNormal, Observable, Prior, wrappers
from sciinf.simulators.dynamics.linear_states import Affine, LinearStates
from sciinf.simulators.dynamics.state_space import Theta, Time, duration

FIRST, YEARS = 1871, 100
UNIT = "1e8 m3"
MEAN, SD = 1000.0, 500.0  # of the first level


class Nile(LinearStates):
    """A level that moves from year to year."""

    latent = {"level": UNIT}

    def start(self, theta: Theta) -> tuple[Tensor, Tensor]:
        like = theta["sd_level"]
        return like.new_full((1, 1), MEAN), like.new_full((1, 1, 1), SD**2)

    def step(self, theta: Theta, start: Time, stop: Time) -> Affine:
        sd = theta["sd_level"]
        variance = sd.square() * duration(start, stop, sd)
        return Affine(sd.new_ones(1, 1, 1), 0.0, variance[:, None, None])

    def view(self, theta: Theta) -> Mapping[str, Affine]:
        sd = theta["sd_noise"]
        return {"volume": Affine(sd.new_ones(1, 1, 1), 0.0, sd.square()[:, None, None])}


prior = Prior(sd_noise=(HalfNormal(200.0), UNIT), sd_level=(HalfNormal(100.0), UNIT))
years = range(FIRST, FIRST + YEARS)
volume = Observable((YEARS,), UNIT, ("time",), coords={"time": years}, coord_units={"time": "yr"})
simulator = wrappers.state_space(Nile(), prior, torch.tensor(years), {"volume": volume})
