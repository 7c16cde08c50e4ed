"""Confirm an answer, or refine it by rounds of simulations around it; also ask the refined answers of a run.

An answer is refined if the local check finds that it is not right at its observation. If the local check saw no error,
or cannot tell whether there is one, a first round may confirm the answer (`diagnostics.second`). If that round does not
confirm it, the rounds go on and refine it.

The rounds end when the first one confirms the answer, or when the refined answer holds (`UntilSettled`).
"""

from __future__ import annotations

import functools
import itertools
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
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
from sciinf.interfaces.commands.infer_options import InferOptions
from sciinf.interfaces.run_answers import REFINED, ROUNDS_FILE, point_to_refined
from sciinf.interfaces.run_answers import ROUNDS as INSIDE
from sciinf.posteriors.changes import agree

if TYPE_CHECKING:
    from sciinf.core import Answer, Finding, Fit, Observation, Posterior, Simulator
    from sciinf.interfaces.commands.observations import ObservationFile
    from sciinf.posteriors.refined import Refined


# Simulations of all rounds together, as a multiple of the run's, and the least number in the first round.
TIMES, LEAST = 4, 500
# Time per row of training in a round, and of calibrating a refined answer, as multiples of the times in the run.
_TRAININGS, _CALIBRATED = 1.5, 15.0
_ASIDE = "refined_before"  # Folder of a run for rounds that are put aside, where no question finds them.
FRESH = 3_000  # Fresh simulations from the distributions of the rounds, to calibrate a refined answer.

Ask = Callable[..., "Answer"]
"""`query`, but for the posterior, the observation, the calibration and what they are called."""


def wrong_here(answer: Answer) -> bool:
    """Whether an answer is wrong or doubtful at its observation, and no second network is needed to decide about it."""
    return to_confirm(answer) is None and any(map(doubted, answer.checks))


def to_confirm(answer: Answer) -> Finding | None:
    """The local check of an answer, if a second network has to tell whether the answer is right; else None.

    The result is also None if the calibration finds the network wrong on average.
    """
    return None if wrong_on_average(answer.calibration) else undecided_in(answer)


def refine_all(
    sim: Simulator,
    fit: Fit,
    run: Path,
    asked: Sequence[ObservationFile],
    answers: list[Answer],
    options: InferOptions,
    caller: Caller,
) -> None:
    """Confirm or refine the answers that need it, if that is asked for and possible.

    The `answer.json` of the run's own answer then says where the refined answer lies. The page of the run shows the
    refined answer in place of its own.

    Args:
        sim: The simulator.
        fit: The run's fit, for the whole prior.
        run: The run folder.
        asked: The observations.
        answers: Answers to the observations. Each is replaced in this list by its refined or confirmed answer.
        options: Options of `infer`. Here `n` is the number of simulations that were made to train on.
        caller: Caller of the workflow.
    """
    going_on = [place for place, answer in enumerate(answers) if will_be_asked_again(answer, options)]
    small = options.n < LEAST
    left = [answer.name for answer in answers if small and any(map(doubted, answer.checks))]
    if left and options.refine == "auto":
        are = "is" if len(left) == 1 else "are"
        caller.say(f"note: {', '.join(left)} {are} not refined, for that takes -n {LEAST} at least")
    if len(going_on) > 1:
        words = (
            f"rounds of simulations around each: {sizes(options.n)[0]:,} to confirm one, or up to "
            f"{sum(sizes(options.n)):,} to refine one that is not right"
        )
        caller.say(f"{len(going_on)} answers get {words}; to leave them out: {caller.again({'--refine': 'off'})}")
    known = refined_in(run, options.device, sim, first=fit.digest, say=caller.say) if going_on else []
    for place in going_on:
        one, answer, started = asked[place], answers[place], time.time()
        near = _made_for(known, answer, one.x)
        if near is None:
            near, answers[place] = refine(sim, fit, run, (one, answer), options, caller)
            if near is None:
                continue
            known.append(near)
        answers[place], way_on = _answer(sim, near, (one, answer.name), options, caller, started)
        point_to_refined(run, answer.name, near[0], answers[place].name)
        staged()
        caller.show([answers[place]], f"report       {steps.report_of(run)}")
        for line in way_on.splitlines():
            caller.say(line)


