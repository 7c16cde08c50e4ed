r"""Calibration of a posterior on fresh simulations: ranks, coverage, TARP, and probabilities of discrete parameters.

`calibrate`: Posterior + fresh Store -> Calibration. It asks whether the posterior is right on simulations that the
network has never seen.

Take fresh pairs (theta*, x) of prior and simulator, and draws theta_1..L of the posterior given x. Three numbers are
uniform on [0, 1] when the posterior is exact. (For a posterior learned under a proposal, theta* comes from the
proposal.)

- SBC: the rank of theta*_d among the draws' theta_d, for each parameter d;
- HPD: the fraction of draws with a higher posterior density than theta*, whose distribution function is the expected
  coverage of highest-density regions;
- TARP: the fraction of draws nearer than theta* to a reference point drawn from the prior.

Where parameters are discrete or exist only sometimes, ranks are among the draws in which the parameter exists. Equal
values are ranked in random order (`diagnostics.existing`). Densities are then those of the unbounded parameters,
which have no units, and distances are those of `Prior.coordinates`. The probabilities of a discrete parameter are
compared with how often each value was true (`reliability`).

In addition, the draws of all rows together must be distributed as the theta* of all rows, and tails must be heavy
enough (`diagnostics.tails`).

Rows that failed are left out, so theta* is conditional on success. A posterior by a likelihood does not know of
failures. Where the failure rate depends on theta, it is checked with the factor P(ok | theta)
(`diagnostics.failures`).

The errors are measured in coverage and judged with one of three results: passed, not passed, cannot tell
(`diagnostics.agreement`).

sbi's `run_sbc`, `run_tarp` and `check_sbc` compute the same from a posterior object, observation by observation or
with rejection against the prior. Here thousands of observations go through the network at once. sbi's functions are
the reference in the tests.

Reliability of a discrete parameter: is a model that is given a probability of 0.3 true in 30 % of the cases?

Ranks hardly detect a wrong probability where data tell values well apart. A choice between models rests on these
probabilities alone. Take N fresh simulations with labels y_i and probabilities p_ik. For each value k, they are
sorted by p_ik and cut into 10 bins B of equal size:

    ECE = 1/2 sum_k 1/N sum_B abs( sum_{i in B} (p_ik - [y_i = k]) ),

For two values, this is the error of either value. A parameter that exists only sometimes has one more value, which
stands for its absence.

ECE is not 0 for right probabilities. So labels are drawn from the probabilities 200 times, which gives the
distribution of ECE. Where p_ik comes from draws of the posterior, it is itself uncertain. Labels drawn from it then
scatter more than the truth does about it. So the truth and the L draws of a row, which are exchangeable, are pooled.
One of the L + 1 is drawn as the label, and the others are the draws. The p-value is therefore right for any L. Below
0.1, the p-value comes from the mean excess of the 20 largest simulated errors. This makes it a little too large
where the tail is normal.

The gap is ECE less its mean.

References:
    | Validating Bayesian inference algorithms with simulation-based calibration (Talts et al., 2018),
      https://arxiv.org/abs/1804.06788
    | A trust crisis in simulation-based inference? Your posterior approximations can be unfaithful
      (Hermans et al., 2022), https://arxiv.org/abs/2110.06581
    | Sampling-based accuracy testing of posterior estimators for general inference (Lemos et al., 2023),
      https://arxiv.org/abs/2302.03026
    | Obtaining well calibrated probabilities using Bayesian binning (Naeini, Cooper & Hauskrecht, 2015),
      https://doi.org/10.1609/aaai.v29i1.9602: ECE
    | Increasing the reliability of reliability diagrams (Broecker & Smith, 2007),
      https://doi.org/10.1175/WAF993.1: what they show by chance, by drawing from the probabilities
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.campaigns.store import Store
from sciinf.core import Batch, Calibration, DensityUnavailable, Posterior, Prior, X
from sciinf.core.doubts import noting, summed_up
from sciinf.core.files import local_path, read_json, sha256_of, write_bytes, write_json
from sciinf.core.levels import Levels
from sciinf.core.observable import event_of
from sciinf.core.progress import Progress
from sciinf.core.records import Reliability
from sciinf.diagnostics.agreement import LEVELS, STATED_GAP, Agreement, agreements, coverage, judged, too_light
from sciinf.diagnostics.existing import averages, outside_span, rank_of_last, ranks_among
from sciinf.diagnostics.failures import Failures, look, mended
from sciinf.diagnostics.ood import REFERENCE, make_reference
from sciinf.diagnostics.recalibrate import keep
from sciinf.diagnostics.scores.known import check_scores
from sciinf.diagnostics.scores.score import DataScore
from sciinf.diagnostics.tails import beyond, tail_agreements
from sciinf.diagnostics.views import Views
from sciinf.networks.kernels.lanes import cores_here, shared
from sciinf.posteriors.marginal import all_probabilities

_PAIRS = 65_536  # Largest number of (observation, draw) pairs in one pass.
_SOME = 31  # Draws of each row that are averaged over the rows.
_CHUNK = 4_096
_PIECES = 20  # Least number of passes; the user sees the progress between them.


def calibrate(
    posterior: Posterior,
    store: Store,
    out: str | Path | None = None,
    *,
    rows: int = 5_000,
    draws: int = 127,
    seed: int = 0,
    progress: bool = True,
    gap: float = STATED_GAP,
    scores: Sequence[DataScore] | None = None,
) -> Calibration:
    """Check a posterior on fresh simulations.

    Compiled flows are sampled on all cores that the process may use.

    Args:
        posterior: The posterior to check, usually the amortised one. (A reweighted one is exact up to its weights,
            but takes as long per row as a query.)
        store: Simulations that were not used in training; rows that failed are left out.
        out: Run folder for `calibration.json` and `reference.safetensors`. If it already holds a calibration of the
            same posterior and simulations, this calibration is read back.
        rows: Largest number of simulations to use for ranks and coverage; the check of observations uses up to
            20,000.
        draws: Posterior draws per simulation.
        seed: Seed of the draws.
        progress: Whether to report progress on the standard error.
        gap: Largest distance between nominal and true coverage with which the posterior may pass. Where the
            simulations could not have seen such a distance, the result is "cannot tell" instead of a pass.
        scores: Data scores that are learned from a third of the simulations for the check of observations, in
            addition to plain views of the data. By default `PlantedFaults()`, from 3,000 simulations on.

    Returns:
        Ranks, coverage, p-values and the verdict with its reasons.

    Raises:
        ValueError: If the store has other parameters or observables, has another prior or proposal than the
            posterior was learned under, may share rows with the training simulations, or has fewer than 100 usable
            rows; if rows or draws are too few.
        TypeError: If an item of `scores` is not a `DataScore`.
    """
    if rows < 100 or draws < 1:
        raise ValueError(f"calibrate takes at least 100 rows and 1 draw, got rows={rows}, draws={draws}")
    _check_fresh(posterior, store, scores)
    said = f"{posterior.digest} {store.digest} {rows} {draws} {seed} {REFERENCE} averages tails {gap} scores {scores}"
    inputs = sha256_of(said)
    folder = None if out is None else local_path(out)
    found = None if folder is None else _found(folder, inputs)
    if found is not None:
        return found
    started, fresh = time.monotonic(), store.load(slice(0, min(len(store), rows)))
    if len(fresh) < 100:
        raise ValueError(
            f"{len(fresh)} usable simulations in {store.folder.name} are too few to calibrate on; give at least 100"
        )
    generator = torch.Generator().manual_seed(seed)
    failures = look(store)  # The rows are conditional on success, so the posterior that is checked has to be as well.
    told = Progress(len(fresh), 0, shown=progress, task="calibrating", unit="simulations calibrated on")
    with noting() as noted, shared(cores_here()), told as bar:
        right = mended(posterior, failures, "outcome")
        values = _statistics(right, fresh, draws, generator, bar)
        tails = _tails(right, fresh, values, draws, seed)
    tests, shown = _tests(posterior, fresh, values, tails, draws, generator)
    state, cautious, reasons = judged(tests, gap)
    if doubts := summed_up(noted):  # Draws that cannot be relied on show nothing about the posterior.
        state = "cannot tell" if state == "passed" else state
        reasons += tuple(f"while calibrating, {check.words}" for check in doubts)
    calibration = Calibration(
        names=posterior.prior.names,
        ranks=values["ranks"].numpy(),
        draws=draws,
        levels=LEVELS,
        coverage=coverage(values["hpd"], draws) if "hpd" in values else np.array([]),
        tarp=coverage(values["tarp"], draws),
        p_values={name: test.p_value for name, test in tests.items()},
        gaps={name: test.gap for name, test in tests.items()},
        of=posterior.name,
        fit=posterior.digest,
        simulations=store.digest,
        failed_rows=sum(count for status, count in store.counts.items() if status != 0),
        state=state,
        cautious=cautious,
        reasons=reasons,
        tails=tuple(too_light(tests).values()),
        reference=_reference(posterior, make_reference(posterior, store, scores), fresh, values, draws, generator)
        | (failures.tensors() if failures else {}),
        reliability=shown,
    )
    if folder is not None:
        _save(calibration, folder, inputs, time.monotonic() - started)
    return calibration


def load_calibration(folder: str | Path) -> Calibration:
    """Read the calibration that `calibrate` wrote into a run folder.

    Raises:
        FileNotFoundError: If the folder holds no calibration.
        ValueError: If the calibration is damaged.
    """
    from safetensors.torch import load

    folder = local_path(folder)
    if not (folder / "calibration.json").is_file():
        raise FileNotFoundError(f"{folder} holds no calibration; run `sciinf calibrate SIM.py {folder}`")
    data = read_json(folder / "calibration.json")
    if not isinstance(data, dict) or "reference_sha256" not in data:
        raise ValueError(f"{folder / 'calibration.json'} is not what `sciinf calibrate` writes; run it again")
    raw = (folder / "reference.safetensors").read_bytes() if (folder / "reference.safetensors").is_file() else b""
    if sha256_of(raw) != data["reference_sha256"]:
        raise ValueError(f"{folder / 'reference.safetensors'} is damaged or missing; run `sciinf calibrate` again")
    return Calibration.from_json(data, load(raw))


def _check_fresh(posterior: Posterior, store: Store, scores: Sequence[DataScore] | None) -> None:
    check_scores(scores)
    if posterior.prior.to_json() != store.prior.to_json():
        raise ValueError(
            f"{store.folder.name} holds simulations of {store.prior}, the posterior is of {posterior.prior}"
        )
    if dict(posterior.observables) != dict(store.observables):
        raise ValueError(
            f"{store.folder.name} holds {event_of(store.observables)}, the posterior is for "
            f"{event_of(posterior.observables)}"
        )
    if store.proposal != posterior.under:
        raise ValueError(
            f"{store.folder.name} holds simulations of {_law(store.proposal)}, the {posterior.name} posterior is that "
            f"under {_law(posterior.under)}{' that differs' if store.proposal and posterior.under else ''}; calibrate "
            "on fresh simulations of the law it was learned under"
        )
    if store.campaign & posterior.trained_on:
        raise ValueError(
            f"{store.folder.name} is of the campaign (seed {store.seed}) that the network was trained on; calibrate on "
            "simulations with another seed"
        )


def _law(proposal: Mapping[str, Any] | None) -> str:
    return "the prior" if proposal is None else f"a proposal ({proposal.get('kind', 'of no kind')})"


def _found(folder: Path, inputs: str) -> Calibration | None:
    """Calibration of the same inputs in a run folder, or None.

    A damaged calibration gives a warning and None, so a new one is made.
    """
    try:
        if read_json(folder / "calibration.json")["inputs"] != inputs:
            return None
        found = load_calibration(folder)
        looked = not found.failed_rows or Failures.from_tensors(found.reference) is not None
        return found if looked else None
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        warnings.warn(f"the calibration in {folder} cannot be read back, so it is made anew: {error}", stacklevel=3)
        return None


def _save(calibration: Calibration, folder: Path, inputs: str, seconds: float) -> None:
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    raw = save(dict(calibration.reference))
    write_bytes(folder / "reference.safetensors", raw)
    about = {"inputs": inputs, "seconds": seconds, "reference_sha256": sha256_of(raw)}
    write_json(folder / "calibration.json", {**calibration.to_json(), **about})


def _statistics(
    posterior: Posterior, fresh: Batch, draws: int, generator: torch.Generator, bar: Progress
) -> dict[str, Tensor]:
    """Statistics of each row: ranks (rows, D), counts of HPD and TARP, log density of the truth.

    Also some draws of each row, (k, rows, D).

    Where the prior is mixed, also the values of discrete parameters in all draws, "values/NAME" (draws, rows). Where
    the posterior knows the probabilities of each value, they are "exact/NAME" (rows, values).
    """
    prior = posterior.prior
    references = prior.coordinates(prior.sample(len(fresh), generator=generator))
    # Without this scale, the parameter with the largest numbers alone would decide which draws are near.
    scale = references.std(dim=0)
    # The sd is 0 for a value that none of the prior draws has.
    scale = torch.where(scale > 0, scale, 1.0) if prior.mixed else scale
    chunk = max(1, min(_PAIRS // draws, math.ceil(len(fresh) / _PIECES)))
    parts: dict[str, list[Tensor]] = {"ranks": [], "hpd": [], "tarp": [], "some": [], "truth": []}
    for start in range(0, len(fresh), chunk):
        batch = fresh.rows(slice(start, start + chunk))
        sample = posterior.draw_batched(batch.x, draws, generator=generator)
        parts["some"].append(sample[:_SOME])
        reference = references[start : start + chunk]
        far = ((prior.coordinates(sample) - reference) / scale).norm(dim=-1)
        true_far = ((prior.coordinates(batch.theta) - reference) / scale).norm(dim=-1)
        if prior.mixed:
            parts["ranks"].append(ranks_among(sample, batch.theta, generator))
            parts["tarp"].append(rank_of_last(torch.cat([far, true_far[None]]), generator))
            for name, value in values_of(posterior, batch.x, sample).items():
                parts.setdefault(name, []).append(value)
        else:
            parts["ranks"].append((sample < batch.theta).sum(dim=0))
            parts["tarp"].append((far < true_far).sum(dim=0))
        with suppress(DensityUnavailable):  # Without a density, ranks and TARP are still checked.
            both = torch.cat([sample, batch.theta[None]])
            density = posterior.log_prob_batched(both, batch.x)
            parts["truth"].append(density[-1].double())
            if prior.mixed:
                parts["hpd"].append(rank_of_last(prior.log_jacobian(both) - density, generator))
            else:
                parts["hpd"].append((density[:-1] > density[-1]).sum(dim=0))
        bar.add(len(batch))
    along = {name: int(name == "some" or name.startswith(VALUES)) for name in parts}
    return {name: torch.cat(values, dim=along[name]) for name, values in parts.items() if values}


def _tests(
    posterior: Posterior,
    fresh: Batch,
    values: Mapping[str, Tensor],
    tails: Mapping[str, Agreement],
    draws: int,
    generator: torch.Generator,
) -> tuple[dict[str, Agreement], dict[str, Reliability]]:
    """All tests, including those of tails, and the reliability of the probabilities of discrete parameters."""
    prior, pairs = posterior.prior, (fresh.theta, values["some"])
    if not prior.mixed:
        return agreements(values, prior.names, draws, generator, pairs) | dict(tails), {}
    tests = agreements(values, prior.names, draws, generator) | averages(prior, *pairs, generator)
    checked = reliabilities(prior, fresh.theta, values, generator)
    found = {f"probabilities of {name}": test for name, (test, _) in checked.items()}
    return tests | found | dict(tails), {name: shown for name, (_, shown) in checked.items()}


def _tails(
    posterior: Posterior, fresh: Batch, values: Mapping[str, Tensor], draws: int, seed: int
) -> dict[str, Agreement]:
    """Tests of the tails, or none where there is no density.

    A posterior that samples by chains has no density, and testing its tails would take too long.
    """
    if "truth" not in values:
        return {}
    generator, prior = torch.Generator().manual_seed(seed + 1), posterior.prior
    names = tuple(name for name in prior.names if name not in prior.discrete())
    if prior.mixed:
        outside = outside_span(posterior, fresh, generator)[:, [prior.names.index(name) for name in names]]
    else:
        outside = beyond(posterior, fresh, values["ranks"], draws, generator)
    return tail_agreements(outside, names, prior.log_prob(fresh.theta), values["truth"])


def _reference(
    posterior: Posterior,
    found: Mapping[str, Tensor],
    fresh: Batch,
    values: Mapping[str, Tensor],
    draws: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Reference tensors of the calibration.

    They describe what fresh simulations look like, and what their ranks say of intervals, with the ranks themselves.
    """
    views = Views(posterior, found)
    parts = [fresh.rows(slice(start, start + _CHUNK)).x for start in range(0, len(fresh), _CHUNK)]
    seen = torch.cat([views.coordinates(x) for x in parts])
    return {**found, **keep(values, draws, seen, generator)}


