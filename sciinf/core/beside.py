"""Another answer beside one: of the same parameters, by another model, other data or another way.

Nothing is joined. The two are different posteriors, and where they disagree, at least one of them leaves something out;
which of the two assumes more nobody can tell from their numbers. Where they agree, both may leave out the same.

With m, s mean and standard deviation of a parameter here, m', s' of the other, n, n' effective draws, they disagree

    |m' - m| > 1/2 min(s, s') + 3 sqrt(s^2 / n + s'^2 / n'),    |log(s' / s)| > log 5/4 + 3 sqrt(1 / 2n + 1 / 2n'),

that is, where a reader of the narrower one would be misled by half of its sd, or by a quarter in how sure it is. Two
answers to the same data are not independent, so that no test says whether this is chance; the last terms are what
draws scatter.
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
    """Another answer, as it stands beside one.

    Args:
        parameters: Name -> its estimate, at the level of the answer that it stands beside; of those that both have.
        ess: Its effective number of draws.
        posterior: Which posterior it is, in words.
        data: Whether it is of the same data.
        doubts: What its own checks say against it.
    """

    parameters: Mapping[str, Any]
    ess: float
    posterior: str = ""
    data: Same = "unknown"
    doubts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", Estimates(self.parameters))

    def rows(self, mine: Mapping[str, Any], ess: float) -> list[tuple[str, list[str], str]]:
        """For each parameter its name, how far the two are apart (cells for `HEAD`), and in words where they disagree.

        Args:
            mine: The estimates that it stands beside, by name.
            ess: Effective draws of these.
        """
        return [(name, *mine[name].beside(e, ess, self.ess)) for name, e in self.parameters.items() if name in mine]

    def words(self, mine: Mapping[str, Any], ess: float) -> str:
        """In a sentence or two: that it is another posterior, where they disagree, and what its own checks say."""
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
        """As it stands in `answer.json`."""
        parameters = {name: e.to_json() for name, e in self.parameters.items()}
        about = {"ess": self.ess, "posterior": self.posterior, "data": self.data, "doubts": list(self.doubts)}
        return {"parameters": parameters, **about}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OtherAnswer:
        """What `to_json` gave."""
        from sciinf.core.estimates import estimate_from_json

        parameters = {name: estimate_from_json(e) for name, e in data["parameters"].items()}
        return cls(**{**data, "parameters": parameters, "doubts": tuple(data["doubts"])})


def as_beside(answer: Answer, other: Answer) -> OtherAnswer:
    """Another answer as it stands beside one.

    Args:
        answer: The one.
        other: The other, with its draws.

    Raises:
        ValueError: If they have no parameter in common, or one of that name is in another unit or of another kind.
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
            raise ValueError(f"{name!r} has other values here than in the answer that is to stand beside it")
    return OtherAnswer(found, other.draws.ess, other.posterior, _data(answer, other), doubts_of(other))


def check_units(units: Mapping[str, str], other: Answer) -> None:
    """Refuse an answer with a parameter that is in another unit.

    Args:
        units: Name -> unit, of the parameters that it is to stand beside.
        other: The answer.

    Raises:
        ValueError: If it has one.
    """
    for name, unit in units.items():
        if name in other.parameters and not _same_unit(unit, there := other.parameters[name].unit):
            raise ValueError(
                f"{name!r} is in {unit or 'no unit'!r} here, and in {there or 'no unit'!r} in the answer that is to "
                "stand beside it: give both the same unit, or the parameter another name if it is another"
            )


def doubts_of(answer: Answer) -> tuple[str, ...]:
    """What an answer's own verdict says against it, in a few words each."""
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
    """Whether both are of the same data, as far as names of observables tell."""
    both = [name for name in answer.observation if name in other.observation]
    if not both:
        return "unknown"
    if not all(np.array_equal(answer.observation[name], other.observation[name]) for name in both):
        return "other"
    return "same" if answer.observation.keys() == other.observation.keys() else "part"
