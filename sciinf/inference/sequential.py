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
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciinf.core import (
    Batch,
    DensityUnavailable,
    Estimator,
    Fit,
    Outcome,
    Simulator,
    X,
    as_observation,
    load_fit,
)
from sciinf.core.checks import check_whole
from sciinf.core.component import to_json
from sciinf.core.files import json_text, read_json, write_bytes, write_json
from sciinf.core.fit import campaign_of
from sciinf.core.simulator import recorded, unlike
from sciinf.engine.block import generator_for, one_thread
from sciinf.estimators.flow import Flow
from sciinf.inference.local import Local, Sequential
from sciinf.inference.truncated import FROM_PRIOR, LEAST, Region, TruncatedPrior, observation_hash, truncate
from sciinf.simulation import simulate
from sciinf.storage.selection import dealt
from sciinf.store import Store
from sciinf.training import Recipe, train

SCHEMA = 1
_READ = 65_536
_ROUND = 2**31 + 1  # no campaign has this many blocks, so none shares these random numbers


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
    first: tuple[Store, Fit] | None = None,
    workers: int = 1,
    timeout: float | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Sequential:
    """The posterior of one observation, from simulations that are drawn ever nearer to it.

    Round r lies in `out/round_r`, unless it is the first and given: `proposal.json` (what it was simulated from, where
    not from the prior), `simulations`, `training` (the rows of all rounds so far that lie in its region) and `fit`. A
    call that was stopped at any moment goes on where it was, to the same result; the same call with more rounds adds
    them.

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
        first: Simulations of the prior and what was trained on them, which are then the first of the rounds; they stay
            where they are, and `load_sequential` needs rounds that are all in the folder.
        workers: Processes that simulate, as in `simulate`.
        timeout: Seconds after which a block is given up, as in `simulate`.
        device: Where the simulator runs; the recipe says where the network is trained.
        progress: Whether simulating reports progress on the standard error; training always does.

    Returns:
        The posterior, for this observation alone.

    Raises:
        TypeError: If the simulator is none.
        ValueError: If x does not fit the observables, the estimator is for another prior or other observables, a number
            makes no sense, or the folder holds rounds of another observation, simulator or setting; whatever `simulate`
            and `train` raise.
        DensityUnavailable: If the estimator's density has no `log_prob` and there is more than one round.
        OutsideRegion: If a round's posterior is not where the earlier ones were.

    Warns:
        UserWarning: If a round's simulations do not quite follow the law they should, or less than nine tenths of what
            the last round learned lies where its simulations were; the posterior's `scope` says so, too.
    """
    if not isinstance(simulator, Simulator):
        raise TypeError(f"expected a Simulator, got {type(simulator).__name__}; load_simulator(path) reads a file")
    _check(rounds, simulations, epsilon)
    observation, out = as_observation(simulator.observables, x), Path(out)
    recipe = recipe or Recipe()
    learner: Estimator = estimator or Flow(simulator.prior, simulator.observables, seed=seed)
    _check_estimator(learner, simulator, observation, rounds)
    settings = {
        "observation": observation_hash(observation),
        "simulator": recorded(simulator),
        "simulations": simulations,
        "estimator": to_json(learner),
        "recipe": recipe.said(),
        "seed": seed,
        "epsilon": epsilon,
        **({} if first is None else {"first": _first(first, learner)}),
    }
    _claim(out, settings, observation, simulator)
    truncations: list[TruncatedPrior] = []
    stores: list[Store] = [] if first is None else [first[0]]
    fits: list[Fit] = [] if first is None else [first[1]]
    for number in range(1 + len(fits), rounds + 1):
        folder = _folder(out, number)
        if fits:
            truncations.append(
                proposal_in(folder / "proposal.json", fits[-1], observation, _last(truncations), epsilon)
            )
        within = _last(truncations)
        store = simulate(
            simulator,
            folder / "simulations",
            simulations,
            seed=_round_seed(seed, number),
            workers=workers,
            timeout=timeout,
            device=device,
            progress=progress,
            proposal=within,
        )
        stores.append(store)
        rows = store if within is None else _gather(stores, simulator, within, folder / "training")
        fits.append(train(learner, rows, folder / "fit", recipe=recipe, seed=seed))
    known = frozenset(said for s in stores for said in (s.digest, campaign_of(s.simulator, s.seed)))
    write_json(out / "sequential.json", {**settings, "schema": SCHEMA, "rounds": rounds, "trained_on": sorted(known)})
    return Sequential(Local(fits[-1], _last(truncations), known), observation, truncations)


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
    out = Path(out)
    if not (out / "sequential.json").is_file():
        raise FileNotFoundError(f"{out} holds no sequential rounds; make some with infer_sequentially")
    data = read_json(out / "sequential.json")
    if isinstance(data, dict) and "first" in data:
        raise ValueError(f"the rounds in {out} began from a fit elsewhere; call infer_sequentially again with it")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or "rounds" not in data:
        raise ValueError(f"{out} holds rounds that are unfinished or of another format; call infer_sequentially again")
    observation = _observation(out / "observation.safetensors", data["observation"])
    fits = [load_fit(_folder(out, k) / "fit", device=device, trust=trust) for k in range(1, data["rounds"] + 1)]
    truncations: list[TruncatedPrior] = []
    for number, fit in enumerate(fits[:-1], start=2):
        file = _folder(out, number) / "proposal.json"
        found = _kept(file, fit, observation, _last(truncations), data["epsilon"])
        if found is None:
            raise ValueError(f"{file} is missing, damaged or of another fit; call infer_sequentially again")
        truncations.append(found)
    local = Local(fits[-1], _last(truncations), frozenset(data["trained_on"]))
    return Sequential(local, observation, truncations)


