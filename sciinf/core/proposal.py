"""The base class of proposals: distributions of parameters that replace the prior in simulations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class Proposal(ABC):
    """A distribution of theta that replaces the prior in `simulate(..., proposal=...)`.

    An estimator trained on these simulations learns the posterior under this distribution, not under the
    prior.
    """

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws within the prior's support, of the prior's dtype, on the CPU.

        All randomness comes from `generator`.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """A description of the distribution as plain JSON values, for `store.json`.

        Different distributions must have different descriptions.
        """
