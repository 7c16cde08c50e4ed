"""Refine an answer that is not right at its observation, by rounds of simulations around it; and ask what is there.

Where the local check saw no error, or cannot tell by itself whether there is one, a first round confirms the answer
(`diagnostics.second`); if it does not, the rounds go on.

When rounds around an answer end: where one confirms the first answer, or where the refined one holds.
"""

from __future__ import annotations

import functools
import itertools
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciinf.core import Cause, as_observation
from sciinf.core.findings import Level
from sciinf.core.progress import stage, staged
from sciinf.core.telling import tell
from sciinf.diagnostics.here import doubted
from sciinf.diagnostics.right import limits, words_of
from sciinf.diagnostics.second import OWN, compared, decides, wrong_on_average
from sciinf.interfaces.asking import Answerers, Near, nearest, recall, refined_in, remember, undecided_in
from sciinf.interfaces.commands import steps
from sciinf.interfaces.commands.caller import Caller, Say
from sciinf.interfaces.run_answers import REFINED, ROUNDS_FILE, point_to_refined
from sciinf.interfaces.run_answers import ROUNDS as INSIDE
from sciinf.posteriors.changes import agree

if TYPE_CHECKING:
    from sciinf.core import Answer, Finding, Fit, Observation, Posterior, Simulator
    from sciinf.interfaces.commands.observations import ObservationFile
    from sciinf.posteriors.refined import Refined


TIMES, LEAST = 4, 500  # simulations of all rounds in those of the run; of the first, at least
_TRAININGS, _CALIBRATED = 1.5, 15.0  # what a row takes in a round, of what it took in the run; and in its calibration
_ASIDE = "refined_before"  # folder of a run, where no question finds them
FRESH = 3_000  # fresh simulations of the laws of the rounds, for the calibration, at most

Ask = Callable[..., "Answer"]
"""`query`, but for the posterior, the observation, the calibration and what they are called."""


def wrong_here(answer: Answer) -> bool:
    """Whether an answer is not right at its observation, or may not be and no second network has to tell it first."""
    return to_confirm(answer) is None and any(map(doubted, answer.checks))


def to_confirm(answer: Answer) -> Finding | None:
    """The local check of an answer of which a second network has to tell whether it is right.

    None of a network that the calibration finds wrong on average.
    """
    return None if wrong_on_average(answer.calibration) else undecided_in(answer)


def refine_all(
    sim: Simulator,
    fit: Fit,
    run: Path,
    asked: Sequence[ObservationFile],
    answers: list[Answer],
    given: Mapping[str, Any],
    caller: Caller,
) -> None:
    """Refine the answers that are not right at their observations, where that is asked for and can be done.

    The run's own answer then says where the refined one lies, in its `answer.json`; the run's page shows the refined
    one in its place.

    Args:
        sim: The simulator.
        fit: What was learned of the whole prior.
        run: The run folder.
        asked: The observations.
        answers: Their answers; each takes the place of the one before as soon as it is there.
        given: The options of `infer`, with `n` and `fresh`, how many it simulated to train on and to calibrate, and
            `started`, when it began.
        caller: Who asked.
    """
    going_on = [place for place, answer in enumerate(answers) if will_be_asked_again(answer, given)]
    small = given["n"] < LEAST
    left = [answer.name for answer in answers if small and any(map(doubted, answer.checks))]
    if left and given["refine"] == "auto":
        are = "is" if len(left) == 1 else "are"
        caller.say(f"note: {', '.join(left)} {are} not refined, for that takes -n {LEAST} at least")
    if len(going_on) > 1:
        words = (
            f"rounds of simulations around each: {sizes(given['n'])[0]:,} to confirm one, or up to "
            f"{sum(sizes(given['n'])):,} to refine one that is not right"
        )
        caller.say(f"{len(going_on)} answers get {words}; to leave them out: {caller.again({'--refine': 'off'})}")
    known = refined_in(run, given["device"], sim, first=fit.digest, say=caller.say) if going_on else []
    for place in going_on:
        one, answer, started = asked[place], answers[place], time.time()
        near = _made_for(known, answer, one.x)
        if near is None:
            near, answers[place] = refine(sim, fit, run, (one, answer), given, caller)
            if near is None:
                continue
            known.append(near)
        answers[place], way_on = _answer(sim, near, (one, answer.name), given, caller, started)
        point_to_refined(run, answer.name, near[0], answers[place].name)
        staged()
        caller.show([answers[place]], f"report       {steps.report_of(run)}")
        for line in way_on.splitlines():
            caller.say(line)


