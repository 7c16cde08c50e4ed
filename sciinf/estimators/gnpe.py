r"""Group equivariant neural posterior estimation: data moved back by a blurred pose, so that less is left to learn.

For draws (theta, x) of prior and simulator, poses g(theta) (`poses.pose`) and blurs e ~ kappa, a flow q learns

    q(theta', e | x')    of    x' = T_{(g e)^{-1}} x,

theta' the parameters that are no pose. Given a blurred pose h = g e it gives the pose g = h e^{-1}. A second, small
flow learns poses from x alone, where chains begin that alternate between the conditionals of p(theta, h | x) and give
draws and density (`_posed`).

**Exact symmetries.** The network does not see h: what it gives follows kappa and not the prior of the pose, by which
chains are then accepted or not. **Approximate ones.** It sees h, and has learned the prior.

References:
    | Group equivariant neural posterior estimation (Dax et al., 2022), https://arxiv.org/abs/2111.13139
    | Real-time gravitational-wave science with neural posterior estimation (Dax et al., 2021),
      https://arxiv.org/abs/2106.12594
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Density, Observable, Prior, X
from sciinf.core.checks import check_whole
from sciinf.estimators._moved import Flows, MovedBack
from sciinf.estimators._posed import PosedDensity, Recovered
from sciinf.flows.conditional import Architecture
from sciinf.poses.pose import Pose
from sciinf.summaries.summary import Summary


class GNPE(MovedBack):
    """Posterior estimation with poses taken out of the data.

    Args:
        prior: The prior; parameters of poses have laws of their own.
        observables: What the simulator produces.
        poses: Taken out one after the other; exact ones must not care in which order. Without any it is a `Flow`.
        summary: Of data, as for `Flow`: each network builds its own, of data moved and as they are.
        flow: Of all parameters given moved data; the default of `Flow` where left out.
        start: Of poses given data as they are; a small one where left out.
        chains: Chains for one observation, from whose poses draws are made; an eighth of them for each of several.
        iterations: Steps of the chains at most.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If a pose or another part is something else.
        ValueError: If a pose names a parameter that there is not, that another pose has, or that shares a law with
            others; or a number is out of range.

    Examples:
        >>> from sciinf import Normal, Uniform
        >>> from sciinf.poses import TimeShift
        >>> prior = Prior(rate=Uniform(1.0, 2.0), arrival=Uniform(0.0, 5.0))
        >>> pose = Pose("arrival", TimeShift(0.1), Normal(0.0, 0.2))
        >>> gnpe = GNPE(prior, {"x": Observable((60,), "", ("time",))}, [pose])
        >>> gnpe.conditional.prior.names
        ('rate', 'arrival')
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        poses: Sequence[Pose] = (),
        *,
        summary: Summary | Mapping[str, Summary] | None = None,
        flow: Architecture | None = None,
        start: Architecture | None = None,
        chains: int = 2_048,
        iterations: int = 300,
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, poses, Flows(summary, flow, start, every=False), seed)
        check_whole("chains", chains, 16)
        check_whole("iterations", iterations, 2)
        self.chains, self.iterations = chains, iterations
        self.kept: dict[str, Recovered] = {}  # what was found for the last observations

    def moves(self, batch: Batch, generator: torch.Generator) -> tuple[Float[Tensor, "batch k"], Tensor]:
        return self.blurred(batch, generator)

    def condition(self, x: X) -> Density:
        device = next(self.buffers()).device
        data = {name: value.to(device) for name, value in x.items()}
        return self.conditional.condition(data) if self.start is None else PosedDensity(self, self.start, data)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return (self.start or self.conditional).features(x)


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> GNPE:
    """The estimator without poses, which only its user knows."""
    return GNPE(prior, observables, seed=seed)
