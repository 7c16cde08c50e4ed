"""Choose which posterior of a run answers: the one refined around the observation, or that of the whole prior.

The module also keeps what a second network, trained around an observation, said of the answer to that observation
(`remember`, `recall`). `load_posterior` reads one posterior of a run by itself.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sciinf.core import Answer, Calibration, Finding, Level, Observation, Posterior, Simulator, X, as_observation
from sciinf.core.files import read_json, write_json
from sciinf.core.simulator import file_of
from sciinf.core.telling import tell
from sciinf.diagnostics.calibration import load_calibration
from sciinf.diagnostics.ood import check_observation
from sciinf.diagnostics.second import compared, decides, undecided, wrong_on_average
from sciinf.interfaces.run_answers import (
    REFINED,
    ROUNDS,
    ROUNDS_FILE,
    answer_folders,
    found_in,
    keep_checks,
    refined_folders,
)
from sciinf.posteriors.changes import changes_from_json
from sciinf.posteriors.posterior import build_posterior, fit_of
from sciinf.posteriors.refined import Refined, load_refined
from sciinf.posteriors.tilted import layers
from sciinf.posteriors.truncated import observation_hash

COMPARED = "compared.json"
"""In the folder of rounds around an observation: what a second network said of the answer to it."""
Near = tuple[Path, Refined]
"""A refined answer's folder and its posterior."""


def remember(
    folder: Path, first: Posterior, x: X, differs: tuple[float, float], simulations: int, own: Level | None
) -> None:
    """Write down by how much the answer of a second network differs from the first answer.

    Args:
        folder: Folder of the rounds around the observation, `refined/NAME`.
        first: The posterior that gave the first answer.
        x: The observation, name -> (1, *event).
        differs: The two differences that `posteriors.changes` gives: of middles in sds, and of logarithms of widths.
        simulations: Number of simulations that the second network was trained on.
        own: Level of the second network's own local check; None if that check was not needed.
    """
    about = about_second(first, x)
    write_json(folder / COMPARED, {**about, "differs": list(differs), "simulations": simulations, "own": own or ""})


def recall(run: Path, first: Posterior, x: Observation, answer: Answer, out: Path) -> Answer:
    """Add to an answer, and to its `answer.json`, what a second network said of it, if one was asked.

    Args:
        run: The run folder, in which the second network's result was written down.
        first: The posterior that gave the answer.
        x: The observation.
        answer: The answer; returned unchanged if there is nothing to add.
        out: The run folder that holds the answer.
    """
    told = retold(run, first, x, answer)
    if told is not answer:
        keep_checks(out, told)
    return told


@dataclass(frozen=True)
class Answering:
    """A posterior that answers a question, with its folder and its calibration.

    Args:
        folder: The run folder, or the folder of a refined answer within it.
        posterior: The posterior that was learned there.
        calibration: Calibration of that posterior; None if it was never checked.
    """

    folder: Path
    posterior: Posterior
    calibration: Calibration | None


class Answerers:
    """All posteriors of a run: the run's own, and those refined around single observations.

    Args:
        run: The run folder, or the folder of a refined answer, which then answers alone.
        first: The run's own posterior. If it is corrected by a likelihood, it answers alone.
        device: Device of the networks.
        sim: The simulator, if there is one.

    Raises:
        ValueError: If a calibration is damaged, or if `run` is the folder of a refined answer that is damaged.
    """

    def __init__(self, run: Path, first: Posterior, device: str, sim: Simulator | None) -> None:
        self.run, self.own = run, Answering(run, first, _calibration(run))
        known = refined_in(run, device, sim) if first.name == "amortised" else []
        self.refined = known
        self._calibrations = {folder: _calibration(folder) for folder, _ in known}

    def every(self) -> list[Answering]:
        """The run's own posterior and the refined ones, each with its folder and calibration."""
        return [self.own, *(Answering(*near, self._calibrations[near[0]]) for near in self.refined)]

    def answering(self, x: Any, name: str) -> Answering:
        """Choose the posterior that answers a question about an observation.

        Args:
            x: The observation: observable name -> array of its event shape.
            name: Name of the observation, for messages.

        Raises:
            ValueError: If x does not fit the observables, or if `run` is the folder of a refined answer that does not
                hold for x.
        """
        near = nearest(self.refined, x)
        if near is not None:
            return Answering(*near, self._calibrations[near[0]])
        if any(folder == self.run for folder, _ in self.refined):
            raise ValueError(
                f"{self.run} is refined around another observation than {name!r}, too far from it; ask "
                f"{self.run.parents[1]}"
            )
        return self.own

    def retold(self, asked: Answering, x: Any, answer: Answer) -> Answer:
        """Add what a second network said of an answer, if one was asked and the run's own posterior gave the answer."""
        own = asked.posterior is self.own.posterior
        return retold(self.run, asked.posterior, x, answer) if own else answer


