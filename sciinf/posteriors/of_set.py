r"""The posterior of a set of independent observations, from rounds of simulations of single observations.

For x_1 ... x_n independent given theta, p(theta | x_1 ... x_n) ~ p(theta) prod_j p(x_j | theta). The likelihood of one
observation is learned number by number (`training.estimators.elements`) if data are complete and of at most 128
numbers, and by a flow (`training.estimators.likelihood`) otherwise. Chains sample the posterior of the set
(`posteriors.mcmc`).

An error of the likelihood that is the same for all observations adds up to n times itself, while the posterior's sd
falls as n^(-1/2). So a likelihood that was learned over the whole prior is not good enough. Later rounds simulate
single observations around the newest answer (`round_laws`), the only region where the likelihood has to be right. A
likelihood does not depend on the distribution of its rows, so rows of earlier rounds that lie near count as well. A set
of 50 needs no more simulations than a set of 10.

**Its chance error** is estimated from how far the last round moved the answer, as in `refined`.

**At other data.** With r the distribution of the last round, draws of r take the weights

    w(theta) = p(theta) prod_j l(x_j | theta) / r(theta),

by which the local check asks the posterior about many sets at once. If the weights leave enough effective draws, the
posterior's draws are draws of r, taken with probabilities proportional to w. Otherwise they are those of chains.

Shapes: theta (n, batch, D), x name -> (batch, items, *event).

References:
    | Sequential neural likelihood (Papamakarios, Sterratt & Murray, 2019), https://arxiv.org/abs/1805.07226
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.campaigns.block import generator_for
from sciinf.campaigns.campaign import Engine
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store
from sciinf.core import Estimator, Fit, Simulator, X, as_observation, load_fit
from sciinf.core.checks import check_whole
from sciinf.core.component import rebuilt
from sciinf.core.existence import check_free
from sciinf.core.files import local_path, read_json, write_json
from sciinf.core.observable import Status
from sciinf.posteriors.around import Mixture
from sciinf.posteriors.around_one import AroundOne, Lowered
from sciinf.posteriors.changes import agree, changes, changes_from_json, error_left
from sciinf.posteriors.learned import LearnedPosterior
from sciinf.posteriors.likelihood_weighted import inside, resampled
from sciinf.posteriors.mcmc import MCMC
from sciinf.posteriors.round_laws import kept_law, law_in
from sciinf.posteriors.rounds import campaigns_of, claim, claimed, gather, round_folder, round_seed, settings_of
from sciinf.simulators.wrappers.sets_of_observations import sets
from sciinf.training import Recipe, train
from sciinf.training.estimators.elements import Elements, suits
from sciinf.training.estimators.likelihood import Likelihood

FILE, SCHEMA = "set.json", 1
_NUMBERS = 128  # Up to this many numbers, the likelihood of an observation is learned number by number.
_RATE = 3e-3  # Learning rate of that training. At the default rate groups of numbers are learned half as well.
_PAIRS, _LEAST = 4_000, 80  # The local check takes so many likelihoods for each set, and at least so many draws.
# Number of chains, draws of r for each draw that is taken, and draws that are weighted at once.
_CHAINS, _OVER, _AT_ONCE = 100, 4, 4_096
_INSIDE = 0.95  # Least share of an answer that lies inside the last round's region.
# Number of draws from which Z is estimated, and index of a random stream. The index exceeds the number of
# blocks of any campaign, so no block has the same random numbers.
_DRAWS, _STREAM = 4_096, 2**31 + 5


class SetPosterior(AroundOne):
    """The posterior of one set of observations.

    Args:
        fit: Fit of the likelihood of one observation, of the last round.
        items: Number of observations in the set.
        law: r, the distribution of the last round.
        x: The set, name -> (1, items, *event).
        trained_on: Digests and campaigns of the stores of all rounds.
        error: Chance error of the answer: middles in sds, and the logarithms of widths. Infinite if it is not known.
    """

    def __init__(
        self,
        fit: Fit,
        items: int,
        law: Mixture,
        x: X,
        trained_on: frozenset[str],
        error: tuple[float, float] = (math.inf, math.inf),
    ) -> None:
        self.chains, self.law, self.asked, self.error = chains_of(fit, items), law, dict(x), error
        self.name, self.digest, self.trained_on = f"learned likelihood of {items}", self.chains.digest, trained_on
        self.prior, self.observables, self.failed = self.chains.prior, self.chains.observables, self.chains.failed
        self.check_draws = max(_LEAST, _PAIRS // items)
        self.only = self.scope = "learned around one set of observations: it holds for data near it"

    elsewhere = (
        "the posterior was learned around another set of observations, too far from this one to answer it; call "
        "infer_set for this one, in a folder of its own"
    )

    @torch.no_grad()
    def reaches(self, x: X) -> bool:
        """Whether the answer to a set, name -> (1, items, *event), lies where the last round simulated."""
        theta, log_w = self._weighted(x, _DRAWS, generator_for(0, _STREAM))
        weight, near = log_w[:, 0].softmax(0), inside(self.prior, self.law.parts[-1][1], theta[:, 0])
        return float(weight[near].sum()) >= _INSIDE and 1 / float(weight.square().sum()) >= _LEAST

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        theta, log_w = self._weighted(x, _OVER * n, generator)
        if float((1 / log_w.softmax(0).square().sum(0)).min()) >= n:
            return resampled(theta, log_w, n, generator)
        return self.chains.draw_batched(x, n, generator=generator)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """Log density, normalised by Z. log Z has an error of sqrt((1 / e - 1) / n), e the effective share of draws."""
        _, log_w = self._weighted(x, _DRAWS, generator_for(0, _STREAM))
        return self.chains.unnormalised(theta, x) - (log_w.logsumexp(0) - math.log(_DRAWS))

    def weighted_batched(
        self, x: X, n: int, also: Float[Tensor, "batch theta"], *, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n+1 batch theta"], Float[Tensor, "n+1 batch"]]:
        theta, log_w = self._weighted(x, n, generator)
        own = self.chains.unnormalised(also[None], x) - self._log_law(also[None])
        return torch.cat([also[None].to(theta.dtype), theta]), torch.cat([own, log_w])

    def lowered(self, x: X) -> Lowered:
        """No effect, because chains of the likelihood alone have no other answer to be compared with."""
        return Lowered(torch.ones(len(self.prior), dtype=torch.float64))

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.chains.features(x)

    def _weighted(self, x: X, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws of r, the same for all sets, and the logarithms of their weights."""
        batch = len(next(iter(x.values())))
        theta = self.law.sample(n, generator=generator)[:, None].expand(-1, batch, -1)
        log_w = [self.chains.unnormalised(some, x) - self._log_law(some) for some in theta.split(_AT_ONCE)]
        return theta, torch.cat(log_w)

    def _log_law(self, theta: Tensor) -> Tensor:
        return self.prior.log_prob(theta) - self.law.log_ratio(theta)


