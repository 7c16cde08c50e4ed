"""The whole default workflow: simulate, train, calibrate, answer, report, and refine where the local check fails.

`infer` is the workflow as a function, and `sciinf infer` is the workflow as a command. Both call `follow`.
"""

from __future__ import annotations

import functools
import inspect
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sciinf.campaigns.campaign import Engine
from sciinf.campaigns.new_process import NewProcess
from sciinf.core import Answer, Calibration, Cause, Estimator, Fit, Observation, Simulator, as_observation, observe
from sciinf.core.called import hinted
from sciinf.core.progress import heard_by, stage, staged
from sciinf.core.telling import logged
from sciinf.interfaces.asking import recall
from sciinf.interfaces.commands import steps
from sciinf.interfaces.commands.caller import Caller, PythonCall
from sciinf.interfaces.commands.first_look import look_first
from sciinf.interfaces.commands.infer_options import InferOptions
from sciinf.interfaces.commands.live_events import LiveEvents
from sciinf.interfaces.commands.live_page import LivePage
from sciinf.interfaces.commands.observations import ObservationFile, check_reader_options, observations
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

_COUNTS = ("-n", "--calibration")  # Options for the number of simulations to train on, and of fresh ones.


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

    The function simulates, trains, calibrates, answers and writes the report. Then it simulates around the answer. One
    round confirms an answer that was not found wrong, and further rounds refine an answer that is not right. Everything
    is kept in the folder `out`: the same call continues a run that was stopped, and makes nothing twice.

    Args:
        simulator: A simulator, or the path of a file that defines `simulator`.
        observation: The real data: observable name -> array or astropy quantity of its event shape. Values without a
            unit are in the simulator's units. If there is one observable, the array alone will do. Files are given as
            the path of a file, or as a list of the files that make up one observation.
        n: Number of simulations to train on, 100 at least.
        out: Run folder.
        calibration: Number of fresh simulations for the checks, 100 at least; as many as `n`, up to 10,000, when left
            out.
        until_calibrated: Whether to go on with more simulations until the calibration passes.
        most: Largest number of simulations with `until_calibrated`; 16 times the larger of `n` and the number of fresh
            simulations when left out.
        refine: "auto", or "off" for no rounds around the answer.
        ess: Effective sample size to reach if the answer is corrected by a likelihood.
        budget: Largest number of draws spent on this correction, each with its likelihood.
        seed: Seed of all random numbers.
        workers: Number of processes that simulate, as in `simulate`. With more than one, the simulator must be in a
            file.
        engine: Where simulations run instead of in these processes, as in `simulate`: `Cluster(address)` for other
            machines.
        device: Device on which networks are trained and the simulator runs: "cpu", "cuda", "cuda:1", "mps".
        estimator: The name of a file of `sciinf/training/estimators`, or a newly built estimator.
        level: Level of the credible intervals, between 0 and 1.
        failures: How failed simulations are treated, as in `query`.
        accept_changes: Whether to go on although files of the simulator have changed, or it gives other data than
            before.
        progress: Whether to report the progress on the standard error.
        name: Name of the observation; the name of its file, or "observation", when left out.
        columns: Observable -> its name in the files, if the two differ; the option `--column` of the command.
        options: Further keyword arguments of the function that reads the simulator's files, which are options of the
            command: {"gps": 1126259462.4} for `--gps 1126259462.4`.

    Returns:
        The answer, confirmed or refined if rounds were made. `print` shows it as the command does. `load_answer(out)`
        reads it again.

    Raises:
        FileNotFoundError: If a file does not exist.
        TypeError: If `simulator` is neither a simulator nor a path, or `estimator` is neither an estimator nor a name.
        ValueError: If an argument is invalid, the observation does not fit the simulator, or the folder holds
            simulations of another simulator or seed.
        OSError: If the folder cannot be written.
        KeyboardInterrupt: On Ctrl-C before there is an answer; finished work is kept. On Ctrl-C after that, the best
            answer so far is returned, and the same call goes on.

    Warns:
        UserWarning: As the steps do, for example if the observation is unlike the simulations.

    Examples:
        >>> answer = infer("decay.py", "cell7.csv", n=20_000, out="runs/decay")  # doctest: +SKIP
        >>> answer.parameters["rate"].median  # doctest: +SKIP
    """
    _check_named(simulator, name)
    chosen = InferOptions(
        n=n,
        calibration=calibration,
        until_calibrated=until_calibrated,
        most=most,
        refine=refine,
        ess=ess,
        budget=budget,
        seed=seed,
        workers=workers,
        engine=engine,
        device=device,
        estimator=estimator,
        level=level,
        failures=failures,
        accept_changes=accept_changes,
        progress=progress,
        reader_options=options,
    )
    sim = simulator if isinstance(simulator, Simulator) else user_simulator(str(simulator))
    asked = _asked(sim, observation, name, columns, options)
    others = {"simulator": simulator, "observation": observation, "out": out, "name": name, "columns": columns}
    caller = PythonCall(_written({**vars(chosen), **others, "options": options}), shown=progress)
    with logged(caller.asked, command=False):
        return follow(sim, [asked], out, chosen, caller)[0]


def follow(
    sim: Simulator, asked: Sequence[ObservationFile], out: str | Path, options: InferOptions, caller: Caller
) -> list[Answer]:
    """Run the whole workflow for some observations: the first look, simulation, training, calibration and answers.

    Args:
        sim: The simulator.
        asked: The observations.
        out: The run folder.
        options: Options of `infer`.
        caller: Caller of the workflow.

    Returns:
        The answers; an answer that was refined is the refined one.
    """
    folder, title = run_folder(out), f"{sim.name}: {asked[0].name}" if len(asked) == 1 else sim.name
    with ExitStack() as stack:
        page = stack.enter_context(LivePage(folder, title, caller))
        events = stack.enter_context(LiveEvents(folder, title, caller))
        stack.enter_context(heard_by(page, events))
        trained = (folder / "fit" / "fit.json").is_file()
        new = None if trained else stack.enter_context(NewProcess(sim, options.device))
        started = time.time()
        stage("look first")
        steps.tell_read(asked, caller.say)
        try:
            tell_cost(sim, options.n, estimator=steps.build(options.estimator, sim, options.seed), say=caller.say)
            look_first(sim, asked, simulated=(folder / "simulations" / "store.json").is_file())
        except (ValueError, TypeError):
            page.take_back()
            raise
        made = functools.partial(steps.attempt, sim, folder, options, new=new)
        return _followed(sim, asked, folder, options, caller, made, started)


def _followed(
    sim: Simulator,
    asked: Sequence[ObservationFile],
    folder: Path,
    options: InferOptions,
    caller: Caller,
    attempt: Callable[[SimulationPlan], tuple[Fit, Calibration]],
    started: float,
) -> list[Answer]:
    """Run the workflow after the first look: simulate, train, calibrate, answer and refine, in a given run folder."""
    from sciinf import build_posterior, query

    seed, plan = options.seed, SimulationPlan(options.n, options.calibration)
    if options.until_calibrated:
        plan, fit, checked = until_calibrated(plan, options.most, attempt, caller.say)
    else:
        fit, checked = attempt(plan)
    posterior = build_posterior(fit, sim, ess=options.ess, budget=options.budget)
    ask = functools.partial(query, posterior, calibration=checked, simulator=sim, out=folder, **options.asking)
    stage("answer")
    found = zip(asked, steps.answers_to(asked, ask), strict=True)
    answers = [recall(folder, posterior, one.x, answer, folder) for one, answer in found]
    grown = replace(options, n=plan.train)
    ways = {
        Cause.AROUND: lambda: refining_command(answers, grown, caller),
        Cause.SIMULATIONS: lambda: command_for(folder, plan, more_to_train_on(plan), _COUNTS, caller),
        Cause.FRESH: lambda: command_for(folder, plan, more_fresh(plan, checked), _COUNTS, caller),
    }
    left = [answer for answer in answers if not will_be_asked_again(answer, grown)]
    way_on = next_steps(left, ways)
    steps.finish(folder, answers, caller, seed=seed, started=started, way_on=way_on, simulator=sim)
    if any(one.files for one in asked):
        remember_options(folder, options.reader_options or {})
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
    """Refuse an object that is no simulator, and a name that cannot be the name of a folder.

    Raises:
        TypeError: If `simulator` is neither a simulator nor the path of its file.
        ValueError: If `name` cannot be the name of a folder.
    """
    if not isinstance(simulator, Simulator | str | Path):
        raise TypeError(
            f"infer takes a Simulator or the path of its file, got {type(simulator).__name__}; wrap a function with "
            "sciinf.wrappers.numpy"
        )
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"[\w+@=-][\w+@=. -]*", name)):
        raise ValueError(f"name names a folder; use letters, digits and +-=@_. only, got {name!r}")


def _asked(
    sim: Simulator,
    observation: Any,
    name: str | None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> ObservationFile:
    """Make the one observation of a call, from files or from arrays.

    Raises:
        ValueError: If the observation does not fit the simulator, or if the files hold several observations. Also if
            the simulator's reader does not take an option.
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


def _written(arguments: Mapping[str, Any]) -> dict[str, str]:
    """The arguments of a call as they are written in Python, without those at their defaults."""
    said = {}
    for name, parameter in inspect.signature(infer).parameters.items():
        value = arguments[name]
        if parameter.default is inspect.Parameter.empty or value != parameter.default:
            said[name] = repr(str(value) if isinstance(value, Path) else value)
    if isinstance(arguments["simulator"], Simulator):
        said["simulator"] = arguments["simulator"].name
    if isinstance(arguments["estimator"], Estimator):
        said["estimator"] = type(arguments["estimator"]).__name__
    if not isinstance(arguments["observation"], str | Path):
        said["observation"] = "..."
    return said
