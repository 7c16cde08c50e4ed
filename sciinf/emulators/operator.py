r"""One network that maps the start of a solution to the whole solution.

    u(t_1..t_T) ~ f(g, theta),     loss = |u - f| / |u|.

g are the fields that the solution starts from (an initial field, a coefficient), and theta the parameters. Frames are
channels of the network's last map, in units of their own means and sds. A prediction costs one pass, and no frame is
made from another. For long or chaotic solutions use `Stepwise`.

References:
    | Fourier Neural Operator for Parametric Partial Differential Equations (Li et al., 2021),
      https://arxiv.org/abs/2010.08895
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Observable, Prior, X
from sciinf.core.component import called_with
from sciinf.core.prior import global_seed
from sciinf.emulators._errors import Predicting
from sciinf.emulators._fields import ByEdges
from sciinf.emulators.losses import FieldLoss, RelativeL2
from sciinf.networks.fields import FieldArchitecture, FieldNetwork
from sciinf.networks.spectral import Fourier


class Operator(Predicting, ByEdges):
    """A neural operator that predicts whole trajectories in one pass.

    Args:
        prior: The simulator's prior.
        observables: The simulator's observables.
        network: Architecture of the network from given channels to frames. If None, a `Fourier`, with coordinates and
            padding where the training fields have edges.
        target: Name of the observable that is predicted.
        given: Names of the observables that it starts from; all others if None.
        loss: Distance of fields; `RelativeL2()` if None.
        moves: Steps on the grid, such as (1, -1), along which the equation is the same everywhere. Training translates
            solutions by random multiples of them. Only for fields without edges.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If names or layouts do not go together.

    Examples:
        >>> from torch.distributions import Uniform
        >>> prior = Prior(viscosity=Uniform(0.01, 0.1))
        >>> fields = {"initial": Observable((1, 64)), "u": Observable((5, 1, 64))}
        >>> operator = Operator(prior, fields, Fourier(width=8, modes=8))
        >>> operator.predict(torch.ones(3, 1), {"initial": torch.ones(3, 1, 64)}).shape
        torch.Size([3, 5, 1, 64])
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        network: FieldArchitecture | None = None,
        *,
        target: str = "u",
        given: Sequence[str] | None = None,
        loss: FieldLoss | None = None,
        moves: Sequence[Sequence[int]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, target, given, seed, moves)
        if not self.given:
            raise ValueError(f"an Operator of {target!r} starts from fields, and none are given")
        self.distance = loss or RelativeL2()
        self.architecture, self.seed = network or Fourier(), seed
        self.network = self._built()

    def _built(self) -> FieldNetwork:
        channels = (self.channels_given, self.frames * self.channels)
        with global_seed(torch.Generator().manual_seed(self.seed)):
            return self.architecture.build(channels, self.space, len(self.prior.names))

    def at_edges(self) -> None:
        if isinstance(self.architecture, Fourier):
            self.architecture = self.architecture.at_edges()
            called_with(self, network=self.architecture)
            self.network = self._built().to(self.target_mean.device)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        batch = self.shown(batch, generator=generator)
        true = batch.x[self.target].to(self.target_mean)
        _, sd = self.level()
        return self.distance(self.predict(batch.theta, batch.x) / sd, true / sd, directions=len(self.space))

    def predict(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch time channel *space"]:
        fields = (self.stacked(given).to(self.given_mean) - self.given_mean) / self.given_sd
        found = self.network(fields, self.z(theta)).unflatten(1, (self.frames, self.channels))
        return self.target_mean + self.target_sd * found