__all__ = ["LEVELS", "calibrate", "load_calibration"]


ABSENT = "does not exist"
VALUES, EXACT = "values/", "exact/"
_BINS = 10
_TIMES = 200
_TAIL = 0.1
_BAND = 0.99


def values_of(posterior: Posterior, x: X, draws: Float[Tensor, "draws batch theta"]) -> dict[str, Tensor]:
    """Index of each discrete parameter's value in every draw, and the exact probabilities if they are known.

    Args:
        posterior: The posterior being calibrated.
        x: A batch of observations.
        draws: The posterior's draws given `x`.

    Returns:
        "values/NAME" (draws, batch), int16: index among the values of the parameter's distribution, or their number
        where the parameter does not exist; and "exact/NAME" (batch, values).
    """
    prior, found = posterior.prior, dict[str, Tensor]()
    for name, law in prior.discrete().items():
        found[VALUES + name] = _places(law, draws[..., prior.names.index(name)]).short()
    return found | {EXACT + name: exact for name, exact in all_probabilities(posterior, x).items()}


def reliabilities(
    prior: Prior, truth: Float[Tensor, "rows theta"], values: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, tuple[Agreement, Reliability]]:
    """`reliability` of each discrete parameter, by name.

    Args:
        prior: The prior.
        truth: The true parameters, NaN where a parameter does not exist.
        values: Results of `values_of` for all rows.
        generator: Source of randomness.
    """
    found = {}
    for name, law in prior.discrete().items():
        place = _places(law, truth[:, prior.names.index(name)])
        drawn, exact = values[VALUES + name].long(), values.get(EXACT + name)
        labels = law.labels
        if bool((place == len(labels)).any() or (drawn == len(labels)).any()):
            labels = (*labels, ABSENT)
            if exact is not None:
                exact = torch.cat([exact, (1 - exact.sum(1, keepdim=True)).clamp_min(0)], dim=1)
        found[name] = reliability(place, labels, generator, drawn=drawn, exact=exact)
    return found


