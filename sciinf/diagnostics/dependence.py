r"""Whether failing depends on the parameters, and on which: a test, and where most fails.

**The test.** Under independence theta of the failed rows is a random choice among all. Three things are asked: of each
parameter, whether the ranks of the failed rows are uniform (Kolmogorov-Smirnov); of all together, whether a classifier
fitted to the even rows (`diagnostics.success`, quadratic) ranks the failed among the odd rows higher (Mann-Whitney).
The p-value is the smallest of the D + 1, times D + 1. Below 0.01 failing depends on theta: a false alarm in at
most one of a hundred simulators whose failures do not.

**Where.** For every parameter, the interval for which two failure rates, inside and outside, gain most likelihood over
one (Kulldorff's scan statistic). Where no parameter alone explains half of what the classifier does, those are
named whose permutation changes P(ok | theta) most.

References:
    | Revisiting classifier two-sample tests (Lopez-Paz & Oquab, 2017), https://arxiv.org/abs/1610.06545
    | A spatial scan statistic (Kulldorff, 1997)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinf.core.levels import Levels
from sciinf.diagnostics.success import Success, fitted

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
    """The interval of one parameter where most fails.

    Args:
        values: The parameter, (n,).
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
    # Two nats are not worth an edge of their own.
    low = low * 0 if gain(low * 0, high) > gain(low, high) - 2 else low
    high = high * 0 + n if gain(low, high * 0 + n) > gain(low, high) - 2 else high
    inside, bad = float(high - low), float(total[high] - total[low])
    start = -math.inf if int(low) == 0 else float(ordered[low - 1] + ordered[low]) / 2
    stop = math.inf if int(high) == n else float(ordered[high - 1] + ordered[high]) / 2
    rates = bad / max(inside, 1.0), (f - bad) / max(n - inside, 1.0)
    return torch.tensor([start, stop, *rates, float(gain(low, high))], dtype=torch.float64)


def worst_value(values: Tensor, failed: Tensor, law: Levels) -> Tensor:
    """The value of a discrete parameter at which most fails, as the interval from half below it to half above.

    It is told as `worst_interval` tells one.

    Args:
        values: The parameter, (n,), NaN where it does not exist.
        failed: Whether each row failed, bool (n,).
        law: Of the parameter.
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
