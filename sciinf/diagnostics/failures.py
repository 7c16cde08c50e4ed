r"""Do simulations fail at some parameters more than at others, and how does that affect an answer?

Rows that fail are left out, so a network learns from theta ~ p(theta) P(ok | theta) / Z. Where simulations fail, the
prior is thinned or cut off. No test can say whether this is right, because there are two readings.

- **A failure is an outcome.** "No spike", "not detected": nature could have failed as well, and did not. Then
  success is a part of the data, the posterior is

      p(theta | x, ok)  ~  p(theta) P(ok | theta) p(x | theta, ok),

  and a network trained on the successes is right as it is.
- **A failure is the program's.** A solver did not converge, but nature has data there. The posterior under the prior
  as written is

      p(theta | x)  ~  p(theta) p(x | theta, ok)  ~  p(theta | x, ok) / P(ok | theta),

  as long as P(ok | theta) > 0 and failing depends on the data only through theta. Draws of the network take the
  weight
  1 / P(ok | theta) (`posteriors.tilted`). Where nothing succeeds, there is nothing to weight, and no method can
  help.
  Below P(ok) = 0.05 the weight is 0, and the answer is that of the prior cut off there.

Posteriors by a likelihood (weighted by the simulator's likelihood, or chains on a learned ratio or likelihood) have
the second form from the start. They take the factor P(ok | theta) under the first reading.

This file tests whether failing depends on the parameters and on which, and finds where most simulations fail.

**The test.** Under independence, theta of the failed rows is a random choice among all rows. For each parameter, a
Kolmogorov-Smirnov test asks whether the ranks of the failed rows are uniform. For all parameters together, a
quadratic classifier is fitted to the even rows (`diagnostics.success`). A Mann-Whitney test asks whether the
classifier ranks the failed rows higher among the odd rows. The p-value is the smallest of the D + 1 p-values, times
D + 1. Below 0.01, failing depends on theta. A false alarm happens in at most one of a hundred simulators whose
failures do not depend on it.

**Where.** For every parameter, the interval for which two failure rates, inside and outside, gain most likelihood
over one rate (Kulldorff's scan statistic). Where no parameter alone explains half of what the classifier explains,
those parameters are named whose permutation changes P(ok | theta) most.

References:
    | Flexible statistical inference for mechanistic models of neural dynamics (Lueckmann et al., 2017),
      https://arxiv.org/abs/1711.01861
    | Variational methods for simulation-based inference (Glöckler, Deistler & Macke, 2022), where a learned likelihood
      takes the factor P(ok | theta), https://arxiv.org/abs/2203.04176
    | Revisiting classifier two-sample tests (Lopez-Paz & Oquab, 2017), https://arxiv.org/abs/1610.06545
    | A spatial scan statistic (Kulldorff, 1997)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from sciinf.campaigns.storage.outcome import status_of
from sciinf.campaigns.store import Store
from sciinf.core import Calibration, Case, Cause, Diagnostic, Draws, Finding, Level, Posterior, Prior
from sciinf.core.levels import Levels
from sciinf.core.observable import Status
from sciinf.diagnostics.success import Success, fit_success, fitted
from sciinf.posteriors.tilted import Tilted, by_likelihood, judged_by_simulator, learned_without

Reading = Literal["exclude", "outcome", "model"]

SIGNIFICANT = 0.01
_ROWS = 20_000
_FEW = 20  # Number of failures below which independence cannot be told.
_RARE = 0.005  # Share of failures below which few failures do not matter.
_NEVER = 0.05  # Below this P(ok), there is next to nothing to learn from, or to weight.
_MASS = 0.05  # Share of the posterior that may be elsewhere before an answer is refused.
_LITTLE = 0.01  # Share of the posterior that may be elsewhere before an answer calls for care.
_PRIOR = 0.1  # Share of the prior that may be cut off before an answer is refused.
_SPREAD = 2.0  # An answer is widened by this factor to look for failing simulations near it,
_SPREAD_MENDED = 1.5  # or by this factor if the answer is not cut off by failures.
_DRAWS = 4_000
_PREFIX = "failures/"


@dataclass(frozen=True)
class Failures:
    """What the failed rows of a store show about failures.

    Args:
        rows: Number of rows examined.
        failed: Number of failed rows among them.
        p_value: p-value of failing being independent of theta.
        ranges: For each parameter the interval where most simulations fail, (D, 7): low, high (infinite at the
            prior's end), failure rate inside and outside, share of the classifier's explanation that the interval
            gives, the parameter's sd, and its effect on P(ok).
        cut: Share of rows where P(ok) is nearly zero.
        success: Model of P(ok | theta).
    """

    rows: int
    failed: int
    p_value: float
    ranges: Tensor
    cut: float
    success: Success

    @property
    def depend(self) -> bool:
        return self.p_value < SIGNIFICANT

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that a calibration stores; `from_tensors` reads them."""
        numbers = torch.tensor([self.rows, self.failed, self.p_value, self.cut], dtype=torch.float64)
        own = {"numbers": numbers, "ranges": self.ranges}
        return {_PREFIX + name: value.contiguous() for name, value in {**own, **self.success.tensors()}.items()}

    @classmethod
    def from_tensors(cls, reference: Mapping[str, Tensor]) -> Failures | None:
        """Rebuild a record from the tensors of `tensors`; None if nothing failed, or nobody examined failures."""
        own = {k.removeprefix(_PREFIX): v for k, v in reference.items() if k.startswith(_PREFIX)}
        if not own:
            return None
        rows, failed, p_value, cut = own["numbers"].tolist()
        return cls(int(rows), int(failed), p_value, own["ranges"], cut, Success.from_tensors(own))

    def words(self, prior: Prior) -> str:
        """Sentence on how many simulations failed, whether failing depends on the parameters, and where."""
        share = f"{self.failed:,} of {self.rows:,} simulations failed ({_percent(self.failed / self.rows)})"
        if self.depend:
            p = f"p = {self.p_value:.1g}" if self.p_value > 1e-12 else "p < 1e-12"
            return f"{share}, and failing depends on the parameters ({p}): {self._where(prior)}"
        if self.failed < _FEW:
            return f"{share}, too few to tell whether failing depends on the parameters (p = {self.p_value:.2g})"
        return f"{share}; failures do not depend on the parameters (p = {self.p_value:.2g})"

    def _where(self, prior: Prior) -> str:
        first = int(self.ranges[:, 4].argmax())
        matter = self.ranges[:, 6] > 0.3 * self.ranges[:, 6].max()
        several = [name for name, big in zip(prior.names, matter.tolist(), strict=True) if big]
        if float(self.ranges[first, 4]) > 0.5 or len(several) < 2:
            return self._range(prior, first)
        names = f"{', '.join(several[:-1])} and {several[-1]}"
        return f"on {names} together; along single ones, above all {self._range(prior, first)}"

    def _range(self, prior: Prior, d: int) -> str:
        low, high, inside, outside, _, sd, _ = self.ranges[d].tolist()
        name, unit = prior.names[d], f" {prior.units[d]}" if prior.units[d] else ""
        if name in (discrete := prior.discrete()):
            label = discrete[name].labels[int(discrete[name].codes(torch.tensor(low + 0.5)))]
            return f"{_percent(inside)} fail where {name} is {label} ({_percent(outside)} elsewhere)"
        small, large = _digits(low, sd), _digits(high, sd)
        if math.isfinite(low) and math.isfinite(high):
            where = f"{small} < {name} < {large}{unit}"
        else:
            where = f"{name} > {small}{unit}" if math.isfinite(low) else f"{name} < {large}{unit}"
        return f"{_percent(inside)} fail where {where} ({_percent(outside)} elsewhere)"


def look(store: Store, rows: int = _ROWS) -> Failures | None:
    """Examine the failed rows of a store; return None if none failed.

    Args:
        store: Simulations.
        rows: Number of rows to examine; more, if the first failed row comes later.

    Raises:
        ValueError: If a block is damaged.
    """
    if not sum(count for status, count in store.counts.items() if status != Status.OK):
        return None
    thetas, flags, missing = [], [], set(store.missing())
    for index in range(store.blocks):
        if sum(map(len, thetas)) >= rows and any(bool(flag.any()) for flag in flags):
            break
        if index not in missing:
            theta, outcome = store.read(index)
            thetas.append(theta.double())
            flags.append(status_of(outcome) != int(Status.OK))
    theta, failed = torch.cat(thetas), torch.cat(flags)
    rows = max(rows, int(failed.nonzero()[0]) + 1)
    return examine(store.prior, theta[:rows], failed[:rows])


def examine(prior: Prior, theta: Tensor, failed: Tensor) -> Failures:
    """Examine failures from parameters (n, D) and flags of failed rows, bool (n,), of which at least one is True."""
    theta = theta.double()
    z = prior.bijection.forward(theta).clamp(-40, 40)
    success = fit_success(z, failed)
    ok = success.log_prob(z).exp()
    rate = failed.double().mean().clamp(1e-12, 1 - 1e-12)
    wrong = -torch.where(failed, torch.log1p(-ok.clamp(max=1 - 1e-12)), ok.clamp_min(1e-300).log()).sum()
    explained = float(-len(z) * (rate * rate.log() + (1 - rate) * (-rate).log1p()) - wrong)
    discrete = prior.discrete()
    each = [
        worst_value(theta[:, d], failed, discrete[name]) if name in discrete else _worst(theta[:, d], failed)
        for d, name in enumerate(prior.names)
    ]
    found = torch.stack(each)
    found[:, 4] /= max(explained, float(found[:, 4].max()), 1e-12)
    moved = _of_parameters(prior, influence(success, z))
    found = torch.cat([found, _sds(theta)[:, None], moved[:, None]], dim=1)
    inside = (theta > found[:, 0]) & (theta < found[:, 1]) & (found[:, 2] > 1 - _NEVER)
    cut = max(float((ok < _NEVER).double().mean()), float(inside.double().mean(dim=0).max()))
    return Failures(len(z), int(failed.sum()), independence(z, failed), found, cut, success)


def _worst(values: Tensor, failed: Tensor) -> Tensor:
    """`worst_interval` of the rows in which a parameter exists."""
    there = ~values.isnan()
    if bool(there.all()):
        return worst_interval(values, failed)
    if int(there.sum()) < _FEW or not bool(failed[there].any()) or bool(failed[there].all()):
        rate = float(failed.double().mean())
        return torch.tensor([-math.inf, math.inf, rate, rate, 0.0], dtype=torch.float64)
    return worst_interval(values[there], failed[there])


def _sds(theta: Tensor) -> Tensor:
    """Standard deviation of each parameter, (D,), over the rows in which it exists."""
    if not bool(theta.isnan().any()):
        return theta.std(dim=0)
    there = [column[~column.isnan()] for column in theta.T]
    return torch.stack([one.std() if len(one) > 1 else theta.new_zeros(()) for one in there])


def _of_parameters(prior: Prior, values: Tensor) -> Tensor:
    """Convert values of the unbounded numbers, (bijection.size,), to values of the parameters, (D,).

    Parts of a whole have one unbounded number less than parameters. Each part gets the largest of their values.
    """
    if len(values) == len(prior):
        return values
    found = torch.empty(len(prior), dtype=values.dtype)
    for place, spot in zip(prior.bijection.places, prior.bijection.spots, strict=True):
        mine = values[spot]
        found[place] = mine if place.stop - place.start == len(mine) else mine.max()
    return found


def asked(posterior: Posterior, calibration: Calibration | None, reading: Reading) -> Posterior:
    """Posterior that a reading of failures calls for: `mended` by the failures that a calibration knows.

    Raises:
        ValueError: If the reading is unknown, or is "model" and no calibration says which simulations fail.
    """
    if reading not in ("exclude", "outcome", "model"):
        raise ValueError(f"failures are to be taken as 'exclude', 'outcome' or 'model', got {reading!r}")
    failures = Failures.from_tensors(calibration.reference) if calibration else None
    if failures is None and reading == "model" and (calibration is None or calibration.failed_rows):
        raise ValueError(
            "failures are to be modelled, and no calibration says which simulations fail: run `sciinf calibrate` first"
        )
    return mended(posterior, failures, reading)


def mended(posterior: Posterior, failures: Failures | None, reading: Reading) -> Posterior:
    """Posterior with the factor 1 / P(ok | theta), or P(ok | theta), where the reading of failures needs one."""
    if failures is None or not failures.depend or reading == "exclude":
        return posterior
    if by_likelihood(posterior) == (reading == "model"):
        return posterior
    words = "1 / P(success)" if reading == "model" else "P(success)"

    def log_factor(theta: Tensor) -> Tensor:
        return _factor(failures.success, posterior.prior, theta, reading)

    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in failures.tensors().values())).hexdigest()
    return Tilted(posterior, log_factor, words, digest)