def will_be_asked_again(answer: Answer, options: InferOptions) -> bool:
    """Whether an answer will be refined or confirmed: it needs rounds, they are asked for, and n is large enough."""
    needed = wrong_here(answer) or to_confirm(answer) is not None
    return needed and options.refine == "auto" and options.n >= LEAST


def refining_command(answers: Sequence[Answer], options: InferOptions, caller: Caller) -> str:
    """The command that confirms or refines the answers that need it; "" if none needs it or if it was done already."""
    left = [one for one in answers if wrong_here(one) or to_confirm(one)]
    if not left or (options.refine == "auto" and options.n >= LEAST):
        return ""
    more = {"--refine": "auto", **({"-n": LEAST} if options.n < LEAST else {})}
    planned = sizes(max(options.n, LEAST))
    confirm = f", {planned[0]:,} to confirm it" if any(map(to_confirm, left)) else ""
    return f"{caller.again(more)} (up to {sum(planned):,} simulations around each to refine it{confirm})"


def sizes(n: int) -> tuple[int, ...]:
    """Numbers of simulations in the possible rounds after a run of n simulations, at most four times n in all.

    The first round has n / 2, and at least `LEAST`, which is enough if the answer was nearly right. Each further round
    has as many as all rounds before it together. So the change of the answer in that round is the error that is left.
    The last round has the simulations that remain.
    """
    first = max(LEAST, n // 2)
    found, left = [first], TIMES * n - first
    while left >= first:
        found.append(min(sum(found), left))
        left -= found[-1]
    return tuple(found)


def planned_in(folder: Path, n: int) -> tuple[int, ...]:
    """Numbers of simulations in the rounds of a refined answer: as recorded when the rounds began, or else `sizes`."""
    return tuple(_said_of_rounds(folder).get("simulations", ())) or sizes(n)


def refine(
    sim: Simulator, fit: Fit, run: Path, named: tuple[ObservationFile, Answer], options: InferOptions, caller: Caller
) -> tuple[Near | None, Answer]:
    """Simulate rounds around one answer (`sizes`) until the answer holds, or only one round if it confirms the answer.

    A refined answer holds if the last round hardly moved it, and the local check gives neither a WARNING nor a caution.

    Args:
        sim: The simulator.
        fit: The run's fit, for the whole prior.
        run: The run folder. The rounds are kept in its `refined/NAME`, and go on there if they were stopped.
        named: The observation and its answer.
        options: Options of `infer`.
        caller: Caller of the workflow.

    Returns:
        The folder and posterior of the refined answer, and the first answer with what the first round says of it. The
        former is None if the first answer was confirmed, or if no second network could be asked.
    """
    from sciinf import build_posterior
    from sciinf.interfaces.figures.page import duration
    from sciinf.posteriors.refined import refine_around
    from sciinf.training import Recipe

    (one, answer), seed, first = named, options.seed, build_posterior(fit)
    folder, undecided = run / REFINED / answer.name, to_confirm(answer)
    _put_aside(folder, fit, caller.say, whole=undecided is not None)
    planned = planned_in(folder, options.n)
    _tell_begun(run, fit, folder, (answer, planned), options, caller)
    stage(f"confirm {answer.name}" if undecided else f"refine {answer.name}, round 1 of up to {len(planned)}")
    how = options.simulating
    until, began = UntilSettled(sim, undecided, planned), time.monotonic()

    def holds(found: Refined) -> bool:
        """Report the result of a round, and return whether the rounds end; the first round may confirm the answer."""
        nonlocal answer, began
        settled, spent = until(found), time.monotonic() - began
        caller.say(f"round {until.ended}: {planned[until.ended - 1]:,} simulations, {spent:.0f} s; {until.words}")
        if until.ended == 1 and until.differs is not None:
            remember(folder, first, found.asked, until.differs, planned[0], until.own)
            answer = recall(run, first, one.x, answer, run)
            staged()
            steps.report_of(run)
            if not settled:
                took = duration(_seconds(run, fit, options.n, planned) - _seconds(run, fit, options.n, planned[:1]))
                caller.say(f"refining {answer.name} in up to {len(planned) - 1} more rounds, which may take {took}")
        if not settled:
            stage(f"refine {answer.name}, round {until.ended + 1} of up to {len(planned)}")
        began = time.monotonic()
        return settled

    estimator = steps.build(options.estimator, sim, seed)
    how |= {"estimator": estimator, "recipe": Recipe(device=options.device), "until": holds}
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
    run: Path, fit: Fit, folder: Path, asked: tuple[Answer, Sequence[int]], options: InferOptions, caller: Caller
) -> None:
    """Tell the caller which rounds begin around an answer, with how many simulations, and how long they may take."""
    from sciinf.interfaces.figures.page import duration

    answer, planned = asked
    if wrong_here(answer):
        most = f"up to {sum(planned):,} simulations around it, in up to {len(planned)} rounds"
        what = f"refining it with {most}, and {FRESH:,} fresh ones,"
    else:
        planned = planned[:1]
        what = f"confirming it by a second network, from a round of {planned[0]:,} simulations around it,"
    took, longest = (duration(_seconds(run, fit, options.n, some)) for some in (planned[:2], planned))
    took += f", or up to {longest} if it takes all rounds" if len(planned) > 2 else ""
    caller.say(
        f"first answer for {answer.name} is there; {what} in {folder}. This may take {took}; Ctrl-C keeps the first "
        "answer, and to leave it out: " + caller.again({"--refine": "off"})
    )


