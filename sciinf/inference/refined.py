r"""Rounds of simulations around one answer, and the posterior that is learned from them.

An amortised network has to learn every observation of the prior. Where its answer to x_o is not right, round k
simulates from a law r_k around the newest answer (`around`: z normal, wider than the answer, a fifth of it twice as
wide again), and a network is trained anew on the rows of all rounds, which are draws of the mixture

    r(theta) = sum_k n_k r_k(theta) / sum_k n_k.

It learns q_r(theta | x) = p(x | theta) r(theta) / p_r(x), so that the posterior under the prior is

    q(theta | x) = w(theta) q_r(theta | x) / Z(x),     w = p / r,     Z(x) = E_{q_r}[w],

with w a smooth function that is known exactly. Unlike a truncated prior (`truncated`), r has no edge that a wrong
answer could be cut off by: a round whose answer moved moves its law along. Draws are draws of q_r, taken with
probabilities proportional to w. Where the posterior is normal and the prior flat, the effective share of the draws is
(1 - k^-4)^(D / 2) for a law k times as wide as it: the narrower the law, the less a network has to learn, and k is the
least that leaves `_SHARE`, but no less than `_NARROWEST`.

**The likelihood.** The same rows teach the likelihood number by number, too (`estimators.elements`), where data are
complete and of at most 128 numbers: those near the answer. Two are trained, in one of which numbers have functions of
the parameters for themselves, and held-out rows tell which counts. Draws of the network are weighted by it as far as it
describes held-out rows better (`likelihood_weighted`): if numbers depend on few others, it needs a quarter of the rows.

Of a flow's draws one in 10,000, those of least density, are left out. So few lie where hardly a row was simulated: a
flow has nothing there to hold it down, and w, which grows outwards, makes them heavier. They can double an sd.

It holds for observations whose answers lie within the last round's law (`reach`), and is calibrated under r, as
`local`.

Shapes: theta (n, batch, D), x name -> (batch, *event).

References:
    | Fast epsilon-free inference of simulation models with Bayesian conditional density estimation
      (Papamakarios & Murray, 2016), https://arxiv.org/abs/1605.06376: proposals fitted to answers, corrected by p / r
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Draws, Estimator, Fit, Posterior, Prior, Simulator, X, as_observation, load_fit
from sciinf.core.checks import check_whole
from sciinf.core.files import read_json, write_json
from sciinf.engine.block import generator_for, one_thread
from sciinf.estimators.elements import VERSIONS, Elements, suits
from sciinf.estimators.flow import Flow
from sciinf.inference.amortised import Amortised
from sciinf.inference.around import Law, Mixture
from sciinf.inference.changes import changes
from sciinf.inference.learned import Learned
from sciinf.inference.likelihood_weighted import LikelihoodWeighted, best_power, inside, resampled
from sciinf.inference.rounds import campaigns_of, claim, claimed, gather, round_folder, round_seed, settings_of
from sciinf.inference.truncated import observation_hash
from sciinf.simulation import simulate
from sciinf.storage.answers import ROUNDS_FILE as FILE
from sciinf.store import Store
from sciinf.training import Recipe, train

SCHEMA = 7  # raised when rounds are made or kept in another way, so that older ones are made anew
_FARTHER = 0.2  # share of a round's simulations that are from a law twice as wide
_SHARE, _NARROWEST = 0.6, 1.5
_STRAY = 1e-4
LIKELIHOOD = "likelihood_{}"  # folders of a round: of so many versions of the network (`Elements`)
_NUMBERS = 128  # of an observation, beyond which a likelihood number by number takes longer than the network
_FEWEST = 100  # rows that it is learned from
_RATE = 3e-3  # that the likelihood is trained with: at the default rate groups of numbers are learned half as well
_OVER = 4  # draws of q_r for each that is kept
_DRAWS, _EACH = 65_536, 4_096  # that Z is estimated from, for one observation and for each of several
_AROUND = 20_000  # draws that a law is fitted to
_EDGE = 2.0  # sds of |u|^2, of mean D, that draws of the last law have: an answer must lie within
_INSIDE, _EFFECTIVE = 0.95, 0.1  # share of an answer there, and of the draws that carry the weight
_STREAM = 2**31 + 5  # no campaign has this many blocks, so none shares these random numbers


class Refined(Learned):
    """What the rounds learned: the posterior under the prior, for data near the observation they were for.

    Args:
        fit: The last round's.
        mixture: r, the law of all rows that it was trained on.
        last: The last round's own law, the narrowest part of it.
        x: The observation, name -> (1, *event).
        trained_on: Digests and campaigns of the stores of all rounds.
        changed: What the last round changed at the observation (`changes`).
        likelihood: That of the last round, and its power, where the network is better with it than by itself.
    """

    def __init__(
        self,
        fit: Fit,
        mixture: Mixture,
        last: Law,
        x: X,
        trained_on: frozenset[str],
        changed: tuple[float, float] = (0.0, 0.0),
        likelihood: tuple[Fit, float] | None = None,
    ) -> None:
        self.name, self.mixture, self.last, self.asked = "refined", mixture, last, dict(x)
        self.network, self.is_flow = Amortised(fit), isinstance(fit.estimator, Flow)
        self.network.name = "refined network's"  # for a calibration says whose it is
        self.likelihood = likelihood
        self.weighted = likelihood and LikelihoodWeighted(self.network, likelihood[0], mixture, last, likelihood[1])
        self.local: Learned = self.weighted or self.network
        self.digest, self.trained_on, self.changed = self.local.digest, trained_on, changed
        self.prior, self.observables, self.failed = self.local.prior, self.local.observables, self.local.failed
        self.only = "refined around one observation: it holds for data near it"
        self.scope, self.whole = self.only, self.local.whole
        if self.weighted:
            self.scope += "; its draws are weighted by a likelihood that was learned number by number"

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """As every posterior's.

        Warns:
            UserWarning: If the observation is not near the one it was refined around.
        """
        if not (self.is_around(x) or self.reaches(x)):
            words = "the posterior was refined around another observation, too far from this one to answer it"
            warnings.warn(f"{words}; ask that of the whole prior (load_posterior without a name)", stacklevel=3)
        return super().draw(x, n, generator=generator)

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        theta = self.network.draw_batched(x, _OVER * n, generator=generator)
        log_q, kept = self._kept(theta, x)
        return resampled(theta, torch.where(kept, self._log_weight(theta, x, log_q), -math.inf), n, generator)

    def weighted_batched(
        self, x: X, n: int, also: Float[Tensor, "batch theta"], *, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n+1 batch theta"], Float[Tensor, "n+1 batch"]]:
        """A parameter for each of some data, and n draws of the network, all with the logarithms of their weights.

        Weights are the posterior's density over the network's, up to a constant for each of the data. The few draws
        that `draw_batched` leaves out are among them.
        """
        theta = torch.cat([also[None].to(self.prior.dtype), self.network.draw_batched(x, n, generator=generator)])
        return theta, self._log_weight(theta, x).double()

    @torch.no_grad()
    def lowered(self, x: X) -> Float[Tensor, " theta"]:
        """By how many times the likelihood lowers the sds of z at one observation where it was not learned.

        There network and likelihood are both without simulations, and what tells them apart is not known.
        """
        if self.weighted is None:
            return torch.ones(len(self.prior), dtype=torch.float64)
        theta = self.network.draw_batched(x, _DRAWS // 4, generator=generator_for(0, _STREAM))
        log_q, kept = self._kept(theta, x)
        z, ratio = self.prior.bijection.forward(theta[:, 0].double()), self.mixture.log_ratio(theta)
        both = self.weighted.log_weights(theta, x, log_q)
        weights = [torch.where(kept, ratio + log_w, -math.inf)[:, 0].softmax(0) for log_w in both]
        low, high = ((weight @ (z - weight @ z).square()).sqrt() for weight in weights)
        return high / low.clamp_min(1e-300)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """Normalised by Z, of which log Z has an error of sqrt((1 / e - 1) / n), e the effective share of n draws.

        The draws that are left out are part of it.
        """
        ones = len(next(iter(x.values())))
        drawn = self.local.draw_batched(x, _DRAWS if ones == 1 else _EACH, generator=generator_for(0, _STREAM))
        log_z = self.mixture.log_ratio(drawn).logsumexp(0) - math.log(len(drawn))
        local = self.local.log_prob_batched(theta, x).double()
        ratio = self.mixture.log_ratio(theta if local.requires_grad else theta.detach())  # its gradient alone misleads
        return local + ratio - log_z

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.local.features(x)

    def is_around(self, x: X) -> bool:
        """Whether it was refined around this very observation, name -> (1, *event)."""
        return all(torch.equal(value, x[name]) for name, value in self.asked.items())

    @torch.no_grad()
    def reaches(self, x: X) -> bool:
        """Whether its answer to an observation, name -> (1, *event), lies well within what the last round simulated."""
        drawn = self.network.draw_batched(x, _EACH, generator=generator_for(0, _STREAM))
        theta, weight = drawn[:, 0], self._log_weight(drawn, x)[:, 0].softmax(0)
        z = self.prior.bijection.forward(theta.double())
        size = len(self.prior)
        inside = float(weight[self.last.squares(z) < size + _EDGE * math.sqrt(2 * size)].sum())
        return inside >= _INSIDE and 1 / float(weight.square().sum()) >= _EFFECTIVE * len(theta)

    def _kept(self, theta: Tensor, x: X) -> tuple[Tensor | None, Tensor]:
        """The network's density of its draws, where it is needed, and which of them are not strays."""
        strays, kept = int(_STRAY * len(theta)) if self.is_flow else 0, torch.ones(theta.shape[:-1], dtype=torch.bool)
        log_q = self.network.log_prob_batched(theta, x) if strays or self.weighted else None
        return log_q, kept if not strays or log_q is None else log_q > log_q.kthvalue(strays, dim=0).values

    def _log_weight(self, theta: Tensor, x: X, log_q: Tensor | None = None) -> Tensor:
        """log of posterior over network; of draws that all lie outside the support the same."""
        log_w = self.mixture.log_ratio(theta)
        log_w = log_w if self.weighted is None else log_w + self.weighted.log_weight(theta, x, log_q)
        return torch.where(log_w.isfinite().any(0), log_w, 0.0)


