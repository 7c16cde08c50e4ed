r"""Neural posterior score estimation: the posterior's scores at every noise level, and draws that follow them.

Let theta be drawn from the prior and x from the simulator given theta. z is theta, unbounded and
standardised. With a noise level s and noise e ~ N(0, I), y = z + s e is the noisy z. The network D(y, s; x)
minimises

    E [ w(s) |D(y, s; x) - z|^2 ],

where w(s) > 0 weights the noise levels. The minimum is the posterior mean, D(y, s; x) = E[z | y, x]. Then

    grad_y log p_s(y | x) = (D(y, s; x) - y) / s^2

is the score of the posterior of z with noise of level s. The scores of single observations can be combined to
that of many observations (`posteriors.compositional`).

References:
    | Sequential Neural Score Estimation: Likelihood-Free Inference with Conditional Score Based Diffusion Models
      (Sharrock et al., 2024), https://arxiv.org/abs/2210.04872
    | Compositional Score Modeling for Simulation-Based Inference (Geffner et al., 2023),
      https://arxiv.org/abs/2209.14249
"""

from __future__ import annotations

from collections.abc import Mapping

from sciinf.core import Observable, Prior
from sciinf.core.component import called_without
from sciinf.core.summary import Summary
from sciinf.networks.diffusion.objective import Diffusion, NormalLogs
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Exponential, Solver
from sciinf.training.estimators._denoising import Denoising, Design


class Score(Denoising):
    """Amortized posterior estimation with a score network (NPSE).

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator, name -> specification.
        summary: One summary network for every observable, or one per name. Default: chosen for each observable.
        diffusion: Diffusion path, with the network's parameterisation and the weighting and distribution of noise
            levels.
        solver: Solver by which draws are made.
        linear: Whether the network learns only what the best linear guess leaves.
        hidden: Width of the network.
        blocks: Residual blocks of the network.
        consistency: Weight of a penalty for scores that are not those of one density
            (`networks.diffusion.fokker_planck`). 0 means no penalty. A penalty makes training slower.
        dropped: Share of the training rows for which the network sees no observation. It allows guided draws
            (`DenoisedDensity.guided`), which are no posterior draws. Only with `linear=False`.
        preserving: Whether the network's layers preserve magnitudes (`networks.preserving`).
        together: Whether observables that are columns of one table share a summary network
            (`networks.summaries.columns`).
        seed: Seeds the initial weights.

    Raises:
        TypeError: If a part has the wrong type, for example a class or a name instead of an object.
        ValueError: If a number is out of range, or `linear` is combined with another parameterisation or weighting.

    Examples:
        >>> import torch
        >>> from sciinf import Normal
        >>> score = Score(Prior(mu=Normal(0.0, 1.0)), {"x": Observable((3,))})
        >>> score.condition({"x": torch.zeros(2, 3)}).sample(5, generator=torch.Generator()).shape
        torch.Size([5, 2, 1])
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
        consistency: float = 0.0,
        dropped: float = 0.0,
        preserving: bool = False,
        together: bool = True,
        seed: int = 0,
    ) -> None:
        path = diffusion or Diffusion(NoiseLevel(1e-3, 5.0), levels=NormalLogs(-0.7, 1.8))
        extra = {"consistency": consistency, "dropped": dropped, "preserving": preserving}
        design = Design(path, solver or Exponential(20, 2), linear, hidden, blocks, **extra)
        super().__init__(prior, observables, summary, design, seed, together=together)
        called_without(self, *(name for name, value in extra.items() if not value))


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Score:
    """Score estimator with its default settings."""
    return Score(prior, observables, seed=seed)