def check_failures(
    calibration: Calibration | None, posterior: Posterior, draws: Draws, reading: Reading = "exclude"
) -> list[Finding]:
    """Return the finding about failures for one answer; empty where nothing failed.

    Args:
        calibration: Calibration of the posterior, with the record of the failed simulations.
        posterior: Posterior that gave the answer, `asked` by the reading.
        draws: Draws of the answer.
        reading: Meaning of a failure: an outcome of nature ("outcome"), a fault of the program ("model"), or not
            stated ("exclude").
    """
    failures = Failures.from_tensors(calibration.reference) if calibration else None
    if failures is not None:
        return [judge(failures, posterior, draws, reading)]
    count = calibration.failed_rows if calibration else learned_without(posterior)
    if not count:
        return []
    which = "fresh simulations" if calibration else "simulations to learn from"
    words = f"{count:,} {which} failed, and nobody has looked whether that depends on the parameters"
    return [Finding("failures", Level.UNKNOWN, f"{words}: run `sciinf calibrate`")]


def judge(failures: Failures, posterior: Posterior, draws: Draws, reading: Reading = "exclude") -> Finding:
    """Finding about one answer, from the failures of fresh simulations.

    The other arguments are those of `check_failures`.
    """
    prior, success, words = posterior.prior, failures.success, failures.words(posterior.prior)
    if not failures.depend:
        open_question = failures.failed < _FEW and failures.failed > _RARE * failures.rows
        return Finding("failures", Level.UNKNOWN if open_question else Level.GOOD, words)
    if reading == "outcome":
        return Finding(
            "failures", Level.GOOD, f"{words}. They are taken as outcomes that were not observed, as was asked"
        )
    z = prior.bijection.forward(draws.resample(_DRAWS, generator=torch.Generator().manual_seed(0)).double())
    cut = failures.cut
    if reading == "exclude" and not by_likelihood(posterior):
        level, found = _as_it_is(_near(success, z, 1.0 if prior.mixed else _SPREAD), _moved(success, z), cut)
        return Finding("failures", level, f"{words}. {found}" + (f". {_WAY_OUT}" if level != Level.GOOD else ""))
    how = "The answer is by a likelihood, with the prior as written"
    how = how if by_likelihood(posterior) else "The answer is weighted by 1 / P(success), as was asked"
    if _near(success, z, 1.0 if prior.mixed else _SPREAD_MENDED) > _MASS or cut > _PRIOR:
        gone = f"but next to nothing succeeds in {_percent(cut)} of the prior, and nothing was learned there"
        if judged_by_simulator(posterior):
            reach = "draws from there are those of a broad law, so look at the effective sample size and Pareto k"
            return Finding("failures", Level.CAUTION, f"{words}. {how}, {gone}: {reach}")
        return Finding("failures", Level.ALARM, f"{words}. {how}, {gone}: mend the simulator, or narrow the prior")
    if cut > _RARE:
        return Finding("failures", Level.CAUTION, f"{words}. {how}, but {_percent(cut)} of the prior is cut off")
    if float(success.off) > _MASS and not by_likelihood(posterior):
        off = f"but P(success) itself is off by up to {_percent(float(success.off))}: calibrate on more simulations"
        return Finding("failures", Level.CAUTION, f"{words}. {how}, {off}")
    return Finding("failures", Level.GOOD, f"{words}. {how}")


