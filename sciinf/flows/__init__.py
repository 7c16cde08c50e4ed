"""Invertible transforms of R^D conditioned on features: what turns noise into a posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.flows.continuous import Continuous as Continuous
    from sciinf.flows.heavy_tails import StudentT as StudentT
    from sciinf.flows.nflows_flows import CouplingNSF as CouplingNSF
    from sciinf.flows.perturbed import Perturbed as Perturbed
    from sciinf.flows.residual import Residual as Residual
    from sciinf.flows.spline import SplineCoupling as SplineCoupling
    from sciinf.flows.spline_autoregressive import SplineAutoregressive as SplineAutoregressive
    from sciinf.flows.transformer import TransformerAutoregressive as TransformerAutoregressive
    from sciinf.flows.zuko_flows import MAF as MAF, NSF as NSF, Coupling as Coupling

__getattr__, __dir__ = offered(__name__, __file__)
