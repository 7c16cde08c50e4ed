"""Invertible transforms of R^D conditioned on features: what turns noise into a posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.flows.continuous import Continuous
    from sciinf.flows.heavy_tails import StudentT
    from sciinf.flows.nflows_flows import CouplingNSF
    from sciinf.flows.perturbed import Perturbed
    from sciinf.flows.residual import Residual
    from sciinf.flows.spline import SplineCoupling
    from sciinf.flows.spline_autoregressive import SplineAutoregressive
    from sciinf.flows.transformer import TransformerAutoregressive
    from sciinf.flows.zuko_flows import MAF, NSF, Coupling

__all__ = [
    "MAF",
    "NSF",
    "Continuous",
    "Coupling",
    "CouplingNSF",
    "Perturbed",
    "Residual",
    "SplineAutoregressive",
    "SplineCoupling",
    "StudentT",
    "TransformerAutoregressive",
]

_MODULES = {
    "Continuous": "continuous",
    "Coupling": "zuko_flows",
    "CouplingNSF": "nflows_flows",
    "MAF": "zuko_flows",
    "NSF": "zuko_flows",
    "Perturbed": "perturbed",
    "Residual": "residual",
    "SplineAutoregressive": "spline_autoregressive",
    "SplineCoupling": "spline",
    "StudentT": "heavy_tails",
    "TransformerAutoregressive": "transformer",
}

__getattr__, __dir__ = offered(__name__, _MODULES)