def _first(first: tuple[Store, Fit], learner: Estimator) -> list[str]:
    """Digests of what the rounds begin from.

    Raises:
        ValueError: If the simulations are not of the prior, or the fit is of another one.
    """
    store, fit = first
    if store.proposal is not None or fit.estimator.prior.to_json() != learner.prior.to_json():
        raise ValueError(
            f"rounds begin from simulations of the simulator's own prior and a fit of it; got {store.path}, drawn from "
            f"{'a proposal' if store.proposal else 'a prior'}, and a fit of {fit.estimator.prior}"
        )
    return [fit.digest, store.digest]


def _check(rounds: int, simulations: int, epsilon: float) -> None:
    for name, value in (("rounds", rounds), ("simulations", simulations)):
        check_whole(name, value, 1)
    if not LEAST <= epsilon <= 0.01:
        raise ValueError(f"epsilon, the mass cut off in each round, must be from {LEAST:g} to 0.01, got {epsilon!r}")


def _check_estimator(estimator: Estimator, simulator: Simulator, x: X, rounds: int) -> None:
    """Find out before anything is simulated what training, or the first truncation, would.

    Raises:
        ValueError: If the estimator is for another prior or other observables.
        DensityUnavailable: If its density has no `log_prob`, which the second round needs.
    """
    if estimator.prior.to_json() != simulator.prior.to_json():
        raise ValueError(
            f"the estimator is for {estimator.prior}, the simulator {simulator.name!r} has {simulator.prior}; build "
            "the estimator from the simulator's own prior"
        )
    for name, spec in estimator.observables.items():
        if simulator.observables.get(name) != spec:
            raise ValueError(
                f"the estimator expects {name!r} as {spec}, the simulator {simulator.name!r} gives "
                f"{simulator.observables.get(name)}; build the estimator from the simulator's own observables"
            )
    if rounds > 1:
        theta = simulator.prior.sample(1, generator=generator_for(0, _ROUND))
        try:
            copy.deepcopy(estimator).eval().density(x).log_prob(theta[:, None])
        except DensityUnavailable as error:
            raise DensityUnavailable(f"{error}; rounds after the first need the density, rounds=1 does not") from error


def _last(truncations: Sequence[TruncatedPrior]) -> TruncatedPrior | None:
    """What the newest round is simulated from; None for the prior."""
    return truncations[-1] if truncations else None


def _folder(out: Path, number: int) -> Path:
    return out / f"round_{number}"


def _round_seed(seed: int, number: int) -> int:
    """A campaign's seed for each round, which no round shares with another or with the user's own campaigns."""
    return int(np.random.SeedSequence(seed, spawn_key=(_ROUND, number)).generate_state(1, np.uint64)[0]) >> 1


def _claim(out: Path, settings: Mapping[str, Any], x: X, simulator: Simulator) -> None:
    """Note what the rounds in a folder are of, before the first, and refuse a folder with others.

    Raises:
        ValueError: If the folder holds rounds of something else; the message says what differs.
    """
    from safetensors.torch import save

    file = out / "sequential.json"
    said = json.loads(json_text({"schema": SCHEMA, **settings}))
    if file.is_file():
        found = dict(read_json(file))
        differ = [key for key, value in said.items() if key != "simulator" and found.get(key) != value]
        if words := unlike(found.get("simulator", {}), simulator):
            differ.append(f"simulator ({words})")
        if differ:
            raise ValueError(
                f"{out} holds sequential rounds of another {', '.join(differ)}; choose another folder: rounds "
                "hold for the observation and the settings they were made with"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / "observation.safetensors", save({name: value.contiguous() for name, value in x.items()}))
    if not file.is_file():
        write_json(file, said)


def _observation(file: Path, digest: str) -> X:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load(file.read_bytes())
    except (OSError, SafetensorError):
        found = {}
    if observation_hash(found) != digest:
        raise ValueError(f"{file} is damaged or missing; call infer_sequentially again")
    return found


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


def _gather(stores: Sequence[Store], simulator: Simulator, within: TruncatedPrior, path: Path) -> Store:
    """The rows of all rounds that lie in the newest region, as a store; failed rows are left out."""
    *older, newest = stores
    proposal = {**within.to_json(), "rows_of": [store.digest for store in stores]}
    if (path / "store.json").is_file():
        found = Store(path)
        if found.proposal == proposal and not found.missing():
            return found

    def pieces() -> Iterator[Batch]:
        for store in older:
            for batch in store.batches(_READ):
                yield batch.rows(within.contains(batch.theta))
        yield from newest.batches(_READ)  # inside by construction, whatever the rounding of log q

    with one_thread():
        count = sum(len(batch) for batch in pieces())
        store = Store.create(path, simulator, seed=newest.seed, block=newest.block, rows=count, proposal=proposal)
        missing = set(store.missing())
        for index, batch in enumerate(dealt(pieces(), store.block)):
            if index in missing:
                store.commit(index, batch.theta, Outcome(batch.x), seconds=0.0)
    return store
