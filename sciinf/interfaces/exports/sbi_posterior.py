"""Wraps a sciinf posterior as an sbi posterior, for sbi's diagnostics and plots. Importing this module imports sbi.

In sbi, an observation is one tensor. If the simulator has one observable, x is that observable, (*event) or
(batch, *event), or its values in one row. If the simulator has several observables, x is one row: the flattened values
of each observable, side by side in the simulator's order, as `rows_of` makes it. sbi casts x to float32, so counts
above 2^24 are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from sbi.inference.posteriors.base_posterior import NeuralPosterior
from sbi.inference.potentials.base_potential import BasePotential
from torch import Tensor
from torch.distributions import Transform, constraints

from sciinf.core.bijection import Bijection
from sciinf.core.given import plain_bijection
from sciinf.core.observable import Observable, X, event_of
from sciinf.core.posterior import Posterior


def to_sbi(posterior: Posterior, *, generator: torch.Generator | None = None) -> SbiPosterior:
    """Wrap a posterior as an sbi `NeuralPosterior`.

    Args:
        posterior: Any posterior of sciinf.
        generator: Random generator of the draws. By default, each call makes a generator with a seed from torch's
            global generator. So `torch.manual_seed` and sbi's parallel diagnostics work as with sbi's own posteriors.

    Raises:
        ValueError: If there are discrete parameters.

    Examples:
        >>> ranks, dap = run_sbc(theta, rows_of(simulator.observables, x), to_sbi(posterior))  # doctest: +SKIP
    """
    return SbiPosterior(posterior, generator)


def rows_of(observables: Mapping[str, Observable], x: X) -> Tensor:
    """Convert a batch of observations, name -> (batch, *event), to sbi's form: float32 (batch, values)."""
    return torch.cat([x[name].to(torch.float32).reshape(len(x[name]), -1) for name in observables], dim=1)


def observations_of(observables: Mapping[str, Observable], rows: Tensor) -> dict[str, Tensor]:
    """Convert observations from sbi's form to name -> (batch, *event).

    Args:
        observables: The simulator's observables.
        rows: Observations in sbi's form: (values,), (batch, values), or, with one observable, (*event) or
            (batch, *event).

    Raises:
        ValueError: If `rows` has another shape.
    """
    widths = [math.prod(spec.shape) for spec in observables.values()]
    only = next(iter(observables.values())).shape if len(observables) == 1 else None
    known = [(sum(widths),), *([only] if only is not None else [])]
    fits = any(tuple(rows.shape[rows.ndim - len(s) :]) == s and rows.ndim - len(s) in (0, 1) for s in known)
    if not fits:
        raise ValueError(
            f"x has shape {tuple(rows.shape)}; expected (batch, {sum(widths)}): {event_of(observables)}, flattened and "
            "side by side, as `rows_of` makes it"
        )
    parts = rows.reshape(-1, sum(widths)).split(widths, dim=1)
    return {
        name: part.reshape(-1, *spec.shape).to(spec.torch_dtype)
        for part, (name, spec) in zip(parts, observables.items(), strict=True)
    }


class PosteriorPotential(BasePotential):
    """Potential for sbi: the normalised log density log p(theta | x_o)."""

    def __init__(self, posterior: Posterior) -> None:
        self.posterior = posterior
        BasePotential.__init__(self, prior=None, x_o=None, device="cpu")

    def __call__(self, theta: Tensor, track_gradients: bool = True) -> Tensor:
        """Log density of theta (batch, D) given one observation: (batch,)."""
        x = observations_of(self.posterior.observables, self.x_o)
        _refuse_trials(x)
        with torch.set_grad_enabled(track_gradients):
            out = self.posterior.log_prob_batched(theta[:, None], x)[:, 0]
        if track_gradients and theta.requires_grad and not out.requires_grad:
            raise NotImplementedError(
                f"{self.posterior.name!r} gives no gradients of its log density, which `map()` and the sensitivity "
                "analysis need; take the draw with the largest `log_prob` for the mode"
            )
        return out


