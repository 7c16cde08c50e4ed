"""Comparison of an answer with another answer for the same parameters: from another model, method or data.

The two posteriors are compared, not combined. If they disagree, at least one of them leaves something out.
Their numbers cannot show which of the two assumes more. If they agree, both may leave out the same thing.

A parameter has the mean m and the standard deviation s in this answer, m' and s' in the other one. The
effective numbers of draws are n and n'. The answers disagree if

    |m' - m|      > 1/2 min(s, s') + 3 sqrt(s^2 / n + s'^2 / n'),  or
    |log(s' / s)| > log 5/4 + 3 sqrt(1 / 2n + 1 / 2n').

The first limit is half of the narrower posterior's standard deviation. The second limit is a factor 5/4
between the two standard deviations. Two answers from the same data are not independent, so no test can say
whether a difference is due to chance. The last terms are the scatter of the draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sciinf.core.estimate import Estimates

if TYPE_CHECKING:
    from sciinf.core.answer import Answer

Same = Literal["same", "part", "other", "unknown"]
_DATA: Mapping[str, str] = {
    "same": "of the same data",
    "part": "of data that are the same in part",
    "other": "of OTHER data",
    "unknown": "it cannot be told whether of the same data",
}
_YOURS = "which of the two assumes more is for you to say"
HEAD = ("off, in sds here", "in its own sds", "sd ratio")


@dataclass(frozen=True)
class OtherAnswer:
    """The other answer of a comparison, with its estimates of the common parameters.

    Args:
        parameters: Name of each common parameter -> the other answer's estimate, with intervals at the first
            answer's level.
        ess: Effective number of draws of the other answer.
        posterior: Kind of posterior, in words.
        data: Whether the data are the "same", the same in "part", "other" data, or "unknown".
        doubts: The findings of the other answer's own checks against it.
    """

    parameters: Mapping[str, Any]
    ess: float
    posterior: str = ""
    data: Same = "unknown"
    doubts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", Estimates(self.parameters))

    def rows(self, mine: Mapping[str, Any], ess: float) -> list[tuple[str, list[str], str]]:
        """One row per common parameter: its name, the cells for `HEAD`, and the disagreement in words.

        Args:
            mine: Name of each parameter -> the first answer's estimate.
            ess: Effective number of draws of the first answer.
        """
        return [(name, *mine[name].beside(e, ess, self.ess)) for name, e in self.parameters.items() if name in mine]

    def words(self, mine: Mapping[str, Any], ess: float) -> str:
        """The comparison in sentences: the other posterior, where the two disagree, and its own checks."""
        rows = self.rows(mine, ess)
        differing = [f"{name} {words}" for name, _, words in rows if words]
        alike = [name for name, _, words in rows if not words]
        parts = [
            f"another posterior{f' ({self.posterior})' if self.posterior else ''}, {_DATA[self.data]}, not this one"
        ]
        parts += [f"the two DISAGREE: {'; '.join(differing)}"] if differing else []
        parts += [f"they agree on {', '.join(alike)}, which confirms neither"] if alike else []
        lacking = [name for name in mine if name not in self.parameters]
        parts += [f"it has no {', '.join(lacking)}"] if lacking else []
        own = f"its own checks say: {', '.join(self.doubts)}" if self.doubts else "its own checks are good"
        return ". ".join(part[:1].upper() + part[1:] for part in [*parts, own, _YOURS]) + "."

    def to_json(self) -> dict[str, Any]:
        """The other answer as plain JSON values, for `answer.json`."""
        parameters = {name: e.to_json() for name, e in self.parameters.items()}
        about = {"ess": self.ess, "posterior": self.posterior, "data": self.data, "doubts": list(self.doubts)}
        return {"parameters": parameters, **about}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OtherAnswer:
        """The other answer from the values of `to_json`."""
        from sciinf.core.estimates import estimate_from_json

        parameters = {name: estimate_from_json(e) for name, e in data["parameters"].items()}
        return cls(**{**data, "parameters": parameters, "doubts": tuple(data["doubts"])})


def as_beside(answer: Answer, other: Answer) -> OtherAnswer:
    """The comparison of an answer with another answer.

    Args:
        answer: The first answer.
        other: The other answer, with its draws.

    Raises:
        ValueError: If the answers have no parameter in common, or if a common parameter has another unit
            or kind.
    """
    from sciinf.core.estimates import estimates

    level = next(iter(answer.parameters.values())).level
    found = {name: e for name, e in estimates(other.draws, level).items() if name in answer.parameters}
    if not found:
        raise ValueError(
            f"an answer of {', '.join(other.parameters)} cannot stand beside one of {', '.join(answer.parameters)}: no "
            "parameter has the same name"
        )
    check_units({name: answer.parameters[name].unit for name in found}, other)
    for name, e in found.items():
        if set(answer.parameters[name].compared()) != set(e.compared()):
            raise ValueError(
                f"{name!r} has other possible values here than in the answer that is to stand beside it; "
                "give one of the parameters another name"
            )
    return OtherAnswer(found, other.draws.ess, other.posterior, _data(answer, other), doubts_of(other))


def check_units(units: Mapping[str, str], other: Answer) -> None:
    """Raise an error if a common parameter of two answers has different units.

    Args:
        units: Name of each parameter of the first answer -> its unit.
        other: The other answer.

    Raises:
        ValueError: If a parameter has another unit in the other answer.
    """
    for name, unit in units.items():
        if name in other.parameters and not _same_unit(unit, there := other.parameters[name].unit):
            raise ValueError(
                f"{name!r} is in {unit or 'no unit'!r} here, and in {there or 'no unit'!r} in the answer that is to "
                "stand beside it: give both the same unit, or the parameter another name if it is another"
            )


def doubts_of(answer: Answer) -> tuple[str, ...]:
    """The findings against an answer in its own verdict, each in a few words."""
    verdict = answer.verdict
    return tuple(f"{one.name} {one.level.label}" for one in verdict.because) or verdict.clauses * bool(verdict.causes)


def _same_unit(one: str, other: str) -> bool:
    if one == other:
        return True
    from astropy import units

    try:
        return units.Unit(one) == units.Unit(other)
    except (ValueError, TypeError):
        return False


def _data(answer: Answer, other: Answer) -> Same:
    """Whether two answers have the same data, judged from the observables with the same names."""
    both = [name for name in answer.observation if name in other.observation]
    if not both:
        return "unknown"
    if not all(np.array_equal(answer.observation[name], other.observation[name]) for name in both):
        return "other"
    return "same" if answer.observation.keys() == other.observation.keys() else "part"
