"""The command line `sciinf`, with one command for each verb.

Here and in `interfaces/commands/`, strings of the command line become objects.
"""

from __future__ import annotations

import atexit
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from sciinf.core.telling import ANSWER, DETAIL, ERROR, keep_log, logged, tell
from sciinf.interfaces.commands import options, steps
from sciinf.interfaces.commands.caller import CommandLine
from sciinf.interfaces.commands.errors import check_launch, sentence, told_elsewhere
from sciinf.interfaces.commands.keywords import PipelineCommand
from sciinf.interfaces.commands.run_folders import run_folder
from sciinf.interfaces.commands.usage import explained

BAD_INPUT, FAILED_CHECK, NOT_RELIABLE, INTERRUPTED = 2, 3, 4, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sciinf")
def cli() -> None:
    """From a simulator and an observation to calibrated parameters.

    Start with `sciinf check SIM.py`, then `sciinf infer SIM.py --observation DATA --out RUN -n 20000`.
    """
    check_launch(click.get_current_context().invoked_subcommand)


@cli.command(cls=PipelineCommand, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("pipeline", metavar="PIPELINE.py")
@click.option("--out", required=True, metavar="DIR", help="Run folder.")
@options.seed
@options.strict
@click.pass_context
def run(ctx: click.Context, pipeline: str, out: str, seed: int, strict: bool) -> None:
    """Run the function `run(out, *, seed, ...)` of a pipeline file.

    The other keywords of that function are options, such as --simulations 50000.
    """
    from sciinf.core import Answer
    from sciinf.core.findings import Cause
    from sciinf.core.progress import heard_by, stage
    from sciinf.interfaces.commands.keywords import keywords, pipeline_of
    from sciinf.interfaces.commands.live_events import LiveEvents
    from sciinf.interfaces.commands.live_page import LivePage

    path = Path(pipeline).resolve()
    function = pipeline_of(path)
    given = keywords(function, ctx.args, path)
    folder, caller, started = run_folder(out), CommandLine(), time.time()
    told = (folder, path.stem, caller)
    with LivePage(*told) as page, LiveEvents(*told) as events, heard_by(page, events):
        stage(f"run {path.name}")
        answer = function(folder, seed=seed, **given)
        if not isinstance(answer, Answer):
            raise TypeError(
                f"`run` of {path} returned {type(answer).__name__}; it must return what `query` gives, an Answer"
            )
        steps.finish(folder, [answer], caller, seed=seed, started=started)
    if Cause.SIMULATIONS in answer.verdict.causes:
        caller.say("note: more simulations usually mend that; the same command with more goes on")
    _end([answer.verdict.level], strict)


@cli.command(cls=options.FilesCommand)
@click.argument("simulator", metavar="SIM.py")
@options.observation
@options.column
@click.option("--out", required=True, metavar="DIR", help="Run folder.")
@click.option("-n", "n", type=click.IntRange(100), required=True, help="Simulations to train on.")
@click.option("--calibration", type=click.IntRange(100), default=None, help="Fresh simulations for the checks.")
@click.option("--until-calibrated", is_flag=True, help="Go on with more simulations until the calibration passes.")
@click.option(
    "--most",
    type=click.IntRange(100),
    default=None,
    help="Simulations at which it stops; 16 times the larger of -n and --calibration.",
)
@click.option(
    "--refine",
    type=click.Choice(["off", "auto"]),
    default="auto",
    show_default=True,
    help="Simulate around an answer: half of -n to confirm it, up to three times -n where it is not right.",
)
@options.ess
@options.budget
@options.seed
@options.workers
@options.scheduler
@options.slurm
@options.device
@options.estimator
@options.level
@options.failures
@options.accept_changes
@options.strict
def infer(
    simulator: str, observation: Sequence[str], column: Mapping[str, str], out: str, strict: bool, **given: Any
) -> None:
    """Run the whole default workflow: simulate, train, calibrate, answer, report."""
    from sciinf.interfaces.commands.infer_options import InferOptions
    from sciinf.interfaces.commands.observations import observations, reader_options, reading
    from sciinf.interfaces.commands.user_files import user_simulator
    from sciinf.interfaces.commands.workflow import follow

    chosen, sim = InferOptions(**given), user_simulator(simulator)
    chosen = replace(chosen, reader_options=reader_options(sim))
    read = reading(sim, sim.observables, column, chosen.reader_options or {})
    asked = observations(sim.observables, read, observation)
    _end([answer.verdict.level for answer in follow(sim, asked, out, chosen, CommandLine())], strict)


@cli.command()
@click.argument("simulator", metavar="SIM.py")
@click.option("-n", "n", type=click.IntRange(1), required=True, help="Simulations wanted in all.")
@click.option("--out", required=True, metavar="STORE", help="Folder, or s3://BUCKET/PREFIX; an unfinished one goes on.")
@options.seed
@options.workers
@options.scheduler
@options.slurm
@options.device
@click.option("--block", default=None, metavar="N|auto", help="Rows per batch; auto measures.")
@click.option("--timeout", type=float, default=None, help="Seconds after which a block is given up.")
@options.accept_changes
@click.option("--plan", is_flag=True, help="Only begin the store, for workers: sciinf work STORE.")
def simulate(simulator: str, n: int, out: str, **given: Any) -> None:
    """Run a simulator on draws of its prior, and keep the simulations in a store."""
    from sciinf.interfaces.commands.simulating import SimulateOptions, simulate_from_file

    simulate_from_file(simulator, n, out, SimulateOptions(**given))


@cli.command()
@click.argument("store", metavar="STORE")
@click.option("--share", default="0/1", show_default=True, metavar="I/N", help="Begin as worker I of N.")
@click.option("--simulator", default=None, metavar="SIM.py", help="The store's own when left out.")
@click.option("--device", default=None, help="cpu, cuda, cuda:1, mps; the store's own when left out.")
@click.option("--timeout", type=float, default=None, help="Seconds after which a block ends this worker.")
def work(store: str, **given: Any) -> None:
    """Simulate the missing blocks of a store, beside other workers; can run as a job of any queue."""
    from sciinf.interfaces.commands.simulating import work_on

    work_on(store, **given)


@cli.command()
@click.argument("simulator", metavar="SIM.py")
@click.argument("store", metavar="STORE")
@click.option("--out", required=True, metavar="DIR", help="Run folder; the fit goes into DIR/fit.")
@options.estimator
@options.device
@options.seed
@options.accept_changes
@click.option("--follow", is_flag=True, help="Begin while a campaign still fills the store; wait for its rows.")
def train(simulator: str, store: str, **given: Any) -> None:
    """Train an estimator on a store."""
    from sciinf.interfaces.commands.training import TrainOptions, train_on_store

    train_on_store(simulator, store, TrainOptions(**given))


@cli.command()
@click.argument("simulator", metavar="SIM.py")
@click.argument("folder", metavar="DIR")
@click.option("-n", "n", type=click.IntRange(100), default=None, help="Fresh simulations; 10,000 when left out.")
@options.workers
@options.scheduler
@options.slurm
@options.device
@options.accept_changes
def calibrate(simulator: str, folder: str, n: int | None, **given: Any) -> None:
    """Check a fit on fresh simulations; the verdict then goes with every answer."""
    from sciinf.interfaces.commands.training import calibrate_run

    calibrate_run(simulator, folder, n, **given)


@cli.command(cls=options.FilesCommand)
@click.argument("folder", metavar="DIR")
@options.observation_or_many
@options.observations
@options.table
@options.column
@click.option("--out", default=None, metavar="DIR", help="Folder for the answers; the run's own when left out.")
@click.option(
    "--simulator",
    default=None,
    metavar="SIM.py",
    help="For its observe, likelihood and predictive draws; the run's own when left out.",
)
@click.option("--without-simulator", is_flag=True, help="Ask the network alone.")
@options.level
@options.ess
@options.budget
@options.failures
@click.option("--json", "as_json", is_flag=True, help="Print answer.json instead of the table.")
@click.option(
    "--draws",
    default=None,
    metavar="FILE|N",
    help="Also write the draws: to .h5, .nc (arviz), .ecsv, .fits, .csv, .json (bilby), or ROOT_1.txt (getdist); with "
    "--observations, N of each row.",
)
@options.seed
@options.device
@options.accept_changes
@options.strict
def query(
    folder: str, observation: Sequence[str], observations: str | None, simulator: str | None, strict: bool, **given: Any
) -> None:
    """Ask a fitted run for the parameters behind an observation, or behind any number of them."""
    from sciinf.interfaces.commands.querying import QueryRunOptions, query_run, survey_run

    chosen = QueryRunOptions(**given)
    if observations is not None:
        answers = survey_run(folder, observations, simulator, chosen)
        _end(answers.column("verdict") if strict else (), strict)
        return
    _end([answer.verdict.level for answer in query_run(folder, observation, simulator, chosen)], strict)


@cli.command()
@click.argument("folder", metavar="DIR")
@click.argument("names", metavar="[OBSERVATION]...", nargs=-1)
@options.beside
def report(folder: str, names: Sequence[str], beside: Mapping[str, str]) -> None:
    """Write report.html of a run, with all answers or those to the observations named.

    The page needs no internet. The pages of refined answers are also written again.
    """
    from sciinf import write_report
    from sciinf.interfaces.run_answers import refined_folders

    keep_log(Path(folder))
    pages = [write_report(folder, names=names or None, beside=beside)]
    pages += [
        write_report(near, beside=beside) for name, near in refined_folders(folder).items() if name in (names or [name])
    ]
    tell("\n".join(map(str, pages)), ANSWER)


@cli.command()
@click.argument("folders", metavar="RUN...", nargs=-1, required=True)
@options.serving
@options.device
@options.accept_changes
def serve(folders: Sequence[str], **given: Any) -> None:
    """Answer questions about runs over HTTP, with a page for a browser."""
    from sciinf.interfaces.commands.serve import ServeOptions
    from sciinf.interfaces.commands.serve import serve as serve_runs

    serve_runs(folders, ServeOptions(**given))


@cli.command(cls=options.FilesCommand)
@click.argument("path", metavar="SIM.py|STORE")
@options.may_observe
@options.column
@click.option("--out", default=None, metavar="DIR", help="Draw the observation and data of the prior, as check.png.")
@click.option("--repair", default=None, metavar="SIM.py", help="Simulate a store's damaged blocks again.")
@options.device
def check(path: str, observation: Sequence[str], column: Mapping[str, str], **given: Any) -> None:
    """Look for faults: a simulator's shapes, seeds and speed; or a store's damage.

    With --observation, also show how a simulator reads data, and whether the data lie within what its prior predicts.
    """
    from sciinf.interfaces.commands.looking import look_for_faults

    if not look_for_faults(path, observation, column, **given):
        raise SystemExit(FAILED_CHECK)


@cli.command()
@click.argument("store", metavar="STORE")
def compact(store: str) -> None:
    """Turn a store's many small files into few: blocks into tars, journals into one.

    The command may be stopped and run again, and the campaign may go on meanwhile. The simulations stay the same.
    """
    from sciinf.interfaces.commands.simulating import compact_store

    compact_store(store)


for _command in (cli, *cli.commands.values()):
    _command.params += options.loudness


def main() -> None:
    """Entry point of `sciinf`: an error becomes one clear line and exit status 2."""
    with logged(CommandLine().asked, command=True):
        try:
            cli.main(standalone_mode=False)
            atexit.register(_done)
        except click.ClickException as error:
            explained(error).show()
            raise SystemExit(error.exit_code) from None
        except (KeyboardInterrupt, click.Abort) as stop:
            if isinstance(stop.__cause__, EOFError):  # click takes any EOFError for the end of the user's input.
                _fail(stop.__cause__)
            if not told_elsewhere():
                tell("interrupted; the same command goes on where it was", ERROR)
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            _fail(error)


def _end(levels: Iterable[str], strict: bool) -> None:
    """With --strict, exit with status 4 if an answer is not to be relied on."""
    if strict and any(level == "alarm" for level in levels):
        raise SystemExit(NOT_RELIABLE)


def _done() -> None:
    """Ignore interrupts once everything is written: one during Python's shutdown would look like a failed run."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fail(error: BaseException) -> NoReturn:
    tell("".join(traceback.format_exception(error)), DETAIL)
    if not told_elsewhere():
        tell(f"sciinf: error: {sentence(error)}", ERROR)
    raise SystemExit(BAD_INPUT) from None


if __name__ == "__main__":
    main()