def _as_it_is(near: float, moved: float, cut: float) -> tuple[Level, str]:
    """Level and sentence on how failures affect an answer that was learned from the successes."""
    if near > _MASS:
        return Level.ALARM, "The prior is cut off there, and the answer leans on that edge"
    if moved > _MASS:
        thinned = f"with all of it, {_percent(moved)} of the answer's mass would be elsewhere"
        return Level.ALARM, f"The prior is thinned there: {thinned}"
    if cut > _PRIOR:
        gone = f"what the data say of that {_percent(cut)} of it, no simulation could show"
        return Level.ALARM, f"The prior is cut off there: {gone}"
    if cut > _RARE:
        return (
            Level.CAUTION,
            "The prior is cut off there; the answer is far from that, and holds for the rest of the prior",
        )
    if moved > _LITTLE:
        return Level.CAUTION, f"With all of the prior, {_percent(moved)} of the answer's mass would be elsewhere"
    return Level.GOOD, "That is too little, and too far from this answer, to matter"


_WAY_OUT = (
    "Mend the simulator or narrow the prior; or say what a failure is: `--failures outcome` if nature could have "
    "failed as well and did not (the answer stands), `--failures model` if the data would exist (it is weighted by "
    "1 / P(success))"
)


def _factor(success: Success, prior: Prior, theta: Tensor, reading: Reading) -> Tensor:
    """Log of 1 / P(ok), or of P(ok) for "outcome"; the weight 1 / P(ok) is 0 where nearly nothing succeeds."""
    log_ok = success.log_prob(prior.bijection.forward(theta.double()))
    return log_ok if reading == "outcome" else torch.where(log_ok < math.log(_NEVER), -math.inf, -log_ok)


