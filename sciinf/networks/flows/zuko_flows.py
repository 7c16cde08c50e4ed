"""Normalizing flows of the library zuko.

The splines of `NSF` and `Coupling` act on [-5, 5] in each dimension and are the identity outside. So outside [-5, 5], z
has the tails of the noise: standardise z first. `MAF` is affine in each dimension and has no such domain.

References:
    | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
    | Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017), https://arxiv.org/abs/1705.07057
"""

from __future__ import annotations

from collections.abc import Sequence

import zuko

from sciinf.networks.flows.conditional import Architecture, ConditionalFlow, Context, ExactFlow, Logs, Points


class NSF(Architecture):
    """Autoregressive neural spline flow: the most flexible flow here, but sampling costs D passes per transform.

    Args:
        transforms: Number of splines in the chain.
        hidden: Widths of the hidden layers of the masked network of each spline.
        bins: Number of pieces of each spline.
    """

    def __init__(self, transforms: int = 5, hidden: Sequence[int] = (64, 64), bins: int = 8) -> None:
        _check(transforms, hidden, bins)
        self.transforms, self.hidden, self.bins = transforms, tuple(hidden), bins

    def build(self, dim: int, context: int) -> ConditionalFlow:
        settings = {"transforms": self.transforms, "hidden_features": self.hidden, "bins": self.bins}
        return _ZukoFlow(zuko.flows.NSF, dim, context, settings)


class Coupling(Architecture):
    """Neural spline flow: one half of the dimensions conditions the other; samples take two passes per transform.

    Args:
        transforms: Number of splines in the chain.
        hidden: Widths of the hidden layers of the masked network of each spline.
        bins: Number of pieces of each spline.
    """

    def __init__(self, transforms: int = 6, hidden: Sequence[int] = (64, 64), bins: int = 8) -> None:
        _check(transforms, hidden, bins)
        self.transforms, self.hidden, self.bins = transforms, tuple(hidden), bins

    def build(self, dim: int, context: int) -> ConditionalFlow:
        settings = {"transforms": self.transforms, "hidden_features": self.hidden, "bins": self.bins, "passes": 2}
        return _ZukoFlow(zuko.flows.NSF, dim, context, settings)


class MAF(Architecture):
    """Masked autoregressive flow: affine given the earlier dimensions; quick to train, unsuited to several modes.

    Args:
        transforms: Number of affine maps in the chain.
        hidden: Widths of the hidden layers of the masked network of each map.
    """

    def __init__(self, transforms: int = 5, hidden: Sequence[int] = (64, 64)) -> None:
        _check(transforms, hidden, 2)
        self.transforms, self.hidden = transforms, tuple(hidden)

    def build(self, dim: int, context: int) -> ConditionalFlow:
        settings = {"transforms": self.transforms, "hidden_features": self.hidden}
        return _ZukoFlow(zuko.flows.MAF, dim, context, settings)


class _ZukoFlow(ExactFlow):
    """A zuko flow's transform; the base distribution N(0, I) belongs to `ConditionalFlow`."""

    def __init__(self, kind: type[zuko.flows.MAF], dim: int, context: int, settings: dict) -> None:
        super().__init__(dim, context)
        self.transform = kind(features=dim, context=context, **settings).transform

    def encode(self, z: Points, context: Context) -> tuple[Points, Logs]:
        return self.transform(context).call_and_ladj(z)

    def decode(self, noise: Points, context: Context) -> Points:
        return self.transform(context).inv(noise)


def _check(transforms: int, hidden: Sequence[int], bins: int) -> None:
    if transforms < 1 or bins < 2 or not hidden or min(hidden) < 1:
        raise ValueError(
            f"a flow needs transforms >= 1, bins >= 2 and positive hidden widths; got transforms={transforms}, "
            f"bins={bins}, hidden={tuple(hidden)}"
        )
