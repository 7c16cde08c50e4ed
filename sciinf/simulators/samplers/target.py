"""Log densities for samplers: evaluations are counted, gradients are computed, and NaN becomes -inf."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.simulators.samplers.chains import LogDensity


class Target:
    """A log density that counts its evaluations.

    Args:
        log_density: Function of positions, (chains, batch, D) -> (chains, batch).
    """

    def __init__(self, log_density: LogDensity) -> None:
        self.log_density = log_density
        self.evaluations = 0

    def value(self, x: Float[Tensor, "chains batch dim"]) -> Float[Tensor, "chains batch"]:
        """Log density at positions. NaN and +inf become -inf.

        Raises:
            ValueError: If the log density does not return the shape (chains, batch).
        """
        with torch.no_grad():
            return _lowered(self._ask(x)).to(x.dtype)

    def slope(
        self, x: Float[Tensor, "chains batch dim"]
    ) -> tuple[Float[Tensor, "chains batch"], Float[Tensor, "chains batch dim"]]:
        """Log density and its gradient at positions. A gradient that is not finite is replaced by zeros.

        Raises:
            ValueError: If the log density does not return the shape (chains, batch), or is not differentiable.
        """
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = self._ask(leaf)
            if not value.requires_grad:
                raise ValueError(
                    "the log density carries no gradient with respect to the position: leave out no_grad() and "
                    "detach() in it, or use Slice, which needs no gradient"
                )
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        finite = gradient.isfinite().all(dim=-1, keepdim=True)
        return _lowered(value.detach()).to(x.dtype), torch.where(finite, gradient, 0.0)

    def _ask(self, x: Tensor) -> Tensor:
        value = self.log_density(x)
        if value.shape != x.shape[:-1]:
            raise ValueError(
                f"the log density of positions of shape {tuple(x.shape)} has shape {tuple(value.shape)}, expected "
                f"{tuple(x.shape[:-1])}, one number for each chain and target: sum over the last dimension alone"
            )
        self.evaluations += value.numel()
        return value


@dataclass(frozen=True)
class Point:
    """Positions of chains with the log density and its gradient.

    Attributes:
        x: Positions, (chains, batch, D).
        value: Log density, (chains, batch); 0 if only the gradient is known.
        gradient: Gradient of the log density, (chains, batch, D).
    """

    x: Tensor
    value: Tensor
    gradient: Tensor

    def to(self, end: Point, keep: Tensor) -> Point:
        """Point of each chain after acceptance or rejection.

        The result is `end` where `keep` (chains, batch) is true, and this point elsewhere.
        """
        value, wide = torch.where(keep, end.value, self.value), keep[..., None]
        return Point(torch.where(wide, end.x, self.x), value, torch.where(wide, end.gradient, self.gradient))


def acceptance_probability(
    rise: Float[Tensor, "chains batch"], noise: Float[Tensor, "chains batch dim"], back: Float[Tensor, "*#shape"]
) -> Float[Tensor, "chains batch"]:
    """Metropolis acceptance probability min(1, e^r) of a move from x to x'.

    The log ratio is r = log p(x') - log p(x) + (|noise|^2 - |back|^2) / 2. The probability is 0 where r is
    NaN.

    Args:
        rise: Increase of the log density, log p(x') - log p(x).
        noise: Gaussian noise that led from x to x'.
        back: Gaussian noise that would lead from x' back to x.
    """
    r = rise + 0.5 * (noise.square() - back.square()).sum(dim=-1)
    return r.nan_to_num(nan=-math.inf).clamp_max(0).exp()


def check_call(start: Tensor, n: int, generator: torch.Generator) -> None:
    """Raise an error if the arguments of a sampler's `draw` are invalid.

    Raises:
        TypeError: If `start` is not floating point.
        ValueError: If `start` is not (chains, batch, D), `n` is less than 1, or the generator is on another device.
    """
    if not start.is_floating_point():
        raise TypeError(f"start has dtype {start.dtype}, expected floating point: pass start.float()")
    if start.dim() != 3 or 0 in start.shape:
        raise ValueError(
            f"start has shape {tuple(start.shape)}, expected (chains, batch, D), none of them zero: one chain of one "
            "target is start[None, None]"
        )
    check_whole("n", n, 1)
    if generator.device.type != start.device.type:
        raise ValueError(
            f"the generator is on {generator.device} and start on {start.device}: pass "
            f"torch.Generator({start.device.type!r})"
        )


def check_begin(finite: Tensor, what: str) -> None:
    """Raise an error if the log density or the score is not finite at a start.

    Args:
        finite: Whether it is finite at each start, (chains, batch).
        what: Name of the checked quantity, for the error message.

    Raises:
        ValueError: If it is not finite at some start. The message names the targets and the number of chains.
    """
    if bool(finite.all()):
        return
    chains, batch = finite.shape
    nowhere = (~finite).all(dim=0).nonzero().flatten().tolist()
    if nowhere:
        raise ValueError(
            f"none of the {chains} chains starts where {what} is finite in target {_listed(nowhere)} (of {batch}): "
            "start from draws of the prior or of an approximation of the target, or check the log density for errors"
        )
    some = (~finite).any(dim=0).nonzero().flatten().tolist()
    raise ValueError(
        f"{int((~finite).sum())} of {chains * batch} chains start where {what} is -inf, NaN or infinite, in target "
        f"{_listed(some)}: start them elsewhere, such as where other chains of that target start"
    )


def _listed(numbers: list[int], most: int = 5) -> str:
    return ", ".join(map(str, numbers[:most])) + (f" and {len(numbers) - most} more" if len(numbers) > most else "")


def _lowered(value: Tensor) -> Tensor:
    return value.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
