r"""Rounds of simulations around one answer, and the posterior that is learned from them.

An amortised network has to learn every observation of the prior. If its answer to x_o is not right, round k
simulates from a distribution r_k around the newest answer (`round_laws`). A network is then trained anew on the rows of
all rounds, which are draws of the mixture

    r(theta) = sum_k n_k r_k(theta) / sum_k n_k.

It learns q_r(theta | x) = p(x | theta) r(theta) / p_r(x), so that the posterior under the prior is

    q(theta | x) = w(theta) q_r(theta | x) / Z(x),     w = p / r,     Z(x) = E_{q_r}[w],

with w a smooth function that is known exactly. Unlike a truncated prior (`truncated`), r has no edge that could cut off
the posterior after a wrong answer. If a round moves the answer, the next distribution moves along. Draws are draws of
q_r, taken with probabilities proportional to w.

**The likelihood.** The same rows teach the likelihood number by number, too (`training.estimators.elements`), if data
are complete and of at most 128 numbers: the rows near the answer are used. Two likelihoods are trained, in one of which
numbers have their own functions of the parameters, and held-out rows tell which one counts. Draws of the network are
weighted by it as far as it describes held-out rows better (`likelihood_weighted`). If numbers depend on few others, it
needs a quarter of the rows. With a million numbers or more in all rows, the one without such functions is a mixture of
16 distributions, not of five. A density with an edge needs that many: with five, the location of a g-and-k distribution
of skewness 5 came out .3 sds off.

If data are sets of items that this does not suit, because items may be missing or there are more numbers, the
likelihood is learned item by item (`training.estimators._items`). Held-out rows tell whether it counts, as before.

**Its chance error.** A network's errors come mostly from a lack of rows. Two networks that are trained on the same rows
from other first weights err alike, and on other rows they do not. Errors fall as 1 / sqrt(n). So an answer of n_1 rows
moves, when a round adds n_2, by a random amount of variance s^2 / n_1 - s^2 / (n_1 + n_2), and

    sqrt(n_1 / n_2) times the last round's move

has the variance of the remaining error, s^2 / (n_1 + n_2). Each round begins with its own first weights, so that
their effect counts, too. Errors that all networks share do not show in this figure.

Of a flow's draws one in 10,000, those of least density, are left out. Such draws lie where hardly a row was simulated:
a flow is not constrained there, and w, which grows outwards, makes them heavier. They can double an sd.

The posterior holds for observations whose answers lie within the last round's distribution (`reach`), and is calibrated
under r, as `local`.

Shapes: theta (n, batch, D), x name -> (batch, *event).

References:
    | Fast epsilon-free inference of simulation models with Bayesian conditional density estimation
      (Papamakarios & Murray, 2016), https://arxiv.org/abs/1605.06376: proposals fitted to answers, corrected by p / r
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.campaigns.block import generator_for
from sciinf.campaigns.campaign import Engine
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store
from sciinf.core import Estimator, Fit, Observable, Posterior, Simulator, X, as_observation, load_fit
from sciinf.core.checks import check_whole
from sciinf.core.component import rebuilt
from sciinf.core.existence import check_apart
from sciinf.core.files import local_path, read_json, write_json
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.around import LawOfZ, Mixture
from sciinf.posteriors.around_one import AroundOne, Lowered
from sciinf.posteriors.changes import changes, changes_from_json, error_left
from sciinf.posteriors.learned import LearnedPosterior
from sciinf.posteriors.likelihood_weighted import LikelihoodWeighted, best_power, inside, resampled
from sciinf.posteriors.round_laws import kept_law, law_in, mixed
from sciinf.posteriors.rounds import campaigns_of, claim, claimed, gather, round_folder, round_seed, settings_of
from sciinf.training import Recipe, train
from sciinf.training.estimators._items import Items, are_items
from sciinf.training.estimators.elements import PARTS, VERSIONS, Elements, has_atoms, suits
from sciinf.training.estimators.flow import Flow
from sciinf.training.estimators.mixed import Mixed

FILE = "refined.json"
SCHEMA = 11  # It is raised when rounds are made or kept in another way, so that older rounds are made anew.
_STRAY = 1e-4
# Folders of a round's likelihoods are named by the number of versions of the network (`Elements`), or "items".
LIKELIHOOD = "likelihood_{}"
_NUMBERS = 128  # With more numbers, a likelihood number by number takes longer than the network.
_FEWEST = 100  # The likelihood is learned from at least this many rows.
_MANY, _MANY_PARTS = 10**6, 16  # With this many numbers in all rows, the likelihood mixes so many distributions.
_RATE = 3e-3  # Learning rate of the likelihood. At the default rate groups of numbers are learned half as well.
_OVER = 4  # For each draw that is kept, this many draws of q_r are made.
_DRAWS, _EACH = 65_536, 4_096  # Z is estimated from so many draws, for one observation and for each of several.
_EDGE = 2.0  # An answer must lie within D plus this many sds of |u|^2, which has mean D for the last distribution.
_INSIDE, _EFFECTIVE = 0.95, 0.1  # Least share of the answer inside, and least effective share of the draws.
_HELD, _BELIEVED = 0.01, 0.6  # A likelihood is believed outside below this probability and from this power on.
# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
_STREAM = 2**31 + 5


class Refined(AroundOne):
    """The posterior under the prior that the rounds learned, for data near the observation they were for.

    Args:
        fit: Fit of the last round.
        mixture: r, the distribution of all rows that it was trained on.
        last: The last round's own distribution, its narrowest part.
        x: The observation, name -> (1, *event).
        trained_on: Digests and campaigns of the stores of all rounds.
        error: Chance error of the answer at the observation, from how far the last round moved it: middles in sds, and
            the logarithms of widths. Infinite if it is not known.
        likelihood: Fit of the last round's likelihood, and its power, if the network is better with it than by itself.
    """

    def __init__(
        self,
        fit: Fit,
        mixture: Mixture,
        last: LawOfZ,
        x: X,
        trained_on: frozenset[str],
        error: tuple[float, float] = (math.inf, math.inf),
        likelihood: tuple[Fit, float] | None = None,
    ) -> None:
        self.name, self.mixture, self.last, self.asked = "refined", mixture, last, dict(x)
        self.network, self.is_flow = Amortised(fit), isinstance(fit.estimator, Flow)
        self.network.name = "refined network's"  # A calibration names the posterior that it belongs to.
        self.likelihood = likelihood
        self.weighted = likelihood and LikelihoodWeighted(self.network, likelihood[0], mixture, last, likelihood[1])
        self.local: LearnedPosterior = self.weighted or self.network
        self.digest, self.trained_on, self.error = self.local.digest, trained_on, error
        self.prior, self.observables, self.failed = self.local.prior, self.local.observables, self.local.failed
        self.only = "refined around one observation: it holds for data near it"
        self.scope, self.whole = self.only, self.local.whole
        if self.weighted:
            how = "item by item" if isinstance(self.weighted.likelihood, Items) else "number by number"
            self.scope += f"; its draws are weighted by a likelihood that was learned {how}"

    elsewhere = (
        "the posterior was refined around another observation, too far from this one to answer it; ask that of the "
        "whole prior (load_posterior without a name)"
    )

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        theta = self.network.draw_batched(x, _OVER * n, generator=generator)
        log_q, kept = self._kept(theta, x)
        return resampled(theta, torch.where(kept, self._log_weight(theta, x, log_q), -math.inf), n, generator)

    def weighted_batched(
        self, x: X, n: int, also: Float[Tensor, "batch theta"], *, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n+1 batch theta"], Float[Tensor, "n+1 batch"]]:
        """A given parameter for each data set, and n draws of the network, all with the logarithms of their weights.

        Weights are the posterior's density over the network's, up to a constant for each data set. The few draws
        that `draw_batched` leaves out are among them.
        """
        theta = torch.cat([also[None].to(self.prior.dtype), self.network.draw_batched(x, n, generator=generator)])
        return theta, self._log_weight(theta, x).double()

    @torch.no_grad()
    def lowered(self, x: X) -> Lowered:
        """Factor by which the likelihood lowers the sds of z at one observation, in the region where it was not
        learned.

        There both network and likelihood have seen no simulations, and it is not known which of them is right. The
        likelihood is believed if the answer holds less than a hundredth of its probability there, and the power is
        .6 or more. In that case it removed draws that a network may put anywhere.
        """
        if self.weighted is None:
            return Lowered(torch.ones(len(self.prior), dtype=torch.float64))
        theta = self.network.draw_batched(x, _DRAWS // 4, generator=generator_for(0, _STREAM))
        log_q, kept = self._kept(theta, x)
        z, ratio = self.prior.bijection.forward(theta[:, 0].double()), self.mixture.log_ratio(theta)
        both = self.weighted.log_weights(theta, x, log_q)
        weights = [torch.where(kept, ratio + log_w, -math.inf)[:, 0].softmax(0) for log_w in both]
        low, high = ((weight @ (z - weight @ z).square()).sqrt() for weight in weights)
        held = float(weights[0][~inside(self.prior, self.last, theta[:, 0])].sum())
        return Lowered(high / low.clamp_min(1e-300), held < _HELD and self.weighted.power >= _BELIEVED)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """Log density, normalised by Z; log Z has an error of sqrt((1 / e - 1) / n), e the effective share of n draws.

        The draws that are left out are part of the normalisation.
        """
        ones = len(next(iter(x.values())))
        drawn = self.local.draw_batched(x, _DRAWS if ones == 1 else _EACH, generator=generator_for(0, _STREAM))
        log_z = self.mixture.log_ratio(drawn).logsumexp(0) - math.log(len(drawn))
        local = self.local.log_prob_batched(theta, x).double()
        # The ratio's gradient without the network's would mislead a search for the mode.
        ratio = self.mixture.log_ratio(theta if local.requires_grad else theta.detach())
        return local + ratio - log_z

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.local.features(x)

    @torch.no_grad()
    def reaches(self, x: X) -> bool:
        """Whether the answer to an observation, name -> (1, *event), lies well within the last round's simulations.

        With k of n draws inside, their weight is sqrt(k sum w^2) at most (Cauchy and Schwarz). If k is too small for
        both conditions to hold, the weights, which take long, are not computed.
        """
        drawn = self.network.draw_batched(x, _EACH, generator=generator_for(0, _STREAM))
        z, size = self.prior.bijection.forward(drawn[:, 0].double()), len(self.prior) - len(self.prior.discrete())
        theta, near = drawn[:, 0], self.last.squares(z) <= size + _EDGE * math.sqrt(2 * size)
        if int(near.sum()) < _INSIDE**2 * _EFFECTIVE * len(theta):
            return False
        weight = self._log_weight(drawn, x)[:, 0].softmax(0)
        inside = float(weight[near].sum())
        return inside >= _INSIDE and 1 / float(weight.square().sum()) >= _EFFECTIVE * len(theta)

    def _kept(self, theta: Tensor, x: X) -> tuple[Tensor | None, Tensor]:
        """The network's density of its draws, if it is needed, and which of them are not strays."""
        strays, kept = int(_STRAY * len(theta)) if self.is_flow else 0, torch.ones(theta.shape[:-1], dtype=torch.bool)
        log_q = self.network.log_prob_batched(theta, x) if strays or self.weighted else None
        return log_q, kept if not strays or log_q is None else log_q > log_q.kthvalue(strays, dim=0).values

    def _log_weight(self, theta: Tensor, x: X, log_q: Tensor | None = None) -> Tensor:
        """log of the ratio of posterior to network; equal weights if all draws lie outside the support."""
        log_w = self.mixture.log_ratio(theta)
        log_w = log_w if self.weighted is None else log_w + self.weighted.log_weight(theta, x, log_q)
        return torch.where(log_w.isfinite().any(0), log_w, 0.0)


