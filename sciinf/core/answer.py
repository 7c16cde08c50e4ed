"""Answer: estimates with units, and everything needed to believe them or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from sciinf.core.called import guess
from sciinf.core.containers import estimates_of
from sciinf.core.draws import Draws
from sciinf.core.prior import Prior
from sciinf.core.simulator import Observable
from sciinf.core.tables import aligned, digits, html, marked, percent
from sciinf.core.verdicts import (
    CALIBRATION_STATES,
    CHECK_LEVELS,
    NOT_CALIBRATED,
    TRUST_LEVELS,
    Calibration,
    Check,
    Trust,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Corrected:
    """An interval between the quantiles of the draws that held its level on fresh simulations (`trust.recalibrate`).

    Args:
        interval: The corrected interval, in the parameter's unit.
        quantiles: Which quantiles of the draws its ends are.
        moved: By how much of the raw interval's width an end moved, at most.
        chance: By how much those of an exact posterior move, at most, in 99 of 100 calibrations on as many rows.
        local: Whether the quantiles depend on the observation.
    """

    interval: tuple[float, float]
    quantiles: tuple[float, float]
    moved: float
    chance: float
    local: bool

    @property
    def seen(self) -> bool:
        """Whether it moved by more than chance."""
        return self.moved > self.chance

    def to_json(self) -> dict[str, Any]:
        lists = {"interval": list(self.interval), "quantiles": list(self.quantiles)}
        return {**{k: getattr(self, k) for k in self.__dataclass_fields__}, **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Corrected:
        return cls(**{**data, "interval": tuple(data["interval"]), "quantiles": tuple(data["quantiles"])})


@dataclass(frozen=True)
class Estimate:
    """One parameter's answer, or a derived quantity's, in its unit.

    Args:
        mean: Of the draws, as all that follows.
        sd: Standard deviation.
        median: Median.
        interval: Central interval of `level`.
        level: Its level.
        unit: Unit of all of them; "" for dimensionless.
        corrected: The interval that the calibration asks for; None where none is of this posterior, or its fresh
            simulations are too few.
        label: What it is called for people; "" where that is its name.
        derived: Whether it is no parameter but a quantity derived from them (`core.derived`).
    """

    mean: float
    sd: float
    median: float
    interval: tuple[float, float]
    level: float
    unit: str
    corrected: Corrected | None = None
    label: str = ""
    derived: bool = False

    def to_json(self) -> dict[str, Any]:
        left_out = {"corrected"} | {k for k in ("label", "derived") if not getattr(self, k)}
        said = {k: getattr(self, k) for k in self.__dataclass_fields__ if k not in left_out}
        corrected = {"corrected": self.corrected.to_json()} if self.corrected else {}
        return {**said, "interval": list(self.interval), **corrected}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Estimate:
        corrected = Corrected.from_json(data["corrected"]) if data.get("corrected") else None
        return cls(**{**data, "interval": tuple(data["interval"]), "corrected": corrected})


@final
class Estimates(dict[str, Estimate]):
    """Name -> estimate; an unknown name is told what there is."""

    def __missing__(self, name: object) -> Estimate:
        raise KeyError(f"{name!r} is none of {', '.join(self)}{guess(str(name), self)}")


@dataclass(frozen=True, repr=False)
class Answer:
    """A posterior with everything needed to believe it or not.

    Args:
        parameters: Name -> estimate, of parameters and then of derived quantities.
        draws: The draws the estimates come from.
        calibration: How the posterior did on fresh simulations; None when it was never checked.
        trust: Whether the observation looks like the simulations.
        observation: Observable name -> array (*event), what was asked about.
        predictive: Observable name -> array (m, *event), data simulated from the posterior; empty without a simulator.
        predicted_from: The draws that these were simulated from, (m, D); (0, 0) where there are none, or none is known.
        amortised: The estimates before correction by the likelihood or another weight; empty when there was none.
        posterior: Which posterior answered, in words.
        scope: For which observations it holds, in words, where not for all.
        checks: Further findings, such as simulations that failed, or mass at a bound of the prior.
        read: How the observation was read from its files, a line for each observable; empty where it came as arrays.
        name: What the observation is called.
        files: The files the observation came from -> SHA-256 of each.
        region: Level of the draws' highest-density region that held the intervals' level on fresh simulations, and how
            far an exact posterior's is from that level by chance; None where it is not known.
        observables: Observable name -> what it is, for figures.
        prior: The prior, for figures; None where it is not known.
    """

    parameters: Mapping[str, Estimate]
    draws: Draws
    calibration: Calibration | None
    trust: Trust
    observation: Mapping[str, np.ndarray] = field(default_factory=dict)
    predictive: Mapping[str, np.ndarray] = field(default_factory=dict)
    predicted_from: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    amortised: Mapping[str, Estimate] = field(default_factory=dict)
    posterior: str = ""
    scope: str = ""
    checks: tuple[Check, ...] = ()
    read: tuple[str, ...] = ()
    name: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    region: tuple[float, float] | None = None
    observables: Mapping[str, Observable] = field(default_factory=dict)
    prior: Prior | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", Estimates(self.parameters))
        object.__setattr__(self, "amortised", Estimates(self.amortised))

    def __repr__(self) -> str:
        return self.table()

    def figure(
        self,
        kind: Literal["corner", "prediction", "calibration", "ranks"] = "corner",
        *,
        names: Sequence[str] | None = None,
        truth: Mapping[str, Any] | None = None,
    ) -> Figure:
        """One of the report's figures, to be saved for a paper with `savefig`; a notebook shows it.

        Args:
            kind: "corner", the posterior of each parameter or derived quantity and each pair; "prediction", an
                observable against the data that the posterior predicts; "calibration", how often the truth lay inside
                credible regions; "ranks", the rank of each true parameter among the draws.
            names: Which parameters and derived quantities of a corner plot, the first twelve when left out; which
                observable of a prediction.
            truth: Parameter or derived quantity -> true value, a number in its unit or a quantity of astropy, drawn in
                a corner plot.

        Raises:
            ImportError: If matplotlib is not installed.
            TypeError: If `names` is a single text.
            ValueError: If the kind is none of the four, a name is unknown, or the answer lacks what the figure shows,
                such as a prediction where it was asked without a simulator.
        """
        from sciinf.figures.of_answer import figure_of

        return figure_of(self, kind, names=names, truth=truth)

    def to_json(self) -> dict[str, Any]:
        """The content of `answer.json`."""
        passed = self.calibration.passed if self.calibration else False
        state = self.calibration.state if self.calibration else "not checked"
        reasons = self.calibration.reasons if self.calibration else (NOT_CALIBRATED,)
        of, fit = (self.calibration.of, self.calibration.fit) if self.calibration else (None, None)
        return {
            "observation": {"name": self.name, "files": dict(self.files)},
            "parameters": {name: e.to_json() for name, e in self.parameters.items()},
            "draws": len(self.draws),
            "ess": self.draws.ess,
            "log_evidence": self.draws.log_evidence,
            "log_evidence_error": self.draws.log_evidence_error,
            "pareto_k": self.draws.pareto_k,
            "calibration": {"state": state, "passed": passed, "reasons": list(reasons), "of": of, "fit": fit},
            "trust": self.trust.to_json(),
            "checks": [check.to_json() for check in self.checks],
            "read": list(self.read),
            "posterior": self.posterior,
            "scope": self.scope,
            "amortised": {name: e.to_json() for name, e in self.amortised.items()},
            **({"region": list(self.region)} if self.region else {}),
            **({"prior": self.prior.to_json()} if self.prior else {}),
        }

    def table(self) -> str:
        """The answer as lines of text: one per parameter or derived quantity with its unit, then the verdicts."""
        return "\n".join([*aligned(self._rows()), *(f"{name:<12} {words}" for name, words in self._facts())])

    def _repr_html_(self) -> str:
        """What a notebook shows: the words of `table`."""
        return html(f"answer for {self.name}" if self.name else "answer", self._rows(), self._facts())

    def to_dataframe(self) -> pandas.DataFrame:
        """The estimates as a table of pandas, a row for each parameter and derived quantity.

        Its columns are unit, median, low and high (the ends of the interval), mean and sd. Others are there where they
        are known: the answer before it was corrected by a likelihood, the ends of corrected intervals, labels, and
        whether a quantity is derived. `attrs` has the level of the intervals and two verdicts, "calibration" and
        "trust". For the draws see `Draws.to_dataframe`.

        Raises:
            ImportError: If pandas is not installed.
        """
        return estimates_of(self)

    def _rows(self) -> list[list[str]]:
        """One per parameter, below the head."""
        level = next(iter(self.parameters.values())).level
        rows = [["parameter", "unit", "median", f"{percent(level)} interval", "mean", "sd"]]
        rows[0] += ["uncorrected median", f"{percent(level)} interval"] if self.amortised else []
        labels = any(e.label for e in self.parameters.values())
        rows[0][1:1] = ["label"] if labels else []
        moved = any(e.corrected and e.corrected.seen for e in self.parameters.values())
        rows[0] += [f"corrected {percent(level)} interval"] if moved else []
        for name, e in self.parameters.items():
            label = [e.label or "-"] if labels else []
            rows.append([marked(name, e.derived), *label, e.unit or "-", *_figures(e)])
            rows[-1] += _figures(self.amortised[name])[:2] if self.amortised else []
            rows[-1] += [_corrected(e) or "-"] if moved else []
        return rows

    def _facts(self) -> list[tuple[str, str]]:
        """What stands below them."""
        facts = [("read", line) for line in self.read]
        facts.append(("draws", f"{len(self.draws):,}, effective sample size {self.draws.ess:,.0f}"))
        if self.draws.log_evidence is not None:
            error = self.draws.log_evidence_error or 0.0
            facts.append(("log evidence", f"{self.draws.log_evidence:.2f} +- {error:.2f}"))
        facts += [("posterior", f"{self.posterior}; {self.scope}")] if self.scope else []
        facts.append(("calibration", _calibration_words(self)))
        facts += [("corrected", words) for words in _moves(self)]
        facts.append(("trust", f"{TRUST_LEVELS[self.trust.level]}: {self.trust.verdict}"))
        return facts + [(check.name, f"{CHECK_LEVELS[check.level]}: {check.verdict}") for check in self.checks]


def answers_table(answers: Mapping[str, Answer]) -> str:
    """The answers for several observations as lines of text: one per observation and parameter, then the verdicts."""
    level = next(iter(next(iter(answers.values())).parameters.values())).level
    rows = [["observation", "parameter", "unit", "median", f"{percent(level)} interval", "mean", "sd", "trust"]]
    for name, answer in answers.items():
        for parameter, e in answer.parameters.items():
            shown = marked(parameter, e.derived)
            rows.append([name, shown, e.unit or "-", *_figures(e), TRUST_LEVELS[answer.trust.level]])
    lines = aligned(rows)
    for name, answer in answers.items():
        if answer.trust.level != "good":
            lines.append(f"{name}: {answer.trust.verdict}")
        lines += [f"{name}: {check.name}: {check.verdict}" for check in answer.checks if check.level != "good"]
        lines += [
            f"{name}: the {percent(level)} interval of {parameter}, corrected: {_corrected(e)}"
            for parameter, e in answer.parameters.items()
            if e.corrected and e.corrected.seen
        ]
    said: dict[str, list[str]] = {}
    for name, answer in answers.items():
        said.setdefault(_calibration_words(answer), []).append(name)
    of = {words: f" of {', '.join(names)}" if len(said) > 1 else "" for words, names in said.items()}
    return "\n".join([*lines, *(f"calibration{of[words]}  {words}" for words in said)])


def _figures(e: Estimate) -> list[str]:
    """Median and interval, mean and sd, each to two digits of its own width.

    One draw far out carries the sd with it, but none of the quantiles: their widths are the distances between them.
    """
    below, above = e.median - e.interval[0], e.interval[1] - e.median
    low, high = digits(e.interval[0], below), digits(e.interval[1], above)
    middle = digits(e.median, min((w for w in (below, above) if w > 0), default=0.0))
    return [middle, f"[{low}, {high}]", digits(e.mean, e.sd), digits(e.sd, e.sd)]


def _corrected(e: Estimate) -> str:
    """The corrected interval to two digits of its width, where it moved by more than chance."""
    if e.corrected is None or not e.corrected.seen:
        return ""
    low, high = e.corrected.interval
    return f"[{digits(low, (high - low) / 2)}, {digits(high, (high - low) / 2)}]"


def _moves(answer: Answer) -> list[str]:
    """What the calibration asks for beyond what it would of an exact posterior, a line for each."""
    level = next(iter(answer.parameters.values())).level
    found = {name: e.corrected for name, e in answer.parameters.items() if e.corrected and e.corrected.seen}
    lines = []
    if found:
        each = ", ".join(f"{n} {c.moved:.0%} (by chance {c.chance:.0%})" for n, c in found.items())
        where = "for data like these" if any(c.local for c in found.values()) else _averaged(answer)
        lines.append(f"intervals that hold {percent(level)} {where}; by how much of its width an end moved: {each}")
    if answer.region and abs(answer.region[0] - level) > answer.region[1]:
        of = f"the {answer.region[0]:.1%} region of the draws by density"
        lines.append(f"the {percent(level)} region of all parameters is {of}")
    return lines


def _averaged(answer: Answer) -> str:
    return "on average over the simulations around it" if answer.posterior == "refined" else "on average over the prior"


def _calibration_words(answer: Answer) -> str:
    found = answer.calibration
    if found is None:
        return f"NOT PASSED: {NOT_CALIBRATED}"
    of = f" (of the {found.of} posterior)" if answer.posterior not in ("", found.of) else ""
    derived = any(e.derived for e in answer.parameters.values())
    of += " (of the parameters; derived quantities follow from their draws)" if derived else ""
    return f"{CALIBRATION_STATES[found.state]}{of}: {'; '.join(found.reasons)}"
