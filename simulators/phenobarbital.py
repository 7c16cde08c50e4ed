r"""Phenobarbital in the blood of a newborn, by one compartment: what one infant's few samples say of its clearance.

59 newborns, most of them preterm, were given the drug against seizures: a large dose at first, then small ones every 12
hours or so. Each is in the blood at once. Between them blood was taken one to six times, whenever it was taken anyway.
With doses d_j, per kg of birth weight, at the times t_j, the concentration in the blood is

    dc/dt = -(clearance / volume) c,      c -> c + d_j / volume  at t_j,      sample = c(t) + N(0, noise^2),

c = 0 before the first dose. Clearance and volume are per kg as well. The doses are controls: known inputs that differ
from infant to infant. Whoever chose them may have looked at earlier samples; the likelihood is the same.

The prior is what is known of newborns, log-normal: 0.0047 L/h/kg, give or take 19 %, and 0.96 L/kg, give or take 16 %,
by the study itself. So an infant's samples are used twice, once in these figures, where they count as one infant in 59.
`benchmarks/dynamics.py --parts pheno` does without: it finds the population in earlier samples alone. The noise of a
sample, 2.7 mg/L, is what it finds there, too; a given infant's may be a third larger or smaller.

Given parameters the path is certain, so that its band is what is unknown of them. The likelihood is exact (Kalman's
filter). A study may find the volume of asphyxiated infants 13 % larger; here that is a part of how infants differ.

`phenobarbital_1985.csv` has the doses [mg] and samples [mg/L] of all, with times [h], birth weight [kg] and the Apgar
score of the fifth minute, as the packages pharmpy (`pheno.dta`) and nlme (`Phenobarb`) have them.

Reference:
    | Neonatal population pharmacokinetics of phenobarbital derived from routine clinical data (Grasela, Donn, 1985),
      https://doi.org/10.1159/000457062
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sciinf import LogNormal, Observable, Prior, wrappers
from sciinf.simulators.dynamics.linear_states import Affine, LinearStates
from sciinf.simulators.dynamics.state_space import Theta, Time, duration
from sciinf.simulators.wrappers.hidden_plans import Plan
from sciinf.simulators.wrappers.hidden_states import HiddenStates

FILE = Path(__file__).parent / "phenobarbital_1985.csv"
LINES = 40  # of a record: samples, and each dose twice, before and after it; an infant has 34 at most
CLEARANCE, VOLUME, NOISE = (0.0047, 0.19), (0.96, 0.16), (2.7, 0.3)  # median, and sd of the logarithm
STRETCHED, CHANGED = 0.1, 0.15  # sd of the logarithm: of times and doses of a plan, beside those of an infant


class Compartment(LinearStates):
    """The concentration, which each dose raises, and which falls between them."""

    latent = {"concentration": "mg/L"}
    controls = {"dose": "mg/kg"}
    impulses = ("dose",)

    def start(self, theta: Theta) -> tuple[Tensor, Tensor]:
        none = torch.zeros_like(theta["volume"])
        return none[:, None], none[:, None, None]

    def step(self, theta: Theta, start: Time, stop: Time) -> Affine:
        left = torch.exp(-theta["clearance"] / theta["volume"] * duration(start, stop, theta["volume"]))
        risen = left * theta["dose"] / theta["volume"]  # the dose comes at the beginning of the step
        return Affine(left[:, None, None], risen[:, None], torch.zeros_like(left)[:, None, None])

    def view(self, theta: Theta) -> Mapping[str, Affine]:
        sd = theta["noise"][:, None, None]
        return {"sample": Affine(torch.ones_like(sd), 0.0, sd.square())}


@dataclass(frozen=True)
class Infant:
    """What was done to one infant, and what was seen of it.

    Args:
        dosed: Times of its doses, in h.
        doses: In mg/kg.
        sampled: Times of its samples, in h.
        samples: In mg/L.
    """

    dosed: np.ndarray
    doses: np.ndarray
    sampled: np.ndarray
    samples: np.ndarray


@cache
def infants() -> tuple[Infant, ...]:
    """All 59, by their numbers, from 1 on, less 1."""
    with FILE.open() as file:
        lines = list(csv.DictReader(file))
    found = []
    for number in sorted({int(line["infant"]) for line in lines}):
        own = [line for line in lines if int(line["infant"]) == number]
        given, taken = ([line for line in own if line[column]] for column in ("dose", "concentration"))
        found.append(
            Infant(
                np.array([float(line["time"]) for line in given]),
                np.array([float(line["dose"]) / float(line["weight"]) for line in given]),
                np.array([float(line["time"]) for line in taken]),
                np.array([float(line["concentration"]) for line in taken]),
            )
        )
    return tuple(found)


def record_of(simulator: HiddenStates, infant: Infant, *, hidden: int = 0) -> dict[str, Tensor]:
    """An infant's record, as an observation of the simulator.

    Args:
        simulator: Of this model.
        infant: Whose.
        hidden: How many of its last samples count as missing, to be predicted.
    """
    seen = np.where(np.arange(len(infant.samples)) < len(infant.samples) - hidden, infant.samples, np.nan)
    return simulator.record(infant.sampled, {"sample": seen}, {"dose": (infant.dosed, infant.doses)})


@cache
def _plans() -> tuple[Tensor, Tensor, Tensor]:
    """Times, doses and where there is a sample of all 59, (59, LINES) each, in the order of `HiddenStates.record`."""
    parts = np.zeros((3, len(infants()), LINES))
    for row, one in enumerate(infants()):
        n, m = len(one.sampled), len(one.dosed)
        when, kind = np.r_[one.sampled, one.dosed, one.dosed], np.repeat([0, 1, 2], [n, m, m])
        order = np.lexsort((kind, when))
        lines = np.stack([when, np.r_[np.zeros(n), one.doses, np.zeros(m)], kind == 0])[:, order]
        parts[:, row, : n + 2 * m] = lines
        parts[:2, row, n + 2 * m :] = lines[:2, -1:]  # the last line is repeated, without a sample
    times, doses, there = torch.from_numpy(parts)
    return times, doses, there > 0


def plans(rows: int, generator: torch.Generator) -> Plan:
    """Plans like those of the 59: one of theirs, stretched in time, with doses that are larger or smaller."""
    times, doses, there = _plans()
    which = torch.randint(len(times), (rows,), generator=generator)
    stretched = (STRETCHED * torch.randn(rows, 1, generator=generator)).exp()
    changed = (CHANGED * torch.randn(rows, LINES, generator=generator)).exp()
    return Plan(times[which] * stretched, {"dose": doses[which] * changed}, there[which])


def prior_of(
    clearance: tuple[float, float] = CLEARANCE, volume: tuple[float, float] = VOLUME, noise: tuple[float, float] = NOISE
) -> Prior:
    """Laws of an infant's parameters: median, and sd of the logarithm, of each."""
    return Prior(
        clearance=(LogNormal(math.log(clearance[0]), clearance[1]), "L/(h kg)"),
        volume=(LogNormal(math.log(volume[0]), volume[1]), "L/kg"),
        noise=(LogNormal(math.log(noise[0]), noise[1]), "mg/L"),
    )


def simulator_of(prior: Prior) -> HiddenStates:
    """The simulator of an infant of such a population."""
    sample = Observable((LINES,), "mg/L", ("time",))
    # beside what an infant's plan leaves out, up to half of its samples are missing: records may be shorter
    found = wrappers.state_space(
        Compartment(), prior, plans, {"sample": sample}, missing=0.5, name="phenobarbital", time_unit="h"
    )
    found.files = (FILE,)
    found.derived = {"half_life": (lambda theta: math.log(2) * theta["volume"] / theta["clearance"], "h")}
    return found


simulator = simulator_of(prior_of())
