"""Diagnostic: a check of answers, one file each."""

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
    """What a diagnostic needs beside the draws of an answer; it is left out of answers that have no such thing."""

    OBSERVATION = "observation"
    PREDICTIONS = "predictions"
    AROUND = "around"


@dataclass(frozen=True)
class Case:
    """An answer while it is made, as diagnostics see it.

    Args:
        posterior: What answered.
        draws: Its draws, weighted, of the parameters and then of derived quantities.
        level: Credible level of the intervals.
        calibration: Of the posterior, or of what it corrects; None where it was never checked.
        trust: Whether the observation looks like the simulations; None where nobody looked.
        failures: How simulations that failed are read: "exclude", "outcome" or "model".
        seed: Of the question. A diagnostic that draws seeds a generator of its own with it.
        plain: Draws before they were weighted; None where they are not.
        x: The observation, name -> (1, *event). With `Need.OBSERVATION`.
        simulator: The `Simulator`. With `Need.PREDICTIONS`.
        theta: Draws of the answer, (m, D), without weights. With `Need.PREDICTIONS`.
        predicted: Data that were simulated from each draw in `theta`, name -> (m, *event). With `Need.PREDICTIONS`.
        around: More simulations, from a wider distribution around the answer (`diagnostics.around.Around`); a text
            where they cannot be made, which says why; None where the simulator makes data of another form. With
            `Need.AROUND`.
        more_around: Makes such simulations anew, more of them.
        generator: Source of the random numbers of an answer; for the local check alone.
        bounds: The prior, made ready for `diagnostics.bounds`.
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
        """The needs of diagnostics that this answer meets."""
        seen = {Need.OBSERVATION} if self.x else set()
        return frozenset(seen | ({Need.PREDICTIONS, Need.AROUND} if self.simulator is not None else set()))

    def p_of(self, name: str) -> float | None:
        """The p-value of what was found before under a name, where there is one."""
        return next((one.figures.get("p") for one in self.found if one.name == name), None)


class Diagnostic(ABC):
    """A check of answers. To add one, put a file with a final subclass into `sciinf/diagnostics`; nothing else is
    needed.

    What it finds stands in the answer's table, its page, its HTTP reply and its exports, and counts in its verdict; the
    first line of the class's docstring, a question, stands in the list of checks (docs/reading_a_report.md). A verdict
    quotes the words of a finding up to the first semicolon or full stop. `sciinf.core` has `Cause`, `Need`, `Evidence`.

    Attributes:
        name: What is looked at, a word or two, as findings are called.
        needs: What it needs beside the draws.
        cause: What has to change where its findings are not good and name no cause of their own.
        evidence: What its findings rest on, if they tell whether the computation is right.

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
        """The findings about an answer; empty where there is nothing to say.

        Args:
            case: The answer, with what is known of it.
        """

    @property
    def question(self) -> str:
        """The question that the check asks: the first line of the docstring of its class."""
        return (type(self).__doc__ or self.name).strip().partition("\n")[0]

    def findings(self, case: Case) -> list[Finding]:
        """The findings about an answer, with the cause and evidence of the class where a finding names none."""
        causes = {Level.GOOD: None}
        return [
            replace(one, cause=one.cause or causes.get(one.level, self.cause), evidence=one.evidence or self.evidence)
            for one in self(case)
        ]