def widths(size: int) -> tuple[tuple[float, float], ...]:
    """Weight and width of each of the laws of a round, for so many parameters."""
    k = max(_NARROWEST, (1 - _SHARE ** (2 / size)) ** -0.25)
    return (1 - _FARTHER, k), (_FARTHER, 2 * k)


def refine_around(
    simulator: Simulator,
    x: Any,
    out: str | Path,
    first: Posterior,
    *,
    rounds: int = 3,
    simulations: int = 5_000,
    estimator: Estimator | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    workers: int | Literal["auto"] = 1,
    timeout: float | None = None,
    device: str | torch.device = "cpu",
    accept_changes: bool = False,
    progress: bool = True,
    until: Callable[[Refined], bool] | None = None,
) -> Refined:
    """The posterior near one observation, from simulations around its answer.

    Round k lies in `out/round_k`: `proposal.json` (its law), `simulations`, `training` (the rows of all rounds so far),
    `fit`, `near` (those of the rows that lie near the answer) and `likelihood_0` and `likelihood_6`, learned from them.
    A call that was stopped at any moment goes on where it was, to the same result; the same call with more rounds adds
    them.

    Args:
        simulator: What to run.
        x: One observation: observable name -> array or astropy quantity of its event shape.
        out: Folder of the rounds.
        first: The posterior whose answer the first round lies around.
        rounds: How many, at most.
        simulations: Rows simulated in each round.
        estimator: A newly built estimator, each round trains a copy; `Flow` where left out. Its weights should not be
            those that the first network began with, so that it errs in another way.
        recipe: How to train.
        seed: Seeds each round's campaign, and training.
        workers: Processes that simulate, as in `simulate`.
        timeout: Seconds after which a block is given up, as in `simulate`.
        device: Where the simulator runs; the recipe says where the network is trained.
        accept_changes: Go on although files of the simulator have changed, as in `simulate`.
        progress: Whether to report progress on the standard error.
        until: Asked after each round whether no further one is needed.

    Returns:
        The posterior, for data near the observation.

    Raises:
        ValueError: If x does not fit the observables, the estimator is for another prior or other observables, the
            folder holds rounds of another observation, simulator or setting, or an answer does not vary; whatever
            `simulate` and `train` raise.
    """
    check_whole("rounds", rounds, 1)
    check_whole("simulations", simulations, 1)
    observation, out, recipe = as_observation(simulator.observables, x), Path(out), recipe or Recipe()
    learner: Estimator = estimator or Flow(simulator.prior, simulator.observables, seed=round_seed(seed, 1))
    made = settings_of(simulator, observation, simulations, learner, recipe, seed)
    settings = {"schema": SCHEMA, **made, "first": first.digest}
    claim(out / FILE, settings, observation, simulator, accept_changes=accept_changes)
    posterior, stores, laws = first, list[Store](), list[Mixture]()
    for number in range(1, rounds + 1):
        folder = round_folder(out, number)
        laws.append(_law_in(folder / "proposal.json", posterior, observation))
        how: dict[str, Any] = {"workers": workers, "timeout": timeout, "device": device, "progress": progress}
        how["accept_changes"] = accept_changes
        where, own = folder / "simulations", round_seed(seed, number)
        stores.append(simulate(simulator, where, simulations, seed=own, proposal=laws[-1], **how))
        mixture = _mixed(laws, stores)
        law = {**mixture.to_json(), "rows_of": [store.digest for store in stores]}
        rows = gather(stores, folder / "training", simulator, law)
        fit = train(learner, rows, folder / "fit", recipe=recipe, seed=seed, progress=progress)
        last, better = laws[-1].parts[0][1], None
        if isinstance(learner, Flow) and suits(simulator.observables, _NUMBERS):
            near = _near(rows, folder / "near", simulator, last)
            better = _likelihood(fit, near, folder, observation, (mixture, last), recipe, seed)
        found = Refined(fit, mixture, last, observation, campaigns_of(stores), likelihood=better)
        found.changed = changes(posterior, found, observation)
        posterior = found
        if until is not None and until(found):
            break
    likelihood = found.likelihood and {"folder": found.likelihood[0].folder.name, "power": found.likelihood[1]}
    write_json(out / FILE, {**settings, "rounds": len(stores), "changed": found.changed, "likelihood": likelihood})
    return found


