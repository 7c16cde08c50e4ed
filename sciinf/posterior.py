"""build_posterior: Fit + Simulator -> Posterior; picks from `inference/`. load_posterior: that of a run folder."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from sciinf.core import Fit, Posterior, Simulator, load_fit
from sciinf.core.files import read_json
from sciinf.core.simulator import X, file_of
from sciinf.core.unknown_law import check_known
from sciinf.inference.amortised import Amortised
from sciinf.inference.ensemble import Ensemble
from sciinf.inference.experiment import check_experiment
from sciinf.inference.mcmc import MCMC
from sciinf.inference.refined import load_refined
from sciinf.inference.reweighted import Reweighted
from sciinf.storage.answers import REFINED, ROUNDS, answer_folders, found_in, refined_folders
from sciinf.storage.belonging import foreign_fit


def build_posterior(
    fit: Fit | Sequence[Fit], simulator: Simulator | None = None, *, ess: float | int = 2_000, budget: int = 1_000_000
) -> Posterior:
    """The posterior of a fit, or of several as an ensemble.

    Args:
        fit: One fit, or several. That of a `Ratio` or a `Likelihood` is sampled by MCMC; for sets of observations,
            another sampler or other chains see `inference.mcmc.MCMC`.
        simulator: If given, and if its likelihood is tractable, the posterior is corrected by it, where it has a
            density.
        ess: Effective sample size a corrected answer must reach.
        budget: Largest number of draws spent on it.

    Returns:
        `Amortised`, `MCMC` or `Ensemble`, inside `Reweighted` where a tractable simulator was given.

    Raises:
        TypeError: If fit is something else.
        ValueError: If a tractable simulator was given that has other observables than the fit, or nobody knows the law
            of a parameter.

    Warns:
        UserWarning: If a tractable simulator was given for a posterior without a density, which stays as it is; or one
            with other settings (sensors, times of frames, ...) than the simulations that were learned from.
    """
    fits = [fit] if isinstance(fit, Fit) else list(fit)
    if wrong := [each for each in fits if not isinstance(each, Fit)]:
        kind = type(fit if isinstance(fit, str) else wrong[0]).__name__
        raise TypeError(f"build_posterior takes a Fit, or several, got {kind}; read one with load_fit(FOLDER)")
    for one in fits:
        check_known(one.estimator.prior)
    each = [Amortised(f) if f.estimator.normalised else MCMC(f) for f in fits]
    posterior = each[0] if len(each) == 1 else Ensemble(each)
    if simulator is None or simulator.log_likelihood is None:
        return posterior
    if not all(f.estimator.normalised for f in fits):
        kind = type(fits[0].estimator).__name__
        warnings.warn(
            f"the posterior of {kind} is sampled by MCMC and has no density to weight by, so it is not corrected by "
            f"the likelihood of {simulator.name!r}; train a Flow for that",
            stacklevel=2,
        )
        return posterior
    for each_fit in fits:
        check_experiment(each_fit, simulator, each_fit.estimator.observables)
    return Reweighted(posterior, simulator, ess=ess, budget=budget)


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
            f"answers in {run} are weighted by the simulator's likelihood, and this posterior is that of the network "
            "alone: pass the simulator, load_posterior(run, simulator), for draws like theirs",
            stacklevel=2,
        )
    found.look = functools.partial(_unlike, run, found)
    return found


def _weighted(folder: Path) -> bool:
    """Whether a likelihood weights an answer; not that of a damaged one."""
    with contextlib.suppress(OSError, ValueError):
        return bool(read_json(folder / "answer.json").get("amortised"))
    return False


def _unlike(run: Path, posterior: Posterior, x: X) -> str:
    """That an observation is unlike the fresh simulations of a run, in words; "" where it is not, or there are none."""
    from sciinf.calibration import load_calibration
    from sciinf.trust.ood import check_observation

    if not (run / "calibration.json").is_file():
        return ""
    trust = check_observation(load_calibration(run).reference, posterior, x)
    return trust.words if trust.alarm else ""


def fit_of(run: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str | Path] = ()) -> Fit:
    """The fit of a run folder, or in the folder itself.

    Args:
        run: The folder.
        device: Where the weights go.
        trust: As for `load_fit`.

    Raises:
        FileNotFoundError: If it holds no finished fit.
        ValueError: If the fit is damaged, or was trained on other simulations than those of this run.
    """
    inner = Path(run) / "fit"
    fit = load_fit(inner if inner.is_dir() else run, device=device, trust=trust)
    record = {"digest": fit.digest, "simulator": fit.simulator, **fit.record}
    if inner.is_dir() and (words := foreign_fit(Path(run), record)):
        raise ValueError(words)
    return fit