def refine_around(
    simulator: Simulator,
    x: Any,
    out: str | Path,
    first: Posterior,
    *,
    rounds: int | None = None,
    simulations: int | Sequence[int] = 5_000,
    estimator: Estimator | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    workers: int | Literal["auto"] = 1,
    engine: Engine | None = None,
    timeout: float | None = None,
    device: str | torch.device = "cpu",
    accept_changes: bool = False,
    progress: bool = True,
    until: Callable[[Refined], bool] | None = None,
) -> Refined:
    """The posterior near one observation, from simulations around its answer.

    Round k lies in `out/round_k`: `proposal.json` (its distribution), `simulations`, `training` (the rows of all rounds
    so far), `fit` and `near` (the rows that lie near the answer). The likelihoods learned from `near` are in
    `likelihood_0` (from a million numbers on `likelihood_0_of_16_parts`) and `likelihood_6`, or in
    `likelihood_items`. A call that was stopped at
    any moment goes on where it was, to the same result. The same call with more rounds adds them.

    Args:
        simulator: Simulator to run.
        x: One observation: observable name -> array or astropy quantity of its event shape.
        out: Folder of the rounds.
        first: The posterior whose answer the first round lies around.
        rounds: Largest number of rounds. Default: three, or as many as `simulations` has numbers.
        simulations: Rows simulated in each round, or a number for each round. All numbers must be given at the first
            call.
        estimator: A newly built estimator. Each round builds it anew, with another `seed` if it has one. Default:
            `Flow`, or `Mixed` if parameters are discrete.
        recipe: How to train.
        seed: Seeds each round's campaign, and training.
        workers: Number of processes that simulate, as in `simulate`.
        engine: Engine on which simulations run instead of these processes, as in `simulate`.
        timeout: Seconds after which a block is given up, as in `simulate`.
        device: Device of the simulator. The recipe sets the device of the training.
        accept_changes: Whether to go on although files of the simulator have changed, as in `simulate`.
        progress: Whether to report progress on the standard error.
        until: Function that is called after each round. If it returns True, no further round follows.

    Returns:
        The posterior, for data near the observation.

    Raises:
        ValueError: If x does not fit the observables, the estimator is for another prior or other observables, the
            folder holds rounds of another observation, simulator or setting, or an answer does not vary; also any
            ValueError of `simulate` and `train`.
    """
    sizes = _sizes(rounds, simulations)
    check_apart(simulator.prior, "refining around an observation")
    observation, out, recipe = as_observation(simulator.observables, x), local_path(out), recipe or Recipe()
    learner = estimator or (Mixed if simulator.prior.mixed else Flow)(simulator.prior, simulator.observables)
    made = settings_of(simulator, observation, simulations, learner, recipe, seed)
    settings = {"schema": SCHEMA, **made, "first": first.digest}
    claim(out / FILE, settings, observation, simulator, accept_changes=accept_changes)
    posterior, stores, laws, before = first, list[Store](), list[Mixture](), 0
    for number, count in enumerate(sizes, 1):
        folder = round_folder(out, number)
        laws.append(law_in(folder / "proposal.json", posterior, observation))
        how: dict[str, Any] = {"workers": workers, "timeout": timeout, "device": device, "progress": progress}
        how |= {"accept_changes": accept_changes, "engine": engine}
        where, own = folder / "simulations", round_seed(seed, number)
        stores.append(simulate(simulator, where, count, seed=own, proposal=laws[-1], **how))
        mixture = mixed(laws, stores)
        law = {**mixture.to_json(), "rows_of": [store.digest for store in stores]}
        rows = gather(stores, folder / "training", simulator, law)
        fit = train(rebuilt(learner, seed=own), rows, folder / "fit", recipe=recipe, seed=seed, progress=progress)
        last, better = laws[-1].parts[0][1], None
        if isinstance(learner, Flow) and (by_number(simulator.observables) or are_items(simulator.observables)):
            near = _near(rows, folder / "near", simulator, last)
            better = _likelihood(fit, near, folder, observation, (mixture, last), recipe, own)
        found = Refined(fit, mixture, last, observation, campaigns_of(stores), likelihood=better)
        found.error = error_left(changes(posterior, found, observation), before, len(rows))
        posterior, before = found, len(rows)
        if until is not None and until(found):
            break
    likelihood = found.likelihood and {"folder": found.likelihood[0].folder.name, "power": found.likelihood[1]}
    write_json(out / FILE, {**settings, "rounds": len(stores), "error": found.error, "likelihood": likelihood})
    return found


