r"""Processes, on one machine or several, that train one network together: the same batches, one sum of slopes a step.

A launcher such as torchrun starts the same program N times. Of each batch of B rows, process r works on the rows
B r // N up to B (r + 1) // N, n_r of them, which differ in number by one at most. With l_i the loss of row i and w the
weights,

    dL/dw = 1/B sum_i dl_i/dw = sum_r g_r,    g_r = d/dw (n_r / B) mean_{i of r} l_i,

so the slopes of the whole batch are a sum over processes, whatever the sizes: one all-reduce of the matrix of slopes,
between backward and clipping. All else is as in one process. Every process has the same weights and takes the same
steps, and decides by the same numbers. The batches of validation rows are dealt out whole, with the noise that each has
in one process. The first process alone writes and speaks.

What is not as in one process: the last digits, for sums are taken in another order; what a loss draws, for each
process has a stream of its own; and a loss that compares rows of a batch (`training.estimators.ratio`), which sees the
n_r rows of its process. Curves of the latter two differ as with another seed.

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

APART = 1e-3  # of itself and of the median weight, by which a weight may have come apart; rounding is far below
Told = tuple[Any, Mapping[str, Mapping[str, Tensor]]]
"""Plain JSON, and groups of named tensors."""


class Processes(ABC):
    """Those that train one network; `rank` is this one's number of `count`, and `local` of them are on this machine."""

    rank: int
    count: int
    local: int

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """The rows of a batch that are this process's: of (batch, ...), or of (member, batch, ...).

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
        """Whether this process works on the batch of this number, of those that are dealt out whole."""
        return number % self.count == self.rank

    @abstractmethod
    def add_up(self, slopes: Float[Tensor, "member weight"]) -> None:
        """Put the sum over processes in place of the slopes, on their device."""

    @abstractmethod
    def total(self, values: Float[Tensor, " number"]) -> Float[Tensor, " number"]:
        """The sum over processes of a few numbers, the same to the last bit in each."""

    @abstractmethod
    def told(self, make: Callable[[], Told]) -> Told:
        """What the first process makes, in all of them; tensors are on the CPU where there are several."""

    @abstractmethod
    def keep_alike(self, weights: Float[Tensor, "member weight"]) -> None:
        """Put the first process's weights in place, which may differ by what machines round.

        Raises:
            RuntimeError: If they differ by more.
        """


class SingleProcess(Processes):
    """This process alone."""

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
    """Processes that a launcher started, as one of them sees them.

    Args:
        words: The group of all of them by which numbers and words go, on the CPU: gloo.
        slopes: That by which slopes go, on the device: nccl between CUDA devices, gloo else.
        local: How many of them are on this machine.
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
        size = theirs.abs() + theirs.abs().median()  # one large weight hides no other
        off = ((theirs - weights.detach()).abs() > APART * size).any()
        if float(self.total(off[None])[0]):
            raise RuntimeError(
                "the weights of the processes have come apart, so they no longer train one network; a loss must change "
                "weights by its slopes alone"
            )
        weights.detach().copy_(theirs)

    def _sent(self, data: bytes) -> bytes:
        """The first process's bytes."""
        from torch import distributed

        size = torch.tensor([len(data)])
        _answered(lambda: distributed.broadcast(size, 0, group=self._words))
        body = torch.zeros(int(size), dtype=torch.uint8)
        if data:
            body.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        _answered(lambda: distributed.broadcast(body, 0, group=self._words))
        return body.numpy().tobytes()


def _answered(call: Callable[[], Any]) -> None:
    """Do something together with the others.

    Raises:
        ConnectionError: If one of them has gone.
    """
    try:
        call()
    except RuntimeError as error:
        raise ConnectionError(
            "another process of this training has ended or does not answer, so this one ends, too. What was reached is "
            "in the checkpoint: the same command goes on from there, on this number of processes or any other. If it "
            f"ends so again, this is why: {' '.join(str(error).split())[:200]}"
        ) from error
