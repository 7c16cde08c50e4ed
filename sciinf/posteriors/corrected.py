"""Correction of a posterior learned through a surrogate, for one observation, by runs of the true simulator.

If the true simulator has a likelihood, draws are weighted by it: `build_posterior(fit, simulator, ess=, budget=)`.
If not, `correct` spends a stated number of its runs in the region of the posterior, and learns from them. The prior is
truncated to the region that holds all but epsilon of the surrogate posterior's mass. One round of truncated inference
on the true simulator follows. The surrogate only decides where to simulate. So its errors do not enter, as long as the
region holds the posterior.

References:
    | Truncated proposals for scalable and hassle-free simulation-based inference (Deistler, Goncalves & Macke, 2022),
      https://arxiv.org/abs/2210.04815
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from sciinf.campaigns.simulation import simulate
from sciinf.core import Estimator, Fit, Simulator
from sciinf.core.checks import check_whole
from sciinf.core.component import rebuilt
from sciinf.core.files import local_path
from sciinf.core.observation import as_observation
from sciinf.posteriors.experiment import check_experiment
from sciinf.posteriors.local import LocalPosterior, Sequential
from sciinf.posteriors.sequential import proposal_in
from sciinf.training import Recipe, train


def correct(
    fit: Fit,
    simulator: Simulator,
    x: Any,
    out: str | Path,
    *,
    runs: int = 2_000,
    estimator: Estimator | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    epsilon: float = 1e-3,
    workers: int | Literal["auto"] = 1,
) -> Sequential:
    """The posterior of one observation, from runs of the true simulator in the region of a first posterior.

    A call that was stopped goes on where it was. Calibrate its `local` on `simulate(simulator, ...,
    proposal=posterior.truncation)`.

    Args:
        fit: Fit that was learned through a surrogate.
        simulator: The true simulator.
        x: One observation: observable name -> array or astropy quantity of its event shape.
        out: Folder of the runs and the new fit.
        runs: Number of runs of the true simulator.
        estimator: A newly built estimator. Default: one built as the first was.
        recipe: How to train.
        seed: Seeds runs and training.
        epsilon: Mass of the first posterior that is cut off.
        workers: Number of processes that simulate, as in `simulate`.

    Returns:
        The posterior, for this observation alone.

    Raises:
        TypeError: If the fit is of a surrogate.
        ValueError: If x does not fit the observables, or the simulator has other parameters or observables than the
            fit; also any ValueError of `simulate` and `train`.
        DensityUnavailable: If the first density has no `log_prob`.
        OutsideRegion: If the new posterior lies outside the region of the first.

    Warns:
        UserWarning: If the simulator has other settings than the simulations of the training.
    """
    check_whole("runs", runs, 1)
    first = fit.estimator
    if first.prior.to_json() != simulator.prior.to_json():
        raise ValueError(f"{fit} is for {first.prior}, the true simulator {simulator.name!r} has {simulator.prior}")
    observation, out = as_observation(simulator.observables, x), local_path(out)
    learner = estimator or rebuilt(first)
    check_experiment(fit, simulator, learner.observables)
    out.mkdir(parents=True, exist_ok=True)
    region = proposal_in(out / "proposal.json", fit, observation, None, epsilon)
    store = simulate(simulator, out / "simulations", runs, seed=seed, workers=workers, proposal=region)
    better = train(learner, store, out / "fit", recipe=recipe, seed=seed)
    return Sequential(LocalPosterior(better, region, store.campaign), observation, [region])