def _near(success: Success, z: Tensor, spread: float) -> float:
    """Share of an answer, widened by a factor, where P(ok) is nearly zero.

    A posterior that is cut off cannot show what lies beyond. Its draws are spread to twice its width, but to no more
    than the prior's width. Then it shows whether the cut is within reach: a normal posterior 3.3 sds away has 5 % of
    its mass there.
    """
    centre, sd = z.mean(dim=0), z.std(dim=0).clamp_min(1e-12)
    factor = (success.centre[1] / sd).clamp(1.0, spread)
    return float((success.log_prob(centre + factor * (z - centre)) < math.log(_NEVER)).double().mean())


def _moved(success: Success, z: Tensor) -> float:
    """Share of the mass of an answer that weights 1 / P(ok) move elsewhere (total variation)."""
    weight = (-success.log_prob(z).clamp_min(math.log(_NEVER))).exp()
    return float(0.5 * (weight / weight.mean() - 1).abs().mean())


def _percent(share: float) -> str:
    return f"{share:.0%}" if 0.1 <= share <= 0.99 else f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.4g}%"


def _digits(value: float, sd: float) -> str:
    """A number as text, to about a hundredth of its parameter's sd."""
    if not math.isfinite(value) or value == 0 or not sd > 0:
        return f"{value:.4g}"
    digits = 3 + math.floor(math.log10(abs(value))) - math.floor(math.log10(sd))
    return f"{value:.{min(max(digits, 1), 17)}g}"


