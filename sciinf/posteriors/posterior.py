"""Posterior of a fit: `build_posterior` chooses the suitable class of `posteriors/`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from sciinf.campaigns.storage.belonging import foreign_fit
from sciinf.core import Fit, Posterior, Simulator, load_fit
from sciinf.core.unknown_law import check_known
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.ensemble import Ensemble
from sciinf.posteriors.experiment import check_experiment
from sciinf.posteriors.mcmc import MCMC
from sciinf.posteriors.reweighted import Reweighted


def build_posterior(
    fit: Fit | Sequence[Fit], simulator: Simulator | None = None, *, ess: float | int = 2_000, budget: int = 1_000_000
) -> Posterior:
    """The posterior of a fit, or of several fits as an ensemble.

    Args:
        fit: One fit, or several. The posterior of a `Ratio` or a `Likelihood` is sampled by MCMC. For sets of
            observations, another sampler or other chains see `posteriors.mcmc.MCMC`.
        simulator: Simulator whose likelihood corrects the posterior, if it is tractable and the posterior has a
            density.
        ess: Effective sample size that a corrected answer must reach.
        budget: Largest number of draws for a corrected answer.

    Returns:
        `Amortised`, `MCMC` or `Ensemble`, inside `Reweighted` if a tractable simulator was given.

    Raises:
        TypeError: If `fit` is neither a Fit nor several.
        ValueError: If a tractable simulator has other observables than the fit, or the distribution of a parameter is
            unknown.

    Warns:
        UserWarning: If a tractable simulator was given for a posterior without a density, which is then not corrected.
            Or if the simulator has other settings (sensors, times of frames, ...) than the simulations of the training.
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


def fit_of(run: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str | Path] = ()) -> Fit:
    """The fit of a run folder, or the fit in the folder itself.

    Args:
        run: The folder.
        device: Device for the weights.
        trust: Trusted modules and files, as for `load_fit`.

    Raises:
        FileNotFoundError: If the folder holds no finished fit.
        ValueError: If the fit is damaged, or was trained on other simulations than those of this run.
    """
    inner = Path(run) / "fit"
    fit = load_fit(inner if inner.is_dir() else run, device=device, trust=trust)
    record = {"digest": fit.digest, "simulator": fit.simulator, **fit.record}
    if inner.is_dir() and (words := foreign_fit(Path(run), record)):
        raise ValueError(words)
    return fit
