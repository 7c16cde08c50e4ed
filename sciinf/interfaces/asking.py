"""Which of a run's posteriors answers a question: the one refined around the observation, or that of the whole prior.

And what a second network, trained around an observation, once said of the answer to it; and each posterior by itself.
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
    """Keep by how much a second network's answer differs.

    Args:
        folder: Where its round lies.
        first: Of the first answer.
        x: The observation, name -> (1, *event).
        differs: By how much (`posteriors.changes`).
        simulations: That it was trained on.
        own: Level of its own local check; None where that was not needed.
    """
    about = about_second(first, x)
    write_json(folder / COMPARED, {**about, "differs": list(differs), "simulations": simulations, "own": own or ""})


def recall(run: Path, first: Posterior, x: Observation, answer: Answer, out: Path) -> Answer:
    """The answer, and its `answer.json`, with what a second network said of it, where one was asked.

    Args:
        run: The run folder.
        first: What answered.
        x: The observation.
        answer: The answer.
        out: The run folder that it lies in.
    """
    told = retold(run, first, x, answer)
    if told is not answer:
        keep_checks(out, told)
    return told


@dataclass(frozen=True)
class Answering:
    """What answers a question.

    Args:
        folder: The run folder, or that of a refined answer within it.
        posterior: What was learned there.
        calibration: Of that; None where it was never checked.
    """

    folder: Path
    posterior: Posterior
    calibration: Calibration | None


class Answerers:
    """All that a run learned.

    Args:
        run: The run folder, or that of a refined answer, which then answers alone.
        first: The run's own posterior. Where it is corrected by a likelihood it answers alone.
        device: Where networks go.
        sim: The simulator, if there is one.

    Raises:
        ValueError: If a calibration is damaged, or the refined answer of its own folder is.
    """

    def __init__(self, run: Path, first: Posterior, device: str, sim: Simulator | None) -> None:
        self.run, self.own = run, Answering(run, first, _calibration(run))
        known = refined_in(run, device, sim) if first.name == "amortised" else []
        self.refined = known
        self._calibrations = {folder: _calibration(folder) for folder, _ in known}

    def every(self) -> list[Answering]:
        """The run's own, and what was refined, each with its calibration."""
        return [self.own, *(Answering(*near, self._calibrations[near[0]]) for near in self.refined)]

    def answering(self, x: Any, name: str) -> Answering:
        """What answers a question about an observation.

        Args:
            x: The observation: observable name -> array of its event shape.
            name: What it is called, for messages.

        Raises:
            ValueError: If x does not fit the observables, or the folder is that of a refined answer, too far from it.
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
        """An answer with what a second network said of it, where one was asked, and the answer is the run's own."""
        own = asked.posterior is self.own.posterior
        return retold(self.run, asked.posterior, x, answer) if own else answer


def refined_in(
    run: Path, device: str, sim: Simulator | None, *, first: str | None = None, say: Callable[[str], object] = tell
) -> list[Near]:
    """The refined answers of a run folder that are whole: their folders and posteriors.

    Args:
        run: The run folder, or that of a refined answer, which is then the only one.
        device: Where networks go.
        sim: Whose parts may be built.
        first: Digest of the network that the rounds began from; of any where left out.
        say: Tells of what is left out.
    """

    def read(folder: Path) -> Iterator[Near]:
        """What one folder holds, if anything."""
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
    """What the rounds in a folder learned, where it is that of a refined answer."""
    known = refined_in(folder, device, sim) if (folder / ROUNDS / ROUNDS_FILE).is_file() else []
    return next((posterior for at, posterior in known if at == folder), None)


def nearest(known: Sequence[Near], x: Any) -> Near | None:
    """Of some refined answers the one that was made for an observation, or else the first that holds for it."""
    asked = [(one, as_observation(one[1].observables, x)) for one in known]
    own = [one for one, seen in asked if one[1].is_around(seen)]
    return next(iter(own + [one for one, seen in asked if one[1].reaches(seen)]), None)


def undecided_in(answer: Answer) -> Finding | None:
    """The local check of an answer where a second network has to tell whether that is right, and has not."""
    return next(filter(undecided, answer.checks), None)


def about_second(first: Posterior, x: X) -> dict[str, str]:
    """What tells for which answer a second network was asked: the posterior of the first one, and the data."""
    return {"first": first.digest, "observation": observation_hash(x)}


def retold(run: Path, first: Posterior, x: Any, answer: Answer) -> Answer:
    """The answer with what a second network said of it, where one was asked; no file is changed.

    Args:
        run: The run folder.
        first: What answered.
        x: The observation.
        answer: The answer.
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
    """The posterior that a run learned: that of the whole prior, or one that was refined around an observation.

    Args:
        run: The run folder, as `infer` left it.
        simulator: If given, and if its likelihood is tractable, the posterior is corrected by it; and parts of the
            network may be of its file.
        name: The observation that it was refined around, which is also the name of that answer. The posterior then
            holds for data near it only, and is corrected by no likelihood. When left out, the posterior of the whole
            prior.
        device: Where the network goes: "cpu", "cuda", "mps".
        ess: Effective sample size a corrected answer must reach.
        budget: Largest number of draws spent on it.

    Returns:
        As `build_posterior`; one that was refined is a `Refined`.

    Raises:
        TypeError: If a name is given as the simulator.
        FileNotFoundError: If the folder holds no fit, or nothing was refined under that name from the network that the
            run has now; it says what there is.
        ValueError: If a file is damaged, has parts that neither sciinf nor the simulator's file defines, or the fit was
            trained on other simulations than those of this run.

    Warns:
        UserWarning: If the run's answers are weighted by a likelihood and no simulator is given; and by `sample`, if an
            observation is unlike the run's fresh simulations.

    Examples:
        >>> posterior = load_posterior("runs/decay")  # doctest: +SKIP
        >>> posterior.sample((1000,), x=x_o)  # doctest: +SKIP
    """
    if isinstance(simulator, str):
        raise TypeError(f"the second argument is a simulator (load_simulator); give a name as name={simulator!r}")
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
            f"answers in {run} are weighted, by a likelihood or as was asked, and this posterior is that of the "
            "network alone: where the simulator has a likelihood, load_posterior(run, simulator) weights by it",
            stacklevel=2,
        )
    known = None
    with contextlib.suppress(OSError, ValueError):  # a damaged calibration, which `query` refuses
        known = _calibration(run)
    if known is not None and known.fit in {layer.digest for layer in layers(found)}:
        found.look = functools.partial(_unlike, known, found)
    return found


def _weighted(folder: Path) -> bool:
    """Whether the answer in a folder is weighted; False where its file is damaged."""
    with contextlib.suppress(OSError, ValueError):
        return bool(read_json(folder / "answer.json").get("amortised"))
    return False


def _unlike(known: Calibration, posterior: Posterior, x: X) -> str:
    """That an observation is unlike the fresh simulations of a run, in words; "" where it is not."""
    trust = check_observation(known.reference, posterior, x)
    return trust.words if trust.alarm else ""
