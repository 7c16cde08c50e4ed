r"""One step of training: loss, gradients, clipping and optimiser, without any wait for the device.

With gradients g_k of member k and the largest norm c, the gradients are scaled by min(1, c / |g_k|). The norm stays on
the device, as does the running sum of the losses. There are three ways to run a step: eagerly, with the loss compiled,
and on a CUDA device as a captured graph, which replays all kernels of a step at once. For a graph, the inputs are
copied into fixed buffers, the learning rate is a tensor on the device, and the generator is registered with the graph.
The first steps are run eagerly, on a separate stream, before the capture. The capture itself computes nothing, so the
training is the same whether or not the capture succeeds.

On a CPU the compiled kernels of a step are shared by cores (`networks.kernels.lanes`), with the same result on any
number. If the step is to choose the number, a batch is timed on one core and on all cores by turns. The first batch and
three later batches are timed, because another program may have used the cores meanwhile. On x86, gradients nearer to 0
than 1e-38 are set to 0: a network that has been trained for long has many of them, and each costs far more time than
other numbers.

When several processes train together (`training.parallel`), each computes the gradients of its rows of the batch. A sum
over processes comes before the clipping. The graph of such a step ends before that sum, which gloo cannot capture.

References:
    | On the difficulty of training recurrent neural networks (Pascanu et al., 2013), https://arxiv.org/abs/1211.5063
    | Accelerating PyTorch with CUDA Graphs, https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs
"""

from __future__ import annotations

import math
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, telling
from sciinf.networks.kernels.lanes import cores_here, shared
from sciinf.training.learner import Learner
from sciinf.training.optimisers import optimiser
from sciinf.training.parallel import Processes, SingleProcess
from sciinf.training.recipe import Recipe

# Number of eager steps before a CUDA graph is captured, in which CUDA libraries initialise themselves.
WARM_UP = 3
_ASKED = (0, 100, 1_000, 10_000)  # A batch is timed before each of these steps.
_TRIED = 5  # A batch is timed this many times, on one core and on several.
_WORTH = 0.9  # Several cores are used if they take at most this share of one core's time.
_X86 = ("x86_64", "AMD64")
_SHARED = 2**15 + 1  # A tensor of this many numbers is shared by torch's threads.


@contextmanager
def flushed() -> Iterator[None]:
    """Set denormal numbers to 0 in the computations of this thread, on x86, where they are slow.

    A denormal number is too small to have all its digits. A thread that is started inside this context would keep the
    setting for good. So torch is made to start its threads before.
    """
    if platform.machine() not in _X86:
        yield
        return
    if torch.get_num_threads() > 1:
        torch.ones(_SHARED, dtype=torch.uint8).add_(1)
    before = sys.float_info.min / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@dataclass(frozen=True)
class StepSettings:
    """Settings of one training step; see `Recipe` for their meaning."""

    optimiser: str
    weight_decay: float
    clip: float
    half: bool
    graph: bool
    processes: int | Literal["auto"] = 1
    batch_scaling: float = 1.0


def step_settings(recipe: Recipe) -> StepSettings:
    """The settings of the training step that a resolved recipe contains."""
    return StepSettings(
        optimiser=recipe.optimiser or "adamw",
        weight_decay=recipe.weight_decay or 0.0,
        clip=recipe.clip,
        half=recipe.precision == "bfloat16",
        graph=recipe.graph,
        processes=recipe.processes,
        batch_scaling=float(recipe.batch_scaling or 1.0),
    )