@final
class FailedSimulations(Diagnostic):
    """Does failing depend on the parameters? Shown only where simulations failed."""

    name, cause = "failures", Cause.FAILURES

    def __call__(self, case: Case) -> Sequence[Finding]:
        return check_failures(case.calibration, case.posterior, case.draws, case.failures)


_EDGES = 64


def independence(z: Tensor, failed: Tensor) -> float:
    """p-value of failing being independent of the parameters z (n, D)."""
    from scipy.stats import kstest, mannwhitneyu

    n, values = len(z), []
    for d in range(z.shape[1]):
        rank = torch.empty(n, dtype=torch.float64)
        rank[z[:, d].argsort(stable=True)] = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        # Ranks drawn without replacement spread less than uniform numbers: the p-value errs on the large side.
        values.append(float(kstest(rank[failed].numpy(), "uniform").pvalue))
    even = torch.arange(n) % 2 == 0
    if min(int(failed[even].sum()), int(failed[~even].sum())) > 0 and not bool(failed.all()):
        logit = fitted(z[even], failed[even], "quadratic", 1.0).logit(z[~even])
        bad, good = logit[failed[~even]], logit[~failed[~even]]
        values.append(float(mannwhitneyu(bad.numpy(), good.numpy(), alternative="greater").pvalue))
    return min(1.0, (z.shape[1] + 1) * min(values))