def _places(law: Levels, column: Tensor) -> Tensor:
    codes = law.codes(column)
    return torch.where(codes < 0, len(law.labels), codes)


def reliability(
    truth: Int[Tensor, " rows"],
    values: Sequence[str],
    generator: torch.Generator,
    *,
    drawn: Int[Tensor, "draws rows"] | None = None,
    exact: Float[Tensor, "rows values"] | None = None,
) -> tuple[Agreement, Reliability]:
    """Test of the probabilities of one discrete parameter, and the data of its reliability diagram.

    Args:
        truth: The true values, as indices into `values`.
        values: Labels of the possible values.
        generator: Source of randomness.
        drawn: Values in draws of the posterior, as indices into `values`; left out where probabilities are known.
        exact: Probabilities that the posterior gives each value.

    Raises:
        ValueError: If neither draws nor probabilities are given.
    """
    count, rows = len(values), len(truth)
    if exact is not None:
        p = exact.double().clamp_min(0)
        p = p / p.sum(1, keepdim=True)
        share, one = p, 0.0
    elif drawn is not None:
        pool = torch.stack([(drawn == k).sum(0) for k in range(count)], dim=1).double()
        pool[torch.arange(rows), truth] += 1
        share, one = pool / (len(drawn) + 1), 1 / len(drawn)
        # From this, `_without` takes away `one` for the label, which is no longer among the draws.
        p = share * (1 + one)
    else:
        raise ValueError("give draws, or the probabilities of each value")
    bins = _bins(p, truth, one)
    error, predicted, found = _error(p, truth, one, bins)
    each, cumulative = [], share.cumsum(1)
    for _ in range(_TIMES):
        u = torch.rand(rows, 1, generator=generator, dtype=torch.float64) * cumulative[:, -1:]
        label = (cumulative <= u).sum(1).clamp_max(count - 1)
        each.append(_error(p, label, one, _bins(p, label, one) if one else bins))
    errors = torch.tensor([one_of[0] for one_of in each], dtype=torch.float64)
    chance = float(errors.mean())
    low, high = _band(predicted, torch.stack([f - q for _, q, f in each]))
    sizes = torch.bincount(bins[:, 0], minlength=_BINS)
    picture = (t.numpy() for t in (predicted, found, low, high, sizes))
    shown = Reliability(tuple(values), *picture, error=error, chance=chance)
    gap = np.array([max(0.0, error - chance)])
    spread = float(errors.std())
    return Agreement("probability", _p_value(errors, error), gap, rows, _worst(shown), spread), shown