def load_refined(out: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str | Path] = ()) -> Refined:
    """Read the posterior that `refine_around` left in a folder.

    Args:
        out: The folder.
        device: Device for the networks.
        trust: Modules and files outside sciinf whose components may be built.

    Raises:
        FileNotFoundError: If the folder holds no such rounds.
        ValueError: If the rounds are unfinished or damaged.
    """
    out = local_path(out)
    if not (out / FILE).is_file():
        raise FileNotFoundError(f"{out} holds no rounds around an answer; make some with refine_around")
    data = read_json(out / FILE)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or "rounds" not in data:
        raise ValueError(f"{out} holds rounds that are unfinished or of another format; call refine_around again")
    observation = claimed(out, data["observation"], "call refine_around again")
    folders = [round_folder(out, number) for number in range(1, int(data["rounds"]) + 1)]
    stores = [Store(folder / "simulations") for folder in folders]
    fit = load_fit(folders[-1] / "fit", device=device, trust=trust)
    found = [kept_law(folder / "proposal.json", fit.estimator.prior, observation) for folder in folders]
    laws = [law for law in found if law is not None]
    if len(laws) < len(found):
        raise ValueError(f"a proposal.json in {out} is missing, damaged or of another observation; refine again")
    said = data["likelihood"]
    likelihood = (load_fit(folders[-1] / said["folder"], device=device), float(said["power"])) if said else None
    about = (observation, campaigns_of(stores), changes_from_json(data["error"]), likelihood)
    return Refined(fit, mixed(laws, stores), laws[-1].parts[0][1], *about)


