r"""Hybrid score matching, the training objective of networks for linear diffusions with auxiliary variables.

For data x_0 and a time t, u_t = a x_0 + L e is drawn given x_0 alone (`auxiliary`). The network of the papers
predicts e_r, the noise at the coordinates that receive noise. As e = L^{-1} (u - a x_0), an estimate D of
E[x_0 | u_t] is also an estimate of e_r, with

    |e_r(u, D) - e_r(u, x_0)|^2 = w(t) |D - x_0|^2,    w = |[L^{-1} a]_r|^2,

and D has fewer numbers than e_r if several coordinates receive noise. The network F therefore gives D, as a
correction to the best linear estimate for data of unit sd, as in `objective.Preconditioned`. Errors of D are
weighted as those of e_r:

    D = y / (1 + s^2) + s / sqrt(1 + s^2) F,    min E_{x_0, t, e} [ w(t) |D(u_t, t) - x_0|^2 ] / D.

(The last D is the number of entries of x_0.) The inputs of F are u_t and log s, the level of `auxiliary`. The
data's coordinate of u_t is replaced by y, the sufficient statistic for x_0. All coordinates are scaled to
unit variance.

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
    """The objective of hybrid score matching for a linear diffusion.

    Args:
        process: The diffusion.
        least: Lowest noise level of training.
        most: Highest noise level of training.
        levels: Distribution of the levels; evenly in log s by default.
        weighting: Weight of a squared error of D. By default w, the weight of errors of e_r.

    Raises:
        ValueError: Unless 0 < least < most. `loss` raises it if the diffusion does not reach these levels.
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
        """The estimate D of E[x_0 | u_t].

        Args:
            network: Network F. Its inputs are y and auxiliaries, scaled, (*rows, K D), and log s, () or
                (*rows); its output is (*rows, D).
            u: Data and auxiliaries u_t.
            time: Time t, () or (*rows).
        """
        return denoised(network, u, self.process.kernel(time))

    def loss(
        self, network: Network, data: Float[Tensor, "batch dim"], *, generator: torch.Generator
    ) -> Float[Tensor, " batch"]:
        """An estimate of the objective for each row of data, from one level and one draw of noise per row.

        The levels of a batch are spread evenly.

        Args:
            network: Network F; see `denoise`.
            data: Data x_0, of about unit sd.
            generator: Source of noise and levels.
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
    """The estimate D of E[x_0 | u_t], given the distribution of u_t given x_0.

    Args:
        network: Network F; see `HybridMatching.denoise`.
        u: Data and auxiliaries u_t.
        kernel: Distribution of u_t given x_0, at one time for all rows or at one time for each row.
    """
    scale = (kernel.mean**2 + kernel.covariance.diagonal(dim1=-2, dim2=-1)).sqrt().to(u)[..., 1:, None]
    s, y = kernel.level.to(u), kernel.project(u)
    shown = torch.cat([(y / (1 + s**2).sqrt()[..., None])[..., None, :], u[..., 1:, :] / scale], dim=-2)
    left = network(shown.flatten(-2), s.log())
    return y / (1 + s**2)[..., None] + (s / (1 + s**2).sqrt())[..., None] * left
