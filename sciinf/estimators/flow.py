r"""Amortized neural posterior estimation with a conditional normalizing flow.

For draws (theta, x) of prior and simulator, the flow q minimises

    E_{p(theta, x)} [ -log q(z(theta) | s(x)) ],

whose minimum over all densities is the posterior for every x at once. z: support -> R^D is the prior's bijection,
s a summary network trained jointly. In the parameters' own units

    log q(theta | x) = log q(z | s(x)) + log |det dz / dtheta|,

so no mass lies outside the prior. Shapes: theta, z (batch, D); s(x) (batch, F).

References:
    | Fast epsilon-free inference of simulation models with Bayesian conditional density estimation
      (Papamakarios & Murray, 2016), https://arxiv.org/abs/1605.06376
    | Automatic posterior transformation for likelihood-free inference (Greenberg et al., 2019),
      https://arxiv.org/abs/1905.07488
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core import Batch, Density, Estimator, Observable, Prior, X
from sciinf.core.checks import check_whole
from sciinf.core.memory import retain_freed
from sciinf.core.prior import global_seed
from sciinf.flows.conditional import Architecture
from sciinf.flows.spline import SplineCoupling
from sciinf.summaries.choice import choose
from sciinf.summaries.standardise import Standardise
from sciinf.summaries.summary import Summary

CHUNK = {"cpu": 5_000, "cuda": 1_048_576}  # (theta, x) pairs at once when nothing is differentiated


class Flow(Estimator):
    """Amortized posterior estimation with a conditional flow.

    Args:
        prior: The prior.
        observables: What the simulator produces.
        summary: One summary network for every observable, or one per name; chosen from the observables'
            specification where left out.
        flow: The flow's architecture; the neural spline flow of `flows.spline` where left out.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If `summary` or `flow` is something else: the class or the name of one, say.
        ValueError: If a summary is for no observable, or the seed is no int of at least 0.

    Example:
        >>> from torch.distributions import Normal
        >>> flow = Flow(Prior(mu=Normal(0.0, 1.0)), {"x": Observable((3,))})
        >>> flow.condition({"x": torch.zeros(2, 3)}).sample(5, generator=torch.Generator()).shape
        torch.Size([5, 2, 1])
    """

    z_mean: Tensor
    z_sd: Tensor

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        summary: Summary | Mapping[str, Summary] | None = None,
        flow: Architecture | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.prior, self.observables = prior, dict(observables)
        masks = {f"{name}_mask" for name in self.observables} & set(self.observables)
        self.data_names = tuple(name for name in self.observables if name not in masks)
        given = summary if isinstance(summary, Mapping) else dict.fromkeys(self.data_names, summary)
        _check_parts(given, flow, seed)
        if set(given) - set(self.data_names):
            raise ValueError(f"summaries for {sorted(given)}, but the observables are {list(self.data_names)}")
        self.standardise_x = Standardise(self.observables)
        with global_seed(torch.Generator().manual_seed(seed)):
            networks = []
            for name in self.data_names:
                spec, masked = self.observables[name], f"{name}_mask" in masks
                networks.append((given.get(name) or choose(spec, masked)).build(spec, masked=masked))
            self.summaries = nn.ModuleList(networks)
            width = sum(network.features for network in networks)
            self.flow = (flow or SplineCoupling()).build(len(prior), width)
        self.register_buffer("z_mean", torch.zeros(len(prior)))
        self.register_buffer("z_sd", torch.ones(len(prior)))

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.standardise_x.fit(batches)
        count, total, squares = 0, torch.zeros(len(self.prior)).double(), torch.zeros(len(self.prior)).double()
        for batch in batches():
            z = self.prior.bijection.forward(batch.theta.cpu()).double()
            count, total, squares = count + len(z), total + z.sum(0), squares + (z**2).sum(0)
        mean = total / count
        variance = (squares / count - mean**2).clamp_min(1e-12)
        self.z_mean.copy_(mean)
        self.z_sd.copy_(variance.sqrt())

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        values = self.standardise_x(x)
        parts = [
            network(values[name], x.get(f"{name}_mask"))
            for name, network in zip(self.data_names, self.summaries, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        z = (self.prior.bijection.forward(batch.theta) - self.z_mean) / self.z_sd
        return self.flow.loss(z, self.features(batch.x), generator=generator)

    def condition(self, x: X) -> Density:
        retain_freed()
        with torch.no_grad():
            device = self.z_mean.device
            return _FlowDensity(self, self.features({name: value.to(device) for name, value in x.items()}))


class _FlowDensity(Density):
    """The flow's density of theta given a batch of embedded observations, (batch, F)."""

    def __init__(self, estimator: Flow, context: Tensor) -> None:
        self.estimator, self.context = estimator, context
        self._rows = max(1, CHUNK.get(context.device.type, CHUNK["cpu"]) // max(1, len(context)))

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        flow = self.estimator
        shape = (len(self.context), len(flow.prior))
        parts = []
        for start in range(0, n, self._rows):
            size = min(self._rows, n - start)
            noise = torch.randn(size, *shape, generator=generator, device=generator.device).to(self.context.device)
            z = flow.flow.push(noise, self.context) * flow.z_sd + flow.z_mean
            parts.append(flow.prior.bijection.inverse(z))
        return torch.cat(parts) if parts else torch.empty(0, *shape, device=self.context.device)

    @torch.no_grad()
    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        rows = (len(self.context), len(self.estimator.prior))
        if theta.ndim < 2 or tuple(theta.shape[-2:]) != rows:
            raise ValueError(
                f"theta has shape {tuple(theta.shape)}, expected (..., {rows[0]}, {rows[1]}): one row of "
                f"{self.estimator.prior.names} for each of the {rows[0]} observations"
            )
        flat = theta.to(self.context.device).reshape(-1, *rows)
        parts = [self._log_prob(flat[start : start + self._rows]) for start in range(0, len(flat), self._rows)]
        empty = torch.empty(0, rows[0], dtype=torch.float64, device=self.context.device)
        return torch.cat([empty, *parts]).reshape(theta.shape[:-1])

    def _log_prob(self, theta: Tensor) -> Tensor:
        flow = self.estimator
        inside = torch.isfinite(flow.prior.log_prob(theta))
        centre = flow.prior.bijection.inverse(torch.zeros_like(theta[:1, :1]))
        safe = torch.where(inside[..., None], theta, centre)
        z = (flow.prior.bijection.forward(safe) - flow.z_mean) / flow.z_sd
        log_q = flow.flow.log_prob(z.to(self.context.dtype), self.context).double() - flow.z_sd.double().log().sum()
        return torch.where(inside, log_q + flow.prior.bijection.log_abs_det_jacobian(safe), -math.inf)


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Flow:
    """The estimator with its defaults."""
    return Flow(prior, observables, seed=seed)


def _check_parts(summaries: Mapping[str, object], flow: object, seed: object) -> None:
    parts = [(f"summary of {name!r}", value, Summary, "MLP()") for name, value in summaries.items()]
    for what, value, kind, example in [*parts, ("flow", flow, Architecture, "SplineCoupling()")]:
        if value is not None and not isinstance(value, kind):
            got = f"the class {value.__name__}; call it" if isinstance(value, type) else repr(value)
            raise TypeError(f"the {what} must be an object such as {example}, got {got}")
    check_whole("seed", seed, 0)