def _sizes(rounds: int | None, simulations: int | Sequence[int]) -> list[int]:
    """Number of rows of each round.

    Raises:
        ValueError: If a number is no int of at least 1, or there are fewer numbers than rounds.
    """
    if rounds is not None:
        check_whole("rounds", rounds, 1)
    each = list(simulations) if isinstance(simulations, Sequence) else [simulations] * (rounds or 3)
    for one in each:
        check_whole("simulations", one, 1)
    if len(each) < (rounds or 1):
        raise ValueError(f"simulations has numbers for {len(each)} rounds of {rounds or 1} or more; give one for each")
    return each[:rounds]


def _near(rows: Store, path: Path, simulator: Simulator, last: LawOfZ) -> Store:
    """Store of the rows that lie near the middle of the last round's distribution."""
    about = {**(rows.proposal or {}), "rows_of": [rows.digest], "inside": "the last law"}
    return gather([rows], path, simulator, about, partial(inside, simulator.prior, last), newest_too=True)


def by_number(observables: Mapping[str, Observable]) -> bool:
    """Whether the likelihood is learned number by number; if not, it is learned item by item."""
    return suits(observables, _NUMBERS)


def _likelihood(
    fit: Fit, near: Store, folder: Path, x: X, laws: tuple[Mixture, LawOfZ], recipe: Recipe, seed: int
) -> tuple[Fit, float] | None:
    """The likelihood that is learned from rows near the answer, and its power, if that is above 0."""
    how = replace(recipe, learning_rate=recipe.learning_rate or _RATE)
    if len(near) < _FEWEST:
        return None
    asked: dict[str, Any] = {"recipe": how, "seed": seed, "progress": False}
    if by_number(fit.estimator.observables):
        found = _by_number(fit, near, folder, x, asked)
    else:
        items = Items(fit.estimator.prior, fit.estimator.observables, seed=seed)
        found = train(items, near, folder / LIKELIHOOD.format("items"), **asked)
    if found is None:
        return None
    power = best_power(LikelihoodWeighted(Amortised(fit), found, *laws), near, how.validation_fraction, x)
    return (found, power) if power else None


def _by_number(fit: Fit, near: Store, folder: Path, x: X, asked: Mapping[str, Any]) -> Fit | None:
    """The better of two likelihoods number by number; None if a number often takes one value."""
    prior, observables = fit.estimator.prior, fit.estimator.observables
    if has_atoms(near.load().x, observables, x):
        return None
    many = len(near) * sum(math.prod(spec.shape) for spec in observables.values()) >= _MANY
    many = many and not (folder / LIKELIHOOD.format(0)).exists()  # An earlier version may have begun this round.
    fits = list[Fit]()
    for n, parts in ((0, _MANY_PARTS if many else PARTS), (VERSIONS, PARTS)):
        learner = Elements(prior, observables, versions=n, parts=parts, seed=asked["seed"])
        name = LIKELIHOOD.format(n) + ("" if parts == PARTS else f"_of_{parts}_parts")
        fits.append(train(learner, near, folder / name, **asked))
    return min(fits, key=lambda one: one.record["best_validation_loss"])