class Step:
    """Training steps for a learner: call it with a batch and a learning rate.

    Args:
        learner: Estimator or estimators to train.
        settings: Settings of the step.
        generator: Random numbers for the loss, on the learner's device. It may be reseeded between steps.
        shown: Whether to report the number of cores where the step chooses it.
        processes: Processes that step together, each on a share of each batch. Default: this process alone.

    Attributes:
        total: Sum of the training losses since it was last zeroed, (K,). With several processes, this process's part.
    """

    def __init__(
        self,
        learner: Learner,
        settings: StepSettings,
        generator: torch.Generator,
        *,
        shown: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self.learner, self.settings, self.generator = learner, settings, generator
        self.device = learner.weights.device
        self._graphed = settings.graph and self.device.type == "cuda"
        rate = torch.tensor(1.0, device=self.device) if self._graphed else 1.0
        self.optimiser = optimiser(
            settings.optimiser,
            learner.weights,
            learner.matrices,
            lr=rate,
            weight_decay=settings.weight_decay,
            batch_scaling=settings.batch_scaling,
        )
        self.total = torch.zeros(learner.members, device=self.device)
        self._forward: Callable[[Batch], Tensor] = self.losses
        self._cores = None if settings.processes == "auto" else settings.processes
        self._steps, self._shown = 0, shown
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input: Batch | None = None
        self.processes, self._part = processes or SingleProcess(), 1.0
        self._losses = self.total

    def __call__(self, batch: Batch, rate: float) -> None:
        """Do one step on a batch, of the same size each time, at a learning rate."""
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        batch = self._own(batch)
        if self._graphed:
            self._on_graph(batch)
        else:
            self._eager(batch)
        self._steps += 1

    def losses(self, batch: Batch) -> Float[Tensor, " member"]:
        """Mean loss of each member over a batch."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.half):
            return self.learner.loss(batch, self.generator).mean(-1)

    def losses_of_rows(
        self, batches: Iterable[tuple[int, Batch]], noise: Callable[[int], torch.Generator]
    ) -> list[Float[Tensor, "member batch"]]:
        """Loss of each row, without gradients.

        Args:
            batches: Batches of rows, each with its number.
            noise: Function from the number of a batch to the generator for its loss.

        Returns:
            One tensor of losses per batch.
        """
        with torch.no_grad(), shared(self._cores or 1):
            return [self.learner.loss(batch, noise(number)) for number, batch in batches]

    def prepare(self, batch: Batch) -> None:
        """Compile the loss, and try the compiled loss on a batch.

        Warns:
            UserWarning: If the loss does not compile, with the reason. The step then runs eagerly.
        """
        compiled, batch = torch.compile(self.losses), self._own(batch)
        try:
            compiled(batch).sum().backward()
            self._forward = compiled
        except Exception as error:
            warnings.warn(f"the step does not compile, so it runs eagerly: {reason(error)}", stacklevel=2)

    def _own(self, batch: Batch) -> Batch:
        """This process's rows of a batch; the share that they are of the batch is stored."""
        share = self.processes.share(batch)
        self._part = share.theta.shape[-2] / batch.theta.shape[-2]
        return share

    def _eager(self, batch: Batch) -> None:
        if self.settings.processes == "auto" and self._steps in _ASKED:
            self._cores = self._chosen(batch)
        with shared(self._cores or 1):
            losses = self._slopes(batch)
        self._move(losses)

    def _move(self, losses: Float[Tensor, " member"]) -> None:
        """Update the weights by the gradients of the whole batch."""
        self.processes.add_up(self.learner.slopes)
        with flushed():
            clip(self.learner.slopes, self.settings.clip)
            self.optimiser.step()
        self.total += losses

    def _slopes(self, batch: Batch) -> Float[Tensor, " member"]:
        """Losses of a batch; their gradients go into `learner.slopes`. With several processes, this process's part."""
        self.learner.slopes.zero_()
        losses = self._forward(batch)
        if self.processes.count > 1:
            losses = losses * self._part
        # Only gradients are flushed to 0: data may be as small until they are standardised.
        with flushed():
            losses.sum().backward()
        return losses.detach()

    def _chosen(self, batch: Batch) -> int:
        """Number of cores to use, from the fastest trial of each number. The learner and the generator are restored."""
        cores = cores_here() // self.processes.local
        if self.device.type != "cpu" or cores < 2:
            return 1
        buffers = {name: value.clone() for name, value in self.learner.buffers().items()}
        state, best = self.generator.get_state(), {1: math.inf, cores: math.inf}
        with torch.random.fork_rng(devices=[]):
            with shared(cores) as sharing:
                self._slopes(batch)
            for count in [*best] * (_TRIED if sharing.most > 1 else 0):
                best[count] = min(best[count], self._timed(batch, count))
        self.generator.set_state(state)
        self.learner.set_buffers(buffers)
        if sharing.most == 1:
            return 1
        worth, used = best[cores] <= _WORTH * best[1], min(cores, sharing.most)
        if self._shown and (cores if worth else 1) != self._cores:
            found = f"{used} cores make a step {best[1] / best[cores]:.2f} times as fast"
            telling.tell(f"training on {f'{used} cores' if worth else '1 core'}: {found}")
        return cores if worth else 1

    def _timed(self, batch: Batch, cores: int) -> float:
        started = time.perf_counter()
        with shared(cores):
            self._slopes(batch)
        return time.perf_counter() - started

    def _on_graph(self, batch: Batch) -> None:
        if self._graph is None and self._steps < WARM_UP:
            side, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
            side.wait_stream(current)
            with torch.cuda.stream(side), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*capturable=True")
                self._eager(batch)
            current.wait_stream(side)
            return
        if self._graph is None or self._input is None:
            try:
                self._graph, self._input = self._capture(batch)
            except Exception as error:
                warnings.warn(
                    f"the step cannot be captured as a CUDA graph, so it runs eagerly: {reason(error)}; "
                    "Recipe(graph=False) does so without this warning",
                    stacklevel=4,
                )
                self._graphed = False
                self._eager(batch)
                return
        torch._foreach_copy_(_tensors(self._input), _tensors(batch))
        self._graph.replay()
        if self.processes.count > 1:
            self._move(self._losses)

    def _capture(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch]:
        static = Batch(batch.theta.clone(), {name: value.clone() for name, value in batch.x.items()})
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph):
            if self.processes.count > 1:
                self._losses = self._slopes(static)
            else:
                self._eager(static)
        return graph, static


def clip(slopes: Float[Tensor, "member weight"], largest: float) -> None:
    """Scale each row to a norm of at most `largest`, in place.

    If a row has a value that is not finite, all its values become NaN.
    """
    norm = torch.linalg.vector_norm(slopes, dim=1, keepdim=True)
    slopes.mul_((largest / (norm + 1e-6)).clamp(max=1.0))


def reason(error: BaseException) -> str:
    """The first two lines of an error's message as one line, or the name of its type if there is no message."""
    return " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__


def _tensors(batch: Batch) -> list[Tensor]:
    return [batch.theta, *(batch.x[name] for name in sorted(batch.x))]
