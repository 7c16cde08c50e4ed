"""A placeholder for the unknown distribution of a parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, final

import torch
from torch import distributions as td
from torch.distributions import constraints

if TYPE_CHECKING:
    from sciinf.core.prior import Prior


@final
class Unknown(td.Distribution):
    """An unknown distribution over the real numbers, without draws or a density.

    Use it in the prior of existing simulations if the distribution of their parameters is unknown. A
    surrogate of fields and a `Likelihood` can learn from such simulations. A posterior, or drawing parameters
    for more simulations, needs the distribution and raises an error.

    Examples:
        >>> from sciinf import Prior
        >>> Prior(viscosity=(Unknown(), "m2 / s"))
        Prior(viscosity [m2 / s])
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = False

    def __init__(self) -> None:
        td.Distribution.__init__(self, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real

    def __repr__(self) -> str:
        return "Unknown()"

    def sample(self, sample_shape: Any = torch.Size()) -> NoReturn:  # noqa: B008
        """Raise an error, because an unknown distribution has no draws.

        Raises:
            ValueError: Always.
        """
        raise ValueError(_REFUSED.format("drawn"))

    def log_prob(self, value: torch.Tensor) -> NoReturn:
        """Raise an error, because an unknown distribution has no density.

        Raises:
            ValueError: Always.
        """
        raise ValueError(_REFUSED.format("given a density, as a posterior needs it"))


_REFUSED = (
    "a parameter has the law Unknown(), so it cannot be {}; give Prior the law that the simulations were drawn from, "
    "or the one you want to simulate with"
)


def check_known(prior: Prior) -> None:
    """Raise an error if a prior for which a posterior is wanted has an unknown distribution.

    Raises:
        ValueError: If a distribution is unknown. The message names its parameters.
    """
    if unknown := [prior.names[place.start] for law, place in prior.places() if isinstance(law, Unknown)]:
        raise ValueError(
            f"the distribution of {', '.join(unknown)} is unknown (Unknown()), so there is no prior for a posterior; "
            "read the simulations again with the distribution they were drawn from"
        )
