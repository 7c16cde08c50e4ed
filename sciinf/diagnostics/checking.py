"""Checks before a campaign: a simulator's shapes, seeds, batches and speed, and damage of a store."""

from __future__ import annotations

import functools
import io
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinf.campaigns.block import Attempt, generator_for, one_thread
from sciinf.campaigns.densities import density_finding
from sciinf.campaigns.new_process import NewProcess, problem_of
from sciinf.campaigns.normalisation import NORMALISED_BY, normalisation_findings
from sciinf.campaigns.probe import memory_in_use
from sciinf.campaigns.storage.findings import StoreReport
from sciinf.campaigns.storage.outcome import normalise, status_of
from sciinf.campaigns.store import Store
from sciinf.core.derived import check_derived
from sciinf.core.existence import ABSENT
from sciinf.core.findings import Cause, Finding, Level
from sciinf.core.observable import Outcome, Status
from sciinf.core.precision import rounded_away
from sciinf.core.simulator import Simulator
from sciinf.networks.summaries.described import described
from sciinf.training.estimators._places import places_in, series_in

SIZES = (1, 2, 17)
FATAL = "fatal"
_LABELS = {**{level: level.label for level in Level}, Level.GOOD: "note"}
FALSE_ALARM = 1e-4
_ALONE = 64
_MOST, _SECONDS = 256, 3.0
_MANY_FAILED, _MOST_FAILED = 0.05, 0.5
_FEATURES = 32
_PATIENCE = 2.0  # Seconds that each check with many simulations may take, because `infer` waits for them.
_MANY = 10_000_000  # Largest count of numbers in the data for `_learned`.
_SOME_ROWS, _SOME_SHARE = 5, 0.25  # Number and share of rows in which a parameter may have no effect.
_FALLBACK = 0.03  # Share of rows. If more rows ignore a parameter, a fixed result may stand for failed computations.
_SAME_ANGLE = 1e-3  # Share of the change that another angle causes.
_ROUNDED = 1e-3  # Standard deviations of the data.
_TURNS = {
    "deg": (2 * math.pi, "radians", "np.deg2rad"),
    "rad": (360.0, "degrees", "np.rad2deg"),
}
_DIFFERENT = 8  # From this many rows on, equal data with another seed are no coincidence.
_CLIPPED = "Is it clipped or rounded in the simulator? Let the prior end where data depend on it no more"
_STANDS_FOR = (
    "If the simulator returns a fixed result where a computation fails, raise an error there instead: failed rows are "
    "told and left out. If data do not depend on the parameter in these rows, nothing is wrong"
)
NOT_REPEATED = (
    "the same parameters and seed gave other data: the simulator has random numbers of its own, or its first calls are "
    "unlike later ones. So nothing can be repeated, and processes that simulate side by side may have the same noise. "
    "Draw all of them from the generator passed, and keep no state between calls"
)
NO_NOISE = (
    "another seed gave the same data: the simulator has no noise, or the same in each simulation, so the posterior "
    "knows of none. Add the noise of the measurement, drawn from the generator passed"
)


