"""Normalizing flows: invertible transforms of R^D, conditioned on features, that turn noise into posterior samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.networks.flows.continuous import Continuous as Continuous
    from sciinf.networks.flows.heavy_tails import StudentT as StudentT
    from sciinf.networks.flows.nflows_flows import CouplingNSF as CouplingNSF
    from sciinf.networks.flows.perturbed import Perturbed as Perturbed
    from sciinf.networks.flows.residual import Residual as Residual
    from sciinf.networks.flows.spline import SplineCoupling as SplineCoupling
    from sciinf.networks.flows.spline_autoregressive import SplineAutoregressive as SplineAutoregressive
    from sciinf.networks.flows.transformer import TransformerAutoregressive as TransformerAutoregressive
    from sciinf.networks.flows.zuko_flows import MAF as MAF, NSF as NSF, Coupling as Coupling

__getattr__, __dir__ = offered(__name__, __file__)