def _seconds(run: Path, fit: Fit, n: int, planned: Sequence[int]) -> float:
    """Estimated seconds of some rounds, and of the calibration after several rounds, from the times in the run."""
    from sciinf.campaigns import Store
    from sciinf.core.files import read_json

    store, calibration = Store(run / "simulations"), read_json(run / "calibration.json")
    each, calibrating = store.seconds / max(len(store), 1), calibration["seconds"] / max(len(calibration["ranks"]), 1)
    trained = sum(itertools.accumulate(planned)) / n  # Rows of all trainings, as a multiple of the rows of the run.
    spent = sum(planned) * each + _TRAININGS * trained * fit.record["seconds"]
    return spent + (FRESH * (each + _CALIBRATED * calibrating) if len(planned) > 1 else 0.0)


def _made_for(known: Sequence[Near], answer: Answer, x: Observation) -> Near | None:
    """A refined answer that exists already and serves for this observation; None if there is none.

    Rounds around a nearby observation can refine this answer, but they cannot confirm it.
    """
    near = nearest(known, x)
    if near is None or to_confirm(answer) is None:
        return near
    return near if near[1].is_around(as_observation(near[1].observables, x)) else None


def asking(run: Path, first: Posterior, ask: Ask, device: str, sim: Simulator | None, out: Path | None = None) -> Ask:
    """Make a function that asks the posterior refined near an observation, or the run's own posterior if there is none.

    Args:
        run: The run folder.
        first: The run's own posterior. If it is corrected by a likelihood, it answers alone.
        ask: `query` with all arguments set but the posterior, the observation, the calibration and the answer's folder.
        device: Device of the networks.
        sim: The simulator, if there is one.
        out: Folder for the answers. When left out, an answer goes into the folder of the posterior that gave it.
    """
    known = Answerers(run, first, device, sim)

    def one(x: Observation, *, name: str, files: tuple[str, ...]) -> Answer:
        """Answer the question about one observation."""
        asked = known.answering(x, name)
        if asked.posterior is not first:
            tell(f"note: {name} is answered by what was refined around {asked.folder.name}, in {asked.folder}")
        where = out or asked.folder
        answer = ask(asked.posterior, x, calibration=asked.calibration, out=where, name=name, files=files)
        return recall(run, first, x, answer, where) if asked.posterior is first else answer

    return one


