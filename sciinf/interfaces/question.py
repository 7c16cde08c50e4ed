"""A question about one observation, step by step: what is known of it before, the draws, and what is said of them.

`answer.query` takes the steps one after the other. Whoever has many questions at a time may take each step for all of
them at once: a question is the same, and so is its answer.
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

CHECKS = 21  # raised when what is checked changes, so that an older answer to the same question is made anew
_PREDICTIVE = 400
_PATHS = 1_000
_FAILED = 0.01  # of them, above which an answer says so in yellow
_AROUND = 2_000  # draws that tell where an answer lies


@dataclass(frozen=True)
class QueryOptions:
    """What is asked for.

    Args:
        level: Credible level of the central intervals.
        draws: Posterior draws, at least.
        seed: Seeds the draws.
        failures: What simulations that failed are (`diagnostics.failures`).
        predicted: Whether data are simulated from the answer and compared with the observation, by the simulator.
        name: What the observation is called.
        files: The files it came from -> SHA-256 of each.

    Raises:
        ValueError: If level or draws make no sense.
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
    """One observation and what answers it.

    Args:
        judge: The posterior that answers, as failures are to be read, with its calibration.
        x: The observation, name -> (1, *event).
        simulator: For predictions, derived quantities and labels, if there is one.
        wanted: What is asked for.
        read: How the observation was read from its files.
        findings: What could not be told of it then.
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
        """What is said of the observation before it is answered."""
        return self.judge.look(self.x)[0]

    def generator(self) -> torch.Generator:
        """A new source of all its random numbers, in the order in which an answer takes them."""
        return torch.Generator().manual_seed(self.wanted.seed)

    def answer(self, looked: Looked) -> Answer:
        """The answer, all of it."""
        generator = self.generator()
        with noting() as noted:
            drawn = self.posterior.draw(self.x, self.wanted.draws, generator=generator)
        return self.completed(looked, drawn, generator, summed_up(noted))

    def completed(
        self, looked: Looked, drawn: Draws, generator: torch.Generator, doubts: Sequence[Finding] = ()
    ) -> Answer:
        """The answer of draws that were made.

        Args:
            looked: What `look` says.
            drawn: What the posterior gives.
            generator: The source that they came from.
            doubts: That arose as they were made.

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
    """A question about an observation.

    Args:
        judge: What answers.
        x: One observation: observable name -> array or astropy quantity of its event shape.
        simulator: As in `Question`.
        wanted: What is asked for.

    Raises:
        ValueError: If x does not fit the observables or is not finite.
    """
    told = (x.read, x.findings) if isinstance(x, Observation) else ((), ())
    return Question(judge, as_observation(judge.posterior.observables, x), simulator, wanted, *told)


def judge_of(posterior: Posterior, calibration: Calibration | None, failures: Reading) -> Judge:
    """A posterior as failures are to be read, with its calibration.

    Raises:
        ValueError: If the calibration is of another fit, or the reading is unknown or cannot be followed.
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
    """Hidden paths behind the data, each with parameters of its own from the posterior; why there are none."""
    if simulator is None or simulator.paths is None:
        return HiddenPaths(), ()
    generator = torch.Generator().manual_seed(wanted.seed)  # its own: what else is drawn does not depend on it
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
    """A case with data simulated from the answer and from around it, for the diagnostics that need them.

    All are seen when the observation was, and missing where it is, where the simulator can do that (`Simulator.like`).
    Rows that fail are left out, with a warning.

    Args:
        case: The answer.
        simulator: What to simulate with.
        draws: Of its parameters.
        generator: Source of its random numbers.
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
    """Strange numbers of the observation, from the figures of findings."""
    return tuple(Strange.from_json(one) for check in checks for one in check.figures.get("where", ()))
