"""Linear encoders and decoders, and how the package pythae trains them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from sciinf.core.prior import global_seed

Trains = Callable[["Nets", Tensor, int, int], None]


class Nets(nn.Module):
    """A linear encoder and a linear decoder."""

    def __init__(self, numbers: int, latents: int, one_sd: bool, seed: int) -> None:
        super().__init__()
        self.one_sd, self.latents = one_sd, latents
        with global_seed(torch.Generator().manual_seed(seed)):
            self.mean, self.decoder = nn.Linear(numbers, latents), nn.Linear(latents, numbers)
        self.log_sd = nn.Parameter(torch.full((1 if one_sd else latents,), -0.5))

    def encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log sd of each row's law."""
        return self.mean(x), self.log_sd.expand(len(x), self.latents)

    @staticmethod
    def optimiser(parameters: Iterable[nn.Parameter], steps: int) -> tuple[Any, Any]:
        """Adam, and its falling rate."""
        found = torch.optim.Adam(parameters, lr=0.01)
        return found, torch.optim.lr_scheduler.CosineAnnealingLR(found, steps)

    @staticmethod
    def batches(x: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
        """Rows of each step."""
        draw = torch.Generator().manual_seed(seed + 100)
        for _ in range(steps):
            yield x[torch.randint(len(x), (256,), generator=draw)]


def peers(numbers: int, latents: int) -> dict[str, Trains]:
    """What the package has, by our names; nothing where it is not installed."""
    if find_spec("pythae") is None:
        print("pythae is not installed, and its rows are left out", file=sys.stderr)
        return {}
    models: Any = import_module("pythae.models")
    shape = {"input_dim": (numbers,), "latent_dim": latents}
    many, sets = {"number_samples": 64}, {"number_samples": 8, "number_gradient_estimates": 8}
    one = {"number_samples": 1, "number_gradient_estimates": 64}
    mmd = {"kernel_choice": "imq", "alpha": 0.5, "lbd": 10.5}
    made = {
        "KL": (models.VAE, models.VAEConfig(**shape)),
        "IWAE 64": (models.IWAE, models.IWAEConfig(**shape, **many)),
        "MIWAE 8 x 8": (models.MIWAE, models.MIWAEConfig(**shape, **sets)),
        "MIWAE 64 x 1": (models.MIWAE, models.MIWAEConfig(**shape, **one)),
        "PIWAE 8 x 8": (models.PIWAE, models.PIWAEConfig(**shape, **sets)),
        "CIWAE 64": (models.CIWAE, models.CIWAEConfig(**shape, **many, beta=0.5)),
        "InfoVAE": (models.INFOVAE_MMD, models.INFOVAE_MMD_Config(**shape, **mmd)),
    }
    return {name: _trains(*both) for name, both in made.items()}


def _trains(kind: Any, config: Any) -> Trains:
    """Training by a model's own loss, as its trainers do: where it has two losses, first the encoder's backwards."""
    output: Any = import_module("pythae.models.base.base_utils").ModelOutput
    nn_parts: Any = import_module("pythae.models.nn")

    def train(nets: Nets, x: Tensor, steps: int, seed: int) -> None:
        class Encoder(nn_parts.BaseEncoder):
            def forward(self, x: Tensor) -> Any:
                mean, log_sd = nets.encoded(x)
                return output(embedding=mean, log_covariance=2 * log_sd)

        class Decoder(nn_parts.BaseDecoder):
            def forward(self, z: Tensor) -> Any:
                return output(reconstruction=nets.decoder(z))

        model = kind(config, Encoder(), Decoder())
        encoder, decoder = [nets.log_sd, *nets.mean.parameters()], list(nets.decoder.parameters())
        pairs = [nets.optimiser(part, steps) for part in (encoder, decoder)]
        with global_seed(torch.Generator().manual_seed(seed)):
            for batch in nets.batches(x, steps, seed):
                found = model({"data": batch})
                nets.zero_grad()
                if "encoder_loss" in found:
                    found.encoder_loss.backward(retain_graph=True)
                    nets.decoder.zero_grad()
                    found.decoder_loss.backward()
                else:
                    found.loss.backward()
                for optimiser, schedule in pairs:
                    optimiser.step()
                    schedule.step()

    return train