@dataclass(frozen=True)
class SimulatorReport:
    """Result of a dry run of a simulator.

    Args:
        name: Name of the simulator.
        rows: Number of rows simulated for the figures below.
        shapes: Observable name -> event shape.
        finite: Fraction of rows that were finite and did not fail.
        reproducible: Whether the same parameters and seed gave the same bits.
        random: Whether another seed gave other data.
        rows_per_second: Speed on one thread, in one batch.
        bytes_per_row: Growth of the peak memory per row, at least the size of the data itself.
        learned: For each observable, words on what a network would take it for.
        findings: Findings of the check. "good" is worth knowing; "caution" makes a posterior mean something else
            than it seems to, such as many failures; "alarm" must be mended. The kind "fatal" marks alarms that would
            make the learned posterior wrong, or leave a run without an answer.
    """

    name: str
    rows: int
    shapes: Mapping[str, tuple[int, ...]]
    finite: float
    reproducible: bool
    random: bool
    rows_per_second: float
    bytes_per_row: float
    findings: tuple[Finding, ...]
    learned: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the simulator has no problem that must be mended."""
        return not self.problems

    @property
    def notes(self) -> tuple[str, ...]:
        """Findings that are worth knowing, in words."""
        return self._words(Level.GOOD)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Findings that call for caution, in words."""
        return self._words(Level.CAUTION)

    @property
    def problems(self) -> tuple[str, ...]:
        """Problems that must be mended, in words."""
        return self._words(Level.ALARM)

    @property
    def fatal(self) -> tuple[str, ...]:
        """Problems that would make a run worthless, in words."""
        return tuple(one.words for one in self.findings if one.kind == FATAL)

    def _words(self, level: Level) -> tuple[str, ...]:
        return tuple(one.words for one in self.findings if one.level == level)

    def lines(self, *, outside: bool = False) -> list[str]:
        """The report as lines of text.

        Args:
            outside: Whether the data of interest lie outside the range that the simulator's prior predicts.
        """
        shapes = ", ".join(f"{name} {shape}" for name, shape in self.shapes.items())
        lines = [
            f"simulator       {self.name}",
            f"observables     {shapes}",
            *(f"learned as      {words}" for words in self.learned),
            f"usable rows     {self.finite:.1%} of {self.rows:,}",
            f"reproducible    {('yes, bit for bit' if self.reproducible else 'NO') if self.finite else 'not known'}",
            f"speed           {self.rows_per_second:,.3g} rows per second on one thread",
            f"memory          about {self.bytes_per_row:,.0f} bytes per row",
        ]
        lines += [
            f"{_LABELS[one.level]:<16}{one.words}" for one in sorted(self.findings, key=lambda one: one.level.order)
        ]
        counts = [f"{len(self.problems)} to be mended (WARNING)"] * bool(self.problems)
        counts += [f"{len(self.warnings)} to be thought about (caution)"] * bool(self.warnings)
        unknown = len(self._words(Level.UNKNOWN))
        counts += [f"{unknown} that could not be told (UNKNOWN)"] * bool(unknown)
        if outside:
            counts.append("data OUTSIDE what the prior predicts" + "; the simulator has no problem" * (not counts))
        return [*lines, f"found: {', '.join(counts)}" if counts else "no problem found"]


def check_store(store: Store) -> StoreReport:
    """Read every file of a store and compare it with the committed records.

    The store may grow meanwhile. Files being written are no damage, and the report says how many rows were added.
    """
    before = len(store)
    damaged = tuple(store.damaged())
    store.refresh()
    missing, lines = tuple(store.missing()), tuple(store.journals.damaged)
    indexes = tuple(store.known.shelf.packs.damaged.values())
    rows = len(store)
    return StoreReport(rows, store.rows, store.counts, damaged, missing, lines, indexes, max(0, rows - before))


def check_simulator(
    simulator: Simulator, *, rows: int | None = None, seed: int = 0, anew: bool = True
) -> SimulatorReport:
    """Run a simulator a little and look for faults.

    The checks are:

    - Names, shapes and dtypes for batches of 1 and `rows`, and of 2 and 17 where `rows` is left out.
    - The same parameters and seed give the same bits.
    - All randomness comes from the generator passed.
    - The simulator does not change the parameters.
    - The number of rows that fail.
    - A row does not depend on the rows beside it. Data simulated one row at a time and in one batch are compared by
      Kolmogorov-Smirnov tests (a sound simulator is blamed with probability 1e-4), or number by number where the
      simulator is deterministic.
    - A `log_likelihood`, if there is one, is the density of the simulated data (`campaigns.densities`).
    - A new process gives the same data.

    Args:
        simulator: Simulator to check.
        rows: Rows of the largest batch. By default as many as take a few seconds, 17 to 256.
        seed: Seed of the check.
        anew: Whether a few rows are also simulated in a new process, which takes some seconds.

    Raises:
        TypeError: If `simulator` is not a `Simulator`.
        ValueError: If rows is below 2.
    """
    if not isinstance(simulator, Simulator):
        raise TypeError(f"check_simulator takes a Simulator, got {type(simulator).__name__}")
    if rows is not None and rows < 2:
        raise ValueError(f"the check takes at least 2 rows, got {rows}")
    with one_thread(), redirect_stdout(io.StringIO()):  # Lines that a simulator prints are counted below.
        sizes = SIZES if rows is None else SIZES[:1]  # Few sizes, because a simulator may be compiled for each.
        with NewProcess(simulator) if anew else nullcontext() as new:
            return _Check(simulator, rows or _affordable(simulator, seed), seed, sizes).report(new)