def refined_in(
    run: Path, device: str, sim: Simulator | None, *, first: str | None = None, say: Callable[[str], object] = tell
) -> list[Near]:
    """Read the complete refined answers of a run folder: the folder and the posterior of each.

    Args:
        run: The run folder, or the folder of a refined answer, which is then the only one.
        device: Device of the networks.
        sim: The simulator, whose file may define parts of the networks.
        first: Digest of the network that the rounds began from. When left out, any network will do.
        say: Function that receives a note for each refined answer that is left out.
    """

    def read(folder: Path) -> Iterator[Near]:
        """Yield the refined answer in one folder, if a complete one is there."""
        file = folder / ROUNDS / ROUNDS_FILE
        if not (file.is_file() and (folder / "calibration.json").is_file()):
            return
        try:
            said = read_json(file)
            if "rounds" in said and first in (None, said.get("first")):
                yield folder, load_refined(folder / ROUNDS, device=device, trust=file_of(sim))
        except ValueError as error:
            if folder == run:
                raise
            say(f"note: the refined answer in {folder} is left out: {error}")

    return list(read(run)) or [near for folder in sorted((run / REFINED).glob("*")) for near in read(folder)]


def refined_by(folder: Path, device: str, sim: Simulator | None) -> Refined | None:
    """Read the refined posterior in a folder; None if it is not the folder of a complete refined answer."""
    known = refined_in(folder, device, sim) if (folder / ROUNDS / ROUNDS_FILE).is_file() else []
    return next((posterior for at, posterior in known if at == folder), None)


def nearest(known: Sequence[Near], x: Any) -> Near | None:
    """The refined answer made for an observation, or else the first one that holds for it; None if there is none."""
    asked = [(one, as_observation(one[1].observables, x)) for one in known]
    own = [one for one, seen in asked if one[1].is_around(seen)]
    return next(iter(own + [one for one, seen in asked if one[1].reaches(seen)]), None)


def undecided_in(answer: Answer) -> Finding | None:
    """The local check of an answer, if a second network still has to tell whether the answer is right; else None."""
    return next(filter(undecided, answer.checks), None)


def about_second(first: Posterior, x: X) -> dict[str, str]:
    """Digest of the first posterior and hash of the data, which identify the answer that is compared."""
    return {"first": first.digest, "observation": observation_hash(x)}


def retold(run: Path, first: Posterior, x: Any, answer: Answer) -> Answer:
    """Return an answer with what a second network said of it, if one was asked; no file is changed.

    Args:
        run: The run folder, in which the second network's result was written down.
        first: The posterior that gave the answer.
        x: The observation.
        answer: The answer; returned unchanged if there is nothing to add.
    """
    check = undecided_in(answer)
    if check is None or wrong_on_average(answer.calibration):
        return answer
    about = about_second(first, as_observation(first.observables, x))
    for file in sorted((run / REFINED).glob(f"*/{COMPARED}")):
        said = read_json(file)
        if {key: said.get(key) for key in about} != about:
            continue
        differs, own = changes_from_json(said["differs"]), Level(said["own"]) if said.get("own") else None
        if decides(check, differs, own):
            told = compared(check, differs, said["simulations"], own)
            return replace(answer, checks=tuple(told if one is check else one for one in answer.checks))
    return answer


