r"""Sequential rounds for one observation, with truncated proposals (TSNPE).

Most draws of a wide prior say nothing about one observation x_o. Round 1 simulates from the prior p(theta). Round
r > 1 simulates from the prior cut down to where the posteriors of the rounds before have their mass,

    p_r(theta) = p(theta) 1[theta in S_r] / P(S_r),     S_1 = support,     S_{r+1} = S_r and H_r,
    H_r = {theta: log q_r(theta | x_o) > tau_r},     tau_r = epsilon-quantile of log q_r(theta | x_o),

with q_r the density learned in round r: H_r is its highest-density region of mass 1 - epsilon (see `truncated`). Within
S_r every round up to r drew from a law proportional to p, for S_1, S_2, ... are nested by construction; so all rows of
all rounds that lie in S_r are one sample of p_r(theta) p(x | theta), and the plain loss

    E_{p_r(theta) p(x | theta)} [ -log q(theta | x) ]

has its minimum at p_r(theta) p(x | theta) / p_r(x), at x_o the posterior up to the mass outside S_r: no importance
weights in the loss and no correction afterwards. Each round trains anew: rows outside S_r would have shaped a warm
start, and theta must be standardised within S_r, of which the posterior would fill but a corner otherwise.

The last density is restricted to S_R and divided by the mass it has there. What a round loses is lost for good: the
posterior's mass outside H_r, about epsilon where q_r is good and more where it is narrower than the posterior.

Shapes: theta (n, D), x_o name -> (1, *event).

References:
    | Truncated proposals for scalable and hassle-free simulation-based inference (Deistler, Goncalves & Macke, 2022),
      https://arxiv.org/abs/2210.04815
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from sciinf.campaigns.block import generator_for, one_thread
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store
from sciinf.core import DensityUnavailable, Estimator, Fit, Simulator, X, as_observation, load_fit
from sciinf.core.checks import check_whole
from sciinf.core.existence import check_continuous
from sciinf.core.files import local_path, read_json, write_json
from sciinf.posteriors.local import LocalPosterior, Sequential
from sciinf.posteriors.rounds import ROUND, campaigns_of, claim, claimed, gather, round_folder, round_seed, settings_of
from sciinf.posteriors.truncated import FROM_PRIOR, LEAST, Region, TruncatedPrior, observation_hash, truncate
from sciinf.training import Recipe, train
from sciinf.training.estimators.flow import Flow

SCHEMA = 1


def infer_sequentially(
    simulator: Simulator,
    x: Any,
    out: str | Path,
    *,
    rounds: int = 3,
    simulations: int = 2_000,
    estimator: Estimator | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    epsilon: float = 1e-4,
    workers: int | Literal["auto"] = 1,
    timeout: float | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Sequential:
    """The posterior of one observation, from simulations that are drawn ever nearer to it.

    Round r lies in `out/round_r`: `proposal.json` (what it was simulated from, where not from the prior),
    `simulations`, `training` (the rows of all rounds so far that lie in its region) and `fit`. A call that was stopped
    at any moment goes on where it was, to the same result; the same call with more rounds adds them.

    Args:
        simulator: What to run.
        x: One observation: observable name -> array or astropy quantity of its event shape.
        out: Folder of the rounds.
        rounds: How many; 1 is ordinary training on draws of the prior.
        simulations: Rows simulated in each round.
        estimator: A newly built estimator, each round trains a copy; `Flow` where left out.
        recipe: How to train.
        seed: Seeds each round's campaign, and training.
        epsilon: Mass of the learned posterior cut off in each round.
        workers: Processes that simulate, as in `simulate`.
        timeout: Seconds after which a block is given up, as in `simulate`.
        device: Where the simulator runs; the recipe says where the network is trained.
        progress: Whether to report progress on the standard error.

    Returns:
        The posterior, for this observation alone.

    Raises:
        TypeError: If the simulator is none.
        ValueError: If x does not fit the observables, a parameter is discrete, the estimator is for another prior or
            other observables, a number makes no sense, or the folder holds rounds of another observation, simulator or
            setting; whatever `simulate` and `train` raise.
        DensityUnavailable: If the estimator's density has no `log_prob` and there is more than one round.
        OutsideRegion: If a round's posterior is not where the earlier ones were.

    Warns:
        UserWarning: If a round's simulations do not quite follow the law they should, or less than nine tenths of what
            the last round learned lies where its simulations were; the posterior's `scope` says so, too.
    """
    if not isinstance(simulator, Simulator):
        raise TypeError(f"expected a Simulator, got {type(simulator).__name__}; load_simulator(path) reads a file")
    _check(rounds, simulations, epsilon)
    check_continuous(simulator.prior, "sequential inference")
    observation, out = as_observation(simulator.observables, x), local_path(out)
    recipe = recipe or Recipe()
    learner: Estimator = estimator or Flow(simulator.prior, simulator.observables, seed=seed)
    settings = {**settings_of(simulator, observation, simulations, learner, recipe, seed), "epsilon": epsilon}
    if rounds > 1:
        _check_density(learner, simulator, observation)
    claim(out / "sequential.json", {"schema": SCHEMA, **settings}, observation, simulator)
    truncations: list[TruncatedPrior] = []
    stores: list[Store] = []
    fits: list[Fit] = []
    for number in range(1, rounds + 1):
        folder = round_folder(out, number)
        if fits:
            truncations.append(
                proposal_in(folder / "proposal.json", fits[-1], observation, _last(truncations), epsilon)
            )
        within = _last(truncations)
        store = simulate(
            simulator,
            folder / "simulations",
            simulations,
            seed=round_seed(seed, number),
            workers=workers,
            timeout=timeout,
            device=device,
            progress=progress,
            proposal=within,
        )
        stores.append(store)
        rows = store if within is None else _gathered(stores, simulator, within, folder / "training")
        fits.append(train(learner, rows, folder / "fit", recipe=recipe, seed=seed, progress=progress))
    known = campaigns_of(stores)
    write_json(out / "sequential.json", {**settings, "schema": SCHEMA, "rounds": rounds, "trained_on": sorted(known)})
    return Sequential(LocalPosterior(fits[-1], _last(truncations), known), observation, truncations)


def load_sequential(out: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str] = ()) -> Sequential:
    """Read what `infer_sequentially` left in a folder.

    Args:
        out: The folder.
        device: Where the networks go.
        trust: Modules outside sciinf whose components may be built.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is unfinished or damaged.
        OutsideRegion: If nothing of what the last round learned lies where its simulations were.

    Warns:
        UserWarning: If less than nine tenths of it do.
    """
    out = local_path(out)
    if not (out / "sequential.json").is_file():
        raise FileNotFoundError(f"{out} holds no sequential rounds; make some with infer_sequentially")
    data = read_json(out / "sequential.json")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or "rounds" not in data:
        raise ValueError(f"{out} holds rounds that are unfinished or of another format; call infer_sequentially again")
    observation = claimed(out, data["observation"], "call infer_sequentially again")
    fits = [load_fit(round_folder(out, k) / "fit", device=device, trust=trust) for k in range(1, data["rounds"] + 1)]
    truncations: list[TruncatedPrior] = []
    for number, fit in enumerate(fits[:-1], start=2):
        file = round_folder(out, number) / "proposal.json"
        found = _kept(file, fit, observation, _last(truncations), data["epsilon"])
        if found is None:
            raise ValueError(f"{file} is missing, damaged or of another fit; call infer_sequentially again")
        truncations.append(found)
    local = LocalPosterior(fits[-1], _last(truncations), frozenset(data["trained_on"]))
    return Sequential(local, observation, truncations)


def _check(rounds: int, simulations: int, epsilon: float) -> None:
    for name, value in (("rounds", rounds), ("simulations", simulations)):
        check_whole(name, value, 1)
    if not LEAST <= epsilon <= 0.01:
        raise ValueError(f"epsilon, the mass cut off in each round, must be from {LEAST:g} to 0.01, got {epsilon!r}")


def _check_density(estimator: Estimator, simulator: Simulator, x: X) -> None:
    """Find out before anything is simulated what the first truncation would.

    Raises:
        DensityUnavailable: If the estimator's density has no `log_prob`, which the second round needs.
    """
    theta = simulator.prior.sample(1, generator=generator_for(0, ROUND))
    try:
        copy.deepcopy(estimator).eval().density(x).log_prob(theta[:, None])
    except DensityUnavailable as error:
        raise DensityUnavailable(f"{error}; rounds after the first need the density, rounds=1 does not") from error


def _last(truncations: Sequence[TruncatedPrior]) -> TruncatedPrior | None:
    """What the newest round is simulated from; None for the prior."""
    return truncations[-1] if truncations else None


def proposal_in(file: Path, fit: Fit, x: X, within: TruncatedPrior | None, epsilon: float) -> TruncatedPrior:
    """What a round is simulated from, kept in a file so that another machine's rounding does not move its edge."""
    found = _kept(file, fit, x, within, epsilon)
    if found is not None:
        return found
    with one_thread():
        found = truncate(fit, x, within, epsilon=epsilon)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, found.to_json())
    return found


