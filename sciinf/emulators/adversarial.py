r"""An objective of codes with a judge: the law of all codes is to be the prior, as far as a network can tell.

A judge t(z) is trained to tell codes, drawn from q(z | x) of the rows of a batch, from draws of p(z), and the encoder
to be taken for them (WAE-GAN). With S(y) = log(1 + e^y) the loss of a row is, in nats,

    -E_q log p(x | z) + weight S(-t(z)) + [S(t(z)) + S(-t(z'))],    z ~ q(z | x),  z' ~ p(z).

The judge is held still in the second term, and z in the third, whose value is taken off: one loss and one optimiser
train both, though what the one wants more of the other wants less of. The best judge is t = log p(z) - log q(z), of
the codes of all rows together; where that law is the prior it is 0, and the second term weight log 2.

A judge's loss rises while it learns, so it is no measure of codes. What the loss amounts to, and what training stops
by, is with MMD^2 between codes and prior in the judge's place (`objectives`), through which no gradient goes. It is no
bound. `Mmd` of `objectives` wants the same without a judge, and is steadier: take a judge where codes have many
numbers, of which a kernel sees little.

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
    """A perceptron t(z), above 0 where it takes z for a draw of the prior.

    Args:
        latents: Numbers of z.
        width: Of its two hidden layers.
    """

    def __init__(self, latents: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latents, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        return self.layers(z)[:, 0]


class Adversarial(Objective):
    """The law of all codes is to be the prior, as far as a network can tell.

    Args:
        weight: Of what the judge says of codes.
        width: Of the judge.

    Raises:
        ValueError: If the weight is negative or not finite, or the width no int of at least 1; in training, if codes
            come without a judge.
    """

    def __init__(self, weight: float = 10.0, *, width: int = 64) -> None:
        check_weight("weight", weight)
        check_whole("width", width, 1)
        self.weight, self.judged = weight, width

    def loss(self, rows: Reconstruction, coded: Coded, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        judge = coded.judge
        if judge is None:
            raise ValueError("Adversarial() got codes without a judge: Coded(mean, log_sd, Judge(numbers, width))")
        z = coded.draw(1, generator=generator)
        prior = noise_like(z[0], generator)
        own = F.softplus(judge(z[0].detach())) + F.softplus(-judge(prior))
        still = {name: value.detach() for name, value in judge.named_parameters()}
        taken = F.softplus(-torch.func.functional_call(judge, still, (z[0],)))
        judged = self.weight * taken + own
        return judged - judged.detach() + self.weight * mmd(z[0], prior).detach() - rows.log_prob(z)[0]
