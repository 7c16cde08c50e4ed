r"""One step of training: loss, slopes, clipping, optimiser. Nothing in it waits for the device.

With slopes g_k of member k and the largest norm c, the slopes are scaled by min(1, c / |g_k|); the norm stays on the
device, as does the running sum of the losses. Three ways to run it: as written ("eager"), with the loss compiled, and
on a CUDA device as a captured graph, which replays all kernels of a step at once: the inputs are then copied into
buffers of their own, the learning rate is a tensor on the device and the generator is registered with the graph. The
first steps are run as they are, on a stream of their own, before the capture, which itself computes nothing: so the
training is the same whether or not the capture succeeds.

On a CPU the compiled loops of a step are shared by cores (`networks.kernels.lanes`), with the same result on any
number. Where it is for the step to choose, a batch is timed on one core and on all, one after the other and again: the
first one, and three later ones, for another program may have been in the way. On x86, slopes nearer to 0 than 1e-38 are
0: a network that has been trained for long is full of them, and each costs far more than others.

Where several processes train together (`training.parallel`), each has the slopes of its rows of the batch, and a sum
over processes comes before the clipping. Of such a step the graph has all up to that sum, which gloo cannot capture.

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

WARM_UP = 3  # steps before a capture, which libraries use to set themselves up
_ASKED = (0, 100, 1_000, 10_000)  # steps before which a batch is timed
_TRIED = 5  # times, on one core and on several
_WORTH = 0.9  # share of one core's time that several may take at most
_X86 = ("x86_64", "AMD64")
_SHARED = 2**15 + 1  # numbers, so many that torch's threads share them


@contextmanager
def flushed() -> Iterator[None]:
    """Numbers too small to have all their digits are 0 in what this thread computes, on x86, where they are slow.

    A thread that is started meanwhile would keep that for good, so torch starts its own before.
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
    """How a step is done; see `Recipe`."""

    optimiser: str
    weight_decay: float
    clip: float
    half: bool
    graph: bool
    processes: int | Literal["auto"] = 1
    batch_scaling: float = 1.0


def step_settings(recipe: Recipe) -> StepSettings:
    """What a resolved recipe says about the step."""
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
    """Steps of training.

    Args:
        learner: What is trained.
        settings: How.
        generator: For what the loss draws, on the learner's device; reseed it as you like between steps.
        shown: Whether it says on how many cores it works where that is for it to choose.
        processes: Those that step together, on a share of each batch; this one alone where left out.

    Attributes:
        total: Sum of the training losses since it was last zeroed, (K,); of several processes this one's part of it.
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
        """Step on a batch, of the same size each time, at a learning rate."""
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
        """Mean loss of each member."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.half):
            return self.learner.loss(batch, self.generator).mean(-1)

    def losses_of_rows(
        self, batches: Iterable[tuple[int, Batch]], noise: Callable[[int], torch.Generator]
    ) -> list[Float[Tensor, "member batch"]]:
        """Losses of rows, without slopes.

        Args:
            batches: The rows, each batch with its number.
            noise: The generator of a batch, by its number.

        Returns:
            Those of each batch.
        """
        with torch.no_grad(), shared(self._cores or 1):
            return [self.learner.loss(batch, noise(number)) for number, batch in batches]

    def prepare(self, batch: Batch) -> None:
        """Compile the loss, trying it on a batch.

        Warns:
            UserWarning: If it does not compile, with the reason; the step is then run as written.
        """
        compiled, batch = torch.compile(self.losses), self._own(batch)
        try:
            compiled(batch).sum().backward()
            self._forward = compiled
        except Exception as error:
            warnings.warn(f"the step does not compile, so it runs eagerly: {reason(error)}", stacklevel=2)

    def _own(self, batch: Batch) -> Batch:
        """The rows of a batch that are this process's; how many of all is kept."""
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
        """Move the weights by the slopes of the whole batch."""
        self.processes.add_up(self.learner.slopes)
        with flushed():
            clip(self.learner.slopes, self.settings.clip)
            self.optimiser.step()
        self.total += losses

    def _slopes(self, batch: Batch) -> Float[Tensor, " member"]:
        """The losses, with their slopes in those of the weights: of several processes, this one's part of both."""
        self.learner.slopes.zero_()
        losses = self._forward(batch)
        if self.processes.count > 1:
            losses = losses * self._part
        with flushed():  # slopes alone: data may be as small, until they are standardised
            losses.sum().backward()
        return losses.detach()

    def _chosen(self, batch: Batch) -> int:
        """How many cores; each number is timed at its best. All is then as it was."""
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
    """Scale each row to a norm of at most `largest`, in place; a row that is not finite becomes NaN all over."""
    norm = torch.linalg.vector_norm(slopes, dim=1, keepdim=True)
    slopes.mul_((largest / (norm + 1e-6)).clamp(max=1.0))


def reason(error: BaseException) -> str:
    """The first words of an error, on one line."""
    return " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__


def _tensors(batch: Batch) -> list[Tensor]:
    return [batch.theta, *(batch.x[name] for name in sorted(batch.x))]