def worst_interval(values: Tensor, failed: Tensor) -> Tensor:
    """Interval of one parameter where most simulations fail.

    Args:
        values: Values of the parameter, (n,).
        failed: Whether each row failed, bool (n,).

    Returns:
        Low and high (infinite where the interval ends with the rows), failure rates inside and outside, and the log
        likelihood ratio of two rates to one, (5,).
    """
    ordered, order = values.sort()
    total = torch.cat([torch.zeros(1), failed[order].cumsum(0)]).double()
    n, f = len(values), float(total[-1])

    def gain(low: Tensor, high: Tensor) -> Tensor:
        inside, bad = (high - low).double(), total[high] - total[low]
        found = _fit(bad, inside) + _fit(f - bad, n - inside) - _fit(torch.tensor(f).double(), torch.tensor(n).double())
        real = (inside > 0) & (inside < n) & (bad * n > f * inside)
        return torch.where(real, found, -1.0)

    edges = torch.linspace(0, n, min(n, _EDGES) + 1).round().long()
    grid = gain(edges[:, None], edges[None, :])
    low, high = (edges[k] for k in divmod(int(grid.argmax()), len(edges)))
    all_of_them = torch.arange(n + 1)
    low = gain(all_of_them, high.expand(n + 1)).argmax()
    high = gain(low.expand(n + 1), all_of_them).argmax()
    # An edge that gains less than two nats is dropped.
    low = low * 0 if gain(low * 0, high) > gain(low, high) - 2 else low
    high = high * 0 + n if gain(low, high * 0 + n) > gain(low, high) - 2 else high
    inside, bad = float(high - low), float(total[high] - total[low])
    start = -math.inf if int(low) == 0 else float(ordered[low - 1] + ordered[low]) / 2
    stop = math.inf if int(high) == n else float(ordered[high - 1] + ordered[high]) / 2
    rates = bad / max(inside, 1.0), (f - bad) / max(n - inside, 1.0)
    return torch.tensor([start, stop, *rates, float(gain(low, high))], dtype=torch.float64)


def worst_value(values: Tensor, failed: Tensor, law: Levels) -> Tensor:
    """Value of a discrete parameter at which most simulations fail, as the interval from 0.5 below it to 0.5 above.

    The result has the form of `worst_interval`.

    Args:
        values: Values of the parameter, (n,), NaN where it does not exist.
        failed: Whether each row failed, bool (n,).
        law: Prior distribution of the parameter.
    """
    has = law.codes(values)[:, None] == torch.arange(len(law.values))
    count, bad = has.double().sum(0), has[failed].double().sum(0)
    n, f = float(len(values)), float(failed.sum())
    gain = _fit(bad, count) + _fit(f - bad, n - count) - _fit(torch.tensor(f).double(), torch.tensor(n).double())
    k = int(torch.where((count > 0) & (bad * n >= f * count), gain, -1.0).argmax())
    value, inside = float(law.values[k]), float(count[k])
    rates = float(bad[k]) / max(inside, 1.0), (f - float(bad[k])) / max(n - inside, 1.0)
    return torch.tensor([value - 0.5, value + 0.5, *rates, float(gain[k])], dtype=torch.float64)


def influence(success: Success, z: Tensor) -> Tensor:
    """Mean change of P(ok) when a parameter is given another row's value, (D,)."""
    ok, changes = success.log_prob(z).exp(), []
    for d in range(z.shape[1]):
        other = z.clone()
        other[:, d] = z[:, d].roll(len(z) // 2)
        changes.append((success.log_prob(other).exp() - ok).abs().mean())
    return torch.stack(changes)


def _fit(bad: Tensor, count: Tensor) -> Tensor:
    """Log likelihood of `bad` failures among `count` at the rate that fits best."""
    rate = bad / count.clamp_min(1e-12)
    return torch.xlogy(bad, rate) + torch.xlogy(count - bad, 1 - rate)
