r"""Optimisers: AdamW, AdamW with AMSGrad's maximum, Adan, and Muon (`training.muon`).

Adan looks ahead like Nesterov's method, but uses gradients at the present weights only. With gradient g_k, decay rates
b1, b2, b3, weight decay l and learning rate r,

    d_k = g_k - g_{k-1}
    m_k = (1 - b1) m_{k-1} + b1 g_k
    v_k = (1 - b2) v_{k-1} + b2 d_k
    n_k = (1 - b3) n_{k-1} + b3 (g_k + (1 - b2) d_k)^2
    theta_{k+1} = (theta_k - r (m_k + (1 - b2) v_k) / (sqrt(n_k) + eps)) / (1 + l r),

all per element. It starts from m_0 = g_0, v_0 = 0, v_1 = d_1, n_0 = g_0^2, which needs no correction of bias.

**Another batch.** For small rates r the steps of Adam follow a stochastic equation in the time r^2 per step. Batches k
times as large follow the same equation with

    r -> r sqrt(k),    1 - beta -> k (1 - beta),    eps -> eps / sqrt(k)

(Malladi et al., for RMSprop and Adam; used here for AMSGrad as well). Decoupled decay takes r l per step, and k r l in
k steps, so l -> l sqrt(k), which is our own addition. The rule is a limit. It holds if steps are short, if k (1 -
beta_1) is well below 1, and if noise makes up most of the gradients' squares (Wang & Aitchison). It fails for batches
so large that their gradient is nearly exact. From k (1 - beta_1) = 1 on there is no such beta_1, and the rule is
refused. The norm at which gradients are clipped is not scaled.

References:
    | Decoupled Weight Decay Regularization (Loshchilov & Hutter, 2019), https://arxiv.org/abs/1711.05101
    | On the Convergence of Adam and Beyond (Reddi et al., 2018), https://arxiv.org/abs/1904.09237
    | On the SDEs and Scaling Rules for Adaptive Gradient Algorithms (Malladi et al., 2022),
      https://arxiv.org/abs/2205.10287
    | Batch size invariant Adam (Wang & Aitchison, 2024), for where the rule fails, https://arxiv.org/abs/2402.18824
    | Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models (Xie et al., 2022),
      https://arxiv.org/abs/2208.06677
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sciinf.training.muon import Muon, Span

NAMES = ("adamw", "amsgrad", "adan", "muon")
SCALED = ("adamw", "amsgrad")  # These optimisers have a rule for other batches.
BETAS, EPS = (0.9, 0.999), 1e-8  # These values are for usual batches.
LARGEST_FACTOR = 10  # This is 1 / (1 - BETAS[0]): from here on the rule has no first beta.


class Adan(torch.optim.Optimizer):
    """The Adan optimiser. At every step, all parameters of the list must have a gradient, or none.

    Args:
        parameters: Tensors to optimise.
        lr: Learning rate r, a number or a tensor without axes on the parameters' device.
        betas: Decay rates (b1, b2, b3) in the paper's convention, each between 0 and 1.
        eps: Positive number that prevents division by zero.
        weight_decay: Weight decay l.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float | Tensor = 1e-3,
        *,
        betas: tuple[float, float, float] = (0.02, 0.08, 0.01),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0.0 < beta < 1.0 for beta in betas):
            raise ValueError(f"betas={betas}: expected three numbers between 0 and 1, small ones for long memories")
        if eps <= 0 or weight_decay < 0 or float(lr) < 0:
            raise ValueError(
                f"lr={lr}, eps={eps}, weight_decay={weight_decay}: expected lr and weight_decay of at least 0, and a "
                "positive eps"
            )
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step of the optimiser; parameters without a gradient do not change."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step(parameters, group)
        return loss

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        slopes = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                names = ("average", "difference", "square", "previous")
                self.state[p] = {name: torch.zeros_like(p) for name in names} | {"step": torch.zeros(())}
        states = [self.state[p] for p in parameters]
        average, difference, square, previous = (
            [state[name] for state in states] for name in ("average", "difference", "square", "previous")
        )
        steps = [state["step"] for state in states]
        count = int(steps[0])  # The step count is on the CPU, so nothing waits for the device.
        b1, b2, b3 = group["betas"]
        change = torch._foreach_sub(slopes, previous if count else slopes)
        torch._foreach_lerp_(average, slopes, b1 if count else 1.0)
        torch._foreach_lerp_(difference, change, b2 if count > 1 else 1.0)
        ahead = torch._foreach_add(slopes, change, alpha=1 - b2)
        keep = 1 - b3 if count else 0.0
        torch._foreach_mul_(square, keep)
        torch._foreach_addcmul_(square, ahead, ahead, value=1 - keep)
        size = torch._foreach_sqrt(square)
        torch._foreach_add_(size, group["eps"])
        move = torch._foreach_add(average, difference, alpha=1 - b2)
        torch._foreach_div_(move, size)
        torch._foreach_mul_(move, group["lr"])
        torch._foreach_sub_(parameters, move)
        torch._foreach_div_(parameters, 1 + group["weight_decay"] * group["lr"])
        torch._foreach_copy_(previous, slopes)
        torch._foreach_add_(steps, 1)


def optimiser(
    name: str,
    weights: nn.Parameter,
    matrices: Sequence[Span] = (),
    *,
    lr: float | Tensor,
    weight_decay: float,
    batch_scaling: float = 1.0,
) -> torch.optim.Optimizer:
    """The optimiser of a given name.

    Args:
        name: "adamw", "amsgrad", "adan" or "muon".
        weights: Weights to optimise, (K, P).
        matrices: Places of the matrices among the weights, which Muon treats in its own way.
        lr: Learning rate. It must be a tensor on the parameters' device if the step is to be captured as a CUDA graph.
        weight_decay: Decoupled weight decay.
        batch_scaling: k, the ratio of the batch to the batch that the usual betas and epsilon are for. They are scaled
            by the rule above; lr and weight_decay are used as given.

    Raises:
        ValueError: If the name is unknown, or there is no rule for this optimiser or for such large batches.
    """
    if batch_scaling != 1.0 and name not in SCALED:
        raise ValueError(f"the rule for other batches is for {' and '.join(SCALED)}, not for {name!r}")
    if not 0 < batch_scaling < LARGEST_FACTOR:
        raise ValueError(f"batch_scaling={batch_scaling}: the rule is for numbers above 0 and below {LARGEST_FACTOR}")
    if name == "adan":
        return Adan([weights], lr, weight_decay=weight_decay)
    if name == "muon":
        return Muon(weights, matrices, lr=lr, weight_decay=weight_decay)
    if name not in NAMES:
        raise ValueError(f"the optimiser {name!r} is not known; expected one of {list(NAMES)}")
    captured = isinstance(lr, Tensor)
    first, second = BETAS if batch_scaling == 1.0 else (1 - batch_scaling * (1 - beta) for beta in BETAS)
    told: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "fused": True, "capturable": captured}
    told |= {"betas": (first, second), "eps": EPS / batch_scaling**0.5}
    return torch.optim.AdamW([weights], amsgrad=name == "amsgrad", **told)


def tensors_of(chosen: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as named tensors, to be saved."""
    state = chosen.state_dict()["state"]
    return {f"{index}/{name}": value for index, values in state.items() for name, value in values.items()}


def load_tensors(chosen: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore an optimiser's state from the tensors that `tensors_of` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        # The step count goes to the CPU. An optimiser that needs it on the device moves it there.
        state.setdefault(int(index), {})[name] = value.cpu() if name == "step" else value
    chosen.load_state_dict({**chosen.state_dict(), "state": state})