def load_refined(out: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str | Path] = ()) -> Refined:
    """Read what `refine_around` left in a folder.

    Args:
        out: The folder.
        device: Where the networks go.
        trust: Modules and files outside sciinf whose components may be built.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is unfinished or damaged.
    """
    out = Path(out)
    if not (out / FILE).is_file():
        raise FileNotFoundError(f"{out} holds no rounds around an answer; make some with refine_around")
    data = read_json(out / FILE)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or "rounds" not in data:
        raise ValueError(f"{out} holds rounds that are unfinished or of another format; call refine_around again")
    observation = claimed(out, data["observation"], "call refine_around again")
    folders = [round_folder(out, number) for number in range(1, int(data["rounds"]) + 1)]
    stores = [Store(folder / "simulations") for folder in folders]
    fit = load_fit(folders[-1] / "fit", device=device, trust=trust)
    found = [_kept(folder / "proposal.json", fit.estimator.prior, observation) for folder in folders]
    laws = [law for law in found if law is not None]
    if len(laws) < len(found):
        raise ValueError(f"a proposal.json in {out} is missing, damaged or of another observation; refine again")
    moved, wider = data["changed"]
    said = data["likelihood"]
    likelihood = (load_fit(folders[-1] / said["folder"], device=device), float(said["power"])) if said else None
    about = (observation, campaigns_of(stores), (moved, wider), likelihood)
    return Refined(fit, _mixed(laws, stores), laws[-1].parts[0][1], *about)


