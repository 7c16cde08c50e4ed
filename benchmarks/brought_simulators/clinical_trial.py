r"""Survival of 120 patients of a clinical trial: 40 of the control, and 80 who got the treatment.

Times to death have Weibull distributions with proportional hazards. With t in years and `median` that of the control,

    S_control(t) = exp(-log(2) (t / median)^shape),     S_treated(t) = S_control(t)^{exp(log_hazard_ratio)}.

Patients enter the trial during a year and a half, and it ends three years after its beginning. So each is followed for
a time that is uniform between 1.5 and 3 years, and those who live longer are censored then.

References:
    | The statistical analysis of failure time data (Kalbfleisch & Prentice, 2002), https://doi.org/10.1002/9781118032985
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinf import LogNormal, Normal, Observable, Prior, Simulator
from sciinf.core import X

CONTROL, TREATED = 40, 80
ENTRY, END = 1.5, 3.0  # years


class ClinicalTrial(Simulator):
    """Of each patient of an arm, the years until death or censoring, and which of the two it is (death is 1)."""

    name = "clinical_trial"
    prior = Prior(
        median=(LogNormal(0.0, 0.5), "yr"),
        shape=LogNormal(math.log(1.2), 0.3),
        log_hazard_ratio=Normal(0.0, 0.5),
    )
    observables = {
        "time_control": Observable((CONTROL,), "yr", dims=("item",)),
        "death_control": Observable((CONTROL,), dims=("item",), dtype="int64"),
        "time_treated": Observable((TREATED,), "yr", dims=("item",)),
        "death_treated": Observable((TREATED,), dims=("item",), dtype="int64"),
    }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        median, shape, ratio = theta.double()[:, :, None].unbind(1)
        draws = torch.rand(2, len(theta), CONTROL + TREATED, generator=generator, dtype=torch.float64)
        treated = torch.arange(CONTROL + TREATED) >= CONTROL
        hazard = -torch.log1p(-draws[0]) / math.log(2) * (-ratio * treated).exp()
        death, followed = median * hazard ** (1 / shape), END - ENTRY * draws[1]
        time, died = torch.minimum(death, followed).to(theta.dtype), (death <= followed).long()
        return {
            "time_control": time[:, :CONTROL],
            "death_control": died[:, :CONTROL],
            "time_treated": time[:, CONTROL:],
            "death_treated": died[:, CONTROL:],
        }

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 3), float64.

        The density of the times of censoring is left out, for no parameter changes it.
        """
        median, shape, ratio = theta.double()[:, :, None].unbind(1)
        total = torch.zeros(len(theta), dtype=torch.float64)
        for arm, log_ratio in (("control", torch.zeros_like(ratio)), ("treated", ratio)):
            time, died = x[f"time_{arm}"].double(), x[f"death_{arm}"].double()
            log_time = (time.clamp_min(1e-9) / median).log()
            cumulative = math.log(2) * (shape * log_time + log_ratio).exp()
            hazard = math.log(math.log(2)) + log_ratio + (shape / median).log() + (shape - 1) * log_time
            total = total + (died * hazard - cumulative).sum(1)
        return total


simulator = ClinicalTrial()
