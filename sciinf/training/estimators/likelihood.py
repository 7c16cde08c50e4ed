r"""Neural likelihood estimation: a conditional flow of the data given the parameters.

For draws (theta, x) of prior (or of any other distribution of theta) and simulator, the flow q minimises

    E_{p(theta, x)} [ -log q(y(x) | z(theta)) ],

whose minimum over all densities is the likelihood, at every simulated theta and for any distribution of theta. y are
all numbers of x side by side, standardised element by element. z: support -> R^D is the prior's bijection, standardised
as well. In the data's own units

    log p(x | theta) = log q(y(x) | z(theta)) + sum_e log |dy_e / dx_e|.

Whole numbers are spread over intervals (`_numbers`). Shapes: theta, z (batch, D); y (batch, E).

References:
    | Sequential neural likelihood: fast likelihood-free inference with autoregressive flows (Papamakarios, Sterratt &
      Murray, 2019), https://arxiv.org/abs/1805.07226
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Observable, Potential, Prior, X
from sciinf.core.prior import global_seed
from sciinf.networks.flows.conditional import Architecture
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.networks.flows.spline_autoregressive import SplineAutoregressive
from sciinf.training.estimators._numbers import count, flat, flat_with_slopes, middle, spread
from sciinf.training.estimators._standardised import Standardised, check_part, check_rows
from sciinf.training.memory import retain_freed

MOST = 2_000  # Largest number of numbers in an observation.
# The default flow is autoregressive up to the first number of data, and begins with a Gaussian up to the second.
_FEW, _SOME = 64, 256


class Likelihood(Standardised):
    """The likelihood p(x | theta) itself, normalised in x. `posteriors.mcmc` samples its posterior.

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator: complete data of at most 2,000 numbers, none of them bool.
        flow: Architecture of the flow. Default: the autoregressive splines of `networks.flows.spline_autoregressive`
            for observations of up to 64 numbers, and the couplings of `networks.flows.spline` for more.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If `flow` has the wrong type, for example a class or a name instead of an object.
        ValueError: If an observable has a mask or is bool, an observation has more than 2,000 numbers, or the seed is
            no int of at least 0.

    Examples:
        >>> from sciinf import Normal
        >>> likelihood = Likelihood(Prior(mu=Normal(0.0, 1.0)), {"x": Observable((3,))})
        >>> likelihood.condition({"x": torch.zeros(2, 3)}).log_likelihood(torch.zeros(5, 2, 1)).shape
        torch.Size([5, 2])
    """

    normalised: ClassVar[bool] = False

    def __init__(
        self, prior: Prior, observables: Mapping[str, Observable], *, flow: Architecture | None = None, seed: int = 0
    ) -> None:
        numbers = count(observables, MOST, "Likelihood")
        super().__init__(prior, observables, seed)
        check_part("flow", flow, Architecture, "SplineAutoregressive()")
        with global_seed(torch.Generator().manual_seed(seed)):
            self.flow = (flow or _flow_for(numbers)).build(numbers, prior.bijection.size)

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.standardise_both(lambda: (Batch(batch.theta, middle(batch.x)) for batch in batches()))

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        """y, which leaves out nothing of the data."""
        return flat(self.standardise_x, middle(x))

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        y = flat(self.standardise_x, spread(batch.x, generator))
        return self.flow.loss(y, self.to_z(batch.theta), generator=generator)

    def condition(self, x: X) -> Potential:
        retain_freed()
        device = self.z_mean.device
        values = middle({name: x[name].to(device) for name in self.observables})
        y, log_slopes = flat_with_slopes(self.standardise_x, values)
        return _LikelihoodPotential(self, y, log_slopes.sum(-1))


class _LikelihoodPotential(Potential):
    """The flow's density of a batch of observations, y (batch, E), with sum log |dy / dx| (batch,)."""

    def __init__(self, estimator: Likelihood, y: Tensor, log_slope: Tensor) -> None:
        self.estimator, self.y, self.log_slope = estimator, y, log_slope

    def log_likelihood(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """log p(x | theta) in the data's own units, float64. It is normalised, so no constant is left open.

        An entry of scale "log" below the smallest training value counts as if it lay at that value.
        """
        likelihood = self.estimator
        check_rows(theta, len(self.y), likelihood.prior)
        z = likelihood.to_z(theta.to(self.y.device)).reshape(-1, likelihood.prior.bijection.size)
        y = self.y.expand(*theta.shape[:-1], -1).reshape(1, len(z), -1)
        return likelihood.flow.log_prob(y, z).double().reshape(theta.shape[:-1]) + self.log_slope


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Likelihood:
    """Likelihood estimator with its default settings."""
    return Likelihood(prior, observables, seed=seed)


def _flow_for(numbers: int) -> Architecture:
    return SplineAutoregressive() if numbers <= _FEW else SplineCoupling(gaussian=numbers <= _SOME)
