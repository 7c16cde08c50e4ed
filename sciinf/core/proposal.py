"""Where parameters are drawn from when not from the prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class Proposal(ABC):
    """A law of theta to simulate from instead of the prior, for `simulate(..., proposal=...)`.

    What is learned from its simulations is the posterior under this law, not under the prior.
    """

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws within the prior's support, of the prior's dtype, on the CPU, from `generator` alone."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What makes it the law it is, as plain JSON values, for `store.json`; two laws say different things."""