def _near(rows: Store, path: Path, simulator: Simulator, last: Law) -> Store:
    """Those of the rows that lie near the middle of the last round's law."""
    about = {**(rows.proposal or {}), "rows_of": [rows.digest], "inside": "the last law"}
    return gather([rows], path, simulator, about, partial(inside, simulator.prior, last), newest_too=True)


def _likelihood(
    fit: Fit, near: Store, folder: Path, x: X, laws: tuple[Mixture, Law], recipe: Recipe, seed: int
) -> tuple[Fit, float] | None:
    """The likelihood number by number that rows near the answer teach, and its power where that is above 0."""
    prior, observables = fit.estimator.prior, fit.estimator.observables
    how = replace(recipe, learning_rate=recipe.learning_rate or _RATE)
    if len(near) < _FEWEST:
        return None
    asked: dict[str, Any] = {"recipe": how, "seed": seed, "progress": False}
    fits = [
        train(Elements(prior, observables, versions=n, seed=seed), near, folder / LIKELIHOOD.format(n), **asked)
        for n in (0, VERSIONS)
    ]
    found = min(fits, key=lambda one: one.record["best_validation_loss"])
    power = best_power(LikelihoodWeighted(Amortised(fit), found, *laws), near, how.validation_fraction, x)
    return (found, power) if power else None


def _mixed(laws: Sequence[Mixture], stores: Sequence[Store]) -> Mixture:
    """The law of the rows of several rounds together."""
    total = sum(len(store) for store in stores)
    parts = [
        (weight * len(store) / total, part)
        for law, store in zip(laws, stores, strict=True)
        for weight, part in law.parts
    ]
    return Mixture(laws[0].prior, parts, laws[0].about)


def _law_in(file: Path, posterior: Posterior, x: X) -> Mixture:
    """What a round is simulated from, kept in a file so that another machine's rounding does not move it.

    Raises:
        ValueError: If the answer does not vary, or is not finite.
    """
    found = _kept(file, posterior.prior, x)
    if found is not None and found.about.get("answer") == posterior.digest:
        return found
    with one_thread():
        theta = posterior.draw_batched(x, _AROUND, generator=generator_for(0, _STREAM))[:, 0]
        bijection = posterior.prior.bijection
        z = bijection.forward(theta[theta.isfinite().all(1)].double())
        laws = [(weight, Law.around(z, wider, normal=bijection.normal)) for weight, wider in widths(z.shape[1])]
    parts = [(weight, law) for weight, law in laws if law is not None]
    if len(parts) < len(laws):
        raise ValueError("the answer cannot be refined, for its draws do not vary in every parameter")
    found = Mixture(posterior.prior, parts, {"observation": observation_hash(x), "answer": posterior.digest})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, found.to_json())
    return found


def _kept(file: Path, prior: Prior, x: X) -> Mixture | None:
    """The law in a file, if it is of this observation."""
    try:
        data: Mapping[str, Any] = read_json(file)
        return Mixture.from_json(prior, data) if data["observation"] == observation_hash(x) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