class _Check:
    """One dry run of a simulator, and its findings so far."""

    def __init__(self, simulator: Simulator, rows: int, seed: int, sizes: Sequence[int]) -> None:
        self.simulator, self.rows, self.seed, self.sizes = simulator, rows, seed, sizes
        self.found: list[Finding] = []

    def report(self, new: NewProcess | None) -> SimulatorReport:
        shapes = {name: spec.shape for name, spec in self.simulator.observables.items()}
        theta = self._theta(self.rows)
        try:
            check_derived(self.simulator)
        except (ValueError, TypeError) as error:
            self._problem(str(error))
        before, states = memory_in_use("cpu"), _global_states()
        started, said = time.perf_counter(), io.StringIO()
        with redirect_stdout(said):
            first = self._outcome(theta, 0)
        speed = self.rows / max(time.perf_counter() - started, 1e-9)
        self._globals(states)
        if lines := len(said.getvalue().splitlines()):
            words = f"the simulator prints ({lines} lines for {self.rows} rows): leave it out, or log to a file"
            self._note("prints", words)
        self._absent(theta, first)
        finite = 0.0 if first is None else self._usable(first)
        made = functools.partial(SimulatorReport, self.simulator.name, self.rows, shapes, finite)
        if first is None or not finite:
            return made(False, False, 0.0, 0.0, tuple(self.found))
        size = max(memory_in_use("cpu") - before, sum(v.nbytes for v in first.x.values()))
        self._digits(first)
        again, other = self._outcome(theta, 0), self._outcome(theta, 1)
        same = again is not None and _equal(first, again)
        noisy = other is not None and not _equal(first, other)
        if not same:
            self._problem(NOT_REPEATED, fatal=False)
        elif other is not None and is_noiseless(first, other):
            self._note("noise", NO_NOISE, Level.CAUTION, Cause.NOISE)
        self._sizes()
        self._beside(theta[:_ALONE], noisy)
        if same and self.simulator.by_row:
            self._after_others(theta if self.rows <= _PATIENCE * speed else theta[:_ALONE], first)
        if same and len(theta.T) * self.rows <= _PATIENCE * speed:
            self._without_effect(theta, first)
        self._density(speed)
        if same and new is not None:
            self._elsewhere(new, speed)
        return made(same, noisy, speed, size / self.rows, tuple(self.found), self._learned(first))

    def _learned(self, first: Outcome) -> tuple[str, ...]:
        """What a network would take each observable for, in words; empty for data with more than `_MANY` numbers."""
        x = {name: value[_sound(first)] for name, value in first.x.items()}
        if sum(value.numel() for value in x.values()) > _MANY:
            return ()
        with suppress(ValueError):  # A ValueError means data that no network accepts; another finding reports it.
            prior, observables = self.simulator.prior, self.simulator.observables
            counted = dict[str, str]()
            for place in places_in(series_in(observables), prior):
                before = f"{counted[place.series]}, " if place.series in counted else ""
                counted[place.series] = before + place.parameter
            return described(observables, x, counted)
        return ()

    def _note(self, name: str, words: str, level: Level = Level.GOOD, cause: Cause | None = None) -> None:
        self.found.append(Finding(name, level, words, "", {}, cause))

    def _theta(self, n: int) -> Tensor:
        theta = self.simulator.prior.sample(n, generator=generator_for(self.seed, n))
        outside = int((~torch.isfinite(self.simulator.prior.log_prob(theta))).sum())
        if outside:
            self._problem(f"{outside} of {n} draws of the prior have no finite density under it")
        return theta

    def _outcome(self, theta: Tensor, stream: int) -> Outcome | None:
        """Simulate a batch as a campaign would; on an error, record a problem and return None."""
        kept = theta.clone()
        try:
            outcome = Attempt(self.simulator, theta, self.seed, stream, torch.device("cpu")).outcome()
        except (ValueError, TypeError, MemoryError) as error:
            self._problem(str(error.__cause__ or error))
            return None
        if not _unchanged(theta, kept):
            self._problem("the simulator changes the parameters it is given; let it work on a copy")
        return outcome

    def _problem(self, text: str, *, fatal: bool = True) -> None:
        one = Finding("simulator", Level.ALARM, text, FATAL if fatal else "")
        if one not in self.found:
            self.found.append(one)

    def _usable(self, outcome: Outcome) -> float:
        good = int(_sound(outcome).sum())
        if good == self.rows:
            return 1.0
        message, times = Counter(outcome.messages.values()).most_common(1)[0]
        share = 1 - good / self.rows
        text = f"{self.rows - good} of {self.rows} rows failed ({share:.0%}); most often ({times} times): {message}"
        if share > _MOST_FAILED:
            self._problem(f"{text}. A campaign stops when more than half of it fails")
            return good / self.rows
        text += ". They are left out, so the posterior is that of the prior where the simulator works"
        if share > _MANY_FAILED:
            text += ". Mend it, narrow the prior, or say what a failure is (infer --failures)"
            self._note("failures", text, Level.CAUTION, Cause.FAILURES)
        else:
            self._note("failures", text)
        return good / self.rows

    def _absent(self, theta: Tensor, outcome: Outcome | None) -> None:
        """Record a problem if the simulator uses parameters in rows in which they do not exist."""
        if outcome is None or not self.simulator.prior.mixed:
            return
        failed, said = status_of(outcome) != Status.OK, [m for m in outcome.messages.values() if ABSENT in m]
        gone = ~self.simulator.prior.present(theta)
        without = [
            name
            for name, rows in zip(self.simulator.prior.names, gone.T, strict=True)
            if int(rows.sum()) >= _DIFFERENT and bool(failed[rows].all()) and not bool(failed[~rows].all())
        ]
        if said or without:
            most = Counter(said).most_common(1)[0][0] if said else next(iter(outcome.messages.values()))
            names = f"; every row without {' and '.join(map(repr, without))} failed" if without else ""
            self._problem(f"the simulator uses a parameter where it does not exist: {most}{names}")

    def _without_effect(self, theta: Tensor, first: Outcome) -> None:
        """Report parameters that change no data.

        Each row is simulated again with the same seed and another row's value of one parameter.
        """
        if all(bool((value == value[:1]).all()) for value in first.x.values()):
            return  # Data that are equal in all rows, as for a rare event, show no effect of any parameter.
        always = self.simulator.prior.present(theta).all(0)
        for d, name in enumerate(self.simulator.prior.names):
            other = theta.clone()
            other[:, d] = theta[:, d].roll(1)
            changed = other[:, d] != theta[:, d]
            if not bool(always[d]) or not bool(changed.any()):
                continue
            outcome = self._outcome(other, 0)
            if outcome is None:
                continue
            self._in_turns(d, theta, first, outcome)
            same = (_same_data(first, outcome) & _sound(first) & _sound(outcome))[changed]
            if _equal(first, outcome):
                words = (
                    f"no data depend on {name!r}: with the same seed, other values of it change nothing. Is it used?"
                )
                self._note("parameters", words, Level.CAUTION, Cause.MODEL)
            elif int(same.sum()) > max(_SOME_ROWS, _FALLBACK * len(same)) and _continuous_differ(first, outcome):
                many = int(same.sum()) > _SOME_SHARE * len(same)
                words = (
                    f"in {int(same.sum())} of {len(same)} rows another value of {name!r} changes no data, with the "
                    f"same seed. {_CLIPPED if many else _STANDS_FOR}"
                )
                self._note("parameters", words, Level.CAUTION if many else Level.GOOD, Cause.MODEL if many else None)

    def _in_turns(self, d: int, theta: Tensor, first: Outcome, moved: Outcome) -> None:
        """Report an angle that has the unit degrees and is taken in radians, or the reverse.

        In such a case, adding a full turn in the wrong unit changes no data.

        Args:
            d: Index of the parameter.
            theta: Parameters of the first simulation.
            first: Data for `theta`.
            moved: Data for `theta` with other values of parameter `d`.
        """
        name, unit = self.simulator.prior.names[d], self.simulator.prior.units[d]
        if unit not in _TURNS:
            return
        turn, wrong, way = _TURNS[unit]
        other = theta.clone()
        other[:, d] += turn
        outcome = self._outcome(other, 0)
        if outcome is not None and _difference(first, outcome) < _SAME_ANGLE * _difference(first, moved):
            words = (
                f"{name!r} has the unit {unit!r}, and the simulator seems to take it in {wrong}: with {turn:.4g} "
                f"{unit} more, data are the same. Convert it by {way}"
            )
            self._note("angles", words, Level.CAUTION, Cause.MODEL)

    def _digits(self, outcome: Outcome) -> None:
        """Report parameters and data whose variation float32 cannot hold."""
        if self.simulator.prior.dtype == torch.float64:
            self._note("digits", "parameters are float64: float32 cannot tell their values apart")
        good = _sound(outcome)
        for name, spec in self.simulator.observables.items():
            if spec.dtype != "float32" or int(good.sum()) < 2:
                continue
            value = outcome.x[name][good].double()
            if words := rounded_away(value.mean(0), value.std(0)):
                self._note("digits", f"{name!r} has {words}; declare it with Observable(..., dtype='float64')")

    def _sizes(self) -> None:
        for size in self.sizes:
            theta = self._theta(size)
            given, kept = theta.clone(), theta.clone()
            try:
                result = self.simulator(given, generator=generator_for(self.seed, size, 1))
                normalise(result, self.simulator.observables, size, where=f"a batch of {size}")
            except (Exception, SystemExit) as error:
                self._problem(f"a batch of {size} rows: {type(error).__name__}: {error}")
                continue
            if not _unchanged(given, kept):
                self._problem("the simulator changes the parameters it is given; let it work on a copy")

    def _beside(self, theta: Tensor, noisy: bool) -> None:
        """Record a problem if rows depend on the rows beside them."""
        together = self._outcome(theta, 2)
        alone = [self._outcome(row[None], 3 + i) for i, row in enumerate(theta)]
        parts = [part for part in alone if part is not None]
        if together is None or len(parts) < len(theta):
            return
        apart = {name: torch.cat([part.x[name] for part in parts]) for name in together.x}
        flags = torch.cat([status_of(part) for part in parts])
        keep = (flags == Status.OK) & (status_of(together) == Status.OK)
        if int(keep.sum()) < 8:
            return
        for name, spec in self.simulator.observables.items():
            if _differ(together.x[name][keep], apart[name][keep], noisy, len(self.simulator.observables)):
                self._problem(
                    f"{name!r} {spec.shape} comes out otherwise one row at a time than in a batch of {len(theta)}: "
                    "rows must not depend on the rows beside them (a mean or a scale taken over the batch?)"
                )

    def _after_others(self, theta: Tensor, first: Outcome) -> None:
        """Record a problem if a row depends on earlier rows, although each row has its own random numbers."""
        other = theta.clone()
        other[::2] = theta[::2].roll(1, 0)
        outcome = self._outcome(other, 0)
        if outcome is None:
            return
        kept = torch.arange(1, len(theta), 2)
        before, after = _sound(first)[kept], _sound(outcome)[kept]
        both = kept[before & after]
        a, b = (Outcome({k: v[both] for k, v in one.x.items()}) for one in (first, outcome))
        changed = int((before != after).sum()) + int((_differences(a, b) > _ROUNDED).sum())
        if changed:
            self._problem(
                f"the data of {changed} of {len(kept)} rows change with what was simulated before them: the simulator "
                "keeps something from one call to the next, for example its last result, or a count of its calls. Keep "
                "no state between calls, and raise an error where a call fails"
            )

    def _density(self, speed: float) -> None:
        """Record a problem if the log-likelihood is not the density of the simulated data."""
        try:
            found = density_finding(self.simulator, self.rows, self.seed)
            if self.simulator.log_likelihood is not None and _PATIENCE * speed < NORMALISED_BY:
                self._note(
                    "evidence", f"was not checked: its {NORMALISED_BY} simulations take more than {_PATIENCE:g} s"
                )
            elif not found:
                self.found += normalisation_findings(self.simulator, self.seed)
        except (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError) as error:
            found = f"log_likelihood fails on data of the simulator's own: {type(error).__name__}: {error}"
        if found:
            self._problem(found)

    def _elsewhere(self, new: NewProcess, speed: float) -> None:
        """Record a problem if a new process gives other data than this process, which has simulated for a while."""
        look = new.look_at(rows=max(1, min(_DIFFERENT, int(speed))), seed=self.seed)
        if problem := problem_of(look):
            self._problem(problem)
        elif look.verdict == "skipped" and not new.without:
            self._note("new process", f"not compared with another process: {look.words}", Level.UNKNOWN)

    def _globals(self, before: tuple[bytes, ...]) -> None:
        names = ("torch's", "numpy's", "Python's")
        for name, old, new in zip(names, before, _global_states(), strict=True):
            if old != new:
                words = f"the simulator draws from {name} global random state; draw from the generator passed"
                self._problem(words, fatal=False)


