r"""Standardisation of parameters and data, which all estimators share.

theta becomes z = (b(theta) - mean) / sd, b: support -> R^D the prior's bijection, mean and sd those of the training
rows. x is standardised number by number (`networks.summaries.standardise`). A density q(z) then gives one of theta,

    log q(theta) = log q(z) + log |det db / dtheta| - sum_i log sd_i,

with no mass outside the prior's support. Shapes: theta, z (batch, D).

Draws by rejection are made many at a time, and only for those that are still missing (`fill`).
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Batch, Estimator, Observable, Prior
from sciinf.core.checks import check_whole
from sciinf.core.existence import check_continuous
from sciinf.networks.summaries.standardise import Standardise

ROUNDS = 2_000  # Rejection stops after this many rounds.


def fill(
    theta: Float[Tensor, "n batch theta"],
    propose: Callable[[int], tuple[Float[Tensor, "some batch theta"], Bool[Tensor, "some batch"]]],
) -> tuple[Float[Tensor, "n batch theta"], Bool[Tensor, "n batch"]]:
    """Fill the places of draws with accepted proposals.

    Args:
        theta: Values that remain where no proposal is accepted.
        propose: Function from a number to so many proposals for every observation, and which of them are accepted.

    Returns:
        Draws, and which of them are accepted proposals.
    """
    theta, done = theta.clone(), torch.zeros(theta.shape[:-1], dtype=torch.bool, device=theta.device)
    for _ in range(ROUNDS if done.numel() else 0):
        need = int((~done).sum(0).max())
        if not need:
            break
        new, accepted = propose(need)
        place = torch.sort(done.long(), dim=0, stable=True).indices[:need]  # Missing draws come first.
        accepted = accepted & ~done.gather(0, place)
        at = place[..., None].expand_as(new)
        theta.scatter_(0, at, torch.where(accepted[..., None], new, theta.gather(0, at)))
        done.scatter_(0, place, done.gather(0, place) | accepted)
    return theta, done


CHUNK = {"cpu": 5_000, "cuda": 1_048_576}  # Pairs (theta, x) computed at once when no gradient is needed.


class Standardised(Estimator, ABC):
    """An estimator that standardises both parameters and data.

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator.
        seed: Seeds the initial weights, which a subclass builds.

    Raises:
        ValueError: If the seed is no int of at least 0, the prior has no parameters, or some of them are discrete and
            the estimator cannot learn these (`mixed`).
    """

    z_mean: Tensor
    z_sd: Tensor

    def __init__(self, prior: Prior, observables: Mapping[str, Observable], seed: int) -> None:
        super().__init__()
        check_whole("seed", seed, 0)
        if not len(prior):
            raise ValueError(
                f"a {type(self).__name__} learns of parameters, and the simulator has none (Prior.none()); a surrogate "
                "(sciinf.emulators) learns its fields"
            )
        if not self.mixed:
            check_continuous(prior, f"a {type(self).__name__}")
        self.prior, self.observables = prior, dict(observables)
        self.standardise_x = Standardise(self.observables)
        self.register_buffer("z_mean", torch.zeros(prior.bijection.size))
        self.register_buffer("z_sd", torch.ones(prior.bijection.size))

    def standardise_both(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Set the standardisation of data and of parameters, by one pass over the rows for each."""
        self.standardise_x.fit(batches)
        self.standardise_x.tell_rounded()
        size = self.prior.bijection.size
        count, total, squares = torch.zeros(size).double(), torch.zeros(size).double(), torch.zeros(size).double()
        for batch in batches():
            z, present = self.prior.split(batch.theta.cpu())  # z is 0 where a parameter does not exist.
            z = z.double()
            count, total, squares = count + present.sum(0), total + z.sum(0), squares + (z**2).sum(0)
        mean = total / count.clamp_min(1)
        self.z_mean.copy_(mean)
        sd = (squares / count.clamp_min(1) - mean**2).clamp_min(1e-12).sqrt()
        self.z_sd.copy_(torch.where(count > 0, sd, 1.0))

    def to_z(self, theta: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch theta"]:
        """z of theta inside the prior's support, in the networks' precision."""
        return ((self.prior.bijection.forward(theta) - self.z_mean) / self.z_sd).to(self.z_mean.dtype)

    def targets(self, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, "batch target"]:
        """Targets of least squares for theta: z, or the prior's coordinates if some of theta is discrete."""
        return self.prior.coordinates(theta).to(self.z_mean.dtype) if self.prior.mixed else self.to_z(theta)

    def to_theta(self, z: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch theta"]:
        """theta, strictly inside the prior's support."""
        return self.prior.bijection.inverse(z * self.z_sd + self.z_mean)

    def log_density(
        self, theta: Float[Tensor, "*n batch theta"], rows: int, log_q: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*n batch"]:
        """log q(theta) in the parameters' own units, for each of `rows` observations, from `log_q` of z (n, rows, D).

        It is -inf outside the prior's support, float64, and computed in pieces whose size suits the device.

        Raises:
            ValueError: If theta is not (*n, rows, D).
        """
        check_rows(theta, rows, self.prior)
        flat = theta.to(self.z_mean.device).reshape(-1, rows, len(self.prior))
        parts = [torch.empty(0, rows, dtype=torch.float64, device=flat.device)]
        for start, stop in in_chunks(len(flat), rows, flat.device):
            parts.append(self._log_density(flat[start:stop], log_q))
        return torch.cat(parts).reshape(theta.shape[:-1])

    def _log_density(self, theta: Tensor, log_q: Callable[[Tensor], Tensor]) -> Tensor:
        inside = torch.isfinite(self.prior.log_prob(theta))
        centre = self.prior.bijection.inverse(theta.new_zeros(1, 1, self.prior.bijection.size))
        safe = torch.where(inside[..., None], theta, centre)
        found = log_q(self.to_z(safe)).double() - self.z_sd.double().log().sum()
        return torch.where(inside, found + self.prior.bijection.log_abs_det_jacobian(safe), -math.inf)


def check_part(what: str, value: object, kind: type, example: str) -> None:
    """Refuse a part of an estimator that is not an object of the right type.

    Raises:
        TypeError: If the part is neither None nor of its type; the message says what is wrong.
    """
    if value is not None and not isinstance(value, kind):
        got = f"the class {value.__name__}; call it" if isinstance(value, type) else repr(value)
        raise TypeError(f"the {what} must be an object such as {example}, got {got}")


def in_chunks(size: int, rows: int, device: torch.device) -> list[tuple[int, int]]:
    """(start, stop) of pieces of `size` draws, each as large as suits the device with `rows` observations."""
    most = max(1, CHUNK.get(device.type, CHUNK["cpu"]) // max(1, rows))
    return [(start, min(start + most, size)) for start in range(0, size, most)]


def check_rows(theta: Tensor, rows: int, prior: Prior) -> None:
    """Refuse theta that is not (*n, rows, D).

    Raises:
        ValueError: If the shape differs; the message gives the expected shape.
    """
    if theta.ndim < 2 or tuple(theta.shape[-2:]) != (rows, len(prior)):
        raise ValueError(
            f"theta has shape {tuple(theta.shape)}, expected (..., {rows}, {len(prior)}): one row of "
            f"{prior.names} for each of the {rows} observations"
        )
