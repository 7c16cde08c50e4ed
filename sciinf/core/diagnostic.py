"""The base class of diagnostics, which are checks of answers, and what an answer provides to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar

from sciinf.core.draws import Draws
from sciinf.core.findings import Cause, Evidence, Finding, Level
from sciinf.core.observable import X
from sciinf.core.posterior import Posterior
from sciinf.core.records import Calibration, Trust


class Need(StrEnum):
    """The inputs that a diagnostic may need beside the draws of an answer.

    A diagnostic is not run for an answer that lacks one of its inputs.
    """

    OBSERVATION = "observation"
    PREDICTIONS = "predictions"
    AROUND = "around"


@dataclass(frozen=True)
class Case:
    """The inputs of diagnostics: an answer that is being computed.

    Args:
        posterior: Posterior that gave the answer.
        draws: Its draws, possibly weighted, of the parameters and then of derived quantities.
        level: Credible level of the intervals.
        calibration: Calibration of the posterior, or of the posterior that it corrects; None if there is
            none.
        trust: Result of comparing the observation with simulations; None if they were not compared.
        failures: Treatment of failed simulations: "exclude", "outcome" or "model".
        seed: Seed of the answer. A diagnostic that draws random numbers seeds a generator of its own with it.
        plain: Draws before weighting; None if the draws are not weighted.
        x: The observation, name -> (1, *event). With `Need.OBSERVATION`.
        simulator: The `Simulator`. With `Need.PREDICTIONS`.
        theta: Draws of the answer, (m, D), without weights. With `Need.PREDICTIONS`.
        predicted: Data simulated from each draw in `theta`, name -> (m, *event). With `Need.PREDICTIONS`.
        around: Further simulations, from a wider distribution around the answer
            (`diagnostics.around.Around`). If they cannot be made, a text that says why. None if the simulator
            makes data of another form. With `Need.AROUND`.
        more_around: Function that makes a larger number of such simulations anew.
        generator: Source of the random numbers of the answer, for the local check only.
        bounds: The prior, prepared for `diagnostics.bounds`.
        found: The findings so far, in order.
    """

    posterior: Posterior
    draws: Draws
    level: float
    calibration: Calibration | None = None
    trust: Trust | None = None
    failures: Any = "exclude"
    seed: int = 0
    plain: Draws | None = None
    x: X = field(default_factory=dict)
    simulator: Any = None
    theta: Any = None
    predicted: X = field(default_factory=dict)
    around: Any = None
    more_around: Any = None
    generator: Any = None
    bounds: Any = None
    found: list[Finding] = field(default_factory=list)

    @property
    def has(self) -> frozenset[Need]:
        """The inputs that this answer provides to diagnostics."""
        seen = {Need.OBSERVATION} if self.x else set()
        return frozenset(seen | ({Need.PREDICTIONS, Need.AROUND} if self.simulator is not None else set()))

    def p_of(self, name: str) -> float | None:
        """The p-value of the first earlier finding with a name; None if there is no finding or no p-value."""
        return next((one.figures.get("p") for one in self.found if one.name == name), None)


class Diagnostic(ABC):
    """The base class of checks of answers.

    To add a check, put a file with a final subclass into `sciinf/diagnostics`. Nothing else is needed.

    The findings of a check appear in the answer's table, its page, its HTTP reply and its exports, and count
    in its verdict. The first line of the class's docstring is a question, which appears in the list of checks
    (docs/reading_a_report.md). A verdict quotes the words of a finding up to the first semicolon or full
    stop. `sciinf.core` has `Cause`, `Need` and `Evidence`.

    Attributes:
        name: Subject of the check in one or two words, which is also the name of its findings.
        needs: Inputs of the check beside the draws.
        cause: Cause of findings that are not good and name no cause of their own.
        evidence: Evidence behind the findings, if they tell whether the computation is right.

    Examples:
        >>> from typing import final
        >>> from sciinf.core import Cause, Diagnostic, Finding, Level
        >>> @final
        ... class Spread(Diagnostic):
        ...     '''Is the posterior far wider than anybody would want?'''
        ...
        ...     name, cause = "spread", Cause.SIMULATIONS
        ...
        ...     def __call__(self, case):
        ...         sd = float(case.draws.sd().max())
        ...         return [Finding(self.name, Level.CAUTION, f"an sd is {sd:.2g}")] if sd > 1e6 else []
        >>> Spread().question
        'Is the posterior far wider than anybody would want?'
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    cause: ClassVar[Cause | None] = None
    evidence: ClassVar[Evidence | None] = None

    @abstractmethod
    def __call__(self, case: Case) -> Sequence[Finding]:
        """The findings about an answer; empty if there is nothing to report.

        Args:
            case: The answer, with the inputs that the check needs.
        """

    @property
    def question(self) -> str:
        """The question that the check asks: the first line of the docstring of its class."""
        return (type(self).__doc__ or self.name).strip().partition("\n")[0]

    def findings(self, case: Case) -> list[Finding]:
        """The findings about an answer, with the cause and evidence of the class where a finding has none.

        A finding of level GOOD gets no cause.
        """
        causes = {Level.GOOD: None}
        return [
            replace(one, cause=one.cause or causes.get(one.level, self.cause), evidence=one.evidence or self.evidence)
            for one in self(case)
        ]
