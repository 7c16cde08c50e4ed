"""The steps of a question about one observation: checks before the answer, the draws, and findings about the draws.

`answer.query` takes the steps one after the other. A caller with many questions may take each step for all of them at
once. A question stays the same, and so does its answer.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from sciinf.campaigns.block import simulate_from
from sciinf.core import (
    Answer,
    Calibration,
    Draws,
    Finding,
    Observation,
    Posterior,
    Simulator,
    Strange,
    X,
    as_observation,
)
from sciinf.core.derived import with_derived
from sciinf.core.diagnostic import Case
from sciinf.core.doubts import noting, summed_up
from sciinf.core.estimates import estimates
from sciinf.core.findings import Cause, Level
from sciinf.core.paths import HiddenPaths
from sciinf.core.simulator import as_seen, described
from sciinf.diagnostics.around import MANY, around_answer
from sciinf.diagnostics.discovery import diagnose
from sciinf.diagnostics.failures import Reading, asked
from sciinf.diagnostics.judge import Judge, Looked
from sciinf.diagnostics.second import vouched
from sciinf.posteriors.finite import finite, left_out
from sciinf.posteriors.marginal import known_categories
from sciinf.posteriors.tilted import layers

CHECKS = 21  # Raise this number when the checks change, so that older answers to the same question are made again.
_PREDICTIVE = 400
_PATHS = 1_000
_FAILED = 0.01  # Share of failed simulations, or of missing paths, above which the finding is a caution (yellow).
_AROUND = 2_000  # Draws that show where the answer lies, for the simulations around it.


@dataclass(frozen=True)
class QueryOptions:
    """Options of a question: credible level, number of draws, seed, reading of failures, predictions, name and files.

    Args:
        level: Credible level of the central intervals.
        draws: Least number of posterior draws.
        seed: Seed of the draws.
        failures: How failed simulations are treated (`diagnostics.failures`).
        predicted: Whether data are simulated from the answer and compared with the observation, if there is a
            simulator.
        name: Name of the observation.
        files: Files of the observation -> SHA-256 of each.

    Raises:
        ValueError: If `level` is not between 0 and 1, or `draws` is below 1.
    """

    level: float = 0.9
    draws: int = 10_000
    seed: int = 0
    failures: Reading = "exclude"
    predicted: bool = True
    name: str = "observation"
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level is a probability between 0 and 1, got {self.level}")
        if self.draws < 1:
            raise ValueError(f"an answer needs at least one draw, got draws={self.draws}")


@dataclass(frozen=True)
class Question:
    """One observation, with the posterior that answers and the options of the question.

    Args:
        judge: The posterior that answers, adapted to the reading of failures, with its calibration.
        x: The observation, name -> (1, *event).
        simulator: Simulator for predictions, derived quantities and labels; None if there is none.
        wanted: Options of the question.
        read: Lines that say how the observation was read from its files.
        findings: Findings from reading the observation, about what remained unknown.
    """

    judge: Judge
    x: X
    simulator: Simulator | None
    wanted: QueryOptions
    read: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def posterior(self) -> Posterior:
        return self.judge.posterior

    def look(self) -> Looked:
        """Check, before answering, whether the observation looks like the simulations."""
        return self.judge.look(self.x)[0]

    def generator(self) -> torch.Generator:
        """New generator, from the seed of the question, for the random numbers of the answer in their fixed order."""
        return torch.Generator().manual_seed(self.wanted.seed)

    def answer(self, looked: Looked) -> Answer:
        """Draw from the posterior, and return the complete answer."""
        generator = self.generator()
        with noting() as noted:
            drawn = self.posterior.draw(self.x, self.wanted.draws, generator=generator)
        return self.completed(looked, drawn, generator, summed_up(noted))

    def completed(
        self, looked: Looked, drawn: Draws, generator: torch.Generator, doubts: Sequence[Finding] = ()
    ) -> Answer:
        """Make the complete answer from posterior draws: estimates, predictions and checks.

        Args:
            looked: Result of `look`.
            drawn: Draws of the posterior.
            generator: The generator that the draws came from; further random numbers are taken from it.
            doubts: Findings that arose while the draws were made.

        Raises:
            ValueError: If more than one in a hundred draws is not finite.
        """
        wanted, posterior, calibration = self.wanted, self.posterior, self.judge.calibration
        found = replace(finite(drawn, posterior.prior), categories=known_categories(posterior, self.x))
        shown = with_derived(found, self.simulator)
        *_, raw = layers(posterior)
        plain = None
        if raw is not posterior:
            plain = finite(raw.draw(self.x, wanted.draws, generator=generator), raw.prior)
            plain = replace(plain, categories=known_categories(raw, self.x))
        simulator = self.simulator if wanted.predicted else None
        paths, lost = _hidden(simulator, self.x, found, wanted)
        corrected, region = self.judge.recalibrated(found, wanted.level, looked)
        case = replace(
            self.judge.case(shown, wanted.level, wanted.failures),
            trust=looked.trust, x=self.x, plain=plain, seed=wanted.seed,
            found=[*self.findings, *doubts, *lost, *left_out(drawn, found)],
        )  # fmt: skip
        case = case if simulator is None else _simulated(case, simulator, found, generator)
        checks = vouched(diagnose(case), calibration)
        return Answer(
            parameters=estimates(shown, wanted.level, corrected),
            draws=shown,
            calibration=calibration,
            trust=replace(looked.trust, where=_strange(checks)),
            observation={name: value[0].numpy() for name, value in self.x.items()},
            predictive={name: value.numpy() for name, value in case.predicted.items()},
            predicted_from=torch.zeros(0, 0).numpy() if case.theta is None else case.theta.numpy(),
            amortised=estimates(with_derived(plain, self.simulator), wanted.level) if plain else {},
            posterior=posterior.name,
            scope=posterior.scope,
            checks=checks,
            read=self.read,
            name=wanted.name,
            files=wanted.files,
            region=region,
            observables=described(posterior.observables, self.simulator),
            prior=posterior.prior,
            paths=paths,
        )


def question(judge: Judge, x: Any, simulator: Simulator | None, wanted: QueryOptions) -> Question:
    """Build a question about an observation.

    Args:
        judge: The posterior that answers, with its calibration, from `judge_of`.
        x: One observation: observable name -> array or astropy quantity of its event shape.
        simulator: Simulator for predictions, derived quantities and labels, as in `Question`.
        wanted: Options of the question.

    Raises:
        ValueError: If x does not fit the observables or is not finite.
    """
    told = (x.read, x.findings) if isinstance(x, Observation) else ((), ())
    return Question(judge, as_observation(judge.posterior.observables, x), simulator, wanted, *told)


def judge_of(posterior: Posterior, calibration: Calibration | None, failures: Reading) -> Judge:
    """Adapt a posterior to the reading of failures, and combine it with its calibration.

    Raises:
        ValueError: If the calibration is of another fit, or if the reading of failures is unknown or impossible here.
    """
    posterior = asked(posterior, calibration, failures)
    if calibration is not None and calibration.fit not in [layer.digest for layer in layers(posterior)]:
        raise ValueError(
            f"the calibration is of another fit ({calibration.fit[:12]}) than the posterior ({posterior.digest[:12]}); "
            "run calibrate on this posterior"
        )
    return Judge(posterior, calibration)


def _hidden(
    simulator: Simulator | None, x: X, draws: Draws, wanted: QueryOptions
) -> tuple[HiddenPaths, tuple[Finding, ...]]:
    """Draw hidden paths behind the data, one for each parameter draw; findings say why paths are missing, if any."""
    if simulator is None or simulator.paths is None:
        return HiddenPaths(), ()
    # The paths have a generator of their own, so that no other draws depend on them.
    generator = torch.Generator().manual_seed(wanted.seed)
    theta = draws.of_parameters().resample(_PATHS, generator=generator)
    try:
        found = simulator.paths(theta, x, generator)
    except ValueError as error:
        return HiddenPaths(), (Finding("hidden paths", Level.CAUTION, f"none were drawn: {error}"),)
    found = replace(found, values=found.values.astype(np.float32), level=wanted.level)
    if not (lost := len(theta) - len(found.values)):
        return found, ()
    words = f"there is none for {lost} of {len(theta):,} draws: at their parameters the model cannot give these data"
    return found, (Finding("hidden paths", Level.CAUTION if lost > _FAILED * len(theta) else Level.GOOD, words),)


def _simulated(case: Case, simulator: Simulator, draws: Draws, generator: torch.Generator) -> Case:
    """Add to a case the data simulated from the answer and from around it, for the diagnostics that need them.

    The simulated data have the times and the missing values of the observation, if the simulator can do that
    (`Simulator.like`). Rows that fail are left out, with a warning.

    Args:
        case: The answer, in the form that diagnostics take.
        simulator: The simulator.
        draws: Posterior draws of the simulator's parameters.
        generator: Source of the random numbers.
    """
    seen = as_seen(simulator, case.x)
    of, started = draws.resample(_PREDICTIVE, generator=generator), time.monotonic()
    data, good = simulate_from(seen, of, generator=generator)
    seconds = (time.monotonic() - started) / len(of)
    if not bool(good.all()):
        lost = int((~good).sum())
        words = f"{lost} of {len(good)} simulations from the posterior failed and are left out of the predictive check"
        warnings.warn(words, stacklevel=3)
        level = Level.GOOD if lost <= _FAILED * len(good) else Level.CAUTION if lost < len(good) else Level.ALARM
        case.found.append(Finding("predictions", level, words, cause=Cause.FAILURES if level != Level.GOOD else None))
    theta = draws.resample(_AROUND, generator=generator)
    made = functools.partial(around_answer, case.posterior, seen, theta, seconds=seconds, generator=generator)
    more = functools.partial(made, sizes=MANY)
    simulated: dict[str, Any] = {"simulator": simulator, "theta": of[good], "predicted": data, "around": made()}
    return replace(case, **simulated, more_around=more, generator=generator)


def _strange(checks: Sequence[Finding]) -> tuple[Strange, ...]:
    """Collect the strange numbers of the observation from the figures of the findings."""
    return tuple(Strange.from_json(one) for check in checks for one in check.figures.get("where", ()))