def _kept(file: Path, fit: Fit, x: X, within: TruncatedPrior | None, epsilon: float) -> TruncatedPrior | None:
    """The proposal in a file, if it is that of this fit, observation and epsilon within the regions before."""
    try:
        data = read_json(file)
        newest = data["regions"][-1]
        about = {"observation": observation_hash(x), "epsilon": epsilon}
        before = within.to_json()["regions"] if within else []
        same = {k: data[k] for k in about} == about and data["regions"][:-1] == before and newest["fit"] == fit.digest
        if not same:
            return None
        region = Region(fit.digest, fit.estimator.density(x), float(newest["threshold"]))
        keys = ("acceptance",) if data["method"] == FROM_PRIOR else ("acceptance", "log_bound", "candidates", "error")
        measured = {key: float(data[key]) for key in keys}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        warnings.warn(f"{file} cannot be read back, so the region is found again: {error}", stacklevel=2)
        return None
    with one_thread():
        return TruncatedPrior(fit.estimator.prior, (*(within.regions if within else ()), region), about, measured)


def _gathered(stores: Sequence[Store], simulator: Simulator, within: TruncatedPrior, path: Path) -> Store:
    """The rows of all rounds that lie in the newest region."""
    proposal = {**within.to_json(), "rows_of": [store.digest for store in stores]}
    return gather(stores, path, simulator, proposal, within.contains)
