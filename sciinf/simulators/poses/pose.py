r"""A pose: parameters that move the data as a whole, and the distribution of the noise that blurs the pose.

T_h x denotes data x moved by h. In an exact symmetry, x under the pose g(theta) has the same likelihood as T_h x under
the pose h g. In an approximate symmetry, the two likelihoods are nearly equal. A blurred pose g e, with e ~ kappa, says
roughly where the data lie. The data moved back by the blurred pose, T_{(g e)^{-1}} x, look much alike for all poses, so
that a network has less to learn.

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
    """Parameters that form a pose, with their action on data and the distribution of their blur.

    Args:
        parameters: Name of a parameter, or several names. Each of them has a distribution of its own in the prior.
        act: Action T on data: a function `act(x, pose)` of a module, or an object such as `TimeShift`. The result is
            the data moved by the pose.
        kernel: Distribution kappa of the blur. The kernel should be at least as wide as the posterior of the pose: a
            narrower kernel makes chains slow. Give one distribution for all parameters, a list with one for each, or a
            joint distribution.
        exact: Whether moved data are practically as likely as before. If so, the network does not see the blurred pose
            and has less to learn. Otherwise the network sees the blurred pose. Several exact poses must commute. A
            shift and a rotation of an image do not commute, so that only one of them can be exact.
        group: Group that composes poses; `Additive()` by default.

    Raises:
        TypeError: If `act`, the kernel or the group has another type.
        ValueError: If there are no parameters, or the numbers of kernels and parameters differ.

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
        """Data moved back by a blurred pose, T_{(g e)^{-1}} x.

        Raises:
            ValueError: If the action returns an unknown observable, an observable of another shape, or an observable
                with missing values without its mask.
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
        """Log density of blurs with respect to the invariant measure, log kappa - log l; float64."""
        return self.blur.log_prob(blur) - self.group.log_measure(blur.double())


def _blur(names: Sequence[str], kernel: object) -> Prior:
    """The kernel as a `Prior` of the blurs."""
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