def _said_of_rounds(folder: Path) -> dict[str, Any]:
    """Content of the record that the rounds of a refined answer keep in its folder; empty if no round was begun."""
    from sciinf.core.files import read_json

    file = folder / INSIDE / ROUNDS_FILE
    return read_json(file) if file.is_file() else {}


def _put_aside(folder: Path, fit: Fit, say: Say, *, whole: bool = False) -> None:
    """Move rounds from another network, or of another format, to another folder, so that new rounds can be made.

    With `whole`, a complete refined answer is moved, too, because the run's own answer is to be confirmed first.
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
    options: InferOptions,
    caller: Caller,
    started: float,
) -> tuple[Answer, str]:
    """Calibrate a refined posterior and ask it: the result is the answer, and the next step as text."""
    from sciinf import calibrate, query, simulate

    (folder, posterior), (one, name), seed = found, named, options.seed
    stage(f"calibrate refined {name}")
    how = options.simulating
    fresh = simulate(sim, folder / "calibration_simulations", FRESH, seed=seed + 1, proposal=posterior.mixture, **how)
    checked = calibrate(posterior.local, fresh, folder, progress=options.progress)
    stage(f"answer refined {name}")
    ask = functools.partial(query, posterior, calibration=checked, simulator=sim, out=folder)
    answer = ask(one.x, name=name, files=one.files, **options.asking)
    caller.say(f"refined answer for {name}, in {folder}")
    way_on = _next(sim, folder, answer, options.n, caller)
    steps.record(folder, seed, started, sim, caller, way_on=way_on)
    steps.report_of(folder)
    return answer, way_on


def _next(sim: Simulator, folder: Path, answer: Answer, n: int, caller: Caller) -> str:
    """The next step that the verdict on a refined answer asks for, as text; "" if the answer can be relied on."""
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


# Draws around which the local check simulates, and number of simulations that are timed first.
_DRAWS, _FEW = 2_000, 20
# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
_STREAM = 2**31 + 6


class UntilSettled:
    """Callable that decides after each round around an answer whether the rounds end.

    Args:
        simulator: The simulator.
        check: Local check of the first answer, if it is undecided, so that the first round has to confirm the answer.
            None if the answer is to be refined anyway.
        sizes: Numbers of simulations in the possible rounds.

    Attributes:
        check: The local check of the first answer, updated after the first round.
        differs: Difference between the first round's answer and the first answer (`posteriors.changes`); None if the
            two were not compared.
        own: Level of the local check of the first round's answer; None if that check was not needed.
        ended: Number of rounds that have ended.
        words: Result of the last round, in words.
    """

    def __init__(self, simulator: Simulator, check: Finding | None, sizes: tuple[int, ...]) -> None:
        self.simulator, self.check, self.sizes = simulator, check, sizes
        self.differs: tuple[float, float] | None = None
        self.own: Level | None = None
        self.ended, self.words = 0, ""

    @property
    def confirmed(self) -> bool:
        """Whether the first round confirmed the first answer."""
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
        if self.ended == 1:  # The change in the first round shows the error of the run's network, not the error left.
            self.words = f"{_errs(found)}; so another round follows"
            return False
        self.words, settled = gained(self.simulator, found)
        self.words += "" if settled else "; so another round follows"
        return settled


def gained(sim: Simulator, found: Refined) -> tuple[str, bool]:
    """Words for the error that is left after a round and for the local check, and whether the rounds end.

    If the remaining error is too large, another round follows. The local check is then left out, because it draws for
    thousands of data sets. Otherwise the rounds end, unless the local check says that the answer is wrong or may be
    wrong.

    Args:
        sim: The simulator.
        found: The posterior after the round.
    """
    if not agree(found.error):
        return _errs(found), False
    check = _checked(sim, found)
    return f"{_errs(found)}; {check.words}", check.level not in (Level.ALARM, Level.CAUTION)


def _checked(sim: Simulator, found: Refined) -> Finding:
    """The local check of a round's answer, made with fresh simulations around that answer."""
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
    """Words for the chance error of a refined answer."""
    return f"chance error, by how far this round moved the answer: {words_of(found.error)} (limits {limits()})"
