r"""Muon optimiser: weight matrices move along their orthogonalised momentum, and all other weights as under AdamW.

With gradient G of a matrix W (r x c), decay b of the momentum, weight decay l and learning rate h,

    M_k = b M_{k-1} + (1 - b) G_k,    U = b M_k + (1 - b) G_k   (Nesterov)
    X_0 = U / |U|_F,    X_{i+1} = (a I + p X_i X_i^T + q (X_i X_i^T)^2) X_i,    (a, p, q) = (3.4445, -4.7750, 2.0315)
    W_{k+1} = (1 - h l) W_k - h 0.2 sqrt(max(r, c)) X_3.

Each step of the quintic (Newton-Schulz) brings the singular values nearer to one, so that every direction of the matrix
moves. The factor of X gives a move the root mean square of AdamW's moves, so one learning rate serves both.

All weights are one parameter (K, P), K members side by side. `Span` tells where the matrices lie in it. The momentum is
AdamW's own first moment, hence a state of AdamW is a state of Muon.

References:
    | Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024), https://kellerjordan.github.io/posts/muon
    | Muon is Scalable for LLM Training (Liu et al., 2025), for the factor and the weight decay,
      https://arxiv.org/abs/2502.16982
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adamw import adamw

QUINTIC = (3.4445, -4.7750, 2.0315)
STEPS = 3  # More steps make the singular values more alike, but trained no better on the benchmark tasks.
LEAST = 16  # Smallest side of a matrix for Muon. Thinner matrices are mostly maps of few inputs.
_SIZE = 0.2  # This is the root mean square of AdamW's moves.
_BETAS, _EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Span:
    """Place of equal matrices among the weights: columns `start` to `stop` hold (number, rows, columns), end to end."""

    start: int
    stop: int
    rows: int
    columns: int


def spans(shapes: Iterable[Sequence[int]]) -> list[Span]:
    """Places of the matrices among tensors that are laid end to end.

    Args:
        shapes: Shapes of the tensors, in order. A tensor holds one or several matrices if it has at least two axes and
            the last two are at least 16 long.
    """
    found, start = [], 0
    for shape in shapes:
        stop = start + math.prod(shape)
        if len(shape) >= 2 and min(shape[-2:]) >= LEAST:
            found.append(Span(start, stop, shape[-2], shape[-1]))
        start = stop
    return found


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of one parameter, and AdamW for its other weights.

    Args:
        weights: The parameter, (K, P).
        matrices: Places of its matrices.
        lr: Learning rate h, a number or a tensor without axes on the parameter's device.
        weight_decay: Weight decay l.

    Raises:
        ValueError: If a number is negative.
    """

    def __init__(
        self,
        weights: nn.Parameter,
        matrices: Sequence[Span],
        *,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        if weight_decay < 0 or float(lr) < 0:
            raise ValueError(f"lr={lr}, weight_decay={weight_decay}: expected numbers of at least 0")
        graphed = isinstance(lr, Tensor)
        super().__init__([weights], {"lr": lr, "weight_decay": weight_decay, "fused": True, "capturable": graphed})
        self._shapes: dict[tuple[int, int], list[Span]] = {}
        for span in matrices:
            self._shapes.setdefault((span.rows, span.columns), []).append(span)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step of the optimiser."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        (weights,) = group["params"]
        slopes = weights.grad
        if slopes is None:
            return loss
        if not self.state[weights]:
            zeros = {name: torch.zeros_like(weights) for name in ("exp_avg", "exp_avg_sq")}
            self.state[weights] = {"step": torch.zeros((), device=weights.device), **zeros}
        before = {shape: _taken(weights, where) for shape, where in self._shapes.items()}
        self._adamw(weights, slopes, group)
        momentum, keep = self.state[weights]["exp_avg"], 1 - group["lr"] * group["weight_decay"]
        for (rows, columns), where in self._shapes.items():
            ahead = _taken(slopes, where).lerp(_taken(momentum, where), _BETAS[0])
            move = orthogonal(ahead.view(-1, rows, columns)).reshape(ahead.shape)
            size = group["lr"] * (_SIZE * math.sqrt(max(rows, columns)))
            _put(before[rows, columns] * keep - move * size, weights, where)
        return loss

    def _adamw(self, weights: nn.Parameter, slopes: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[weights]
        adamw(
            [weights],
            [slopes],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=True,
            capturable=group["capturable"],
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=_EPS,
            maximize=False,
        )


def orthogonal(matrices: Float[Tensor, "matrix row column"], steps: int = STEPS) -> Float[Tensor, "matrix row column"]:
    """Matrices with the same singular vectors, and with singular values moved towards one by the quintic of the
    module.

    Args:
        matrices: Matrices, each of any scale. A matrix of zeros stays so.
        steps: How often to apply the quintic. After five steps, singular values of more than 0.01 of the norm lie
            between 0.65 and 1.25.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)
    a, p, q = QUINTIC
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=p, alpha=q), x, beta=a)
    return x.mT if tall else x


def _taken(values: Tensor, where: Sequence[Span]) -> Tensor:
    """Copy of the columns of the spans, (K, sum of their lengths)."""
    return torch.cat([values[:, span.start : span.stop] for span in where], dim=1)


def _put(values: Tensor, into: Tensor, where: Sequence[Span]) -> None:
    sizes = [span.stop - span.start for span in where]
    for part, span in zip(values.split(sizes, dim=1), where, strict=True):
        into[:, span.start : span.stop] = part
