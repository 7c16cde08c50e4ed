"""Every architecture in a small form, in forms with other settings, and as it is by default; and how tests build it."""

from __future__ import annotations

import math

import torch

from sciinf.networks.flows.continuous import Continuous
from sciinf.networks.flows.heavy_tails import StudentT
from sciinf.networks.flows.nflows_flows import CouplingNSF
from sciinf.networks.flows.perturbed import Perturbed
from sciinf.networks.flows.residual import Residual
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.networks.flows.spline_autoregressive import SplineAutoregressive
from sciinf.networks.flows.transformer import TransformerAutoregressive
from sciinf.networks.flows.zuko_flows import MAF, NSF, Coupling

CONTEXT = 3
INNER = NSF(transforms=2, hidden=(16,), bins=4)

SMALL = [
    INNER,
    Coupling(transforms=3, hidden=(16, 16), bins=4),
    MAF(transforms=2, hidden=(16,)),
    CouplingNSF(transforms=3, hidden=12, bins=5),
    SplineCoupling(transforms=3, hidden=12, bins=5),
    SplineAutoregressive(transforms=2, hidden=12, bins=5),
    Continuous(hidden=(12, 10), tolerance=1e-9),
    Residual(blocks=2, hidden=(12,), network=8),
    TransformerAutoregressive(blocks=2, width=16, heads=2, bins=4),
    StudentT(INNER),
    Perturbed(INNER, noise=0.3, least=0.03),
]
OTHERS = [
    SplineCoupling(transforms=2, hidden=8, bins=4, blocks=1, tail_bound=3.0, gaussian=False),
    Continuous(hidden=[8], steps=3, trace="gaussian", penalty=0.5, tolerance=1e-6),
    Residual(2, [9, 7], lipschitz=0.8, network=7, log_det="roulette", exact_terms=2, continuation=0.7),
    TransformerAutoregressive(blocks=2, width=16, heads=2, bins=0, noise=0.05),
    StudentT(MAF(1, (8,)), 4.0, contextual=False),
    Perturbed(SplineCoupling(2, 8), noise=0.2, least=0.01),
]
DEFAULTS = [
    NSF(),
    Coupling(),
    MAF(),
    CouplingNSF(),
    SplineCoupling(),
    SplineAutoregressive(),
    Continuous(),
    Residual(),
    TransformerAutoregressive(),
    StudentT(NSF()),
    Perturbed(NSF()),
]


def name_of(architecture):
    return type(architecture).__name__


def build(architecture, dim, *, context=CONTEXT, spread=0.1, dtype=torch.float32, seed=7):
    """A flow whose weights differ from their initial values, so that no layer is near the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + dim)
        flow = architecture.build(dim, context)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
    return flow.to(dtype).eval()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def log_normal(noise):
    return -0.5 * noise.square().sum(-1) - 0.5 * noise.shape[-1] * math.log(2 * math.pi)


def change_of_variables_errors(flow, dim):
    """|log q(z) - (log N(e) - log |det dz/de|)| at 20 points, the Jacobian of `push` by central differences."""
    noise, context, step = normal(1, 20, dim), normal(20, CONTEXT), 1e-5
    shifts = step * torch.eye(dim, dtype=torch.float64)[:, None]
    with torch.no_grad():  # all at once, so that those of a solver with steps of its own have the same
        z, up, down = flow.push(torch.cat([noise, noise + shifts, noise - shifts]), context).split([1, dim, dim])
        log_det = torch.linalg.slogdet(((up - down) / (2 * step)).movedim(0, -1)).logabsdet
        return (flow.log_prob(z, context) - (log_normal(noise) - log_det)).abs().flatten()