class UnboundedTransform(Transform):
    """The prior's bijection theta -> z in R^D as sbi's `theta_transform`; sbi's `map()` maximises over z."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, bijection: Bijection) -> None:
        Transform.__init__(self)
        self.bijection = bijection

    def _call(self, x: Tensor) -> Tensor:
        return self.bijection.forward(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.bijection.inverse(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |det dz/dtheta| at theta = x."""
        return self.bijection.log_abs_det_jacobian(x)


class SbiPosterior(NeuralPosterior):
    """A sciinf posterior as an sbi posterior, made by `to_sbi`.

    `log_prob` and `potential` return the normalised log density.
    """

    def __init__(self, posterior: Posterior, generator: torch.Generator | None) -> None:
        transform = UnboundedTransform(plain_bijection(posterior.prior, "a posterior of sbi"))
        NeuralPosterior.__init__(self, PosteriorPotential(posterior), theta_transform=transform)
        self.posterior = posterior
        self.generator = generator
        self._purpose = f"It draws from {posterior.name!r} of sciinf."

    def set_default_x(self, x: Any) -> SbiPosterior:
        """Set the observation for later calls without `x`."""
        _refuse_units(x)
        NeuralPosterior.set_default_x(self, x)
        return self

    def sample(
        self,
        sample_shape: Any = torch.Size(),  # noqa: B008
        x: Tensor | None = None,
        show_progress_bars: bool = True,
        **kwargs: Any,
    ) -> Tensor:
        """Draw samples for one observation, (*sample_shape, D). Further keywords, such as sbi's own, are refused."""
        _refuse_keywords(kwargs)
        _refuse_units(x)
        values = observations_of(self.posterior.observables, self._x_else_default_x(x))
        _refuse_trials(values)
        return self.posterior.sample(tuple(sample_shape), values, generator=self._source())

    def sample_batched(self, sample_shape: Any, x: Tensor, show_progress_bars: bool = True, **kwargs: Any) -> Tensor:
        """Draw samples for a batch of observations, (*sample_shape, batch, D)."""
        _refuse_keywords(kwargs)
        _refuse_units(x)
        values = observations_of(self.posterior.observables, torch.as_tensor(x))
        return self.posterior.sample_batched(tuple(sample_shape), values, generator=self._source())

    def log_prob(self, theta: Tensor, x: Tensor | None = None, track_gradients: bool = False) -> Tensor:
        """Log density of theta (*batch, D) given one observation: (*batch,), or (1,) for one theta (D,)."""
        _refuse_units(theta, x)
        return self.potential(theta, x, track_gradients=track_gradients)

    def log_prob_batched(self, theta: Tensor, x: Tensor, track_gradients: bool = False) -> Tensor:
        """Log density of theta (n, batch, D) given each of a batch of observations: (n, batch)."""
        _refuse_units(theta, x)
        values = observations_of(self.posterior.observables, torch.as_tensor(x))
        theta = torch.as_tensor(theta)
        with torch.set_grad_enabled(track_gradients):
            return self.posterior.log_prob_batched(theta if theta.ndim == 3 else theta[None], values)

    def _source(self) -> torch.Generator:
        if self.generator is not None:
            return self.generator
        return torch.Generator().manual_seed(int(torch.randint(2**62, ())))


def _refuse_trials(x: X) -> None:
    count = len(next(iter(x.values())))
    if count != 1:
        raise ValueError(
            f"x holds {count} observations, expected one; `sample_batched` and `log_prob_batched` take several, and "
            "repeated observations of the same parameters must be one observable of the simulator"
        )


def _refuse_units(*values: Any) -> None:
    """Refuse quantities of astropy, because a tensor made from a quantity keeps the numbers but loses the unit."""
    for value in values:
        if not isinstance(value, Tensor) and (unit := getattr(value, "unit", None)) is not None:
            raise TypeError(
                f"sbi takes plain numbers, in the simulator's units, got a quantity in {str(unit)!r}; pass its "
                "`.to_value(unit)`, or ask the posterior of sciinf, which converts"
            )


def _refuse_keywords(keywords: Mapping[str, Any]) -> None:
    if keywords:
        raise TypeError(f"{sorted(keywords)} have no meaning for a posterior of sciinf; leave them out")
