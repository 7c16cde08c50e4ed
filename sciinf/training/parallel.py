r"""Processes, on one machine or several, that train one network together: the same batches, one sum of gradients a
step.

A launcher such as torchrun starts the same program N times. Of each batch of B rows, process r works on the rows
B r // N up to B (r + 1) // N. Their numbers n_r differ by one at most. With l_i the loss of row i and w the weights,

    dL/dw = 1/B sum_i dl_i/dw = sum_r g_r,    g_r = d/dw (n_r / B) mean_{i of r} l_i,

so the gradient of the whole batch is a sum over processes, whatever the sizes. One all-reduce of the matrix of
gradients comes between backward and clipping. All else is as in one process. Every process has the same weights, takes
the same steps, and decides by the same numbers. Each batch of validation rows goes to one process, as a whole, with the
noise that it has in a training by one process. Only the first process writes files and messages.

Three things differ from one process. The last digits differ, because sums are taken in another order. Random numbers
of a loss differ, because each process has its own stream. And a loss that compares rows of a batch
(`training.estimators.ratio`) sees only the n_r rows of its process. In the last two cases, loss curves differ as with
another seed.

References:
    | PyTorch Distributed: Experiences on Accelerating Data Parallel Training (Li et al., 2020),
      https://arxiv.org/abs/2006.15704
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Largest difference of a weight between processes, relative to itself plus the median weight. Rounding is far below.
APART = 1e-3
Told = tuple[Any, Mapping[str, Mapping[str, Tensor]]]
"""Plain JSON, and groups of named tensors."""


class Processes(ABC):
    """The processes that train one network: `rank` of `count`, with `local` processes on this machine."""

    rank: int
    count: int
    local: int

    @property
    def first(self) -> bool:
        """Whether this process is the first, which writes files and messages."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """This process's rows of a batch, which is (batch, ...) or (member, batch, ...).

        Raises:
            ValueError: If the batch has fewer rows than there are processes.
        """
        if self.count == 1:
            return batch
        axis = batch.theta.ndim - 2
        rows = batch.theta.shape[axis]
        if rows < self.count:
            raise ValueError(
                f"a batch of {rows} rows cannot be shared by {self.count} processes; start fewer, or train with "
                f"Recipe(batch={self.count}) or more"
            )
        own = (slice(None),) * axis + (slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count),)
        return Batch(batch.theta[own], {name: value[own] for name, value in batch.x.items()})

    def takes(self, number: int) -> bool:
        """Whether this process works on the batch of this number, for batches that go to one process as a whole."""
        return number % self.count == self.rank

    @abstractmethod
    def add_up(self, slopes: Float[Tensor, "member weight"]) -> None:
        """Replace the gradients by their sum over processes, on their device."""

    @abstractmethod
    def total(self, values: Float[Tensor, " number"]) -> Float[Tensor, " number"]:
        """Sum of a few numbers over processes, the same to the last bit in each process."""

    @abstractmethod
    def told(self, make: Callable[[], Told]) -> Told:
        """Send the result of `make`, called in the first process, to all processes.

        With several processes, the tensors of the result are on the CPU.
        """

    @abstractmethod
    def keep_alike(self, weights: Float[Tensor, "member weight"]) -> None:
        """Replace the weights by those of the first process, which may differ by rounding.

        Raises:
            RuntimeError: If the weights differ by more than rounding.
        """


class SingleProcess(Processes):
    """A training by this process alone."""

    def __init__(self) -> None:
        self.rank, self.count, self.local = 0, 1, 1

    def add_up(self, slopes: Tensor) -> None:
        pass

    def total(self, values: Tensor) -> Tensor:
        return values

    def told(self, make: Callable[[], Told]) -> Told:
        return make()

    def keep_alike(self, weights: Tensor) -> None:
        pass


class Several(Processes):
    """Processes that a launcher started, as seen by one of them.

    Args:
        words: Process group for numbers and messages, on the CPU: gloo.
        slopes: Process group for gradients, on the device: nccl between CUDA devices, otherwise gloo.
        local: Number of the processes on this machine.
    """

    def __init__(self, words: ProcessGroup, slopes: ProcessGroup, local: int) -> None:
        self._words, self._slopes = words, slopes
        self.rank, self.count, self.local = words.rank(), words.size(), local

    def add_up(self, slopes: Tensor) -> None:
        from torch import distributed

        _answered(lambda: distributed.all_reduce(slopes, group=self._slopes))

    def total(self, values: Tensor) -> Tensor:
        from torch import distributed

        own = values.detach().cpu().double()
        found = [torch.empty_like(own) for _ in range(self.count)]
        _answered(lambda: distributed.all_gather(found, own, group=self._words))
        return torch.stack(found).sum(0)

    def told(self, make: Callable[[], Told]) -> Told:
        from safetensors.torch import load, save

        words, tensors = b"", b""
        if self.first:
            about, groups = make()
            named = {
                f"{g}/{n}": v.detach().cpu().clone().contiguous() for g, vs in groups.items() for n, v in vs.items()
            }
            words, tensors = json.dumps(about).encode(), save(named)
        about, found = json.loads(self._sent(words)), dict[str, dict[str, Tensor]]()
        for key, value in load(self._sent(tensors)).items():
            group, _, name = key.partition("/")
            found.setdefault(group, {})[name] = value
        return about, found

    def keep_alike(self, weights: Tensor) -> None:
        from torch import distributed

        theirs = weights.detach().clone()
        _answered(lambda: distributed.broadcast(theirs, 0, group=self._slopes))
        size = theirs.abs() + theirs.abs().median()  # Each weight has its own scale, so a large one hides no other.
        off = ((theirs - weights.detach()).abs() > APART * size).any()
        if float(self.total(off[None])[0]):
            raise RuntimeError(
                "the weights of the processes have come apart, so they no longer train one network; a loss must change "
                "weights by its slopes alone"
            )
        weights.detach().copy_(theirs)

    def _sent(self, data: bytes) -> bytes:
        """Send the first process's bytes to all processes."""
        from torch import distributed

        size = torch.tensor([len(data)])
        _answered(lambda: distributed.broadcast(size, 0, group=self._words))
        body = torch.zeros(int(size), dtype=torch.uint8)
        if data:
            body.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        _answered(lambda: distributed.broadcast(body, 0, group=self._words))
        return body.numpy().tobytes()


def _answered(call: Callable[[], Any]) -> None:
    """Call an operation that all processes take part in.

    Raises:
        ConnectionError: If one of the processes has ended.
    """
    try:
        call()
    except RuntimeError as error:
        raise ConnectionError(
            "another process of this training has ended or does not answer, so this one ends, too. What was reached is "
            "in the checkpoint: the same command goes on from there, on this number of processes or any other. If it "
            f"ends so again, this is why: {' '.join(str(error).split())[:200]}"
        ) from error