def _bins(p: Tensor, label: Tensor, one: float) -> Tensor:
    """Bin of each row by the probability of each value, (rows, values)."""
    p = _without(p, label, one)
    place = p.argsort(dim=0, stable=True).argsort(dim=0)
    return place * _BINS // len(p)


def _without(p: Tensor, label: Tensor, one: float) -> Tensor:
    """Probabilities from the draws that remain when the label is taken out of the pool."""
    if not one:
        return p
    return p - one * torch.nn.functional.one_hot(label, p.shape[1])


def _error(p: Tensor, label: Tensor, one: float, bins: Tensor) -> tuple[float, Tensor, Tensor]:
    """ECE, and the mean probability and the share of labels in each bin, both (values, bins)."""
    truth = torch.nn.functional.one_hot(label, p.shape[1]).double()
    size = torch.bincount(bins[:, 0], minlength=_BINS).clamp_min(1)
    sums = torch.zeros(2, _BINS, p.shape[1], dtype=torch.float64)
    sums[0].scatter_add_(0, bins, _without(p, label, one))
    sums[1].scatter_add_(0, bins, truth)
    error = 0.5 * float((sums[0] - sums[1]).abs().sum()) / len(p)
    predicted, found = (sums / size[:, None]).transpose(1, 2)
    return error, predicted, found


def _band(predicted: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper ends between which right probabilities put the shares in 99 of 100 cases, each (values, bins)."""
    z = float(torch.special.ndtri(torch.tensor((1 + _BAND) / 2, dtype=torch.float64)))
    middle, half = predicted + apart.mean(0), z * apart.std(0)
    return (middle - half).clamp(0, 1), (middle + half).clamp(0, 1)


def _p_value(errors: Tensor, error: float) -> float:
    edge = float(torch.quantile(errors, 1 - _TAIL))
    if error <= edge:
        return (1 + int((errors >= error).sum())) / (1 + len(errors))
    excess = float((errors[errors > edge] - edge).mean()) if bool((errors > edge).any()) else 0.0
    return _TAIL * math.exp(-(error - edge) / max(excess, 1e-12))


def _worst(shown: Reliability) -> str:
    """Sentence on the bin with the largest error."""
    apart = np.abs(shown.found - shown.predicted) * shown.rows
    k, b = np.unravel_index(int(apart.argmax()), apart.shape)
    given, true, rows = float(shown.predicted[k, b]), float(shown.found[k, b]), int(shown.rows[b])
    return (
        f"{shown.values[k]!r} is given {given:.2f} on average in {rows:,} simulations and is true in {true:.2f} of them"
    )
