"""The whole default workflow: simulate, train, calibrate, answer, report, and refine where the local check fails.

`infer` is it as a function, `sciinf infer` as a command; both are `follow`.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from sciinf.campaigns.campaign import Engine, check_engine
from sciinf.campaigns.new_process import NewProcess
from sciinf.core import Answer, Calibration, Cause, Estimator, Fit, Observation, Simulator, as_observation, observe
from sciinf.core.called import hinted
from sciinf.core.checks import check_whole, check_workers
from sciinf.core.progress import heard_by, stage, staged
from sciinf.core.telling import logged
from sciinf.interfaces.asking import recall
from sciinf.interfaces.commands import steps
from sciinf.interfaces.commands.caller import Caller, PythonCall
from sciinf.interfaces.commands.estimators import check_estimator
from sciinf.interfaces.commands.first_look import look_first
from sciinf.interfaces.commands.live_events import LiveEvents
from sciinf.interfaces.commands.live_page import LivePage
from sciinf.interfaces.commands.observations import ObservationFile, check_reader_options, observations
from sciinf.interfaces.commands.options import check_device
from sciinf.interfaces.commands.refine import refine_all, refining_command, will_be_asked_again
from sciinf.interfaces.commands.remembered import remember_options
from sciinf.interfaces.commands.run_folders import run_folder
from sciinf.interfaces.commands.steps import next_steps, tell_cost
from sciinf.interfaces.commands.until_calibrated import (
    SimulationPlan,
    command_for,
    more_fresh,
    more_to_train_on,
    until_calibrated,
)
from sciinf.interfaces.commands.user_files import user_simulator

_WHOLE = {"n": 100, "calibration": 100, "most": 100, "budget": 1, "seed": 0}
_MAY_BE_NONE = ("calibration", "most")
_YES_OR_NO = ("until_calibrated", "accept_changes", "progress")
_COUNTS = ("-n", "--calibration")  # options: simulations to train on, and fresh ones
_WORDS = {"refine": ("auto", "off"), "failures": ("exclude", "outcome", "model")}


@hinted("infer")
def infer(
    simulator: Simulator | str | Path,
    observation: Any,
    *,
    n: int,
    out: str | Path,
    calibration: int | None = None,
    until_calibrated: bool = False,
    most: int | None = None,
    refine: Literal["auto", "off"] = "auto",
    ess: float = 2_000,
    budget: int = 1_000_000,
    seed: int = 0,
    workers: int | Literal["auto"] = 1,
    engine: Engine | None = None,
    device: str = "cpu",
    estimator: str | Estimator = "flow",
    level: float = 0.9,
    failures: Literal["exclude", "outcome", "model"] = "exclude",
    accept_changes: bool = False,
    progress: bool = True,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Answer:
    """Go from a simulator and an observation to the answer; the command `sciinf infer` as a function.

    It simulates, trains, calibrates, answers and writes the report. Then it simulates around the answer: one round
    confirms an answer that was not found wrong, and further ones refine one that is not right. All of it is kept in
    the folder `out`: the same call goes on where it was stopped, and makes nothing twice.

    Args:
        simulator: A simulator, or the path of a file that defines `simulator`.
        observation: The real data: observable name -> array or astropy quantity of its event shape, in the
            simulator's units where it has none of its own; the array alone where there is one observable; the path of
            a file, or a list of the files that make up one observation.
        n: Simulations to train on, 100 at least.
        out: Run folder.
        calibration: Fresh simulations for the checks, 100 at least; as many as `n`, up to 10,000, when left out.
        until_calibrated: Go on with more simulations until the calibration passes.
        most: Simulations at which that stops; 16 times `n` when left out.
        refine: "auto", or "off" for no rounds around the answer.
        ess: Effective sample size to reach where the answer is corrected by a likelihood.
        budget: Largest number of draws spent on that, each with its likelihood.
        seed: Seeds everything.
        workers: Processes that simulate, as in `simulate`. With more than one the simulator must be in a file.
        engine: Where simulations run in place of them, as in `simulate`: `Cluster(address)` for other machines.
        device: Where networks are trained and the simulator runs: "cpu", "cuda", "cuda:1", "mps".
        estimator: The name of a file of `sciinf/training/estimators`, or a newly built estimator.
        level: Level of the credible intervals, between 0 and 1.
        failures: What simulations that failed are, as in `query`.
        accept_changes: Go on although files of the simulator have changed, or it gives other data than it did.
        progress: Whether to say on the standard error how it goes.
        name: What the observation is called; the name of its file, or "observation", when left out.
        columns: Observable -> what it is called in the files, where that is another name; the option `--column`.
        options: Further keywords of what reads the simulator's files, which are options of the command:
            {"gps": 1126259462.4} for `--gps 1126259462.4`.

    Returns:
        The answer, confirmed or refined where it was; `print` shows it as the command does. `load_answer(out)` reads it
        again.

    Raises:
        FileNotFoundError: If a file does not exist.
        TypeError: If the simulator is none.
        ValueError: If an argument makes no sense, the observation does not fit the simulator, or the folder holds
            simulations of another simulator or seed.
        OSError: If the folder cannot be written.
        KeyboardInterrupt: On Ctrl-C before there is an answer; what was done is kept. Later the best answer so far is
            returned, and the same call goes on.

    Warns:
        UserWarning: As the steps do, such as for an observation unlike the simulations.

    Examples:
        >>> answer = infer("decay.py", "cell7.csv", n=20_000, out="runs/decay")  # doctest: +SKIP
        >>> answer.parameters["rate"].median  # doctest: +SKIP
    """
    given = dict(locals())
    _check_named(simulator, name)
    check_options(given)
    sim = simulator if isinstance(simulator, Simulator) else user_simulator(str(simulator))
    asked = _asked(sim, observation, name, columns, options)
    caller = PythonCall(_written(given), shown=progress)
    with logged(caller.asked, command=False):
        return follow(sim, [asked], out, given, caller)[0]


def follow(
    sim: Simulator, asked: Sequence[ObservationFile], out: str | Path, given: Mapping[str, Any], caller: Caller
) -> list[Answer]:
    """The workflow.

    Args:
        sim: The simulator.
        asked: The observations.
        out: The run folder.
        given: The options of `infer`, name -> value.
        caller: Who asked.

    Returns:
        The answers, refined where they were.
    """
    folder, title = run_folder(out), f"{sim.name}: {asked[0].name}" if len(asked) == 1 else sim.name
    with ExitStack() as stack:
        page = stack.enter_context(LivePage(folder, title, caller))
        events = stack.enter_context(LiveEvents(folder, title, caller))
        stack.enter_context(heard_by(page, events))
        trained = (folder / "fit" / "fit.json").is_file()
        new = None if trained else stack.enter_context(NewProcess(sim, given["device"]))
        started = time.time()
        stage("look first")
        steps.tell_read(asked, caller.say)
        try:
            tell_cost(sim, given["n"], estimator=steps.build(given["estimator"], sim, given["seed"]), say=caller.say)
            look_first(sim, asked, simulated=(folder / "simulations" / "store.json").is_file())
        except (ValueError, TypeError):
            page.take_back()
            raise
        made = functools.partial(steps.attempt, sim, folder, given, new=new)
        return _followed(sim, asked, folder, {**given, "started": started}, caller, made)


def _followed(
    sim: Simulator,
    asked: Sequence[ObservationFile],
    folder: Path,
    given: Mapping[str, Any],
    caller: Caller,
    attempt: Callable[[SimulationPlan], tuple[Fit, Calibration]],
) -> list[Answer]:
    """The workflow, in a run folder that is there, of what was looked at."""
    from sciinf import build_posterior, query

    started, seed = given["started"], given["seed"]
    plan = SimulationPlan(given["n"], given["calibration"])
    if given["until_calibrated"]:
        plan, fit, checked = until_calibrated(plan, given["most"], attempt, caller.say)
    else:
        fit, checked = attempt(plan)
    posterior = build_posterior(fit, sim, ess=given["ess"], budget=given["budget"])
    how = {name: given[name] for name in ("level", "failures", "seed")}
    ask = functools.partial(query, posterior, calibration=checked, simulator=sim, out=folder, **how)
    stage("answer")
    found = zip(asked, steps.answers_to(asked, ask), strict=True)
    answers = [recall(folder, posterior, one.x, answer, folder) for one, answer in found]
    grown = {**given, "n": plan.train, "fresh": plan.fresh}
    ways = {
        Cause.AROUND: lambda: refining_command(answers, grown, caller),
        Cause.SIMULATIONS: lambda: command_for(folder, plan, more_to_train_on(plan), _COUNTS, caller),
        Cause.FRESH: lambda: command_for(folder, plan, more_fresh(plan, checked), _COUNTS, caller),
    }
    left = [answer for answer in answers if not will_be_asked_again(answer, grown)]
    way_on = next_steps(left, ways)
    steps.finish(folder, answers, caller, seed=seed, started=started, way_on=way_on, simulator=sim)
    if any(one.files for one in asked):
        remember_options(folder, given["options"] or {})
    stopped = ""
    try:
        refine_all(sim, fit, folder, asked, answers, grown, caller)
    except KeyboardInterrupt:
        if caller.must_end:
            raise
        stopped = "stopped: this is the best answer so far, and the same call goes on with the simulations around it"
        caller.say(stopped)
    last = next_steps([answer for answer in answers if answer.posterior != "refined"], ways)
    if last != way_on:
        steps.record(folder, seed, started, sim, caller, way_on=last)
    if stopped or last != way_on:
        staged()
        steps.report_of(folder)
    for line in last.splitlines():
        caller.say(line)
    return answers


def _check_named(simulator: Any, name: Any) -> None:
    """Refuse what is no simulator, and a name that names no folder.

    Raises:
        TypeError: If the simulator is none.
        ValueError: If the name is none.
    """
    if not isinstance(simulator, Simulator | str | Path):
        raise TypeError(
            f"infer takes a Simulator or the path of its file, got {type(simulator).__name__}; wrap a function with "
            "sciinf.wrappers.numpy"
        )
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"[\w+@=-][\w+@=. -]*", name)):
        raise ValueError(f"name names a folder, so it is of letters, digits and +-=@_. alone, got {name!r}")


def check_options(given: Mapping[str, Any]) -> None:
    """Refuse options of `infer` that make no sense, before hours are spent; those of the command and of the call.

    Args:
        given: Name -> value.

    Raises:
        TypeError: If the estimator is none.
        ValueError: If another one makes no sense.
    """
    for name, least in _WHOLE.items():
        if given[name] is not None or name not in _MAY_BE_NONE:
            check_whole(name, given[name], least)
    check_workers(given["workers"])
    check_engine(given["engine"], given["workers"])
    for name, words in _WORDS.items():
        if given[name] not in words:
            raise ValueError(f"{name} is one of {', '.join(map(repr, words))}, got {given[name]!r}")
    for name, most in (("level", 1.0), ("ess", math.inf)):
        if not isinstance(given[name], int | float) or isinstance(given[name], bool) or not 0 < given[name] < most:
            raise ValueError(
                f"{name} is a number above 0{f' and below {most:g}' if most == 1 else ''}, got {given[name]!r}"
            )
    for name in _YES_OR_NO:
        if not isinstance(given[name], bool):
            raise ValueError(f"{name} is True or False, got {given[name]!r}")
    if not isinstance(given["estimator"], str | Estimator):
        kind = type(given["estimator"]).__name__
        raise TypeError(f"estimator is the name of one, such as 'flow', or one that was built, got {kind}")
    if isinstance(given["estimator"], str):
        check_estimator(given["estimator"])
    check_device(given["device"])


def _asked(
    sim: Simulator,
    observation: Any,
    name: str | None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> ObservationFile:
    """One observation, from files or arrays.

    Raises:
        ValueError: If it does not fit the simulator, the files hold several, or its reader does not take an option.
    """
    check_reader_options(sim, options or {})
    files = [observation] if isinstance(observation, str | Path) else observation
    if isinstance(files, list | tuple) and files and all(isinstance(file, str | Path) for file in files):
        read = functools.partial(observe, sim, columns=columns, options=options)
        found = observations(sim.observables, read, [str(file) for file in files])
        if len(found) > 1:
            raise ValueError(
                f"the {len(files)} files hold an observation each; give infer one of them, and ask for the others with "
                "`query`, which needs no further training"
            )
        return ObservationFile(name or found[0].name, found[0].files, found[0].x)
    if options:
        raise ValueError(
            f"options are for reading files, and the observation is given as data: leave out {', '.join(options)}"
        )
    values = {key: value[0] for key, value in as_observation(sim.observables, observation).items()}
    told = (observation.read, observation.findings) if isinstance(observation, Observation) else ((), ())
    return ObservationFile(name or "observation", (), Observation(values, *told))


def _written(given: Mapping[str, Any]) -> dict[str, str]:
    """The arguments of a call as they are written, without those left out."""
    said = {}
    for name, parameter in inspect.signature(infer).parameters.items():
        value = given[name]
        if parameter.default is inspect.Parameter.empty or value != parameter.default:
            said[name] = repr(str(value) if isinstance(value, Path) else value)
    if isinstance(given["simulator"], Simulator):
        said["simulator"] = given["simulator"].name
    if isinstance(given["estimator"], Estimator):
        said["estimator"] = type(given["estimator"]).__name__
    if not isinstance(given["observation"], str | Path):
        said["observation"] = "..."
    return said
