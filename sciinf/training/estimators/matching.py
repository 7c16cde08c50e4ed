r"""Flow matching posterior estimation: the velocity of the straight path from noise to the posterior.

Along x_t = (1 - t) z + t e, e ~ N(0, I), t uniform, the network is fitted to the velocity e - z. Its mean given x_t,

    u(x_t, t; x) = E[e - z | x_t, x],

carries noise at t = 1 to draws of the posterior at t = 0. As x_t / (1 - t) = z + s e with s = t / (1 - t), u follows
from the denoiser of the same level, u = (x_t - D) / t. So this is the same diffusion code as for a `Score`, on the path
`Straight`.

With `linear=True` the network learns what the best linear guess leaves of D, under the loss of `_gaussian`, at levels
drawn as for a `Score`. The loss of the papers, on u itself, is that of `linear=False` and
`diffusion=Diffusion(Straight(), PredictDrift(), EvenTimes())`.

References:
    | Flow Matching for Scalable Simulation-Based Inference (Wildberger et al., 2023), https://arxiv.org/abs/2305.17161
    | Flow Matching for Generative Modeling (Lipman et al., 2023), https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

from collections.abc import Mapping

from sciinf.core import Observable, Prior
from sciinf.core.summary import Summary
from sciinf.networks.diffusion.objective import Diffusion, NormalLogs
from sciinf.networks.diffusion.schedule import Straight
from sciinf.networks.diffusion.solver import Exponential, Solver
from sciinf.training.estimators._denoising import Denoising, Design


class Matching(Denoising):
    """Amortized posterior estimation with flow matching (FMPE).

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator, name -> specification.
        summary: One summary network for every observable, or one per name. Default: chosen for each observable.
        diffusion: Diffusion path, with the network's parameterisation and the weighting and distribution of noise
            levels.
        solver: Solver by which draws are made; `Exponential(4, 3)` for few steps.
        linear: Whether the network learns only what the best linear guess leaves. If not, `Diffusion` may have another
            parameterisation; the paper's is `PredictDrift`.
        hidden: Width of the network.
        blocks: Residual blocks of the network.
        together: Whether observables that are columns of one table share a summary network
            (`networks.summaries.columns`).
        seed: Seeds the initial weights.

    Raises:
        TypeError: If a part has the wrong type, for example a class or a name instead of an object.
        ValueError: If a number is out of range, or `linear` is combined with another parameterisation or weighting.
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        summary: Summary | Mapping[str, Summary] | None = None,
        diffusion: Diffusion | None = None,
        solver: Solver | None = None,
        linear: bool = True,
        hidden: int = 128,
        blocks: int = 3,
        together: bool = True,
        seed: int = 0,
    ) -> None:
        path = diffusion or Diffusion(Straight(1e-3, 20.0), levels=NormalLogs(-0.7, 1.8))
        design = Design(path, solver or Exponential(16, 2), linear, hidden, blocks)
        super().__init__(prior, observables, summary, design, seed, together=together)


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Matching:
    """Flow-matching estimator with its default settings."""
    return Matching(prior, observables, seed=seed)
