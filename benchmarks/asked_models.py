"""Six models without a likelihood for the network, and their posteriors from it, as references.

Each is a `Simulator` with `log_likelihood(theta, x)`, which nothing but `reference` asks. References are of importance
sampling from a mixture of Student-t laws, fitted in a few rounds in the unbounded parameters.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Observable, Prior, Simulator
from sciinf.core.observable import X


class Asked(Simulator):
    """A simulator whose likelihood is known, float64."""

    @abstractmethod
    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X: ...

    @abstractmethod
    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """Of parameters (n, D) given one observation (*event), (n,)."""


def randn(like: Tensor, *shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, a row for each of `like`."""
    return torch.randn(len(like), *shape, generator=generator, device=like.device, dtype=like.dtype)


class Points(Asked):
    """Twenty normal points with unknown mean and sd."""

    name = "points"
    prior = Prior(mu=td.Normal(0.0, 3.0), sigma=td.LogNormal(0.0, 1.0))
    observables = {"x": Observable((20,), dims=("item",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return {"x": theta[:, :1] + theta[:, 1:] * randn(theta, 20, generator=generator)}

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        return td.Normal(theta[:, :1], theta[:, 1:]).log_prob(x).sum(1)


class Autoregression(Asked):
    """AR(2) of a hundred points, by its partial autocorrelations and its noise."""

    name = "ar2"
    prior = Prior(phi_1=td.Uniform(-1.0, 1.0), phi_2=td.Uniform(-1.0, 1.0), sigma=td.LogNormal(0.0, 0.7))
    observables = {"x": Observable((100,), dims=("time",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        first, second = theta[:, 0] * (1 - theta[:, 1]), theta[:, 1]
        noise = theta[:, 2:] * randn(theta, 150, generator=generator)
        x = [noise[:, 0], noise[:, 1]]
        for t in range(2, 150):
            x.append(first * x[-1] + second * x[-2] + noise[:, t])
        return {"x": torch.stack(x[50:], dim=1)}

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        r1, r2, sigma = theta.T
        variance = sigma.square() / ((1 - r2.square()) * (1 - r1.square()))
        start = td.Normal(0.0, variance.sqrt()).log_prob(x[0])
        start = start + td.Normal(r1 * x[0], (variance * (1 - r1.square())).sqrt()).log_prob(x[1])
        mean = (r1 * (1 - r2))[:, None] * x[1:-1] + r2[:, None] * x[:-2]
        return start + td.Normal(mean, sigma[:, None]).log_prob(x[2:]).sum(1)


class Ricker(Asked):
    """Counts of a population that lives by the Ricker map, without noise in its growth."""

    name = "ricker"
    prior = Prior(log_r=td.Uniform(1.0, 3.5), phi=td.LogNormal(math.log(10.0), 0.4))
    observables = {"x": Observable((20,), dims=("time",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return {"x": torch.poisson(self._rate(theta), generator=generator)}

    def _rate(self, theta: Tensor) -> Tensor:
        size, found = torch.ones_like(theta[:, 0]), []
        for _ in range(20):
            size = (theta[:, 0] + size.log() - size).exp()
            found.append(theta[:, 1] * size)
        return torch.stack(found, dim=1)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        return td.Poisson(self._rate(theta).clamp_min(1e-30)).log_prob(x).sum(1)


_DESIGN = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))


class Logistic(Asked):
    """Logistic regression of fifty rows with four coefficients."""

    name = "logistic"
    prior = Prior(**{f"b{i}": td.Normal(0.0, 2.0) for i in range(4)})
    observables = {"x": Observable((50,), dims=("channel",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        logit = theta[:, :1] + theta[:, 1:] @ _DESIGN.to(theta).T
        chance = torch.rand(logit.shape, generator=generator, dtype=theta.dtype, device=theta.device)
        return {"x": (chance < logit.sigmoid()).float()}

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        logit = theta[:, :1] + theta[:, 1:] @ _DESIGN.to(theta).T
        return (x * logit - torch.nn.functional.softplus(logit)).sum(1)


class Groups(Asked):
    """A regression in eight groups of five rows, with half-Cauchy scales of groups and of noise."""

    name = "groups"
    prior = Prior(a=td.Normal(0.0, 5.0), b=td.Normal(0.0, 5.0), between=td.HalfCauchy(1.0), within=td.HalfCauchy(1.0))
    observables = {"x": Observable((8, 5), dims=("item", "channel"))}
    _at = torch.linspace(-1.0, 1.0, 5)

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        line = theta[:, :1] + theta[:, 1:2] * self._at.to(theta)
        groups = theta[:, 2, None, None] * randn(theta, 8, 1, generator=generator)
        noise = theta[:, 3, None, None] * randn(theta, 8, 5, generator=generator)
        return {"x": line[:, None] + groups + noise}

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        left = x - (theta[:, :1] + theta[:, 1:2] * self._at.to(theta))[:, None]
        middle = left.mean(2)
        within, whole = theta[:, 3], (theta[:, 2].square() + theta[:, 3].square() / 5).sqrt()
        found = td.Normal(0.0, whole[:, None]).log_prob(middle).sum(1)
        around = (left - middle[..., None]).square().sum((1, 2))
        return found - 8 * 4 * within.log() - 0.5 * around / within.square()


_TIMES = (torch.rand(40, generator=torch.Generator().manual_seed(1)) * 100).sort().values


class Sinusoids(Asked):
    """Two sinusoids of known period at forty irregular times, with an offset and jitter, as of two planets."""

    name = "sinusoids"
    prior = Prior(
        **{name: td.Normal(0.0, 10.0) for name in ("c1", "s1", "c2", "s2", "offset")},
        jitter=td.LogNormal(0.0, 1.0),
    )
    observables = {"x": Observable((40,), dims=("time",))}
    _turns = torch.stack(
        [f(2 * math.pi * _TIMES / period) for period in (17.3, 41.7) for f in (torch.cos, torch.sin)] + [torch.ones(40)]
    )

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        sd = (theta[:, 5:].square() + 1).sqrt()
        return {"x": theta[:, :5] @ self._turns.to(theta) + sd * randn(theta, 40, generator=generator)}

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        sd = (theta[:, 5:].square() + 1).sqrt()
        return td.Normal(theta[:, :5] @ self._turns.to(theta), sd).log_prob(x).sum(1)


MODELS: dict[str, type[Asked]] = {
    kind.name: kind for kind in (Points, Autoregression, Ricker, Logistic, Groups, Sinusoids)
}


@dataclass(frozen=True)
class Reference:
    """Mean and sd of each parameter, (D,), and the effective sample size behind them."""

    mean: Tensor
    sd: Tensor
    ess: float


def ricker_on_a_grid(x: Tensor) -> Reference:
    """The posterior of the map: its likelihood in log_r is too rough for draws where the map is chaotic."""
    model, lattice = Ricker(), torch.linspace(1.0, 3.5, 2_000_001, dtype=torch.float64)
    rate = torch.cat([model._rate(torch.stack([r, torch.ones_like(r)], dim=1)) for r in lattice.split(200_000)])
    # sum x log(phi N) - phi N: two sums of an orbit are enough, and tell the best phi
    heard, total = (x * rate.clamp_min(1e-30).log()).sum(1), rate.sum(1)
    best = heard - x.sum() * total.log()
    near = best > best.max() - 40
    sizes = torch.linspace(-4.0, 4.0, 161, dtype=torch.float64)
    phi, logs, sums = (math.log(10.0) + 0.4 * sizes).exp(), [], []
    for log_r, a, b in zip(*(v[near].split(100_000) for v in (lattice, heard, total)), strict=True):
        log = a[:, None] + x.sum() * phi.log() - b[:, None] * phi - 0.5 * sizes.square()
        share = log.softmax(1)
        logs.append(log.logsumexp(1))
        sums.append(torch.stack([log_r, log_r.square(), share @ phi, share @ phi.square()], dim=1))
    weight = torch.cat(logs).softmax(0)
    first, second = (weight @ torch.cat(sums)).reshape(2, 2).T
    return Reference(first, (second - first.square()).sqrt(), 1 / float(weight.square().sum()))


def reference(model: Asked, x: Tensor, *, draws: int = 200_000, rounds: int = 12) -> Reference:
    """The posterior of one observation (*event), from the likelihood."""
    if isinstance(model, Ricker):
        return ricker_on_a_grid(x.double())
    generator, prior, x = torch.Generator().manual_seed(0), model.prior, x.double()
    bijection = prior.bijection
    z = bijection.forward(prior.sample(draws, generator=generator).double())
    log_r = torch.zeros(len(z), dtype=torch.float64)
    log_r = td.Normal(0.0, 1.0).log_prob(z).sum(1) if bijection.normal else log_r
    for step in range(rounds + 1):
        theta = bijection.inverse(z)
        prior_z = td.Normal(0.0, 1.0).log_prob(z).sum(1)
        log_w = (model.log_likelihood(theta, x) + prior_z - log_r).nan_to_num(nan=-math.inf, neginf=-math.inf)
        if step == rounds:
            break
        # a tempered law while few draws carry the weight, so that the next does not collapse onto one of them
        power = 1.0
        while power > 1e-6 and _ess(power * log_w) < 2_000:
            power *= 0.7
        weight = (power * log_w).softmax(0)
        centres = z[torch.multinomial(weight, 40, replacement=True, generator=generator)]
        mean = weight @ z
        cov = ((z - mean) * weight[:, None]).T @ (z - mean) + 1e-12 * torch.eye(z.shape[1], dtype=z.dtype)
        z, log_r = _mixture(mean, cov, centres, draws, generator)
    weight = log_w.softmax(0)
    mean = weight @ theta
    return Reference(mean, (weight @ (theta - mean).square()).sqrt(), _ess(log_w))


def _ess(log_w: Tensor) -> float:
    return float((2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp())


def _mixture(mean: Tensor, cov: Tensor, centres: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n draws of 3/4 a Student-t law of 5 degrees and 1/4 smaller ones about draws; their log density."""
    size, degrees = len(mean), 5.0
    factor = torch.linalg.cholesky(cov)
    which = torch.randint(4 * len(centres), (n,), generator=generator)
    local = which < len(centres)
    at = torch.where(local[:, None], centres[which % len(centres)], mean)
    scale = torch.where(local, 0.4, 1.2)[:, None]
    chi = torch._standard_gamma(torch.full((n, 1), degrees / 2, dtype=torch.float64), generator) * 2 / degrees
    z = at + scale * (torch.randn(n, size, generator=generator, dtype=torch.float64) @ factor.T) / chi.sqrt()
    law = math.lgamma((degrees + size) / 2) - math.lgamma(degrees / 2) - size / 2 * math.log(degrees * math.pi)

    def log_t(centre: Tensor, width: float) -> Tensor:
        u = torch.linalg.solve_triangular(factor, (z - centre).T, upper=False) / width
        spread = factor.diagonal().log().sum() + size * math.log(width)
        return law - spread - (degrees + size) / 2 * (u.square().sum(0) / degrees).log1p()

    parts = [log_t(mean, 1.2) + math.log(0.75)]
    parts += [log_t(centre, 0.4) + math.log(0.25 / len(centres)) for centre in centres]
    return z, torch.stack(parts).logsumexp(0)
