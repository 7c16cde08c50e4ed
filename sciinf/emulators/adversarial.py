r"""An objective of codes with a discriminator, which compares the distribution of all codes with the prior.

The discriminator t(z), called judge, learns to distinguish codes, drawn from q(z | x) of the rows of a batch, from
draws of p(z). The encoder learns to make codes that the judge takes for draws of p(z) (WAE-GAN). With S(y) = log(1 +
e^y) the loss of a row is, in nats,

    -E_q log p(x | z) + weight S(-t(z)) + [S(t(z)) + S(-t(z'))],    z ~ q(z | x),  z' ~ p(z).

In the second term no gradient goes to the judge. In the third term no gradient goes to z. So one loss and one optimiser
train both, although their aims are opposite. The best judge is t = log p(z) - log q(z), where q(z) is the distribution
of the codes of all rows together. If this distribution is the prior, t is 0, and the second term is weight log 2.

A judge's loss rises while the judge learns, so this loss does not measure the quality of codes. The reported value, by
which training stops, has MMD^2 between codes and prior (`objectives`) in place of the judge's terms. No gradient goes
through this MMD^2. This value is no bound. `Mmd` of `objectives` has the same aim without a judge, and trains more
steadily. A judge is better where codes have many components, because a kernel is less sensitive there.

References:
    | Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558: algorithm 1
    | Adversarial Autoencoders (Makhzani et al., 2015), https://arxiv.org/abs/1511.05644
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core.checks import check_whole
from sciinf.emulators.objectives import Coded, Objective, Reconstruction, check_weight, mmd
from sciinf.networks.diffusion.solver import noise_like


@final
class Discriminator(nn.Module):
    """A perceptron t(z), positive where it classifies z as a draw of the prior.

    Args:
        latents: Number of components of z.
        width: Width of its two hidden layers.
    """

    def __init__(self, latents: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latents, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        return self.layers(z)[:, 0]


class Adversarial(Objective):
    """Reconstruction error, with a discriminator that makes the distribution of all codes the prior.

    Args:
        weight: Weight of the discriminator's term.
        width: Width of the discriminator.

    Raises:
        ValueError: If the weight is negative or not finite, or the width no int of at least 1; in training, if codes
            come without a discriminator.
    """

    def __init__(self, weight: float = 10.0, *, width: int = 64) -> None:
        check_weight("weight", weight)
        check_whole("width", width, 1)
        self.weight, self.judged = weight, width

    def loss(self, rows: Reconstruction, coded: Coded, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        judge = coded.judge
        if judge is None:
            raise ValueError(
                "Adversarial() got codes without a judge: give Coded(mean, log_sd, Discriminator(numbers, width))"
            )
        z = coded.draw(1, generator=generator)
        prior = noise_like(z[0], generator)
        own = F.softplus(judge(z[0].detach())) + F.softplus(-judge(prior))
        still = {name: value.detach() for name, value in judge.named_parameters()}
        taken = F.softplus(-torch.func.functional_call(judge, still, (z[0],)))
        judged = self.weight * taken + own
        return judged - judged.detach() + self.weight * mmd(z[0], prior).detach() - rows.log_prob(z)[0]
