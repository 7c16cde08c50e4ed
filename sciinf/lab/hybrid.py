r"""Hybrid score matching: what a network that is shown data and auxiliaries of a linear diffusion is trained on.

For data x_0 and a time t, with u_t = a x_0 + L e drawn given x_0 alone (`auxiliary`), the papers' network gives e_r,
the noise in the coordinates that receive any. As e = L^{-1} (u - a x_0), an estimate D of E[x_0 | u_t] is one of e_r,
with

    |e_r(u, D) - e_r(u, x_0)|^2 = w(t) |D - x_0|^2,    w = |[L^{-1} a]_r|^2,

and D has fewer numbers where several coordinates receive noise. So the network F stands for D, beside the best linear
guess for data of unit sd as in `objective.Preconditioned`, and its errors count as those of e_r:

    D = y / (1 + s^2) + s / sqrt(1 + s^2) F,    min E_{x_0, t, e} [ w(t) |D(u_t, t) - x_0|^2 ] / D.

F sees u_t and log s, the level of `auxiliary`: y in the place of the data's coordinate, for it is what u_t says of x_0,
and the auxiliaries, each scaled to unit variance.

References:
    | Score-Based Generative Modeling with Critically-Damped Langevin Diffusion (Dockhorn et al., 2022), section 3,
      https://arxiv.org/abs/2112.07068
    | Where to Diffuse, How to Diffuse, and How to Get Back: Automated Learning for Multivariate Diffusions
      (Singhal et al., 2023), https://arxiv.org/abs/2302.07261
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.component import Component
from sciinf.lab.auxiliary import Kernel, LinearDiffusion, Times
from sciinf.networks.diffusion.objective import EvenLogs, Network, NoiseLevels, Weighting
from sciinf.networks.diffusion.schedule import NoiseLevel


class HybridMatching(Component):
    """The objective.

    Args:
        process: The diffusion.
        least: Lowest level of training.
        most: Highest level of training.
        levels: How levels are drawn; evenly in log s where left out.
        weighting: How much an error of D counts; as one of e_r where left out.

    Raises:
        ValueError: Unless 0 < least < most; when drawing, if the diffusion does not get to such levels.
    """

    def __init__(
        self,
        process: LinearDiffusion,
        least: float = 1e-3,
        most: float = 80.0,
        levels: NoiseLevels | None = None,
        weighting: Weighting | None = None,
    ) -> None:
        self.process, self.schedule = process, NoiseLevel(least, most)
        self.levels, self.weighting = levels or EvenLogs(), weighting

    def denoise(self, network: Network, u: Float[Tensor, "*rows K dim"], time: Times) -> Float[Tensor, "*rows dim"]:
        """D at u_t and a time of shape () or (*rows).

        Args:
            network: F: y and auxiliaries, scaled, (*rows, K D), and log s of shape () or (*rows), to (*rows, D).
            u: u_t.
            time: t.
        """
        return denoised(network, u, self.process.kernel(time))

    def loss(
        self, network: Network, data: Float[Tensor, "batch dim"], *, generator: torch.Generator
    ) -> Float[Tensor, " batch"]:
        """The objective for each datum, at one level each; levels of a batch are spread evenly, noise is drawn.

        Args:
            network: F.
            data: x_0, of about unit sd.
            generator: For noise and levels.
        """
        uniform = torch.arange(len(data), device=data.device, dtype=torch.float64) + 0.5
        shift = torch.rand(1, generator=generator, device=generator.device, dtype=torch.float64).to(data.device)
        level, density = self.levels.draw(self.schedule, (shift + uniform / len(data)) % 1.0)
        kernel = self.process.kernel(self.process.time(level))
        off = denoised(network, kernel.draw(data, generator), kernel) - data
        if self.weighting is None:
            weight = kernel.share()
        else:
            weight = self.weighting.weight(level, level / (1 + level**2).sqrt(), density)
        return weight.to(data) * off.square().mean(-1)


def denoised(network: Network, u: Float[Tensor, "*rows K dim"], kernel: Kernel) -> Float[Tensor, "*rows dim"]:
    """D at u_t, by the law of u_t given x_0, one for all rows or for each; `HybridMatching.denoise` has the rest."""
    scale = (kernel.mean**2 + kernel.covariance.diagonal(dim1=-2, dim2=-1)).sqrt().to(u)[..., 1:, None]
    s, y = kernel.level.to(u), kernel.project(u)
    shown = torch.cat([(y / (1 + s**2).sqrt()[..., None])[..., None, :], u[..., 1:, :] / scale], dim=-2)
    left = network(shown.flatten(-2), s.log())
    return y / (1 + s**2)[..., None] + (s / (1 + s**2).sqrt())[..., None] * left