def _affordable(simulator: Simulator, seed: int) -> int:
    """Number of rows that take a few seconds, estimated by two batches.

    The faster batch counts, because the first may be slow for once.
    """
    n = SIZES[-1]
    theta = simulator.prior.sample(n, generator=generator_for(seed, n))
    seconds = float("inf")
    for stream in range(2):
        started = time.perf_counter()
        with suppress(Exception, SystemExit):
            simulator(theta.clone(), generator=generator_for(seed, stream))
        seconds = min(seconds, time.perf_counter() - started)
    return max(n, min(_MOST, round(n * _SECONDS / max(seconds, 1e-9))))


def is_noiseless(first: Outcome, other: Outcome) -> bool:
    """Whether a simulator shows no noise: outcomes of the same parameters and two seeds are equal.

    At least `_DIFFERENT` rows must differ from each other, so that equal outcomes are no coincidence.
    """
    good = _sound(first)
    if not good.any():
        return False
    rows = torch.cat([value[good].double().reshape(int(good.sum()), -1) for value in first.x.values()], dim=1)
    return _equal(first, other) and len(rows.unique(dim=0)) >= _DIFFERENT


def _unchanged(theta: Tensor, kept: Tensor) -> bool:
    return np.array_equal(theta.numpy(), kept.numpy(), equal_nan=True)


