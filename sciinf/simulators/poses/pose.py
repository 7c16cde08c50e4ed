r"""A pose: parameters that move the data as a whole, and the law that blurs them.

For a pose g(theta) the data x of theta and T_h x, data moved by h, are as likely as each other under poses g and h g
(an exact symmetry), or nearly (an approximate one). Blurred by e ~ kappa to g e, a pose says roughly where data lie:
moved back by it, T_{(g e)^{-1}} x, they look much alike whatever the pose was, and less is left to learn.

References:
    | Group equivariant neural posterior estimation (Dax et al., 2022), https://arxiv.org/abs/2111.13139
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior, X
from sciinf.core.component import Component
from sciinf.simulators.poses.group import Additive, Group

Action = Callable[[X, Tensor], X]
"""T: data (batch, *event) moved by elements (batch, k). It returns the observables that it changes, or all."""


class Pose(Component):
    """Parameters that form a pose.

    Args:
        parameters: Name of a parameter, or names. In a prior each has a law of its own.
        act: T, a function `act(x, pose)` of a module, or an object such as `TimeShift`: data moved by a pose.
        kernel: kappa, the law of the blur, as wide as what the data leave of the pose or wider: a narrower one makes
            chains slow. One law for every parameter, one for each in a list, or a joint one.
        exact: Whether data moved are as likely as before, to all that matters. The blurred pose is then kept from the
            network, which has less to learn; otherwise the network sees it. Several exact poses must commute: a shift
            and a turn of an image do not, and one of them has to be seen.
        group: How poses are composed; `Additive()` where left out.

    Raises:
        TypeError: If `act`, the kernel or the group is something else.
        ValueError: If there are no parameters, or as many laws as parameters are not given.

    Examples:
        >>> from torch.distributions import Normal
        >>> from sciinf.simulators.poses import TimeShift
        >>> Pose("arrival", TimeShift(0.05), Normal(0.0, 0.1)).names
        ('arrival',)
    """

    def __init__(
        self,
        parameters: str | Sequence[str],
        act: Action,
        kernel: td.Distribution | Sequence[td.Distribution],
        *,
        exact: bool = True,
        group: Group | None = None,
    ) -> None:
        self.names = (parameters,) if isinstance(parameters, str) else tuple(parameters)
        if not self.names:
            raise ValueError("a pose has at least one parameter: Pose('arrival', TimeShift(0.05), Normal(0.0, 0.1))")
        if not callable(act) or isinstance(act, type):
            raise TypeError(f"act is a function act(x, pose) or an object such as TimeShift(0.05), got {act!r}")
        if group is not None and not isinstance(group, Group):
            raise TypeError(f"the group is an object such as Multiplicative(), got {group!r}")
        self.act, self.exact, self.group = act, bool(exact), group or Additive()
        self.blur = _blur(self.names, kernel)

    def standardised(self, x: X, blurred: Float[Tensor, "batch k"]) -> X:
        """T_{(g e)^{-1}} x.

        Raises:
            ValueError: If the action returns an observable of another shape, or one that there is not.
        """
        moved = self.act(x, self.group.inverse(blurred))
        for name, value in moved.items():
            if name not in x or value.shape != x[name].shape:
                there = tuple(x[name].shape) if name in x else "no such observable"
                raise ValueError(
                    f"the action of the pose {self.names} returns {name!r} of shape {tuple(value.shape)}; there is "
                    f"{there}"
                )
        for mask in (f"{name}_mask" for name in moved if f"{name}_mask" in x):
            if mask not in moved:
                raise ValueError(
                    f"the pose {self.names} moves {mask.removesuffix('_mask')!r}, of which values are missing, and "
                    f"not {mask!r}; let its action return both"
                )
        return {**x, **moved}

    def log_kernel(self, blur: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows"]:
        """log kappa - log l: the density of blurs by the invariant measure; float64."""
        return self.blur.log_prob(blur) - self.group.log_measure(blur.double())


def _blur(names: Sequence[str], kernel: object) -> Prior:
    """The kernel as a prior of blurs."""
    if isinstance(kernel, td.Distribution) and kernel.event_shape:
        return Prior.joint(names, kernel)
    laws = [kernel] * len(names) if isinstance(kernel, td.Distribution) else kernel
    if not isinstance(laws, Sequence) or not all(isinstance(law, td.Distribution) for law in laws):
        raise TypeError(f"the kernel is a law of torch.distributions, or a list of them, got {kernel!r}")
    if len(laws) != len(names):
        raise ValueError(f"the pose has the parameters {list(names)} and {len(laws)} kernels; give one for each")
    return Prior(**dict(zip(names, laws, strict=True)))


def values_of(x: X) -> list[str]:
    """Names of observables that are not masks."""
    return [name for name, value in x.items() if value.dtype != torch.bool]
