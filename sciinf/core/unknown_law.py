"""The law of parameters whose law nobody knows any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, final

import torch
from torch import distributions as td
from torch.distributions import constraints

if TYPE_CHECKING:
    from sciinf.core.prior import Prior


@final
class Unknown(td.Distribution):
    """A law of which only the name and the unit of its parameter are known, any real number.

    It stands in the prior of simulations that already exist, where nobody knows what their parameters were drawn from.
    What needs no law of the parameters learns from such simulations: a surrogate of fields, a `Likelihood`. What does
    need it (a posterior, drawing parameters to simulate more) says so.

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
        """Refuse.

        Raises:
            ValueError: Always.
        """
        raise ValueError(_REFUSED.format("drawn"))

    def log_prob(self, value: torch.Tensor) -> NoReturn:
        """Refuse.

        Raises:
            ValueError: Always.
        """
        raise ValueError(_REFUSED.format("given a density, as a posterior needs it"))


_REFUSED = (
    "a parameter has the law Unknown(), so it cannot be {}; give Prior the law that the simulations were drawn from, "
    "or the one you want to simulate with"
)


def check_known(prior: Prior) -> None:
    """Refuse a prior with a law that nobody knows where a posterior is wanted.

    Raises:
        ValueError: If there is one; the message names its parameters.
    """
    if unknown := [prior.names[place.start] for law, place in prior.places() if isinstance(law, Unknown)]:
        raise ValueError(
            f"nobody knows the law that {', '.join(unknown)} was drawn from (Unknown()), so there is no prior whose "
            "posterior this would be; read the simulations again with the law they were drawn from"
        )