def _equal(a: Outcome, b: Outcome) -> bool:
    return torch.equal(status_of(a), status_of(b)) and bool(_same_data(a, b).all())


def _sound(outcome: Outcome) -> Tensor:
    """Which rows did not fail, (rows,)."""
    return status_of(outcome) == Status.OK


def _same_data(a: Outcome, b: Outcome) -> Tensor:
    """In which rows all data are equal, (rows,); NaN equals NaN."""
    same = torch.ones(len(status_of(a)), dtype=torch.bool)
    for name, value in a.x.items():
        one, other = (each.reshape(len(each), -1) for each in (value, b.x[name]))
        same &= ((one == other) | (one.isnan() & other.isnan())).all(1)
    return same


def _continuous_differ(a: Outcome, b: Outcome) -> bool:
    """Whether any data differ that are not whole numbers; whole numbers may be equal by chance."""
    pairs = [(value.double().nan_to_num(), b.x[name].double().nan_to_num()) for name, value in a.x.items()]
    return any(not torch.equal(one, other) for one, other in pairs if not bool((one == one.round()).all()))


def _difference(a: Outcome, b: Outcome) -> float:
    """Mean over rows of `_differences`: by how many sds of the data the rows differ."""
    return float(_differences(a, b).mean())


def _differences(a: Outcome, b: Outcome) -> Tensor:
    """Largest difference of each row, in sds of the data; NaN where a number is missing, (rows,)."""
    far = torch.zeros(len(status_of(a)), dtype=torch.float64)
    for name, value in a.x.items():
        one, other = (each.double().reshape(len(each), -1) for each in (value, b.x[name]))
        sd = one.std(0).nan_to_num().clamp_min(1e-30)
        far = torch.maximum(far, ((one - other).abs() / sd).amax(1))
    return far


def _differ(together: Tensor, apart: Tensor, noisy: bool, observables: int) -> bool:
    a, b = together.flatten(1).double() if together.ndim > 1 else together[:, None].double(), apart.double()
    b = b.flatten(1) if b.ndim > 1 else b[:, None]
    if not noisy:
        return not torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(a.abs().max().clamp_min(1e-30)))
    from scipy import stats

    columns = np.unique(np.linspace(0, a.shape[1] - 1, _FEATURES).astype(int)) if a.shape[1] else np.zeros(0, int)
    limit = FALSE_ALARM / max(1, len(columns) * observables)
    tests: list[Any] = [stats.ks_2samp(a[:, c].numpy(), b[:, c].numpy()) for c in columns]
    return any(float(test.pvalue) < limit for test in tests)


def _global_states() -> tuple[bytes, ...]:
    legacy: Any = np.random.get_state()  # noqa: NPY002  (looked at, never drawn from)
    numbers = legacy[1].tobytes() + repr(legacy[2:]).encode()
    return torch.get_rng_state().numpy().tobytes(), numbers, repr(random.getstate()).encode()
