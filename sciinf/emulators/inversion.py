r"""Draws of codes, coefficients and solutions, given a few noisy values of a solution.

A DGNO maps an unbounded code z to a solution u(z, x). The codes of coefficient fields have mean mu and covariance C.
These define the prior: z ~ N(mu, C). The measurements at points x_1, ..., x_n are

    y = u(z, x_i) + e(x_i) + noise,    noise ~ N(0, sd^2 I),    e ~ N(0, K) what the surrogate is off by (`error`).

Each draw minimises a randomly perturbed sum of squares (randomised maximum likelihood). With a field's code z' drawn
from the prior, e' from the distribution of errors and noise' from that of the noise,

    z = argmin 1/2 |y + noise' - e' - u(z)|^2_(K + sd^2 I)^-1  +  1/2 |z - z'|^2_C^-1  +  b J(z),
    e = e' + K (K + sd^2 I)^-1 (y + noise' - e' - u(z)),

found by Adam from z' on. If u were linear in z, the draws would have exactly the posterior distribution. A draw of the
solution is u(z) + e, so that its uncertainty includes the surrogate's error. A draw of the coefficient is the decoder's
a(z). J, the residual of the equation for u(z), s(z) and a(z), restricts codes to those where these three are
consistent. Where the decoders are trained well, the prior does this already, and b = 0 saves most of the work.

References:
    | Conditioning permeability fields to pressure data (Oliver, He & Reynolds, 1996), for the draws,
      https://doi.org/10.3997/2214-4609.201406884
    | DGenNO: A Novel Physics-aware Neural Operator for Solving Forward and Inverse PDE Problems based on Deep,
      Generative Probabilistic Modeling (Zang & Koutsourelakis, 2025), https://arxiv.org/abs/2502.06250
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.emulators._wendland import mollifier
from sciinf.emulators.dgno import DGNO

_RIDGE = 1e-3  # Share of the mean variance that is added to the diagonal of the codes' covariance.
_ERRORS = 4_096  # Number of draws of the error from which K is computed.
_RATE = 0.1  # Initial step size of Adam, in sds of the prior; it falls to 0 like a cosine.


@dataclass(frozen=True)
class Recovered:
    """Draws given each observation.

    Args:
        raw: The unbounded codes z.
        coefficient: a at the grid's points; if a has two values, their mean weighted by their probabilities.
        solution: u at the grid's points.
    """

    raw: Float[Tensor, "observation draw latent"]
    coefficient: Float[Tensor, "observation draw y x"]
    solution: Float[Tensor, "observation draw y x"]


@final
class Inversion:
    """Inference of codes from measurements of solutions, by randomised maximum likelihood.

    Args:
        surrogate: A trained DGNO.
        fields: Coefficient fields (n, 1, y, x). The mean and the covariance of their codes define the prior.
            n must be larger than the number of entries of a code. The fields of the surrogate's training may
            be used.
        draws: Number of draws given each observation.
        steps: Number of steps of Adam.
        residual: b, the weight of the equation's residual J in the minimised sum; 0 leaves J out.

    Raises:
        ValueError: If a number is out of range, or the fields are too few or of another grid.
    """

    def __init__(
        self,
        surrogate: DGNO,
        fields: Float[Tensor, "n 1 y x"],
        *,
        draws: int = 128,
        steps: int = 200,
        residual: float = 0.0,
    ) -> None:
        check_whole("draws", draws, 2)
        check_whole("steps", steps, 1)
        if not 0 <= residual < math.inf:
            raise ValueError(f"residual is {residual}, expected a number of at least 0")
        if fields.shape[1:] != (1, *surrogate.space):
            raise ValueError(f"fields of shape {tuple(fields.shape)}, expected (n, 1, *{surrogate.space})")
        self.surrogate = copy.deepcopy(surrogate).eval().requires_grad_(False)
        self.draws, self.steps, self.residual = draws, steps, residual
        raw = self.surrogate.encode(fields)
        if len(raw) <= raw.shape[1]:
            raise ValueError(f"{len(raw)} fields are too few for the covariance of {raw.shape[1]} numbers; give more")
        self.mean = raw.mean(0)
        scatter = torch.cov((raw - self.mean).double().mT)
        scatter.diagonal().add_(_RIDGE * scatter.diagonal().mean())
        self.root = torch.linalg.cholesky(scatter).to(raw)
        self.standard = torch.linalg.solve_triangular(self.root, (raw - self.mean).mT, upper=False).mT

    def __call__(
        self,
        at: Float[Tensor, "sensor 2"],
        y: Float[Tensor, "observation value"],
        sd: float | Float[Tensor, " observation"],
        *,
        generator: torch.Generator,
    ) -> Recovered:
        """Draws of codes, coefficients and solutions given measurements.

        Args:
            at: Coordinates of the sensors, in the order of the grid's axes, between 0 and 1.
            y: Measurements.
            sd: Sd of the noise, one for all observations or one for each, in units of the solution.
            generator: Source of all randomness.

        Raises:
            ValueError: If y does not have a finite value for each sensor, a sensor lies outside the square, or an sd is
                not positive.
        """
        at, y = at.to(self.mean), y.to(self.mean)
        noise_sd = torch.as_tensor(sd, dtype=y.dtype, device=y.device).expand(len(y))
        if y.ndim != 2 or y.shape[1] != len(at) or at.shape[1:] != (2,):
            raise ValueError(f"y of shape {tuple(y.shape)} for sensors {tuple(at.shape)}: expected a value for each")
        if not bool(((at >= 0) & (at <= 1)).all()) or not bool(y.isfinite().all()):
            raise ValueError("sensors lie between 0 and 1 along both axes, and what they measure is finite")
        if not bool((noise_sd > 0).all()):
            raise ValueError("the noise's sd must be positive: residuals are divided by it")
        count, net = (len(y), self.draws), self.surrogate
        known = self._errors(_ERRORS, generator)
        errors = self._errors(math.prod(count), generator).unflatten(0, count)
        across = self._seen(known, at)
        inner = across.mT @ across / _ERRORS + torch.diag_embed(noise_sd[:, None].square().expand(-1, len(at)))
        noise = torch.randn(*count, len(at), generator=generator, device=generator.device).to(y)
        wanted = y[:, None] + noise_sd[:, None, None] * noise - self._seen(errors, at)
        raw = self._descend(at, wanted, torch.linalg.cholesky(inner), generator)
        flat = raw.flatten(0, 1)
        rest = wanted - net.solution_at(flat, at).unflatten(0, count)
        errors = errors + (torch.linalg.solve(inner, rest.mT).mT @ across.mT / _ERRORS) @ known
        solution = net.solution_at(flat, net.grid).unflatten(0, count) + errors
        coefficient = net.coefficient_at(flat, net.grid).unflatten(0, count)
        return Recovered(raw, coefficient.unflatten(2, net.space), solution.unflatten(2, net.space))

    def _errors(self, count: int, generator: torch.Generator) -> Float[Tensor, "count point"]:
        """Draws of the surrogate's error at the grid's points."""
        theta = self.surrogate.prior.sample_on_device(count, generator=generator).to(self.mean)
        return self.surrogate.error(theta, {}, generator=generator).flatten(1)

    def _seen(self, fields: Float[Tensor, "*rows point"], at: Tensor) -> Float[Tensor, "*rows sensor"]:
        """Fields on the grid, interpolated at the sensors, linear along both axes."""
        image = fields.reshape(-1, 1, *self.surrogate.space)
        where = (2 * at.flip(-1) - 1).expand(len(image), 1, -1, -1)
        seen = torch.nn.functional.grid_sample(image, where, align_corners=True)
        return seen.reshape(*fields.shape[:-1], len(at))

    @torch.enable_grad()
    def _descend(
        self,
        at: Tensor,
        wanted: Float[Tensor, "observation draw sensor"],
        root: Float[Tensor, "observation sensor sensor"],
        generator: torch.Generator,
    ) -> Float[Tensor, "observation draw latent"]:
        """The minimising codes z, starting from the codes of random fields."""
        net, count = self.surrogate, wanted.shape[:2]
        index = torch.randint(len(self.standard), count, generator=generator, device=generator.device)
        begin = self.standard[index.to(self.standard.device)]
        features, mode = net.solution.features(at), mollifier(at)[0]
        found = begin.clone().requires_grad_(True)
        adam = torch.optim.Adam([found], lr=_RATE)
        for step in range(self.steps):
            adam.param_groups[0]["lr"] = _RATE * (1 + math.cos(math.pi * step / self.steps)) / 2
            raw = (self.mean + found @ self.root.mT).flatten(0, 1)
            u = net.solution_of(net.solution.combined(net.solution.coefficients(raw.tanh()), features), mode)
            off = torch.linalg.solve_triangular(root, (wanted - u.unflatten(0, count)).mT, upper=False)
            total = (off.square().sum() + (found - begin).square().sum()) / 2
            if self.residual:
                a = net.coefficient_at(raw, net.grid).unflatten(1, (1, *net.space))
                total = total + self.residual * net.residual(raw, a, generator=generator).sum()
            (found.grad,) = torch.autograd.grad(total, [found])
            adam.step()
        return self.mean + found.detach() @ self.root.mT