def _calibration(folder: Path) -> Calibration | None:
    return load_calibration(folder) if (folder / "calibration.json").is_file() else None


def load_posterior(
    run: str | Path,
    simulator: Simulator | None = None,
    *,
    name: str | None = None,
    device: str = "cpu",
    ess: float | int = 2_000,
    budget: int = 1_000_000,
) -> Posterior:
    """Load a posterior that a run learned: the one for the whole prior, or one that was refined around an observation.

    Args:
        run: The run folder, as `infer` left it.
        simulator: The simulator. If given, and if its likelihood is tractable, the posterior is corrected by that
            likelihood. The simulator's file may also define parts of the network.
        name: Name of the observation that the posterior was refined around, which is also the name of its answer. This
            posterior holds for data near the observation only, and is corrected by no likelihood. When left out, the
            posterior for the whole prior is loaded.
        device: Device of the network: "cpu", "cuda", "mps".
        ess: Effective sample size that a corrected answer must reach.
        budget: Largest number of draws spent on a corrected answer.

    Returns:
        The posterior, as `build_posterior` returns it. A refined posterior is a `Refined`.

    Raises:
        TypeError: If a name is given as the simulator.
        FileNotFoundError: If the folder holds no fit, or if nothing was refined under that name from the network that
            the run has now. The message says what there is.
        ValueError: If a file is damaged, or has parts that neither sciinf nor the simulator's file defines. Also if the
            fit was trained on other simulations than those of this run.

    Warns:
        UserWarning: If the run's answers are weighted by a likelihood and no simulator is given. Also by `sample`, if
            an observation is unlike the run's fresh simulations.

    Examples:
        >>> posterior = load_posterior("runs/decay")  # doctest: +SKIP
        >>> posterior.sample((1000,), x=x_o)  # doctest: +SKIP
    """
    if isinstance(simulator, str):
        raise TypeError(f"the second argument must be a simulator, not a name; give the name as name={simulator!r}")
    run, trust = Path(run), file_of(simulator)
    if name is not None:
        known = refined_folders(run)
        if name not in known:
            there = f"there is {', '.join(known)}" if known else found_in(run)
            if (run / REFINED / name).is_dir():
                there += "; what is there confirmed the answer, is unfinished, or was refined from another network"
            raise FileNotFoundError(f"{run} has no posterior that was refined around {name!r}: {there}")
        return load_refined(known[name] / ROUNDS, device=device, trust=trust)
    if not any((folder / "fit.json").is_file() for folder in (run / "fit", run)):
        raise FileNotFoundError(f"{run} holds no fit: {found_in(run)}; `infer` and `train` make one")
    found = build_posterior(fit_of(run, device=device, trust=trust), simulator, ess=ess, budget=budget)
    if simulator is None and any(map(_weighted, answer_folders(run).values())):
        warnings.warn(
            f"answers in {run} are weighted (by a likelihood, or for failed simulations), but this posterior is that "
            "of the network alone; if the simulator has a likelihood, load_posterior(run, simulator) weights by it",
            stacklevel=2,
        )
    known = None
    with contextlib.suppress(OSError, ValueError):  # A damaged calibration is left out here; `query` refuses it.
        known = _calibration(run)
    if known is not None and known.fit in {layer.digest for layer in layers(found)}:
        found.look = functools.partial(_unlike, known, found)
    return found


def _weighted(folder: Path) -> bool:
    """Whether the draws of the answer in a folder are weighted; False if its file is damaged."""
    with contextlib.suppress(OSError, ValueError):
        return bool(read_json(folder / "answer.json").get("amortised"))
    return False


def _unlike(known: Calibration, posterior: Posterior, x: X) -> str:
    """Warning that an observation is unlike the fresh simulations of a run; an empty text if it is like them."""
    trust = check_observation(known.reference, posterior, x)
    return trust.words if trust.alarm else ""
