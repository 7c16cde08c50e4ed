"""The answer to one observation: estimates with units, and the evidence for and against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sciinf.core.beside import HEAD, OtherAnswer
from sciinf.core.containers import estimates_of
from sciinf.core.draws import Draws
from sciinf.core.estimate import Corrected, Estimate, Estimates
from sciinf.core.estimates import estimate_from_json, estimates
from sciinf.core.findings import CONFIRMED, Finding, Level
from sciinf.core.given import codes_of, implied, prior_given, said_given, share_of
from sciinf.core.observable import Observable
from sciinf.core.paths import HiddenPaths
from sciinf.core.prior import Prior
from sciinf.core.probabilities import ALONE, exists_words
from sciinf.core.records import Calibration, Trust, calibration_finding, earlier_weights, findings_about, said_of
from sciinf.core.tables import aligned, digits, html, marked, percent
from sciinf.core.verdict import Verdict, verdict_from

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

# `core` may import no other package of sciinf, so this module is loaded by name when a figure is requested.
_FIGURES = "sciinf.interfaces.figures.of_answer"


@dataclass(frozen=True, repr=False)
class Answer:
    """The posterior of one observation, with its estimates and the checks of its reliability.

    Args:
        parameters: Name -> `Estimate`, or `Probabilities` of a discrete parameter. The parameters come first,
            then the derived quantities.
        draws: The draws from which the estimates are computed.
        calibration: The calibration of the posterior on fresh simulations; None if it was never calibrated.
        trust: Whether the observation looks like the simulations.
        observation: The observation: observable name -> array (*event).
        predictive: Data simulated from the posterior: observable name -> array (m, *event). Empty without a
            simulator.
        predicted_from: The draws from which `predictive` was simulated, (m, D); of shape (0, 0) if there are
            none, or if they are unknown.
        amortised: The estimates before the correction by a likelihood or by other weights; empty without a
            correction.
        posterior: The kind of posterior, in words.
        scope: The observations for which the posterior is valid, in words; empty if it is valid for all.
        checks: Further findings, such as failed simulations, or posterior mass at a bound of the prior.
        read: How the observation was read from its files, one line per observable; empty if the observation
            came as arrays.
        name: The observation's name.
        files: Name of each file of the observation -> its SHA-256.
        region: Two numbers, or None if they are unknown. The first is the level of the draws'
            highest-density region that held, on fresh simulations, as many true parameters as the intervals
            should. The second is how far the first may differ from the intervals' level by chance, for an
            exact posterior.
        observables: Observable name -> its specification, for figures.
        prior: The prior, for figures; None if it is unknown.
        paths: Hidden quantities along time, if the simulator gives them: `answer.paths["level"].interval`.
        beside: Other answers to compare with: name -> comparison (`query(..., beside=)`). Another answer is a
            different posterior; it changes nothing in this answer.
    """

    parameters: Mapping[str, Any]
    draws: Draws
    calibration: Calibration | None
    trust: Trust
    observation: Mapping[str, np.ndarray] = field(default_factory=dict)
    predictive: Mapping[str, np.ndarray] = field(default_factory=dict)
    predicted_from: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    amortised: Mapping[str, Any] = field(default_factory=dict)
    posterior: str = ""
    scope: str = ""
    checks: tuple[Finding, ...] = ()
    read: tuple[str, ...] = ()
    name: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    region: tuple[float, float] | None = None
    observables: Mapping[str, Observable] = field(default_factory=dict)
    prior: Prior | None = None
    paths: HiddenPaths = field(default_factory=HiddenPaths)
    beside: Mapping[str, OtherAnswer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", Estimates(self.parameters))
        object.__setattr__(self, "amortised", Estimates(self.amortised))

    def __repr__(self) -> str:
        return self.table()

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict: whether to rely on the answer, with all findings that decide this."""
        draws, derived = self.draws, any(e.derived for e in self.parameters.values())
        calibrated = calibration_finding(said_of(self.calibration), self.posterior, derived=derived)
        known = draws.ess, len(draws), draws.pareto_k, self.posterior
        weights = earlier_weights(*known, corrected=bool(self.amortised))
        return verdict_from(findings_about(calibrated, self.trust.finding, self.checks, weights))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings: of the calibration, of the observation beside simulations, then `checks`."""
        return self.verdict.findings

    def figure(
        self,
        kind: Literal[
            "corner", "probabilities", "prediction", "paths", "calibration", "ranks", "reliability"
        ] = "corner",
        *,
        names: Sequence[str] | None = None,
        truth: Mapping[str, Any] | None = None,
    ) -> Figure:
        """One of the report's figures. A notebook shows it; `savefig` saves it for a paper.

        Args:
            kind: The kind of figure. "corner": the posterior of each parameter or derived quantity, and of
                each pair of them. Discrete parameters have their most probable values, which the figure
                names. "probabilities": the probabilities of discrete parameters' values. "prediction": an
                observable, together with the data that the posterior predicts. "paths": hidden quantities
                along time. "calibration": how often the true parameters lay inside credible regions. "ranks":
                the rank of each true parameter among the draws. "reliability": how often values of discrete
                parameters were true, against their probabilities.
            names: The names to show: parameters and derived quantities of a corner plot (default: the first
                twelve), discrete parameters, the observable of a prediction, or hidden quantities.
            truth: True values to draw in a corner plot: name of a parameter or derived quantity -> a number
                in its unit, or a quantity of astropy.

        Raises:
            ImportError: If matplotlib is not installed.
            TypeError: If `names` is a single string.
            ValueError: If the kind is none of these, if a name is unknown, or if the answer lacks the
                figure's data. For instance, an answer computed without a simulator has no prediction.
        """
        return import_module(_FIGURES).figure_of(self, kind, names=names, truth=truth)

    def to_json(self) -> dict[str, Any]:
        """The content of `answer.json`, as plain JSON values."""
        return {
            **self.verdict.to_json(),
            "observation": {"name": self.name, "files": dict(self.files)},
            "parameters": {name: e.to_json() for name, e in self.parameters.items()},
            "draws": len(self.draws),
            "ess": self.draws.ess,
            "log_evidence": self.draws.log_evidence,
            "log_evidence_error": self.draws.log_evidence_error,
            "pareto_k": self.draws.pareto_k,
            "calibration": said_of(self.calibration),
            "trust": self.trust.to_json(),
            "checks": [check.to_json() for check in self.checks],
            "read": list(self.read),
            "posterior": self.posterior,
            "scope": self.scope,
            "amortised": {name: e.to_json() for name, e in self.amortised.items()},
            **({"region": list(self.region)} if self.region else {}),
            **({"prior": self.prior.to_json()} if self.prior else {}),
            **({"beside": {name: other.to_json() for name, other in self.beside.items()}} if self.beside else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], draws: Draws, calibration: Calibration | None, **kept: Any) -> Answer:
        """The answer with the content of `answer.json`, which an earlier version may have written.

        Args:
            data: The content, as returned by `to_json`.
            draws: The answer's draws.
            calibration: The calibration of the posterior that gave the answer; None if there was none.
            **kept: The fields of `Answer` that `answer.json` does not hold: observation, predictive,
                predicted_from, observables, paths.

        Raises:
            KeyError: If a part is missing.
            ValueError: If a part is invalid.
        """
        return cls(
            {name: estimate_from_json(e) for name, e in data["parameters"].items()},
            draws,
            calibration,
            Trust.from_json(data["trust"]),
            amortised={name: estimate_from_json(e) for name, e in data.get("amortised", {}).items()},
            posterior=data.get("posterior", ""),
            scope=data.get("scope", ""),
            checks=tuple(Finding.from_json(check) for check in data.get("checks", ())),
            read=tuple(data.get("read", ())),
            name=data.get("observation", {}).get("name", ""),
            files=data.get("observation", {}).get("files", {}),
            region=tuple(data["region"]) if data.get("region") else None,
            prior=Prior.from_json(data["prior"]) if data.get("prior") else None,
            beside={label: OtherAnswer.from_json(other) for label, other in data.get("beside", {}).items()},
            **kept,
        )

    def table(self) -> str:
        """The answer as text: the verdict, one line per parameter or derived quantity, then the findings.

        Discrete parameters come first, with the probabilities of their values. A second table below holds the
        estimates of the other answers in `beside`.
        """
        first, rows, others = self._probabilities(), self._rows(), self._others()
        lines = [*_lines(first), *([""] if first else []), *(aligned(rows) if len(rows) > 1 else [])]
        lines += aligned(others) if len(others) > 1 else []
        return "\n".join([self.verdict.sentence, "", *lines, *_lines(self._facts())])

    def _repr_html_(self) -> str:
        """The answer as HTML for a notebook: the content of `table`, without the table of other answers."""
        title, rows = f"answer for {self.name}" if self.name else "answer", self._rows()
        first = [("verdict", self.verdict.sentence), *self._probabilities()]
        return html(title, rows if len(rows) > 1 else (), self._facts(), first)

    def given(self, **values: Any) -> Answer:
        """The answer conditional on values of discrete parameters, from the draws with these values.

        The new answer has neither these parameters nor any parameter that does not exist for these values.
        All figures and exporters accept the new answer. Its `scope` states the values and their probability.
        Intervals corrected by calibration and estimates before a correction are left out: they are known only
        for the whole answer.

        Args:
            **values: Discrete parameter -> its label, or its number if the parameter is a count. Discrete
                parameters that are left out keep all their values in the draws.

        Raises:
            ValueError: If there is no such discrete parameter, if a parameter never has the value, or if no
                draw has all values.

        Examples:
            >>> answer.given(model="SEIR").figure("corner")  # doctest: +SKIP
        """
        return _given(self, values)

    def to_dataframe(self) -> pandas.DataFrame:
        """The estimates as a pandas data frame, one row per parameter and derived quantity.

        The columns are unit, median, low and high (the ends of the interval), mean and sd. Further columns
        appear if they are known: the estimates before a correction, the ends of corrected intervals, labels,
        whether a quantity is derived, and the probability that a parameter exists. A discrete parameter has
        no median; it has `most_probable`, its most probable value, with the `probability` of this value.
        `attrs` holds the level of the intervals, the "verdict" with its "sentence", and the results of
        "calibration" and "trust". For the draws, see `Draws.to_dataframe`.

        Raises:
            ImportError: If pandas is not installed.
        """
        return estimates_of(self)

    def _rows(self) -> list[list[str]]:
        """The rows of the table of estimates: the head, then one row per parameter."""
        level = next(iter(self.parameters.values())).level
        rows = [["parameter", "unit", "median", f"{percent(level)} interval", "mean", "sd"]]
        rows[0] += ["uncorrected median", f"{percent(level)} interval"] if self.amortised else []
        shown = {name: e for name, e in self.parameters.items() if e.cells()}
        labels, sometimes = any(e.label for e in shown.values()), any(e.exists < 1 for e in shown.values())
        rows[0][1:1] = ["label"] if labels else []
        place = rows[0].index("median")
        rows[0][place:place] = ["exists"] if sometimes else []
        moved = any(e.corrected and e.corrected.seen for e in shown.values())
        rows[0] += [f"corrected {percent(level)} interval"] if moved else []
        least = 1 / self.draws.ess
        for name, e in shown.items():
            label, exists = [e.label or "-"] if labels else [], [exists_words(e.exists, least)] if sometimes else []
            rows.append([marked(name, e.derived), *label, e.unit or "-", *exists, *e.cells()])
            rows[-1] += self.amortised[name].cells()[:2] if self.amortised else []
            rows[-1] += [_corrected(e) or "-"] if moved else []
        return rows

    def _others(self) -> list[list[str]]:
        """The rows of the table of other answers: the head, then one row per answer and parameter."""
        level = next(iter(self.parameters.values())).level
        rows = [["another answer", "parameter", "unit", "median", f"{percent(level)} interval", "mean", "sd", *HEAD]]
        for label, other in self.beside.items():
            for name, cells, _ in other.rows(self.parameters, self.draws.ess):
                e = other.parameters[name]
                rows += [[label, name, e.unit or "-", *e.cells(), *cells]] if e.cells() else []
        return rows

    def _probabilities(self) -> list[tuple[str, str]]:
        """Names and probabilities of discrete parameters: corrected, uncorrected, and of other answers."""
        found = [(e.label or name, e.words(name)) for name, e in self.parameters.items() if e.words(name)]
        before = [(f"uncorrected {name}", e.words(name)) for name, e in self.amortised.items() if e.words(name)]
        for label, other in self.beside.items():
            found += [(f"{label}: {name}", e.words(name)) for name, e in other.parameters.items() if e.words(name)]
        return found + before

    def _facts(self) -> list[tuple[str, str]]:
        """The lines below the table of estimates, as pairs of a name and its text."""
        facts = [("read", line) for line in self.read]
        if sometimes := [name for name, e in self.parameters.items() if 0 < e.exists < 1 and e.cells()]:
            facts.append(("exists", f"numbers of {', '.join(sometimes)} are of the draws in which there is one"))
        facts += [("hidden paths", self.paths.words())] if self.paths else []
        facts.append(("draws", f"{len(self.draws):,}, effective sample size {self.draws.ess:,.0f}"))
        if self.draws.log_evidence is not None:
            error = self.draws.log_evidence_error or 0.0
            sure = any(one.kind == CONFIRMED for one in self.checks)
            known = "" if sure else "; its constant is not confirmed"
            facts.append(("log evidence", f"{self.draws.log_evidence:.2f} +- {error:.2f}{known}"))
        elif any(e.factors() for e in self.parameters.values()):
            facts.append(("factors", ALONE))
        facts += [("posterior", "; ".join(filter(None, (self.posterior, self.scope))))] if self.scope else []
        found = [(one.name, self.verdict.line_of(one)) for one in self.findings]
        facts += [*found[:1], *(("corrected", words) for words in _moves(self)), *found[1:]]
        return facts + [(label, other.words(self.parameters, self.draws.ess)) for label, other in self.beside.items()]


def answers_table(answers: Mapping[str, Answer]) -> str:
    """The answers for several observations as text: verdicts, then a line per observation and parameter."""
    level = next(iter(next(iter(answers.values())).parameters.values())).level
    rows = [["observation", "parameter", "unit", "median", f"{percent(level)} interval", "mean", "sd"]]
    sometimes = any(e.exists < 1 and e.cells() for answer in answers.values() for e in answer.parameters.values())
    rows[0][3:3] = ["exists"] if sometimes else []
    for name, answer in answers.items():
        for parameter, e in answer.parameters.items():
            shown = marked(parameter, e.derived)
            there = [exists_words(e.exists, 1 / answer.draws.ess)] if sometimes else []
            if cells := e.cells():
                rows.append([name, shown, e.unit or "-", *there, *cells])
    lines = [f"{name}: {answer.verdict.sentence}" for name, answer in answers.items()] + [""]
    lines += [f"{name}: {of}: {words}" for name, answer in answers.items() for of, words in answer._probabilities()]
    lines += aligned(rows) if len(rows) > 1 else []
    for name, answer in answers.items():
        told = [one for one in answer.findings if one.level != Level.GOOD and one.name != "calibration"]
        lines += [f"{name}: {one.name}: {answer.verdict.line_of(one)}" for one in told]
        own = answer.parameters, answer.draws.ess
        lines += [f"{name}: {label}: {other.words(*own)}" for label, other in answer.beside.items()]
        lines += [
            f"{name}: the {percent(level)} interval of {parameter}, corrected: {_corrected(e)}"
            for parameter, e in answer.parameters.items()
            if e.corrected and e.corrected.seen
        ]
    said: dict[str, list[str]] = {}
    for name, answer in answers.items():
        said.setdefault(answer.verdict.line_of(answer.findings[0]), []).append(name)
    of = {words: f" of {', '.join(names)}" if len(said) > 1 else "" for words, names in said.items()}
    return "\n".join([*lines, *(f"calibration{of[words]}  {words}" for words in said)])


def _lines(said: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{name:<12} {words}" for name, words in said]


def _corrected(e: Any) -> str:
    """The corrected interval, to two digits of its half-width; "" unless it moved by more than chance."""
    if e.corrected is None or not e.corrected.seen:
        return ""
    low, high = e.corrected.interval
    return f"[{digits(low, (high - low) / 2)}, {digits(high, (high - low) / 2)}]"


def _moves(answer: Answer) -> list[str]:
    """The corrections by calibration that are larger than chance explains, one line each."""
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


__all__ = ["Answer", "Corrected", "Estimate", "Estimates", "answers_table", "digits"]


def _given(answer: Answer, values: Mapping[str, Any]) -> Answer:
    """The answer conditional on values of discrete parameters, for `Answer.given`."""
    if not values:
        return answer
    draws, before = answer.draws.given(**values), answer.draws
    values = {**implied(before, values), **values}
    level = next(iter(answer.parameters.values())).level
    share = share_of(before, values)
    words = f"given {said_given(values)}, which has probability {share}"
    of, width = np.asarray(answer.predicted_from), len(before.of_parameters().names)
    kept = np.ones(len(of), dtype=bool)
    known = of.shape[1:] in ((width,), (len(before.names),))
    for name, value in codes_of(before, values).items() if known else ():
        kept &= of[:, before.names.index(name)] == value
    columns = [before.names.index(name) for name in draws.of_parameters().names]
    predictive = {name: value[kept] for name, value in answer.predictive.items()} if known else {}
    return replace(
        answer,
        parameters=estimates(draws, level),
        draws=draws,
        predictive=predictive if kept.any() else {},
        predicted_from=of[kept][:, columns] if known and kept.any() else np.zeros((0, 0)),
        amortised={},
        checks=(_not_of_it(answer, draws, values),),
        scope="; ".join(part for part in (answer.scope, words) if part),
        region=None,
        prior=None if answer.prior is None else prior_given(answer.prior, values),
        paths=HiddenPaths(),
        beside={},
    )


def _not_of_it(answer: Answer, draws: Draws, values: Mapping[str, Any]) -> Finding:
    """The finding that only the whole answer was checked, not the one conditional on `values`.

    Its words state how many effective draws have these values, and which findings the whole answer has.
    """
    whole = answer.verdict
    level = max(whole.level, Level.CAUTION)
    found = [f"{one.name} ({one.level.label})" for one in whole.because]
    words = (
        f"these numbers rest on an effective size of {draws.ess:,.0f} draws with {said_given(values)}. Calibration and "
        "checks are of the whole answer, and intervals are as drawn, without what calibration would correct"
    )
    return Finding("given", level, words + (f"; the whole answer has {', '.join(found)}" if found else ""))