def chains_of(fit: Fit, items: int) -> MCMC:
    """MCMC posterior of a set, from a likelihood of one observation."""
    return MCMC(fit, items=items, chains=_CHAINS)


def infer_set(
    simulator: Simulator,
    x: Any,
    out: str | Path,
    *,
    rounds: int = 4,
    simulations: int = 20_000,
    estimator: Estimator | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    workers: int | Literal["auto"] = 1,
    engine: Engine | None = None,
    timeout: float | None = None,
    device: str | torch.device = "cpu",
    accept_changes: bool = False,
    progress: bool = True,
) -> SetPosterior:
    """The posterior of one set of independent observations of the same parameters, from simulations of single
    observations.

    Round k lies in `out/round_k`: `proposal.json` (its distribution; the first simulates from the prior),
    `simulations`, `near` (rows of all rounds that lie near), `fit`. A call that was stopped at any moment goes on where
    it was, to the same result. The same call with more rounds adds them.

    Args:
        simulator: Simulator of one observation.
        x: The set: observable name -> array or astropy quantity of shape (items, *event).
        out: Folder of the rounds.
        rounds: Largest number of rounds, at least two. Fewer rounds are made if one hardly moved the answer.
        simulations: Single observations simulated in each round.
        estimator: A newly built likelihood of one observation, which each round builds anew. Default: `Elements` or
            `Likelihood`.
        recipe: How to train.
        seed: Seeds each round's campaign, and training.
        workers: Number of processes that simulate, as in `simulate`.
        engine: Engine on which simulations run instead of these processes, as in `simulate`.
        timeout: Seconds after which a block is given up, as in `simulate`.
        device: Device of the simulator. The recipe sets the device of the training.
        accept_changes: Whether to go on although files of the simulator have changed, as in `simulate`.
        progress: Whether to report progress on the standard error.

    Returns:
        The posterior. `query(posterior, x, simulator=wrappers.sets(simulator, n, least=n))` asks and checks it.

    Raises:
        TypeError: If the estimator gives no likelihood.
        ValueError: If x does not fit the observables or its arrays differ in length, the simulator has masks, times or
            controls, parameters are discrete or parts of a whole, or the folder holds rounds of something else; also
            any ValueError of `simulate` and `train`.

    Examples:
        >>> posterior = infer_set(simulator, {"x": x}, "runs/set")  # doctest: +SKIP
        >>> query(posterior, {"x": x}, simulator=wrappers.sets(simulator, len(x), least=len(x)))  # doctest: +SKIP
    """
    check_whole("rounds", rounds, 2)
    check_whole("simulations", simulations, 1)
    check_free(simulator.prior, "the posterior of a set")
    items = _items(simulator, x)
    whole = sets(simulator, items, least=items)
    observation, out, recipe = (
        as_observation(whole.observables, x),
        local_path(out),
        recipe or Recipe(learning_rate=_RATE),
    )
    learner = estimator or _likelihood(simulator)
    if learner.normalised:
        raise TypeError(f"{type(learner).__name__} learns no likelihood; leave estimator= out, or give Likelihood(...)")
    made = settings_of(simulator, observation, simulations, learner, recipe, seed)
    settings = {"schema": SCHEMA, **made, "items": items}
    claim(out / FILE, settings, observation, simulator, accept_changes=accept_changes)
    how: dict[str, Any] = {"workers": workers, "timeout": timeout, "device": device, "progress": progress}
    how |= {"accept_changes": accept_changes, "engine": engine}
    before: LearnedPosterior = chains_of(_first(simulator, learner, out, simulations, recipe, seed, how), items)
    stores = [Store(round_folder(out, 1) / "simulations")]
    for number in range(2, rounds + 1):
        folder, own = round_folder(out, number), round_seed(seed, number)
        law = law_in(folder / "proposal.json", before, observation)
        stores.append(simulate(simulator, folder / "simulations", simulations, seed=own, proposal=law, **how))
        rows = _near(stores, folder / "near", simulator, law)
        fit = train(rebuilt(learner, seed=own), rows, folder / "fit", recipe=recipe, seed=seed, progress=progress)
        found = SetPosterior(fit, items, law, observation, campaigns_of(stores))
        # Rows of the first round do not count here, because they were simulated from the whole prior.
        earlier = len(rows) - stores[-1].counts[Status.OK] if number > 2 else 0
        found.error = error_left(changes(before, found, observation), max(earlier, 0), len(rows))
        before = found
        if agree(found.error):
            break
    write_json(out / FILE, {**settings, "rounds": len(stores), "error": found.error})
    return found


