r"""Neural likelihood estimation: a conditional flow of the data given the parameters.

For draws (theta, x) of prior (or of any other law of theta) and simulator, the flow q minimises

    E_{p(theta, x)} [ -log q(y(x) | z(theta)) ],

whose minimum over all densities is the likelihood, at every theta that was simulated from and whatever law theta came
from. y are all numbers of x side by side, standardised element by element, and z: support -> R^D is the prior's
bijection, standardised as well. In the data's own units

    log p(x | theta) = log q(y(x) | z(theta)) + sum_e log |dy_e / dx_e|.

Whole numbers k are spread over the interval [k + 1/2, k + 3/2], by uniform noise drawn anew at each training step; the
flow then learns a density whose integral over the interval is the probability of k, and that is read off at its middle,
with an error of second order in how much the density bends within it. (No number lies below half the smallest, so
that logarithms of counts are finite.) Shapes: theta, z (batch, D); y (batch, E).

References:
    | Sequential neural likelihood: fast likelihood-free inference with autoregressive flows (Papamakarios, Sterratt &
      Murray, 2019), https://arxiv.org/abs/1805.07226
    | A note on the evaluation of generative models (Theis, van den Oord & Bethge, 2016), section 3.1,
      https://arxiv.org/abs/1511.01844
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Estimator, Observable, Potential, Prior, X
from sciinf.core.checks import check_whole
from sciinf.core.memory import retain_freed
from sciinf.core.prior import global_seed
from sciinf.estimators._embedded import check_part, check_rows, z_moments
from sciinf.flows.conditional import Architecture
from sciinf.flows.spline import SplineCoupling
from sciinf.flows.spline_autoregressive import SplineAutoregressive
from sciinf.summaries.standardise import Standardise

MOST = 2_000  # numbers in an observation
_FEW, _SOME = 64, 256  # up to which the default flow is autoregressive, and begins with a conditional Gaussian


class Likelihood(Estimator):
    """The likelihood p(x | theta) itself, normalised in x, whose posterior `inference.mcmc` samples.

    Args:
        prior: The prior.
        observables: What the simulator produces; complete data of at most 2,000 numbers, none of them bool.
        flow: The flow's architecture; left out, the autoregressive splines of `flows.spline_autoregressive` for
            observations of up to 64 numbers, and for more the couplings of `flows.spline`.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If `flow` is something else: the class or the name of one, say.
        ValueError: If an observable has a mask or is bool, an observation has more than 2,000 numbers, or the seed is
            no int of at least 0.

    Example:
        >>> from torch.distributions import Normal
        >>> likelihood = Likelihood(Prior(mu=Normal(0.0, 1.0)), {"x": Observable((3,))})
        >>> likelihood.condition({"x": torch.zeros(2, 3)}).log_likelihood(torch.zeros(5, 2, 1)).shape
        torch.Size([5, 2])
    """

    normalised: ClassVar[bool] = False
    z_mean: Tensor
    z_sd: Tensor

    def __init__(
        self, prior: Prior, observables: Mapping[str, Observable], *, flow: Architecture | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.prior, self.observables = prior, dict(observables)
        numbers = _numbers(self.observables)
        check_part("flow", flow, Architecture, "SplineAutoregressive()")
        check_whole("seed", seed, 0)
        self.standardise_x = Standardise(self.observables)
        with global_seed(torch.Generator().manual_seed(seed)):
            self.flow = (flow or _flow_for(numbers)).build(numbers, len(prior))
        self.register_buffer("z_mean", torch.zeros(len(prior)))
        self.register_buffer("z_sd", torch.ones(len(prior)))

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.standardise_x.fit(lambda: (Batch(batch.theta, self._middle(batch.x)) for batch in batches()))
        mean, sd = z_moments(self.prior, batches)
        self.z_mean.copy_(mean)
        self.z_sd.copy_(sd)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        """y: nothing of the data is left out."""
        return self._flat(self._middle(x))

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        values = {}
        for name in self.observables:
            value = batch.x[name]
            if not value.is_floating_point():
                value = value + 0.5 + torch.rand(value.shape, generator=generator, device=value.device)
            values[name] = value
        return self.flow.loss(self._flat(values), self._enter(batch.theta), generator=generator)

    def condition(self, x: X) -> Potential:
        retain_freed()
        device = self.z_mean.device
        values = self._middle({name: x[name].to(device) for name in self.observables})
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
            y = self._flat(leaves)
            slopes = torch.autograd.grad(y.sum(), list(leaves.values()))
        log_slopes = [torch.where(slope > 0, slope, 1.0).double().log().reshape(len(y), -1).sum(1) for slope in slopes]
        return _LikelihoodPotential(self, y.detach(), torch.stack(log_slopes).sum(0))

    def _middle(self, x: X) -> dict[str, Tensor]:
        """x with whole numbers moved to the middle of their intervals."""
        return {name: v if v.is_floating_point() else v.double() + 1.0 for name, v in x.items()}

    def _flat(self, x: X) -> Tensor:
        return torch.cat([value.reshape(len(value), -1) for value in self.standardise_x(x).values()], dim=-1)

    def _enter(self, theta: Tensor) -> Tensor:
        """Standardised z, float32."""
        return ((self.prior.bijection.forward(theta) - self.z_mean) / self.z_sd).float()


class _LikelihoodPotential(Potential):
    """The flow's density of a batch of observations, y (batch, E), with sum log |dy / dx| (batch,)."""

    def __init__(self, estimator: Likelihood, y: Tensor, log_slope: Tensor) -> None:
        self.estimator, self.y, self.log_slope = estimator, y, log_slope

    def log_likelihood(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """log p(x | theta) in the data's own units, float64: normalised, so that no constant is left open.

        An entry of scale "log" below what was seen while training counts as if it lay at that floor.
        """
        likelihood = self.estimator
        check_rows(theta, len(self.y), likelihood.prior)
        z = likelihood._enter(theta.to(self.y.device)).reshape(-1, len(likelihood.prior))
        y = self.y.expand(*theta.shape[:-1], -1).reshape(1, len(z), -1)
        return likelihood.flow.log_prob(y, z).double().reshape(theta.shape[:-1]) + self.log_slope


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Likelihood:
    """The estimator with its defaults."""
    return Likelihood(prior, observables, seed=seed)


def _flow_for(numbers: int) -> Architecture:
    return SplineAutoregressive() if numbers <= _FEW else SplineCoupling(gaussian=numbers <= _SOME)


def _numbers(observables: Mapping[str, Observable]) -> int:
    """Numbers in an observation.

    Raises:
        ValueError: If they cannot be given a density.
    """
    instead = "use Ratio or Flow, whose summary networks read {}, or have the simulator return summary statistics"
    for name, spec in observables.items():
        if spec.dtype == "bool":
            masked = name.endswith("_mask") and name.removesuffix("_mask") in observables
            what = f"{name!r} marks missing values" if masked else f"the observable {name!r} is bool"
            raise ValueError(
                f"{what}, and Likelihood learns a density of numbers that are all there; "
                + instead.format("masks" if masked else "them")
            )
    numbers = sum(math.prod(spec.shape) for spec in observables.values())
    if numbers > MOST:
        raise ValueError(
            f"an observation has {numbers:,} numbers, and Likelihood learns a density of at most {MOST:,}; "
            + instead.format("as many as there are")
        )
    return numbers