def will_be_asked_again(answer: Answer, given: Mapping[str, Any]) -> bool:
    """Whether rounds around an answer refine or confirm it: they are needed, asked for, and large enough."""
    needed = wrong_here(answer) or to_confirm(answer) is not None
    return needed and given["refine"] == "auto" and given["n"] >= LEAST


def refining_command(answers: Sequence[Answer], given: Mapping[str, Any], caller: Caller) -> str:
    """The command that confirms answers, or refines those that are not right; "" where that was done, or cannot be."""
    left = [one for one in answers if wrong_here(one) or to_confirm(one)]
    if not left or (given["refine"] == "auto" and given["n"] >= LEAST):
        return ""
    more = {"--refine": "auto", **({"-n": LEAST} if given["n"] < LEAST else {})}
    planned = sizes(max(given["n"], LEAST))
    confirm = f", {planned[0]:,} to confirm it" if any(map(to_confirm, left)) else ""
    return f"{caller.again(more)} (up to {sum(planned):,} simulations around each to refine it{confirm})"


def sizes(n: int) -> tuple[int, ...]:
    """Simulations of each round that there may be after a run of n: four times as many in all, at most.

    The first has half as many, which is enough where the answer was nearly right. Each further one has as many as all
    before it, so that what it moves the answer by is the error that is left; the last has what is left.
    """
    found, left = [max(LEAST, n // 2)], TIMES * n - max(LEAST, n // 2)
    while left >= found[0]:
        found.append(min(sum(found), left))
        left -= found[-1]
    return tuple(found)


def planned_in(folder: Path, n: int) -> tuple[int, ...]:
    """Simulations of each round in the folder of a refined answer: as they were planned when they began, or `sizes`."""
    return tuple(_said_of_rounds(folder).get("simulations", ())) or sizes(n)


def refine(
    sim: Simulator, fit: Fit, run: Path, named: tuple[ObservationFile, Answer], given: Mapping[str, Any], caller: Caller
) -> tuple[Near | None, Answer]:
    """Rounds of simulations around one answer (`sizes`), until it holds; one where that confirms the first answer.

    It holds where the last round hardly moved it, and the local check has neither a WARNING nor a caution.

    Args:
        sim: The simulator.
        fit: What was learned of the whole prior.
        run: Its run folder; the rounds go into its `refined/NAME`, and go on there when they were stopped.
        named: The observation, and its answer.
        given: The options of `infer`.
        caller: Who asked.

    Returns:
        The folder, and the posterior that was learned, unless the first answer was confirmed; and that answer, with
        what the first round says of it.
    """
    from sciinf import build_posterior
    from sciinf.interfaces.figures.page import duration
    from sciinf.posteriors.refined import refine_around
    from sciinf.training import Recipe

    (one, answer), seed, first = named, given["seed"], build_posterior(fit)
    folder, undecided = run / REFINED / answer.name, to_confirm(answer)
    _put_aside(folder, fit, caller.say, whole=undecided is not None)
    planned = planned_in(folder, given["n"])
    _tell_begun(run, fit, folder, (answer, planned), given, caller)
    stage(f"confirm {answer.name}" if undecided else f"refine {answer.name}, round 1 of up to {len(planned)}")
    how: dict[str, Any] = {key: given[key] for key in steps.SIMULATING}
    until, began = UntilSettled(sim, undecided, planned), time.monotonic()

    def holds(found: Refined) -> bool:
        """Say what a round gained; after the last one, the answer itself is checked."""
        nonlocal answer, began
        settled, spent = until(found), time.monotonic() - began
        caller.say(f"round {until.ended}: {planned[until.ended - 1]:,} simulations, {spent:.0f} s; {until.words}")
        if until.ended == 1 and until.differs is not None:
            remember(folder, first, found.asked, until.differs, planned[0], until.own)
            answer = recall(run, first, one.x, answer, run)
            staged()
            steps.report_of(run)
            if not settled:
                took = duration(_seconds(run, fit, given["n"], planned) - _seconds(run, fit, given["n"], planned[:1]))
                caller.say(f"refining {answer.name} in up to {len(planned) - 1} more rounds, which may take {took}")
        if not settled:
            stage(f"refine {answer.name}, round {until.ended + 1} of up to {len(planned)}")
        began = time.monotonic()
        return settled

    estimator = steps.build(given["estimator"], sim, seed)
    how |= {"estimator": estimator, "recipe": Recipe(device=given["device"]), "until": holds}
    try:
        found = refine_around(sim, one.x, folder / INSIDE, first, simulations=planned, seed=seed, **how)
    except ValueError as error:
        if any(map(doubted, answer.checks)):
            raise
        caller.say(f"note: no second network could be asked about {answer.name}: {error}")
        staged()
        steps.report_of(run)
        return None, answer
    if until.confirmed:
        caller.show([answer], f"report       {run / 'report.html'}")
        return None, answer
    shutil.copytree(folder / INSIDE / f"round_{until.ended}" / "fit", folder / "fit", dirs_exist_ok=True)
    return (folder, found), answer


def _tell_begun(
    run: Path, fit: Fit, folder: Path, asked: tuple[Answer, Sequence[int]], given: Mapping[str, Any], caller: Caller
) -> None:
    """Say what rounds are made of an answer, of how many simulations each, and what they may take."""
    from sciinf.interfaces.figures.page import duration

    answer, planned = asked
    if wrong_here(answer):
        most = f"up to {sum(planned):,} simulations around it, in up to {len(planned)} rounds"
        what = f"refining it with {most}, and {FRESH:,} fresh ones,"
    else:
        planned = planned[:1]
        what = f"confirming it by a second network, from a round of {planned[0]:,} simulations around it,"
    took, longest = (duration(_seconds(run, fit, given["n"], some)) for some in (planned[:2], planned))
    took += f", or up to {longest} if it takes all rounds" if len(planned) > 2 else ""
    caller.say(
        f"first answer for {answer.name} is there; {what} in {folder}. This may take {took}; Ctrl-C keeps the first "
        "answer, and to leave it out: " + caller.again({"--refine": "off"})
    )


def _seconds(run: Path, fit: Fit, n: int, planned: Sequence[int]) -> float:
    """What so many rounds, and if there are several their calibration, may take, by what those of the run took."""
    from sciinf import Store
    from sciinf.core.files import read_json

    store, calibration = Store(run / "simulations"), read_json(run / "calibration.json")
    each, calibrating = store.seconds / max(len(store), 1), calibration["seconds"] / max(len(calibration["ranks"]), 1)
    trained = sum(itertools.accumulate(planned)) / n  # in rows of the run
    spent = sum(planned) * each + _TRAININGS * trained * fit.record["seconds"]
    return spent + (FRESH * (each + _CALIBRATED * calibrating) if len(planned) > 1 else 0.0)


def _made_for(known: Sequence[Near], answer: Answer, x: Observation) -> Near | None:
    """A refined answer that is there already; a neighbour's rounds refine an answer, and confirm none."""
    near = nearest(known, x)
    if near is None or to_confirm(answer) is None:
        return near
    return near if near[1].is_around(as_observation(near[1].observables, x)) else None


def asking(run: Path, first: Posterior, ask: Ask, device: str, sim: Simulator | None, out: Path | None = None) -> Ask:
    """A question that refined answers near the observation answer, and the run's own posterior where there is none.

    Args:
        run: The run folder.
        first: The run's own posterior. Where it is corrected by a likelihood it answers alone.
        ask: `query` but for the posterior, the observation, the calibration and where the answer goes.
        device: Where networks go.
        sim: The simulator, if there is one.
        out: Where answers go; into the folder of what answered where left out.
    """
    known = Answerers(run, first, device, sim)

    def one(x: Observation, *, name: str, files: tuple[str, ...]) -> Answer:
        """The answer to one question."""
        asked = known.answering(x, name)
        if asked.posterior is not first:
            tell(f"note: {name} is answered by what was refined around {asked.folder.name}, in {asked.folder}")
        where = out or asked.folder
        answer = ask(asked.posterior, x, calibration=asked.calibration, out=where, name=name, files=files)
        return recall(run, first, x, answer, where) if asked.posterior is first else answer

    return one


def _said_of_rounds(folder: Path) -> dict[str, Any]:
    """What the rounds in the folder of a refined answer say of themselves; empty where none were begun."""
    from sciinf.core.files import read_json

    file = folder / INSIDE / ROUNDS_FILE
    return read_json(file) if file.is_file() else {}


def _put_aside(folder: Path, fit: Fit, say: Say, *, whole: bool = False) -> None:
    """Give another name to rounds from another network or of another format, so that new ones can be made.

    And to a whole refined answer, where the first one is to be confirmed now.
    """
    from sciinf.posteriors.refined import SCHEMA

    said = _said_of_rounds(folder)
    others = said and [said.get(key) for key in ("first", "schema")] != [fit.digest, SCHEMA]
    if others or (whole and (folder / "calibration.json").is_file()):
        aside = folder.parent.parent / _ASIDE
        old = next(free for k in itertools.count(1) if not (free := aside / f"{folder.name}-{k}").exists())
        aside.mkdir(exist_ok=True)
        why = "from another network or version" if others else "of an answer that is to be confirmed first"
        say(f"note: {folder} has rounds {why}; it is {old} now")
        folder.rename(old)


def _answer(
    sim: Simulator,
    found: Near,
    named: tuple[ObservationFile, str],
    given: Mapping[str, Any],
    caller: Caller,
    started: float,
) -> tuple[Answer, str]:
    """Calibrate what was refined and ask it: the answer, and what to do next."""
    from sciinf import calibrate, query, simulate

    (folder, posterior), (one, name), seed = found, named, given["seed"]
    stage(f"calibrate refined {name}")
    how: dict[str, Any] = {key: given[key] for key in steps.SIMULATING}
    fresh = simulate(sim, folder / "calibration_simulations", FRESH, seed=seed + 1, proposal=posterior.mixture, **how)
    checked = calibrate(posterior.local, fresh, folder, progress=given["progress"])
    stage(f"answer refined {name}")
    ask = functools.partial(query, posterior, calibration=checked, simulator=sim, out=folder)
    answer = ask(one.x, name=name, files=one.files, **{key: given[key] for key in ("level", "failures", "seed")})
    caller.say(f"refined answer for {name}, in {folder}")
    way_on = _next(sim, folder, answer, given["n"], caller)
    steps.record(folder, seed, started, sim, caller, way_on=way_on)
    steps.report_of(folder)
    return answer, way_on


def _next(sim: Simulator, folder: Path, answer: Answer, n: int, caller: Caller) -> str:
    """What a refined answer's verdict asks for; "" where it can be relied on."""
    from sciinf.diagnostics.agreement import rows_needed
    from sciinf.interfaces.commands.steps import next_steps

    larger = f"{caller.again({'-n': 2 * n})} (up to {sum(sizes(2 * n)):,} simulations around it)"
    ways: dict[Cause, Callable[[], str]] = dict.fromkeys((Cause.SIMULATIONS, Cause.AROUND), lambda: larger)
    checked, file = answer.calibration, sim.source
    if checked and file is not None:
        rows = rows_needed(len(checked.p_values), checked.rows)
        file = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        again = shlex.join(["sciinf", "calibrate", str(file), str(folder), "-n", str(rows)])
        ways[Cause.FRESH] = lambda: again
    return next_steps([answer], ways)


_DRAWS, _FEW = 2_000, 20  # that the local check is made around; simulations that tell what one costs
_STREAM = 2**31 + 6  # no campaign has this many blocks, so none shares these random numbers


class UntilSettled:
    """Asked after each round whether no further one is needed.

    Args:
        simulator: What is simulated.
        check: The local check of the first answer where that is undecided, so that the first round confirms it or not;
            None where the answer is to be refined anyway.
        sizes: Simulations of each round that there may be.

    Attributes:
        check: What it has become.
        differs: By how much the first round's answer differs from the first one, where that was asked.
        own: Level of that answer's own local check; None where it was not needed.
        ended: How many rounds have ended.
        words: What the last one told.
    """

    def __init__(self, simulator: Simulator, check: Finding | None, sizes: tuple[int, ...]) -> None:
        self.simulator, self.check, self.sizes = simulator, check, sizes
        self.differs: tuple[float, float] | None = None
        self.own: Level | None = None
        self.ended, self.words = 0, ""

    @property
    def confirmed(self) -> bool:
        """Whether the first answer was."""
        return self.differs is not None and self.check is not None and self.check.level == Level.GOOD

    def __call__(self, found: Refined) -> bool:
        self.ended += 1
        if self.ended == 1 and self.check is not None:
            self.differs = found.error
            if not decides(self.check, self.differs, None):
                self.own = _checked(self.simulator, found).level
            self.check = compared(self.check, self.differs, self.sizes[0], self.own)
            said = f"; {OWN[self.own]}" if self.own else ""
            said += ": it confirms the first answer" if self.confirmed else ": it does not confirm the first answer"
            self.words = f"the second network differs, {words_of(self.differs)} (limits {limits()}){said}"
            return self.confirmed
        if self.ended == len(self.sizes):
            self.words = f"{_errs(found)}; no simulations are left"
            return True
        if self.ended == 1:  # what it moved the answer by is the first network's error
            self.words = f"{_errs(found)}; so another round follows"
            return False
        self.words, settled = gained(self.simulator, found)
        self.words += "" if settled else "; so another round follows"
        return settled


def gained(sim: Simulator, found: Refined) -> tuple[str, bool]:
    """What a round left, in words, with what the local check says; and whether no further one is needed.

    A round whose answer errs is not the last, so that the check, which draws for thousands of data sets, is left. One
    whose answer does not is, unless the check says that it is wrong, or may be.

    Args:
        sim: The simulator.
        found: The posterior after that round.
    """
    if not agree(found.error):
        return _errs(found), False
    check = _checked(sim, found)
    return f"{_errs(found)}; {check.words}", check.level not in (Level.ALARM, Level.CAUTION)


def _checked(sim: Simulator, found: Refined) -> Finding:
    """The local check of a round's answer, from fresh simulations around it."""
    from sciinf.campaigns.block import generator_for, simulate_from
    from sciinf.core import Finding
    from sciinf.core.simulator import as_seen
    from sciinf.diagnostics.around import MANY, around_answer
    from sciinf.diagnostics.here import NAME, check_here

    sim, generator = as_seen(sim, found.asked), generator_for(0, _STREAM)
    theta = found.draw_batched(found.asked, _DRAWS, generator=generator)[:, 0]
    began = time.monotonic()
    simulate_from(sim, theta[:_FEW], generator=generator)
    seconds = (time.monotonic() - began) / _FEW
    how: dict[str, Any] = {"seconds": seconds, "generator": generator, "spread": found.prior.mixed}
    made = functools.partial(around_answer, found, sim, theta, **how)
    checks = check_here(found, found.asked, made(), functools.partial(made, sizes=MANY), generator=generator)
    return next(iter(checks), Finding(NAME, Level.UNKNOWN, "not checked"))


def _errs(found: Refined) -> str:
    """An answer's chance error, in words."""
    return f"chance error, by how far this round moved the answer: {words_of(found.error)} (limits {limits()})"
