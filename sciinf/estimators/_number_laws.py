"""Logarithms of probabilities that numbers have in `elements`: of intervals, of all beyond a limit, of counts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus
from torch.special import log_ndtr

_FAR = 100.0  # sds


def between(below: Tensor, width: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """log of the logistic law's probability of an interval, which may be open at either end."""
    low, width = below.clamp(-1e4, 1e4), width.clamp(1e-30, 2e4)
    # log(e^w - 1), with no overflow for wide intervals
    inner = width + torch.log(-torch.expm1(-width)) + low - softplus(low) - softplus(low + width)
    inner = torch.where(lowest, logsigmoid(low + width), inner)
    return torch.where(highest, torch.where(lowest, 0.0, logsigmoid(-low)), inner)


def beyond(v: Tensor, lowest: Tensor) -> Tensor:
    """log of the normal law's probability below v where that is the lowest value, else above."""
    return log_ndtr(torch.where(lowest.bool(), v, -v).clamp_min(-_FAR))  # beyond, its slopes are wrong


def counted(y: Tensor, log_mean: Tensor, log_spread: Tensor) -> Tensor:
    """log of the negative binomial probability of n = exp(y) - 1/2, of variance mean + (spread mean)^2; float64."""
    n, log_mean = (y.double().exp() - 0.5).round(), log_mean.double().clamp(-30.0, 30.0)
    log_r = -2 * log_spread.double().clamp(-10.0, 4.0)
    r, both = log_r.exp(), torch.logaddexp(log_r, log_mean)
    ways = torch.lgamma(n + r) - torch.lgamma(r) - torch.lgamma(n + 1)
    return (ways + r * (log_r - both) + n * (log_mean - both)).to(y.dtype)