def load_set(out: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str | Path] = ()) -> SetPosterior:
    """Read the posterior that `infer_set` left in a folder.

    Args:
        out: The folder.
        device: Device for the networks.
        trust: Modules and files outside sciinf whose components may be built.

    Raises:
        FileNotFoundError: If the folder holds no posterior of a set.
        ValueError: If the posterior is unfinished or damaged.
    """
    out = local_path(out)
    if not (out / FILE).is_file():
        raise FileNotFoundError(f"{out} holds no posterior of a set; make one with infer_set")
    data = read_json(out / FILE)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or "rounds" not in data:
        raise ValueError(f"{out} holds rounds that are unfinished or of another format; call infer_set again")
    observation = claimed(out, data["observation"], "call infer_set again")
    folders = [round_folder(out, number) for number in range(1, int(data["rounds"]) + 1)]
    fit = load_fit(folders[-1] / "fit", device=device, trust=trust)
    law = kept_law(folders[-1] / "proposal.json", fit.estimator.prior, observation)
    if law is None:
        raise ValueError(f"a proposal.json in {out} is missing, damaged or of another set; call infer_set again")
    campaigns = campaigns_of([Store(folder / "simulations") for folder in folders])
    return SetPosterior(fit, int(data["items"]), law, observation, campaigns, changes_from_json(data["error"]))


def _first(
    simulator: Simulator, learner: Estimator, out: Path, count: int, recipe: Recipe, seed: int, how: Mapping[str, Any]
) -> Fit:
    """Fit of the likelihood that is learned from simulations of the whole prior."""
    folder, own = round_folder(out, 1), round_seed(seed, 1)
    store = simulate(simulator, folder / "simulations", count, seed=own, **how)
    progress = bool(how["progress"])
    return train(rebuilt(learner, seed=own), store, folder / "fit", recipe=recipe, seed=seed, progress=progress)


def _near(stores: Sequence[Store], path: Path, simulator: Simulator, law: Mixture) -> Store:
    """Store of the rows of the newest round, and of earlier rows that lie near its widest part."""
    about = {**law.to_json(), "rows_of": [store.digest for store in stores]}
    return gather(stores, path, simulator, about, partial(inside, simulator.prior, law.parts[-1][1]))


def _items(simulator: Simulator, x: Any) -> int:
    """Number of observations in a set.

    Raises:
        ValueError: If x lacks an observable, has no rows, or its observables differ in length.
    """
    given: dict[str, Any] = dict(x) if isinstance(x, Mapping) else dict.fromkeys([*simulator.observables], x)
    lengths = {
        name: len(value) if np.ndim(value) else 0 for name, value in given.items() if name in simulator.observables
    }
    if len(lengths) < len(simulator.observables) or len(set(lengths.values())) != 1 or not all(lengths.values()):
        missing = sorted(simulator.observables.keys() - lengths.keys())
        words = f"{missing[0]!r} is missing" if missing else f"it has {lengths}"
        raise ValueError(f"a set has as many values of each observable, one observation a row: {words}")
    return next(iter(lengths.values()))


def _likelihood(simulator: Simulator) -> Estimator:
    """Default likelihood estimator for one observation."""
    observables = simulator.observables
    if not suits(observables, _NUMBERS):
        return Likelihood(simulator.prior, observables)
    return Elements(simulator.prior, observables)
